"""Devices by the Container Device Interface: their names, and the specifications that say what a name stands for on a host.

    vendor.com/class=name          a device; `vendor.com/class` is its kind
    {"cdiVersion": "0.8.0", "kind": "vendor.com/class", "devices": [{"name": "0", "containerEdits": {…}}], "containerEdits": {…}}

Every key is known or the specification is refused. Edits that ask for what a sandbox never gives (hooks, groups, caches of a processor)
are read as far as to name them: whoever wants such a device is told so, and the others of the file stay usable.

Source: CNCF container-device-interface SPEC.md, versions 0.5.0 to 1.0.0.

>>> device_name("nvidia.com/gpu=0", "devices")
('nvidia.com/gpu', '0')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_json

VERSIONS: Final = ("0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0")
MAX_DEVICES: Final = 16
"""Of one agent."""
MAX_SPEC: Final = 1 << 20
_MOST: Final = 1024
_NAME = re.compile(
    r"([A-Za-z](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?/[A-Za-z](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)=([A-Za-z0-9](?:[A-Za-z0-9_.:-]{0,61}[A-Za-z0-9])?)\Z",
    re.ASCII,
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z", re.ASCII)
_NEVER: Final = ("hooks", "additionalGids", "intelRdt", "netDevices")
_OF_THE_NODE: Final = ("fileMode", "uid", "gid")


@dataclass(frozen=True, slots=True)
class Node:
    """A device node: its path inside and on the host, and what else the host's has to be. `number` is (major, minor) where it is said."""

    path: str
    host_path: str
    number: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Edits:
    """What a device brings. `files` are pairs (path on the host, path inside); `never` names what it asks for and no agent gets."""

    nodes: tuple[Node, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    never: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spec:
    """One specification: the edits of each device by its name, and those that every one of them needs beside its own."""

    kind: str
    devices: tuple[tuple[str, Edits], ...]
    common: Edits


def device_name(text: str, what: str) -> tuple[str, str]:
    """Kind and name of `vendor.com/class=name`. Raises FormatError."""
    match = _NAME.match(text)
    if match is None:
        raise FormatError(what, "a CDI device vendor.com/class=name", repr(text)[:120])
    return match[1], match[2]


def device_set(texts: list[str] | tuple[str, ...], what: str) -> tuple[str, ...]:
    """The names, sorted, each once, at most `MAX_DEVICES`. Raises FormatError."""
    if len(texts) > MAX_DEVICES or len(set(texts)) != len(texts):
        raise FormatError(what, f"at most {MAX_DEVICES} devices, each once", f"{len(texts)}")
    for text in texts:
        device_name(text, what)
    return tuple(sorted(texts))


def parse_spec(data: bytes) -> Spec:
    """Read a specification in JSON. Raises FormatError, and nothing else, on any bytes."""
    f = Fields(decode_json(data, "CDI", max_size=MAX_SPEC), "CDI")
    if (version := f.text("cdiVersion", most=16)) not in VERSIONS:
        raise FormatError("CDI.cdiVersion", f"one of {', '.join(VERSIONS)}", repr(version))
    kind = f.text("kind", most=127)
    device_name(f"{kind}=x", "CDI.kind")
    _annotations(f)
    devices = tuple(_device(kind, item) for item in f.items("devices", most=_MOST))
    if not devices or len({name for name, _ in devices}) != len(devices):
        raise FormatError("CDI.devices", "at least one, each name once", f"{len(devices)}")
    common = _edits(f, "CDI")
    f.done()
    return Spec(kind, devices, common)


def _device(kind: str, value: object) -> tuple[str, Edits]:
    f = Fields(value, "CDI.devices")
    name = f.text("name", most=63)
    device_name(f"{kind}={name}", "CDI.devices.name")
    _annotations(f)
    edits = _edits(f, f"CDI.devices.{name}")
    f.done()
    return name, edits


def _annotations(f: Fields) -> None:
    if f.has("annotations"):
        f.mapping("annotations", most=_MOST)


def _edits(f: Fields, what: str) -> Edits:
    if not f.has("containerEdits"):
        return Edits()
    e = Fields(f.any("containerEdits"), f"{what}.containerEdits")
    never = {key for key in _NEVER if e.has(key) and e.any(key)}
    nodes, files = [], []
    for item in e.items("deviceNodes", most=_MOST) if e.has("deviceNodes") else ():
        node, asked = _node(item, what)
        nodes.append(node)
        never |= asked
    for item in e.items("mounts", most=_MOST) if e.has("mounts") else ():
        m = Fields(item, f"{what}.mounts")
        files.append((_path(m, "hostPath"), _path(m, "containerPath")))
        if m.has("options") and not all(isinstance(option, str) for option in m.items("options", most=64)):
            raise FormatError(f"{what}.mounts.options", "texts", "another type")
        if m.has("type") and (kind := m.text("type", most=32)) not in ("", "bind", "none"):
            never.add(f"mounts of type {kind}")
        m.done()
    variables = [_variable(item, what) for item in (e.items("env", most=_MOST) if e.has("env") else ())]
    e.done()
    return Edits(tuple(nodes), tuple(files), tuple(variables), tuple(sorted(never)))


def _node(value: object, what: str) -> tuple[Node, set[str]]:
    """The node, and what it asks for that no agent gets."""
    f = Fields(value, f"{what}.deviceNodes")
    path = _path(f, "path")
    host_path = _path(f, "hostPath") if f.has("hostPath") else path
    never = {f"deviceNodes with {key}" for key in _OF_THE_NODE if f.has(key) and f.any(key) is not None}
    if f.has("type") and (kind := f.text("type", most=2)) not in ("c", "u"):
        never.add(f"deviceNodes of type {kind}")
    if f.has("permissions") and set(permissions := f.text("permissions", most=8)) - {"m"} != {"r", "w"}:
        never.add(f"deviceNodes with permissions {permissions}")
    number = None
    if f.has("major") or f.has("minor"):
        number = f.uint("major", most=(1 << 32) - 1), f.uint("minor", most=(1 << 32) - 1)
    f.done()
    return Node(path, host_path, number), never


def _path(f: Fields, key: str) -> str:
    path = f.text(key, least=2, most=1024)
    if not path.startswith("/") or any(part in {"", ".", ".."} for part in path[1:].split("/")):
        raise FormatError(f"CDI.{key}", "an absolute path without empty, . or .. segments", repr(path)[:120])
    return path


def _variable(value: object, what: str) -> tuple[str, str]:
    name, equals, text = value.partition("=") if isinstance(value, str) else ("", "", "")
    if not equals or not _VARIABLE.match(name) or not text.isprintable() or len(text) > 1024:
        raise FormatError(f"{what}.env", "texts NAME=VALUE, printable", repr(value)[:120])
    return name, text

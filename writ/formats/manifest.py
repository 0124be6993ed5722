r"""The agent manifest: what makes up an agent's runtime, written by people in TOML.

A complete example; `version`, `agent`, `namespace`, `audience` and `command`
are needed, the rest may be left out:

>>> manifest = parse_manifest(b'''
... version = 1
... agent = "reporter"                  # with the namespace: spiffe://<domain>/billing/agent/reporter
... namespace = "billing"
... audience = "tools.example.org"      # whom its tokens are for
... command = ["/usr/bin/python3", "{store}/main/main.py"]
... profile = "strict"                  # the sandbox: strict (the default) or jit, and either with -6.1 for older kernels
... devices = ["nvidia.com/gpu=0"]      # by CDI; measured by name
... forwards = [{ listen = 5432, to = "tcp:db.example:5432" }]     # 127.0.0.1:5432 inside; it takes a grant of net.connect
... grants = [["call", "files/reports/*"], ["call", "mail/send"]]
...
... [components.python]                 # a table for each component; the name is free
... kind = "interpreter"                # interpreter packages code weights prompts tools image
... source = "/usr/bin/python3"         # a file or a directory, absolute or below the manifest
...
... [components.main]
... kind = "code"
... source = "src"
... exclude = ["__pycache__", "*.pyc", "docs/*.md"]
...
... [components.system]
... kind = "image"                      # what the agent finds under /; the others lie below /store, which {store} stands for
... source = "/"
... include = ["usr/bin/python3*", "usr/lib/python3*", "usr/lib/x86_64-linux-gnu/lib*.so*", "lib64", "usr/lib64"]
...
... [components.model]
... kind = "weights"
... source = "/srv/models/large"
... hold = "fs-verity"                  # store (the default), fs-verity or dm-verity
...
... [components.prompt]
... kind = "prompts"
... source = "prompts/system.txt"
...
... [secrets.mail-key]                  # what it is is never measured; where it may go takes a grant of secret.send
... expose = "MAIL_API_KEY"             # the environment variable that holds its placeholder; or "file": the agent reads it
... ''')
>>> [(part.name, part.kind) for part in manifest.components]
[('main', 'code'), ('model', 'weights'), ('prompt', 'prompts'), ('python', 'interpreter'), ('system', 'image')]
>>> manifest.interpreter
'/usr/bin/python3'
>>> [part.source for part in manifest.prompts]
['prompts/system.txt']
>>> parse_manifest(encode_manifest(manifest)) == manifest
True
>>> parse_manifest(b'agnt = "reporter"')  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
writ.formats.errors.FormatError: manifest: expected keys of agent, audience, command, components, ..., got agnt

What `exclude` leaves out, or `include` does not name, is not measured and therefore
not in the store from which the agent runs. A pattern has `*` (any characters but `/`) and `?` (one of
them). Without a `/` it is held against each segment of a path, with one
against the path from the component's root; what lies beneath a match is
excluded too. A pattern of `include` is always held against the path from the
root; what lies beneath a match is included too.

`hold` says what keeps the content from changing while it is used. `store`: a
copy that is hashed whole when it is made and when it moved. `fs-verity`: the
kernel's own digest of each file, over a copy in the store or the source's own
inode; `dm-verity`: the root hash of the device that is mounted at `source`,
which `image`, its content in a file, and `salt`, in hex, give without a host.
The two are measured in constant time, and their roots differ from the root of
the same content in the store.

A manifest is a wish: the digest of its text is no proof that anything runs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args

from writ.formats.cdi import MAX_DEVICES, device_set
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse
from writ.formats.forward import Forward, forward_lines, parse_forward_tables
from writ.formats.grants import Grant, encode_grants, grant_set
from writ.formats.measurement import Mode, Profile, mode_named, profile_named
from writ.formats.secret import MAX_SECRETS, Secret, secret_set
from writ.formats.spiffe import AgentId
from writ.formats.strict import encode_cbor, name
from writ.formats.tree import COMPONENT_KINDS, ComponentKind

Hold = Literal["store", "fs-verity", "dm-verity"]
HOLDS: Final[tuple[Hold, ...]] = get_args(Hold)

MAX_MANIFEST: Final = 1 << 16
"""Bytes of TOML."""
MAX_COMMAND: Final = 256
MAX_COMPONENTS: Final = 64
MAX_EXCLUDES: Final = 64
MAX_INCLUDES: Final = 1024
MAX_TEXT: Final = 1024
"""Characters of one text."""

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z", re.ASCII)
_LONG_KEY = re.compile(r"""(?:\.[ \t]*(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*){16}""", re.ASCII)
"""A dotted key of more than 16 parts, for which tomllib takes time and memory by the square: no key of ours has more than 3."""
_NEEDED: Final = frozenset({"version", "agent", "namespace", "audience", "command"})
_TOP: Final = _NEEDED | {"components", "secrets", "grants", "profile", "devices", "mode", "forwards"}
_COMPONENT: Final = frozenset({"kind", "source", "include", "exclude", "hold", "image", "salt"})
_SALT = re.compile(r"(?:[0-9a-f]{2}){0,256}\Z", re.ASCII)
_WHAT: Final = "manifest"


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Patterns, sorted so that one of plain text costs a look into a set: an image names a thousand paths, and every path is asked about.

    `plain` are those without wildcards, `leading` they and every directory above them, `steps` the names by which these go on from each
    directory; `wild` are the others, in segments.
    """

    plain: frozenset[str]
    leading: frozenset[str]
    steps: dict[str, frozenset[str]]
    wild: tuple[tuple[str, ...], ...]

    def meet(self, segments: list[str]) -> bool:
        """Whether one of them and the path are the same as far as the shorter of the two goes."""
        if "/".join(segments) in self.leading or any("/".join(segments[:end]) in self.plain for end in range(1, len(segments))):
            return True
        return any(all(map(_matches, pattern, segments)) for pattern in self.wild)

    def onwards(self, directory: str) -> frozenset[str] | None:
        """The names in `directory` that `meet` is true of; None where only asking tells, for it may be any."""
        segments = directory.split("/") if directory else []
        if any("/".join(segments[:end]) in self.plain for end in range(1, len(segments) + 1)):
            return None
        if any(all(map(_matches, pattern, segments)) for pattern in self.wild):
            return None
        return self.steps.get(directory, frozenset())

    def cover(self, segments: list[str]) -> bool:
        """Whether one of them is any segment, or of several segments, the path or a directory above it."""
        if any(segment in self.plain for segment in segments):
            return True
        if any("/".join(segments[:end]) in self.plain for end in range(2, len(segments) + 1)):
            return True
        for pattern in self.wild:
            if len(pattern) == 1:
                if any(_matches(pattern[0], segment) for segment in segments):
                    return True
            elif len(pattern) <= len(segments) and all(map(_matches, pattern, segments)):
                return True
        return False


@lru_cache(maxsize=64)
def _sorted_out(patterns: tuple[str, ...]) -> _Patterns:
    plain = frozenset(pattern for pattern in patterns if "*" not in pattern and "?" not in pattern)
    ways = (pattern.split("/") for pattern in plain)
    leading = frozenset("/".join(way[:end]) for way in ways for end in range(1, len(way) + 1))
    steps: dict[str, set[str]] = {}
    for directory, _, last in (way.rpartition("/") for way in leading):
        steps.setdefault(directory, set()).add(last)
    wild = tuple(tuple(pattern.split("/")) for pattern in patterns if pattern not in plain)
    return _Patterns(plain, leading, {directory: frozenset(names) for directory, names in steps.items()}, wild)


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """Where a component's content comes from: `source` is a path, absolute or below the manifest's directory.

    `image`, such a path too, and `salt` belong to a hold of dm-verity only.
    """

    name: str
    kind: ComponentKind
    source: str
    exclude: tuple[str, ...]
    hold: Hold = "store"
    image: str | None = None
    salt: bytes = b""
    include: tuple[str, ...] = ()

    def to_cbor(self) -> list[object]:
        """The array that stands for it in the manifest."""
        return [self.name, self.kind, self.source, list(self.include), list(self.exclude), self.hold, self.image, self.salt]

    def leaves_out(self, path: str) -> bool:
        """Whether `path`, relative to the source and `/`-separated, is no part of the component, by itself or with a directory above it.

        A directory that leads to what is included is part of it.
        """
        segments = path.split("/")
        return bool(self.include and not _sorted_out(self.include).meet(segments)) or _sorted_out(self.exclude).cover(segments)

    def names(self, directory: str) -> frozenset[str] | None:
        """The only names in `directory`, "" for the source, that are not left out by `include`; None where each is to be asked about.

        So a directory of thousands, of which an image has three, is not gone through name by name.
        """
        return _sorted_out(self.include).onwards(directory) if self.include else None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as read. Components and secrets are sorted by name, grants, devices and forwards are sorted sets."""

    agent: str
    namespace: str
    audience: str
    command: tuple[str, ...]
    components: tuple[ComponentSpec, ...]
    secrets: tuple[Secret, ...]
    grants: tuple[Grant, ...]
    profile: Profile = "strict"
    devices: tuple[str, ...] = ()
    mode: Mode = "enforce"
    forwards: tuple[Forward, ...] = ()

    def of_kind(self, kind: ComponentKind) -> tuple[ComponentSpec, ...]:
        """The components of one kind, by name."""
        return tuple(part for part in self.components if part.kind == kind)

    @property
    def interpreter(self) -> str | None:
        """The source of the one interpreter, if there is one."""
        return next((part.source for part in self.of_kind("interpreter")), None)

    @property
    def prompts(self) -> tuple[ComponentSpec, ...]:
        """The components of kind prompts."""
        return self.of_kind("prompts")

    @property
    def tools(self) -> tuple[ComponentSpec, ...]:
        """The components of kind tools: tool configuration."""
        return self.of_kind("tools")

    @property
    def packages(self) -> tuple[ComponentSpec, ...]:
        """The components of kind packages: trees of installed distributions with their RECORDs."""
        return self.of_kind("packages")

    @property
    def image(self) -> ComponentSpec | None:
        """The one image, if there is one."""
        return next(iter(self.of_kind("image")), None)

    def agent_id(self, domain: str) -> AgentId:
        """The agent's name within the trust domain `domain`."""
        return AgentId(domain, self.namespace, self.agent)

    def to_cbor(self) -> dict[str, object]:
        """The map that `manifest_digest` hashes."""
        return {
            "v": 1,
            "agent": self.agent,
            "namespace": self.namespace,
            "audience": self.audience,
            "command": list(self.command),
            "components": [part.to_cbor() for part in self.components],
            "secrets": [list(secret) for secret in self.secrets],
            "grants": encode_grants(self.grants),
            "profile": self.profile,
            **({"devices": list(self.devices)} if self.devices else {}),
            **({"mode": self.mode} if self.mode != "enforce" else {}),
            **({"forwards": [list(one) for one in self.forwards]} if self.forwards else {}),
        }


def manifest_digest(manifest: Manifest) -> Digest:
    """SHA-256 over the deterministic CBOR of `manifest`: the same however its TOML was laid out."""
    return Digest.of(encode_cbor(manifest.to_cbor()))


@lru_cache(maxsize=8192)
def _matches(pattern: str, segment: str) -> bool:
    """Whether one segment matches, in time of at most the product of the two lengths: on a mismatch only the last `*` takes more."""
    at, p, star, taken = 0, 0, -1, 0
    while at < len(segment):
        if p < len(pattern) and pattern[p] == "*":
            star, taken, p = p, at, p + 1
        elif p < len(pattern) and pattern[p] in {"?", segment[at]}:
            at, p = at + 1, p + 1
        elif star >= 0:
            taken += 1
            at, p = taken, star + 1
        else:
            return False
    return not pattern[p:].strip("*")


# --- reading ---------------------------------------------------------------------------------------------------------


def parse_manifest(data: bytes) -> Manifest:
    """Read TOML. Raises FormatError, and nothing else, on any bytes; an unknown key is named, with the known ones."""
    top = _table(_toml(data), _WHAT, _TOP, needed=_NEEDED)
    if top["version"] != 1 or isinstance(top["version"], bool):
        raise FormatError(f"{_WHAT}.version", "1", repr(top["version"])[:40])
    components = tuple(_component(part, value) for part, value in _named(top, "components", MAX_COMPONENTS))
    for kind in ("interpreter", "image"):
        if sum(part.kind == kind for part in components) > 1:
            raise FormatError(f"{_WHAT}.components", f"at most one {kind}", "several")
    secrets = secret_set((_secret(secret, value) for secret, value in _named(top, "secrets", MAX_SECRETS)), f"{_WHAT}.secrets")
    command = _texts(top["command"], f"{_WHAT}.command", MAX_COMMAND, empty=True)
    if not command or not command[0]:
        raise FormatError(f"{_WHAT}.command", "a program and its arguments", "none")
    return Manifest(
        agent=name(_text(top["agent"], f"{_WHAT}.agent"), f"{_WHAT}.agent"),
        namespace=name(_text(top["namespace"], f"{_WHAT}.namespace"), f"{_WHAT}.namespace"),
        audience=_text(top["audience"], f"{_WHAT}.audience"),
        command=command,
        components=components,
        secrets=secrets,
        grants=_grants(top.get("grants", [])),
        profile=profile_named(_text(top.get("profile", "strict"), f"{_WHAT}.profile"), f"{_WHAT}.profile"),
        devices=device_set(_texts(top.get("devices", []), f"{_WHAT}.devices", MAX_DEVICES), f"{_WHAT}.devices"),
        mode=mode_named(_text(top.get("mode", "enforce"), f"{_WHAT}.mode"), f"{_WHAT}.mode"),
        forwards=parse_forward_tables(top.get("forwards", []), f"{_WHAT}.forwards"),
    )


def _toml(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST:
        raise FormatError(_WHAT, f"at most {MAX_MANIFEST} bytes", f"{len(data)} bytes")
    try:
        text = data.decode("utf-8")
        if long := _LONG_KEY.search(text):
            raise FormatError(_WHAT, "at most 16 parts between dots", "more", len(text[: long.start()].encode()))
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise FormatError(_WHAT, "UTF-8", "bytes that are not", error.start) from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError, as is a date or integer that does not exist
        place = re.search(r"\(at ([^()]{1,60})\)\Z", str(error))
        raise FormatError(_WHAT, "TOML", f"text that is not, at {place[1]}" if place else "text that is not") from None


def _table(value: object, what: str, known: frozenset[str], needed: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(what, "a table", type(value).__name__)
    if unknown := sorted(value.keys() - known):
        raise FormatError(what, f"keys of {', '.join(sorted(known))}", ", ".join(ascii(key).strip("'")[:40] for key in unknown))
    if missing := sorted(needed - value.keys()):
        raise FormatError(what, f"{', '.join(missing)}", "none")
    return value


def _named(top: Mapping[str, Any], key: str, most: int) -> list[tuple[str, Any]]:
    """The sub-tables of the table `key`, by name."""
    value = top.get(key, {})
    if not isinstance(value, dict):
        raise FormatError(f"{_WHAT}.{key}", f"tables [{key}.NAME]", type(value).__name__)
    if len(value) > most:
        raise FormatError(f"{_WHAT}.{key}", f"at most {most}", f"{len(value)}")
    return sorted((name(part, f"{_WHAT}.{key}"), item) for part, item in value.items())


def _text(value: object, what: str, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise FormatError(what, "text", type(value).__name__)
    if not (0 if empty else 1) <= len(value) <= MAX_TEXT:
        raise FormatError(what, f"1 to {MAX_TEXT} characters", f"{len(value)}")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise FormatError(what, "printable text", "a control character")
    return value


def _texts(value: object, what: str, most: int, *, empty: bool = False) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise FormatError(what, "an array of texts", type(value).__name__)
    if len(value) > most:
        raise FormatError(what, f"at most {most} texts", f"{len(value)}")
    return tuple(_text(item, what, empty=empty) for item in value)


def _component(part: str, value: object) -> ComponentSpec:
    what = f"{_WHAT}.components.{part}"
    table = _table(value, what, _COMPONENT, frozenset({"kind", "source"}))
    kind = _text(table["kind"], f"{what}.kind")
    if kind not in COMPONENT_KINDS:
        raise FormatError(f"{what}.kind", f"one of {', '.join(COMPONENT_KINDS)}", repr(kind)[:80])
    source = _source(table["source"], f"{what}.source")
    include, exclude = _patterns(table, "include", MAX_INCLUDES, what), _patterns(table, "exclude", MAX_EXCLUDES, what)
    return ComponentSpec(part, kind, source, exclude, *_hold(table, kind, what), include)


def _patterns(table: Mapping[str, Any], key: str, most: int, what: str) -> tuple[str, ...]:
    """Sorted, each once."""
    patterns = _texts(table.get(key, []), f"{what}.{key}", most)
    for pattern in patterns:
        if "**" in pattern or any(segment in {"", ".", ".."} for segment in pattern.split("/")):
            raise FormatError(f"{what}.{key}", "patterns of * and ?, without **, empty, . or .. segments", repr(pattern)[:80])
    return tuple(sorted(set(patterns)))


def _source(value: object, what: str) -> str:
    source = _text(value, what)
    if source not in (".", "/") and any(segment in {"", ".", ".."} for segment in source.removeprefix("/").split("/")):
        raise FormatError(what, "a path without empty, . or .. segments, or . alone", repr(source)[:80])
    return source


def _hold(table: Mapping[str, Any], kind: str, what: str) -> tuple[Hold, str | None, bytes]:
    hold = _text(table.get("hold", "store"), f"{what}.hold")
    if hold not in HOLDS:
        raise FormatError(f"{what}.hold", f"one of {', '.join(HOLDS)}", repr(hold)[:80])
    if kind == "packages" and hold != "store":
        raise FormatError(f"{what}.hold", "store for packages, whose RECORDs name contents", hold)
    if hold != "dm-verity" and table.keys() & {"image", "salt"}:
        raise FormatError(what, 'image and salt with hold = "dm-verity" only', f"hold = {hold!a}")
    for key in ("include", "exclude"):
        if hold == "dm-verity" and table.get(key):
            raise FormatError(f"{what}.{key}", "none: a device is held whole", "patterns")
    image = _source(table["image"], f"{what}.image") if "image" in table else None
    salt = _text(table.get("salt", ""), f"{what}.salt", empty=True)
    if not _SALT.match(salt):
        raise FormatError(f"{what}.salt", "at most 256 bytes in lower-case hex", repr(salt)[:80])
    return hold, image, bytes.fromhex(salt)


def _secret(secret: str, value: object) -> tuple[str, str]:
    what = f"{_WHAT}.secrets.{secret}"
    return secret, _text(_table(value, what, frozenset({"expose"}), frozenset({"expose"}))["expose"], f"{what}.expose")


def _grants(value: object) -> tuple[Grant, ...]:
    """The grants in any order: people do not sort."""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise FormatError(f"{_WHAT}.grants", "an array of [action, resource]", type(value).__name__)
    if not all(isinstance(item, str) for pair in value for item in pair):
        raise FormatError(f"{_WHAT}.grants", "pairs of text", "another type")
    return grant_set((action, resource) for action, resource in value)


# --- writing ---------------------------------------------------------------------------------------------------------


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical TOML of `manifest`; `parse_manifest` gives it back.

    Raises FormatError for a manifest that `parse_manifest` would refuse, and
    Misuse for one that it would sort differently.
    """
    lines = [
        "version = 1",
        f"agent = {_quoted(manifest.agent)}",
        f"namespace = {_quoted(manifest.namespace)}",
        f"audience = {_quoted(manifest.audience)}",
        f"command = {_array(manifest.command)}",
    ]
    if manifest.profile != "strict":
        lines.append(f"profile = {_quoted(manifest.profile)}")
    if manifest.mode != "enforce":
        lines.append(f"mode = {_quoted(manifest.mode)}")
    if manifest.devices:
        lines.append(f"devices = {_array(manifest.devices)}")
    lines += forward_lines(manifest.forwards)
    if manifest.grants:
        lines += ["grants = [", *(f"  {_array(grant)}," for grant in manifest.grants), "]"]
    for part in manifest.components:
        lines += ["", *component_lines(part)]
    for secret in manifest.secrets:
        lines += ["", f"[secrets.{_key(secret.name)}]", f"expose = {_quoted(secret.expose)}"]
    try:
        data = "\n".join([*lines, ""]).encode()
    except UnicodeEncodeError:
        raise FormatError(_WHAT, "text without lone surrogates", "one") from None
    if parse_manifest(data) != manifest:
        raise Misuse("components and secrets sorted by name, patterns and grants sorted, each once")
    return data


def component_lines(part: ComponentSpec) -> list[str]:
    """The table of one component, as lines of TOML."""
    lines = [f"[components.{_key(part.name)}]", f"kind = {_quoted(part.kind)}", f"source = {_quoted(part.source)}"]
    for key, patterns in (("include", part.include), ("exclude", part.exclude)):
        if patterns:
            lines.append(f"{key} = {_array(patterns)}")
    if part.hold != "store":
        lines.append(f"hold = {_quoted(part.hold)}")
    lines += [f"image = {_quoted(part.image)}"] if part.image is not None else []
    lines += [f"salt = {_quoted(part.salt.hex())}"] if part.salt else []
    return lines


def _quoted(text: str) -> str:
    """A TOML basic string."""
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else f"\\{c}" if c in '"\\' else c for c in text) + '"'


def _key(text: str) -> str:
    """A TOML key: bare where it may be."""
    return text if _BARE.match(text) else _quoted(text)


def _array(texts: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(_quoted, texts)) + "]"

"""One program's sandbox, as bubblewrap and the shim are told it: what there is, where it may write, and what the kernel still does.

Inside, the program is uid 1000 of a user namespace without capabilities; outside, a uid that nobody else has. `/` is its measured
image, read-only; `/agent` (its home), `/tmp` and `/dev/shm` are its own, bounded, and nothing in them can be executed. `/work` is a child
instance's own, and there it can. There is no interface but loopback. `/run/writ` holds its gate, where it has one.

Nothing of the host's paths shows inside: bubblewrap gets its arguments by a descriptor and an empty environment.
"""

from __future__ import annotations

import os
import resource
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enforcer.launch.devices import NONE, Devices
from enforcer.launch.image import MOUNT_POINTS, SHIM, STORE, Image
from enforcer.launch.profile import CONTROL, DEVICE, READ, RUN, SANDBOXES, TERMINAL, WRITE, WRITE_AND_RUN
from enforcer.launch.seccomp import compiled
from writ.formats.errors import Unavailable
from writ.formats.measurement import Profile

SHIM_PROGRAM: Final = Path(__file__).with_name("shim")
"""Made from `shim.c` when Writ is installed. What every program becomes before bubblewrap, and what bubblewrap becomes in the sandbox."""
INSIDE_UID: Final = 1000
HOME: Final = "/agent"
WORK: Final = "/work"
GATE: Final = "/run/writ"
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
LIMITS: Final[Mapping[str, int]] = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 4096, "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0}
NAMESPACES: Final = (
    "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "--hostname", "agent",
)  # fmt: skip
NO_FURTHER: Final = ("--disable-userns", "--assert-userns-disabled")
"""No user namespace inside."""
OWN: Final = {"home": HOME, "tmp": "/tmp", "shm": "/dev/shm"}
_DEVICES: Final = ("full", "null", "random", "urandom", "zero")
_STORE_SIZE: Final = 1 << 20
"""Bytes for the places of components, before nobody can write there any more."""
_MAGIC: Final = 0x54495257
_NO_NEW_CODE: Final = 1


@dataclass(frozen=True, slots=True)
class Room:
    """Directories of the program's own, on a filesystem that is bounded and noexec: `home`, `tmp`, `shm`; and that of its gate.

    `work`, where there is one, is on another, bounded, from which it can execute.
    """

    path: Path
    gate: Path | None = None
    work: Path | None = None

    def bound(self) -> tuple[tuple[str, str], ...]:
        """What is mounted where, writable."""
        own = tuple((str(self.path / name), inner) for name, inner in OWN.items())
        return own if self.work is None else (*own, (str(self.work), WORK))


def arguments(
    image: Image,
    room: Room,
    environment: Mapping[str, str],
    info: int,
    inside_uid: int = INSIDE_UID,
    *,
    devices: Devices = NONE,
    folder: str = HOME,
) -> bytes:
    """bubblewrap's arguments, as it reads them from a descriptor; it tells the sandbox's first pid on `info`."""
    found = [
        *NAMESPACES, *NO_FURTHER, "--uid", str(inside_uid), "--gid", str(inside_uid),
        "--ro-bind", str(image.path), "/", "--proc", "/proc", "--dev", "/dev",
    ]  # fmt: skip
    for outer, inner in room.bound():
        found += ["--bind", outer, inner]
    for outer, inner in devices.nodes:
        found += ["--dev-bind", outer, inner]
    found += ["--remount-ro", "/dev"]
    found += ["--perms", "0755", "--size", str(_STORE_SIZE), "--tmpfs", f"/{STORE}"]
    for name, part in image.parts:
        found += ["--ro-bind", str(part), f"/{STORE}/{name}"]
    found += ["--remount-ro", f"/{STORE}"]
    if room.gate is not None:
        found += ["--ro-bind", str(room.gate), GATE]
    found += ["--ro-bind", str(SHIM_PROGRAM), f"/{SHIM}", "--clearenv"]
    for name, value in sorted({**dict(devices.environment), **environment}.items()):
        found += ["--setenv", name, value]
    found += ["--chdir", folder, "--cap-drop", "ALL", "--new-session", "--die-with-parent", "--info-fd", str(info)]
    return b"".join(os.fsencode(argument) + b"\0" for argument in found)


def specification(profile: Profile, image: Image, limits: Mapping[str, int], devices: Devices = NONE) -> bytes:
    """What the shim does before the program: `shim.c` says how it is spelt. Raises Unavailable where the kernel lacks something."""
    sandbox = SANDBOXES[profile]
    sandbox.check()
    fs, net, scoped = sandbox.handled
    rules = [
        (sandbox.rights(rights), os.fsencode(path) + b"\0")
        for path, rights in (*_rights(image, scratch=sandbox.scratch), *((inner, CONTROL) for _, inner in devices.nodes))
    ]
    filter_ = compiled(new_code=sandbox.new_code, ioctls=devices.ioctls)
    parts = [struct.pack("=IIQQQI", _MAGIC, _NO_NEW_CODE if sandbox.mdwe else 0, fs, net, scoped, len(rules))]
    parts += [struct.pack("=QI", rights, len(path)) + path for rights, path in rules]
    parts += [struct.pack("=I", 0), struct.pack("=I", len(limits))]
    parts += [struct.pack("=IQ", getattr(resource, name), value) for name, value in sorted(limits.items())]
    return b"".join([*parts, struct.pack("=I", len(filter_) // 8), filter_])


def _rights(image: Image, *, scratch: bool) -> Iterator[tuple[str, int]]:
    """Each path inside and what may be done beneath it; nothing may be done elsewhere."""
    try:
        top = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in os.scandir(image.path)]
    except OSError as error:
        raise Unavailable("image", f"{image.path}: {error.strerror}") from None
    yield "/", READ & ~DEVICE
    for name, mode in sorted(top):
        if name in MOUNT_POINTS or stat.S_ISLNK(mode):
            continue
        yield f"/{name}", RUN if stat.S_ISDIR(mode) else RUN & ~(READ & ~DEVICE)
    for name in ("/proc", "/dev", "/run"):
        yield name, READ
    for name in _DEVICES:
        yield f"/dev/{name}", DEVICE
    yield "/dev/pts", TERMINAL
    yield "/dev/tty", TERMINAL & DEVICE
    for name in OWN.values():
        yield name, WRITE
    if scratch:
        yield WORK, WRITE_AND_RUN


def environment_of(**more: str) -> dict[str, str]:
    """The environment of a program: PATH, HOME, LANG, TMPDIR and what is given, nothing of ours."""
    return {"PATH": PATH, "HOME": HOME, "LANG": "C.UTF-8", "TMPDIR": OWN["tmp"], **more}

"""The devices of an agent: what the names in its manifest stand for on this host, as the operator's CDI specifications say.

Measured, and so approved, are the names; what a name leads to is the host's. So a specification can bring little:

    deviceNodes     character devices that every uid may read and write, below /dev, under Landlock's rights for exactly these
    mounts          never made: the file has to be in the agent's image already, measured, and be the host's to the byte
    env             variables that neither the sandbox nor the loader reads
    hooks, …        refused, each by its name

A device of a kind in `IOCTLS` may be controlled by that vendor's ioctls and no others; the filter knows no descriptors, so these
numbers pass on any. What drivers answer to their own ioctls is between the agent and the driver.

Source: CNCF container-device-interface SPEC.md; Linux ioctl-number.rst; NVIDIA open-gpu-kernel-modules nv-ioctl-numbers.h (`F`),
uvm_ioctl.h, uvm_linux_ioctl.h (numbers without a type); linux/kfd_ioctl.h (`K`); drm/drm.h (`d`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enforcer.launch.image import Image
from writ.formats.cdi import MAX_SPEC, Edits, Node, Spec, device_name, parse_spec
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason

_DRM: Final = (0xFF00, ord("d") << 8)
IOCTLS: Final[Mapping[str, tuple[tuple[int, int], ...]]] = {
    "nvidia.com/gpu": ((0xFF00, ord("F") << 8), (0xFFFFFF00, 0), (0xFFFFFF00, 0x30000000)),
    "amd.com/gpu": (_DRM, (0xFF00, ord("K") << 8)),
    "intel.com/gpu": (_DRM,),
}
"""By kind: a mask over the number of an ioctl, and what is left under it."""
_OURS: Final = frozenset(
    {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "fd", "stdin", "stdout", "stderr"}
)
_LOADED: Final = ("LD_", "GLIBC_", "GCONV_", "PYTHON", "NODE_", "BASH_", "ENV", "IFS", "PERL", "RUBY", "JAVA_")
"""How names begin that say what a loader or an interpreter loads."""
_SET: Final = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "PWD"})
_OWNER: Final = 0


@dataclass(frozen=True, slots=True)
class Devices:
    """What the sandbox of an agent has beside the usual: nodes as (path on the host, path inside), variables, ioctls."""

    nodes: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    ioctls: tuple[tuple[int, int], ...] = ()


NONE: Final = Devices()


def resolve(names: Iterable[str], folders: Iterable[Path], image: Image) -> Devices:
    """What `names` stand for, as the specifications in `folders` say: of two folders the later one counts.

    1. Each name is in one specification, and asks for nothing that no agent gets.
    2. Its nodes are as they should be. 3. The files it needs are in the image. 4. Its variables steer nothing.

    Raises Refused, Unavailable.
    """
    wanted = [device_name(name, "devices") for name in names]
    if not wanted:
        return NONE
    specs = [_specs(folder) for folder in folders]
    nodes: dict[str, str] = {}
    environment: dict[str, str] = {}
    for kind, name in wanted:
        device = f"{kind}={name}"
        for edits in _find(kind, name, specs):
            # 1
            if edits.never:
                raise _refused(device, "nodes, files and variables", ", ".join(edits.never)[:200])
            # 2
            for node in edits.nodes:
                _check_node(device, node)
                if nodes.setdefault(node.path, node.host_path) != node.host_path:
                    raise _refused(device, f"one device at {node.path}", "two")
            # 3
            for outside, inside in edits.files:
                _check_file(device, outside, inside, image.path)
            # 4
            for variable, value in edits.environment:
                if variable in _SET or variable.startswith(("WRIT_", *_LOADED)) or environment.setdefault(variable, value) != value:
                    raise _refused(device, "variables that nothing else sets and no loader reads", variable)
    ioctls = {pair for kind, _ in wanted for pair in IOCTLS.get(kind, ())}
    return Devices(
        tuple((node, inside) for inside, node in sorted(nodes.items())), tuple(sorted(environment.items())), tuple(sorted(ioctls))
    )


def _refused(device: str, expected: str, got: str) -> Refused:
    return Refused(Reason("device-refused", f"devices.{device}"[:200], expected, got))


def _specs(folder: Path) -> list[Spec]:
    """Every specification of one folder; one that is no specification, or that others than root can write, refuses them all."""
    found = []
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
        for path in paths:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                info = os.fstat(file.fileno())
                if info.st_uid != _OWNER or info.st_mode & 0o022 or not stat.S_ISREG(info.st_mode):
                    raise _refused(str(path), "a file that only root can write", f"uid {info.st_uid}, mode {stat.S_IMODE(info.st_mode):o}")
                found.append(parse_spec(file.read(MAX_SPEC + 1)))
    except FileNotFoundError:
        return found
    except OSError as error:
        raise Unavailable("CDI", f"{error.filename or folder}: {error.strerror}") from None
    except FormatError as error:
        raise _refused(str(folder), f"{error.what} of {error.expected}"[:200], error.got) from None
    return found


def _find(kind: str, name: str, specs: list[list[Spec]]) -> tuple[Edits, Edits]:
    """The device's edits, and those of its specification."""
    for of_folder in reversed(specs):
        found = [(spec.common, dict(spec.devices)[name]) for spec in of_folder if spec.kind == kind and name in dict(spec.devices)]
        if len(found) > 1:
            raise _refused(f"{kind}={name}", "one specification", f"{len(found)} of one folder")
        if found:
            return found[0]
    known = sorted({f"{spec.kind}={one}" for of_folder in specs for spec in of_folder for one, _ in spec.devices})
    raise Refused(Reason("device-unknown", f"devices.{kind}={name}"[:200], "a CDI specification in JSON", ", ".join(known)[:200] or "none"))


def _check_node(device: str, node: Node) -> None:
    parts = node.path.split("/")
    if parts[1] != "dev" or len(parts) < 3 or parts[2] in _OURS:
        raise _refused(device, "a place of its own below /dev", node.path[:200])
    try:
        info = os.lstat(node.host_path)
    except OSError as error:
        raise Unavailable("device", f"{node.host_path}: {error.strerror}") from None
    if not stat.S_ISCHR(info.st_mode):
        raise _refused(device, "a character device", f"{node.host_path}, which is none"[:200])
    number = os.major(info.st_rdev), os.minor(info.st_rdev)
    if node.number not in (None, number):
        raise _refused(device, f"{node.host_path} of number {node.number}"[:200], f"{number}")
    if info.st_mode & 0o006 != 0o006:
        raise _refused(device, f"{node.host_path} that every uid may read and write"[:200], f"mode {stat.S_IMODE(info.st_mode):o}")


def _check_file(device: str, outside: str, inside: str, root: Path) -> None:
    """The file of the image is the host's, to the byte: what is in the image was measured, and nothing has to be mounted."""
    wanted = _digest(Path(outside))
    got = _digest(_within(root, inside))
    if wanted is None or wanted != got:
        expected = f"sha256:{wanted} as {outside}" if wanted else f"a file {outside}"
        raise Refused(Reason("driver-not-measured", f"devices.{device} {inside}"[:200], expected[:200], f"sha256:{got}" if got else "none"))


def _within(root: Path, inside: str) -> Path | None:
    """The path within the image, if no link is on the way: where one leads outside says nothing about inside."""
    at = root
    for part in inside[1:].split("/"):
        at = at / part
        if at.is_symlink():
            return None
    return at


def _digest(path: Path | None) -> str | None:
    try:
        if path is not None and path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        pass
    return None

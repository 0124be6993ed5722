"""What an agent finds under `/`: its measured components in images that nobody can write any more, host root among them.

    /               the component of kind `image`
    /store/NAME     every other component
    /proc /dev /tmp /agent /work /run/writ /run/shim       where the sandbox mounts what is not measured; empty in the image

Each component has an image of its own, an erofs in a sealed memfd: neither it nor the loop device over it can be written, also by root.
What it holds is hashed after it was sealed, and compared with the measurement: a store that was changed meanwhile is refused, and one that
is changed later does not matter. One image serves all agents that have the component and whose holders share a mount namespace, and lives
in memory while one of them does: another prompt is another small image, and not the root's again. A service that systemd restarts has
another namespace, and makes its own; holders from before see theirs alone, so each that ends takes away what nobody there holds any more.

What fs-verity or dm-verity holds is too large for memory and needs no copy: `held` binds it, and the sandbox has it at its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from enforcer.launch.held import hold
from enforcer.launch.mounts import unmount
from enforcer.launch.store_root import INSIDE, StoreRoot
from enforcer.launch.walk import walk
from writ.formats.digest import Digest
from writ.formats.errors import Refused, Unavailable
from writ.formats.measurement import ComponentRoot, Measurement
from writ.formats.reason import Reason
from writ.formats.tree import ComponentKind, Entry, component, component_root
from writ.service.verity import Kernel, Verity

STORE: Final = INSIDE.removeprefix("/")
MOUNT_POINTS: Final = ("proc", "dev", "tmp", "agent", "work", "run", "run/writ")
"""Directories of the image that are ours. An image component may have them, empty."""
SHIM: Final = "run/shim"
"""Where the sandbox mounts `shim.c`'s program."""
_OURS: Final = frozenset({STORE, *(point for point in MOUNT_POINTS if "/" not in point)})
BWRAP, MKFS, _MOUNT = "/usr/bin/bwrap", "/usr/bin/mkfs.erofs", "/usr/bin/mount"
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_UUID: Final = "00000000-0000-0000-0000-000000000000"
_WITHIN: Final = 300.0
"""Seconds for one tool to make or mount an image."""
_VERIFIED: Final = "verified"
_MOUNTED: Final = "root"
_HASHERS: Final = 4


@dataclass(frozen=True, slots=True)
class Image:
    """The mounted images of one agent, which are what was measured, while `locks` are open: that of its root, and those of its other
    components by name."""

    path: Path
    locks: tuple[int, ...]
    parts: tuple[tuple[str, Path], ...]

    def free(self) -> None:
        """This process needs it no longer."""
        for lock in self.locks:
            os.close(lock)


def image_of(folder: Path, root: StoreRoot, measurement: Measurement, kernel: Verity | None = None) -> Image:
    """The images of `measurement`, whose trees lie at `root`: those that are mounted, and new ones for what is not.

    1. Who has a lock shared, holds its image: no sweep takes it away. One at a time makes it, under a lock of its own, since who holds the
       first may hold it for as long as an agent lives; who comes later finds it.
    2. What `kernel` (this one where None) holds is bound; else it is made an image, sealed, mounted read-only.
    3. Asked or hashed: the component is what was measured.

    Raises Refused where it is not, or where there is no root for an agent; Unavailable.
    """
    if not any(part.kind == "image" for part in measurement.components):
        raise Refused(Reason("component-missing", "measurement.components", "one of kind image, the root of the sandbox", "none"))
    found = dict[str, Path]()
    with contextlib.ExitStack() as undone:
        locks = []
        for part in measurement.components:
            is_root = part.kind == "image"
            place = _place(folder, part)
            try:
                place.mkdir(mode=0o711, exist_ok=True)
                lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                undone.callback(os.close, lock)
                locks.append(lock)
                # 1
                fcntl.flock(lock, fcntl.LOCK_SH)
                if not _is_ready(place):
                    with open(place / "making", "wb") as making:
                        fcntl.flock(making, fcntl.LOCK_EX)
                        if not _is_ready(place):
                            # 2, 3
                            _make(place, root.path / part.name, part, kernel or Kernel(), is_root=is_root)
                os.utime(lock)
            except OSError as error:
                raise Unavailable("image", f"{error.filename or place}: {error.strerror}") from None
            found["" if is_root else part.name] = place / _MOUNTED
        undone.pop_all()
    return Image(found.pop(""), tuple(locks), tuple(sorted(found.items())))


def _place(folder: Path, part: ComponentRoot) -> Path:
    return folder / f"{part.root.hex()}{'.root' if part.kind == 'image' else ''}.{_namespace()}"


def place_of(folder: Path, part: ComponentRoot) -> Path:
    """Where the image of `part` is mounted, of an agent whose images this process holds."""
    return _place(folder, part) / _MOUNTED


def within(root: Path, inside: str) -> Path | None:
    """The path within an image, if no link is on the way: where one leads outside says nothing about inside."""
    at = root
    for part in inside[1:].split("/"):
        at = at / part
        if at.is_symlink():
            return None
    return at


def sweep(folder: Path, keep: int) -> None:
    """Images of this mount namespace that no living process holds, nor took within `keep` seconds, are unmounted: their memory is free."""
    for place in sorted(folder.glob(f"*.{_namespace()}")):
        try:
            lock = os.open(place / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(lock).st_mtime >= keep:
                _clear(place)
        os.close(lock)


def _make(place: Path, tree: Path, part: ComponentRoot, kernel: Verity, *, is_root: bool) -> None:
    """What is mounted in `place` is `part`, and was compared with what was measured; else nothing is mounted there."""
    _clear(place)
    mounted = place / _MOUNTED
    with contextlib.ExitStack() as undone:
        undone.callback(_clear, place)
        if is_root or not hold(part, tree, mounted, kernel):
            mounted.mkdir(mode=0o755, exist_ok=True)
            build(tree, mounted, is_root=is_root)
            _verify(mounted, tree, part, is_root=is_root)
        (place / _VERIFIED).touch(mode=0o600)
        undone.pop_all()


def _namespace() -> int:
    """The number of the mount namespace of this process."""
    return os.stat("/proc/self/ns/mnt").st_ino


def _is_ready(place: Path) -> bool:
    return (place / _VERIFIED).exists() and os.path.ismount(place / _MOUNTED)


def _clear(place: Path) -> None:
    (place / _VERIFIED).unlink(missing_ok=True)
    unmount(place / _MOUNTED)


# --- made ----------------------------------------------------------------------------------------------------------------------


def build(tree: Path, mounted: Path, *, is_root: bool) -> None:
    """The image of `tree` is mounted; the root of a sandbox has our places, empty. Raises Unavailable, Refused.

    bubblewrap lays it out in a mount namespace that ends with mkfs; nothing is copied but into the image.
    """
    arguments = ["--unshare-all", "--die-with-parent", *host_tools(), "--proc", "/proc"]
    if is_root:
        arguments += ["--dir", "/image"]
        for name, info in sorted(_view(tree).items()):
            source, inner = tree / name, f"/image/{name}"
            if stat.S_ISLNK(info.st_mode):
                arguments += ["--symlink", os.readlink(source), inner]
            elif name not in _OURS:
                arguments += ["--ro-bind", str(source), inner]
        for point in (*MOUNT_POINTS, STORE):
            arguments += ["--dir", f"/image/{point}"]
    else:
        arguments += ["--ro-bind", str(tree), "/image"]
    image, empty = (os.memfd_create(f"writ-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) for name in ("image", "empty"))
    made = f"/proc/self/fd/{image}"
    try:
        if is_root:
            arguments += ["--perms", "0555", "--file", str(empty), f"/image/{SHIM}"]
        _run([BWRAP, *arguments, "--", MKFS, "-T0", "-U", _UUID, "--all-root", made, "/image"], keep=(image, empty))
        fcntl.fcntl(image, fcntl.F_ADD_SEALS, _SEALS)
        _run([_MOUNT, "-t", "erofs", "-o", "ro,loop,nosuid,nodev", made, str(mounted)], keep=(image,))
    finally:
        os.close(image)
        os.close(empty)


def host_tools() -> list[str]:
    """bubblewrap's arguments for what a program of the host needs to run."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            arguments += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            arguments += ["--ro-bind", f"/{name}", f"/{name}"]
    return arguments


def _view(tree: Path) -> dict[str, os.stat_result]:
    """The top level of the image component. Raises Refused where something stands in our places."""
    try:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(tree)}
        for name in _OURS & found.keys():
            if not stat.S_ISDIR(found[name].st_mode) or os.listdir(tree / name):
                raise Refused(Reason("component-unexpected", f"image:{name}", "nothing, or an empty directory", "something"))
    except OSError as error:
        raise Unavailable("image", f"{error.filename}: {error.strerror}") from None
    return found


def _run(command: list[str], keep: tuple[int, ...] = ()) -> None:
    try:
        done = subprocess.run(
            command, pass_fds=keep, env={}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=_WITHIN, check=False
        )  # fmt: skip
    except OSError as error:
        raise Unavailable("image", f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Unavailable("image", f"{command[0]} did not end within {_WITHIN:.0f} s") from None
    if done.returncode:
        raise Unavailable("image", f"{Path(command[0]).name}: {last_words(done.stderr)}")


def last_words(said: bytes) -> str:
    """The last line of what a tool wrote to its standard error."""
    return (said.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1][:200]


# --- compared ------------------------------------------------------------------------------------------------------------------


def _verify(mounted: Path, tree: Path, part: ComponentRoot, *, is_root: bool) -> None:
    """What is mounted is the component that was measured. Raises Refused.

    Of our own places the root may have had some, as empty directories: its measured root tells which.
    """
    found = list(walk(mounted, without=_OURS if is_root else ()))
    if is_root:
        found += [(Path(), Entry.dir(name)) for name in sorted(_OURS & _view(tree).keys())]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _HASHERS)) as pool:
        entries = tuple(pool.map(_hashed, found))
    got = component_root(component(part.name, cast(ComponentKind, part.kind), entries))
    if got != part.root:
        raise Refused(Reason("component-mismatch", f"measurement.{part.name}", str(part.root), str(got)))


def _hashed(found: tuple[Path, Entry]) -> Entry:
    path, entry = found
    if entry.kind != "file":
        return entry
    with open(path, "rb", buffering=0) as file:
        return replace(entry, digest=Digest("sha256", hashlib.file_digest(file, "sha256").digest()))

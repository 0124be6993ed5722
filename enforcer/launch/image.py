"""What an agent finds under `/`: its measured components in an image that nobody can write any more, host root among them.

    /               the component of kind `image`
    /store/NAME     every other component
    /proc /dev /tmp /agent /work /run/writ /run/shim       where the sandbox mounts what is not measured; empty in the image

The image is an erofs in a sealed memfd: neither it nor the loop device over it can be written, also by root. What it holds is hashed
after it was sealed, and compared with the measurement: a store that was changed meanwhile is refused, and one that is changed later
does not matter. One image serves all instances of a manifest root whose holders share a mount namespace, and lives in memory while
one of them does; a service that systemd restarts has another namespace, and makes its own.

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
from collections.abc import Iterable
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
_HELD: Final = "held"
_HASHERS: Final = 4


@dataclass(frozen=True, slots=True)
class Image:
    """A mounted image that is what was measured, held while `lock` is open. `held` are components that the kernel itself keeps from
    changing, by name, with where they are mounted."""

    path: Path
    lock: int
    held: tuple[tuple[str, Path], ...]

    def free(self) -> None:
        """This process needs it no longer."""
        os.close(self.lock)


def image_of(folder: Path, root: StoreRoot, measurement: Measurement, kernel: Verity | None = None) -> Image:
    """The image of `measurement`, whose trees lie at `root`: the one that is mounted, or a new one.

    1. Who has the lock shared, holds it: no sweep takes it away. One at a time makes it, under a lock of its own, since who holds the
       first may hold it for as long as an agent lives; who comes later finds it.
    2. What `kernel` (this one where None) holds is bound; the rest is made an image, sealed, mounted read-only.
    3. Asked and hashed: every component is what was measured.

    Raises Refused where it is not, or where there is no root for an agent; Unavailable.
    """
    place = folder / f"{measurement.root().hex()}.{os.stat('/proc/self/ns/mnt').st_ino}"
    base = next((part.name for part in measurement.components if part.kind == "image"), None)
    if base is None:
        raise Refused(Reason("component-missing", "measurement.components", "one of kind image, the root of the sandbox", "none"))
    try:
        place.mkdir(mode=0o711, exist_ok=True)
        lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable("image", f"{place}: {error.strerror}") from None
    with contextlib.ExitStack() as undone:
        undone.callback(os.close, lock)
        try:
            # 1
            fcntl.flock(lock, fcntl.LOCK_SH)
            if not _is_ready(place):
                with open(place / "making", "wb") as making:
                    fcntl.flock(making, fcntl.LOCK_EX)
                    if not _is_ready(place):
                        # 2, 3
                        _make(place, root.path, base, measurement.components, kernel or Kernel())
            os.utime(lock)
        except OSError as error:
            raise Unavailable("image", f"{error.filename or place}: {error.strerror}") from None
        undone.pop_all()
    return Image(place / "root", lock, tuple((path.name, path) for path in sorted((place / _HELD).iterdir())))


def within(root: Path, inside: str) -> Path | None:
    """The path within an image, if no link is on the way: where one leads outside says nothing about inside."""
    at = root
    for part in inside[1:].split("/"):
        at = at / part
        if at.is_symlink():
            return None
    return at


def sweep(folder: Path, keep: int) -> None:
    """Images that no living process holds, nor took within `keep` seconds, are unmounted, and their memory is free."""
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            lock = os.open(place / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(lock).st_mtime >= keep:
                _clear(place)
        os.close(lock)


def _make(place: Path, trees: Path, base: str, parts: Iterable[ComponentRoot], kernel: Verity) -> None:
    """What is mounted below `place` is these parts, and was compared with what was measured; else nothing is mounted there."""
    _clear(place)
    mounted = place / "root"
    mounted.mkdir(mode=0o755, exist_ok=True)
    (place / _HELD).mkdir(mode=0o711, exist_ok=True)
    with contextlib.ExitStack() as undone:
        undone.callback(_clear, place)
        held = {part.name for part in parts if part.name != base and hold(part, trees / part.name, place / _HELD / part.name, kernel)}
        copied = [part for part in parts if part.name not in held]
        build(trees, base, [part.name for part in copied], mounted, held)
        _verify(mounted, trees, base, copied)
        (place / _VERIFIED).touch(mode=0o600)
        undone.pop_all()


def _is_ready(place: Path) -> bool:
    return (place / _VERIFIED).exists() and os.path.ismount(place / "root")


def _clear(place: Path) -> None:
    (place / _VERIFIED).unlink(missing_ok=True)
    unmount(place / "root")
    for path in (place / _HELD).iterdir() if (place / _HELD).is_dir() else ():
        unmount(path)
        path.rmdir()


# --- made ----------------------------------------------------------------------------------------------------------------------


def build(trees: Path, base: str, names: Iterable[str], mounted: Path, held: Iterable[str] = ()) -> None:
    """The image of the tree `base`, with the other trees of these names and a place for each that is held, is mounted.

    Raises Unavailable, Refused.

    bubblewrap lays the components side by side in a mount namespace that ends with mkfs; nothing is copied but into the image.
    """
    arguments = ["--unshare-all", "--die-with-parent", *host_tools(), "--proc", "/proc", "--dir", "/image"]
    for name, info in sorted(_view(trees / base).items()):
        source, inner = trees / base / name, f"/image/{name}"
        if stat.S_ISLNK(info.st_mode):
            arguments += ["--symlink", os.readlink(source), inner]
        elif name not in _OURS:
            arguments += ["--ro-bind", str(source), inner]
    for point in (*MOUNT_POINTS, STORE):
        arguments += ["--dir", f"/image/{point}"]
    for name in sorted(held):
        arguments += ["--dir", f"/image/{STORE}/{name}"]
    for name in sorted(names):
        if name != base:
            arguments += ["--ro-bind", str(trees / name), f"/image/{STORE}/{name}"]
    image, empty = (os.memfd_create(f"writ-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) for name in ("image", "empty"))
    made = f"/proc/self/fd/{image}"
    try:
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


def _verify(mounted: Path, trees: Path, base: str, parts: Iterable[ComponentRoot]) -> None:
    """Every component in the image is the one measured. Raises Refused.

    Of our own places the image component may have had some, as empty directories: its root tells which.
    """
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _HASHERS)) as pool:
        for part in parts:
            if part.name == base:
                found = [*walk(mounted, without=_OURS), *((Path(), Entry.dir(name)) for name in sorted(_OURS & _view(trees / base).keys()))]
            else:
                found = list(walk(mounted / STORE / part.name))
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

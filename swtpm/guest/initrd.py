"""An initrd: a gzipped newc archive with busybox, dmsetup and its libraries, the modules of dm-verity, and our script.

Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst (newc).
"""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from swtpm.guest.packages import BuildError, tool
from swtpm.guest.tree import SCRIPTS, modules

_MODULES: Final = ("dm-verity",)
_DIRECTORIES: Final = ("bin", "dev", "lib64", "lib", "lib/x86_64-linux-gnu", "modules", "proc", "root", "run")
_EXECUTABLE: Final = 0o755


def make_initrd(tree: Path, kernel: Path, version: str, *, more: Mapping[str, bytes]) -> bytes:
    """The initrd that makes the root of `tree`; `more` are files that it holds besides, by path. The same inputs give the same bytes."""
    loaded = modules(kernel, version, *_MODULES)
    program = tree / "sbin/dmsetup"
    files = {
        "init": (SCRIPTS / "initrd-init").read_bytes(),
        "bin/busybox": (tree / "bin/busybox").read_bytes(),
        "bin/dmsetup": program.read_bytes(),
        "modules/order": "".join(f"{path.name}\n" for path in loaded).encode(),
        **{f"modules/{path.name}": path.read_bytes() for path in loaded},
        **{f"{_folder(path.name)}/{path.name}": path.read_bytes() for path in _libraries(tree, program)},
        **more,
    }
    return gzip.compress(_newc(files), 6, mtime=0)


def _folder(library: str) -> str:
    """Where the loader is named by programs to be, and where it looks for the others."""
    return "lib64" if library.startswith("ld-linux") else "lib/x86_64-linux-gnu"


def _libraries(tree: Path, program: Path) -> Iterable[Path]:
    """The shared libraries that `program` needs and the loader, each under the name by which it is asked for."""
    found: dict[str, Path] = {}
    open_ends = [program]
    while open_ends:
        listed = tool("objdump", "--private-headers", os.fspath(open_ends.pop()))
        for name in (line.split()[1] for line in listed.splitlines() if line.split()[:1] == ["NEEDED"]):
            if name not in found:
                place = next((p for p in (tree / "lib/x86_64-linux-gnu" / name, tree / "lib64" / name) if p.exists()), None)
                if place is None:
                    raise BuildError(f"{program.name}: expected {name} in the tree, found none")
                found[name] = place
                open_ends.append(place)
    found.setdefault("ld-linux-x86-64.so.2", tree / "lib64/ld-linux-x86-64.so.2")
    return tuple(found[name] for name in sorted(found))


def _newc(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive of `files` and `_DIRECTORIES`, owned by root, dated 1970."""
    entries = [(name, stat.S_IFDIR | _EXECUTABLE, b"") for name in _DIRECTORIES]
    entries += [(name, stat.S_IFREG | _EXECUTABLE, files[name]) for name in sorted(files)]
    entries.append(("TRAILER!!!", 0, b""))
    archive = bytearray()
    for number, (name, mode, data) in enumerate(entries, 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)

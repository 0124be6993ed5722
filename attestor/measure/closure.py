"""What programs need of this host to start: the files themselves, their loader and libraries, and every link on the way to them.

For an image made of the host's own files. The loader is asked, as ldd does, of each program named and of each program and library in
a tree. A library that a program opens by itself while it runs is not seen: name such a one as another program, or the directory that it
lies in as a tree.

Source: ld.so(8), LD_TRACE_LOADED_OBJECTS.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from writ.formats.errors import Unavailable
from writ.formats.manifest import ComponentSpec

CACHES: Final = ("*.pyc", "__pycache__")
_LOADED: Final = re.compile(r"(/[^ ()\n]+) \(0x[0-9a-f]+\)")
_INTERPRETER: Final = re.compile(rb"/lib[^\0\n]{0,64}/ld-[^\0\n]{1,64}\.so\.[0-9]+")
_ELF: Final = b"\x7fELF"
_WITHIN: Final = 20.0
_MOST_LINKS: Final = 40


def image_of(programs: Iterable[Path], trees: Iterable[Path] = (), *, name: str = "system") -> ComponentSpec:
    """An image of this host's own files: these programs, these directories whole but for caches, and what is loaded by any of them.

    Raises Unavailable.
    """
    named = [path.resolve() for path in trees]
    within = [file for tree in named for file in sorted(tree.rglob("*")) if _is_code(file)]
    found: set[str] = set()
    for program in (*programs, *within):
        for path in (program, *_loaded(program)):
            found.update(_way(path))
    found.update(way for tree in trees for way in _way(tree))
    whole = tuple(str(tree)[1:] for tree in named)
    include = {path for path in found if not any(path.startswith(f"{tree}/") for tree in whole)}
    return ComponentSpec(name, "image", "/", CACHES, include=tuple(sorted(include)))


def _is_code(file: Path) -> bool:
    """Whether a file of a tree may be a program or a library."""
    return file.is_file() and (file.suffix == ".so" or os.access(file, os.X_OK))


def _loaded(program: Path) -> tuple[Path, ...]:
    """The libraries and the loader of an ELF file; nothing for another, or a static one."""
    try:
        with program.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise Unavailable("program", f"{program}: {error.strerror}") from None
    if not start.startswith(_ELF):
        return ()
    loader = _loader(start)
    command = [loader or _own_loader(), "--list", str(program)]  # a library names no loader: that of any program lists it
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN, check=False, env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable("loader", f"{command[0]}: {error}") from None
    paths = [Path(path) for path in _LOADED.findall(done.stdout)]
    return (*([] if loader is None else [Path(loader)]), *paths)


def _loader(start: bytes) -> str | None:
    named = _INTERPRETER.search(start)
    return None if named is None else os.fsdecode(named[0])


@cache
def _own_loader() -> str:
    """Of the interpreter that runs this. Raises Unavailable where it needs none."""
    try:
        with open(sys.executable, "rb") as file:
            loader = _loader(file.read(4096))
    except OSError as error:
        raise Unavailable("loader", f"{sys.executable}: {error.strerror}") from None
    if loader is None:
        raise Unavailable("loader", f"{sys.executable}: expected a program that names its loader")
    return loader


def _way(path: Path) -> set[str]:
    """`path` below `/`, and each link that is met on the way to the file. Raises Unavailable."""
    met: set[str] = set()
    parts, at = list(path.absolute().parts[1:]), Path("/")
    links = 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            at = at.parent
            continue
        here = at / part
        if here.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise Unavailable("program", f"{path}: more than {_MOST_LINKS} links")
            met.add(str(here)[1:])
            target = Path(os.readlink(here))
            parts = [*(target.parts[1:] if target.is_absolute() else target.parts), *parts]
            at = Path("/") if target.is_absolute() else at
        else:
            at = here
    if not at.exists():
        raise Unavailable("program", f"{path}: no such file")
    met.add(str(at)[1:])
    return met

"""A root file system for agents of tests: this host's Python and what it loads, measured once, shared by every test."""

from __future__ import annotations

import fcntl
import os
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Final

from attestor.measure.closure import image_of
from attestor.measure.tree import measure_tree
from writ.formats.manifest import ComponentSpec
from writ.formats.measurement import ComponentRoot
from writ.formats.tree import Component, ComponentKind, component_root, unspell

PYTHON: Final = "/usr/bin/python3"
_STDLIB: Final = Path(sysconfig.get_path("stdlib")).resolve()
_LEFT_OUT: Final = (
    "__pycache__", "test", "tests", "ensurepip", "idlelib", "tkinter", "lib2to3", "pydoc_data", "config-*", "_test*", "*.a",
    "asyncio", "cp[0-9]*", "curses", "dbm", "distutils", "iso8859_*", "mac_*", "multiprocessing", "sqlite3", "unittest", "venv", "wsgiref",
    "xml", "xmlrpc", "zoneinfo", "_codecs_*", "_crypt.*", "_curses*", "_dbm.*", "_decimal.*", "_gdbm.*", "_hashlib.*", "_sqlite3.*",
    "_ssl.*", "nis.*", "readline.*",
)  # fmt: skip
"""What no agent of a test imports, and the modules that bring large libraries."""
_PLACE: Final = Path("/var/tmp/writ-test-root")


def python_spec(*programs: Path) -> ComponentSpec:
    """The image component of Python, its standard library and `programs`, out of this host."""
    modules = [path for path in sorted(_STDLIB.rglob("*.so")) if not any(map(_is_left_out, path.relative_to(_STDLIB).parts))]
    spec = image_of([Path(PYTHON), *programs, *modules])
    stdlib = str(_STDLIB)[1:]
    include = {path for path in spec.include if not path.startswith(f"{stdlib}/")} | {stdlib}
    return replace(spec, include=tuple(sorted(include)), exclude=tuple(sorted(_LEFT_OUT)))


def _is_left_out(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _LEFT_OUT)


@lru_cache(maxsize=4)
def system(*programs: str) -> tuple[Component, Path]:
    """Python and these programs, as `made_of` makes them."""
    return made_of(python_spec(*map(Path, programs)))


def made_of(spec: ComponentSpec) -> tuple[Component, Path]:
    """The component of this host's files that `spec` names, measured, and its tree on disk, made once for all processes linked by tests."""
    measured = measure_tree(spec.name, spec.kind, Path("/"), excludes=spec.leaves_out)
    name = component_root(measured).hex()[:32]
    _PLACE.mkdir(mode=0o755, exist_ok=True)
    assert _PLACE.stat().st_uid == os.getuid()
    place = _PLACE / name
    with open(_PLACE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            fresh = _PLACE / f"{name}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            _copy(measured, fresh)
            fresh.rename(place)
    return measured, place


def _copy(measured: Component, place: Path) -> None:
    for entry in measured.entries:
        inner = os.fsdecode(unspell(entry.path))
        target = place / inner
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "dir":
            target.mkdir(exist_ok=True)
        elif entry.kind == "link":
            target.symlink_to(str(entry.target))
        else:
            shutil.copyfile(f"/{inner}", target)
            target.chmod(0o555 if entry.mode_exec else 0o444)


def link_tree(source: Path, target: Path) -> None:
    """`target` is `source`, file by file a hard link to it."""
    for folder, folders, files in os.walk(source):
        at = target / Path(folder).relative_to(source)
        at.mkdir(parents=True, exist_ok=True)
        for name in [*files, *(one for one in folders if (Path(folder) / one).is_symlink())]:
            os.link(Path(folder) / name, at / name, follow_symlinks=False)


def lay_out(root: Path, parts: Mapping[str, tuple[ComponentKind, Mapping[str, bytes]]], *programs: str) -> tuple[ComponentRoot, ...]:
    """The trees of an agent at `root`: the system, and each of `parts` by name as kind and files. Their roots, sorted."""
    return lay_out_on(root, system(*programs), parts)


def lay_out_on(
    root: Path, image: tuple[Component, Path], parts: Mapping[str, tuple[ComponentKind, Mapping[str, bytes]]]
) -> tuple[ComponentRoot, ...]:
    """The same, on another image than the system's."""
    measured, place = image
    link_tree(place, root / "system")
    found = [ComponentRoot("system", "image", component_root(measured))]
    for name, (kind, files) in parts.items():
        for inner, content in files.items():
            path = root / name / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o444)
        found.append(ComponentRoot(name, kind, component_root(measure_tree(name, kind, root / name))))
    return tuple(sorted(found))

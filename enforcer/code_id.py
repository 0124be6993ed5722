"""Which code this process runs: a digest of everything of ours on the enforcer's side, and of what lies under it.

The engine's digest covers what decides. This one covers also what launches,
holds and contains, so that a holder of another version is known as one.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

import enforcer
from writ.formats.errors import Misuse, Unavailable
from writ.formats.strict import encode_cbor
from writ.service.engine_id import installed_engine

_ROOMS: Final = ("enforcer", "writ")
_SHIM: Final = "enforcer/launch/shim"


@cache
def installed_code() -> bytes:
    """SHA-256 of the code as installed, read once a process: call it at start, before an upgrade can replace the files.

    Does not prove that the modules in memory came from these files. Raises Unavailable if a file cannot be read.
    """
    return code_digest(Path(enforcer.__path__[0]).parent, dict(installed_engine().libraries))


def code_digest(root: Path, libraries: dict[str, str]) -> bytes:
    """The digest of `enforcer` and `writ` below `root`, the shim among them, above `libraries`. Raises Unavailable."""
    try:
        found = [path for room in _ROOMS for path in (root / room).rglob("*.py") if "__pycache__" not in path.parts]
        if not found:
            raise Misuse(f"no source of the enforcer below {root}")
        found += [shim for shim in (root / _SHIM,) if shim.exists()]
        lines = {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).digest() for path in found}
    except OSError as error:
        raise Unavailable("code", f"cannot read {error.filename}: {error.strerror}") from None
    return hashlib.sha256(encode_cbor({"files": lines, "libraries": libraries})).digest()

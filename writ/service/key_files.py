"""Secret keys in files: there whole or not at all, and destroyed as far as a file can be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_LEAST: Final = 32


def read_key(path: Path) -> bytes | None:
    """What is in the file; None where there is none. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def make_key(path: Path, key: bytes) -> bytes:
    """What is in the file: `key`, durable, mode 0600, or one that was there already, for any process and thread at once. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.urandom(8).hex()}")  # nobody else's: another name of the key itself is never written
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, key)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    _sync(path.parent)
    return path.read_bytes()


def destroy_key(path: Path) -> bool:
    """The key is overwritten, and gone; False where there was none. Does not reach copies, nor blocks set aside. Raises OSError."""
    try:
        with path.open("r+b") as file:
            file.write(os.urandom(max(_LEAST, path.stat().st_size)))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except FileNotFoundError:
        return False
    _sync(path.parent)
    return True


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Keys of what a log hides: one for each instance, kept wrapped by its namespace's; destroying either makes content unreadable for ever.

    instances/ID/content.key    nonce and the instance's key, sealed with the namespace's (ChaCha20-Poly1305, bound to the instance)
    namespaces/NAME.key         32 bytes, mode 0600; made on first use, or laid there before, the same on several hosts
    namespaces/NAME.lock        held shared by whoever writes a log of the namespace

What is sealed stays where it is: here, in a store off the host, in archives. None of those has a key. Erasing does not reach a copy of a
key that someone made: whoever keeps copies destroys them too.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

from writ.formats.errors import FormatError, Unavailable
from writ.formats.hidden import KEY, NONCE, unwrap, wrap
from writ.service.key_files import destroy_key, make_key, read_key

KEY_FILE: Final = "content.key"


class ContentKeys:
    """The keys of one namespace, in the folder `keys`."""

    def __init__(self, keys: Path, namespace: str) -> None:
        self._keys, self._namespace = keys, namespace
        self._path, self._lock = keys / f"{namespace}.key", keys / f"{namespace}.lock"

    def open(self, folder: Path, instance: bytes) -> bytes:
        """The key of an instance, made on first use: whole or not at all.

        Raises FormatError where there is one that the namespace's key does not open, OSError.
        """
        path = folder / KEY_FILE
        if path.exists():
            key = self.held(folder, instance)
            if key is None:
                raise FormatError("content key", f"one that the key of namespace {self._namespace} opens", "another: erased, or replaced")
            return key
        wrapping, key, nonce = self._made(), secrets.token_bytes(KEY), secrets.token_bytes(NONCE)
        make_key(path, wrap(key, wrapping, instance, nonce))
        return key

    def held(self, folder: Path, instance: bytes) -> bytes | None:
        """The key of an instance; None where it, or the namespace's, was destroyed."""
        return unwrap(read_key(folder / KEY_FILE), read_key(self._path), instance)

    def writing(self) -> int:
        """A descriptor; while it is open, the namespace's key is not destroyed. Raises Unavailable where that is being done, OSError."""
        return self._locked(fcntl.LOCK_SH, "its key is being destroyed")

    def erase(self) -> bool:
        """The namespace's key is destroyed, and with it every instance's. False where there was none.

        Raises Unavailable while a log of the namespace is written: what came after would be sealed with a key that is nowhere.
        """
        if not self._path.exists():
            return False
        lock = self._locked(fcntl.LOCK_EX, "an instance of it runs")
        try:
            return destroy_key(self._path)
        finally:
            os.close(lock)

    def _made(self) -> bytes:
        """The namespace's key, made if there is none."""
        key = read_key(self._path) or make_key(self._path, secrets.token_bytes(KEY))
        if len(key) != KEY:
            raise FormatError(f"key of namespace {self._namespace}", f"{KEY} bytes", f"{len(key)} bytes")
        return key

    def _locked(self, how: int, why: str) -> int:
        self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise Unavailable(f"namespace {self._namespace}", why) from None
        return descriptor

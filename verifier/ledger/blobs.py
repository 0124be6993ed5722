"""Blobs of namespaces: what decisions of one name, sealed with a key of its own beside the ledger. Destroying the key erases all of them.

    STATE/blob-keys/NAMESPACE.key   32 bytes, mode 0600, made on first use

What belongs to the whole domain (engines, roots, reference values, policies) is of no namespace, and in the clear. Not sealed are a host's
state as it stands, answers while they may be asked for again, and the log itself, which says nothing of evidence but its digest.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from verifier.ledger.schema import BlobRow
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.service.key_files import destroy_key, make_key, read_key

FOLDER: Final = "blob-keys"
_KEY, _NONCE = 32, 12


class BlobKeys:
    """The keys in a folder beside the ledger. Nothing is remembered: a key that was destroyed opens nothing from then on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sealed(self, row: BlobRow) -> BlobRow:
        """The row as it is stored. Raises Unavailable where a key cannot be made."""
        if not row.namespace:
            return row
        nonce = os.urandom(_NONCE)
        cipher = ChaCha20Poly1305(self._key(row.namespace))
        return replace(row, data=nonce + cipher.encrypt(nonce, row.data, row.id))

    def opened(self, row: BlobRow) -> BlobRow | None:
        """The row as it was put; None once the namespace was erased."""
        if not row.namespace:
            return row
        try:
            key = read_key(self._path(row.namespace))
            if key is None or len(key) != _KEY:
                return None
            return replace(row, data=ChaCha20Poly1305(key).decrypt(row.data[:_NONCE], row.data[_NONCE:], row.id))
        except (InvalidTag, OSError):
            return None

    def erase(self, namespace: str) -> bool:
        """The namespace's key is destroyed; False where there was none. Raises Unavailable."""
        try:
            return destroy_key(self._path(namespace))
        except OSError as error:
            raise Unavailable("blob keys", f"{self._folder}: {error.strerror}") from None

    def _key(self, namespace: str) -> bytes:
        path = self._path(namespace)
        try:
            key = read_key(path)
            if key is None:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                key = make_key(path, secrets.token_bytes(_KEY))
        except OSError as error:
            raise Unavailable("blob keys", f"{self._folder}: {error.strerror}") from None
        if len(key) != _KEY:
            raise FormatError(f"key of namespace {namespace}", f"{_KEY} bytes", f"{len(key)} bytes")
        return key

    def _path(self, namespace: str) -> Path:
        return self._folder / f"{namespace}.key"


def keys_beside(connection: sqlite3.Connection) -> BlobKeys:
    """Those of the ledger that this is a connection to."""
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    return BlobKeys(Path(path).parent / FOLDER)


def blob_id(namespace: str, digest: Digest) -> bytes:
    """What a blob is found by: its digest, and of a namespace's, that and the namespace."""
    return digest.value if not namespace else sha256(b"writ/blob/v1" + namespace.encode() + b"\0" + digest.value).digest()

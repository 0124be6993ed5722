"""What a record hides, as it is sealed beside the leaf, and the key of an instance as its namespace's wraps it.

    sealed    nonce (12), then ChaCha20-Poly1305 of salt, content; of an action: salt, salt of the context, its length (2), context, content
    wrapped   nonce (12), then ChaCha20-Poly1305 of the instance's key (32)

What goes with either is bound to the instance, and of a record to its place. A key that is gone, or another's, opens nothing: None.

Source: ours, docs/formats.md, "Action log".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from writ.formats.record import ActionRecord, Record

SALT: Final = 32
NONCE: Final = 12
KEY: Final = 32
LENGTH: Final = 2
"""Bytes of a commitment's salt, of a seal's nonce, of a key, and of the length of a context."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """What a record's commitments hide. `context` is None of an outcome, which has none."""

    salt: bytes
    content: bytes
    context_salt: bytes | None
    context: bytes | None


def bound_to(instance: bytes, sequence: int) -> bytes:
    """What a sealed content is bound to."""
    return b"writ/content/v1" + instance + sequence.to_bytes(8, "big")


def unseal(key: bytes | None, instance: bytes, record: Record, sealed: bytes | None) -> Hidden | None:
    """What `record` of `instance` hides; None without the key, or with another."""
    data = None if sealed is None else _opened(key, sealed, bound_to(instance, record.sequence))
    if data is None:
        return None
    if not isinstance(record, ActionRecord):
        return Hidden(data[:SALT], data[SALT:], None, None)
    salts, rest = data[: 2 * SALT], data[2 * SALT :]
    end = LENGTH + int.from_bytes(rest[:LENGTH], "big")
    return Hidden(salts[:SALT], rest[end:], salts[SALT:], rest[LENGTH:end])


def wrap(key: bytes, by: bytes, instance: bytes, nonce: bytes) -> bytes:
    """The key of an instance, wrapped by its namespace's. No nonce serves twice."""
    return nonce + ChaCha20Poly1305(by).encrypt(nonce, key, _wrapped(instance))


def unwrap(wrapped: bytes | None, by: bytes | None, instance: bytes) -> bytes | None:
    """The key of an instance; None without the namespace's, or with another."""
    return None if wrapped is None else _opened(by, wrapped, _wrapped(instance))


def _opened(key: bytes | None, sealed: bytes, bound: bytes) -> bytes | None:
    if key is None or len(key) != KEY or len(sealed) < NONCE:
        return None
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:NONCE], sealed[NONCE:], bound)
    except InvalidTag:
        return None


def _wrapped(instance: bytes) -> bytes:
    return b"writ/content-key/v1" + instance

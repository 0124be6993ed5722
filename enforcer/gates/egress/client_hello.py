"""What a TLS client says first, as far as it names a server: strict, and pure.

16 03 01 02 00 | 01 00 01 fc | 03 03 random session_id cipher_suites compression extensions
record           handshake     ClientHello

Source: RFC 8446 4.1.2, 5.1; RFC 6066 3 (server_name); RFC 9849 (encrypted_client_hello).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError

HANDSHAKE: Final = 22
"""The first byte of a TLS connection."""
MAX_HELLO: Final = 32 << 10
"""Bytes; one with post-quantum key shares has 2 KiB."""
MAX_RECORDS: Final = 16
_CLIENT_HELLO: Final = 1
_SERVER_NAME, _ENCRYPTED = 0, 0xFE0D


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`server_name` as it was sent; `encrypted` where another, unreadable ClientHello is inside."""

    server_name: str | None
    encrypted: bool


def read_client_hello(data: bytes) -> ClientHello | None:
    """The ClientHello that `data` begins with; None while more is needed to know. What follows its last record is not looked at.

    Raises FormatError.
    """
    message, at, records = b"", 0, 0
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        head = data[at : at + 5]
        if head[:1] not in (b"", bytes([HANDSHAKE])) or head[1:2] not in (b"", b"\x03"):
            raise FormatError("ClientHello", "a TLS handshake record", head.hex(), at)
        if len(head) < 5:
            return None
        length = int.from_bytes(head[3:], "big")
        if not 1 <= length <= 1 << 14:
            raise FormatError("ClientHello", "a record of 1 to 16384 bytes", str(length), at)
        message += data[at + 5 : at + 5 + length]
        at, records = at + 5 + length, records + 1
        if records > MAX_RECORDS:
            raise FormatError("ClientHello", f"at most {MAX_RECORDS} records", "more", at)
        if message and message[0] != _CLIENT_HELLO:
            raise FormatError("ClientHello", "handshake type 1", str(message[0]))
        if len(message) >= 4 and int.from_bytes(message[1:4], "big") > MAX_HELLO:
            raise FormatError("ClientHello", f"at most {MAX_HELLO} bytes", str(int.from_bytes(message[1:4], "big")))
        if at > len(data):
            return None
    if len(message) != 4 + int.from_bytes(message[1:4], "big"):
        raise FormatError("ClientHello", "a ClientHello alone in its records", "more of the handshake")
    return _hello(message[4:])


class _Vectors:
    """The length-prefixed parts of a message, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise FormatError("ClientHello", f"{size} bytes", f"{self.left} bytes and the end", self._at)
        self._at += size
        return self._data[self._at - size : self._at]

    def vector(self, width: int, least: int, most: int, unit: int = 1) -> bytes:
        size = int.from_bytes(self.take(width), "big")
        if not least <= size <= most or size % unit:
            raise FormatError("ClientHello", f"a vector of {least} to {most} bytes", str(size), self._at)
        return self.take(size)

    def end(self) -> None:
        if self.left:
            raise FormatError("ClientHello", "the end", f"{self.left} more bytes", self._at)


def _hello(body: bytes) -> ClientHello:
    f = _Vectors(body)
    if f.take(2)[0] != 3:
        raise FormatError("ClientHello", "legacy_version 3.x", body[:2].hex())
    f.take(32)
    f.vector(1, 0, 32)
    f.vector(2, 2, 65534, unit=2)
    f.vector(1, 1, 255)
    extensions = _Vectors(f.vector(2, 0, 65535) if f.left else b"")
    f.end()
    found: dict[int, bytes] = {}
    while extensions.left:
        kind = int.from_bytes(extensions.take(2), "big")
        if kind in found:
            raise FormatError("ClientHello", "each extension once", f"{kind} twice")
        found[kind] = extensions.vector(2, 0, 65535)
    return ClientHello(_server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else None, _ENCRYPTED in found)


def _server_name(extension: bytes) -> str:
    """The one host_name of the list: RFC 6066 allows no second of a type, and has no other type."""
    f = _Vectors(extension)
    names = _Vectors(f.vector(2, 1, 65535))
    f.end()
    if kind := names.take(1)[0]:
        raise FormatError("ClientHello.server_name", "a host_name (0)", str(kind))
    name = names.vector(2, 1, 255)
    names.end()
    if not name.isascii() or not name.decode("ascii").isprintable():
        raise FormatError("ClientHello.server_name", "printable ASCII", repr(name)[:80])
    return name.decode("ascii")

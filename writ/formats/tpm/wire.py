"""The TPM's canonical form: big-endian integers and sized buffers, read once and to the end.

A TPM2B is a buffer behind its size in two bytes:

>>> Reader(bytes.fromhex("0002abcd"), "specimen").sized("field", most=4).hex()
'abcd'
>>> sized(b"\\xab\\xcd", "field", most=4).hex()
'0002abcd'

Source: TPM 2.0 Library Part 1, "Canonicalization"; Part 2, TPM_ALG_ID.
"""

from __future__ import annotations

from typing import Final

from writ.formats.errors import FormatError

HASHES: Final[dict[int, str]] = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
"""TPM_ALG_ID -> name as in `digest.SIZES`. Other hashes (SM3, SHA-3) are not read."""
HASH_IDS: Final[dict[str, int]] = {name: number for number, name in HASHES.items()}
ALG_NULL: Final = 0x0010

MAX_STRUCTURE: Final = 4096
"""Bytes of one TPM structure; the command buffer of a TPM is no larger."""


class Reader:
    """Bytes read from left to right. Every method raises FormatError, and nothing else, on any bytes."""

    def __init__(self, data: bytes, what: str) -> None:
        if len(data) > MAX_STRUCTURE:
            raise FormatError(what, f"at most {MAX_STRUCTURE} bytes", f"{len(data)} bytes")
        self._data = bytes(data)
        self._what = what
        self.offset = 0

    def error(self, field: str, expected: str, got: str) -> FormatError:
        """The error to raise for `field`, which has just been read."""
        return FormatError(f"{self._what}.{field}", expected, got, self.offset)

    def take(self, count: int, field: str) -> bytes:
        """Exactly the next `count` bytes."""
        left = len(self._data) - self.offset
        if count > left:
            raise self.error(field, f"{count} bytes", f"{left} bytes")
        self.offset += count
        return self._data[self.offset - count : self.offset]

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(len(self._data) - self.offset, "rest")

    def uint(self, size: int, field: str) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size, field), "big")

    def flag(self, field: str) -> bool:
        """A TPMI_YES_NO: one byte, 0 or 1."""
        value = self.uint(1, field)
        if value > 1:
            raise self.error(field, "0 or 1", str(value))
        return value == 1

    def sized(self, field: str, *, most: int) -> bytes:
        """The content of a TPM2B of at most `most` bytes."""
        size = self.uint(2, field)
        if size > most:
            raise self.error(field, f"at most {most} bytes", f"{size} bytes")
        return self.take(size, field)

    def one_of(self, table: dict[int, str], field: str) -> str:
        """The name in `table` of an identifier of two bytes."""
        number = self.uint(2, field)
        if number not in table:
            raise self.error(field, "one of " + ", ".join(table.values()), f"0x{number:04x}")
        return table[number]

    def hash_algorithm(self, field: str) -> str:
        """The name of a TPMI_ALG_HASH."""
        return self.one_of(HASHES, field)

    def done(self) -> None:
        """Refuse trailing bytes."""
        left = len(self._data) - self.offset
        if left:
            raise FormatError(self._what, "no trailing bytes", f"{left} more", self.offset)


def uint(value: int, size: int, what: str) -> bytes:
    """`value` in `size` bytes. Raises FormatError if it does not fit."""
    if not 0 <= value < 1 << (8 * size):
        raise FormatError(what, f"an unsigned integer of {size} bytes", str(value)[:40])
    return value.to_bytes(size, "big")


def sized(value: bytes, what: str, *, most: int) -> bytes:
    """`value` as a TPM2B. Raises FormatError if it is longer than `most`."""
    if len(value) > most:
        raise FormatError(what, f"at most {most} bytes", f"{len(value)} bytes")
    return len(value).to_bytes(2, "big") + value


def hash_id(name: str, what: str) -> bytes:
    """The TPM_ALG_ID of a hash in two bytes. Raises FormatError."""
    if name not in HASH_IDS:
        raise FormatError(what, "one of " + ", ".join(HASH_IDS), repr(name)[:40])
    return HASH_IDS[name].to_bytes(2, "big")

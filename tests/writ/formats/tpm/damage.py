"""Damaged bytes for a parser: each is refused with a FormatError, or read and written back exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from writ.formats.errors import FormatError

T = TypeVar("T")


def reads_exactly_or_refuses(parse: Callable[[bytes], T], encode: Callable[[T], bytes], data: bytes) -> bool:
    """Whether `data` was read; asserts that what was read has no other spelling."""
    try:
        value = parse(data)
    except FormatError:
        return False
    assert encode(value) == data
    return True


def prefixes(data: bytes) -> Iterator[bytes]:
    """Every proper prefix of `data`."""
    return (data[:length] for length in range(len(data)))


def bit_flips(data: bytes) -> Iterator[bytes]:
    """`data` with each single bit flipped."""
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def assert_total(parse: Callable[[bytes], T], encode: Callable[[T], bytes], specimen: bytes) -> None:
    """`specimen` is read; no prefix and no extension of it is; a flipped bit is refused or read exactly."""
    assert reads_exactly_or_refuses(parse, encode, specimen)
    for data in (*prefixes(specimen), specimen + b"\0", specimen + specimen):
        assert not reads_exactly_or_refuses(parse, encode, data), data.hex()
    for data in bit_flips(specimen):
        reads_exactly_or_refuses(parse, encode, data)

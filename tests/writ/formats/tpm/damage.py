"""Damaged bytes for a parser: each is refused with a FormatError, or read and written back exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from tests.parsers import assert_parser_is_total
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


def bit_flips(data: bytes) -> Iterator[bytes]:
    """`data` with each single bit flipped."""
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def assert_total(parse: Callable[[bytes], T], encode: Callable[[T], bytes], specimen: bytes) -> None:
    """What `tests.parsers` asks of every parser, and that whatever is read has no other spelling."""

    def read(data: bytes) -> None:
        assert encode(parse(data)) == data

    assert_parser_is_total(read, specimen)

"""Fields of a protobuf message, as some origins wrap their quotes in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def fields_of(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: integers, and bytes that may be messages again. No other wire type is known."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if not data[at - 1] & 0x80:
                return value, at

    at = 0
    while at < len(data):
        key, at = varint(at)
        value, at = varint(at)
        if key & 7 == 0:
            yield key >> 3, value
        else:
            assert key & 7 == 2
            yield key >> 3, data[at : at + value]
            at += value

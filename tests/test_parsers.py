"""The test that every parser takes fails the parsers that it is there to fail."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests import parsers
from writ.formats.errors import FormatError

SPECIMEN = b"\x03abc"


def length_prefixed(data: bytes) -> bytes:
    if not data or data[0] != len(data) - 1:
        raise FormatError("specimen", "as many bytes as the first says", f"{len(data)} bytes")
    return data[1:]


def lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")


def leaks_index_error(data: bytes) -> bytes:
    return length_prefixed(data) if data[0] else b""


def leaks_on_one_flipped_bit(data: bytes) -> bytes:
    if data == b"\x03abb":
        raise UnicodeError
    return length_prefixed(data)


def ignores_what_follows(data: bytes) -> bytes:
    return length_prefixed(data[: data[0] + 1] if data else data)


def ignores_what_is_missing(data: bytes) -> bytes:
    if not data:
        raise FormatError("specimen", "a byte", "none")
    return data if len(data) < 4 else length_prefixed(data)


def refuses_its_own_specimen(data: bytes) -> bytes:
    raise FormatError("specimen", "anything else", data.hex())


def slow(data: bytes) -> bytes:
    end = time.process_time() + 0.05
    while len(data) == 3 and time.process_time() < end:
        pass
    return length_prefixed(data)


def test_strict_parser_passes() -> None:
    parsers.assert_parser_is_total(length_prefixed, SPECIMEN)


def test_file_of_records_passes_when_declared_so() -> None:
    parsers.assert_parser_is_total(lines, b"a\nb", open_ended=True)
    with pytest.raises(AssertionError, match="truncated or prolonged"):
        parsers.assert_parser_is_total(lines, b"a\nb")


@pytest.mark.parametrize("parse", [leaks_index_error, leaks_on_one_flipped_bit])
def test_parser_that_raises_anything_else_fails(parse: Callable[[bytes], object]) -> None:
    with pytest.raises(AssertionError, match="expected a value or FormatError, got"):
        parsers.assert_parser_is_total(parse, SPECIMEN)


@pytest.mark.parametrize("parse", [ignores_what_follows, ignores_what_is_missing])
def test_parser_that_reads_part_of_its_input_fails(parse: Callable[[bytes], object]) -> None:
    with pytest.raises(AssertionError, match="truncated or prolonged"):
        parsers.assert_parser_is_total(parse, SPECIMEN)


def test_parser_that_refuses_the_specimen_fails() -> None:
    with pytest.raises(FormatError):
        parsers.assert_parser_is_total(refuses_its_own_specimen, SPECIMEN)


def test_slow_parser_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsers, "_CPU_SECONDS", 0.02)

    with pytest.raises(pytest.fail.Exception, match=r"within 0\.02 s"):
        parsers.assert_parser_is_total(slow, SPECIMEN)

"""What a log and a witness say to each other: one spelling, each refusal by its name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.tlog import MemoryLog
from writ.formats.errors import FormatError, Misuse
from writ.formats.tlog.merkle import MAX_SIZE, consistency_proof
from writ.formats.tlog.note import NoteSignature, to_base64
from writ.formats.tlog.witnessing import (
    MAX_REQUEST,
    AddCheckpoint,
    encode_add_checkpoint,
    encode_cosignatures,
    parse_add_checkpoint,
    parse_cosignatures,
    parse_size,
)

LOG = MemoryLog([b"%d" % number for number in range(9)])
ASKED = AddCheckpoint(5, consistency_proof(LOG.leaves, 5), LOG.checkpoint())
DATA = encode_add_checkpoint(ASKED)
LINES = LOG.checkpoint(witnesses=["w1", "w2"]).note.signatures[1:]
ANSWER = encode_cosignatures(LINES)
HASH = to_base64(bytes(32))


@given(st.integers(0, MAX_SIZE), st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_a_request_comes_back_as_it_was(old: int, proof: list[bytes]) -> None:
    asked = AddCheckpoint(old, tuple(proof), ASKED.checkpoint)
    assert parse_add_checkpoint(encode_add_checkpoint(asked)) == asked


@given(st.text(st.sampled_from("old 0123456789=\nA"), max_size=60))
def test_a_request_that_is_read_is_written_the_same(text: str) -> None:
    below = DATA.partition(b"\n\n")[2]
    for data in (f"{text}\n\n".encode() + below, f"old {text}\n\n".encode() + below, f"old 1\n{text}\n\n".encode() + below):
        try:
            asked = parse_add_checkpoint(data)
        except FormatError:
            continue
        assert encode_add_checkpoint(asked) == data


def test_readers_are_total() -> None:
    assert_parser_is_total(parse_add_checkpoint, DATA, open_ended=True)
    assert_parser_is_total(parse_cosignatures, ANSWER, open_ended=True)  # the beginning of an answer of two lines is one of one line
    assert_parser_is_total(parse_size, b"12\n")


SHAPE = "old SIZE and hashes"
HASHES = "at most 63 hashes of 32 bytes"


@pytest.mark.parametrize(
    "old, new, expected",
    [
        pytest.param("old 5\n", "", SHAPE, id="no size"),
        *(
            pytest.param("old 5", f"old{size}", SHAPE, id=f"size {size!a}")
            for size in ("", " ", "5", " 05", " +5", " -5", " 5 ", "  5", " 5_0", " " + "1" * 20)
        ),
        pytest.param("old 5", f"old {MAX_SIZE + 1}", f"at most {MAX_SIZE}", id="a size that no log has"),
        pytest.param("old 5", "old \u0665", "ASCII above the checkpoint", id="digits that are not ASCII"),
        pytest.param("old 5\n", f"old 5\n{HASH[:-1]}\n", "base64", id="a hash without padding"),
        pytest.param("old 5\n", f"old 5\n{HASH[:-2]}B=\n", "one spelling", id="a hash with bits to spare"),
        pytest.param("old 5\n", f"old 5\n{to_base64(bytes(31))}\n", HASHES, id="a short hash"),
        pytest.param("old 5\n", "old 5\n" + f"{HASH}\n" * 60, HASHES, id="64 hashes"),
        pytest.param("old 5\n", "old 5\n\n", "three lines", id="an empty line after the size"),
        pytest.param("old 5\n", "old 5\r\n", SHAPE, id="a carriage return"),
    ],
)  # fmt: skip
def test_a_request_that_is_none_is_refused_by_name(old: str, new: str, expected: str) -> None:
    assert old.encode() in DATA
    with pytest.raises(FormatError, match=re.escape(expected)):
        parse_add_checkpoint(DATA.replace(old.encode(), new.encode(), 1))


def test_a_request_without_a_checkpoint_or_too_long_is_refused() -> None:
    with pytest.raises(FormatError, match=re.escape(SHAPE)):
        parse_add_checkpoint(b"old 0\n")
    with pytest.raises(FormatError, match=f"at most {MAX_REQUEST} bytes"):
        parse_add_checkpoint(DATA + b"x" * MAX_REQUEST)


@pytest.mark.parametrize("old, proof", [(-1, ()), (MAX_SIZE + 1, ()), (0, (bytes(31),)), (0, (bytes(32),) * 64)])
def test_a_request_that_would_not_be_read_cannot_be_made(old: int, proof: tuple[bytes, ...]) -> None:
    with pytest.raises(FormatError):
        AddCheckpoint(old, proof, ASKED.checkpoint)


# --- answers ---------------------------------------------------------------------------------------------------------------


def test_an_answer_comes_back_as_it_was_line_by_line() -> None:
    assert parse_cosignatures(ANSWER) == LINES
    assert ANSWER.count(b"\n") == len(LINES)
    assert ANSWER.startswith("— w1 ".encode())


@pytest.mark.parametrize(
    "data, expected",
    [
        pytest.param(b"", "begin with a dash", id="nothing"),
        pytest.param(b"\n" + ANSWER, "nothing before them", id="an empty line before"),
        pytest.param(b"a text\n\n" + ANSWER, "nothing before them", id="a text before"),
        pytest.param(ANSWER + b"\n" + ANSWER, "nothing before them", id="an empty line between"),
        pytest.param(ANSWER[:-1], "each ended", id="no newline at the end"),
        pytest.param(ANSWER + ANSWER, "one signature of a key", id="a line twice"),
        pytest.param(b"a text\n" + ANSWER, "begin with a dash", id="a line that is no signature"),
        pytest.param(ANSWER + b"x" * (64 << 10), "at most", id="too long"),
    ],
)
def test_an_answer_that_is_none_is_refused_by_name(data: bytes, expected: str) -> None:
    with pytest.raises(FormatError, match=expected):
        parse_cosignatures(data)


def test_an_answer_of_no_line_is_not_written() -> None:
    for lines in ((), (NoteSignature("a b", bytes(4), b"s"),)):
        with pytest.raises(Misuse):
            encode_cosignatures(lines)


@pytest.mark.parametrize("size", [0, 1, 10, MAX_SIZE])
def test_a_size_is_read(size: int) -> None:
    assert parse_size(f"{size}\n".encode()) == size


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"1", b"01\n", b"+1\n", b"-1\n", b" 1\n", b"1 \n", b"1\n\n", b"1\r\n", b"1_0\n", b"\xd9\xa1\n", b"9" * 40,
        f"{MAX_SIZE + 1}\n".encode(),
    ],
)  # fmt: skip
def test_a_size_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="a decimal number and a newline"):
        parse_size(data)

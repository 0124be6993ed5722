"""Proofs as text: one spelling, and each refusal by its name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.tlog import MemoryLog
from writ.formats.errors import FormatError
from writ.formats.tlog.above import MAX_TEXT
from writ.formats.tlog.merkle import MAX_SIZE
from writ.formats.tlog.note import to_base64
from writ.formats.tlog.proof import HEADER, TlogProof, encode_tlog_proof, parse_tlog_proof

LOG = MemoryLog([b"%d" % number for number in range(9)])
PROOF = LOG.proof(5, witnesses=["w1"])
DATA = encode_tlog_proof(PROOF)
HASH = to_base64(bytes(32))


@given(st.integers(0, MAX_SIZE - 1), st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_a_proof_comes_back_as_it_was(index: int, hashes: list[bytes]) -> None:
    proof = TlogProof(index, tuple(hashes), PROOF.checkpoint)
    assert parse_tlog_proof(encode_tlog_proof(proof)) == proof


@given(st.text(st.sampled_from("index 0123456789=\nA"), max_size=60))
def test_a_proof_that_is_read_is_written_the_same(text: str) -> None:
    below = DATA.partition(b"\n\n")[2]
    for data in (f"{HEADER}\n{text}\n\n".encode() + below, f"{HEADER}\nindex 1\n{text}\n\n".encode() + below):
        try:
            proof = parse_tlog_proof(data)
        except FormatError:
            continue
        assert encode_tlog_proof(proof) == data


def test_reader_is_total() -> None:
    assert_parser_is_total(parse_tlog_proof, DATA, open_ended=True)


SHAPE = f"{HEADER}, an index and hashes"
HASHES = "at most 63 hashes of 32 bytes"


@pytest.mark.parametrize(
    "old, new, expected",
    [
        pytest.param(HEADER, "", SHAPE, id="no header"),
        pytest.param(HEADER + "\n", "", SHAPE, id="the line of the header missing"),
        pytest.param("@v1", "@v2", SHAPE, id="another version"),
        pytest.param("index 5\n", "", SHAPE, id="no index"),
        pytest.param("index 5\n", "index 5\nextra AAAA\n", "base64", id="an extra line behind the index"),
        pytest.param("index 5\n", "extra AAAA\nindex 5\n", SHAPE, id="an extra line"),
        *(
            pytest.param("index 5", f"index {index}", SHAPE, id=f"index {index!a}")
            for index in ("", "x", "-1", "+5", "05", "5 ", " 5", "5_0", "1" * 20)
        ),
        pytest.param("index 5", f"index {MAX_SIZE}", f"below {MAX_SIZE}", id="an index that no log has"),
        pytest.param("index 5", "index \u0665", "ASCII above the checkpoint", id="digits that are not ASCII"),
        pytest.param("index 5\n", f"index 5\n{HASH[:-1]}\n", "base64", id="a hash without padding"),
        pytest.param("index 5\n", f"index 5\n{HASH[:-2]}B=\n", "one spelling", id="a hash with bits to spare"),
        pytest.param("index 5\n", f"index 5\n{to_base64(bytes(31))}\n", HASHES, id="a short hash"),
        pytest.param("index 5\n", f"index 5\n{to_base64(bytes(33))}\n", HASHES, id="a long hash"),
        pytest.param("index 5\n", f"index 5\n{HASH}\r\n", "base64", id="a carriage return"),
        pytest.param("index 5\n", "index 5\n" + f"{HASH}\n" * 60, HASHES, id="64 hashes"),
        pytest.param("index 5\n", "index 5\n\n", "three lines", id="an empty line after the index"),
    ],
)  # fmt: skip
def test_a_proof_that_is_none_is_refused_by_name(old: str, new: str, expected: str) -> None:
    assert old.encode() in DATA
    with pytest.raises(FormatError, match=re.escape(expected)):
        parse_tlog_proof(DATA.replace(old.encode(), new.encode(), 1))


def test_a_proof_without_a_checkpoint_or_too_long_is_refused() -> None:
    with pytest.raises(FormatError, match=re.escape(SHAPE)):
        parse_tlog_proof(f"{HEADER}\nindex 0\n".encode())
    with pytest.raises(FormatError, match="begin with a dash"):
        parse_tlog_proof(DATA[: DATA.index("— ".encode())])
    with pytest.raises(FormatError, match=f"at most {MAX_TEXT} bytes"):
        parse_tlog_proof(DATA + b"x" * MAX_TEXT)


@pytest.mark.parametrize("index, hashes", [(-1, ()), (MAX_SIZE, ()), (0, (bytes(31),)), (0, (bytes(32),) * 64)])
def test_a_proof_that_would_not_be_read_cannot_be_made(index: int, hashes: tuple[bytes, ...]) -> None:
    with pytest.raises(FormatError):
        TlogProof(index, hashes, PROOF.checkpoint)


def test_the_proof_of_a_log_of_one_has_no_hash() -> None:
    proof = MemoryLog([b"only"]).proof(0)
    assert proof.hashes == ()
    assert encode_tlog_proof(proof).startswith(f"{HEADER}\nindex 0\n\n".encode())
    assert parse_tlog_proof(encode_tlog_proof(proof)) == proof

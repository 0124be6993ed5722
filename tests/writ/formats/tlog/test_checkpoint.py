"""Checkpoints: three lines in one spelling, and nothing said beside them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.tlog import ORIGIN, MemoryLog
from writ.formats.errors import FormatError
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, Checkpoint, parse_checkpoint, parse_signed_checkpoint
from writ.formats.tlog.merkle import EMPTY_ROOT, MAX_SIZE
from writ.formats.tlog.note import encode_note, to_base64

ROOT = bytes(range(32))
TEXT = f"{ORIGIN}\n12\n{to_base64(ROOT)}\n"
SIGNED = encode_note(MemoryLog([b"one", b"two"]).checkpoint(witnesses=["w1", "w2"]).note)

origins = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)


@given(origins, st.integers(1, MAX_SIZE), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_comes_back_as_it_was(origin: str, size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin, size, root)
    assert parse_checkpoint(str(checkpoint)) == checkpoint


@given(st.text(st.sampled_from("a01+=\n /"), max_size=80))
def test_what_is_read_is_written_the_same(text: str) -> None:
    for one in (text, f"a\n{text}\n{to_base64(ROOT)}\n", f"a\n1\n{text}\n"):
        try:
            checkpoint = parse_checkpoint(one)
        except FormatError:
            continue
        assert str(checkpoint) == one


def test_readers_are_total() -> None:
    assert_parser_is_total(parse_signed_checkpoint, SIGNED, flips=3000, open_ended=True)  # any number of signatures may stand below
    assert_parser_is_total(lambda data: parse_checkpoint(data.decode("latin-1")), TEXT.encode())


def test_a_signed_checkpoint_is_the_text_of_its_note() -> None:
    signed = parse_signed_checkpoint(SIGNED)
    assert str(signed.checkpoint) == signed.note.text
    assert len(signed.note.signatures) == 3
    assert encode_note(signed.note) == SIGNED


def test_the_empty_log_has_the_empty_root_and_no_other() -> None:
    assert parse_checkpoint(str(Checkpoint("a", 0, EMPTY_ROOT))).size == 0
    with pytest.raises(FormatError, match=r"checkpoint\.root of no entries"):
        Checkpoint("a", 0, ROOT)


NUMBER = "a decimal number without zeros before it"


@pytest.mark.parametrize(
    "text, expected",
    [
        *(
            pytest.param(TEXT.replace("12", size), NUMBER, id=f"size {size!a}")
            for size in ("012", "00", "+12", "-12", "1_2", " 12", "12 ", "", "1e3", "0x12", "12.0", "\u0661\u0662", "1" * 20)
        ),
        pytest.param(TEXT.replace("12", str(1 << 63)), f"0 to {MAX_SIZE}", id="size beyond the largest"),
        pytest.param(TEXT + "extension\n", "three lines", id="an extension line"),
        pytest.param(TEXT + "\n", "three lines", id="an empty line behind"),
        pytest.param(TEXT + "x", "three lines", id="something behind the last newline"),
        pytest.param(TEXT[:-1], "three lines", id="no newline at the end"),
        pytest.param(f"{ORIGIN}\n12\n", "three lines", id="no root"),
        pytest.param("", "three lines", id="nothing"),
        pytest.param(TEXT.replace(ORIGIN, ""), "one line of 1 to 255 printable characters", id="no origin"),
        pytest.param(TEXT.replace(ORIGIN, "o" * 256), "one line of 1 to 255 printable characters", id="a long origin"),
        pytest.param(TEXT.replace(to_base64(ROOT), to_base64(ROOT[:31])), "32 bytes", id="a short root"),
        pytest.param(TEXT.replace(to_base64(ROOT), to_base64(ROOT + b"x")), "32 bytes", id="a long root"),
        pytest.param(TEXT.replace(to_base64(ROOT), ""), "32 bytes", id="an empty root"),
        pytest.param(TEXT.replace(to_base64(ROOT), to_base64(ROOT)[:-1]), "base64", id="a root without padding"),
        pytest.param(TEXT.replace("8=\n", "9=\n"), "one spelling", id="a root with bits to spare"),
        pytest.param(TEXT.replace(to_base64(ROOT), ROOT.hex()), "32 bytes", id="a root in hex"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_none_is_refused_by_name(text: str, expected: str) -> None:
    with pytest.raises(FormatError, match=re.escape(expected)):
        parse_checkpoint(text)


def test_an_origin_is_one_line() -> None:
    for origin in ("a\nb", "a\n", "a\rb", "a\0", "\x7f"):
        with pytest.raises(FormatError, match="one line"):
            Checkpoint(origin, 1, ROOT)


def test_a_signed_checkpoint_is_bounded_and_is_a_note() -> None:
    with pytest.raises(FormatError, match=f"at most {MAX_CHECKPOINT} bytes"):
        parse_signed_checkpoint(SIGNED + b"x" * MAX_CHECKPOINT)
    with pytest.raises(FormatError, match="an empty line and 1 to"):
        parse_signed_checkpoint(TEXT.encode())

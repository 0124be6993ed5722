"""Signed notes: one spelling, each refusal by its name, and nobody's line taken for another's."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.signers import new_signer
from tests.world.scene import signer
from tests.world.tlog import plain_key, witness_key
from writ.formats.errors import FormatError, Misuse
from writ.formats.keys import ES256
from writ.formats.tlog.note import (
    COSIGNATURE,
    KINDS,
    MAX_NOTE,
    PLAIN,
    Note,
    NoteKey,
    NoteSignature,
    encode_note,
    from_base64,
    is_signed,
    parse_note,
    parse_vkey,
    sign_note,
    to_base64,
)

KEY = plain_key("example.org/log")
SIGN = signer("log/example.org/log").sign
NOTE = sign_note("a\nb\n", KEY, SIGN)
DATA = encode_note(NOTE)
LINE = DATA.partition(b"\n\n")[2].decode()
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"

names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"), exclude_characters="+"), min_size=1, max_size=40)
lines = st.builds(NoteSignature, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=90))
texts = st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=30), min_size=1, max_size=6).map(
    lambda some: "".join(f"{one}\n" for one in some)
)


@given(texts.filter(lambda text: text != "\n"), st.lists(lines, min_size=1, max_size=5, unique_by=lambda one: (one.name, one.key_id)))
def test_a_note_comes_back_as_it_was_with_empty_lines_in_its_text_too(text: str, signatures: list[NoteSignature]) -> None:
    note = Note(text, tuple(signatures))
    assert parse_note(encode_note(note)) == note


@given(names, st.sampled_from(KINDS))
def test_a_key_comes_back_as_it_was(name: str, kind: int) -> None:
    key = NoteKey(name, kind, KEY.key)
    assert parse_vkey(str(key)) == key
    assert key.id == sha256(name.encode() + b"\n" + bytes([kind]) + KEY.key.raw).digest()[:4]


def _reads(data: bytes) -> bool:
    try:
        parse_note(data)
    except FormatError:
        return False
    return True


def test_readers_are_total() -> None:
    assert_parser_is_total(parse_note, DATA, open_ended=True)  # of two notes the first is the beginning of a text
    assert not any(_reads(DATA[:size]) for size in range(len(DATA)))
    assert_parser_is_total(lambda data: parse_vkey(data.decode("latin-1")), str(KEY).encode())


@given(st.binary(max_size=200))
def test_what_is_read_is_written_the_same(rest: bytes) -> None:
    for data in (rest, b"a\n\n" + rest, DATA + rest, DATA[:-20] + rest + b"\n"):
        try:
            note = parse_note(data)
        except FormatError:
            continue
        assert encode_note(note) == data


# --- notes that are none -------------------------------------------------------------------------------------------------

TEXT = "lines of printable text, each ended"
SHAPE = "a text, an empty line and 1 to 100 signatures"


@pytest.mark.parametrize(
    "data, expected",
    [
        pytest.param(DATA[:-1], TEXT, id="the last newline missing"),
        pytest.param(DATA + b"x", TEXT, id="bytes after the last newline"),
        pytest.param(DATA + b"x\n", "signature lines that begin with a dash", id="a line after the last"),
        pytest.param(DATA + b"\n", "begin with a dash", id="an empty line after the last"),
        pytest.param(DATA.replace(b"a\n", b"a\r\n"), TEXT, id="a carriage return in the text"),
        pytest.param(DATA[:-1] + b"\r\n", TEXT, id="a carriage return behind a signature"),
        pytest.param(DATA.replace(b"a\n", b"a\t\n"), TEXT, id="a tab"),
        pytest.param(DATA.replace(b"a\n", b"a\0\n"), TEXT, id="a NUL"),
        pytest.param(DATA.replace(b"a\n", b"a\x7f\n"), TEXT, id="a DEL"),
        pytest.param(DATA.replace(b"a\n", b"a\xff\n"), "UTF-8", id="bytes that are no UTF-8"),
        pytest.param(DATA.replace(b"a\n", b"\xed\xa0\x80\n"), "UTF-8", id="half of a surrogate pair"),
        pytest.param(DATA + LINE.encode(), "one signature of a key", id="a signature line twice"),
        pytest.param(DATA + f"— {KEY.name} {to_base64(KEY.id + b's')}\n".encode(), "one signature of a key", id="a second line of the key"),
        pytest.param(DATA.replace(b"\n\n", b"\n"), SHAPE, id="no empty line"),
        pytest.param(b"\n" + LINE.encode(), SHAPE, id="no text"),
        pytest.param(b"\n\n" + LINE.encode(), SHAPE, id="an empty text"),
        pytest.param(b"a\n\n", "begin with a dash", id="no signature"),
        pytest.param(b"", TEXT, id="nothing"),
        pytest.param(b"a\n\n" + "".join(LINE.replace("example", f"e{n}") for n in range(101)).encode(), SHAPE, id="101 signatures"),
        pytest.param(b"a\n\n" + LINE.replace("— ", "- ").encode(), "begin with a dash", id="another dash"),
        pytest.param(b"a\n\n" + LINE.replace("— ", "—").encode(), "begin with a dash", id="a dash without a space"),
        pytest.param(b"a\n\n" + LINE.replace("— ", "—  ").encode(), "base64", id="two spaces"),
        pytest.param(b"a\n\n" + LINE.replace("\n", " \n").encode(), "base64", id="a space at the end"),
        pytest.param(b"a\n\n" + LINE.replace("/log ", "+log ").encode(), "no space and no plus", id="a plus in the name"),
        pytest.param(b"a\n\n" + LINE.replace("/log", "\u00a0log").encode(), "no space and no plus", id="a wide space in the name"),
        pytest.param(b"a\n\n" + LINE.replace("example.org/log", "e" * 256).encode(), "1 to 255 characters", id="a long name"),
        pytest.param("a\n\n— x AAAAAA==\n".encode(), "a key id of 4 bytes and a signature", id="a key id without a signature"),
        pytest.param("a\n\n— x \n".encode(), "a key id of 4 bytes and a signature", id="nothing behind the name"),
        pytest.param("a\n\n— x AAAAAAA\n".encode(), "base64", id="base64 without padding"),
        pytest.param("a\n\n— x AAAAAAB=\n".encode(), "one spelling", id="base64 with bits to spare"),
        pytest.param("a\n\n— x AAAAAA-_\n".encode(), "base64", id="base64 of another alphabet"),
        pytest.param("a\n\n— x AAAAAA\u0660\u0660\n".encode(), "base64", id="base64 that is not ASCII"),
        pytest.param(b"a" * MAX_NOTE + DATA, f"at most {MAX_NOTE} bytes", id="too long"),
    ],
)  # fmt: skip
def test_a_note_that_is_none_is_refused_by_name(data: bytes, expected: str) -> None:
    with pytest.raises(FormatError, match=re.escape(expected)):
        parse_note(data)


def test_the_last_empty_line_parts_text_and_signatures() -> None:
    note = sign_note("a\n\n— example.org/log AAAAAAAA\n", KEY, SIGN)
    assert parse_note(encode_note(note)) == note
    assert is_signed(parse_note(encode_note(note)), KEY)
    assert parse_note(b"a\n\n\n" + LINE.encode()).text == "a\n\n"


def test_a_hundred_signatures_are_read() -> None:
    signed = b"a\n\n" + "".join(LINE.replace("example", f"e{n}") for n in range(100)).encode()
    assert len(parse_note(signed).signatures) == 100


@pytest.mark.parametrize(
    "note",
    [
        Note("a", NOTE.signatures), Note("", NOTE.signatures), Note("a\r\n", NOTE.signatures), Note("\ud800\n", NOTE.signatures),
        Note("a\n", ()), Note("a\n", NOTE.signatures * 2), Note("a\n", (NoteSignature("a b", bytes(4), b"s"),)),
        Note("a\n", (NoteSignature("a", bytes(3), b"ss"),)), Note("a\n", (NoteSignature("a", bytes(4), b""),)),
        Note("x" * MAX_NOTE + "\n", NOTE.signatures),
    ],
)  # fmt: skip
def test_a_note_that_would_not_be_read_is_not_written(note: Note) -> None:
    with pytest.raises(Misuse):
        encode_note(note)


# --- keys ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param(VKEY.replace("c74f20a3", "c74f20a4"), "id c74f20a3", id="another id"),
        pytest.param(VKEY.replace("c74f20a3", "C74F20A3"), "id c74f20a3", id="an id in capitals"),
        pytest.param(VKEY.replace("c74f20a3", "0c74f20a3"), "id c74f20a3", id="an id with a zero"),
        pytest.param(VKEY.replace("Peter", "Piet"), "id ", id="another name"),
        pytest.param(f"x+00000000+{to_base64(bytes([PLAIN]) + bytes(33))}", "a type and 32 bytes", id="too long"),
        pytest.param("PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "type 1 (Ed25519)", id="an unknown type"),
        pytest.param("+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "1 to 255 characters", id="no name"),
        pytest.param("Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "no space", id="a space in the name"),
        pytest.param("PeterNeumann+c74f20a3", "a type and 32 bytes", id="no key"),
        pytest.param("PeterNeumann+c74f20a3+", "a type and 32 bytes", id="an empty key"),
        pytest.param(VKEY + "\n", "base64", id="a newline behind it"),
        pytest.param(VKEY[:-1] + "=", "base64", id="base64 cut short"),
        pytest.param("x+00000000+" + to_base64(bytes([PLAIN]) + bytes(32)), "a point of large order", id="a key of small order"),
    ],
)
def test_a_key_that_is_none_is_refused_by_name(text: str, expected: str) -> None:
    with pytest.raises(FormatError, match=re.escape(expected)):
        parse_vkey(text)


def test_a_key_of_another_curve_signs_no_notes() -> None:
    with pytest.raises(FormatError, match="an Ed25519 key"):
        NoteKey("a", PLAIN, new_signer(ES256).public)


def test_a_plus_within_the_key_is_not_taken_for_a_part() -> None:
    for seed in range(200):
        key = NoteKey("a", PLAIN, signer(f"plus/{seed}").public)
        if "+" in to_base64(bytes([PLAIN]) + key.key.raw):
            assert parse_vkey(str(key)) == key
            return
    pytest.fail("expected a key with a plus among 200")


# --- who signed ------------------------------------------------------------------------------------------------------------


def test_a_note_is_signed_by_its_key_alone() -> None:
    assert is_signed(NOTE, KEY)
    assert not is_signed(NOTE, plain_key("example.org/other"))
    assert not is_signed(Note(NOTE.text, (NoteSignature("example.org/other", KEY.id, NOTE.signatures[0].signature),)), KEY)
    assert NOTE.by(KEY) == NOTE.signatures[0]
    assert NOTE.by(plain_key("other")) is None


def test_another_text_or_signature_is_not_signed() -> None:
    (line,) = NOTE.signatures
    assert not is_signed(Note("a\nc\n", NOTE.signatures), KEY)
    for at in range(64):
        spoilt = line.signature[:at] + bytes([line.signature[at] ^ 1]) + line.signature[at + 1 :]
        assert not is_signed(Note(NOTE.text, (NoteSignature(line.name, line.key_id, spoilt),)), KEY), at
    for size in (0, 63, 65):
        assert not is_signed(Note(NOTE.text, (NoteSignature(line.name, line.key_id, (line.signature + b"\0")[:size]),)), KEY)


def test_a_line_of_an_unknown_key_says_nothing() -> None:
    other = NoteSignature("elsewhere", bytes(4), b"?")
    assert is_signed(Note(NOTE.text, (other, *NOTE.signatures)), KEY)
    assert not is_signed(Note(NOTE.text, (other,)), KEY)


def test_a_key_of_cosignatures_signs_no_text_even_where_its_signature_is_over_it() -> None:
    witness = witness_key("w")
    note = Note("a\n", (NoteSignature("w", witness.id, signer("witness/w").sign(b"a\n")),))
    assert not is_signed(note, witness)
    assert is_signed(
        Note("a\n", (NoteSignature("w", (plain := NoteKey("w", PLAIN, witness.key)).id, note.signatures[0].signature),)), plain
    )
    assert witness.id != plain.id
    assert witness.kind == COSIGNATURE
    with pytest.raises(Misuse, match="plain"):
        sign_note("a\n", witness, SIGN)


@given(st.binary(max_size=40))
def test_base64_has_one_spelling(data: bytes) -> None:
    assert from_base64(to_base64(data), "x") == data

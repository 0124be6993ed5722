"""DER: one spelling of lengths, tags and object identifiers, and times that exist."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.der import DerReader, text_of
from writ.formats.errors import FormatError


def read(text: str) -> DerReader:
    return DerReader(bytes.fromhex(text), "specimen")


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 2**40), max_size=6))
def test_object_identifier_reads_as_the_library_reads_it(first: int, second: int, rest: list[int]) -> None:
    dotted = ".".join(map(str, (first, second, *rest)))
    name = x509.Name([x509.NameAttribute(x509.ObjectIdentifier(dotted), "x")]) if rest else None
    if name is None:
        return
    der = DerReader(name.public_bytes(), "name").sequence("name").sequence("rdn", 0x31).sequence("attribute")
    assert der.oid("type") == dotted


@pytest.mark.parametrize("text", ["06028001", "060180", "0600", "0603550480"])
def test_object_identifier_of_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        read(text).oid("oid")


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("170d3730303130313030303030305a", 0),
        ("170d3439313233313233353935395a", 2524607999),
        ("170d3530303130313030303030305a", -631152000),
        ("180f39393939313233313233353935395a", 253402300799),
    ],
)
def test_time_is_read_in_its_century(text: str, seconds: int) -> None:
    assert read(text).time("time") == seconds


@given(st.datetimes(timezones=st.just(UTC)))
def test_time_is_read_as_the_calendar_has_it(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    text = f"{moment.year:04d}{moment:%m%d%H%M%S}Z".encode()
    assert read(f"180f{text.hex()}").time("time") == (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


@pytest.mark.parametrize("time_of_day", ["240000", "236000", "235960"])
def test_time_of_day_that_is_none_is_refused(time_of_day: str) -> None:
    with pytest.raises(FormatError, match="a time that exists"):
        read(f"170d{f'700101{time_of_day}Z'.encode().hex()}").time("time")


@pytest.mark.parametrize(
    "text",
    [
        "170d3730303133313030303030305b",
        "170d3730303233313030303030305a",
        "170b373030313031303030305a",
        "180f39393939313333313233353935395a",
        "0c0d3730303130313030303030305a",
    ],
)
def test_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        read(text).time("time")


@pytest.mark.parametrize("text", ["1f0100", "308000", "30810100", "3001", "02", "", "308500000000"])
def test_element_of_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        read(text).next("element")


def test_flags_booleans_and_bits() -> None:
    assert read("03020106").flags("usage") == {5, 6}
    assert read("0303070080").flags("usage") == {8}
    assert read("0101ff").boolean("flag")
    assert not read("010100").boolean("flag")
    assert read("0303000102").bits("bits") == b"\1\2"
    for text, method in (("010101", "boolean"), ("0302010f", "bits"), ("0301", "flags"), ("0300", "flags"), ("0302080f", "flags")):
        with pytest.raises(FormatError):
            getattr(read(text), method)("field")


def test_what_is_left_over_is_refused() -> None:
    reader = read("05000500")
    reader.next("null")
    with pytest.raises(FormatError, match="nothing more, got 2 bytes"):
        reader.done()
    with pytest.raises(FormatError, match="tag 02, got tag 05"):
        reader.integer("number")


def test_text_is_what_its_type_says() -> None:
    assert text_of(read("1e0400410042").next("text")) == "AB"
    assert text_of(read("1401e9").next("text")) == "é"
    assert text_of(read("0401e9").next("text")) is None
    with pytest.raises(FormatError):
        text_of(read("0c01e9").next("text"))

"""CMW collections and records."""

from __future__ import annotations

from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.cmw import (
    EVIDENCE,
    Collection,
    Record,
    encode_collection,
    encode_json_record,
    encode_record,
    parse_collection,
    parse_json_record,
    parse_record,
)
from writ.formats.errors import FormatError
from writ.formats.strict import encode_cbor, encode_json

_TYPES = st.sampled_from(["application/eat+cwt", "text/plain"]) | st.integers(0, 65535)
_RECORDS = st.builds(Record, _TYPES, st.binary(max_size=40), st.none() | st.integers(1, 31))
_MEMBERS = st.dictionaries(st.text("abcdef-", min_size=1, max_size=8), _RECORDS, min_size=1, max_size=8)


@given(_MEMBERS, st.none() | st.just("tag:example.com,2026:evidence"))
def test_collection_comes_back_as_it_was(members: dict[str, Record], kind: str | None) -> None:
    data = encode_collection({label: (r.type, r.value, r.indicator) for label, r in members.items()}, collection_type=kind)
    for foreign in (False, True):
        found = parse_collection(data, foreign=foreign)
        assert found.type == kind
        assert dict(found.members) == members


@given(_RECORDS)
def test_record_comes_back_as_it_was(record: Record) -> None:
    assert parse_record(encode_record(record)) == record
    assert parse_json_record(encode_json_record(record)) == record


def test_cmw_readers_are_total() -> None:
    collection = encode_collection({"quote": ("application/x", b"abc", EVIDENCE), "log": (60, b"", None)}, collection_type="tag:x")
    assert_parser_is_total(parse_collection, collection)
    assert_parser_is_total(lambda data: parse_collection(data, foreign=True), collection)
    assert_parser_is_total(parse_record, encode_record(Record("application/x", b"abc", EVIDENCE)))
    assert_parser_is_total(parse_json_record, encode_json_record(Record("application/x", b"abc", EVIDENCE)))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({}, id="no member"),
        pytest.param({"__cmwc_t": "tag:x"}, id="a type and no member"),
        pytest.param({"__cmwc_t": 7, "a": [60, b""]}, id="a type that is no text"),
        pytest.param({"__cmwc_t": "", "a": [60, b""]}, id="an empty type"),
        pytest.param({str(i): [60, b""] for i in range(65)}, id="too many members"),
        pytest.param([], id="an array"),
        pytest.param({1: [60, b""]}, id="a label that is a number"),
        pytest.param({"": [60, b""]}, id="an empty label"),
        pytest.param({"x" * 129: [60, b""]}, id="too long a label"),
        pytest.param({"a": {"b": [60, b""]}}, id="a collection within"),
        pytest.param({"a": cbor2.CBORTag(1668546817, b"")}, id="a tagged record"),
        pytest.param({"a": [60]}, id="no value"),
        pytest.param({"a": [60, b"", 4, 4]}, id="four items"),
        pytest.param({"a": [60, "text"]}, id="a value of text"),
        pytest.param({"a": [b"", b""]}, id="a type of bytes"),
        pytest.param({"a": [True, b""]}, id="a type that is true"),
        pytest.param({"a": [65536, b""]}, id="too large a content format"),
        pytest.param({"a": [-1, b""]}, id="a negative content format"),
        pytest.param({"a": ["plain", b""]}, id="no media type"),
        pytest.param({"a": ["text/pl\u00e9", b""]}, id="a media type that is not ASCII"),
        pytest.param({"a": ["text/a\n", b""]}, id="a media type with a newline"),
        pytest.param({"a": [60, b"", 0]}, id="an indicator of nothing"),
        pytest.param({"a": [60, b"", 32]}, id="an indicator of an unknown bit"),
        pytest.param({"a": [60, b"", True]}, id="an indicator that is true"),
        pytest.param({"a": [60, b"", None]}, id="an indicator that is null"),
    ],
)
def test_collection_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        parse_collection(encode_cbor(value))


def test_a_collection_that_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(FormatError):
        encode_collection({}, collection_type=None)
    with pytest.raises(FormatError):
        encode_collection({"a": ("no media type", b"", None)}, collection_type=None)


def test_foreign_collections_may_stand_within_but_not_for_ever() -> None:
    value: object = [60, b"deep"]
    for _ in range(4):
        value = {7: value}
    assert isinstance(parse_collection(encode_cbor(value), foreign=True).get(7), Collection)
    with pytest.raises(FormatError, match="4 deep"):
        parse_collection(encode_cbor({7: value}), foreign=True)


@pytest.mark.parametrize("tag, content_format", [(1668546817, 0), (1668612070, 64999), (1668576935, 30001), (1668612095, 65024)])
def test_foreign_record_is_read_by_the_tag_of_its_content_format(tag: int, content_format: int) -> None:
    data = encode_cbor(cbor2.CBORTag(tag, b"value"))
    assert parse_record(data, foreign=True) == Record(content_format, b"value")
    with pytest.raises(FormatError):
        parse_record(data)


@pytest.mark.parametrize("tag", [1668546816, 1668546817 + 255, 1668612096])
def test_tag_of_no_content_format_is_refused(tag: int) -> None:
    with pytest.raises(FormatError):
        parse_record(encode_cbor(cbor2.CBORTag(tag, b"value")), foreign=True)


@pytest.mark.parametrize(
    "value", [["text/plain"], {}, ["text/plain", 1], ["text/plain", "AA=="], ["plain", "AA"], ["text/plain", "AA", "4"]]
)
def test_json_record_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        parse_json_record(encode_json(value))


def test_members_are_found_by_label() -> None:
    found = parse_collection(encode_cbor({1: [60, b"one"], "in": {2: [60, b"two"]}}), foreign=True)
    assert found.record(1) == Record(60, b"one")
    assert found.record("in") is None
    assert found.get("absent") is None


@pytest.mark.parametrize("file, members", [("collection-cbor-ok", 2), ("collection-cbor-ok-2", 1), ("collection-cbor-mixed-keys", 2)])
def test_published_collection_is_read(vectors: Path, file: str, members: int) -> None:
    data = (vectors / "audit" / "veraison_cmw" / "testdata" / f"{file}.cbor").read_bytes()
    assert len(parse_collection(data, foreign=True).members) >= members


def test_published_json_records_are_read(vectors: Path) -> None:
    folder = vectors / "audit" / "cmw_draft23" / "cddl"
    for file in ("cmw-example-1.json", "cmw-example-2.json"):
        assert parse_json_record((folder / file).read_bytes()).value == bytes.fromhex("2347da55")


def test_specification_examples_are_read() -> None:
    """RFC 9999 appendix: a record with its indicator, and a collection of three."""
    assert parse_record(encode_cbor(["application/rim+cose", bytes.fromhex("d28440a044d901f5a040"), 3]), foreign=True).indicator == 3
    three = {
        "__cmwc_t": "tag:example.com,2024:composite-attester",
        0: [64999, bytes.fromhex("2347da55"), 4],
        1: cbor2.CBORTag(1668612070, bytes.fromhex("2347da55")),
        2: ["application/eat+jwt", bytes.fromhex("4c693475"), 8],
    }
    found = parse_collection(encode_cbor(three), foreign=True)
    assert found.type == "tag:example.com,2024:composite-attester"
    assert [label for label, _ in found.members] == [0, 1, 2]

"""Members of an object keep their bytes, whatever stands around them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.errors import FormatError
from writ.formats.json_members import json_members

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=6), _VALUES, max_size=4), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_each_value_is_its_bytes(value: dict[str, object], indent: int | str | None, ascii_only: bool) -> None:
    document = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = json_members(b" \r\n" + document + b"\n", "specimen")
    assert {key: json.loads(inner) for key, inner in found.items()} == value
    assert all(inner in document for inner in found.values())


def test_space_around_a_value_is_not_of_it_and_within_it_is() -> None:
    assert json_members(b'{ "a" : { "b" : 1 } , "c":" } " }', "specimen") == {"a": b'{ "b" : 1 }', "c": b'" } "'}
    assert json_members(b"{ }", "specimen") == {}


@pytest.mark.parametrize("data", [b"[]", b"1", b"null", b'{"a":1,"a":2}', b'{"a":1}x', b'{"a":1.5}', b"", b"{" * 40])
def test_what_is_no_such_object_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        json_members(data, "specimen")


def test_reader_is_total() -> None:
    assert_parser_is_total(lambda data: json_members(data, "specimen"), b'{"tcbInfo":{"id":"TDX","n":[1,2]},"signature":"00"}')

"""Strict CBOR, JSON, base64url and the reading of maps."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.errors import FormatError, Misuse
from writ.formats.strict import (
    MAX_DEPTH,
    Fields,
    b64url,
    decode_cbor,
    decode_json,
    encode_cbor,
    encode_json,
    name,
    parse_b64url,
)

_LEAVES = st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.text(max_size=20) | st.binary(max_size=20)
_CBOR = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(-300, 300), inner, max_size=4),
    max_leaves=12,
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_SPECIMEN = {"v": 1, 10: b"bytes", "list": [1, -1, None, True, {"a": "text"}], -1: 1 << 63}


# --- CBOR ------------------------------------------------------------------------------------------------------------


@given(_CBOR)
def test_cbor_comes_back_as_it_was_and_has_one_spelling(value: object) -> None:
    data = encode_cbor(value)
    assert decode_cbor(data, "value") == value
    assert encode_cbor(decode_cbor(data, "value", one_spelling=False)) == data


def test_cbor_reader_is_total() -> None:
    assert_parser_is_total(lambda data: decode_cbor(data, "specimen"), encode_cbor(_SPECIMEN))
    assert_parser_is_total(lambda data: decode_cbor(data, "specimen", one_spelling=False), encode_cbor(_SPECIMEN))


_KEYS = st.integers(-(1 << 64), (1 << 64) - 1) | st.integers(-300, 300) | st.text(max_size=3) | st.integers(0, 300).map(lambda n: "a" * n)


@given(st.lists(_KEYS, unique_by=lambda key: (type(key), key), max_size=8))
def test_map_keys_are_in_the_order_of_their_encodings(keys: list[int | str]) -> None:
    spelt = list(decode_cbor(encode_cbor(dict.fromkeys(keys)), "specimen"))
    assert spelt == sorted(keys, key=cbor2.dumps)


def test_map_keys_are_in_bytewise_order_not_length_first() -> None:
    assert encode_cbor({100: 0, -1: 0}).hex() == "a2" + "186400" + "2000"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("1801", id="an integer in a longer head than needed"),
        pytest.param("a2016102016103", id="a key twice"),
        pytest.param("a202000100", id="keys out of order"),
        pytest.param("9f01ff", id="an indefinite array"),
        pytest.param("5f4101ff", id="indefinite bytes"),
        pytest.param("f93c00", id="a float"),
        pytest.param("fb3ff0000000000000", id="a long float"),
        pytest.param("f7", id="undefined"),
        pytest.param("f0", id="a simple value"),
        pytest.param("0101", id="trailing bytes"),
        pytest.param("", id="nothing"),
        pytest.param("c11a00000000", id="a time"),
        pytest.param("d82361612b", id="a regular expression"),
        pytest.param("d81c81d81d00", id="a cycle"),
        pytest.param("c249010000000000000000", id="a big number"),
        pytest.param("d9d9f701", id="self-described CBOR"),
        pytest.param("d9010281 01".replace(" ", ""), id="a set"),
        pytest.param("a14101 00".replace(" ", ""), id="a key of bytes"),
        pytest.param("a1f500", id="a key that is true"),
        pytest.param("a1f600", id="a key that is null"),
        pytest.param("a1810000", id="a key that is an array"),
        pytest.param("62ff00", id="text that is not UTF-8"),
        pytest.param("5bffffffffffffffff", id="bytes longer than memory"),
        pytest.param("9bffffffffffffffff", id="an array longer than memory"),
        pytest.param("ff", id="a lone break"),
    ],
)
def test_cbor_of_another_spelling_is_refused(data: str) -> None:
    with pytest.raises(FormatError):
        decode_cbor(bytes.fromhex(data), "specimen")


@pytest.mark.parametrize("data", ["f93c00", "a2016102016103", "0101", "9f01", "c11a00000000", "9f01ffff", "a1f500", "5f01ff", "ff"])
def test_foreign_cbor_is_bounded_all_the_same(data: str) -> None:
    with pytest.raises(FormatError):
        decode_cbor(bytes.fromhex(data), "specimen", one_spelling=False)


@pytest.mark.parametrize(
    "data, value",
    [
        ("1801", 1),
        ("a202000100", {1: 0, 2: 0}),
        ("9f01ff", [1]),
        ("bf0102ff", {1: 2}),
        ("5f41014102ff", b"\x01\x02"),
        ("9f9fff81bf01a0ffff", [[], [{1: {}}]]),
    ],
)
def test_foreign_cbor_keeps_its_own_lengths_and_orders(data: str, value: object) -> None:
    assert decode_cbor(bytes.fromhex(data), "specimen", one_spelling=False) == value


def _foreign(value: object, draw: st.DrawFn) -> bytes:
    """`value` in some well-formed spelling: longer heads, indefinite lengths, any order."""

    def head(major: int, argument: int) -> bytes:
        sizes = [n for n in (0, 1, 2, 4, 8) if argument < (24 if n == 0 else 1 << 8 * n)]
        size = draw(st.sampled_from(sizes))
        return bytes([major << 5 | ({0: argument, 1: 24, 2: 25, 4: 26, 8: 27}[size])]) + (argument.to_bytes(size, "big") if size else b"")

    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    indefinite = draw(st.booleans())
    if isinstance(value, str | bytes):
        major, data = (3, value.encode()) if isinstance(value, str) else (2, value)
        if not indefinite:
            return head(major, len(data)) + data
        parts = [value[at : at + 3] for at in range(0, len(value), 3)]
        chunks = [part.encode() if isinstance(part, str) else part for part in parts]
        return bytes([major << 5 | 31]) + b"".join(head(major, len(chunk)) + chunk for chunk in chunks) + b"\xff"
    if isinstance(value, list):
        items = b"".join(_foreign(item, draw) for item in value)
        return b"\x9f" + items + b"\xff" if indefinite else head(4, len(value)) + items
    assert isinstance(value, dict)
    pairs = draw(st.permutations(sorted(value.items(), key=repr)))
    items = b"".join(_foreign(key, draw) + _foreign(item, draw) for key, item in pairs)
    return b"\xbf" + items + b"\xff" if indefinite else head(5, len(value)) + items


@given(_CBOR, st.data())
def test_every_foreign_spelling_is_read_and_none_with_a_byte_more(value: object, data: st.DataObject) -> None:
    spelt = data.draw(st.composite(lambda draw: _foreign(value, draw))())
    assert decode_cbor(spelt, "foreign", one_spelling=False) == value
    with pytest.raises(FormatError, match="no trailing bytes"):
        decode_cbor(spelt + data.draw(st.binary(min_size=1, max_size=9)), "foreign", one_spelling=False)


@pytest.mark.parametrize("tag", [0, 1, 2, 18, 25, 28, 32, 35, 37, 100, 111, 256, 258, 501, 1004, 55799])
def test_a_named_tag_comes_out_as_a_tag_and_its_content_as_lists_and_dicts(tag: int) -> None:
    content: Any = [b"bytes", {1: [2]}]
    data = encode_cbor({0: cbor2.CBORTag(tag, content)})
    tagged = decode_cbor(data, "specimen", tags=frozenset({tag}))[0]
    assert (type(tagged), tagged.tag, tagged.value) == (cbor2.CBORTag, tag, content)
    assert type(tagged.value) is list
    assert type(tagged.value[1]) is dict
    with pytest.raises(FormatError):
        decode_cbor(data, "specimen", tags=frozenset({tag + 1}))


def test_depth_is_bounded_in_both_directions() -> None:
    deep: Any = 0
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert decode_cbor(encode_cbor(deep), "deep") == deep
    assert decode_cbor(encode_cbor(deep), "deep", one_spelling=False) == deep
    with pytest.raises(Misuse):
        encode_cbor([deep])
    for one_spelling in (True, False):
        with pytest.raises(FormatError):
            decode_cbor(b"\x81" * (MAX_DEPTH + 1) + b"\x00", "deep", one_spelling=one_spelling)
        with pytest.raises(FormatError):
            decode_cbor(b"\x81" * 100_000 + b"\x00", "deep", one_spelling=one_spelling)
        with pytest.raises(FormatError):
            decode_cbor(b"\xc6" * 1000 + b"\x00", "deep", tags=frozenset({6}), one_spelling=one_spelling)


def test_size_is_bounded() -> None:
    with pytest.raises(FormatError, match="at most 3 bytes"):
        decode_cbor(b"\x00" * 4, "specimen", max_size=3)


@pytest.mark.parametrize(
    "value", [1.5, {1, 2}, {1: {b"k": 1}}, {True: 1}, {1 << 64: 1}, {-(1 << 64) - 1: 1}, 1 << 64, -(1 << 64) - 1, object()]
)
def test_what_has_no_spelling_is_misuse(value: object) -> None:
    with pytest.raises(Misuse):
        encode_cbor(value)


# --- JSON ------------------------------------------------------------------------------------------------------------


@given(_JSON)
def test_json_comes_back_as_it_was(value: object) -> None:
    assert decode_json(encode_json(value), "value", one_spelling=True) == value


def test_json_reader_is_total() -> None:
    specimen = encode_json({"v": 1, "text": 'a"\\[é', "list": [1, -1, None, True, {"a": []}]})
    assert_parser_is_total(lambda data: decode_json(data, "specimen"), specimen)
    assert_parser_is_total(lambda data: decode_json(data, "specimen", one_spelling=True), specimen)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        "1.0",
        "1e3",
        "NaN",
        "Infinity",
        "-Infinity",
        "1 2",
        "",
        "{",
        "[" * 17 + "]" * 17,
        "[" * 100_000,
        "1" * 21,
        str(1 << 64),
        str(-(1 << 63) - 1),
        "\ufeff1",
        "'a'",
        "[1,]",
        "01",
    ],
)
def test_json_outside_of_the_strict_subset_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        decode_json(text.encode(), "specimen")


@pytest.mark.parametrize("text", ['{"b":1,"a":1}', '{"a": 1}', ' {"a":1}', '"\\u0041"', '"\\ud800"', '"\\/"'])
def test_json_of_ours_has_one_spelling(text: str) -> None:
    decode_json(text.encode(), "specimen")
    with pytest.raises(FormatError):
        decode_json(text.encode(), "specimen", one_spelling=True)


def test_json_brackets_within_text_are_no_depth() -> None:
    assert decode_json(b'"[[[[[[[[[[[[[[[[[[[[[[\\"[["', "specimen") == "[" * 22 + '"[['


@pytest.mark.parametrize("text", ["[" * 17 + "]" * 17, '["\\"' + "[" * 40, '[["\\\\",' + "[" * 20, '"' + "[" * 40 + "\\"])
def test_json_too_deep_or_with_a_string_that_never_ends_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        decode_json(text.encode(), "specimen")


def test_json_that_is_not_utf8_or_too_long_is_refused() -> None:
    with pytest.raises(FormatError, match="UTF-8"):
        decode_json(b'"\xff"', "specimen")
    with pytest.raises(FormatError, match="at most 2 bytes"):
        decode_json(b"123", "specimen", max_size=2)


@pytest.mark.parametrize("value", [1.5, [1.5], {"a": b""}, {1: 2}, {"a": {1, 2}}])
def test_what_has_no_json_spelling_is_misuse(value: object) -> None:
    with pytest.raises(Misuse):
        encode_json(value)


# --- base64url ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=80))
def test_base64url_comes_back_as_it_was(data: bytes) -> None:
    assert parse_b64url(b64url(data), "value") == data


@pytest.mark.parametrize("text", ["A", "AA==", "AA\n", "A+", "A/", "AB", "AAB", "AAAAA", "é", " AAA"])
def test_base64url_of_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_b64url(text, "value")


# --- maps --------------------------------------------------------------------------------------------------------------


def test_fields_take_each_key_once_and_refuse_the_rest() -> None:
    f = Fields({"v": 1, "n": 7, "t": "text", "b": b"12", "l": [1], "m": {"a": 1}, "f": True, "d": bytes(32), "s": "short"}, "specimen")
    assert f.version(1, 2) == 1
    assert f.uint("n") == 7
    assert f.text("t") == "text"
    assert f.raw("b", size=2) == b"12"
    assert f.items("l", most=1) == [1]
    assert f.mapping("m", most=1) == {"a": 1}
    assert f.flag("f")
    assert f.digest("d").value == bytes(32)
    with pytest.raises(FormatError, match=r"no unknown key, got 's'"):
        f.done()
    assert f.name("s") == "short"
    f.done()
    with pytest.raises(FormatError, match="key 's', got none"):
        f.text("s")


def test_fields_read_null_where_it_may_stand() -> None:
    f = Fields({"a": None, "b": b"12", "c": None, "d": bytes(32), "e": 1, "g": None, "t": None, "u": "text"}, "specimen")
    assert f.is_null("a")
    assert not f.is_null("b")
    assert f.optional_raw("a") is None
    assert f.optional_raw("b", size=2) == b"12"
    assert f.optional_digest("c") is None
    digest = f.optional_digest("d")
    assert digest is not None
    assert digest.value == bytes(32)
    f.null("g")
    assert f.optional_text("t") is None
    assert f.optional_text("u") == "text"
    with pytest.raises(FormatError, match="expected null"):
        f.null("e")
    f.done()


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda: Fields([], "x"), id="no map"),
        pytest.param(lambda: Fields({"v": 3}, "x").version(1, 2), id="another version"),
        pytest.param(lambda: Fields({"n": True}, "x").uint("n"), id="true for a number"),
        pytest.param(lambda: Fields({"n": -1}, "x").uint("n"), id="a negative number"),
        pytest.param(lambda: Fields({"n": 1 << 63}, "x").uint("n"), id="too large a number"),
        pytest.param(lambda: Fields({"f": 1}, "x").flag("f"), id="1 for true"),
        pytest.param(lambda: Fields({"t": "a\nb"}, "x").text("t"), id="a control character"),
        pytest.param(lambda: Fields({"t": "a\x7f"}, "x").text("t"), id="delete"),
        pytest.param(lambda: Fields({"t": "\ud800"}, "x").text("t"), id="a lone surrogate"),
        pytest.param(lambda: Fields({"t": "abc"}, "x").text("t", most=2), id="too long a text"),
        pytest.param(lambda: Fields({"t": ""}, "x").text("t", least=1), id="an empty text"),
        pytest.param(lambda: Fields({"b": "ab"}, "x").raw("b"), id="text for bytes"),
        pytest.param(lambda: Fields({"b": b"abc"}, "x").raw("b", size=2), id="bytes of another size"),
        pytest.param(lambda: Fields({"b": b"abc"}, "x").raw("b", most=2), id="too many bytes"),
        pytest.param(lambda: Fields({"d": b"abc"}, "x").digest("d"), id="a short digest"),
        pytest.param(lambda: Fields({"l": {}}, "x").items("l", most=1), id="a map for an array"),
        pytest.param(lambda: Fields({"l": [1, 2]}, "x").items("l", most=1), id="too many items"),
        pytest.param(lambda: Fields({"m": []}, "x").mapping("m", most=1), id="an array for a map"),
        pytest.param(lambda: Fields({"m": {1: 1, 2: 2}}, "x").mapping("m", most=1), id="too many entries"),
        pytest.param(lambda: Fields({"m": 1}, "x").fields("m"), id="a number for a map"),
        pytest.param(lambda: Fields({"s": "Upper"}, "x").name("s"), id="an upper-case name"),
    ],
)
def test_fields_of_another_kind_are_refused(read: Any) -> None:
    with pytest.raises(FormatError):
        read()


@pytest.mark.parametrize("value", ["a", "a-b", "0.a_b", "a" * 63])
def test_a_short_name_is_accepted(value: str) -> None:
    assert name(value, "x") == value


@pytest.mark.parametrize("value", ["", "-a", "a-", "A", "a b", "a/b", "a" * 64, "a\n", "é"])
def test_what_is_no_short_name_is_refused(value: str) -> None:
    with pytest.raises(FormatError):
        name(value, "x")

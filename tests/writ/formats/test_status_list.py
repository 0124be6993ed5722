"""Token Status List: packed bits, bounded when expanded."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.errors import FormatError, Misuse
from writ.formats.status_list import (
    BITS,
    INVALID,
    MAX_BYTES,
    VALID,
    StatusList,
    StatusListToken,
    encode_status_list,
    parse_status_list,
)
from writ.formats.strict import b64url, encode_json, parse_b64url

_TOKEN = StatusListToken("https://v.example/status/1", 1700000000, 1700000060, 30, StatusList.empty(1, 64).with_status(5, INVALID))


@given(st.sampled_from(BITS), st.binary(min_size=1, max_size=64))
def test_list_comes_back_as_it_was(bits: int, values: bytes) -> None:
    statuses = StatusList(bits, values)
    assert StatusList.expand(bits, statuses.compress()) == statuses
    token = StatusListToken("https://v.example/1", 1, 2, 3, statuses)
    assert parse_status_list(encode_status_list(token)) == token


@given(st.sampled_from(BITS), st.data())
def test_a_status_that_is_set_is_got_and_no_other_changes(bits: int, data: st.DataObject) -> None:
    before = StatusList(bits, data.draw(st.binary(min_size=1, max_size=16)))
    index = data.draw(st.integers(0, before.size - 1))
    value = data.draw(st.integers(0, (1 << bits) - 1))
    after = before.with_status(index, value)
    assert [after.get(i) for i in range(after.size)] == [value if i == index else before.get(i) for i in range(before.size)]


def test_status_list_readers_are_total() -> None:
    assert_parser_is_total(parse_status_list, encode_status_list(_TOKEN))
    assert_parser_is_total(lambda data: StatusList.expand(2, data), StatusList.empty(2, 1000).with_status(7, 3).compress())


@pytest.mark.parametrize("bits, size, expected", [(1, 1, 1), (1, 8, 1), (1, 9, 2), (8, 9, 9), (2, 5, 2)])
def test_empty_list_has_room_and_is_all_valid(bits: int, size: int, expected: int) -> None:
    statuses = StatusList.empty(bits, size)
    assert len(statuses.values) == expected
    assert {statuses.get(i) for i in range(size)} == {VALID}


def test_zlib_bomb_is_refused_without_being_expanded() -> None:
    packer = zlib.compressobj(9)
    head, part = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = head + 255 * part + packer.flush()
    assert len(bomb) < 300_000
    with pytest.raises(FormatError, match="when expanded"):
        StatusList.expand(1, bomb)
    assert StatusList.expand(1, zlib.compress(bytes(MAX_BYTES), 9)).size == 8 * MAX_BYTES
    with pytest.raises(FormatError, match="when expanded"):
        StatusList.expand(1, zlib.compress(bytes(MAX_BYTES + 1), 9))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x78",
        b"not zlib",
        zlib.compress(b"")[:-1],
        zlib.compress(b"ab") + b"\x00",
        zlib.compress(b"ab")[:-4] + bytes(4),
        zlib.compress(b""),
    ],
)
def test_what_is_no_whole_zlib_stream_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        StatusList.expand(1, data)


@pytest.mark.parametrize("index", [-1, 8, 1 << 70])
def test_index_outside_of_the_list_is_refused(index: int) -> None:
    with pytest.raises(FormatError, match="0 to 7"):
        StatusList(1, b"\x00").get(index)
    with pytest.raises(FormatError, match="0 to 7"):
        StatusList(1, b"\x00").with_status(index, 1)


@pytest.mark.parametrize("bits, value", [(1, 2), (2, 4), (8, 256), (1, -1)])
def test_status_of_too_many_bits_is_misuse(bits: int, value: int) -> None:
    with pytest.raises(Misuse):
        StatusList(bits, b"\x00").with_status(0, value)


@pytest.mark.parametrize("bits", [0, 3, 16, -1])
def test_list_of_other_bits_is_refused(bits: int) -> None:
    with pytest.raises(FormatError):
        StatusList(bits, b"\x00")


@pytest.mark.parametrize(
    "change",
    [
        {"sub": ""},
        {"iat": -1},
        {"exp": 1700000000},
        {"ttl": "30"},
        {"iss": "https://v.example"},
        {"status_list": {"bits": 3, "lst": "eNrbuRgAAhcBXQ"}},
        {"status_list": {"bits": 1}},
        {"status_list": {"bits": 1, "lst": "eNrbuRgAAhcBXQ="}},
        {"status_list": {"bits": 1, "lst": "eNrbuRgAAhcBXQ", "aggregation_uri": "x"}},
        {"status_list": []},
    ],
)
def test_token_with_other_claims_is_refused(change: dict[str, Any]) -> None:
    claims = json.loads(encode_status_list(_TOKEN))
    with pytest.raises(FormatError):
        parse_status_list(encode_json({**claims, **change}))


@pytest.mark.parametrize("missing", ["sub", "iat", "exp", "ttl", "status_list"])
def test_token_without_a_required_claim_is_refused(missing: str) -> None:
    claims = json.loads(encode_status_list(_TOKEN))
    del claims[missing]
    with pytest.raises(FormatError):
        parse_status_list(encode_json(claims))


@pytest.mark.parametrize(
    "bits, stream, expected",
    [
        (1, "78dadbb918000217015d", [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]),
        (2, "78da3be9f2130003df0207", [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]),
    ],
)
def test_list_of_the_draft_is_read_and_written(bits: int, stream: str, expected: list[int]) -> None:
    """draft-ietf-oauth-status-list section 4."""
    statuses = StatusList.expand(bits, bytes.fromhex(stream))
    assert [statuses.get(i) for i in range(statuses.size)] == expected
    built = StatusList.empty(bits, len(expected))
    for index, value in enumerate(expected):
        built = built.with_status(index, value)
    assert built == statuses
    assert StatusList.expand(bits, built.compress()) == built


def test_token_of_the_draft_is_read() -> None:
    claims = {
        "exp": 2291720170,
        "iat": 1686920170,
        "status_list": {"bits": 1, "lst": "eNrbuRgAAhcBXQ"},
        "sub": "https://example.com/statuslists/1",
        "ttl": 43200,
    }
    token = parse_status_list(encode_json(claims))
    assert token.statuses.values == bytes([0xB9, 0xA3])
    assert b64url(token.statuses.compress()) == "eNrbuRgAAhcBXQ"


@pytest.mark.parametrize(
    "bits, file, expected",
    [
        (1, "encoding1_long", {0: 1, 1993: 1, 25460: 1, 159495: 1, 1000345: 1, 1: 0}),
        (2, "encoding2_long", {0: 1, 1993: 2, 25460: 1, 159495: 3, 1000345: 3, 1: 0}),
        (4, "encoding4", {0: 1, 1993: 2, 35460: 3, 459495: 4, 1030205: 15, 1: 0}),
        (8, "encoding8", {233478: 0, 52451: 1, 576778: 2, 513575: 3, 468106: 4, 19535: 255}),
    ],
)
def test_long_list_of_the_draft_is_read(vectors: Path, bits: int, file: str, expected: dict[int, int]) -> None:
    """A million entries; each file gives the list in JSON, folded."""
    text = (vectors / "audit" / "token_status_list" / "examples" / f"status_list_{file}_json.md").read_text()
    lst = re.search(r'"lst": "([^"]+)"', text)
    assert lst is not None
    statuses = StatusList.expand(bits, parse_b64url(re.sub(r"\s", "", lst[1]), "lst"))
    assert statuses.size == 1 << 20
    assert {index: statuses.get(index) for index in expected} == expected

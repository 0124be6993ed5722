"""The quick way to read a record says what the long one says, of all bytes that it reads at all."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.reason import NO_TOKEN
from writ.formats.record import ActionRecord, OutcomeRecord, encode_record, parse_record, read_ordinary, read_record

PERMIT = ActionRecord(
    7, 1_790_000_000, 0, "tool.call", "files/a", bytes(32), Digest.of(b"token"), Digest.of(b"policy"), bytes(32), (), bytes(32), "socket",
    bytes(25),
)  # fmt: skip
OUTCOME = OutcomeRecord(8, 1_790_000_001, 7, "done", -5, 6, bytes(32))
quick = read_ordinary


@pytest.mark.parametrize(
    "one", [PERMIT, replace(PERMIT, token=None, bundle=None, parent=None, trace=None), OUTCOME, replace(OUTCOME, status=None)]
)
def test_permits_and_outcomes_are_read_the_quick_way(one: ActionRecord | OutcomeRecord) -> None:
    assert quick(encode_record(one)) == one == read_record(encode_record(one))


def test_what_is_rarer_is_read_the_long_way() -> None:
    refused = encode_record(replace(PERMIT, reasons=(NO_TOKEN,)))
    assert quick(refused) is None
    assert parse_record(refused) == replace(PERMIT, reasons=(NO_TOKEN,))


SCALARS: st.SearchStrategy[object] = st.sampled_from(
    [None, True, False, 0, 1, -1, 7, 8, 1 << 63, (1 << 63) - 1, 1 << 31, 1.0, "", "done", "tool.call", "Socket", "a b", "\x00", "x/../y",
     b"", bytes(25), bytes(32), bytes(33), [], [[]], {}, cbor2.CBORTag(35, "a"), cbor2.CBORTag(0, "x")]
)  # fmt: skip


@given(st.sampled_from([PERMIT, OUTCOME]), st.integers(0, 14), SCALARS, st.sampled_from(["set", "drop", "add"]))
def test_no_item_is_taken_that_the_long_way_refuses(one: ActionRecord | OutcomeRecord, at: int, value: object, how: str) -> None:
    items = cbor2.loads(encode_record(one))
    items[at : at + (how != "add")] = [] if how == "drop" else [value]
    _agree(cbor2.dumps(items))


@given(st.sampled_from([PERMIT, OUTCOME]), st.integers(0, 400), st.integers(1, 255))
def test_no_bytes_are_taken_that_the_long_way_refuses(one: ActionRecord | OutcomeRecord, at: int, flipped: int) -> None:
    data = bytearray(encode_record(one))
    data[at % len(data)] ^= flipped
    _agree(bytes(data))


@pytest.mark.parametrize(
    "spelt", [lambda d: d + b"\x00", lambda d: b"\x98\x08" + d[1:], lambda d: b"\x9f" + d[1:] + b"\xff", lambda d: d[:0]]
)
def test_another_spelling_is_taken_neither_way(spelt: object) -> None:
    data = spelt(encode_record(OUTCOME))  # type: ignore[operator]
    assert quick(data) is None
    with pytest.raises(FormatError):
        parse_record(data)


def _agree(data: bytes) -> None:
    read = quick(data)
    if read is not None:
        assert read == read_record(data)
        assert encode_record(read) == data

"""Batches of anchors: one spelling, bounds, and where they lead."""

from __future__ import annotations

import hashlib

import pytest

from tests.parsers import assert_parser_is_total
from writ.formats.anchor import (
    ANCHOR_PCRS,
    MAX_BATCHES,
    MAX_ROWS,
    AnchorRow,
    Anchors,
    ShownAnchors,
    encode_batch,
    led,
    parse_anchors,
    read_batches,
)
from writ.formats.errors import FormatError
from writ.formats.strict import decode_cbor, encode_cbor

A, B = AnchorRow(b"a" * 16, 3, b"r" * 32), AnchorRow(b"b" * 16, 1, b"s" * 32)
ANCHORS = Anchors(15, bytes(32), ((A, B), (A,)))
DATA = encode_cbor(ANCHORS.to_cbor())


def test_parser_answers_any_bytes() -> None:
    assert parse_anchors(DATA) == ANCHORS
    assert_parser_is_total(parse_anchors, DATA, flips=400)


def row(instance: bytes, size: int = 1) -> list[object]:
    return [instance, size, bytes(32)]


@pytest.mark.parametrize(
    "batches",
    [
        [[]],
        [[row(b"b" * 16), row(b"a" * 16)]],
        [[row(b"a" * 16), row(b"a" * 16, 2)]],
        [[row(b"a" * 16, 0)]],
        [[[b"a" * 16, 1]]],
        [[row(b"a" * 15)]],
        [[row(b"a" * 16)]] * (MAX_BATCHES + 1),
        [[row(at.to_bytes(16, "big")) for at in range(MAX_ROWS)], [row(b"a" * 16)]],
        [[row(at.to_bytes(16, "big")) for at in range(MAX_ROWS + 1)]],
        "rubbish",
    ],
    ids=["empty", "order", "twice", "no record", "short", "id", "batches", "rows", "rows of one", "text"],
)
def test_batches_have_one_order_and_bounds(batches: object) -> None:
    with pytest.raises(FormatError):
        parse_anchors(encode_cbor({**ANCHORS.to_cbor(), "batches": batches}))


def test_as_many_as_are_allowed_are_read() -> None:
    rows = [row(at.to_bytes(16, "big")) for at in range(MAX_ROWS)]
    assert len(read_batches([rows])[0]) == MAX_ROWS
    assert len(read_batches([[rows[0]]] * MAX_BATCHES)) == MAX_BATCHES


@pytest.mark.parametrize("pcr", [pcr for pcr in range(25) if pcr not in ANCHOR_PCRS])
def test_register_that_software_can_reset_or_others_need_is_refused(pcr: int) -> None:
    """0 to 7 are the firmware's, 10 is IMA's, 16 to 23 can be reset."""
    with pytest.raises(FormatError):
        parse_anchors(encode_cbor({**ANCHORS.to_cbor(), "pcr": pcr}))
    with pytest.raises(FormatError):
        ShownAnchors.from_cbor([pcr, 1, 0, bytes(32), bytes(32), []])


@pytest.mark.parametrize("size", [0, 20, 31, 33, 47, 65])
def test_register_is_of_a_bank_that_is_quoted(size: int) -> None:
    with pytest.raises(FormatError):
        parse_anchors(encode_cbor({**ANCHORS.to_cbor(), "base": bytes(size)}))


def test_what_is_extended_is_the_hash_of_the_tagged_rows() -> None:
    """Computed apart from the product."""
    content = encode_cbor(["writ/anchor/v1", [[A.instance, A.size, A.root]]])
    assert encode_batch((A,)) == content
    assert decode_cbor(content, "batch")[0] == "writ/anchor/v1"
    for bank, size in (("sha256", 32), ("sha384", 48)):
        digest = hashlib.new(bank, content).digest()
        assert led(bank, bytes(size), ((A,),)) == hashlib.new(bank, bytes(size) + digest).digest()
    assert led("sha256", b"x" * 32, ()) == b"x" * 32

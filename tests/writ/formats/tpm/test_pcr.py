from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.writ.formats.tpm.damage import assert_total, reads_exactly_or_refuses
from tests.writ.formats.tpm.strategies import pcr_values, selections
from writ.formats.errors import FormatError
from writ.formats.tpm.pcr import PcrSelection, PcrValues, encode_pcr_selection, parse_pcr_selection, pcr_digest


def sha256_values(*indices: int) -> PcrValues:
    return PcrValues("sha256", tuple((index, bytes([index]) * 32) for index in indices))


@given(selections())
def test_selection_is_read_as_it_was_written(selection: PcrSelection) -> None:
    assert parse_pcr_selection(encode_pcr_selection(selection)) == selection


@given(st.binary(max_size=40))
def test_any_bytes_are_a_selection_or_a_format_error(data: bytes) -> None:
    reads_exactly_or_refuses(parse_pcr_selection, encode_pcr_selection, data)


def test_damaged_selection_is_refused() -> None:
    assert_total(parse_pcr_selection, encode_pcr_selection, bytes.fromhex("00000002000b03ffff00000403010000"))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("00000002000b03010000000b03020000", id="a bank twice"),
        pytest.param("00000001000b0401000000", id="four bytes of bitmap"),
        pytest.param("00000001000b020100", id="two bytes of bitmap"),
        pytest.param("00000001001203010000", id="an unknown bank"),
        pytest.param("00000001001003010000", id="the null algorithm"),
        pytest.param("00000005" + "000b03010000" * 5, id="five banks"),
        pytest.param("ffffffff", id="more banks than bytes"),
    ],
)
def test_faulty_selection_is_refused(data: str) -> None:
    with pytest.raises(FormatError, match="expected"):
        parse_pcr_selection(bytes.fromhex(data))


def test_order_of_banks_is_kept() -> None:
    selection = PcrSelection((("sha384", (7,)), ("sha1", ()), ("sha256", (0, 23))))
    assert encode_pcr_selection(selection).hex() == "00000003000c038000000004030000" + "00000b03010080"
    assert parse_pcr_selection(encode_pcr_selection(selection)).banks[0] == ("sha384", (7,))


def test_indices_of_an_absent_bank_are_none() -> None:
    selection = PcrSelection((("sha256", (1, 2)),))
    assert selection.indices("sha256") == (1, 2)
    assert selection.indices("sha384") == ()


@pytest.mark.parametrize(
    "banks",
    [
        (("sha256", (2, 1)),),
        (("sha256", (1, 1)),),
        (("sha256", (24,)),),
        (("sha256", (-1,)),),
        (("md5", (1,)),),
        (("sha256", (1,)), ("sha256", (2,))),
    ],
)
def test_selection_that_has_no_spelling_cannot_be_made(banks: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    with pytest.raises(FormatError):
        PcrSelection(banks)


@pytest.mark.parametrize(
    "bank, values",
    [
        ("md5", ()),
        ("sha256", ((0, bytes(20)),)),
        ("sha1", ((0, bytes(32)),)),
        ("sha256", ((1, bytes(32)), (0, bytes(32)))),
        ("sha256", ((0, bytes(32)), (0, bytes(32)))),
        ("sha256", ((24, bytes(32)),)),
        ("sha256", ((-1, bytes(32)),)),
    ],
)
def test_values_out_of_shape_cannot_be_made(bank: str, values: tuple[tuple[int, bytes], ...]) -> None:
    with pytest.raises(FormatError):
        PcrValues(bank, values)


def test_value_that_is_not_there_is_a_format_error() -> None:
    values = sha256_values(0, 4)
    assert values.get(4) == bytes([4]) * 32
    assert values.indices() == (0, 4)
    with pytest.raises(FormatError, match="PCR 1 of sha256: expected a value, got none"):
        values.get(1)


def test_digest_covers_selected_values_in_order_and_no_other() -> None:
    values = sha256_values(0, 4, 10)
    selection = PcrSelection((("sha1", ()), ("sha256", (0, 10))))
    assert values.digest(selection, "sha384") == hashlib.sha384(bytes(32) + bytes([10]) * 32).digest()


def test_digest_follows_the_order_of_banks() -> None:
    one, two = sha256_values(3), PcrValues("sha1", ((5, b"\5" * 20),))
    selection = PcrSelection((("sha1", (5,)), ("sha256", (3,))))
    assert pcr_digest(selection, (one, two), "sha256") == hashlib.sha256(b"\5" * 20 + b"\3" * 32).digest()


def test_digest_over_a_pcr_that_was_not_sent_is_refused() -> None:
    with pytest.raises(FormatError, match="PCR 1 "):
        sha256_values(0).digest(PcrSelection((("sha256", (0, 1)),)), "sha256")


def test_digest_over_another_bank_is_refused() -> None:
    selection = PcrSelection((("sha1", (0,)),))
    with pytest.raises(FormatError, match="the sha1 bank, got sha256"):
        sha256_values(0).digest(selection, "sha256")
    with pytest.raises(FormatError, match="the sha1 bank, got none"):
        pcr_digest(selection, (), "sha256")


def test_digest_over_a_bank_sent_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="each bank once"):
        pcr_digest(PcrSelection(()), (sha256_values(0), sha256_values(1)), "sha256")


@given(pcr_values())
def test_digest_over_all_values_is_the_hash_of_all_values(values: PcrValues) -> None:
    selection = PcrSelection(((values.bank, values.indices()),))
    assert values.digest(selection, "sha256") == hashlib.sha256(b"".join(value for _, value in values.values)).digest()

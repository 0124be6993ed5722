"""Each step of `verify_quote`: the quote passes whole, and one thing wrong refuses with its own reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.world.chip import BANKS, Chip
from tests.writ.verdict.refusal import refused
from writ.formats.errors import FormatError
from writ.formats.tpm.attest import encode_attest, parse_attest
from writ.formats.tpm.pcr import PcrSelection, PcrValues, pcr_digest
from writ.formats.tpm.public import EccParameters
from writ.formats.tpm.signature import Signature, encode_signature, parse_signature
from writ.verdict.quote import QUOTED_PCRS, VerifiedQuote, verify_quote

NONCE = b"n" * 32
CHIP = Chip()


def verify(chip: Chip, quote: tuple[bytes, bytes], **changed: Any) -> VerifiedQuote:
    given: dict[str, Any] = {
        "pcrs": chip.values(), "ak": chip.ak, "qualified_name": chip.qualified_name, "extra_data": NONCE, "bank": "sha256"
    } | changed  # fmt: skip
    return verify_quote(*quote, given.pop("pcrs"), **given)


def resigned(chip: Chip, quote: tuple[bytes, bytes], change: Callable[[Any], Any]) -> tuple[bytes, bytes]:
    """The attestation changed and signed by the same key: what a key outside a TPM can do."""
    said = encode_attest(change(parse_attest(quote[0])))
    return said, chip.sign(said)


def test_quote_of_the_enrolled_ak_is_verified_and_gives_what_was_signed() -> None:
    chip = Chip(clock=12_345, reset_count=9, restart_count=3, safe=False)
    chip.extend(14, {"sha256": bytes(32)})
    verified = verify(chip, chip.quote(NONCE))
    assert verified == VerifiedQuote(chip.values(), 12_345, 9, 3, False, chip.firmware_version)
    assert tuple(range(16)) == QUOTED_PCRS


def test_quote_of_the_other_bank_is_verified_where_that_bank_is_enrolled() -> None:
    quote = CHIP.quote(NONCE, selection=PcrSelection((("sha384", QUOTED_PCRS),)))
    assert verify(CHIP, quote, bank="sha384", pcrs=CHIP.values("sha384")).pcrs.bank == "sha384"


def test_structure_with_a_byte_left_over_is_malformed() -> None:
    attest, signature = CHIP.quote(NONCE)
    with pytest.raises(FormatError):
        verify(CHIP, (attest + b"\0", signature))
    with pytest.raises(FormatError):
        verify(CHIP, (attest, signature + b"\0"))


def test_signature_with_sha1_is_refused_by_its_hash() -> None:
    attest, _ = CHIP.quote(NONCE)
    weak = encode_signature(Signature("ecdsa", "sha1", r=b"\1", s=b"\1"))
    assert refused(lambda: verify(CHIP, (attest, weak))).code == "algorithm-refused"


def test_signature_of_another_ak_is_refused() -> None:
    assert refused(lambda: verify(CHIP, CHIP.quote(NONCE), ak=Chip("other").ak)).code == "signature-invalid"


def test_wrong_magic_is_refused() -> None:
    forged = resigned(CHIP, CHIP.quote(NONCE), lambda a: replace(a, magic=0xFF544348))
    assert refused(lambda: verify(CHIP, forged)).code == "not-tpm-generated"


@pytest.mark.parametrize("kind", ["certify", "certify_creation", "certify_nv"])
def test_another_attestation_of_the_same_ak_is_refused(kind: str) -> None:
    assert refused(lambda: verify(CHIP, getattr(CHIP, kind)(NONCE))).code == "wrong-attest-type"


def test_signer_in_another_place_is_refused() -> None:
    forged = resigned(CHIP, CHIP.quote(NONCE), lambda a: replace(a, qualified_signer=Chip("other").qualified_name))
    assert refused(lambda: verify(CHIP, forged)).code == "ak-parent"


@pytest.mark.parametrize("said", [b"", NONCE[:31], NONCE + b"n", b"m" * 32])
def test_quote_for_another_challenge_is_refused(said: bytes) -> None:
    assert refused(lambda: verify(CHIP, CHIP.quote(said))).code == "extra-data-mismatch"


SELECTIONS = {
    "short": (("sha256", QUOTED_PCRS[:-1]),),
    "long": (("sha256", (*QUOTED_PCRS, 16)),),
    "empty": (("sha256", ()),),
    "none": (),
    "other bank": (("sha384", QUOTED_PCRS),),
    "two banks": (("sha256", QUOTED_PCRS), ("sha384", QUOTED_PCRS)),
    "shifted": (("sha256", tuple(range(1, 17))),),
    "an empty bank beside": (("sha256", QUOTED_PCRS), ("sha384", ())),
}


@pytest.mark.parametrize("banks", SELECTIONS.values(), ids=SELECTIONS)
def test_selection_other_than_the_fixed_one_is_refused(banks: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    reason = refused(lambda: verify(CHIP, CHIP.quote(NONCE, selection=PcrSelection(banks))))
    assert (reason.code, reason.claim) == ("pcr-selection-mismatch", "pcr_selection")
    assert reason.expected.startswith("sha256:0,1,2")


VALUES = {
    "short": CHIP.values(indices=range(15)),
    "long": CHIP.values(indices=range(17)),
    "relabelled": PcrValues("sha256", tuple((i + 1, v) for i, v in CHIP.values().values)),
    "other bank": CHIP.values("sha384"),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_values_of_other_registers_than_the_quoted_are_refused(values: PcrValues) -> None:
    reason = refused(lambda: verify(CHIP, CHIP.quote(NONCE), pcrs=values))
    assert (reason.code, reason.claim) == ("pcr-selection-mismatch", "pcrs")


@pytest.mark.parametrize("index", QUOTED_PCRS)
def test_value_other_than_the_quoted_is_refused(index: int) -> None:
    values = PcrValues("sha256", tuple((i, b"\1" * 32 if i == index else v) for i, v in CHIP.values().values))
    assert refused(lambda: verify(CHIP, CHIP.quote(NONCE), pcrs=values)).code == "pcr-digest-mismatch"


def test_pcr_digest_is_taken_under_the_hash_of_the_signature() -> None:
    selection = PcrSelection((("sha256", QUOTED_PCRS),))
    other = pcr_digest(selection, tuple(CHIP.values(bank, range(24)) for bank in BANKS), "sha384")
    quote = resigned(CHIP, CHIP.quote(NONCE), lambda a: replace(a, body=replace(a.body, pcr_digest=other)))
    assert parse_signature(quote[1]).hash == "sha256"
    assert refused(lambda: verify(CHIP, quote)).code == "pcr-digest-mismatch"


def test_key_that_is_no_point_is_malformed_and_not_an_accident() -> None:
    bad = replace(CHIP.ak, parameters=EccParameters("p256", None, bytes(32), bytes(32)))
    with pytest.raises(FormatError):
        verify(CHIP, CHIP.quote(NONCE), ak=bad)

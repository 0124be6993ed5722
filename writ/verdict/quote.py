"""Quote verification: is this really from that TPM, in answer to this challenge?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.errors import Refused
from writ.formats.reason import Reason
from writ.formats.tpm.attest import TPM_GENERATED, parse_attest
from writ.formats.tpm.pcr import PcrSelection, PcrValues
from writ.formats.tpm.public import Public
from writ.formats.tpm.signature import ACCEPTED_HASHES, parse_signature, verify_signature

QUOTED_PCRS: Final = tuple(range(16))
"""What every quote must cover, no less and no more: PCRs 0 to 15 of the enrolled bank (DESIGN, step 3)."""


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """Proof that `verify_quote` ran. The PCR values here are those the TPM signed; clock in milliseconds."""

    pcrs: PcrValues
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int


def verify_quote(
    attest: bytes, signature: bytes, pcrs: PcrValues, *, ak: Public, qualified_name: bytes, extra_data: bytes, bank: str
) -> VerifiedQuote:
    """The AK signed a quote over PCRs 0-15 of `bank`, whose values are `pcrs`, in answer to `extra_data`.

    Does not say whether the AK lives in a genuine TPM (`enrolment`) or whether
    the values are good ones (`appraisal`). Parsing comes first, since only
    bytes with one meaning are worth verifying; what is read is exactly the
    bytes whose signature is checked.

    1. Both structures parse, with nothing left over.
    2. The signature's hash is SHA-256 or stronger.
    3. The AK signed the attestation.
    4. The TPM made it: magic is TPM_GENERATED_VALUE.
    5. It is a quote.
    6. It was made by the AK in its place below the EK: the qualified name is the enrolled one.
    7. It answers this challenge: extraData is exactly what was expected.
    8. It covers exactly PCRs 0-15 of the one bank, and the values that came are exactly those.
    9. The values hash to the quoted digest, under the hash of the signature.

    Raises FormatError (1) or Refused (2-9).
    Source: TPM 2.0 Library Part 2 r1.59, 10.12.8 TPMS_ATTEST; Part 3, 18.4 TPM2_Quote.
    """
    # 1
    quote = parse_attest(attest)
    signed = parse_signature(signature)
    # 2
    if signed.hash not in ACCEPTED_HASHES:
        raise Refused(Reason("algorithm-refused", "signature.hash", " or ".join(ACCEPTED_HASHES), signed.hash))
    # 3
    if not verify_signature(signed, ak, attest):
        raise Refused(Reason("signature-invalid", "signature", "a signature by the enrolled AK", "another"))
    # 4
    if quote.magic != TPM_GENERATED:
        raise Refused(Reason("not-tpm-generated", "magic", f"{TPM_GENERATED:08x}", f"{quote.magic:08x}"))
    # 5
    info = quote.quote
    if info is None:
        raise Refused(Reason("wrong-attest-type", "type", "quote", quote.type))
    # 6
    if quote.qualified_signer != qualified_name:
        raise Refused(Reason("ak-parent", "qualified_signer", qualified_name.hex(), quote.qualified_signer.hex()))
    # 7
    if quote.extra_data != extra_data:
        raise Refused(Reason("extra-data-mismatch", "extra_data", extra_data.hex(), quote.extra_data.hex()))
    # 8
    wanted = PcrSelection(((bank, QUOTED_PCRS),))
    if info.selection != wanted:
        raise Refused(Reason("pcr-selection-mismatch", "pcr_selection", _text(wanted), _text(info.selection)))
    if pcrs.bank != bank or pcrs.indices() != QUOTED_PCRS:
        got = f"{pcrs.bank}:{','.join(map(str, pcrs.indices()))}"
        raise Refused(Reason("pcr-selection-mismatch", "pcrs", _text(wanted), got))
    # 9
    digest = pcrs.digest(info.selection, signed.hash)
    if digest != info.pcr_digest:
        raise Refused(Reason("pcr-digest-mismatch", "pcr_digest", info.pcr_digest.hex(), digest.hex()))
    return VerifiedQuote(pcrs, quote.clock, quote.reset_count, quote.restart_count, quote.safe, quote.firmware_version)


def _text(selection: PcrSelection) -> str:
    return " ".join(f"{bank}:{','.join(map(str, indices))}" for bank, indices in selection.banks)[:200]

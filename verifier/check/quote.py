"""`verifier check quote`: a TPM quote, its signature, and the PCR values it covers."""

from __future__ import annotations

import argparse
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from verifier.check.finding import Finding, Options, read_file
from writ.formats.digest import SIZES, hash_bytes
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_json
from writ.formats.tpm.attest import TPM_GENERATED, parse_attest
from writ.formats.tpm.public import parse_any_public
from writ.formats.tpm.signature import Signature, parse_signature, verify_signature, verify_with_key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verifier check quote`."""
    for name in ("ak", "message", "signature"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE")
    parser.add_argument("--pcrs", type=Path, metavar="FILE", help="PCR values: raw in the order of the selection, or JSON")


def check_quote(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. Structures. 2. TPM-made, and a quote. 3. Signature by the AK. 4. Nonce. 5. PCR values, if given, are those quoted.

    Source: TPM 2.0 Library Part 2, TPMS_ATTEST; Part 3, TPM2_Quote.
    """
    message = read_file(args.message)
    # 1
    quote = parse_attest(message)
    finding.claims |= {
        "extra_data": quote.extra_data.hex(), "clock": quote.clock, "reset_count": quote.reset_count, "restart_count": quote.restart_count,
        "safe": quote.safe, "firmware_version": f"{quote.firmware_version:016x}",
    }  # fmt: skip
    # 2
    if quote.magic != TPM_GENERATED:
        finding.refuse("not-tpm-generated", "magic", f"{TPM_GENERATED:08x}", f"{quote.magic:08x}")
    info = quote.quote
    if info is None:
        finding.refuse("wrong-attest-type", "type", "quote", quote.type)
        return
    finding.claims |= {
        "pcr_selection": {bank: list(indices) for bank, indices in info.selection.banks},
        "pcr_digest": info.pcr_digest.hex(),
    }
    if not any(indices for _, indices in info.selection.banks):
        finding.refuse("pcr-selection-mismatch", "pcr_selection", "at least one PCR", "none")
    # 3
    signature = parse_signature(read_file(args.signature))
    if not _signed(signature, read_file(args.ak), message):
        finding.refuse("signature-invalid", "signature", "a signature by the AK that was given", "another")
    # 4
    if options.nonce is None:
        finding.note("nonce-unknown", "extra_data", "--nonce, to judge freshness", "none")
    elif quote.extra_data != options.nonce:
        finding.refuse("nonce-mismatch", "extra_data", options.nonce.hex(), quote.extra_data.hex())
    # 5
    if args.pcrs is not None:
        values = _pcr_values(read_file(args.pcrs), info.selection.banks)
        digest = hash_bytes(signature.hash, values)
        if digest != info.pcr_digest:
            finding.refuse("pcr-digest-mismatch", "pcr_digest", info.pcr_digest.hex(), digest.hex())
        elif not any(values):
            finding.refuse("pcr-digest-mismatch", "pcrs", "a PCR that is not zero", "zeros only")


def _signed(signature: Signature, ak: bytes, message: bytes) -> bool:
    """By the AK as TPM2B_PUBLIC, TPMT_PUBLIC, PEM or DER."""
    if not ak.startswith(b"-----") and ak[:1] != b"\x30":
        return verify_signature(signature, parse_any_public(ak), message)
    try:
        key = load_pem_public_key(ak) if ak.startswith(b"-----") else load_der_public_key(ak)
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError("AK", "a public key as TPM2B_PUBLIC, TPMT_PUBLIC, PEM or DER", "something else") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise FormatError("AK", "an RSA or ECC key", "another")
    return verify_with_key(signature, key, message)


def _pcr_values(data: bytes, banks: tuple[tuple[str, tuple[int, ...]], ...]) -> bytes:
    """The values of the selected PCRs in the order of the selection: raw, as TPM2_PCR_Read gives them, or JSON bank -> index -> hex."""
    size = sum(SIZES[bank] * len(indices) for bank, indices in banks)
    if not data.lstrip().startswith(b"{"):
        if len(data) != size:
            raise FormatError("PCR values", f"{size} bytes for the selected PCRs, or JSON bank -> index -> hex", f"{len(data)} bytes")
        return data
    document = Fields(decode_json(data, "PCR values"), "PCR values")
    values = b""
    for bank, indices in banks:
        registers = document.fields(bank)
        for index in indices:
            text = registers.text(str(index), most=2 * SIZES[bank])
            value = bytes.fromhex(text) if len(text) == 2 * SIZES[bank] and set(text) <= set("0123456789abcdef") else b""
            if len(value) != SIZES[bank]:
                raise FormatError(f"PCR {index} of {bank}", f"{SIZES[bank]} bytes in lower-case hex", repr(text[:20]))
            values += value
    return values

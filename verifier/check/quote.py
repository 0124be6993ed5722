"""`verifier check quote`: a TPM quote, its signature, and the PCR values it covers."""

from __future__ import annotations

import argparse
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from verifier.check.finding import Finding, Options, read_file
from verifier.check.pcr_values import Banks, Values, read_pcr_values
from verifier.check.uefi_log import judge_log
from writ.formats.digest import hash_bytes
from writ.formats.errors import FormatError
from writ.formats.tpm.attest import TPM_GENERATED, QuoteInfo, parse_attest
from writ.formats.tpm.public import parse_any_public
from writ.formats.tpm.signature import ACCEPTED_HASHES, Signature, parse_signature, verify_with_key
from writ.formats.x509 import parse_certificate, parse_pem_certificates
from writ.formats.x509_key import CertificateKey, SignatureAlgorithm, certificate_key, signed_by

_BY_SIZE: Final = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
"""The hash of a plain signature is the one that made the PCR digest, told by its size."""


def check_quote(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. Structures. 2. TPM-made, and a quote. 3. Signature by the AK. 4. Nonce. 5. PCR values are those quoted. 6. The log leads to them.

    A signature with SHA-1 is verified, since real machines made such quotes,
    and `weak_signature` says so; attestation refuses it.

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
    key, scheme = _attestation_key(read_file(args.ak))
    signature = _signature(read_file(args.signature), key, _BY_SIZE.get(len(info.pcr_digest), "sha256"))
    finding.claims["weak_signature"] = signature.hash not in ACCEPTED_HASHES
    if scheme not in (None, (signature.algorithm, signature.hash)) or not _is_signed(signature, key, message):
        finding.refuse("signature-invalid", "signature", "a signature by the AK that was given", "another")
    if signature.hash not in ACCEPTED_HASHES:
        finding.note("algorithm-refused", "signature.hash", f"{' or '.join(ACCEPTED_HASHES)}, which attestation asks for", signature.hash)
    # 4
    if options.nonce is None:
        finding.note("nonce-unknown", "extra_data", "--nonce, to judge freshness", "none")
    elif quote.extra_data != options.nonce:
        finding.refuse("nonce-mismatch", "extra_data", options.nonce.hex(), quote.extra_data.hex())
    # 5, 6
    if args.pcrs is not None:
        _judge_pcrs(finding, args, info, signature.hash)
    elif args.log is not None:
        raise FormatError("--log", "--pcrs with the values that were quoted", "none")


def _judge_pcrs(finding: Finding, args: argparse.Namespace, info: QuoteInfo, hashed: str) -> None:
    """Values that the quote does not cover are named and go no further."""
    banks = info.selection.banks
    values = read_pcr_values(read_file(args.pcrs), banks)
    covered = _selected(values, banks)
    _name_uncovered(finding, values, banks)
    digest = hash_bytes(hashed, covered)
    if digest != info.pcr_digest:
        finding.refuse("pcr-digest-mismatch", "pcr_digest", info.pcr_digest.hex(), digest.hex())
    elif not any(covered):
        finding.refuse("pcr-digest-mismatch", "pcrs", "a PCR that is not zero", "zeros only")
    elif args.log is not None:
        judge_log(
            finding, read_file(args.log), {bank: {index: values[bank][index] for index in indices} for bank, indices in banks if indices}
        )


def _attestation_key(ak: bytes) -> tuple[CertificateKey, tuple[str, str | None] | None]:
    """The AK, and the scheme that its public area fixes. A certificate gives its key; who issued it is not judged here."""
    if ak.startswith(b"-----BEGIN CERTIFICATE"):
        return certificate_key(parse_pem_certificates(ak, "AK")[0].spki), None
    if ak.startswith(b"-----"):
        try:
            key = load_pem_public_key(ak)
        except Exception:  # noqa: BLE001 - the library has many ways to say no to rubbish, and all of them mean the same here
            raise FormatError("AK", "a public key or certificate in PEM", "something else") from None
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise FormatError("AK", "an RSA or ECC key", "another")
        return key, None
    if ak[:1] == b"\x30":
        try:
            return certificate_key(ak), None
        except FormatError:
            return certificate_key(parse_certificate(ak).spki), None
    public = parse_any_public(ak)
    return public.public_key(), None if public.scheme is None else (public.scheme.name, public.scheme.hash)


def _signature(data: bytes, key: CertificateKey, hashed: str) -> Signature:
    """A TPMT_SIGNATURE, or what `tpm2_quote -f plain` writes, whose hash is the one of the PCR digest. Raises FormatError."""
    if isinstance(key, rsa.RSAPublicKey) and len(data) == (key.key_size + 7) // 8:
        return Signature("rsassa", hashed, value=data)
    if isinstance(key, ec.EllipticCurvePublicKey) and data[:1] == b"\x30":
        try:
            r, s = decode_dss_signature(data)
        except ValueError:
            raise FormatError("signature", "an ECDSA signature in DER", "something else") from None
        if r < 1 or s < 1 or max(r, s) >= key.curve.group_order:
            raise FormatError("signature", "r and s below the order of the curve", "another number")
        size = (key.curve.key_size + 7) // 8
        return Signature("ecdsa", hashed, r=r.to_bytes(size, "big"), s=s.to_bytes(size, "big"))
    return parse_signature(data)


def _is_signed(signature: Signature, key: CertificateKey, message: bytes) -> bool:
    if signature.hash == "sha1" and signature.algorithm == "rsassa":
        return signed_by(message, signature.value, SignatureAlgorithm("rsa", "sha1"), key)
    return verify_with_key(signature, key, message)


def _selected(values: Values, banks: Banks) -> bytes:
    """The values of the selected PCRs in the order of the selection. Raises FormatError where one is missing."""
    found = b""
    for bank, indices in banks:
        for index in indices:
            value = values.get(bank, {}).get(index)
            if value is None:
                raise FormatError("PCR values", f"a value for PCR {index} of {bank}", "none")
            found += value
    return found


def _name_uncovered(finding: Finding, values: Values, banks: Banks) -> None:
    """Values that the quote does not cover prove nothing, and are said to."""
    covered = dict(banks)
    beyond = [f"{bank}:{index}" for bank, given in values.items() for index in given if index not in covered.get(bank, ())]
    if beyond:
        finding.note("pcr-selection-mismatch", "pcrs", "values of quoted PCRs only", f"also {', '.join(beyond)}")

"""`verifier check KIND`: one piece of evidence appraised offline, with no database and no network.

Each kind is a function from files to (claims, reasons): claims as far as the
file could be read, reasons empty where every check holds whose input was
given. A malformed file is `refused`, never a traceback.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from writ.formats.corim import MAX_SIZE as MAX_CORIM
from writ.formats.corim import parse_foreign_corim
from writ.formats.digest import SIZES, hash_bytes
from writ.formats.eat import parse_token
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.jose import verify_jws
from writ.formats.keys import PublicKey, key_id, parse_jwk
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_json
from writ.formats.tpm.attest import TPM_GENERATED, parse_attest
from writ.formats.tpm.public import parse_any_public
from writ.formats.tpm.signature import Signature, parse_signature, verify_signature, verify_with_key
from writ.formats.trust import ManufacturerRoot, Trust
from writ.formats.x509 import Certificate, parse_certificate, parse_pem_certificates, parse_stored_certificate
from writ.verdict.chain import verify_ek_chain

MAX_FILE: Final = 16 << 20


@dataclass(slots=True)
class Finding:
    """What one check found so far. `claims` fill up while the file is read, so that a refusal shows them too."""

    claims: dict[str, object] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    notes: list[Reason] = field(default_factory=list)

    def refuse(self, code: str, claim: str, expected: str, got: str) -> None:
        """One more reason why not."""
        self.reasons.append(Reason(code, claim, expected[:200], got[:200]))

    def note(self, code: str, claim: str, expected: str, got: str) -> None:
        """Something that was not judged, for want of an input; no refusal."""
        self.notes.append(Reason(code, claim, expected[:200], got[:200]))


@dataclass(frozen=True, slots=True)
class Options:
    """Inputs that several kinds share. `at` is in seconds since the epoch."""

    at: int
    nonce: bytes | None
    trust: Path | None


def check(kind: str, args: argparse.Namespace, *, now: int) -> dict[str, object]:
    """The one JSON object: kind, verdict, claims, reasons."""
    finding = Finding()
    try:
        options = Options(now if args.at is None else _seconds(args.at), None if args.nonce is None else _hex(args.nonce), args.trust)
        KINDS[kind](finding, args, options)
    except FormatError as error:
        finding.refuse("malformed", error.what, error.expected, error.got)
    except Refused as refused:
        finding.reasons.extend(refused.reasons)
    reasons = sorted(set(finding.reasons)) + sorted(set(finding.notes))
    return {
        "kind": kind,
        "verdict": "refused" if finding.reasons else "accepted",
        "claims": finding.claims,
        "reasons": [reason.to_json() for reason in reasons],
    }


def _seconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise FormatError("--at", "RFC 3339, as 2026-01-02T03:04:05Z", repr(text[:40])) from None
    if moment.tzinfo is None:
        raise FormatError("--at", "a time with its zone", repr(text[:40]))
    return int(moment.timestamp())


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise FormatError("--nonce", "hexadecimal", repr(text[:40])) from None


def read_file(path: Path, most: int = MAX_FILE) -> bytes:
    """The bytes of a file of at most `most`. Raises Unavailable or FormatError."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be read") from None
    if len(data) > most:
        raise FormatError(path.name, f"at most {most} bytes", "more")
    return data


# --- quote --------------------------------------------------------------------------------------------------------------


def _quote(finding: Finding, args: argparse.Namespace, options: Options) -> None:
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


# --- EK certificate -----------------------------------------------------------------------------------------------------


def _ek_cert(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. It parses. 2. It chains to a root of --trust, or is judged to its own top."""
    # 1
    chain = _certificates(read_file(args.file), args.file.name)
    leaf = chain[0]
    finding.claims |= {
        "manufacturer": leaf.tpm_manufacturer, "model": leaf.tpm_model, "version": leaf.tpm_version, "key": _spki_name(leaf),
    }  # fmt: skip
    # 2
    given = _trust_certificates(options.trust)
    roots = [c for c in given if c.is_self_issued and c.is_ca]
    others = [c.der for c in (*chain[1:], *given)]
    if options.trust is None:
        top = chain[-1]
        finding.claims["chain"] = f"to its own top only: {top.subject_text or top.serial}; --trust DIR judges it"
        if not top.is_ca:
            if not leaf.not_before <= options.at <= leaf.not_after:
                dates = f"{leaf.not_before} to {leaf.not_after}"
                finding.refuse("ek-certificate-refused", "ek_certificate.validity", f"valid at {options.at}", dates)
            finding.note("ek-certificate-refused", "ek_certificate.chain", "--trust DIR, or a chain up to a CA", "one certificate")
            return
        roots = [top]
    trust = Trust(
        "check", "check", tuple(sorted({ManufacturerRoot(c.subject_text[:255] or str(c.serial), "discrete", c.der) for c in roots})), (), ()
    )
    verified = verify_ek_chain((leaf.der, *others), trust, now=options.at)
    if options.trust is not None:
        finding.claims["chain"] = verified.root


def _certificates(data: bytes, what: str) -> tuple[Certificate, ...]:
    if b"-----BEGIN" in data:
        return parse_pem_certificates(data, what)
    try:
        return (parse_certificate(data),)
    except FormatError:
        return (parse_stored_certificate(data),)


def _trust_certificates(folder: Path | None) -> tuple[Certificate, ...]:
    if folder is None:
        return ()
    if not folder.is_dir():
        raise Unavailable("--trust", f"expected a directory of certificates, got {folder}")
    found: list[Certificate] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".pem", ".crt", ".cer", ".der"):
            found += _certificates(read_file(path), path.name)
    return tuple(found)


def _spki_name(certificate: Certificate) -> str:
    return f"sha256:{hash_bytes('sha256', certificate.spki).hex()}"


# --- CoRIM and token ----------------------------------------------------------------------------------------------------


def _corim(finding: Finding, args: argparse.Namespace, _: Options) -> None:
    corim = parse_foreign_corim(read_file(args.file), max_size=MAX_CORIM)
    finding.claims |= {
        "id": corim.id, "profile": corim.profile, "signed": corim.sign1 is not None, "coswids": corim.coswids, "cotls": corim.cotls,
        "comids": [{"id": c.id, "triples": {str(kind): count for kind, count in c.triples}, "digests": c.digests} for c in corim.comids],
    }  # fmt: skip
    if corim.sign1 is not None:
        finding.note("trust-root-unknown", "signature", "the publisher's key, which `reference import` takes", "none")


def _token(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. It is an execution token. 2. Its time. 3. Its signature, by a key of --trust (a JWKS file or a directory of them)."""
    # 1
    text = read_file(args.file).decode("ascii", "replace").strip()
    token = parse_token(text)
    c = token.claims
    finding.claims |= {
        "iss": c.issuer, "sub": str(c.agent), "aud": c.audience, "iat": c.issued_at, "exp": c.expires_at, "jti": c.token_id,
        "host": c.host, "instance": c.instance.hex(), "policy": str(c.policy), "result": str(c.result), "tpm_class": c.tpm_class,
        "runtime": c.runtime, "grants": [list(grant) for grant in c.grants], "exceptions": list(c.exceptions),
        "lineage": [parent.hex() for parent in c.lineage], "status_uri": c.status_uri, "status_index": c.status_index,
    }  # fmt: skip
    # 2
    if options.at >= c.expires_at:
        finding.refuse("token-expired", "exp", f"after {options.at}", str(c.expires_at))
    if c.issued_at > options.at + CLOCK_SKEW:
        finding.refuse("token-not-yet-valid", "iat", f"at most {options.at + CLOCK_SKEW}", str(c.issued_at))
    # 3
    if options.trust is None:
        finding.note("token-key-unknown", "signature", "--trust, a JWKS, to judge the signature", "none")
        return
    keys = {key_id(key): key for key in _jwks(options.trust)}
    key = keys.get(token.jws.kid or "")
    if key is None:
        finding.refuse("token-key-unknown", "kid", "a key of the JWKS", token.jws.kid or "none")
    elif not verify_jws(token.jws, key):
        finding.refuse("signature-invalid", "signature", "a signature by the key that the token names", "another")


def _jwks(path: Path) -> list[PublicKey]:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    keys: list[PublicKey] = []
    for file in files:
        f = Fields(decode_json(read_file(file), file.name), file.name)
        keys += [parse_jwk(item) for item in f.items("keys", most=64)]
    return keys


Kind = Callable[[Finding, argparse.Namespace, Options], None]
KINDS: Final[dict[str, Kind]] = {"quote": _quote, "ek-cert": _ek_cert, "corim": _corim, "token": _token}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verifier check`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--at", metavar="RFC3339", help="judge as of this time instead of now")
    shared.add_argument("--nonce", metavar="HEX", help="the challenge that the evidence must answer")
    shared.add_argument("--trust", type=Path, metavar="DIR", help="what is trusted: certificates, or a JWKS for tokens")
    shared.add_argument("--json", action="store_true", help="print one JSON object")
    quote = kinds.add_parser("quote", parents=[shared], help="a TPM quote")
    for name in ("ak", "message", "signature"):
        quote.add_argument(f"--{name}", type=Path, required=True, metavar="FILE")
    quote.add_argument("--pcrs", type=Path, metavar="FILE", help="PCR values: raw in the order of the selection, or JSON")
    for kind, text in (("ek-cert", "an EK certificate"), ("corim", "reference values"), ("token", "an execution token")):
        kinds.add_parser(kind, parents=[shared], help=text).add_argument("file", type=Path, metavar="FILE")


def shown(result: dict[str, Any]) -> int:
    """The exit code of a result: 0 accepted, 1 refused."""
    return 0 if result["verdict"] == "accepted" else 1

"""`verifier check azure-vtpm`: the HCL report of an Azure VM, the hardware that vouches for it, and its vTPM's quote."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from verifier.check.finding import Finding, Options, read_evidence
from verifier.check.snp import SnpFiles, first_judged, snp_claims, take, take_file, take_trust, veks_of
from verifier.check.tdx import given_collateral, policies, td_claims, verdict_claims
from writ.formats.byte_text import bytes_of_text
from writ.formats.errors import FormatError
from writ.formats.strict import decode_json
from writ.formats.tee.hcl import MAGIC, PCRS, HclReport, RuntimeClaims, VtpmQuote, parse_claims, parse_hcl, parse_vtpm_quote
from writ.formats.tee.snp import parse_report
from writ.formats.tee.tdx import Quote, parse_quote, read_quote_body
from writ.formats.tee.vek import Vek
from writ.formats.tpm.attest import TPM_GENERATED
from writ.verdict.amd_roots import amd_authorities
from writ.verdict.appraise.azure import DEFAULT_POLICY, AzurePolicy, SnpGiven, TdxGiven, appraise_hardware, appraise_vtpm
from writ.verdict.appraise.snp import AppraisedReport, order_veks
from writ.verdict.appraise.tdx import AppraisedQuote

_PCR: Final = 32
_MOST_JSON: Final = 1 << 20
_QUOTE_HEADS: Final = (b"\4\0\2\0\x81\0\0\0", b"\5\0\2\0\x81\0\0\0")
"""Version 4 or 5, a key on P-256, a TD."""


@dataclass(slots=True)
class _Parts:
    """The evidence as its files hold it."""

    hcl: bytes | None = None
    td_quote: bytes | None = None
    quote: VtpmQuote | None = None
    message: bytes | None = None
    signature: bytes | None = None
    pcrs: tuple[bytes, ...] | None = None
    ak: rsa.RSAPublicKey | None = None
    amd: SnpFiles = field(default_factory=SnpFiles)

    def put(self, name: str, value: object) -> None:
        """One part. Raises FormatError where another one is there already: nobody knows which is meant."""
        if getattr(self, name) not in (None, value):
            raise FormatError("files", f"one {name.replace('_', ' ')}", "two")
        setattr(self, name, value)

    @property
    def whole_quote(self) -> VtpmQuote | None:
        """The quote, of its parts if need be."""
        if self.quote is not None or self.message is None or self.signature is None:
            return self.quote
        return VtpmQuote(self.message, self.signature, self.pcrs)


def check_azure(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. The parts. 2. Hardware vouches for the HCL report. 3. Its AK signed the quote. What is not given is noted, or refused if it binds.

    Without an HCL report the AK is the one in PEM, which nothing vouches for.
    """
    # 1
    parts = _Parts()
    for path in args.files:
        _take_part(parts, read_evidence(path), path.name)
    ak, quote = parts.ak, parts.whole_quote
    if parts.hcl is None:
        finding.note("azure-part-missing", "hcl_report", "the report that binds the AK to hardware", "none")
        if ak is None or quote is None:
            raise FormatError("files", "an HCL report, or a quote and the AK in PEM", "neither")
        finding.claims["ak"] = _spki(ak)
    else:
        hcl = parse_hcl(parts.hcl)
        finding.claims |= {"report_type": hcl.report_type, "hcl_version": hcl.version, "report_data": hcl.claims_data.hex()}
        # 2
        _judge_hardware(finding, hcl, parts, args, options)
        claims = parse_claims(hcl.claims)
        finding.claims |= _of_claims(claims)
        if ak is not None and _spki(ak) != _spki(claims.ak):
            finding.refuse("azure-claims-unbound", "ak", _spki(claims.ak)[:64], _spki(ak)[:64])
        ak = claims.ak
    # 3
    if quote is None:
        finding.note("azure-part-missing", "quote", "the vTPM's quote, for PCRs and freshness", "none")
    else:
        _judge_quote(finding, quote, ak, options)


def _judge_hardware(finding: Finding, hcl: HclReport, parts: _Parts, args: argparse.Namespace, options: Options) -> None:
    if hcl.report_type == "SNP":
        _judge_snp(finding, hcl, parts.amd, args, options)
    elif hcl.report_type == "TDX":
        if parts.td_quote is None:
            finding.refuse("azure-part-missing", "td_quote", "the quote of the TD, without which nothing is signed", "none")
        else:
            _judge_tdx(finding, hcl, _td_quote(finding, parts.td_quote), args, options)
    else:
        finding.refuse("azure-report-refused", "report_type", "SNP or TDX", hcl.report_type)


def _judge_snp(finding: Finding, hcl: HclReport, files: SnpFiles, args: argparse.Namespace, options: Options) -> None:
    report = parse_report(hcl.hardware)
    finding.claims |= snp_claims(report)
    if hcl.claims_data != report.report_data:
        finding.refuse("azure-claims-unbound", "report_data", hcl.claims_data.hex(), report.report_data.hex())
        return
    if args.certs is not None:
        take(files, args.certs, "--certs")
    trusted = SnpFiles()
    anchors = take_trust(trusted, options)
    authorities = (*files.certificates, *trusted.certificates, *amd_authorities())
    crls = files.crls + trusted.crls

    def judge(vek: Vek) -> AppraisedReport | AppraisedQuote:
        return appraise_hardware(hcl, SnpGiven(vek, authorities, anchors, crls), at=options.at)

    found = first_judged(order_veks(report, veks_of(files.certificates)), judge)
    if not isinstance(found, AppraisedReport):
        finding.refuse("snp-key-missing", "signing_key", f"the certificate of the {report.signing_key} that signed it", "none")
        return
    how = "pinned root: " if options.trust is None else ""
    finding.claims |= {"product": found.product, "chain": how + found.chain}
    finding.reasons.extend(found.reasons)
    finding.notes.extend(found.notes)


def _td_quote(finding: Finding, data: bytes) -> Quote:
    """The TD's quote; what it says is in the claims, also where the rest of it cannot be read. Raises FormatError."""
    finding.claims |= td_claims(read_quote_body(data))
    return parse_quote(data)


def _judge_tdx(finding: Finding, hcl: HclReport, quote: Quote, args: argparse.Namespace, options: Options) -> None:
    collateral, anchors, qes = given_collateral(args, options)
    strict, lenient = policies(args, collateral, qes)
    given = TdxGiven(quote, collateral, anchors)
    found = appraise_hardware(hcl, given, at=options.at, policy=AzurePolicy(tdx=lenient))
    if not isinstance(found, AppraisedQuote):
        return
    finding.claims |= verdict_claims(found)
    finding.claims["chain"] = ("pinned root: " if options.trust is None else "") + found.anchor.subject_text
    finding.reasons.extend(found.reasons)
    strict = replace(strict, sept_ve_disable=DEFAULT_POLICY.tdx.sept_ve_disable)
    asked = appraise_hardware(hcl, given, at=options.at, policy=AzurePolicy(tdx=strict)).reasons
    finding.notes.extend({*found.notes, *asked} - {*found.reasons})


def _judge_quote(finding: Finding, quote: VtpmQuote, ak: rsa.RSAPublicKey, options: Options) -> None:
    if quote.pcrs is None:
        finding.note("azure-part-missing", "pcrs", "the values that were quoted", "none")
    found = appraise_vtpm(quote, ak, nonce=options.nonce)
    finding.claims |= {
        "extra_data": found.attest.extra_data.hex(), "clock": found.attest.clock, "reset_count": found.attest.reset_count,
        "pcrs": {str(index): value.hex() for index, value in found.pcrs.values},
    }  # fmt: skip
    finding.reasons.extend(one for one in found.reasons if one.code != "azure-part-missing")
    if options.nonce is None:
        finding.note("nonce-unknown", "extra_data", "--nonce, to judge freshness", "none")


def _of_claims(claims: RuntimeClaims) -> dict[str, object]:
    return {
        "ak": _spki(claims.ak), "ek": None if claims.ek is None else _spki(claims.ek), "vm_configuration": claims.vm_configuration,
        "user_data": claims.user_data,
    }  # fmt: skip


def _spki(key: rsa.RSAPublicKey) -> str:
    """A key as SubjectPublicKeyInfo in PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


# --- files


def _take_part(parts: _Parts, data: bytes, name: str) -> None:
    """Recognise a part by its content. Raises FormatError."""
    if data.startswith(MAGIC):
        parts.put("hcl", data)
    elif data.startswith(TPM_GENERATED.to_bytes(4, "big")):
        parts.put("message", data)
    elif data.startswith(_QUOTE_HEADS):
        parts.put("td_quote", data)
    elif data.lstrip()[:1] == b"{":
        _take_json(parts, data, name)
    elif b"-----BEGIN PUBLIC KEY" in data:
        parts.put("ak", _pem_key(data))
    elif b"-----BEGIN" in data or data[:1] == b"\x30":
        take_file(parts.amd, data, name)
    elif len(data) in (256, 384, 512) or data[:2] in (b"\0\x14", b"\0\x16"):
        parts.put("signature", data)
    elif len(data) == PCRS * _PCR:
        parts.put("pcrs", tuple(data[at : at + _PCR] for at in range(0, len(data), _PCR)))
    else:
        parts.put("quote", parse_vtpm_quote(data))


def _take_json(parts: _Parts, data: bytes, name: str) -> None:
    """Evidence as agents write it: bytes as a list of numbers (version 0), or as text in hexadecimal, base64 or PEM (version 1)."""
    value = decode_json(data, name, max_size=_MOST_JSON)
    if not isinstance(value, dict):
        raise FormatError(name, "an object", type(value).__name__)
    if value.get("version", 0) not in (0, 1):
        raise FormatError(f"{name}.version", "0 or 1", repr(value["version"])[:40])
    quote = value if "message" in value else value.get("tpm_quote", value.get("quote"))
    if quote is None and "hcl_report" not in value and "report" not in value:
        raise FormatError(name, "evidence with hcl_report and tpm_quote, or a quote", ", ".join(sorted(value))[:80])
    if quote is not None:
        parts.put("quote", _quote(quote, name))
    for member, part in (("report", "hcl"), ("hcl_report", "hcl"), ("td_quote", "td_quote")):
        if value.get(member) is not None:
            parts.put(part, _bytes(value[member], f"{name}.{member}"))
    if value.get("vcek") is not None:
        take_file(parts.amd, _bytes(value["vcek"], f"{name}.vcek"), f"{name}.vcek")


def _quote(value: object, name: str) -> VtpmQuote:
    if not isinstance(value, dict) or not isinstance(value.get("pcrs"), list):
        raise FormatError(f"{name}.quote", "message, signature and a list of pcrs", type(value).__name__)
    message, signature = (_bytes(value.get(member), f"{name}.{member}") for member in ("message", "signature"))
    return VtpmQuote(message, signature, tuple(_bytes(one, f"{name}.pcrs") for one in value["pcrs"]))


def _bytes(value: object, what: str) -> bytes:
    if isinstance(value, list):
        if not all(type(one) is int and 0 <= one < 256 for one in value):
            raise FormatError(what, "numbers 0 to 255", "others")
        return bytes(value)
    if not isinstance(value, str) or not value.isascii():
        raise FormatError(what, "a list of bytes, hexadecimal, base64 or PEM", type(value).__name__)
    if "-----BEGIN" in value:
        return value.encode("ascii")
    return bytes_of_text(value, what)


def _pem_key(data: bytes) -> rsa.RSAPublicKey:
    try:
        key = load_pem_public_key(data)
    except Exception:  # noqa: BLE001 - the library has many ways to say no to rubbish, and all of them mean the same here
        raise FormatError("AK", "a public key in PEM", "something else") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise FormatError("AK", "an RSA key", "another")
    return key

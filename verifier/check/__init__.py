"""`verifier check KIND`: one piece of evidence appraised offline, with no database and no network.

Each kind is a function from files to (claims, reasons): claims as far as the
file could be read, reasons empty where every check holds whose input was
given. A malformed file is `refused`, never a traceback.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from verifier.check.finding import Finding, Options
from writ.formats.errors import FormatError, Refused

Kind = Callable[[Finding, argparse.Namespace, Options], None]
Arguments = Callable[[argparse.ArgumentParser], None]


def _one_file(parser: argparse.ArgumentParser) -> None:
    """The arguments of a kind that reads one file."""
    parser.add_argument("file", type=Path, metavar="FILE")


def _of_quote(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verifier check quote`."""
    parser.add_argument(
        "--ak", type=Path, required=True, metavar="FILE", help="TPM2B_PUBLIC, TPMT_PUBLIC, or a key or certificate in PEM or DER"
    )
    parser.add_argument("--message", type=Path, required=True, metavar="FILE", help="the TPMS_ATTEST")
    parser.add_argument("--signature", type=Path, required=True, metavar="FILE", help="TPMT_SIGNATURE, or plain (RSA: bytes, ECDSA: DER)")
    parser.add_argument("--pcrs", type=Path, metavar="FILE", help="PCR values: raw, JSON, YAML of tpm2_pcrread, or a dump of tpm2_quote")
    parser.add_argument("--log", type=Path, metavar="FILE", help="UEFI event log, judged against the quoted PCRs; needs --pcrs")


def _of_uefi_log(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verifier check uefi-log`."""
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--pcrs", type=Path, metavar="FILE", help="the registers' values, as JSON: bank -> index -> hex (RTMRs: sha384, 0 to 3)"
    )


def _of_snp(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verifier check snp`."""
    parser.add_argument("file", type=Path, metavar="REPORT")
    parser.add_argument("--certs", type=Path, metavar="DIR", help="the VCEK's or VLEK's certificate, CAs and CRLs, in PEM or DER")


def _of_nvidia(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verifier check nvidia`."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="EVIDENCE",
        help="evidence as the SDK writes it, or a report (hex or binary) and its chain (PEM)",
    )
    parser.add_argument("--rims", type=Path, metavar="DIR", help="NVIDIA's RIMs, against which the measurements are judged")


def _of_tdx(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verifier check tdx`."""
    parser.add_argument("file", type=Path, metavar="QUOTE", help="as the kernel gives it, or in hexadecimal or base64")
    parser.add_argument(
        "--collateral", type=Path, action="append", default=[], metavar="FILE",
        help="of Intel's provisioning service: one JSON file with all of it, or each part by itself; a directory; may be repeated",
    )  # fmt: skip
    parser.add_argument("--log", type=Path, metavar="FILE", help="the CCEL, judged against the RTMRs of the quote")
    parser.add_argument("--accept", action="append", metavar="STATUS", help="TCB status that passes, may be repeated; else all but Revoked")


def _of_azure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verifier check azure-vtpm`."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="evidence as agents write it (JSON), or its parts: HCL report, vTPM quote, PCRs, certificates, TD quote",
    )  # fmt: skip
    parser.add_argument("--certs", type=Path, metavar="DIR", help="the VCEK's certificate, CAs and CRLs, in PEM or DER")
    parser.add_argument(
        "--collateral", type=Path, action="append", default=[], metavar="FILE", help="of Intel's provisioning service, as of `check tdx`"
    )
    parser.add_argument("--accept", action="append", metavar="STATUS", help="TCB status that passes, as of `check tdx`")


KINDS: Final[dict[str, tuple[str, Arguments]]] = {
    "quote": ("a TPM quote", _of_quote),
    "ima-log": ("an IMA measurement list", _one_file),
    "uefi-log": ("a UEFI event log", _of_uefi_log),
    "ek-cert": ("an EK certificate", _one_file),
    "snp": ("an AMD SEV-SNP report", _of_snp),
    "nvidia": ("NVIDIA GPUs and NVSwitches", _of_nvidia),
    "tdx": ("an Intel TDX or SGX quote", _of_tdx),
    "nitro": ("an AWS Nitro attestation document, of an enclave or a NitroTPM", _one_file),
    "azure-vtpm": ("an Azure confidential VM", _of_azure),
    "corim": ("reference values", _one_file),
    "token": ("an execution token", _one_file),
}
"""Kind -> what it is, and what it is given."""


def _judge(kind: str) -> Kind:
    """What judges it, loaded for it: every command of `verifier` has these kinds among its arguments, and few need one."""
    match kind:
        case "quote":
            from verifier.check.quote import check_quote

            return check_quote
        case "ima-log":
            from verifier.check.ima_log import check_ima_log

            return check_ima_log
        case "uefi-log":
            from verifier.check.uefi_log import check_uefi_log

            return check_uefi_log
        case "ek-cert":
            from verifier.check.ek_cert import check_ek_cert

            return check_ek_cert
        case "snp":
            from verifier.check.snp import check_snp

            return check_snp
        case "nvidia":
            from verifier.check.nvidia import check_nvidia

            return check_nvidia
        case "tdx":
            from verifier.check.tdx import check_tdx

            return check_tdx
        case "nitro":
            from verifier.check.nitro import check_nitro

            return check_nitro
        case "azure-vtpm":
            from verifier.check.azure import check_azure

            return check_azure
        case "corim":
            from verifier.check.corim import check_corim

            return check_corim
        case _:
            from verifier.check.token import check_token

            return check_token


def check(kind: str, args: argparse.Namespace, *, now: int) -> dict[str, object]:
    """The one JSON object: kind, verdict, claims, reasons."""
    finding = Finding()
    try:
        options = Options(now if args.at is None else _seconds(args.at), None if args.nonce is None else _hex(args.nonce), args.trust)
        _judge(kind)(finding, args, options)
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verifier check`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--at", metavar="RFC3339", help="judge as of this time instead of now")
    shared.add_argument("--nonce", metavar="HEX", help="the challenge that the evidence must answer")
    shared.add_argument("--trust", type=Path, metavar="DIR", help="what is trusted: certificates, or a JWKS for tokens")
    shared.add_argument("--json", action="store_true", help="print one JSON object")
    for kind, (text, arguments) in KINDS.items():
        arguments(kinds.add_parser(kind, parents=[shared], help=text))


def shown(result: dict[str, Any]) -> int:
    """The exit code of a result: 0 accepted, 1 refused."""
    return 0 if result["verdict"] == "accepted" else 1

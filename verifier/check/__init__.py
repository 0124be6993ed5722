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

from verifier.check import quote, uefi_log
from verifier.check.corim import check_corim
from verifier.check.ek_cert import check_ek_cert
from verifier.check.finding import Finding, Options
from verifier.check.ima_log import check_ima_log
from verifier.check.quote import check_quote
from verifier.check.token import check_token
from verifier.check.uefi_log import check_uefi_log
from writ.formats.errors import FormatError, Refused

Kind = Callable[[Finding, argparse.Namespace, Options], None]
Arguments = Callable[[argparse.ArgumentParser], None]


def one_file(parser: argparse.ArgumentParser) -> None:
    """The arguments of a kind that reads one file."""
    parser.add_argument("file", type=Path, metavar="FILE")


KINDS: Final[dict[str, tuple[str, Kind, Arguments]]] = {
    "quote": ("a TPM quote", check_quote, quote.add_arguments),
    "ima-log": ("an IMA measurement list", check_ima_log, one_file),
    "uefi-log": ("a UEFI event log", check_uefi_log, uefi_log.add_arguments),
    "ek-cert": ("an EK certificate", check_ek_cert, one_file),
    "corim": ("reference values", check_corim, one_file),
    "token": ("an execution token", check_token, one_file),
}
"""Kind -> what it is, what judges it, and what it is given."""


def check(kind: str, args: argparse.Namespace, *, now: int) -> dict[str, object]:
    """The one JSON object: kind, verdict, claims, reasons."""
    finding = Finding()
    try:
        options = Options(now if args.at is None else _seconds(args.at), None if args.nonce is None else _hex(args.nonce), args.trust)
        KINDS[kind][1](finding, args, options)
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
    for kind, (text, _, arguments) in KINDS.items():
        arguments(kinds.add_parser(kind, parents=[shared], help=text))


def shown(result: dict[str, Any]) -> int:
    """The exit code of a result: 0 accepted, 1 refused."""
    return 0 if result["verdict"] == "accepted" else 1

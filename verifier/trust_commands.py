"""The verbs of `verifier trust`."""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

from verifier.check.finding import read_file
from verifier.commands import connected, group, show, text, verb, write
from writ.formats.errors import FormatError
from writ.service import cli


def add_verbs(verbs: Any) -> None:
    """`trust` and its verbs."""
    trust = group(verbs, "trust", "trust anchors: fetch, import, show, export")
    made = verb(trust, "fetch", "get the pinned manufacturer roots from where they are published", _fetch, remote=False)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the certificates are written")
    made.add_argument("--manufacturer", action="append", metavar="ID", help="only this TCG vendor id, such as IFX; may be repeated")
    made.add_argument("--list", type=Path, metavar="FILE", help="another list of pinned roots (default: the product's)")
    made.add_argument("--tls-ca", type=Path, metavar="FILE", help="CAs for TLS instead of the system's")
    made = verb(trust, "import", "believe pinned roots, CAs below them, CRLs and OCSP responses; or roots that you vouch for", _import)
    made.add_argument("path", type=Path, nargs="*", metavar="FILE|DIR")
    made.add_argument(
        "--tpm-class", choices=("discrete", "firmware", "virtual", "software"), help="you vouch for the roots among the files"
    )
    made.add_argument(
        "--require-crl",
        action=argparse.BooleanOptionalAction,
        help="refuse a TPM without a fresh CRL or OCSP response at each issuer above it",
    )
    made.add_argument("--crl-max-age", type=int, metavar="SECONDS", help="how old a CRL or OCSP response may be (default: 604800)")
    made.add_argument("--accept-sha1", action=argparse.BooleanOptionalAction, help="believe old chains signed with SHA-1")
    verb(trust, "show", "what is believed", _show)
    verb(trust, "export", "write the trust file for auditors", _export).add_argument("--out", type=Path, required=True)


def _fetch(args: argparse.Namespace) -> int:
    from verifier.manufacturers import parse_pinned_roots, pinned_roots
    from verifier.trust_fetch import fetch_roots

    pinned = pinned_roots() if args.list is None else parse_pinned_roots(text(args.list))
    unknown = set(args.manufacturer or ()) - {root.manufacturer for root in pinned}
    if unknown:
        raise FormatError("--manufacturer", "an id of the list", ", ".join(sorted(unknown)))
    wanted = [root for root in pinned if not args.manufacturer or root.manufacturer in args.manufacturer]
    fetched = fetch_roots(wanted, args.out, ca_file=args.tls_ca)
    cli.emit({"roots": [one.to_json() for one in fetched]}, args.json)
    outcomes = {one.outcome for one in fetched}
    return cli.REFUSED if "refused" in outcomes else cli.COULD_NOT if "unreachable" in outcomes else cli.ACCEPTED


def _import(args: argparse.Namespace) -> int:
    """1. The files, those of directories too. 2. With --tpm-class their certificates are vouched for; nothing else is. 3. The rules."""
    from verifier.manufacturers import OFFERED, Offered, vouched
    from writ.formats.crl import MAX_CRL

    # 1
    paths = [one for path in args.path for one in (sorted(path.iterdir()) if path.is_dir() else [path])]
    named = [one for one in paths if one in args.path or (one.suffix.lower() in OFFERED and one.is_file())]
    files = [Offered(one.name, read_file(one, 2 * MAX_CRL)) for one in named]
    chosen = {"crl_required": args.require_crl, "crl_max_age": args.crl_max_age, "sha1": args.accept_sha1}
    if not files and all(value is None for value in chosen.values()):
        raise FormatError("FILE|DIR", f"a file, a folder with files of {', '.join(sorted(OFFERED))}, or a rule", "none")
    # 2
    pem, rest = vouched(files) if args.tpm_class else ("", files)
    client = connected(args)
    body: dict[str, Any] = {"files": [{"name": one.name, "data": base64.b64encode(one.data).decode("ascii")} for one in rest]}
    if pem:
        body |= {"pem": pem, "tpm_class": args.tpm_class}
    # 3
    if any(value is not None for value in chosen.values()):
        body["rules"] = {**client.get("/v1/trust")["rules"], **{key: value for key, value in chosen.items() if value is not None}}
    answer = client.post("/v1/trust", body)
    cli.emit({key: answer[key] for key in ("digest", "added", "refused")}, args.json)
    return cli.refused(one["code"] for one in answer["refused"]) if answer["refused"] else cli.ACCEPTED


def _show(args: argparse.Namespace) -> int:
    return show(args, _without_file(connected(args).get("/v1/trust")))


def _without_file(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "file"}


def _export(args: argparse.Namespace) -> int:
    answer = connected(args).get("/v1/trust")
    write(args.out, base64.b64decode(answer["file"]))
    return show(args, {"file": str(args.out), "digest": answer["digest"]})

"""The `auditor` command: proves offline what happened, from files and trust anchors alone.

Each verb imports what it needs when it is called: the policy engine, a server's modules.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import lineage
from auditor.files import archive_of, read, write
from auditor.log import command as log
from auditor.moment import seconds
from auditor.replay import command as replay
from auditor.report import command as report
from writ.formats.archive import encode_archive
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.trust import MAX_TRUST, parse_trust
from writ.service import cli, observe

if TYPE_CHECKING:
    from writ.verdict.proof import ProvenAction
    from writ.verdict.token_proof import ProvenToken

_FOREVER = (1 << 53) - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit 0: proven; 1: refused; 2: misuse; 3: could not, also where what is at hand does not tell."""
    return cli.run(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    parser = cli.parser("auditor", "Prove offline, from files and trust anchors, what agents did and on which machines.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    v = verbs.add_parser("verify", help="prove one action, one token or a range of records: from a TPM manufacturer's root to the record")
    v.add_argument("bundle", type=Path, help="a proof bundle, or a range bundle")
    v.add_argument("--trust", type=Path, required=True, help="the trust file: TPM roots, decision keys, and keys of the log")
    v.add_argument("--policy", type=Path, metavar="FILE", help="whose cosignatures the log's checkpoints need: a tlog-policy")
    v.add_argument("--explain", action="store_true", help="each step with what was checked against what")
    cli.add_json_flag(v)
    x = verbs.add_parser("export", help="make proof bundles from archives of verifier and enforcer")
    x.add_argument("source", type=Path, nargs="+", help="archives: `verifier export`, `enforcer log export`")
    made = x.add_mutually_exclusive_group(required=True)
    made.add_argument("--out", type=Path, help="directory for the bundles, one file an action")
    made.add_argument("--range", type=Path, metavar="FILE", help="one bundle of all records of --agent in the time: none is left out")
    x.add_argument("--tokens", action="store_true", help="with --out: a bundle of each token instead, used or not")
    x.add_argument("--log", metavar="LOG", help="with --range: the verifier's log, a directory or an address")
    x.add_argument("--trust", type=Path, metavar="FILE", help="with --range: the trust file")
    x.add_argument("--ca-file", type=Path, metavar="FILE", help="with --log: CA certificates for https; the system's by default")
    x.add_argument("--agent", help="only this agent (SPIFFE id)")
    x.add_argument("--from", dest="earliest", type=seconds, default=0, metavar="RFC3339")
    x.add_argument("--to", dest="latest", type=seconds, default=_FOREVER, metavar="RFC3339")
    cli.add_json_flag(x)
    _add_trace(verbs)
    lineage.add_parser(verbs)
    log.add_parser(verbs)
    replay.add_parsers(verbs)
    report.add_parser(verbs)
    _add_witness(verbs)
    _add_store(verbs)
    args = parser.parse_args(argv)
    if args.verb == "log":
        return log.run(args)
    if args.verb == "replay":
        return replay.replay(args, archive_of(args.source), parse_trust(read(args.trust, MAX_TRUST)))
    if args.verb == "report":
        return report.run(args)
    if args.verb == "engine":
        return replay.engine(args)
    if args.verb == "witness":
        return _witness(args)
    if args.verb == "store":
        return _store(args)
    if args.verb == "verify":
        return _verify(args)
    if args.verb == "lineage":
        return lineage.run(args)
    if args.verb == "trace":
        from auditor import trace

        return _refusing(args, lambda: trace.run(args))
    return _export(args)


def _add_trace(verbs: Any) -> None:
    made = verbs.add_parser("trace", help="prove one action or one token, and write a TRACE v0.2 record that names the bundle")
    made.add_argument("bundle", type=Path, help="a proof bundle, which the record is handed on with")
    made.add_argument("--trust", type=Path, required=True, help="the trust file")
    made.add_argument("--policy", type=Path, metavar="FILE", help="whose cosignatures the log's checkpoints need: a tlog-policy")
    made.add_argument("--key", type=Path, required=True, metavar="FILE", help="who signs the record: an Ed25519 key, PKCS#8 PEM")
    made.add_argument("--model", required=True, metavar="PROVIDER/MODEL", help="which model the agent asks: your word, no bundle holds it")
    made.add_argument("--data-class", required=True, metavar="CLASS", help="such as internal: your word, too")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="the record, JSON")
    cli.add_json_flag(made)


def _add_witness(verbs: Any) -> None:
    group = verbs.add_parser("witness", help="cosign the checkpoints of logs, so that none shows two histories: init, serve, vkey")
    does = group.add_subparsers(dest="does", required=True, metavar="VERB")
    made = does.add_parser("init", help="make a witness: its key and its state; prints its public key")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("--name", required=True, help="an address without a scheme, such as witness.example.org/w1, and nobody else's")
    cli.add_json_flag(made)
    made = does.add_parser("vkey", help="print the public key, for logs and whoever relies on the witness")
    made.add_argument("folder", type=Path, metavar="DIR")
    cli.add_json_flag(made)
    made = does.add_parser("serve", help="serve HTTP until stopped: C2SP tlog-witness")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("--logs", type=Path, required=True, metavar="FILE", help="the logs that are cosigned: a tlog-policy")
    _add_listen(made, 8414)


def _add_listen(made: argparse.ArgumentParser, port: int) -> None:
    listen = f"127.0.0.1:{port}"
    made.add_argument("--listen", default=listen, metavar="ADDRESS:PORT", help=f"default: {listen}; elsewhere takes TLS")
    made.add_argument("--prefix", default="", metavar="PATH", help="what stands before the paths, such as /w1")
    made.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    made.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    made.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))


def _add_store(verbs: Any) -> None:
    group = verbs.add_parser("store", help="keep the records of hosts off the hosts, written once: init, serve, vkey, export")
    does = group.add_subparsers(dest="does", required=True, metavar="VERB")
    made = does.add_parser("init", help="make a store: its key and its file; prints its public key")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("--name", required=True, help="an address without a scheme, such as store.example.org, and nobody else's")
    cli.add_json_flag(made)
    made = does.add_parser("vkey", help="print the public key, for record_store_key of the hosts")
    made.add_argument("folder", type=Path, metavar="DIR")
    cli.add_json_flag(made)
    made = does.add_parser("serve", help="serve HTTP until stopped: take records, and give receipts")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("--hosts", type=Path, required=True, metavar="FILE", help="keys of the hosts that may write: a tlog-policy")
    made.add_argument("--most-bytes", type=int, default=1 << 40, metavar="BYTES", help="what the file may grow to (default: 1 TiB)")
    share = "what one host may make it grow by (default: an equal part of --most-bytes for each host)"
    made.add_argument("--most-bytes-host", type=int, metavar="BYTES", help=share)
    made.add_argument("--show-entries", action="store_true", help="serve the records too, to whoever reaches the address")
    _add_listen(made, 8415)
    made = does.add_parser("export", help="write the archive that export, lineage and replay read")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("instance", nargs="*", type=bytes.fromhex, help="these, in hex; none for all")
    made.add_argument("--output", type=Path, required=True, metavar="FILE")
    made.add_argument("--host", action="append", default=[], metavar="NAME", help="logs of this host alone, as --hosts of serve names it")
    made.add_argument("--keys", type=Path, metavar="DIR", help="what was kept of a host's keys: NAMESPACE.key, and INSTANCE.key of each")
    cli.add_json_flag(made)


def _store(args: argparse.Namespace) -> int:
    from auditor.store import serve  # a server's modules, which no other verb needs

    if args.does == "serve":
        from auditor.serving.listen import parse_listen

        observe.configure(sys.stderr, args.log_level)
        listen = parse_listen(args.listen, args.prefix, args.tls_cert, args.tls_key)
        serve.serve(args.folder, args.hosts, listen, quota=args.most_bytes, share=args.most_bytes_host, shows=args.show_entries)
        return 0
    if args.does == "export":
        from auditor.store.export import export

        archive = export(args.folder, args.instance, args.keys, args.host)
        write(args.output, encode_archive(archive))
        cli.emit({"exported": str(args.output), "instances": len(archive.logs)}, args.json)
        return 0
    from auditor.serving import folder

    key = serve.init(args.folder, args.name) if args.does == "init" else folder.vkey(args.folder)
    if args.json:
        cli.emit({"vkey": str(key)}, as_json=True)
    else:
        print(key)
    return 0


def _witness(args: argparse.Namespace) -> int:
    if args.does == "serve":
        from auditor.serving.listen import parse_listen  # a server's modules, which no other verb needs
        from auditor.witness import serve

        observe.configure(sys.stderr, args.log_level)
        serve.serve(args.folder, args.logs, parse_listen(args.listen, args.prefix, args.tls_cert, args.tls_key))
        return 0
    from auditor.serving import folder
    from auditor.witness import directory

    key = directory.init(args.folder, args.name) if args.does == "init" else folder.vkey(args.folder)
    if args.json:
        cli.emit({"vkey": str(key)}, as_json=True)
    else:
        print(key)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from auditor import ranges
    from auditor import verify as proofs
    from writ.formats.range_bundle import MAX_RANGE, is_range_bundle

    as_json = args.json
    if is_range_bundle(data := read(args.bundle, MAX_RANGE)):
        return _refusing(args, lambda: ranges.verify(data, args.trust, args.policy, as_json=as_json, explain=args.explain))
    try:
        proven = proofs.verify(args.bundle, args.trust, args.policy)
    except (Refused, FormatError) as error:
        if not as_json:
            if isinstance(error, FormatError):
                raise Refused(Reason("malformed", error.what, error.expected, error.got)) from None
            raise
        reasons = error.reasons if isinstance(error, Refused) else (Reason("malformed", error.what, error.expected, error.got),)
        cli.emit({"verdict": "refused", "reasons": [reason.to_json() for reason in reasons]}, as_json=True)
        return cli.refused(reason.code for reason in reasons)
    if as_json:
        cli.emit(proofs.report(proven), as_json=True)
        return 0
    for step in proven.steps:
        print(cli.printable(f"  {step.number}. {step.what}"))
        if args.explain:
            print(cli.printable(f"     {step.checked}"))
    for line in _proven(proven):
        print(cli.printable(line))
    return 0


def _refusing(args: argparse.Namespace, verb: Callable[[], int]) -> int:
    """What the verb answers; a refusal as JSON where that was asked for."""
    try:
        return verb()
    except Refused as error:
        if not args.json:
            raise
        cli.emit(cli.refusal(error.reasons), as_json=True)
        return cli.refused(reason.code for reason in error.reasons)


def _proven(proven: ProvenAction | ProvenToken) -> tuple[str, str]:
    from writ.verdict.token_proof import ProvenToken

    if isinstance(proven, ProvenToken):
        chain, claims = proven, proven.token.claims
        what = f"proven: token {claims.token_id} of {claims.agent} was issued at {_moment(chain.attested_at)}"
    else:
        chain, record = proven.chain, proven.record
        said = "permitted" if record.permit else "refused"
        what = f"proven: {record.action} on {record.resource} by {proven.opening.agent} was {said} at {_moment(record.decided_at)}"
    return what, f"        on host {chain.host.host}, {chain.host.tpm_class} TPM of {chain.tpm_root}, runtime {chain.runtime}"


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _export(args: argparse.Namespace) -> int:
    if args.earliest > args.latest:
        raise FormatError("--from, --to", "a time and one that is not before it", f"{_moment(args.earliest)}, {_moment(args.latest)}")
    if args.range is not None:
        from auditor import ranges

        return _refusing(args, lambda: ranges.export(args))
    from auditor.export import Chains, Wanted
    from writ.formats.proof_bundle import TokenProof, encode_proof_bundle

    out: Path = args.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable("--out", f"expected a directory, or a place for one, at {out}: {error.strerror}") from None
    written: list[str] = []
    missing: list[dict[str, Any]] = []
    wanted = Wanted(args.agent, args.earliest, args.latest)
    chains = Chains(archive_of(args.source))
    for instance, which, bundle in chains.tokens(wanted) if args.tokens else chains.bundles(wanted):
        name = f"{instance.hex()}-{which}.writ-proof"
        if isinstance(bundle, TokenProof):
            write(out / name, encode_proof_bundle(bundle))
            written.append(name)
        else:
            missing.append({"record": name, "reasons": [reason.to_json() for reason in bundle.reasons]})
    if args.json:
        cli.emit({"written": written, "missing": missing}, as_json=True)
    else:
        for name in written:
            print(out / name)
        for item in missing:
            lacks = "; ".join(f"{one['claim']}: expected {one['expected']}, got {one['got']}" for one in item["reasons"])
            print(cli.printable(f"no bundle for {item['record']}: {lacks}"), file=sys.stderr)
        if not written and not missing:
            print("nothing in the archives was asked for: compare --agent, --from and --to, and --tokens", file=sys.stderr)
    return 1 if missing or not written else 0


if __name__ == "__main__":
    sys.exit(main())

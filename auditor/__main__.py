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

from auditor.arguments import parse
from auditor.files import read, write
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.service import cli, observe

if TYPE_CHECKING:
    from writ.verdict.proof import ProvenAction
    from writ.verdict.token_proof import ProvenToken


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit 0: proven; 1: refused; 2: misuse; 3: could not, also where what is at hand does not tell."""
    return cli.run(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    args = parse(argv)
    if args.verb == "log":
        from auditor.log import command as log

        return log.run(args)
    if args.verb in ("replay", "engine"):
        return _replay(args)
    if args.verb == "report":
        from auditor.report import command as report

        return report.run(args)
    if args.verb == "witness":
        return _witness(args)
    if args.verb == "store":
        return _store(args)
    if args.verb == "verify":
        return _verify(args)
    if args.verb == "lineage":
        from auditor import lineage

        return lineage.run(args)
    if args.verb == "trace":
        from auditor import trace

        return _refusing(args, lambda: trace.run(args))
    return _export(args)


def _replay(args: argparse.Namespace) -> int:
    from auditor.replay import command as replay

    if args.verb == "engine":
        return replay.engine(args)
    from auditor.files import archive_of
    from writ.formats.trust import MAX_TRUST, parse_trust

    return replay.replay(args, archive_of(args.source), parse_trust(read(args.trust, MAX_TRUST)))


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
        from writ.formats.archive import encode_archive

        archive = export(args.folder, args.instance, args.keys, args.host)
        write(args.output, encode_archive(archive))
        cli.emit({"exported": str(args.output), "instances": len(archive.logs)}, args.json)
        return 0
    if args.does == "acts":
        return _operators(args)
    from auditor.serving import folder

    key = serve.init(args.folder, args.name) if args.does == "init" else folder.vkey(args.folder)
    if args.json:
        cli.emit({"vkey": str(key)}, as_json=True)
    else:
        print(key)
    return 0


def _operators(args: argparse.Namespace) -> int:
    """0; 1 where something stands against what a host shipped."""
    from auditor.store.acts import operators

    found = operators(args.folder, args.keys)
    reasons = [reason for one in found for reason in one.reasons]
    said = cli.refusal(reasons) if reasons else {"verdict": "accepted", "reasons": []}
    cli.emit({**said, "hosts": [one.to_json() for one in found]}, args.json)
    return cli.REFUSED if reasons else cli.ACCEPTED


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
    from auditor.files import archive_of
    from writ.formats.proof_bundle import TokenProof, encode_proof_bundle
    from writ.formats.trust import MAX_TRUST, parse_trust

    out: Path = args.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable("--out", f"expected a directory, or a place for one, at {out}: {error.strerror}") from None
    written: list[str] = []
    missing: list[dict[str, Any]] = []
    wanted = Wanted(args.agent, args.earliest, args.latest)
    trust = None if args.trust is None else parse_trust(read(args.trust, MAX_TRUST))
    chains = Chains(archive_of(args.source), trust)
    for instance, which, bundle in chains.tokens(wanted) if args.tokens else chains.bundles(wanted):
        name = f"{instance.hex()}-{which}.writ-proof"
        if isinstance(bundle, TokenProof):
            write(out / name, encode_proof_bundle(bundle))
            written.append(name)
        else:
            missing.append({"record": name, "reasons": [reason.to_json() for reason in bundle.reasons]})
    if args.json:
        cli.emit({"written": written, "missing": missing, "passed_over": chains.passed_over}, as_json=True)
    else:
        for name in written:
            print(out / name)
        for item in missing:
            lacks = "; ".join(f"{one['claim']}: expected {one['expected']}, got {one['got']}" for one in item["reasons"])
            print(cli.printable(f"no bundle for {item['record']}: {lacks}"), file=sys.stderr)
        if chains.passed_over:
            print(f"{chains.passed_over} entries passed over: none, or by no decision key of the trust file", file=sys.stderr)
        if not written and not missing:
            print("nothing in the archives was asked for: compare --agent, --from and --to, and --tokens", file=sys.stderr)
    return 1 if missing or not written else 0


if __name__ == "__main__":
    sys.exit(main())

"""`auditor log verify|mirror|diff`: the command lines, and what they print."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from auditor.log.actions import Handed, handed
from auditor.log.diff import diff
from auditor.log.mirror import CHECKPOINTS, EVIDENCE, mirror, seen_in
from auditor.log.source import is_address, open_source, parse_served, read_checkpoint, read_file
from auditor.log.verify import Content, Report, verify
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, Checkpoint
from writ.formats.tlog.cosignature import MAX_POLICY, parse_policy
from writ.formats.tlog.note import PLAIN, NoteKey
from writ.formats.trust import MAX_TRUST, Trust, parse_trust
from writ.service import cli
from writ.verdict.log_audit import LogTrust, Speaker


def run(args: argparse.Namespace) -> int:
    """Run one of them. 0: accepted, or of `diff` same or longer; 1: a finding; 2: misuse; 3: could not."""
    trust = None if args.trust is None else parse_trust(_read(args.trust, MAX_TRUST))
    believed = _log_trust(trust, args.log_key, args.policy)
    try:
        match args.log_verb:
            case "verify":
                return _verify(args, trust, believed)
            case "mirror":
                return _mirror(args, believed)
            case _:
                return _diff(args, believed)
    except Refused as error:
        if not args.json:
            raise
        cli.emit(cli.refusal(error.reasons), as_json=True)
        return cli.REFUSED


def _read(path: Path, most: int) -> bytes:
    data = read_file(path, most)
    if data is None:
        raise Unavailable(str(path), "no such file")
    if len(data) > most:
        raise FormatError(str(path), f"at most {most} bytes", "a larger file")
    return data


def _log_trust(trust: Trust | None, named: Sequence[NoteKey], policy_file: Path | None) -> LogTrust:
    policy = None if policy_file is None else parse_policy(_read(policy_file, MAX_POLICY))
    keys = (*(trust.log_keys if trust else ()), *named, *(key for key, _ in (policy.logs if policy else ())))
    if not keys or any(key.kind != PLAIN for key in keys):
        got = "a witness's" if keys else "none"
        raise FormatError("log key", "one of the log: by --log-key, --policy, or in the file of --trust", got)
    return LogTrust(keys, policy)


def _verify(args: argparse.Namespace, trust: Trust | None, believed: LogTrust) -> int:
    if trust is None and args.silence is not None:
        raise FormatError("--silence", "--trust beside it, for times are in the decisions", "none")
    if trust is None and args.actions is not None:
        raise FormatError("--actions", "--trust beside it, for checkpoints are in the decisions", "none")
    if args.host and args.actions is None:
        raise FormatError("--host", "--actions beside it", "none")
    given = None if args.actions is None else handed(args.actions, args.host)
    remote = is_address(args.source)
    kept = [one.checkpoint for one in (() if remote else seen_in(Path(args.source), believed, CHECKPOINTS, EVIDENCE))]
    if args.since is not None:
        kept.append(believed.verify_kept(parse_served(_read(args.since, MAX_CHECKPOINT), str(args.since))))
    until = int(time.time()) if args.until is None and remote else args.until
    with open_source(args.source, args.ca_file) as source:
        signed = read_checkpoint(source)
        checkpoint = believed.verify(signed)
        speaker = None if trust is None else Speaker.of(trust, believed.key_of(signed))
        content = None if speaker is None else Content(speaker, CLOCK_SKEW if args.skew is None else args.skew, args.silence, until)
        report = verify(source, checkpoint, kept, content, given)
    report.steps.insert(0, signed_step(checkpoint, believed))
    return _show(args, report, checkpoint, given)


def signed_step(checkpoint: Checkpoint, believed: LogTrust) -> str:
    """The first step: whose checkpoint it is."""
    quorum = "no witnesses asked" if believed.policy is None else f"cosigned by the quorum {believed.policy.quorum}"
    return f"checkpoint: {checkpoint.origin}, size {checkpoint.size}, signed by the log's key, {quorum}"


def _show(args: argparse.Namespace, report: Report, checkpoint: Checkpoint, given: Handed | None) -> int:
    unknown = None if given is None else given.unknown()
    judged = None if given is None else given.judged
    if args.json:
        verdict = cli.refusal(report.reasons) if report.reasons else {"verdict": "incomplete" if unknown else "accepted", "reasons": []}
        counts = {} if judged is None else {"records": judged.records, "since": judged.since, "without_token": list(judged.without_token)}
        cli.emit({**verdict, "log": _named(checkpoint), **counts, "steps": report.steps}, as_json=True)
        return cli.REFUSED if report.reasons else cli.COULD_NOT if unknown else cli.ACCEPTED
    _explain(args, report.steps)
    if report.reasons:
        raise Refused(*report.reasons)
    if unknown is not None:
        raise unknown
    if judged is not None:
        print(f"lineage: {judged.records} records, {judged.since} of them since the last checkpoint that was carried")
    print(f"whole: {checkpoint.origin} at size {checkpoint.size}, root {checkpoint.root.hex()}")
    return cli.ACCEPTED


def _named(checkpoint: Checkpoint) -> dict[str, object]:
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def _explain(args: argparse.Namespace, steps: Sequence[str]) -> None:
    if args.explain:
        for number, step in enumerate(steps, 1):
            print(f"  {number}. {cli.printable(step)}")


def _mirror(args: argparse.Namespace, believed: LogTrust) -> int:
    with open_source(args.source, args.ca_file) as source:
        done = mirror(source, args.mirror, believed)
    if args.json:
        shown = {"verdict": "accepted", "reasons": [], "log": _named(done.checkpoint), "new": done.new, "steps": list(done.steps)}
        cli.emit(shown, as_json=True)
        return cli.ACCEPTED
    _explain(args, done.steps)
    print(f"mirrored: {done.checkpoint.origin} at size {done.checkpoint.size}, {done.new} entries new")
    return cli.ACCEPTED


def _diff(args: argparse.Namespace, believed: LogTrust) -> int:
    with open_source(args.a, args.ca_file) as a, open_source(args.b, args.ca_file) as b:
        compared = diff(a, b, believed)
    forked = compared.parts_at is not None
    shown = compared.to_json()
    if args.json:
        verdict = cli.refusal([compared.fork()]) if forked else {"verdict": "accepted", "reasons": []}
        cli.emit({**verdict, **shown, "steps": list(compared.steps)}, as_json=True)
        return cli.REFUSED if forked else cli.ACCEPTED
    _explain(args, compared.steps)
    if forked:
        cli.emit({"checkpoints": shown["checkpoints"]}, as_json=False)
        raise Refused(compared.fork())
    print(f"{compared.relation}: {compared.a.checkpoint.size} and {compared.b.checkpoint.size} entries")
    return cli.ACCEPTED

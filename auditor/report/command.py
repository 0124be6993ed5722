"""The verb `report`: all that the auditor can judge of a site, judged, and written as one page with findings first."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from auditor.engines import Engines
from auditor.files import archive_of, read, write
from auditor.log.actions import handed
from auditor.log.command import signed_step
from auditor.log.source import is_address, open_source, read_checkpoint
from auditor.log.verify import Content, Report, verify
from auditor.objects import tokens_of
from auditor.report.content import Actions, Hosts, exceptions
from auditor.report.page import Markup, bars, page, table, tag
from writ.formats.archive import Archive
from writ.formats.errors import Misuse
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.reason import Reason
from writ.formats.tlog.cosignature import MAX_POLICY, parse_policy
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.trust import MAX_TRUST, Trust, parse_trust
from writ.service import cli
from writ.service.engine_id import installed_engine
from writ.verdict.action_audit import JudgedActions
from writ.verdict.log_audit import LogTrust, Speaker

MOST: Final = 200
"""Rows of a kind; what is beyond is counted."""


@dataclass(slots=True)
class Judged:
    """What came of all of it."""

    log: Report
    name: str
    hosts: Hosts
    actions: JudgedActions
    archive: Archive
    replayed: dict[str, int] = field(default_factory=dict)
    engines: list[str] = field(default_factory=list)
    reasons: list[tuple[str, Reason]] = field(default_factory=list)
    """Findings: of what, and why."""
    open: list[str] = field(default_factory=list)
    """What nobody can say with what is at hand."""
    erased: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """`refused` with a finding, `incomplete` with something that is not at hand."""
        return "refused" if self.reasons else "incomplete" if self.open else "accepted"


def run(args: argparse.Namespace) -> int:
    """The page is written. 0: no finding, and nothing was lacking; 1: a finding; 3: something could not be judged."""
    trust = parse_trust(read(args.trust, MAX_TRUST))
    judged = _judge(args, trust)
    write(args.output, page("Audit report", _sections(args, trust, judged)))
    counts = {"verdict": judged.verdict, "findings": len(judged.reasons), "open": len(judged.open), "page": str(args.output)}
    if args.json:
        cli.emit({**counts, "reasons": [one.to_json() for _, one in judged.reasons]}, as_json=True)
    else:
        print(f"{judged.verdict}: {len(judged.reasons)} findings, {len(judged.open)} things that are not at hand; {args.output}")
    return {"refused": cli.REFUSED, "incomplete": cli.COULD_NOT, "accepted": cli.ACCEPTED}[judged.verdict]


# --- judged ---------------------------------------------------------------------------------------------------------------


def _judge(args: argparse.Namespace, trust: Trust) -> Judged:
    given = handed(args.source, ())
    archive = Archive((), (), (), ()) if given.logs.forks else archive_of(args.source)
    hosts = Hosts(tokens_of(archive.tokens))
    given.heard = hosts.take
    given.entries = frozenset(map(leaf_hash, archive.entries))
    believed = LogTrust(trust.log_keys, None if args.policy is None else parse_policy(read(args.policy, MAX_POLICY)))
    until = int(time.time()) if args.until is None and is_address(args.log) else args.until
    with open_source(args.log, args.ca_file) as source:
        signed = read_checkpoint(source)
        checkpoint = believed.verify(signed)
        content = Content(Speaker.of(trust, believed.key_of(signed)), CLOCK_SKEW, args.silence, until)
        log = verify(source, checkpoint, (), content, given)
    log.steps.insert(0, signed_step(checkpoint, believed))
    if given.judged is None:
        raise Misuse("action logs are judged with the log")
    made = Judged(log, f"{checkpoint.origin}, size {checkpoint.size}, root {checkpoint.root.hex()}", hosts, given.judged, archive)
    made.reasons += [("log", reason) for reason in log.reasons]
    if (unknown := given.unknown()) is not None:
        made.open.append(unknown.detail)
    if given.absent:
        made.open.append(f"{given.absent} entries of the log are in no archive, so what they decided was not decided again")
    if given.logs.forks:
        made.open.append("decisions were not made again: archives with two histories do not merge")
    else:
        _replay(args, trust, made)
    return made


def _replay(args: argparse.Namespace, trust: Trust, made: Judged) -> None:
    from auditor.replay.decisions import DIFFERING, ERASED, IDENTICAL, INCOMPLETE, NOT_REPLAYED, Replay, Summary

    summary = Summary()
    for one in Replay(made.archive, trust, Engines(args.engines, args.accept_engine), installed_engine()).judged():
        summary.add(one)
        if one.outcome == DIFFERING:
            made.reasons += [(one.what, reason) for reason in one.reasons]
        elif one.outcome == ERASED:
            made.erased.append(one.what)
        elif one.outcome in (INCOMPLETE, NOT_REPLAYED):
            made.open.append(f"{one.outcome}: {one.what}: {'; '.join(map(str, one.reasons))}")
    made.replayed = {name: count for name, count in summary.counts.items() if count}
    if not summary.counts[IDENTICAL]:
        made.open.append("no decision was made again: of those in the archives none came out identical")
    made.engines = list(summary.used())


# --- shown ----------------------------------------------------------------------------------------------------------------


def _sections(args: argparse.Namespace, trust: Trust, judged: Judged) -> Iterator[Markup]:
    archives = [str(one) for one in args.source]
    log = ["auditor", "log", "verify", args.log, "--trust", str(args.trust), "--silence", str(args.silence)]
    log += ["--actions", *archives, "--explain"]
    log += [] if args.policy is None else ["--policy", str(args.policy)]
    replay = ["auditor", "replay", *archives, "--trust", str(args.trust), "--explain"]
    actions = Actions(judged.actions.sound, judged.actions.vouched)
    yield tag("h1", "Audit report")
    said = f"{judged.verdict}: {len(judged.reasons)} findings, {len(judged.open)} things that are not at hand"
    yield tag("p", said, class_=f"verdict {judged.verdict}")
    yield tag("p", f"Log {judged.name}, of {trust.issuer}. Written {_moment(int(time.time()))}, {installed_engine().tree}.")
    yield from _findings(judged)
    yield tag("h2", "What was verified")
    yield tag("ol", *(tag("li", step) for step in judged.log.steps))
    counted = ", ".join(f"{count} {name}" for name, count in sorted(judged.replayed.items())) or "none"
    yield tag("p", f"Decisions made again: {counted}. ", *(tag("code", one) for one in judged.engines))
    yield _again(log, replay)
    yield from _hosts(args, judged, log)
    yield from _agents(actions, ["auditor", "lineage", "INSTANCE", *archives])
    yield from _exceptions(judged, replay)


def _findings(judged: Judged) -> Iterator[Markup]:
    yield tag("h2", "Findings")
    rows = [(what, tag("code", one.code), one.claim, one.expected, one.got, one.remedy) for what, one in judged.reasons[:MOST]]
    yield table(("of", "finding", "place", "expected", "got", "what to do"), rows, "None.")
    yield _more(len(judged.reasons))
    yield tag("h2", "Not at hand")
    yield table(("what",), [(one,) for one in judged.open[:MOST]], "Nothing that was asked for was lacking.")
    yield _more(len(judged.open))


def _hosts(args: argparse.Namespace, judged: Judged, log: Sequence[str]) -> Iterator[Markup]:
    hosts = sorted(judged.hosts.of.items())
    yield tag("h2", "Hosts")
    rows = [
        (
            name, one.namespace, ", ".join(sorted(one.tpm_classes)) or "not known here", str(len(one.instances)), str(len(one.times)),
            str(one.issued), str(one.refused), _moment(min(one.times)), _moment(max(one.times)),
        )
        for name, one in hosts
    ]  # fmt: skip
    heads = ("host", "namespace", "TPM", "instances", "attestations", "tokens", "refused one", "first", "last")
    yield table(heads, rows, "The log names none.")
    yield _again(log)
    yield tag("h2", "Times")
    every = [at for _, one in hosts for at in one.times]
    for name, one in hosts:
        spans = one.spans(args.silence)
        gaps = [(a[1], b[0]) for a, b in pairwise(spans)]
        said = f"{name}: {len(gaps)} gaps of more than {args.silence} s"
        yield tag("p", said)
        yield bars(spans, min(every), max(every), said)
        yield table(("nothing from", "until"), [(_moment(a), _moment(b)) for a, b in gaps[:MOST]], "No gap.")
    since = f"{judged.actions.since} records came after the last checkpoint that was carried"
    yield tag("p", f"{since}: nothing vouches for them yet, and no table has them.")


def _agents(actions: Actions, lineage: Sequence[str]) -> Iterator[Markup]:
    yield tag("h2", "Agents")
    rows = [
        (name, str(len(one.instances)), str(one.permitted), str(one.refused), str(one.unknown), _moment(one.last))
        for name, one in sorted(actions.agents.items())
    ]
    yield table(("agent", "instances", "permitted", "refused", "of unknown outcome", "last action"), rows, "No action is at hand.")
    yield _again(lineage)
    yield tag("h2", "Actions")
    kinds = [(name, str(one["permitted"]), str(one["refused"])) for name, one in sorted(actions.kinds.items())]
    yield table(("action", "permitted", "refused"), kinds, "None.")
    yield tag("h2", "Refusals")
    yield table(("reason", "actions"), [(tag("code", code), str(count)) for code, count in sorted(actions.codes.items())], "None.")
    if actions.refusals:
        listed = actions.refusals[:MOST]
        told = [(_moment(one.at), one.agent, one.action, one.resource, ", ".join(one.codes), tag("code", one.name)) for one in listed]
        yield table(("at", "agent", "action", "on", "because", "record"), told, "")
    yield _more(len(actions.refusals))


def _exceptions(judged: Judged, replay: Sequence[str]) -> Iterator[Markup]:
    yield tag("h2", "Exceptions")
    found = sorted(exceptions(tokens_of(judged.archive.tokens)).items())
    rows = [(host, agent, tag("code", what), str(count)) for (host, agent, what), count in found[:MOST]]
    yield table(("host", "agent", "not as approved, and let pass", "tokens"), rows, "No token at hand was given under an exception.")
    yield _more(len(found))
    yield tag("h2", "Erased")
    yield table(("what cannot be decided again",), [(one,) for one in judged.erased[:MOST]], "Nothing at hand was erased.")
    yield _more(len(judged.erased))
    yield _again(replay)


def _again(*commands: Sequence[str]) -> Markup:
    return tag("div", "Again:", *(tag("p", tag("code", shlex.join(one))) for one in commands))


def _more(count: int) -> Markup:
    return tag("p", f"{count - MOST} more are not listed." if count > MOST else "", class_="none")


def _moment(at: int) -> str:
    return f"{datetime.fromtimestamp(min(at, 1 << 37), UTC):%Y-%m-%d %H:%M:%S}Z"

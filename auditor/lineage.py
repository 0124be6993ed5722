"""`auditor lineage`: what led to each record, looked for in the logs of archives; and with an ID the tree of one action."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from auditor.files import archive_of, read
from auditor.objects import tokens_of
from writ.formats.access import Access, parse_access
from writ.formats.archive import MAX_ARCHIVE
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.service import cli
from writ.verdict.action_log import read_log
from writ.verdict.lineage import judge_lineage, judge_parents
from writ.verdict.lineage_tree import Forest, Node, Tree
from writ.verdict.received import judge_received


def run(args: argparse.Namespace) -> int:
    """The verb."""
    named = _ID.match(args.source[0])
    if named is None:
        sources = [Path(one) for one in args.source]
        if args.received is not None:
            return _received(args.received, sources, as_json=args.json)
        return _judge(sources, as_json=args.json)
    if args.received is not None:
        raise FormatError("lineage", "--received or an ID", "both")
    if not args.source[1:]:
        raise FormatError("lineage", "archives behind the ID; a file of such a name is ./NAME", "none")
    return _show(named, [Path(one) for one in args.source[1:]], as_json=args.json)


_ID: Final = re.compile(
    r"(?P<instance>[0-9a-f]{32})-(?P<number>[0-9]{1,18})\Z|(?:sha256:)?(?P<digest>[0-9a-f]{64})\Z|(?P<trace>[0-9a-f]{32})\Z"
)


def _show(named: re.Match[str], sources: Sequence[Path], *, as_json: bool) -> int:
    """The tree. 0: whole; 1: a link in it is not what it says; 3: something that led to it is not at hand, or nothing has that name."""
    archive = archive_of(sources)
    logs = {}
    for log in archive.logs:
        read, broken = read_log(log.instance, log.leaves)
        if broken:
            raise Refused(*broken)
        logs[log.instance] = read
    forest = Forest(logs)
    if named["number"]:
        asked = forest.at((bytes.fromhex(named["instance"]), int(named["number"])))
    else:
        asked = forest.named(bytes.fromhex(named["digest"])) if named["digest"] else forest.traced(bytes.fromhex(named["trace"]))
    if not asked:
        raise Unavailable("lineage", f"expected an action that {named[0]} names among the archives; got none")
    tokens = {token.digest: token.claims for token in tokens_of(archive.tokens)}
    judged = judge_parents(logs, {digest: claims.lineage for digest, claims in tokens.items()})
    tree = forest.tree(asked)
    names = {node.name: node for _, node in tree.nodes()}
    wrong = [one for one in judged.reasons if (node := names.get(one.claim.partition(".")[0])) is not None and node.missing is None]
    gaps = [node for node in names.values() if node.missing is not None]
    hosts = {digest: claims.host for digest, claims in tokens.items()}
    if as_json:
        said = cli.refusal(wrong) if wrong else {"verdict": "incomplete" if gaps else "accepted", "reasons": []}
        rows = [{"depth": depth, **_row(node, tree, hosts)} for depth, node in tree.nodes()]
        cli.emit({**said, "tree": rows, "same_trace": [_row(node, tree, hosts) for node in tree.beside]}, as_json=True)
        return cli.REFUSED if wrong else cli.COULD_NOT if gaps else cli.ACCEPTED
    for line in _lines(tree, hosts):
        print(cli.printable(line))
    if wrong:
        raise Refused(*wrong)
    if gaps:
        raise Unavailable("lineage", f"expected what led to {gaps[0].name} among the archives; got none. Give those of its parent's host")
    return cli.ACCEPTED


def _lines(tree: Tree, hosts: Mapping[Digest, str]) -> Iterator[str]:
    for depth, node in tree.nodes():
        pad = "  " * depth
        if node.missing is not None:
            yield f"{pad}? not at hand: {node.missing.hex()}"
        yield f"{'>' if node.place in tree.asked else ' '} {pad}{_said(node, hosts)}"
    if tree.beside:
        yield "in the same trace, as they say themselves, and linked by no record:"
        for node in tree.beside:
            yield f"    {_said(node, hosts)}"


def _said(node: Node, hosts: Mapping[Digest, str]) -> str:
    record = node.record
    at = datetime.fromtimestamp(min(record.decided_at, 1 << 37), UTC)
    host = "" if record.token is None or record.token not in hosts else f" on {hosts[record.token]}"
    verdict = "permitted" if record.permit else f"refused ({', '.join(sorted({reason.code for reason in record.reasons}))})"
    ended = "outcome unknown" if node.outcome is None and record.permit else "" if node.outcome is None else node.outcome.outcome
    return (
        f"{at:%Y-%m-%dT%H:%M:%SZ} {node.agent}{host}: {record.action} on {record.resource} {verdict}{ended and ', ' + ended}  {node.name}"
    )


def _row(node: Node, tree: Tree, hosts: Mapping[Digest, str]) -> dict[str, object]:
    record = node.record
    return {
        "id": node.name, "leaf": node.leaf.hex(), "asked": node.place in tree.asked, "agent": node.agent,
        "host": None if record.token is None else hosts.get(record.token), "action": record.action, "resource": record.resource,
        "gate": record.gate, "decided_at": record.decided_at, "permit": record.permit, "reasons": [one.to_json() for one in record.reasons],
        "outcome": None if node.outcome is None else node.outcome.outcome, "parent": None if record.parent is None else record.parent.hex(),
        "not_at_hand": node.missing is not None, "trace": None if record.trace is None else record.trace[:16].hex(),
    }  # fmt: skip


def _judge(sources: Sequence[Path], *, as_json: bool) -> int:
    archive = archive_of(sources)
    tokens = {token.digest: token.claims.lineage for token in tokens_of(archive.tokens)}
    judged = judge_lineage({log.instance: log.leaves for log in archive.logs}, tokens)
    reasons, without, records = judged.reasons, judged.without_token, sum(len(log.leaves) for log in archive.logs)
    verdict = "refused" if reasons else "incomplete" if without else "accepted"
    if as_json:
        said = {"verdict": verdict, "reasons": [reason.to_json() for reason in reasons], "without_token": list(without)}
        cli.emit({**said, "logs": len(archive.logs), "records": records}, as_json=True)
        return {"refused": 1, "incomplete": 3, "accepted": 0}[verdict]
    missing = (
        f"expected the token of each child's record among the archives; got none for {len(without)} of {records} records "
        f"({', '.join(without[:3])}{' …' if without[3:] else ''}), so whether they descend from whom they name is not known. "
        "Give all that `enforcer log export` wrote on their host"
    )
    if reasons:
        if without:
            print(cli.printable(missing), file=sys.stderr)
        raise Refused(*reasons)
    if without:
        raise Unavailable("tokens", missing)
    print(f"each of {records} records in {len(archive.logs)} logs names what led to it, or that nothing did; no token is missing")
    return 0


def _received(file: Path, sources: Sequence[Path], *, as_json: bool) -> int:
    """What a service received, by the logs of who sent it. 0: each is led to by what it names; 1: a lie; 3: of some it is not known."""
    archive, accesses, torn = archive_of(sources), list[Access](), 0
    for line in read(file, MAX_ARCHIVE).splitlines():
        try:
            accesses.append(parse_access(line))
        except FormatError:  # the line that a process was writing when it died
            torn += 1
    judged = judge_received(accesses, {log.instance: log.leaves for log in archive.logs})
    unknown, claimless = len(judged.unproven) + torn, sum(access.parent is None for access in accesses)
    if as_json:
        verdict = "refused" if judged.reasons else "incomplete" if unknown else "accepted"
        counted = {"proven": len(judged.proven), "unproven": list(judged.unproven), "name_no_record": claimless, "no_records": torn}
        cli.emit({"verdict": verdict, "reasons": [reason.to_json() for reason in judged.reasons], **counted}, as_json=True)
        return {"refused": 1, "incomplete": 3, "accepted": 0}[verdict]
    if judged.reasons:
        raise Refused(*judged.reasons)
    if unknown:
        raise Unavailable(
            "received",
            f"of {len(judged.unproven)} requests what led to them is not known, and {torn} lines are no records. Give the archives of "
            "their hosts (`enforcer log export`), made after the last request",
        )
    print(f"each of {len(judged.proven)} requests was led to by the record that it names; {claimless} name none")
    return 0

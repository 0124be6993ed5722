"""`auditor lineage`: what led to each record, looked for in the logs of archives."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from auditor.files import archive_of, read
from writ.formats.access import Access, parse_access
from writ.formats.archive import MAX_ARCHIVE
from writ.formats.eat import parse_token
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.service import cli
from writ.verdict.lineage import judge_lineage
from writ.verdict.received import judge_received


def add_parser(verbs: Any) -> None:
    """`lineage ARCHIVE...`."""
    made = verbs.add_parser("lineage", help="look for the record that led to each, in the logs of archives")
    made.add_argument("source", type=Path, nargs="+", help="archives: `enforcer log export`, with the logs of parents and children")
    made.add_argument(
        "--received", type=Path, metavar="FILE",
        help="the records of a relying service: did the record that each request names lead to it, by the archives' logs?",
    )  # fmt: skip
    cli.add_json_flag(made)


def run(args: argparse.Namespace) -> int:
    """The verb."""
    if args.received is not None:
        return _received(args.received, args.source, as_json=args.json)
    return _judge(args.source, as_json=args.json)


def _judge(sources: Sequence[Path], *, as_json: bool) -> int:
    archive = archive_of(sources)
    tokens = {token.digest: token.claims.lineage for token in map(parse_token, archive.tokens)}
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

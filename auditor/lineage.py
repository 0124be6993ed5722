"""`auditor lineage`: what led to each record, looked for in the logs of archives."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from auditor.files import archive_of
from writ.formats.eat import parse_token
from writ.formats.errors import Refused, Unavailable
from writ.service import cli
from writ.verdict.lineage import judge_lineage


def add_parser(verbs: Any) -> None:
    """`lineage ARCHIVE...`."""
    made = verbs.add_parser("lineage", help="look for the record that led to each, in the logs of archives")
    made.add_argument("source", type=Path, nargs="+", help="archives: `enforcer log export`, with the logs of parents and children")
    cli.add_json_flag(made)


def run(args: argparse.Namespace) -> int:
    """The verb."""
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

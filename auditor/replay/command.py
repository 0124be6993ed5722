"""The verbs `replay` and `engine`: what they are asked, and what they print."""

from __future__ import annotations

import argparse

from auditor.engines import Engines, record_engine
from writ.formats.archive import Archive
from writ.formats.trust import Trust
from writ.service import cli
from writ.service.engine_id import installed_engine


def replay(args: argparse.Namespace, archive: Archive, trust: Trust) -> int:
    """What became of every decision is printed. Exit status: 0 identical, 1 something differs, 3 something could not be made again."""
    from auditor.replay.decisions import DIFFERING, INCOMPLETE, NOT_REPLAYED, Replay, Summary, lines  # the policy engine comes with it

    summary, shown = Summary(), []
    for one in Replay(archive, trust, Engines(args.engines, args.accept_engine), installed_engine()).judged():
        summary.add(one)
        worth_saying = args.explain or one.outcome in (DIFFERING, NOT_REPLAYED, INCOMPLETE)
        if args.json and worth_saying:
            shown.append(one.to_json(steps=args.explain))
        elif worth_saying:
            print(*map(cli.printable, lines(one, explain=args.explain)), sep="\n")
    if args.json:
        cli.emit({**summary.to_json(), "decisions": shown}, as_json=True)
    else:
        for used in summary.used():
            print(used)
        print(f"{summary.verdict}: {summary}")
    return summary.exit_code


def engine(args: argparse.Namespace) -> int:
    """The engine lies in its place, which is printed."""
    tree, place = record_engine(args.wheel, args.engines)
    cli.emit({"tree": str(tree), "place": str(place)}, args.json)
    return cli.ACCEPTED

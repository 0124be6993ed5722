"""`./run bench`: every case, a table for people, JSON for machines.

./run bench                  all cases, about a minute
./run bench --json FILE      the same, and the figures in FILE ("-": on standard output instead of the table)
./run bench --quick          two rounds, and the large cases a tenth as large: does it run at all
./run bench -k TEXT          only the cases with TEXT in their name
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import anchors, audit, cases, fleet, gates, ima, log, mcp, nvidia, store, tee, uefi
from benchmarks.measure import Case, Result, measure
from writ.service import observe
from writ.service.engine_id import installed_engine

ROUNDS, BUDGET = 400, 2.5
"""Rounds at most, and seconds after which no further one begins, for each case."""


def all_cases(folder: Path, *, part: int = 1) -> Iterator[Case]:
    """The cases in the order of the path they lie on. Those that need files have them below `folder`; large ones are a `part`-th of it."""
    yield from cases.attestation()
    yield from cases.runtime_log()
    yield from ima.ima_log(ima.ENTRIES // part)
    yield from uefi.uefi_log()
    yield from tee.snp()
    yield from nvidia.gpus()
    yield from tee.tdx()
    yield from tee.nitro()
    yield from fleet.dry_run(fleet.HOSTS // part)
    (folder / "anchors").mkdir()
    yield from anchors.anchors(folder / "anchors", anchors.RECORDS // part)
    (folder / "audit").mkdir()
    yield from audit.action_logs(folder / "audit", audit.ACTIONS // part)
    filed = (("action", cases.action), ("gate", cases.gate), ("gates", gates.gates), ("mcp", mcp.calls), ("store", store.shipped))
    for name, made in filed:
        place = folder / name
        place.mkdir()
        yield from made(place)
    (folder / "log").mkdir()
    yield from log.log(folder / "log", part=part)


def table(results: list[Result]) -> str:
    """For people: median, 99th percentile, baseline and ratio."""
    rows = [("step", "median", "p99", "beside", "median", "ratio")]
    rows += [
        (r.case.name, _us(r.ours.median_us), _us(r.ours.p99_us), r.case.baseline, _us(r.bare.median_us), f"{r.ratio:g}x") for r in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = []
    for row in rows:
        left = {0, 3}
        cells = [cell.ljust(width) if at in left else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _us(value: float) -> str:
    return f"{value / 1000:,.2f} ms" if value >= 1000 else f"{value:,.0f} us"


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="./run bench", description="What Writ's steps cost, beside the bare work of the same run.")
    parser.add_argument("--json", metavar="FILE", help='write the figures to FILE as JSON; "-" writes them instead of the table')
    parser.add_argument("--quick", action="store_true", help="two rounds of smaller cases")
    parser.add_argument("-k", metavar="TEXT", default="", help="only the cases with TEXT in their name")
    args = parser.parse_args()
    observe.configure(sys.stderr, level="error")
    rounds, budget, part = (2, 0.0, 50) if args.quick else (ROUNDS, BUDGET, 1)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="writ-bench-") as folder:
        results = [measure(case, rounds=rounds, budget=budget) for case in all_cases(Path(folder), part=part) if args.k in case.name]
    if not results:
        parser.error(f"no case has {args.k!r} in its name")
    report = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_average_before": round(load_before, 2),
        "engine": str(installed_engine().tree),
        "cases": [result.to_json() for result in results],
    }
    text = json.dumps(report, indent=1)
    if args.json == "-":
        print(text)
        return 0
    if args.json:
        Path(args.json).write_text(text + "\n")
    print(table(results))
    print(f"\nPython {report['python']}, {report['cores']} cores, load average {report['load_average_before']:g} before the run")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The benchmarks run, and what they print is what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Case, Result, Timing, measure

ROOT = Path(__file__).parents[2]


def test_ratio_is_that_of_the_medians_of_interleaved_rounds() -> None:
    order: list[str] = []
    result = measure(Case("a", "b", lambda: order.append("a"), lambda: order.append("b")), rounds=6, budget=600.0)

    assert order == ["a", "b", *"abbaabbaabba"]
    assert result.ratio == round(result.ours.median_us / result.bare.median_us, 2)


def test_timing_is_median_and_99th_percentile() -> None:
    timing = Timing.of([0.001 * number for number in range(1, 101)])

    assert (timing.median_us, timing.p99_us) == (50_500.0, 100_000.0)
    case = Case("a", "b", list, list, per=10, unit="event")
    assert Result(case, timing, timing).to_json()["events_per_second"] == 198


def test_every_case_runs_and_is_reported_as_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", "-"], cwd=ROOT, capture_output=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr.decode()
    cases = json.loads(done.stdout)["cases"]

    assert len(cases) >= 17 + 11  # of the gates, 11 where there is neither nginx nor memory to write to
    assert all(case["median_us"] > 0 and case["baseline_median_us"] > 0 and case["ratio"] >= 0 for case in cases)

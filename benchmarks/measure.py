"""Two things timed in turns, so that whatever else the machine does meets both.

A round times one, then the other, then again; the ratio is that of the
medians over all rounds. Nothing is subtracted.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one call: median, and the 99th percentile over the rounds."""

    median_us: float
    p99_us: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Of one duration a round."""
        ranked = sorted(seconds)
        return cls(round(statistics.median(ranked) * 1e6, 1), round(ranked[min(len(ranked) - 1, len(ranked) * 99 // 100)] * 1e6, 1))


@dataclass(frozen=True, slots=True)
class Case:
    """One step of Writ, and the bare work it is set beside. `per` is how many units one call handles (events, instances)."""

    name: str
    baseline: str
    work: Work
    bare: Work
    per: int = 1
    unit: str = "call"


@dataclass(frozen=True, slots=True)
class Result:
    """What a case took, its baseline, and how many times the baseline it is."""

    case: Case
    ours: Timing
    bare: Timing

    @property
    def ratio(self) -> float:
        """Median over median."""
        return round(self.ours.median_us / self.bare.median_us, 2) if self.bare.median_us else 0.0

    def to_json(self) -> dict[str, object]:
        """For machines."""
        rate = round(self.case.per / (self.ours.median_us / 1e6)) if self.ours.median_us else 0
        return {
            "name": self.case.name, "baseline": self.case.baseline, "median_us": self.ours.median_us, "p99_us": self.ours.p99_us,
            "baseline_median_us": self.bare.median_us, "baseline_p99_us": self.bare.p99_us, "ratio": self.ratio,
            f"{self.case.unit}s_per_second": rate,
        }  # fmt: skip


def measure(case: Case, *, rounds: int, budget: float) -> Result:
    """At least 5 rounds, at most `rounds` (which may be fewer than 5), and no new one after `budget` seconds."""
    case.work()
    case.bare()
    ours: list[float] = []
    bare: list[float] = []
    gc.collect()
    gc.disable()
    end = time.perf_counter() + budget
    try:
        while len(ours) < min(5, rounds) or (len(ours) < rounds and time.perf_counter() < end):
            first, second = (case.work, case.bare) if len(ours) % 2 == 0 else (case.bare, case.work)
            took = [_time(first), _time(second)]
            ours.append(took[0] if first is case.work else took[1])
            bare.append(took[1] if first is case.work else took[0])
    finally:
        gc.enable()
    return Result(case, Timing.of(ours), Timing.of(bare))


def _time(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began

"""The system's clocks."""

from __future__ import annotations

import time

from writ.service.clock import Clock, SystemClock


def test_system_clock_tells_whole_wall_seconds_and_seconds_since_boot() -> None:
    clock: Clock = SystemClock()
    before = time.time()

    assert int(before) <= clock.now() <= time.time()
    assert isinstance(clock.now(), int)


def test_boot_clock_never_falls_and_counts_suspend() -> None:
    clock = SystemClock()
    first = clock.boot()

    assert first <= clock.boot()
    assert first >= time.clock_gettime(time.CLOCK_MONOTONIC) - 1

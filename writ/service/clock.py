"""The clocks a role reads: the wall, and the time since boot with suspend counted in.

A token is dead when either says so, so both are one seam: a test gives a
clock that it moves by hand.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a shell gets the time from. Pure code is given `now` as an argument."""

    def now(self) -> int:
        """Wall clock, seconds since the epoch; it may jump in either direction."""
        ...

    def boot(self) -> float:
        """Seconds since boot, suspend included; it never falls within one boot."""
        ...


class SystemClock:
    """The clocks of this machine. Says nothing about their being right."""

    __slots__ = ()

    def now(self) -> int:
        """CLOCK_REALTIME in whole seconds, rounded down."""
        return int(time.time())

    def boot(self) -> float:
        """CLOCK_BOOTTIME in seconds. Source: clock_gettime(2)."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

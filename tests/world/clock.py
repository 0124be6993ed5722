"""A clock that stands still until a test moves it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class HandClock:
    """Both clocks of `writ.service.clock`, moved by hand."""

    wall: int = 1_790_000_000
    since_boot: float = 1_000.0

    def now(self) -> int:
        """Seconds since the epoch."""
        return self.wall

    def boot(self) -> float:
        """Seconds since boot."""
        return self.since_boot

    def advance(self, seconds: int) -> None:
        """Both clocks move on."""
        self.wall += seconds
        self.since_boot += seconds

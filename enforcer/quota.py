"""What one instance may write into its log, so that it cannot fill the disk of its neighbours (I11).

Two buckets that refill with time, one of records and one of bytes, and a sum
that never does. What is beyond is refused without a record: a record is the
very thing that is used up, and nothing passes without one (I4). Where the sum
is used up, nothing will ever pass again, and the instance is killed.
"""

from __future__ import annotations

import threading
from typing import Final

from writ.formats.reason import Reason
from writ.service.clock import Clock

RECORDS_PER_SECOND: Final = 200
RECORDS_AT_ONCE: Final = 2_000
BYTES_PER_SECOND: Final = 256 << 10
BYTES_AT_ONCE: Final = 32 << 20
BYTES_IN_ALL: Final = 1 << 30
RECORD_BYTES: Final = 1_024
"""What a record costs beside its content: leaf, seal and commit."""


class Quota:
    """The quota of one instance. Thread-safe."""

    def __init__(self, clock: Clock, *, in_all: int = BYTES_IN_ALL) -> None:
        """Both buckets are full. `in_all` is the sum of bytes for the life of the instance."""
        self._clock, self._left = clock, in_all
        self._records, self._bytes = float(RECORDS_AT_ONCE), float(BYTES_AT_ONCE)
        self._spent: Reason | None = None
        self._at = clock.boot()
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Bytes of the sum that are left."""
        with self._lock:
            return self._left

    def take(self, size: int) -> Reason | None:
        """One record with `size` bytes of content is taken, or why it is not."""
        cost = size + RECORD_BYTES
        with self._lock:
            now = self._clock.boot()
            self._records = min(RECORDS_AT_ONCE, self._records + (now - self._at) * RECORDS_PER_SECOND)
            self._bytes = min(BYTES_AT_ONCE, self._bytes + (now - self._at) * BYTES_PER_SECOND)
            self._at = now
            if cost > self._left:
                self._spent = Reason("too-many-requests", "log.bytes", f"{cost} of the instance's bytes left", str(self._left))
                return self._spent
            if self._records < 1 or self._bytes < cost:
                allowed = f"{RECORDS_PER_SECOND} records and {BYTES_PER_SECOND} bytes a second"
                return Reason("too-many-requests", "log.rate", allowed, "more")
            self._records -= 1
            self._bytes -= cost
            self._left -= cost
            return None

    @property
    def spent(self) -> Reason | None:
        """What was refused because the sum was used up: the instance is at its end."""
        with self._lock:
            return self._spent

    def spend(self, size: int) -> None:
        """One record that is written in any case, an outcome, is counted."""
        cost = size + RECORD_BYTES
        with self._lock:
            self._records -= 1
            self._bytes -= cost
            self._left = max(0, self._left - cost)

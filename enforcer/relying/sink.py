"""A durable sink for a relying service: one JSON line a decision, written and synced before the request passes.

One thread writes: whatever is waiting is written at once and synced once, and only then do the waiting callers hear of it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from writ.formats.access import Access, encode_access
from writ.formats.errors import Unavailable

DURABLE_WITHIN: Final = 3.0
"""Seconds a caller waits for its line; after that the request is refused, even if the line comes to be. Below what a proxy waits for us."""
MAX_BATCH: Final = 256
_Queue = SimpleQueue["Waiting | None"]


@dataclass(slots=True, eq=False)
class Waiting:
    """A line that waits to be written, or was."""

    line: bytes
    tell: Callable[[], object]
    fault: str | None = "not written"
    withdrawn: bool = False

    def ended(self, told: bool) -> None:
        """The line is on disk; one of which nobody was `told` is withdrawn, and written only if that has begun. Raises Unavailable."""
        if not told:
            self.withdrawn = True
            raise Unavailable("sink", f"not durable within {DURABLE_WITHIN:g} s")
        if self.fault is not None:
            raise Unavailable("sink", self.fault)


class FileSink:
    """Appends to one file. After a failed write nothing is accepted any more, since the file's end is not known; nor while one hangs."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, mode 0600; a torn last line of an earlier process is closed off. Raises Unavailable."""
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                os.write(file, b"\n")
        except OSError as error:
            raise Unavailable("sink", f"{path}: {error.strerror}") from None
        self._queue: _Queue = SimpleQueue()
        self._writer = _Writer(file, self._queue)
        threading.Thread(target=self._writer.run, name="sink", daemon=True).start()
        weakref.finalize(self, self._queue.put, None)

    @property
    def broken(self) -> bool:
        """Whether a write has failed, or hangs."""
        return self._writer.broken is not None or self._writer.hangs

    def write(self, access: Access) -> None:
        """The line is on disk. Raises Unavailable."""
        told = threading.Lock()
        told.acquire()
        waiting = self.begin(access, told.release)
        waiting.ended(told.acquire(timeout=DURABLE_WITHIN))

    def begin(self, access: Access, tell: Callable[[], object]) -> Waiting:
        """The line will be on disk, or will not: `tell` is called once either is known, by another thread, which it must not hold up.

        Whoever waits no longer than `DURABLE_WITHIN` then asks `ended`. Raises Unavailable where it is known now.
        """
        if self._writer.broken is not None:
            raise Unavailable("sink", "an earlier write failed")
        if self._writer.hangs:
            raise Unavailable("sink", "an earlier write hangs")
        waiting = Waiting(encode_access(access) + b"\n", tell)
        self._queue.put(waiting)
        return waiting


class _Writer:
    """The one thread that writes, until it is told to end or a write fails."""

    def __init__(self, file: int, queue: _Queue) -> None:
        self._file, self._queue = file, queue
        self.broken: str | None = None
        self._began: float | None = None

    @property
    def hangs(self) -> bool:
        """Whether the write that is being made takes longer than anybody waits for it."""
        began = self._began
        return began is not None and time.monotonic() - began > DURABLE_WITHIN

    def run(self) -> None:
        """Write whatever waits, tell whoever waits; close the file at the end."""
        ending = False
        while not ending:
            batch, ending = self._batch()
            if batch and self.broken is None:
                self._began = time.monotonic()
                self.broken = self._append(b"".join(one.line for one in batch if not one.withdrawn))
                self._began = None
            for one in batch:
                one.fault = self.broken
                with contextlib.suppress(Exception):  # whoever waited is gone
                    one.tell()
        os.close(self._file)

    def _batch(self) -> tuple[list[Waiting], bool]:
        batch: list[Waiting] = []
        first = self._queue.get()
        while first is not None:
            batch.append(first)
            if len(batch) == MAX_BATCH:
                return batch, False
            try:
                first = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _append(self, lines: bytes) -> str | None:
        """Why `lines` may not all be on disk, or None."""
        try:
            written = os.write(self._file, lines)
            os.fsync(self._file)
        except Exception as error:  # noqa: BLE001 - a writer that dies silently would leave every caller waiting; all are told
            return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        return None if written == len(lines) else f"expected {len(lines)} bytes written, got {written}"

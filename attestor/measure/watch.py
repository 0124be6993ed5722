"""Drift: a measured file under a running instance is no longer what it was.

inotify is a hint that makes detection fast; the timer is the rule. Each turn
compares every tree in use with its entries: names, kinds, links, and for files
the stat data (device, inode, size, mtime, ctime), reading again what moved. At
`rehash_interval` everything is read, whatever the stat data say.

What is compared is the store that instances run from. A changed source is no
drift: no running instance sees it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from attestor.measure.store import Difference, Store
from writ.formats.digest import Digest
from writ.formats.eventlog.runtime import DriftEvent
from writ.formats.tree import Component
from writ.service.observe import get_logger

_LOG: Final = get_logger(__name__)
_DEBOUNCE_MS: Final = 40
_STEP_MS: Final = 10


@dataclass(frozen=True, slots=True)
class _Followed:
    root: Digest
    components: tuple[Component, ...]


class Watch:
    """Watches the trees of the instances it is told to follow. `interval` and `rehash_interval` are in seconds."""

    def __init__(self, store: Store, *, interval: int, rehash_interval: int) -> None:
        self._store, self._interval, self._rehash_interval = store, interval, rehash_interval
        self._followed: dict[bytes, _Followed] = {}
        self._lock = threading.Lock()

    def follow(self, instance: bytes, root: Digest, components: tuple[Component, ...]) -> None:
        """From the next turn on the instance's tree is compared."""
        with self._lock:
            self._followed[instance] = _Followed(root, components)

    def leave(self, instance: bytes) -> None:
        """The instance is followed no longer."""
        with self._lock:
            self._followed.pop(instance, None)

    def roots(self) -> frozenset[Digest]:
        """Manifest roots of the trees in use."""
        with self._lock:
            return frozenset(followed.root for followed in self._followed.values())

    def scan(self, *, rehash: bool = False, only: Digest | None = None) -> tuple[DriftEvent, ...]:
        """One drift for each followed instance whose tree differs now; it is left, since it never comes back.

        Blocks for as long as reading takes; may run in several threads.
        """
        with self._lock:
            trees = {f.root: f.components for f in self._followed.values() if only in (None, f.root)}
        drifts: list[DriftEvent] = []
        for root, components in trees.items():
            differences = self._store.check(self._store.tree(root), components, rehash=rehash)
            if differences:
                drifts.extend(self._drifted(root, differences[0]))
        return tuple(drifts)

    def _drifted(self, root: Digest, difference: Difference) -> list[DriftEvent]:
        with self._lock:
            hit = [instance for instance, followed in self._followed.items() if followed.root == root]
            for instance in hit:
                del self._followed[instance]
        return [DriftEvent(i, difference.component, difference.path, difference.expected, difference.got) for i in sorted(hit)]

    async def run(self, notice: Callable[[DriftEvent], Awaitable[None]]) -> None:
        """Every drift reaches `notice`, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._quick(notice))
            tasks.create_task(self._thorough(notice))

    async def _quick(self, notice: Callable[[DriftEvent], Awaitable[None]]) -> None:
        async for _ in self._turns():
            for drift in await asyncio.to_thread(self.scan):
                await notice(drift)

    async def _thorough(self, notice: Callable[[DriftEvent], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._rehash_interval)
            for drift in await asyncio.to_thread(lambda: self.scan(rehash=True)):
                await notice(drift)

    async def _turns(self) -> AsyncIterator[None]:
        """A turn at each hint of the kernel, and at the latest every `interval` seconds."""
        with suppress(ImportError):
            from watchfiles import awatch

            logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change, at info
            hints = awatch(
                self._store.root, watch_filter=None, debounce=_DEBOUNCE_MS, step=_STEP_MS,
                rust_timeout=self._interval * 1000, yield_on_timeout=True, force_polling=False, ignore_permission_denied=True,
            )  # fmt: skip
            try:
                async for _ in hints:
                    yield
            except OSError as error:
                _LOG.warning("no-inotify", detail=error.strerror)
        while True:
            await asyncio.sleep(self._interval)
            yield

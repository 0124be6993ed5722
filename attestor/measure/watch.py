"""Drift: a measured file under a running instance is no longer what it was.

inotify is a hint that makes detection fast; the timer is the rule. Each turn
of the timer compares every tree in use with its entries: names, kinds, links,
and for files the stat data (device, inode, size, mtime, ctime), reading again
what moved. At `rehash_interval` everything is read, whatever the stat data say.

A hint that names one tree has that one compared, and every other too if it
differs, since trees share their objects. What a launch itself does to the store
(a tree is built, an object comes) is no hint: each of a burst of launches would
have the trees of all compared.

What is compared is the store that instances run from. A changed source is no
drift: no running instance sees it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
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

    def scan(self, *, rehash: bool = False, only: frozenset[Digest] | None = None) -> tuple[DriftEvent, ...]:
        """One drift for each followed instance whose tree, of those in `only`, differs now; it is left, since it never comes back.

        Blocks for as long as reading takes; may run in several threads.
        """
        with self._lock:
            trees = {f.root: f.components for f in self._followed.values() if only is None or f.root in only}
        drifts: list[DriftEvent] = []
        for root, components in trees.items():
            differences = self._store.check(self._store.tree(root), components, rehash=rehash)
            if differences:
                drifts.extend(self._drifted(root, differences[0]))
        return tuple(drifts)

    def look(self, changes: list[tuple[str, str]]) -> tuple[DriftEvent, ...]:
        """What `scan` finds in the trees that the changes are about, each with its path; in all of them where one differs."""
        named = [self._named(what, path) for what, path in changes]
        if None in named:
            return self.scan()
        only = frozenset(root for roots in named if roots is not None for root in roots)
        drifts = self.scan(only=only) if only else ()
        return drifts + self.scan() if drifts else ()

    def _drifted(self, root: Digest, difference: Difference) -> list[DriftEvent]:
        with self._lock:
            hit = [instance for instance, followed in self._followed.items() if followed.root == root]
            for instance in hit:
                del self._followed[instance]
        return [DriftEvent(i, difference.component, difference.path, difference.expected, difference.got) for i in sorted(hit)]

    async def run(self, notice: Callable[[DriftEvent], Awaitable[None]]) -> None:
        """Every drift reaches `notice`, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._at_hints(notice))
            tasks.create_task(self._at_intervals(self._interval, notice, rehash=False))
            tasks.create_task(self._at_intervals(self._rehash_interval, notice, rehash=True))

    async def _at_intervals(self, interval: int, notice: Callable[[DriftEvent], Awaitable[None]], *, rehash: bool) -> None:
        while True:
            await asyncio.sleep(interval)
            for drift in await asyncio.to_thread(lambda: self.scan(rehash=rehash)):
                await notice(drift)

    async def _at_hints(self, notice: Callable[[DriftEvent], Awaitable[None]]) -> None:
        """Returns where the kernel gives none."""
        with suppress(ImportError):
            from watchfiles import awatch

            logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change, at info
            hints = awatch(
                self._store.root, watch_filter=None, debounce=_DEBOUNCE_MS, step=_STEP_MS, force_polling=False,
                ignore_permission_denied=True,
            )  # fmt: skip
            try:
                async for changes in hints:
                    for drift in await asyncio.to_thread(self.look, [(change.raw_str(), path) for change, path in changes]):
                        await notice(drift)
            except OSError as error:
                _LOG.warning("no-inotify", detail=error.strerror)

    def _named(self, what: str, path: str) -> frozenset[Digest] | None:
        """The roots of the trees that a change is about; None where that may be any.

        1. What is built in `staging`, and what is written down in `measured`, is no tree.
        2. A name that comes to `objects`, or goes, takes no content from a tree: it has names of its own.
        3. A tree's own, if it is followed. One that is not may share its files with others; its directory cannot.
        """
        room, _, rest = path.removeprefix(f"{self._store.root}/").partition("/")
        # 1, 2
        if room in ("staging", "measured") or (room == "objects" and what in ("added", "deleted")):
            return frozenset()
        # 3
        tree, _, inner = rest.partition("/")
        followed = frozenset(root for root in self.roots() if root.hex() == tree)
        return followed if room == "trees" and tree and (followed or not inner) else None

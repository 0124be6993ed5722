"""What was decided already, kept by whoever asks, so that asking the same again costs a look-up.

A memo is no input of a verdict: with one, without one, and with one that forgot
everything, `decide` says the same. It is the shell's own object, given in; pure
code holds none. What was erring is not kept in it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from writ.formats.reason import Reason

MOST: Final = 1024
Judged = tuple[tuple[Reason, ...], tuple[str, ...]]
"""Reasons (none: a permit), and the policies that determined it."""


class Memo:
    """At most `most` verdicts, and the last encoded context. Full, it begins anew. Threads may share it: each step is one that the
    interpreter does not divide, and what two of them compute twice is equal."""

    __slots__ = ("_context", "_judged", "_most")

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._judged: dict[Hashable, Judged] = {}
        self._context: tuple[Hashable, bytes] = (None, b"")

    def __len__(self) -> int:
        return len(self._judged)

    def judged(self, key: Hashable) -> Judged | None:
        """What was kept under `key`."""
        return self._judged.get(key)

    def keep(self, key: Hashable, judged: Judged) -> Judged:
        """`judged`, which is there the next time."""
        if len(self._judged) >= self._most:
            self._judged = {}
        self._judged[key] = judged
        return judged

    def context(self, key: Hashable) -> bytes | None:
        """The encoded context of `key`, where that was the last."""
        held, encoded = self._context
        return encoded if held == key else None

    def keep_context(self, key: Hashable, encoded: bytes) -> bytes:
        """`encoded`, which is there as long as no other is kept."""
        self._context = (key, encoded)
        return encoded

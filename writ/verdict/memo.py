"""What was decided already, kept by whoever asks, so that asking the same again costs a look-up.

A memo is no input of a verdict: with one, without one, and with one that forgot
everything, `decide` says the same. It is the shell's own object, given in; pure
code holds none. What was erring is not kept in it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from writ.formats.action import OpenContext
from writ.formats.eat import SignedToken
from writ.formats.jose import verify_jws
from writ.formats.keys import PublicKey
from writ.formats.reason import Reason

MOST: Final = 1024
Judged = tuple[tuple[Reason, ...], tuple[str, ...]]
"""Reasons (none: a permit), and the policies that determined it."""


class Memo:
    """At most `most` verdicts, the last encoded context, and the last one with its moment open. Full, it begins anew. Threads may share it:
    each step is one that the interpreter does not divide, and what two of them compute twice is equal."""

    __slots__ = ("_context", "_judged", "_most", "_open")

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._judged: dict[Hashable, Judged] = {}
        self._context: tuple[Hashable, bytes] = (None, b"")
        self._open: tuple[Hashable, OpenContext] | None = None

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

    def open_context(self, key: Hashable) -> OpenContext | None:
        """The context of `key` with its moment open, where that was the last."""
        held = self._open
        return held[1] if held is not None and held[0] == key else None

    def keep_open_context(self, key: Hashable, context: OpenContext) -> OpenContext:
        """`context`, which is there as long as no other is kept."""
        self._open = (key, context)
        return context


class SignatureMemo:
    """At most `most` tokens whose signature was verified, each with the key that made it. Full, it begins anew; threads may share it.

    It says nothing about a token but that: whether it is alive, meant for here and not revoked is looked at every time.
    """

    __slots__ = ("_most", "_signed")

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._signed: dict[str, tuple[SignedToken, PublicKey]] = {}

    def __len__(self) -> int:
        return len(self._signed)

    def token(self, compact: str) -> SignedToken | None:
        """What `compact` was parsed to, where some key has signed it."""
        held = self._signed.get(compact)
        return None if held is None else held[0]

    def signed(self, token: SignedToken, key: PublicKey) -> bool:
        """Whether `key` signed this very token: an object that was verified under it before, or one that is verified now."""
        held = self._signed.get(token.jws.compact)
        if held is not None and held[0] is token and held[1] == key:
            return True
        if not verify_jws(token.jws, key):
            return False
        if len(self._signed) >= self._most:
            self._signed = {}
        self._signed[token.jws.compact] = (token, key)
        return True

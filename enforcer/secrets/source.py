"""What a secret can come from, and what came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from enforcer.credential import Held

FRESH_FOR: Final = 300.0
"""Seconds after which what came is fetched anew: one that was changed at its source is in use that much longer, at most."""
DUE: Final = 0.8
"""The part of a lease's life that it is used for."""
WITHIN: Final = 10.0
"""Seconds for a source to answer."""
MAX_SECRET: Final = 8 << 10
"""Bytes of one."""
GiveBack = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Lease:
    """A secret, and for how many seconds it is good. It is never shown."""

    value: bytes = field(repr=False)
    seconds: float = FRESH_FOR


class Source(Protocol):
    """One secret of one agent. For one thread at a time, but `forget`, for any."""

    def fetch(self, held: Held) -> Lease:
        """What the secret is, asked for in the name of who holds that token. Raises Unavailable, and no text of it or of the token."""

    def forget(self) -> GiveBack | None:
        """At once: what was fetched is known here no more. What is returned gives it back to its source, as far as that can be."""

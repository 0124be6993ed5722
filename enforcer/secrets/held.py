"""The secrets of one instance: fetched when one is first used, in memory while tokens are in force, given back when they are not.

The agent holds placeholders, which mean nothing to anybody else:

    MAIL_API_KEY=writ-secret-mail-key-5f1c09ab…
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from enforcer.credential import Held
from enforcer.secrets.source import Lease, Source
from writ.formats.errors import Unavailable
from writ.formats.secret import Secret

GIVEN_BACK_WITHIN: Final = 5.0
"""Seconds that the end of an instance waits for its leases to be given back."""


class Secrets:
    """It can be cut and mended with everything else. Thread-safe; one secret is fetched at a time."""

    def __init__(self, named: Sequence[Secret], sources: Mapping[str, Source], placeholders: Sequence[str] = ()) -> None:
        """`sources` has one for each of `named`; `placeholders` are one for each that has one, where an agent has them already."""
        self.named = tuple(named)
        held = [one.name for one in named if not one.is_file]
        made = placeholders or [f"writ-secret-{name}-{secrets.token_hex(16)}" for name in held]
        self.placeholders: Mapping[str, str] = dict(zip(held, made, strict=True))
        self._sources = dict(sources)
        self._leases: dict[str, tuple[Lease, float]] = {}
        self._era, self._open = 0, True
        self._giving: list[threading.Thread] = []
        self._lock, self._fetching = threading.Lock(), threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """The placeholders, each in its variable."""
        return {one.expose: self.placeholders[one.name] for one in self.named if not one.is_file}

    def value(self, name: str, held: Held | None) -> bytes:
        """What the secret `name` is, for something that the token `held` just permitted. Raises Unavailable."""
        if held is None:
            raise Unavailable(f"secret {name}", "it takes a token, and an observed agent has none")
        with self._fetching:
            with self._lock:
                era, (lease, until) = self._era, self._leases.get(name, (None, 0.0))
                if not self._open:
                    raise Unavailable(f"secret {name}", "cut off")
                if lease is not None and time.monotonic() < until:
                    return lease.value
            lease = self._sources[name].fetch(held)
            with self._lock:
                if self._era == era:
                    self._leases[name] = lease, time.monotonic() + lease.seconds
                    return lease.value
        self._forget([self._sources[name]])
        raise Unavailable(f"secret {name}", "cut off")

    def cut(self) -> None:
        """None is known any more, and none is fetched, until `mend`. What was leased is given back, by threads of its own."""
        with self._lock:
            self._era += 1
            self._open = False
            self._leases.clear()
        self._forget(self._sources.values())

    def mend(self) -> None:
        """They may be fetched again."""
        with self._lock:
            self._open = True

    def close(self) -> None:
        """As `cut`, and what was leased is given back, as far as it is within `GIVEN_BACK_WITHIN`."""
        self.cut()
        end = time.monotonic() + GIVEN_BACK_WITHIN
        with self._lock:
            giving = list(self._giving)
        for thread in giving:
            thread.join(max(0.0, end - time.monotonic()))

    def _forget(self, sources: Iterable[Source]) -> None:
        for back in filter(None, [one.forget() for one in sources]):
            thread = threading.Thread(target=back, name="give-back", daemon=True)
            with self._lock:
                self._giving = [one for one in self._giving if one.is_alive()] + [thread]
            thread.start()

"""TLS to hosts beyond: verified like any client does, never below 1.2, by the newest version of HTTP that is offered to one."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Final

H1: Final = "http/1.1"
H2: Final = "h2"
"""As ALPN calls them (RFC 7301 6, RFC 9113 3.1); the agent is offered both."""
_OFFERED: Final = {H1: (H1,), H2: (H2, H1)}
"""What a host is offered, by the newest of it."""


def upstream_contexts(roots: str | None) -> Mapping[str, ssl.SSLContext]:
    """The client's side of TLS, to hosts that agents name: verified against `roots`, a file, or else the system's. Raises OSError.

    By the newest version of HTTP that it offers. A file is read now, and must be one; the system's roots are when they are needed: they
    are hundreds, which no launch waits for.
    """
    if roots is None:
        return _SystemContexts()
    return {newest: _upstream(roots, offered) for newest, offered in _OFFERED.items()}


class _SystemContexts(Mapping[str, ssl.SSLContext]):
    """Each is made at its first use. Thread-safe."""

    def __init__(self) -> None:
        self._made: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def __getitem__(self, newest: str) -> ssl.SSLContext:
        with self._lock:
            if newest not in self._made:
                self._made[newest] = _upstream(None, _OFFERED[newest])
            return self._made[newest]

    def __iter__(self) -> Iterator[str]:
        return iter(_OFFERED)

    def __len__(self) -> int:
        return len(_OFFERED)


def _upstream(roots: str | None, offered: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=roots)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(offered))
    return context

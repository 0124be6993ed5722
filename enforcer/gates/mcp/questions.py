"""Questions of a server that were let through to a client, until they are answered: what else comes as an answer was asked by nobody."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from enforcer.tools.mcp_server import spelt
from writ.formats.digest import Digest
from writ.formats.mcp.input import InputRequired
from writ.formats.mcp.request import Call
from writ.formats.reason import Reason

MOST: Final = 64
LIFE: Final = 900.0
"""Seconds."""
INPUT: Final = ("inputResponses", "requestState")


@dataclass(frozen=True, slots=True)
class _Open:
    keys: frozenset[str]
    state: str | None
    until: float


class Questions:
    """Those of one server to one instance. Each is answered once, for the very request that it came to. Thread-safe."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[Digest, str | None], _Open] = OrderedDict()
        self._lock = threading.Lock()

    def asked(self, call: Call, wanted: InputRequired) -> None:
        """The client hears of what is wanted. Of more than `MOST` the oldest are forgotten."""
        with self._lock:
            self._open[_of(call), wanted.state] = _Open(frozenset(wanted.questions), wanted.state, time.monotonic() + LIFE)
            while len(self._open) > MOST:
                self._open.popitem(last=False)

    def against(self, call: Call) -> Reason | None:
        """Why what `call` answers was not asked, or has been answered; None where it answers nothing, or what was asked."""
        if not any(name in call.params for name in INPUT):
            return None
        keys, state = call.params.get("inputResponses", {}).keys(), call.params.get("requestState")
        with self._lock:
            found = self._open.pop((_of(call), state), None)
        if found is None or found.until < time.monotonic() or not keys <= found.keys:
            return Reason("input-not-asked", "params.inputResponses", "answers to what the server asked of this very request", "others")
        return None


def _of(call: Call) -> Digest:
    """Which request it is, but for what it answers."""
    return Digest.of(spelt({"method": call.method, "params": {name: one for name, one in call.params.items() if name not in INPUT}}))

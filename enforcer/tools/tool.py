"""What a permitted action can be forwarded to, as a gate knows it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from enforcer.credential import Held
from enforcer.estate import HeldTool
from writ.formats.action import Action
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason
from writ.formats.strict import encode_json

CALL_WITHIN: Final = 30.0
MAX_REPLY: Final = 1 << 20
RESULT: Final = 0
"""The status of a result of JSON-RPC, which has a code for errors only."""


@dataclass(frozen=True, slots=True)
class Led:
    """What led to a call: the leaf hash of the record of its permit, and what its asker said of its trace."""

    record: bytes
    trace: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the result as JSON bytes in one spelling, and whether the tool says that it did what was asked.

    `status` is that of its wire (`OutcomeRecord`), None where none came.
    """

    done: bool
    body: bytes
    status: int | None = None


def spelt(value: object) -> bytes:
    """The one spelling of decoded JSON. Raises FormatError for text that has none (a lone surrogate)."""
    try:
        return encode_json(value)
    except UnicodeEncodeError:
        raise FormatError("JSON text", "Unicode", "a lone surrogate") from None


def undefined(what: str, error: Unavailable | FormatError) -> Reason:
    """That a tool could not be asked for its definitions. It stands in a record, which nobody erases: with no word of the tool's own."""
    said = f"{error.what}: expected {error.expected}, got another" if isinstance(error, FormatError) else str(error)
    return Reason("unavailable", what[:100], "its definitions", said[:200])


class Tool(Protocol):
    """Something an action can be forwarded to."""

    def action(self, method: str, arguments: bytes) -> Action:
        """The action that this call is. Raises FormatError."""

    def turn(self) -> AbstractContextManager[object]:
        """The caller's turn: within it, nobody else's call comes between what is decided and what is forwarded."""

    def against(self, method: str) -> Reason | None:
        """What the tool itself has against this call, before anybody decides it. Raises Unavailable, FormatError."""

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, led: Led) -> Reply:
        """Forward an action that passes; an observed one has no token. Raises Unavailable, FormatError."""

    def leave(self, within: float) -> HeldTool | None:
        """No call is made any more, and one in flight fails. What goes over to other code, which is only what runs by itself."""

    def close(self) -> None:
        """End it, and whatever call is in flight."""

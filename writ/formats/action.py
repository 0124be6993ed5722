"""An action, and the context in which it is decided.

What an agent asks for is an `Action`; what was decided about it is a leaf of the instance's log (`formats.record`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse
from writ.formats.strict import encode_cbor

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Of HTTP: each is an action of its own, `http.` and itself in small letters."""
WEBSOCKET: Final = "http.websocket"
EXCHANGE: Final = "token.exchange"
"""To have a bearer token for an audience elsewhere, which is the resource."""

_ACTION = re.compile(r"[a-z][a-z0-9]*(?:\.[a-z][a-z0-9]*){0,3}\Z", re.ASCII)
_RESOURCE = re.compile(r"[!-~]{1,512}\Z")
_DOTS = re.compile(r"(?:^|/)\.\.?(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class Action:
    """What an agent asks for: an action kind (`tool.call`), the exact resource, and the digest of its arguments.

    `arguments` is SHA-256 over the argument bytes as the gate forwards them.
    """

    name: str
    resource: str
    arguments: Digest

    def __post_init__(self) -> None:
        if not _ACTION.match(self.name) or len(self.name) > 64:
            raise FormatError("action.name", "lower-case words joined by dots", repr(self.name[:80]))
        if not _RESOURCE.match(self.resource):
            raise FormatError("action.resource", "1 to 512 printable ASCII characters without spaces", repr(self.resource[:80]))
        path = self.resource.partition("://")[2] or self.resource
        if "//" in path or _DOTS.search(self.resource):
            raise FormatError("action.resource", "a normalised path", repr(self.resource[:80]))


def exchange_action(audience: str) -> Action:
    """What a proof is made for where an exchange token for `audience` is asked for.

    Raises FormatError, also for a query or a fragment: audiences stand in the verifier's log, which is public.
    """
    if "?" in audience or "#" in audience:
        raise FormatError("audience", "no query and no fragment", repr(audience.partition("?")[0].partition("#")[0][:80]))
    return Action(EXCHANGE, audience, Digest.of(b""))


def encode_context(context: Mapping[str, Any]) -> bytes:
    """The exact bytes of a decision context: text keys, and values Cedar can hold."""
    return encode_cbor(dict(context))


@dataclass(frozen=True, slots=True)
class OpenContext:
    """An encoded decision context in which some integers are still to be filled in: the bytes before, between and behind them."""

    names: tuple[str, ...]
    parts: tuple[bytes, ...]

    @classmethod
    def of(cls, context: Mapping[str, Any], *names: str) -> Self:
        """`context` with the values of `names` open, of at most 23 attributes. Raises Misuse for more, and for a name that is not there."""
        if len(context) > 23 or not context.keys() >= set(names):
            raise Misuse("an open context of at most 23 attributes, each open one among them")
        parts, ordered = [bytes([0xA0 | len(context)])], []
        for encoded, name in sorted((encode_cbor(name), name) for name in context):
            parts[-1] += encoded
            if name in names:
                ordered.append(name)
                parts.append(b"")
            else:
                parts[-1] += encode_cbor(context[name])
        return cls(tuple(ordered), tuple(parts))

    def filled(self, values: Mapping[str, int]) -> bytes:
        """What `encode_context` makes of the whole."""
        text = self.parts[0]
        for name, part in zip(self.names, self.parts[1:], strict=True):
            text += encode_cbor(values[name]) + part
        return text

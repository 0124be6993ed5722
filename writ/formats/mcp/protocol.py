"""What all of the protocol is bounded by and said in: its revisions, sizes, error codes, and a message that is none.

Source: Model Context Protocol, revision 2026-07-28, schema.ts; JSON-RPC 2.0, 5.1.
"""

from __future__ import annotations

from typing import Any, Final

from writ.formats.errors import FormatError

MODERN: Final = "2026-07-28"
LEGACY: Final = ("2025-11-25", "2025-06-18")
"""Latest first. 2025-03-26 had batches, and is not spoken."""
VERSIONS: Final = (MODERN, *LEGACY)

MAX_MESSAGE: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_ID: Final = 128
MAX_LIST: Final = 1024
"""Definitions, or resources, of one server."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022
REFUSED: Final = 1403
"""Ours, outside of what JSON-RPC and MCP reserve: an action was refused, and `data` is the refusal."""
FAILED: Final = 1502
"""Ours: an action passed, and the server did not do it, or answered with what is no answer."""

META: Final = "io.modelcontextprotocol/"
"""What the protocol's own names in a `_meta` begin with."""

Identifier = int | str


class BadMessage(FormatError):
    """No message of ours to read: `code` is the error's of JSON-RPC, `identifier` the request's where it could be read."""

    def __init__(self, error: FormatError, code: int, identifier: Identifier | None = None, *, modern: bool = False) -> None:
        super().__init__(error.what, error.expected, error.got, error.offset)
        self.code, self.identifier, self.modern = code, identifier, modern


def object_of(value: object, what: str) -> dict[str, Any]:
    """`value`, if it is an object. Raises FormatError."""
    if not isinstance(value, dict):
        raise FormatError(what, "an object", type(value).__name__)
    return value


def identifier_of(value: object) -> Identifier:
    """`value`, if it can be an id of JSON-RPC, or a token of progress. Raises FormatError."""
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, str) and len(value) > MAX_ID):
        raise FormatError("message.id", f"an integer or a text of at most {MAX_ID} characters", type(value).__name__)
    return value

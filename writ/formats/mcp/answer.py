"""What a server says: an answer to a request of ours, of which what was asked for is read, a notification, or a request to its client.

Source: Model Context Protocol, revisions 2026-07-28 and 2025-11-25, schema.ts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.errors import FormatError
from writ.formats.mcp.protocol import (
    FAILED,
    INTERNAL_ERROR,
    MAX_DEPTH,
    MAX_LIST,
    MAX_MESSAGE,
    REFUSED,
    Identifier,
    identifier_of,
    object_of,
)
from writ.formats.strict import decode_json

MAX_PROGRESS: Final = 2000
_RESERVED: Final = range(-32099, -32019)


@dataclass(frozen=True, slots=True)
class Answered:
    """A server's answer to the request of this number: a result, or an error's code and message."""

    identifier: int
    result: Mapping[str, Any] | None
    error: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class Said:
    """What a server says of itself: a notification, or, with an id, a request to its client. Nothing in `params` is read yet."""

    method: str
    identifier: Identifier | None
    params: object = None


def parse_said(data: bytes, what: str) -> Answered | Said:
    """Read one message of a server. Raises FormatError, also for an id that none of our requests can have."""
    value = decode_json(data, what, max_size=MAX_MESSAGE, max_depth=MAX_DEPTH, floats=True)
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise FormatError(what, "one message of JSON-RPC 2.0", repr(value)[:80])
    if "method" in value:
        if not isinstance(value["method"], str) or value.keys() & {"result", "error"}:
            raise FormatError(what, "a request, a notification or an answer", "several at once")
        return Said(value["method"], identifier_of(value["id"]) if "id" in value else None, value.get("params"))
    if type(value.get("id")) is not int or ("result" in value) == ("error" in value):
        raise FormatError(what, "an answer to a request of ours: a result or an error", repr(value)[:80])
    if "result" in value:
        return Answered(value["id"], object_of(value["result"], f"{what}.result"), None)
    error = object_of(value["error"], f"{what}.error")
    code, message = error.get("code"), error.get("message")
    if type(code) is not int or not isinstance(message, str):
        raise FormatError(f"{what}.error", "a code and a message", repr(error)[:80])
    return Answered(value["id"], None, (code, message[:1000]))


def parse_error(data: bytes, what: str, identifier: int) -> tuple[int, str]:
    """The code and message of an error that came with a status of HTTP which says that it is one: to the request of this number, or, where
    the server could not read that, without a number. Raises FormatError.
    """
    value = object_of(decode_json(data, what, max_size=MAX_MESSAGE, max_depth=MAX_DEPTH, floats=True), what)
    error = object_of(value.get("error"), f"{what}.error")
    code, message = error.get("code"), error.get("message")
    if value.get("id") not in (None, identifier) or type(value.get("id")) is bool or type(code) is not int or not isinstance(message, str):
        raise FormatError(f"{what}.error", f"a code and a message, to {identifier}", repr(value)[:80])
    return code, message[:1000]


def parse_progress(params: object, token: int) -> dict[str, Any]:
    """How far the request of this number is, and nothing beside. Raises FormatError, also for a token of another."""
    said = object_of(params, "progress")
    far, of, message = said.get("progress"), said.get("total"), said.get("message")
    if type(said.get("progressToken")) is not int or said["progressToken"] != token:
        raise FormatError("progress.progressToken", f"{token}", repr(said.get("progressToken"))[:60])
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in (far, 0 if of is None else of)):
        raise FormatError("progress", "numbers", repr((far, of))[:60])
    if message is not None and (not isinstance(message, str) or len(message) > MAX_PROGRESS):
        raise FormatError("progress.message", f"a text of at most {MAX_PROGRESS} characters", type(message).__name__)
    return {"progress": far, **({} if of is None else {"total": of}), **({} if message is None else {"message": message})}


def theirs(code: int) -> int:
    """A server's error code as it may be passed on: none that only we, or the protocol itself, may say."""
    return INTERNAL_ERROR if code in _RESERVED or code in (REFUSED, FAILED) else code


_RESULTS: Final[dict[str, tuple[str, ...]]] = {
    "tools/call": ("content", "isError", "structuredContent"),
    "resources/read": ("contents",),
    "prompts/get": ("description", "messages"),
    "completion/complete": ("completion",),
    "tools/list": ("nextCursor", "tools"),
    "prompts/list": ("nextCursor", "prompts"),
    "resources/list": ("nextCursor", "resources"),
    "resources/templates/list": ("nextCursor", "resourceTemplates"),
}
_LISTED: Final = {
    "tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources", "resources/templates/list": "resourceTemplates",
}  # fmt: skip


def parse_result(method: str, params: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """What of a result was asked for, and nothing beside. Raises FormatError.

    It is complete: a server that wants input first wants a request of its own answered, which nobody does. Of a resource it is the one that
    was asked for.
    """
    what = f"result of {method}"
    if (kind := result.get("resultType", "complete")) != "complete":
        raise FormatError(f"{what}.resultType", "complete", repr(kind)[:60])
    found = {name: result[name] for name in _RESULTS[method] if name in result}
    lists = {"tools/call": "content", "resources/read": "contents", "prompts/get": "messages"} | _LISTED
    if method in lists:
        items = found.get(lists[method])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items) or len(items) > MAX_LIST:
            raise FormatError(f"{what}.{lists[method]}", f"an array of at most {MAX_LIST} objects", type(items).__name__)
    else:
        object_of(found.get("completion"), f"{what}.completion")
    if method == "resources/read" and (others := [str(one.get("uri")) for one in found["contents"] if one.get("uri") != params["uri"]]):
        raise FormatError(f"{what}.contents", params["uri"], others[0][:80])
    if type(found.get("isError", False)) is not bool or not isinstance(found.get("nextCursor", ""), str):
        raise FormatError(what, "isError a boolean, and nextCursor a text", "others")
    return found


def listed(method: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of a parsed list."""
    entries: list[dict[str, Any]] = result[_LISTED[method]]
    return entries


def relisted(method: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A list of `entries`, as the result of `method`."""
    return {_LISTED[method]: list(entries)}

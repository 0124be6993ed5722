"""Messages of the Model Context Protocol: JSON-RPC 2.0, one message a body, each method parsed whole.

Two generations are spoken. In 2026-07-28 every request says for itself what it is, in `_meta`, and over HTTP again in headers; in
2025-11-25 and 2025-06-18 a handshake came first. Both are read into a `Call` or a `Note`; methods, parameters and notifications that are
not named here are refused, and so is a batch.

    {"id": 7, "jsonrpc": "2.0", "method": "tools/call", "params": {"name": "read", "arguments": {"name": "today"}, "_meta": {…}}}

Nothing of a client's `_meta` goes on to a server: what is decided and recorded is all that is sent.

A name of a tool or prompt is 1 to 128 of A-Z a-z 0-9 _ . - and begins with a letter, a digit or _ ; a URI has one spelling:

>>> uri("file:///notes/today", "uri")
'file:///notes/today'
>>> uri("file:///notes/%2e%2e/keys", "uri")
Traceback (most recent call last):
...
writ.formats.errors.FormatError: uri: expected escapes in capitals, of what needs one, and no dot or slash, got '%2e'

Source: Model Context Protocol, revisions 2026-07-28 (basic, transports/streamable-http, versioning, schema.ts), 2025-11-25, 2025-06-18.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_json, encode_json

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

_RESERVED: Final = range(-32099, -32019)
_META: Final = "io.modelcontextprotocol/"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z", re.ASCII)
_URI: Final = re.compile(
    r"[a-z][a-z0-9+.-]*:(?://([A-Za-z0-9._~\[\]:%-]*)(?=/|\?|\Z))?"
    r"([A-Za-z0-9._~!$&'()+,;=:@/%-]*)(?:\?([A-Za-z0-9._~!$&'()+,;=:@/?%-]*))?\Z"
)
"""RFC 3986 without user and fragment: authority, path, query."""
_ESCAPE: Final = re.compile(r"%(.{0,2})", re.DOTALL)
_AGAIN: Final = re.compile(r"%25[0-9A-Fa-f]{2}")
_PARAMETERS: Final = re.compile(r";|%3B")
_NEEDS_NO_ESCAPE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/\\")
_EXPRESSION: Final = re.compile(r"\{[^{}]*\}")
_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=\Z", re.DOTALL)
_PLAIN: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?\Z")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})(?:\.0+)?\Z", re.ASCII)
_TCHAR: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Which parameter `Mcp-Name` repeats."""

Identifier = int | str


class BadMessage(FormatError):
    """No message of ours to read: `code` is the error's of JSON-RPC, `identifier` the request's where it could be read."""

    def __init__(self, error: FormatError, code: int, identifier: Identifier | None = None, *, modern: bool = False) -> None:
        super().__init__(error.what, error.expected, error.got, error.offset)
        self.code, self.identifier, self.modern = code, identifier, modern


@dataclass(frozen=True, slots=True)
class Call:
    """A request as a client sent it. `params` is what may go on to a server: whole, known, without `_meta`.

    `version` is the one that a request of the newer generation says it is of; None is of the older. `name` is what `Mcp-Name` repeats.
    """

    identifier: Identifier
    method: str
    params: Mapping[str, Any]
    version: str | None
    name: str | None

    @property
    def modern(self) -> bool:
        """Whether it is of the newer generation."""
        return self.version is not None


@dataclass(frozen=True, slots=True)
class Note:
    """A notification of a client. None of them does anything."""

    method: str
    version: str | None


Message = Call | Note


# --- what is said in a method ------------------------------------------------------------------------------------------


def tool_name(value: object, what: str) -> str:
    """`value`, if it is a name of a tool or prompt that can stand in a resource. Raises FormatError."""
    if not isinstance(value, str) or not _NAME.match(value):
        raise FormatError(what, "1 to 128 of A-Z a-z 0-9 _ . - with a letter, a digit or _ first", repr(value)[:80])
    return value


def uri(value: object, what: str) -> str:
    """`value`, if it is a URI in its one spelling, which is also what is decided. Raises FormatError.

    A scheme in small letters; printable ASCII; no user, fragment, `*`, backslash, empty or dot segment, also before parameters (`..;`);
    escapes in capitals, only where needed, of UTF-8, and none of a slash or of a percent sign that would make another escape. What is not
    so is refused and never mended: a server further on would read it its own way.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= 440:
        raise FormatError(what, "a URI of 1 to 440 characters", repr(value)[:80] if not isinstance(value, str) else f"{len(value)}")
    for escape in _ESCAPE.finditer(value):
        digits = escape[1]
        if not re.fullmatch(r"[0-9A-F]{2}", digits) or chr(int(digits, 16)) in _NEEDS_NO_ESCAPE or int(digits, 16) < 0x20:
            raise FormatError(what, "escapes in capitals, of what needs one, and no dot or slash", repr(escape[0])[:40])
    if (again := _AGAIN.search(value)) is not None:
        raise FormatError(what, "no escape of an escape", repr(again[0])[:40])
    found = _URI.match(value)
    if found is None:
        raise FormatError(what, "a URI: a scheme in small letters, no user, fragment, space or * in it", repr(value)[:80])
    try:
        _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), value).encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(what, "UTF-8 in its escapes", repr(value)[:80]) from None
    authority, path, query = found[1], found[2], found[3] or ""
    if authority is not None and authority != authority.lower():
        raise FormatError(what, "a host in small letters", repr(authority)[:80])
    rooted = path.removeprefix("/") if authority is not None else path
    if "//" in path or "//" in query or any(_PARAMETERS.split(part)[0] in (".", "..") for part in f"{rooted}/{query}".split("/")):
        raise FormatError(what, "no empty and no dot segment", repr(value)[:80])
    if (authority is None and path.startswith("/")) or not (authority or path):
        raise FormatError(what, "scheme:path or scheme://host/path", repr(value)[:80])
    return value


def template(value: object, what: str) -> str:
    """What stands for all URIs of a template when it is decided: itself with `-` for each expression. Raises FormatError."""
    if not isinstance(value, str) or len(value) > 440:
        raise FormatError(what, "a URI template of at most 440 characters", repr(value)[:80])
    return uri(_EXPRESSION.sub("-", value), what)


def _cursor(f: Fields) -> dict[str, Any]:
    return {"cursor": f.text("cursor", most=4096)} if f.has("cursor") else {}


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(what, "an object", type(value).__name__)
    return value


def _texts(value: object, what: str) -> dict[str, str]:
    found = _object(value, what)
    if not all(isinstance(one, str) for one in found.values()) or len(found) > 64:
        raise FormatError(what, "at most 64 texts", "others")
    return found


def _nothing(_: Fields) -> dict[str, Any]:
    return {}


def _initialize(f: Fields) -> dict[str, Any]:
    version = f.text("protocolVersion", most=32)
    _object(f.any("capabilities"), "params.capabilities")
    _object(f.any("clientInfo"), "params.clientInfo")
    return {"protocolVersion": version}


def _call(f: Fields) -> dict[str, Any]:
    name = tool_name(f.any("name"), "params.name")
    return {"name": name, "arguments": _object(f.any("arguments"), "params.arguments") if f.has("arguments") else {}}


def _get(f: Fields) -> dict[str, Any]:
    name = tool_name(f.any("name"), "params.name")
    return {"name": name, "arguments": _texts(f.any("arguments"), "params.arguments") if f.has("arguments") else {}}


def _read(f: Fields) -> dict[str, Any]:
    return {"uri": uri(f.any("uri"), "params.uri")}


def _complete(f: Fields) -> dict[str, Any]:
    ref, argument = f.fields("ref"), f.fields("argument")
    kind = ref.text("type")
    if kind == "ref/prompt":
        whole: dict[str, Any] = {"type": kind, "name": tool_name(ref.any("name"), "params.ref.name")}
        if ref.has("title"):
            ref.any("title")
    elif kind == "ref/resource":
        whole = {"type": kind, "uri": ref.any("uri")}
        template(whole["uri"], "params.ref.uri")
    else:
        raise FormatError("params.ref.type", "ref/prompt or ref/resource", repr(kind)[:40])
    ref.done()
    given = {"name": argument.text("name", most=128), "value": argument.text("value", most=8192)}
    argument.done()
    context: dict[str, Any] = {}
    if f.has("context"):
        inner = f.fields("context")
        context = {"context": {"arguments": _texts(inner.any("arguments"), "params.context.arguments")}} if inner.has("arguments") else {}
        inner.done()
    return {"ref": whole, "argument": given, **context}


def _level(f: Fields) -> dict[str, Any]:
    if (level := f.text("level")) not in _LEVELS:
        raise FormatError("params.level", ", ".join(_LEVELS), repr(level)[:40])
    return {"level": level}


_BOTH, _NEW, _OLD = (True, False), (True,), (False,)
_METHODS: Final[dict[str, tuple[tuple[bool, ...], Callable[[Fields], dict[str, Any]]]]] = {
    "server/discover": (_NEW, _nothing),
    "initialize": (_OLD, _initialize),
    "ping": (_OLD, _nothing),
    "logging/setLevel": (_OLD, _level),
    "tools/list": (_BOTH, _cursor),
    "tools/call": (_BOTH, _call),
    "resources/list": (_BOTH, _cursor),
    "resources/templates/list": (_BOTH, _cursor),
    "resources/read": (_BOTH, _read),
    "prompts/list": (_BOTH, _cursor),
    "prompts/get": (_BOTH, _get),
    "completion/complete": (_BOTH, _complete),
}
"""Of which generations each is, and how its parameters are read."""
_NOTES: Final = frozenset(f"notifications/{word}" for word in ("initialized", "cancelled", "roots/list_changed", "progress"))


# --- a message -----------------------------------------------------------------------------------------------------------


def parse_message(data: bytes, *, said: str | None = None) -> Message:
    """Read what a client sends, whole; `said` is the version in a header, where there was one. Raises BadMessage, and nothing else, on any
    bytes.

    1. One JSON object: no batch, bounded, no key twice.
    2. Of JSON-RPC 2.0, a request or a notification, with nothing beside; an id is a text or an integer.
    3. Its generation is what its `_meta` says: a version says the newer, which is the header's and one that we speak. None says the older,
       where no header says the newer.
    4. The method is one of that generation, and its parameters are known, whole.

    Says nothing of headers: `check_headers`.
    """
    # 1
    try:
        value = decode_json(data, "message", max_size=MAX_MESSAGE, max_depth=MAX_DEPTH, floats=True)
        encode_json(value, floats=True)
    except FormatError as error:
        raise BadMessage(error, PARSE_ERROR) from None
    except UnicodeEncodeError:
        raise BadMessage(FormatError("message", "Unicode", "a lone surrogate"), PARSE_ERROR) from None
    if not isinstance(value, dict):
        got = "a batch" if isinstance(value, list) else type(value).__name__
        raise BadMessage(FormatError("message", "one object", got), INVALID_REQUEST)
    identifier: Identifier | None = None
    modern = False
    code = INVALID_REQUEST
    try:
        # 2
        if "id" in value:
            identifier = _identifier(value["id"])
        if unknown := value.keys() - {"id", "jsonrpc", "method", "params"}:
            raise FormatError("message", "id, jsonrpc, method and params, and no response", ", ".join(sorted(unknown))[:80])
        method = value.get("method")
        if value.get("jsonrpc") != "2.0" or not isinstance(method, str):
            raise FormatError("message", "jsonrpc 2.0 and a method", repr(value.get("jsonrpc"))[:40])
        code = INVALID_PARAMS
        params = _object(value.get("params", {}), "params")
        # 3
        meta = _object(params.get("_meta", {}), "params._meta")
        modern = _META + "protocolVersion" in meta
        if said == MODERN and not modern and identifier is not None:
            raise FormatError(f"params._meta.{_META}protocolVersion", MODERN, "none")
        version = _version(meta, "id" in value) if modern else None
        if version is not None and said is not None and version != said:
            code = HEADER_MISMATCH
            raise FormatError("header MCP-Protocol-Version", version, repr(said)[:40])
        if version is not None and version != MODERN:
            code = UNSUPPORTED_VERSION
            raise FormatError(f"params._meta.{_META}protocolVersion", ", ".join(VERSIONS), repr(version)[:40])
        # 4
        code = METHOD_NOT_FOUND
        if identifier is None:
            if method not in _NOTES:
                raise FormatError("message.method", ", ".join(sorted(_NOTES)), repr(method)[:60])
            return Note(method, version)
        generations, read = _METHODS.get(method, ((), _nothing))
        if modern not in generations:
            raise FormatError("message.method", f"a method of {MODERN if modern else LEGACY[0]} that is served here", repr(method)[:60])
        code = INVALID_PARAMS
        f = Fields({name: one for name, one in params.items() if name != "_meta"}, "params")
        sent = read(f)
        f.done()
    except FormatError as error:
        raise BadMessage(error, code, identifier, modern=modern) from None
    return Call(identifier, method, sent, version, sent[_NAMED[method]] if method in _NAMED else None)


def _identifier(value: object) -> Identifier:
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, str) and len(value) > MAX_ID):
        raise FormatError("message.id", f"an integer or a text of at most {MAX_ID} characters", type(value).__name__)
    return value


def _version(meta: Mapping[str, Any], is_request: bool) -> str:
    version, capabilities = meta[_META + "protocolVersion"], meta.get(_META + "clientCapabilities")
    if not isinstance(version, str):
        raise FormatError(f"params._meta.{_META}protocolVersion", "a text", type(version).__name__)
    if is_request and not isinstance(capabilities, dict):
        raise FormatError(f"params._meta.{_META}clientCapabilities", "an object", type(capabilities).__name__)
    return version


def modern_meta(name: str, version: str) -> dict[str, Any]:
    """What a request of ours to a server of the newer generation has to say: who asks, and that we answer nothing."""
    info = {"name": name, "version": version}
    return {_META + "protocolVersion": MODERN, _META + "clientCapabilities": {}, _META + "clientInfo": info}


# --- headers ---------------------------------------------------------------------------------------------------------------


def header_text(value: str, what: str) -> str:
    """What a header's value stands for, `=?base64?…?=` decoded. Raises FormatError."""
    found = _SENTINEL.match(value)
    if found is None:
        if not _PLAIN.match(value):
            raise FormatError(what, "printable ASCII, or =?base64?…?=", repr(value)[:80])
        return value
    try:
        raw = base64.b64decode(found[1], validate=True)
        text = raw.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise FormatError(what, "base64 of UTF-8", repr(value)[:80]) from None
    if base64.b64encode(raw).decode("ascii") != found[1]:
        raise FormatError(what, "base64 in its one spelling", repr(value)[:80])
    return text


def check_headers(headers: Mapping[str, str], message: Message) -> None:
    """The headers of a request (names in small letters, each once) say what its body says. Raises BadMessage.

    1. A version that we speak (`parse_message` has held it against the body's). Only `initialize` may come without one: a request that says
       none could be anything.
    2. Mcp-Method and Mcp-Name are there in the newer generation; in either, they say nothing else than the body.
    """
    identifier = message.identifier if isinstance(message, Call) else None
    modern = message.version is not None

    def bad(what: str, expected: str, got: str, code: int = HEADER_MISMATCH) -> BadMessage:
        return BadMessage(FormatError(f"header {what}", expected, repr(got)[:80]), code, identifier, modern=modern)

    # 1
    version = headers.get("mcp-protocol-version")
    if version is None and message.method != "initialize":
        raise bad("MCP-Protocol-Version", " or ".join(VERSIONS), "none")
    if version is not None and version not in VERSIONS:
        raise bad("MCP-Protocol-Version", ", ".join(VERSIONS), version, UNSUPPORTED_VERSION)
    # 2
    try:
        method = headers.get("mcp-method")
        if method != message.method and (method is not None or (modern and isinstance(message, Call))):
            raise bad("Mcp-Method", message.method, str(method))
        name = None if "mcp-name" not in headers else header_text(headers["mcp-name"], "header Mcp-Name")
    except BadMessage:
        raise
    except FormatError as error:
        raise BadMessage(error, HEADER_MISMATCH, identifier, modern=modern) from None
    wanted = message.name if isinstance(message, Call) else None
    if name != wanted and (name is not None or modern):
        raise bad("Mcp-Name", str(wanted), str(name))


def mirrored(definition: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """Each `x-mcp-header` of a tool's definition in small letters, with the path of the argument that it repeats. Raises FormatError.

    Only along `properties`; one anywhere else, twice, or on what is no text, integer or boolean makes it a definition that no client takes.
    """
    schema = definition.get("inputSchema", {})
    found: list[tuple[str, tuple[str, ...]]] = []

    def walk(value: object, path: tuple[str, ...], *, reached: bool) -> None:
        if isinstance(value, list):
            for item in value:
                walk(item, path, reached=False)
        if not isinstance(value, dict):
            return
        if "x-mcp-header" in value and not isinstance(value["x-mcp-header"], dict):
            name, plain = value["x-mcp-header"], value.get("type") in ("string", "integer", "boolean")
            if not (reached and path and plain and isinstance(name, str) and _TCHAR.match(name)):
                raise FormatError("x-mcp-header", "a token, on a text, an integer or a boolean along properties", repr(name)[:60])
            found.append((name.lower(), path))
        for key, inner in value.items():
            if key == "properties" and isinstance(inner, dict):
                for called, one in inner.items():
                    walk(one, (*path, called), reached=reached)
            else:
                walk(inner, path, reached=False)

    walk(schema, (), reached=True)
    if len({name for name, _ in found}) != len(found):
        raise FormatError("x-mcp-header", "each name once", ", ".join(name for name, _ in found)[:80])
    return found


def check_parameters(headers: Mapping[str, str], definition: Mapping[str, Any], call: Call) -> None:
    """Each argument that the tool's definition wants repeated is, in `Mcp-Param-NAME`, and nothing is repeated that is not there.

    Raises BadMessage.
    """
    try:
        for name, path in mirrored(definition):
            value: Any = call.params["arguments"]
            for step in path:
                value = value.get(step) if isinstance(value, dict) else None
            said = headers.get(f"mcp-param-{name}")
            text = None if said is None else header_text(said, f"header Mcp-Param-{name}")
            if value is None and text is None:
                continue
            if not _same(value, text):
                raise FormatError(f"header Mcp-Param-{name}", "none" if value is None else repr(value)[:80], repr(text)[:80])
    except FormatError as error:
        raise BadMessage(error, HEADER_MISMATCH, call.identifier, modern=call.modern) from None


def _same(value: object, text: str | None) -> bool:
    if text is None or isinstance(value, float | list | dict) or value is None:
        return False
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    if isinstance(value, int):
        return bool(_DECIMAL.match(text)) and int(text.partition(".")[0]) == value
    return text == value


# --- what a server says ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """A server's answer to the request of this number: a result, or an error's code and message."""

    identifier: int
    result: Mapping[str, Any] | None
    error: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class Said:
    """What a server says of itself: a notification, or, with an id, a request to its client."""

    method: str
    identifier: Identifier | None


def parse_said(data: bytes, what: str) -> Answered | Said:
    """Read one message of a server. Raises FormatError, also for an id that none of our requests can have."""
    value = decode_json(data, what, max_size=MAX_MESSAGE, max_depth=MAX_DEPTH, floats=True)
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise FormatError(what, "one message of JSON-RPC 2.0", repr(value)[:80])
    if "method" in value:
        if not isinstance(value["method"], str) or value.keys() & {"result", "error"}:
            raise FormatError(what, "a request, a notification or an answer", "several at once")
        return Said(value["method"], _identifier(value["id"]) if "id" in value else None)
    if type(value.get("id")) is not int or ("result" in value) == ("error" in value):
        raise FormatError(what, "an answer to a request of ours: a result or an error", repr(value)[:80])
    if "result" in value:
        return Answered(value["id"], _object(value["result"], f"{what}.result"), None)
    error = _object(value["error"], f"{what}.error")
    code, message = error.get("code"), error.get("message")
    if type(code) is not int or not isinstance(message, str):
        raise FormatError(f"{what}.error", "a code and a message", repr(error)[:80])
    return Answered(value["id"], None, (code, message[:1000]))


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
        _object(found.get("completion"), f"{what}.completion")
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


# --- what was approved -------------------------------------------------------------------------------------------------------


def definition_digest(definition: Mapping[str, Any]) -> Digest:
    """The SHA-256 of a definition's one spelling, whole. Raises FormatError for text that has none."""
    try:
        return Digest.of(encode_json(definition, floats=True))
    except UnicodeEncodeError:
        raise FormatError("definition", "Unicode", "a lone surrogate") from None


def instructions_digest(text: str) -> Digest:
    """The same of what a server says that a model should know. Raises FormatError."""
    return definition_digest({"instructions": text})


@dataclass(frozen=True, slots=True)
class ApprovedServer:
    """What was approved of a server: the generation it speaks, and its definitions by digest.

    It lies beside the server's code in a component that is measured, as `NAME.mcp.json`: another definition is another measurement.
    Resources come and go, so they are served or not, as a whole; `instructions` are shown to a model only where their digest is approved.

        {"completions": false, "instructions": null, "prompts": {}, "protocol": "2026-07-28", "resources": true,
         "tools": {"read": "5f70bf18…"}, "v": 1}
    """

    protocol: str
    tools: Mapping[str, Digest]
    prompts: Mapping[str, Digest]
    resources: bool = False
    completions: bool = False
    instructions: Digest | None = None

    @property
    def capabilities(self) -> dict[str, Any]:
        """What a client is told that there is."""
        offered = {"tools": self.tools, "prompts": self.prompts, "resources": self.resources, "completions": self.completions}
        return {name: {} for name, there in offered.items() if there}

    def serves(self, method: str) -> bool:
        """Whether requests of `method` go to this server."""
        kind = method.partition("/")[0]
        return {"completion": "completions"}.get(kind, kind) in self.capabilities


def encode_approved(approved: ApprovedServer) -> bytes:
    """The one spelling."""
    return encode_json(
        {
            "v": 1,
            "protocol": approved.protocol,
            "tools": {name: digest.hex() for name, digest in approved.tools.items()},
            "prompts": {name: digest.hex() for name, digest in approved.prompts.items()},
            "resources": approved.resources,
            "completions": approved.completions,
            "instructions": None if approved.instructions is None else approved.instructions.hex(),
        }
    )


def parse_approved(data: bytes) -> ApprovedServer:
    """Read what was approved; spaces and order are the author's. Raises FormatError."""
    f = Fields(decode_json(data, "mcp.json"), "mcp.json")
    f.version(1)
    protocol = f.text("protocol")
    if protocol not in VERSIONS:
        raise FormatError("mcp.json.protocol", ", ".join(VERSIONS), repr(protocol)[:40])
    tools, prompts = dict(_pinned(f, "tools")), dict(_pinned(f, "prompts"))
    resources, completions, instructions = f.flag("resources"), f.flag("completions"), f.any("instructions")
    f.done()
    return ApprovedServer(
        protocol, tools, prompts, resources, completions, None if instructions is None else _hex(instructions, "mcp.json.instructions")
    )


def _pinned(f: Fields, key: str) -> Iterator[tuple[str, Digest]]:
    for name, text in f.mapping(key, most=MAX_LIST).items():
        yield tool_name(name, f"mcp.json.{key}"), _hex(text, f"mcp.json.{key}.{name}")


def _hex(text: object, what: str) -> Digest:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{64}", text):
        raise FormatError(what, "a SHA-256 in small hex", repr(text)[:80])
    return Digest("sha256", bytes.fromhex(text))

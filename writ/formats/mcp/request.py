"""What a client says: JSON-RPC 2.0, one message a body, each method parsed whole.

Two generations are spoken. In 2026-07-28 every request says for itself what it is, in `_meta`, and over HTTP again in headers; in
2025-11-25 and 2025-06-18 a handshake came first. Both are read into a `Call` or a `Note`; methods, parameters and notifications that are
not named here are refused, and so is a batch.

    {"id": 7, "jsonrpc": "2.0", "method": "tools/call", "params": {"name": "read", "arguments": {"name": "today"}, "_meta": {…}}}

Nothing of a client's `_meta` goes on to a server: what is decided and recorded is all that is sent.


Source: Model Context Protocol, revisions 2026-07-28 (basic, transports/streamable-http, versioning, schema.ts), 2025-11-25, 2025-06-18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.errors import FormatError
from writ.formats.mcp.input import capabilities_of, offered, parse_input
from writ.formats.mcp.names import template, tool_name, uri
from writ.formats.mcp.protocol import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY,
    MAX_DEPTH,
    MAX_MESSAGE,
    META,
    METHOD_NOT_FOUND,
    MODERN,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    VERSIONS,
    BadMessage,
    Identifier,
    identifier_of,
    object_of,
)
from writ.formats.strict import Fields, decode_json, encode_json
from writ.formats.trace import parse_traceparent

_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
MAX_SUBSCRIPTIONS: Final = 32
LIST_CHANGES: Final = {
    "notifications/tools/list_changed": "toolsListChanged", "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}  # fmt: skip
"""Each notification that a list has changed, and the name under which a client wants it."""
NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Which parameter `Mcp-Name` repeats."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as a client sent it. `params` is what may go on to a server: whole, known, without `_meta`.

    `version` is the one that a request of the newer generation says it is of; None is of the older. `name` is what `Mcp-Name` repeats.
    `progress` is the token under which the client would hear how far it is, and `offers` are the kinds of questions that it takes.
    `trace` is what `_meta.traceparent` says of its trace; any other value there is none.
    """

    identifier: Identifier
    method: str
    params: Mapping[str, Any]
    version: str | None
    name: str | None
    progress: Identifier | None = None
    offers: frozenset[str] = frozenset()
    trace: bytes | None = None

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


def _cursor(f: Fields) -> dict[str, Any]:
    return {"cursor": f.text("cursor", most=4096)} if f.has("cursor") else {}


def _texts(value: object, what: str) -> dict[str, str]:
    found = object_of(value, what)
    if not all(isinstance(one, str) for one in found.values()) or len(found) > 64:
        raise FormatError(what, "at most 64 texts", "others")
    return found


def _nothing(_: Fields) -> dict[str, Any]:
    return {}


def _initialize(f: Fields) -> dict[str, Any]:
    version = f.text("protocolVersion", most=32)
    object_of(f.any("capabilities"), "params.capabilities")
    object_of(f.any("clientInfo"), "params.clientInfo")
    return {"protocolVersion": version}


def _call(f: Fields) -> dict[str, Any]:
    name = tool_name(f.any("name"), "params.name")
    return {"name": name, "arguments": object_of(f.any("arguments"), "params.arguments") if f.has("arguments") else {}}


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


def _listen(f: Fields) -> dict[str, Any]:
    wanted = f.fields("notifications")
    found: dict[str, Any] = {}
    for one in LIST_CHANGES.values():
        if wanted.has(one) and wanted.flag(one):
            found[one] = True
    if wanted.has("resourceSubscriptions"):
        uris = wanted.items("resourceSubscriptions", most=MAX_SUBSCRIPTIONS)
        found["resourceSubscriptions"] = sorted({uri(one, "params.notifications.resourceSubscriptions") for one in uris})
    wanted.done()
    if not found:
        raise FormatError("params.notifications", "something to listen for", "nothing")
    return {"notifications": found}


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
    "subscriptions/listen": (_NEW, _listen),
    "resources/subscribe": (_OLD, _read),
    "resources/unsubscribe": (_OLD, _read),
}
"""Of which generations each is, and how its parameters are read."""
_NOTES: Final = frozenset(f"notifications/{word}" for word in ("initialized", "cancelled", "roots/list_changed", "progress"))


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
        if b"\\u" in data:  # a lone surrogate has no other spelling in UTF-8
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
            identifier = identifier_of(value["id"])
        if unknown := value.keys() - {"id", "jsonrpc", "method", "params"}:
            raise FormatError("message", "id, jsonrpc, method and params, and no response", ", ".join(sorted(unknown))[:80])
        method = value.get("method")
        if value.get("jsonrpc") != "2.0" or not isinstance(method, str):
            raise FormatError("message", "jsonrpc 2.0 and a method", repr(value.get("jsonrpc"))[:40])
        code = INVALID_PARAMS
        params = object_of(value.get("params", {}), "params")
        # 3
        meta = object_of(params.get("_meta", {}), "params._meta")
        modern = META + "protocolVersion" in meta
        if said == MODERN and not modern and identifier is not None:
            raise FormatError(f"params._meta.{META}protocolVersion", MODERN, "none")
        version = _version(meta, "id" in value) if modern else None
        if version is not None and said is not None and version != said:
            code = HEADER_MISMATCH
            raise FormatError("header MCP-Protocol-Version", version, repr(said)[:40])
        if version is not None and version != MODERN:
            code = UNSUPPORTED_VERSION
            raise FormatError(f"params._meta.{META}protocolVersion", ", ".join(VERSIONS), repr(version)[:40])
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
        if modern and method in NAMED:
            sent |= parse_input(f)
        f.done()
        progress = identifier_of(meta["progressToken"]) if "progressToken" in meta else None
        offers = offered(meta[META + "clientCapabilities"]) if modern else frozenset[str]()
    except FormatError as error:
        raise BadMessage(error, code, identifier, modern=modern) from None
    name, trace = sent[NAMED[method]] if method in NAMED else None, parse_traceparent(meta.get("traceparent"))
    return Call(identifier, method, sent, version, name, progress, offers, trace)


def _version(meta: Mapping[str, Any], is_request: bool) -> str:
    version, capabilities = meta[META + "protocolVersion"], meta.get(META + "clientCapabilities")
    if not isinstance(version, str):
        raise FormatError(f"params._meta.{META}protocolVersion", "a text", type(version).__name__)
    if is_request and not isinstance(capabilities, dict):
        raise FormatError(f"params._meta.{META}clientCapabilities", "an object", type(capabilities).__name__)
    return version


def modern_meta(name: str, version: str, offers: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What a request of ours to a server of the newer generation has to say: who asks, and which kinds of questions may come back."""
    info = {"name": name, "version": version}
    return {META + "protocolVersion": MODERN, META + "clientCapabilities": capabilities_of(offers), META + "clientInfo": info}

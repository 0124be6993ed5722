"""Headers of Streamable HTTP, which repeat what the body says: held against it where we are asked, and made of it where we ask.

Source: Model Context Protocol 2026-07-28, basic/transports/streamable-http, "Request Metadata".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from writ.formats.errors import FormatError
from writ.formats.mcp.protocol import HEADER_MISMATCH, UNSUPPORTED_VERSION, VERSIONS, BadMessage
from writ.formats.mcp.request import NAMED, Call, Message

_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=\Z", re.DOTALL)
_PLAIN: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?\Z")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})(?:\.0+)?\Z", re.ASCII)
_TCHAR: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")


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


def header_value(text: str) -> str:
    """`text` as it can stand in a header: itself, or in base64 where it could not, or would be taken for that."""
    if _PLAIN.match(text) and not _SENTINEL.match(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode('ascii')}?="


def request_headers(method: str, params: Mapping[str, Any], version: str, definition: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What the headers of a request of the newer generation repeat of it; of a tool's arguments, what its `definition` wants repeated.

    Raises FormatError for a definition that no client takes.
    """
    found = [("MCP-Protocol-Version", version), ("Mcp-Method", method)]
    if method in NAMED:
        found.append(("Mcp-Name", header_value(params[NAMED[method]])))
    for called, path in mirrored(definition) if definition is not None and method == "tools/call" else ():
        value = _at(params["arguments"], path)
        if isinstance(value, str | int):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            found.append((f"Mcp-Param-{called}", header_value(text)))
    return found


def _at(arguments: object, path: tuple[str, ...]) -> object:
    """The argument at `path`, None where there is none."""
    value = arguments
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


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
            value = _at(call.params["arguments"], path)
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

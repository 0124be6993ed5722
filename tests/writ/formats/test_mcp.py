"""Messages of MCP: one reading or none, and what was approved comes back as it was."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.mcp.answer import parse_error, parse_result, parse_said
from writ.formats.mcp.approved import ApprovedServer, definition_digest, encode_approved, parse_approved
from writ.formats.mcp.events import Events, event
from writ.formats.mcp.headers import check_headers, header_text
from writ.formats.mcp.names import template, uri
from writ.formats.mcp.protocol import MODERN, VERSIONS, BadMessage
from writ.formats.mcp.request import Call, Note, parse_message
from writ.formats.strict import decode_json, encode_json

META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "read", "arguments": {"by": 1.5}, "_meta": META}}
_DIGESTS = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True), st.binary(min_size=32, max_size=32), max_size=4
)


def spelt(value: object) -> bytes:
    return json.dumps(value).encode()


def test_a_call_is_read_whole_and_its_meta_is_not_what_is_sent() -> None:
    call = parse_message(spelt(CALL))
    assert call == Call(7, "tools/call", {"name": "read", "arguments": {"by": 1.5}}, MODERN, "read")
    assert parse_message(spelt({"jsonrpc": "2.0", "method": "notifications/initialized"})) == Note("notifications/initialized", None)


def test_any_bytes_are_a_message_or_refused() -> None:
    assert_parser_is_total(parse_message, spelt(CALL))
    assert_parser_is_total(lambda data: parse_said(data, "server"), spelt({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}))
    error = spelt({"jsonrpc": "2.0", "id": 1, "error": {"code": -32001, "message": "no"}})
    assert_parser_is_total(lambda data: parse_error(data, "server", 1), error)
    assert_parser_is_total(parse_approved, encode_approved(ApprovedServer(MODERN, {"read": Digest.of(b"")}, {})))


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_KEYS = st.sampled_from(["jsonrpc", "id", "method", "params", "_meta", "x"])
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=12)


@pytest.mark.parametrize(
    "method, result",
    [
        ("tools/call", {"content": [{"type": "text", "text": "x"}], "isError": False}),
        ("resources/read", {"contents": [{"uri": "note://today", "text": "x"}]}),
        ("tools/list", {"tools": [{"name": "read"}], "nextCursor": "x"}),
        ("completion/complete", {"completion": {"values": []}}),
    ],
)
def test_any_result_is_what_was_asked_for_or_refused(method: str, result: dict[str, Any]) -> None:
    def parse(data: bytes) -> object:
        value = decode_json(data, "result", floats=True)
        if not isinstance(value, dict):
            raise FormatError("result", "an object", "another")
        return parse_result(method, {"uri": "note://today"}, value)

    assert_parser_is_total(parse, spelt(result))


@given(_JSON)
def test_any_json_is_a_message_or_refused(value: Any) -> None:
    with contextlib.suppress(BadMessage):
        check_headers({}, parse_message(spelt(value)))


@given(_DIGESTS, _DIGESTS, st.booleans(), st.booleans(), st.none() | st.binary(min_size=32, max_size=32), st.sampled_from(VERSIONS))
def test_what_was_approved_comes_back(
    tools: dict[str, bytes], prompts: dict[str, bytes], resources: bool, completions: bool, said: bytes | None, protocol: str
) -> None:
    def digests(raw: dict[str, bytes]) -> dict[str, Digest]:
        return {name: Digest("sha256", one) for name, one in raw.items()}

    approved = ApprovedServer(
        protocol, digests(tools), digests(prompts), resources, completions, None if said is None else Digest("sha256", said)
    )
    assert parse_approved(encode_approved(approved)) == approved


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2}, {"protocol": "2025-03-26"}, {"tools": {"../x": "0" * 64}}, {"tools": {"read": "0" * 63}}, {"tools": {"read": "A" * 64}},
        {"more": 1}, {"resources": 1}, {"instructions": ""},
    ],
)  # fmt: skip
def test_what_approves_in_no_known_way_is_refused(change: dict[str, Any]) -> None:
    good = json.loads(encode_approved(ApprovedServer(MODERN, {}, {})))
    with pytest.raises(FormatError):
        parse_approved(spelt(good | change))


def test_the_file_of_the_page_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs/formats.md").read_text()
    (shown,) = re.findall(r"```text\n(\{\"v\": 1, \"protocol\".*?)```", page, re.DOTALL)
    assert parse_approved(shown.encode()).serves("resources/read")


def test_the_digest_of_a_definition_is_that_of_its_meaning() -> None:
    one = decode_json(b'{"name":"a","inputSchema":{"minimum":0.50,"maximum":1e2}}', "x", floats=True)
    other = decode_json(b'{ "inputSchema": {"maximum": 100, "minimum": 5e-1}, "name": "a" }', "x", floats=True)
    assert definition_digest(one) == definition_digest(other)
    assert definition_digest(one) != definition_digest({**one, "name": "b"})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_the_same_in_its_one_spelling(value: float) -> None:
    data = encode_json([value], floats=True)
    (back,) = decode_json(data, "x", floats=True)
    assert back == value
    assert decode_json(encode_json([back], floats=True), "x", floats=True, one_spelling=True) == [back]


@pytest.mark.parametrize("text", [b"1e400", b"-1e400", b"NaN", b"Infinity", b"0." + b"1" * 70])
def test_a_number_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        decode_json(text, "x", floats=True)
    with pytest.raises(FormatError):
        decode_json(b"1.5", "x")


@pytest.mark.parametrize(
    "good", ["note://today", "file:///projects/a.txt", "urn:isbn:1", "data:,x", "https://h.example:8443/p%20q?a=b&c=%C3%A4", "x://[::1]/a"]
)
def test_a_uri_in_its_one_spelling_is_taken_as_it_is(good: str) -> None:
    assert uri(good, "uri") == good


@pytest.mark.parametrize(
    "bad",
    [
        "x://h//a",
        "x://h/a?b//c",
        "x://h/../a",
        "x://h/a?/../b",
        "x://H/a",
        "X://h/a",
        "x:/a",
        "x:",
        "x://h/%2E",
        "x://h/%61",
        "x://h/%e4",
        "x://h/a#b",
    ],
)
def test_a_uri_in_another_spelling_is_refused(bad: str) -> None:
    with pytest.raises(FormatError):
        uri(bad, "uri")


def test_a_template_stands_for_what_is_beneath_it() -> None:
    assert template("note://{name}/{+rest}", "t") == "note://-/-"
    with pytest.raises(FormatError):
        template("note://{a}/../{b}", "t")


@pytest.mark.parametrize("value", ["Hello, 世界", " padded ", "line1\nline2", "=?base64?literal?="])
def test_the_specifications_examples_of_encoded_values_decode(value: str) -> None:
    """2026-07-28, transports/streamable-http, Value Encoding."""
    import base64

    assert header_text(f"=?base64?{base64.b64encode(value.encode()).decode()}?=", "x") == value
    assert header_text("us-west1", "x") == "us-west1"


@pytest.mark.parametrize("value", ["", " x", "x ", "ä", "a\x00b", "=?base64?!!?=", "=?base64?4A==?=", "=?base64?YQ=?="])
def test_a_value_that_no_header_can_hold_is_refused(value: str) -> None:
    with pytest.raises(FormatError):
        header_text(value, "x")


@given(st.lists(st.sampled_from([b"data: a", b"data:b", b"data", b": c", b"id: 1", b"", b"", b"event: message", b"x: 1", b"data: \r"])),
       st.sampled_from([b"\n", b"\r\n"]), st.integers(1, 9))  # fmt: skip
def test_a_stream_is_read_the_same_in_whatever_pieces_it_comes(lines: list[bytes], end: bytes, step: int) -> None:
    data = b"".join(line + end for line in lines)

    def read(step: int) -> list[bytes] | None:
        events = Events(64)
        try:
            return [one for at in range(0, len(data), step) for one in events.feed(data[at : at + step])]
        except FormatError:
            return None

    assert read(step) == read(len(data) or 1)


@pytest.mark.parametrize("shape", ["one line in small parts", "one event of many lines", "many events at once", "a comment that goes on"])
def test_a_stream_is_read_in_time_that_grows_as_it_does(shape: str) -> None:
    """What is held of a line or an event is not gone over anew for each part: of 16 times as much in less than 60 times the time."""

    def parts(size: int) -> list[bytes]:
        match shape:
            case "one line in small parts":
                return [b"data: ", *[b"x" * 32] * (size // 32), b"\n\n"]
            case "one event of many lines":
                return [*[b"data: x\n"] * (size // 8), b"\n"]
            case "many events at once":
                return [b"data: x\n\n" * (size // 9)]
            case _:
                return [b":", *[b" " * 32] * (size // 32), b"\n"]

    def took(size: int) -> float:
        best = float("inf")
        for _ in range(3):
            events, fed = Events(2 << 20), parts(size)
            began = time.thread_time()
            for part in fed:
                events.feed(part)
            best = min(best, time.thread_time() - began)
        return best

    assert took(1 << 20) < 60 * took(1 << 16)


def test_an_event_is_read_as_it_was_written() -> None:
    assert Events(64).feed(event(b'{"a":1}') + event(b"2")) == [b'{"a":1}', b"2"]


@pytest.mark.parametrize("line", [b"data: " + b"x" * 64, b": " + b"x" * 64, b"data: 1\n" * 40])
def test_a_line_or_an_event_that_is_too_long_is_refused_as_soon_as_it_is(line: bytes) -> None:
    with pytest.raises(FormatError):
        Events(64).feed(line)
    with pytest.raises(FormatError):
        Events(64).feed(line + b"\n\n")

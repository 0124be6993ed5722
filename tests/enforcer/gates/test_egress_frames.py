"""What an agent, or a host, may ask for with frames of HTTP/2, and fields that could be read in two ways: bounded, and refused."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hypothesis import given
from hypothesis import strategies as st

from enforcer.gates.egress.frames import ALLOWANCE, MAX_BLOCK, MAX_CONTINUATIONS, MAX_FRAME, Frames, Type
from enforcer.gates.egress.http2 import TABLE, Http2
from enforcer.gates.egress.request import Headers, parse_asked, parse_fields, parse_trailers
from enforcer.wire.destination import parse_authority
from enforcer.wire.head import MAX_HEAD
from enforcer.wire.limits import Limits
from enforcer.wire.stream import Stream
from tests.enforcer.gates.newer import Web
from tests.world.network import Server
from tests.world.web2 import Client, newest
from writ.formats.errors import FormatError

Sites = Callable[..., Web]
THERE = parse_authority("api.test:7")
CALM, PROTOCOL, FLOW = ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.PROTOCOL_ERROR, ErrorCodes.FLOW_CONTROL_ERROR


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """RFC 9113 4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def pseudo(agent: Client) -> bytes:
    """A whole head, compressed in a table that is not changed."""
    return b"\x82\x87\x84\x01" + bytes([len(agent.authority)]) + agent.authority.encode()


def code(connection: socket.socket) -> int | None:
    """Of the GOAWAY that comes, None where none does."""
    heard = Frames(preface=False)
    heard.spend = lambda cost: None  # type: ignore[method-assign]  # noqa: ARG005 - it only reads here
    with suppress(OSError):
        while part := connection.recv(65536):
            for one in heard.take(part):
                if one.type == Type.GOAWAY:
                    return int.from_bytes(one.data[13:17], "big")
    return None


# --- floods ----------------------------------------------------------------------------------------------------------------

MANY = 2 * ALLOWANCE
OPENED = frame(Type.HEADERS, b"HEAD", flags=4, stream=1)
FLOODS = {
    "PING": frame(Type.PING, bytes(8)) * MANY,
    "SETTINGS": frame(Type.SETTINGS) * (MANY // 4),
    "PRIORITY": frame(Type.PRIORITY, bytes([0, 0, 0, 0, 1]), stream=3) * MANY,
    "WINDOW_UPDATE": frame(Type.WINDOW_UPDATE, b"\0\0\0\1") * MANY,
    "a type nobody knows": frame(0xBB, b"x") * MANY,
    "GOAWAY": frame(Type.GOAWAY, bytes(8)) * (MANY // 8),
    "DATA without data": OPENED + frame(Type.DATA, stream=1) * MANY,
    "DATA of padding": OPENED + frame(Type.DATA, b"\1\0", flags=8, stream=1) * MANY,
    "DATA for nobody": OPENED + frame(Type.RST_STREAM, bytes(4), stream=1) + frame(Type.DATA, b"x", stream=1) * MANY,
    "CONTINUATION without end": frame(Type.HEADERS, b"\x82", stream=1) + frame(Type.CONTINUATION, b"\x84", stream=1) * 20,
    "CONTINUATION without anything": frame(Type.HEADERS, b"\x82", stream=1) + frame(Type.CONTINUATION, stream=1) * 20,
    "long header block": frame(Type.HEADERS, b"x" * MAX_FRAME, stream=1) + frame(Type.CONTINUATION, b"x" * MAX_FRAME, stream=1) * 2,
    "long frame": frame(Type.DATA, b"x" * (MAX_FRAME + 1), stream=1)[:9],
    "many SETTINGS in one": frame(Type.SETTINGS, b"\xff\x00\0\0\0\1" * 33),
    "PUSH_PROMISE": frame(Type.PUSH_PROMISE, b"\0\0\0\2\x82", flags=4, stream=1),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood_ends_the_connection_that_it_comes_on_and_no_other(sites: Sites, name: str) -> None:
    one = sites()
    agent, other = one.agent(), one.agent()
    agent.connection.settimeout(5)
    head = frame(Type.HEADERS, pseudo(agent), flags=4, stream=1)
    agent.connection.sendall(FLOODS[name].replace(OPENED, head))
    assert code(agent.connection) == CALM
    assert other.answer(other.ask("/v1/a")).status == 200


@pytest.mark.parametrize("name", ["PING", "PRIORITY", "WINDOW_UPDATE", "a type nobody knows"])
def test_as_many_frames_as_there_is_allowance_for_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("enforcer.gates.egress.frames.time.monotonic", lambda: now)
    one, made = FLOODS[name][: len(FLOODS[name]) // MANY], Frames(preface=False)
    assert len(list(made.take(one * ALLOWANCE))) == ALLOWANCE
    made.earn(10)
    assert len(list(made.take(one * 10))) == 10
    with pytest.raises(FormatError):
        list(made.take(one))


def test_allowance_grows_again_with_time_and_never_above_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("enforcer.gates.egress.frames.time.monotonic", lambda: now)
    made = Frames(preface=False)
    made.spend(ALLOWANCE)
    with pytest.raises(FormatError):
        made.spend(1)
    now += 3600
    made.spend(ALLOWANCE)
    made.earn(10 * ALLOWANCE)
    made.spend(ALLOWANCE)
    with pytest.raises(FormatError):
        made.spend(1)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_are_frames_or_refused_and_none_is_lost_or_changed(data: bytes, size: int) -> None:
    made, found = Frames(preface=False), b""
    try:
        for at in range(0, len(data), size):
            found += b"".join(one.data for one in made.take(data[at : at + size]))
    except FormatError:
        pass
    assert data.startswith(found)


@pytest.mark.parametrize("together", [True, False])
def test_requests_that_are_reset_at_once_are_few_and_the_records_too(sites: Sites, together: bool) -> None:
    """Rapid reset (CVE-2023-44487)."""
    one = sites()
    agent = one.agent()
    agent.connection.settimeout(10)
    head = pseudo(agent).replace(b"\x84", b"\x04\x06/never")
    pairs = [
        frame(Type.HEADERS, head, flags=5, stream=number) + frame(Type.RST_STREAM, bytes(4), stream=number) for number in range(1, 601, 2)
    ]
    with suppress(OSError):
        for part in [b"".join(pairs)] if together else pairs:
            agent.connection.sendall(part)
            time.sleep(0 if together else 0.001)
    assert code(agent.connection) == CALM
    assert one.out.log.checkpoint().size < 400


def test_resets_that_an_agent_makes_us_say_are_few(sites: Sites) -> None:
    """A window above its bound makes us reset a stream (CVE-2025-8671)."""
    one = sites()
    agent = one.agent()
    agent.connection.settimeout(10)
    data = b""
    for number in range(1, 801, 2):
        data += frame(Type.HEADERS, pseudo(agent), flags=5, stream=number)
        data += frame(Type.WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream=number)
    agent.connection.sendall(data)
    assert code(agent.connection) == CALM


def test_window_above_its_bound_ends_the_connection(sites: Sites) -> None:
    agent = sites().agent()
    agent.connection.sendall(frame(Type.WINDOW_UPDATE, b"\x7f\xff\xff\xff") * 2)
    assert agent.end() == FLOW


def test_window_that_opens_by_a_byte_is_not_what_an_answer_earns(sites: Sites) -> None:
    one = sites()
    agent = one.agent()
    agent.connection.settimeout(10)
    agent.h2.update_settings({4: 0})
    agent.flush()
    number = agent.ask("/pour")
    agent.until(lambda: agent.said[number].status)
    part = b""
    with suppress(OSError):
        for _ in range(MANY):
            agent.connection.sendall(frame(Type.WINDOW_UPDATE, b"\0\0\0\1", stream=number))
            if len(part := agent.connection.recv(10)) != 10 or part[3] != Type.DATA:
                break
    assert part[3] == Type.GOAWAY


def test_window_that_never_opens_gives_the_stream_up(sites: Sites) -> None:
    one = sites(limits=Limits(idle=0.5))
    agent = one.agent()
    agent.h2.update_settings({4: 0})
    agent.flush()
    number = agent.ask("/pour")
    agent.until(lambda: agent.said[number].reset is not None)
    assert one.out.results()[0]["ended"] == "idle"


def test_content_beyond_the_window_ends_the_connection(sites: Sites) -> None:
    """The host does not read, so nothing was handed on for which there would be a window."""
    one, stop = sites(speaks=("http/1.1",)), threading.Event()
    one.server.serve = lambda *_: stop.wait(20)  # type: ignore[assignment]  # nobody looks at what it returns
    agent = one.agent()
    agent.connection.settimeout(10)
    number = agent.send(agent.head("/v1/a", method="POST"), end=False)
    with suppress(OSError):
        for _ in range(4000):
            agent.connection.sendall(frame(Type.DATA, b"x" * MAX_FRAME, stream=number))
    assert code(agent.connection) in (FLOW, None)
    assert one.out.results()[0]["sent"] < 32 << 20
    stop.set()


def test_more_streams_than_agreed_end_the_connection(sites: Sites) -> None:
    one = sites(limits=Limits(streams=5))
    agent = one.agent()
    for number in range(1, 13, 2):
        agent.connection.sendall(frame(Type.HEADERS, pseudo(agent).replace(b"\x84", b"\x04\x06/never"), flags=5, stream=number))
    assert agent.end() in (PROTOCOL, ErrorCodes.REFUSED_STREAM)


def test_stream_that_depends_on_itself_ends_the_connection(sites: Sites) -> None:
    agent = sites().agent()
    agent.connection.sendall(frame(Type.PRIORITY, bytes([0, 0, 0, 3, 1]), stream=3))
    assert agent.end() == PROTOCOL


def test_header_list_that_a_few_bytes_make_long_ends_the_connection(sites: Sites) -> None:
    """An entry of the table, named again and again (RFC 7541 7.3)."""
    one = sites()
    agent = one.agent()
    entry = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
    agent.connection.sendall(frame(Type.HEADERS, pseudo(agent) + entry + b"\xbe" * 10, flags=5, stream=1))
    assert agent.end() == CALM
    assert one.out.log.checkpoint().size == 0


def test_slow_head_is_given_up_and_a_slow_content_is_not(sites: Sites) -> None:
    one = sites(limits=Limits(head_within=0.5))
    slow, busy = one.agent(), one.agent()
    number = busy.send(busy.head("/grpc/echo", method="POST"), end=False)
    begun = time.monotonic()
    slow.connection.sendall(frame(Type.HEADERS, b"\x82\x87", stream=1))
    busy.connection.sendall(frame(Type.DATA, b"abcd", stream=number)[:-2])
    slow.end()
    assert time.monotonic() - begun < 4
    busy.connection.sendall(b"cd")
    busy.until(lambda: busy.said[number].data == b"abcd")


def test_preface_that_does_not_come_is_given_up(sites: Sites) -> None:
    near = sites(limits=Limits(head_within=0.5)).near()
    near.settimeout(5)
    while near.recv(4096):
        pass


def test_no_more_headers_are_remembered_than_we_chose(sites: Sites) -> None:
    one = sites()
    with one.near() as near:
        made = Http2(Stream(near), Limits(), client=False)
    other = H2Connection()
    other.initiate_connection()
    other.update_settings({1: 1 << 30})
    made.hear(other.data_to_send())
    assert made.h2.encoder.header_table_size == TABLE


SAID = {
    "PING": FLOODS["PING"],
    "SETTINGS": FLOODS["SETTINGS"],
    "PUSH_PROMISE": FLOODS["PUSH_PROMISE"],
    "early hints": frame(Type.HEADERS, b"\x08\x03103", flags=4, stream=1) * MANY,
    "DATA without data": frame(Type.HEADERS, b"\x88", flags=4, stream=1) + frame(Type.DATA, stream=1) * MANY,
    "long frame": frame(Type.DATA, b"x" * (MAX_FRAME + 1), stream=1)[:9],
    "long head": frame(Type.HEADERS, b"x" * MAX_FRAME, stream=1) + frame(Type.CONTINUATION, b"x" * MAX_FRAME, stream=1) * 2,
    "no frames": b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("name", SAID)
def test_flood_of_a_host_is_a_failure_of_its_requests(sites: Sites, name: str) -> None:
    one = sites()

    def says(connection: socket.socket, _: Server) -> None:
        connection.sendall(frame(Type.SETTINGS))
        heard = b""
        while b"/v1/a" not in heard and b"\x87" not in heard:
            heard += connection.recv(65536)
        connection.sendall(SAID[name])
        while connection.recv(65536):
            pass

    one.server.serve = says
    agent = one.agent()
    said = agent.answer(agent.ask("/v1/a"))
    assert said.status == 502 or said.reset is not None
    assert {result["ended"] for result in one.out.results()} == {"malformed"}
    one.server.serve = newest
    assert agent.answer(agent.ask("/v1/a")).status == 200


# --- fields ----------------------------------------------------------------------------------------------------------------


def fields(*more: tuple[str, str], **changed: str | None) -> Headers:
    """A request's; a pseudo-header that is changed to None is left out."""
    said = {"method": "GET", "scheme": "https", "authority": "api.test:7", "path": "/v1/a?b", **changed}
    made = [(f":{name}", value) for name, value in said.items() if value is not None]
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in [*made, *more]]


MALFORMED = {
    "no method": fields(method=None),
    "no scheme": fields(scheme=None),
    "no path": fields(path=None),
    "no authority": fields(authority=None),
    "no authority, but a host": fields(("host", "api.test:7"), authority=None),
    "two paths": fields((":path", "/v2")),
    "two paths at once": [*fields()[:3], (b":path", b"/a"), (b":path", b"/b")],
    "pseudo-header after a field": [*fields()[:3], (b"x", b"y"), (b":path", b"/v1")],
    "unknown pseudo-header": fields((":x", "y")),
    "extended CONNECT": fields((":protocol", "websocket"), method="CONNECT"),
    "CONNECT": fields(method="CONNECT"),
    "answer's pseudo-header": fields((":status", "200")),
    "http": fields(scheme="http"),
    "HTTPS": fields(scheme="HTTPS"),
    "another authority": fields(authority="other.test:7"),
    "another port": fields(authority="api.test:8"),
    "default port": fields(authority="api.test"),
    "user name in the authority": fields(authority="x@api.test:7"),
    "no authority in it": fields(authority=""),
    "another host": fields(("host", "other.test:7")),
    "two hosts": fields(("host", "api.test:7"), ("host", "other.test:7")),
    "absolute path": fields(path="https://api.test:7/v1/a"),
    "asterisk": fields(path="*", method="OPTIONS"),
    "no path in it": fields(path=""),
    "dots": fields(path="/v1/../v2"),
    "escaped dots": fields(path="/v1/%2e%2e/v2"),
    "fragment": fields(path="/v1/a?x#y"),
    "space in the path": fields(path="/v1/a b"),
    "line end in the path": fields(path="/v1/a HTTP/1.1\r\nX: y"),
    "TRACE": fields(method="TRACE"),
    "method in small letters": fields(method="get"),
    "unknown method": fields(method="PURGE"),
    "name with a capital": fields(("X-Y", "z")),
    "name with a space": fields(("x y", "z")),
    "name with a colon": fields(("x:y", "z")),
    "name with a line end": fields(("x\r\ny", "z")),
    "no name": fields(("", "z")),
    "value with a line end": fields(("x", "a\r\nhost: other.test")),
    "value with a zero byte": fields(("x", "\0")),
    "value with a space before it": fields(("x", " a")),
    "value with a space after it": fields(("x", "a ")),
    "value beyond ASCII": fields(("x", "\xe9")),
    "connection": fields(("connection", "close")),
    "keep-alive": fields(("keep-alive", "1")),
    "proxy-connection": fields(("proxy-connection", "close")),
    "chunks": fields(("transfer-encoding", "chunked")),
    "upgrade": fields(("upgrade", "websocket")),
    "settings": fields(("http2-settings", "AAMAAABk")),
    "te": fields(("te", "gzip")),
    "two te": fields(("te", "trailers"), ("te", "gzip")),
    "two lengths": fields(("content-length", "1"), ("content-length", "1")),
    "length with a sign": fields(("content-length", "+1")),
    "length with a zero before it": fields(("content-length", "01")),
    "two lengths in one": fields(("content-length", "1, 1")),
    "method in a header": fields(("x-http-method-override", "DELETE")),
    "path in a header": fields(("x-original-url", "/admin")),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("ended", [True, False])
def test_what_is_no_request_in_fields_is_refused(name: str, ended: bool) -> None:
    with pytest.raises(FormatError):
        parse_fields(MALFORMED[name], THERE, ended=ended)


def test_length_of_a_content_that_does_not_follow_is_refused() -> None:
    with pytest.raises(FormatError):
        parse_fields(fields(("content-length", "1")), THERE, ended=True)
    assert parse_fields(fields(("content-length", "0")), THERE, ended=True).resource == "https://api.test:7/v1/a"


def test_fields_and_lines_make_the_same_request() -> None:
    for more, ended in (([], True), ([("content-length", "3"), ("x", "y")], False)):
        lines = "".join(f"{name}: {value}\r\n" for name, value in more)
        asked, _ = parse_asked(f"GET /v1/a?b HTTP/1.1\r\nHost: api.test:7\r\n{lines}\r\n".encode(), THERE, secure=True)
        found = parse_fields(fields(*more), THERE, ended=ended)
        assert (found.action, found.resource, found.arguments) == (asked.action, asked.resource, asked.arguments)
        assert list(found.onward.headers) == list(asked.onward.headers)


def test_content_without_a_length_is_chunks_further_on_and_te_stays() -> None:
    headers = dict(parse_fields(fields(("te", "trailers"), ("expect", "100-continue")), THERE, ended=False).onward.headers)
    assert headers == {b"host": b"api.test:7", b"te": b"trailers", b"transfer-encoding": b"chunked"}


@pytest.mark.parametrize(
    "name",
    ["content-length", "transfer-encoding", "host", "authorization", "cookie", "x-http-method", "te", "connection", "X", ":path", "a b"],
)
def test_trailer_that_belongs_into_a_head_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        parse_trailers([(name.encode(), b"1")])
    assert parse_trailers([(b"grpc-status", b"0")]) == [(b"grpc-status", b"0")]


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=4), st.permutations(range(4)), st.booleans())
def test_any_fields_are_a_request_or_refused(more: Headers, order: list[int], ended: bool) -> None:
    first = fields()
    try:
        found = parse_fields([*(first[at] for at in order), *more], THERE, ended=ended)
    except FormatError:
        return
    assert (found.action, found.resource) == ("http.get", "https://api.test:7/v1/a")
    assert all(b"\n" not in name + value for name, value in found.onward.headers)


@pytest.mark.parametrize("name", ["another authority", "CONNECT", "name with a capital", "connection", "dots", "value with a line end"])
def test_what_is_no_request_is_400_on_its_stream_and_reaches_nobody(sites: Sites, name: str) -> None:
    one = sites()
    agent = one.agent(lax=True)
    bad = [(key.decode("latin-1"), value.decode("latin-1").replace("api.test:7", agent.authority)) for key, value in MALFORMED[name]]
    assert agent.answer(agent.send(bad)).status == 400
    assert (one.out.log.checkpoint().size, one.server.connections) == (0, 0)
    assert agent.answer(agent.ask("/v1/a")).status == 200


@pytest.mark.parametrize(
    "more, data, trailers",
    [
        ((("content-length", "9"),), b"abc", [("x", "y")]),
        ((), b"abc", [("content-length", "3")]),
        ((), b"abc", [("x-http-method-override", "DELETE")]),
        ((), b"abc", [("X", "y")]),
    ],
)
@pytest.mark.parametrize("speaks", [("h2",), ("http/1.1",)])
def test_content_that_ends_otherwise_than_it_began_is_not_made_whole(
    sites: Sites, more: tuple[tuple[str, str], ...], data: bytes, trailers: list[tuple[str, str]], speaks: tuple[str, ...]
) -> None:
    one = sites(speaks=speaks)
    agent = one.agent(lax=True)
    number = agent.send(agent.head("/v1/a", *more, method="POST"), data=data, end=False)
    agent.h2.send_headers(number, trailers, end_stream=True)
    agent.flush()
    assert agent.answer(number).status == 502
    assert one.out.results()[0]["ended"] == "malformed"


def test_what_an_agent_sent_is_in_no_log(sites: Sites, caplog: pytest.LogCaptureFixture) -> None:
    """A log is erased by nobody: of what was malformed it says where, and not what came."""
    agent = sites().agent(lax=True)
    number = agent.send(agent.head("/v1/a", method="POST"), data=b"abc", end=False)
    agent.h2.send_headers(number, [("X-Case", "patient-4711")], end_stream=True)
    agent.flush()
    assert agent.answer(number).status == 502
    logged = [str(vars(one)) for one in caplog.records]
    assert [one for one in logged if "egress-malformed" in one]
    assert not [one for one in logged if "4711" in one]


def test_list_of_fields_is_bounded(sites: Sites) -> None:
    one = sites()
    agent = one.agent()
    agent.send(agent.head("/v1/a", *((f"x-{at}", "y" * 100) for at in range(MAX_HEAD // 100))))
    assert agent.end() == CALM
    assert one.out.log.checkpoint().size == 0


def test_header_block_of_the_greatest_size_passes() -> None:
    made = Frames(preface=False)
    part = b"x" * (MAX_BLOCK // (MAX_CONTINUATIONS + 1) - 1)
    data = frame(Type.HEADERS, part, stream=1) + frame(Type.CONTINUATION, part, stream=1) * (MAX_CONTINUATIONS - 1)
    assert len(list(made.take(data + frame(Type.CONTINUATION, part, flags=4, stream=1)))) == MAX_CONTINUATIONS + 1

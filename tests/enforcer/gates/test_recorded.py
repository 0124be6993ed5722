"""What the gates record of a trace, which nobody checks and which decides nothing; and of how an action ended, in the words of its wire."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enforcer.tools.tool import Reply
from tests.enforcer.gates.conftest import makes
from tests.enforcer.gates.mcp_rig import META, OLD, Rig
from tests.enforcer.gates.newer import Web
from tests.enforcer.gates.proxied import Proxied
from tests.enforcer.gates.test_egress_http import Web as Web1
from tests.enforcer.gates.test_egress_http import answers, get, secured
from tests.enforcer.gates.test_socket import Gate
from tests.enforcer.host import wait_for
from tests.enforcer.records import records_of
from tests.enforcer.scene import Scene
from tests.world.network import Server, echo
from writ.formats.mcp.protocol import MODERN
from writ.formats.record import ActionRecord, OutcomeRecord
from writ.formats.trace import parse_traceparent

SAID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
TRACE = parse_traceparent(SAID)
NONE = ["traceparent: " + SAID.upper(), f"traceparent: {SAID}\r\nTraceparent: {SAID}", "traceparent: 00-x", "tracestate: " + SAID]
Out = tuple[str, int | None]


def traces(scene: Scene) -> list[bytes | None]:
    return [one.trace for one in records_of(scene.folder, scene.instance) if isinstance(one, ActionRecord)]


def outcomes(scene: Scene, count: int = 1) -> list[Out]:
    """How each permitted action ended, once there are so many."""

    def settled() -> list[Out] | None:
        found = [(one.outcome, one.status) for one in records_of(scene.folder, scene.instance) if isinstance(one, OutcomeRecord)]
        return found if len(found) >= count else None

    return wait_for(settled)  # type: ignore[no-any-return]  # wait_for returns what it is given


@contextlib.contextmanager
def beyond(folder: Path, serve: Callable[[socket.socket, Server], None]) -> Iterator[tuple[Proxied, str]]:
    """A gate whose agent may connect with one server, and where that is."""
    with contextlib.closing(Server(serve)) as server, contextlib.closing(Proxied(folder, f"127.0.0.1:{server.port}")) as out:
        yield out, f"127.0.0.1:{server.port}"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Callable[..., Web1]]:
    yield from makes(Web1, tmp_path)


@pytest.fixture(params=[MODERN, OLD])
def rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(tmp_path, protocol=request.param)
    yield made
    made.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    made.scene.renew()
    yield made
    made.close()


# --- traces ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [True, False])
def test_trace_of_a_request_is_in_each_record_that_it_leads_to_and_goes_on(web: Callable[..., Web1], secure: bool) -> None:
    one = web(secure=secure)
    out = one.gate(("get", "/v1/*"))
    words = ["--cacert", str(out.ca_file), "-H", f"traceparent: {SAID}"]
    assert out.curl(*words, f"{one.url}/v1/a").stdout == "GET /v1/a "
    assert out.records()[:2] == [(f"{one.url}/v1/a", True), (f"tcp:127.0.0.1:{one.port}", True)]
    assert traces(out.scene) == [TRACE, TRACE], "of the request, and of the address that its name leads to"
    assert SAID.encode() in one.server.heard
    assert json.loads(out.curl(*words, f"{one.url}/v2").stdout)["refusal"]["reasons"][0]["code"] == "grant-missing"
    assert traces(out.scene)[2:] == [TRACE], "a refusal has it too, and it is no reason for anything"


def test_each_request_of_a_connection_has_its_own_trace(web: Callable[..., Web1]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    with secured(out, one.authority) as near:
        for said in (SAID, OTHER, None):
            near.sendall(get("/v1/a", one.authority, *([] if said is None else [f"traceparent: {said}"])))
            assert answers(near, 1) == [(200, b"GET /v1/a ")]
    acted = [one for one in records_of(out.scene.folder, out.scene.instance) if isinstance(one, ActionRecord)]
    assert [one.trace for one in acted if one.action == "http.get"] == [TRACE, parse_traceparent(OTHER), None]


@pytest.mark.parametrize("said", NONE)
def test_what_is_no_trace_is_as_if_it_were_not_there(web: Callable[..., Web1], said: str) -> None:
    one = web(secure=False)
    out = one.gate(("get", "/v1/*"))
    request = f"GET {one.url}/v1/a HTTP/1.1\r\nHost: {one.authority}\r\n{said}\r\n\r\n"
    assert out.ask(request.encode())[0] == 200
    assert traces(out.scene) == [None, None]


def test_trace_of_a_stream_of_http_2_is_recorded(sites: Callable[..., Web]) -> None:
    one = sites()
    agent = one.agent()
    number = agent.send(agent.head("/v1/a", ("traceparent", SAID)), end=True)
    assert agent.answer(number).status == 200
    assert traces(one.out.scene) == [TRACE, TRACE]


def test_trace_of_who_asks_for_a_tunnel_is_recorded(tmp_path: Path) -> None:
    with beyond(tmp_path, echo) as (out, place):
        with out.connect() as near:
            near.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\ntraceparent: {SAID}\r\n\r\n".encode())
            assert near.recv(100).startswith(b"HTTP/1.1 200")
        assert traces(out.scene) == [TRACE]


def test_trace_in_the_meta_of_a_call_is_recorded_on_either_wire(rig: Rig) -> None:
    asks = rig.modern if rig.server.approved.protocol == MODERN else rig.old
    meta: dict[str, Any] = {} if asks == rig.old else dict(META)
    call = {"name": "read", "arguments": {"name": "today"}}
    for said, header in ((SAID, None), (None, SAID), (SAID, OTHER), ("00-x", None), (7, None), (["x"], SAID)):
        headers = [] if header is None else [("traceparent", header)]
        given = meta if said is None else {**meta, "traceparent": said}
        status, answer = asks("tools/call", {**call, "_meta": given}, headers=headers)
        assert (status, "result" in answer) == (200, True), answer
    status, answer = asks("tools/call", {**call, "_meta": meta}, headers=[("traceparent", SAID), ("traceparent", SAID)])
    assert (status, "result" in answer) == (200, True), "two are none, and no error"
    assert traces(rig.scene) == [TRACE, TRACE, TRACE, None, None, TRACE, None]
    line = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**call, "_meta": {**meta, "traceparent": OTHER}}}
    rig.line(line)
    assert traces(rig.scene)[-1] == parse_traceparent(OTHER)
    assert not any("traceparent" in json.dumps(one) for one in rig.heard("tools/call")), "nothing of a client's `_meta` goes on"


def test_trace_beside_a_line_of_the_socket_is_recorded_and_handed_on(gate: Gate) -> None:
    assert gate.ask(traceparent=SAID)["ok"] is True
    assert gate.tool.led is not None
    assert gate.tool.led.trace == TRACE
    nothing: tuple[object, ...] = (SAID.upper(), 7, None, {})
    for none in nothing:
        assert gate.ask(traceparent=none)["ok"] is True
    assert gate.ask(tool="advisory", traceparent=SAID)["ok"] is False
    assert traces(gate.scene) == [TRACE, None, None, None, None, TRACE]


# --- outcomes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, ended", [("/v1/a", ("done", 200)), ("/v1/304", ("done", 304)), ("/short", ("failed", 200)), ("/reset", ("failed", None))]
)
def test_outcome_of_a_request_has_the_status_that_the_agent_was_told(sites: Callable[..., Web], path: str, ended: Out) -> None:
    """Also where the answer broke off in the middle; where none came it has none, whatever the gate itself said then."""
    one = sites()
    agent = one.agent()
    number = agent.ask(path)
    agent.until(lambda: agent.said[number].ended or agent.said[number].reset is not None)
    assert outcomes(one.out.scene, 2) == [ended, ended], "of the request, and of the address that it led to"


@pytest.mark.parametrize("path, ended", [("/v1/a", ("done", 200)), ("/short", ("failed", 200)), ("/two-lengths", ("failed", None))])
def test_outcome_of_a_request_of_http_1_has_its_status(web: Callable[..., Web1], path: str, ended: Out) -> None:
    one = web(secure=False)
    out = one.gate(("get", path))
    out.ask(f"GET {one.url}{path} HTTP/1.1\r\nHost: {one.authority}\r\n\r\n".encode())
    assert outcomes(out.scene, 2) == [ended, ended]


def test_request_through_the_plain_proxy_has_its_status(web: Callable[..., Web1]) -> None:
    one = web(secure=False)
    out = one.gate(connects=(one.authority, f"127.0.0.1:{one.port}"), reach=False)
    out.ask(f"GET {one.url}/v1/a HTTP/1.1\r\nHost: {one.authority}\r\n\r\n".encode())
    assert outcomes(out.scene, 2) == [("done", 200)] * 2


def test_host_that_ends_before_it_answers_leaves_no_status(tmp_path: Path) -> None:
    def mute(connection: socket.socket, _: Server) -> None:
        connection.recv(65536)

    with beyond(tmp_path, mute) as (out, place):
        status, _ = out.ask(f"GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        assert (status, outcomes(out.scene)) == (502, [("failed", None)]), "502 is a word of ours, and nobody knows what the host did"


@pytest.mark.parametrize("path, ended", [("/grpc/echo", ("done", 0)), ("/grpc/none", ("done", 12))])
def test_outcome_of_grpc_has_its_own_status_from_behind_the_content_or_with_the_head(
    sites: Callable[..., Web], path: str, ended: Out
) -> None:
    one = sites()
    agent = one.agent()
    agent.answer(agent.send(agent.head(path, ("te", "trailers"), ("content-type", "application/grpc"), method="POST"), end=True))
    assert outcomes(one.out.scene, 2)[0] == ended


def test_status_of_grpc_in_what_is_no_grpc_is_a_header_like_any_other(sites: Callable[..., Web]) -> None:
    one = sites()
    agent = one.agent()
    agent.answer(agent.ask("/v1/grpc-status"))
    assert outcomes(one.out.scene, 2)[0] == ("done", 200)


def test_contents_that_passed_are_committed_to_by_digest(sites: Callable[..., Web]) -> None:
    one = sites()
    assert one.curl("--data", "abc", f"{one.url}/v1/notes").stdout == "POST /v1/notes abc"
    digest = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in (("request", b"abc"), ("answer", b"POST /v1/notes abc"))}
    assert one.out.results()[0].items() >= digest.items()


def test_tunnel_that_nobody_looked_into_has_neither_status_nor_digests(tmp_path: Path) -> None:
    with beyond(tmp_path, echo) as (out, place):
        with out.tunnel(place) as near:
            near.sendall(b"hello")
            assert near.recv(5) == b"hello"
        assert outcomes(out.scene) == [("done", None)]
        assert not {"request", "answer"} & out.results()[0].keys()


@pytest.mark.parametrize(
    "mode, ended",
    [("", ("done", 0)), ("errs", ("failed", 0)), ("spoof", ("failed", -32603)), ("dies", ("failed", None)), ("both", ("failed", None))],
)
def test_outcome_of_a_call_is_a_result_or_the_code_of_its_error(rig: Rig, mode: str, ended: Out) -> None:
    if mode:
        rig.says(mode=mode)
    call = {"name": "read", "arguments": {"name": "today"}}
    rig.modern("tools/call", call) if rig.server.approved.protocol == MODERN else rig.old("tools/call", call)
    assert outcomes(rig.scene) == [ended]


@pytest.mark.parametrize("status, recorded", [(0, 0), (503, 503), (None, None), (-32601, -32601), (1 << 31, None), (-(1 << 31), None)])
def test_outcome_of_a_line_has_the_status_of_its_tool_as_far_as_a_record_can_hold_it(
    gate: Gate, status: int | None, recorded: int | None
) -> None:
    gate.tool.reply = Reply(True, b"{}", status)
    assert gate.ask()["ok"] is True
    assert outcomes(gate.scene) == [("done", recorded)]


def test_tool_that_cannot_be_asked_leaves_no_status(gate: Gate) -> None:
    gate.tool.fails = True
    assert "failure" in gate.ask()
    assert outcomes(gate.scene) == [("failed", None)]

"""HTTP/2 that ends at the gate: each stream a request and an action of its own; what would take more than its share ends the connection."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from h2.errors import ErrorCodes

from enforcer.gates.egress import http2
from enforcer.wire.limits import Limits
from tests.enforcer.gates.newer import Web
from tests.enforcer.host import wait_for
from tests.world.network import silent
from tests.world.web import go_on
from tests.world.web2 import POURED
from writ.formats.reason import Reason

CUT = Reason("token-revoked", "token", "a valid token", "revoked")
BOTH = pytest.mark.parametrize("speaks", [("h2",), ("http/1.1",)], ids=["h2", "http/1.1"])


# --- what passes -----------------------------------------------------------------------------------------------------------


@BOTH
def test_curl_speaks_http_2_to_a_host_of_either_version(sites: Callable[..., Web], speaks: tuple[str, ...]) -> None:
    one = sites(speaks=speaks)
    done = one.curl("-w", "%{http_version}", f"{one.url}/v1/a?b=c")
    assert (done.returncode, done.stdout) == (0, "GET /v1/a?b=c 2"), done.stderr
    assert one.curl("--data", "abc", f"{one.url}/v1/notes").stdout == "POST /v1/notes abc"
    assert "HTTP/2 200" in one.curl("--head", f"{one.url}/v1/a").stdout
    refused = one.curl("-w", "%{http_code}", f"{one.url}/v2/a")
    assert refused.stdout.endswith("403")
    assert json.loads(refused.stdout[:-3])["refusal"]["reasons"][0]["expected"] == f"http.get on {one.url}/v2/a"
    assert one.asked() == [
        (f"{one.url}/v1/a", True), (f"{one.url}/v1/notes", True), (f"{one.url}/v1/a", True), (f"{one.url}/v2/a", False),
    ]  # fmt: skip
    assert b"/v2" not in one.server.heard
    assert one.out.results()[0].items() >= {"address": "127.0.0.1", "ended": "closed", "opaque": False, "received": 14, "sent": 0}.items()


@BOTH
def test_streams_are_each_decided_and_a_refusal_is_one_streams_alone(sites: Callable[..., Web], speaks: tuple[str, ...]) -> None:
    one = sites(speaks=speaks)
    agent = one.agent()
    numbers = [agent.ask(path) for path in ("/v1/a", "/v2/no", "/v1/b", "/v1/../v2", "/v1/c")]
    said = [agent.answer(number) for number in numbers]
    assert [answer.status for answer in said] == [200, 403, 200, 400, 200]
    assert json.loads(said[1].data)["refusal"]["reasons"][0]["code"] == "grant-missing"
    assert said[4].data == b"GET /v1/c "
    assert sorted(one.asked()) == [
        (f"{one.url}/v1/a", True), (f"{one.url}/v1/b", True), (f"{one.url}/v1/c", True), (f"{one.url}/v2/no", False),
    ]  # fmt: skip
    if speaks == ("h2",):
        assert one.server.connections == 1
    assert b"/v2" not in one.server.heard


def test_streams_of_grpc_pass_both_ways_while_they_go_on_and_so_do_trailers(sites: Callable[..., Web]) -> None:
    one = sites()
    agent = one.agent()
    number = agent.send(agent.head("/grpc/echo", ("te", "trailers"), ("content-type", "application/grpc"), method="POST"), end=False)
    said = agent.said[number]
    agent.until(lambda: said.status == 200)
    for count in range(1, 4):
        agent.h2.send_data(number, b"ping")
        agent.flush()
        agent.until(partial(lambda count: said.data == b"ping" * count, count))
    agent.h2.send_headers(number, [("x-sum", "3")], end_stream=True)
    agent.flush()
    assert agent.answer(number).trailers == [("grpc-status", "0"), ("x-sum", "3")]
    assert b"te=trailers" in one.server.heard
    assert one.out.results()[0]["sent"] == one.out.results()[0]["received"] == 12


def test_answer_of_trailers_only_stays_one_block(sites: Callable[..., Web]) -> None:
    one = sites()
    agent = one.agent()
    said = agent.answer(agent.ask("/grpc/none", method="POST"))
    assert dict(said.fields)["grpc-status"] == "12"
    assert (said.data, said.trailers) == (b"", [])


def test_answers_without_content_may_name_a_length(sites: Callable[..., Web]) -> None:
    one = sites()
    agent = one.agent()
    assert agent.answer(agent.ask("/v1/304")).status == 304
    assert agent.answer(agent.ask("/v1/a", method="HEAD")).status == 200
    assert {result["ended"] for result in one.out.results()} == {"closed"}


def test_agent_that_goes_once_it_has_all_of_the_length_has_had_its_answer(sites: Callable[..., Web]) -> None:
    one = sites()
    agent = one.agent()
    number = agent.ask("/v1/unended")
    agent.until(lambda: agent.said[number].data == b"abc")
    agent.connection.close()
    assert {result["ended"] for result in one.out.results()} == {"closed"}


def test_request_that_is_let_go_before_it_was_looked_at_is_none(sites: Callable[..., Web]) -> None:
    one = sites()
    agent = one.agent()
    number = agent.h2.get_next_available_stream_id()
    agent.h2.send_headers(number, agent.head("/v1/a"), end_stream=True)
    agent.h2.reset_stream(number)
    agent.flush()
    assert agent.answer(agent.ask("/v1/b")).status == 200
    assert one.asked() == [(f"{one.url}/v1/b", True)]


def test_connection_with_a_host_of_http_1_is_used_again(sites: Callable[..., Web]) -> None:
    """After a content it is where the agent's end of it came before the answer, and given up where it came after."""
    one = sites(speaks=("http/1.1",))
    agent = one.agent()
    for number in range(3):
        assert agent.answer(agent.ask("/v1/a")).data == b"GET /v1/a "
        assert len(one.asked()) == number + 1, "with its outcome, and so given back"
    assert one.server.connections == 1
    for _ in range(3):
        assert agent.answer(agent.ask("/v1/a", method="POST", data=b"abc")).data == b"POST /v1/a abc"
    assert one.server.connections <= 4


def test_events_of_a_host_of_http_1_pass_one_by_one(sites: Callable[..., Web]) -> None:
    one = sites(speaks=("http/1.1",))
    go_on.clear()
    agent = one.agent()
    number = agent.ask("/events")
    said = agent.said[number]
    agent.until(lambda: b"data: 0" in said.data)
    assert b"data: 1" not in said.data
    go_on.set()
    assert b"data: 2" in agent.answer(number).data


def test_large_contents_pass_both_ways_whole_through_small_windows(sites: Callable[..., Web]) -> None:
    one = sites()
    assert len(one.curl(f"{one.url}/pour").stdout) == POURED
    body = one.out.scene.folder / "body"
    body.write_bytes(b"y" * (3 << 20))
    assert len(one.curl("--data-binary", f"@{body}", f"{one.url}/v1/big").stdout) == (3 << 20) + len("POST /v1/big ")


def test_answer_that_comes_before_its_request_has_ended_passes_at_once(sites: Callable[..., Web]) -> None:
    one = sites()
    agent = one.agent()
    number = agent.send(agent.head("/early", method="POST"), data=b"some", end=False)
    said = agent.said[number]
    agent.until(lambda: said.ended and said.reset is not None)
    assert (said.status, said.data, said.reset) == (413, b"early", ErrorCodes.NO_ERROR)
    assert one.out.results()[0]["ended"] == "closed"
    assert agent.answer(agent.ask("/v1/a")).status == 200


@pytest.mark.parametrize("reads", [True, False])
def test_stream_that_stands_still_holds_up_no_other_and_its_answer_waits_at_the_host(sites: Callable[..., Web], reads: bool) -> None:
    one = sites()
    agent = one.agent()
    agent.h2.increment_flow_control_window(64 << 20)
    agent.flush()
    still = [agent.ask("/pour") for _ in range(3)]
    agent.takes = reads
    for _ in range(10):
        assert agent.answer(agent.ask("/v1/a")).status == 200
    if reads:
        assert [len(agent.answer(number).data) for number in still] == [POURED] * 3
        return
    time.sleep(0.3)
    agent.answer(agent.ask("/v1/b"))
    assert {len(agent.said[number].data) for number in still} == {65535}
    agent.connection.close()
    assert max(result["received"] for result in one.out.results()) <= http2.WINDOW + 65535, "what waited is no more than a window"


def test_upload_to_a_host_that_does_not_read_stops_at_the_window(sites: Callable[..., Web]) -> None:
    """The host's window is closed: what the agent may send beyond it is one window of ours."""
    one = sites(speaks=("http/1.1",))
    agent = one.agent()
    number = agent.send(agent.head("/v1/a", method="POST"), end=False)
    agent.until(lambda: agent.h2.local_flow_control_window(number) > 65535 or agent.said[number].reset)
    assert agent.h2.local_flow_control_window(number) == http2.WINDOW


# --- what ends before its time ---------------------------------------------------------------------------------------------


@BOTH
def test_agent_that_resets_a_stream_ends_it_at_the_host_too(sites: Callable[..., Web], speaks: tuple[str, ...]) -> None:
    one = sites(speaks=speaks)
    agent = one.agent()
    go_on.clear()
    path = "/never" if speaks == ("h2",) else "/events"
    number = agent.ask(path)
    wait_for(lambda: path.encode() in one.server.heard)
    agent.h2.reset_stream(number, ErrorCodes.CANCEL)
    agent.flush()
    assert one.out.results()[0]["ended"] == "reset"
    go_on.set()
    assert agent.answer(agent.ask("/v1/a")).status == 200
    if speaks == ("h2",):
        wait_for(lambda: one.server.errors)
        assert "CANCEL" in one.server.errors[0]
        assert one.server.connections == 1


@pytest.mark.parametrize("path, ended", [("/reset", "reset"), ("/push", "malformed"), ("/status", "malformed")])
def test_host_that_breaks_off_is_a_failure_of_that_request(sites: Callable[..., Web], path: str, ended: str) -> None:
    one = sites()
    agent = one.agent()
    said = agent.answer(agent.ask(path))
    assert (said.status, json.loads(said.data)["ok"]) == (502, False)
    assert one.out.results()[0]["ended"] == ended
    assert agent.answer(agent.ask("/v1/a")).status == 200


@pytest.mark.parametrize("path", ["/short", "/v1/nothing"])
def test_answer_that_is_cut_short_is_not_made_whole(sites: Callable[..., Web], path: str) -> None:
    one = sites()
    agent = one.agent()
    said = agent.answer(agent.ask(path))
    assert (said.ended, said.reset) == (False, ErrorCodes.INTERNAL_ERROR)
    assert one.out.results()[0]["ended"] == "malformed"


def test_host_that_says_goodbye_is_dialled_again(sites: Callable[..., Web]) -> None:
    one = sites()
    agent = one.agent()
    assert agent.answer(agent.ask("/goaway")).status == 200
    time.sleep(0.2)
    assert agent.answer(agent.ask("/v1/a")).status == 200
    assert one.server.connections == 2
    assert [thread.name for thread in threading.enumerate()].count("egress-upstream") == 1


def test_host_that_takes_few_streams_gets_no_more_on_a_connection(sites: Callable[..., Web], monkeypatch: pytest.MonkeyPatch) -> None:
    one = sites()
    agent = one.agent()
    monkeypatch.setattr("tests.world.web2.MOST", 2)
    numbers = [agent.ask("/never") for _ in range(4)]
    wait_for(lambda: one.server.connections == 2)
    assert agent.answer(agent.ask("/v1/a")).status == 200
    assert one.server.connections == 3
    assert not any(agent.said[number].reset for number in numbers)


def test_host_that_agrees_to_http_2_and_does_not_speak_it_is_a_failure(sites: Callable[..., Web]) -> None:
    one = sites(limits=Limits(dial_within=0.5))
    one.server.serve = silent
    agent = one.agent()
    assert json.loads(agent.answer(agent.ask("/v1/a")).data)["failure"]["what"] == "HTTP/2"


# --- bounds, and the cut ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(sent=1000), Limits(received=1000)])
def test_bytes_are_bounded_for_all_streams_of_a_connection_together(sites: Callable[..., Web], limits: Limits) -> None:
    one = sites(limits=limits)
    agent = one.agent()
    said = [agent.answer(agent.ask("/v1/a", method="POST", data=b"x" * 300)) for _ in range(4)]
    assert [answer.ended and answer.status for answer in said[:3]] == [200, 200, 200]
    assert said[3].status == 502 or said[3].reset == ErrorCodes.INTERNAL_ERROR
    assert one.out.results()[-1]["ended"] == "limit"


def test_stream_without_a_byte_is_given_up_and_the_others_go_on(sites: Callable[..., Web]) -> None:
    one = sites(limits=Limits(idle=0.6))
    agent = one.agent()
    silent = agent.ask("/never")
    busy = agent.send(agent.head("/grpc/echo", method="POST"), end=False)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        agent.h2.send_data(busy, b"x")
        agent.flush()
        time.sleep(0.1)
    assert agent.answer(silent).status == 502
    agent.h2.end_stream(busy)
    agent.flush()
    assert agent.answer(busy).trailers == [("grpc-status", "0")]
    ended = sorted(result["ended"] for result in one.out.results())
    assert ended in (["closed", "idle", "idle"], ["closed", "closed", "idle"])  # the way there ends as whichever of the two dialled


def test_connection_without_requests_ends_with_a_goodbye(sites: Callable[..., Web]) -> None:
    one = sites(limits=Limits(idle=0.4))
    agent = one.agent()
    assert agent.answer(agent.ask("/v1/a")).status == 200
    assert agent.end() == ErrorCodes.NO_ERROR


def test_answer_goes_on_while_the_request_says_nothing(sites: Callable[..., Web]) -> None:
    one = sites(limits=Limits(idle=0.5))
    agent = one.agent()
    number = agent.send(agent.head("/grpc/echo", method="POST"), end=False)
    said = agent.said[number]
    for count in range(1, 8):
        agent.h2.send_data(number, b"x")
        agent.flush()
        agent.until(partial(lambda count: len(said.data) == count, count))
        time.sleep(0.2)
    assert said.reset is None


def test_more_requests_than_an_instance_may_have_at_once_are_told_to_come_again(sites: Callable[..., Web]) -> None:
    one = sites()
    agents = [one.agent(), one.agent()]
    for agent in agents:
        agent.until(partial(lambda agent: agent.h2.remote_settings.max_concurrent_streams == 100, agent))
    first = [agents[0].ask("/never") for _ in range(100)]
    wait_for(lambda: one.server.heard.count(b":path=") == 100)
    for _ in range(100):
        agents[1].ask("/never")
    agents[1].until(lambda: sum(said.reset is not None for said in agents[1].said.values()) == 72)
    assert {said.reset for said in agents[1].said.values()} == {None, ErrorCodes.REFUSED_STREAM}
    for number in first:
        agents[0].h2.reset_stream(number)
    agents[0].flush()
    wait_for(lambda: agents[0].answer(agents[0].ask("/v1/a")).status == 200)
    agents[1].connection.close()
    wait_for(lambda: len(one.out.results()) == 131)


def test_threads_end_with_the_connection(sites: Callable[..., Web]) -> None:
    one = sites()
    before = threading.active_count()
    agent = one.agent()
    for _ in range(20):
        agent.ask("/never")
        agent.send(agent.head("/grpc/echo", method="POST"), end=False)
    wait_for(lambda: threading.active_count() > before + 40)
    agent.connection.close()
    wait_for(lambda: threading.active_count() <= before + 1)
    assert {result["ended"] for result in one.out.results()} == {"reset"}


def test_cut_ends_all_streams_at_once_and_each_has_its_outcome(sites: Callable[..., Web]) -> None:
    one = sites()
    agents = [one.agent() for _ in range(4)]
    for agent in agents:
        for _ in range(5):
            agent.ask("/pour")
            agent.send(agent.head("/grpc/echo", method="POST"), data=b"x", end=False)
        agent.ask("/never")
    threads = [threading.Thread(target=agent.end) for agent in agents]
    for thread in threads:
        thread.start()
    wait_for(lambda: one.server.heard.count(b":path=") == 44)
    begun = time.monotonic_ns()
    one.out.gatekeeper.cut(CUT)
    spent = (time.monotonic_ns() - begun) / 1e6
    for thread in threads:
        thread.join(5)
    print(f"cut of 44 streams: {spent:.2f} ms")
    assert spent < 100
    assert not any(thread.is_alive() for thread in threads)
    assert {result["ended"] for result in one.out.results()} <= {"cut", "closed"}
    assert len(one.out.results()) == len([one for one in one.out.records() if one[1] is True])
    one.out.gatekeeper.mend()
    agent = one.agent()
    assert agent.answer(agent.ask("/v1/a")).status == 200

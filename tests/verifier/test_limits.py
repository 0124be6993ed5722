"""Nobody who sends slowly, much or often costs another anything."""

from __future__ import annotations

import socket
import time

import pytest

from tests.world.host import SimulatedHost
from tests.world.verifier import RunningVerifier
from verifier.http import limits
from verifier.http.limits import MAX_PEERS, Rate
from writ.formats.evidence import MAX_SIZE


def connect(verifier: RunningVerifier) -> socket.socket:
    host, _, port = verifier.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def first_line(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n" not in data:
        chunk = sock.recv(4096)
        if not chunk:
            break
        data += chunk
    return data.split(b"\r\n")[0]


def test_half_open_connections_block_nobody(verifier: RunningVerifier) -> None:
    """300 connections: some silent, some in the middle of a head, some in the middle of a body."""
    beginnings = [b"", b"POST /v1/enrol HTT", b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"]
    stuck = [connect(verifier) for _ in range(300)]
    try:
        for at, sock in enumerate(stuck):
            sock.sendall(beginnings[at % 3])
        started = time.monotonic()
        verifier.host("h1").attest()
        assert time.monotonic() - started < 5
    finally:
        for sock in stuck:
            sock.close()


def test_head_that_never_ends_is_cut_off(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    with connect(verifier) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        assert sock.recv(100) == b""


def test_second_head_that_never_ends_is_cut_off(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.5)
    with connect(verifier) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first_line(sock) == b"HTTP/1.1 200 OK"
        time.sleep(0.7)
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first_line(sock) == b"HTTP/1.1 200 OK", "a quiet connection is kept"
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        assert sock.recv(100) == b""


def test_body_that_never_comes_is_408(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    with connect(verifier) as sock:
        sock.sendall(b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert first_line(sock) == b"HTTP/1.1 408 Request Timeout"


def test_body_above_the_routes_bound_is_413(verifier: RunningVerifier) -> None:
    host = verifier.host("h1")
    assert host.say("/v1/enrol/activate", b"x" * (65 << 10), uplink=host.anonymous).status == 413
    assert host.say("/v1/hosts/h1/attest", b"x" * (MAX_SIZE + 1)).status == 413


def test_body_without_a_stated_length_is_bounded(verifier: RunningVerifier) -> None:
    with connect(verifier) as sock:
        sock.sendall(b"POST /v1/enrol/activate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        sock.sendall(5 * chunk)
        assert first_line(sock).startswith(b"HTTP/1.1 413 ")


def test_lists_sized_by_the_sender_are_refused(verifier: RunningVerifier) -> None:
    """A CBOR head that promises 2^32 items costs nothing."""
    host: SimulatedHost = verifier.host("h1")
    for body in (
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xbb\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\x81" * 5000,
    ):
        started = time.monotonic()
        assert host.say("/v1/hosts/h1/attest", body).status == 400
        assert host.say("/v1/enrol", body, uplink=host.anonymous).status == 400
        assert time.monotonic() - started < 1


def test_rate_is_a_bucket_for_each_peer() -> None:
    now = [0.0]
    rate = Rate(burst=3, per_second=2, clock=lambda: now[0])
    assert [rate.take("a") for _ in range(4)] == [True, True, True, False]
    assert rate.take("b")
    now[0] = 0.5
    assert [rate.take("a") for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [rate.take("a") for _ in range(4)] == [True, True, True, False]


def test_rate_remembers_a_bounded_number_of_peers() -> None:
    rate = Rate(burst=1, per_second=1, clock=lambda: 0.0)
    for peer in range(MAX_PEERS + 10):
        assert rate.take(str(peer))
    assert not rate.take(str(MAX_PEERS + 9))
    assert rate.take("0")


def test_too_many_requests_are_429(verifier: RunningVerifier) -> None:
    verifier.made.app.middleware_stack = None
    for middleware in verifier.made.app.user_middleware:
        middleware.kwargs["rate"] = Rate(burst=2, per_second=1)
    statuses = []
    for _ in range(3):
        with connect(verifier) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            statuses.append(first_line(sock))
    assert statuses[2] == b"HTTP/1.1 429 Too Many Requests"


def test_who_reads_the_log_takes_nothing_from_the_hosts_at_his_address(verifier: RunningVerifier) -> None:
    verifier.made.app.middleware_stack = None
    for middleware in verifier.made.app.user_middleware:
        middleware.kwargs["rate"] = Rate(burst=2, per_second=1)
    statuses = []
    for path in (b"/log/checkpoint",) * 3 + (b"/healthz",) * 2:
        with connect(verifier) as sock:
            sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            statuses.append(int(first_line(sock).split()[1]))
    assert statuses == [200, 200, 429, 200, 200]


@pytest.mark.parametrize("path", [b"/healthz%0a", b"/log/checkpoint%0A", b"/log/tile/0/000%0a", b"/v1/hosts%00", b"/v1/hosts%7f"])
def test_a_path_with_a_control_character_is_none(verifier: RunningVerifier, path: bytes) -> None:
    with connect(verifier) as sock:
        sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first_line(sock) == b"HTTP/1.1 404 Not Found"

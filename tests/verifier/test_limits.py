"""Nobody who sends slowly, much or often costs another anything."""

from __future__ import annotations

import secrets
import socket
import time

import pytest

from tests.enforcer.host import wait_for
from tests.world.host import SimulatedHost
from tests.world.verifier import RunningVerifier
from verifier.http import limits
from verifier.http.limits import MAX_PEERS, DeadlineProtocol, Rate, Shares, connections_within
from writ.formats.evidence import MAX_SIZE
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.formats.strict import b64url


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


def address(verifier: RunningVerifier) -> tuple[str, int]:
    """Where it listens."""
    host, _, port = verifier.url.removeprefix("http://").rpartition(":")
    return host, int(port)


def proof_of(host: SimulatedHost, path: str) -> bytes:
    """A proof of the host's key that is over another body than the one that comes."""
    url, now = host.uplink.base_url + path, host.uplink._clock.now()  # noqa: SLF001 - the clock of the verifier of the test
    return sign_dpop(
        encode_dpop_payload(jti=secrets.token_urlsafe(24), htm="POST", htu=url, iat=now, arg=b64url(bytes(32))), host.key
    ).encode()


def ask(verifier: RunningVerifier, head: bytes, body: bytes = b"") -> bytes:
    """The first line of the answer to a head of these lines and a body, which may be a part of what the head states."""
    with connect(verifier) as sock:
        sock.sendall(head + b"Host: x\r\n\r\n" + body)
        return first_line(sock)


@pytest.mark.parametrize("length", [b"Content-Length: 30000000\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("path", [b"/v1/hosts/nobody/attest", b"/v1/hosts/h1/attest", b"/v1/references"])
def test_large_body_of_a_stranger_is_not_held(
    verifier: RunningVerifier, path: bytes, length: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    verifier.host("h1")
    assert ask(verifier, b"POST " + path + b" HTTP/1.1\r\n" + length) == b"HTTP/1.1 401 Unauthorized"


def test_client_that_sends_before_it_reads_hears_why_it_is_refused(verifier: RunningVerifier) -> None:
    host = verifier.host("h1")
    assert host.say("/v1/hosts/h1/attest", bytes(8 << 20), uplink=host.anonymous).status == 401


def test_large_bodies_that_are_held_are_bounded_for_one_host_and_in_all(verifier: RunningVerifier) -> None:
    """Each states what it will be, and has shown whose it is; what is answered makes room again."""
    hosts = {name: verifier.host(name) for name in ("h1", "h2")}
    bodies = Shares(3 << 20, 2 << 20)
    verifier.made.app.middleware_stack = None
    for middleware in verifier.made.app.user_middleware:
        middleware.kwargs["bodies"] = bodies

    def begin(name: str) -> socket.socket:
        path = f"/v1/hosts/{name}/attest"
        proof = proof_of(hosts[name], path)
        sock = connect(verifier)
        sock.sendall(b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\nDPoP: " + proof + b"\r\n\r\n")
        return sock

    held = [begin("h1"), begin("h1")]
    wait_for(lambda: bodies._taken == {"host h1": 2 << 20})  # noqa: SLF001 - what is held is seen nowhere else
    with begin("h1") as more:
        more.sendall(bytes(1 << 20))
        assert first_line(more) == b"HTTP/1.1 503 Service Unavailable"
    held.append(begin("h2"))
    wait_for(lambda: "host h2" in bodies._taken)  # noqa: SLF001 - as above
    with begin("h2") as more:
        more.sendall(bytes(1 << 20))
        assert first_line(more) == b"HTTP/1.1 503 Service Unavailable"
    for sock in held:
        sock.sendall(bytes(1 << 20))
        assert first_line(sock) == b"HTTP/1.1 401 Unauthorized", "read to its end, and no proof is over it"
        sock.close()
    wait_for(lambda: not bodies._taken)  # noqa: SLF001


def test_connections_are_bounded_for_one_address_and_in_all(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Shares(3, 2)
    for protocol in DeadlineProtocol.__subclasses__():
        monkeypatch.setattr(protocol, "connections_of", shares)
    first, second = connect(verifier), connect(verifier)
    for sock in (first, second):
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first_line(sock) == b"HTTP/1.1 200 OK"
    with connect(verifier) as third:
        answer = third.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in answer
    with socket.create_connection(address(verifier), source_address=("127.0.0.2", 0)) as other:
        other.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first_line(other) == b"HTTP/1.1 200 OK"
        with socket.create_connection(address(verifier), source_address=("127.0.0.3", 0)) as full:
            assert first_line(full) == b"HTTP/1.1 503 Service Unavailable"
    first.close()
    wait_for(lambda: ask(verifier, b"GET /healthz HTTP/1.1\r\n") == b"HTTP/1.1 200 OK")
    second.close()


def test_connections_leave_descriptors_for_the_rest() -> None:
    for descriptors, most in ((96, 32), (1024, 768), (16384, 12288), (10, 8)):
        shares = connections_within(descriptors)
        assert all(shares.take("a") for _ in range(most // 2))
        assert not shares.take("a")
        assert all(shares.take("b") for _ in range(most // 2))
        assert not shares.take("c")


def test_what_the_system_refuses_is_unavailable(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(24, "Too many open files")

    translog = verifier.made.parts.translog
    assert translog is not None
    monkeypatch.setattr(type(translog), "checkpoint", property(refuse))
    with connect(verifier) as sock:
        sock.sendall(b"GET /log/checkpoint HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = sock.recv(2000)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable")
    assert b"application/problem+json" in answer

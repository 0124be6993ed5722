"""Bytes sent to the relying process, with a good token and a fresh proof in each: whatever has two readings is answered 400 and decides
nothing."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enforcer.relying.protocol import MAX_HEAD
from tests.enforcer.relying.behind import SITE, Gate
from tests.enforcer.relying.process import Process
from writ.formats.action import Action
from writ.formats.digest import Digest

HOST = SITE.partition("://")[2]
GET = Action("http.get", f"{SITE}/v1/report", Digest.of(b""))


SILENCE = 1.0
"""Seconds after which nothing more is said on a connection that stays open."""


class Served:
    """The process, asked with nginx's convention."""

    def __init__(self, gate: Gate, process: Process, at: Path) -> None:
        self.gate, self.process, self._at = gate, process, at

    def head(self) -> list[str]:
        """The lines of a request that passes."""
        shown = f"DPoP {self.gate.held.compact}"
        return ["GET /forward-auth HTTP/1.1", f"Host: {HOST}", f"Authorization: {shown}", f"DPoP: {self.gate.proof_of(GET, 'GET')}",
                "X-Original-Method: GET", "X-Original-URI: /v1/report"]  # fmt: skip

    def answers(self, request: bytes) -> list[int]:
        """The status of each answer to these bytes, until the other side is silent or gone."""
        with socket.socket(socket.AF_UNIX) as near:
            near.settimeout(10)
            near.connect(str(self._at))
            with contextlib.suppress(OSError):  # it need not read all of what it refuses
                near.sendall(request)
            near.settimeout(SILENCE)
            heard = b""
            with contextlib.suppress(OSError):
                while part := near.recv(65536):
                    heard += part
        return [int(one[:3]) for one in heard.split(b"HTTP/1.1 ")[1:]]

    def permits(self) -> int:
        """Permits on record."""
        return self.process.sink().count('"permit":true')


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One process for all."""
    place = Path(tempfile.mkdtemp(prefix="writ-"))
    gate, at = Gate(place, "nginx"), place / "fa.sock"
    try:
        with Process(gate, place, forward_auth=f"unix:{at}", proxy="nginx", origins=[SITE]) as process:
            process.refresh()
            yield Served(gate, process, at)
    finally:
        shutil.rmtree(place)


def lined(lines: list[str], end: str = "\r\n") -> bytes:
    """The lines of a head, and its end."""
    return (end.join(lines) + end + end).encode("latin-1")


def test_good_requests_pass_one_by_one_and_one_behind_the_other(served: Served) -> None:
    before = served.permits()
    assert served.answers(lined(served.head())) == [200]
    assert served.answers(lined(served.head()) + lined(served.head())) == [200, 200]
    assert served.permits() == before + 3


WRONG: dict[str, Callable[[list[str]], list[str]]] = {
    "no Host": lambda head: [line for line in head if not line.startswith("Host")],
    "two Hosts": lambda head: [*head, f"Host: {HOST}"],
    "another Host behind the first": lambda head: [*head, "Host: other.example"],
    "absolute form": lambda head: [f"GET http://other.example/forward-auth HTTP/1.1", *head[1:]],  # noqa: F541 - a line like the others
    "absolute form of the same host": lambda head: [f"GET {SITE}/forward-auth HTTP/1.1", *head[1:]],
    "authority form": lambda head: [f"CONNECT {HOST}:443 HTTP/1.1", *head[1:]],
    "asterisk form": lambda head: ["OPTIONS * HTTP/1.1", *head[1:]],
    "a fragment": lambda head: ["GET /forward-auth#a HTTP/1.1", *head[1:]],
    "a target with a space": lambda head: ["GET /forward-auth a HTTP/1.1", *head[1:]],
    "no target": lambda head: ["GET  HTTP/1.1", *head[1:]],
    "HTTP/0.9": lambda head: ["GET /forward-auth HTTP/0.9", *head[1:]],
    "HTTP/2.0": lambda head: ["GET /forward-auth HTTP/2.0", *head[1:]],
    "HTTP/1.2": lambda head: ["GET /forward-auth HTTP/1.2", *head[1:]],
    "no version": lambda head: ["GET /forward-auth", *head[1:]],
    "the preface of HTTP/2": lambda _: ["PRI * HTTP/2.0", "", "SM", ""],
    "no method of HTTP": lambda head: ["get /forward-auth HTTP/1.1", *head[1:]],
    "a space before the colon": lambda head: [*head, "X-Other : a"],
    "a space before the name": lambda head: [*head, " X-Other: a"],
    "a folded header": lambda head: [*head, "X-Other: a", "\tb"],
    "a header without a colon": lambda head: [*head, "X-Other"],
    "a name with a slash": lambda head: [*head, "X/Other: a"],
    "a nameless header": lambda head: [*head, ": a"],
    "NUL in a header": lambda head: [*head, "X-Other: a\0b"],
    "a bare carriage return in a header": lambda head: [*head, "X-Other: a\rb"],
    "a bare line feed in a header": lambda head: [*head, "X-Other: a\nDPoP: b"],
    "two lengths": lambda head: [*head, "Content-Length: 0", "Content-Length: 5"],
    "one length twice": lambda head: [*head, "Content-Length: 0", "Content-Length: 0"],
    "two lengths in one": lambda head: [*head, "Content-Length: 0, 0"],
    "a length with a sign": lambda head: [*head, "Content-Length: +0"],
    "a length in hex": lambda head: [*head, "Content-Length: 0x0"],
    "a length and chunks": lambda head: [*head, "Content-Length: 5", "Transfer-Encoding: chunked"],
    "chunks and a length": lambda head: [*head, "Transfer-Encoding: chunked", "Content-Length: 5"],
    "chunks within another coding": lambda head: [*head, "Transfer-Encoding: chunked, identity"],
    "an unknown coding": lambda head: [*head, "Transfer-Encoding: xchunked"],
    "an upgrade": lambda head: [*head, "Connection: upgrade", "Upgrade: h2c"],
    "an upgrade to a websocket": lambda head: [*head, "Connection: upgrade", "Upgrade: websocket"],
    "a head beyond its bound": lambda head: [*head, f"X-Other: {'a' * MAX_HEAD}"],
    "many headers beyond the bound": lambda head: [*head, *(f"X-{at}: a" for at in range(MAX_HEAD // 4))],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_has_two_readings_decides_nothing(served: Served, wrong: str) -> None:
    before = served.permits()
    answers = served.answers(lined(WRONG[wrong](served.head())))
    assert answers == [400], wrong
    assert served.permits() == before


def test_lines_that_end_in_a_bare_line_feed_decide_nothing(served: Served) -> None:
    before = served.permits()
    assert served.answers(lined(served.head(), "\n")) == [400]
    assert served.permits() == before


@pytest.mark.parametrize(
    "body", [b"5\r\nab\r\n0\r\n\r\n", b"g\r\n", b"-1\r\n\r\n", b"2;a\nb\r\nab\r\n0\r\n\r\n", b"2\nab\r\n0\r\n\r\n", b"2\r\nab\n0\r\n\r\n"]
)
def test_chunks_that_are_none_decide_nothing(served: Served, body: bytes) -> None:
    before = served.permits()
    answers = served.answers(lined([*served.head(), "Transfer-Encoding: chunked"]) + body)
    assert answers in ([400], [403]), answers
    assert served.permits() == before


def test_a_head_that_never_ends_is_cut_at_its_bound(served: Served) -> None:
    before = served.permits()
    assert served.answers(lined(served.head())[:-2] + b"X-Other: " + b"a" * (8 << 20)) == [400]
    assert served.permits() == before


def test_a_body_is_not_read_as_a_request(served: Served) -> None:
    before, hidden = served.permits(), lined(served.head())
    shown = lined([*served.head(), f"Content-Length: {len(hidden)}"])
    assert served.answers(shown + hidden) == [403]
    assert served.permits() == before

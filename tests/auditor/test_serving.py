"""The HTTP of witness and store against whoever begins to send and stops: a large body has a place only where a known host sends it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from auditor.serving.http import MOST_LARGE, MOST_OF_ONE, SECONDS, SMALL
from tests.auditor.served import ServedStore
from tests.signers import new_signer
from tests.world.store import HostLog, proof
from writ.formats.tlog.storing import MAX_REQUEST, encode_add_records

LARGE = 3 << 20


@pytest.fixture
def logs() -> list[HostLog]:
    return [HostLog(8, name=f"records.example/host-{at}") for at in range(MOST_LARGE // MOST_OF_ONE + 1)]


@pytest.fixture
def store(tmp_path: Path, logs: list[HostLog]) -> Iterator[ServedStore]:
    begun = ServedStore(tmp_path / "s", [log.host for log in logs], name="store.example")
    yield begun
    assert begun.end() == 0


def large(log: HostLog) -> bytes:
    return encode_add_records(log.asks(0, 8, [("object", bytes(LARGE))]))


def head(length: int, by: str | None, *fields: str) -> bytes:
    lines = ["POST /add-records HTTP/1.1", "Host: s", f"Content-Length: {length}", *([] if by is None else [f"DPoP: {by}"]), *fields]
    return "\r\n".join([*lines, "", ""]).encode()


@contextlib.contextmanager
def stalled(store: ServedStore, heads: list[bytes], begun: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many requests begun, of which no more comes."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_connection(("127.0.0.1", store.port), timeout=60)) for _ in heads]
        for connection, one in zip(made, heads, strict=True):
            connection.sendall(one + begun)
        time.sleep(0.5)  # all of them are read
        yield made


def test_64_stalled_uploads_of_nobody_hold_no_place(store: ServedStore, logs: list[HostLog]) -> None:
    """Without a proof, and with one by a key that the store does not list."""
    stranger = new_signer()
    heads = [head(MAX_REQUEST, None if at % 2 else proof(stranger, b"")) for at in range(64)]
    with stalled(store, heads, bytes(SMALL + 1)):
        before = time.monotonic()
        assert store.add(logs[0].signer, large(logs[0]))[0] == 200
        assert time.monotonic() - before < SECONDS / 2


def test_64_stalled_uploads_of_one_host_hold_that_host_up_and_no_other(store: ServedStore, logs: list[HostLog]) -> None:
    bad, good = logs[:2]
    with stalled(store, [head(MAX_REQUEST, proof(bad.signer, b""))] * 64, bytes(SMALL + 1)) as connections:
        before = time.monotonic()
        assert store.add(good.signer, large(good))[0] == 200
        assert time.monotonic() - before < SECONDS / 2
        answers = [connection.recv(12) for connection in connections]
    assert sorted(answers) == [b"HTTP/1.1 408"] * MOST_OF_ONE + [b"HTTP/1.1 503"] * (64 - MOST_OF_ONE)
    assert store.add(bad.signer, large(bad))[0] == 200


def test_hosts_that_stall_together_are_let_go(store: ServedStore, logs: list[HostLog]) -> None:
    """As many as hold all places; one more host waits for one, and has it as soon as they have not sent in time."""
    *bad, good = logs
    heads = [head(MAX_REQUEST, proof(log.signer, b"")) for log in bad for _ in range(MOST_OF_ONE)]
    with stalled(store, heads):
        before = time.monotonic()
        assert store.add(good.signer, large(good))[0] == 200
        assert time.monotonic() - before > 1


def test_a_slow_line_gets_through(store: ServedStore, logs: list[HostLog]) -> None:
    """Longer than any one step may take, and whole: what is demanded is that it goes on."""
    log = logs[0]
    body = encode_add_records(log.asks(0, 8, [("object", bytes(4 * SMALL))]))
    with socket.create_connection(("127.0.0.1", store.port), timeout=60) as connection:
        before = time.monotonic()
        connection.sendall(head(len(body), proof(log.signer, body), "Connection: close"))
        for at in range(0, len(body), SMALL // 4):
            time.sleep(0.75)
            connection.sendall(body[at : at + SMALL // 4])
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert time.monotonic() - before > SECONDS


def test_who_is_refused_reads_why_though_the_body_is_large(store: ServedStore, logs: list[HostLog]) -> None:
    """It is read to its end, kept by nobody, and the connection goes on; who waits to send need not."""
    stranger = HostLog(8)
    body = large(stranger)
    status, said = store.add(stranger.signer, body)
    assert (status, b"sender-unknown" in said, b"--hosts" in said) == (403, True, True)
    refused = head(len(body), None) + body
    good = logs[0].body(0, 8)
    answers = store.raw(refused + head(len(good), proof(logs[0].signer, good), "Connection: close") + good)
    assert [answers.count(b"HTTP/1.1 %d" % one) for one in (403, 200)] == [1, 1]
    waits = store.raw(head(len(body), None, "Expect: 100-continue"))
    assert waits.startswith(b"HTTP/1.1 403")

"""A witness as it runs: processes, sockets, kills. What it cosigned it has not forgotten, and it cosigns no second history."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import select
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from auditor.__main__ import main
from auditor.serving.http import MAX_HEAD, MOST_CONNECTIONS
from tests.auditor.served import Served
from tests.world.tls import self_signed
from tests.world.witness import Log
from writ.formats.keys import ED25519, PublicKey
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.cosignature import cosigned_at
from writ.formats.tlog.note import PLAIN, Note, NoteKey, parse_note, parse_vkey
from writ.formats.tlog.witnessing import MAX_REQUEST, AddCheckpoint, encode_add_checkpoint, parse_cosignatures

Serve = Callable[..., Served]
LOGS = [Log(f"log.example/{at}") for at in range(16)]
"""Those that the witness of this file knows: each test takes one that no other has."""


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    begun = Served(tmp_path_factory.mktemp("witness") / "w", [log.key for log in LOGS])
    yield begun
    assert begun.end() == 0


@pytest.fixture
def log() -> Log:
    return LOGS.pop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    begun: list[Served] = []

    def begin(*options: str, logs: Iterable[NoteKey]) -> Served:
        begun.append(Served(tmp_path / "w", logs, *options))
        return begun[-1]

    yield begin
    assert [one.end() for one in begun] == [0] * len(begun)


def place(log: Log) -> str:
    return f"/{hashlib.sha256(log.key.name.encode()).hexdigest()}/checkpoint"


def request(body: bytes, *fields: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"\r\n".join([b"POST /add-checkpoint HTTP/1.1", b"Host: w", b"Content-Length: %d" % size, *fields, b"", body])


def statuses(answers: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answers)]


# --- sessions that others published -------------------------------------------------------------------------------------


def test_the_session_of_litewitness(vectors: Path, serve: Serve) -> None:
    """As published but for three answers of later texts: 404 for an unknown log, and what its second request really is.

    That one's signature is not base64 in its one spelling (stray bits behind the last byte), which we read as no note at all: 400.
    Spelt rightly and wrong it is the 403 that v1.0.0 has.
    """
    session = json.loads((vectors / "audit/inline/tlog_inline.json").read_bytes())["litewitness_session"]
    origin = session["requests"][0]["body"].split("\n")[2]
    key = NoteKey(origin, PLAIN, PublicKey(ED25519, bytes.fromhex(session["log_key_hex"])))
    witness = serve(logs=[key])
    assert len(session["requests"]) == 9
    differs = {1: (403, 400), 2: (403, 404)}
    for at, one in enumerate(session["requests"]):
        status, body = witness.post(one["body"].encode())
        expected = one["http"]
        if at in differs:
            published, expected = differs[at]
            assert one["http"] == published
        assert status == expected, (at, body)
        if status == 200:
            note = Note(one["body"].partition("\n\n")[2].partition("\n\n")[0] + "\n", parse_cosignatures(body))
            assert cosigned_at(note, witness.key) is not None
        elif status == 409:
            assert body == one["assert"].removeprefix("== ").replace("\\n", "\n").encode()
    spelt = session["requests"][1]["body"].replace("gx=\n", "gw=\n").encode()
    assert witness.post(spelt)[0] == 403


def test_the_checkpoints_of_transparency_dev(vectors: Path, serve: Serve) -> None:
    given = json.loads((vectors / "audit/inline/tlog_inline.json").read_bytes())["witness_add_checkpoint"]
    proof = tuple(map(bytes.fromhex, given["consProof_hex"]))
    first, second = (parse_signed_checkpoint(given[name].encode()) for name in ("mInit", "mNext"))
    witness = serve(logs=[parse_vkey(given["mPK"])])
    assert witness.post(encode_add_checkpoint(AddCheckpoint(0, (), first)))[0] == 200
    assert witness.post(encode_add_checkpoint(AddCheckpoint(5, proof[:-1], second)))[0] == 422
    assert witness.post(encode_add_checkpoint(AddCheckpoint(5, proof, second)))[0] == 200
    assert witness.post(encode_add_checkpoint(AddCheckpoint(0, (), second))) == (409, b"8\n")


# --- histories ----------------------------------------------------------------------------------------------------------


def test_a_fork_and_a_rollback_are_refused_and_the_fork_is_told(witness: Served, log: Log) -> None:
    fork = log.forked(1)
    assert witness.post(log.body(0, 5))[0] == 200
    assert witness.post(fork.body(5, 5)) == (409, b"5\n")
    assert witness.post(fork.body(5, 8))[0] == 422
    assert witness.post(log.body(0, 3)) == (409, b"5\n")
    assert witness.post(log.body(3, 3)) == (409, b"5\n")
    assert [line["level"] for line in witness.said() if line["event"] == "witness-fork" and line["origin"] == log.key.name] == ["error"]
    assert witness.post(log.body(5, 8))[0] == 200


def test_a_checkpoint_that_was_cosigned_is_shown_and_no_other(serve: Serve) -> None:
    log = Log()
    witness = serve("--prefix", "/w1", logs=[log.key])
    assert witness.post(b"", f"/w1{place(log)}", "GET")[0] == 404
    assert witness.post(log.body(0, 5), "/w1/add-checkpoint")[0] == 200
    status, body = witness.post(b"", f"/w1{place(log)}", "GET")
    assert status == 200
    assert cosigned_at(parse_note(body), witness.key) is not None
    assert witness.post(log.body(5, 8))[0] == 404
    assert witness.post(log.body(5, 8), "/w1x/add-checkpoint")[0] == 404
    assert witness.post(b"", f"/w1{place(log)}/", "GET")[0] == 404
    assert witness.post(b"", f"/w1{place(log)}")[0] == 405
    assert witness.post(b"", "/w1/add-checkpoint", "GET")[0] == 405


def test_of_many_senders_at_once_each_size_is_cosigned_in_one_history(witness: Served, log: Log) -> None:
    fork = log.forked(0)
    given: list[tuple[bool, int, int]] = []
    lock = threading.Lock()

    def send(one: Log) -> None:
        for size in range(1, 9):
            status, _ = witness.post(one.body(size - 1, size))
            with lock:
                given.append((one is fork, size, status))

    threads = [threading.Thread(target=send, args=(one,)) for one in (log, fork) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cosigned = {(forked, size) for forked, size, status in given if status == 200}
    assert {status for _, _, status in given} <= {200, 409, 422}
    assert len({forked for forked, _ in cosigned}) == 1
    assert {size for _, size in cosigned} == set(range(1, 9))


def test_what_was_cosigned_before_a_kill_is_known_after_it(serve: Serve) -> None:
    """Killed in the middle of its work, time and again: the answer that left is never forgotten, and the fork is never cosigned."""
    log = Log(entries=200)
    fork = log.forked(0)
    witness = serve(logs=[log.key])
    cosigned = 0
    for _ in range(4):
        until, at_work = cosigned + 10, threading.Event()
        killer = threading.Thread(target=kill_when, args=(witness, at_work))
        killer.start()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while cosigned < 200:
                assert witness.post(log.body(cosigned, cosigned + 1))[0] == 200
                cosigned += 1
                if cosigned >= until:
                    at_work.set()
        at_work.set()
        killer.join()
        witness.begin()
        assert cosigned >= until
        known = parse_signed_checkpoint(witness.post(b"", place(log), "GET")[1]).checkpoint
        assert known.size in (cosigned, cosigned + 1)  # the last may have been stored, and killed before it said so
        assert known == log.signed(known.size).checkpoint
        assert witness.post(fork.body(known.size, known.size)) == (409, b"%d\n" % known.size)
        assert witness.post(fork.body(known.size, known.size + 1))[0] == 422
        cosigned = known.size


def kill_when(witness: Served, at_work: threading.Event) -> None:
    at_work.wait(60)
    witness.kill()


# --- the wire -----------------------------------------------------------------------------------------------------------


def test_one_connection_carries_requests_one_after_another(witness: Served, log: Log) -> None:
    both = request(log.body(0, 5)) + request(log.body(5, 8), b"Connection: close")
    assert statuses(witness.raw(both)) == [200, 200]


def test_a_body_that_hides_a_request_is_a_body(witness: Served, log: Log) -> None:
    """The body of the first is the whole second request, and what stands behind a doubtful head is never read as one."""
    inner = request(log.body(0, 5))
    assert statuses(witness.raw(request(inner, b"Connection: close"))) == [400]
    for field in (b"Transfer-Encoding: chunked", b"Content-Length: 0", b"Content-Length : 0", b"X: y\n z"):
        assert statuses(witness.raw(request(b"0\r\n\r\n" + inner, field), end=True)) == [400], field
    assert witness.post(b"", place(log), "GET")[0] == 404


def test_too_much_is_refused_unread(witness: Served, log: Log) -> None:
    assert statuses(witness.raw(request(b"old", length=MAX_REQUEST + 1))) == [413]
    assert statuses(witness.raw(request(bytes(1 << 20)))) == [413]
    assert statuses(witness.raw(b"GET / HTTP/1.1\r\nHost: " + b"x" * MAX_HEAD)) == [431]
    assert statuses(witness.raw(request(b"x" * MAX_REQUEST, b"Connection: close"))) == [400]
    assert witness.post(log.body(0, 5))[0] == 200


def test_an_end_in_the_middle_is_no_request(witness: Served, log: Log) -> None:
    whole = request(log.body(0, 5))
    for cut in (0, 1, 20, whole.index(b"\r\n\r\n") + 4, len(whole) - 1):
        assert witness.raw(whole[:cut], end=True) == b""
    assert witness.post(b"", place(log), "GET")[0] == 404


def test_whoever_waits_to_send_is_told_to(witness: Served, log: Log) -> None:
    head, _, body = request(log.body(0, 5), b"Expect: 100-continue", b"Connection: close").partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", witness.port), timeout=30) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert statuses(connection.recv(65536)) == [200]


def test_the_slow_and_the_idle_are_let_go_and_hold_nobody_up(witness: Served, log: Log) -> None:
    """As many as it attends begin a request and stop; one more is heard once they are let go."""
    slow = [socket.create_connection(("127.0.0.1", witness.port), timeout=60) for _ in range(MOST_CONNECTIONS)]
    try:
        for at, connection in enumerate(slow):
            connection.sendall(b"POST /add" if at % 2 else b"")
        with socket.create_connection(("127.0.0.1", witness.port), timeout=60) as one_more:
            one_more.sendall(request(log.body(0, 5), b"Connection: close"))
            heard, _, _ = select.select([one_more, *slow], [], [], 60)
            assert heard
            assert one_more not in heard  # it waits until one of the slow is let go
            assert statuses(one_more.recv(65536)) == [200]
        said = [connection.recv(65536) for connection in slow[:4]]
        assert [statuses(one) for one in said] == [[], [408], [], [408]]
    finally:
        for connection in slow:
            connection.close()


def test_rubbish_is_answered_and_never_ends_it(witness: Served, log: Log) -> None:
    for rubbish in (b"\0" * 100, b"GET", b"\x16\x03\x01\x02\x00" + b"\x01" * 50, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n\r\n"):
        assert statuses(witness.raw(rubbish, end=True)) in ([], [400])
    assert witness.post(b"\xff" * 1000)[0] == 400
    assert witness.post(log.body(0, 5))[0] == 200


# --- TLS, and its life --------------------------------------------------------------------------------------------------


def test_it_speaks_tls(serve: Serve, tmp_path: Path) -> None:
    log = Log()
    certificate, key = tmp_path / "cert.pem", tmp_path / "cert.key"
    self_signed(certificate, key, "127.0.0.1")
    witness = serve("--tls-cert", str(certificate), "--tls-key", str(key), logs=[log.key])
    assert witness.url.startswith("https://")
    context = ssl.create_default_context(cafile=str(certificate))
    assert witness.raw(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/") is False
    assert witness.post(log.body(0, 5), tls=context)[0] == 200
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        witness.post(log.body(5, 8), tls=context)


def test_it_stops_when_it_is_told_though_somebody_is_connected(serve: Serve) -> None:
    log = Log()
    witness = serve(logs=[log.key])
    with socket.create_connection(("127.0.0.1", witness.port), timeout=30) as connection:
        connection.sendall(request(log.body(0, 5)))
        assert statuses(connection.recv(65536)) == [200]
        witness.process.send_signal(signal.SIGINT)
        assert witness.process.wait(20) == 0
        assert connection.recv(1) == b""


def test_a_port_that_is_taken_is_said(witness: Served, capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["witness", "serve", str(witness.folder), "--logs", str(witness.logs), "--listen", f"127.0.0.1:{witness.port}"]
    assert main(argv) == 3
    assert "cannot listen on 127.0.0.1" in capfd.readouterr().err

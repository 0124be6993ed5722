"""A witness without the wire: answers, alarms, what it remembers and what it refuses to begin with."""

from __future__ import annotations

import base64
import hashlib
import logging
import sqlite3
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from auditor.__main__ import main
from auditor.serving import folder as own
from auditor.serving import listen
from auditor.serving.http import MAX_HEAD, Answer, Head, _DoubtError, is_prefix
from auditor.serving.http import parse_head as parse_head_of
from auditor.witness import directory, state
from auditor.witness.cosigner import Cosigner
from tests.docs.blocks import all_blocks
from tests.parsers import assert_parser_is_total
from tests.signers import new_signer
from tests.world.clock import HandClock
from tests.world.witness import Log, WitnessInMemory
from writ.formats.errors import FormatError, Unavailable
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.cosignature import cosigned_at, parse_policy
from writ.formats.tlog.merkle import EMPTY_ROOT
from writ.formats.tlog.note import COSIGNATURE, Note, NoteKey, encode_note, sign_note
from writ.formats.tlog.witnessing import MAX_REQUEST, SIZE_TYPE, encode_add_checkpoint, parse_cosignatures
from writ.service.clock import SystemClock

LOG = Log()


def place(log: Log = LOG) -> str:
    return hashlib.sha256(log.key.name.encode()).hexdigest()


@pytest.fixture
def witness() -> WitnessInMemory:
    return WitnessInMemory("w1", (LOG.key,))


def add(witness: WitnessInMemory, body: bytes) -> tuple[int, str, bytes]:
    answer = witness.cosigner.add(body)
    return answer.status, answer.content_type, answer.body


def status(witness: WitnessInMemory, body: bytes) -> int:
    return witness.cosigner.add(body).status


def held(witness: WitnessInMemory) -> int | None:
    answer = witness.cosigner.latest(place())
    return parse_signed_checkpoint(answer.body).checkpoint.size if answer.status == 200 else None


# --- answers ------------------------------------------------------------------------------------------------------------


def test_what_is_cosigned_carries_a_line_that_holds_at_its_time_and_is_shown(witness: WitnessInMemory) -> None:
    code, kind, body = add(witness, LOG.body(0, 5))
    assert (code, kind) == (200, "text/plain; charset=utf-8")
    note = Note(LOG.signed(5).note.text, parse_cosignatures(body))
    assert len(note.signatures) == 1
    assert cosigned_at(note, witness.key) == witness.clock.wall

    shown = parse_signed_checkpoint(witness.cosigner.latest(place()).body)
    assert shown.note.signatures == (*LOG.signed(5).note.signatures, *note.signatures)


def test_it_follows_the_log_and_says_where_it_is(witness: WitnessInMemory) -> None:
    assert status(witness, LOG.body(0, 3)) == 200
    assert add(witness, LOG.body(0, 8)) == (409, SIZE_TYPE, b"3\n")
    assert add(witness, LOG.body(5, 8)) == (409, SIZE_TYPE, b"3\n")
    assert status(witness, LOG.body(3, 8)) == 200
    assert status(witness, LOG.body(8, 8)) == 200
    assert add(witness, LOG.body(0, 3)) == (409, SIZE_TYPE, b"8\n")
    assert held(witness) == 8


def test_before_the_first_checkpoint_it_is_at_0(witness: WitnessInMemory) -> None:
    assert add(witness, LOG.body(3, 8)) == (409, SIZE_TYPE, b"0\n")
    assert witness.cosigner.latest(place()).status == 404
    assert status(witness, LOG.body(0, 0)) == 200
    assert held(witness) == 0


@pytest.mark.parametrize(
    "body, code",
    [
        (b"", 400),
        (b"old 0\n", 400),
        (LOG.body(0, 5)[:-3], 400),
        (LOG.body(0, 5).replace(b"old 0", b"old 00"), 400),
        (LOG.body(0, 5).replace(b"old 0", b"old +0"), 400),
        (LOG.body(0, 5).replace(b"old 0", b"old 6"), 400),
        (LOG.body(0, 5).replace(b"\n5\n", b"\n5\nextension\n"), 400),
        (LOG.body(0, 5, [bytes(32)] * 63).replace(b"old 0\n", b"old 0\n" + base64.b64encode(bytes(32)) + b"\n"), 400),
        (LOG.body(0, 5) + b"x" * MAX_REQUEST, 400),
        (Log().body(0, 5), 403),
        (LOG.body(0, 5).replace(b"\n5\n", b"\n6\n"), 403),
        (Log("log.example/other").body(0, 5), 404),
        (LOG.body(0, 5, [bytes(32)]), 422),
        (LOG.body(0, 0).replace(base64.b64encode(EMPTY_ROOT), base64.b64encode(bytes(32))), 422),
    ],
)  # fmt: skip
def test_what_is_wrong_is_answered_as_the_specification_says_and_nothing_is_stored(
    witness: WitnessInMemory, body: bytes, code: int
) -> None:
    assert status(witness, body) == code
    assert held(witness) is None


def test_a_fork_is_not_cosigned_and_raises_one_alarm_with_both_checkpoints(
    witness: WitnessInMemory, caplog: pytest.LogCaptureFixture
) -> None:
    fork = LOG.forked(2)
    assert status(witness, LOG.body(0, 5)) == 200
    with caplog.at_level(logging.ERROR):
        assert add(witness, fork.body(5, 5)) == (409, SIZE_TYPE, b"5\n")
        assert add(witness, fork.body(5, 5)) == (409, SIZE_TYPE, b"5\n")
    assert status(witness, fork.body(5, 8)) == 422
    assert held(witness) == 5
    (alarm,) = (one for one in caplog.records if one.levelno >= logging.ERROR)  # what else is kept depends on what ran before here
    assert alarm.getMessage() == "witness-fork"
    fields = alarm.__dict__["fields"]
    roots = [parse_signed_checkpoint(fields[name].encode()).checkpoint.root for name in ("cosigned", "other")]
    assert roots == [LOG.signed(5).checkpoint.root, fork.signed(5).checkpoint.root]
    assert status(witness, LOG.body(5, 8)) == 200


def test_logs_are_apart() -> None:
    other = Log("log.example/two")
    both = WitnessInMemory("w2", (LOG.key, other.key))
    assert [status(both, LOG.body(0, 5)), status(both, other.body(0, 3)), status(both, other.body(3, 8))] == [200] * 3
    assert add(both, LOG.body(8, 8)) == (409, SIZE_TYPE, b"5\n")
    assert parse_signed_checkpoint(both.cosigner.latest(place(other)).body).checkpoint.size == 8


def test_lines_that_a_sender_added_are_not_kept() -> None:
    asked = LOG.asks(0, 5)
    other = Log("log.example/two")
    both = WitnessInMemory("w2", (LOG.key, other.key))
    others = sign_note(asked.checkpoint.note.text, other.key, other.signer.sign).signatures
    added = replace(asked.checkpoint.note, signatures=(*asked.checkpoint.note.signatures, *others))
    body = encode_add_checkpoint(replace(asked, checkpoint=replace(asked.checkpoint, note=added)))
    assert status(both, body) == 200
    shown = parse_signed_checkpoint(both.cosigner.latest(place()).body).note
    assert [line.name for line in shown.signatures] == [LOG.key.name, both.key.name]


def test_of_many_at_once_one_history_is_cosigned(witness: WitnessInMemory) -> None:
    """Forks race for each size; the witness's lines are then all of one history."""
    fork, lines, lock = LOG.forked(0), [], threading.Lock()

    def send(log: Log) -> None:
        for old, size in ((0, 3), (3, 5), (5, 8)):
            answer = witness.cosigner.add(log.body(old, size))
            with lock:
                lines.append((log is fork, size, answer.status))

    threads = [threading.Thread(target=send, args=(log,)) for log in (LOG, fork) * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    given = {(forked, size) for forked, size, code in lines if code == 200}
    assert {code for _, _, code in lines} <= {200, 409, 422}
    assert len({forked for forked, _ in given}) == 1
    assert {size for _, size in given} == {3, 5, 8}


def test_a_state_that_cannot_be_written_is_no_cosignature(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state.create(path)
    signer = new_signer()
    cosigner = Cosigner(NoteKey("w", COSIGNATURE, signer.public), signer, [LOG.key], state.open_state(path), HandClock())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TRIGGER no BEFORE INSERT ON latest BEGIN SELECT RAISE(ABORT, 'full'); END")
    assert cosigner.add(LOG.body(0, 5)) == Answer(503, "text/plain; charset=utf-8", b"the witness cannot reach its state: ask later\n")
    other.execute("DROP TRIGGER no")
    other.close()
    assert cosigner.add(LOG.body(0, 3)).status == 200
    cosigner.close()


# --- what it remembers --------------------------------------------------------------------------------------------------


def test_what_was_put_is_synced_before_anything_is_said(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state.create(path)
    opened = state.open_state(path)
    with opened.exclusive() as inside:
        modes = [inside._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]  # noqa: SLF001
    opened.close()
    assert modes == ["wal", 2]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_stored_where_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state.create(path)
    opened = state.open_state(path)

    def fails() -> None:
        with opened.exclusive() as inside:
            inside.put(LOG.signed(5).checkpoint, b"note")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with opened.exclusive() as inside:
        assert inside.latest(LOG.key.name) is None
    opened.close()


def test_two_processes_on_one_state_take_turns(tmp_path: Path) -> None:
    """Two connections stand for two processes: SQLite locks files, not threads of ours."""
    path = tmp_path / "state"
    state.create(path)
    signer = new_signer()
    key = NoteKey("w", COSIGNATURE, signer.public)
    one, two = (Cosigner(key, signer, [LOG.key], state.open_state(path), HandClock()) for _ in range(2))
    assert one.add(LOG.body(0, 5)).status == 200
    assert two.add(LOG.forked(1).body(0, 5)).body == b"5\n"
    assert two.add(LOG.body(5, 8)).status == 200
    assert one.add(LOG.body(5, 7)).body == b"8\n"
    one.close()
    two.close()


def test_a_process_waits_for_what_another_is_about_to_store(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state.create(path)
    one = state.open_state(path)
    signer = new_signer()
    two = Cosigner(NoteKey("w", COSIGNATURE, signer.public), signer, [LOG.key], state.open_state(path), HandClock())
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(two.add(LOG.forked(1).body(0, 5))))
    with one.exclusive() as inside:
        asking.start()
        asking.join(0.2)
        inside.put(LOG.signed(5).checkpoint, b"note")
    asking.join()
    one.close()
    two.close()
    assert [(answer.status, answer.body) for answer in answers] == [(409, b"5\n")]


def test_a_state_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="another folder with another key"):
        state.open_state(tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_file_that_is_no_state_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(damage := b"not a database, but long enough to be taken for one" * 40)
    with pytest.raises(Unavailable, match="SQLITE_NOTADB"):
        state.open_state(path)
    assert path.read_bytes() == damage


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state.create(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(FormatError, match="expected version 1, got 2"):
        state.open_state(path)


# --- its folder ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory.init(tmp_path / "w", "witness.example/w1")
    (tmp_path / "logs").write_text(f"log {LOG.key}\nquorum none\n")
    return tmp_path / "w"


def opens(folder: Path) -> None:
    directory.open_cosigner(folder, folder.parent / "logs", SystemClock()).close()


def test_the_folder_is_the_owners_and_opens(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    opens(folder)


def test_the_commands_print_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["witness", "init", str(tmp_path / "w"), "--name", "witness.example/w1"]) == 0
    printed = capsys.readouterr().out
    assert str(own.vkey(tmp_path / "w")) + "\n" == printed
    assert main(["witness", "vkey", str(tmp_path / "w"), "--json"]) == 0
    assert printed.strip() in capsys.readouterr().out
    assert main(["witness", "init", str(tmp_path / "w"), "--name", "witness.example/w1"]) == 2
    assert "expected no witness yet" in capsys.readouterr().err
    assert main(["witness", "vkey", str(tmp_path / "other")]) == 3


@pytest.mark.parametrize("name", ["", "two words", "a+b", "x" * 256])
def test_a_name_that_no_note_can_carry_makes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="name"):
        directory.init(tmp_path / "w", name)
    assert not (tmp_path / "w").exists()


def test_a_witness_that_was_begun_is_finished_with_the_same_key(folder: Path) -> None:
    before = own.vkey(folder)
    (folder / "vkey").unlink()
    (folder / "state.sqlite").unlink()
    assert directory.init(folder, before.name) == before


@pytest.mark.parametrize("name", ["key.pem", "state.sqlite", "vkey"])
def test_a_witness_without_one_of_its_parts_does_not_serve(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(Unavailable):
        opens(folder)
    assert not (folder / name).exists()


def test_another_key_than_the_one_that_is_shown_does_not_serve(folder: Path) -> None:
    other = NoteKey("witness.example/w1", COSIGNATURE, new_signer().public)
    (folder / "vkey").write_text(f"{other}\n")
    with pytest.raises(FormatError, match="whose private half"):
        opens(folder)


def test_the_policy_of_the_page_is_one(folder: Path) -> None:
    (shown,) = [block.text for block in all_blocks() if block.text.startswith("# /etc/writ/tlog-policy\n")]
    (folder.parent / "logs").write_text(shown)
    opens(folder)
    assert not parse_policy(shown.encode()).satisfied(frozenset({"ours"}))


@pytest.mark.parametrize("kind", ["log with the witness's key", "no policy"])
def test_a_policy_that_cannot_be_meant_is_refused(folder: Path, kind: str) -> None:
    key = own.vkey(folder)
    text = f"log {replace(key, kind=1)}\nquorum none\n" if kind.startswith("log") else f"log {LOG.key}\n"
    (folder.parent / "logs").write_text(text)
    with pytest.raises(FormatError, match="tlog policy"):
        opens(folder)


# --- where it listens ---------------------------------------------------------------------------------------------------


def test_it_listens_on_loopback_or_with_tls() -> None:
    assert listen.parse_listen("[::1]:0", "/w1", None, None) == listen.Listen("::1", 0, "/w1", None)
    for wrong in ("0.0.0.0:80", "192.0.2.1:80", "localhost:80", "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1"):
        with pytest.raises(FormatError, match="--listen"):
            listen.parse_listen(wrong, "", None, None)
    with pytest.raises(FormatError, match="--prefix"):
        listen.parse_listen("127.0.0.1:80", "/w1/", None, None)
    with pytest.raises(FormatError, match="together"):
        listen.parse_listen("127.0.0.1:80", "", Path("cert"), None)
    with pytest.raises(Unavailable, match="--tls-cert"):
        listen.parse_listen("127.0.0.1:80", "", Path("no-such"), Path("no-such"))


def test_a_prefix_is_segments() -> None:
    assert [one for one in ("", "/a", "/a/b.c", "a", "/", "/a/", "/a//b", "/a b", "/a?b") if is_prefix(one)] == ["", "/a", "/a/b.c"]


# --- heads --------------------------------------------------------------------------------------------------------------


def parse_head(data: bytes) -> Head:
    return parse_head_of(data, MAX_REQUEST)


HEAD = b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\n\r\n"


def test_a_head_is_understood() -> None:
    assert parse_head(HEAD) == Head("POST", "/add-checkpoint", 5, goes_on=True, waits=False)
    assert parse_head(HEAD.replace(b"Host: w", b"Host: w\r\nConnection: x, Close\r\nExpect: 100-continue")) == Head(
        "POST", "/add-checkpoint", 5, goes_on=False, waits=True
    )
    assert parse_head(b"GET / HTTP/1.0\r\n\r\n") == Head("GET", "/", 0, goes_on=False, waits=False)


DOUBTS = {
    "lf only": (HEAD.replace(b"w\r\n", b"w\n"), 400),
    "cr alone": (HEAD.replace(b": w", b": w\rx"), 400),
    "folded": (HEAD.replace(b": w", b": w\r\n x"), 400),
    "space before the colon": (HEAD.replace(b"Length:", b"Length :"), 400),
    "no colon": (HEAD.replace(b"Host: w", b"Host"), 400),
    "nul": (HEAD.replace(b": w", b": \0"), 400),
    "not ascii": (HEAD.replace(b": w", b": \xff"), 400),
    "two lengths": (HEAD.replace(b"Host: w", b"Host: w\r\ncontent-length: 5"), 400),
    "a list of lengths": (HEAD.replace(b": 5", b": 5, 5"), 400),
    "a signed length": (HEAD.replace(b": 5", b": +5"), 400),
    "no length": (HEAD.replace(b"Content-Length: 5\r\n", b""), 411),
    "too long": (HEAD.replace(b": 5", b": %d" % (MAX_REQUEST + 1)), 413),
    "chunked": (HEAD.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 411),
    "chunked with a length": (HEAD.replace(b"Host: w", b"Host: w\r\nTransfer-Encoding: chunked"), 400),
    "identity with a length": (HEAD.replace(b"Host: w", b"Host: w\r\nTransfer-Encoding: identity"), 400),
    "no host": (HEAD.replace(b"Host: w\r\n", b""), 400),
    "two hosts": (HEAD.replace(b"Host: w", b"Host: w\r\nHost: w"), 400),
    "expects": (HEAD.replace(b"Host: w", b"Host: w\r\nExpect: more"), 417),
    "http/2": (HEAD.replace(b"HTTP/1.1", b"HTTP/2.0"), 400),
    "absolute": (HEAD.replace(b" /add", b" http://w/add"), 400),
    "two spaces": (HEAD.replace(b" /add", b"  /add"), 400),
    "empty line first": (b"\r\n" + HEAD, 400),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_a_head_with_two_readings_has_none(name: str) -> None:
    data, code = DOUBTS[name]
    with pytest.raises(_DoubtError) as doubt:
        parse_head(data)
    assert doubt.value.answer.status == code


def test_the_reader_of_heads_is_total() -> None:
    def read(data: bytes) -> Head:
        try:
            return parse_head(data)
        except _DoubtError as doubt:
            raise FormatError("head", "a head", str(doubt)) from None

    assert_parser_is_total(read, HEAD)
    assert len(HEAD) < MAX_HEAD


def test_a_note_is_shown_as_it_was_stored(witness: WitnessInMemory) -> None:
    assert status(witness, LOG.body(0, 5)) == 200
    shown = witness.cosigner.latest(place()).body
    assert encode_note(parse_signed_checkpoint(shown).note) == shown
    assert witness.cosigner.latest(place().upper()).status == 404

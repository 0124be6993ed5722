"""`auditor log`: addresses, what a mirror fetches and keeps, what stops it, and what is printed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from auditor.__main__ import main
from auditor.log.mirror import mirror
from auditor.log.source import open_source
from tests.world.network import Server, certified
from tests.world.translog import WorldLog, auditors_trust, begun, decisions, put
from writ.formats.errors import Refused, Unavailable
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT
from writ.formats.tlog.note import encode_note
from writ.formats.trust import encode_trust
from writ.verdict.log_audit import LogTrust

SIZE = 600


@pytest.fixture(scope="module")
def log() -> WorldLog:
    return WorldLog([b"entry %d" % at for at in range(SIZE)])


def key(log: WorldLog) -> list[str]:
    return ["--log-key", str(log.note_key)]


def trust(log: WorldLog) -> LogTrust:
    return LogTrust((log.note_key,))


class Counted:
    """A log in memory, as a Source that remembers what it was asked for."""

    name = "in memory"

    def __init__(self, log: WorldLog) -> None:
        self.files = log.files()
        self.asked: list[str] = []

    def get(self, path: str, most: int) -> bytes | None:
        """See Source."""
        self.asked.append(path)
        data = self.files.get(path)
        return None if data is None else data[: most + 1]


def tree(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "lock"}


# --- addresses ---------------------------------------------------------------------------------------------------------------


def served(log: WorldLog, prefix: str = "/log") -> dict[str, bytes]:
    """Whole HTTP answers by path."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    return {f"{prefix}/{path}": head % len(data) + data for path, data in log.files().items()}


class Web:
    """A server of fixed answers, and 404 for the rest."""

    def __init__(self, answers: dict[str, bytes], certificate: tuple[Path, Path] | None = None) -> None:
        self.answers = answers
        self.server = Server(self._serve, certificate=certificate)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server.port}/log"

    def _serve(self, connection: socket.socket, _: Server) -> None:
        stream = connection.makefile("rb")
        while line := stream.readline():
            while stream.readline() not in (b"\r\n", b""):
                continue
            connection.sendall(self.answers.get(line.split()[1].decode(), b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"))


@pytest.fixture
def web(log: WorldLog) -> Iterator[Web]:
    made = Web(served(log))
    yield made
    made.server.close()


def test_a_log_at_an_address_is_read_as_one_in_a_directory(log: WorldLog, web: Web, tmp_path: Path) -> None:
    assert main(["log", "verify", web.url, *key(log)]) == 0
    assert main(["log", "mirror", web.url, str(tmp_path / "mirror"), *key(log)]) == 0
    assert main(["log", "diff", web.url, str(tmp_path / "mirror"), *key(log)]) == 0


def test_a_redirect_is_not_obeyed(log: WorldLog, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.answers["/log/checkpoint"] = b"HTTP/1.1 302 Found\r\nLocation: /log/elsewhere\r\nContent-Length: 0\r\n\r\n"

    assert main(["log", "verify", web.url, *key(log)]) == 3
    assert "redirect" in capsys.readouterr().err


def test_an_answer_that_is_neither_there_nor_missing_is_no_finding(log: WorldLog, web: Web) -> None:
    web.answers["/log/tile/0/001"] = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"

    assert main(["log", "verify", web.url, *key(log)]) == 3


def test_an_address_without_tls_is_one_of_this_machine(log: WorldLog) -> None:
    assert main(["log", "verify", "http://log.example.org/log", *key(log)]) == 2


def test_the_certificate_is_checked(log: WorldLog, tmp_path: Path) -> None:
    certificate = certified(tmp_path, "127.0.0.1")
    web = Web(served(log), certificate)
    try:
        assert main(["log", "verify", web.url, *key(log), "--ca-file", str(certificate[0])]) == 0
        assert main(["log", "verify", web.url, *key(log)]) == 3
    finally:
        web.server.close()


@pytest.mark.parametrize("kind", ["directory", "address"])
def test_no_more_is_read_than_was_asked_for(kind: str, tmp_path: Path) -> None:
    long = bytes(MAX_CHECKPOINT + 10)
    put(tmp_path / "checkpoint", long)
    web = Web({"/log/checkpoint": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(long) + long})
    try:
        with open_source(str(tmp_path) if kind == "directory" else web.url, None) as source:
            assert source.get("checkpoint", MAX_CHECKPOINT) == long[: MAX_CHECKPOINT + 1]
    finally:
        web.server.close()


def test_a_pipe_is_no_file_of_a_log(log: WorldLog, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint")

    assert main(["log", "verify", str(tmp_path), *key(log)]) == 3


# --- what a mirror fetches and keeps --------------------------------------------------------------------------------------------


def test_a_mirror_has_the_files_of_the_log_and_every_checkpoint(log: WorldLog, tmp_path: Path) -> None:
    expected: dict[str, bytes] = {}
    for size in (0, 1, 255, 256, 300, 512, SIZE):
        mirror(Counted(log.at(size)), tmp_path / "m", trust(log))
        expected |= log.at(size).files() | {f"checkpoints/{size}": encode_note(log.at(size).note())}

        assert tree(tmp_path / "m") == expected
        assert main(["log", "verify", str(tmp_path / "m"), *key(log)]) == 0


def test_only_what_is_new_is_fetched(log: WorldLog, tmp_path: Path) -> None:
    mirror(Counted(log.at(520)), tmp_path / "m", trust(log))
    source = Counted(log)

    done = mirror(source, tmp_path / "m", trust(log))

    assert done.new == 80
    assert {path for path in source.asked if path.startswith("tile/entries")} == {"tile/entries/002.p/88"}
    again = Counted(log)
    assert (mirror(again, tmp_path / "m", trust(log)).new, again.asked) == (0, ["checkpoint"])


def test_partial_tiles_are_taken_out_of_full_ones_where_they_are_gone(log: WorldLog, tmp_path: Path) -> None:
    """As C2SP allows a log that has grown; the checkpoint that is served is older."""
    source = Counted(log)
    source.files["checkpoint"] = encode_note(log.at(300).note())
    source.files["tile/1/000.p/1"] = log.at(300).files()["tile/1/000.p/1"]

    mirror(source, tmp_path / "m", trust(log))

    assert tree(tmp_path / "m") == log.at(300).files() | {"checkpoints/300": encode_note(log.at(300).note())}


def test_a_full_tile_is_never_exchanged_for_another(log: WorldLog, tmp_path: Path) -> None:
    put(tmp_path / "m" / "tile/0/000", bytes(8192))

    with pytest.raises(Refused) as refused:
        mirror(Counted(log), tmp_path / "m", trust(log))

    assert [reason.code for reason in refused.value.reasons] == ["log-tile-mismatch"]
    assert (tmp_path / "m" / "tile/0/000").read_bytes() == bytes(8192)
    assert not (tmp_path / "m" / "checkpoint").exists()


def test_a_mirror_that_was_changed_is_not_gone_on_with(log: WorldLog, tmp_path: Path) -> None:
    mirror(Counted(log.at(300)), tmp_path / "m", trust(log))
    put(tmp_path / "m" / "tile/0/001.p/44", bytes(32 * 44))

    with pytest.raises(Refused) as refused:
        mirror(Counted(log), tmp_path / "m", trust(log))

    assert [(one.code, one.claim) for one in refused.value.reasons] == [("log-root-mismatch", "mirror, checkpoint.300")]


def test_a_mirror_of_one_log_takes_no_other(log: WorldLog, tmp_path: Path) -> None:
    mirror(Counted(log), tmp_path / "m", trust(log))
    other = WorldLog(log.entries, origin="other.example.org/log")

    with pytest.raises(Refused) as refused:
        mirror(Counted(other), tmp_path / "m", LogTrust((log.note_key, other.note_key)))

    assert [reason.claim for reason in refused.value.reasons] == ["checkpoint.origin"]


def test_a_checkpoint_that_was_seen_binds_also_where_nothing_was_fetched(log: WorldLog, tmp_path: Path) -> None:
    """Bundles that were altered end the run; whoever showed the checkpoint cannot then show a shorter log, or another."""
    source = Counted(log.at(400))
    source.files["tile/entries/000"] = bytes(5)
    with pytest.raises(Refused):
        mirror(source, tmp_path / "m", trust(log))

    forked = log.with_entry(3, b"other")
    bare = Counted(log.at(400))
    bare.files["checkpoint"] = encode_note(forked.at(400).note())
    with pytest.raises(Refused) as refused:
        mirror(bare, tmp_path / "m", trust(log))
    assert [reason.code for reason in refused.value.reasons] == ["log-fork"], "two signatures are enough, without any tile"
    assert [path.read_bytes() for path in (tmp_path / "m" / "evidence").iterdir()] == [bare.files["checkpoint"]]
    for other, code in ((log.at(300), "log-rollback"), (forked.at(400), "log-fork"), (forked, "log-fork")):
        with pytest.raises(Refused) as refused:
            mirror(Counted(other), tmp_path / "m", trust(log))
        assert [reason.code for reason in refused.value.reasons] == [code]
    assert mirror(Counted(log), tmp_path / "m", trust(log)).new == SIZE


class Broken(Counted):
    """A source that is away when it is asked for the second bundle."""

    def get(self, path: str, most: int) -> bytes | None:
        """See Source."""
        if path == "tile/entries/001":
            raise Unavailable("the log", "away")
        return super().get(path, most)


def test_a_first_fetch_that_was_interrupted_goes_on_where_it_was(log: WorldLog, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        mirror(Broken(log), tmp_path / "m", trust(log))
    again = Counted(log)

    mirror(again, tmp_path / "m", trust(log))

    whole = Counted(log)
    mirror(whole, tmp_path / "whole", trust(log))
    bundles = [path for path in whole.asked if path.startswith("tile/entries")]
    assert bundles == ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/88"]
    assert [path for path in again.asked if path.startswith("tile/entries")] == bundles[1:], "the first was here"
    assert tree(tmp_path / "m") == tree(tmp_path / "whole")


def test_what_an_interrupted_fetch_left_is_judged_like_the_rest(log: WorldLog, tmp_path: Path) -> None:
    """Bytes that rotted meanwhile, and a partial tile of an earlier size: neither enters, and neither is held against the log."""
    with pytest.raises(Unavailable):
        mirror(Broken(log), tmp_path / "m", trust(log))
    put(tmp_path / "m" / "incoming/tile/entries/000", bytes(9))
    put(tmp_path / "m" / "incoming/tile/entries/002.p/3", bytes(9))

    mirror(Counted(log), tmp_path / "m", trust(log))

    mirror(Counted(log), tmp_path / "whole", trust(log))
    assert tree(tmp_path / "m") == tree(tmp_path / "whole")


def test_two_do_not_mirror_into_one_place(log: WorldLog, tmp_path: Path) -> None:
    mirror(Counted(log.at(300)), tmp_path / "m", trust(log))
    with (tmp_path / "m" / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Unavailable):
            mirror(Counted(log), tmp_path / "m", trust(log))


def test_a_place_that_cannot_be_written_is_could_not(log: WorldLog, tmp_path: Path) -> None:
    put(tmp_path / "m", b"a file")
    log.write(tmp_path / "log")

    assert main(["log", "mirror", str(tmp_path / "log"), str(tmp_path / "m"), *key(log)]) == 3


# --- SIGKILL ----------------------------------------------------------------------------------------------------------------------

STEPS = ("open", "os.mkdir", "os.chmod", "os.link", "os.rename", "os.remove", "os.rmdir", "fcntl.flock")


def killed_at(step: int, log: WorldLog, path: Path) -> bool:
    """Mirror in a process of its own, which is killed before its call number `step` that touches the mirror; False if it ended first."""
    child = os.fork()
    if child == 0:
        left = [step]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in STEPS and any(str(one).startswith(str(path)) for one in arguments):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            mirror(Counted(log), path, trust(log))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


@pytest.mark.faults
@pytest.mark.short
@pytest.mark.parametrize("start", [0, 300])
def test_a_mirror_killed_at_any_step_is_whole_and_goes_on(start: int, log: WorldLog, tmp_path: Path) -> None:
    base, whole = tmp_path / "base", tmp_path / "whole"
    base.mkdir()
    if start:
        mirror(Counted(log.at(start)), base, trust(log))
    shutil.copytree(base, whole)
    mirror(Counted(log), whole, trust(log))
    step, path = 1, tmp_path / "m"
    while True:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(base, path)
        if not killed_at(step, log, path):
            break
        if (path / "checkpoint").exists():
            assert main(["log", "verify", str(path), *key(log)]) in ({0} if holds_all(path) else {1}), step
        mirror(Counted(log), path, trust(log))
        assert tree(path) == tree(whole), step
        step += 1
    assert step > 30, "there is something to be killed in"


def holds_all(path: Path) -> bool:
    """Whether no checkpoint was seen beyond the one whose entries are here; else the mirror says that it is behind."""
    return max(int(one.name) for one in (path / "checkpoints").iterdir() if one.name.isdecimal()) == int(
        (path / "checkpoint").read_text().split("\n")[1]
    )


# --- command line -----------------------------------------------------------------------------------------------------------------


def test_without_a_key_of_the_log_nothing_is_said_of_it(log: WorldLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write(tmp_path / "log")

    assert main(["log", "verify", str(tmp_path / "log")]) == 2
    assert "--log-key" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--silence", "5"], ["--silence", "-1"], ["--since", "nowhere"], ["--log-key", "x"]])
def test_what_is_asked_wrongly_is_misuse_or_could_not(more: list[str], log: WorldLog, tmp_path: Path) -> None:
    log.write(tmp_path / "log")

    assert main(["log", "verify", str(tmp_path / "log"), *key(log), *more]) == (3 if "--since" in more else 2)


def test_a_place_without_a_log_is_could_not(log: WorldLog, tmp_path: Path) -> None:
    assert main(["log", "verify", str(tmp_path), *key(log)]) == 3
    assert main(["log", "verify", str(tmp_path / "nowhere"), *key(log)]) == 3


def test_explain_prints_each_step_with_its_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = begun(decisions(20))
    log.write(tmp_path / "log")
    put(tmp_path / "trust.cbor", encode_trust(auditors_trust(log)))

    assert main(["log", "verify", str(tmp_path / "log"), "--trust", str(tmp_path / "trust.cbor"), "--explain"]) == 0

    lines = capsys.readouterr().out.splitlines()
    names = [line.strip().partition(":")[0] for line in lines[:-1]]
    assert names == ["1. checkpoint", "2. tiles and entries", "3. history", "4. decisions", "5. times"]
    assert lines[-1].startswith("whole: ")


def test_a_fork_prints_both_signed_checkpoints(log: WorldLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = log.with_entry(9, b"other")

    assert main(["log", "diff", str(log.write(tmp_path / "a")), str(other.write(tmp_path / "b")), *key(log)]) == 1

    said = capsys.readouterr()
    for one in (log, other):
        signature = encode_note(one.note()).decode().split("\n")[-2]
        assert signature in said.out
    assert "log-fork" in said.err


def test_decisions_are_judged_in_their_order_by_other_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond some thousands of entries; the one fault is named by its place."""
    signed = decisions(64)
    log = begun([signed[0]] * 4200 + [b"hello"] + [signed[0]] * 300)
    put(tmp_path / "trust.cbor", encode_trust(auditors_trust(log)))

    status = main(["log", "verify", str(log.write(tmp_path / "log")), "--trust", str(tmp_path / "trust.cbor"), "--json"])

    reasons = json.loads(capsys.readouterr().out)["reasons"]
    assert (status, [(one["code"], one["claim"].partition(",")[0]) for one in reasons]) == (1, [("log-entry-malformed", "entry.4200")])

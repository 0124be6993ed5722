"""A way on after a head file or a log is lost: what somebody else kept says where the log stood, a person decides, and the log says so."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.world.scene import signer
from verifier import compose
from verifier.__main__ import main
from verifier.config import VerifierConfig
from verifier.keys import LOG_FILE
from verifier.ledger.schema import BlobRow, EntryRow
from verifier.ledger.sqlite import SqliteTables, connect
from verifier.ledger.translog import SLOT, look, standing
from writ.formats.cose import parse_sign1
from writ.formats.decision import Genesis, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.tlog.checkpoint import Checkpoint, parse_signed_checkpoint
from writ.formats.tlog.note import PLAIN, NoteKey, encode_note, sign_note
from writ.service.signers import load_signer

ISSUER = "http://127.0.0.1:8443"


@dataclass
class Place:
    """A verifier's state directory, and what is in it."""

    folder: Path
    name: str = "log"

    @property
    def config(self) -> VerifierConfig:
        return VerifierConfig(self.folder, "example.org", ISSUER, log_name=self.name)

    @property
    def key(self) -> NoteKey:
        return NoteKey(self.config.origin, PLAIN, load_signer(self.config.key_dir / LOG_FILE).public)

    def run(self, *argv: str | Path, code: int = 0) -> dict[str, Any]:
        """The command, in this process."""
        file = self.folder.with_suffix(".toml")
        file.write_text(f'state_dir = "{self.folder}"\ndomain = "example.org"\nissuer = "{ISSUER}"\nlog_name = "{self.name}"\n')
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            got = main(["--config", str(file), *map(str, argv), "--json"])
        assert got == code, out.getvalue()
        shown: dict[str, Any] = json.loads(out.getvalue())
        return shown

    def grow(self) -> bytes:
        """One entry more; the checkpoint that is served then."""
        made = compose.verifier(self.config)
        try:
            made.parts.rotation.rotate(compose.INIT)
            log = made.parts.translog
            assert log is not None
            return log.checkpoint
        finally:
            made.close()

    def acts(self) -> list[OperatorAct | Genesis]:
        """What the log says of operators, and its genesis."""
        tables = SqliteTables(connect(self.config.ledger_file))
        read = [parse_entry(parse_sign1(row.entry).payload or b"") for row in tables.select(EntryRow)]
        return [one for one in read if isinstance(one, OperatorAct | Genesis)]

    def note(self, checkpoint: Checkpoint) -> bytes:
        """It, signed by the log's key."""
        return encode_note(sign_note(str(checkpoint), self.key, load_signer(self.config.key_dir / LOG_FILE).sign))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "state")
    made.run("init")
    return made


def kept(tmp_path: Path, note: bytes) -> Path:
    path = tmp_path / "kept"
    path.write_bytes(note)
    return path


def refused(place: Place, note: bytes, tmp_path: Path, code: int = 1) -> str:
    shown = place.run("init", "--head", kept(tmp_path, note), code=code)
    return str(shown["reasons"][0]["code"] if code == 1 else shown["error"])


@pytest.mark.parametrize("what", ["gone", "empty", "other bytes", "of another key"])
def test_a_head_that_is_gone_is_taken_from_what_somebody_kept_and_the_log_says_so(place: Place, tmp_path: Path, what: str) -> None:
    note = place.grow()
    place.grow()
    head = place.config.head_file
    other = sign_note(
        str(Checkpoint(place.config.origin, 9, bytes(32))), NoteKey(place.config.origin, PLAIN, signer("x").public), signer("x").sign
    )
    left = {"gone": b"", "empty": b"", "other bytes": b"\1" * 2 * SLOT, "of another key": encode_note(other)}[what]
    head.unlink()
    if what != "gone":
        head.write_bytes(left)
    with pytest.raises(Refused, match="log-put-back"):
        compose.verifier(place.config)
    before = parse_signed_checkpoint(note).checkpoint
    shown = place.run("init", "--head", kept(tmp_path, note))
    assert shown == {"origin": place.config.origin, "size": before.size, "root": before.root.hex()}
    last = place.acts()[-1]
    assert isinstance(last, OperatorAct)
    assert (last.act, last.subject, last.detail) == ("log-resume", place.config.origin, Digest.of(note))
    tables = SqliteTables(connect(place.config.ledger_file))
    assert tables.get(BlobRow, Digest.of(note).value) is not None, "what was taken for it can be looked at"
    now = look(head, place.key)
    assert now is not None
    assert now.size == standing(tables, place.key).edge.size == before.size + 2
    assert head.with_name("log-head.lost").exists() == bool(left)
    place.grow()


def test_i6_a_ledger_that_does_not_go_on_from_what_was_kept_is_not_resumed(place: Place, tmp_path: Path) -> None:
    place.grow()
    before = place.config.ledger_file.read_bytes()
    later = place.grow()
    place.config.ledger_file.write_bytes(before)
    place.config.head_file.unlink()
    assert refused(place, later, tmp_path) == "log-put-back"
    with pytest.raises(Refused, match="log-put-back"):
        compose.verifier(place.config)
    assert all(one.act != "log-resume" for one in place.acts() if isinstance(one, OperatorAct))


def test_i6_another_history_by_the_same_key_is_not_resumed(place: Place, tmp_path: Path) -> None:
    place.grow()
    size = parse_signed_checkpoint(place.grow()).checkpoint.size
    place.config.head_file.unlink()
    assert refused(place, place.note(Checkpoint(place.config.origin, size - 1, b"f" * 32)), tmp_path) == "log-put-back"


def test_a_head_that_is_there_is_not_replaced(place: Place, tmp_path: Path) -> None:
    """Also not one that says more than the ledger has: that is a ledger that was put back."""
    note = place.grow()
    before = place.config.ledger_file.read_bytes()
    place.grow()
    place.config.ledger_file.write_bytes(before)
    head = place.config.head_file.read_bytes()
    assert refused(place, note, tmp_path) == "log-head-there"
    assert place.config.head_file.read_bytes() == head
    for half in (head[:SLOT], bytes(SLOT) + head[SLOT:]):
        place.config.head_file.write_bytes(half)
        assert refused(place, note, tmp_path) == "log-head-there"


def test_what_is_no_checkpoint_of_the_log_is_no_head(place: Place, tmp_path: Path) -> None:
    note = place.grow()
    place.config.head_file.unlink()
    other = sign_note(
        str(parse_signed_checkpoint(note).checkpoint), NoteKey(place.config.origin, PLAIN, signer("x").public), signer("x").sign
    )
    assert refused(place, encode_note(other), tmp_path) == "checkpoint-invalid"
    assert refused(place, b"no checkpoint\n", tmp_path, code=2) == "malformed"
    assert refused(place, note + b"".join(b"\xe2\x80\x94 w%d %s\n" % (at, b"A" * 4000) for at in range(3)), tmp_path, code=2) == "malformed"
    assert not place.config.head_file.exists()


def test_a_verifier_that_serves_is_not_resumed_beside(place: Place) -> None:
    note = place.grow()
    made = compose.verifier(place.config)
    try:
        place.config.head_file.unlink()
        with pytest.raises(Unavailable, match="of one process"):
            compose.resume(place.config, note)
    finally:
        made.close()


def test_a_log_that_was_lost_is_succeeded_by_one_of_another_name_that_says_so(place: Place, tmp_path: Path) -> None:
    note = place.grow()
    lost = place.config.origin
    fresh = Place(tmp_path / "fresh", "log-2")
    path = kept(tmp_path, note)
    assert Place(tmp_path / "same").run("init", "--after", path, code=2)["error"] == "malformed"
    fresh.run("init", "--after", path)
    genesis, said = fresh.acts()[:2]
    assert isinstance(genesis, Genesis)
    assert isinstance(said, OperatorAct)
    assert genesis.origin == fresh.config.origin == lost + "-2"
    assert genesis.log_key != place.key.key
    assert (said.act, said.subject, said.detail) == ("log-succeed", lost, Digest.of(note))
    tables = SqliteTables(connect(fresh.config.ledger_file))
    stored = tables.get(BlobRow, Digest.of(note).value)
    assert stored is not None
    assert stored.data == note
    assert fresh.run("init", "--after", path, code=2)["error"] == "malformed", "a log begins once"
    fresh.grow()


def test_a_log_keeps_its_name(place: Place) -> None:
    """Another `log_name` over a log that is there signs nothing, and serves nothing."""
    with pytest.raises(Refused, match="log-put-back"):
        compose.verifier(Place(place.folder, "log-2").config)
    for name in ("", "log-0", "log-x", "log/2", "log-01", "log-10000"):
        with pytest.raises(FormatError, match="log_name"):
            VerifierConfig(place.folder, "example.org", ISSUER, log_name=name)

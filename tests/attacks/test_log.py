"""A log that is shown altered, cut, forked, rolled back or silent: each is found, and each is its own finding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from auditor.__main__ import main
from tests.signers import new_signer
from tests.world.scene import ENGINE_ID, sign_entry, signer
from tests.world.translog import ISSUER, ORIGIN, STARTED, WorldLog, act, auditors_trust, begun, decisions, put
from writ.formats.decision import Genesis
from writ.formats.tlog.cosignature import cosign
from writ.formats.tlog.note import COSIGNATURE, Note, NoteKey, encode_note
from writ.formats.tlog.tile import WIDTH, encode_bundle
from writ.formats.trust import encode_trust

SIZE = 600
"""Two full bundles and one of 88."""
SECOND = "tile/entries/001"
LAST = "tile/entries/002.p/88"
Codes = set[str]


@pytest.fixture(scope="module")
def entries() -> list[bytes]:
    return decisions(SIZE)


@pytest.fixture
def log(entries: list[bytes]) -> WorldLog:
    return begun(entries)


class Auditor:
    """The command, with what it believes in files; `served` is where the log lies."""

    def __init__(self, place: Path, log: WorldLog, capsys: pytest.CaptureFixture[str]) -> None:
        self._place, self._capsys = place, capsys
        self.trust = place / "trust.cbor"
        self.trust.write_bytes(encode_trust(auditors_trust(log)))
        self.served = log.write(place / "served")

    def run(self, verb: str, *words: str | Path) -> tuple[int, dict[str, object]]:
        """One command: exit status, and what it says."""
        status = main(["log", verb, *map(str, words), "--trust", str(self.trust), "--json"])
        said: dict[str, object] = json.loads(self._capsys.readouterr().out)
        assert (status == 0) == (said["verdict"] == "accepted")
        return status, said

    def codes(self, verb: str, *words: str | Path) -> Codes:
        """The findings by code; exit status 1 is that there are some."""
        status, said = self.run(verb, *words)
        found = findings(said)
        assert status == (1 if found else 0)
        return {code for code, _ in found}


def findings(said: dict[str, object]) -> list[tuple[str, str]]:
    reasons = said["reasons"]
    assert isinstance(reasons, list)
    return [(one["code"], one["claim"]) for one in reasons]


@pytest.fixture
def auditor(tmp_path: Path, log: WorldLog, capsys: pytest.CaptureFixture[str]) -> Auditor:
    return Auditor(tmp_path, log, capsys)


def test_an_honest_log_has_no_finding(auditor: Auditor) -> None:
    status, said = auditor.run("verify", auditor.served, "--silence", "10")

    assert (status, said["reasons"]) == (0, [])


# --- files that are not what was signed ------------------------------------------------------------------------------------


def bundle(log: WorldLog, path: str) -> list[bytes]:
    first = int(path[13:16]) * WIDTH
    return log.entries[first : first + WIDTH]


def altered(log: WorldLog) -> tuple[str, bytes]:
    held = bundle(log, SECOND)
    return SECOND, encode_bundle([*held[:9], held[9][:-1] + b"\0", *held[10:]])


def removed(log: WorldLog) -> tuple[str, bytes]:
    held = bundle(log, SECOND)
    return SECOND, encode_bundle(held[:9] + held[10:])


def removed_and_filled(log: WorldLog) -> tuple[str, bytes]:
    held = bundle(log, SECOND)
    return SECOND, encode_bundle([*held[:9], *held[10:], log.entries[2 * WIDTH]])


def inserted(log: WorldLog) -> tuple[str, bytes]:
    held = bundle(log, SECOND)
    return SECOND, encode_bundle([*held[:9], sign_entry(act(STARTED, "forged")), *held[9:]])


def reordered(log: WorldLog) -> tuple[str, bytes]:
    held = bundle(log, SECOND)
    return SECOND, encode_bundle([*held[:9], held[10], held[9], *held[11:]])


def cut_bundle(log: WorldLog) -> tuple[str, bytes]:
    return LAST, encode_bundle(bundle(log, LAST)[:-3])


def cut_within_an_entry(log: WorldLog) -> tuple[str, bytes]:
    return LAST, encode_bundle(bundle(log, LAST))[:-3]


def cut_tile(log: WorldLog) -> tuple[str, bytes]:
    return "tile/0/002.p/88", log.files()["tile/0/002.p/88"][:-32]


def trailing(log: WorldLog) -> tuple[str, bytes]:
    return LAST, encode_bundle(bundle(log, LAST)) + b"\0"


def trailing_entry(log: WorldLog) -> tuple[str, bytes]:
    return LAST, encode_bundle([*bundle(log, LAST), sign_entry(act(STARTED, "forged"))])


def trailing_in_tile(log: WorldLog) -> tuple[str, bytes]:
    return "tile/0/001", log.files()["tile/0/001"] + bytes(32)


def other_leaf(log: WorldLog) -> tuple[str, bytes]:
    return "tile/0/001", bytes(32) + log.files()["tile/0/001"][32:]


def other_node(log: WorldLog) -> tuple[str, bytes]:
    return "tile/1/000.p/2", log.files()["tile/1/000.p/2"][:32] + bytes(32)


FILES: dict[str, tuple[Callable[[WorldLog], tuple[str, bytes]], str, str]] = {
    "entry altered": (altered, "log-entry-altered", f"entry.{WIDTH + 9}"),
    "entry removed": (removed, "log-entry-removed", f"entry.{WIDTH + 9}"),
    "entry removed, the next one in its place": (removed_and_filled, "log-entry-removed", f"entry.{WIDTH + 9}"),
    "entry inserted": (inserted, "log-entry-inserted", f"entry.{WIDTH + 9}"),
    "entries reordered": (reordered, "log-entry-reordered", f"entry.{WIDTH + 9}"),
    "bundle cut": (cut_bundle, "log-tile-cut", LAST),
    "bundle cut within an entry": (cut_within_an_entry, "log-tile-cut", LAST),
    "tile cut": (cut_tile, "log-tile-cut", "tile/0/002.p/88"),
    "byte behind a bundle": (trailing, "log-trailing-bytes", LAST),
    "entry behind a bundle": (trailing_entry, "log-trailing-bytes", LAST),
    "hash behind a tile": (trailing_in_tile, "log-trailing-bytes", "tile/0/001"),
    "leaf of a tile altered": (other_leaf, "log-tile-mismatch", "tile/0/001"),
    "node of an upper tile altered": (other_node, "log-tile-mismatch", "tile/1/000.p/2, hash 1"),
}


@pytest.mark.parametrize("attack", FILES)
def test_a_file_that_was_changed_is_found(attack: str, log: WorldLog, auditor: Auditor) -> None:
    change, code, claim = FILES[attack]
    path, data = change(log)
    put(auditor.served / path, data)

    _, said = auditor.run("verify", auditor.served)

    assert findings(said) == [(code, claim)]


@pytest.mark.parametrize("attack", FILES)
def test_a_file_that_was_changed_enters_no_mirror(attack: str, log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    change, code, _ = FILES[attack]
    path, data = change(log)
    put(auditor.served / path, data)

    found = auditor.codes("mirror", auditor.served, tmp_path / "mirror")

    assert found == {code} or (code == "log-tile-mismatch" and found == {"log-root-mismatch"}), "a tile at the edge is asked for the root"
    assert not (tmp_path / "mirror" / "checkpoint").exists()
    assert not (tmp_path / "mirror" / "tile").exists()


@pytest.mark.parametrize("path", [SECOND, LAST, "tile/0/001", "tile/1/000.p/2"])
def test_a_file_that_is_gone_is_found(path: str, auditor: Auditor) -> None:
    (auditor.served / path).unlink()

    _, said = auditor.run("verify", auditor.served)

    assert findings(said) == [("log-tile-missing", path)]


def test_an_entry_left_out_of_the_stream_is_one_finding(log: WorldLog, auditor: Auditor) -> None:
    """Everything behind it moves up by one, through all bundles."""
    stream = log.entries[:20] + log.entries[21:]
    for name, first, last in (("000", 0, 256), ("001", 256, 512), ("002.p/88", 512, SIZE)):
        put(auditor.served / f"tile/entries/{name}", encode_bundle(stream[first:last]))

    _, said = auditor.run("verify", auditor.served)

    assert findings(said) == [("log-entry-removed", "entry.20")]


@pytest.mark.parametrize("at", [255, 256, 511])
@pytest.mark.parametrize("what", ["removed", "inserted"])
def test_what_is_moved_over_the_end_of_a_bundle_is_one_finding(what: str, at: int, log: WorldLog, auditor: Auditor) -> None:
    forged = [] if what == "removed" else [sign_entry(act(STARTED, "forged"))]
    stream = log.entries[:at] + forged + log.entries[at + (what == "removed") :]
    for name, first, last in (("000", 0, 256), ("001", 256, 512), ("002.p/88", 512, SIZE)):
        put(auditor.served / f"tile/entries/{name}", encode_bundle(stream[first:last]))

    _, said = auditor.run("verify", auditor.served)

    assert findings(said)[0] == (f"log-entry-{what}", f"entry.{at}")
    assert len(findings(said)) == 1


def test_an_entry_altered_at_the_end_of_a_bundle_and_one_left_out_behind_it_are_two(log: WorldLog, auditor: Auditor) -> None:
    stream = [*log.entries[:255], sign_entry(act(STARTED, "forged")), *log.entries[257:]]
    for name, first, last in (("000", 0, 256), ("001", 256, 512), ("002.p/88", 512, SIZE)):
        put(auditor.served / f"tile/entries/{name}", encode_bundle(stream[first:last]))

    _, said = auditor.run("verify", auditor.served)

    assert findings(said) == [("log-entry-altered", "entry.255"), ("log-entry-removed", "entry.256")]


def test_two_places_of_alteration_are_two_findings(log: WorldLog, auditor: Auditor) -> None:
    for path in (SECOND, "tile/entries/000"):
        held = bundle(log, path)
        put(auditor.served / path, encode_bundle([*held[:9], held[9][:-1] + b"\0", *held[10:]]))

    _, said = auditor.run("verify", auditor.served)

    assert set(findings(said)) == {("log-entry-altered", "entry.9"), ("log-entry-altered", f"entry.{WIDTH + 9}")}


def test_entries_and_tiles_of_another_log_do_not_lead_to_the_root(log: WorldLog, auditor: Auditor) -> None:
    forged = log.with_entry(300, sign_entry(act(STARTED + 3000, "forged"))).files()
    for path, data in forged.items():
        if path != "checkpoint":
            put(auditor.served / path, data)

    assert auditor.codes("verify", auditor.served) == {"log-root-mismatch"}


# --- checkpoints -------------------------------------------------------------------------------------------------------------


def serve(auditor: Auditor, note: Note) -> None:
    put(auditor.served / "checkpoint", encode_note(note))


def test_another_size_under_the_signature_is_found(log: WorldLog, auditor: Auditor) -> None:
    note = log.note()
    serve(auditor, Note(note.text.replace(f"\n{SIZE}\n", f"\n{SIZE - 1}\n"), note.signatures))

    assert auditor.codes("verify", auditor.served) == {"checkpoint-invalid"}


def test_another_size_that_the_log_itself_signed_is_found(log: WorldLog, auditor: Auditor) -> None:
    serve(auditor, log.note(replace(log.checkpoint(), root=log.at(SIZE - 1).root())))

    assert auditor.codes("verify", auditor.served) == {"log-size-mismatch"}


def test_a_checkpoint_by_another_key_is_found(log: WorldLog, auditor: Auditor) -> None:
    serve(auditor, WorldLog(log.entries).note())

    assert auditor.codes("verify", auditor.served) == {"checkpoint-invalid"}


def test_a_checkpoint_of_another_log_is_found(log: WorldLog, auditor: Auditor) -> None:
    serve(auditor, WorldLog(log.entries, log.key, "other.example.org/log").note())

    assert auditor.codes("verify", auditor.served) == {"checkpoint-invalid"}


@pytest.mark.parametrize(
    "spoil", [lambda data: data + b"x\n", lambda data: data[:-1], lambda _: b"", lambda data: data.replace(b"600", b"0600")]
)
def test_a_checkpoint_with_bytes_behind_it_or_cut_is_found(spoil: Callable[[bytes], bytes], log: WorldLog, auditor: Auditor) -> None:
    put(auditor.served / "checkpoint", spoil(encode_note(log.note())))

    assert auditor.codes("verify", auditor.served) == {"checkpoint-invalid"}


def test_too_few_witnesses_are_found(log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    witness = new_signer()
    key = NoteKey("witness.example.net", COSIGNATURE, witness.public)
    policy = tmp_path / "policy"
    policy.write_text(f"log {log.note_key}\nwitness w {key}\nquorum w\n")

    assert auditor.codes("verify", auditor.served, "--policy", policy) == {"quorum-missing"}

    note = log.note()
    serve(auditor, Note(note.text, (*note.signatures, cosign(note.text, key, STARTED, witness.sign))))

    assert auditor.codes("verify", auditor.served, "--policy", policy) == set()


# --- history -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 255, 256, 300, 512, 599, 600])
def test_a_log_that_extends_what_was_kept_has_no_finding(size: int, log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    put(tmp_path / "kept", encode_note(log.at(size).note()))

    assert auditor.codes("verify", auditor.served, "--since", tmp_path / "kept") == set()


@pytest.mark.parametrize("size", [1, 255, 256, 300, 512, 599, 600])
def test_a_log_that_rewrote_what_was_kept_is_found(size: int, log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    put(tmp_path / "kept", encode_note(log.with_entry(0, sign_entry(act(STARTED, "forged"))).at(size).note()))

    _, said = auditor.run("verify", auditor.served, "--since", tmp_path / "kept")

    assert findings(said) == [("log-fork", f"checkpoint.{size}")]


def test_a_log_that_is_shorter_than_what_was_kept_is_found(log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    put(tmp_path / "kept", encode_note(log.note()))
    log.at(300).write(auditor.served)

    assert auditor.codes("verify", auditor.served, "--since", tmp_path / "kept") == {"log-rollback"}


def test_a_kept_checkpoint_that_the_log_did_not_sign_is_none(log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    put(tmp_path / "kept", encode_note(WorldLog(log.entries).note()))

    assert auditor.codes("verify", auditor.served, "--since", tmp_path / "kept") == {"checkpoint-invalid"}


def forked(log: WorldLog, at: int, size: int) -> WorldLog:
    return log.with_entry(at, sign_entry(act(STARTED, "forged"))).at(size)


def test_rollback_is_refused_by_a_mirror_and_kept(log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    assert auditor.codes("mirror", auditor.served, mirror) == set()
    old = log.at(300)
    old.write(auditor.served)

    assert auditor.codes("mirror", auditor.served, mirror) == {"log-rollback"}

    assert [path.read_bytes() for path in (mirror / "evidence").iterdir()] == [encode_note(old.note())]
    assert (mirror / "checkpoint").read_bytes() == encode_note(log.note())
    assert auditor.codes("verify", mirror) == set(), "an old checkpoint is no proof of a fork"


@pytest.mark.parametrize("size", [400, 500, 550])
def test_a_fork_is_refused_by_a_mirror_and_stays_found(size: int, log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    """Shown a longer, an equal and a shorter log than the mirror has, that differ in entry 77."""
    mirror = tmp_path / "mirror"
    log.at(500).write(auditor.served)
    assert auditor.codes("mirror", auditor.served, mirror) == set()
    before = sorted(path.relative_to(mirror) for path in mirror.rglob("*"))
    other = forked(log, 77, size)
    other.write(auditor.served)

    _, said = auditor.run("mirror", auditor.served, mirror)

    assert findings(said) == [("log-fork", "entry.77")]
    assert [path.read_bytes() for path in (mirror / "evidence").iterdir()] == [encode_note(other.note())]
    assert sorted(path.relative_to(mirror) for path in mirror.rglob("*") if "evidence/" not in str(path)) == before
    if size <= 500:
        assert auditor.codes("verify", mirror) == {"log-fork"}, "the evidence is held against the mirror"


def test_checkpoints_of_a_mirror_that_contradict_it_are_found(log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    auditor.run("mirror", auditor.served, mirror)
    put(mirror / "checkpoints" / "400", encode_note(forked(log, 3, 400).note()))

    _, said = auditor.run("verify", mirror)

    assert findings(said) == [("log-fork", "checkpoint.400")]


def test_a_checkpoint_in_a_mirror_that_the_log_did_not_sign_is_found(log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    auditor.run("mirror", auditor.served, mirror)
    put(mirror / "checkpoints" / "400", encode_note(WorldLog(log.entries[:400]).note()))

    assert auditor.codes("verify", mirror) == {"checkpoint-invalid"}
    assert auditor.codes("mirror", auditor.served, mirror) == {"checkpoint-invalid"}


def test_a_kept_checkpoint_under_another_name_is_found(log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    auditor.run("mirror", auditor.served, mirror)
    put(mirror / "checkpoints" / "400", encode_note(log.at(399).note()))

    assert auditor.codes("verify", mirror) == {"checkpoint-invalid"}


@pytest.mark.parametrize("at", [0, 77, 255, 256, 299, 511, 512, 540])
@pytest.mark.parametrize("one, other", [(550, 550), (600, 541), (541, 600)])
def test_a_fork_shown_to_two_auditors_is_found_where_they_part(
    at: int, one: int, other: int, log: WorldLog, auditor: Auditor, tmp_path: Path
) -> None:
    a, b = log.at(one), forked(log, at, other)
    status, said = auditor.run("diff", a.write(tmp_path / "a"), b.write(tmp_path / "b"))

    assert (status, said["relation"], findings(said)) == (1, "fork", [("log-fork", f"entry.{at}")])
    assert said["checkpoints"] == {"a": encode_note(a.note()).decode(), "b": encode_note(b.note()).decode()}


@pytest.mark.parametrize("one, other, relation", [(600, 600, "same"), (600, 300, "a extends b"), (255, 256, "b extends a")])
def test_two_that_agree_are_the_same_or_one_extends_the_other(
    one: int, other: int, relation: str, log: WorldLog, auditor: Auditor, tmp_path: Path
) -> None:
    status, said = auditor.run("diff", log.at(one).write(tmp_path / "a"), log.at(other).write(tmp_path / "b"))

    assert (status, said["relation"]) == (0, relation)


def test_a_difference_is_taken_from_no_tile_that_does_not_lead_to_the_root(log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    """Else whoever serves the tiles could make two honest logs look forked, or hide where they part."""
    other = forked(log, 77, SIZE).write(tmp_path / "b")
    put(other / "tile/0/000", log.files()["tile/0/000"])

    assert auditor.codes("diff", auditor.served, other) == {"log-tile-mismatch"}

    put(other / "tile/1/000.p/2", log.files()["tile/1/000.p/2"])

    assert auditor.codes("diff", auditor.served, other) == {"log-root-mismatch"}


def test_two_logs_are_not_compared(log: WorldLog, auditor: Auditor, tmp_path: Path) -> None:
    other = WorldLog(log.entries, origin="other.example.org/log")

    status, said = auditor.run("diff", auditor.served, other.write(tmp_path / "b"), "--log-key", str(other.note_key))

    assert (status, findings(said)) == (1, [("checkpoint-invalid", "checkpoint.origin")])


# --- what the log itself signed, and should not have ---------------------------------------------------------------------------


def serving(auditor: Auditor, log: WorldLog, entries: list[bytes]) -> None:
    WorldLog(entries, log.key).write(auditor.served)


def test_an_entry_that_is_no_decision_is_found(log: WorldLog, auditor: Auditor) -> None:
    serving(auditor, log, [*log.entries[:5], b"hello", *log.entries[6:]])

    assert auditor.codes("verify", auditor.served) == {"log-entry-malformed"}


def test_a_decision_by_another_key_is_found(log: WorldLog, auditor: Auditor) -> None:
    serving(auditor, log, [*log.entries[:5], sign_entry(act(STARTED + 50), new_signer()), *log.entries[6:]])

    assert auditor.codes("verify", auditor.served) == {"trust-root-unknown"}


def test_a_decision_whose_signature_does_not_hold_is_found(log: WorldLog, auditor: Auditor) -> None:
    serving(auditor, log, [*log.entries[:5], log.entries[5][:-64] + bytes(64), *log.entries[6:]])

    assert auditor.codes("verify", auditor.served) == {"signature-invalid"}


GENESIS = Genesis(ENGINE_ID, STARTED, ISSUER, "example.org", ORIGIN, signer("nobody").public)
BEGINNINGS = {
    "of another key": GENESIS,
    "of another log": replace(GENESIS, origin="other.example.org/log"),
    "of another verifier": replace(GENESIS, issuer="https://other.example.org"),
    "of another domain": replace(GENESIS, domain="example.net"),
}


@pytest.mark.parametrize("which", BEGINNINGS)
def test_a_genesis_of_something_else_is_found(which: str, log: WorldLog, auditor: Auditor) -> None:
    genesis = BEGINNINGS[which] if which == "of another key" else replace(BEGINNINGS[which], log_key=log.key.public)
    serving(auditor, log, [sign_entry(genesis), *log.entries[1:]])

    _, said = auditor.run("verify", auditor.served)

    assert findings(said) == [("log-genesis", "entry.0")]


def test_a_log_that_does_not_begin_is_found(log: WorldLog, auditor: Auditor) -> None:
    serving(auditor, log, log.entries[1:])

    _, said = auditor.run("verify", auditor.served)

    assert findings(said) == [("log-genesis", "entry.0")]


def test_a_log_that_begins_again_is_found(log: WorldLog, auditor: Auditor) -> None:
    serving(auditor, log, [*log.entries[:1], *log.entries])

    _, said = auditor.run("verify", auditor.served)

    assert findings(said) == [("log-genesis", "entry.1")]


@pytest.mark.parametrize("back, found", [(5, set()), (6, {"log-time-backwards"})])
def test_time_that_goes_back_beyond_the_skew_is_found(back: int, found: Codes, log: WorldLog, auditor: Auditor) -> None:
    moved = sign_entry(act(STARTED + 10 * 299 - back, "moved"))
    serving(auditor, log, [*log.entries[:300], moved, *log.entries[300:]])

    assert auditor.codes("verify", auditor.served) == found


@pytest.mark.parametrize("silence, found", [(70, set()), (69, {"log-silent"})])
def test_silence_is_a_finding(silence: int, found: Codes, log: WorldLog, auditor: Auditor) -> None:
    serving(auditor, log, log.entries[:250] + log.entries[256:])

    assert auditor.codes("verify", auditor.served, "--silence", str(silence)) == found


def test_silence_since_the_last_entry_is_a_finding(auditor: Auditor) -> None:
    silent = ("verify", auditor.served, "--silence", "60", "--until")

    assert auditor.codes(*silent, "2027-01-15T09:40:50Z") == set()
    assert auditor.codes(*silent, "2027-01-15T09:40:51Z") == {"log-silent"}


@pytest.mark.parametrize("ahead, found", [(5, set()), (6, {"log-time-ahead"})])
def test_entries_of_a_time_to_come_are_found_as_they_would_hide_silence(ahead: int, found: Codes, log: WorldLog, auditor: Auditor) -> None:
    until = datetime.fromtimestamp(STARTED + 10 * 299, UTC).isoformat()
    later = sign_entry(act(STARTED + 10 * 299 + ahead, "dated ahead"))
    serving(auditor, log, [*log.entries[:300], later])

    assert auditor.codes("verify", auditor.served, "--silence", "60", "--until", until) == found

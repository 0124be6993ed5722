"""The transparency log of a ledger: every commit is in it, what is signed goes on from what was, and what was put back signs nothing."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verifier.ledger_suite import NOW, Desk, admission, entry, nonce
from tests.verifier.test_access import call
from tests.world.ledger import MemoryTables
from tests.world.scene import signer
from tests.world.verifier import RunningVerifier
from verifier.ledger import Admitted, Began, NonceIssued
from verifier.ledger.schema import CheckpointRow, EntryRow, TileRow
from verifier.ledger.sequencer import SqliteLedger
from verifier.ledger.sqlite import SqliteTables, connect
from verifier.ledger.translog import GENESIS, SLOT, HeadFile, TransparencyLog, look, tile_of
from writ.formats.errors import Misuse, Refused, Unavailable
from writ.formats.exchange import EXCHANGE, AttestAnswer
from writ.formats.strict import parse_b64url
from writ.formats.tlog import merkle
from writ.formats.tlog.checkpoint import Checkpoint, parse_signed_checkpoint
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.tlog.note import PLAIN, NoteKey, encode_note, sign_note
from writ.formats.tlog.proof import parse_tlog_proof
from writ.formats.tlog.receipt import parse_receipt
from writ.formats.tlog.tile import bundles_of, parse_bundle, parse_path, tiles_of
from writ.verdict.transparency import verify_checkpoint, verify_included, verify_receipt

ORIGIN = "verifier.example.org/log"


def row(sequence: int) -> EntryRow:
    body = b"entry %d" % sequence
    kind = "operator" if sequence else GENESIS
    return EntryRow(sequence, kind, "default", "", NOW, leaf_hash(body), body)


def extended(log: TransparencyLog, tables: MemoryTables, upto: int) -> None:
    """As a commit does: entries, tiles, checkpoint; then the head."""
    last = tables.last(EntryRow)
    rows = [row(at) for at in range(0 if last is None else last.sequence + 1, upto)]
    for one in rows:
        tables.put(one)
    log.keep(log.extend(tables, rows))
    log.publish()


def opened(folder: Path, tables: MemoryTables | SqliteTables, name: str = "head") -> TransparencyLog:
    log = TransparencyLog(ORIGIN, signer("log"), folder / name)
    try:
        log.open(tables)
    except BaseException:
        log.close()
        raise
    return log


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 7, 254, 255, 256, 257, 600]), min_size=1, max_size=6))
def test_tiles_and_checkpoints_are_those_of_the_entries_however_they_came(
    tmp_path_factory: pytest.TempPathFactory, groups: list[int]
) -> None:
    folder, tables = tmp_path_factory.mktemp("log"), MemoryTables({})
    log, size = opened(folder, tables), 0
    roots: list[tuple[int, bytes]] = []
    leaves: list[bytes] = []
    for count in groups:
        size += count
        extended(log, tables, size)
        leaves = [leaf_hash(b"entry %d" % at) for at in range(size)]
        signed = parse_signed_checkpoint(log.checkpoint)
        assert verify_checkpoint(signed, log.key) == Checkpoint(ORIGIN, size, merkle.root(leaves))
        roots.append((size, signed.checkpoint.root))
    for tile in tiles_of(size):
        data = tile_of(tables, tile)
        assert data is not None
        span = 256**tile.level
        first = tile.index * 256
        assert data == b"".join(merkle.root(leaves[at * span : (at + 1) * span]) for at in range(first, first + tile.width))
    for bundle in bundles_of(size):
        data = tile_of(tables, bundle)
        assert data is not None
        assert parse_bundle(data, bundle.width) == tuple(
            b"entry %d" % at for at in range(bundle.index * 256, bundle.index * 256 + bundle.width)
        )
    for old, root in roots:
        assert merkle.verify_consistency(old, root, size, roots[-1][1], log.consistency(tables, old, size))
    proof = log.inclusion(tables, size // 2, size)
    assert merkle.verify_inclusion(leaves[size // 2], size // 2, size, proof, roots[-1][1])
    log.close()
    again = opened(folder, tables)
    extended(again, tables, size + 3)
    assert parse_signed_checkpoint(again.checkpoint).checkpoint.root == merkle.root(
        [*leaves, *(leaf_hash(b"entry %d" % at) for at in range(size, size + 3))]
    )
    assert len(tables.select(CheckpointRow)) <= (size + 3) // 256 + 1, "the last one within each 256 entries stays"
    again.close()


def test_a_tile_that_is_not_there_is_none(tmp_path: Path) -> None:
    tables = MemoryTables({})
    log = opened(tmp_path, tables)
    extended(log, tables, 300)
    for path in (
        "tile/0/001",
        "tile/0/001.p/45",
        "tile/0/002.p/1",
        "tile/1/000.p/2",
        "tile/2/000.p/1",
        "tile/entries/001",
        "tile/entries/001.p/45",
    ):
        assert tile_of(tables, parse_path(path)) is None, path
    for path in ("tile/0/000", "tile/0/000.p/7", "tile/0/001.p/44", "tile/0/001.p/1", "tile/entries/001.p/44", "tile/entries/000.p/9"):
        assert tile_of(tables, parse_path(path)) is not None, path
    log.close()


# --- what was put back ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stood(tmp_path: Path) -> tuple[Path, MemoryTables]:
    """A log of 300 entries."""
    tables = MemoryTables({})
    log = opened(tmp_path, tables)
    extended(log, tables, 200)
    extended(log, tables, 300)
    log.close()
    return tmp_path, tables


def copied(tables: MemoryTables) -> MemoryTables:
    return MemoryTables({kind: dict(rows) for kind, rows in tables.rows.items()})


def rolled_back(folder: Path, tables: MemoryTables) -> str:
    with pytest.raises(Refused) as refused:
        opened(folder, tables)
    (reason,) = refused.value.reasons
    assert reason.code in {"log-put-back", "checkpoint-invalid"}
    return reason.claim


def test_i6_a_database_that_is_older_than_its_head_signs_nothing(stood: tuple[Path, MemoryTables]) -> None:
    folder, tables = stood
    backup = copied(tables)
    log = opened(folder, tables)
    extended(log, tables, 301)
    log.close()
    assert rolled_back(folder, backup) == "entries"


def test_i6_a_database_that_went_another_way_than_its_head_signs_nothing(stood: tuple[Path, MemoryTables]) -> None:
    """As long, and longer, than what was signed."""
    folder, _ = stood
    for extra in (0, 50):
        other = MemoryTables({})
        log = opened(folder, other, f"elsewhere-{extra}")
        rows = [row(0), *(replace(row(at), leaf=sha256(b"%d" % at).digest()) for at in range(1, 300 + extra))]
        for one in rows:
            other.put(one)
        log.keep(log.extend(other, rows))
        log.close()
        assert rolled_back(folder, other) == "root"


def test_a_head_of_nothing_beside_a_log_is_a_head_that_was_taken_away(stood: tuple[Path, MemoryTables]) -> None:
    folder, tables = stood
    (folder / "head").unlink()
    assert rolled_back(folder, tables) == "head"
    (folder / "head").write_bytes(b"something else")
    assert rolled_back(folder, tables) == "head"
    (folder / "head").write_bytes(
        encode_note(
            sign_note(
                f"{ORIGIN}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
                NoteKey(ORIGIN, 1, signer("other").public),
                signer("other").sign,
            )
        )
    )
    assert rolled_back(folder, tables) == "head"


def test_a_database_that_is_ahead_of_its_head_goes_on_and_its_head_follows(stood: tuple[Path, MemoryTables]) -> None:
    """The process ended after the commit and before the head: nobody was answered."""
    folder, tables = stood
    log = opened(folder, tables)
    rows = [row(at) for at in range(300, 310)]
    for one in rows:
        tables.put(one)
    log.keep(log.extend(tables, rows))
    log.close()
    again = opened(folder, tables)
    assert again.current() == parse_signed_checkpoint(again.checkpoint).checkpoint
    assert parse_signed_checkpoint(again.checkpoint).checkpoint.size == 310
    again.close()
    head = HeadFile(folder / "head")
    assert head.read(again.key) == again.current()
    head.close()


@pytest.mark.parametrize("what", ["entry", "tile", "wider tile", "checkpoint", "another key's checkpoint"])
def test_a_database_that_was_altered_signs_nothing(stood: tuple[Path, MemoryTables], what: str) -> None:
    folder, tables = stood
    if what == "entry":
        del tables.rows[EntryRow][299]
    elif what == "tile":
        tables.put(TileRow(1, bytes(44 * 32)))
    elif what == "wider tile":
        tables.put(TileRow(1, bytes(45 * 32)))
    elif what == "checkpoint":
        del tables.rows[CheckpointRow][300]
    else:
        other = signer("other")
        note = sign_note(
            parse_signed_checkpoint(tables.rows[CheckpointRow][300].note).note.text, NoteKey(ORIGIN, 1, other.public), other.sign
        )
        tables.put(CheckpointRow(300, encode_note(note)))
    rolled_back(folder, tables)


def test_the_older_slot_is_written_over_and_one_is_always_whole(tmp_path: Path) -> None:
    key = signer("log")
    note_key = NoteKey(ORIGIN, 1, key.public)
    head = HeadFile(tmp_path / "head")
    assert head.read(note_key) is None
    for size in range(1, 6):
        root = sha256(b"%d" % size).digest()
        head.write(encode_note(sign_note(str(Checkpoint(ORIGIN, size, root)), note_key, key.sign)))
        data = bytearray((tmp_path / "head").read_bytes())
        torn = data.copy()
        torn[(size + 1) % 2 * SLOT : (size + 1) % 2 * SLOT + SLOT] = bytes(SLOT)
        (tmp_path / "torn").write_bytes(torn)
        for name, expected in (("head", size), ("torn", size - 1)):
            read = look(tmp_path / name, note_key)
            assert (None if read is None else read.size) == (expected or None)
    head.close()


def test_a_new_log_has_a_head_of_no_entries_so_that_one_that_is_gone_is_never_trusted(tmp_path: Path) -> None:
    """Killed after its first commit and before the head of it, it goes on; without its head it does not."""
    tables = MemoryTables({})
    log = opened(tmp_path, tables)
    tables.put(row(0))
    log.keep(log.extend(tables, [row(0)]))
    log.close()
    again = opened(tmp_path, tables)
    extended(again, tables, 2)
    again.close()
    (tmp_path / "head").unlink()
    assert rolled_back(tmp_path, tables) == "head"


def test_the_head_is_written_at_each_start(stood: tuple[Path, MemoryTables], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says may be in memory only: of a process that was killed before its write was synced."""
    folder, tables = stood
    written: list[bytes] = []
    monkeypatch.setattr(HeadFile, "write", lambda _, note: written.append(note))
    log = opened(folder, tables)
    assert written == [log.checkpoint]
    log.close()


def test_a_size_alone_does_not_say_that_a_log_is_the_same(stood: tuple[Path, MemoryTables]) -> None:
    """A backup of between a commit and its head has the right size, and another root."""
    folder, tables = stood
    log = opened(folder, tables)
    tables.rows[CheckpointRow][300] = replace(tables.rows[CheckpointRow][300], note=b"another of that size")
    tables.put(row(300))
    with pytest.raises(Unavailable, match="another process"):
        log.extend(tables, [row(300)])
    log.close()


def moved_on(folder: Path, size: int) -> None:
    """The head as one wrote it who did not ask for its lock."""
    key = NoteKey(ORIGIN, PLAIN, signer("log").public)
    note = encode_note(sign_note(str(Checkpoint(ORIGIN, size, sha256(b"%d" % size).digest())), key, signer("log").sign))
    with (folder / "head").open("r+b") as file:
        file.write(note.ljust(SLOT, b"\0"))


def test_a_head_that_somebody_else_moved_ends_the_writer(stood: tuple[Path, MemoryTables]) -> None:
    """Before its transaction, and between that and the head."""
    folder, tables = stood
    log = opened(folder, tables)
    tables.put(row(300))
    moved_on(folder, 305)
    with pytest.raises(Unavailable, match="another process"):
        log.extend(tables, [row(300)])
    log.close()


def test_a_head_that_somebody_else_moved_meanwhile_answers_nobody(stood: tuple[Path, MemoryTables]) -> None:
    folder, tables = stood
    log = opened(folder, tables)
    tables.put(row(300))
    made = log.extend(tables, [row(300)])
    moved_on(folder, 301)
    log.keep(made)
    with pytest.raises(Unavailable, match="somebody else wrote"):
        log.publish()
    log.close()


def test_two_checkpoints_of_one_size_in_a_head_are_a_fork(stood: tuple[Path, MemoryTables]) -> None:
    folder, tables = stood
    data = (folder / "head").read_bytes()
    moved_on(folder, 300)
    (folder / "head").write_bytes((folder / "head").read_bytes()[:SLOT] + max(data[:SLOT], data[SLOT:], key=lambda one: b"\n300\n" in one))
    assert rolled_back(folder, tables) == "head"


def test_entry_0_is_the_genesis_and_no_other_is(tmp_path: Path) -> None:
    tables = MemoryTables({})
    log = opened(tmp_path, tables)
    with pytest.raises(Misuse):
        log.extend(tables, [replace(row(0), kind="operator")])
    with pytest.raises(Misuse):
        log.extend(tables, [row(0), replace(row(1), kind=GENESIS)])
    log.close()


def test_a_second_writer_can_only_fail(stood: tuple[Path, MemoryTables]) -> None:
    """Over the head it is refused, whatever its database is a copy of; and one that wrote past the lock is found by the tables."""
    folder, tables = stood
    first = opened(folder, tables)
    with pytest.raises(Unavailable, match="a verifier that holds it"):
        opened(folder, copied(tables))
    second = opened_elsewhere(folder, tables)
    extended(first, tables, 305)
    for at in (305, 300):
        with pytest.raises(Unavailable, match="another process"):
            second.extend(tables, [row(at)])
    for one in (first, second):
        one.close()


def opened_elsewhere(folder: Path, tables: MemoryTables) -> TransparencyLog:
    """A writer that another head, of the same checkpoint, let in."""
    shutil.copy(folder / "head", folder / "copied-head")
    return opened(folder, tables, "copied-head")


# --- in the ledger ----------------------------------------------------------------------------------------------------------


def ledger_at(folder: Path, head: str = "head") -> SqliteLedger:
    log = TransparencyLog(ORIGIN, signer("log"), folder / head)
    try:
        return SqliteLedger(folder / "ledger", log=log)
    except BaseException:
        log.close()
        raise


def test_every_commit_is_in_the_log_and_a_nonce_is_none(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    log = ledger.log
    assert log is not None
    ledger.commit(Began(entry(GENESIS)))
    with pytest.raises(Misuse):
        ledger.commit(Began(entry(GENESIS)))
    desk = Desk(ledger).ready()
    before = log.checkpoint
    ledger.commit(NonceIssued(nonce(2)))
    assert log.checkpoint == before
    ledger.commit(desk.attested(2, 3))
    again = ledger.commit(desk.attested(2, 3))
    assert again.repeated
    current = log.current()
    assert current is not None
    assert (current.size, current.root) == (5, merkle.root([leaf_hash(b"signed")] * 5))
    ledger.close()

    shutil.copy(tmp_path / "ledger", tmp_path / "backup")
    later = ledger_at(tmp_path)
    later.commit(Admitted(entry("operator", body=b"two"), admission(2, "host-2")))
    later.close()
    for name in ("ledger-wal", "ledger-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup", tmp_path / "ledger")
    with pytest.raises(Refused, match="log-put-back"):
        ledger_at(tmp_path)


def test_where_the_head_cannot_be_written_nobody_is_answered_until_a_start_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledger_at(tmp_path)
    ledger.commit(Began(entry(GENESIS)))
    Desk(ledger).ready()
    log = ledger.log
    assert log is not None
    published, tile = log.checkpoint, parse_path("tile/0/000.p/5")
    with monkeypatch.context() as patch:
        patch.setattr("verifier.ledger.translog.os.pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(Unavailable, match="not known"):
            ledger.commit(Admitted(entry("operator", body=b"one"), admission(2, "host-2")))
    with pytest.raises(Unavailable, match="No space left"):
        ledger.commit(NonceIssued(nonce(2)))
    assert log.checkpoint == published
    tables = ledger.read()
    last = tables.last(CheckpointRow)
    assert last is not None
    assert last.size == 5, "the entry was committed"
    assert tile_of(tables, tile) is not None
    assert log.tile(tables, tile) is None, "what is committed is not published"
    assert log.tile(tables, parse_path("tile/entries/000.p/5")) is None
    assert log.tile(tables, parse_path("tile/0/000.p/4")) is not None
    with pytest.raises(Unavailable, match="no checkpoint yet"):
        log.receipt(tables, 4)
    ledger.close()
    again = ledger_at(tmp_path)
    assert again.log is not None
    current = again.log.current()
    assert current is not None
    assert current.size == 5
    again.close()


def test_a_commit_that_fails_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    ledger.commit(Began(entry(GENESIS)))
    desk = Desk(ledger).ready()
    with pytest.raises(Refused, match="nonce-unknown"):
        ledger.commit(desk.attested(7, 8))
    ledger.commit(Admitted(entry("operator", body=b"two"), admission(2, "host-2")))
    log = ledger.log
    assert log is not None
    current = log.current()
    assert current is not None
    assert current.root == merkle.root([leaf_hash(body) for body in (*[b"signed"] * 4, b"two")])
    ledger.close()


def test_the_database_itself_refuses_another_checkpoint_of_a_size(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    ledger.commit(Began(entry(GENESIS)))
    ledger.close()
    tables = SqliteTables(connect(tmp_path / "ledger"))
    with pytest.raises(sqlite3.IntegrityError, match="one checkpoint of a size"):
        tables.put(CheckpointRow(1, b"another"))


# --- served -------------------------------------------------------------------------------------------------------------------


def test_the_log_is_served_as_tiles(verifier: RunningVerifier) -> None:
    status, body, kind = call(verifier, "GET", "/log/checkpoint")
    assert (status, kind) == (200, "text/plain; charset=utf-8")
    log = verifier.made.parts.translog
    assert log is not None
    checkpoint = verify_checkpoint(parse_signed_checkpoint(body), log.key)
    hashes: list[bytes] = []
    for bundle in bundles_of(checkpoint.size):
        status, body, kind = call(verifier, "GET", f"/log/{bundle}")
        assert (status, kind) == (200, "application/octet-stream")
        hashes += [leaf_hash(one) for one in parse_bundle(body, bundle.width)]
    assert merkle.root(hashes) == checkpoint.root
    for tile in tiles_of(checkpoint.size):
        assert call(verifier, "GET", f"/log/{tile}")[0] == 200
    for path in ("tile/0/999", "tile/0/0", "tile/entries/000.p/256", "tile/x/000", "tile/0/x000/000", "tile/0/%2e%2e/000"):
        assert call(verifier, "GET", f"/log/{path}")[0] == 404, path


def test_any_entry_has_its_receipt_and_its_proof(verifier: RunningVerifier) -> None:
    verifier.host("h1")
    log = verifier.made.parts.translog
    assert log is not None
    entries = verifier.made.parts.ledger.read().select(EntryRow)
    checkpoint = log.current()
    assert checkpoint is not None
    for row in entries:
        status, body, kind = call(verifier, "GET", f"/log/receipt/{row.reference}")
        assert (status, kind) == (200, 'application/cose; cose-type="cose-sign1"')
        assert verify_receipt(parse_receipt(body), row.leaf, log.key.key, issuer=log.key.name) == row.sequence
        status, body, _ = call(verifier, "GET", f"/log/proof/{row.reference}")
        proof = parse_tlog_proof(body)
        assert verify_checkpoint(proof.checkpoint, log.key) == checkpoint
        assert verify_included(row.leaf, proof, checkpoint) == row.sequence
        assert call(verifier, "GET", f"/log/receipt/{row.reference[:-1]}")[0] == 422
    other = parse_receipt(call(verifier, "GET", f"/log/receipt/{entries[0].reference}")[1])
    with pytest.raises(Refused, match="receipt-invalid"):
        verify_receipt(other, entries[1].leaf, log.key.key, issuer=log.key.name)


def test_a_decision_is_answered_with_its_receipt_beside_it(verifier: RunningVerifier) -> None:
    host = verifier.host("h1")
    host.fetch_nonce()
    evidence = host.evidence()
    receipts = []
    for _ in range(2):
        answer = host.say("/v1/hosts/h1/attest", evidence)
        message = EXCHANGE.parse(answer.body)
        assert isinstance(message, AttestAnswer)
        receipt = parse_receipt(parse_b64url(answer.receipt, "receipt"))
        log = verifier.made.parts.translog
        assert log is not None
        verify_receipt(receipt, leaf_hash(message.decision), log.key.key, issuer=log.key.name)
        receipts.append(receipt)
        verifier.admit("another")
    assert receipts[0].size < receipts[1].size, "the answer again is the same, its receipt of the log as it is"

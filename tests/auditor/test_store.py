"""A record store: what it cosigned it has whole, nothing of it changes, and a log has one history."""

from __future__ import annotations

import hashlib
import json
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from auditor.__main__ import main
from auditor.log.source import Address
from auditor.serving import folder as own
from auditor.serving.http import NOTHING, Answer
from auditor.store import records, serve
from auditor.store.export import export
from auditor.store.keeper import Keeper
from tests.auditor.served import ServedStore
from tests.independent import tlog_checker
from tests.parsers import assert_parser_is_total
from tests.signers import new_signer
from tests.world.clock import HandClock
from tests.world.scene import Scene, permitted, sign_entry, sign_token
from tests.world.store import HostLog, keeper, proof, sent
from tests.world.tlog import MemoryLog
from writ.formats.archive import InstanceLog, Placed, encode_archive, parse_archive
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.jose import DPOP_TYP, parse_jws, sign_dpop
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.cosignature import cosigned_at
from writ.formats.tlog.merkle import leaf_hash, root
from writ.formats.tlog.note import Note, is_signed
from writ.formats.tlog.storing import (
    INFO_TYPE,
    MAX_REQUEST,
    MOST_RECORDS,
    AddRecords,
    encode_add_records,
    encode_info,
    encode_sealed,
    instance_of,
    log_key,
    parse_add_records,
    parse_info,
    parse_sealed,
)
from writ.formats.tlog.tile import bundles_of, path_of, root_of, tiles_of
from writ.formats.tlog.witnessing import parse_cosignatures
from writ.service.clock import SystemClock


def place(log: HostLog) -> str:
    return hashlib.sha256(log.key.name.encode()).hexdigest()


def receipt(store: Keeper, log: HostLog, size: int, answer: Answer) -> int | None:
    """When the store cosigned the checkpoint of `size`, as its answer says; None where it did not."""
    return cosigned_at(Note(log.signed(size).note.text, parse_cosignatures(answer.body)), store.key)


def get(store: Keeper, log: HostLog, path: str) -> Answer:
    return store.get(place(log), path)


# --- what is stored -----------------------------------------------------------------------------------------------------


def test_the_receipt_is_the_cosignature_of_all_that_is_stored() -> None:
    log = HostLog(8)
    store = keeper(log.host)
    first = log.send(store, 0, 5)
    second = log.send(store, 5, 8)
    assert (first.status, second.status) == (200, 200)
    assert receipt(store, log, 5, first) is not None
    assert receipt(store, log, 8, second) is not None
    assert receipt(store, log, 8, first) is None
    shown = parse_signed_checkpoint(get(store, log, "checkpoint").body)
    assert shown.checkpoint == log.signed(8).checkpoint
    assert is_signed(shown.note, log.key)
    assert cosigned_at(shown.note, store.key) is not None


def test_what_was_stored_is_read_as_tiles() -> None:
    """Also after the edge was forgotten: 70,000 records, so that a tile of level 1 is full and there is one of level 2."""
    log = HostLog(70_000)
    kept = records.in_memory()
    store = keeper(log.host, kept=kept)
    for start in range(0, 70_000, MOST_RECORDS):
        assert log.send(store, start, min(start + MOST_RECORDS, 70_000)).status == 200
    for reader in (store, keeper(log.host, kept=records.Records(kept._connection))):  # noqa: SLF001 - the same file, nothing remembered
        tiles = {tile: get(reader, log, path_of(tile)).body for tile in tiles_of(70_000)}
        hashes = {tile: [data[at : at + 32] for at in range(0, 32 * tile.width, 32)] for tile, data in tiles.items()}
        whole = root_of(hashes.__getitem__, 70_000)
        assert whole == log.signed(70_000).checkpoint.root
        last = list(bundles_of(70_000))[-1]
        assert b"leaf 69999" in get(reader, log, path_of(last)).body
        assert get(reader, log, path_of(replace(last, width=last.width + 1))).status == 404
        assert get(reader, log, "tile/0/000.p/7").body == get(reader, log, "tile/0/000").body[: 7 * 32]


def test_records_are_shown_only_where_the_store_shows_them() -> None:
    log = HostLog(8)
    store = keeper(log.host, shows=False)
    log.send(store, 0, 8)
    assert get(store, log, "tile/entries/000.p/8").status == 404
    assert get(store, log, "tile/0/000.p/8").status == 200


def test_whoever_asks_for_logs_that_are_not_there_costs_no_search() -> None:
    """Whatever there is to read: nobody need be known to ask."""
    log, kept = HostLog(8), records.in_memory()
    store = keeper(log.host, kept=kept)
    log.send(store, 0, 8)
    asked: list[str] = []
    kept._connection.set_trace_callback(asked.append)  # noqa: SLF001 - what SQLite is asked
    assert [store.get(f"{at:064x}", "checkpoint").status for at in range(3)] == [404] * 3
    assert [statement.split()[0] for statement in asked] == ["BEGIN", "COMMIT"] * 3
    assert get(store, log, "checkpoint").status == 200
    assert get(keeper(log.host, kept=kept), log, "checkpoint").status == 200


def test_sealed_contents_and_papers_are_kept_and_not_served() -> None:
    log = HostLog(8)
    kept = records.in_memory()
    store = keeper(log.host, kept=kept)
    log.send(store, 0, 8, [("token", b"ey"), ("object", b"o")])
    with kept.exclusive() as held:
        assert [sealed for _, sealed in held.contents(log.key.name, 0, 8)] == log.sealed
        assert sorted(held.papers(log.key.name)) == [("object", b"o"), ("token", b"ey")]
    paths = (f"/{place(log)}/papers", f"/{place(log)}/sealed", "/records.sqlite")
    assert [store.find("GET", path, "") for path in paths] == [NOTHING] * 3


def test_an_answer_that_was_lost_is_given_again_and_papers_may_follow() -> None:
    log = HostLog(8)
    kept = records.in_memory()
    store = keeper(log.host, kept=kept)
    first = log.send(store, 0, 8)
    assert log.send(store, 0, 8) == first
    assert log.send(store, 8, 8, [("token", b"ey")]) == first
    with kept.exclusive() as held:
        assert held.papers(log.key.name) == [("token", b"ey")]


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_another_size_is_told() -> None:
    log = HostLog(8)
    store = keeper(log.host)
    assert log.send(store, 2, 8) == Answer(409, INFO_TYPE, b"0\n0\n\n")
    log.send(store, 0, 5)
    assert log.send(store, 2, 8) == Answer(409, INFO_TYPE, b"5\n5\n\n")
    assert log.send(store, 0, 3) == Answer(409, INFO_TYPE, b"5\n5\n\n")
    assert parse_info(b"5\n5\n\n") == 5


@pytest.mark.parametrize("at, size", [(2, 8), (2, 5), (2, 3), (6, 8)], ids=["longer", "as long", "shorter", "since"])
def test_a_fork_is_refused_and_both_checkpoints_are_kept(at: int, size: int) -> None:
    log = HostLog(8)
    kept = records.in_memory()
    store = keeper(log.host, kept=kept)
    log.send(store, 0, 5)
    fork = log.forked(at)
    if at == 6:
        log.send(store, 5, 8)
    answer = fork.send(store, min(size, 5), size)
    assert answer.status == 409
    assert b"log-forked" in answer.body
    with kept.exclusive() as held:
        [(origin, has, other)] = held.forks()
        assert held.latest(origin) == parse_signed_checkpoint(has)
    assert origin == log.key.name
    assert is_signed(parse_signed_checkpoint(other).note, log.key)
    assert parse_signed_checkpoint(other).checkpoint == fork.signed(size).checkpoint


def test_forks_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a host's key can sign as many as they like."""
    monkeypatch.setattr(records, "MOST_FORKS", 3)
    log, kept = HostLog(8), records.in_memory()
    store = keeper(log.host, kept=kept)
    log.send(store, 0, 8)
    for at in range(6):
        assert log.forked(at).send(store, 8, 8).status == 409
    with kept.exclusive() as held:
        assert len(held.forks()) == 3
        assert held.latest(log.key.name) is not None


def test_logs_beyond_those_in_memory_go_on_where_they_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_EDGES", 2)
    logs = [HostLog(600, instance=bytes([at] * 16)) for at in range(5)]
    for log in logs[1:]:
        log.signer, log.host = logs[0].signer, logs[0].host
        log.key = log_key(log.host, log.instance)
    store = keeper(logs[0].host)
    for start, end in ((0, 5), (5, 300), (300, 600)):
        assert [log.send(store, start, end).status for log in logs] == [200] * 5
    assert [parse_signed_checkpoint(get(store, log, "checkpoint").body).checkpoint for log in logs] == [
        log.signed(600).checkpoint for log in logs
    ]


def test_leaves_that_do_not_lead_to_the_checkpoint_are_refused() -> None:
    log = HostLog(8)
    store = keeper(log.host)
    asked = log.asks(0, 8)
    for leaves in ((*asked.leaves[:7], b"x"), tuple(reversed(asked.leaves))):
        assert sent(store, log.signer, encode_add_records(replace(asked, leaves=leaves))).status == 409
    assert get(store, log, "checkpoint").status == 404


def test_only_a_known_host_writes_and_only_under_its_name() -> None:
    log, stranger = HostLog(8), HostLog(8)
    other = HostLog(8, name="records.example/host-2")
    store = keeper(log.host, other.host)
    assert stranger.send(store, 0, 8).status == 403
    assert HostLog(8, name="records.example/host-3").send(store, 0, 8).status == 403
    assert sent(store, log.signer, stranger.body(0, 8)).status == 403  # host 1 sends what another signed under its name
    other.key = replace(log.key, key=other.signer.public)  # host 2 signs under the name of host 1
    assert other.send(store, 0, 8).status == 404
    other.key = other.host  # and for a log that is no instance's
    assert other.send(store, 0, 8).status == 404
    assert sent(store, log.signer, other.body(0, 8)).status == 404
    assert sent(store, log.signer, b"").status == 400


def test_what_the_sender_adds_below_a_checkpoint_is_not_kept() -> None:
    log, stranger = HostLog(8), HostLog(8)
    store = keeper(log.host)
    signed = log.signed(8)
    lines = (*signed.note.signatures, *stranger.signed(8).note.signatures)
    asked = replace(log.asks(0, 8), checkpoint=replace(signed, note=Note(signed.note.text, lines)))
    assert sent(store, log.signer, encode_add_records(asked)).status == 200
    shown = parse_signed_checkpoint(get(store, log, "checkpoint").body).note
    assert [one.name for one in shown.signatures] == [log.key.name, store.key.name]


def test_beyond_its_quota_nothing_is_stored() -> None:
    """What is there already is answered as it was, however full the store is."""
    log, kept = HostLog(8), records.in_memory()
    store = keeper(log.host, quota=700_000, kept=kept)
    first = log.send(store, 0, 5, [("object", b"o")])
    assert first.status == 200
    for quota, share, option in ((500_000, 1 << 30, b"raise --most-bytes,"), (1 << 30, 500_000, b"raise --most-bytes-host,")):
        signer = store._signer  # noqa: SLF001 - the same store, begun again
        store = Keeper(store.key, signer, [log.host], kept, HandClock(), quota=quota, share=share)
        for answer in (log.send(store, 5, 8), log.send(store, 0, 5, [("object", b"another")]), log.forked(2).send(store, 5, 8)):
            assert answer.status == (409 if b"log-forked" in answer.body else 507)
        assert option in log.send(store, 5, 8).body
        assert log.send(store, 0, 5, [("object", b"o")]) == first
        assert log.send(store, 2, 8) == Answer(409, INFO_TYPE, b"5\n5\n\n")
    with kept.exclusive() as held:
        assert (held.papers(log.key.name), held.forks()) == ([("object", b"o")], [])
    assert parse_signed_checkpoint(get(store, log, "checkpoint").body).checkpoint.size == 5


def test_one_host_cannot_shut_out_another() -> None:
    """It adds papers of its own, without a record, until it may no more; the other has its part of the store still."""
    bad, good, kept = HostLog(8), HostLog(8, name="records.example/host-2"), records.in_memory()
    store = keeper(bad.host, good.host, quota=20 << 20, kept=kept)
    assert bad.send(store, 0, 8).status == 200
    statuses = [bad.send(store, 8, 8, [("object", bytes([at]) * (2 << 20))]).status for at in range(10)]
    assert statuses == [200] * 4 + [507] * 6
    assert [good.send(store, *batch).status for batch in ((0, 5), (5, 8), (8, 8, [("object", bytes(8 << 20))]))] == [200] * 3
    with kept.exclusive() as held:
        assert held.bytes_of(bad.host.name) <= 10 << 20 >= held.bytes_of(good.host.name)


def test_what_hosts_used_is_what_the_file_grew_by() -> None:
    logs = [HostLog(600, name=f"records.example/host-{at}") for at in range(3)]
    kept = records.in_memory()
    store = keeper(*(log.host for log in logs), kept=kept)
    with kept.exclusive() as held:
        empty = held.bytes_used()
    for log in logs:
        for start, end in ((0, 300), (300, 600), (300, 600)):
            log.send(store, start, end, [("object", bytes([end % 251, at]) * 5000) for at in range(20)])
        log.send(store, 0, 600, [("object", bytes([at % 251, 3]) * 7000) for at in range(20)])
        log.forked(3).send(store, 600, 600)
    with kept.exclusive() as held:
        used = [held.bytes_of(log.host.name) for log in logs]
        assert all(one > 400_000 for one in used)
        assert empty + sum(used) == held.bytes_used()


def test_papers_are_the_hosts_alone() -> None:
    """The checkpoint is published, and its signature with it: whoever reaches the store has it, and adds nothing by it."""
    log, stranger, kept = HostLog(8), HostLog(8, name="records.example/host-2"), records.in_memory()
    store = keeper(log.host, stranger.host, kept=kept)
    body = log.body(0, 8, [("object", b"o")])
    sent(store, log.signer, body)
    shown = parse_signed_checkpoint(get(store, log, "checkpoint").body)
    junk = encode_add_records(AddRecords(8, shown, (), (), (("object", b"junk"),)))
    own = log.asks(0, 8, [("object", b"o")])
    swapped = encode_add_records(replace(own, papers=(("object", b"junk"),)))
    thief, head = new_signer(), proof(log.signer, body)
    payload = parse_jws(head, typ=DPOP_TYP).payload
    signature = head.rpartition(".")[2]
    for wrong, data, statuses in (
        ("", junk, {403}),
        ("rubbish", junk, {403}),
        (proof(thief, junk), junk, {403}),
        (proof(stranger.signer, junk), junk, {404}),
        (head, junk, {403}),
        (head, swapped, {403}),
        (head, body[:-1], {403}),
        (f"{proof(log.signer, junk).rpartition('.')[0]}.{signature}", junk, {403}),
        (sign_dpop(payload, thief), body, {403}),
        (proof(log.signer, junk, htm="PUT"), junk, {403}),
        (proof(log.signer, junk, htu="https://store.example/erase-records"), junk, {403}),
    ):
        answer = sent(store, log.signer, data, wrong)
        assert answer.status in statuses, (wrong, answer)
    with kept.exclusive() as held:
        assert held.papers(log.key.name) == [("object", b"o")]


def test_a_whole_request_that_is_sent_again_stores_nothing() -> None:
    """Whoever saw requests sends each again, at any later time: they are answered, and the store is what it was, to the byte."""
    log, kept = HostLog(8), records.in_memory()
    store = keeper(log.host, kept=kept)
    bodies = [
        *(log.body(start, end, [("object", b"o%d" % end)]) for start, end in ((0, 3), (3, 5), (5, 8))),
        log.body(8, 8, [("object", b"later")]), log.forked(2).body(8, 8),
    ]  # fmt: skip
    seen = [(proof(log.signer, body), body) for body in bodies]
    first = [sent(store, log.signer, body, head).status for head, body in seen]
    assert first == [200, 200, 200, 200, 409]
    before = b"".join(line.encode() for line in kept._connection.iterdump())  # noqa: SLF001 - all that is in the file
    assert [sent(store, log.signer, body, head).status for head, body in seen] == [409, 409, 200, 200, 409]
    assert b"".join(line.encode() for line in kept._connection.iterdump()) == before  # noqa: SLF001 - as above


@pytest.mark.parametrize("table", ["batches", "tiles", "papers", "forks"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET origin = 'x'"])
def test_what_is_written_is_not_changed(table: str, change: str) -> None:
    log = HostLog(300)
    kept = records.in_memory()
    store = keeper(log.host, kept=kept)
    log.send(store, 0, 300, [("token", b"ey")])
    log.forked(2).send(store, 300, 300)
    with pytest.raises(sqlite3.IntegrityError, match="written once"):
        kept._connection.execute(change.format(table))  # noqa: SLF001 - as a mistake of ours would


def test_a_store_that_was_altered_signs_no_more(tmp_path: Path) -> None:
    """Root of the store's own machine puts another leaf in: the edge is made again when it is opened, and its root compared."""
    log = HostLog(8)
    serve.init(tmp_path / "s", "store.example")
    kept = records.open_records(tmp_path / "s")
    assert log.send(keeper(log.host, kept=kept), 0, 5).status == 200
    kept.close()
    with sqlite3.connect(tmp_path / "s" / records.FILE) as db:
        db.execute("DROP TRIGGER no_update_of_batches")
        leaves = db.execute("SELECT leaves FROM batches").fetchone()[0]
        db.execute("UPDATE batches SET leaves = ?", (leaves.replace(b"leaf 2", b"leaf X"),))
    again = keeper(log.host, kept=records.open_records(tmp_path / "s"))
    assert log.send(again, 5, 8).status == 503
    with pytest.raises(FormatError, match="another root"):
        export(tmp_path / "s")


# --- formats ------------------------------------------------------------------------------------------------------------


def test_the_request_reads_back_and_its_parser_is_total() -> None:
    log = HostLog(6)
    asked = log.asks(2, 6, [("object", b"o")])
    assert parse_add_records(encode_add_records(asked)) == asked
    assert_parser_is_total(parse_add_records, encode_add_records(asked))
    assert_parser_is_total(parse_info, encode_info(1234))
    assert_parser_is_total(lambda data: parse_sealed(data, 3), encode_sealed((b"one", None, b"three")))
    with pytest.raises(FormatError):
        parse_sealed(encode_sealed((b"one", None)), 3)


def test_a_request_says_what_it_must() -> None:
    log = HostLog(MOST_RECORDS + 1)
    with pytest.raises(FormatError, match="start"):
        log.asks(0, MOST_RECORDS + 1)
    good = log.asks(2, 6)
    for wrong in ({"leaves": good.leaves[1:]}, {"sealed": good.sealed[1:]}, {"start": 7}, {"papers": (("secret", b""),)}):
        with pytest.raises(FormatError):
            AddRecords(**{name: getattr(good, name) for name in AddRecords.__slots__} | wrong)


def test_the_name_of_a_log_is_its_hosts_and_its_instance() -> None:
    log = HostLog()
    assert instance_of(log.key.name) == (log.host.name, log.instance)
    assert log_key(log.host, log.instance).key == log.host.key
    for wrong in ("records.example/host-1", "/" + "0" * 32, "h/" + "A" * 32, "h/" + "0" * 31):
        with pytest.raises(FormatError):
            instance_of(wrong)


# --- as it runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def log() -> HostLog:
    return HostLog(600)


@pytest.fixture
def served(tmp_path: Path, log: HostLog) -> Iterator[ServedStore]:
    begun = ServedStore(tmp_path / "s", [log.host], "--show-entries", name="store.example")
    yield begun
    begun.end()


def test_a_receipt_outlives_a_kill(served: ServedStore, log: HostLog) -> None:
    """Killed after each receipt: the store has what it cosigned, and goes on from there."""
    for start, end in ((0, 1), (1, 257), (257, 600)):
        status, body = served.add(log.signer, log.body(start, end))
        assert status == 200
        assert cosigned_at(Note(log.signed(end).note.text, parse_cosignatures(body)), served.key) is not None
        served.kill()
        served.begin()
        assert parse_signed_checkpoint(served.post(b"", f"/{place(log)}/checkpoint", "GET")[1]).checkpoint == log.signed(end).checkpoint
    assert served.add(log.signer, log.body(0, 1)) == (409, b"600\n600\n\n")
    assert served.process.poll() is None
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(20) == 0


def test_what_is_no_request_is_refused_before_it_is_read(served: ServedStore, log: HostLog) -> None:
    head = b"POST /add-records HTTP/1.1\r\nHost: s\r\nContent-Length: %d\r\n\r\n"
    assert served.raw(head % (MAX_REQUEST + 1)).startswith(b"HTTP/1.1 413 ")
    assert served.post(b"", "/add-records", "GET")[0] == 405
    assert served.post(b"", f"/{place(log)}/checkpoint", "POST")[0] == 405
    assert [served.post(b"", path, "GET")[0] for path in ("/", "/records.sqlite", f"/{place(log)}/", f"/{'0' * 64}/checkpoint")] == [
        404
    ] * 4
    assert served.add(log.signer, b"\xff" * 1000)[0] == 400
    assert served.add(log.signer, log.body(0, 600))[0] == 200


def test_it_is_read_as_any_tiled_log(served: ServedStore, log: HostLog) -> None:
    served.add(log.signer, log.body(0, 600))
    source = Address(f"{served.url}/{place(log)}", None)
    bundle = source.get("tile/entries/001", 1 << 20)
    source.close()
    assert bundle is not None
    assert bundle.startswith(b"\x00\x08leaf 256")


def test_a_checker_that_knows_nothing_of_us_holds_it_for_a_log(served: ServedStore, log: HostLog, tmp_path: Path) -> None:
    """Written from the specifications alone: origin, signature, tiles, entries and root, by the log's own key."""
    served.add(log.signer, log.body(0, 300))
    served.add(log.signer, log.body(300, 600))
    copy = tmp_path / "copy"
    for path in ("checkpoint", *(path_of(tile) for tile in (*tiles_of(600), *bundles_of(600)))):
        status, data = served.post(b"", f"/{place(log)}/{path}", "GET")
        assert status == 200
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(data)
    assert "600" in tlog_checker.check(copy, str(log.key))
    other = HostLog(1)
    with pytest.raises(Exception, match=r"(?i)key|signature|origin"):
        tlog_checker.check(copy, str(other.key))


def test_the_export_is_the_archive_of_the_logs(served: ServedStore, log: HostLog, tmp_path: Path) -> None:
    scene = Scene()
    scene.launch("one")
    verdict = scene.attest("one")
    token, entry = sign_token(permitted(verdict)), sign_entry(verdict.entry)
    papers = [
        ("token", token.encode()),
        ("token", b"ey"),
        ("token", b"\xff"),
        ("object", b"o"),
        ("entry", entry),
        ("entry", b"e"),
        ("entry", b""),
    ]
    assert served.add(log.signer, log.body(0, 600, papers))[0] == 200
    out = tmp_path / "archive"
    assert main(["store", "export", str(served.folder), log.instance.hex(), "--output", str(out)]) == 0
    archive = parse_archive(out.read_bytes())
    assert archive.logs == (InstanceLog(log.instance, tuple(log.leaves)),)
    assert (archive.tokens, archive.objects, archive.entries) == ((token,), (b"o",), (entry,)), (
        "what is no token and no entry spoils nothing"
    )
    with pytest.raises(Refused):
        export(served.folder, [bytes(16)])


def test_a_host_that_names_anothers_instance_hides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ships rubbish as the log of an instance that is not its own: whoever exports is told, and takes the host that he means."""
    good, bad = HostLog(8), HostLog(8, name="records.example/z")
    bad.leaves = [b"rubbish %d" % at for at in range(8)]
    other = HostLog(8, instance=bytes(16), signer=good.signer)
    serve.init(tmp_path / "s", "store.example")
    kept = records.open_records(tmp_path / "s")
    store = keeper(good.host, bad.host, kept=kept)
    assert [log.send(store, 0, 8).status for log in (good, bad, other)] == [200] * 3
    kept.close()
    for wanted in ((), (good.instance,)):
        with pytest.raises(Refused, match=r"instance-ambiguous.*host-1 and records.example/z"):
            export(tmp_path / "s", wanted)
    assert export(tmp_path / "s", [other.instance]).logs == (InstanceLog(other.instance, tuple(other.leaves)),)
    out = tmp_path / "archive"
    argv = ["store", "export", str(tmp_path / "s"), "--output", str(out)]
    assert main(argv) == 1
    assert "--host" in capsys.readouterr().err
    assert main([*argv, "--host", good.host.name, "--keys", str(tmp_path)]) == 0
    assert [log.leaves for log in parse_archive(out.read_bytes()).logs] == [tuple(other.leaves), tuple(good.leaves)]
    with pytest.raises(Refused, match="not-found"):
        export(tmp_path / "s", [other.instance], None, [bad.host.name])


def test_places_that_a_host_shipped_are_in_the_export_and_rubbish_among_them_spoils_nothing(served: ServedStore, log: HostLog) -> None:
    known = MemoryLog([b"genesis", b"entry"])
    body = known.leaves[1] + known.receipt(1)
    served.add(log.signer, log.body(0, 600, [("place", body), ("place", body[:-1]), ("place", b"rubbish")]))
    archive = parse_archive(encode_archive(export(served.folder)))
    assert archive.places == (Placed(known.leaves[1], known.receipt(1)),)


def test_the_command_makes_a_store_once_and_shows_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "init", str(tmp_path / "s"), "--name", "store.example", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["vkey"]
    assert main(["store", "vkey", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().out == f"{shown}\n"
    assert str(own.vkey(tmp_path / "s")) == shown
    assert main(["store", "init", str(tmp_path / "s"), "--name", "store.example"]) != 0
    (tmp_path / "s" / records.FILE).unlink()
    with pytest.raises(Unavailable, match="another store"):
        records.open_records(tmp_path / "s")


def test_its_time_is_its_own_clock(served: ServedStore, log: HostLog) -> None:
    before = SystemClock().now()
    _, body = served.add(log.signer, log.body(0, 600))
    at = cosigned_at(Note(log.signed(600).note.text, parse_cosignatures(body)), served.key)
    assert at is not None
    assert before <= at <= SystemClock().now()
    assert root([leaf_hash(leaf) for leaf in log.leaves]) == log.signed(600).checkpoint.root

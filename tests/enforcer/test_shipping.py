"""Records leave the host: what is durable here is durable in the store, whatever dies between, and nothing else counts as stored."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auditor.__main__ import main
from auditor.store import records, serve
from auditor.store.export import export
from auditor.store.keeper import Keeper
from enforcer.config import EnforcerConfig
from enforcer.doctor import record_store
from enforcer.papers import keep_object
from enforcer.receipts import RECEIPT_FILE, read_receipt, unstored
from enforcer.record import ActionLog, LogReader
from enforcer.shipping import BATCHES, LARGEST, MOST, AtOddsError, LogShipper, Shipping, host_key
from tests.auditor.served import ServedStore
from tests.enforcer.host import Host, wait_for
from tests.enforcer.scene import Scene
from tests.signers import new_signer
from tests.world.clock import HandClock
from tests.world.store import keeper, sent
from writ.formats.action import Action
from writ.formats.archive import parse_archive
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.keys import Signer
from writ.formats.policy_bundle import PolicySettings
from writ.formats.record import ActionRecord
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.note import COSIGNATURE, PLAIN, NoteKey, parse_vkey
from writ.formats.tlog.storing import CONTENT_TYPE, INFO_TYPE, MOST_PAPERS
from writ.service.clock import SystemClock
from writ.service.uplink import Answer as Answered
from writ.service.uplink import Uplink
from writ.verdict.decide import lag_of

READ = Action("tool.call", "mcp:notes/read", Digest.of(b"{}"))
SETTINGS = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=60, record_lag_most=30)


class Shipped:
    """One instance with a log, a store in memory, and what ships from the one to the other; `fault` is what becomes of a request."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(folder)
        self.scene.renew()
        self.log: ActionLog = self.scene.log(folder)
        self.signer: Signer = new_signer()
        self.host = NoteKey("records.example/host-1", PLAIN, self.signer.public)
        self.kept = records.in_memory()
        self.store: Keeper = keeper(self.host, kept=self.kept)
        self.fault: Callable[[Answered], Answered] = lambda answer: answer
        self.sent = 0

    def act(self, count: int = 1) -> None:
        """So many records more."""
        gate = self.scene.gatekeeper(self.log)
        for _ in range(count):
            gate.ask(READ, b"{}", gate="socket")

    def shipper(self) -> LogShipper:
        """One that begins."""
        return LogShipper(self.scene.folder, self.scene.instance, self.host, self.signer, self.store.key)

    def post(self, body: bytes) -> Answered:
        """To the store, and through `fault`."""
        self.sent += 1
        answer = sent(self.store, self.signer, body)
        return self.fault(Answered(answer.status, answer.content_type, answer.body))

    def leaves(self) -> list[bytes]:
        """What the store has."""
        with self.kept.exclusive() as held:
            return [leaf for name in held.origins() for leaf in held.leaves(name, 0, 1 << 40)]

    def own(self) -> list[bytes]:
        """What the host has."""
        return [entry.leaf for entry in LogReader(self.scene.folder, self.scene.instance).entries()]


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[Shipped]:
    made = Shipped(tmp_path)
    yield made
    made.log.close()


def all_of(shipped: Shipped, shipper: LogShipper) -> int:
    return sum(1 for _ in iter(lambda: shipper.ship(shipped.post), False))


# --- one log ------------------------------------------------------------------------------------------------------------


def test_everything_durable_is_stored_in_batches_and_the_receipt_kept(shipped: Shipped) -> None:
    shipped.act(MOST + 10)
    shipper = shipped.shipper()
    assert all_of(shipped, shipper) == 2
    assert shipped.leaves() == shipped.own()
    assert len(shipped.own()) == MOST + 11
    kept = read_receipt(shipped.scene.folder, shipped.store.key)
    assert kept is not None
    assert kept.signed.checkpoint.size == MOST + 11
    assert unstored(shipped.scene.folder, shipper.size) == (0, None)
    assert shipper.ship(shipped.post) is False


def test_what_is_sealed_stays_sealed_and_papers_go_along_once(shipped: Shipped) -> None:
    shipped.act()
    keep_object(shipped.scene.folder, b"an approval")
    shipper = shipped.shipper()
    all_of(shipped, shipper)
    with shipped.kept.exclusive() as held:
        [name] = held.origins()
        contents = [sealed for _, sealed in held.contents(name, 0, 10)]
        assert held.papers(name) == [("object", b"an approval")]
    assert [one is None for one in contents] == [True, False]
    assert b"{}" not in (contents[1] or b"")
    keep_object(shipped.scene.folder, b"another")  # and where no record follows
    assert all_of(shipped, shipper) == 1
    assert shipper.ship(shipped.post) is False


def test_a_paper_too_large_for_a_request_holds_up_nothing(shipped: Shipped) -> None:
    shipped.act()
    keep_object(shipped.scene.folder, bytes(LARGEST + 1))
    keep_object(shipped.scene.folder, b"small")
    shipper = shipped.shipper()
    all_of(shipped, shipper)
    with shipped.kept.exclusive() as held:
        [name] = held.origins()
        assert held.papers(name) == [("object", b"small")]
    keep_object(shipped.scene.folder, bytes(LARGEST + 2))
    all_of(shipped, shipper)
    assert shipper.ship(shipped.post) is False


def test_it_goes_on_where_the_receipt_is_and_where_the_store_is(shipped: Shipped) -> None:
    """Killed after the store answered and before the receipt was kept; then without any receipt at all."""
    shipped.act(3)
    all_of(shipped, shipped.shipper())
    before = (shipped.scene.folder / RECEIPT_FILE).read_bytes()
    shipped.act(3)
    all_of(shipped, shipped.shipper())
    (shipped.scene.folder / RECEIPT_FILE).write_bytes(before)
    shipped.act(2)
    all_of(shipped, shipped.shipper())
    assert shipped.leaves() == shipped.own()
    (shipped.scene.folder / RECEIPT_FILE).unlink()
    shipped.act(2)
    shipper = shipped.shipper()
    all_of(shipped, shipper)
    assert (shipped.leaves(), shipper.size) == (shipped.own(), len(shipped.own()))


def test_only_a_receipt_of_the_store_itself_counts(shipped: Shipped) -> None:
    shipped.act()
    shipper = shipped.shipper()
    shipped.store.key = replace(shipped.store.key, key=new_signer().public)  # the store says so, and its key does not
    with pytest.raises(Unavailable, match="cosignature"):
        shipper.ship(shipped.post)
    assert shipper.size == 0
    assert read_receipt(shipped.scene.folder) is None


def test_a_kept_receipt_that_the_store_did_not_sign_counts_for_nothing(shipped: Shipped) -> None:
    shipped.act()
    all_of(shipped, shipped.shipper())
    assert read_receipt(shipped.scene.folder, replace(shipped.store.key, name="another.example")) is None
    (shipped.scene.folder / RECEIPT_FILE).write_text("{")
    assert read_receipt(shipped.scene.folder, shipped.store.key) is None


@pytest.mark.parametrize("status", [400, 403, 404, 503, 507])
def test_a_store_that_takes_nothing_has_nothing(shipped: Shipped, status: int) -> None:
    shipped.act()
    shipped.fault = lambda _: Answered(status, "text/plain; charset=utf-8", b"no\n")
    shipper = shipped.shipper()
    with pytest.raises(Unavailable, match=str(status)):
        shipper.ship(shipped.post)
    assert shipper.size == 0


def test_a_store_that_only_ever_names_sizes_ends_the_round(shipped: Shipped) -> None:
    shipped.act()
    shipped.fault = lambda _: Answered(409, INFO_TYPE, b"0\n0\n\n")
    with pytest.raises(Unavailable, match="expected a receipt"):
        all_of(shipped, shipped.shipper())


def test_a_log_that_lost_records_is_found(shipped: Shipped, tmp_path: Path) -> None:
    """The host was put back from a backup: the store has more than it, with a receipt left and without."""
    shipped.act(4)
    shipper = shipped.shipper()
    all_of(shipped, shipper)
    other = tmp_path / "restored"
    other.mkdir()
    back = shipped.scene.log(other)
    shipped.scene.gatekeeper(back).ask(READ, b"{}", gate="socket")
    back.close()
    restored = LogShipper(other, shipped.scene.instance, shipped.host, shipped.signer, shipped.store.key)
    with pytest.raises(AtOddsError):
        all_of(shipped, restored)
    (other / RECEIPT_FILE).write_bytes((shipped.scene.folder / RECEIPT_FILE).read_bytes())
    with pytest.raises(AtOddsError, match="at least"):
        LogShipper(other, shipped.scene.instance, shipped.host, shipped.signer, shipped.store.key).ship(shipped.post)


def test_a_log_that_was_rewritten_is_found(shipped: Shipped, tmp_path: Path) -> None:
    """Root writes another history of the same length, and signs it: the receipt tells, and without it the store, which keeps both."""
    shipped.act(4)
    all_of(shipped, shipped.shipper())
    other = tmp_path / "rewritten"
    other.mkdir()
    again = shipped.scene.log(other)
    for _ in range(6):
        shipped.scene.gatekeeper(again).ask(READ, b"{}", gate="socket")
    again.close()
    forged = LogShipper(other, shipped.scene.instance, shipped.host, shipped.signer, shipped.store.key)
    with pytest.raises(AtOddsError, match="log-forked"):
        all_of(shipped, forged)
    with shipped.kept.exclusive() as held:
        assert len(held.forks()) == 1
    (other / RECEIPT_FILE).write_bytes((shipped.scene.folder / RECEIPT_FILE).read_bytes())
    with pytest.raises(AtOddsError, match="of the receipt"):
        LogShipper(other, shipped.scene.instance, shipped.host, shipped.signer, shipped.store.key).ship(shipped.post)


# --- a store that lies --------------------------------------------------------------------------------------------------


def names(*sizes: int) -> Callable[[Answered], Answered]:
    """A store that takes nothing, and only ever names sizes."""
    said = itertools.cycle(sizes)
    return lambda _: Answered(409, INFO_TYPE, b"%d\n%d\n\n" % ((size := next(said)), size))


def test_a_size_that_a_store_only_says_is_no_receipt(shipped: Shipped) -> None:
    """It says that it has everything. Nothing counts as stored, and the next thing asked for is the receipt."""
    shipped.act(3)
    shipped.fault = names(4)
    shipper = shipped.shipper()
    shipped.act()
    assert shipper.ship(shipped.post) is True
    assert (shipper.size, shipper.behind, shipper.more) == (0, 5, True)
    with pytest.raises(Unavailable, match="expected a receipt for the records from 4 on, got the size 4"):
        shipper.ship(shipped.post)
    assert (shipper.size, read_receipt(shipped.scene.folder)) == (0, None)
    shipped.fault = lambda answer: answer
    all_of(shipped, shipper)
    assert (shipper.size, shipped.leaves()) == (5, shipped.own())


def test_a_store_that_has_all_and_whose_receipt_was_lost_gives_it_again(shipped: Shipped) -> None:
    shipped.act(3)
    shipper = shipped.shipper()
    shipper.ship(shipped.post)
    (shipped.scene.folder / RECEIPT_FILE).unlink()
    again = shipped.shipper()
    shipped.fault = lambda answer: names(4)(answer) if shipped.sent == 2 else answer
    assert [again.ship(shipped.post), again.size] == [True, 0]
    assert [again.ship(shipped.post), again.size, again.ship(shipped.post)] == [True, 4, False]


def test_a_store_that_names_one_size_after_another_is_asked_later(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests, and then it is as if it were away; read in parts, the log's start is its start."""
    monkeypatch.setattr("enforcer.shipping.READ_AT_ONCE", 2)
    shipped.act(8)
    shipped.fault = names(7, 5, 3)
    shipper = shipped.shipper()
    for at in range(3):
        with pytest.raises(Unavailable, match="expected a receipt"):
            all_of(shipped, shipper)
        assert (shipper.size, shipped.sent) == (0, 2 * at + 2)
    shipped.fault = lambda answer: answer
    all_of(shipped, shipper)
    assert shipped.leaves() == shipped.own()


def test_a_store_that_has_less_than_it_gave_receipts_for_is_at_odds(shipped: Shipped) -> None:
    """It was put back from a backup, or says so to be sent everything again."""
    shipped.act(4)
    shipper = shipped.shipper()
    all_of(shipped, shipper)
    shipped.act()
    shipped.fault = names(3)
    for one in (shipper, shipped.shipper()):
        with pytest.raises(AtOddsError, match="at least the 5 records that it gave a receipt for"):
            one.ship(shipped.post)


@pytest.mark.parametrize("answer", [
    Answered(200, "text/plain; charset=utf-8", b"<html>"),
    Answered(200, "text/plain; charset=utf-8", b""),
    Answered(409, INFO_TYPE, b"1\n2\n\n"),
    Answered(409, INFO_TYPE, b"9" * 40),
], ids=["a page", "nothing", "two sizes", "no size"])  # fmt: skip
def test_rubbish_is_as_if_the_store_were_away(shipped: Shipped, answer: Answered) -> None:
    """Once, from whatever stands between; the log is shipped when it is over."""
    shipped.act()
    shipped.fault = lambda _: answer
    shipper = shipped.shipper()
    with pytest.raises(Unavailable):
        shipper.ship(shipped.post)
    shipped.fault = lambda answer: answer
    all_of(shipped, shipper)
    assert shipper.size == 2


def test_of_an_answer_the_stores_own_line_is_kept_and_nothing_else(shipped: Shipped) -> None:
    shipped.act()
    others = b"".join(b"\xe2\x80\x94 n%d %s\n" % (at, b"AAAA" * 400) for at in range(30))
    shipped.fault = lambda answer: replace(answer, body=others + answer.body)
    all_of(shipped, shipped.shipper())
    kept = read_receipt(shipped.scene.folder, shipped.store.key)
    assert kept is not None
    assert [line.name for line in kept.signed.note.signatures] == [kept.signed.checkpoint.origin, shipped.store.key.name]


def test_a_receipt_that_cannot_be_kept_counts_for_nothing(shipped: Shipped) -> None:
    """The disk is full: it is tried again, with pauses."""
    shipped.act()
    (shipped.scene.folder / f".{RECEIPT_FILE}").mkdir()
    shipper = shipped.shipper()
    with pytest.raises(Unavailable, match="receipt"):
        shipper.ship(shipped.post)
    assert shipper.size == 0


def test_a_receipt_of_another_log_counts_for_nothing(shipped: Shipped) -> None:
    shipped.act(2)
    all_of(shipped, shipped.shipper())
    origin = f"{shipped.host.name}/{shipped.scene.instance.hex()}"
    assert read_receipt(shipped.scene.folder, shipped.store.key, origin) is not None
    assert read_receipt(shipped.scene.folder, shipped.store.key, f"{shipped.host.name}/{bytes(16).hex()}") is None
    renamed = replace(shipped.host, name="records.example/host-2")
    assert LogShipper(shipped.scene.folder, shipped.scene.instance, renamed, shipped.signer, shipped.store.key).size == 0


def over(uplink: Uplink) -> Callable[[bytes], Answered]:
    return lambda body: uplink.post("/add-records", body, CONTENT_TYPE)


@pytest.mark.faults
@pytest.mark.short
def test_a_store_killed_at_any_moment_has_what_it_acknowledged(tmp_path: Path) -> None:
    """A process of its own, killed while it stores: the host's receipts are of what is there, and in the end all is."""
    shipped, chance = Shipped(tmp_path), random.Random(6)
    store = ServedStore(tmp_path / "s", [shipped.host], "--show-entries", name="store.example")
    shipper = LogShipper(shipped.scene.folder, shipped.scene.instance, shipped.host, shipped.signer, store.key)
    place = f"/{hashlib.sha256(f'{shipped.host.name}/{shipped.scene.instance.hex()}'.encode()).hexdigest()}"
    unanswered = 0
    for _ in range(12):
        shipped.act(30)
        killer = threading.Timer(chance.random() * 0.03, store.process.kill)
        with Uplink(store.url, ca_file=None, signer=shipped.signer, clock=SystemClock(), timeout=5.0) as uplink:
            killer.start()
            with contextlib.suppress(Unavailable):
                while shipper.ship(over(uplink)):
                    shipped.act()
                unanswered -= 1
            unanswered += 1
            killer.join()
        store.kill()
        store.begin()
        status, checkpoint = store.post(b"", f"{place}/checkpoint", "GET")
        there = parse_signed_checkpoint(checkpoint).checkpoint.size if status == 200 else 0
        assert there >= shipper.size
    with Uplink(store.url, ca_file=None, signer=shipped.signer, clock=SystemClock()) as uplink:
        while shipper.ship(over(uplink)):
            pass
    shipped.log.close()
    assert store.end() == 0
    assert unanswered > 0, "it was killed while it stored"
    assert export(tmp_path / "s").logs[0].leaves == tuple(shipped.own())


def test_who_kept_the_keys_of_a_lost_host_has_its_contexts(tmp_path: Path) -> None:
    """As `enforcer log export` would have given them; without one of the two keys, or with another's, they are as erased."""
    serve.init(tmp_path / "s", "store.example")
    shipped = Shipped(tmp_path)
    shipped.kept = records.open_records(tmp_path / "s")
    shipped.store = keeper(shipped.host, kept=shipped.kept)
    shipped.act(3)
    all_of(shipped, shipped.shipper())
    shipped.kept.close()
    instance, keys = shipped.scene.instance, tmp_path / "kept"
    keys.mkdir()
    entries = LogReader(shipped.scene.folder, instance).entries()
    contexts = {entry.context for entry in entries if entry.context is not None}
    assert contexts
    assert set(export(tmp_path / "s", keys=keys).objects) == set()
    (keys / "test.key").write_bytes((tmp_path / "test.key").read_bytes())
    assert set(export(tmp_path / "s", keys=keys).objects) == set()
    (keys / f"{instance.hex()}.key").write_bytes((tmp_path / "content.key").read_bytes())
    found = set(export(tmp_path / "s", [instance], keys).objects)
    assert contexts <= found
    named = {entry.record.context for entry in entries if isinstance(entry.record, ActionRecord)}
    assert named <= {Digest.of(one).value for one in found}
    assert set(export(tmp_path / "s").objects) == set()
    (keys / "test.key").write_bytes(bytes(32))
    assert set(export(tmp_path / "s", keys=keys).objects) == set()
    shipped.log.close()


# --- the lag, and what it refuses ---------------------------------------------------------------------------------------


def test_the_lag_is_the_age_of_the_oldest_record_that_is_here_alone(shipped: Shipped) -> None:
    log, clock = shipped.log, shipped.scene.clock
    now = clock.wall
    assert log.lag(now) is None
    log.stored(0)
    assert log.lag(now + 100) == 0
    shipped.act(2)
    assert log.lag(now + 7) == 7
    clock.advance(5)
    shipped.act()
    log.stored(3)
    assert log.lag(now + 7) == 2
    log.stored(4)
    assert log.lag(now + 7) == 0
    assert log.lag(now - 50) == 0


def permits(shipped: Shipped) -> list[str]:
    ruling = shipped.scene.gatekeeper(shipped.log).ask(READ, b"{}", gate="socket")
    return [reason.code for reason in ruling.reasons]


def test_a_policy_refuses_while_records_do_not_leave_the_host(shipped: Shipped) -> None:
    shipped.scene.attestor.settings = SETTINGS
    shipped.scene.attestor.version += 1
    shipped.scene.renew()
    assert permits(shipped) == ["record-lag"], "nobody ships"
    shipped.log.stored(2)
    assert permits(shipped) == []
    shipped.scene.clock.advance(31)
    shipped.scene.renew()
    assert permits(shipped) == ["record-lag"], "the permit before lies here alone for 31 s"
    all_of(shipped, shipper := shipped.shipper())
    shipped.log.stored(shipper.size)
    assert permits(shipped) == []
    found = [entry for entry in LogReader(shipped.scene.folder, shipped.scene.instance).entries() if isinstance(entry.record, ActionRecord)]
    assert [lag_of(entry.context or b"") for entry in found] == [None, 0, 31, 0]


def test_without_the_setting_no_lag_refuses_nor_is_recorded(shipped: Shipped) -> None:
    assert permits(shipped) == []
    shipped.log.stored(0)
    shipped.scene.clock.advance(50)
    assert permits(shipped) == []
    assert {lag_of(entry.context) for entry in LogReader(shipped.scene.folder, shipped.scene.instance).entries() if entry.context} == {None}


# --- a host's -----------------------------------------------------------------------------------------------------------


def configured(folder: Path, **more: Any) -> EnforcerConfig:
    key = NoteKey("store.example", COSIGNATURE, new_signer().public)
    named = {"record_store": "http://127.0.0.1:1", "record_store_key": str(key), "record_log": "records.example/host-1"}
    return EnforcerConfig(run_dir=folder / "run", state_dir=folder / "state", **{**named, **more})


def test_settings_of_the_store_come_together(tmp_path: Path) -> None:
    configured(tmp_path)
    plain = str(NoteKey("store.example", PLAIN, new_signer().public))
    for wrong in ({"record_store": ""}, {"record_log": ""}, {"record_store_key": plain}, {"record_store_key": "x"}, {"record_log": "a b"}):
        with pytest.raises(FormatError):
            configured(tmp_path, **wrong)


def test_a_store_that_is_away_delays_and_a_log_that_is_none_delays_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Shipped(tmp_path)
    config = configured(tmp_path, record_store_key=str(shipped.store.key))
    config.make_folders()
    key, shipped.signer = host_key(config)
    shipped.store = keeper(key, kept=shipped.kept)
    config = replace(config, record_store_key=str(shipped.store.key))
    good, broken = shipped.scene.instance, bytes(16)
    folder = config.instance_dir(good)
    folder.mkdir(parents=True)
    log = shipped.scene.log(folder)
    shipped.scene.gatekeeper(log).ask(READ, b"{}", gate="socket")
    log.close()
    config.instance_dir(broken).mkdir()
    (config.instance_dir(broken) / "action-log.sqlite").write_bytes(b"no database at all, and long enough to be one" * 10)
    told: list[tuple[bytes, int]] = []
    shipping = Shipping(config, HandClock(shipped.scene.clock.wall + 9), lambda: [good], lambda *said: told.append(said))
    assert shipping.round([broken, good]) == {broken, good}, "nobody answers at that address"
    assert (told, shipping.size_of(good)) == ([], 0)
    assert "writ_record_store_behind_records 2\n" in shipping.metrics([good])
    assert "writ_record_store_lag_seconds 9\n" in shipping.metrics([good])
    monkeypatch.setattr(shipping, "_post", shipped.post)
    assert shipping.round([broken, good]) == {broken}
    assert told == [(good, 2)]
    assert "writ_record_store_behind_records 0\n" in shipping.metrics([])
    shipped.log.close()


def test_doctor_tells_of_records_that_stay_on_the_host(tmp_path: Path) -> None:
    shipped = Shipped(tmp_path)
    config = configured(tmp_path, record_store_key=str(shipped.store.key))
    config.make_folders()
    assert record_store(replace(config, record_store="", record_store_key="", record_log="")) == "none"
    assert record_store(config) == "0 logs, 0 records on this host alone, the oldest for 0 s"
    folder = config.instance_dir(shipped.scene.instance)
    folder.mkdir()
    log = shipped.scene.log(folder)
    shipped.scene.gatekeeper(log).ask(READ, b"{}", gate="socket")
    assert record_store(config).startswith("1 logs, 2 records on this host alone")
    shipped.scene.clock.wall -= 1000
    log.close()
    other = config.instance_dir(bytes(16))
    other.mkdir()
    old = shipped.scene.log(other)
    shipped.scene.gatekeeper(old).ask(READ, b"{}", gate="socket")
    old.close()
    with pytest.raises(Unavailable, match=r"on this host alone, the oldest for 1\d\d\d s"):
        record_store(config)
    shipper = LogShipper(other, bytes(16), shipped.host, shipped.signer, shipped.store.key)
    all_of(shipped, shipper)
    assert record_store(config).startswith("2 logs, 2 records on this host alone")
    shipped.log.close()


def test_a_quiet_log_is_not_opened_and_a_busy_one_leaves_the_others_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Shipped(tmp_path)
    config = configured(tmp_path)
    config.make_folders()
    key, shipped.signer = host_key(config)
    shipped.store = keeper(key, kept=shipped.kept)
    config = replace(config, record_store_key=str(shipped.store.key))
    folder = config.instance_dir(shipped.scene.instance)
    folder.mkdir()
    log = shipped.scene.log(folder)
    shipping = Shipping(config, HandClock(), lambda: [shipped.scene.instance], lambda *_: None)
    monkeypatch.setattr(shipping, "_post", shipped.post)
    looked: list[int] = []
    real = LogShipper.ship

    def ship(one: LogShipper, post: Callable[[bytes], Answered]) -> bool:
        looked.append(1)
        return real(one, post)

    monkeypatch.setattr(LogShipper, "ship", ship)
    gate = shipped.scene.gatekeeper(log)
    gate.ask(READ, b"{}", gate="socket")
    shipping.round([shipped.scene.instance])
    wait_for(lambda: shipping.round([shipped.scene.instance]) == set() and shipping._quiet)  # noqa: SLF001 - once the files have settled
    looked.clear()
    for _ in range(5):
        shipping.round([shipped.scene.instance])
    assert looked == []
    gate.ask(READ, b"{}", gate="socket")
    shipping.round([shipped.scene.instance])
    assert shipping.size_of(shipped.scene.instance) == 3
    monkeypatch.setattr("enforcer.shipping.MOST", 1)
    for _ in range(BATCHES + 4):
        gate.ask(READ, b"{}", gate="socket")
    assert shipping.round([shipped.scene.instance]) == {shipped.scene.instance}
    assert shipping.size_of(shipped.scene.instance) == 3 + BATCHES
    assert shipping.round([shipped.scene.instance]) == set()
    log.close()
    shipped.log.close()


class OneLog:
    """A host with the log of one instance, whose daemon's shipping is asked by hand; its requests go through `shipped.fault`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch | None, **more: Any) -> None:
        self.shipped, config = Shipped(folder), configured(folder, **more)
        config.make_folders()
        key, self.shipped.signer = host_key(config)
        self.shipped.store = keeper(key, kept=self.shipped.kept)
        self.config = replace(config, record_store_key=str(self.shipped.store.key))
        self.instance = self.shipped.scene.instance
        self.folder = self.config.instance_dir(self.instance)
        self.folder.mkdir()
        log = self.shipped.scene.log(self.folder)
        self.shipped.scene.gatekeeper(log).ask(READ, b"{}", gate="socket")
        log.close()
        self.shipped.log.close()
        self.told: list[tuple[bytes, int]] = []
        clock = HandClock(self.shipped.scene.clock.wall + 9)
        self.shipping = Shipping(self.config, clock, list, lambda *said: self.told.append(said))
        if monkeypatch is not None:
            monkeypatch.setattr(self.shipping, "_post", self.shipped.post)


def test_what_a_store_only_says_moves_no_lag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = OneLog(tmp_path, monkeypatch)
    one.shipped.fault = names(2)
    for _ in range(3):
        assert one.shipping.round([one.instance]) == {one.instance}
    assert {size for _, size in one.told} <= {0}
    assert "writ_record_store_behind_records 2\n" in one.shipping.metrics([one.instance])
    assert "writ_record_store_lag_seconds 9\n" in one.shipping.metrics([one.instance])
    assert "writ_record_store_failures 3\n" in one.shipping.metrics([one.instance])
    one.shipped.fault = lambda answer: answer
    assert one.shipping.round([one.instance]) == set()
    assert one.told[-1] == (one.instance, 2)


def test_papers_of_an_instance_that_ended_are_shipped_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a request takes, of a log whose records are all in the store, and one that is too large: that one is counted."""
    one = OneLog(tmp_path, monkeypatch)
    papers = [b"paper %d" % at for at in range(2 * MOST_PAPERS + 3)]
    for paper in (*papers, bytes(LARGEST + 1)):
        keep_object(one.folder, paper)
    assert one.shipping.round([one.instance]) == set()
    with one.shipped.kept.exclusive() as held:
        [name] = held.origins()
        assert sorted(held.papers(name)) == sorted(("object", paper) for paper in papers)
    assert "writ_record_store_large_papers 1\n" in one.shipping.metrics([])
    keep_object(one.folder, bytes(LARGEST + 2))
    assert one.shipping.round([one.instance]) == set()
    assert "writ_record_store_large_papers 2\n" in one.shipping.metrics([])
    begun = Shipping(one.config, HandClock(), list, lambda *_: None)
    monkeypatch.setattr(begun, "_post", one.shipped.post)
    assert begun.round([one.instance]) == set()
    assert "writ_record_store_large_papers 2\n" in begun.metrics([])


def test_a_store_that_never_answers_holds_up_no_metrics(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = OneLog(tmp_path, None, record_store=f"http://127.0.0.1:{silent.getsockname()[1]}")
        one.shipping.begin()
        try:
            connection, _ = silent.accept()
            with connection:
                for _ in range(2):
                    one.config.store_metrics.unlink(missing_ok=True)
                    wait_for(one.config.store_metrics.exists)
                    assert "writ_record_store_behind_records 2\n" in one.config.store_metrics.read_text()
        finally:
            one.shipping.close()


@pytest.mark.parametrize("answer, said", [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", "expected at most 65536 bytes"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1000\r\n%s\r\n" % bytes(4096) * 40, "expected at most 65536 bytes"),
    (b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "a redirect"),
], ids=["large", "without an end", "elsewhere"])  # fmt: skip
def test_crafted_answers_are_no_receipts(tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as crafted:
        one = OneLog(tmp_path, None, record_store=f"http://127.0.0.1:{crafted.getsockname()[1]}")

        def serve() -> None:
            connection, _ = crafted.accept()
            with connection, contextlib.suppress(OSError):
                while b"\r\n\r\n" not in connection.recv(1 << 20):
                    pass
                connection.sendall(answer)
                connection.recv(1 << 20)

        server = threading.Thread(target=serve)
        server.start()
        assert one.shipping.round([one.instance]) == {one.instance}
        server.join(20)
    assert one.told == []
    assert said in str([getattr(record, "fields", record.__dict__) for record in caplog.records])


@pytest.mark.cgroup
def test_the_records_of_a_host_that_is_lost_are_proven_elsewhere(idle_host: Host, tmp_path: Path) -> None:
    """A whole host: an agent may act while its records leave it, and not while the store is away; then the host is gone."""
    host = idle_host
    named = {"record_store": "http://127.0.0.1:1", "record_log": "records.example/host-1"}
    host.write_config(**named, record_store_key=str(NoteKey("store.example", COSIGNATURE, new_signer().public)))
    shown = host.show("log", "vkey")["vkey"]
    store = ServedStore(tmp_path / "s", [parse_vkey(shown)], name="store.example")
    try:
        named["record_store"] = store.url
        host.write_config(**named, record_store_key=str(store.key))
        host.attestor.settings = replace(SETTINGS, record_lag_most=3)
        host.serve()
        host.agent(
            "a",
            """
            from urllib.request import urlopen
            while True:
                answer = ask("notes", "read", name="today")
                print("ok" if answer["ok"] else answer["refusal"]["reasons"][0]["code"], flush=True)
                if sys.stdin.readline() == "":
                    time.sleep(0.3)
            """,
        )
        run = host.run("a")
        assert run.stdout is not None
        assert run.stdout.readline() == b"ok\n"
        instance = host.instance("a")
        wait_for(lambda: host.show("status", instance.hex())["instances"][0]["stored"] >= 2)
        store.kill()
        wait_for(lambda: run.stdout is not None and run.stdout.readline() == b"record-lag\n", 30)
        metrics = host.config.store_metrics.read_text()
        assert "writ_record_store_behind_records 0\n" not in metrics
        run.kill()
        run.wait()
    finally:
        store.kill()
    out = tmp_path / "archive"
    assert main(["store", "export", str(tmp_path / "s"), "--output", str(out)]) == 0
    archive = parse_archive(out.read_bytes())
    assert [log.instance for log in archive.logs] == [instance]
    assert archive.tokens
    assert main(["lineage", str(out)]) == 0
    assert json.loads((host.config.instance_dir(instance) / RECEIPT_FILE).read_text())["receipt"].startswith("records.example/host-1/")

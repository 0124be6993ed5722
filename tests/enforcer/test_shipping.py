"""Records leave the host: what is durable here is durable in the store, whatever dies between, and nothing else counts as stored."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
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
from tests.world.store import keeper
from writ.formats.action import Action
from writ.formats.archive import parse_archive
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.policy_bundle import PolicySettings
from writ.formats.record import ActionRecord
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.note import COSIGNATURE, PLAIN, NoteKey, parse_vkey
from writ.formats.tlog.storing import CONTENT_TYPE, INFO_TYPE
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
        self.signer = new_signer()
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
        answer = self.store.add(body)
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
    with pytest.raises(Unavailable, match="again"):
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
        with Uplink(store.url, ca_file=None, signer=None, clock=SystemClock(), timeout=5.0) as uplink:
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
    with Uplink(store.url, ca_file=None, signer=None, clock=SystemClock()) as uplink:
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
    key, _ = host_key(config)
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
    shipper = LogShipper(other, shipped.scene.instance, shipped.host, shipped.signer, shipped.store.key)
    all_of(shipped, shipper)
    assert record_store(config).startswith("2 logs, 2 records on this host alone")
    shipped.log.close()


def test_a_quiet_log_is_not_opened_and_a_busy_one_leaves_the_others_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Shipped(tmp_path)
    config = configured(tmp_path)
    config.make_folders()
    key, _ = host_key(config)
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

"""Erasing by namespace and by instance, and legal holds: what is erased still proves, what is held stays, and who did it is known."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auditor.__main__ import main as auditor
from auditor.serving import folder as own
from auditor.store import records, serve
from auditor.store.export import export as export_of_store
from auditor.store.keeper import Keeper
from enforcer import __main__ as command
from enforcer.config import EnforcerConfig
from enforcer.content_keys import KEY_FILE, ContentKeys
from enforcer.explain import export
from enforcer.holds import Holds, Said, namespace_of
from enforcer.places import HeldPlaces, Places
from enforcer.record import LOG_FILE, ActionLog, LogReader
from enforcer.shipping import Shipping, host_key
from tests.enforcer.test_record import action
from tests.world.attestor import ENGINE
from tests.world.clock import HandClock
from tests.world.store import sent
from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.operator_log import OPERATOR_LOG, Act, of_instance, of_namespace
from writ.formats.reason import Reason
from writ.formats.record import Opening, parse_log
from writ.formats.spiffe import AgentId
from writ.service.key_files import destroy_key
from writ.service.uplink import Answer

ONE, TWO, OTHER = bytes([1] * 16), bytes([2] * 16), bytes([3] * 16)
SAID = Said("alice", "matter 12")


class Site:
    """A host that had three instances: two of namespace billing, one of ops."""

    def __init__(self, folder: Path) -> None:
        self.config = EnforcerConfig(
            run_dir=folder / "run",
            state_dir=folder / "state",
        )
        self.config.make_folders()
        self.holds = Holds(self.config, HandClock())
        for instance, namespace in ((ONE, "billing"), (TWO, "billing"), (OTHER, "ops")):
            self.config.instance_dir(instance).mkdir()
            log = self.open(instance, namespace)
            log.append(action(), b"the argument")
            log.close()

    def open(self, instance: bytes, namespace: str) -> ActionLog:
        """The log of an instance, to be written."""
        agent = AgentId("example.org", namespace, "a")
        return ActionLog(self.config.instance_dir(instance), instance, agent, ENGINE, 1, self.config.namespace_keys)

    def content(self, instance: bytes) -> bytes | None:
        """What its action hides, None once erased."""
        return LogReader(self.config.instance_dir(instance), instance, self.config.namespace_keys).entries()[1].content

    def readable(self) -> list[bool]:
        """Of each instance in order."""
        return [self.content(instance) is not None for instance in (ONE, TWO, OTHER)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# --- erasing ------------------------------------------------------------------------------------------------------------


def test_destroying_a_namespaces_key_erases_all_of_it_and_every_proof_holds(site: Site) -> None:
    before = {log.instance: log.leaves for log in export(site.config, [ONE, TWO, OTHER]).logs}
    assert site.holds.erase_namespace("billing", SAID)
    assert site.readable() == [False, False, True]
    after = export(site.config, [ONE, TWO, OTHER])
    assert {log.instance: log.leaves for log in after.logs} == before
    assert all(parse_log(log.leaves) for log in after.logs)
    assert not site.holds.erase_namespace("billing", SAID)


def test_destroying_an_instances_key_erases_that_alone(site: Site) -> None:
    assert site.holds.erase_instance(ONE, SAID)
    assert site.readable() == [False, True, True]
    assert not site.holds.erase_instance(ONE, SAID)


def test_no_key_lies_open_and_none_opens_anothers(site: Site) -> None:
    """Whoever has the folder of an instance has no key; nor does the wrapped key of one instance serve for another."""
    wrapped = (site.config.instance_dir(ONE) / KEY_FILE).read_bytes()
    key = ContentKeys(site.config.namespace_keys, "billing").held(site.config.instance_dir(ONE), ONE)
    assert key is not None
    assert key not in wrapped
    (site.config.instance_dir(TWO) / KEY_FILE).write_bytes(wrapped)
    assert site.readable() == [True, False, True]
    assert {path.stat().st_mode & 0o777 for path in site.config.namespace_keys.iterdir()} == {0o600}


def test_a_key_made_after_an_erasure_opens_nothing_from_before(site: Site) -> None:
    site.holds.erase_namespace("billing", SAID)
    fresh = bytes([4] * 16)
    site.config.instance_dir(fresh).mkdir()
    log = site.open(fresh, "billing")
    log.append(action(), b"new")
    log.close()
    assert site.content(fresh) == b"new"
    assert site.readable() == [False, False, True]
    with pytest.raises(FormatError, match="billing"):
        site.open(ONE, "billing")


def test_nothing_is_erased_while_it_is_written(site: Site) -> None:
    log = site.open(ONE, "billing")
    with pytest.raises(Unavailable):
        site.holds.erase_namespace("billing", SAID)
    with pytest.raises(Unavailable):
        site.holds.erase_instance(ONE, SAID)
    log.append(action(), b"still read")
    log.close()
    assert site.readable() == [True, True, True]


def test_a_key_can_be_laid_there_before(tmp_path: Path) -> None:
    """The same on two hosts: one key destroyed on both is one namespace erased."""
    (tmp_path / "n.key").write_bytes(bytes(range(32)))
    made = ContentKeys(tmp_path, "n").open(tmp_path, ONE)
    assert ContentKeys(tmp_path, "n").open(tmp_path, ONE) == made
    (tmp_path / "n.key").write_bytes(b"short")
    assert ContentKeys(tmp_path, "n").held(tmp_path, ONE) is None
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(FormatError, match="32 bytes"):
        ContentKeys(tmp_path, "n").open(tmp_path, ONE)


# --- holds --------------------------------------------------------------------------------------------------------------

ERASES: dict[str, Callable[[Holds], bool]] = {
    "the instance": lambda holds: holds.erase_instance(ONE, SAID),
    "its namespace": lambda holds: holds.erase_namespace("billing", SAID),
}


@pytest.mark.parametrize("held", [of_instance(ONE), of_namespace("billing")])
@pytest.mark.parametrize("erases", ERASES)
def test_what_is_held_is_not_erased_until_the_hold_is_lifted(site: Site, held: str, erases: str) -> None:
    site.holds.hold(held, Said("bob", "litigation 7"))
    with pytest.raises(Refused) as refused:
        ERASES[erases](site.holds)
    assert [(one.code, one.claim) for one in refused.value.reasons] == [("held", held)]
    assert "bob" in refused.value.reasons[0].got
    assert site.readable() == [True, True, True]
    site.holds.lift(held, SAID)
    assert ERASES[erases](site.holds)


def test_a_hold_on_another_holds_nothing(site: Site) -> None:
    site.holds.hold(of_namespace("ops"), SAID)
    site.holds.hold(of_instance(OTHER), SAID)
    assert site.holds.erase_namespace("billing", SAID)
    with pytest.raises(Refused):
        site.holds.lift(of_namespace("billing"), SAID)


def test_who_held_lifted_and_erased_is_on_record(site: Site) -> None:
    site.holds.hold(of_namespace("billing"), Said("bob", "litigation 7"))
    site.holds.lift(of_namespace("billing"), Said("carol", "settled"))
    site.holds.erase_namespace("billing", Said("dave", "request 3"))
    assert [(one.act, one.resource, one.by, one.why) for one in site.holds.acts()][:3] == [
        ("log.hold", "namespace/billing", "bob", "litigation 7"),
        ("log.lift", "namespace/billing", "carol", "settled"),
        ("log.erase", "namespace/billing", "dave", "request 3"),
    ]
    assert isinstance(site.holds.acts()[0], Act)


def test_a_hold_cannot_be_taken_out_of_the_record(site: Site) -> None:
    """The last record cut off, as a file put back from a backup would be: found as long as a commit speaks of it."""
    import sqlite3

    site.holds.hold(of_instance(ONE), SAID)
    with sqlite3.connect(site.config.state_dir / "operator" / "action-log.sqlite") as db:
        db.execute("DELETE FROM records WHERE sequence = 1")
    with pytest.raises(FormatError):
        site.holds.erase_instance(ONE, SAID)
    assert site.readable() == [True, True, True]


def test_the_namespace_of_a_log_is_in_its_opening(site: Site) -> None:
    assert [namespace_of(site.config.instance_dir(one)) for one in (ONE, OTHER, bytes(16))] == ["billing", "ops", None]
    for wrong in ("", "A", "../x", "a/b"):
        with pytest.raises(FormatError):
            of_namespace(wrong)
    for by in ("", "a\x1b", "x" * 1001):
        with pytest.raises(FormatError):
            Said(by, "")


def test_that_a_verifier_is_followed_again_is_an_act_on_record(site: Site) -> None:
    places = HeldPlaces(site.config.places_dir)
    places.alarm(Reason("verifier-rolled-back", "receipt.index", "entry 4 of 9, or later", "entry 1 of 2"))
    assert site.holds.settle(Said("bob", "the backup of Monday, agreed with carol"))
    assert places.read() == Places()
    assert [(one.act, one.resource, one.by) for one in site.holds.acts()] == [("log.settle", "verifier", "bob")]


def test_a_hold_on_an_instance_stands_when_its_folder_is_gone(site: Site) -> None:
    """Its content lies in the store, and the namespace's key opens it: the hold says itself of which namespace it is."""
    site.holds.hold(of_instance(ONE), Said("bob", "litigation 7"))
    shutil.rmtree(site.config.instance_dir(ONE))
    site.holds.hold(of_instance(ONE), Said("bob", "litigation 8"))  # what was known of it stays known
    with pytest.raises(Refused) as refused:
        site.holds.erase_namespace("billing", SAID)
    assert [(one.code, one.claim) for one in refused.value.reasons] == [("held", of_instance(ONE))]
    assert site.content(TWO) is not None
    assert site.holds.erase_namespace("ops", SAID), "it holds no other namespace"
    site.holds.lift(of_instance(ONE), SAID)
    assert site.holds.erase_namespace("billing", SAID)


@pytest.mark.parametrize("left", ["nothing", "no database"])
def test_a_hold_on_an_instance_of_an_unknown_namespace_holds_every_one(site: Site, left: str) -> None:
    unknown = bytes([9] * 16)
    if left == "no database":
        site.config.instance_dir(unknown).mkdir()
        (site.config.instance_dir(unknown) / LOG_FILE).write_bytes(b"x" * 4096)
    site.holds.hold(of_instance(unknown), SAID)
    for namespace in ("billing", "ops"):
        with pytest.raises(Refused):
            site.holds.erase_namespace(namespace, SAID)
    site.holds.erase_instance(ONE, SAID)
    assert site.readable() == [False, True, True], "an instance is not held by a hold on another"


def test_a_hold_on_a_namespace_holds_an_instance_whose_log_is_gone(site: Site) -> None:
    """Nothing on the host says any more that it is of that namespace; its content key still opens what the store has."""
    site.holds.hold(of_namespace("billing"), SAID)
    (site.config.instance_dir(ONE) / LOG_FILE).unlink()
    with pytest.raises(Refused) as refused:
        site.holds.erase_instance(ONE, SAID)
    assert [one.claim for one in refused.value.reasons] == ["namespace/billing"]
    assert (site.config.instance_dir(ONE) / KEY_FILE).exists()


def test_nobody_opens_a_log_while_its_key_is_destroyed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a writer had appended in between would be sealed with a key that is nowhere."""
    opened: list[str] = []

    def destroy(path: Path) -> bool:
        try:
            site.open(ONE, "billing").close()
            opened.append("opened")
        except Unavailable as error:
            opened.append(error.detail)
        return destroy_key(path)

    monkeypatch.setattr("enforcer.record.destroy_key", destroy)
    monkeypatch.setattr("enforcer.content_keys.destroy_key", destroy)
    assert site.holds.erase_instance(ONE, SAID)
    assert opened == ["another process writes it"]
    opened.clear()
    assert site.holds.erase_namespace("billing", SAID)
    assert opened == ["its key is being destroyed"]


def test_a_tenant_called_operator_has_nothing_of_the_operators(site: Site) -> None:
    """Its key is another in another folder: erasing it leaves every act and who did it readable, and it can be erased."""
    tenant = bytes([5] * 16)
    site.config.instance_dir(tenant).mkdir()
    log = site.open(tenant, "operator")
    log.append(action(), b"of the tenant")
    log.close()
    site.holds.hold(of_namespace("ops"), Said("bob", "litigation 7"))
    assert site.holds.erase_namespace("operator", SAID)
    assert site.content(tenant) is None
    assert [(one.by, one.outcome) for one in site.holds.acts()] == [("bob", None), ("alice", "done")]
    assert "operator" not in {path.stem for path in site.config.namespace_keys.glob("*.key")}


def test_an_erasure_that_failed_says_so(site: Site) -> None:
    log = site.open(ONE, "billing")
    with pytest.raises(Unavailable):
        site.holds.erase_namespace("billing", SAID)
    log.close()
    assert [(one.act, one.outcome) for one in site.holds.acts()] == [("log.erase", "failed")]


def test_a_hold_whose_words_no_key_opens_still_holds(site: Site) -> None:
    """Root destroyed the operator log's key: of which namespace a held instance is, nothing says any more, so nothing is erased."""
    site.holds.hold(of_instance(ONE), SAID)
    (site.config.log_dir(OPERATOR_LOG) / KEY_FILE).unlink()
    assert [(one.by, one.why, one.namespace) for one in site.holds.acts()] == [(None, None, None)]
    for namespace in ("billing", "ops"):
        with pytest.raises(Refused):
            site.holds.erase_namespace(namespace, SAID)
    assert site.readable() == [True, True, True]


def test_a_hold_outlives_an_upgrade_and_a_clock_that_was_put_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another engine goes on in the same log, under an opening of its own; what is held is what stands there, in its order."""
    site.holds.hold(of_namespace("billing"), Said("bob", "litigation 7"))
    later = EngineId(2, Digest.of(b"another tree"), (("python", "4"),))
    monkeypatch.setattr("enforcer.holds.installed_engine", lambda: later)
    clock = HandClock(5)
    again = Holds(site.config, clock)
    again.hold(of_namespace("ops"), SAID)
    for namespace in ("billing", "ops"):
        with pytest.raises(Refused):
            again.erase_namespace(namespace, SAID)
    again.lift(of_namespace("billing"), SAID)
    assert again.erase_namespace("billing", SAID)
    assert [one.at for one in again.acts()][1:] == [5, 5, 5]
    entries = LogReader(site.config.log_dir(OPERATOR_LOG), OPERATOR_LOG).entries()
    openings = [one.record for one in entries if isinstance(one.record, Opening)]
    assert [one.engine for one in openings][1:] == [later]


RACE = """
import sys
from pathlib import Path
from enforcer.config import EnforcerConfig
from enforcer.holds import Holds, Said
from writ.formats.errors import Refused, Unavailable
from writ.service.clock import SystemClock

holds = Holds(EnforcerConfig(run_dir=Path(sys.argv[1]) / "run", state_dir=Path(sys.argv[1]) / "state"), SystemClock())
print("ready", flush=True)
sys.stdin.readline()
while True:
    try:
        if sys.argv[2] == "hold":
            holds.hold("namespace/billing", Said("bob", "litigation 7"))
        else:
            holds.erase_namespace("billing", Said("eve", ""))
        print("done")
    except Unavailable:
        continue  # the other one acts just now
    except Refused as refused:
        print(refused.reasons[0].code)
    break
"""


def test_of_a_hold_and_an_erasure_at_once_the_first_counts(tmp_path: Path) -> None:
    """Two processes: either the hold refuses the erasure, or the erasure came before the hold, and the record says which."""
    said = set()
    for at in range(4):
        site = Site(tmp_path / str(at))
        acts = [
            subprocess.Popen(
                [sys.executable, "-c", RACE, str(tmp_path / str(at)), act], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for act in ("hold", "erase")
        ]
        assert [one.stdout.readline() for one in acts if one.stdout] == ["ready\n"] * 2
        for one in acts:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        held, erased = (one.communicate(timeout=30)[0].strip() for one in acts)
        recorded = [(one.act, one.outcome) for one in site.holds.acts()]
        assert held == "done"
        if erased == "held":
            assert (recorded, site.readable()) == ([("log.hold", None)], [True, True, True])
        else:
            assert (recorded, site.readable()) == ([("log.erase", "done"), ("log.hold", None)], [False, False, True])
        said.add(erased)
    assert said <= {"held", "done"}


# --- off the host -------------------------------------------------------------------------------------------------------


def shipped(site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "records.example/host-1", *more: bytes) -> Shipping:
    """What ships the operator log, and `more`, to the store in `folder`, after one round."""
    if not folder.exists():
        serve.init(folder, "store.example")
    key, signer = own.load(folder)
    config = replace(site.config, record_store="http://127.0.0.1:1", record_store_key=str(key), record_log=name)
    host, host_signer = host_key(config)
    kept = records.open_records(folder)
    store = Keeper(key, signer, [host], kept, HandClock(), quota=1 << 30)

    def post(_: Shipping, body: bytes) -> Answer:
        answer = sent(store, host_signer, body)
        return Answer(answer.status, answer.content_type, answer.body)

    monkeypatch.setattr(Shipping, "_post", post)
    shipping = Shipping(config, HandClock(), list, lambda *_: None)
    shipping.round({OPERATOR_LOG, *more})
    kept.close()
    return shipping


def said_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = auditor(["store", "acts", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_what_operators_did_is_found_in_the_store_when_the_host_has_dropped_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sites, store = [Site(tmp_path / name) for name in ("a", "b")], tmp_path / "store"
    for at, site in enumerate(sites):
        site.holds.hold(of_namespace("billing"), Said("bob", f"litigation {at}"))
        site.holds.lift(of_namespace("billing"), Said("carol", "settled"))
        site.holds.hold(of_instance(OTHER), Said("bob", "another"))
        site.holds.erase_namespace("billing", Said("dave", "request 3"))
        assert shipped(site, store, monkeypatch, f"records.example/host-{at}", *([] if at else [ONE])).size_of(OPERATOR_LOG) == 6
    kept = tmp_path / "kept"
    shutil.copytree(sites[0].config.log_dir(OPERATOR_LOG), kept)
    shutil.rmtree(sites[0].config.log_dir(OPERATOR_LOG))
    assert sites[0].holds.acts() == []
    code, told = said_of(capsys, str(store))
    assert (code, [one["host"] for one in told["hosts"]]) == (0, ["records.example/host-0", "records.example/host-1"])
    did = ["log.hold", "log.lift", "log.hold", "log.erase"]
    for one in told["hosts"]:
        assert [act["act"] for act in one["acts"]] == did
        assert (one["acts"][3]["outcome"], one["held"]) == ("done", [of_instance(OTHER)])
        assert {act["by"] for act in one["acts"]} == {None}
    code, told = said_of(capsys, str(store), "--keys", str(kept))
    assert [(act["by"], act["why"]) for act in told["hosts"][0]["acts"]][::3] == [("bob", "litigation 0"), ("dave", "request 3")]
    assert {act["by"] for act in told["hosts"][1]["acts"]} == {None}, "a key of another host opens nothing"
    assert [log.instance for log in export_of_store(store).logs] == [ONE], "it is no instance's log, and no archive has it"
    for name in (b"litigation", b"request 3", b"dave"):
        assert name not in (store / records.FILE).read_bytes()


def test_an_operator_log_that_was_written_anew_is_at_odds_with_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root erased, dropped the record of it, and began another: the store has both, and the auditor is told."""
    site, store = Site(tmp_path), tmp_path / "store"
    site.holds.erase_namespace("billing", Said("eve", ""))
    shipped(site, store, monkeypatch)
    shutil.rmtree(site.config.log_dir(OPERATOR_LOG))
    for _ in range(4):
        site.holds.hold(of_namespace("ops"), SAID)
    shipping = shipped(site, store, monkeypatch)
    assert "writ_record_store_at_odds_logs 1\n" in shipping.metrics([])
    code, told = said_of(capsys, str(store))
    assert (code, [one["code"] for one in told["reasons"]]) == (1, ["log-forked"])
    assert [act["act"] for act in told["hosts"][0]["acts"]] == ["log.erase"]


def test_a_host_that_ships_another_log_as_its_operators_hides_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    liar, site, store = Site(tmp_path / "a"), Site(tmp_path / "b"), tmp_path / "store"
    shutil.copytree(liar.config.instance_dir(ONE), liar.config.log_dir(OPERATOR_LOG))
    site.holds.erase_namespace("billing", SAID)
    shipped(liar, store, monkeypatch, "records.example/host-0")
    shipped(site, store, monkeypatch, "records.example/host-1")
    code, told = said_of(capsys, str(store))
    assert (code, [(one["code"], one["claim"]) for one in told["reasons"]]) == (1, [("malformed", "records.example/host-0")])
    assert [[act["act"] for act in one["acts"]] for one in told["hosts"]] == [[], ["log.erase"]]


# --- as commands --------------------------------------------------------------------------------------------------------


def test_the_commands(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "enforcer.toml"
    file.write_text(f'state_dir = "{site.config.state_dir}"\nrun_dir = "{site.config.run_dir}"\n')

    def said(*words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = command.main(["--config", str(file), "log", *words, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out.startswith("{") else out

    assert said("hold", "--namespace", "billing", "--by", "bob", "--why", "litigation 7") == (
        0,
        {"resource": "namespace/billing", "held": True},
    )
    assert said("erase", ONE.hex())[0] == 1
    assert said("erase", "--namespace", "billing")[0] == 1
    assert said("acts")[1]["held"] == ["namespace/billing"]
    assert said("lift", "--namespace", "billing")[0] == 2, "it takes a reason"
    assert [said("settle", *words)[0] for words in ((), (ONE.hex(), "--why", "x"), ("--namespace", "billing", "--why", "x"))] == [2, 2, 2]
    assert said("settle", "--why", "the backup of Monday") == (0, {"resource": "verifier", "settled": False})
    assert said("lift", "--namespace", "billing", "--why", "settled") == (0, {"resource": "namespace/billing", "held": False})
    assert said("erase", ONE.hex()) == (0, {"resource": f"instance/{ONE.hex()}", "erased": True})
    assert said("erase", "--namespace", "billing") == (0, {"resource": "namespace/billing", "erased": True})
    assert [one.get("outcome") for one in said("acts")[1]["acts"]] == [None, None, None, "done", "done"]
    assert said("hold", TWO.hex(), "--why", "litigation 8")[0] == 0
    site.config.instance_dir(TWO).rename(tmp_path / "gone")
    assert said("erase", "--namespace", "billing")[0] == 1
    assert said("lift", TWO.hex()[:8], "--why", "settled")[0] == 1, "by its whole name, where the folder is gone"
    assert said("lift", TWO.hex(), "--why", "settled") == (0, {"resource": f"instance/{TWO.hex()}", "held": False})
    assert said("lift", "z" * 32, "--why", "settled")[0] == 2
    (tmp_path / "gone").rename(site.config.instance_dir(TWO))
    assert said("erase")[0] == 2
    assert said("erase", ONE.hex(), "--namespace", "billing")[0] == 2
    assert [one["act"] for one in said("acts")[1]["acts"]] == [
        "log.hold", "log.settle", "log.lift", "log.erase", "log.erase", "log.hold", "log.lift",
    ]  # fmt: skip
    assert said("acts")[1]["acts"][2]["by"]
    assert os.environ.get("SUDO_USER") is None or said("acts")[1]["acts"][2]["by"] == os.environ["SUDO_USER"]
    assert site.readable() == [False, False, True]

"""Erasing by namespace and by instance, and legal holds: what is erased still proves, what is held stays, and who did it is known."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enforcer import __main__ as command
from enforcer.config import EnforcerConfig
from enforcer.content_keys import KEY_FILE, ContentKeys
from enforcer.explain import export
from enforcer.holds import Act, Holds, Said, namespace_of, of_instance, of_namespace
from enforcer.places import HeldPlaces, Places
from enforcer.record import ActionLog, LogReader
from tests.enforcer.test_record import action
from tests.world.attestor import ENGINE
from tests.world.clock import HandClock
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.record import parse_log
from writ.formats.spiffe import AgentId

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
    with pytest.raises(Unavailable):
        site.holds.erase_namespace("operator", SAID)  # the record of who did what is not erased by its own command
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
    site.holds.settle(Said("bob", "the backup of Monday, agreed with carol"))
    assert places.read() == Places()
    assert [(one.act, one.resource, one.by) for one in site.holds.acts()] == [("log.settle", "verifier", "bob")]


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
    assert said("settle", "--why", "the backup of Monday") == (0, {"resource": "verifier", "settled": True})
    assert said("lift", "--namespace", "billing", "--why", "settled") == (0, {"resource": "namespace/billing", "held": False})
    assert said("erase", ONE.hex()) == (0, {"resource": f"instance/{ONE.hex()}", "erased": True})
    assert said("erase", "--namespace", "billing") == (0, {"resource": "namespace/billing", "erased": True})
    assert said("erase")[0] == 2
    assert said("erase", ONE.hex(), "--namespace", "billing")[0] == 2
    assert [one["act"] for one in said("acts")[1]["acts"]] == [
        "log.hold", "log.settle", "log.lift", "log.erase", "log.erase",
    ]  # fmt: skip
    assert said("acts")[1]["acts"][2]["by"]
    assert os.environ.get("SUDO_USER") is None or said("acts")[1]["acts"][2]["by"] == os.environ["SUDO_USER"]
    assert site.readable() == [False, False, True]

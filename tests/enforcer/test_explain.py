"""What the enforcer shows of what it cannot read: that it could not, and never that there is none."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from enforcer import explain
from enforcer.__main__ import main
from enforcer.config import EnforcerConfig
from enforcer.contain import LAST_RECORDS, last_records
from enforcer.record import ActionLog
from tests.enforcer.scene import Scene
from tests.world.attestor import ENGINE
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import Unavailable


def test_status_of_what_cannot_be_listed_is_no_empty_list(tmp_path: Path) -> None:
    """A state directory that is a file cannot be listed, and neither can root's by another uid."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "instances").write_text("")
    config = tmp_path / "enforcer.toml"
    config.write_text(f'state_dir = "{state}"\nrun_dir = "{tmp_path}/run"\n')

    assert main(["--config", str(config), "status"]) == 3


def test_host_that_never_ran_an_instance_has_none(tmp_path: Path) -> None:
    assert explain.instances(EnforcerConfig(state_dir=tmp_path / "state")) == []


def test_instance_whose_standing_cannot_be_read_is_not_unknown(tmp_path: Path) -> None:
    config = EnforcerConfig(state_dir=tmp_path)
    (config.instance_dir(bytes(16)) / "state.json").mkdir(parents=True)

    with pytest.raises(Unavailable):
        explain.standing(config, bytes(16))


def test_refusal_that_cannot_be_read_is_not_told_as_none(tmp_path: Path) -> None:
    config = EnforcerConfig(state_dir=tmp_path)
    (tmp_path / "refused" / "r01234567.json").mkdir(parents=True)

    with pytest.raises(Unavailable):
        explain.why(config, "r01234567")


def test_log_that_cannot_be_read_counts_no_actions_and_says_not_zero(tmp_path: Path) -> None:
    config = EnforcerConfig(state_dir=tmp_path)
    config.instance_dir(bytes(16)).mkdir(parents=True)

    assert explain.why(config, "0" * 32)["agent_did"] is None


def test_log_with_two_engines_is_readable_and_counts_what_was_done(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    config = EnforcerConfig(state_dir=tmp_path / "state")
    folder = config.instance_dir(scene.instance)
    folder.mkdir(parents=True)
    scene.renew()
    read, wipe = (Action("tool.call", resource, Digest.of(b"{}")) for resource in ("mcp:notes/read", "mcp:notes/wipe"))
    for engine in (ENGINE, replace(ENGINE, number=ENGINE.number + 1)):
        log = ActionLog(folder, scene.instance, scene.agent, engine, scene.clock.wall, config.namespace_keys)
        gatekeeper = scene.gatekeeper(log)
        gatekeeper.outcome(gatekeeper.ask(read, b"{}", gate="socket"), done=True, result=b"a note")
        gatekeeper.ask(wipe, b"{}", gate="socket")
        log.close()

    shown = explain.log(config, scene.instance)["records"]
    kinds = [(one["sequence"], one["kind"], one["content"]) for one in shown]
    assert kinds == [
        (0, "opening", None), (1, "action", "{}"), (2, "outcome", "a note"), (3, "action", "{}"),
        (4, "opening", None), (5, "action", "{}"), (6, "outcome", "a note"), (7, "action", "{}"),
    ]  # fmt: skip
    assert {one["agent"] for one in shown if one["kind"] != "outcome"} == {str(scene.agent)}
    assert [(one["of"], one["outcome"], one["bytes"]) for one in shown if one["kind"] == "outcome"] == [(1, "done", 6), (5, "done", 6)]
    short = scene.instance.hex()[:8]
    assert explain.why(config, short)["agent_did"] == {"permitted": 2, "refused": 2}
    assert [one["code"] for one in explain.why(config, f"{short}-7")["reasons"]] == ["policy-refused"]
    opened = explain.why(config, f"{short}-4")
    assert (opened["kind"], opened["agent"], opened["at"]) == ("opening", str(scene.agent), scene.clock.wall)
    last = last_records(folder, scene.instance)
    assert [one["sequence"] for one in last] == [1, 2, 3, 5, 6, 7]
    assert [one.get("permit", one.get("outcome")) for one in last] == [True, "done", False] * 2


def test_evidence_of_a_containment_has_as_many_records_whatever_stands_between_them(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for number in range(LAST_RECORDS + 4):
        log = ActionLog(tmp_path, scene.instance, scene.agent, replace(ENGINE, number=1 + number), scene.clock.wall)
        scene.gatekeeper(log).ask(Action("tool.call", "mcp:notes/read", Digest.of(b"{}")), b"{}", gate="socket")
        log.close()
    assert [one["sequence"] for one in last_records(tmp_path, scene.instance)] == [2 * at + 1 for at in range(4, LAST_RECORDS + 4)]


def test_what_may_still_act_is_shown_before_what_has_ended(tmp_path: Path) -> None:
    config = EnforcerConfig(state_dir=tmp_path)
    stood = {"aa": ("ended", 9), "bb": ("running", 3), "cc": ("ended", 11), "dd": ("held", 4)}
    for name, (state, since) in stood.items():
        folder = config.instance_dir(bytes.fromhex(name * 16))
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"state": state, "since": since, "holder": os.getpid()}))
    shown = sorted((explain.standing(config, one) for one in explain.instances(config)), key=explain.latest_first)
    assert [one["instance"][:2] for one in shown] == ["dd", "bb", "cc", "aa"]

"""What the enforcer shows of what it cannot read: that it could not, and never that there is none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from enforcer import explain
from enforcer.__main__ import main
from enforcer.config import EnforcerConfig
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


def test_what_may_still_act_is_shown_before_what_has_ended(tmp_path: Path) -> None:
    config = EnforcerConfig(state_dir=tmp_path)
    stood = {"aa": ("ended", 9), "bb": ("running", 3), "cc": ("ended", 11), "dd": ("held", 4)}
    for name, (state, since) in stood.items():
        folder = config.instance_dir(bytes.fromhex(name * 16))
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"state": state, "since": since, "holder": os.getpid()}))
    shown = sorted((explain.standing(config, one) for one in explain.instances(config)), key=explain.latest_first)
    assert [one["instance"][:2] for one in shown] == ["dd", "bb", "cc", "aa"]

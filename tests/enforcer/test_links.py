"""The daemon's death in the middle of a question: its answer does not thaw under the next daemon."""

from __future__ import annotations

import time

import pytest

from tests.enforcer.host import Host, wait_for
from writ.formats.policy_bundle import PolicySettings

pytestmark = pytest.mark.cgroup


def test_answer_to_a_question_from_before_the_daemons_death_does_not_thaw(host: Host) -> None:
    host.attestor.settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=8)
    host.agent("a", "time.sleep(60)")
    host.run("a")
    instance = host.instance("a")
    host.wait_state(instance, "running")
    host.attestor.silent = 3.0
    asked = len(host.attestor.asks)
    wait_for(lambda: len(host.attestor.asks) > asked)
    given = len(host.attestor.given)
    host.attestor.silent = 8.0  # of what is asked from now on, so that no answer to that comes before the look
    host.kill_daemon()
    host.wait_state(instance, "held")
    host.serve()
    wait_for(lambda: len(host.attestor.given) > given)
    host.attestor.silent = 1.0
    time.sleep(0.5)
    assert host.standing(instance)["state"] == "held", "what was asked before the daemon died is no appraisal after its return"

    host.wait_state(instance, "running", 20)
    assert len(host.attestor.asks) >= asked + 2

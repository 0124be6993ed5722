"""Hardware mode with a real daemon, holder and cgroup: an agent lives by its leases, and by nothing else."""

from __future__ import annotations

import time

import pytest

from tests.enforcer.host import Host, wait_for
from tests.world.lease_chip import LeaseChip
from writ.formats.lease import LEASE_LIFE

pytestmark = [pytest.mark.cgroup, pytest.mark.timeout(120)]
LOOP = 'while True:\n    print(ask("notes", "read", name="today")["ok"], flush=True)\n    time.sleep(0.3)\n'


class RunningChip(LeaseChip):
    """A chip whose time runs."""

    began = time.monotonic()

    def __getattribute__(self, name: str) -> object:
        return int(1000 * (time.monotonic() - RunningChip.began)) if name == "time" else super().__getattribute__(name)


def test_agent_lives_past_its_first_lease_and_is_held_within_one_when_the_tpm_refuses(host: Host) -> None:
    chip = host.attestor.chip = RunningChip()
    host.agent("a", LOOP)
    host.run("a")
    instance = host.instance("a")
    host.wait_state(instance, "running")
    wait_for(lambda: len(host.attestor.asks) == 2)  # the holder asks once more as soon as it watches over the instance
    time.sleep(LEASE_LIFE + 2)
    assert host.standing(instance)["state"] == "running"
    assert len(host.attestor.asks) == 2, "leases are renewed without a token"

    chip.refuses = True
    began = time.monotonic()
    standing = host.wait_state(instance, "held", LEASE_LIFE + 5)
    assert time.monotonic() - began < LEASE_LIFE + 3
    assert [r["code"] for r in standing["reasons"]] == ["lease-expired"]
    assert len(host.attestor.asks) > 2, "a fresh token was asked for as soon as the TPM refused"

    chip.refuses = False
    host.wait_state(instance, "running", 20)


def test_agent_whose_tpm_makes_no_lease_is_never_started(host: Host) -> None:
    host.attestor.chip = RunningChip(refuses=True)
    host.agent("a", 'print("started")')
    status, out, _ = host.finish(host.run("a"), 60)
    assert (status == 0, out) == (False, "")
    wait_for(lambda: all(known.stopped for known in host.attestor.instances.values()))

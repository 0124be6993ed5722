"""Suspend and power cut, on a machine that really sleeps and loses its power: named for what they are, and never held against it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.guest.site import HOST, Guest
from writ.formats.tpm.attest import Attest, parse_attest

pytestmark = pytest.mark.usefixtures("fresh")
OWED = {"boot-log-required", "ima-log-required"}
SLEEP = "echo +3 >/sys/class/rtc/rtc0/wakealarm && echo mem >/sys/power/state"
"""To memory (ACPI S3); the clock wakes it. The kernel sends TPM2_Shutdown(STATE), the firmware TPM2_Startup(STATE)."""

SHUTDOWN_STATE = "80010000000c000001450001"
"""TPM2_Shutdown(TPM_SU_STATE), without sessions."""


def quoted(guest: Guest) -> Attest:
    """The newest quote that the verifier has decided on."""
    return parse_attest(guest.evidence()[-1].attest)


def shown(guest: Guest) -> dict[str, Any]:
    known: dict[str, Any] = guest.site.client.get(f"/v1/hosts/{HOST}")
    return known


def test_suspend_to_memory_is_a_resume_and_owes_both_logs_before_any_token(guest: Guest) -> None:
    assert guest.attest().token
    before, decided = quoted(guest), len(guest.decided())
    guest.machine.run(SLEEP, within=300)
    answer = guest.attest()
    after, since = quoted(guest), list(zip(guest.decided()[decided:], guest.evidence()[decided:], strict=True))

    assert (after.reset_count, after.restart_count) == (before.reset_count, before.restart_count + 1)
    assert after.clock > before.clock
    refused, evidence = since[0]
    assert (refused["verdict"], evidence.uefi_log) == ("refused", None)
    assert {reason["code"] for reason in refused["reasons"]} >= OWED
    accepted, evidence = since[-1]
    assert (accepted["verdict"], evidence.uefi_log is None, evidence.ima_log is None or evidence.ima_log.first) == ("accepted", False, 0)
    assert answer.token
    assert (shown(guest)["epoch"]["began"], guest.standing()) == ("resumed", "trusted")


def test_power_cut_is_a_reboot_and_no_fault(guest: Guest) -> None:
    """Whether the clock is `safe` is what the TPM says by then; swtpm's own is again once it has written it, seconds after its start."""
    assert guest.attest().token
    before = quoted(guest)
    guest.machine.cut()
    guest.boot()
    answer = guest.attest()
    after = quoted(guest)

    assert after.reset_count > before.reset_count
    assert answer.token, answer.reasons
    assert (shown(guest)["epoch"]["began"], guest.standing()) == ("rebooted", "trusted")
    assert shown(guest)["state"]["safe"] == after.safe


def test_boot_that_counts_as_a_resume_is_refused_by_name_until_a_reboot(guest: Guest) -> None:
    """A TPM Restart, as after hibernation: root told the TPM to keep its state, and booted. It clears the registers and no resetCount."""
    assert guest.attest().token
    before = quoted(guest)
    guest.machine.run("kill $(cat /run/attestor.pid) && sleep 1")
    guest.python(f"open('/dev/tpm0', 'r+b', buffering=0).write(bytes.fromhex('{SHUTDOWN_STATE}'))")
    guest.machine.cut()
    guest.boot()
    answer = guest.attest()
    after = quoted(guest)

    assert (after.reset_count, after.restart_count) == (before.reset_count, before.restart_count + 1)
    assert not answer.token
    assert "runtime-log-rewound" in {code for code, _ in answer.reasons}
    assert shown(guest)["status"] == "active", "refused, and not contained as a forked one"
    guest.boot()
    answer = guest.attest()
    assert answer.token, answer.reasons
    assert guest.standing() == "trusted"

"""The machine attacked: each attack is booted or done for real, and the verifier refuses it for exactly what it changed.

One machine of one host, so the attacks follow each other: reboots under other images, then what root does in a running system, and
last a copy of TPM and disk, after which an operator has to inspect the host. What heals by rebooting as admitted is shown between.
"""

from __future__ import annotations

import pytest

from swtpm.guest import Boot, Image, Machine
from tests.guest.site import CONFIGURATION, Answer, Guest
from tests.guest.test_boot import BIOS, IMA
from writ.formats.eventlog.ima import replay
from writ.formats.eventlog.uefi import parse_uefi_log
from writ.formats.tpm.attest import parse_attest

SPOILT = "/etc/writ/spoilt"


# --- another boot -------------------------------------------------------------------------------------------------------


def test_another_kernel_command_line_is_refused(guest: Guest, image: Image) -> None:
    guest.boot(image.esp(Boot(arguments="ima_appraise=off")))
    answer = guest.attest()

    assert not answer.token
    assert answer.reasons == {("boot-mismatch", f"boot.{name}") for name in ("application.0", "cmdline", "uki.cmdline")}


def test_another_initrd_is_refused(guest: Guest, image: Image) -> None:
    guest.boot(image.esp(Boot(extra=(("etc/backdoor", b"nc -l -p 31337 -e /bin/sh\n"),))))
    answer = guest.attest()

    assert not answer.token
    assert answer.reasons == {("boot-mismatch", f"boot.{name}") for name in ("application.0", "initrd", "uki.initrd")}


def test_secure_boot_off_is_refused_though_the_same_image_was_booted(guest: Guest) -> None:
    """OVMF measures its PEI volume as it lies in memory, where the state of the variables shows: PCR 0 differs too."""
    guest.machine.stop()
    guest.machine.set_secure_boot(False)
    guest.boot()
    answer = guest.attest()
    guest.machine.stop()
    guest.machine.set_secure_boot(True)

    assert not answer.token
    assert ("boot-mismatch", "secure-boot.secure-boot") in answer.reasons
    assert {claim.partition(".")[0] for _, claim in answer.reasons} == {"secure-boot", "firmware"}, answer.reasons


# --- root in a running system -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(guest: Guest) -> Machine:
    """A copy of TPM, disk and firmware variables, taken while the machine is off."""
    guest.machine.stop()
    return guest.machine.copy(guest.machine.home.with_name("copy"))


@pytest.fixture(scope="module")
def rebooted(guest: Guest, kept: Machine) -> Guest:
    """The machine as admitted, booted again after `kept` was taken."""
    assert kept.home != guest.machine.home
    guest.boot()
    return guest


def test_a_reboot_as_admitted_passes_again(rebooted: Guest) -> None:
    answer = rebooted.attest()

    assert answer.token, answer.reasons
    assert rebooted.standing() == "trusted"


def test_an_edited_boot_log_is_refused(rebooted: Guest) -> None:
    log = rebooted.machine.read(BIOS)
    last = parse_uefi_log(log).events[-1]
    at = log.rindex(dict(last.digests)["sha256"])
    answer = told_with(rebooted, "uefi_log", log[:at] + bytes([log[at] ^ 1]) + log[at + 1 :])

    assert not answer.token
    assert ("uefi-log-mismatch", f"uefi_log.sha256.pcr{last.pcr}") in answer.reasons


def test_a_truncated_boot_log_is_refused(rebooted: Guest) -> None:
    log = rebooted.machine.read(BIOS)
    last = parse_uefi_log(log).events[-1]
    length = 16 + sum(2 + len(digest) for _, digest in last.digests) + len(last.data)
    answer = told_with(rebooted, "uefi_log", log[: log.rindex(last.data) + len(last.data) - length])

    assert not answer.token
    assert ("uefi-log-mismatch", f"uefi_log.sha256.pcr{last.pcr}") in answer.reasons


@pytest.mark.parametrize("spoil", ["data.replace(b'/etc/passwd', b'/etc/passwe')", "data[:-1000]"], ids=["edited", "truncated"])
def test_a_spoilt_measurement_list_is_refused(rebooted: Guest, spoil: str) -> None:
    rebooted.python(f"from pathlib import Path\ndata = Path('{IMA}').read_bytes()\nPath('{SPOILT}').write_bytes({spoil})\n")
    answer = told_with(rebooted, "ima_log", None)

    assert not answer.token
    assert {code for code, _ in answer.reasons} & {"ima-log-mismatch", "ima-log-malformed"}
    assert replay(rebooted.machine.read(IMA), bytes(32), "sha256", answer.evidence.pcrs.get(10)) is not None, "the true list replays"


def test_true_logs_pass_again_without_a_reboot(rebooted: Guest) -> None:
    rebooted.serve_with("attestor.toml")
    answer = rebooted.attest()

    assert answer.token, answer.reasons


def test_an_unapproved_program_is_refused_though_it_ran_from_memory_and_is_gone(rebooted: Guest) -> None:
    rebooted.machine.run("cp /bin/busybox /run/echo && printf x >>/run/echo && /run/echo stolen && rm /run/echo")
    answer = rebooted.attest()

    assert not answer.token
    assert answer.reasons == {("file-unknown", "ima./run/echo"), ("file-unknown", "ima.file")}, "the entry, which is public, names no file"


def told_with(guest: Guest, key: str, log: bytes | None) -> Answer:
    """The answer when the attestor is made to read the log `key` from a copy: `log`, or what lies there."""
    if log is not None:
        guest.machine.write(SPOILT, log)
    configured = CONFIGURATION["etc/writ/attestor.toml"] + f'{key} = "{SPOILT}"\n'.encode()
    guest.machine.write("/etc/writ/spoilt.toml", configured)
    guest.serve_with("spoilt.toml")
    return guest.attest()


# --- a copy of TPM and disk ---------------------------------------------------------------------------------------------


def test_tpm_and_disk_restored_from_a_copy_is_forked(rebooted: Guest, kept: Machine) -> None:
    """The copy boots into the same resetCount, and its clock is behind what the verifier has seen."""
    before = parse_attest(rebooted.attest().evidence.attest)
    rebooted.machine.stop()
    forked = Guest(kept, rebooted.site, rebooted.esp)
    with kept:
        forked.boot()
        answer = forked.attest()
    after = parse_attest(answer.evidence.attest)

    assert after.reset_count == before.reset_count
    assert after.clock < before.clock
    assert not answer.token
    assert ("clock-fell", "clock") in answer.reasons
    assert forked.standing() == "forked"

"""The firmware's log beside the quote: believed where it replays, carried through the boot, owed ever after, and what roots a runtime."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.scene import DEMO, GOVERNED, NAMESPACE, Scene, codes, permitted, policy, reference
from tests.world.uefi_logs import Boot, encode_log, image_load, registers
from writ.formats.boot_state import MOST_VALUES
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.eventlog.cel_json import UserspaceEvent, encode_systemd_log
from writ.formats.eventlog.uefi import EV_EFI_BOOT_SERVICES_APPLICATION, EV_SEPARATOR, LogKind, UefiEvent, UefiLog, parse_uefi_log
from writ.formats.evidence import Evidence
from writ.formats.policy_bundle import PolicySettings
from writ.formats.state import encode_host_state, parse_host_state
from writ.verdict.appraise.ima import PARTS
from writ.verdict.attestation import AttestationVerdict

STRICT = PolicySettings(accept_runtime_only=False, tpm_classes=("software",))
BOOT_PCRS = range(13)


def booted(boot: Boot | None = None, *, settings: PolicySettings = DEMO) -> tuple[Scene, bytes]:
    """A host that booted so, with an instance running, and its log."""
    scene = Scene(bundle=policy(settings))
    scene.launch("one")
    return scene, measure(scene, boot or Boot())


def measure(scene: Scene, boot: Boot) -> bytes:
    """The registers as firmware and loader leave them."""
    log = boot.measure()
    for index, value in registers(log, quoted=BOOT_PCRS).items():
        scene.chip.pcrs["sha256"][index] = value
    return encode_log(log)


def attest(scene: Scene, log: bytes | None = None) -> AttestationVerdict:
    """One attestation of the instance, and the state moved."""
    verdict = scene.judge(with_log(scene, log))
    scene.state = parse_host_state(encode_host_state(verdict.state_after))
    return verdict


def with_log(scene: Scene, log: bytes | None) -> Evidence:
    return replace(scene.evidence("one"), uefi_log=log)


def captured(scene: Scene) -> tuple[Corim, ...]:
    """The boot that was seen last, as reference values."""
    assert scene.state is not None
    assert scene.state.boot is not None
    return tuple(Corim(f"{environment}-1", NAMESPACE, environment, values) for environment, values in scene.state.boot.values)


def host_codes(verdict: AttestationVerdict) -> set[str]:
    return {reason.code for reason in verdict.entry.reasons}


def test_log_that_replays_gives_the_values_of_the_boot() -> None:
    scene, log = booted()
    assert permitted(attest(scene, log)).runtime == "runtime-only"
    assert scene.state is not None
    assert scene.state.boot is not None
    assert (scene.state.logs, scene.state.boot.secure_boot, scene.state.boot.reasons) == (("uefi",), True, ())
    assert [environment for environment, _ in scene.state.boot.values] == ["boot", "firmware", "secure-boot"]
    assert dict(scene.state.boot.registers)[7] == scene.chip.pcrs["sha256"][7]


def test_log_travels_once_in_a_boot() -> None:
    scene, log = booted()
    attest(scene, log)
    before = scene.state
    assert before is not None
    assert permitted(attest(scene)).exceptions == ("attestor-not-rooted",)
    assert scene.state is not None
    assert scene.state.boot == before.boot


def test_after_a_resume_the_log_is_asked_for_once_more() -> None:
    scene, log = booted()
    attest(scene, log)
    scene.chip.resume()
    assert host_codes(attest(scene)) == {"boot-log-required"}
    assert host_codes(attest(scene)) == {"boot-log-required"}
    assert host_codes(attest(scene, log)) == set()
    assert host_codes(attest(scene)) == set()


def test_i6_other_kernel_behind_a_tpm_restart_does_not_inherit_the_boot_that_was_approved() -> None:
    """TPM2_Shutdown(STATE), then Startup(CLEAR): resetCount stands, the registers start anew, and root extends the known log again."""
    scene, log = booted()
    attest(scene, log)
    scene.references = (*scene.references, *captured(scene))
    known = scene.chip.pcrs["sha256"][14]
    scene.chip.restart()
    evil = measure(scene, Boot(cmdline="quiet ima=off"))
    scene.chip.pcrs["sha256"][14] = known
    assert host_codes(attest(scene)) == {"boot-log-required"}
    assert "boot-mismatch" in host_codes(attest(scene, evil))
    assert "uefi-log-mismatch" in host_codes(attest(scene, log))


def test_boot_that_was_approved_passes_and_any_other_is_named() -> None:
    scene, log = booted()
    attest(scene, log)
    scene.references = (*scene.references, *captured(scene))
    assert host_codes(attest(scene, log)) == set()

    scene.reboot()
    scene.launch("one")
    other = measure(scene, Boot(cmdline="root=/dev/sda1 init=/bin/sh"))
    verdict = attest(scene, other)
    assert codes(verdict) == {"boot-mismatch"}
    assert [reason.claim for reason in verdict.entry.reasons] == ["boot.cmdline"]


def test_secure_boot_that_is_off_is_said_in_words() -> None:
    scene, log = booted()
    attest(scene, log)
    scene.references = (*scene.references, *captured(scene))
    scene.reboot()
    scene.launch("one")
    verdict = attest(scene, measure(scene, Boot(secure_boot=b"\0")))
    found = [(reason.expected, reason.got) for reason in verdict.entry.reasons if reason.claim == "secure-boot.secure-boot"]
    assert found == [("on", "off")]


def test_log_of_another_boot_is_refused_and_stays_refused_without_it() -> None:
    scene, _ = booted()
    other = encode_log(Boot(cmdline="quiet").measure())
    assert "uefi-log-mismatch" in codes(attest(scene, other))
    assert "uefi-log-mismatch" in codes(attest(scene))


def test_log_that_leads_to_the_quoted_registers_takes_the_place_of_one_that_did_not_and_silence_does_not() -> None:
    scene, log = booted()
    assert {r.code for r in attest(scene, booted(Boot(loader=b"evil", kernel=b"evil"))[1]).entry.reasons} == {"uefi-log-mismatch"}
    assert {r.code for r in attest(scene, None).entry.reasons} == {"uefi-log-mismatch"}
    assert {r.code for r in attest(scene, b"no log").entry.reasons} == {"uefi-log-malformed"}
    assert {r.code for r in attest(scene, None).entry.reasons} == {"uefi-log-malformed"}
    assert permitted(attest(scene, log)).runtime == "runtime-only"
    assert permitted(attest(scene, None)).runtime == "runtime-only"


def test_i6_host_that_sent_boot_logs_owes_them_in_every_boot() -> None:
    scene, log = booted()
    attest(scene, log)
    for _ in range(2):
        scene.reboot()
        scene.launch("one")
        measure(scene, Boot())
        for _ in range(2):
            assert codes(attest(scene)) == {"boot-log-required"}
    assert permitted(attest(scene, log)).runtime == "runtime-only"


def test_register_of_the_firmware_that_moves_after_the_boot_is_refused() -> None:
    scene, log = booted()
    attest(scene, log)
    scene.chip.extend(12, {"sha256": bytes(32)})
    assert host_codes(attest(scene)) == set()
    scene.chip.extend(4, {"sha256": bytes(32)})
    verdict = attest(scene)
    assert [(r.code, r.claim) for r in verdict.entry.reasons] == [("uefi-log-mismatch", "uefi_log.sha256.pcr4")]


@pytest.mark.parametrize(
    "log, claim",
    [(b"no log at all", None), (b"", None), (encode_log(Boot(banks=("sha1",)).measure()), "uefi_log.banks")],
)
def test_log_that_cannot_be_read_or_lacks_the_bank_is_refused(log: bytes, claim: str | None) -> None:
    scene, _ = booted()
    verdict = attest(scene, log)
    assert codes(verdict) == {"uefi-log-mismatch" if claim else "uefi-log-malformed"}
    assert claim is None or [reason.claim for reason in verdict.entry.reasons] == [claim]


def test_more_values_than_a_state_holds_are_refused() -> None:
    boot = Boot()
    log = boot.measure()
    for number in range(1100):
        boot.add(4, EV_EFI_BOOT_SERVICES_APPLICATION, image_load("x.efi"), b"%d" % number)
    assert len(log.events) < len(boot.events)
    scene, _ = booted()
    many = replace(log, events=tuple(boot.events))
    for index, value in registers(many, quoted=BOOT_PCRS).items():
        scene.chip.pcrs["sha256"][index] = value
    assert codes(attest(scene, encode_log(many))) == {"uefi-log-malformed"}


def test_boot_evidence_alone_roots_no_runtime() -> None:
    scene, log = booted(settings=STRICT)
    assert codes(attest(scene, log)) == {"attestor-not-rooted"}
    scene.references = (GOVERNED, reference(), *captured(scene))
    verdict = attest(scene, log)
    found = {(reason.code, reason.claim) for reason in verdict.entry.reasons}
    assert found == {("attestor-not-rooted", f"executables.{part}") for part in PARTS}


def test_host_that_never_sent_a_log_owes_none() -> None:
    scene, _ = booted()
    attest(scene)
    scene.reboot()
    scene.launch("one")
    assert host_codes(attest(scene)) == set()


def test_register_that_systemd_extended_is_explained_by_its_log() -> None:
    scene, log = booted()
    word = Digest.of(b"a word of systemd")
    scene.chip.extend(9, {"sha256": word.value})
    events = encode_systemd_log((UserspaceEvent(9, (("sha256", word.value),), "a word of systemd", "phase", "0" * 32),))
    assert "uefi-log-mismatch" in host_codes(scene.judge(with_log(scene, log)))
    told = scene.judge(replace(with_log(scene, log), systemd_log=events))
    assert host_codes(told) == set()
    assert host_codes(scene.judge(replace(with_log(scene, log), systemd_log=b"no log"))) == {"uefi-log-malformed"}


def test_log_of_a_confidential_machine_is_none_of_registers() -> None:
    scene, _ = booted()
    events = (UefiEvent(at, at + 1, EV_SEPARATOR, (("sha384", bytes(48)),), bytes(4)) for at in range(4))
    data = encode_log(UefiLog(LogKind.CCEL, (("sha384", 48),), tuple(events), None, 0))
    assert parse_uefi_log(data).kind is LogKind.CCEL
    assert [reason.claim for reason in attest(scene, data).entry.reasons] == ["uefi_log.kind"]


def test_register_of_the_runtime_log_is_no_part_of_the_boot() -> None:
    scene, log = booted()
    attest(scene, log)
    scene.references = (*scene.references, *captured(scene))
    scene.launch("two")
    assert host_codes(attest(scene, log)) == set()


def test_as_many_values_as_a_state_holds_are_kept() -> None:
    scene, log = booted()
    attest(scene, log)
    assert scene.state is not None
    assert scene.state.boot is not None
    known = len(dict(scene.state.boot.values)["boot"])
    boot = Boot()
    boot.measure()
    for number in range(MOST_VALUES - known):
        boot.add(4, EV_EFI_BOOT_SERVICES_APPLICATION, image_load("x.efi"), b"%d" % number)
    whole = replace(parse_uefi_log(log), events=tuple(boot.events))
    for index, value in registers(whole, quoted=BOOT_PCRS).items():
        scene.chip.pcrs["sha256"][index] = value
    assert host_codes(attest(scene, encode_log(whole))) == set()
    assert scene.state.boot is not None
    assert len(dict(scene.state.boot.values)["boot"]) == MOST_VALUES

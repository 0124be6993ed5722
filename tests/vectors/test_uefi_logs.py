"""Every published UEFI event log gives the values and verdicts that its manifest and sidecar state, from `verifier check uefi-log`."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.manifest import rows, run, said
from writ.formats.eventlog.uefi import parse_uefi_log

FOLDER = "uefi-eventlogs"


@dataclass(frozen=True)
class Row:
    """What one log must give beside its sidecar: Secure Boot, and the verdict against the register values that the origin states."""

    secure_boot: bool | None = None
    against: str = "accepted"
    failing: tuple[str, ...] = ()
    """Claims of the mismatches, where `against` is refused."""


SUPERMICRO = tuple(f"uefi_log.sha1.pcr{n}" for n in range(8))
LOGS = {
    "go-attestation/coreos_36_shielded_vm_no_secure_boot_eventlog.bin": Row(False),
    # SecureBoot without a value: the firmware has no such variable, so it is not on.
    "go-attestation/crypto_agile_eventlog.bin": Row(False),
    "go-tpm-tools/arch-linux-workstation.bin": Row(False),
    "go-tpm-tools/confidential-gke-debug-251000_eventlog.bin": Row(True),
    "go-tpm-tools/cos-85-amd-sev.bin": Row(True),
    "go-tpm-tools/cos-93-amd-sev.bin": Row(True),
    "go-tpm-tools/rhel8-uefi.bin": Row(True),
    # The manifest's description says Secure Boot on; the log, which replays to the stated values, measured SecureBoot = 0.
    "go-tpm-tools/ubuntu-1804-amd-sev.bin": Row(False),
    "go-tpm-tools/ubuntu-2104-no-secure-boot.bin": Row(False),
    "hirs/TpmLog.bin": Row(False),
    "immune/Haruhi.bin": Row(True),
    "immune/IMN-DELL-WBCL-BootCtrs.bin": Row(True),
    # The firmware measured no SecureBoot variable.
    "immune/IMN-SUPERMICRO-EPP-MSDefender.bin": Row(None, "refused", SUPERMICRO),
    "immune/binary_bios_measurements_15.bin": Row(False),
    "immune/failed-2.bin": Row(True, "refused", ("uefi_log.sha256.pcr0",)),
    "immune/good-1.bin": Row(True),
    "immune/h12ssl.bin": Row(False),
    "immune/latitude-7520.bin": Row(False),
    "immune/linux_event_log.bin": Row(False),
    "immune/ludmilla.bin": Row(False),
    "immune/test.bin": Row(True),
    "immune/windows_event_log.bin": Row(True),
    "immune/x1carbon.bin": Row(True),
    "intel-trustauthority/binary_bios_measurements20.bin": Row(False),
    "keylime/binary_bios_measurements-secureboot.bin": Row(True),
    "keylime/rust-uefi_log.bin": Row(False),
    "tpm2-tools/event-bootorder.bin": Row(False),
    "tpm2-tools/event-postcode.bin": Row(True),
    "tpm2-tools/event-uefi-sha1-log.bin": Row(False),
    "tpm2-tools/event-uefiaction.bin": Row(None),
    "tpm2-tools/event-uefiservices.bin": Row(None),
    "tpm2-tools/event-uefivar.bin": Row(True),
    "tpm2-tools/event.bin": Row(None),
    "tpm2-tss/binary_measurements_nuc.bin": Row(False),
    "trustee-ccel/CCEL_data.trimmed.bin": Row(None),
    "trustee-ccel/CCEL_data_grub.bin": Row(True),
    "trustee-ccel/CCEL_data_ovmf.bin": Row(False),
}
RENDERINGS = {
    "immune/binary_bios_measurements_15.events.json": "immune/binary_bios_measurements_15.bin",
    "immune/linux_event_log.events.json": "immune/linux_event_log.bin",
    "immune/windows_event_log.events.json": "immune/windows_event_log.bin",
}
"""The origin's rendering of a log, event by event."""
CCEL_RENDERINGS = {
    "trustee-ccel/CCEL_data_grub_out.json": "trustee-ccel/CCEL_data_grub.bin",
    "trustee-ccel/CCEL_data_out.json": "trustee-ccel/CCEL_data.trimmed.bin",
    "trustee-ccel/CCEL_data_ovmf_out.json": "trustee-ccel/CCEL_data_ovmf.bin",
}
OTHERS = {
    "go-attestation/windows_gcp_shielded_vm.json": "a log with its PCR values in one JSON: test_windows_dump_replays",
    "keylime/binary_bios_measurements-bogus.bin": "no log: test_bogus_log_is_refused",
    "tpm2-tools/event.bin.yaml": "the origin's rendering of event.bin: test_rendering_of_tpm2_tools",
}
UNSUPPORTED: dict[str, str] = {}
"""Manifest row -> why it cannot be supported."""

BOOTS = ("direct_kernel", "uki_esp")


def printed_registers(text: str) -> dict[str, dict[str, str]]:
    """Bank -> index -> hex, as tpm2_eventlog and tpm2_pcrread print registers."""
    found: dict[str, dict[str, str]] = {}
    bank = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*(sha\d+):", line):
            bank = match[1]
        elif match := re.fullmatch(r"\s+(\d+)\s*: 0x([0-9a-fA-F]+)", line):
            found.setdefault(bank, {})[match[1]] = match[2].lower()
    return found


def test_every_row_of_the_manifest_is_here(vectors: Path) -> None:
    assert rows(vectors, FOLDER) == {*LOGS, *RENDERINGS, *CCEL_RENDERINGS, *OTHERS, *UNSUPPORTED}


@pytest.mark.parametrize("name", LOGS)
def test_log_gives_what_is_stated(vectors: Path, tmp_path: Path, name: str) -> None:
    file, row = vectors / FOLDER / name, LOGS[name]
    told = json.loads(file.with_name(file.name + ".expected.json").read_text())
    replay = told["collector_replay"]

    result = run("uefi-log", file)

    claims = result["claims"]
    assert said(result) == ("accepted", [])
    assert (claims["events"], claims["startup_locality"], claims["secure_boot"]) == (
        replay["events"], replay["startup_locality"], row.secure_boot,
    )  # fmt: skip
    if "rtmrs_stated_by_origin" in told:
        assert claims["rtmrs"] == told["rtmrs_stated_by_origin"]
        against_stated(file, tmp_path, {"sha384": told["rtmrs_stated_by_origin"]}, row)
    else:
        assert claims["pcrs"] == replay["pcrs"]
    if "pcrs_stated_by_origin" in told:
        # ludmilla states placeholders ("aaaa…") for a bank that neither its log nor, in truth, its TPM has.
        stated = told["pcrs_stated_by_origin"]
        against_stated(file, tmp_path, {bank: stated[bank] for bank in stated if bank in replay["pcrs"]}, row)
    further = told.get("origin_further_expectations", {})
    if "efi_app_digests_in_order" in further:
        assert claims["applications"] == further["efi_app_digests_in_order"][best_bank(replay["pcrs"])]
    if "kernel_command_line" in further:
        # The origin keeps the NUL with which GRUB ends the data; the digest is over the text without it.
        assert claims["command_lines"] == [further["kernel_command_line"].rstrip("\0")]


def against_stated(file: Path, tmp_path: Path, stated: dict[str, Any], row: Row) -> None:
    """The same log against the values that the origin says the registers held."""
    (tmp_path / "pcrs.json").write_text(json.dumps(stated))
    result = run("uefi-log", file, "--pcrs", tmp_path / "pcrs.json")
    assert result["verdict"] == row.against, result["reasons"]
    assert {(reason["code"], reason["claim"]) for reason in result["reasons"]} == {("uefi-log-mismatch", claim) for claim in row.failing}


def best_bank(banks: dict[str, Any]) -> str:
    return next(bank for bank in ("sha512", "sha384", "sha256", "sha1") if bank in banks)


def test_supermicro_fault_is_known(vectors: Path, tmp_path: Path) -> None:
    file = vectors / FOLDER / "immune/IMN-SUPERMICRO-EPP-MSDefender.bin"
    stated = json.loads(file.with_name(file.name + ".expected.json").read_text())["pcrs_stated_by_origin"]
    (tmp_path / "pcrs.json").write_text(json.dumps(stated))

    assert run("uefi-log", file, "--pcrs", tmp_path / "pcrs.json")["claims"]["known_faults"] == ["supermicro-sha1-column"]

    (tmp_path / "pcrs.json").write_text(json.dumps({"sha256": stated["sha256"]}))
    assert said(run("uefi-log", file, "--pcrs", tmp_path / "pcrs.json")) == ("accepted", [])


def test_wrong_rtmr_is_refused_by_name(vectors: Path, tmp_path: Path) -> None:
    file = vectors / FOLDER / "trustee-ccel/CCEL_data.trimmed.bin"
    stated = json.loads(file.with_name(file.name + ".expected.json").read_text())["rtmrs_stated_by_origin"]
    (tmp_path / "rtmrs.json").write_text(json.dumps({"sha384": {**stated, "1": "2fa3" + stated["1"][4:]}}))

    result = run("uefi-log", file, "--pcrs", tmp_path / "rtmrs.json")

    assert [(reason["code"], reason["claim"]) for reason in result["reasons"]] == [("uefi-log-mismatch", "uefi_log.sha384.rtmr1")]


@pytest.mark.parametrize("name", RENDERINGS)
def test_rendering_of_the_origin_is_ours(vectors: Path, name: str) -> None:
    told = json.loads((vectors / FOLDER / name).read_text())
    events = parse_uefi_log((vectors / FOLDER / RENDERINGS[name]).read_bytes()).events

    # Windows closes its SHA-1 log with a record of register 0xffffffff, which the origin lists and we count as no event.
    closing = [event for event in told if event["Index"] == 0xFFFF_FFFF]
    assert len(closing) == (1 if "windows" in name else 0)
    assert [(event.pcr, event.type, event.data) for event in events] == [
        (event["Index"], event["Type"], base64.b64decode(event["Data"])) for event in told if event not in closing
    ]


@pytest.mark.parametrize("name", CCEL_RENDERINGS)
def test_rendering_of_a_ccel_is_ours(vectors: Path, name: str) -> None:
    told = json.loads((vectors / FOLDER / name).read_text())["uefi_event_logs"]
    events = parse_uefi_log((vectors / FOLDER / CCEL_RENDERINGS[name]).read_bytes()).events

    ours = [(event.pcr, event.data, [digest.hex() for _, digest in event.digests]) for event in events]
    theirs = [(event["index"], base64.b64decode(event["event"]), [digest["digest"] for digest in event["digests"]]) for event in told]
    assert ours == [event for event in theirs if not event[1].startswith(b"Spec ID Event03")]


def test_rendering_of_tpm2_tools(vectors: Path) -> None:
    told = (vectors / FOLDER / "tpm2-tools/event.bin.yaml").read_text()
    claims = run("uefi-log", vectors / FOLDER / "tpm2-tools/event.bin")["claims"]

    assert claims["events"] == told.count("EventNum:") - 1  # it lists the header as an event
    assert claims["pcrs"] == printed_registers(told)


def test_bogus_log_is_refused(vectors: Path) -> None:
    assert said(run("uefi-log", vectors / FOLDER / "keylime/binary_bios_measurements-bogus.bin")) == ("refused", ["malformed"])


def test_windows_dump_replays(vectors: Path, tmp_path: Path) -> None:
    dump = json.loads((vectors / FOLDER / "go-attestation/windows_gcp_shielded_vm.json").read_text())["Log"]
    (tmp_path / "log").write_bytes(base64.b64decode(dump["Raw"]))
    values = {str(row["Index"]): base64.b64decode(row["Digest"]).hex() for row in dump["PCRs"]}
    (tmp_path / "pcrs").write_text(json.dumps({"sha1": values}))

    result = run("uefi-log", tmp_path / "log", "--pcrs", tmp_path / "pcrs")

    assert said(result) == ("accepted", [])
    assert result["claims"]["secure_boot"] is True
    extended = result["claims"]["pcrs"]["sha1"]
    assert extended == {index: values[index] for index in extended}


@pytest.mark.parametrize("boot", BOOTS)
def test_measured_boot_replays_to_the_registers_of_its_tpm(vectors: Path, tmp_path: Path, boot: str) -> None:
    folder = vectors / "measured-boot" / boot
    held = printed_registers((folder / "pcrread_after.yaml").read_text())
    (tmp_path / "pcrs").write_text(json.dumps(held))

    result = run("uefi-log", folder / "binary_bios_measurements", "--pcrs", tmp_path / "pcrs")

    claims = result["claims"]
    assert said(result) == ("accepted", [])
    assert claims["secure_boot"] is False
    told = (folder / "eventlog.yaml").read_text()
    assert claims["events"] == told.count("EventNum:") - 1
    assert claims["pcrs"] == printed_registers(told)


def test_unified_kernel_image_gives_its_sections(vectors: Path) -> None:
    claims = run("uefi-log", vectors / "measured-boot/uki_esp/binary_bios_measurements")["claims"]

    assert [digest[:8] for digest in claims["applications"]] == ["d968260e", "5f21ff2c"]  # facts: the image, and its inner vmlinuz
    assert {name: digest[:8] for name, digest in claims["sections"].items()} == {
        "linux": "51349501", "osrel": "b1439670", "cmdline": "edc4275b", "initrd": claims["initrds"][0][:8],
    }  # fmt: skip
    assert len(claims["initrds"]) == 1

"""What a real boot leaves: logs that replay to a quote by the attestor's own TPM code, and in them what was booted."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from swtpm.guest import Boot, Image
from tests.guest.site import Guest
from writ.formats.eventlog.ima import Measured, parse_row, replay
from writ.formats.eventlog.uefi import parse_uefi_log
from writ.formats.pe import parse_pe
from writ.verdict.appraise.boot import BootClaims, judge_boot
from writ.verdict.registers import replay_registers

BIOS = "/sys/kernel/security/tpm0/binary_bios_measurements"
IMA = "/sys/kernel/security/ima/binary_runtime_measurements"
READ = """
import base64, json
from pathlib import Path
from attestor.esapi import EsapiTpm
tpm = EsapiTpm("device:/dev/tpmrm0", Path("/var/lib/writ/attestor/ak.cbor"))
pcrs = tpm.quote(b"first slice", "sha256").pcrs
print(json.dumps({str(n): pcrs.get(n).hex() for n in range(16)}))
tpm.close()
"""


@dataclass
class Boots:
    """What the guest gave after one quote: registers of the SHA-256 bank, the firmware's log, the IMA list."""

    pcrs: dict[int, bytes]
    uefi: bytes
    ima: bytes
    claims: BootClaims
    rows: tuple[Measured, ...]


@pytest.fixture(scope="module")
def booted(guest: Guest) -> Boots:
    script = base64.b64encode(READ.encode()).decode()
    told = guest.machine.run(f"printf %s {script} | base64 -d | /opt/writ/current/venv/bin/python3 -I -").output
    pcrs = {int(number): bytes.fromhex(value) for number, value in json.loads(told).items()}
    uefi, ima = guest.machine.read(BIOS), guest.machine.read(IMA)
    claims, reasons = judge_boot(parse_uefi_log(uefi), pcrs, "sha256")
    assert reasons == ()
    replayed = replay(ima, bytes(32), "sha256", pcrs[10])
    assert replayed is not None
    assert not replayed.violations
    return Boots(pcrs, uefi, ima, claims, tuple(row for row in map(parse_row, replayed.rows) if row is not None))


def test_every_register_of_the_boot_is_explained_by_the_log(booted: Boots) -> None:
    replayed = replay_registers(parse_uefi_log(booted.uefi), "sha256")

    assert {number: booted.pcrs[number] for number in replayed} == replayed
    assert {0, 1, 2, 3, 4, 5, 6, 7, 9, 11} <= replayed.keys()


def test_another_reader_of_the_log_replays_the_same(booted: Boots, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(booted.uefi)
    told = subprocess.run(["tpm2_eventlog", tmp_path / "log"], capture_output=True, text=True, check=True).stdout
    bank = told.rpartition("pcrs:")[2].partition("sha256:")[2].partition("sha384:")[0]
    theirs = {int(n): int(value, 16) for n, _, value in (line.strip().partition(" : ") for line in bank.splitlines() if " : " in line)}

    assert theirs == {
        number: int.from_bytes(value, "big") for number, value in replay_registers(parse_uefi_log(booted.uefi), "sha256").items()
    }


def test_secure_boot_is_on_and_the_image_booted_is_ours(booted: Boots, image: Image) -> None:
    """The stub starts the kernel inside past Secure Boot's check, as a part of what was signed, and so it is not measured apart."""
    assert booted.claims.secure_boot is True
    assert [application.digest for application in booted.claims.applications] == [parse_pe(image.uki().read_bytes()).digest().value]
    assert {name for name, _ in booted.claims.variables} == {"pk", "kek", "db", "dbx"}


def test_sections_of_the_image_are_those_that_were_built(booted: Boots, image: Image) -> None:
    sections, boot = dict(booted.claims.sections), Boot()

    assert sections["linux"] == hashlib.sha256(image.kernel.read_bytes()).digest()
    assert sections["initrd"] == hashlib.sha256(image.initrd(boot)).digest()
    assert sections["cmdline"] == hashlib.sha256(image.command_line(boot).encode()).digest()


def test_command_line_with_the_root_hash_is_measured_by_the_kernel_too(booted: Boots, image: Image) -> None:
    line = image.command_line(Boot())

    assert f":{image.verity.root}:" in line
    assert [given.digest for given in booted.claims.command_lines] == [hashlib.sha256(f"{line}\0".encode("utf-16-le")).digest()]


def test_everything_ima_measured_is_a_file_of_the_image(booted: Boots, image: Image) -> None:
    files = {row.name.decode(): row.digest.hex() for row in booted.rows if not row.buffer and row.name != b"boot_aggregate"}
    strange = {name: digest for name, digest in files.items() if image.digests.get(name) != digest}

    assert [name for name in strange if not name.startswith(("/etc/writ/", "/var/"))] == []
    assert {"/usr/bin/python3.11", "/usr/sbin/guest-init", "/etc/ima/ima-policy"} <= files.keys()


def test_python_code_of_the_attestor_is_measured(booted: Boots) -> None:
    names = {row.name.decode() for row in booted.rows}
    packages = "/opt/writ/guest/venv/lib/python3.11/site-packages"

    assert any(name.startswith(f"{packages}/attestor/__pycache__/agentd.") for name in names)
    assert any(name.startswith(f"{packages}/enforcer/__pycache__/supervisor.") for name in names)
    assert any(name.startswith(f"{packages}/tpm2_pytss/") and name.endswith(".so") for name in names)


def test_device_mapper_table_of_the_root_is_measured(booted: Boots, image: Image) -> None:
    tables = [row.buffer for row in booted.rows if row.name == b"dm_table_load"]

    assert any(image.verity.root.encode() in table for table in tables)


def test_the_policy_we_ship_is_the_one_in_force(guest: Guest) -> None:
    assert "guest: IMA policy loaded" in guest.machine.console()
    assert guest.machine.run("echo /etc/ima/ima-policy >/sys/kernel/security/ima/policy", ok=False).status != 0, "one policy a boot"

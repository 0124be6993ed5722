"""Two readers of one log: what we replay, `tpm2_eventlog` replays too, on every published log that it can read and on generated ones."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import missing
from tests.vectors.test_uefi_logs import BOOTS, FOLDER, LOGS, printed_registers
from tests.world.uefi_logs import HASHED, Boot, encode_log
from writ.formats.eventlog.uefi import BANKS, EV_IPL, EV_SEPARATOR, LogKind, UefiEvent, UefiLog, parse_uefi_log
from writ.verdict.registers import replay_registers, replayed_banks

CANNOT_READ = {
    "immune/IMN-SUPERMICRO-EPP-MSDefender.bin": "refuses register 0xffffffff, which EV_NO_ACTION may have",
    "immune/windows_event_log.bin": "ends by a signal at the same",
    "trustee-ccel/CCEL_data.trimmed.bin": "takes padding for events",
    "trustee-ccel/CCEL_data_grub.bin": "refuses a header that is not of PCR 0",
    "trustee-ccel/CCEL_data_ovmf.bin": "refuses a header that is not of PCR 0",
}
"""Log -> what tpm2_eventlog 5 does; the sidecars say the same."""


@pytest.fixture(scope="module")
def tpm2_eventlog() -> str:
    found = shutil.which("tpm2_eventlog")
    if found is None:
        missing("tpm2_eventlog (Debian: tpm2-tools)")
    assert found is not None
    return found


def theirs(program: str, file: Path) -> dict[str, dict[str, str]]:
    """The registers that tpm2_eventlog replays."""
    done = subprocess.run([program, str(file)], capture_output=True, check=True, timeout=30)
    return printed_registers(done.stdout.decode("utf-8", "replace").rpartition("\npcrs:")[2])


def ours(log: UefiLog) -> dict[str, dict[str, str]]:
    banks = {bank: replay_registers(log, bank) for bank in replayed_banks(log)}
    return {bank: {str(index): value.hex() for index, value in values.items()} for bank, values in banks.items() if values}


@pytest.mark.parametrize("name", [name for name in LOGS if name not in CANNOT_READ])
def test_published_log_replays_the_same(tpm2_eventlog: str, vectors: Path, name: str) -> None:
    file = vectors / FOLDER / name
    told, mine = theirs(tpm2_eventlog, file), ours(parse_uefi_log(file.read_bytes()))

    # It extends EV_NO_ACTION events, start-up locality among them, into PCR 0: the sidecars name the logs where that shows.
    sidecar = json.loads(file.with_name(file.name + ".expected.json").read_text())["tpm2_eventlog_5_6"]
    differing = {f"{bank}[{index}]" for bank, values in mine.items() for index, value in values.items() if told[bank][index] != value}
    assert differing in (set(), set(sidecar["pcrs_differing_from_collector_replay"]))  # since 5.7 it does not
    assert differing <= {f"{bank}[0]" for bank in mine}
    assert {bank: set(values) for bank, values in told.items()} == {bank: set(values) for bank, values in mine.items()}


@pytest.mark.parametrize("boot", BOOTS)
def test_log_of_a_real_boot_replays_the_same(tpm2_eventlog: str, vectors: Path, boot: str) -> None:
    file = vectors / "measured-boot" / boot / "binary_bios_measurements"

    assert theirs(tpm2_eventlog, file) == ours(parse_uefi_log(file.read_bytes()))


@pytest.mark.parametrize("banks", [("sha1",), ("sha256",), ("sha1", "sha256", "sha384", "sha512")])
def test_log_of_a_generated_boot_replays_the_same(tpm2_eventlog: str, tmp_path: Path, banks: tuple[str, ...]) -> None:
    (tmp_path / "log").write_bytes(encode_log(Boot(banks=banks, grub_commands=5).measure()))

    assert theirs(tpm2_eventlog, tmp_path / "log") == ours(parse_uefi_log((tmp_path / "log").read_bytes()))


@st.composite
def readable_logs(draw: st.DrawFn) -> UefiLog:
    """What both can read: hash functions that both know, no EV_NO_ACTION, types whose data it leaves alone, PCRs of a static boot."""
    kind = draw(st.sampled_from((LogKind.CRYPTO_AGILE, LogKind.SHA1)))
    names = ("sha1",) if kind is LogKind.SHA1 else tuple(draw(st.lists(st.sampled_from(HASHED), min_size=1, unique=True)))
    sizes = dict(BANKS.values())
    events = [
        UefiEvent(
            at, draw(st.integers(0, 15)), draw(st.sampled_from((EV_IPL, EV_SEPARATOR))),
            tuple((name, draw(st.binary(min_size=sizes[name], max_size=sizes[name]))) for name in names),
            draw(st.text("abc /=", min_size=4, max_size=30)).encode(),
        )
        for at in range(draw(st.integers(1, 8)))
    ]  # fmt: skip
    events.append(UefiEvent(len(events), 0, EV_SEPARATOR, tuple((name, bytes(sizes[name])) for name in names), bytes(4)))
    return UefiLog(kind, tuple((name, sizes[name]) for name in names), tuple(events), None, 0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(readable_logs())
def test_generated_log_replays_the_same(tpm2_eventlog: str, tmp_path: Path, log: UefiLog) -> None:
    (tmp_path / "log").write_bytes(encode_log(log))

    assert theirs(tpm2_eventlog, tmp_path / "log") == ours(parse_uefi_log((tmp_path / "log").read_bytes()))

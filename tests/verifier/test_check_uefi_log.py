"""`verifier check uefi-log`, and what `check quote --log` asks: claims as far as a log can be read, reasons by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.vectors.manifest import run, said
from tests.world.uefi_logs import Boot, encode_log, encode_spec_id, registers
from verifier.check.finding import Finding
from verifier.check.uefi_log import judge_log
from writ.formats.errors import FormatError

BANKS = ("sha1", "sha256")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "log"
    file.write_bytes(encode_log(Boot(banks=BANKS, locality=3).measure()))
    return file


def values(file: Path, **changes: str) -> Path:
    """What the TPM holds, with some PCRs of the SHA-256 bank changed."""
    held = {bank: {str(index): value.hex() for index, value in registers(Boot(locality=3).measure(), bank).items()} for bank in BANKS}
    held["sha256"] |= {index.removeprefix("pcr"): value for index, value in changes.items()}
    target = file.with_name("pcrs.json")
    target.write_text(json.dumps(held))
    return target


def test_log_gives_its_claims(log: Path) -> None:
    result = run("uefi-log", log)
    claims = result["claims"]

    assert said(result) == ("accepted", [])
    assert (claims["events"], claims["startup_locality"], claims["secure_boot"]) == (len(Boot(locality=3).measure().events), 3, True)
    held = registers(Boot(locality=3).measure())
    assert claims["pcrs"]["sha256"] == {str(index): held[index].hex() for index in (*range(8), 9, 11)}
    assert claims["pcrs"].keys() == {"sha1", "sha256"}
    assert claims["command_lines"] == [Boot().measure().events[-3].digests[1][1].hex()]


def test_log_that_replays_to_the_values_is_accepted(log: Path) -> None:
    assert said(run("uefi-log", log, "--pcrs", values(log))) == ("accepted", [])


def test_log_of_another_machine_is_refused_by_register(log: Path) -> None:
    result = run("uefi-log", log, "--pcrs", values(log, pcr7="00" * 32))

    assert [(reason["code"], reason["claim"]) for reason in result["reasons"]] == [("uefi-log-mismatch", "uefi_log.sha256.pcr7")]
    assert result["claims"]["secure_boot"] is None
    assert result["claims"]["pcrs"]["sha256"]["7"] == registers(Boot().measure())[7].hex()


def test_known_fault_is_named_and_excuses_nothing(log: Path) -> None:
    result = run("uefi-log", log, "--pcrs", values(log, pcr0="00" * 32))

    assert result["verdict"] == "refused"
    assert "vmware-pcr0" in result["claims"]["known_faults"]


def test_cut_log_is_refused_with_the_claims_up_to_the_cut(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-5])

    result = run("uefi-log", log)

    assert said(result) == ("refused", ["malformed"])
    assert result["claims"]["events"] == len(Boot(locality=3).measure().events) - 1
    assert result["claims"]["pcrs"]["sha256"]["7"] == registers(Boot().measure())[7].hex()


def test_bytes_that_are_no_log_are_refused(log: Path) -> None:
    log.write_bytes(b"not a log")

    assert said(run("uefi-log", log)) == ("refused", ["malformed"])


def test_log_of_a_header_alone_has_no_events(log: Path) -> None:
    log.write_bytes(encode_spec_id([(0x0B, 32)]))

    result = run("uefi-log", log)

    assert said(result) == ("accepted", [])
    assert (result["claims"]["events"], result["claims"]["pcrs"]) == (0, {})


MALFORMED = {
    "no object": "[]",
    "a PCR that no TPM has": '{"sha256": {"24": ""}}',
    "no index": '{"sha256": {"x": ""}}',
    "a value of another size": '{"sha256": {"0": "00"}}',
    "a value that is a number": '{"sha256": {"0": 1}}',
    "an unknown bank": '{"md5": {}}',
    "a bank that is a list": '{"sha256": []}',
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_values_are_refused(log: Path, text: str) -> None:
    log.with_name("pcrs").write_text(text)

    assert said(run("uefi-log", log, "--pcrs", log.with_name("pcrs"))) == ("refused", ["malformed"])


def test_quote_of_another_bank_than_the_log_is_refused(log: Path) -> None:
    finding = Finding()
    judge_log(finding, log.read_bytes(), {"sha384": registers(Boot(banks=("sha384",)).measure(), "sha384")})

    assert [(reason.code, reason.expected) for reason in finding.reasons] == [("uefi-log-mismatch", "a bank of sha1, sha256")]


def test_quoted_values_judge_a_log() -> None:
    measured = Boot(banks=("sha256",), secure_boot=b"\0").measure()
    finding = Finding()
    judge_log(finding, encode_log(measured), {"sha256": registers(measured), "sha1": {0: bytes(20)}})
    assert finding.reasons == []
    assert [note.claim for note in finding.notes] == ["uefi_log.sha1"]
    assert finding.claims["secure_boot"] is False

    finding = Finding()
    judge_log(finding, encode_log(measured), {"sha256": {**registers(measured), 4: bytes(32)}})
    assert [reason.claim for reason in finding.reasons] == ["uefi_log.sha256.pcr4"]

    with pytest.raises(FormatError):
        judge_log(Finding(), encode_log(measured)[:-1], {"sha256": registers(measured)})

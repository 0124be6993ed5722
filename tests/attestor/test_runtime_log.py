"""The runtime log and its register agree, whatever happened to either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attestor.collect.runtime_log import RuntimeLog
from attestor.esapi import EsapiTpm
from swtpm import SoftTpm
from writ.formats.digest import Digest, extend
from writ.formats.errors import Refused, Unavailable
from writ.formats.eventlog.cel import parse_cel
from writ.formats.eventlog.runtime import ComponentEvent, event_digests, parse_record

PCR = 13


def component(number: int) -> ComponentEvent:
    return ComponentEvent("governance", f"part-{number}", Digest.of(bytes([number])))


@pytest.fixture
def tpm(soft_tpm: SoftTpm, tmp_path: Path) -> EsapiTpm:
    return EsapiTpm(soft_tpm.tcti, tmp_path / "ak.cbor", allow_software=True)


def opened(tmp_path: Path, tpm: EsapiTpm) -> RuntimeLog:
    log = RuntimeLog(tmp_path / "log", tpm, pcr=PCR, bank="sha256")
    log.open()
    return log


def replayed(data: bytes, bank: str) -> bytes:
    """The register after the log, computed apart from the product."""
    register = bytes(32 if bank == "sha256" else 48)
    for record in parse_cel(data):
        register = extend(bank, register, event_digests(record.content, (bank,))[0].value)
    return register


def test_every_active_bank_replays_to_its_register(tmp_path: Path, tpm: EsapiTpm) -> None:
    log = opened(tmp_path, tpm)
    for number in range(5):
        assert log.append(component(number)) == number
    data = log.since(0, 5)
    assert data == (tmp_path / "log/runtime.cel").read_bytes()
    for bank in ("sha256", "sha384"):
        assert tpm.read(bank).get(PCR) == replayed(data, bank)
    assert log.position(tpm.read("sha256").get(PCR)) == 5
    assert log.position(bytes(32)) == 0
    assert log.position(b"\1" * 32) is None
    assert log.since(3, 4) == data[len(log.since(0, 3)) : len(log.since(0, 4))]


def test_log_is_found_again_as_it_was(tmp_path: Path, tpm: EsapiTpm) -> None:
    first = opened(tmp_path, tpm)
    first.append(component(1))
    first.close()
    again = opened(tmp_path, tpm)
    assert again.events == (component(1),)
    assert again.append(component(2)) == 1
    assert len(again) == 2


@pytest.mark.parametrize("moment", ["before-extend", "after-extend", "torn"])
def test_killed_at_each_moment_of_an_append_the_log_agrees_again(moment: str, tmp_path: Path, soft_tpm: SoftTpm, tpm: EsapiTpm) -> None:
    opened_log = opened(tmp_path, tpm)
    opened_log.append(component(1))
    opened_log.close()
    child = subprocess.run([sys.executable, "-c", CHILD, soft_tpm.tcti, str(tmp_path), moment], check=False, cwd=Path(__file__).parents[2])
    assert child.returncode == -signal.SIGKILL

    log = opened(tmp_path, tpm)
    expected = (component(1),) if moment == "torn" else (component(1), component(2))
    assert log.events == expected
    assert tpm.read("sha256").get(PCR) == replayed((tmp_path / "log/runtime.cel").read_bytes(), "sha256")
    assert log.append(component(3)) == len(expected)


CHILD = """
import os, pathlib, signal, sys
from attestor.collect.runtime_log import RuntimeLog
from attestor.esapi import EsapiTpm
from writ.formats.digest import Digest
from writ.formats.eventlog.runtime import ComponentEvent

tcti, directory, moment = sys.argv[1:]

class Dying(EsapiTpm):
    def extend(self, pcr, digests):
        if moment == "after-extend":
            super().extend(pcr, digests)
        if moment == "torn":
            path = pathlib.Path(directory) / "log/runtime.cel"
            os.truncate(path, path.stat().st_size - 7)
        os.kill(os.getpid(), signal.SIGKILL)

tpm = Dying(tcti, pathlib.Path(directory) / "ak.cbor", allow_software=True)
log = RuntimeLog(pathlib.Path(directory) / "log", tpm, pcr=13, bank="sha256")
log.open()
log.append(ComponentEvent("governance", "part-2", Digest.of(bytes([2]))))
"""


def test_reboot_archives_the_log_and_begins_a_clean_one(tmp_path: Path, soft_tpm: SoftTpm, tpm: EsapiTpm) -> None:
    log = opened(tmp_path, tpm)
    log.append(component(1))
    old = (tmp_path / "log/runtime.cel").read_bytes()
    log.close()
    soft_tpm.reset()
    log = opened(tmp_path, tpm)
    assert log.events == ()
    assert log.append(component(2)) == 0
    assert [path.read_bytes() for path in (tmp_path / "log/archive").iterdir()] == [old]


def test_reboot_after_one_event_is_a_reboot_and_not_a_lost_extend(tmp_path: Path, soft_tpm: SoftTpm, tpm: EsapiTpm) -> None:
    """With one event in the log, "one behind" and "clean" are the same register: the counters tell them apart."""
    log = opened(tmp_path, tpm)
    log.append(component(1))
    log.close()
    soft_tpm.reset()
    assert opened(tmp_path, tpm).events == ()
    assert tpm.read("sha256").get(PCR) == bytes(32)


def test_reset_under_a_running_log_is_noticed_before_the_next_event(tmp_path: Path, soft_tpm: SoftTpm, tpm: EsapiTpm) -> None:
    log = opened(tmp_path, tpm)
    log.append(component(1))
    boots = log.boots
    soft_tpm.reset()
    with pytest.raises(Unavailable, match="reset"):
        log.append(component(2))
    assert log.boots == boots + 1
    assert log.append(component(2)) == 0


def test_resume_from_suspend_keeps_the_log(tmp_path: Path, soft_tpm: SoftTpm, tpm: EsapiTpm) -> None:
    log = opened(tmp_path, tpm)
    log.append(component(1))
    soft_tpm.resume()
    assert log.append(component(2)) == 1


def test_register_extended_by_another_is_refused(tmp_path: Path, tpm: EsapiTpm) -> None:
    tpm.extend(PCR, (Digest.of(b"x"), Digest.of(b"x", "sha384")))
    with pytest.raises(Refused, match="register-unclean"):
        opened(tmp_path, tpm)


def test_register_of_which_one_bank_was_not_extended_is_refused(tmp_path: Path, tpm: EsapiTpm) -> None:
    log = opened(tmp_path, tpm)
    log.append(component(1))
    log.close()
    tpm.extend(PCR, (Digest.of(b"x", "sha384"),))
    with pytest.raises(Refused, match="register-unclean"):
        opened(tmp_path, tpm)


def test_log_changed_on_the_disk_is_refused(tmp_path: Path, tpm: EsapiTpm) -> None:
    log = opened(tmp_path, tpm)
    log.append(component(1))
    log.append(component(2))
    log.close()
    path = tmp_path / "log/runtime.cel"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"part-1", b"part-9"))
    with pytest.raises(Unavailable, match="digest"):
        opened(tmp_path, tpm)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises((Refused, Unavailable)):
        opened(tmp_path, tpm)


def test_extend_that_was_lost_is_made_up_before_the_next_event(tmp_path: Path, soft_tpm: SoftTpm) -> None:
    tpm = Losing(soft_tpm.tcti, tmp_path / "ak.cbor", allow_software=True)
    log = opened(tmp_path, tpm)
    for answer_lost in (True, False):
        tpm.losing, tpm.done = True, answer_lost
        written = log.written
        with pytest.raises(Unavailable):
            log.append(component(written))
        assert log.written == written + 1
        assert len(log) == written
        tpm.losing = False
    log.append(component(9))
    assert log.events == (component(0), component(1), component(9))
    assert tpm.read("sha256").get(PCR) == replayed((tmp_path / "log/runtime.cel").read_bytes(), "sha256")


class Losing(EsapiTpm):
    """Does not answer an extend while `losing`, which was nevertheless `done` or not."""

    losing = False
    done = False

    def extend(self, pcr: int, digests: tuple[Digest, ...]) -> None:
        if not self.losing or self.done:
            super().extend(pcr, digests)
        if self.losing:
            raise Unavailable("TPM", "no answer")


def test_event_without_bytes_changes_nothing(tmp_path: Path, tpm: EsapiTpm) -> None:
    log = opened(tmp_path, tpm)
    with pytest.raises(Exception, match="name"):
        log.append(ComponentEvent("governance", "No Name", Digest.of(b"")))
    assert log.written == 0
    assert tpm.read("sha256").get(PCR) == bytes(32)


def test_directory_is_held_by_one(tmp_path: Path, tpm: EsapiTpm) -> None:
    first = opened(tmp_path, tpm)
    with pytest.raises(Unavailable, match="another attestor"):
        opened(tmp_path, tpm)
    first.close()
    opened(tmp_path, tpm).close()


def test_records_on_the_disk_are_what_they_claim(tmp_path: Path, tpm: EsapiTpm) -> None:
    log = opened(tmp_path, tpm)
    log.append(component(1))
    (record,) = parse_cel((tmp_path / "log/runtime.cel").read_bytes())
    assert record.pcr == PCR
    assert [digest.algorithm for digest in record.digests] == ["sha256", "sha384"]
    assert parse_record(record) == component(1)
    assert os.stat(tmp_path / "log/runtime.cel").st_mode & 0o777 == 0o600

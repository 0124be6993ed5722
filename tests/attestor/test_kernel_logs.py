"""The logs of boot and IMA travel whole once, then only what is new, and again whenever the verifier asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from attestor.collect import kernel_logs
from attestor.collect.kernel_logs import MAX_BOOT_LOG, KernelLogs
from attestor.config import AttestorConfig, LogPaths
from tests.world.ima_logs import Kernel
from writ.formats.digest import Digest
from writ.formats.errors import Unavailable
from writ.formats.evidence import ImaLog

A, B, C = "/usr/bin/a", "/usr/bin/b", "/usr/bin/c"


def measured(*files: str) -> Kernel:
    """A kernel that measured these files, and nothing before them."""
    kernel = Kernel(aggregate=False)
    for file in files:
        kernel.measure(file, Digest.of(file.encode()))
    return kernel


def listed(*files: str) -> bytes:
    """Their entries, as `binary_runtime_measurements` has them."""
    return measured(*files).binary


def register(*files: str) -> bytes:
    """PCR 10 of the SHA-256 bank after them."""
    return measured(*files).pcr10["sha256"]


@pytest.fixture
def paths(tmp_path: Path) -> LogPaths:
    """Three logs on the disk, the IMA list of two entries."""
    found = LogPaths(tmp_path / "uefi", tmp_path / "systemd", tmp_path / "ima")
    for path, data in ((found.uefi, b"firmware"), (found.systemd, b"systemd"), (found.ima, listed(A, B))):
        assert path is not None
        path.write_bytes(data)
    return found


def test_everything_travels_until_it_was_appraised(paths: LogPaths) -> None:
    logs = KernelLogs(paths, "sha256")
    sent = logs.travelling(register(A, B))
    assert (sent.uefi, sent.systemd, sent.ima) == (b"firmware", b"systemd", ImaLog(0, listed(A, B)))
    assert logs.travelling(register(A, B)) == sent

    logs.acknowledge(sent)

    again = logs.travelling(register(A, B))
    assert (again.uefi, again.systemd, again.ima) == (None, None, ImaLog(2, b""))


def test_only_new_entries_up_to_the_quoted_register_travel(paths: LogPaths) -> None:
    assert paths.ima is not None
    logs = KernelLogs(paths, "sha256")
    paths.ima.write_bytes(listed(A, B, C))
    first = logs.travelling(register(A))
    assert first.ima == ImaLog(0, listed(A))
    logs.acknowledge(first)
    assert logs.travelling(register(A, B)).ima == ImaLog(1, listed(B))
    assert logs.travelling(register(A, B, C)).ima == ImaLog(1, listed(B, C))


def test_list_is_read_only_when_the_register_has_moved(paths: LogPaths) -> None:
    assert paths.ima is not None
    logs = KernelLogs(paths, "sha256")
    logs.acknowledge(logs.travelling(register(A, B)))
    paths.ima.unlink()
    paths.ima.mkdir()  # so that to open it is seen
    still = logs.travelling(register(A, B))
    assert still.ima == ImaLog(2, b"")
    logs.acknowledge(still)
    with pytest.raises(Unavailable, match=str(paths.ima)):
        logs.travelling(register(A, B, C))
    paths.ima.rmdir()
    paths.ima.write_bytes(listed(A, B, C))
    assert logs.travelling(register(A, B, C)).ima == ImaLog(2, listed(C))


def test_long_list_travels_in_parts_that_end_with_an_entry(paths: LogPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.ima is not None
    paths.ima.write_bytes(listed(A, B, C))
    logs = KernelLogs(paths, "sha256")
    for most in (len(listed(A, B)), len(listed(A, B)) + 1, len(listed(A, B, C)) - 1):
        monkeypatch.setattr(kernel_logs, "MAX_PART", most)
        assert logs.travelling(register(A, B, C)).ima == ImaLog(0, listed(A, B), more=True)
        assert logs.travelling(register(A, B)).ima == ImaLog(0, listed(A, B)), "all that is quoted"
    monkeypatch.setattr(kernel_logs, "MAX_PART", len(listed(A)))
    for at, file in enumerate((A, B)):
        part = logs.travelling(register(A, B, C))
        assert part.ima == ImaLog(at, listed(file), more=True)
        assert logs.travelling(register(A, B, C)) == part, "until it was appraised"
        logs.acknowledge(part)
    last = logs.travelling(register(A, B, C))
    assert last.ima == ImaLog(2, listed(C))
    logs.acknowledge(last)
    assert logs.travelling(register(A, B, C)).ima == ImaLog(3, b"")


def test_list_that_does_not_lead_to_the_register_travels_whole(paths: LogPaths) -> None:
    logs = KernelLogs(paths, "sha256")
    sent = logs.travelling(register(A, B))
    logs.acknowledge(sent)
    assert logs.travelling(register(C)).ima == ImaLog(0, listed(A, B))
    assert paths.ima is not None
    paths.ima.write_bytes(b"no list of entries at all, and longer than those two that stood there before it was written over this way" * 4)
    assert logs.travelling(register(C)).ima == ImaLog(0, paths.ima.read_bytes())


def test_what_the_verifier_asks_for_travels_again(paths: LogPaths) -> None:
    logs = KernelLogs(paths, "sha256")
    logs.acknowledge(logs.travelling(register(A, B)))
    logs.forget()
    sent = logs.travelling(register(A, B))
    assert (sent.uefi, sent.ima) == (b"firmware", ImaLog(0, listed(A, B)))


def test_host_without_such_logs_sends_none(tmp_path: Path) -> None:
    for paths in (LogPaths(), LogPaths(tmp_path / "none", tmp_path / "none", tmp_path / "none")):
        sent = KernelLogs(paths, "sha256").travelling(bytes(32))
        assert (sent.uefi, sent.systemd, sent.ima) == (None, None, None)
    (tmp_path / "empty").write_bytes(b"")
    assert KernelLogs(LogPaths(ima=tmp_path / "empty"), "sha256").travelling(bytes(32)).ima is None


def test_log_that_is_too_long_or_cannot_be_read_is_named(tmp_path: Path, paths: LogPaths) -> None:
    with pytest.raises(Unavailable, match=str(tmp_path)):
        KernelLogs(LogPaths(uefi=tmp_path), "sha256").travelling(bytes(32))
    assert paths.uefi is not None
    with paths.uefi.open("wb") as file:
        file.truncate(MAX_BOOT_LOG + 1)
    with pytest.raises(Unavailable, match=f"at most {MAX_BOOT_LOG} bytes"):
        KernelLogs(paths, "sha256").travelling(bytes(32))


def test_logs_of_the_hardware_tpm_are_found_and_those_of_the_host_are_not_taken_for_a_software_tpm(tmp_path: Path) -> None:
    security = Path("/sys/kernel/security")
    hardware = AttestorConfig(tcti="device:/dev/tpmrm1").logs
    assert (hardware.uefi, hardware.ima) == (security / "tpm1/binary_bios_measurements", security / "ima/binary_runtime_measurements")
    assert AttestorConfig(tcti="swtpm:path=/run/x").logs == LogPaths()
    assert AttestorConfig(tcti="swtpm:path=/run/x", ima_log=tmp_path).logs == LogPaths(ima=tmp_path)
    assert AttestorConfig(tcti="device:/dev/tpmrm0", uefi_log=tmp_path).logs.uefi == tmp_path
    assert AttestorConfig(tcti="device:/dev/tpmrm0", uefi_log=tmp_path, send_logs=False).logs == LogPaths()

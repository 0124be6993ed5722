"""One software TPM: a swtpm process on unix sockets, with the power button under the test's finger.

Command socket at PATH, control socket at PATH.ctrl, which is where the `swtpm` TCTI looks for it.

Source: swtpm(8); swtpm's tpm_ioctl.h for the control channel (CMD_INIT, CMD_SHUTDOWN); TPM 2.0 Library Part 1, 12.2.3 (reset, restart).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from swtpm.slow import Delays, SlowSocket, read_message

_START_WITHIN: Final = 10.0
"""Seconds."""
_ANSWER_WITHIN: Final = 30.0
"""Seconds."""

_CTRL_INIT: Final = struct.pack(">II", 2, 0)
_CTRL_SHUTDOWN: Final = struct.pack(">I", 3)
_CLEAR: Final = 0
_STATE: Final = 1
_CLEAR_COMMAND: Final = 0x126
_LOCKOUT: Final = 0x4000000A
_PASSWORD: Final = 0x40000009
_STARTUP: Final = 0x144
_SHUTDOWN: Final = 0x145


class SoftTpmError(Exception):
    """The software TPM, or the tool that makes one, did not do what it was told."""


class SoftTpm:
    """A running TPM over the state in `state`; a context manager. `clone` first copies the state, so that the original never changes.

    `ca_pem` is the root of its manufacturer, `intermediates_pem` what lies between the root and the EK certificates.
    """

    def __init__(
        self, state: Path, *, ca_pem: bytes, intermediates_pem: bytes = b"", clone: bool = True, delays: Delays | None = None
    ) -> None:
        self.ca_pem: Final = ca_pem
        self.intermediates_pem: Final = intermediates_pem
        # A unix socket's path holds 107 bytes; a test's own directory may be longer.
        self._room = Path(tempfile.mkdtemp(prefix="swtpm-"))
        self._state = self._room / "state" if clone else state
        if clone:
            shutil.copytree(state, self._state)
        self._tpm = self._room / "tpm"
        self._delays = delays
        self._slow: SlowSocket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.power_on()
        except BaseException:
            self.close()
            raise

    @property
    def tcti(self) -> str:
        """The TCTI string that reaches this TPM."""
        return f"swtpm:path={self._room / 'slow' if self._delays else self._tpm}"

    @property
    def pid(self) -> int:
        """Of the swtpm process. Raises SoftTpmError when the power is off."""
        if self._process is None:
            raise SoftTpmError("expected a TPM that is on, got one that is off")
        return self._process.pid

    def power_on(self) -> None:
        """The TPM answers, after TPM2_Startup(CLEAR)."""
        if self._process is not None:
            raise SoftTpmError("expected a TPM that is off, got one that is on")
        self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}", "--flags", "not-need-init,startup-clear"),
                *("--server", f"type=unixio,path={self._tpm}", "--ctrl", f"type=unixio,path={self._control}"),
                *("--log", f"file={self._room / 'log'},level=1"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until_up(self._process)
        if self._delays and self._slow is None:
            self._slow = SlowSocket(self._room / "slow", self._tpm, self._delays)

    def power_off(self, *, orderly: bool = True) -> None:
        """The process is gone. Unless `orderly`, the TPM was not told, as when a cable is pulled: `safe` may be lost."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if orderly:
            with contextlib.suppress(OSError, SoftTpmError):  # a TPM that is gone already is off
                self._shutdown(_CLEAR)
                self._ask_control(_CTRL_SHUTDOWN)
        else:
            process.kill()
        try:
            process.wait(timeout=_ANSWER_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def reset(self, *, orderly: bool = True) -> None:
        """The machine has rebooted: PCRs cleared, resetCount one higher, every transient object and session gone."""
        if orderly:
            self._shutdown(_CLEAR)
        self._ask_control(_CTRL_INIT)
        self._startup(_CLEAR)

    def resume(self) -> None:
        """The machine has slept and woken: PCRs kept, restartCount one higher."""
        self._shutdown(_STATE)
        self._ask_control(_CTRL_INIT)
        self._startup(_STATE)

    def restart(self) -> None:
        """The machine was told to suspend and booted instead: PCRs cleared, restartCount one higher, resetCount as it was."""
        self._shutdown(_STATE)
        self._ask_control(_CTRL_INIT)
        self._startup(_CLEAR)

    def clear(self) -> None:
        """TPM2_Clear by lockout authorisation: hierarchies and their objects are gone, the counters start from zero."""
        session = struct.pack(">IIHBH", 9, _PASSWORD, 0, 0, 0)
        answer = self.command(struct.pack(">HIII", 0x8002, 14 + len(session), _CLEAR_COMMAND, _LOCKOUT) + session)
        if answer[6:10] != bytes(4):
            raise SoftTpmError(f"TPM2_Clear: expected success, got {answer.hex()}")

    def command(self, data: bytes) -> bytes:
        """The TPM's answer to one raw command."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_WITHIN)
            connection.connect(os.fspath(self._tpm))
            connection.sendall(data)
            return read_message(connection)

    def close(self) -> None:
        """Off, and what was copied is deleted."""
        self.power_off()
        if self._slow is not None:
            self._slow.close()
        shutil.rmtree(self._room, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _control(self) -> Path:
        return self._tpm.with_name(self._tpm.name + ".ctrl")

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_WITHIN
        while True:
            # Either socket may be the first to listen.
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as control, socket.socket(socket.AF_UNIX) as command:
                control.connect(os.fspath(self._control))
                command.connect(os.fspath(self._tpm))
                return
            if process.poll() is not None or time.monotonic() > deadline:
                log = self._room / "log"
                raise SoftTpmError(f"swtpm did not start: {log.read_text() if log.exists() else 'it left no log'}")
            time.sleep(0.002)

    def _startup(self, kind: int) -> None:
        self._expect_success(_STARTUP, kind)

    def _shutdown(self, kind: int) -> None:
        self._expect_success(_SHUTDOWN, kind)

    def _expect_success(self, code: int, kind: int) -> None:
        answer = self.command(struct.pack(">HIIH", 0x8001, 12, code, kind))
        if answer != struct.pack(">HII", 0x8001, 10, 0):
            raise SoftTpmError(f"TPM command {code:#x}: expected success, got {answer.hex()}")

    def _ask_control(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_WITHIN)
            connection.connect(os.fspath(self._control))
            connection.sendall(data)
            answer = connection.recv(4)
        if answer != bytes(4):
            raise SoftTpmError(f"swtpm control {data.hex()}: expected success, got {answer.hex()}")

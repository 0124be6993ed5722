"""A machine: QEMU, its firmware's variables, its TPM and its data disk, with the power button under the test's finger.

HOME/tpm/        the state of swtpm
HOME/vars.fd     the firmware's variables, Secure Boot keys among them
HOME/data.ext4   what the guest mounts at /var
HOME/console.log what kernel and guest-init said, of the last start

Only what lies in HOME changes, so a copy of HOME is a copy of the machine, TPM included. The guest reaches one address, 10.0.2.100:8443,
which is a port of this host's loopback address, and nothing else.

Source: qemu(1): tpm-crb, guestfwd, pflash; swtpm(8); OVMF README (SMM and Secure Boot).
"""

from __future__ import annotations

import base64
import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from swtpm.guest.accelerator import FIRMWARE, accelerator
from swtpm.guest.disk import make_data
from swtpm.guest.image import Image

VERIFIER: Final = ("10.0.2.100", 8443)
"""Where the guest finds the verifier."""
BOOT_WITHIN: Final = 240.0
"""Seconds to the first answer of the guest: 20 to 40 under emulation on an idle machine."""

_FORWARD: Final = Path(__file__).with_name("forward.py")
_VARIABLES: Final = {True: Path("/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"), False: Path("/usr/share/OVMF/OVMF_VARS_4M.fd")}
"""By whether Secure Boot is on."""
_STOP_WITHIN: Final = 60.0
_CONNECT_WITHIN: Final = 20.0
_MEGABYTES: Final = 640
_PIECE: Final = 6 << 10
"""Bytes of a file that are written by one command."""
_POWER_OFF: Final = "sync; umount /etc/writ; umount /var; poweroff -f"


class GuestError(Exception):
    """The machine, or what runs in it, did not do what it was told."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a script in the guest left: exit status, standard output, standard error."""

    status: int
    output: bytes
    errors: str


class Machine:
    """One machine, off until `start`; a context manager that ends with the power cut. For one thread at a time."""

    def __init__(self, home: Path, image: Image) -> None:
        """The machine that stands in `home`; see `new`."""
        self.home: Final = home
        self._image = image
        self._room: Path | None = None
        self._swtpm: subprocess.Popen[bytes] | None = None
        self._qemu: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @classmethod
    def new(cls, home: Path, image: Image, *, tpm: Path, files: Mapping[str, bytes], secure_boot: bool = True) -> Self:
        """A machine fresh from the factory: a copy of the TPM state `tpm`, and a data disk with `files`, by their path under /var."""
        home.mkdir(parents=True)
        shutil.copytree(tpm, home / "tpm")
        machine = cls(home, image)
        machine.set_secure_boot(secure_boot)
        with tempfile.TemporaryDirectory(prefix="data-", dir=home) as room:
            (Path(room) / "etc/writ").mkdir(parents=True)
            for name, data in files.items():
                path = Path(room) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            make_data(Path(room), home / "data.ext4")
        return machine

    def copy(self, home: Path, image: Image | None = None) -> Machine:
        """A clone: TPM, disk and firmware variables as they are now; with another image, the same machine after an update. Needs it off."""
        if self._qemu is not None:
            raise GuestError("expected a machine that is off, got one that is on")
        home.mkdir(parents=True)
        shutil.copytree(self.home / "tpm", home / "tpm")
        shutil.copy(self.home / "vars.fd", home / "vars.fd")
        subprocess.run(["cp", "--sparse=always", self.home / "data.ext4", home / "data.ext4"], check=True)
        return Machine(home, image or self._image)

    def set_secure_boot(self, on: bool) -> None:
        """The firmware's variables are those of the factory, with the distribution's test keys enrolled or with none."""
        shutil.copy(_VARIABLES[on], self.home / "vars.fd")

    # --- power ---------------------------------------------------------------------------------------------------------

    def start(self, esp: Path, *, verifier_port: int, within: float = BOOT_WITHIN) -> None:
        """The guest has booted from `esp` and answers; what it says to the verifier's address goes to `verifier_port` here."""
        if self._qemu is not None:
            raise GuestError("expected a machine that is off, got one that is on")
        self._room = Path(tempfile.mkdtemp(prefix="guest-"))  # short: a unix socket's path holds 107 bytes
        try:
            self._start_tpm(self._room / "tpm")
            arguments = self._arguments(esp, verifier_port, self._room)
            with (self.home / "qemu.log").open("wb") as log:
                self._qemu = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self._control = self._connect(self._room / "control")
            greeting = self._line(within)
            if greeting != b"ready":
                raise GuestError(f"control channel: expected a greeting, got {greeting[:80]!r}")
        except BaseException:
            self.cut()
            raise

    def stop(self) -> None:
        """The guest has shut down in order, its TPM told so, and the power is off."""
        if self._qemu is None:
            return
        self._send(_POWER_OFF)
        try:
            self._qemu.wait(_STOP_WITHIN)
            if self._swtpm is not None:
                self._swtpm.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self.cut()
            raise GuestError(f"expected an end within {_STOP_WITHIN:g} s; the console ends with {self.console()[-500:]!r}") from None
        self.cut()

    def cut(self) -> None:
        """The power is off, as when a cable is pulled: neither kernel nor TPM was told."""
        if self._control is not None:
            self._control.close()
        for process in (self._qemu, self._swtpm):
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.wait()
        if self._room is not None:
            shutil.rmtree(self._room, ignore_errors=True)
        self._control = self._qemu = self._swtpm = self._room = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cut()

    # --- what happens inside -------------------------------------------------------------------------------------------

    def run(self, script: str, *, within: float = 120.0, ok: bool = True) -> Ran:
        """What `script` did, run by the guest's shell as root. Raises GuestError if it took longer, or if it failed and `ok`."""
        self._send(script)
        try:
            status, output, errors = (self._line(within) + b" ").split(b" ")[:3]
            ran = Ran(int(status), base64.b64decode(output), base64.b64decode(errors).decode(errors="replace"))
        except ValueError:
            raise GuestError(f"control channel: expected an answer to {script[:80]!r}, got something else") from None
        if ok and ran.status != 0:
            raise GuestError(f"{script[:200]!r}: exit {ran.status}\n{ran.output.decode(errors='replace')[-2000:]}{ran.errors[-2000:]}")
        return ran

    def read(self, path: str) -> bytes:
        """The file at `path` in the guest."""
        return self.run(f"cat {shlex.quote(path)}").output

    def write(self, path: str, data: bytes) -> None:
        """The file at `path` in the guest holds `data`; it travels in pieces that a command line takes."""
        self.run(f": >{shlex.quote(path)}")
        for at in range(0, len(data), _PIECE):
            self.run(f"printf %s {base64.b64encode(data[at : at + _PIECE]).decode()} | base64 -d >>{shlex.quote(path)}")

    def console(self) -> str:
        """What kernel and guest-init have said since the start."""
        return (self.home / "console.log").read_text(errors="replace")

    # --- the parts -----------------------------------------------------------------------------------------------------

    def _start_tpm(self, path: Path) -> None:
        self._swtpm = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.home / 'tpm'}", "--ctrl", f"type=unixio,path={path}"),
                *("--log", f"file={self.home / 'swtpm.log'},level=1", "--terminate"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _CONNECT_WITHIN
        while not path.exists():
            if self._swtpm.poll() is not None or time.monotonic() > deadline:
                raise GuestError("swtpm did not start; see swtpm.log")
            time.sleep(0.01)

    def _arguments(self, esp: Path, verifier_port: int, room: Path) -> list[str]:
        forward = shlex.join([sys.executable, "-IS", os.fspath(_FORWARD), str(verifier_port)]).replace(",", ",,")
        address, port = VERIFIER
        return [
            *("qemu-system-x86_64", *accelerator(), "-machine", "q35,smm=on", "-smp", "1", "-m", str(_MEGABYTES)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-rtc", "base=utc"),
            *("-global", "driver=cfi.pflash01,property=secure,value=on"),
            *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}"),
            *("-drive", f"if=pflash,format=raw,unit=1,file={self.home / 'vars.fd'}"),
            *("-chardev", f"socket,id=tpm,path={room / 'tpm'}", "-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm"),
            *("-serial", f"file:{self.home / 'console.log'}"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=control,path={room / 'control'},server=on,wait=off"),
            *("-device", "virtserialport,chardev=control,name=writ.control"),
            *("-netdev", f"user,id=net,restrict=on,guestfwd=tcp:{address}:{port}-cmd:{forward}"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            # One controller: two are scanned at once, and their disks numbered in either order, which the device-mapper's table shows.
            *("-device", "nvme,id=disks,serial=guest"),
            *("-drive", f"if=none,id=root,format=raw,readonly=on,file={self._image.root_disk}", "-device", "nvme-ns,drive=root,nsid=1"),
            *("-drive", f"if=none,id=data,format=raw,file={self.home / 'data.ext4'}", "-device", "nvme-ns,drive=data,nsid=2"),
            *("-drive", f"if=none,id=esp,format=raw,readonly=on,file={esp}", "-device", "virtio-blk-pci,drive=esp,bootindex=1,romfile="),
        ]

    def _connect(self, path: Path) -> socket.socket:
        deadline = time.monotonic() + _CONNECT_WITHIN
        while True:
            connection = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(OSError):
                connection.connect(os.fspath(path))
                return connection
            connection.close()
            self._expect_alive(deadline)
            time.sleep(0.02)

    def _send(self, script: str) -> None:
        if self._control is None:
            raise GuestError("expected a machine that is on, got one that is off")
        self._control.settimeout(_CONNECT_WITHIN)
        self._control.sendall(base64.b64encode(script.encode()) + b"\n")

    def _line(self, within: float) -> bytes:
        """The next line of the control channel, without its end. Raises GuestError."""
        if self._control is None:
            raise GuestError("expected a machine that is on, got one that is off")
        deadline = time.monotonic() + within
        self._control.settimeout(0.5)
        data = bytearray()
        while not data.endswith(b"\n"):
            self._expect_alive(deadline)
            with contextlib.suppress(TimeoutError):
                data += self._control.recv(1 << 16)
        return bytes(data[:-1])

    def _expect_alive(self, deadline: float) -> None:
        if self._qemu is None or self._qemu.poll() is not None:
            said = (self.home / "qemu.log").read_text(errors="replace")[-500:]
            raise GuestError(f"the machine went off; QEMU said {said!r}, the console ends with {self.console()[-1000:]!r}")
        if time.monotonic() > deadline:
            raise GuestError(f"no answer in time; the console ends with {self.console()[-1000:]!r}")

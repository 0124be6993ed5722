"""A test manufacturer: its CA is made on the spot, in a directory of its own; it makes TPMs with EK certificates in NV.

Each TPM has an RSA 2048 EK (certificate at NV 0x01c00002) and an ECC P-384 EK (0x01c00016), and the banks it was made with.
Making one takes one to three seconds, so a made TPM is kept under its name and copied for each use.

Source: swtpm_setup(8), swtpm-localca.conf(5); TCG EK Credential Profile 2.5, 2.2.1.4.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from swtpm.slow import Delays
from swtpm.soft import SoftTpm, SoftTpmError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}\Z", re.ASCII)
BANKS: Final = ("sha256", "sha384")


class Manufacturer:
    """Owns `home`: CA, configuration and the TPMs made so far. Several processes may share one home."""

    def __init__(self, home: Path) -> None:
        self._home = home.resolve()
        self._ca = self._home / "ca"
        self._ca.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def root_pem(self) -> bytes:
        """The root certificate, made with the first TPM."""
        return (self._ca / "swtpm-localca-rootca-cert.pem").read_bytes()

    @property
    def intermediates_pem(self) -> bytes:
        """The certificate that signed the EK certificates, itself signed by the root."""
        return (self._ca / "issuercert.pem").read_bytes()

    def tpm(self, name: str = "tpm", *, banks: tuple[str, ...] = BANKS, delays: Delays | None = None) -> SoftTpm:
        """A running TPM with the identity `name`: another name is another TPM, the same name twice are two clones of one."""
        return SoftTpm(self.state(name, banks=banks), ca_pem=self.root_pem, intermediates_pem=self.intermediates_pem, delays=delays)

    def state(self, name: str, *, banks: tuple[str, ...] = BANKS) -> Path:
        """The directory with the state of the TPM `name` as it left the factory; do not run it in place, copy it."""
        if not _NAME.match(name):
            raise SoftTpmError(f"TPM name: expected lower-case letters, digits and '-', got {name!r}")
        finished = self._home / "made" / "-".join((name, *banks))
        with self._alone():
            if not finished.exists():
                finished.parent.mkdir(exist_ok=True)
                fresh = Path(tempfile.mkdtemp(prefix="making-", dir=self._home))
                try:
                    self._make(fresh, banks)
                    fresh.rename(finished)
                finally:
                    shutil.rmtree(fresh, ignore_errors=True)
        return finished

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make(self, state: Path, banks: tuple[str, ...]) -> None:
        tool = shutil.which("swtpm_localca")
        if tool is None:
            raise SoftTpmError("expected swtpm_localca on PATH (Debian: swtpm-tools), found none")
        (self._home / "ca.conf").write_text(
            f"statedir = {self._ca}\nsigningkey = {self._ca / 'signkey.pem'}\nissuercert = {self._ca / 'issuercert.pem'}\n"
            f"certserial = {self._ca / 'certserial'}\n"
        )
        (self._home / "ca.options").write_text("--platform-manufacturer Test\n--platform-version 1.0\n--platform-model Test\n")
        (self._home / "setup.conf").write_text(
            f"create_certs_tool = {tool}\ncreate_certs_tool_config = {self._home / 'ca.conf'}\n"
            f"create_certs_tool_options = {self._home / 'ca.options'}\n"
        )
        # Neither --allow-signing nor --decryption: they store an EK template that no TCG profile names.
        done = subprocess.run(
            [
                *("swtpm_setup", "--tpm2", "--tpmstate", os.fspath(state), "--config", os.fspath(self._home / "setup.conf")),
                *("--createek", "--create-ek-cert", "--lock-nvram", "--pcr-banks", ",".join(banks)),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SoftTpmError(f"swtpm_setup: expected exit 0, got {done.returncode}: {done.stdout}{done.stderr}")

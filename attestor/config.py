"""How an attestor is configured, and the files of its state directory.

Nothing here can change a verdict: what is trusted is fixed at enrolment and by
the verifier's policy.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.keys import PublicKey, parse_cose_key
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tpm.pcr import BANKS, RUNTIME_PCRS

EK_KINDS: Final = ("rsa2048", "p256", "p384")
AK_KINDS: Final = ("p256", "rsa2048")

_MAX_STATE_FILE: Final = 1 << 20
_DEVICE: Final = re.compile(r"device:/dev/tpm(?:rm)?([0-9]{1,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class LogPaths:
    """Where the logs of firmware, systemd and IMA lie; None for one that this host does not have."""

    uefi: Path | None = None
    systemd: Path | None = None
    ima: Path | None = None


@dataclass(frozen=True, slots=True)
class AttestorConfig:
    """One attestor of one host. Intervals are in seconds.

    `tcti` names the TPM; a software TPM is refused unless `allow_software_tpm`.
    `verifier_ca_file` holds PEM roots for the verifier's certificate; None means the system's.
    `peers` are the uids that may use the socket beside root and the attestor's own.
    `ek` empty means the first kind that has a certificate.
    `uefi_log`, `systemd_log`, `ima_log` name the logs that travel with evidence; None means where the kernel keeps those of a
    hardware TPM, and none for a software TPM. With `send_logs` false none travels, and the verifier can vouch for no more than
    `runtime-only`. `anchor_pcr` is the PCR into which checkpoints of action logs are extended between renewals, where enforcers ask for it
    (`anchor_every`); 0 means none. Nobody else may extend it once the attestor runs.
    """

    tcti: str = "device:/dev/tpmrm0"
    allow_software_tpm: bool = False
    state_dir: Path = Path("/var/lib/writ/attestor")
    store_dir: Path = Path("/var/lib/writ/store")
    manifests_dir: Path = Path("/etc/writ/manifests")
    socket: Path = Path("/run/writ/attestor.sock")
    verifier_ca_file: Path | None = None
    ek: str = ""
    ak: str = "p256"
    send_logs: bool = True
    uefi_log: Path | None = None
    systemd_log: Path | None = None
    ima_log: Path | None = None
    watch_interval: int = 2
    rehash_interval: int = 300
    verifier_timeout: int = 10
    anchor_pcr: int = 0
    peers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        bounds = (("watch_interval", 1, 60), ("rehash_interval", 1, 86400), ("verifier_timeout", 1, 120))
        for key, least, most in bounds:
            if not least <= getattr(self, key) <= most:
                raise FormatError(f"configuration: {key}", f"{least} to {most} seconds", str(getattr(self, key)))
        if self.anchor_pcr and self.anchor_pcr not in RUNTIME_PCRS:
            raise FormatError("configuration: anchor_pcr", f"0, or one of {', '.join(map(str, RUNTIME_PCRS))}", str(self.anchor_pcr))
        if self.ek not in ("", *EK_KINDS):
            raise FormatError("configuration: ek", f"one of {', '.join(EK_KINDS)}, or empty", repr(self.ek)[:80])
        if self.ak not in AK_KINDS:
            raise FormatError("configuration: ak", f"one of {', '.join(AK_KINDS)}", repr(self.ak)[:80])
        for peer in self.peers:
            if not peer.isascii() or not peer.isdigit():
                raise FormatError("configuration: peers", "numbers of users", repr(peer)[:80])

    @property
    def uids(self) -> frozenset[int]:
        """Who may use the socket."""
        return frozenset({0, os.geteuid(), *map(int, self.peers)})

    @property
    def logs(self) -> LogPaths:
        """Where the logs of firmware, systemd and IMA lie."""
        if not self.send_logs:
            return LogPaths()
        device = _DEVICE.fullmatch(self.tcti)
        security = Path("/sys/kernel/security")
        found = LogPaths() if device is None else LogPaths(
            security / f"tpm{device[1]}" / "binary_bios_measurements",
            Path("/run/log/systemd/tpm2-measure.log"),
            security / "ima" / "binary_runtime_measurements",
        )  # fmt: skip
        return LogPaths(self.uefi_log or found.uefi, self.systemd_log or found.systemd, self.ima_log or found.ima)

    @property
    def state(self) -> StateDir:
        """The state directory, by its files."""
        return StateDir(self.state_dir)


@dataclass(frozen=True, slots=True)
class StateDir:
    """Where each piece of the attestor's own state lies. All of it is readable by its owner only."""

    path: Path

    @property
    def ak(self) -> Path:
        """The AK's blobs."""
        return self.path / "ak.cbor"

    @property
    def host_key(self) -> Path:
        """The key that signs the host's requests."""
        return self.path / "host.key"

    @property
    def enrolment(self) -> Path:
        """What the host pinned when it enrolled."""
        return self.path / "enrolment.cbor"

    @property
    def log(self) -> Path:
        """The directory of the runtime log."""
        return self.path / "log"

    def make(self) -> None:
        """The directory is there, for its owner only."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
        except OSError as error:
            raise Unavailable("state directory", f"{self.path}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the host pinned when it enrolled; `verifier` is the address of the verifier."""

    verifier: str
    host: str
    namespace: str
    domain: str
    issuer: str
    decision_key: PublicKey
    runtime_pcr: int
    bank: str


def read_enrolment(state: StateDir) -> Enrolment:
    """The pinned enrolment. Raises Refused `not-enrolled` where there is none, FormatError for a file that is none."""
    data = read_private(state.enrolment)
    if data is None:
        raise Refused(Reason("not-enrolled", "enrolment", f"a file {state.enrolment}", "none"))
    f = Fields(decode_cbor(data, "enrolment file"), "enrolment file")
    f.version(1)
    enrolment = Enrolment(
        verifier=f.text("verifier", least=1),
        host=f.name("host"),
        namespace=f.name("namespace"),
        domain=f.text("domain", least=1),
        issuer=f.text("issuer", least=1),
        decision_key=parse_cose_key(f.any("decision_key")),
        runtime_pcr=f.uint("runtime_pcr", most=23),
        bank=f.text("bank", most=16),
    )
    f.done()
    check_register(enrolment.runtime_pcr, enrolment.bank)
    return enrolment


def write_enrolment(state: StateDir, enrolment: Enrolment) -> None:
    """The enrolment is pinned, in place of an earlier one."""
    fields = {name: getattr(enrolment, name) for name in ("verifier", "host", "namespace", "domain", "issuer", "runtime_pcr", "bank")}
    write_private(state.enrolment, encode_cbor({"v": 1, **fields, "decision_key": enrolment.decision_key.to_cose_key()}))


def check_register(pcr: int, bank: str) -> None:
    """Return if no software can reset the register without a reboot. Raises FormatError."""
    if pcr not in RUNTIME_PCRS:
        raise FormatError("runtime PCR", f"one of {', '.join(map(str, RUNTIME_PCRS))}", str(pcr)[:20])
    if bank not in BANKS:
        raise FormatError("PCR bank", " or ".join(BANKS), repr(bank)[:40])


def read_private(path: Path, *, most: int = _MAX_STATE_FILE) -> bytes | None:
    """The at most `most` bytes of a state file, or None where there is none. Raises Unavailable, also if others could read or write it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise Unavailable("state file", f"{path}: expected mode 0600, got {os.fstat(file.fileno()).st_mode & 0o777:04o}")
            data = file.read(most + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable("state file", f"{path}: {error.strerror}") from None
    if len(data) > most:
        raise Unavailable("state file", f"{path}: expected at most {most} bytes, got more")
    return data


def write_private(path: Path, data: bytes, *, durable: bool = True) -> None:
    """`path` holds `data`, whole, mode 0600; unless not `durable`, a power cut leaves the old bytes or the new, never a part."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        fresh.replace(path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise Unavailable("state file", f"{path}: {error.strerror}") from None


def sync_directory(path: Path) -> None:
    """Names made or removed in `path` are durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""VerifierConfig: one TOML file, read once. What can change a verdict is not here but in a signed policy."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from writ.formats.errors import FormatError
from writ.formats.spiffe import AgentId

PREFIX = "VERIFIER"
LOG_PATH = "/log"


@dataclass(frozen=True, slots=True)
class VerifierConfig:
    """Where the verifier keeps its state, where it listens, and for whom it speaks.

    `issuer` is the URL under which hosts and relying services reach it. Without
    `tls_cert_file` and `tls_key_file` it listens on loopback addresses only.
    `witness_policy_file` names the witnesses of the log, which are asked every `witness_every` seconds; with `witness_within` nothing is
    decided once entries have waited so many seconds for their quorum. `log_head_file` is where the last checkpoint is kept outside the
    ledger, best on another disk than it and in no backup of it. `log_name` is another one only for a log that succeeds one that was lost.
    """

    state_dir: Path
    domain: str
    issuer: str
    listen: str = "127.0.0.1:8443"
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    requests_per_second: int = 200
    requests_burst: int = 400
    log_level: str = "info"
    log_head_file: Path | None = None
    witness_policy_file: Path | None = None
    witness_ca_file: Path | None = None
    witness_every: int = 10
    witness_within: int = 0
    log_name: str = "log"

    def __post_init__(self) -> None:
        try:
            AgentId(self.domain, "any", "any")
        except FormatError as error:
            raise FormatError("configuration.domain", error.expected, error.got) from None
        parts = urlsplit(self.issuer)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or self.issuer.endswith("/"):
            raise FormatError("configuration.issuer", "https://host[:port] without a slash at the end", repr(self.issuer[:80]))
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise FormatError("configuration", "tls_cert_file and tls_key_file together", "one of them")
        if self.tls_cert_file is None and not ipaddress.ip_address(self.address[0]).is_loopback:
            raise FormatError("configuration.listen", "a loopback address, or TLS", repr(self.listen[:80]))
        if not (self.requests_per_second > 0 and self.requests_burst > 0):
            raise FormatError("configuration", "requests_per_second and requests_burst above 0", "another number")
        if not (1 <= self.witness_every <= 3600 and 0 <= self.witness_within <= 86_400):
            raise FormatError("configuration", "witness_every of 1 to 3600 seconds, witness_within of 0 to 86400", "another number")
        if self.witness_policy_file is None and self.witness_within:
            raise FormatError("configuration", "a witness_policy_file for witness_within", "none")
        if not re.fullmatch(r"log(-[1-9][0-9]{0,3})?", self.log_name):
            raise FormatError("configuration.log_name", "log, or log-N with a number", repr(self.log_name[:20]))
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise FormatError("configuration.log_level", "debug, info, warning or error", repr(self.log_level[:20]))

    @property
    def address(self) -> tuple[str, int]:
        """IP address and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise FormatError("configuration.listen", "ADDRESS:PORT with an IP address", repr(self.listen[:80])) from None
        if not port.isascii() or not port.isdigit() or not 0 <= int(port) < 65536:
            raise FormatError("configuration.listen", "a port from 0 to 65535", repr(port[:20]))
        return host, int(port)

    @property
    def ledger_file(self) -> Path:
        """The SQLite file."""
        return self.state_dir / "ledger.sqlite"

    @property
    def head_file(self) -> Path:
        """The head of the transparency log."""
        return self.log_head_file or self.state_dir / "log-head"

    @property
    def origin(self) -> str:
        """The name of the transparency log: the issuer without its scheme, and `log_name`. It is served below `/log`, whatever its name."""
        return f"{self.issuer.partition('://')[2]}/{self.log_name}"

    @property
    def key_dir(self) -> Path:
        """The private keys, mode 0700."""
        return self.state_dir / "keys"

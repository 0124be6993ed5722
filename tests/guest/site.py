"""A verifier on this machine that the guest reaches over TLS, and a guest made ready to attest at it."""

from __future__ import annotations

import datetime as dt
import ipaddress
import shlex
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import verifier.compose as verifier_compose
from swtpm import Manufacturer
from swtpm.guest import Machine, Ran
from swtpm.guest.machine import VERIFIER
from tests.attestor.site import NAMESPACE, OPERATOR, VerifierSite
from verifier.config import VerifierConfig
from verifier.http.wire import from_base64
from verifier.operate import Client, Server
from verifier.reference import captured, captured_governance
from verifier.trust import roots_from_pem
from writ.formats.corim import encode_corim
from writ.formats.measurement import Governance, Measurement, parse_measured

HOST = "guest"
URL = f"https://{VERIFIER[0]}:{VERIFIER[1]}"
CONFIGURATION: dict[str, bytes] = {
    "etc/writ/attestor.toml": (
        b'tcti = "device:/dev/tpmrm0"\nstate_dir = "/var/lib/writ/attestor"\nstore_dir = "/var/lib/writ/store"\n'
        b'manifests_dir = "/etc/writ/manifests"\nsocket = "/run/writ/attestor/attestor.sock"\n'
        b'verifier_ca_file = "/etc/writ/verifier-ca.pem"\nverifier_timeout = 60\n'
    ),
    "etc/writ/enforcer.toml": (
        b'attestor_socket = "/run/writ/attestor/attestor.sock"\ncgroup = "/writ"\nstore_uids = ["0", "990"]\n'
    ),
    "etc/writ/manifests/sleeper.toml": (
        f'version = 1\nagent = "sleeper"\nnamespace = "{NAMESPACE}"\naudience = "tools"\n'
        'command = ["/usr/bin/python3", "-I", "-S", "-B", "{store}/code/main.py"]\ngrants = [["tool.call", "files/*"]]\n'
        '[components.code]\nkind = "code"\nsource = "/etc/writ/agents/sleeper"\n'
    ).encode(),
    "etc/writ/agents/sleeper/main.py": b'import time\nprint("awake", flush=True)\ntime.sleep(600)\n',
}  # fmt: skip


class TlsVerifier(VerifierSite):
    """A verifier in a thread, on a loopback port over TLS; the guest knows it by the address that QEMU forwards."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.certificate = _certify(directory / "certificate.pem", directory / "certificate.key")
        self.config = VerifierConfig(
            directory / "state", "example.org", URL, f"127.0.0.1:{self.port}", directory / "certificate.pem", directory / "certificate.key"
        )
        verifier_compose.init(self.config, directory / "operator.key")
        self._policies = Path(verifier_compose.__file__).parent / "default_policy"
        self.start()
        self.client = Client(Server(self.url, directory / "operator.key", directory / "certificate.pem", NAMESPACE))

    def trust_maker(self, manufacturer: Manufacturer) -> bytes:
        """The manufacturer is believed, as one of software TPMs; the trust file for enforcers."""
        roots, _ = roots_from_pem(manufacturer.root_pem, "software")
        _, intermediates = roots_from_pem(manufacturer.intermediates_pem, "software")
        self.built.parts.anchors.add(OPERATOR, roots, intermediates)
        return from_base64(self.client.get("/v1/trust")["file"], "file")

    def stop(self) -> None:
        """It does not answer."""
        self.client.close()
        super().stop()


def _certify(path: Path, key_path: Path) -> bytes:
    """A certificate of its own making, for both addresses of the verifier."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "verifier of the guest")])
    now = dt.datetime.now(dt.UTC)
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", VERIFIER[0])]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path.read_bytes()


@dataclass
class Guest:
    """A machine with our programs in it, and the verifier that it speaks to."""

    machine: Machine
    site: TlsVerifier
    esp: Path
    logs: dict[str, int] = field(default_factory=dict)

    def boot(self, esp: Path | None = None) -> None:
        """It is up; an attestor that is enrolled serves."""
        self.machine.start(esp or self.esp, verifier_port=self.site.port)

    def attestor(self, *words: str, within: float = 120.0) -> Ran:
        """One command of the attestor, as its user."""
        return self.machine.run(shlex.join(("writ-attestor", *words)), within=within)

    def enrol(self) -> None:
        """It is enrolled, its governance and its agent approved, and attestor and enforcer serve."""
        self.attestor("init")
        ticket = shlex.quote(self.site.admit(HOST))
        self.machine.run(f"printf %s {ticket} | writ-attestor enroll --verifier {URL} --host {HOST} --ticket -")
        self.attestor("measure", "--governance", "--out", "/tmp/governance")
        self.attestor("measure", "/etc/writ/manifests/sleeper.toml", "--out", "/tmp/sleeper")
        governance, agent = (parse_measured(self.machine.read(path)) for path in ("/tmp/governance", "/tmp/sleeper"))
        assert isinstance(governance, Governance)
        assert isinstance(agent, Measurement)
        corims = [captured_governance(NAMESPACE, governance.components), captured(agent)]
        self.site.built.parts.references.publish(OPERATOR, NAMESPACE, map(encode_corim, corims), publisher=None, replace=False)

    def serve(self) -> None:
        """Attestor and enforcer serve."""
        self.machine.run(
            "[ -S /run/writ/attestor/attestor.sock ] || writ-attestor serve </dev/null >>/var/log/attestor.log 2>&1 &\n"
            "writ-enforcer serve </dev/null >>/var/log/enforcer.log 2>&1 &\n"
            + _until("[ -S /run/writ/attestor/attestor.sock ] && [ -S /run/writ/enforcer/control.sock ]", 90)
        )

    def launch(self) -> tuple[bool, str]:
        """Whether the agent was started under a token, and what was said."""
        ran = self.machine.run(
            "rm -f /run/agent\nenforcer --config /etc/writ/enforcer.toml run --agent sleeper </dev/null >/run/agent 2>&1 &\npid=$!\n"
            + _until("grep -q awake /run/agent || ! kill -0 $pid", 90)
            + "cat /run/agent; grep -q awake /run/agent",
            ok=False,
        )
        return ran.status == 0, ran.output.decode(errors="replace") + ran.errors

    def decisions(self) -> list[dict[str, Any]]:
        """What the verifier has decided so far."""
        found: list[dict[str, Any]] = self.site.client.get("/v1/decisions", most=200)["decisions"]
        return found


def _until(condition: str, seconds: int) -> str:
    """Script that waits for `condition`, which then holds, or ends with status 1."""
    return f"n=0; until {condition}; do n=$((n + 1)); [ $n -lt {seconds * 5} ] || exit 1; usleep 200000; done\n"

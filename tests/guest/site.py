"""A verifier on this machine that the guest reaches over TLS, and a guest made ready to attest at it."""

from __future__ import annotations

import base64
import json
import shlex
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import verifier.compose as verifier_compose
from attestor.measure.closure import image_of
from swtpm import Manufacturer
from swtpm.guest import Machine, Ran
from swtpm.guest.machine import VERIFIER
from tests.attestor.site import NAMESPACE, OPERATOR, VerifierSite
from tests.world.tls import self_signed
from verifier.config import VerifierConfig
from verifier.http.wire import from_base64
from verifier.ledger.transaction import blob
from verifier.operate import Client, Server
from verifier.reference import captured, captured_governance
from verifier.trust import roots_from_pem
from writ.formats.corim import Corim, encode_corim
from writ.formats.digest import Digest
from writ.formats.evidence import Evidence, parse_evidence
from writ.formats.manifest import ComponentSpec, component_lines
from writ.formats.measurement import Governance, Measurement, parse_measured
from writ.formats.policy_bundle import PolicySettings


def _python() -> ComponentSpec:
    """As much of the guest's Python as the agent needs; its files are those of this host's distribution."""
    python = image_of([Path("/usr/bin/python3")])
    return replace(python, include=tuple(sorted({*python.include, "usr/lib/python3.11/*.py", "usr/lib/python3.11/encodings"})))


HOST = "guest"
HELD = "held.ext4"
"""A small tree under dm-verity, as a file on the data disk."""
ATTESTOR_SOCKET = "/run/writ/attestor/attestor.sock"
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
        'profile = "strict-6.1"\n'  # of the distribution's kernel
        '[components.code]\nkind = "code"\nsource = "/etc/writ/agents/sleeper"\n' + "\n".join(component_lines(_python())) + "\n"
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
        self.certificate = self_signed(directory / "certificate.pem", directory / "certificate.key", "127.0.0.1", VERIFIER[0])
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

    def demand_rooted(self) -> None:
        """The policy in force takes only runtimes that boot and IMA vouch for."""
        settings = PolicySettings(accept_runtime_only=False, tpm_classes=("software",))
        schema, policies = ((self._policies / name).read_text() for name in ("schema.cedarschema", "default.cedar"))
        self.built.parts.policies.publish(OPERATOR, NAMESPACE, settings=settings, schema=schema, policies=policies, version=None)

    def stop(self) -> None:
        """It does not answer."""
        self.client.close()
        super().stop()


@dataclass(frozen=True)
class Answer:
    """The verifier's answer to one attestation: whether a token was issued, code and claim of each reason, the evidence that arrived."""

    token: bool
    reasons: frozenset[tuple[str, str]]
    evidence: Evidence


@dataclass
class Guest:
    """A machine with our programs in it, and the verifier that it speaks to."""

    machine: Machine
    site: TlsVerifier
    esp: Path

    def boot(self, esp: Path | None = None) -> None:
        """It is up, booted anew; an attestor that is enrolled serves."""
        self.machine.stop()
        self.machine.start(esp or self.esp, verifier_port=self.site.port)
        self.machine.run(f"[ ! -e /var/lib/writ/attestor/enrolment.cbor ] || {{ {_until(f'[ -S {ATTESTOR_SOCKET} ]', 240)} }}", within=300)

    def serve_with(self, configuration: str) -> None:
        """The attestor serves again, with another configuration: the file's name in /etc/writ."""
        self.machine.run(
            f"ATTESTOR_TOML=/etc/writ/{configuration} serve-attestor || {{ tail -5 /var/log/attestor.log; exit 1; }}", within=300
        )

    def attestor(self, *words: str, within: float = 240.0) -> Ran:
        """One command of the attestor, as its user."""
        return self.machine.run(shlex.join(("writ-attestor", *words)), within=within)

    def enrol(self) -> None:
        """It is enrolled, its governance and its agent approved; nothing is known yet of its boot."""
        self.attestor("init")
        ticket = shlex.quote(self.site.admit(HOST))
        self.machine.run(f"printf %s {ticket} | writ-attestor enroll --verifier {URL} --host {HOST} --ticket -")
        self.attestor("measure", "--governance", "--out", "/tmp/governance")
        self.attestor("measure", "/etc/writ/manifests/sleeper.toml", "--out", "/tmp/sleeper")
        governance, agent = (parse_measured(self.machine.read(path)) for path in ("/tmp/governance", "/tmp/sleeper"))
        assert isinstance(governance, Governance)
        assert isinstance(agent, Measurement)
        corims = [captured_governance(NAMESPACE, governance.components), captured(agent)]
        self.approve(corims)

    def approve(self, corims: Iterable[Corim]) -> None:
        """These reference values are in force, beside others."""
        self.site.built.parts.references.publish(OPERATOR, NAMESPACE, map(encode_corim, corims), publisher=None, replace=False)

    def serve_enforcer(self) -> None:
        """The enforcer serves too."""
        self.machine.run(
            "writ-enforcer serve </dev/null >>/var/log/enforcer.log 2>&1 &\n"
            + _until("[ -S /run/writ/attestor/attestor.sock ] && [ -S /run/writ/enforcer/control.sock ]", 240)
        )

    def launch(self) -> tuple[bool, str]:
        """Whether the agent was started under a token, and what was said."""
        ran = self.machine.run(
            "rm -f /run/agent\nenforcer --config /etc/writ/enforcer.toml run --agent sleeper </dev/null >/run/agent 2>&1 &\npid=$!\n"
            + _until("grep -q awake /run/agent || ! kill -0 $pid", 240)
            + "cat /run/agent; grep -q awake /run/agent",
            ok=False,
        )
        return ran.status == 0, ran.output.decode(errors="replace") + ran.errors

    def attest(self) -> Answer:
        """What the verifier answered to a new instance of the agent, and the evidence it answered."""
        ran = self.python((Path(__file__).parent / "client.py").read_text(), ATTESTOR_SOCKET, "sleeper")
        told = json.loads(ran.output)
        reasons = [*told["reasons"], *self.decided()[-1]["reasons"]]
        return Answer(told["token"], frozenset((reason["code"], reason["claim"]) for reason in reasons), self.evidence()[-1])

    def evidence(self) -> list[Evidence]:
        """All evidence that the verifier has decided on, as it arrived."""
        tables = self.site.built.ledger.read()
        named = [(entry["namespace"], Digest.parse(entry["inputs"]["evidence"])) for entry in self.decided()]
        return [parse_evidence(found) for one in named if (found := blob(tables, *one)) is not None]

    def standing(self) -> str:
        """How the host stands, in the verifier's word."""
        return str(self.site.client.get(f"/v1/hosts/{HOST}")["standing"])

    def decided(self) -> list[dict[str, Any]]:
        """The verifier's decisions on attestations, in order."""
        return [entry for entry in self.site.client.get("/v1/decisions", most=1000)["decisions"] if "verdict" in entry]

    def python(self, program: str, *arguments: str) -> Ran:
        """What `program` did, run from standard input by the interpreter of our release, as root."""
        text = base64.b64encode(program.encode()).decode()
        return self.machine.run(f"printf %s {text} | base64 -d | /opt/writ/current/venv/bin/python3 -I - {shlex.join(arguments)}")


def _until(condition: str, seconds: int) -> str:
    """Script that waits for `condition`, which then holds, or ends with status 1."""
    return f"n=0; until {condition}; do n=$((n + 1)); [ $n -lt {seconds * 5} ] || exit 1; usleep 200000; done\n"

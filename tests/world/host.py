"""A simulated host: a TPM in memory that enrols, measures fake components, and attests over real HTTP.

It keeps a true runtime log. What a test wants forged it forges on the bytes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.world.chip import Chip
from tests.world.ima_logs import Kernel
from tests.world.uefi_logs import Boot, encode_log, registers
from writ.formats.digest import Digest, Nonce
from writ.formats.eventlog.cel import CelRecord, encode_cel
from writ.formats.eventlog.runtime import ComponentEvent, DriftEvent, RuntimeEvent, StartEvent, StopEvent, command_digest, record_event
from writ.formats.evidence import Evidence, ImaLog, InstanceRequest, binding, encode_evidence, enrolment_binding
from writ.formats.exchange import (
    EXCHANGE,
    Activation,
    AttestAnswer,
    EnrolChallenge,
    Enrolled,
    EnrolRequest,
    Exchange,
    ExchangeAnswer,
    ExchangeRequest,
    NonceAnswer,
    Problem,
)  # fmt: skip
from writ.formats.grants import grant_set
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.formats.keys import PublicKey, Signer
from writ.formats.measurement import ComponentRoot, Measurement, encode_measurement
from writ.formats.spiffe import AgentId
from writ.formats.strict import b64url
from writ.formats.tlog.merkle import consistency_proof, leaf_hash, root
from writ.service.clock import Clock, SystemClock
from writ.service.signers import MemorySigner
from writ.service.uplink import Answer, Uplink

CBOR = "application/cbor"
BANKS = ("sha256", "sha384")


class RefusedByVerifier(Exception):
    """The verifier answered with a Problem."""

    def __init__(self, status: int, problem: Problem) -> None:
        self.status = status
        self.codes = [reason.code for reason in problem.reasons]
        self.problem = problem
        super().__init__(f"{status}: {'; '.join(map(str, problem.reasons))}")


@dataclass
class Instance:
    """A launched agent: its session key, and the leaves of its action log."""

    instance: bytes
    measurement: Measurement
    key: Signer
    audience: str
    grants: tuple[tuple[str, str], ...]
    leaves: list[bytes] = field(default_factory=list)
    carried: int = 0

    def request(self) -> InstanceRequest:
        """What it asks with: its key, its grants, the checkpoint of its log and the proof from the one carried last."""
        hashes = [leaf_hash(leaf) for leaf in self.leaves]
        proof = consistency_proof(hashes, self.carried)
        return InstanceRequest(
            self.instance, self.key.public, self.audience, grant_set(self.grants), len(hashes), root(hashes), self.carried, proof
        )


class SimulatedHost:
    """A host with a software TPM. `url` is the verifier's; time is the host's own `clock`."""

    def __init__(
        self, name: str, url: str, *, chip: Chip | None = None, domain: str = "example.org", namespace: str = "default",
        runtime_pcr: int = 14, bank: str = "sha256", clock: Clock | None = None, ca_file: Path | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.chip = chip or Chip(seed=name)
        self.domain = domain
        self.namespace = namespace
        self.runtime_pcr = runtime_pcr
        self.bank = bank
        self.key: Signer = MemorySigner.generate()
        self.records: list[CelRecord] = []
        self.instances: dict[str, Instance] = {}
        self.measured: list[bytes] = []
        self.sent = 0
        self.uefi_log: bytes | None = None
        self.kernel: Kernel | None = None
        self.listed = 0
        self.cut: int | None = None
        """The entry before which the list ends that travels next, as a part."""
        self.nonce: bytes | None = None
        self.decision_key: PublicKey | None = None
        self.clock = clock or SystemClock()
        self.uplink = Uplink(url, ca_file=ca_file, signer=self.key, clock=clock or SystemClock())
        self.anonymous = Uplink(url, ca_file=ca_file, signer=None, clock=clock or SystemClock())

    def close(self) -> None:
        """Connections are closed."""
        self.uplink.close()
        self.anonymous.close()

    # --- the wire

    def say(self, path: str, body: bytes, *, uplink: Uplink | None = None) -> Answer:
        """The raw answer to a POST."""
        return (uplink or self.uplink).post(path, body, CBOR)

    def ask(self, path: str, body: bytes, *, uplink: Uplink | None = None) -> Exchange:
        """The message that came back; RefusedByVerifier for a Problem."""
        answer = self.say(path, body, uplink=uplink)
        message = EXCHANGE.parse(answer.body)
        if isinstance(message, Problem):
            raise RefusedByVerifier(answer.status, message)
        assert answer.status == 200, answer.status
        return message

    # --- enrolment

    def enrol_request(self, ticket: str | None) -> EnrolRequest:
        """What it asks to enrol with."""
        c = self.chip
        return EnrolRequest(self.name, ticket, c.ek.raw, c.ek_certificates, c.ak.raw, self.key.public, self.runtime_pcr, self.bank)

    def challenge(self, ticket: str | None) -> EnrolChallenge:
        """The first half."""
        answer = self.ask("/v1/enrol", EXCHANGE.encode(self.enrol_request(ticket)), uplink=self.anonymous)
        assert isinstance(answer, EnrolChallenge)
        return answer

    def activation(self, challenge: EnrolChallenge, *, secret: bytes | None = None) -> bytes:
        """The answer to a challenge, encoded; with a wrong `secret` where one is given."""
        recovered = secret or self.chip.activate_credential(challenge.credential, challenge.secret)
        assert recovered is not None, "the credential is not for this TPM"
        bound = enrolment_binding(self.name, self.key.public.thumbprint(), challenge.challenge, recovered)
        attest, signature = self.chip.quote(bound, selection=None)
        return EXCHANGE.encode(Activation(challenge.challenge, attest, signature, self.chip.values(self.bank)))

    def enrol(self, ticket: str | None) -> Enrolled:
        """Both halves; keys and nonce are remembered."""
        body = self.activation(self.challenge(ticket))
        enrolled = self.ask("/v1/enrol/activate", body, uplink=self.anonymous)
        assert isinstance(enrolled, Enrolled)
        self.nonce, self.decision_key = enrolled.nonce, enrolled.decision_key
        return enrolled

    # --- what happens on it

    def event(self, event: RuntimeEvent) -> None:
        """Into the log and into the PCR of every bank."""
        record = record_event(event, record_number=len(self.records), pcr=self.runtime_pcr, banks=BANKS)
        self.records.append(record)
        self.chip.extend(self.runtime_pcr, {d.algorithm: d.value for d in record.digests})

    def govern(self, **components: bytes) -> None:
        """The governance, measured first: attestor and enforcer unless others are named."""
        for name, content in sorted((components or {"attestor": b"attestor", "enforcer": b"enforcer"}).items()):
            self.event(ComponentEvent("governance", name, Digest.of(content)))

    def launch(
        self, name: str = "one", *, agent: str = "reporter", prompt: bytes = b"be kind", parent: str | None = None, audience: str = "tools",
        grants: tuple[tuple[str, str], ...] = (("tool.call", "files/*"),), key: Signer | None = None,
    ) -> Instance:  # fmt: skip
        """An instance starts, from three components of which the prompt is given."""
        parts = tuple(
            ComponentRoot(part, kind, Digest.of(content))
            for part, kind, content in (
                ("code", "code", b"code"),
                ("interpreter", "interpreter", b"python"),
                ("prompts", "prompts", prompt),
            )
        )
        measurement = Measurement(
            AgentId(self.domain, self.namespace, agent), ("python", "agent.py"), parts, (), audience, grant_set(grants)
        )
        session = key or MemorySigner.generate()
        instance = hashlib.sha256(f"{self.name}/{name}/{self.chip.reset_count}".encode()).digest()[:16]
        one = Instance(instance, measurement, session, audience, grants)
        above = None if parent is None else self.instances[parent].instance
        command = command_digest(measurement.command)
        self.event(StartEvent(instance, str(measurement.agent), measurement.root(), command, session.public.thumbprint(), above, ()))
        self.measured.append(encode_measurement(measurement))
        self.instances[name] = one
        return one

    def stop(self, name: str) -> None:
        """An instance ended."""
        self.event(StopEvent(self.instances.pop(name).instance, "exited"))

    def drift(self, name: str) -> None:
        """A measured prompt is not what it was."""
        one = self.instances[name]
        self.event(DriftEvent(one.instance, "prompts", "prompt.md", Digest.of(b"be kind"), Digest.of(b"be cruel")))

    def reboot(self) -> None:
        """Nothing runs, the log is clean, the governance is measured again."""
        self.chip.reboot()
        self.records, self.instances, self.measured, self.sent = [], {}, [], 0
        self.govern()

    # --- attestation

    def fetch_nonce(self) -> bytes:
        """A fresh nonce, which voids older ones."""
        answer = self.ask(f"/v1/hosts/{self.name}/nonce", b"")
        assert isinstance(answer, NonceAnswer)
        self.nonce = answer.nonce
        return answer.nonce

    def evidence(self, *names: str, nonce: bytes | None = None, first: int | None = None) -> bytes:
        """Evidence for the nonce in hand (or `nonce`), asking for the named instances, with the log from where it was left."""
        assert self.decision_key is not None, "not enrolled"
        answered = Nonce(nonce or self.nonce or self.fetch_nonce())
        requests = tuple(self.instances[name].request() for name in names)
        self.chip.tick()
        attest, signature = self.chip.quote(binding(self.decision_key.thumbprint(), self.name, answered, requests))
        start = self.sent if first is None else first
        measured = tuple(dict.fromkeys(self.measured))
        log = encode_cel(self.records[start:])
        return encode_evidence(
            Evidence(
                self.name, answered, attest, signature, self.chip.values(self.bank), start, log, measured, requests, uefi_log=self.uefi_log,
                ima_log=self._list(),
            )
        )  # fmt: skip

    def _list(self) -> ImaLog | None:
        if self.kernel is None:
            return None
        ends = [0, *self.kernel.ends]
        return ImaLog(
            self.listed, self.kernel.binary[ends[self.listed] : None if self.cut is None else ends[self.cut]], self.cut is not None
        )

    def boot(self, boot: Boot | None = None) -> Kernel:
        """Firmware and loader as they measure, and a kernel that measures files: from now on both logs travel."""
        log = (boot or Boot()).measure()
        self.uefi_log = encode_log(log)
        pcrs = self.chip.pcrs[self.bank]
        pcrs |= registers(log, quoted=range(12))
        self.kernel, self.listed = Kernel(boot=dict(pcrs)), 0
        self.measure()
        return self.kernel

    def measure(self, **files: Digest) -> None:
        """The kernel measures files, by their names below /usr/bin; PCR 10 is what it extended."""
        assert self.kernel is not None
        for name, digest in files.items():
            self.kernel.measure(f"/usr/bin/{name}", digest)
        self.chip.pcrs[self.bank][10] = self.kernel.pcr10[self.bank]

    def deliver(self, evidence: bytes, *names: str) -> AttestAnswer:
        """Send evidence; on an answer the next nonce, the log sent and the checkpoints carried are remembered."""
        answer = self.ask(f"/v1/hosts/{self.name}/attest", evidence)
        assert isinstance(answer, AttestAnswer)
        self.nonce, self.sent = answer.nonce, len(self.records)
        self.listed = 0 if self.kernel is None else self.kernel.entries if self.cut is None else self.cut
        for name in names:
            self.instances[name].carried = len(self.instances[name].leaves)
        return answer

    def attest(self, *names: str) -> AttestAnswer:
        """One round trip."""
        return self.deliver(self.evidence(*names), *names)

    # --- tokens for elsewhere

    def exchange_request(
        self, name: str, token: str, audience: str, *, key: Signer | None = None, iat: int | None = None,
        changed: Mapping[str, str] | None = None,
    ) -> ExchangeRequest:  # fmt: skip
        """The request of the instance's holder: its token, and a new proof by `key` (its session key), where `changed` stands instead."""
        claims = {
            "jti": secrets.token_urlsafe(24), "htm": "POST", "htu": f"{self.uplink.base_url}/v1/hosts/{self.name}/exchange",
            "ath": b64url(Digest.of(token.encode()).value), "act": "token.exchange", "res": audience, "arg": b64url(Digest.of(b"").value),
        }  # fmt: skip
        payload = encode_dpop_payload(iat=self.clock.now() if iat is None else iat, **{**claims, **(changed or {})})
        return ExchangeRequest(audience, token, sign_dpop(payload, key or self.instances[name].key), None)

    def exchange(self, request: ExchangeRequest) -> ExchangeAnswer:
        """The answer; RefusedByVerifier where there is none."""
        answer = self.ask(f"/v1/hosts/{self.name}/exchange", EXCHANGE.encode(request))
        assert isinstance(answer, ExchangeAnswer)
        return answer

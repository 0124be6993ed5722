"""Hundreds of hosts in one process, on one clock that is moved by hand.

Real: the verifier's enrolment, attestation, keys and SQLite ledger; each
host's runtime log, enrolment and attestation; and of each instance its
renewal, credential, containment, tenure, gatekeeper and action log. In
memory: the TPM (`tests.world.chip`), the wire between the two, the cgroup, and
time. Left out: HTTP with its host proofs, the attestor's socket, processes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import verifier
from attestor.collect.kernel_logs import KernelLogs
from attestor.collect.runtime_log import RuntimeLog
from attestor.config import Enrolment, LogPaths, StateDir
from attestor.enrol import enrol
from attestor.evidence import Attestation, reasons_for
from attestor.tpm import Clock as TpmClock
from attestor.tpm import Endorsement, MadeLeaseKey, Quoted, Stated
from enforcer.bundles import HeldBundles
from enforcer.contain import Containment, Standing
from enforcer.credential import Credential, Subject
from enforcer.gatekeeper import Gatekeeper
from enforcer.launch.cgroup import Cgroup
from enforcer.places import HeldPlaces
from enforcer.record import ActionLog
from enforcer.relay import Relay
from enforcer.renewal import Granted, Renewal
from enforcer.tenure import Tenure
from tests.world.chip import Chip
from tests.world.clock import HandClock
from verifier import compose
from verifier.config import VerifierConfig
from verifier.ledger.sequencer import SqliteLedger
from verifier.reference import captured, captured_governance
from verifier.trust import roots_from_pem
from writ.formats.action import Action
from writ.formats.corim import encode_corim
from writ.formats.digest import Digest
from writ.formats.errors import Misuse, Refused, Unavailable
from writ.formats.eventlog.runtime import ComponentEvent, StartEvent, command_digest
from writ.formats.evidence import InstanceRequest
from writ.formats.exchange import EXCHANGE, Activation, EnrolRequest, Problem
from writ.formats.grants import grant_set
from writ.formats.lease import LeaseApproval
from writ.formats.local import Local, Refusal, TokenAsk, TokenGiven, Unreachable
from writ.formats.measurement import ComponentRoot, Measurement, encode_measurement
from writ.formats.policy_bundle import PolicySettings
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.tpm.pcr import PcrValues
from writ.formats.trust import Trust
from writ.formats.x509 import parse_certificate, to_pem
from writ.service.engine_id import installed_engine
from writ.service.signers import MemorySigner
from writ.service.uplink import Answer, Uplink

DOMAIN, ISSUER, NAMESPACE = "example.org", "http://127.0.0.1:8443", "default"
PCR, BANK = 14, "sha256"
GOVERNANCE = ComponentEvent("governance", "attestor", Digest.of(b"attestor"))
GRANTS = grant_set([("tool.call", "mcp:notes/*")])
READ = Action("tool.call", "mcp:notes/read", Digest.of(b"{}"))
AGENT = AgentId(DOMAIN, NAMESPACE, "reporter")
MEASUREMENT = Measurement(AGENT, ("python", "agent.py"), (ComponentRoot("prompts", "prompts", Digest.of(b"be kind")),), (), "tools", GRANTS)


class FineClock(HandClock):
    """A clock by hand whose boot clock moves in parts of a second."""

    def move(self, seconds: float) -> None:
        """Time passes."""
        self.since_boot += seconds
        self.wall = 1_790_000_000 + int(self.since_boot - 1_000)


class Central:
    """The verifier, with a switch. It answers at most `capacity` attestations in a second and turns the rest away, as a busy one does."""

    def __init__(self, folder: Path, clock: FineClock, *, capacity: int, settings: PolicySettings) -> None:
        config = VerifierConfig(folder, DOMAIN, ISSUER)
        compose.init(config, folder / "operator.key", clock)
        self.ledger = SqliteLedger(config.ledger_file)
        self.parts = compose.parts(config, self.ledger, clock=clock, engine=installed_engine())
        self.clock, self.capacity, self.there = clock, capacity, True
        self.asked: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        defaults = Path(verifier.__file__).parent / "default_policy"
        schema, policies = ((defaults / name).read_text() for name in ("schema.cedarschema", "default.cedar"))
        self.parts.policies.publish(compose.INIT, NAMESPACE, settings=settings, schema=schema, policies=policies, version=None)
        items = [encode_corim(c) for c in (captured_governance(NAMESPACE, [(GOVERNANCE.name, GOVERNANCE.root)]), captured(MEASUREMENT))]
        self.parts.references.publish(compose.INIT, NAMESPACE, items, publisher=None, replace=True)

    def trust(self, chip: Chip) -> Trust:
        """The maker of the chip is believed, and what an operator would pin on a host."""
        pem = [to_pem(parse_certificate(der)).encode() for der in (chip.maker.root(), chip.maker.intermediate())]
        self.parts.anchors.add(compose.INIT, roots_from_pem(pem[0], "software")[0], roots_from_pem(pem[1], "software")[1])
        return Trust(DOMAIN, ISSUER, (), (), (self.parts.keys.decision.public,))

    def answer(self, path: str, body: bytes) -> bytes:
        """The answer to one request. Raises Refused, Unavailable."""
        if not self.there:
            raise Unavailable(ISSUER, "connection refused")
        if path == "/v1/enrol":
            request = EXCHANGE.parse(body)
            assert isinstance(request, EnrolRequest)
            return EXCHANGE.encode(self.parts.enrolment.enrol(request, body))
        if path == "/v1/enrol/activate":
            activation = EXCHANGE.parse(body)
            assert isinstance(activation, Activation)
            return self.parts.enrolment.activate(activation, body)
        host, _, what = path.removeprefix("/v1/hosts/").partition("/")
        if what == "nonce":
            return self.parts.attestation.nonce(host)
        second = int(self.clock.since_boot)
        self.asked[second] += 1
        if self.answered[second] >= self.capacity:
            raise Unavailable(ISSUER, "status 503")
        self.answered[second] += 1
        return self.parts.attestation.attest(host, body).answer


class Wire(Uplink):
    """The line of one host to the verifier, in memory."""

    def __init__(self, central: Central) -> None:
        super().__init__(ISSUER, ca_file=None, signer=None, clock=central.clock)
        self._central = central

    def post(self, path: str, body: bytes, content_type: str, *, retry: bool = False) -> Answer:
        """What the verifier says."""
        try:
            return Answer(200, "application/cbor", self._central.answer(path, body))
        except Refused as refused:
            return Answer(403, "application/cbor", EXCHANGE.encode(Problem("r", refused.reasons)))


class ChipTpm:
    """`attestor.tpm.Tpm` over a chip in memory."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def banks(self) -> tuple[str, ...]:
        """The banks that are extended."""
        return (BANK,)

    def endorsement(self) -> Endorsement:
        """EK and certificates."""
        return Endorsement(self.chip.ek.raw, self.chip.ek_certificates)

    def create_ak(self) -> bytes:
        """The chip's only AK."""
        return self.chip.ak.raw

    def ak_public(self) -> bytes:
        """The chip's only AK."""
        return self.chip.ak.raw

    def check_ak(self) -> None:
        """A chip in memory is never cleared."""

    def activate(self, credential: bytes, secret: bytes) -> bytes:
        """The secret within."""
        opened = self.chip.activate_credential(credential, secret)
        if opened is None:
            raise Unavailable("TPM", "not for this TPM")
        return opened

    def extend(self, pcr: int, digests: tuple[Digest, ...]) -> None:
        """Extended."""
        self.chip.extend(pcr, {digest.algorithm: digest.value for digest in digests})

    def read(self, bank: str) -> PcrValues:
        """The registers."""
        return self.chip.values(bank)

    def quote(self, extra_data: bytes, bank: str) -> Quoted:
        """A quote, and the registers it covers."""
        self.chip.tick()
        attest, signature = self.chip.quote(extra_data)
        return Quoted(attest, signature, self.chip.values(bank))

    def clock(self) -> TpmClock:
        """The counters."""
        return TpmClock(self.chip.clock, self.chip.reset_count, self.chip.restart_count, self.chip.safe)

    def time(self, extra_data: bytes) -> Stated:
        """See `Tpm`."""
        raise Misuse("this chip makes no leases")

    def create_lease_key(self, policy: bytes, qualifying: bytes) -> MadeLeaseKey:
        """See `Tpm`."""
        raise Misuse("this chip makes no leases")

    def lease(self, key: MadeLeaseKey, approval: LeaseApproval, extra_data: bytes) -> Stated:
        """See `Tpm`."""
        raise Misuse("this chip makes no leases")

    def close(self) -> None:
        """Nothing to close."""


class MemoryCgroup(Cgroup):
    """A cgroup whose processes are a word: it says what was done to them."""

    def __init__(self, name: str) -> None:
        super().__init__(Path("/memory") / name)
        object.__setattr__(self, "state", {"frozen": False, "alive": True})

    state: dict[str, bool]

    def freeze(self, deadline: float = 2.0) -> bool:
        """Stopped."""
        self.state["frozen"] = True
        return True

    def thaw(self) -> bool:
        """Running."""
        self.state["frozen"] = False
        return True

    def kill(self, deadline: float = 5.0) -> bool:
        """Gone."""
        self.state["alive"] = False
        return True

    def populated(self) -> bool:
        """Whether the processes live."""
        return self.state["alive"]

    def processes(self) -> tuple[int, ...]:
        """No pids of this machine."""
        return ()


class HostRelay(Relay):
    """The attestor of one host, as its holders see it, without the socket."""

    def __init__(self, attestation: Attestation, instance: bytes, decision: Enrolment) -> None:
        super().__init__("")
        self._attestation, self._instance, self._enrolment = attestation, instance, decision

    def ask(self, message: Local) -> Local:
        """A token, a refusal, or that nobody answers."""
        assert isinstance(message, TokenAsk)
        a = message
        request = InstanceRequest(a.instance, a.session_key, a.audience, a.grants, a.log_size, a.log_root, a.log_from, a.log_proof)
        try:
            attested = self._attestation.attest((request,), {self._instance: encode_measurement(MEASUREMENT)})
        except Refused as refused:
            return Refusal(refused.reasons, False)
        except Unavailable as error:
            return Unreachable(str(error)[:1000])
        token, reasons = reasons_for(attested.answer, self._instance)
        if token is None:
            return Refusal(reasons, False, decided=True)
        n = attested.answer
        key, evidence, receipt = self._enrolment.decision_key, attested.evidence, attested.receipt
        return TokenGiven(token, n.decision, n.result, n.policy, n.token_keys, key, evidence, receipt)


@dataclass
class Agent:
    """One host with one instance on it, whose holder's loop is `turn`."""

    name: str
    central: Central
    trust: Trust
    folder: Path
    killed_for: tuple[Reason, ...] = ()
    history: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock, self.instance = self.central.clock, hashlib.sha256(self.name.encode()).digest()[:16]
        tpm, state, key = ChipTpm(Chip(seed=self.name)), StateDir(self.folder / "attestor"), MemorySigner.generate()
        state.make()
        wire, host_key = Wire(self.central), MemorySigner.generate()
        admitted = self.central.parts.hosts.admit(compose.INIT, NAMESPACE, self.name, ek=None, unendorsed=False, life=600)
        enrolment = enrol(
            tpm, wire, state, host=self.name, host_key=host_key.public, ticket=admitted.ticket, runtime_pcr=PCR, bank=BANK
        )  # fmt: skip
        log = RuntimeLog(state.log, tpm, pcr=PCR, bank=BANK)
        log.open()
        log.append(GOVERNANCE)
        command = command_digest(MEASUREMENT.command)
        log.append(StartEvent(self.instance, str(AGENT), MEASUREMENT.root(), command, key.public.thumbprint(), None, ()))
        self._runtime = log
        relay = HostRelay(Attestation(tpm, log, KernelLogs(LogPaths(), enrolment.bank), wire, enrolment, clock), self.instance, enrolment)
        self.cgroup, self.log, self.credential = (
            MemoryCgroup(self.name),
            ActionLog(self.folder, self.instance, AGENT, installed_engine(), clock.now()),
            Credential(clock),
        )
        self.gate = Gatekeeper(credential=self.credential, log=self.log, clock=clock)
        self.containment = Containment(self.cgroup, self.gate, self.credential, self.folder, clock=clock, changed=self._changed)
        self.tenure = Tenure(self.containment, self.credential, clock)
        subject = Subject(self.instance, AGENT, key.public, "tools", GRANTS, None)
        bundles = HeldBundles(self.folder / "policies")
        self.renewal = Renewal(subject, relay, self.log, self.trust, bundles, HeldPlaces(self.folder / "verifier"), self.folder, clock)
        first = self.renewal.renew()
        assert isinstance(first, Granted), first
        self.tenure.begin(first.held)

    def _changed(self, standing: Standing) -> None:
        self.history.append((self.central.clock.boot(), standing.state))

    @property
    def state(self) -> str:
        """running, held or killed."""
        return self.containment.standing.state

    def turn(self) -> None:
        """What the holder does when it wakes: ask if due, and see what time brought."""
        if self.killed_for:
            return
        fatal: tuple[Reason, ...] = ()
        if self.renewal.due_in() == 0:
            fatal = self.tenure.heard(self.renewal.renew())
        self.killed_for = fatal or self.tenure.overdue(0)
        if self.killed_for:
            self.containment.kill(self.killed_for, 0, records=list)

    def acts(self) -> bool:
        """Whether an action passes the gate now."""
        return self.gate.ask(READ, b"{}", gate="socket").permit

    def close(self) -> None:
        """Files are closed."""
        self.log.close()
        self._runtime.close()

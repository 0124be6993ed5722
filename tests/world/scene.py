"""A whole story in memory: a TPM is enrolled, agents are launched, attested, act, and their chain is exported.

Everything is determined by the arguments: keys come from seeds, times are numbers, signatures are deterministic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.signers import MemorySigner
from tests.world.chip import Chip
from writ.formats.action import Action
from writ.formats.anchor import AnchorRow, Anchors, encode_batch
from writ.formats.corim import Corim, encode_corim
from writ.formats.cose import encode_sign1
from writ.formats.decision import CONTENT_TYPE, EnrolDecision, Entry, encode_entry
from writ.formats.digest import Digest, Nonce
from writ.formats.eat import TYP, TokenClaims, encode_claims
from writ.formats.engine import EngineId, encode_engine
from writ.formats.enrolment import EnrolmentEvidence, encode_enrolment_evidence
from writ.formats.eventlog.cel import CelRecord, encode_cel
from writ.formats.eventlog.runtime import ComponentEvent, RuntimeEvent, StartEvent, command_digest, record_event
from writ.formats.evidence import Evidence, InstanceRequest, binding, encode_evidence, enrolment_binding, further
from writ.formats.exchange import EXCHANGE, Activation, EnrolRequest
from writ.formats.exemption import Exemption, encode_exemption
from writ.formats.grants import grant_set
from writ.formats.jose import sign_jws
from writ.formats.keys import ED25519, PublicKey
from writ.formats.lease import LeaseKeys
from writ.formats.measurement import ComponentRoot, Measurement, Profile, encode_measurement
from writ.formats.policy_bundle import PolicyBundle, PolicySettings, encode_bundle
from writ.formats.proof_bundle import Leaf, Opened, ProofBundle
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, commit, encode_record
from writ.formats.spiffe import AgentId
from writ.formats.state import HostRecord, HostState, encode_host_record, encode_host_state
from writ.formats.tlog.merkle import consistency_proof, inclusion_proof, leaf_hash, root
from writ.formats.trust import ManufacturerRoot, Trust
from writ.verdict.attestation import AttestationVerdict, decide_attestation
from writ.verdict.decide import judge_recorded
from writ.verdict.engine import ENGINE
from writ.verdict.enrolment import Admission, judge_activation, judge_enrolment
from writ.verdict.issue import Issuance, status_uri
from writ.verdict.reference import measured_values, reference_set

NOW = 1_790_000_000
ISSUER = "https://verifier.example.org"
DOMAIN = "example.org"
AUDIENCE = "tools"
NAMESPACE = "billing"
RUNTIME_PCR = 14
ANCHOR_PCR = 15
STATUS_LIST = 1
STATUS_URI = status_uri(ISSUER, STATUS_LIST)
ENGINE_ID = EngineId(ENGINE, Digest.of(b"tree"), (("cbor2", "6"), ("cryptography", "48")))
COMMAND = ("python", "agent.py")
GRANTS = grant_set([("tool.call", "files/*"), ("tool.call", "mail/send")])

SCHEMA = """
namespace Writ {
  entity Agent; entity Resource; entity Audience;
  action "token.issue" appliesTo {
    principal: [Agent], resource: [Audience],
    context: { host: String, tpm_class: String, runtime: String, endorsed: Bool }
  };
  action "tool.call", "file.read" appliesTo {
    principal: [Agent], resource: [Resource],
    context: { now: Long, attest_age: Long, gate: String, host: String, namespace: String, tpm_class: String, runtime: String, depth: Long }
  };
}
"""
POLICIES = """
@id("issue") permit(principal, action == Writ::Action::"token.issue", resource == Writ::Audience::"tools");
@id("call") permit(principal, action == Writ::Action::"tool.call", resource) when { context.attest_age < 300 };
@id("no-mail") forbid(principal, action, resource == Writ::Resource::"mail/delete");
"""
DEMO = PolicySettings(accept_runtime_only=True, tpm_classes=("discrete", "firmware", "software", "virtual"))


@cache
def signer(seed: str) -> MemorySigner:
    """The Ed25519 signer of a seed."""
    private = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())
    return MemorySigner(PublicKey(ED25519, private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)), private)


def sixteen(name: str) -> bytes:
    """An instance id."""
    return hashlib.sha256(name.encode()).digest()[:16]


def policy(settings: PolicySettings = DEMO, *, schema: str = SCHEMA, policies: str = POLICIES, namespace: str = NAMESPACE) -> PolicyBundle:
    """A policy bundle."""
    return PolicyBundle(namespace, 1, NOW - 10_000, settings, schema, policies)


def measurement(
    agent: str = "reporter", *, prompt: bytes = b"be kind", mutable: bool = False, namespace: str = NAMESPACE,
    grants: tuple[tuple[str, str], ...] = GRANTS, audience: str = AUDIENCE, profile: Profile = "strict",
) -> Measurement:  # fmt: skip
    """What an agent of three components measures to."""
    parts = (
        ComponentRoot("code", "code", Digest.of(b"code")),
        ComponentRoot("interpreter", "interpreter", Digest.of(b"python")),
        ComponentRoot("prompts", "prompts", Digest.of(prompt), mutable),
    )
    return Measurement(AgentId(DOMAIN, namespace, agent), COMMAND, parts, (), audience, grant_set(grants), profile)


def reference(agent: str = "reporter", *, version: str = "1", prompt: bytes = b"be kind", valid_until: int | None = None) -> Corim:
    """The approved version of that agent."""
    known = measured_values(measurement(agent, prompt=prompt))
    return Corim(f"{agent}-{version}", NAMESPACE, f"spiffe://{DOMAIN}/{NAMESPACE}/agent/{agent}", tuple(sorted(known.items())),
                 valid_until=valid_until)  # fmt: skip


GOVERNANCE = (("attestor", Digest.of(b"attestor")), ("enforcer", Digest.of(b"enforcer")))
GOVERNED = Corim("governance-1", NAMESPACE, "governance", GOVERNANCE)


def sign_entry(entry: Entry, key: MemorySigner | None = None, content_type: str = CONTENT_TYPE) -> bytes:
    """The COSE_Sign1 of a decision."""
    by = key or signer("decision")
    return encode_sign1(
        encode_entry(entry), algorithm=by.public.algorithm, kid=by.public.thumbprint(), sign=by.sign, content_type=content_type
    )


def sign_token(claims: TokenClaims, key: MemorySigner | None = None, *, kid: str | None = "token-1") -> str:
    """The compact token of `claims`."""
    by = key or signer("token")
    return sign_jws(encode_claims(claims), typ=TYP, signer_algorithm=by.public.algorithm, sign=by.sign, kid=kid)


@dataclass
class Running:
    """One instance on the host: its session key, and its action log with what was carried of it."""

    name: str
    instance: bytes
    key: MemorySigner
    opening: bytes
    """The leaf before its first action."""
    leaves: list[bytes] = field(default_factory=list)
    contexts: dict[int, bytes] = field(default_factory=dict)
    """Of each action's decision, by sequence."""
    carried: int = 0
    grants: tuple[tuple[str, str], ...] = GRANTS
    anchored: list[int] = field(default_factory=list)
    """Sizes that were anchored, and are proven with the next request."""

    def hashes(self) -> list[bytes]:
        """Leaf hashes of the action log."""
        return [leaf_hash(leaf) for leaf in self.leaves]

    def request(self) -> InstanceRequest:
        """What the instance asks with."""
        hashes = self.hashes()
        proof = consistency_proof(hashes, self.carried)
        anchored = tuple((size, consistency_proof(hashes, size)) for size in sorted(set(self.anchored)) if size <= len(hashes))
        return InstanceRequest(
            self.instance, self.key.public, AUDIENCE, grant_set(self.grants), len(hashes), root(hashes), self.carried, proof, anchored
        )

    def checkpoint(self) -> AnchorRow:
        """Its log as it is."""
        return AnchorRow(self.instance, len(self.leaves), root(self.hashes()))


@dataclass
class Scene:
    """One host and its verifier. `state` and `records` move; `bundle` and `references` may be exchanged at any time."""

    chip: Chip = field(default_factory=Chip)
    bundle: PolicyBundle = field(default_factory=policy)
    references: Sequence[Corim] = (GOVERNED, reference())
    exemptions: Sequence[Exemption] = ()
    tpm_class: str = "software"
    host: str = "host-1"
    now: int = NOW
    state: HostState | None = None
    records: list[CelRecord] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    measured: list[bytes] = field(default_factory=list)
    nonces: int = 0
    crls: tuple[bytes, ...] = ()
    logs: Callable[[], dict[str, Any]] = dict
    """Logs that travel with the next evidence, where a host has any (`tests.world.machine`)."""
    shows: Callable[[Nonce], LeaseKeys] | None = None
    """Lease keys that travel with evidence for that nonce, where a host is in hardware mode."""
    engine: EngineId = ENGINE_ID
    """Which engine its decisions name."""
    alive: tuple[tuple[bytes, int], ...] | None = None
    """Until when instances hold tokens, as the verifier looks it up."""
    anchors: Anchors | None = None
    """Those that travel with the next evidence."""

    def __post_init__(self) -> None:
        self.enrol()
        self.govern()

    # --- enrolment

    @property
    def trust(self) -> Trust:
        """Anchors: the maker's root, and the decision key."""
        made_by = ManufacturerRoot(self.chip.maker.seed, self.tpm_class, self.chip.maker.root())
        return Trust(DOMAIN, ISSUER, (made_by,), (), (signer("decision").public,), self.crls)

    def enrol_request(self) -> EnrolRequest:
        """What the host asks with."""
        c = self.chip
        return EnrolRequest(self.host, "ticket", c.ek.raw, c.ek_certificates, c.ak.raw, signer("host").public, RUNTIME_PCR, "sha256")

    def enrol(self) -> None:
        """The chip proves itself; `record`, `enrolment` and `enrol_decision` are made."""
        admission = Admission(self.host, NAMESPACE, 1, None, False)
        request, challenge, secret = self.enrol_request(), hashlib.sha256(b"challenge").digest(), hashlib.sha256(b"secret").digest()
        enrolled_at = self.now - 5_000
        pending = judge_enrolment(request, admission=admission, trust=self.trust, now=enrolled_at)
        attest, signature = self.chip.quote(enrolment_binding(self.host, request.host_key.thumbprint(), challenge, secret))
        answer = Activation(challenge, attest, signature, self.chip.values())
        enrolled = judge_activation(answer, pending=pending, challenge=challenge, secret=secret, reset_count=None, now=enrolled_at)
        self.record: HostRecord = enrolled.record
        self.enrolment = encode_enrolment_evidence(
            EnrolmentEvidence(
                self.host, NAMESPACE, 1, None, False, EXCHANGE.encode(request), challenge, secret, EXCHANGE.encode(answer), None
            )
        )
        record = Digest.of(encode_host_record(self.record))
        self.enrol_entry = EnrolDecision(
            self.engine.digest, enrolled_at, self.host, NAMESPACE, record, Digest.of(self.enrolment), self.trust.digest, enrolled.cleared
        )

    # --- what happens on the host

    def event(self, event: RuntimeEvent) -> None:
        """Into the log and into the PCR, in all banks."""
        record = record_event(event, record_number=len(self.records), pcr=RUNTIME_PCR, banks=("sha256", "sha384"))
        self.records.append(record)
        self.chip.extend(RUNTIME_PCR, {d.algorithm: d.value for d in record.digests})

    def govern(self) -> None:
        """The governance, measured first."""
        for name, digest in GOVERNANCE:
            self.event(ComponentEvent("governance", name, digest))

    def launch(
        self, name: str = "one", *, agent: str = "reporter", parent: str | None = None, what: Measurement | None = None,
        key: MemorySigner | None = None, grants: tuple[tuple[str, str], ...] = GRANTS,
    ) -> Running:  # fmt: skip
        """An instance starts."""
        measured = what or measurement(agent)
        agent_id = f"spiffe://{DOMAIN}/{measured.agent.namespace}/agent/{agent}"
        opening = Opening(0, self.now, sixteen(name), agent_id, self.engine)
        one = Running(name, sixteen(name), key or signer(f"session/{name}"), encode_record(opening), grants=grants)
        above = None if parent is None else self.running[parent].instance
        session = one.key.public.thumbprint()
        self.event(StartEvent(one.instance, agent_id, measured.root(), command_digest(COMMAND), session, above, ()))
        self.measured.append(encode_measurement(measured))
        self.running[name] = one
        return one

    def reboot(self) -> None:
        """The host comes up again, with nothing running."""
        self.chip.reboot()
        self.chip.clock = 500
        self.records, self.running, self.measured, self.anchors = [], {}, [], None
        self.govern()

    def anchor(self, *names: str, rows: Sequence[AnchorRow] = ()) -> None:
        """The action logs of `names` are anchored, and what is in `rows`: extended, and remembered for the next evidence."""
        batch = tuple(sorted([*rows, *(self.running[name].checkpoint() for name in names)]))
        before = self.anchors or Anchors(ANCHOR_PCR, self.chip.values().get(ANCHOR_PCR), ())
        self.anchors = Anchors(before.pcr, before.base, (*before.batches, batch) if batch else before.batches)
        if batch:
            self.chip.extend(ANCHOR_PCR, {bank: Digest.of(encode_batch(batch), bank).value for bank in ("sha256", "sha384")})
        for name in names:
            self.running[name].anchored.append(len(self.running[name].leaves))

    # --- attestation

    def evidence(
        self, *names: str, requests: tuple[InstanceRequest, ...] | None = None, first: int | None = None, extra: bytes | None = None
    ) -> Evidence:
        """One attestation asking for the instances of `names`; by default only what is new of the log is sent."""
        self.nonces += 1
        nonce = Nonce(hashlib.sha256(f"nonce {self.nonces}".encode()).digest())
        asked = requests if requests is not None else tuple(self.running[name].request() for name in names)
        keys = None if self.shows is None else self.shows(nonce)
        bound = binding(signer("decision").public.thumbprint(), self.host, nonce, asked, further(keys)) if extra is None else extra
        self.chip.tick()
        attest, signature = self.chip.quote(bound)
        known = 0 if self.state is None or self.state.reset_count != self.chip.reset_count else self.state.runtime.events
        start = known if first is None else first
        measured = tuple(dict.fromkeys(self.measured))
        log = encode_cel(self.records[start:])
        return Evidence(
            self.host, nonce, attest, signature, self.chip.values(), start, log, measured, asked, lease_keys=keys,
            anchors=self.anchors, **self.logs(),
        )  # fmt: skip

    def issuance(self, count: int, *, nonce_age: int = 2) -> Issuance:
        """What the shell gives beside the evidence."""
        rows = tuple((f"token-id-{self.nonces:04d}-{at:04d}", 100 * self.nonces + at) for at in range(count))
        return Issuance(ISSUER, self.now, self.now - nonce_age, rows, STATUS_LIST, self.alive)

    def judge(self, evidence: Evidence, *, nonce_age: int = 2) -> AttestationVerdict:
        """The verdict; nothing moves."""
        return decide_attestation(
            encode_evidence(evidence), record=self.record, state=self.state, bundle=self.bundle,
            references=reference_set(self.references, self.exemptions),
            verifier=signer("decision").public.thumbprint(), issuance=self.issuance(len(evidence.requests), nonce_age=nonce_age),
            engine=self.engine.digest,
        )  # fmt: skip

    def attest(self, *names: str) -> AttestationVerdict:
        """Evidence, verdict, and the state moved as a ledger would."""
        verdict = self.judge(self.evidence(*names))
        self.state, self.anchors = verdict.state_after, None
        for name in names:
            self.running[name].carried, self.running[name].anchored = len(self.running[name].leaves), []
        return verdict

    # --- action and proof

    def act(
        self, name: str, token: str, claims: TokenClaims, *, action: str = "tool.call", resource: str = "files/a", permit: bool = True
    ) -> ActionRecord:
        """An action decided and recorded as an enforcer would."""
        one = self.running[name]
        asked = Action(action, resource, Digest.of(b"arguments"))
        answer = judge_recorded(asked, claims, self.bundle, gate="socket", now=self.now)
        assert answer.permit == permit
        one.leaves = one.leaves or [one.opening]
        record = ActionRecord(
            sequence=len(one.leaves), decided_at=self.now, opening=0, action=action, resource=resource,
            arguments=commit(bytes(32), b"arguments"), token=Digest.of(token.encode()), bundle=self.bundle.digest,
            context=commit(bytes(32), answer.context), reasons=answer.reasons, parent=None, gate="socket",
        )  # fmt: skip
        one.contexts[record.sequence] = answer.context
        one.leaves.append(encode_record(record))
        return record

    def outcome(self, name: str, of: int) -> OutcomeRecord:
        """What became of the record at `of`."""
        one = self.running[name]
        record = OutcomeRecord(len(one.leaves), self.now + 1, of, "done", None, 6, commit(bytes(32), b"result"))
        one.leaves.append(encode_record(record))
        return record

    def proof_bundle(self) -> ProofBundle:
        """Enrol, attest, act, attest again: the chain of the second action of instance `one`."""
        if "one" not in self.running:
            self.launch("one")
        before = self.state
        evidence = self.evidence("one")
        verdict = self.judge(evidence)
        claims = verdict.tokens[0].claims
        assert claims is not None
        self.state = verdict.state_after
        token = sign_token(claims)
        self.act("one", token, claims, resource="files/first")
        record = self.act("one", token, claims)
        outcome = self.outcome("one", record.sequence)
        self.now += 30
        carrier = self.evidence("one")
        carried = self.judge(carrier)
        hashes = self.running["one"].hashes()
        return ProofBundle(
            enrolment=self.enrolment,
            enrol_decision=sign_entry(self.enrol_entry),
            record=encode_host_record(self.record),
            state=b"" if before is None else encode_host_state(before),
            evidence=encode_evidence(evidence),
            engine=encode_engine(ENGINE_ID),
            references=(*(encode_corim(c) for c in self.references), *(encode_exemption(e) for e in self.exemptions)),
            policy=encode_bundle(self.bundle),
            attest_decision=sign_entry(verdict.entry),
            result=verdict.result,
            token=token,
            opening=Leaf(self.running["one"].leaves[0], 0, inclusion_proof(hashes, 0)),
            action=Leaf(encode_record(record), record.sequence, inclusion_proof(hashes, record.sequence)),
            context=Opened(bytes(32), self.running["one"].contexts[record.sequence]),
            outcome=Leaf(encode_record(outcome), outcome.sequence, inclusion_proof(hashes, outcome.sequence)),
            carrier=encode_evidence(carrier),
            carrier_decision=sign_entry(carried.entry),
        )


def permitted(verdict: AttestationVerdict, at: int = 0) -> TokenClaims:
    """The claims that were granted; fails if there are none."""
    claims = verdict.tokens[at].claims
    assert claims is not None, verdict.tokens[at].reasons
    return claims


def codes(verdict: AttestationVerdict, at: int = 0) -> set[str]:
    """Reason codes against one request; a refusal has some and no claims."""
    one = verdict.tokens[at]
    assert one.claims is None
    return {reason.code for reason in (*verdict.entry.reasons, *one.reasons)} - {"host-refused"}

"""Proof bundles out of archives: picks, by digest, the chain behind each action."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from auditor.objects import Objects, missing, tokens_of
from writ.formats.archive import Archive, InstanceLog
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, EnrolDecision, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import SignedToken, encode_claims
from writ.formats.errors import FormatError, Refused
from writ.formats.evidence import parse_evidence
from writ.formats.proof_bundle import NO_COLLATERAL, Collateral, Leaf, ProofBundle, Published, TokenProof
from writ.formats.record import ActionRecord, OutcomeRecord, Record, opening_of, parse_log
from writ.formats.tlog.inclusion import parse_inclusion
from writ.formats.tlog.merkle import inclusion_proof, leaf_hash
from writ.formats.tlog.proof import TlogProof
from writ.formats.trust import Trust, parse_trust
from writ.verdict.appraisal import NOT_CONTINUED
from writ.verdict.chain import collateral_of
from writ.verdict.replay import request_of
from writ.verdict.signed_entry import by_thumbprint, verify_entry
from writ.verdict.token_proof import PUBLISHING
from writ.verdict.transparency import verify_logged


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which actions or tokens: by agent (None: any) and time of decision, both ends included, in seconds."""

    agent: str | None
    earliest: int
    latest: int

    def matches(self, agent: str, record: ActionRecord) -> bool:
        """Whether this action of `agent` is wanted."""
        return self.is_within(agent, record.decided_at)

    def is_within(self, agent: str, moment: int) -> bool:
        """Whether what `agent` did or got at that time is wanted."""
        return (self.agent is None or agent == self.agent) and self.earliest <= moment <= self.latest


class Places:
    """Where entries stand in the verifier's log, as the archives say: of several the one that most witnesses signed, then the latest.

    With `trust` only those count that hold under its log keys.
    """

    def __init__(self, archive: Archive, trust: Trust | None) -> None:
        self._best: dict[bytes, tuple[tuple[int, int], bytes, int]] = {}
        for one in archive.places:
            try:
                inclusion = parse_inclusion(one.inclusion)
                if trust is not None:
                    verify_logged(one.leaf, inclusion, trust.log_keys, None, "inclusion")
            except (FormatError, Refused):
                continue
            if isinstance(inclusion, TlogProof):
                rank = len(inclusion.checkpoint.note.signatures), inclusion.checkpoint.checkpoint.size
            else:
                rank = 0, inclusion.size
            if one.leaf not in self._best or rank > self._best[one.leaf][0]:
                self._best[one.leaf] = rank, one.inclusion, inclusion.index

    def of(self, signed: bytes) -> bytes | None:
        """The inclusion of this entry, None where the archives have none."""
        found = self._best.get(leaf_hash(signed))
        return None if found is None else found[1]

    def index(self, signed: bytes) -> int | None:
        """The index that its inclusion says."""
        found = self._best.get(leaf_hash(signed))
        return None if found is None else found[2]


class Chains:
    """The signed decisions, tokens and objects of an archive, found by the digests that name them.

    With `trust` decisions count that its decision keys signed; without it whoever wrote an archive may put another in the place of one, and
    the bundle is refused by whoever verifies it. `passed_over` counts what is no entry, or by no such key.
    """

    def __init__(self, archive: Archive, trust: Trust | None = None) -> None:
        self._archive = archive
        self._objects = Objects(archive)
        self._tokens = {token.digest: token for token in tokens_of(archive.tokens)}
        self._enrolments: dict[Digest, bytes] = {}
        self._attests: list[tuple[AttestDecision, bytes]] = []
        self._acts: dict[tuple[str, str, Digest | None], list[bytes]] = {}
        self._places = Places(archive, trust)
        self.passed_over = 0
        keys = None if trust is None else by_thumbprint(trust.decision_keys)
        for signed in archive.entries:
            try:
                entry = parse_entry(parse_sign1(signed).payload or b"") if keys is None else verify_entry(signed, keys, "entry")
            except (FormatError, Refused):
                self.passed_over += 1
                continue
            if isinstance(entry, EnrolDecision):
                self._enrolments[entry.record] = signed
            elif isinstance(entry, AttestDecision):
                self._attests.append((entry, signed))
            elif isinstance(entry, OperatorAct):
                for name, acts in PUBLISHING.items():
                    if entry.act in acts:
                        self._acts.setdefault((name, entry.namespace, entry.detail), []).append(signed)
        self._attests.sort(key=lambda item: item[0].decided_at)

    def bundles(self, wanted: Wanted) -> Iterator[tuple[bytes, int, ProofBundle | Refused]]:
        """Each wanted action by instance and sequence with its bundle, or with what is missing from the archive."""
        for log in self._archive.logs:
            records = parse_log(log.leaves)
            for record in records:
                if isinstance(record, ActionRecord) and wanted.matches(opening_of(records, record).agent, record):
                    yield log.instance, record.sequence, self._bundle(record, records, log)

    def tokens(self, wanted: Wanted) -> Iterator[tuple[bytes, str, TokenProof | Refused]]:
        """Each wanted token by instance and digest (hex; an id is whatever its issuer likes) with its bundle, or with what is missing."""
        for token in sorted(self._tokens.values(), key=lambda one: (one.claims.issued_at, one.claims.token_id)):
            claims = token.claims
            if wanted.is_within(str(claims.agent), claims.issued_at):
                try:
                    yield claims.instance, token.digest.value.hex(), self._token_chain(token)
                except Refused as refused:
                    yield claims.instance, token.digest.value.hex(), refused

    def _bundle(self, record: ActionRecord, records: list[Record], log: InstanceLog) -> ProofBundle | Refused:
        try:
            return self._chain(record, records, log)
        except Refused as refused:
            return refused

    def _chain(self, record: ActionRecord, records: list[Record], log: InstanceLog) -> ProofBundle:
        leaves = log.leaves
        chain = self._token_chain(self._token(record))
        size, carrier, carrier_signed = self._carrier(record, log.instance, Digest.of(chain.record))
        hashes = [leaf_hash(leaf) for leaf in leaves]
        if size > len(hashes):
            raise missing("log", f"{size} leaves")

        def leaf(index: int) -> Leaf:
            return Leaf(leaves[index], index, inclusion_proof(hashes, index, size))

        context = self._objects.context(record)
        outcome = next((r for r in records[:size] if isinstance(r, OutcomeRecord) and r.of == record.sequence), None)
        return ProofBundle(
            **{field.name: getattr(chain, field.name) for field in fields(chain)},
            opening=leaf(record.opening),
            action=leaf(record.sequence),
            context=context,
            outcome=None if outcome is None else leaf(outcome.sequence),
            carrier=carrier,
            carrier_decision=carrier_signed,
            carrier_inclusion=self._places.of(carrier_signed),
            approval=None if context is None else self._objects.approval(context.context),
        )

    def _token_chain(self, token: SignedToken) -> TokenProof:
        decision, signed = self._issuing(token)
        inputs = dict(decision.inputs)
        enrol_signed = self._enrolments.get(inputs["record"])
        if enrol_signed is None:
            raise missing("enrol_decision", str(inputs["record"]))
        enrol = parse_entry(parse_sign1(enrol_signed).payload or b"")
        if not isinstance(enrol, EnrolDecision):
            raise missing("enrol_decision", str(inputs["record"]))
        enrolment = self._objects.get(enrol.evidence, "enrolment")
        return TokenProof(
            enrolment=enrolment,
            enrol_decision=enrol_signed,
            enrol_inclusion=self._places.of(enrol_signed),
            record=self._objects.get(inputs["record"], "record"),
            state=self._objects.get(inputs["state"], "state"),
            evidence=self._objects.get(inputs["evidence"], "evidence"),
            engine=self._objects.get(decision.engine, "engine"),
            references=self._objects.references(inputs["references"]),
            policy=self._objects.get(inputs["policy"], "policy"),
            attest_decision=signed,
            attest_inclusion=self._places.of(signed),
            result=self._objects.get(decision.result, "result"),
            token=token.jws.compact,
            policy_published=self._published("policy", decision, signed),
            references_published=self._published("references", decision, signed),
            collateral=self._collateral(enrol, enrolment),
        )

    def _published(self, name: str, decision: AttestDecision, signed: bytes) -> Published | None:
        """The last act before the decision that put what it names into force, where the archives say so of both."""
        decided, found = self._places.index(signed), []
        for entry in self._acts.get((name, decision.namespace, dict(decision.inputs)[name]), ()):
            inclusion, index = self._places.of(entry), self._places.index(entry)
            if inclusion is not None and index is not None and decided is not None and index < decided:
                found.append((index, Published(entry, inclusion)))
        return max(found, key=lambda item: item[0])[1] if found else None

    def _collateral(self, enrol: EnrolDecision, enrolment: bytes) -> Collateral:
        """What the verifier held about the chain then, where the archives have its trust file."""
        held = self._objects.find(enrol.trust)
        sent = request_of(enrolment).ek_certificates
        if held is None or not sent:
            return NO_COLLATERAL
        try:
            return collateral_of(sent, parse_trust(held), now=enrol.decided_at)
        except Refused:
            return NO_COLLATERAL  # the auditor's own judgement of the chain says why

    def _token(self, record: ActionRecord) -> SignedToken:
        if record.token is None:
            raise missing("token", "an action that was decided under a token")
        token = self._tokens.get(record.token)
        if token is None:
            raise missing("token", str(record.token))
        return token

    def _issuing(self, token: SignedToken) -> tuple[AttestDecision, bytes]:
        claims = Digest.of(encode_claims(token.claims))
        for decision, signed in self._attests:
            if any(outcome.claims == claims for outcome in decision.outcomes):
                return decision, signed
        raise missing("attest_decision", str(claims))

    def _carrier(self, record: ActionRecord, instance: bytes, host: Digest) -> tuple[int, bytes, bytes]:
        """The earliest attestation that carried the record, under the same host record, and that the verifier took as a continuation."""
        found: list[tuple[int, bytes, bytes]] = []
        for decision, signed in self._attests:
            inputs = dict(decision.inputs)
            evidence = self._objects.find(inputs["evidence"])
            if inputs["record"] != host or evidence is None or not _taken(decision, instance):
                continue
            found.extend(
                (request.log_size, evidence, signed)
                for request in parse_evidence(evidence).requests
                if request.instance == instance and request.log_size > record.sequence
            )
        if not found:
            raise missing("carrier", f"an attestation that carried record {record.sequence}")
        return min(found, key=lambda item: item[0])


def _taken(decision: AttestDecision, instance: bytes) -> bool:
    """Whether the verifier took the checkpoint that this instance carried."""
    return any(one.instance == instance and not {reason.code for reason in one.reasons} & NOT_CONTINUED for one in decision.outcomes)

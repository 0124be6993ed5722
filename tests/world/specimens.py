"""One value of every message and record of ours, with its writer and its reader: for golden bytes and for spoiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cbor2
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.world.chip import private_key
from tests.world.lease_chip import LeaseChip
from tests.world.scene import ENGINE_ID, GRANTS, NAMESPACE, NOW, Scene, permitted, sign_token, signer, sixteen
from tests.world.store import proof as proof_of
from tests.world.tlog import MemoryLog, plain_key
from writ.formats.archive import Archive, InstanceLog, encode_archive, parse_archive
from writ.formats.cose import parse_sign1
from writ.formats.decision import EXCHANGE_INPUTS, ExchangeDecision, Genesis, OperatorAct, encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import encode_claims, parse_claims
from writ.formats.enrolment import encode_enrolment_evidence, parse_enrolment_evidence
from writ.formats.evidence import ImaLog, encode_evidence, parse_evidence
from writ.formats.exchange import (
    EXCHANGE,
    AttestAnswer,
    EnrolChallenge,
    Enrolled,
    Exchange,
    ExchangeAnswer,
    ExchangeRequest,
    InstanceAnswer,
    NonceAnswer,
    Problem,
)
from writ.formats.exchange_token import ExchangeClaims, encode_exchange_claims, parse_exchange_claims
from writ.formats.jose import parse_dpop
from writ.formats.keys import ES256, PublicKey
from writ.formats.lease import (
    HostMoment,
    LeaseApproval,
    LeaseKey,
    LeaseKeys,
    encode_lease,
    encode_lease_approval,
    parse_lease,
    parse_lease_approval,
)
from writ.formats.local import (
    LOCAL,
    Anchor,
    Done,
    Drift,
    ExchangeAsk,
    ExchangeGiven,
    Launch,
    Launched,
    LeaseAsk,
    LeaseGiven,
    Local,
    Refusal,
    Status,
    StatusAnswer,
    Stop,
    TokenAsk,
    TokenGiven,
    Unreachable,
    Watch,
)
from writ.formats.measurement import encode_measurement, parse_measurement
from writ.formats.policy_bundle import encode_bundle, parse_bundle
from writ.formats.proof_bundle import encode_proof_bundle, parse_proof_bundle
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, encode_record, parse_record
from writ.formats.rerun import APPROVAL, NEEDED, Made, Rerun, encode_made, encode_rerun, parse_made, parse_rerun
from writ.formats.state import encode_host_record, encode_host_state, parse_host_record, parse_host_state
from writ.formats.strict import encode_cbor
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.merkle import consistency_proof
from writ.formats.tlog.note import encode_note, parse_vkey
from writ.formats.tlog.proof import encode_tlog_proof, parse_tlog_proof
from writ.formats.tlog.receipt import Receipt, parse_receipt
from writ.formats.tlog.storing import AddRecords, encode_add_records, parse_add_records
from writ.formats.tlog.tile import encode_bundle as encode_bundle_of_entries
from writ.formats.tlog.tile import parse_bundle as parse_bundle_of_entries
from writ.formats.tlog.witnessing import (
    AddCheckpoint,
    encode_add_checkpoint,
    encode_cosignatures,
    parse_add_checkpoint,
    parse_cosignatures,
)
from writ.formats.trust import encode_trust, parse_trust


@dataclass(frozen=True)
class Specimen:
    """A value with its two ways."""

    value: Any
    encode: Callable[[Any], bytes]
    parse: Callable[[bytes], Any]

    @property
    def data(self) -> bytes:
        """The value in bytes."""
        return self.encode(self.value)


REASONS = (Reason("policy-refused", "action", "a permit", "no policy permits"), Reason("token-expired", "token.exp", "later", "now"))
X, Y = Digest.of(b"x"), Digest.of(b"y")


def _receipt(receipt: Receipt) -> bytes:
    one = receipt.sign1
    return encode_cbor(cbor2.CBORTag(18, [one.protected, dict(one.unprotected), one.payload, one.signature]))


@cache
def specimens() -> dict[str, Specimen]:
    """By name. The same bytes in every run."""
    scene = Scene()
    proof = scene.proof_bundle()
    scene.launch("two", parent="one", grants=())
    evidence = scene.evidence("one", "two")
    verdict = scene.judge(evidence)
    claims = permitted(verdict, 1)
    payload = parse_sign1(proof.attest_decision).payload
    assert payload is not None
    enrolment = parse_enrolment_evidence(proof.enrolment)
    session = signer("session/one").public
    record = parse_record(proof.action.record)
    assert isinstance(record, ActionRecord)
    denied = replace(record, reasons=REASONS, token=None, bundle=None, parent=bytes(32))
    archive = Archive(
        tuple(sorted((proof.enrol_decision, proof.attest_decision))), (proof.token,), tuple(sorted((proof.policy, proof.record))),
        (InstanceLog(sixteen("one"), tuple(scene.running["one"].leaves)),),
    )  # fmt: skip
    exchange: dict[str, Exchange] = {
        "enrol-request": EXCHANGE.parse(enrolment.request),
        "enrol-challenge": EnrolChallenge(bytes(32), b"credential", b"secret"),
        "activation": EXCHANGE.parse(enrolment.activation),
        "enrolled": Enrolled("host-1", NAMESPACE, "example.org", "https://v", signer("decision").public, bytes(32), 120),
        "nonce": NonceAnswer(bytes(32), 120),
        "attest-answer": AttestAnswer(
            proof.attest_decision, proof.result, REASONS,
            (InstanceAnswer(sixteen("one"), proof.token, ()), InstanceAnswer(sixteen("two"), None, REASONS)),
            bytes(32), 120, proof.policy, (signer("token").public,),
        ),
        "exchange-request": ExchangeRequest("https://vault.example.org", proof.token, "a.b.c", b"lease"),
        "exchange-answer": ExchangeAnswer("a.b.c", b"decision", session),
        "problem": Problem("ref-1", REASONS),
    }  # fmt: skip
    local: dict[str, Local] = {
        "launch": Launch("reporter", ("python", "agent.py"), session, sixteen("one")),
        "launched": Launched(sixteen("one"), scene.measured[0], "/store/1", ("python",), "tools", GRANTS),
        "token-ask": TokenAsk(sixteen("one"), session, "tools", GRANTS, 3, bytes(32), 1, (bytes(32),)),
        "anchor": Anchor(sixteen("one"), 3, bytes(32)),
        "lease-ask": LeaseAsk(sixteen("one")),
        "lease-given": LeaseGiven(LeaseChip().lease(sixteen("one"), session.thumbprint(), X)),
        "exchange-ask": ExchangeAsk(sixteen("one"), "https://vault.example.org", proof.token, "a.b.c", None),
        "exchange-given": ExchangeGiven("a.b.c", b"decision", session),
        "token-given": TokenGiven(proof.token, b"d", b"r", b"p", (session,), session, b"e", b"receipt"),
        "refusal": Refusal(REASONS, True),
        "unreachable": Unreachable("no answer"),
        "stop": Stop(sixteen("one"), "exited"),
        "done": Done(),
        "watch": Watch(),
        "drift": Drift(sixteen("one"), "prompts", "a.txt", X, None),
        "status": Status(),
        "status-answer": StatusAnswer("host-1", True, 9, 2, "accepted"),
    }
    key = LeaseKey(sixteen("one"), LeaseChip().public.raw, b"creation", b"attest", b"signature")
    moment = HostMoment("sha256", bytes(32), 7, 0, 90_000)
    numbers = private_key("approver").public_key()
    approver = PublicKey(ES256, numbers.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    act = OperatorAct(ENGINE_ID.digest, NOW, NAMESPACE, "root", "host-admit", "host-1", X)
    began = Genesis(ENGINE_ID, NOW, claims.issuer, "example.org", "verifier.example.org/log", signer("log").public)
    elsewhere = ExchangeClaims(
        claims.issuer, claims.agent, "https://vault.example.org", NOW, NOW + 50, "exchange-token-1", claims.host, claims.instance,
        claims.tpm_class, claims.runtime, claims.exceptions, X,
    )  # fmt: skip
    given = ExchangeDecision(
        ENGINE_ID.digest, NOW, claims.host, NAMESPACE, claims.instance, elsewhere.audience,
        tuple((name, X) for name in EXCHANGE_INPUTS), elsewhere.token_id, Digest.of(encode_exchange_claims(elsewhere)), (),
    )  # fmt: skip
    logged = MemoryLog([b"%d" % number for number in range(9)])
    seen = logged.checkpoint(witnesses=["w1", "w2"])
    waits = TokenAsk(sixteen("one"), session, "tools", GRANTS, 3, bytes(32), 1, (bytes(32),), ((2, (bytes(32),)), (3, ())))
    pinned = Scene()
    pinned.launch("one")
    first = permitted(pinned.attest("one"))
    pinned.act("one", sign_token(first), first)
    pinned.anchor("one")
    pinned.attest()
    pinned.act("one", sign_token(first), first)
    pinned.anchor("one")
    shown = pinned.evidence("one")
    asked = AddCheckpoint(5, consistency_proof(logged.leaves, 5), seen)
    contents = (None, b"sealed", None, b"s")
    shipped = AddRecords(5, seen, tuple(logged.entries[5:]), contents, (("token", b"a.b.c"), ("object", b"o")))
    assert set(exchange) == set(EXCHANGE.table)
    assert set(local) == set(LOCAL.table)
    return {
        "evidence": Specimen(evidence, encode_evidence, parse_evidence),
        "evidence-logs": Specimen(
            replace(evidence, uefi_log=b"uefi", systemd_log=b"systemd", ima_log=ImaLog(3, b"ima")), encode_evidence, parse_evidence
        ),
        "evidence-lease-keys": Specimen(
            replace(evidence, lease_keys=LeaseKeys(b"time", b"signature", (key,))), encode_evidence, parse_evidence
        ),
        "evidence-anchors": Specimen(shown, encode_evidence, parse_evidence),
        "host-state-anchors": Specimen(pinned.state, encode_host_state, parse_host_state),
        "attest-decision-anchors": Specimen(pinned.judge(shown).entry, encode_entry, parse_entry),
        "local-token-ask-anchored": Specimen(waits, LOCAL.encode, LOCAL.parse),
        "lease-approval": Specimen(
            LeaseApproval(sixteen("one"), bytes(32), moment, approver, bytes(64)), encode_lease_approval, parse_lease_approval
        ),
        "lease": Specimen(parse_lease(LeaseChip().lease(sixteen("one"), session.thumbprint(), X)), encode_lease, parse_lease),
        "host-record": Specimen(scene.record, encode_host_record, parse_host_record),
        "host-state": Specimen(verdict.state_after, encode_host_state, parse_host_state),
        "token-claims": Specimen(claims, encode_claims, parse_claims),
        "token-claims-leased": Specimen(replace(claims, lease=LeaseChip().terms()), encode_claims, parse_claims),
        "attest-decision": Specimen(verdict.entry, encode_entry, parse_entry),
        "enrol-decision": Specimen(scene.enrol_entry, encode_entry, parse_entry),
        "genesis": Specimen(began, encode_entry, parse_entry),
        "operator-act": Specimen(act, encode_entry, parse_entry),
        "exchange-decision": Specimen(given, encode_entry, parse_entry),
        "exchange-decision-refused": Specimen(replace(given, claims=None, reasons=REASONS), encode_entry, parse_entry),
        "exchange-claims": Specimen(elsewhere, encode_exchange_claims, parse_exchange_claims),
        "log-opening": Specimen(parse_record(proof.opening.record), encode_record, parse_record),
        "action-record": Specimen(record, encode_record, parse_record),
        "action-record-denied": Specimen(denied, encode_record, parse_record),
        "outcome-record": Specimen(parse_record(scene.running["one"].leaves[3]), encode_record, parse_record),
        "policy-bundle": Specimen(scene.bundle, encode_bundle, parse_bundle),
        "policy-bundle-hardware": Specimen(
            replace(scene.bundle, settings=replace(scene.bundle.settings, lease_approver=approver)), encode_bundle, parse_bundle
        ),
        "trust": Specimen(scene.trust, encode_trust, parse_trust),
        "measurement": Specimen(parse_measurement(scene.measured[0]), encode_measurement, parse_measurement),
        "enrolment-evidence": Specimen(enrolment, encode_enrolment_evidence, parse_enrolment_evidence),
        "proof-bundle": Specimen(proof, encode_proof_bundle, parse_proof_bundle),
        **{
            f"rerun-{one.kind}": Specimen(one, encode_rerun, parse_rerun)
            for one in (
                Rerun("attest", b"entry", {name: bytes(32) for name in NEEDED["attest"]}, (b"corim", b"exemption")),
                Rerun("enrol", b"entry", dict.fromkeys(NEEDED["enrol"], b"input")),
                Rerun("exchange", b"entry", dict.fromkeys(NEEDED["exchange"], b"input"), (b"corim",)),
                Rerun("action", b"leaf", {**{name: bytes(32) for name in NEEDED["action"]}, APPROVAL: b"signed"}),
            )
        },
        "made": Specimen(Made(b"entry"), encode_made, parse_made),
        "made-nothing": Specimen(Made(None, REASONS), encode_made, parse_made),
        "archive": Specimen(archive, encode_archive, parse_archive),
        "tlog-checkpoint": Specimen(seen, lambda value: encode_note(value.note), parse_signed_checkpoint),
        "tlog-key": Specimen(plain_key(), lambda value: str(value).encode(), lambda data: parse_vkey(data.decode("latin-1"))),
        "tlog-proof": Specimen(logged.proof(5, witnesses=["w1"]), encode_tlog_proof, parse_tlog_proof),
        "tlog-add-checkpoint": Specimen(asked, encode_add_checkpoint, parse_add_checkpoint),
        "add-records": Specimen(shipped, encode_add_records, parse_add_records),
        "tlog-add-records-proof": Specimen(
            parse_dpop(proof_of(signer("host"), encode_add_records(shipped))),
            lambda sent: sent.jws.compact.encode(),
            lambda data: parse_dpop(data.decode("latin-1")),
        ),
        "policy-bundle-lag": Specimen(
            replace(scene.bundle, settings=replace(scene.bundle.settings, record_lag_most=30)), encode_bundle, parse_bundle
        ),
        "tlog-cosignatures": Specimen(seen.note.signatures[1:], encode_cosignatures, parse_cosignatures),
        "tlog-bundle": Specimen(tuple(logged.entries), encode_bundle_of_entries, lambda data: parse_bundle_of_entries(data, 9)),
        "tlog-receipt": Specimen(parse_receipt(logged.receipt(5)), _receipt, parse_receipt),
        **{f"exchange-{kind}": Specimen(message, EXCHANGE.encode, EXCHANGE.parse) for kind, message in exchange.items()},
        **{f"local-{kind}": Specimen(message, LOCAL.encode, LOCAL.parse) for kind, message in local.items()},
    }

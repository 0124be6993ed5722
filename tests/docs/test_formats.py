"""docs/formats.md against the code: what we write is what the CDDL says, and what the CDDL refuses the parsers refuse."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import cbor2
import pytest
from cddl_verifier import Validator  # type: ignore[import-untyped] # ships no types

from enforcer.relying.authzen import requested
from tests.signers import MemorySigner, new_signer
from tests.world.lease_chip import LeaseChip
from tests.world.scene import (
    AUDIENCE,
    DEMO,
    DOMAIN,
    ENGINE_ID,
    GOVERNED,
    GRANTS,
    ISSUER,
    NOW,
    Scene,
    measurement,
    permitted,
    policy,
    reference,
    sign_entry,
    sign_token,
    signer,
)
from tests.world.tlog import MemoryLog, in_log
from writ.formats.access import Access, encode_access, parse_access
from writ.formats.action import Action
from writ.formats.anchor import AnchorRow, encode_batch
from writ.formats.approval import Approval, encode_approval, parse_approval, parse_signed_approval, sign_approval
from writ.formats.archive import Archive, InstanceLog, Placed, encode_archive, parse_archive
from writ.formats.corim import Corim, encode_corim, parse_corim, parse_signed_corim, sign_corim
from writ.formats.cose import encode_sign1, parse_sign1
from writ.formats.decision import ACTS, EXCHANGE_INPUTS, Entry, ExchangeDecision, Genesis, OperatorAct, encode_entry, parse_entry
from writ.formats.delegation import CONTENT_TYPE as DELEGATION_TYPE
from writ.formats.delegation import Delegation, Role, encode_delegation, parse_delegation
from writ.formats.digest import SIZES, Digest, Nonce
from writ.formats.ear import STATUS, Ear, encode_ear_cbor, parse_ear_cbor, submodule
from writ.formats.eat import encode_claims, parse_claims
from writ.formats.engine import encode_engine, parse_engine
from writ.formats.enrolment import parse_enrolment_evidence
from writ.formats.errors import FormatError
from writ.formats.eventlog import runtime
from writ.formats.evidence import ImaLog, binding, encode_evidence, enrolment_binding, parse_evidence
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
from writ.formats.exemption import Exemption, encode_exemption, parse_exemption
from writ.formats.jose import b64url, encode_dpop_payload, parse_dpop, parse_jws, sign_dpop
from writ.formats.keys import ES256, PublicKey
from writ.formats.lease import (
    HostMoment,
    LeaseApproval,
    LeaseKey,
    LeaseKeys,
    encode_lease_approval,
    encode_lease_keys,
    lease_binding,
    parse_lease,
    parse_lease_approval,
    parse_lease_keys,
    policy_ref,
    time_binding,
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
from writ.formats.manifest import manifest_digest, parse_manifest
from writ.formats.measurement import encode_measurement, parse_measurement
from writ.formats.policy_bundle import CONTENT_TYPE as POLICY_TYPE
from writ.formats.policy_bundle import encode_bundle, parse_bundle
from writ.formats.proof_bundle import Collateral, ProofBundle, TokenProof, encode_proof_bundle, parse_proof
from writ.formats.proposal import Draft, Proposal, encode_proposal, parse_proposal
from writ.formats.range_bundle import LogPart, ProvenLeaf, RangeBundle, Stranger, encode_range_bundle, parse_range_bundle
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, commit, encode_record, parse_record
from writ.formats.rerun import NEEDED, Made, Rerun, encode_made, encode_rerun, parse_made, parse_rerun
from writ.formats.spiffe import AgentId
from writ.formats.state import PHASES, TPM_CLASSES, encode_host_state, parse_host_record, parse_host_state
from writ.formats.status_list import StatusList, StatusListToken, encode_status_list, parse_status_list
from writ.formats.strict import decode_cbor, decode_json, encode_cbor, encode_json
from writ.formats.tlog import merkle
from writ.formats.tlog.receipt import parse_receipt
from writ.formats.tlog.storing import PAPERS, AddRecords, encode_add_records, parse_add_records
from writ.formats.tree import COMPONENT_KINDS, component, component_root, encode_tree, file_entry, parse_tree, spell
from writ.formats.tree import Entry as TreeEntry
from writ.formats.trust import encode_trust, parse_trust
from writ.verdict.reference import reference_set

logging.getLogger("cddl_verifier").setLevel(logging.CRITICAL)  # it logs each refusal, and refusals are wanted here

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
TAGS = frozenset({1, 18, 32, 501, 506})
D, SIXTEEN = Digest.of(b"d"), bytes(range(16))
AGENT = str(measurement().agent)
P256 = PublicKey(ES256, bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
))  # fmt: skip
"""The generator of P-256: a point that everyone knows."""
REASON = Reason("policy-refused", "tool.call on mail/delete", "a permit", "no-mail")


@cache
def cddl() -> str:
    return "\n".join(re.findall(r"^```cddl\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))


@cache
def validator() -> Any:
    return Validator(cddl())


@cache
def shell() -> Any:
    """The page without what it says of what is encoded in byte strings: no judge of it looks inside one."""
    return Validator(re.sub(r"bstr \.cbor [a-z0-9-]+", "bstr", cddl()))


def fits(rule: str, value: object, page: Callable[[], Any] = validator) -> bool:
    """Whether bytes of CBOR, or a decoded JSON value, are what `rule` says."""
    binary = isinstance(value, bytes)
    return bool(page().validate(value, root_type=rule, require_deterministic=binary).valid)


@dataclass(frozen=True)
class Specimen:
    """One real encoding, the rule it is of, and the parser that reads it."""

    rule: str
    data: bytes
    parse: Callable[[bytes], object]
    json: bool = False

    def value(self) -> Any:
        return decode_json(self.data, self.rule) if self.json else decode_cbor(self.data, self.rule, max_size=64 << 20, tags=TAGS)

    def encoded(self, value: object) -> bytes:
        return encode_json(value) if self.json else encode_cbor(value)

    def fits(self, data: bytes, page: Callable[[], Any] = validator) -> bool:
        return fits(self.rule, decode_json(data, self.rule) if self.json else data, page)

    def parses(self, data: bytes) -> bool:
        try:
            self.parse(data)
        except FormatError:
            return False
        return True


# --- the specimens ---------------------------------------------------------------------------------------------------

EXEMPTION = Exemption("billing", "file-unknown", "ima./bin/x", "sha256:00", ("host-1",), NOW, NOW + 60, "hotfix", ("alice", "bob"))

PROPOSALS = (
    Proposal("billing", "import", NOW, (D,), (Digest.of(b"e"),)),
    Proposal("billing", "import", NOW, (D,), (), keeps=(Digest.of(b"e"),)),
    Proposal(
        "billing", "exemption", NOW, (D,), (), Draft("file-unknown", "files./usr/bin/x", "sha256:00", ("h",), NOW, NOW + 60, "hotfix")
    ),
)
APPROVAL = Approval(SIXTEEN, "tool.call", "mcp:mail/send", D.value, D, "socket", D.value, NOW, NOW + 300, SIXTEEN)
DELEGATION = Delegation("billing", 3, NOW, (Role("prompts", ("spiffe://a/*",), ("prompts",), (signer("a").public,), 1, NOW),))

AGENT, TRACE = "spiffe://a/b/agent/c", bytes(range(1, 26))
RECEIVED = Access(NOW, D, AGENT, SIXTEEN, "http.get", "https://b/c", D, D, D, b"\xa0", (), "5f1c", D.value, TRACE)
REFUSED_THERE = Access(NOW, D, None, None, "http.get", "https://b/c", None, None, None, b"", (REASON,), "5f1c")


def a_range(bundle: ProofBundle, decision: bytes, compact: str) -> RangeBundle:
    """Its parts do not belong together; each is one."""
    leaf = ProvenLeaf(bundle.opening.record, 0, 2, (bytes(32),))
    part = LogPart(SIXTEEN, 2, (bytes(32),), (bundle.action.record,), (leaf,))
    others = (Stranger(bytes(16), b"{}", None), Stranger(b"\1" * 16, None, leaf))
    agent = "spiffe://example.org/billing/agent/reporter"
    return RangeBundle(agent, NOW, NOW + 60, b"note", 5, (decision,), (bytes(32),), (compact,), (bundle.policy,), (part,), others)


@cache
def specimens() -> tuple[Specimen, ...]:
    scene = Scene()
    bundle = scene.proof_bundle()
    logged = in_log(bundle, scene.trust)
    held = Collateral((b"a",), (b"b", b"c"), ())
    whole_bundle = replace(logged.bundle, approval=sign_approval(APPROVAL, signer("a")), collateral=held)
    token_alone = TokenProof(**{field.name: getattr(logged.placed(receipt=True), field.name) for field in fields(TokenProof)})
    verdict = scene.attest("one")
    assert scene.state is not None
    token = permitted(verdict)
    signed_policy = sign_document(encode_bundle(scene.bundle))
    decision = sign_entry(verdict.entry)
    compact = sign_token(token)
    allowed = parse_record(bundle.action.record)
    assert isinstance(allowed, ActionRecord)
    assert bundle.outcome is not None
    refused = replace(allowed, reasons=(REASON,), token=None, bundle=None, parent=D.value)
    attest_refused = scene.judge(scene.evidence("one"), nonce_age=10_000).entry
    act = OperatorAct(ENGINE_ID.digest, NOW, "billing", "alice", ACTS[0], "host-1", None)
    signed_corim = sign_corim(reference(), signer("approver"), signer_name="build")
    both = Corim("boot", "billing", "boot-1", (("code", D),), ((7, D), (7, Digest.of(b"x", "sha384"))), NOW)
    ear = Ear("writ", "1", NOW, (("host", submodule({"hardware": 32}, reasons=(REASON,), runtime_only=True)),), tpm_class="software")
    whole_ear = replace(ear, status="warning", exp=NOW + 60, nonce=bytes(32), raw_evidence=b"e", salt=SIXTEEN)
    archive = Archive((decision,), (compact,), (b"any",), (InstanceLog(SIXTEEN, (bundle.action.record,)),))
    listed = StatusListToken("https://v.example/status/1", NOW, NOW + 60, 15, StatusList.empty(1, 64).with_status(3, 1))

    with_logs = encode_evidence(replace(scene.evidence("one"), uefi_log=b"u", systemd_log=b"s", ima_log=ImaLog(1, b"i")))
    anchored = Scene()
    anchored.launch("one")
    first = permitted(anchored.attest("one"))
    anchored.act("one", sign_token(first), first)
    anchored.anchor("one")
    owing = anchored.judge(anchored.evidence()).state_after
    shown = anchored.evidence("one")
    exchange = exchange_messages(scene, decision, bundle.result, compact, signed_policy)
    local = local_messages(decision, bundle.result, compact, signed_policy, bundle.evidence)
    return (
        Specimen("measurement", encode_measurement(measurement(mutable=True)), parse_measurement),
        Specimen("measurement", encode_measurement(replace(measurement(), devices=("v.com/gpu=0",), mode="observe")), parse_measurement),
        *(Specimen("tree", encode_tree(one), parse_tree) for one in (TREE, HELD, DEVICE)),
        *(Specimen("runtime-event", runtime.encode_event(event), runtime.parse_event) for event in EVENTS),
        Specimen("evidence", bundle.evidence, parse_evidence),
        Specimen("evidence", with_logs, parse_evidence),
        Specimen("evidence", encode_evidence(replace(scene.evidence("one"), lease_keys=LEASE_KEYS)), parse_evidence),
        Specimen("evidence", encode_evidence(replace(scene.evidence("one"), ima_log=ImaLog(1, b"i", more=True))), parse_evidence),
        Specimen("evidence", encode_evidence(shown), parse_evidence),
        Specimen("enrolment-evidence", scene.enrolment, parse_enrolment_evidence),
        Specimen("add-records", shipped(), parse_add_records),
        Specimen(
            "policy",
            encode_bundle(replace(scene.bundle, settings=replace(scene.bundle.settings, record_lag_most=30))),
            parse_bundle,
        ),
        *(Specimen("exchange", data, EXCHANGE.parse) for data in exchange),
        *(Specimen("local", LOCAL.encode(message), LOCAL.parse) for message in local),
        Specimen("host-record", bundle.record, parse_host_record),
        Specimen("host-state", encode_host_state(scene.state), parse_host_state),
        Specimen("host-state", encode_host_state(owing), parse_host_state),
        *(Specimen("corim", encode_corim(corim), parse_corim) for corim in (GOVERNED, reference(valid_until=NOW), both)),
        Specimen("signed-corim", signed_corim, parse_signed_corim),
        Specimen("signed-decision", decision, parse_sign1),
        Specimen("engine", encode_engine(ENGINE_ID), parse_engine),
        Specimen("signed-policy", signed_policy, parse_sign1),
        *(Specimen("ear", encode_ear_cbor(one), parse_ear_cbor) for one in (parse_ear_cbor(verdict.result), ear, whole_ear)),
        *(
            Specimen("decision", encode_entry(e), parse_entry)
            for e in (BEGAN, verdict.entry, attest_refused, anchored.judge(shown).entry, scene.enrol_entry, act, *EXCHANGED)
        ),
        Specimen("token-claims", encode_claims(token), parse_claims, json=True),
        Specimen("token-claims", encode_claims(replace(token, lease=LeaseChip().terms())), parse_claims, json=True),
        Specimen("exchange-claims", encode_exchange_claims(ELSEWHERE), parse_exchange_claims, json=True),
        Specimen("lease-keys", encode_lease_keys(LEASE_KEYS), parse_lease_keys),
        Specimen("lease-approval", encode_lease_approval(LEASE_APPROVAL), parse_lease_approval),
        Specimen("lease", LeaseChip().lease(SIXTEEN, bytes(32), D), parse_lease),
        Specimen("status-claims", encode_status_list(listed), parse_status_list, json=True),
        *(
            Specimen("record", data, parse_record)
            for data in (bundle.opening.record, bundle.action.record, bundle.outcome.record, encode_record(refused))
        ),
        *(Specimen("access", encode_access(one), parse_access, json=True) for one in (RECEIVED, REFUSED_THERE)),
        Specimen("policy", encode_bundle(policy()), parse_bundle),
        Specimen("policy", encode_bundle(policy(replace(DEMO, lease_approver=P256))), parse_bundle),
        Specimen("policy", encode_bundle(policy(replace(DEMO, approvals=(("boot", 2), ("rooted/*", 3))))), parse_bundle),
        Specimen("policy", encode_bundle(policy(replace(DEMO, approvers=(("alice", signer("a").public), ("bob", P256))))), parse_bundle),
        Specimen("approval", encode_approval(APPROVAL), parse_approval),
        Specimen("signed-approval", sign_approval(APPROVAL, signer("a")), parse_signed_approval),
        *(Specimen("proposal", encode_proposal(one), parse_proposal) for one in PROPOSALS),
        *(Specimen("delegation", encode_delegation(one), parse_delegation) for one in (DELEGATION, replace(DELEGATION, roles=()))),
        Specimen("signed-delegation", sign_document(encode_delegation(DELEGATION), DELEGATION_TYPE), parse_sign1),
        Specimen("exemption", encode_exemption(EXEMPTION), parse_exemption),
        Specimen("trust", encode_trust(scene.trust), parse_trust),
        Specimen("trust", encode_trust(replace(scene.trust, decision_keys=(P256,))), parse_trust),
        *(
            Specimen("rerun", encode_rerun(Rerun(kind, b"d", {name: bytes(32) for name in names}, (b"c",))), parse_rerun)
            for kind, names in NEEDED.items()
        ),
        Specimen("rerun", encode_rerun(Rerun("action", b"d", {n: bytes(32) for n in (*NEEDED["action"], "approval")})), parse_rerun),
        *(Specimen("made", encode_made(one), parse_made) for one in (Made(b"entry"), Made(None, (REASON,)))),
        *(Specimen("receipt", MemoryLog([b"a"] * size).receipt(1), parse_receipt) for size in (2, 300)),
        Specimen("archive", encode_archive(archive), parse_archive),
        Specimen("range-bundle", encode_range_bundle(a_range(bundle, decision, compact)), parse_range_bundle),
        Specimen("archive", encode_archive(replace(archive, places=(Placed(D.value, logged.place(b"later")),))), parse_archive),
        *(Specimen("proof-bundle", encode_proof_bundle(one), parse_proof) for one in (whole_bundle, token_alone)),
    )


LEASE_KEYS = LeaseKeys(b"time", b"signature", (LeaseKey(SIXTEEN, b"public", b"creation", b"attest", b"signature"),))
LEASE_APPROVAL = LeaseApproval(SIXTEEN, bytes(32), HostMoment("sha256", bytes(32), 7, 0, 90_000), P256, bytes(64))
TREE = component(
    "code", "code", [TreeEntry.dir("empty"), TreeEntry.link("latest", "a.py"), file_entry(spell(b"\xff.py"), b"x", executable=True)]
)
HELD = component("model", "weights", [TreeEntry.fs_verity("w", D, 7, executable=True)])
DEVICE = component("model", "weights", [TreeEntry.dm_verity(D, 4096)])
EVENTS: tuple[runtime.RuntimeEvent, ...] = (
    runtime.ComponentEvent("governance", "attestor", D),
    runtime.ComponentEvent("host", "python3.11", D),
    runtime.StartEvent(SIXTEEN, AGENT, D, D, bytes(32), None, ()),
    runtime.StartEvent(SIXTEEN, AGENT, D, D, bytes(32), bytes(16), ("code", "prompts")),
    runtime.KeyEvent(SIXTEEN, bytes(32)),
    runtime.StopEvent(SIXTEEN, "lost"),
    runtime.UpdateEvent(AGENT, "prompts", D),
    runtime.DriftEvent(SIXTEEN, "prompts", "a/b", D, D),
    runtime.DriftEvent(SIXTEEN, "prompts", "a/b", D, None),
    runtime.AnchorEvent(SIXTEEN, 7, bytes(32)),
)


ELSEWHERE = ExchangeClaims(
    ISSUER, AgentId.parse(AGENT), "https://vault.example.org", NOW, NOW + 60, "exchange-token-1", "host-1", SIXTEEN, "software",
    "runtime-only", ("attestor-not-rooted",), D,
)  # fmt: skip
_GIVEN = ExchangeDecision(
    ENGINE_ID.digest, NOW, "host-1", "billing", SIXTEEN, ELSEWHERE.audience, tuple((name, D) for name in EXCHANGE_INPUTS),
    ELSEWHERE.token_id, D, (),
)  # fmt: skip
BEGAN = Genesis(ENGINE_ID, NOW, ISSUER, DOMAIN, "verifier.example.org/log", signer("log").public)
EXCHANGED = (_GIVEN, replace(_GIVEN, claims=None, reasons=(REASON,)))


def sign_document(payload: bytes, content_type: str = POLICY_TYPE) -> bytes:
    """A policy or delegation, signed as the verifier does."""
    by = signer("decision")
    return encode_sign1(payload, algorithm=by.public.algorithm, kid=by.public.thumbprint(), sign=by.sign, content_type=content_type)


def exchange_messages(scene: Scene, decision: bytes, result: bytes, token: str, signed_policy: bytes) -> list[bytes]:
    """One message of each kind; request and activation are those of a real enrolment."""
    enrolment = parse_enrolment_evidence(scene.enrolment)
    answers = (InstanceAnswer(SIXTEEN, token, (), encode_lease_approval(LEASE_APPROVAL)), InstanceAnswer(bytes(16), None, (REASON,)))
    made: list[Exchange] = [
        replace(scene.enrol_request(), ticket=None, host_key=P256),
        EnrolChallenge(bytes(32), b"credential", b"secret"),
        Enrolled("host-1", "billing", DOMAIN, ISSUER, signer("decision").public, bytes(32), 120),
        NonceAnswer(bytes(32), 120),
        AttestAnswer(decision, result, (REASON,), answers, bytes(32), 120, signed_policy, (signer("token").public, P256)),
        ExchangeRequest("https://vault.example.org", token, "a.b.c", None),
        ExchangeRequest("https://vault.example.org", token, "a.b.c", LeaseChip().lease(SIXTEEN, bytes(32), D)),
        ExchangeAnswer(token, decision, P256),
        Problem("a1b2", (REASON,)),
    ]
    return [enrolment.request, enrolment.activation, *map(EXCHANGE.encode, made)]


def local_messages(decision: bytes, result: bytes, token: str, signed_policy: bytes, evidence: bytes) -> list[Local]:
    """One message of each kind."""
    key, measured = signer("session/one").public, encode_measurement(measurement())
    given = TokenGiven(token, decision, result, signed_policy, (signer("token").public,), signer("decision").public, evidence)
    logged = replace(given, receipt=MemoryLog([b"genesis", decision]).receipt(1))
    return [
        Launch("reporter", (), key, None),
        Launch("reporter", ("python", "agent.py"), P256, SIXTEEN),
        Launched(SIXTEEN, measured, "/var/lib/writ/store/x", ("python",), AUDIENCE, GRANTS),
        TokenAsk(SIXTEEN, key, AUDIENCE, GRANTS, 2, bytes(32), 1, (bytes(32),)),
        TokenAsk(SIXTEEN, key, AUDIENCE, GRANTS, 5, bytes(32), 1, (bytes(32),), ((2, (bytes(32),)), (5, ()))),
        Anchor(SIXTEEN, 5, bytes(32)),
        given,
        logged,
        LeaseAsk(SIXTEEN),
        LeaseGiven(LeaseChip().lease(SIXTEEN, bytes(32), D)),
        ExchangeAsk(SIXTEEN, "https://vault.example.org", token, "a.b.c", None),
        ExchangeAsk(SIXTEEN, "https://vault.example.org", token, "a.b.c", LeaseChip().lease(SIXTEEN, bytes(32), D)),
        ExchangeGiven(token, decision, P256),
        Refusal((REASON,), final=True),
        Unreachable("timed out"),
        Stop(SIXTEEN, "exited"),
        Done(),
        Watch(),
        Drift(SIXTEEN, "prompts", "a", D, None),
        Drift(SIXTEEN, "prompts", "a", D, D),
        Status(),
        StatusAnswer("host-1", True, 3, 1, "accepted"),
    ]


def shipped() -> bytes:
    """Records as a host ships them to its store."""
    logged = MemoryLog([b"%d" % number for number in range(9)])
    papers = tuple((kind, b"a paper") for kind in PAPERS)
    return encode_add_records(AddRecords(5, logged.checkpoint(), tuple(logged.entries[5:]), (None, b"sealed", None, b"s"), papers))


# --- what is held ------------------------------------------------------------------------------------------------------


def test_every_real_encoding_is_what_the_page_says() -> None:
    for one in specimens():
        result = validator().validate(one.value() if one.json else one.data, root_type=one.rule, require_deterministic=not one.json)
        assert result.valid, (one.rule, [d.message for d in result.diagnostics][:3])
        assert one.parses(one.data), one.rule


def test_every_kind_of_message_event_and_entry_has_a_specimen() -> None:
    kinds = {(one.rule, type(one.parse(one.data))) for one in specimens()}
    wanted = {
        "exchange": get_args(Exchange),
        "local": get_args(Local),
        "runtime-event": get_args(runtime.RuntimeEvent),
        "decision": get_args(Entry),
    }
    for rule, classes in wanted.items():
        assert {cls for found, cls in kinds if found == rule} == set(classes)


def test_every_rule_of_the_page_is_used_by_a_format() -> None:
    rules = set(re.findall(r"^([a-z0-9-]+) =", cddl(), re.MULTILINE))
    roots = (
        {one.rule for one in specimens()}
        | set(preimages())
        | {"proof-claims", "proof-header", "token-header", "exchange-header", "authzen-request", "authzen-arguments"}
    )
    reached, waiting = set(), list(roots)
    while waiting:
        rule = waiting.pop()
        reached.add(rule)
        body = re.search(rf"^{rule} = (.*?)(?=^[a-z0-9-]+ = |\Z)", cddl(), re.DOTALL | re.MULTILINE)
        assert body is not None, rule
        text = re.sub(r'"[^"]*"|;.*', "", body[1])
        waiting += [name for name in set(re.findall(r"[a-z][a-z0-9-]*", text)) & rules if name not in reached]
    assert reached == rules


def members(value: Any) -> dict[Any, Any] | None:
    """The map that a specimen is, below a tag if need be."""
    if isinstance(value, cbor2.CBORTag):
        value = value.value
    return dict(value) if isinstance(value, Mapping) else None


def rewrapped(value: Any, changed: dict[Any, Any]) -> object:
    return cbor2.CBORTag(value.tag, changed) if isinstance(value, cbor2.CBORTag) else changed


def test_an_unknown_key_fits_neither_page_nor_parser() -> None:
    for one in specimens():
        if (found := members(value := one.value())) is None:
            continue
        for key in ["zz"] if one.json or "v" in found else ["zz", 77]:
            data = one.encoded(rewrapped(value, {**found, key: 1}))
            assert (one.fits(data, shell), one.parses(data)) == (False, False), (one.rule, key)


def maps() -> Iterator[tuple[Specimen, Any, dict[Any, Any]]]:
    """The specimens that are maps, with their members; of those that differ in no key and no text beside the keys, one.

    Each fits as it is, so with a key changed the page has against it what it has against its shell.
    """
    seen = set()
    for one in specimens():
        if (found := members(value := one.value())) is None:
            continue
        shape = (one.rule, *found, *(text for text in found.values() if isinstance(text, str)))
        if shape not in seen:
            seen.add(shape)
            yield one, value, found


def test_page_and_parser_agree_on_which_keys_may_be_absent() -> None:
    for one, value, found in maps():
        for key in found:
            data = one.encoded(rewrapped(value, {k: v for k, v in found.items() if k != key}))
            assert one.fits(data, shell) == one.parses(data), (one.rule, key)


def test_a_value_of_another_type_fits_neither_page_nor_parser() -> None:
    for one, value, found in maps():
        for key in found:
            data = one.encoded(rewrapped(value, {**found, key: -1}))
            assert (one.fits(data, shell), one.parses(data)) == (False, False), (one.rule, key)


def test_an_array_with_an_item_more_less_or_of_another_type_fits_neither_page_nor_parser() -> None:
    for one in specimens():
        if not isinstance(value := one.value(), list):
            continue
        others = [value[:-1], [*value, None], [99, *value[1:]]] + [[*value[:at], -1, *value[at + 1 :]] for at in range(len(value))]
        for other in map(encode_cbor, others):
            if other != one.data and (one.fits(other) or one.parses(other)):
                assert (one.rule, one.fits(other), one.parses(other)) == ("record", True, True), cbor2.loads(other)


def test_a_signed_document_with_another_header_or_a_short_signature_does_not_fit() -> None:
    for one in specimens():
        if not one.rule.startswith("signed-"):
            continue
        protected, unprotected, payload, signature = cbor2.loads(one.data).value
        for changed in (
            [encode_cbor({**cbor2.loads(protected), 1: -7}), unprotected, payload, signature],
            [encode_cbor({**cbor2.loads(protected), 3: "text/plain"}), unprotected, payload, signature],
            [protected, {4: b"k"}, payload, signature],
            [protected, unprotected, payload[:-1], signature],
            [protected, unprotected, payload, signature[:-1]],
        ):
            assert not fits(one.rule, cbor2.dumps(cbor2.CBORTag(18, changed))), one.rule
        assert not fits(one.rule, cbor2.dumps(cbor2.loads(one.data).value)), "without its tag"


def test_a_receipt_with_one_thing_changed_fits_neither_page_nor_parser() -> None:
    one = next(one for one in specimens() if one.rule == "receipt")
    protected, unprotected, payload, signature = cbor2.loads(one.data).value
    headers, (proof,) = cbor2.loads(protected), unprotected[396][-1]
    size, index, path = cbor2.loads(proof)
    told = [
        [encode_cbor({**headers, changed: value}), unprotected, payload, signature]
        for changed, value in ((1, -7), (3, "text/plain"), (4, b"k"), (15, {1: "a"}), (15, {**headers[15], 2: 1}), (395, 2), (396, {}))
    ]
    told += [
        [protected, {396: {-1: [encode_cbor(changed)]}}, payload, signature]
        for changed in ([size, index], [size, index, []], [size, index, [*path, b"x"]], [-1, index, path], [size, index, path * 64])
    ]
    told += [
        [protected, {396: {-2: [proof]}}, payload, signature], [protected, {396: {-1: []}}, payload, signature],
        [protected, {396: {-1: [proof, proof]}}, payload, signature], [protected, {**unprotected, 4: b"k"}, payload, signature],
        [protected, unprotected, bytes(32), signature], [protected, unprotected, payload, signature[:-1]],
    ]  # fmt: skip
    for changed in told:
        data = encode_cbor(cbor2.CBORTag(18, changed))
        assert (one.fits(data), one.parses(data)) == (False, False), changed
    assert not one.fits(encode_cbor(cbor2.loads(one.data).value)), "without its tag"


def test_another_spelling_of_a_real_encoding_does_not_fit() -> None:
    one = next(one for one in specimens() if one.rule == "measurement")
    backwards = dict(reversed(list(one.value().items())))
    assert not one.fits(cbor2.dumps(backwards))
    assert not one.parses(cbor2.dumps(backwards))


# --- what is hashed and does not travel ----------------------------------------------------------------------------------


@cache
def preimages() -> dict[str, tuple[object, Digest]]:
    """Rule -> a value of it, and the digest that the code makes of the same thing."""
    scene = Scene()
    request = scene.launch("one").request()
    key, nonce = signer("decision").public.thumbprint(), Nonce(bytes(32))
    manifest = parse_manifest(re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[0].encode())
    top = merkle.root([merkle.leaf_hash(encode_cbor(row)) for row in cbor2.loads(encode_tree(TREE))["entries"]])
    names = sorted(Digest.of(encode_corim(corim)).value for corim in (GOVERNED, reference()))
    bound = [request.session_key.thumbprint(), request.instance, AUDIENCE, [list(g) for g in GRANTS], request.log_size, request.log_root]
    return {
        "attest-binding": (
            ["writ/attest/v1", key, "host-1", bytes(32), [bound], [D.value]],
            Digest("sha256", binding(key, "host-1", nonce, (request,), (D,))),
        ),
        "anchor-batch": (
            ["writ/anchor/v1", [[SIXTEEN, 3, D.value]]],
            Digest.of(encode_batch((AnchorRow(SIXTEEN, 3, D.value),))),
        ),
        "enrol-binding": (
            ["writ/enrol/v1", "host-1", key, bytes(32), b"secret"],
            Digest("sha256", enrolment_binding("host-1", key, bytes(32), b"secret")),
        ),
        "policy-ref": (
            ["writ/lease-key/v1", "host-1", SIXTEEN, key],
            Digest("sha256", policy_ref("host-1", SIXTEEN, key)),
        ),
        "time-binding": (["writ/time/v1", key, "host-1", bytes(32)], Digest("sha256", time_binding(key, "host-1", bytes(32)))),
        "lease-binding": (["writ/lease/v1", SIXTEEN, key, D.value], Digest("sha256", lease_binding(SIXTEEN, key, D))),
        "commitment": (["writ/commit/v1", bytes(32), Digest.of(b"content").value], Digest("sha256", commit(bytes(32), b"content"))),
        "tree-root": (["writ/component/v1", "code", "code", 3, top], component_root(TREE)),
        "command": (["python", "agent.py"], runtime.command_digest(["python", "agent.py"])),
        "reference-names": (names, reference_set([reference(), GOVERNED]).digest),
        "manifest": (manifest.to_cbor(), manifest_digest(manifest)),
    }


@pytest.mark.parametrize(
    "rule",
    [
        "anchor-batch",
        "attest-binding", "enrol-binding", "policy-ref", "time-binding", "lease-binding", "commitment", "tree-root", "command",
        "reference-names", "manifest",
    ],
)  # fmt: skip
def test_what_is_hashed_is_what_the_page_says(rule: str) -> None:
    value, digest = preimages()[rule]
    assert fits(rule, encode_cbor(value))
    assert Digest.of(encode_cbor(value)) == digest
    spoilt = {**value, "zz": 1} if isinstance(value, dict) else [*(value if isinstance(value, list) else []), 1]
    assert not fits(rule, encode_cbor(spoilt))


# --- tokens and proofs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [signer("session/one"), None])
def test_headers_and_claims_of_a_proof_are_what_the_page_says(key: MemorySigner | None) -> None:
    by = key or new_signer(ES256)
    payload = encode_dpop_payload(
        jti="x" * 16, htm="POST", htu="https://a.example/x", iat=NOW, ath=b64url(bytes(32)), act="tool.call", res="a", arg=b64url(bytes(32))
    )
    proof = parse_dpop(sign_dpop(payload, by))
    assert fits("proof-header", dict(proof.jws.header))
    assert not fits("proof-header", {**proof.jws.header, "jku": "https://a.example"})
    claims = decode_json(proof.jws.payload, "proof")
    assert fits("proof-claims", claims)
    assert not fits("proof-claims", {**claims, "sub": "a"})
    assert not fits("proof-claims", {k: v for k, v in claims.items() if k != "jti"})


def test_an_authzen_request_is_what_the_page_says() -> None:
    request: dict[str, Any] = {
        "subject": {"type": "agent", "id": "spiffe://a.example/b/agent/c", "properties": {"token": "t", "proof": "p", "more": 1}},
        "action": {"name": "tool.call", "properties": {"b": 1, "a": [True]}},
        "resource": {"type": "document", "id": "reports/q3", "more": {}},
        "context": {},
    }
    assert fits("authzen-request", request)
    asked = requested(request)
    arguments = {"action": {"a": [True], "b": 1}, "resource": {}}
    assert fits("authzen-arguments", arguments)
    assert asked == Action("tool.call", "document:reports/q3", Digest.of(encode_json(arguments)))
    del request["action"]["properties"]
    assert requested(request).arguments == Digest.of(b"")
    for part, name in (("subject", "id"), ("action", "name"), ("resource", "type"), ("resource", "id")):
        assert not fits("authzen-request", {**request, part: {key: value for key, value in request[part].items() if key != name}})
    assert not fits("authzen-request", {**request, "resource": {"type": "a:b", "id": "c"}})
    assert not fits("authzen-arguments", {"action": {}})


def test_the_header_of_a_token_is_what_the_page_says() -> None:
    scene = Scene()
    scene.launch("one")
    header = dict(parse_jws(sign_token(permitted(scene.attest("one"))), typ="eat+jwt").header)
    assert fits("token-header", header)
    assert not fits("token-header", {**header, "typ": "jwt"})


def test_the_settings_of_a_policy_are_bounded_as_the_page_says() -> None:
    one = next(one for one in specimens() if one.rule == "policy")
    value = one.value()
    for key, wrong in (
        ("token_life", 301),
        ("token_life", 4),
        ("nonce_life", 601),
        ("clock_skew", 61),
        ("hold_max", 86_401),
        ("record_lag_most", 0),
        ("record_lag_most", 86_401),
    ):
        data = encode_cbor({**value, "settings": {**value["settings"], key: wrong}})
        assert (one.fits(data), one.parses(data)) == (False, False), key
    assert DEMO.accept_runtime_only


def literals(rule: str) -> set[str]:
    """The texts that a rule of the page is a choice of."""
    body = re.search(rf"^{rule} = (.*?)(?=^[a-z0-9-]+ = |\Z)", cddl(), re.DOTALL | re.MULTILINE)
    assert body is not None, rule
    return set(re.findall(r'"([^"]*)"', body[1]))


def test_the_page_lists_the_words_that_the_code_knows() -> None:
    assert literals("act") == set(ACTS)
    assert literals("component-kind") == set(COMPONENT_KINDS)
    assert literals("tpm-class") == set(TPM_CLASSES)
    assert literals("hash-name") == set(SIZES)
    assert literals("instance-state") == set(PHASES)
    assert {int(number) for number in re.findall(r"\d+", cddl().partition("\ntier = ")[2].partition(";")[0])} == set(STATUS.values())

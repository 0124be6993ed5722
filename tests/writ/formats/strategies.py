"""Hypothesis strategies for the messages and records of ours: any value that has a spelling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import strategies as st

from tests.world.chip import private_key
from tests.world.scene import signer
from tests.world.tlog import MemoryLog
from writ.formats import exchange as ex
from writ.formats import local as lo
from writ.formats.anchor import ANCHOR_PCRS, AnchorRow, Anchors, ShownAnchors
from writ.formats.archive import Archive, InstanceLog, Placed
from writ.formats.boot_state import BootState
from writ.formats.decision import (
    ACTS,
    EXCHANGE_INPUTS,
    INPUTS,
    AttestDecision,
    EnrolDecision,
    ExchangeDecision,
    Genesis,
    OperatorAct,
    Outcome,
)
from writ.formats.delegation import Delegation, Role
from writ.formats.digest import SIZES, Digest, Nonce
from writ.formats.eat import RUNTIME_TIERS, TokenClaims
from writ.formats.engine import EngineId
from writ.formats.enrolment import EnrolmentEvidence
from writ.formats.evidence import Evidence, ImaLog, InstanceRequest
from writ.formats.exchange_token import MAX_LIFE, ExchangeClaims
from writ.formats.exemption import EXEMPTIBLE, LONGEST
from writ.formats.grants import grant_set
from writ.formats.ima_state import ImaState, ImaVerdict
from writ.formats.keys import ES256, PublicKey
from writ.formats.lease import HostMoment, Lease, LeaseApproval, LeaseKey, LeaseKeys, LeaseTerms
from writ.formats.measurement import MODES, PROFILES, RESERVED, ComponentRoot, Measurement
from writ.formats.policy_bundle import PolicyBundle, PolicySettings
from writ.formats.proof_bundle import Collateral, Leaf, Opened, ProofBundle, Published, TokenProof
from writ.formats.proposal import KINDS, Draft, Proposal
from writ.formats.reason import REMEDIES, Reason
from writ.formats.record import ActionRecord, Opening, OutcomeRecord
from writ.formats.rerun import NEEDED, Made, Rerun
from writ.formats.secret import Secret
from writ.formats.spiffe import AgentId
from writ.formats.state import HOST_STATUSES, LOGS, PHASES, TPM_CLASSES, AnchorState, HostRecord, HostState, InstanceState, RuntimeState
from writ.formats.tlog.proof import encode_tlog_proof
from writ.formats.tpm.pcr import PcrValues
from writ.formats.tree import COMPONENT_KINDS
from writ.formats.trust import ChainRules, ManufacturerRoot, Trust

S = st.SearchStrategy


def fixed(size: int) -> S[bytes]:
    """Bytes of one size."""
    return st.binary(min_size=size, max_size=size)


def several(what: S[Any], most: int = 3) -> S[tuple[Any, ...]]:
    """A short tuple."""
    return st.lists(what, max_size=most).map(tuple)


def sorted_set(what: S[Any], key: Any = None, most: int = 3) -> S[tuple[Any, ...]]:
    """A short sorted tuple without repeats, by `key`."""
    return st.lists(what, max_size=most, unique_by=key or repr).map(lambda found: tuple(sorted(found, key=key)))


BLOB, WHOLE, FLAG = st.binary(max_size=20), st.integers(0, 2**63 - 1), st.booleans()


def es256(seed: str) -> PublicKey:
    """The P-256 key of a seed."""
    return PublicKey(ES256, private_key(seed).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def by_instance(keys: list[LeaseKey]) -> tuple[LeaseKey, ...]:
    """In the order of their instances."""
    return tuple(sorted(keys, key=lambda key: key.instance))


PRINTABLE = st.characters(codec="utf-8", exclude_characters=[*map(chr, range(32)), "\x7f"])
TEXT = st.text(PRINTABLE, max_size=12)
WORD = st.text(PRINTABLE, min_size=1, max_size=12)
NAME = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True)
LONG_ID = st.text(PRINTABLE, min_size=16, max_size=20)
ID, KEY32 = fixed(16), fixed(32)
DIGEST = st.builds(Digest, st.just("sha256"), fixed(32))
KEY = st.sampled_from(["a", "b", "c"]).map(lambda seed: signer(seed).public)
AGENT = st.builds(AgentId, st.just("example.org"), NAME, NAME)
GRANTS = st.lists(st.tuples(st.sampled_from(["tool.call", "file.read"]), st.sampled_from(["files/*", "a", "b/c"]))).map(grant_set)
REASON = st.builds(Reason, st.sampled_from(sorted(REMEDIES)), TEXT, TEXT, TEXT)
REASONS = sorted_set(REASON)
ENGINE = st.builds(EngineId, WHOLE, DIGEST, sorted_set(st.tuples(NAME, TEXT), key=lambda pair: pair[0]))
CLASS = st.sampled_from(TPM_CLASSES)


@st.composite
def pcr_values(draw: st.DrawFn) -> PcrValues:
    """Values of some PCRs."""
    bank = draw(st.sampled_from(sorted(SIZES)))
    indices = sorted(draw(st.sets(st.integers(0, 23), max_size=4)))
    return PcrValues(bank, tuple((index, draw(fixed(SIZES[bank]))) for index in indices))


ANCHORED = sorted_set(st.tuples(WHOLE, several(BLOB)), key=lambda pair: pair[0])
REQUEST = st.builds(
    InstanceRequest, ID, KEY, st.text(PRINTABLE, min_size=1, max_size=9), GRANTS, WHOLE, KEY32, WHOLE, several(BLOB), ANCHORED
)  # fmt: skip
BATCH = st.lists(st.builds(AnchorRow, ID, st.integers(1, 2**63 - 1), KEY32), min_size=1, max_size=3, unique_by=lambda row: row.instance)
BATCHES = several(BATCH.map(lambda rows: tuple(sorted(rows))))
REGISTER = fixed(32) | fixed(48)
ANCHORS = st.builds(Anchors, st.sampled_from(ANCHOR_PCRS), REGISTER, BATCHES)
U32, P256 = st.integers(0, 2**32 - 1), st.sampled_from(["a", "b"]).map(es256)
LEASE_KEY = st.builds(LeaseKey, ID, BLOB, BLOB, BLOB, BLOB)
LEASE_KEYS = st.builds(LeaseKeys, BLOB, BLOB, st.lists(LEASE_KEY, max_size=2, unique_by=lambda k: k.instance).map(by_instance))
MOMENT = st.builds(HostMoment, st.sampled_from(["sha256", "sha384"]), KEY32, U32, U32, WHOLE)
APPROVAL = st.builds(LeaseApproval, ID, KEY32, MOMENT, P256, fixed(64))
LEASE = st.builds(Lease, BLOB, BLOB, BLOB)
TERMS = st.builds(LeaseTerms, KEY32, st.integers(0, 2**53 - 1), U32, U32, st.integers(0, 300), KEY32)
EVIDENCE = st.builds(
    Evidence, NAME, st.builds(Nonce, KEY32), BLOB, BLOB, pcr_values(), WHOLE, BLOB, several(BLOB),
    st.lists(REQUEST, max_size=2, unique_by=lambda r: r.instance).map(tuple),
    st.none() | BLOB, st.none() | BLOB, st.none() | st.builds(ImaLog, WHOLE, BLOB, FLAG), st.none() | LEASE_KEYS,
    st.none() | ANCHORS,
)  # fmt: skip
HOST_RECORD = st.builds(
    HostRecord, NAME, NAME, WHOLE, DIGEST, several(BLOB), BLOB, BLOB, KEY, CLASS, FLAG, st.integers(0, 23),
    st.sampled_from(sorted(SIZES)), WHOLE, FLAG,
)  # fmt: skip
INSTANCE = st.builds(
    InstanceState, ID, AGENT, DIGEST, DIGEST, KEY32, st.none() | ID, st.sampled_from(PHASES), WHOLE, KEY32, BLOB,
    sorted_set(st.tuples(WHOLE, KEY32)),
)  # fmt: skip
RUNTIME = st.builds(
    RuntimeState, WHOLE, BLOB, sorted_set(st.tuples(NAME, DIGEST), key=lambda pair: pair[0]), sorted_set(INSTANCE, key=lambda i: i.instance)
)  # fmt: skip
UINT32 = st.integers(0, 2**32 - 1)
BOOT = st.builds(
    BootState, DIGEST, sorted_set(st.tuples(st.integers(0, 23), KEY32), key=lambda pair: pair[0]),
    sorted_set(st.tuples(st.integers(8, 9), KEY32), key=lambda pair: pair[0], most=2), st.none() | FLAG,
    sorted_set(st.tuples(WORD, sorted_set(st.tuples(WORD, DIGEST), key=lambda pair: pair[0])), key=lambda pair: pair[0]), REASONS,
)  # fmt: skip


@st.composite
def ima_states(draw: st.DrawFn) -> ImaState:
    """States whose counts fit each other."""
    bank = draw(st.sampled_from(sorted(SIZES)))
    entries = draw(st.integers(1, 1000))
    reasons = draw(REASONS)
    verdict = ImaVerdict(draw(DIGEST), draw(DIGEST), reasons, len(reasons) + draw(st.integers(0, 3)) * bool(reasons))
    return ImaState(
        bank, entries, draw(fixed(SIZES[bank])), draw(st.integers(0, entries)), draw(TEXT), draw(sorted_set(BLOB)),
        draw(sorted_set(st.tuples(WORD, WORD))), verdict,
    )  # fmt: skip


HOST_STATE = st.builds(
    HostState, WHOLE, st.sampled_from(HOST_STATUSES), st.integers(0, 2**63 - 1), UINT32, UINT32, FLAG, WHOLE, RUNTIME,
    sorted_set(st.sampled_from(LOGS)), st.none() | BOOT, st.none() | ima_states(), st.none() | ima_states(),
    st.none() | st.builds(AnchorState, st.integers(0, 23), BLOB, BLOB),
)  # fmt: skip
CLAIMS = st.builds(
    TokenClaims, issuer=WORD, agent=AGENT, audience=WORD, issued_at=WHOLE, expires_at=WHOLE, token_id=LONG_ID, key=KEY32, host=NAME,
    instance=ID, policy=DIGEST, result=DIGEST, grants=GRANTS, lineage=several(ID), tpm_class=CLASS, runtime=st.sampled_from(RUNTIME_TIERS),
    exceptions=several(st.sampled_from(sorted(REMEDIES))), status_index=st.integers(0, 1 << 30), status_uri=WORD,
    lease=st.none() | TERMS,
)  # fmt: skip
EXCHANGE_CLAIMS = st.builds(
    lambda issued_at, life, **rest: ExchangeClaims(issued_at=issued_at, expires_at=issued_at + life, **rest),
    st.integers(0, 1 << 40), st.integers(1, MAX_LIFE),
    issuer=WORD, agent=AGENT, audience=WORD, token_id=LONG_ID, host=NAME, instance=ID, tpm_class=CLASS,
    runtime=st.sampled_from(RUNTIME_TIERS), exceptions=several(st.sampled_from(sorted(REMEDIES))), execution_token=DIGEST,
)  # fmt: skip
OUTCOME = st.builds(
    lambda instance, token_id, index, claims, size, root, reasons: Outcome(
        instance, token_id, index, None if reasons else claims, size, root, reasons
    ),
    ID, LONG_ID, WHOLE, DIGEST, WHOLE, KEY32, REASONS,
)  # fmt: skip
ENTRY = st.one_of(
    st.builds(
        AttestDecision, DIGEST, WHOLE, NAME, NAME, KEY32, WHOLE,
        st.lists(DIGEST, min_size=5, max_size=5).map(lambda found: tuple(zip(INPUTS, found, strict=True))),
        WHOLE, DIGEST, DIGEST, several(OUTCOME), REASONS,
        st.none() | st.dictionaries(ID, WHOLE, max_size=3).map(lambda found: tuple(sorted(found.items()))),
        st.none() | st.builds(ShownAnchors, st.sampled_from(ANCHOR_PCRS), U32, U32, REGISTER, REGISTER, BATCHES),
    ),
    st.builds(
        lambda claims, reasons, *rest: ExchangeDecision(*(*rest, None if reasons else claims, reasons)),
        DIGEST, REASONS, DIGEST, WHOLE, NAME, NAME, ID, WORD,
        st.lists(DIGEST, min_size=6, max_size=6).map(lambda found: tuple(zip(EXCHANGE_INPUTS, found, strict=True))), LONG_ID,
    ),
    st.builds(EnrolDecision, DIGEST, WHOLE, NAME, NAME, DIGEST, DIGEST, DIGEST, FLAG),
    st.builds(OperatorAct, DIGEST, WHOLE, NAME, TEXT, st.sampled_from(ACTS), TEXT, st.none() | DIGEST),
    st.builds(Genesis, ENGINE, WHOLE, WORD, WORD, WORD, KEY),
)  # fmt: skip


@st.composite
def action_records(draw: st.DrawFn) -> ActionRecord:
    """Records, permits and refusals."""
    opening = draw(st.integers(0, 1000))
    return ActionRecord(
        opening + draw(st.integers(1, 9)), draw(WHOLE), opening, draw(st.sampled_from(["tool.call", "http.get"])),
        draw(st.sampled_from(["mcp:notes/read", "https://api.example.com:443/v1"])), draw(KEY32), draw(st.none() | DIGEST),
        draw(st.none() | DIGEST), draw(KEY32), draw(REASONS), draw(st.none() | KEY32), draw(NAME),
        draw(st.none() | st.binary(min_size=25, max_size=25)),
    )  # fmt: skip


RECORD = (
    action_records()
    | st.builds(
        lambda of, more, *rest: OutcomeRecord(of + more, rest[0], of, *rest[1:]),
        st.integers(0, 1000), st.integers(1, 9), WHOLE, st.sampled_from(["done", "failed"]), st.none() | st.integers(-70_000, 600), WHOLE,
        KEY32,
    )
    | st.builds(Opening, WHOLE, WHOLE, ID, st.just("spiffe://example.org/billing/agent/a"), ENGINE)
)  # fmt: skip
CEDAR_TEXT = st.text(PRINTABLE | st.just("\n"), min_size=1, max_size=30).filter(lambda text: bool(text.strip()))
SETTINGS = st.builds(
    PolicySettings, FLAG, st.sets(CLASS).map(lambda found: tuple(sorted(found))), st.integers(5, 300), st.integers(5, 600),
    st.integers(0, 60), st.integers(0, 86_400),
)  # fmt: skip
PATTERN = (
    st.text(PRINTABLE, min_size=1, max_size=9).map(lambda text: text.replace("*", "x")) | NAME.map(lambda name: f"{name}*") | st.just("*")
)
PATTERNS = st.sets(PATTERN, min_size=1, max_size=3).map(lambda found: tuple(sorted(found)))
SETTINGS = st.builds(
    lambda settings, approvals, approver, records, witnesses: replace(
        settings, approvals=approvals, lease_approver=approver, record_lag_most=records, witness_lag_most=witnesses
    ),
    SETTINGS, st.dictionaries(PATTERN, st.integers(2, 8), max_size=3).map(lambda found: tuple(sorted(found.items()))), st.none() | P256,
    st.none() | st.integers(1, 86_400), st.none() | st.integers(1, 86_400),
)  # fmt: skip


@st.composite
def roles(draw: st.DrawFn) -> Role:
    """Roles whose threshold their keys can reach."""
    keys = sorted(draw(st.sets(KEY, min_size=1, max_size=3)), key=lambda key: key.thumbprint())
    return Role(draw(NAME), draw(PATTERNS), draw(PATTERNS), tuple(keys), draw(st.integers(1, len(keys))), draw(WHOLE))


DELEGATION = st.builds(Delegation, NAME, WHOLE, WHOLE, sorted_set(roles(), key=lambda role: role.name))
DIGESTS = st.sets(DIGEST, min_size=1, max_size=3).map(lambda found: tuple(sorted(found)))
HOSTS = st.sets(NAME, min_size=1, max_size=3).map(lambda found: tuple(sorted(found)))
DRAFT = st.builds(
    lambda code, claim, got, hosts, start, life, why: Draft(code, claim, got, hosts, start, start + life, why),
    st.sampled_from(EXEMPTIBLE), WORD, TEXT.filter("none".__ne__), HOSTS, st.integers(0, 2**60), st.integers(1, LONGEST), WORD,
)  # fmt: skip
PROPOSAL = st.builds(
    Proposal,
    NAME,
    st.sampled_from([kind for kind in KINDS if kind != "exemption"]),
    WHOLE,
    DIGESTS,
    st.just(()) | DIGESTS,
    keeps=st.just(()) | DIGESTS,
) | st.builds(Proposal, NAME, st.just("exemption"), WHOLE, DIGESTS, st.just(()), DRAFT)
BUNDLE = st.builds(PolicyBundle, NAME, WHOLE, WHOLE, SETTINGS, CEDAR_TEXT, CEDAR_TEXT)
TRUST = st.builds(
    Trust, WORD, WORD, sorted_set(st.builds(ManufacturerRoot, WORD, CLASS, BLOB)), sorted_set(BLOB), several(KEY), sorted_set(BLOB),
    st.builds(ChainRules, FLAG, WHOLE, FLAG), sorted_set(BLOB),
)  # fmt: skip
COMPONENT = st.builds(ComponentRoot, NAME.filter(lambda name: name not in RESERVED), st.sampled_from(COMPONENT_KINDS), DIGEST, FLAG)
ARGUMENT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
SECRETS = st.sets(NAME, max_size=3).map(
    lambda names: tuple(Secret(name, "file" if len(name) % 2 else f"S{at}") for at, name in enumerate(sorted(names)))
)
MEASUREMENT = st.builds(
    Measurement, AGENT, several(ARGUMENT), sorted_set(COMPONENT, key=lambda c: c.name), SECRETS, WORD, GRANTS,
    st.sampled_from(PROFILES), sorted_set(st.sampled_from(("a.com/b=0", "a.com/b=1", "c/d=e"))), st.sampled_from(MODES),
)  # fmt: skip
ENROLMENT = st.builds(
    EnrolmentEvidence, NAME, NAME, WHOLE, st.none() | DIGEST, FLAG, BLOB, KEY32, st.binary(max_size=64), BLOB,
    st.none() | st.integers(0, (1 << 32) - 1),
)  # fmt: skip
LEAF = st.builds(Leaf, BLOB, WHOLE, several(BLOB))
LOGGED = MemoryLog([b"a", b"b", b"c"])
PLACE = st.sampled_from(
    [at for index in range(3) for at in (LOGGED.receipt(index), encode_tlog_proof(LOGGED.proof(index, witnesses=("w1",))))]
)
PUBLISHED = st.none() | st.builds(Published, BLOB, PLACE)
CHAIN: dict[str, Any] = {
    **dict.fromkeys(
        ("enrolment", "enrol_decision", "record", "state", "evidence", "engine", "policy", "attest_decision", "result"), BLOB
    ),
    "references": several(BLOB), "token": st.text(st.characters(codec="ascii"), max_size=9),
    "enrol_inclusion": st.none() | PLACE, "attest_inclusion": st.none() | PLACE,
    "policy_published": PUBLISHED, "references_published": PUBLISHED,
    "collateral": st.builds(Collateral, sorted_set(BLOB), sorted_set(BLOB), sorted_set(BLOB)),
}  # fmt: skip
TOKEN_PROOF = st.builds(TokenProof, **CHAIN)
PROOF = st.builds(
    ProofBundle, **CHAIN, opening=LEAF, action=LEAF, context=st.none() | st.builds(Opened, KEY32, BLOB), outcome=st.none() | LEAF,
    carrier=BLOB, carrier_decision=BLOB, carrier_inclusion=st.none() | PLACE, approval=st.none() | BLOB,
)  # fmt: skip
ARCHIVE = st.builds(
    Archive, sorted_set(BLOB), sorted_set(ARGUMENT), sorted_set(BLOB),
    sorted_set(st.builds(InstanceLog, ID, several(BLOB)), key=lambda log: log.instance), sorted_set(st.builds(Placed, KEY32, PLACE)),
)  # fmt: skip
RERUN = st.one_of(
    *(
        st.builds(
            Rerun, st.just(kind), BLOB, st.fixed_dictionaries({name: KEY32 if name in ("salt", "verifier") else BLOB for name in names}),
            several(BLOB),
        )
        for kind, names in NEEDED.items()
    ),
)  # fmt: skip
MADE = st.one_of(st.builds(Made, BLOB), st.builds(Made, st.none(), REASONS.filter(bool)))
EXCHANGE = st.one_of(
    st.builds(ex.EnrolRequest, NAME, st.none() | TEXT, BLOB, several(BLOB), BLOB, KEY, st.integers(0, 23), TEXT),
    st.builds(ex.EnrolChallenge, KEY32, BLOB, BLOB),
    st.builds(ex.Activation, KEY32, BLOB, BLOB, pcr_values()),
    st.builds(ex.Enrolled, NAME, NAME, WORD, WORD, KEY, KEY32, WHOLE),
    st.builds(ex.NonceAnswer, KEY32, WHOLE),
    st.builds(
        ex.AttestAnswer, BLOB, BLOB, REASONS, several(st.builds(ex.InstanceAnswer, ID, st.none() | TEXT, REASONS, st.none() | BLOB)),
        KEY32, WHOLE, BLOB, several(KEY)
    ),
    st.builds(ex.ExchangeRequest, WORD, WORD, WORD, st.none() | BLOB),
    st.builds(ex.ExchangeAnswer, WORD, BLOB, KEY),
    st.builds(ex.Problem, TEXT, REASONS),
)  # fmt: skip
LOCAL = st.one_of(
    st.builds(lo.Launch, NAME, several(ARGUMENT), KEY, st.none() | ID),
    st.builds(lo.Launched, ID, BLOB, WORD, several(ARGUMENT), WORD, GRANTS),
    st.builds(lo.LeaseAsk, ID),
    st.builds(lo.LeaseGiven, BLOB),
    st.builds(lo.TokenAsk, ID, KEY, WORD, GRANTS, WHOLE, KEY32, WHOLE, several(KEY32), ANCHORED),
    st.builds(lo.Anchor, ID, WHOLE, KEY32),
    st.builds(lo.TokenGiven, WORD, BLOB, BLOB, BLOB, several(KEY), KEY, BLOB, st.none() | BLOB),
    st.builds(lo.ExchangeAsk, ID, WORD, WORD, WORD, st.none() | BLOB),
    st.builds(lo.ExchangeGiven, WORD, BLOB, KEY),
    st.builds(lo.Refusal, REASONS, FLAG),
    st.builds(lo.Unreachable, TEXT),
    st.builds(lo.Stop, ID, TEXT),
    st.builds(lo.Done),
    st.builds(lo.Watch),
    st.builds(lo.Drift, ID, TEXT, TEXT, DIGEST, st.none() | DIGEST),
    st.builds(lo.Status),
    st.builds(lo.StatusAnswer, TEXT, FLAG, WHOLE, WHOLE, TEXT),
)  # fmt: skip

"""The proof bundle: one file that shows a token, or an action under it, to descend from a genuine TPM, with nothing else but trust anchors.

A flat CMW collection. Every part is the original bytes under a media type and,
where RATS has a word for what it is, an indicator; parts are named by the
signed records that refer to them by digest. The bundle proves nothing by being
well formed: `verdict.proof` judges it.

    {"token": ["application/eat+jwt", h'…', 8], …, "__cmwc_t": "urn:writ:proof:2"}

Source: RFC 9999 section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from writ.formats.approval import MAX_APPROVAL
from writ.formats.cmw import (
    APPRAISAL_POLICY,
    ATTESTATION_RESULTS,
    ENDORSEMENTS,
    EVIDENCE,
    REFERENCE_VALUES,
    Collection,
    encode_collection,
    parse_collection,
)
from writ.formats.crl import MAX_CRL
from writ.formats.errors import FormatError
from writ.formats.exemption import MOST as MOST_EXEMPTIONS
from writ.formats.ocsp import MAX_OCSP
from writ.formats.record import MAX_CONTEXT
from writ.formats.strict import MAX_SIZE, Fields, decode_cbor, encode_cbor
from writ.formats.tlog.inclusion import RECEIPT_TYPE, inclusion_type, parse_inclusion

T = TypeVar("T")

COLLECTION_TYPE: Final = "urn:writ:proof:2"
MAX_PART: Final = 32 << 20
MOST_CORIMS: Final = 16_384
"""CoRIMs of one set of reference values: their digests fit into the one message that lists them."""
MAX_CORIMS: Final = 32 << 20
"""Bytes of these CoRIMs, some 280,000 files: to judge an action again an auditor needs them all."""
MAX_BUNDLE: Final = MAX_CORIMS + 4 * MAX_PART
"""The references, state, evidence and carrier at their largest, and as much for the rest."""
MAX_TOKEN: Final = 16_384
MOST_COLLATERAL: Final = 64
"""Certificates, CRLs or OCSP responses about one chain."""

_COSE: Final = RECEIPT_TYPE
_OURS: Final = "application/vnd.writ."


@dataclass(frozen=True, slots=True)
class Leaf:
    """A record of the action log: its bytes, its index, and its inclusion proof in the log of the carried checkpoint."""

    record: bytes
    index: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """What a record's commitment to the context hides: the context, and the salt under which it is committed to."""

    salt: bytes
    context: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """An operator's act by which policy or reference values were published: COSE_Sign1 of the verifier, and its place in the log."""

    act: bytes
    inclusion: bytes


@dataclass(frozen=True, slots=True)
class Collateral:
    """What the verifier held about the EK's chain: intermediate certificates, CRLs and OCSP responses, in DER, as sorted sets.

    Nothing vouches for them here: each is believed under the CA that signed it, or not at all.
    """

    intermediates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()


NO_COLLATERAL: Final = Collateral()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProof:
    """The chain of one token, in the order in which it is judged.

    `enrol_decision` and `attest_decision` are COSE_Sign1 of the verifier; `engine` is the one that the attestation's names. Each
    inclusion is that of the decision beside it in the verifier's log (`tlog.inclusion`), None where the exporter had none.
    """

    enrolment: bytes
    enrol_decision: bytes
    record: bytes
    state: bytes
    evidence: bytes
    engine: bytes
    references: tuple[bytes, ...]
    policy: bytes
    attest_decision: bytes
    result: bytes
    token: str
    enrol_inclusion: bytes | None = None
    attest_inclusion: bytes | None = None
    policy_published: Published | None = None
    references_published: Published | None = None
    collateral: Collateral = NO_COLLATERAL


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofBundle(TokenProof):
    """The chain of one action: that of its token, and what follows.

    `opening` is that under which the action stands. `context` is None where it was erased: then the decision on the action cannot be
    made again. `carrier` is the evidence of a later attestation, whose quote binds the action log's checkpoint; `outcome` is None where
    none was recorded by then. `approval` is the signed approval that the context names, None where it names none.
    """

    opening: Leaf
    action: Leaf
    context: Opened | None
    outcome: Leaf | None
    carrier: bytes
    carrier_decision: bytes
    carrier_inclusion: bytes | None = None
    approval: bytes | None = None


_PARTS: Final[dict[str, tuple[str, int | None]]] = {
    "enrolment": (f"{_OURS}enrolment-evidence+cbor", EVIDENCE | ENDORSEMENTS),
    "enrol-decision": (_COSE, ATTESTATION_RESULTS),
    "record": (f"{_OURS}host-record+cbor", ENDORSEMENTS),
    "state": (f"{_OURS}host-state+cbor", ATTESTATION_RESULTS),
    "evidence": ("application/cmw+cbor", EVIDENCE),
    "engine": (f"{_OURS}engine+cbor", APPRAISAL_POLICY),
    "references": (f"{_OURS}references+cbor", REFERENCE_VALUES),
    "policy": (f"{_OURS}policy+cbor", APPRAISAL_POLICY),
    "attest-decision": (_COSE, ATTESTATION_RESULTS),
    "result": (f"{_OURS}ear+cbor", ATTESTATION_RESULTS),
    "token": ("application/eat+jwt", ATTESTATION_RESULTS),
    "collateral": (f"{_OURS}collateral+cbor", ENDORSEMENTS),
    "policy-act": (_COSE, APPRAISAL_POLICY),
    "references-act": (_COSE, REFERENCE_VALUES),
    "opening": (f"{_OURS}leaf+cbor", None),
    "action": (f"{_OURS}leaf+cbor", None),
    "outcome": (f"{_OURS}leaf+cbor", None),
    "context": (f"{_OURS}opened-context+cbor", None),
    "carrier": ("application/cmw+cbor", EVIDENCE),
    "carrier-decision": (_COSE, ATTESTATION_RESULTS),
    "approval": (_COSE, None),
}
"""The type and the indicator of each member; those of an inclusion follow from its first byte."""
_OF_AN_ACTION: Final = frozenset(
    {"opening", "action", "outcome", "context", "carrier", "carrier-decision", "carrier-inclusion", "approval"}
)  # fmt: skip


def encode_proof_bundle(bundle: TokenProof) -> bytes:
    """The one spelling of the proof bundle of a token, or of an action."""
    parts: dict[str, bytes | None] = {
        "enrolment": bundle.enrolment,
        "enrol-decision": bundle.enrol_decision,
        "enrol-inclusion": bundle.enrol_inclusion,
        "record": bundle.record,
        "state": bundle.state,
        "evidence": bundle.evidence,
        "engine": bundle.engine,
        "references": encode_cbor(list(bundle.references)),
        "policy": bundle.policy,
        "attest-decision": bundle.attest_decision,
        "attest-inclusion": bundle.attest_inclusion,
        "result": bundle.result,
        "token": bundle.token.encode(),
        "collateral": None if bundle.collateral == NO_COLLATERAL else _collateral_out(bundle.collateral),
    }
    for name, published in (("policy", bundle.policy_published), ("references", bundle.references_published)):
        if published is not None:
            parts |= {f"{name}-act": published.act, f"{name}-inclusion": published.inclusion}
    if isinstance(bundle, ProofBundle):
        parts |= {
            "opening": _leaf_out(bundle.opening),
            "action": _leaf_out(bundle.action),
            "context": None if bundle.context is None else encode_cbor([bundle.context.salt, bundle.context.context]),
            "outcome": None if bundle.outcome is None else _leaf_out(bundle.outcome),
            "carrier": bundle.carrier,
            "carrier-decision": bundle.carrier_decision,
            "carrier-inclusion": bundle.carrier_inclusion,
            "approval": bundle.approval,
        }
    return encode_collection(
        {name: _member(name, data) for name, data in parts.items() if data is not None}, collection_type=COLLECTION_TYPE
    )


def parse_proof_bundle(data: bytes) -> ProofBundle:
    """Read the proof bundle of an action. Raises FormatError, also for that of a token alone."""
    bundle = parse_proof(data)
    if not isinstance(bundle, ProofBundle):
        raise FormatError("proof bundle", "the chain of an action", "that of a token alone")
    return bundle


def parse_proof(data: bytes) -> TokenProof:
    """Read a proof bundle: a `ProofBundle` where it holds an action, else the chain of a token alone. Raises FormatError."""
    collection = parse_collection(data, what="proof bundle", max_size=MAX_BUNDLE)
    if collection.type != COLLECTION_TYPE:
        raise FormatError("proof bundle", COLLECTION_TYPE, repr(collection.type)[:80])
    m = _Members(collection)
    chain = TokenProof(
        enrolment=m.part("enrolment"),
        enrol_decision=m.part("enrol-decision"),
        enrol_inclusion=m.inclusion("enrol-inclusion"),
        record=m.part("record"),
        state=m.part("state", most=MAX_PART),
        evidence=m.part("evidence", most=MAX_PART),
        engine=m.part("engine"),
        references=m.read("references", _references_in, most=MAX_CORIMS + MAX_PART),
        policy=m.part("policy"),
        attest_decision=m.part("attest-decision"),
        attest_inclusion=m.inclusion("attest-inclusion"),
        result=m.part("result"),
        token=m.read("token", _token_in, most=MAX_TOKEN),
        policy_published=m.published("policy"),
        references_published=m.published("references"),
        collateral=m.read("collateral", _collateral_in, most=MAX_PART) if m.has("collateral") else NO_COLLATERAL,
    )
    if not m.left & _OF_AN_ACTION:
        m.done()
        return chain
    bundle = ProofBundle(
        **{name: getattr(chain, name) for name in TokenProof.__dataclass_fields__},
        opening=m.read("opening", _leaf_in),
        action=m.read("action", _leaf_in),
        context=m.read("context", _context_in, most=2 * MAX_CONTEXT) if m.has("context") else None,
        outcome=m.read("outcome", _leaf_in) if m.has("outcome") else None,
        carrier=m.part("carrier", most=MAX_PART),
        carrier_decision=m.part("carrier-decision"),
        carrier_inclusion=m.inclusion("carrier-inclusion"),
        approval=m.part("approval", most=MAX_APPROVAL) if m.has("approval") else None,
    )
    m.done()
    return bundle


class _Members:
    """The members of a collection, each taken once, by the type and the indicator that the table has for it."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self.left = {str(label) for label, _ in collection.members}

    def has(self, name: str) -> bool:
        return name in self.left

    def part(self, name: str, *, most: int = MAX_SIZE) -> bytes:
        record = self._collection.record(name)
        if record is None:
            raise FormatError("proof bundle", f"a member {name}", "none")
        self.left.discard(name)
        if (record.type, record.indicator) != (wanted := _typed(name, record.value)):
            raise FormatError(f"proof bundle {name}", f"{wanted[0]}, indicator {wanted[1]}", f"{record.type}, {record.indicator}")
        if len(record.value) > most:
            raise FormatError(f"proof bundle {name}", f"at most {most} bytes", f"{len(record.value)} bytes")
        return record.value

    def read(self, name: str, how: Callable[[bytes], T], *, most: int = MAX_SIZE) -> T:
        return how(self.part(name, most=most))

    def inclusion(self, name: str) -> bytes | None:
        if not self.has(name):
            return None
        data = self.part(name)
        parse_inclusion(data)
        return data

    def published(self, name: str) -> Published | None:
        act, inclusion = self.part(f"{name}-act") if self.has(f"{name}-act") else None, self.inclusion(f"{name}-inclusion")
        if act is None and inclusion is None:
            return None
        if act is None or inclusion is None:
            raise FormatError(f"proof bundle {name}-act", "an act and its inclusion", "one without the other")
        return Published(act, inclusion)

    def done(self) -> None:
        if self.left:
            raise FormatError("proof bundle", "the members of a proof bundle", f"also {min(self.left)!r}"[:80])


def _typed(name: str, data: bytes) -> tuple[str, int | None]:
    return (inclusion_type(data), None) if name.endswith("-inclusion") else _PARTS[name]


def _member(name: str, data: bytes) -> tuple[str, bytes, int | None]:
    kind, indicator = _typed(name, data)
    return kind, data, indicator


def _leaf_out(leaf: Leaf) -> bytes:
    return encode_cbor([leaf.record, leaf.index, list(leaf.proof)])


def _leaf_in(data: bytes) -> Leaf:
    f = _array(data, "proof bundle leaf", 3)
    return Leaf(f.raw(0, most=65535), f.uint(1), tuple(_raw(item) for item in f.items(2, most=64)))


def _context_in(data: bytes) -> Opened:
    f = _array(data, "proof bundle context", 2, most=2 * MAX_CONTEXT)
    return Opened(f.raw(0, size=32), f.raw(1, most=MAX_CONTEXT))


def _array(data: bytes, what: str, size: int, *, most: int = MAX_SIZE) -> Fields:
    value = decode_cbor(data, what, max_size=most)
    if not isinstance(value, list) or len(value) != size:
        raise FormatError(what, f"an array of {size}", type(value).__name__)
    return Fields(dict(enumerate(value)), what)


def _references_in(data: bytes) -> tuple[bytes, ...]:
    value = decode_cbor(data, "proof bundle references", max_size=len(data))
    if not isinstance(value, list) or len(value) > MOST_CORIMS + MOST_EXEMPTIONS:
        raise FormatError("proof bundle references", f"an array of at most {MOST_CORIMS + MOST_EXEMPTIONS}", type(value).__name__)
    return tuple(_raw(item) for item in value)


def _token_in(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise FormatError("proof bundle token", "ASCII", "other bytes") from None


def _collateral_out(held: Collateral) -> bytes:
    return encode_cbor({"v": 1, "intermediates": list(held.intermediates), "crls": list(held.crls), "ocsp": list(held.ocsp)})


def _collateral_in(data: bytes) -> Collateral:
    f = Fields(decode_cbor(data, "proof bundle collateral", max_size=len(data)), "proof bundle collateral")
    f.version(1)
    most = {"intermediates": 16384, "crls": MAX_CRL, "ocsp": MAX_OCSP}
    intermediates, crls, ocsp = (tuple(_raw(item, size) for item in f.items(name, most=MOST_COLLATERAL)) for name, size in most.items())
    f.done()
    held = Collateral(intermediates, crls, ocsp)
    if held == NO_COLLATERAL or any(list(items) != sorted(set(items)) for items in (intermediates, crls, ocsp)):
        raise FormatError("proof bundle collateral", "sorted sets, of which one has something, or no such member", "others")
    return held


def _raw(value: object, most: int = MAX_PART) -> bytes:
    if not isinstance(value, bytes) or len(value) > most:
        raise FormatError("proof bundle", f"bytes, at most {most}", type(value).__name__)
    return value

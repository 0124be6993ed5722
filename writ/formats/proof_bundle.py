"""The proof bundle: one file that shows one action to descend from a genuine TPM, with nothing else but trust anchors.

Every part is the original bytes, named by the signed records that refer to it
by digest. The bundle proves nothing by being well formed: `verdict.proof`
judges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.approval import MAX_APPROVAL
from writ.formats.errors import FormatError
from writ.formats.exemption import MOST as MOST_EXEMPTIONS
from writ.formats.record import MAX_CONTEXT
from writ.formats.strict import Fields, decode_cbor, encode_cbor

MAX_PART: Final = 32 << 20
MOST_CORIMS: Final = 16_384
"""CoRIMs of one set of reference values: their digests fit into the one message that lists them."""
MAX_CORIMS: Final = 32 << 20
"""Bytes of these CoRIMs, some 280,000 files: to judge an action again an auditor needs them all."""
MAX_BUNDLE: Final = MAX_CORIMS + 4 * MAX_PART
"""The references, state, evidence and carrier at their largest, and as much for the rest."""


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
class ProofBundle:
    """The chain of one action, in the order in which it is judged.

    `enrol_decision`, `attest_decision` and `carrier_decision` are COSE_Sign1
    of the verifier; `engine` is the one that the attestation's names. `carrier` is the evidence of a later attestation, whose
    quote binds the action log's checkpoint; `outcome` is None where none was recorded by then. `opening` is that
    under which the action stands. `context` is None where it was erased: then the decision on the action cannot be made again. `approval`
    is the signed approval that the context names, None where it names none.
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
    opening: Leaf
    action: Leaf
    context: Opened | None
    outcome: Leaf | None
    carrier: bytes
    carrier_decision: bytes
    approval: bytes | None = None


def encode_proof_bundle(bundle: ProofBundle) -> bytes:
    """The one spelling of a proof bundle."""
    return encode_cbor(
        {
            "v": 1,
            "enrolment": bundle.enrolment,
            "enrol_decision": bundle.enrol_decision,
            "record": bundle.record,
            "state": bundle.state,
            "evidence": bundle.evidence,
            "engine": bundle.engine,
            "references": list(bundle.references),
            "policy": bundle.policy,
            "attest_decision": bundle.attest_decision,
            "result": bundle.result,
            "token": bundle.token,
            "opening": _leaf_out(bundle.opening),
            "action": _leaf_out(bundle.action),
            "context": None if bundle.context is None else [bundle.context.salt, bundle.context.context],
            "outcome": None if bundle.outcome is None else _leaf_out(bundle.outcome),
            "carrier": bundle.carrier,
            "carrier_decision": bundle.carrier_decision,
            **({} if bundle.approval is None else {"approval": bundle.approval}),
        }
    )


def parse_proof_bundle(data: bytes) -> ProofBundle:
    """Read a proof bundle. Raises FormatError."""
    f = Fields(decode_cbor(data, "proof bundle", max_size=MAX_BUNDLE), "proof bundle")
    f.version(1)
    outcome = f.any("outcome")
    bundle = ProofBundle(
        enrolment=f.raw("enrolment"),
        enrol_decision=f.raw("enrol_decision"),
        record=f.raw("record"),
        state=f.raw("state", most=MAX_PART),
        evidence=f.raw("evidence", most=MAX_PART),
        engine=f.raw("engine"),
        references=tuple(_raw(item) for item in f.items("references", most=MOST_CORIMS + MOST_EXEMPTIONS)),
        policy=f.raw("policy"),
        attest_decision=f.raw("attest_decision"),
        result=f.raw("result"),
        token=f.text("token", most=16384),
        opening=_leaf_in(f.any("opening")),
        action=_leaf_in(f.any("action")),
        context=_context_in(f.any("context")),
        outcome=None if outcome is None else _leaf_in(outcome),
        carrier=f.raw("carrier", most=MAX_PART),
        carrier_decision=f.raw("carrier_decision"),
        approval=f.raw("approval", most=MAX_APPROVAL) if f.has("approval") else None,
    )
    f.done()
    return bundle


def _leaf_out(leaf: Leaf) -> list[object]:
    return [leaf.record, leaf.index, list(leaf.proof)]


def _leaf_in(value: object) -> Leaf:
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[2], list) or len(value[2]) > 64:
        raise FormatError("proof bundle leaf", "[record, index, proof]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "proof bundle leaf")
    return Leaf(f.raw(0, most=65535), f.uint(1), tuple(_raw(item) for item in f.items(2, most=64)))


def _context_in(value: object) -> Opened | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError("proof bundle context", "[salt, context], or null", type(value).__name__)
    f = Fields(dict(enumerate(value)), "proof bundle context")
    return Opened(f.raw(0, size=32), f.raw(1, most=MAX_CONTEXT))


def _raw(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise FormatError("proof bundle", "bytes", type(value).__name__)
    return value

"""A recorded decision with all that it was made of, and what an engine makes of it again: messages between an auditor and an engine.

They cross from one version to another: an auditor asks the engine of a wheel that was recorded years ago. So what an auditor says of
version 1 it goes on saying to engines that know no other.

    b'\\xa5' 'v' 1, 'kind' 'enrol', 'inputs' {'trust' h'…', 'evidence' h'…'}, 'decision' h'…', 'references' []
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor

MAX_RERUN: Final = 128 << 20
"""More than any evidence with any set of reference values that a verifier takes."""
NEEDED: Final = {
    "attest": ("evidence", "issuer", "policy", "record", "state", "verifier"),
    "enrol": ("evidence", "trust"),
    "exchange": ("issuer", "keys", "policy", "record", "request", "state"),
    "action": ("context", "policy", "salt", "token"),
}
"""By kind the inputs that there are beside the reference values."""
APPROVAL: Final = "approval"
"""The input of an action that is there where its context names an approval."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """`decision` is the entry that was signed, or of an action its leaf; `inputs` are what it names, whole, by what each is for.

    `issuer` is the verifier's name as the auditor trusts it, `verifier` the thumbprint of the key that signed the decision, `token` a
    compact token, `salt` that of the commitment to `context`.
    """

    kind: str
    decision: bytes
    inputs: Mapping[str, bytes]
    references: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """What came of it: the bytes that would be signed, of an action reasons and context; or why there is none."""

    data: bytes | None
    reasons: tuple[Reason, ...] = ()


def encode_rerun(rerun: Rerun) -> bytes:
    """The one spelling."""
    return encode_cbor(
        {
            "v": 1,
            "kind": rerun.kind,
            "decision": rerun.decision,
            "inputs": dict(rerun.inputs),
            "references": list(rerun.references),
        }
    )


def parse_rerun(data: bytes) -> Rerun:
    """Read what an engine is asked. Raises FormatError."""
    f = Fields(decode_cbor(data, "rerun", max_size=MAX_RERUN), "rerun")
    f.version(1)
    kind, decision = f.text("kind"), f.raw("decision", most=MAX_RERUN)
    named = f.mapping("inputs", most=8)
    references = f.items("references", most=1 << 20)
    f.done()
    inputs = {name: value for name, value in named.items() if isinstance(name, str) and isinstance(value, bytes)}
    if kind not in NEEDED or len(inputs) != len(named) or set(inputs) - {APPROVAL} != set(NEEDED[kind]):
        raise FormatError("rerun.inputs", f"a kind of {', '.join(NEEDED)} with its inputs", kind[:40])
    if APPROVAL in inputs and kind != "action":
        raise FormatError("rerun.inputs", "an approval of an action", kind)
    for name in ("salt", "verifier"):
        if len(value := inputs.get(name, bytes(32))) != 32:
            raise FormatError(f"rerun.{name}", "32 bytes", f"{len(value)} bytes")
    found = tuple(one for one in references if isinstance(one, bytes))
    if len(found) != len(references):
        raise FormatError("rerun.references", "byte strings", "something else")
    return Rerun(kind, decision, inputs, found)


def encode_made(made: Made) -> bytes:
    """The one spelling."""
    return encode_cbor({"v": 1, "made": made.data, "reasons": [reason.to_cbor() for reason in made.reasons]})


def parse_made(data: bytes) -> Made:
    """Read an engine's answer. Raises FormatError."""
    f = Fields(decode_cbor(data, "made", max_size=MAX_RERUN), "made")
    f.version(1)
    made = f.optional_raw("made", most=MAX_RERUN)
    reasons = tuple(Reason.from_cbor(item) for item in f.items("reasons", most=1024))
    f.done()
    if list(reasons) != sorted(set(reasons)):
        raise FormatError("made.reasons", "a sorted set", "another order")
    if (made is None) != bool(reasons):
        raise FormatError("made", "bytes, or reasons for none", f"{len(reasons)} reasons")
    return Made(made, reasons)

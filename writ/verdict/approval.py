"""Approvals: did a person whom the policy names say yes to exactly this action, and is it still good?

What enters Cedar's context is the name of whoever approved (`approver`) and the digest of the signed approval (`approval`); without one
neither is there, so a policy asks `context has approver`. The schema of a bundle has both as optional attributes, or its policies cannot
ask, and nothing is ever approvable under it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.action import Action
from writ.formats.approval import Approval, SignedApproval
from writ.formats.cose import verify_sign1
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.reason import Reason
from writ.formats.strict import decode_cbor

APPROVAL: Final = "approval"
APPROVER: Final = "approver"


@dataclass(frozen=True, slots=True)
class Asked:
    """An action that was refused at `gate` for want of an approval: the leaf hash of that record, and its commitment to the arguments."""

    action: Action
    gate: str
    leaf: bytes
    commitment: bytes


@dataclass(frozen=True, slots=True)
class Given:
    """An approval that somebody gave, and the refused action that it was given for, as the gatekeeper remembers it."""

    signed: SignedApproval
    asked: Asked


@dataclass(frozen=True, slots=True)
class Consent:
    """What enters the context where a person approved. Says nothing about its being true: `verify_approval` does."""

    approver: str
    approval: str

    def to_context(self) -> dict[str, str]:
        """The attributes of the context."""
        return {APPROVER: self.approver, APPROVAL: self.approval}


def consent_of(context: bytes) -> Consent | None:
    """What a recorded context says of an approval; None where it says nothing. Raises FormatError."""
    read = decode_cbor(context, "context")
    if not isinstance(read, dict):
        raise FormatError("context", "a map", type(read).__name__)
    match read.get(APPROVER), read.get(APPROVAL):
        case None, None:
            return None
        case str(approver), str(approval):
            return Consent(approver, approval)
    raise FormatError("context", f"{APPROVER} and {APPROVAL}, or neither", "something else")


def verify_approval(
    signed: SignedApproval, *, action: Action, gate: str, instance: bytes, bundle: PolicyBundle, now: int
) -> Consent:  # fmt: skip
    """A person whom `bundle` names approved `action` of `instance` at `gate`, under this very bundle, and it is good at `now`.

    1. The key is one of the bundle's approvers, and signed it.
    2. It is about this bundle.
    3. It is about this instance.
    4. It is about this action on this resource, at this gate.
    5. It is not dead, nor made later than `now` and the skew that the bundle allows.

    Does not say that the arguments are those approved, of which an approval has a commitment only (`is_about`), nor that it is used for the
    first time. Raises Refused.
    """
    # 1
    approval, people = signed.approval, {key.thumbprint(): (name, key) for name, key in bundle.settings.approvers}
    if signed.kid not in people:
        raise Refused(_reason("kid", f"one of {len(people)} approvers of the policy", signed.kid.hex()))
    name, key = people[signed.kid]
    if not verify_sign1(signed.sign1, key):
        raise Refused(Reason("signature-invalid", "approval", f"a signature by {name}", "another"))
    # 2, 3, 4
    about = (
        ("policy", str(bundle.digest), str(approval.policy)), ("instance", instance.hex(), approval.instance.hex()),
        ("action", action.name, approval.action), ("resource", action.resource, approval.resource), ("gate", gate, approval.gate),
    )  # fmt: skip
    for claim, expected, got in about:
        if expected != got:
            raise Refused(_reason(claim, expected, got))
    # 5
    if now >= approval.not_after:
        raise Refused(Reason("approval-expired", "approval.not_after", f"later than {now}", str(approval.not_after)))
    if now + bundle.settings.clock_skew < approval.made_at:
        raise Refused(Reason("approval-expired", "approval.made_at", f"at most {now + bundle.settings.clock_skew}", str(approval.made_at)))
    return Consent(name, str(signed.digest))


def is_about(approval: Approval, asked: Asked) -> None:
    """`approval` is about the record of `asked`, and so about its arguments. Raises Refused."""
    for claim, expected, got in (("refused", asked.leaf, approval.refused), ("arguments", asked.commitment, approval.arguments)):
        if expected != got:
            raise Refused(_reason(claim, expected.hex(), got.hex()))


def not_given(action: Action, able: tuple[str, ...]) -> Reason:
    """Why `action` is refused that one of the people `able` can approve."""
    return Reason("approval-required", f"{action.name} on {action.resource}"[:200], f"an approval by {' or '.join(able)}"[:1000], "none")


def supposed(approver: str) -> Consent:
    """An approval by `approver` that nobody gave: to find out what it would change, and for nothing else."""
    return Consent(approver, str(Digest("sha256", bytes(32))))


def _reason(claim: str, expected: str, got: str) -> Reason:
    return Reason("approval-refused", f"approval.{claim}", expected[:1000], got[:1000])

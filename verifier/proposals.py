"""Proposals as the ledger has them: what waits for approvals, whose approvals count, and what a commit checks again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from verifier.access import Operator
from verifier.ledger import Consent, Tables
from verifier.ledger.schema import ApiKeyRow, ApprovalRow, DelegationRow, PolicyRow, ProposalRow
from verifier.ledger.transaction import space
from writ.formats.cose import parse_sign1
from writ.formats.delegation import Delegation, parse_delegation
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.policy_bundle import PolicyBundle, PolicySettings, parse_bundle
from writ.formats.proposal import Proposal, encode_proposal, parse_proposal
from writ.formats.reason import Reason

PROPOSAL_LIFE: Final = 7 * 86_400
"""Seconds within which a proposal has to be approved."""
MOST_OPEN: Final = 256
"""Open proposals of one namespace, of publishers, and as many of operators: neither fills the other's room."""


@dataclass(frozen=True, slots=True)
class Case:
    """A proposal with the approvals it has. `stored` says whether the ledger knows it yet."""

    row: ProposalRow
    proposal: Proposal
    approvals: tuple[ApprovalRow, ...]
    stored: bool

    @property
    def signed(self) -> tuple[bytes, ...]:
        """The signed CoRIMs that publishers sent."""
        return tuple(one.signed for one in self.approvals if one.signed is not None)


def new_case(tables: Tables, operator: Operator, proposal: Proposal, *, expires_at: int) -> Case:
    """A proposal that nobody approved yet. Raises Refused `too-large` with too many open.

    Where the same was made and settled in this second, it is made as of the next: by its name it is another.
    """
    opened = [row for row in _open(tables, proposal.namespace, proposal.proposed_at) if _room(row.kind) == _room(proposal.kind)]
    if len(opened) >= MOST_OPEN:
        whose = f"at most {MOST_OPEN} open ones of {_room(proposal.kind)}"
        raise Refused(Reason("too-large", "proposals", whose, str(len(opened))))
    while tables.get(ProposalRow, str(proposal.digest)) is not None:
        proposal = replace(proposal, proposed_at=proposal.proposed_at + 1)
    data = encode_proposal(proposal)
    row = ProposalRow(str(Digest.of(data)), proposal.namespace, proposal.kind, data, operator.id, expires_at, None)
    return Case(row, proposal, (), stored=False)


def open_cases(tables: Tables, namespace: str, now: int) -> tuple[Case, ...]:
    """What may still be approved at `now`, oldest first."""
    cases = (_case(tables, row) for row in _open(tables, namespace, now))
    return tuple(sorted(cases, key=_age))


def _age(case: Case) -> tuple[int, str]:
    return case.proposal.proposed_at, case.row.digest


def _open(tables: Tables, namespace: str, now: int) -> list[ProposalRow]:
    return [row for row in tables.select(ProposalRow, namespace=namespace) if row.settled_at is None and now <= row.expires_at]


def _room(kind: str) -> str:
    """Whose room a proposal takes."""
    return "publishers" if kind == "publication" else "operators"


def open_case(tables: Tables, namespace: str, digest: str, now: int) -> Case:
    """The proposal of that name. Raises Refused `not-found`, `proposal-closed`."""
    row = tables.get(ProposalRow, digest)
    if row is None or row.namespace != namespace:
        raise Refused(Reason("not-found", "proposal", f"a proposal of {namespace}", digest[:80]))
    if row.settled_at is not None:
        raise Refused(Reason("proposal-closed", "proposal", "one that is open", f"one settled at {row.settled_at}"))
    if now > row.expires_at:
        raise Refused(Reason("proposal-closed", "proposal.expires_at", f"{now} or later", str(row.expires_at)))
    return _case(tables, row)


def like(tables: Tables, wanted: Proposal) -> Case | None:
    """The open proposal that wants the same, made earlier."""
    rows = _open(tables, wanted.namespace, wanted.proposed_at)
    same = [row for row in rows if replace(parse_proposal(row.data), proposed_at=wanted.proposed_at) == wanted]
    return min((_case(tables, row) for row in same), key=_age, default=None)


def _case(tables: Tables, row: ProposalRow) -> Case:
    return Case(row, parse_proposal(row.data), tuple(tables.select(ApprovalRow, proposal=row.digest)), stored=True)


def people(tables: Tables, approvals: Iterable[ApprovalRow]) -> frozenset[str]:
    """The people who approved, by API keys that are still of use."""
    found = set()
    for one in approvals:
        if one.signed is None and any(key.revoked_at is None for key in tables.select(ApiKeyRow, id=one.by)):
            found.add(one.who)
    return frozenset(found)


def approval(case: Case, operator: Operator, now: int) -> ApprovalRow:
    """The operator's approval."""
    return ApprovalRow(f"{case.row.digest}/{operator.who}", case.row.digest, operator.who, operator.id, now, None)


def signatures(case: Case, operator: Operator, now: int, signed: Mapping[str, bytes]) -> tuple[ApprovalRow, ...]:
    """The signed CoRIMs by the ids of the keys that made them, of keys that are new to the proposal."""
    known = {one.who for one in case.approvals}
    return tuple(
        ApprovalRow(f"{case.row.digest}/{key}", case.row.digest, key, operator.id, now, data)
        for key, data in sorted(signed.items())
        if key not in known
    )


def consent(tables: Tables, case: Case, added: Sequence[ApprovalRow], *, settled_at: int | None) -> Consent:
    """What the commit checks again and writes on."""
    now = space(tables, case.row.namespace)
    after = replace(case.row, settled_at=settled_at)
    seen = tuple(one.id for one in case.approvals)
    return Consent(case.row if case.stored else None, after, seen, tuple(added), now.policy, now.delegation)


def policy_in_force(tables: Tables, namespace: str) -> tuple[PolicyBundle, bytes] | None:
    """The policy in force, and it signed; None where there is none."""
    digest = space(tables, namespace).policy
    row = None if digest is None else tables.get(PolicyRow, digest)
    return None if row is None else (_bundle(row.signed), row.signed)


def settings_in_force(tables: Tables, namespace: str) -> PolicySettings | None:
    """The settings of the policy in force, None where there is none."""
    held = policy_in_force(tables, namespace)
    return None if held is None else held[0].settings


@lru_cache(maxsize=64)
def _bundle(signed: bytes) -> PolicyBundle:
    return parse_bundle(parse_sign1(signed).payload or b"")


def delegation_in_force(tables: Tables, namespace: str) -> tuple[Delegation, bytes] | None:
    """The delegation in force, and it signed."""
    digest = space(tables, namespace).delegation
    row = None if digest is None else tables.get(DelegationRow, digest)
    return None if row is None else (parse_delegation(parse_sign1(row.signed).payload or b""), row.signed)

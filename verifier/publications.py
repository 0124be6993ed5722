"""Publishers: the delegation in force, and the CoRIMs that its roles sign into force without an operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from verifier import proposals
from verifier.access import Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import Consented, DelegationPublished, Ledger, ReferencesImported, Tables
from verifier.ledger.schema import ApprovalRow, DelegationRow, ReferenceRow
from verifier.ledger.transaction import space
from verifier.proposals import PROPOSAL_LIFE, Case
from verifier.reference import Outcome, decide_on_set, digest_of, reference_row, set_after
from writ.formats.corim import encode_corim, parse_signed_corim
from writ.formats.delegation import CONTENT_TYPE, MOST_PUBLISHERS, Delegation, Role, encode_delegation, matches, parse_delegation
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.keys import key_id
from writ.formats.policy_bundle import PolicySettings
from writ.formats.proposal import Proposal
from writ.formats.reason import Reason
from writ.service.clock import Clock
from writ.verdict.publication import Accepted, Pending, judge_delegation, judge_environment, judge_publication, parse_publication, signed_by

ACT: Final = "reference-publish"


class Publications:
    """The delegations of all namespaces, and what is published under them."""

    def __init__(self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock

    def delegate(self, operator: Operator, namespace: str, roles: Sequence[Role], *, version: int | None) -> Delegation:
        """These roles, and no others, are in force, under the next version where none is given. Raises FormatError, Refused."""
        now = self._clock.now()
        tables = self._ledger.read()
        number = space(tables, namespace).delegation_version + 1 if version is None else version
        encoded = encode_delegation(Delegation(namespace, number, now, tuple(sorted(roles, key=lambda role: role.name))))
        delegation = parse_delegation(encoded)
        held = proposals.delegation_in_force(tables, namespace)
        judge_delegation(None if held is None else held[0], delegation)
        name = delegation.digest
        entry = self._log.entry(operator, "reference-delegate", str(name), namespace=namespace, at=now, detail=name)
        row = DelegationRow(str(name), namespace, number, self._keys.sign_decision(encoded, CONTENT_TYPE))
        self._ledger.commit(DelegationPublished(entry, row, (encoded,)))
        return delegation

    def current(self, namespace: str) -> tuple[Delegation, bytes]:
        """The delegation in force, and it signed. Raises Refused `not-found`."""
        held = proposals.delegation_in_force(self._ledger.read(), namespace)
        if held is None:
            raise Refused(Reason("not-found", "delegation", f"a delegation of {namespace}", "none"))
        return held

    def publish(self, operator: Operator, namespace: str, signed: Sequence[bytes]) -> Outcome:
        """The CoRIM that all of `signed` carry is in force, or waits for more signatures or for operators.

        Who calls does not matter: the signatures do, together with those that came before. Raises FormatError, Refused.
        """
        if not 1 <= len(signed) <= MOST_PUBLISHERS:
            raise FormatError("signed CoRIMs", f"1 to {MOST_PUBLISHERS}", str(len(signed)))
        corim, now = parse_publication(signed), self._clock.now()
        if corim.namespace != namespace:
            raise Refused(Reason("forbidden", "corim.namespace", namespace, corim.namespace))
        judge_environment(corim)
        wanted = Proposal(namespace, "publication", now, (Digest.of(encode_corim(corim)),))

        def published(tables: Tables) -> tuple[ReferencesImported | Consented | None, Outcome]:
            row = tables.get(ReferenceRow, digest_of(corim))
            if row is not None and row.active:
                return None, Outcome((row,))
            known = proposals.like(tables, wanted)
            case = known or proposals.new_case(tables, operator, wanted, expires_at=now + PROPOSAL_LIFE)
            counted = proposals.people(tables, case.approvals)
            return self._judged(tables, operator, case, (*case.signed, *signed), (), counted, now)

        return decide_on_set(self._ledger, namespace, published)

    def settle(
        self, tables: Tables, operator: Operator, case: Case, added: ApprovalRow, counted: frozenset[str], now: int
    ) -> tuple[ReferencesImported | Consented | None, Outcome]:
        """An operator approves what publishers signed: what is to be committed. Raises Refused where it may not be published any more."""
        return self._judged(tables, operator, case, case.signed, (added,), counted, now)

    def verdict(
        self, tables: Tables, namespace: str, signed: Sequence[bytes], counted: frozenset[str], now: int
    ) -> tuple[Accepted | Pending, dict[str, bytes]]:
        """What the rule says of the CoRIM that these carry, and one of them by each key of a role of its environment. Raises Refused."""
        corim = parse_publication(signed)
        known = tables.get(ReferenceRow, digest_of(corim))
        held = proposals.delegation_in_force(tables, namespace)
        rows = tables.select(ReferenceRow, namespace=namespace, environment=corim.environment, active=1)
        judged = judge_publication(
            signed, None if held is None else held[0], [parse_signed_corim(row.signed).corim for row in rows], counted,
            proposals.settings_in_force(tables, namespace) or PolicySettings(), namespace=namespace,
            retired=known is not None and known.retired_at is not None, now=now,
        )  # fmt: skip
        by: dict[str, bytes] = {}
        for role in () if held is None else held[0].roles:
            if any(matches(one, corim.environment) for one in role.environments):
                by |= {key_id(key): item for item in sorted(signed) for key in signed_by((item,), role)}
        return judged, by

    def _judged(
        self, tables: Tables, operator: Operator, case: Case, signed: Sequence[bytes], added: tuple[ApprovalRow, ...],
        counted: frozenset[str], now: int,
    ) -> tuple[ReferencesImported | Consented | None, Outcome]:  # fmt: skip
        """What is to be committed, None where the ledger has all of it already."""
        namespace = case.row.namespace
        judged, by = self.verdict(tables, namespace, signed, counted, now)
        corim = parse_publication(signed)
        new = (*proposals.signatures(case, operator, now, by), *added)
        row = reference_row(corim, by[min(by)], active=0, at=now)
        blob = encode_corim(corim)
        if isinstance(judged, Pending):
            outcome = Outcome((row,), case.row.digest, judged.missing)
            if case.stored and not new:
                return None, outcome
            act = "reference-approve" if added else "reference-propose"
            entry = self._log.entry(operator, act, case.row.digest, namespace=namespace, at=now, detail=case.proposal.digest)
            consent = proposals.consent(tables, case, new, settled_at=None)
            return Consented(entry, consent, (row,), (blob, case.row.data)), outcome
        after = set_after(tables, namespace, now, add=(row,))
        subject = f"{row.digest} by {judged.role} of {space(tables, namespace).delegation}"
        entry = self._log.entry(operator, ACT, subject, namespace=namespace, at=now, detail=after.digest)
        consent = proposals.consent(tables, case, new, settled_at=now)
        live = replace(row, active=1)
        return ReferencesImported(
            entry, (live,), after.lapsed, after.before, after.digest.value, (blob, case.row.data, after.listed), consent=consent
        ), Outcome((live,))

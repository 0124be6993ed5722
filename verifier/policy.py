"""Policy bundles: checked, numbered, signed, published. The version only rises, and a bundle that would err is never signed.

A policy that asks for less where some things take more than one person is proposed first: nobody lifts alone that rule, or a check.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from verifier import proposals
from verifier.access import Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import Consented, Ledger, PolicyPublished, Tables
from verifier.ledger.schema import ApprovalRow, PolicyRow, ReferenceRow
from verifier.ledger.transaction import blob, space
from verifier.proposals import PROPOSAL_LIFE, Case
from verifier.reference import Outcome, corims_of, decide_on_set, versions
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.errors import Misuse, Refused
from writ.formats.policy_bundle import CONTENT_TYPE, PolicyBundle, PolicySettings, encode_bundle, parse_bundle
from writ.formats.proposal import Proposal
from writ.formats.reason import Reason
from writ.service.clock import Clock
from writ.verdict.lint import publishable
from writ.verdict.publication import Accepted, Pending, judge_policy, judge_runtime_only


def _verdict(tables: Tables, bundle: PolicyBundle, people: Collection[str]) -> Accepted | Pending:
    """What the rules say of this policy in the place of the one in force, over the reference values of now. Raises Refused."""
    before = proposals.settings_in_force(tables, bundle.namespace)
    retired, in_force = _retired(tables, bundle.namespace), _in_force(tables, bundle.namespace)
    judge_runtime_only(before, bundle.settings, retired, in_force)
    return judge_policy(before, bundle.settings, people)


def _retired(tables: Tables, namespace: str) -> Iterator[str]:
    """The environments of what was taken out of force, read if they are asked for: most policies do not come to that."""
    for row in tables.select(ReferenceRow, namespace=namespace, active=0):
        if row.retired_at is not None:
            yield row.environment


def _in_force(tables: Tables, namespace: str) -> Iterator[Corim]:
    """The versions in force, likewise."""
    yield from corims_of(versions(tables.select(ReferenceRow, namespace=namespace, active=1)))


class Policies:
    """The policies of all namespaces."""

    def __init__(self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock

    def publish(
        self, operator: Operator, namespace: str, *, settings: PolicySettings, schema: str, policies: str, version: int | None
    ) -> tuple[PolicyBundle, Outcome]:
        """The bundle is in force, under the next version where none is given; or proposed, where it asks for less than before.

        What is proposed already is that proposal, and no approval of it.
        Raises FormatError, Refused `policy-rollback`, `reference-last`.
        """
        now = self._clock.now()

        def published(tables: Tables) -> tuple[PolicyPublished | Consented | None, tuple[PolicyBundle, Outcome]]:
            held = space(tables, namespace)
            bundle = PolicyBundle(namespace, held.policy_version + 1 if version is None else version, now, settings, schema, policies)
            encoded = encode_bundle(bundle)
            bundle = parse_bundle(encoded)
            publishable(bundle)
            verdict = _verdict(tables, bundle, {operator.who})
            name = bundle.digest
            if isinstance(verdict, Accepted):
                entry = self._log.entry(operator, "policy-publish", str(name), namespace=namespace, at=now, detail=name)
                change = PolicyPublished(entry, self._row(encoded), (encoded,), held.references_digest, held.policy)
                return change, (bundle, Outcome(()))
            if (known := self._like(tables, bundle)) is not None:
                waiting = self.judged(tables, known, proposals.people(tables, known.approvals))
                missing = waiting.missing if isinstance(waiting, Pending) else ()
                return None, (parse_bundle(self._proposed(tables, known)), Outcome((), known.row.digest, missing))
            wanted = Proposal(namespace, "policy", now, (name,))
            case = proposals.new_case(tables, operator, wanted, expires_at=now + PROPOSAL_LIFE)
            consent = proposals.consent(tables, case, (proposals.approval(case, operator, now),), settled_at=None)
            named = case.proposal.digest
            entry = self._log.entry(operator, "reference-propose", case.row.digest, namespace=namespace, at=now, detail=named)
            proposed = Consented(entry, consent, (), (encoded, case.row.data))
            return proposed, (bundle, Outcome((), case.row.digest, verdict.missing))

        return decide_on_set(self._ledger, namespace, published)

    def settle(
        self, tables: Tables, operator: Operator, case: Case, added: ApprovalRow, counted: frozenset[str], now: int
    ) -> tuple[PolicyPublished | Consented, Outcome]:
        """An operator approves a policy that was proposed: what is to be committed. Raises Refused `policy-rollback`, `reference-last`."""
        namespace, encoded = case.row.namespace, self._proposed(tables, case)
        verdict = _verdict(tables, parse_bundle(encoded), counted)
        detail = case.proposal.digest if isinstance(verdict, Pending) else Digest.of(encoded)
        entry = self._log.entry(operator, "reference-approve", case.row.digest, namespace=namespace, at=now, detail=detail)
        if isinstance(verdict, Pending):
            consent = proposals.consent(tables, case, (added,), settled_at=None)
            return Consented(entry, consent, (), ()), Outcome((), case.row.digest, verdict.missing)
        consent = proposals.consent(tables, case, (added,), settled_at=now)
        references = space(tables, namespace).references_digest
        return PolicyPublished(entry, self._row(encoded), (encoded,), references, consent=consent), Outcome(())

    def judged(self, tables: Tables, case: Case, counted: frozenset[str]) -> Accepted | Pending:
        """What a proposed policy waits for."""
        return _verdict(tables, parse_bundle(self._proposed(tables, case)), counted)

    def _like(self, tables: Tables, bundle: PolicyBundle) -> Case | None:
        """The open proposal of this policy, made at any time."""
        for case in proposals.open_cases(tables, bundle.namespace, bundle.issued_at):
            if case.row.kind == "policy":
                proposed = parse_bundle(self._proposed(tables, case))
                if replace(proposed, issued_at=bundle.issued_at) == bundle:
                    return case
        return None

    def _proposed(self, tables: Tables, case: Case) -> bytes:
        found = blob(tables, "", case.proposal.of[0])
        if found is None:
            raise Misuse("a proposed policy that the ledger does not hold")
        return found

    def _row(self, encoded: bytes) -> PolicyRow:
        bundle = parse_bundle(encoded)
        return PolicyRow(str(bundle.digest), bundle.namespace, bundle.version, self._keys.sign_decision(encoded, CONTENT_TYPE))

    def current(self, namespace: str) -> tuple[PolicyBundle, bytes]:
        """The bundle in force, and it signed. Raises Refused `policy-unknown`."""
        held = proposals.policy_in_force(self._ledger.read(), namespace)
        if held is None:
            raise Refused(Reason("policy-unknown", "policy", f"a policy of {namespace}", "none"))
        return held

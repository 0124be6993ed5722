"""What takes more than one person: exemptions are proposed here, and everything that was proposed is approved or withdrawn here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from verifier import proposals
from verifier.access import Operator, OperatorLog
from verifier.ledger import Consented, Ledger, PolicyPublished, ReferencesImported, Tables
from verifier.ledger.schema import ApprovalRow, ExemptionRow, HostRow, ReferenceRow
from verifier.ledger.transaction import blob
from verifier.policy import Policies
from verifier.proposals import Case
from verifier.publications import Publications
from verifier.reference import Outcome, References, decide_on_set, set_after
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, parse_entry
from writ.formats.digest import Digest
from writ.formats.ear import parse_ear_cbor
from writ.formats.errors import FormatError, Misuse, Refused
from writ.formats.exemption import LONGEST, encode_exemption
from writ.formats.policy_bundle import PolicySettings
from writ.formats.proposal import Draft, Proposal
from writ.formats.public import with_names
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.state import parse_host_state
from writ.service.clock import Clock
from writ.verdict.publication import Pending, excepted_reason, judge_approvals, judge_exemption

SHORTEST: Final = 60
"""Seconds of an exemption."""
SHOWN_AFTER: Final = 7 * 86_400
"""Seconds for which an exemption that is over is still listed."""

Change = ReferencesImported | Consented | PolicyPublished


@dataclass(frozen=True, slots=True)
class Waiting:
    """An open proposal, and what it waits for."""

    case: Case
    missing: tuple[str, ...]


class Approvals:
    """The proposals of all namespaces."""

    def __init__(
        self, ledger: Ledger, log: OperatorLog, clock: Clock, references: References, publications: Publications, policies: Policies
    ) -> None:
        self._ledger = ledger
        self._log = log
        self._clock = clock
        self._references = references
        self._publications = publications
        self._policies = policies

    def propose_exemption(
        self, operator: Operator, namespace: str, reference: str, *, component: str | None, hosts: tuple[str, ...], life: int, why: str
    ) -> Case:
        """One difference of a recorded refusal is proposed to be let pass, on its host or on `hosts`, from now for `life` seconds.

        1. The decision is one of this namespace, and a refusal.
        2. It has one difference from the reference values, or `component` names one.
        3. The hosts are of this namespace.
        4. It is not proposed yet.

        Raises FormatError, Refused.
        """
        now = self._clock.now()
        if not SHORTEST <= life <= LONGEST:
            raise FormatError("life", f"{SHORTEST} to {LONGEST} seconds", str(life))

        def proposed(tables: Tables) -> tuple[Consented | None, Case]:
            # 1
            name, decision = _decision(tables, namespace, reference)
            # 2
            reason = excepted_reason(decision, component, _agents(tables, decision))
            # 3
            wanted = tuple(sorted(set(hosts or (decision.host,))))
            for host in wanted:
                row = tables.get(HostRow, host)
                if row is None or row.namespace != namespace:
                    raise Refused(Reason("not-found", "hosts", f"a host of {namespace}", host[:63]))
            # 4
            draft = Draft(reason.code, reason.claim, reason.got, wanted, now, now + life, why)
            proposal = Proposal(namespace, "exemption", now, (name,), (), draft)
            if (known := proposals.like(tables, proposal)) is not None:
                return None, known
            case = proposals.new_case(tables, operator, proposal, expires_at=now + life)
            consent = proposals.consent(tables, case, (proposals.approval(case, operator, now),), settled_at=None)
            named = case.proposal.digest
            entry = self._log.entry(operator, "reference-propose", case.row.digest, namespace=namespace, at=now, detail=named)
            return Consented(entry, consent, (), (case.row.data,)), case

        return decide_on_set(self._ledger, namespace, proposed)

    def approve(self, operator: Operator, namespace: str, digest: str) -> Outcome:
        """The operator approves exactly what the proposal says; with that it is in force, or waits for others. Raises Refused.

        1. It is open, and of this namespace.
        2. The operator is another person than those who approved it.
        3. It is held against the rules and the set of now, with the approvals of keys that are still of use.
        """
        now = self._clock.now()

        def approved(tables: Tables) -> tuple[Change | None, Outcome]:
            # 1
            case = proposals.open_case(tables, namespace, digest, now)
            # 2
            counted = proposals.people(tables, case.approvals)
            if operator.who in counted:
                raise Refused(Reason("approval-repeated", "operator", f"another person than {', '.join(sorted(counted))}", operator.who))
            # 3
            added = proposals.approval(case, operator, now)
            return self._settle(tables, operator, case, added, counted | {operator.who}, now)

        return decide_on_set(self._ledger, namespace, approved)

    def withdraw(self, operator: Operator, namespace: str, digest: str) -> None:
        """The proposal is over, and nothing of it is in force. A publisher withdraws his own, an operator any. Raises Refused."""
        now = self._clock.now()

        def withdrawn(tables: Tables) -> tuple[Consented, None]:
            case = proposals.open_case(tables, namespace, digest, now)
            if operator.role == "publisher" and operator.id != case.row.by:
                raise Refused(Reason("forbidden", "proposal.by", f"an operator, or {case.row.by}", operator.id))
            detail = case.proposal.digest
            entry = self._log.entry(operator, "reference-withdraw", case.row.digest, namespace=namespace, at=now, detail=detail)
            return Consented(entry, proposals.consent(tables, case, (), settled_at=now), (), ()), None

        decide_on_set(self._ledger, namespace, withdrawn)

    def waiting(self, namespace: str) -> tuple[Waiting, ...]:
        """What is proposed, and what for each is missing."""
        tables, now = self._ledger.read(), self._clock.now()
        return tuple(Waiting(case, self._missing(tables, case, now)) for case in proposals.open_cases(tables, namespace, now))

    def exemptions(self, namespace: str) -> tuple[ExemptionRow, ...]:
        """Those in force, and those that ended not long ago, by their end."""
        since = self._clock.now() - SHOWN_AFTER
        rows = [row for row in self._ledger.read().select(ExemptionRow, namespace=namespace) if row.not_after >= since]
        return tuple(sorted(rows, key=lambda row: (row.not_after, row.digest)))

    def _settle(
        self, tables: Tables, operator: Operator, case: Case, added: ApprovalRow, counted: frozenset[str], now: int
    ) -> tuple[Change | None, Outcome]:
        match case.row.kind:
            case "import":
                return self._references.settle(tables, operator, case, added, counted, now)
            case "publication":
                return self._publications.settle(tables, operator, case, added, counted, now)
            case "policy":
                return self._policies.settle(tables, operator, case, added, counted, now)
            case "exemption":
                return self._exempt(tables, operator, case, added, counted, now)
        raise Misuse(f"no rule for a proposal of kind {case.row.kind}")

    def _exempt(
        self, tables: Tables, operator: Operator, case: Case, added: ApprovalRow, counted: frozenset[str], now: int
    ) -> tuple[Change, Outcome]:
        namespace, draft = case.row.namespace, case.proposal.draft
        if draft is None:
            raise Misuse("a proposal of an exemption without one")
        verdict = judge_exemption(counted)
        if isinstance(verdict, Pending):
            entry = self._log.entry(
                operator, "reference-approve", case.row.digest, namespace=namespace, at=now, detail=case.proposal.digest
            )
            return Consented(entry, proposals.consent(tables, case, (added,), settled_at=None), (), ()), Outcome(
                (), case.row.digest, verdict.missing
            )
        exemption = draft.approved(namespace, tuple(sorted(counted)))
        data, name = encode_exemption(exemption), str(exemption.digest)
        after = set_after(tables, namespace, now, exempt=(name,))
        entry = self._log.entry(operator, "reference-approve", case.row.digest, namespace=namespace, at=now, detail=after.digest)
        consent = proposals.consent(tables, case, (added,), settled_at=now)
        row = ExemptionRow(name, namespace, data, 1, exemption.not_after)
        change = ReferencesImported(
            entry, (), after.lapsed, after.before, after.digest.value, (data, after.listed), exemptions=(row,), consent=consent
        )
        return change, Outcome(())

    def _missing(self, tables: Tables, case: Case, now: int) -> tuple[str, ...]:
        """What the proposal waits for, or why it may not come into force any more."""
        counted = proposals.people(tables, case.approvals)
        try:
            match case.row.kind:
                case "exemption":
                    verdict = judge_exemption(counted)
                case "policy":
                    verdict = self._policies.judged(tables, case, counted)
                case "publication":
                    verdict, _ = self._publications.verdict(tables, case.row.namespace, case.signed, counted, now)
                case _:
                    rows = [tables.get(ReferenceRow, str(one)) for one in case.proposal.of]
                    settings = proposals.settings_in_force(tables, case.row.namespace) or PolicySettings()
                    verdict = judge_approvals((row.environment for row in rows if row is not None), counted, settings)
        except Refused as refused:
            return tuple(str(reason) for reason in refused.reasons)
        return verdict.missing if isinstance(verdict, Pending) else ()


def _agents(tables: Tables, decision: AttestDecision) -> dict[bytes, AgentId]:
    """Of which agent each instance of the decision's host was. The state it left is kept apart once another follows it."""
    kept, host = blob(tables, decision.namespace, decision.state_after), tables.get(HostRow, decision.host)
    data = kept if kept is not None else None if host is None else host.state
    return {} if data is None else {known.instance: known.agent for known in parse_host_state(data).runtime.instances}


def _decision(tables: Tables, namespace: str, reference: str) -> tuple[Digest, AttestDecision]:
    """The one decision whose reference begins so, with the names of files as its result has them, and its name. Raises Refused."""
    rows = tables.entries(reference, most=2)
    if len(rows) != 1 or rows[0].namespace != namespace:
        raise Refused(Reason("not-found", "reference", f"one decision of {namespace}", reference[:80]))
    decision = parse_entry(parse_sign1(rows[0].entry).payload or b"")
    if not isinstance(decision, AttestDecision):
        raise Refused(Reason("exemption-refused", "decision.kind", "attest", rows[0].kind))
    result = blob(tables, namespace, decision.result)
    named = decision if result is None else replace(decision, reasons=with_names(decision, parse_ear_cbor(result)))
    return Digest("sha256", rows[0].leaf), named

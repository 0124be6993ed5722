"""Policies tried before they decide: on cases that a person wrote down, and on actions that were decided already.

Nothing here lets an action pass: an `Answer` is no `Decision`, and no gate takes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord
from writ.verdict.approval import Consent, consent_of
from writ.verdict.cedar import CedarAnswer, evaluate, load
from writ.verdict.decide import Answer, judge_recorded, used_of
from writ.verdict.schema import BY_VERIFIER

BY_POLICY: Final = frozenset({"policy-refused", "policy-error", "grant-missing", "approval-required"})
"""The reasons for which grants and policy refuse: one of them, or none, says that they were asked."""
Said = Literal["permit", "refuse", "error"]
_NO_ARGUMENTS: Final = Digest.of(b"")


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked, and what the policies are expected to say: with `rule`, by that one among others."""

    name: str
    agent: str
    action: str
    resource: str
    context: Mapping[str, Any]
    expected: Said
    rule: str | None


@dataclass(frozen=True, slots=True)
class Tried:
    """What the policies said in a case, and the names of those that determined it."""

    case: Case
    said: Said
    determining: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it is what was expected."""
        return self.said == self.case.expected and (self.case.rule is None or self.case.rule in self.determining)


def rehearse(bundle: PolicyBundle, cases: Sequence[Case]) -> tuple[Tried, ...]:
    """What the policies say in each case. Token and grants are not asked. Raises FormatError for a bundle that cannot be loaded."""
    loaded, tried = load(bundle), []
    for case in cases:
        kind = "Audience" if case.action in BY_VERIFIER else "Resource"
        resource = (kind, case.resource)
        answer = evaluate(loaded, agent=case.agent, action=case.action, resource=resource, context=case.context)
        tried.append(Tried(case, _said(answer), answer.determining))
    return tuple(tried)


def _said(answer: CedarAnswer) -> Said:
    if answer.erred:
        return "error"
    return "permit" if answer.permit else "refuse"


def unexercised(bundle: PolicyBundle, determining: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The policies that determined nothing, sorted."""
    seen = {name for names in determining for name in names}
    return tuple(sorted({name for _, name in load(bundle).ids} - seen))


@dataclass(frozen=True, slots=True)
class Otherwise:
    """An action that a candidate decides in another way: whether it passed, and what the candidate says of it."""

    permit: bool
    candidate: Answer


def otherwise(
    action: Action, claims: TokenClaims, candidate: PolicyBundle, *, gate: str, now: int, reasons: tuple[Reason, ...],
    consent: Consent | None = None, used: int | None = None,
) -> Otherwise | None:  # fmt: skip
    """What `candidate` would say otherwise, had the token named it; None where it says the same, or policy was not asked.

    `reasons` are those for which the action was refused, `consent` the approval that entered, `used` how often it had been permitted.
    """
    if not by_policy(reasons):
        return None
    candidate = _without_lag(candidate)
    answer = judge_recorded(action, replace(claims, policy=candidate.digest), candidate, gate=gate, now=now, consent=consent, used=used)
    return None if answer.permit == (not reasons) else Otherwise(not reasons, answer)


def _without_lag(candidate: PolicyBundle) -> PolicyBundle:
    """The candidate without its bound on the lag, which is recorded only where the policy in force has one."""
    settings = candidate.settings
    return candidate if settings.record_lag_most is None else replace(candidate, settings=replace(settings, record_lag_most=None))


def by_policy(reasons: tuple[Reason, ...]) -> bool:
    """Whether grants and policy were asked."""
    return all(reason.code in BY_POLICY for reason in reasons)


def recorded(record: ActionRecord) -> Action:
    """The action of a record. Its arguments are not known from there, and enter no answer."""
    return Action(record.action, record.resource, _NO_ARGUMENTS)


def again(record: ActionRecord, context: bytes, claims: TokenClaims, candidate: PolicyBundle) -> Answer:
    """What `candidate` says of a recorded action at the second, gate, claims, approval and count of its decision. Raises FormatError.

    Approval and count are those of the `context` that it was decided in; the count is there where the policy in force looked at it.
    """
    candidate = _without_lag(candidate)
    named = replace(claims, policy=candidate.digest)
    consent, used = consent_of(context), used_of(context)
    return judge_recorded(recorded(record), named, candidate, gate=record.gate, now=record.decided_at, consent=consent, used=used)

"""One action decided: token, bundle, grant, policy. Everything must say yes, and nothing may err."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from writ.formats.action import Action, OpenContext, encode_context
from writ.formats.eat import TokenClaims
from writ.formats.errors import FormatError, Refused
from writ.formats.grants import Grant, covers
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.reason import NO_TOKEN, Reason
from writ.verdict.approval import Consent, Given, is_about, not_given, supposed, verify_approval
from writ.verdict.cedar import CedarAnswer, CedarPolicies, evaluate, load
from writ.verdict.decision import Decision
from writ.verdict.memo import Judged, Memo
from writ.verdict.token import VerifiedToken

_NO_CONTEXT: Final = encode_context({})
_MOMENT: Final = ("now", "attest_age")
"""What of a decision's context differs between two moments of one token at one gate."""
_SECONDS: Final = 1 << 63
"""Cedar's integers end below it: a clock that shows more is refused by Cedar, every time."""


def decide(
    action: Action, *, token: VerifiedToken | None, bundle: PolicyBundle | None, gate: str, now: int, memo: Memo | None = None,
    given: Given | None = None,
) -> Decision:  # fmt: skip
    """Whether `action` may pass at `now`.

    Does not make the decision durable: nothing may pass until the record is (I4). `memo` changes no answer, and is added to.

    1. There is a verified token, alive at `now`.
    2. There is a policy bundle, of exactly the digest that the token names.
    3. A grant of the token covers the action on the resource.
    4. The policy permits it, with the schema, and without any error; with `given`, as approved: it was given for the same action with the
       same arguments, in this instance, by a person whom the bundle names, and is not dead.

    What the policy refuses and would permit if somebody approved it is refused by `approval-required`. That `given` is used once is seen to
    by whoever gives it in.

    Later steps run only where the earlier ones passed. Every refusal has a Reason.
    """
    context = _NO_CONTEXT
    reasons: tuple[Reason, ...] = ()
    determining: tuple[str, ...] = ()
    if token is None:
        reasons = (NO_TOKEN,)
    elif bundle is None:
        reasons = (Reason("policy-unknown", "bundle", str(token.claims.policy), "none"),)
    elif given is not None:
        context, reasons, determining = _approved(action, token, bundle, gate, now, given)
    elif memo is None:
        answer = judge_recorded(action, token.claims, bundle, gate=gate, now=now)
        context, reasons, determining = answer.context, answer.reasons, answer.determining
    else:
        context = _remembered_context(memo, token, gate, now)
        reasons, determining = _remembered(memo, action, token, bundle, gate, now)
    entered = (
        action.name, action.resource, action.arguments.value, context, gate, now,
        None if token is None else token.digest.value, None if bundle is None else bundle.digest.value,
        *(() if given is None else (given.signed.digest.value, given.asked.leaf)),
    )  # fmt: skip
    return Decision(action, not reasons, reasons, determining, context, entered)


def _approved(
    action: Action, token: VerifiedToken, bundle: PolicyBundle, gate: str, now: int, given: Given
) -> tuple[bytes, tuple[Reason, ...], tuple[str, ...]]:
    """Context, reasons and determining policies of an action with an approval. One that is not for it refuses, and enters no context."""
    claims = token.claims
    try:
        if given.asked.action != action:
            raise Refused(Reason("approval-refused", "approval.arguments", str(action.arguments), str(given.asked.action.arguments)))
        is_about(given.signed.approval, given.asked)
        consent = verify_approval(given.signed, action=action, gate=gate, instance=claims.instance, bundle=bundle, now=now)
    except Refused as refused:
        return encode_context(decision_context(claims, gate=gate, now=now)), refused.reasons, ()
    answer = judge_recorded(action, claims, bundle, gate=gate, now=now, consent=consent)
    return answer.context, answer.reasons, answer.determining


def _remembered(memo: Memo, action: Action, token: VerifiedToken, bundle: PolicyBundle, gate: str, now: int) -> Judged:
    """What `_judge` says, from the memo where it said it already to what it cannot tell apart from this."""
    key = _key(action, token, bundle, gate, now)
    held = None if key is None else memo.judged(key)
    if held is not None:
        return held
    judged = _judge(action, token.claims, bundle, gate, now)
    erred = any(reason.code == "policy-error" for reason in judged[0])
    return judged if key is None or erred else memo.keep(key, judged)


def _key(action: Action, token: VerifiedToken, bundle: PolicyBundle, gate: str, now: int) -> Hashable | None:
    """Equal for two questions that get the same answer; None for one that is to be asked every time.

    Token and gate are the whole context but for the clock, and of the clock the policies see no more than `Moments` says. A dead token
    is refused by a reason that names the second.
    """
    claims = token.claims
    if now >= claims.expires_at or not 0 <= now < _SECONDS:
        return None
    try:
        moments = load(bundle).slice_of(action.name).moments
    except FormatError:
        return None
    place = moments.place(now, _attest_age(claims, now))
    return token.digest.value, bundle.digest.value, action.name, action.resource, gate, place


def _remembered_context(memo: Memo, token: VerifiedToken, gate: str, now: int) -> bytes:
    key = (token.digest.value, gate, now)
    held = memo.context(key)
    if held is not None:
        return held
    claims, around = token.claims, (token.digest.value, gate)
    opened = memo.open_context(around)
    if opened is None:
        opened = memo.keep_open_context(around, OpenContext.of(decision_context(claims, gate=gate, now=now), *_MOMENT))
    return memo.keep_context(key, opened.filled({"now": now, "attest_age": _attest_age(claims, now)}))


def would_refuse(action: Action, grants: tuple[Grant, ...]) -> tuple[Reason, ...]:
    """What stands against `action` of an observed agent whose manifest has these grants; never nothing, so that it is no permit.

    The first reason is the mode's own. No policy is asked: there is no token that would name one.
    """
    reasons = [Reason("observed", "mode", "an agent that is enforced", "observe")]
    if not any(covers(grant, action.name, action.resource) for grant in grants):
        reasons.append(Reason("grant-missing", "manifest.grants", f"{action.name} on {action.resource}", f"{len(grants)} other grants"))
    return tuple(reasons)


@dataclass(frozen=True, slots=True)
class Answer:
    """What grant and policy say, with the context they saw. Not yet a decision: nobody has verified the token here."""

    permit: bool
    reasons: tuple[Reason, ...]
    determining: tuple[str, ...]
    context: bytes


def judge_recorded(
    action: Action, claims: TokenClaims, bundle: PolicyBundle, *, gate: str, now: int, consent: Consent | None = None
) -> Answer:
    """What `decide` answers for these claims and this consent, for an auditor who has shown otherwise that they were issued and given.

    An action's arguments do not enter the answer.
    """
    reasons, determining = _judge(action, claims, bundle, gate, now, consent)
    return Answer(not reasons, reasons, determining, encode_context(decision_context(claims, gate=gate, now=now, consent=consent)))


def decision_context(claims: TokenClaims, *, gate: str, now: int, consent: Consent | None = None) -> dict[str, str | int]:
    """The context of an action decision, all of it recorded. `attest_age` is in seconds since the token was issued.

    Of an approval there is something only where one was given, so that a schema which knows of none is asked as it ever was.
    """
    return {
        "now": now,
        "attest_age": _attest_age(claims, now),
        "gate": gate,
        "host": claims.host,
        "namespace": claims.agent.namespace,
        "tpm_class": claims.tpm_class,
        "runtime": claims.runtime,
        "depth": len(claims.lineage),
        **({} if consent is None else consent.to_context()),
    }


def _attest_age(claims: TokenClaims, now: int) -> int:
    return max(0, now - claims.issued_at)


def _judge(action: Action, claims: TokenClaims, bundle: PolicyBundle, gate: str, now: int, consent: Consent | None = None) -> Judged:
    # 1
    if now >= claims.expires_at:
        return (Reason("token-expired", "token.exp", f"later than {now}", str(claims.expires_at)),), ()
    # 2
    if bundle.digest != claims.policy:
        return (Reason("policy-digest-mismatch", "bundle", str(claims.policy), str(bundle.digest)),), ()
    # 3
    if not any(covers(grant, action.name, action.resource) for grant in claims.grants):
        return (Reason("grant-missing", "token.grants", f"{action.name} on {action.resource}", f"{len(claims.grants)} other grants"),), ()
    # 4
    try:
        loaded = load(bundle)
    except FormatError as error:
        return (Reason("policy-error", "bundle", error.expected, error.got),), ()
    answer = _evaluate(loaded, action, claims, gate, now, consent)
    if answer.permit:
        return (), answer.determining
    if consent is None and not answer.erred:
        people = (name for name, _ in bundle.settings.approvers)
        able = tuple(name for name in people if _evaluate(loaded, action, claims, gate, now, supposed(name)).permit)
        if able:
            return (not_given(action, able),), answer.determining
    code = "policy-error" if answer.erred else "policy-refused"
    said = ", ".join(answer.determining)[:200] or "no policy permits"
    return (Reason(code, f"{action.name} on {action.resource}"[:200], "a permit", said),), answer.determining


def _evaluate(loaded: CedarPolicies, action: Action, claims: TokenClaims, gate: str, now: int, consent: Consent | None) -> CedarAnswer:
    context = decision_context(claims, gate=gate, now=now, consent=consent)
    return evaluate(loaded, agent=str(claims.agent), action=action.name, resource=("Resource", action.resource), context=context)

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
from writ.formats.strict import decode_cbor
from writ.verdict.approval import Consent, Given, is_about, not_given, supposed, verify_approval
from writ.verdict.cedar import CedarAnswer, CedarPolicies, evaluate, load
from writ.verdict.decision import Decision
from writ.verdict.memo import Judged, Memo
from writ.verdict.slicing import Moments
from writ.verdict.token import VerifiedToken

_NO_CONTEXT: Final = encode_context({})
_MOMENT: Final = ("now", "attest_age")
"""What of a decision's context differs between two moments of one token at one gate."""
EXCEPTIONS: Final = "exceptions"
USED: Final = "used"
"""Attributes of the context that are there only where a policy asks (`slicing.ASKED`)."""
LAG: Final = "record_lag"
"""Of the recorded context alone: there where the bundle sets a bound, and somebody ships."""
_SECONDS: Final = 1 << 63
"""Cedar's integers end below it: a clock that shows more is refused by Cedar, every time."""


def decide(
    action: Action, *, token: VerifiedToken | None, bundle: PolicyBundle | None, gate: str, now: int, memo: Memo | None = None,
    given: Given | None = None, used: int | None = None, lag: int | None = None,
) -> Decision:  # fmt: skip
    """Whether `action` may pass at `now`.

    Does not make the decision durable: nothing may pass until the record is (I4). `memo` changes no answer, and is added to. `used` is how
    often the instance has had an action of this name permitted, None where nobody counts; it enters where a policy about it looks. `lag` is
    for how many seconds the oldest record has lain that is not off the host, 0 where all are, None where nobody ships any; it enters where
    the bundle bounds it.

    1. There is a verified token, alive at `now`.
    2. There is a policy bundle, of exactly the digest that the token names.
    3. Records reach the store off the host in the time that the bundle sets, if it sets one.
    4. A grant of the token covers the action on the resource.
    5. The policy permits it, with the schema, and without any error; with `given`, as approved: it was given for the same action with the
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
        context, reasons, determining = _approved(action, token, bundle, gate, now, given, used, lag)
    elif memo is None:
        answer = judge_recorded(action, token.claims, bundle, gate=gate, now=now, used=used, lag=lag)
        context, reasons, determining = answer.context, answer.reasons, answer.determining
    else:
        asked = _asked(action, bundle, gate, now, used, lag=lag)
        context = _remembered_context(memo, token, asked)
        reasons, determining = _remembered(memo, action, token, bundle, asked)
    entered = (
        action.name, action.resource, action.arguments.value, context, gate, now,
        None if token is None else token.digest.value, None if bundle is None else bundle.digest.value,
        *(() if given is None else (given.signed.digest.value, given.asked.leaf)),
    )  # fmt: skip
    return Decision(action, not reasons, reasons, determining, context, entered)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Of a question, what neither action, token nor bundle say; and what the bundle's policies see, None where they cannot be loaded.

    `used` is None where no policy asks, `lag` where the bundle sets no bound.
    """

    gate: str
    now: int
    used: int | None
    consent: Consent | None
    moments: Moments | None
    lag: int | None

    def supposing(self, approver: str) -> _Asked:
        """The same, had this person approved."""
        return _Asked(self.gate, self.now, self.used, supposed(approver), self.moments, self.lag)

    def recorded(self, claims: TokenClaims) -> dict[str, str | int | list[str]]:
        """What the whole decision sees, and what is recorded: the bound on the lag is no affair of the policies."""
        return {**self.context(claims), **({} if self.lag is None else {LAG: self.lag})}

    def context(self, claims: TokenClaims) -> dict[str, str | int | list[str]]:
        """What the policies see."""
        return decision_context(
            claims, gate=self.gate, now=self.now, consent=self.consent, used=self.used,
            excepted=self.moments is not None and EXCEPTIONS in self.moments.asked,
        )  # fmt: skip


def counts(bundle: PolicyBundle, action: str) -> bool:
    """Whether a policy that can match `action` looks at `used`."""
    try:
        return USED in load(bundle).slice_of(action).moments.asked
    except FormatError:
        return False


def _asked(
    action: Action, bundle: PolicyBundle, gate: str, now: int, used: int | None, consent: Consent | None = None, lag: int | None = None
) -> _Asked:  # fmt: skip
    lag = None if bundle.settings.record_lag_most is None else lag
    try:
        moments = load(bundle).slice_of(action.name).moments
    except FormatError:
        return _Asked(gate, now, None, consent, None, lag)
    return _Asked(gate, now, used if USED in moments.asked else None, consent, moments, lag)


def _approved(
    action: Action, token: VerifiedToken, bundle: PolicyBundle, gate: str, now: int, given: Given, used: int | None, lag: int | None
) -> tuple[bytes, tuple[Reason, ...], tuple[str, ...]]:
    """Context, reasons and determining policies of an action with an approval. One that is not for it refuses, and enters no context."""
    claims = token.claims
    try:
        if given.asked.action != action:
            raise Refused(Reason("approval-refused", "approval.arguments", str(action.arguments), str(given.asked.action.arguments)))
        is_about(given.signed.approval, given.asked)
        consent = verify_approval(given.signed, action=action, gate=gate, instance=claims.instance, bundle=bundle, now=now)
    except Refused as refused:
        return encode_context(_asked(action, bundle, gate, now, used, lag=lag).recorded(claims)), refused.reasons, ()
    answer = judge_recorded(action, claims, bundle, gate=gate, now=now, consent=consent, used=used, lag=lag)
    return answer.context, answer.reasons, answer.determining


def _remembered(memo: Memo, action: Action, token: VerifiedToken, bundle: PolicyBundle, asked: _Asked) -> Judged:
    """What `_judge` says, from the memo where it said it already to what it cannot tell apart from this."""
    key = _key(action, token, bundle, asked)
    held = None if key is None else memo.judged(key)
    if held is not None:
        return held
    judged = _judge(action, token.claims, bundle, asked)
    erred = any(reason.code == "policy-error" for reason in judged[0])
    return judged if key is None or erred else memo.keep(key, judged)


def _key(action: Action, token: VerifiedToken, bundle: PolicyBundle, asked: _Asked) -> Hashable | None:
    """Equal for two questions that get the same answer; None for one that is to be asked every time.

    Token and gate are the whole context but for the clock and what is counted, and of these the policies see no more than `Moments` says.
    A dead token is refused by a reason that names the second, and a lag by one that names its seconds.
    """
    claims = token.claims
    if asked.moments is None or asked.now >= claims.expires_at or not 0 <= asked.now < _SECONDS or _lags(bundle, asked) is not None:
        return None
    place = asked.moments.place(asked.now, _attest_age(claims, asked.now), asked.used)
    return token.digest.value, bundle.digest.value, action.name, action.resource, asked.gate, place


def _remembered_context(memo: Memo, token: VerifiedToken, asked: _Asked) -> bytes:
    shape = None if asked.moments is None else asked.moments.asked
    key = (token.digest.value, asked.gate, shape, asked.now, asked.used, asked.lag)
    held = memo.context(key)
    if held is not None:
        return held
    claims, around = token.claims, (token.digest.value, asked.gate, shape, asked.used is None, asked.lag is None)
    opened = memo.open_context(around)
    if opened is None:
        names = (*_MOMENT, *(() if asked.used is None else (USED,)), *(() if asked.lag is None else (LAG,)))
        opened = memo.keep_open_context(around, OpenContext.of(asked.recorded(claims), *names))
    values = {"now": asked.now, "attest_age": _attest_age(claims, asked.now), USED: asked.used or 0, LAG: asked.lag or 0}
    return memo.keep_context(key, opened.filled(values))


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
    action: Action, claims: TokenClaims, bundle: PolicyBundle, *, gate: str, now: int, consent: Consent | None = None,
    used: int | None = None, lag: int | None = None,
) -> Answer:  # fmt: skip
    """What `decide` answers for these claims, this consent, count and lag, for an auditor who has shown otherwise that they were issued and
    given, and counted.

    An action's arguments do not enter the answer.
    """
    asked = _asked(action, bundle, gate, now, used, consent, lag)
    reasons, determining = _judge(action, claims, bundle, asked)
    return Answer(not reasons, reasons, determining, encode_context(asked.recorded(claims)))


def used_of(context: bytes) -> int | None:
    """How often the action had been permitted before, as a recorded context says; None where it does not. Raises FormatError."""
    return _number_of(context, USED)


def lag_of(context: bytes) -> int | None:
    """For how many seconds a record had lain on the host alone, as a recorded context says; None where it does not. Raises FormatError."""
    return _number_of(context, LAG)


def _number_of(context: bytes, name: str) -> int | None:
    read = decode_cbor(context, "context")
    if not isinstance(read, dict):
        raise FormatError("context", "a map", type(read).__name__)
    found = read.get(name)
    if found is None or (isinstance(found, int) and not isinstance(found, bool) and 0 <= found < _SECONDS):
        return found
    raise FormatError(f"context.{name}", "a number", type(found).__name__)


def decision_context(
    claims: TokenClaims, *, gate: str, now: int, consent: Consent | None = None, used: int | None = None, excepted: bool = False
) -> dict[str, str | int | list[str]]:
    """The context of an action decision, all of it recorded. `attest_age` is in seconds since the token was issued.

    Of an approval there is something only where one was given; of the token's exceptions and of `used` only where the policies ask, so that
    a schema which knows of none is asked as it ever was.
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
        **({EXCEPTIONS: list(claims.exceptions)} if excepted and claims.exceptions else {}),
        **({} if used is None else {USED: used}),
        **({} if consent is None else consent.to_context()),
    }


def _attest_age(claims: TokenClaims, now: int) -> int:
    return max(0, now - claims.issued_at)


def _judge(action: Action, claims: TokenClaims, bundle: PolicyBundle, asked: _Asked) -> Judged:
    # 1
    if asked.now >= claims.expires_at:
        return (Reason("token-expired", "token.exp", f"later than {asked.now}", str(claims.expires_at)),), ()
    # 2
    if bundle.digest != claims.policy:
        return (Reason("policy-digest-mismatch", "bundle", str(claims.policy), str(bundle.digest)),), ()
    # 3
    if (lags := _lags(bundle, asked)) is not None:
        return (lags,), ()
    # 4
    if not any(covers(grant, action.name, action.resource) for grant in claims.grants):
        return (Reason("grant-missing", "token.grants", f"{action.name} on {action.resource}", f"{len(claims.grants)} other grants"),), ()
    # 5
    try:
        loaded = load(bundle)
    except FormatError as error:
        return (Reason("policy-error", "bundle", error.expected, error.got),), ()
    answer = _evaluate(loaded, action, claims, asked)
    if answer.permit:
        return (), answer.determining
    if asked.consent is None and not answer.erred:
        people = (name for name, _ in bundle.settings.approvers)
        able = tuple(name for name in people if _evaluate(loaded, action, claims, asked.supposing(name)).permit)
        if able:
            return (not_given(action, able),), answer.determining
    code = "policy-error" if answer.erred else "policy-refused"
    said = ", ".join(answer.determining)[:200] or "no policy permits"
    return (Reason(code, f"{action.name} on {action.resource}"[:200], "a permit", said),), answer.determining


def _lags(bundle: PolicyBundle, asked: _Asked) -> Reason | None:
    """Why nothing may pass: records lie on the host alone for longer than the bundle allows, or nobody knows for how long."""
    most = bundle.settings.record_lag_most
    if most is None or (asked.lag is not None and asked.lag <= most):
        return None
    got = "no store, or none that was reached" if asked.lag is None else f"{asked.lag} s"
    return Reason("record-lag", "context.record_lag", f"at most {most} s", got)


def _evaluate(loaded: CedarPolicies, action: Action, claims: TokenClaims, asked: _Asked) -> CedarAnswer:
    context = asked.context(claims)
    return evaluate(loaded, agent=str(claims.agent), action=action.name, resource=("Resource", action.resource), context=context)

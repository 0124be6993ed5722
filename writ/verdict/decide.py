"""One action decided: token, bundle, grant, policy. Everything must say yes, and nothing may err."""

from __future__ import annotations

from dataclasses import dataclass

from writ.formats.action import Action, encode_context
from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims
from writ.formats.errors import FormatError
from writ.formats.grants import Grant, covers
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.reason import Reason
from writ.formats.strict import encode_cbor
from writ.verdict.cedar import evaluate, load
from writ.verdict.decision import Decision
from writ.verdict.token import VerifiedToken


def decide(action: Action, *, token: VerifiedToken | None, bundle: PolicyBundle | None, gate: str, now: int) -> Decision:
    """Whether `action` may pass at `now`.

    Does not make the decision durable: nothing may pass until the record is (I4).

    1. There is a verified token, alive at `now`.
    2. There is a policy bundle, of exactly the digest that the token names.
    3. A grant of the token covers the action on the resource.
    4. The policy permits it, with the schema, and without any error.

    Later steps run only where the earlier ones passed. Every refusal has a Reason.
    """
    context = encode_context({})
    reasons: tuple[Reason, ...] = ()
    determining: tuple[str, ...] = ()
    if token is None:
        reasons = (Reason("hold", "token", "a valid execution token", "none"),)
    elif bundle is None:
        reasons = (Reason("policy-unknown", "bundle", str(token.claims.policy), "none"),)
    else:
        answer = judge_recorded(action, token.claims, bundle, gate=gate, now=now)
        context, reasons, determining = answer.context, answer.reasons, answer.determining
    inputs = [
        action.name, action.resource, action.arguments.value, context, gate, now,
        None if token is None else token.digest.value, None if bundle is None else bundle.digest.value,
    ]  # fmt: skip
    return Decision(action, not reasons, reasons, determining, context, Digest.of(encode_cbor(inputs)))


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


def judge_recorded(action: Action, claims: TokenClaims, bundle: PolicyBundle, *, gate: str, now: int) -> Answer:
    """What `decide` answers for these claims, for an auditor who has shown otherwise that they were issued.

    An action's arguments do not enter the answer.
    """
    reasons, determining = _judge(action, claims, bundle, gate, now)
    return Answer(not reasons, reasons, determining, encode_context(decision_context(claims, gate=gate, now=now)))


def decision_context(claims: TokenClaims, *, gate: str, now: int) -> dict[str, str | int]:
    """The context of an action decision, all of it recorded. `attest_age` is in seconds since the token was issued."""
    return {
        "now": now,
        "attest_age": max(0, now - claims.issued_at),
        "gate": gate,
        "host": claims.host,
        "namespace": claims.agent.namespace,
        "tpm_class": claims.tpm_class,
        "runtime": claims.runtime,
        "depth": len(claims.lineage),
    }


def _judge(action: Action, claims: TokenClaims, bundle: PolicyBundle, gate: str, now: int) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
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
    context = decision_context(claims, gate=gate, now=now)
    answer = evaluate(loaded, agent=str(claims.agent), action=action.name, resource=("Resource", action.resource), context=context)
    if answer.permit:
        return (), answer.determining
    code = "policy-error" if answer.erred else "policy-refused"
    said = ", ".join(answer.determining)[:200] or "no policy permits"
    return (Reason(code, f"{action.name} on {action.resource}"[:200], "a permit", said),), answer.determining

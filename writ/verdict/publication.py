"""Who may change what is approved: how many people, which publishers, and what of a version they may change.

Nothing here is believed for being sent: signatures are verified against the
keys of the delegation in force, approvals are those that the ledger holds, and
every rule is asked again when the last approval or signature comes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.corim import Corim, encode_corim, parse_signed_corim
from writ.formats.cose import verify_sign1
from writ.formats.decision import AttestDecision
from writ.formats.delegation import Delegation, Role, matches
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.exemption import EXEMPTIBLE, claim_of
from writ.formats.ima_rules import VIOLATIONS, ImaRules
from writ.formats.keys import PublicKey, key_id
from writ.formats.policy_bundle import PolicySettings
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.verdict.appraise.boot import BOOT_ENVIRONMENTS
from writ.verdict.appraise.ima import ENVIRONMENT as FILES
from writ.verdict.appraise.ima import PARTS, ROOTED, ROOTED_PARTS
from writ.verdict.reference import GOVERNANCE, keeps_names

MOST_SHOWN: Final = 8
"""Differences that one refusal names."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """It comes into force now. `role` is the one under which publishers did it, None where operators decided."""

    role: str | None


@dataclass(frozen=True, slots=True)
class Pending:
    """It may come into force, and `missing` says what for, in words."""

    missing: tuple[str, ...]


def people_needed(environment: str, settings: PolicySettings) -> int:
    """How many people have to approve reference values of `environment`: the greatest number of a pattern that names it, else one."""
    return max((people for wanted, people in settings.approvals if matches(wanted, environment)), default=1)


def judge_approvals(environments: Iterable[str], people: Collection[str], settings: PolicySettings) -> Accepted | Pending:
    """Whether these people are enough for reference values of all the `environments` together."""
    asking = {environment: people_needed(environment, settings) for environment in environments}
    return _enough(people, max(asking.values(), default=1))


def _enough(people: Collection[str], needed: int) -> Accepted | Pending:
    got = len(set(people))
    return Accepted(None) if got >= needed else Pending((f"{needed - got} of {needed} people",))


def judge_exemption(people: Collection[str]) -> Accepted | Pending:
    """An exemption takes two people, whatever the policy says."""
    return _enough(people, 2)


def judge_policy(before: PolicySettings | None, after: PolicySettings, people: Collection[str]) -> Accepted | Pending:
    """Whether these people may put `after` in the place of `before`.

    Where `after` asks for less (`asks_less`), it takes as many as `before` asks for at most for anything: who may not approve alone
    lifts neither that rule alone nor the check behind it.
    """
    if before is None or not asks_less(before, after):
        return _enough(people, 1)
    return _enough(people, max((count for _, count in before.approvals), default=1))


def asks_less(before: PolicySettings, after: PolicySettings) -> bool:
    """Whether `after` lets pass, by some field, what a hard check refuses under `before`, or asks fewer people.

    Another pattern, key or class counts as one more, also where it names less than one that went. Of Cedar text it says nothing: that
    only narrows what the hard checks let pass.
    """
    return any(less(before, after) for less in ASKS_LESS.values() if less is not None)


def _lifts(before: PolicySettings, after: PolicySettings) -> bool:
    """Whether `after` asks for fewer people than `before` for some pattern of `before`."""
    return any(_least(wanted, after) < people for wanted, people in before.approvals)


def _ima_asks_less(before: PolicySettings, after: PolicySettings) -> bool:
    return any(less(before.ima, after.ima) for less in IMA_ASKS_LESS.values() if less is not None)


def _waits_longer(before: PolicySettings, after: PolicySettings) -> bool:
    """Whether the log may stand without its witnesses for longer: a day is nearly for ever."""
    most = before.witness_lag_most
    return most is not None and (after.witness_lag_most is None or after.witness_lag_most > most)


def _asks_for_signatures(rules: ImaRules) -> bool:
    """Whether files are compared even where no reference value names one (`appraise.ima`)."""
    return bool(rules.keyrings or rules.learn_keys)


ASKS_LESS: Final[Mapping[str, Callable[[PolicySettings, PolicySettings], bool] | None]] = {
    "accept_runtime_only": lambda before, after: after.accept_runtime_only and not before.accept_runtime_only,
    "tpm_classes": lambda before, after: not {*after.tpm_classes} <= {*before.tpm_classes},
    "token_life": None,
    "nonce_life": None,
    "clock_skew": None,
    "hold_max": None,
    "approvals": _lifts,
    "ima": _ima_asks_less,
    "approvers": None,
    "lease_approver": lambda before, after: before.lease_approver is not None and after.lease_approver is None,
    "record_lag_most": lambda before, after: before.record_lag_most is not None and after.record_lag_most is None,
    "witness_lag_most": _waits_longer,
}
"""Each field of `PolicySettings`: when a change of it asks for less. None for times: the format bounds them, and no check is lifted.
None for who approves actions: the Cedar text asks for them."""

IMA_ASKS_LESS: Final[Mapping[str, Callable[[ImaRules, ImaRules], bool] | None]] = {
    "exclude": lambda before, after: not {*after.exclude} <= {*before.exclude},
    "violations": lambda before, after: VIOLATIONS.index(after.violations) > VIOLATIONS.index(before.violations),
    "keyrings": lambda before, after: (
        not {*after.keyrings} <= {*before.keyrings} or (_asks_for_signatures(before) and not _asks_for_signatures(after))
    ),
    "learn_keys": lambda before, after: after.learn_keys and not before.learn_keys,
    "digest": None,
}
"""Each field of `ImaRules`, likewise; the digest follows from the others."""


def judge_retirement(before: Iterable[str], after: Iterable[Corim], settings: PolicySettings | None) -> None:
    """Reference values may go, whose environments are `before` and of which `after` are left. Raises Refused `reference-last`.

    A policy that accepts `runtime-only` compares with what there is: with the last reference values of a boot, of files or of a part
    that roots a runtime would go what refuses others. Everywhere else what goes refuses more. A version without components stands for
    none. Of `after` no more is read than it takes.
    """
    if settings is None or not settings.accept_runtime_only:
        return
    if gone := _ended(before, after):
        got = f"true, and no other version of {', '.join(gone)}"
        raise Refused(Reason("reference-last", "policy.accept_runtime_only", "false", got[:1000]))


def judge_runtime_only(before: PolicySettings | None, after: PolicySettings, retired: Iterable[str], in_force: Iterable[Corim]) -> None:
    """`after` may accept `runtime-only` where `before` does not, whoever asks. Raises Refused `reference-last`.

    `retired` are the environments of what was taken out of force. What `judge_retirement` would have kept must be there again: else
    two acts, each of which refuses more or puts back what was usual, would end a refusal together.
    """
    if not after.accept_runtime_only or (before is not None and before.accept_runtime_only):
        return
    if gone := _ended(retired, in_force):
        got = f"true, with versions retired and none in force of {', '.join(gone)}"
        raise Refused(Reason("reference-last", "policy.accept_runtime_only", "false", got[:1000]))


def _ended(before: Iterable[str], after: Iterable[Corim]) -> list[str]:
    """Of what is compared only where it has reference values, what `before` has and `after` has none with components of."""
    gone = _compared(before)
    for corim in after:
        if corim.components:
            gone -= _compared((corim.environment,))
        if not gone:
            break
    return sorted(gone)


def _compared(environments: Iterable[str]) -> set[str]:
    """The environments that are compared only where they have reference values; all of files are one."""
    found = set(environments)
    files = {f"{FILES}*"} if any(one.startswith((FILES, ROOTED)) for one in found) else set()
    return files | {one for one in found if one in BOOT_ENVIRONMENTS or one.startswith(ROOTED)}


def _least(wanted: str, settings: PolicySettings) -> int:
    """The people that `settings` ask for at least, for whatever environment the pattern `wanted` names."""
    start = wanted.removesuffix("*")
    over = [people for one, people in settings.approvals if one == wanted or (one.endswith("*") and start.startswith(one[:-1]))]
    return max(over, default=1)


def excepted_reason(decision: AttestDecision, component: str | None, agents: Mapping[bytes, AgentId]) -> Reason:
    """The one difference of a refusal that an exemption is asked for, its claim as `exemption.claim_of` has it.

    `component` is the claim, or its last part; `agents` says of which agent each instance is. Raises Refused `exemption-refused`, which
    names what there is to choose from.
    """
    given: list[tuple[Reason, AgentId | None]] = [(reason, None) for reason in decision.reasons]
    given += [(reason, agents.get(outcome.instance)) for outcome in decision.outcomes for reason in outcome.reasons]
    differences = {(r.code, claim_of(r, agent), r.got): r for r, agent in given if r.code in EXEMPTIBLE}
    if not differences:
        got = ", ".join(sorted({r.code for r, _ in given})) or "an acceptance"
        raise Refused(Reason("exemption-refused", "decision.reasons", f"one of {', '.join(EXEMPTIBLE)}", got[:200]))
    found = [key for key in differences if component is None or key[1] == component or key[1].endswith((f".{component}", f":{component}"))]
    if len(found) != 1:
        among = ", ".join(sorted({claim for _, claim, _ in found or differences}))
        raise Refused(Reason("exemption-refused", "component", f"one of {among}"[:1000], component or f"{len(found)} differences"))
    code, claim, got = found[0]
    return Reason(code, claim, differences[found[0]].expected, got)


# --- publishers ---------------------------------------------------------------------------------------------------------


def judge_environment(corim: Corim) -> None:
    """What `corim` says is held against hosts. Raises FormatError for one without components, which stands for nothing, for files of no
    part of ours, and for PCRs where none are compared.
    """
    environment = corim.environment
    if not corim.components:
        raise FormatError("CoRIM.components", "at least one", "none")
    if environment.startswith(ROOTED) and environment not in ROOTED_PARTS:
        raise FormatError("CoRIM.environment", f"{ROOTED}{'|'.join(PARTS)}", environment[:200])
    if corim.registers and environment not in (GOVERNANCE, *BOOT_ENVIRONMENTS):
        raise FormatError("CoRIM.registers", f"PCRs in {', '.join((GOVERNANCE, *BOOT_ENVIRONMENTS))} only", environment[:200])


def judge_version(corim: Corim) -> None:
    """`corim` is a version of something. Raises FormatError for one that keeps names of files: nobody can retire it, so only the verifier
    makes one, of what it took out of force.
    """
    if keeps_names(corim):
        raise FormatError("CoRIM.valid_until", "none, or after 0, which is the end of what keeps retired names", "0")


def judge_delegation(current: Delegation | None, new: Delegation) -> None:
    """The new delegation may follow the current one: same namespace, higher version. Raises Refused."""
    if current is None:
        return
    if new.namespace != current.namespace:
        raise Refused(Reason("forbidden", "delegation.namespace", current.namespace, new.namespace))
    if new.version <= current.version:
        raise Refused(Reason("delegation-rollback", "delegation.version", f"above {current.version}", str(new.version)))


def parse_publication(signed: Sequence[bytes]) -> Corim:
    """The one CoRIM that all these signed ones carry. Raises FormatError."""
    corims = {parse_signed_corim(item).corim for item in signed}
    if len(corims) != 1:
        raise FormatError("signed CoRIMs", "one CoRIM under several signatures", f"{len(corims)} CoRIMs")
    return corims.pop()


def signed_by(signed: Iterable[bytes], role: Role) -> frozenset[PublicKey]:
    """The keys of the role that made at least one of these signatures. Raises FormatError."""
    parsed = [parse_signed_corim(item).sign1 for item in signed]
    return frozenset(key for key in role.publishers if any(verify_sign1(one, key) for one in parsed))


def judge_publication(
    signed: Sequence[bytes], delegation: Delegation | None, in_force: Iterable[Corim], people: Collection[str], settings: PolicySettings,
    *, namespace: str, retired: bool, now: int,
) -> Accepted | Pending:  # fmt: skip
    """Whether a CoRIM that publishers signed comes into force in `namespace`.

    `in_force` are the versions of its environment, `people` the operators who approved it besides; `retired` says that this very CoRIM
    was in force and was taken out of it.

    1. It is of this namespace, and a delegation is in force.
    2. A role names its environment.
    3. One of those roles has a key that signed it.
    4. One of those has not expired.
    5. It was not retired: its signatures are as good as ever and in every hand that it went through, so only an operator brings it back.
    6. By one of those it differs from some version in force only in what the role may change, and is valid no longer.
    7. As many keys of that role signed it as its threshold says; else it waits for more.
    8. As many operators approved it as the policy asks for its environment, where it asks for more than one; else it waits.

    Raises FormatError, and Refused `release-retired`, or `delegation-refused` with the role that came furthest.
    """
    corim = parse_publication(signed)
    judge_version(corim)
    # 1
    if corim.namespace != namespace:
        raise Refused(Reason("forbidden", "corim.namespace", namespace, corim.namespace))
    if delegation is None or delegation.namespace != namespace:
        raise _refused("delegation", f"a delegation of {namespace}", "none")
    # 2
    named = [role for role in delegation.roles if any(matches(one, corim.environment) for one in role.environments)]
    if not named:
        among = ", ".join(sorted({one for role in delegation.roles for one in role.environments}))
        raise _refused("corim.environment", among or "an environment of some role", corim.environment)
    # 3
    keyed = [(role, signers) for role in named if (signers := signed_by(signed, role))]
    if not keyed:
        raise _refused("corim.signature", f"a key of {' or '.join(role.name for role in named)}", "another key")
    # 4
    live = [(role, signers) for role, signers in keyed if now <= role.not_after]
    if not live:
        latest = max((role for role, _ in keyed), key=lambda role: role.not_after)
        raise _refused(f"role.{latest.name}.not_after", f"{now} or later", str(latest.not_after))
    # 5
    if retired:
        raise Refused(Reason("release-retired", "corim", "a release that was not retired", str(Digest.of(encode_corim(corim)))))
    # 6
    versions = [one for one in in_force if one.environment == corim.environment and (one.valid_until is None or now <= one.valid_until)]
    if not versions:
        raise _refused(corim.environment, "a version in force, imported by an operator", "none")
    beyond = {role.name: min((_beyond(corim, one, role) for one in versions), key=len) for role, _ in live}
    able = [(role, signers) for role, signers in live if not beyond[role.name]]
    if not able:
        nearest = min(live, key=lambda pair: (len(beyond[pair[0].name]), pair[0].name))[0]
        raise Refused(*beyond[nearest.name][:MOST_SHOWN])
    # 7
    role, signers = max(able, key=lambda pair: len(pair[1]) - pair[0].threshold)
    if len(signers) < role.threshold:
        others = sorted(key_id(key) for key in role.publishers if key not in signers)
        wanted = f"{role.threshold - len(signers)} more signatures of role {role.name}, by "
        return Pending((wanted + ", ".join(others[:MOST_SHOWN]),))
    # 8
    needed = people_needed(corim.environment, settings)
    if needed > 1 and isinstance(waiting := _enough(people, needed), Pending):
        return waiting
    return Accepted(role.name)


def _beyond(corim: Corim, version: Corim, role: Role) -> tuple[Reason, ...]:
    """In what `corim` differs from `version` beyond what the role may change. The values of PCRs are nobody's to change."""
    mine, theirs = dict(corim.components), dict(version.components)
    claim = f"{corim.environment}."
    reasons = [
        Reason("delegation-refused", f"{claim}{name}"[:1000], _spelt(theirs.get(name)), _spelt(mine.get(name)))
        for name in sorted({*mine, *theirs})
        if mine.get(name) != theirs.get(name) and not any(matches(one, name) for one in role.components)
    ]
    if corim.registers != version.registers:
        pcrs = sorted({index for index, _ in {*corim.registers} ^ {*version.registers}})
        reasons.append(
            Reason("delegation-refused", f"{claim}registers"[:1000], "the PCRs of the version in force", f"other PCRs {pcrs}"[:200])
        )
    if version.valid_until is not None and (corim.valid_until is None or corim.valid_until > version.valid_until):
        got = "no end" if corim.valid_until is None else str(corim.valid_until)
        reasons.append(Reason("delegation-refused", f"{claim}valid_until"[:1000], f"at most {version.valid_until}", got))
    return tuple(reasons)


def _spelt(value: Digest | None) -> str:
    return "none" if value is None else str(value)


def _refused(claim: str, expected: str, got: str) -> Refused:
    return Refused(Reason("delegation-refused", claim[:1000], expected[:1000], got[:1000]))

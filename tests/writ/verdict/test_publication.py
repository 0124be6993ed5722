"""Who may change what is approved, as rules over values: people, exemptions, delegations, publications."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.signers import MemorySigner
from tests.world.ima_logs import certificate
from tests.world.scene import NAMESPACE, NOW, Scene, measurement, signer, sixteen
from tests.writ.verdict.refusal import refused
from writ.formats.corim import Corim, encode_corim, sign_corim
from writ.formats.decision import AttestDecision
from writ.formats.delegation import Delegation, Role, matches
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.exemption import EXEMPTIBLE
from writ.formats.ima_rules import ImaRules
from writ.formats.policy_bundle import PolicySettings
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.verdict.appraise.ima import PARTS
from writ.verdict.publication import (
    ASKS_LESS,
    IMA_ASKS_LESS,
    MOST_SHOWN,
    Accepted,
    Pending,
    asks_less,
    excepted_reason,
    judge_approvals,
    judge_delegation,
    judge_environment,
    judge_exemption,
    judge_policy,
    judge_publication,
    judge_retirement,
    judge_runtime_only,
    parse_publication,
    people_needed,
)

ENVIRONMENT = "spiffe://example.org/billing/agent/reporter"
A, B, C = (signer(name) for name in "abc")
FIRST_KEY, SECOND_KEY = BOTH_KEYS = tuple(sorted((certificate("first"), certificate("second"))))


def settings(*approvals: tuple[str, int]) -> PolicySettings:
    return PolicySettings(approvals=tuple(sorted(approvals)))


def corim(**components: bytes) -> Corim:
    values = {"code": b"code", "prompts": b"kind", **components}
    return Corim("v", "billing", ENVIRONMENT, tuple(sorted((name, Digest.of(value)) for name, value in values.items())))


def keys(*signers: MemorySigner) -> tuple[Any, ...]:
    return tuple(sorted((one.public for one in signers), key=lambda key: key.thumbprint()))


def version(environment: str) -> Corim:
    return replace(corim(), environment=environment)


FIRST, NO_RULE, LENIENT = corim(), PolicySettings(), PolicySettings(accept_runtime_only=True)
PROMPTS = Role("prompts", ("spiffe://example.org/billing/agent/*",), ("prompts",), keys(A, B), 1, NOW)


def judge(
    one: Corim, *by: MemorySigner, roles: tuple[Role, ...] = (PROMPTS,), in_force: tuple[Corim, ...] = (FIRST,),
    people: tuple[str, ...] = (), policy: PolicySettings = NO_RULE, now: int = NOW, delegation: bool = True, retired: bool = False,
) -> Accepted | Pending:  # fmt: skip
    signed = [sign_corim(one, who, signer_name="t") for who in by or (A,)]
    held = Delegation("billing", 1, NOW, roles) if delegation else None
    return judge_publication(signed, held, in_force, people, policy, namespace="billing", retired=retired, now=now)


def judge_signed(*signed: bytes, held: Delegation) -> Accepted | Pending:
    return judge_publication(signed, held, [corim()], (), PolicySettings(), namespace="billing", retired=False, now=NOW)


# --- people -------------------------------------------------------------------------------------------------------------


def test_greatest_number_of_a_matching_pattern_counts() -> None:
    policy = settings(("*", 2), ("governance", 4), ("rooted/*", 3))
    assert [people_needed(one, policy) for one in ("agent", "governance", "governance-2", "rooted/python", "rooted/")] == [2, 4, 2, 3, 3]
    assert people_needed("governance", PolicySettings()) == 1


@given(st.lists(st.sampled_from("abcd"), max_size=6), st.integers(2, 4))
def test_the_same_person_counts_once(people: list[str], needed: int) -> None:
    verdict = judge_approvals(["boot"], people, settings(("boot", needed)))
    missing = needed - len(set(people))
    assert verdict == (Accepted(None) if missing <= 0 else Pending((f"{missing} of {needed} people",)))


def test_strictest_environment_of_an_import_counts_for_all_of_it() -> None:
    policy = settings(("boot", 3), ("governance", 2))
    assert judge_approvals(["agent", "governance", "boot"], {"a", "b"}, policy) == Pending(("1 of 3 people",))
    assert judge_approvals([], (), policy) == Pending(("1 of 1 people",))


def test_exemption_takes_two_people() -> None:
    assert judge_exemption({"a"}) == Pending(("1 of 2 people",))
    assert judge_exemption({"a", "b"}) == Accepted(None)


@pytest.mark.parametrize(
    "before, after, needed",
    [
        ((), (), 1),
        ((), (("boot", 2),), 1),
        ((("boot", 2),), (("boot", 2),), 1),
        ((("boot", 2),), (("boot", 3),), 1),
        ((("boot", 2),), (), 2),
        ((("boot", 3),), (("boot", 2),), 3),
        ((("boot", 2),), (("*", 2),), 1),
        ((("boot", 2),), (("bo*", 2),), 1),
        ((("boot", 2),), (("boot*", 2),), 1),
        ((("boot*", 2),), (("boot", 2),), 2),
        ((("rooted/*", 2),), (("rooted/python", 2),), 2),
        ((("*", 4), ("boot", 2)), (("boot", 2),), 4),
        ((("a", 2), ("b", 3)), (("a", 2),), 3),
    ],
)
def test_policy_that_asks_for_fewer_people_takes_as_many_as_it_lifts(
    before: tuple[tuple[str, int], ...], after: tuple[tuple[str, int], ...], needed: int
) -> None:
    for count in range(1, 5):
        people = [str(at) for at in range(count)]
        assert isinstance(judge_policy(settings(*before), settings(*after), people), Accepted) == (count >= needed)
    assert isinstance(judge_policy(None, settings(*after), {"a"}), Accepted)


GUARDED = PolicySettings(tpm_classes=("discrete",), approvals=(("a*", 3), ("b", 2)))
RULES = ImaRules(exclude=("/a",), keyrings=(FIRST_KEY,))


@pytest.mark.parametrize(
    "less",
    [
        replace(GUARDED, accept_runtime_only=True),
        replace(GUARDED, tpm_classes=("discrete", "software")),
        replace(GUARDED, tpm_classes=("firmware",)),
        replace(GUARDED, approvals=(("a*", 3),)),
        replace(GUARDED, ima=replace(RULES, exclude=("/a", "/b"))),
        replace(GUARDED, ima=replace(RULES, exclude=("/b",))),
        replace(GUARDED, ima=replace(RULES, violations="label")),
        replace(GUARDED, ima=replace(RULES, keyrings=BOTH_KEYS)),
        replace(GUARDED, ima=replace(RULES, keyrings=())),
        replace(GUARDED, ima=replace(RULES, learn_keys=True)),
    ],
)
def test_policy_that_asks_for_less_takes_as_many_as_the_former_asked_for_anything(less: PolicySettings) -> None:
    before = replace(GUARDED, ima=RULES) if less.ima != GUARDED.ima else GUARDED
    assert asks_less(before, less)
    assert judge_policy(before, less, {"a", "b"}) == Pending(("1 of 3 people",))
    assert judge_policy(before, less, {"a", "b", "c"}) == Accepted(None)
    assert judge_policy(None, less, {"a"}) == Accepted(None)
    assert judge_policy(replace(before, approvals=()), replace(less, approvals=()), {"a"}) == Accepted(None), "where one decides all"


@pytest.mark.parametrize(
    "before, after",
    [
        (GUARDED, GUARDED),
        (replace(GUARDED, accept_runtime_only=True), GUARDED),
        (GUARDED, replace(GUARDED, tpm_classes=())),
        (GUARDED, replace(GUARDED, approvals=(("a*", 4), ("b", 2), ("c", 2)))),
        (GUARDED, replace(GUARDED, token_life=300, nonce_life=600, clock_skew=60, hold_max=86_400)),
        (replace(GUARDED, ima=RULES), replace(GUARDED, ima=replace(RULES, exclude=()))),
        (replace(GUARDED, ima=replace(RULES, violations="label")), replace(GUARDED, ima=RULES)),
        (replace(GUARDED, ima=replace(RULES, learn_keys=True)), replace(GUARDED, ima=RULES)),
        (replace(GUARDED, ima=replace(RULES, keyrings=BOTH_KEYS)), replace(GUARDED, ima=RULES)),
    ],
)
def test_policy_that_asks_for_no_less_takes_one_person(before: PolicySettings, after: PolicySettings) -> None:
    """Lives of tokens, nonces and holds are bounded by the format."""
    assert not asks_less(before, after)
    assert judge_policy(before, after, {"a"}) == Accepted(None)


@pytest.mark.parametrize("asking", [ImaRules(keyrings=BOTH_KEYS), ImaRules(learn_keys=True)], ids=["keys", "learnt keys"])
def test_policy_that_asks_for_no_signature_any_more_asks_for_less(asking: ImaRules) -> None:
    """Without a key and without approved files no file is compared at all."""
    assert asks_less(replace(GUARDED, ima=asking), GUARDED)


def test_policy_under_which_the_log_may_wait_longer_for_its_witnesses_asks_for_less() -> None:
    minute = replace(GUARDED, witness_lag_most=60)
    for after in (GUARDED, replace(GUARDED, witness_lag_most=61), replace(GUARDED, witness_lag_most=86_400)):
        assert asks_less(minute, after)
    for before, after in ((GUARDED, minute), (minute, minute), (minute, replace(GUARDED, witness_lag_most=1))):
        assert not asks_less(before, after)


def test_each_setting_says_whether_a_change_of_it_asks_for_less() -> None:
    """A field that is added has to be placed."""
    assert [*ASKS_LESS] == [field.name for field in fields(PolicySettings)]
    assert [*IMA_ASKS_LESS] == [field.name for field in fields(ImaRules)]


PATTERNS = st.lists(st.tuples(st.sampled_from(["*", "a*", "a", "ab", "ab*", "b"]), st.integers(2, 4)), max_size=3, unique_by=lambda p: p[0])


@given(PATTERNS, PATTERNS, st.sampled_from(["a", "ab", "abc", "b", "c"]), st.integers(1, 4))
def test_people_who_may_put_a_policy_in_force_could_have_decided_under_the_former_what_it_lets_them(
    before: list[tuple[str, int]], after: list[tuple[str, int]], environment: str, count: int
) -> None:
    """No way round by policy: who can lift the rule alone could have imported alone."""
    people = [str(at) for at in range(count)]
    old, new = settings(*before), settings(*after)
    if isinstance(judge_policy(old, new, people), Accepted) and people_needed(environment, new) < people_needed(environment, old):
        assert count >= people_needed(environment, old)


@pytest.mark.parametrize(
    "before, after, gone",
    [
        (["boot", "boot"], ["boot"], ""),
        (["boot", "firmware"], ["firmware"], "boot"),
        (["secure-boot"], [], "secure-boot"),
        (["files/a", "files/b"], ["files/b"], ""),
        (["files/a"], ["rooted/attestor"], ""),
        (["files/a"], [], "files/*"),
        (["rooted/attestor", "files/a"], ["files/a"], "rooted/attestor"),
        (["rooted/attestor"], [], "files/*, rooted/attestor"),
        (["governance", ENVIRONMENT], [], ""),
    ],
)
def test_last_reference_values_stay_where_their_end_would_end_a_refusal(before: list[str], after: list[str], gone: str) -> None:
    left = [version(one) for one in after]
    judge_retirement(before, left, NO_RULE)
    judge_retirement(before, left, None)
    judge_runtime_only(NO_RULE, NO_RULE, before, left)
    judge_runtime_only(LENIENT, LENIENT, before, left)
    if not gone:
        judge_retirement(before, left, LENIENT)
        judge_runtime_only(NO_RULE, LENIENT, before, left)
        return
    reason = refused(lambda: judge_retirement(before, left, LENIENT))
    assert (reason.code, reason.got) == ("reference-last", f"true, and no other version of {gone}")
    again = [refused(lambda: judge_runtime_only(NO_RULE, LENIENT, before, left))]
    again.append(refused(lambda: judge_runtime_only(None, LENIENT, before, left)))
    expected = ("reference-last", f"true, with versions retired and none in force of {gone}")
    assert [(reason.code, reason.got) for reason in again] == [expected, expected]


def test_version_without_components_stands_for_none() -> None:
    empty = replace(version("files/nothing"), components=(), registers=((16, Digest.of(b"16")),))
    assert refused(lambda: judge_retirement(["files/os"], [empty], LENIENT)).code == "reference-last"
    assert refused(lambda: judge_runtime_only(NO_RULE, LENIENT, ["files/os"], [empty])).code == "reference-last"


def test_no_more_is_read_than_shows_that_nothing_ends() -> None:
    def left() -> Iterator[Corim]:
        yield version("files/a")
        pytest.fail("one of files is enough")

    judge_retirement(["files/a", "files/b"], left(), LENIENT)


# --- what an exemption is for -------------------------------------------------------------------------------------------


def decision(*reasons: Reason, outcome: tuple[Reason, ...] = ()) -> AttestDecision:
    scene = Scene()
    scene.launch("one", what=measurement(prompt=b"be brave"))
    made = scene.judge(scene.evidence("one")).entry
    return replace(made, reasons=tuple(sorted(reasons)), outcomes=tuple(replace(o, reasons=tuple(sorted(outcome))) for o in made.outcomes))


INSTANCE = "instance." + "0" * 32
PROMPT = Reason("component-mismatch", f"{INSTANCE}.prompts", "sha256:00", "sha256:01")
AGENTS = {sixteen("one"): AgentId("example.org", NAMESPACE, "reporter")}
BOOT = Reason("boot-mismatch", "boot.kernel", "sha256:02", "sha256:03")


def test_difference_is_named_for_whichever_launch() -> None:
    assert excepted_reason(decision(outcome=(PROMPT,)), None, AGENTS) == replace(PROMPT, claim="agent/reporter:prompts")
    twin = replace(PROMPT, claim="instance." + "1" * 32 + ".prompts")
    assert excepted_reason(decision(outcome=(PROMPT, twin)), None, AGENTS).claim == "agent/reporter:prompts"


def test_same_difference_of_two_agents_is_not_guessed_between() -> None:
    made = decision(outcome=(PROMPT,))
    both = replace(made, outcomes=(*made.outcomes, replace(made.outcomes[0], instance=sixteen("two"))))
    agents = {**AGENTS, sixteen("two"): AgentId("example.org", NAMESPACE, "payments")}
    assert refused(lambda: excepted_reason(both, "prompts", agents)).expected == "one of agent/payments:prompts, agent/reporter:prompts"
    assert excepted_reason(both, "agent/payments:prompts", agents).claim == "agent/payments:prompts"


@pytest.mark.parametrize("component", ["kernel", "boot.kernel"])
def test_component_chooses_one_of_several(component: str) -> None:
    assert excepted_reason(decision(BOOT, outcome=(PROMPT,)), component, AGENTS) == BOOT


def test_several_differences_are_not_guessed_between() -> None:
    reason = refused(lambda: excepted_reason(decision(BOOT, outcome=(PROMPT,)), None, AGENTS))
    assert (reason.code, reason.expected) == ("exemption-refused", "one of agent/reporter:prompts, boot.kernel")
    other = replace(PROMPT, got="sha256:04")
    assert refused(lambda: excepted_reason(decision(outcome=(PROMPT, other)), "prompts", AGENTS)).got == "prompts"
    assert refused(lambda: excepted_reason(decision(BOOT), "nothing", AGENTS)).got == "nothing"


@pytest.mark.parametrize("code", ["tpm-class-refused", "instance-tainted", "agent-unknown", "nonce-spent", "signature-invalid"])
def test_what_is_no_difference_is_not_excepted(code: str) -> None:
    assert code not in EXEMPTIBLE
    assert refused(lambda: excepted_reason(decision(Reason(code, "claim", "x", "y")), None, AGENTS)).got == code
    assert refused(lambda: excepted_reason(decision(), None, AGENTS)).got == "an acceptance"


# --- delegations --------------------------------------------------------------------------------------------------------


def test_versions_of_a_delegation_only_rise() -> None:
    current = Delegation("billing", 3, NOW, (PROMPTS,))
    judge_delegation(None, current)
    judge_delegation(current, replace(current, version=4))
    for version in (0, 2, 3):
        assert refused(lambda v=version: judge_delegation(current, replace(current, version=v))).code == "delegation-rollback"  # type: ignore[misc] # mypy has no type for a lambda's default
    assert refused(lambda: judge_delegation(current, replace(current, namespace="other", version=9))).code == "forbidden"


@pytest.mark.parametrize(
    "wanted, value, matched", [("a", "a", True), ("a", "ab", False), ("a*", "ab", True), ("*", "", True), ("ab*", "a", False)]
)
def test_pattern_is_a_name_or_a_beginning(wanted: str, value: str, matched: bool) -> None:
    assert matches(wanted, value) == matched


# --- publications -------------------------------------------------------------------------------------------------------


def test_publisher_releases_what_differs_only_in_what_its_role_may_change() -> None:
    assert judge(corim(prompts=b"brave")) == Accepted("prompts")
    assert judge(corim()) == Accepted("prompts")


@pytest.mark.parametrize(
    "changed, claim",
    [
        (corim(prompts=b"brave", code=b"evil"), "code"),
        (corim(extra=b"x"), "extra"),
        (replace(corim(), components=(("prompts", Digest.of(b"x")),)), "code"),
        (replace(corim(), registers=((4, Digest.of(b"x")),)), "registers"),
    ],
)
def test_anything_else_is_refused_by_name(changed: Corim, claim: str) -> None:
    reason = refused(lambda: judge(changed))
    assert (reason.code, reason.claim) == ("delegation-refused", f"{ENVIRONMENT}.{claim}")


def test_parts_of_two_versions_make_no_third() -> None:
    first, second = corim(code=b"1", libraries=b"1"), corim(code=b"2", libraries=b"2")
    assert judge(corim(code=b"2", libraries=b"2", prompts=b"x"), in_force=(first, second)) == Accepted("prompts")
    assert refused(lambda: judge(corim(code=b"1", libraries=b"2", prompts=b"x"), in_force=(first, second))).code == "delegation-refused"


def test_roles_do_not_add_up() -> None:
    code = replace(PROMPTS, name="code", components=("code",))
    both = corim(prompts=b"x", code=b"y")
    with pytest.raises(Refused):
        judge(both, A, roles=(code, PROMPTS))
    assert judge(corim(code=b"y"), A, roles=(code, PROMPTS)) == Accepted("code")
    assert judge(both, A, roles=(replace(PROMPTS, components=("code", "pro*")),)) == Accepted("prompts")


def test_version_that_expired_is_nothing_to_start_from() -> None:
    ended = replace(corim(), valid_until=NOW - 1)
    assert refused(lambda: judge(corim(prompts=b"x"), in_force=(ended,))).got == "none"
    assert judge(replace(corim(prompts=b"x"), valid_until=NOW), in_force=(replace(ended, valid_until=NOW),)) == Accepted("prompts")


@pytest.mark.parametrize("valid_until", [None, NOW + 6])
def test_publication_is_valid_no_longer_than_its_version(valid_until: int | None) -> None:
    reason = refused(lambda: judge(replace(corim(), valid_until=valid_until), in_force=(replace(corim(), valid_until=NOW + 5),)))
    assert reason.expected == f"at most {NOW + 5}"


def test_environment_that_no_role_names_is_refused() -> None:
    for roles in ((), (replace(PROMPTS, environments=("spiffe://example.org/other/*",)),)):
        assert refused(lambda r=roles: judge(corim(), roles=r)).claim == "corim.environment"  # type: ignore[misc] # mypy has no type for a lambda's default
    assert refused(lambda: judge(replace(corim(), environment="governance"))).got == "governance"


def test_role_ends_with_its_time() -> None:
    assert judge(corim(prompts=b"x"), now=NOW) == Accepted("prompts")
    assert refused(lambda: judge(corim(prompts=b"x"), now=NOW + 1)).claim == "role.prompts.not_after"


def test_only_keys_of_the_role_sign() -> None:
    assert refused(lambda: judge(corim(prompts=b"x"), C)).claim == "corim.signature"
    assert judge(corim(prompts=b"x"), C, B) == Accepted("prompts")


def test_signature_over_something_else_does_not_count() -> None:
    signed = sign_corim(corim(prompts=b"x"), A, signer_name="t")
    forged = sign_corim(corim(prompts=b"y"), C, signer_name="t")
    with pytest.raises(FormatError, match="2 CoRIMs"):
        parse_publication([signed, forged])
    spoilt = bytearray(signed)
    spoilt[-1] ^= 1
    held = Delegation("billing", 1, NOW, (PROMPTS,))
    reason = refused(lambda: judge_signed(bytes(spoilt), held=held))
    assert reason.claim == "corim.signature"


def test_retired_release_comes_back_by_no_signature() -> None:
    release, two = corim(prompts=b"x"), (replace(PROMPTS, threshold=2),)
    expected = Reason("release-retired", "corim", "a release that was not retired", str(Digest.of(encode_corim(release))))
    for roles, signers in (((PROMPTS,), (A,)), (two, (A,)), (two, (A, B))):
        assert refused(lambda r=roles, s=signers: judge(release, *s, roles=r, retired=True)) == expected  # type: ignore[misc]
    assert refused(lambda: judge(release, C, retired=True)).claim == "corim.signature", "a stranger hears nothing of it"


def test_threshold_counts_keys_not_signatures() -> None:
    two = (replace(PROMPTS, threshold=2),)
    assert isinstance(judge(corim(prompts=b"x"), A, A, roles=two), Pending)
    assert isinstance(judge(corim(prompts=b"x"), A, C, roles=two), Pending)
    assert judge(corim(prompts=b"x"), A, B, roles=two) == Accepted("prompts")


def test_keys_of_two_roles_do_not_make_one_threshold() -> None:
    roles = (
        replace(PROMPTS, name="p1", publishers=keys(A, C), threshold=2),
        replace(PROMPTS, name="p2", publishers=keys(B, C), threshold=2),
    )
    assert isinstance(judge(corim(prompts=b"x"), A, B, roles=roles), Pending)
    assert judge(corim(prompts=b"x"), B, C, roles=roles) == Accepted("p2")


def test_publisher_stands_for_no_operator() -> None:
    policy = settings(("spiffe://*", 2))
    assert judge(corim(prompts=b"x"), policy=policy) == Pending(("2 of 2 people",))
    assert judge(corim(prompts=b"x"), policy=policy, people=("a",)) == Pending(("1 of 2 people",))
    assert judge(corim(prompts=b"x"), policy=policy, people=("a", "b")) == Accepted("prompts")
    with pytest.raises(Refused):
        judge(corim(code=b"evil"), policy=policy, people=("a", "b"))


def test_delegation_of_another_namespace_is_none() -> None:
    assert refused(lambda: judge(replace(corim(), namespace="other"))).code == "forbidden"
    assert refused(lambda: judge(corim(), delegation=False)).claim == "delegation"
    held = Delegation("other", 1, NOW, (PROMPTS,))
    assert refused(lambda: judge_signed(sign_corim(corim(), A, signer_name="t"), held=held)).claim == "delegation"


def test_refusal_names_a_handful_of_differences() -> None:
    many = corim(**{f"c{at}": b"x" for at in range(40)})
    with pytest.raises(Refused) as caught:
        judge(many)
    assert len(caught.value.reasons) == MOST_SHOWN


@given(st.dictionaries(st.sampled_from(["code", "prompts", "model"]), st.sampled_from([b"1", b"2"]), min_size=1))
def test_nothing_but_prompts_ever_changes(components: dict[str, bytes]) -> None:
    base = {"code": b"1", "prompts": b"1", "model": b"1"}

    def made(values: dict[str, bytes]) -> Corim:
        return Corim("v", "billing", ENVIRONMENT, tuple(sorted((name, Digest.of(value)) for name, value in values.items())))

    try:
        verdict = judge(made(components), in_force=(made(base),))
    except Refused:
        verdict = None
    same = {name: value for name, value in components.items() if name != "prompts"} == {"code": b"1", "model": b"1"}
    assert (verdict == Accepted("prompts")) == same


# --- what nothing would be compared with ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [*(f"rooted/{part}" for part in PARTS), "files/x", "governance", "boot", "firmware", ENVIRONMENT])
def test_environment_that_is_compared_is_judged_so(environment: str) -> None:
    judge_environment(replace(corim(), environment=environment))


@pytest.mark.parametrize("environment", ["rooted/", "rooted/zz", "rooted/attestors", "rooted/attestor/x"])
def test_part_that_is_none_is_no_environment(environment: str) -> None:
    with pytest.raises(FormatError, match=r"rooted/attestor\|enforcer\|"):
        judge_environment(replace(corim(), environment=environment))


@pytest.mark.parametrize(
    "environment, compared",
    [
        *(("governance", True), ("boot", True), ("firmware", True), ("secure-boot", True)),
        *((ENVIRONMENT, False), ("files/x", False), ("rooted/attestor", False), ("other", False)),
    ],
)
def test_registers_have_a_place_where_they_are_compared(environment: str, compared: bool) -> None:
    made = replace(corim(), environment=environment, registers=((7, Digest.of(b"x")),))
    with contextlib.nullcontext() if compared else pytest.raises(FormatError, match=r"CoRIM\.registers: expected PCRs in governance, boot"):
        judge_environment(made)

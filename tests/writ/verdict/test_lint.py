"""What is refused before it can be in force, what is told of, and that nothing validated errs on what its schema allows."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.world.scene import POLICIES, SCHEMA, policy
from tests.writ.verdict.test_slicing import GROUPED, OVERFLOWS, request
from verifier import compose
from writ.formats.errors import FormatError
from writ.formats.policy_bundle import PolicyBundle
from writ.verdict.cedar import CedarAnswer, evaluate, load
from writ.verdict.lint import NO_TOKENS, SPECIMEN, Finding, publishable, validate
from writ.verdict.schema import ACTION_CONTEXT, ISSUE, ISSUE_CONTEXT, KINDS, cedar_schema

ROOT: Final = Path(__file__).parents[3]
DEFAULT: Final = Path(compose.__file__).parent / "default_policy"
WIDE: Final = """namespace Writ {
  entity Agent; entity Audience; entity Resource;
  type Cost = { amount: Long, currency?: String };
  action "all";
  action "tool.call", "file.read" in ["all"] appliesTo { principal: Agent, resource: Resource, context: {
    now: Long, attest_age?: Long, gate: String, cost?: Cost, tags: Set<String>, from: ipaddr, rate: decimal, due?: datetime, wait: duration,
    owner: Agent, quick: Bool } };
  action "net.connect" in ["all"] appliesTo { principal: Agent, resource: Resource, context: { now: Long, from?: ipaddr } };
}"""
"""A schema of everything that Cedar has, some of it optional."""


def on(condition: str, action: str = "tool.call", effect: str = "permit") -> str:
    return f'@id("it") {effect}(principal, action == Writ::Action::"{action}", resource) when {{ {condition} }};'


def refuse(policies: str, schema: str = WIDE) -> FormatError:
    with pytest.raises(FormatError) as caught:
        validate(policy(policies=policies, schema=schema))
    return caught.value


# --- the traps, each by its name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unguarded",
    [
        "context.attest_age <= 30", "context.cost.amount < 5", "context has cost && context.cost.currency == \"EUR\"",
        "context has due || context.due < datetime(\"2030-01-01\")", "!(context has attest_age) && context.attest_age > 1",
    ],
)  # fmt: skip
def test_optional_attribute_without_a_guard_is_refused(unguarded: str) -> None:
    assert refuse(on(unguarded, effect="forbid")).expected == "policies that validate against the schema"


def test_optional_attribute_behind_its_guard_is_accepted_and_does_not_err() -> None:
    bundle = policy(policies=on('context has cost && context.cost has currency && context.cost.currency == "EUR"'), schema=WIDE)
    assert [one.code for one in validate(bundle) if one.policy == "it"] == []


@pytest.mark.parametrize("wrong", ['context.now < "5"', "context.gate > 3", "context.quick == 1", "context.tags.contains(1)"])
def test_wrong_type_is_refused(wrong: str) -> None:
    assert refuse(on(wrong)).expected == "policies that validate against the schema"


def test_attribute_that_the_schema_lacks_is_refused() -> None:
    assert refuse(on("context.nothing == 1")).expected == "policies that validate against the schema"


@pytest.mark.parametrize("sum_", ["context.now + 1 > 0", "context.now * 2 > 0", "-context.now > 0"])
def test_arithmetic_on_request_data_is_refused(sum_: str) -> None:
    assert refuse(on(sum_)).expected.startswith("no arithmetic")


@pytest.mark.parametrize(
    "overflowing",
    [
        OVERFLOWS, "context has due && context.due.durationSince(datetime(\"2024-01-01\")) > context.wait",
        "context has due && context.due.toDate() > datetime(\"2024-01-01\")", "context has due && context.due.toTime() > context.wait",
    ],
)  # fmt: skip
def test_times_that_overflow_are_refused(overflowing: str) -> None:
    error = refuse(on(overflowing, effect="forbid"))
    assert (error.expected.startswith("none of durationSince, offset"), error.got) == (True, "it")


@pytest.mark.parametrize("entity", ["entity Agent = { team: String };", "entity Agent { team?: String };", "entity Agent tags String;"])
def test_attributes_of_entities_are_refused_since_nothing_gives_any(entity: str) -> None:
    assert refuse(on("true"), WIDE.replace("entity Agent;", entity)).what == "policy.schema"


def test_attribute_that_is_called_entity_is_one_like_any_other() -> None:
    for text in ("entity: Long, ", "entity?: String, tags: Set<Long>, ", '"entity": Long, '):
        named = WIDE.replace("tags: Set<String>, ", "").replace("quick: Bool", text + "quick: Bool")
        assert validate(policy(policies=on("context.quick"), schema=named))


@pytest.mark.parametrize("text", ["", "permit(principal, action, resource);"])
def test_no_schema_is_refused(text: str) -> None:
    assert refuse(on("true"), text).what in ("policy.schema", "policy.policies")


def test_blanket_permit_is_refused() -> None:
    assert refuse("permit(principal, action, resource) when { true };").expected == "no unconditional permit of everything"


def test_policy_that_no_action_can_match_is_refused() -> None:
    assert refuse('permit(principal is Writ::Audience, action == Writ::Action::"tool.call", resource);').what == "policy.policies"


# --- what is told of -----------------------------------------------------------------------------------------------------


def found(policies: str, schema: str = SCHEMA) -> list[tuple[str, str]]:
    return [
        (one.policy, one.code) for one in validate(policy(policies=policies, schema=schema)) if one.policy not in ("schema", "policies")
    ]


TOOL: Final = 'action == Writ::Action::"tool.call"'


@pytest.mark.parametrize(
    "text, code",
    [
        (f'permit(principal == Writ::Agent::"reporter", {TOOL}, resource);', "never-applies"),
        (f'forbid(principal, {TOOL}, resource == Writ::Resource::"mcp:notes/*");', "never-applies"),
        (f'forbid(principal, {TOOL}, resource == Writ::Resource::"a//b");', "never-applies"),
        (f'permit(principal, {TOOL}, resource in Writ::Resource::"files");', "no-hierarchy"),
        (f'permit(principal is Writ::Agent in Writ::Agent::"team", {TOOL}, resource);', "no-hierarchy"),
        (f"forbid(principal, {TOOL}, resource) when {{ false }};", "constant-condition"),
        (f"permit(principal, {TOOL}, resource) unless {{ 1 == 2 }};", "constant-condition"),
        (f'permit(principal, {TOOL}, resource) when {{ context.tpm_class == "hardware" }};', "never-equal"),
        (f'forbid(principal, {TOOL}, resource) when {{ "rooted" != context.runtime }};', "never-equal"),
    ],
)
def test_policy_that_does_not_mean_what_it_seems_to_is_told_of(text: str, code: str) -> None:
    assert found(f'@id("it") {text}') == [("it", code)]


@pytest.mark.parametrize(
    "text",
    [
        f'permit(principal == Writ::Agent::"spiffe://e/b/agent/x", {TOOL}, resource == Writ::Resource::"mcp:notes/read");',
        f'permit(principal, {TOOL}, resource) when {{ context.tpm_class == "discrete" && context.gate == "anything" }};',
        f'permit(principal, {TOOL}, resource) when {{ resource == Writ::Resource::"x" }};',
    ],
)
def test_policy_that_means_what_it_says_is_not(text: str) -> None:
    assert found(text) == []


def test_actions_that_are_always_refused_are_told_of() -> None:
    codes = {one.code: one.detail for one in validate(policy())}
    assert list(codes) == ["missing-actions"]
    assert "net.connect" in codes["missing-actions"]
    assert "tool.call" not in codes["missing-actions"]
    misfit = validate(policy(policies=POLICIES, schema=SCHEMA.replace("depth: Long", "depth: Long, more: Long")))
    assert [one.detail.partition(" ")[0] for one in misfit if one.code == "misfit"] == ["tool.call"]


# --- the schema ----------------------------------------------------------------------------------------------------------


def test_default_schema_is_the_one_that_the_action_kinds_make() -> None:
    assert (DEFAULT / "schema.cedarschema").read_text() == cedar_schema()


def test_default_policy_is_without_a_finding() -> None:
    assert validate(policy(policies=(DEFAULT / "default.cedar").read_text(), schema=cedar_schema())) == ()


def test_schema_has_the_context_that_is_decided_in() -> None:
    types = {str: "String", int: "Long", bool: "Bool"}
    assert {name: types[type(value)] for name, value in SPECIMEN.items()} == ACTION_CONTEXT
    assert ISSUE_CONTEXT["endorsed"] == "Bool"


def test_kinds_of_ones_own_are_added_once() -> None:
    text = on("true", "reports.render").replace("when { true }", "")
    assert [one.code for one in validate(policy(policies=text, schema=cedar_schema(["reports.render"])))] == [NO_TOKENS]
    assert refuse(text, cedar_schema()).what == "policy.policies"
    for wrong in (["tool.call"], [ISSUE], ["a", "a"], ["No"], ['a"b'], [f"a.{n}" for n in range(257)]):
        with pytest.raises(FormatError):
            cedar_schema(wrong)


def test_every_kind_is_asked_for_once() -> None:
    kinds = [kind for row in KINDS for kind in row]
    assert len(kinds) == len(set(kinds))


# --- a validated bundle never errs ---------------------------------------------------------------------------------------

ATOMS: Final = [
    "context.now {op} {n}",
    "context.quick",
    'context.gate like "a*"',
    "principal == context.owner",
    'resource == Writ::Resource::"x"',
    'context.tags.contains("{s}")',
    'context.tags.containsAll(["a", "{s}"])',
    "context.tags.isEmpty()",
    'context.from.isInRange(ip("10.0.0.0/8"))',
    "context.from.isLoopback()",
    'context.rate.lessThan(decimal("{n4}"))',
    'context.wait < duration("{n}ms")',
    "context.wait.toDays() {op} {n}",
    "(context has attest_age && context.attest_age {op} {n})",
    "(context has cost && context.cost.amount {op} {n})",
    '(context has cost && context.cost has currency && context.cost.currency == "{s}")',
    '(context has due && context.due < datetime("2030-01-01"))',
    "context == context",
    "(if context.quick then context.now else {n}) {op} {n}",
    '{{a: context.now, b: "{s}"}}.a {op} {n}',
    "principal is Writ::Agent",
    "principal in [context.owner]",
    "!(context has due)",
    "[context.now, {n}].contains({n})",
]
FAULTS: Final = ["context.attest_age > 1", "context.now + {n} > 0", "context has due && context.due.offset(context.wait) > context.due"]
"""What `validate` has to sort out, mixed in so that it is it who does."""
NUMBERS: Final = [0, 1, -1, 30, 2**63 - 1, -(2**63), 2**31]


def some_policy(chance: random.Random) -> str:
    def atom() -> str:
        text = chance.choice(FAULTS if chance.random() < 0.02 else ATOMS)
        return text.format(n=chance.choice(NUMBERS), n4=f"{chance.randint(-9999, 9999)}.5", s=chance.choice(["a", "b", "é"]),
                           op=chance.choice(["<", "<=", "==", "!=", ">", ">="]))  # fmt: skip

    condition = atom()
    for _ in range(chance.randrange(4)):
        condition = f"({condition}) {chance.choice(['&&', '||'])} {chance.choice(['', '!'])}({atom()})"
    action = chance.choice(['== Writ::Action::"tool.call"', 'in [Writ::Action::"file.read", Writ::Action::"tool.call"]'])
    effect, word = chance.choice(["permit", "forbid"]), chance.choice(["when", "unless"])
    return f"{effect}(principal, action {action}, resource) {word} {{ {condition} }};"


def some_bundle(chance: random.Random) -> PolicyBundle | None:
    made = policy(policies="\n".join(some_policy(chance) for _ in range(chance.randint(1, 8))), schema=WIDE)
    try:
        validate(made)
    except FormatError:
        return None
    return made


def some_request(chance: random.Random) -> dict[str, Any]:
    def extension(name: str, value: str) -> dict[str, Any]:
        return {"__extn": {"fn": name, "arg": value}}

    def number() -> int:
        return chance.choice([*NUMBERS, chance.randint(-99, 99)])

    text = chance.choice(["", "a", "abc", "é\n\u2028", "*", "x" * 300])
    context: dict[str, Any] = {
        "now": number(), "gate": text, "tags": chance.sample(["a", "b", "é", ""], chance.randrange(4)), "quick": chance.random() < 0.5,
        "from": extension("ip", chance.choice(["127.0.0.1", "10.1.2.3", "::1", "10.0.0.0/9"])),
        "rate": extension("decimal", chance.choice(["0.0", "-922337203685477.5808", "922337203685477.5807"])),
        "wait": extension("duration", chance.choice(["0ms", "106751991167d", "-106751991167d", "1h2m"])),
        "owner": {"__entity": {"type": "Writ::Agent", "id": chance.choice(["a", "b"])}},
    }  # fmt: skip
    optional: dict[str, Callable[[], Any]] = {
        "attest_age": number, "cost": lambda: {"amount": number(), **({"currency": text} if chance.random() < 0.5 else {})},
        "due": lambda: extension("datetime", chance.choice(["2024-10-15", "9999-12-31T23:59:59.999Z", "0000-01-01"])),
    }  # fmt: skip
    return context | {name: made() for name, made in optional.items() if chance.random() < 0.5}


def ask_at_random(seed: int, requests: int) -> tuple[int, int]:
    """How many bundles were validated and how many requests permitted; none may err."""
    chance, asked, bundles, permitted = random.Random(seed), 0, 0, 0
    while asked < requests:
        bundle = some_bundle(chance)
        if bundle is None:
            continue
        loaded, bundles = load(bundle), bundles + 1
        for _ in range(min(50, requests - asked)):
            context, act = some_request(chance), chance.choice(["tool.call", "file.read"])
            what = ("Resource", chance.choice(["x", "y", "", "é"]))
            answer = evaluate(loaded, agent=chance.choice("ab"), action=act, resource=what, context=context)
            assert not answer.erred, (bundle.policies, context)
            asked, permitted = asked + 1, permitted + answer.permit
    return bundles, permitted


def test_validated_bundles_never_err_on_requests_of_their_schema() -> None:
    bundles, permitted = ask_at_random(5, 2_000)
    assert bundles >= 40
    assert 100 < permitted < 1_900, "both answers are seen"


def test_what_is_not_validated_does_err() -> None:
    """Else the tests above would show nothing."""
    loaded = load(policy(policies=on(OVERFLOWS)))
    assert evaluate(loaded, agent="a", action="tool.call", resource=("Resource", "r"), context=SPECIMEN).erred


# --- the same everywhere -------------------------------------------------------------------------------------------------

WORDS: Final = [f'@id("p{at}") {text}' for at, text in enumerate([
    'permit(principal, action == Writ::Action::"tool.call", resource);', 'permit(principal, action in [Writ::Action::"all"], resource);',
    'forbid(principal, action, resource == Writ::Resource::"x");', 'forbid(principal, action, resource) when { context.attest_age > 30 };',
    'permit(principal, action in Writ::Action::"tools", resource) when { context.gate like "s*" };',
    'forbid(principal, action == Writ::Action::"net.connect", resource) unless { context.now > 100 };',
    'permit(principal == Writ::Agent::"a", action, resource is Writ::Resource);',
])]  # fmt: skip


def all_answers(policies: list[str]) -> list[CedarAnswer]:
    loaded = load(policy(policies="\n".join(policies), schema=GROUPED))
    contexts: list[Mapping[str, Any]] = [request(age, now, gate) for age in (0, 31) for now in (5, 500) for gate in ("socket", "mcp")]
    return [
        evaluate(loaded, agent=who, action=act, resource=("Resource", what), context=context)
        for who in "ab" for act in ("tool.call", "file.read", "net.connect", "none") for what in "xy" for context in contexts
    ]  # fmt: skip


def test_decisions_are_the_same_in_whatever_order_the_policies_stand() -> None:
    chance, first = random.Random(7), all_answers(WORDS)
    assert len({one.permit for one in first}) == 2
    for _ in range(20):
        assert all_answers(chance.sample(WORDS, len(WORDS))) == first


def test_decisions_are_the_same_in_every_process() -> None:
    code = "from tests.writ.verdict.test_lint import *; print(json.dumps([[a.permit, a.determining, a.erred] for a in all_answers(WORDS)]))"
    here = json.dumps([[one.permit, one.determining, one.erred] for one in all_answers(WORDS)])
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here


def test_findings_are_sorted_and_shown() -> None:
    one = Finding("a", "never-applies", "why")
    assert one.to_json() == {"policy": "a", "code": "never-applies", "detail": "why"}
    both = validate(policy(policies="".join(f'@id("{n}") {on("false").partition(" ")[2]}' for n in "ba")))
    assert [finding.policy for finding in both] == ["a", "b", "policies", "schema"]


TOKENS: Final = 'permit(principal, action == Writ::Action::"token.issue", resource);'


@pytest.mark.parametrize(
    "text",
    [
        f"forbid(principal, {TOOL}, resource);", f"permit(principal, {TOOL}, resource);", TOKENS.replace("permit", "forbid"),
        'permit(principal, action in [Writ::Action::"tool.call", Writ::Action::"resource.read"], resource);', "// nothing but a comment",
    ],
)  # fmt: skip
def test_policy_under_which_nobody_gets_a_token_is_told_of_and_not_publishable(text: str) -> None:
    bundle = policy(policies=text, schema=cedar_schema())
    assert ("policies", NO_TOKENS) in [(one.policy, one.code) for one in validate(bundle)]
    with pytest.raises(FormatError, match=r"token\.issue"):
        publishable(bundle)


@pytest.mark.parametrize(
    "text",
    [
        TOKENS, f"forbid(principal, {TOOL}, resource); {TOKENS}", 'permit(principal, action, resource) when { context.host == "h" };',
        'permit(principal, action in [Writ::Action::"token.exchange", Writ::Action::"token.issue"], resource);',
        f"{TOKENS} forbid(principal, action, resource);",
    ],
)  # fmt: skip
def test_policy_that_may_give_a_token_is_publishable(text: str) -> None:
    bundle = policy(policies=text, schema=cedar_schema())
    assert publishable(bundle) == validate(bundle)
    assert NO_TOKENS not in [one.code for one in validate(bundle)]


def test_permit_of_a_group_may_be_one_of_tokens() -> None:
    schema = SCHEMA.replace('action "token.issue" applies', 'action "all"; action "token.issue" in ["all"] applies')
    assert schema != SCHEMA
    publishable(policy(policies='permit(principal, action in Writ::Action::"all", resource);', schema=schema))

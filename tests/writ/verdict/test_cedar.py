"""Cedar's traps, closed: what may not be loaded, and what never permits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.world.scene import SCHEMA, policy
from writ.formats.errors import FormatError
from writ.verdict import cedar
from writ.verdict.cedar import CedarAnswer, evaluate, load

CONTEXT: dict[str, Any] = {
    "now": 5, "attest_age": 3, "gate": "socket", "host": "h", "namespace": "billing", "tpm_class": "software",
    "runtime": "runtime-only", "depth": 0,
}  # fmt: skip
ERRING = """@id("err") forbid(principal, action, resource)
when { datetime("2024-10-15").offset(duration("106751991167d")) > datetime("1970-01-01") };"""
"""Validates, and overflows when it is evaluated."""
PERMIT = '@id("yes") permit(principal, action == Writ::Action::"tool.call", resource);'


def ask(
    policies: str, *, action: str = "tool.call", resource: tuple[str, str] = ("Resource", "files/a"), schema: str = SCHEMA, **context: Any
) -> CedarAnswer:
    return evaluate(
        load(policy(policies=policies, schema=schema)),
        agent="spiffe://e/b/agent/x",
        action=action,
        resource=resource,
        context=CONTEXT | context,
    )


def refuse(policies: str, schema: str = SCHEMA) -> FormatError:
    with pytest.raises(FormatError) as caught:
        load(policy(policies=policies, schema=schema))
    return caught.value


def test_permit_names_what_permitted() -> None:
    assert ask(PERMIT) == CedarAnswer(True, ("yes",), False)


def test_nothing_permits_nothing() -> None:
    assert ask('@id("no") forbid(principal, action, resource);') == CedarAnswer(False, ("no",), False)
    assert ask('permit(principal == Writ::Agent::"other", action == Writ::Action::"tool.call", resource);') == CedarAnswer(False, (), False)


def test_forbid_wins_over_permit_and_is_named() -> None:
    assert ask(PERMIT + '@id("no") forbid(principal, action, resource == Writ::Resource::"files/a");') == CedarAnswer(False, ("no",), False)


def test_determining_policies_are_sorted_and_named_by_number_without_an_id() -> None:
    assert ask(PERMIT + PERMIT.replace("yes", "also")).determining == ("also", "yes")
    assert ask(PERMIT.replace('@id("yes") ', "")).determining == ("policy0",)


def test_forbid_that_errs_refuses_though_a_permit_stands() -> None:
    """Cedar itself says Allow here, since a policy that errs is skipped."""
    assert ask(PERMIT + ERRING) == CedarAnswer(False, ("yes",), True)
    assert ask(PERMIT + ERRING.replace("106751991167d", "1d")) == CedarAnswer(False, ("err",), False)


@pytest.mark.parametrize("wrong", [{"now": "text"}, {"unknown": 1}])
def test_context_outside_the_schema_refuses(wrong: dict[str, Any]) -> None:
    answer = ask(PERMIT, **wrong)
    assert not answer.permit
    assert answer.erred


def test_missing_attribute_refuses() -> None:
    loaded = load(policy(policies=PERMIT))
    short = {key: value for key, value in CONTEXT.items() if key != "depth"}
    answer = evaluate(loaded, agent="a", action="tool.call", resource=("Resource", "r"), context=short)
    assert (answer.permit, answer.erred) == (False, True)


@pytest.mark.parametrize(
    "action, resource", [("tool.unknown", ("Resource", "r")), ("tool.call", ("Nothing", "r")), ("tool.call", ("Audience", "r"))]
)
def test_request_outside_the_schema_is_no_decision_and_refuses(action: str, resource: tuple[str, str]) -> None:
    answer = ask(PERMIT, action=action, resource=resource)
    assert (answer.permit, answer.erred) == (False, True)


@pytest.mark.parametrize(
    "condition",
    [
        "context.now + 1 > 0",
        "context.now - 1 > 0",
        "context.now * 2 > 0",
        "-context.now > 0",
        "!(1 + context.depth == 3)",
        "[context.now + 1].contains(1)",
    ],
)
def test_arithmetic_is_refused_since_an_overflow_voids_the_policy(condition: str) -> None:
    error = refuse(f'@id("sum") forbid(principal, action == Writ::Action::"tool.call", resource) when {{ {condition} }};')
    assert error.expected.startswith("no arithmetic")
    assert error.got == "sum"


def test_policy_without_a_name_is_named_by_its_number() -> None:
    assert (
        refuse(PERMIT + 'forbid(principal, action == Writ::Action::"tool.call", resource) when { context.now + 1 > 0 };').got == "policy1"
    )


def test_numbers_may_be_compared() -> None:
    assert ask(PERMIT[:-1] + " when { context.now >= -5 && context.depth < 3 };").permit


@pytest.mark.parametrize(
    "permit",
    [
        "permit(principal, action, resource);",
        "permit(principal, action, resource) when { true };",
        "permit(principal, action, resource) unless { false };",
        "permit(principal, action, resource) when { 1 == 1 || false };",
        "permit(principal is Writ::Agent, action, resource);",
        "permit(principal is Writ::Agent, action, resource is Writ::Resource);",
    ],
)
def test_blanket_permit_is_refused(permit: str) -> None:
    assert refuse('@id("all") ' + permit).got == "all"


@pytest.mark.parametrize(
    "bounded",
    [
        'permit(principal == Writ::Agent::"a", action, resource);',
        'permit(principal in Writ::Agent::"a", action, resource);',
        'permit(principal is Writ::Agent in Writ::Agent::"a", action, resource);',
        'permit(principal, action == Writ::Action::"tool.call", resource);',
        'permit(principal, action in [Writ::Action::"tool.call"], resource);',
        'permit(principal, action, resource == Writ::Resource::"r");',
        'permit(principal, action, resource) when { principal == Writ::Agent::"a" };',
        "forbid(principal, action, resource);",
        "forbid(principal, action, resource) when { true };",
    ],
)
def test_bounded_permit_and_blanket_forbid_are_loaded(bounded: str) -> None:
    assert load(policy(policies=bounded)).ids == (("policy0", "policy0"),)


def test_text_that_is_no_cedar_is_refused() -> None:
    assert refuse("permit(principal").what == "policy.policies"
    assert refuse(PERMIT, schema="entity {").what == "policy.schema"


def test_policy_that_does_not_validate_is_refused_by_name() -> None:
    assert "policy0" in refuse('permit(principal, action == Writ::Action::"tool.call", resource) when { context.nothing == 1 };').got
    assert refuse('permit(principal, action == Writ::Action::"no.such", resource);').expected == "policies that validate against the schema"


def test_templates_are_refused() -> None:
    assert "templates" in refuse('permit(principal == ?principal, action == Writ::Action::"tool.call", resource);').expected


def test_too_many_policies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cedar, "MAX_POLICIES", 2)
    assert len(load(policy(policies=PERMIT * 2)).ids) == 2
    assert "at most 2" in refuse(PERMIT * 3).expected


@pytest.mark.parametrize("name", ["a\\nb", "\\u{1b}[31m", "x" * 65, "\\u{e9}"])
def test_name_that_a_record_could_not_carry_is_refused(name: str) -> None:
    assert "@id" in refuse(f'@id("{name}") ' + PERMIT.partition(" ")[2]).expected


def test_longest_name_is_accepted() -> None:
    assert ask(f'@id("{"x" * 64}") ' + PERMIT.partition(" ")[2]).determining == ("x" * 64,)


DEEP = {
    "brackets": lambda n: f"{'(' * n}context.now == 1{')' * n}",
    "lists": lambda n: f"{'[' * n}1{']' * n} == []",
    "records": lambda n: f"{'{a:' * n}1{'}' * n} == {{a:1}}",
    "brackets behind closed ones": lambda n: f"{')' * n}{'(' * n}true",
    "and": lambda n: "context.now == 1 && " * n + "true",
    "or": lambda n: "context.depth==1||" * n + "true",
    "members": lambda n: "{a:1}" + ".a" * n + " == 1",
    "if": lambda n: "if context.depth==1 then true else " * n + "false",
}


@pytest.mark.parametrize("make", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("depth", [1_000, 20_000])
def test_policy_that_would_end_the_process_is_refused_before_cedar_reads_it(make: Callable[[int], str], depth: int) -> None:
    assert refuse(f"permit(principal, action, resource) when {{ {make(depth)} }};").what == "policy.policies"


def test_schema_that_would_end_the_process_is_refused_before_cedar_reads_it() -> None:
    for deep in ("Set<" * 2_000 + "Long" + ">" * 2_000, "{a: " * 2_000 + "Long" + "}" * 2_000):
        assert "32 brackets" in refuse(PERMIT, SCHEMA.replace("now: Long", f"now: {deep}")).expected


def test_bounds_hold_to_the_character_and_do_not_count_text_and_comments() -> None:
    assert cedar.MAX_NESTING == 32
    assert (cedar.MAX_STATEMENT, cedar.MAX_SCHEMA, cedar.MAX_POLICIES) == (8192, 65_536, 2000)
    nested = 'permit(principal, action == Writ::Action::"tool.call", resource) when {{ {}context.now == 1{} }};'
    assert load(policy(policies=nested.format("(" * 31, ")" * 31))).ids
    assert "32 brackets" in refuse(nested.format("(" * 32, ")" * 32)).expected
    assert load(policy(policies=PERMIT + nested.format("(" * 31, ")" * 31))).ids
    inner = nested.format("((context.depth == 1) || " * 32, ")" * 32)
    assert "32 brackets" in refuse(inner).expected
    assert load(policy(policies=" " * (8193 - len(PERMIT)) + PERMIT)).ids
    assert "8192" in refuse(" " * (8194 - len(PERMIT)) + PERMIT).expected
    assert load(policy(policies="// " + "(" * 99 + "\n" + PERMIT)).ids
    assert load(policy(policies=PERMIT.replace("yes", "(" * 60))).ids
    assert load(policy(policies=PERMIT.replace("yes", '\\"' + "(" * 60))).ids
    assert load(policy(policies=PERMIT + PERMIT + " " * (8192 - len(PERMIT) + 1) + PERMIT)).ids
    assert "8192" in refuse(PERMIT + PERMIT + " " * (8192 - len(PERMIT) + 2) + PERMIT).expected
    assert load(policy(policies=PERMIT + " " * 8192)).ids
    assert "8192" in refuse(PERMIT + " " * 8193).expected


def test_refused_condition_is_one_that_json_can_hold() -> None:
    """Between what Cedar survives and what the JSON view can hold: refused, not an accident."""
    assert refuse(f"permit(principal, action, resource) when {{ {'context.depth==1||' * 440}true }};").what == "policy.policies"


class PanicException(BaseException):
    """As a panic of the engine comes to Python."""


@pytest.mark.parametrize("raised", [ValueError("no"), MemoryError(), RecursionError(), PanicException("index out of bounds")])
def test_engine_that_raises_has_erred(raised: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_authorized(*_: object) -> None:
        raise raised

    monkeypatch.setattr("cedarpy.is_authorized", is_authorized)
    assert ask(PERMIT) == CedarAnswer(False, (), True)


def test_what_is_not_the_engines_ends_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_authorized(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cedarpy.is_authorized", is_authorized)
    with pytest.raises(KeyboardInterrupt):
        ask(PERMIT)

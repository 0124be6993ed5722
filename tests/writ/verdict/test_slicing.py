"""A bundle sliced by action answers as the whole of it would, for every request, down to the policies it names and the errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cedarpy
import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from tests.world.scene import SCHEMA, policy
from writ.formats.errors import FormatError
from writ.formats.policy_bundle import PolicyBundle
from writ.verdict import cedar
from writ.verdict.cedar import CedarAnswer, CedarPolicies, Slice, evaluate, load
from writ.verdict.slicing import ASKED, Moments, applicable, has_groups, moments, scope, statements

GROUPED = """namespace Writ {
  entity Agent; entity Audience; entity Resource;
  action "all"; action "tools" in ["all"];
  action "tool.call", "file.read" in ["tools"] appliesTo { principal: Agent, resource: Resource, context: {
    now: Long, attest_age: Long, gate: String, host: String, namespace: String, tpm_class: String, runtime: String, depth: Long,
    exceptions?: Set<String>, used?: Long } };
  action "net.connect" in ["all"] appliesTo { principal: Agent, resource: Resource, context: {
    now: Long, attest_age: Long, gate: String, host: String, namespace: String, tpm_class: String, runtime: String, depth: Long,
    exceptions?: Set<String>, used?: Long } };
}"""
"""A schema whose actions are in groups, so that `in` reaches further than what it names."""
PLAIN = GROUPED.replace('action "all"; action "tools" in ["all"];', "").replace(' in ["tools"]', "").replace(' in ["all"]', "")
ACTIONS = ("tool.call", "file.read", "net.connect")
OVERFLOWS = 'datetime("2024-10-15").offset(duration("106751991167d")) > datetime("1970-01-01")'


def whole(bundle: PolicyBundle) -> CedarPolicies:
    """The bundle as it was before anything was sliced."""
    loaded = load(bundle)
    everything = Slice(cedarpy.PolicySet.from_str(bundle.policies), dict(loaded.ids), Moments(None, None))
    return replace(loaded, slices={}, others=everything)


def named(*actions: str) -> str:
    return ", ".join(f'Writ::Action::"{one}"' for one in actions)


actions = st.sampled_from(ACTIONS)
scopes = st.one_of(
    st.just("action"),
    actions.map(lambda one: f"action == {named(one)}"),
    actions.map(lambda one: f"action in {named(one)}"),
    st.lists(actions, min_size=1, max_size=3).map(lambda some: f"action in [{named(*some)}]"),
)
conditions = st.sampled_from(
    [
        "", "when { context.attest_age <= 30 }", "unless { context.now > 1000 }", 'when { action == Writ::Action::"tool.call" }',
        f"when {{ {OVERFLOWS} }}", 'when { context.gate == "a;b" && context.gate != "//" } // when; not\r', "when { context == context }",
        'when { resource == Writ::Resource::"x" }', "when { context has used && context.used < 2 }", "unless { context has exceptions }",
        'when { context has exceptions && context.exceptions.contains("a") }',
        "unless { context has used && context.used == context.depth }",
    ]
)  # fmt: skip


@st.composite
def policies(draw: st.DrawFn, *, groups: bool) -> str:
    """A policy that may be loaded: bounded by its principal, whatever else is drawn."""
    acts = draw(scopes | st.sampled_from(['action in Writ::Action::"all"', 'action in [Writ::Action::"tools"]']) if groups else scopes)
    called = draw(st.sampled_from(["", '@id("one")', '@id("two;")']))
    effect, who = draw(st.sampled_from(["permit", "forbid"])), draw(st.sampled_from(["a", "b"]))
    what = draw(st.sampled_from(["resource", "resource is Writ::Resource", 'resource == Writ::Resource::"x"']))
    return f'{called} {effect}(principal == Writ::Agent::"{who}", {acts}, {what}) {draw(conditions)};'


@st.composite
def bundles(draw: st.DrawFn) -> PolicyBundle:
    groups = draw(st.booleans())
    written = draw(st.lists(policies(groups=groups), min_size=1, max_size=14))
    between = draw(st.sampled_from(["\n", " // a comment; with all\r", "\t", "\n// ( \n"]))
    return policy(policies=between.join(written), schema=GROUPED if groups else PLAIN)


def request(draw_age: int, draw_now: int, gate: str) -> Mapping[str, Any]:
    return {
        "now": draw_now, "attest_age": draw_age, "gate": gate, "host": "h", "namespace": "n", "tpm_class": "software",
        "runtime": "rooted", "depth": 0,
    }  # fmt: skip


def answers(loaded: CedarPolicies, context: Mapping[str, Any]) -> list[CedarAnswer]:
    asked = [(who, act, what) for who in "ab" for act in (*ACTIONS, "tool.unknown", "all") for what in ("x", "y")]
    return [evaluate(loaded, agent=who, action=act, resource=("Resource", what), context=context) for who, act, what in asked]


@given(bundle=bundles(), age=st.integers(0, 60), now=st.integers(0, 2000), gate=st.sampled_from(["a;b", "socket"]))
@settings(max_examples=120)
def test_sliced_bundle_answers_as_the_whole_of_it(bundle: PolicyBundle, age: int, now: int, gate: str) -> None:
    context = request(age, now, gate)
    assert answers(load(bundle), context) == answers(whole(bundle), context)
    short = {key: value for key, value in context.items() if key != "gate"}
    assert answers(load(bundle), short) == answers(whole(bundle), short)


def test_request_is_held_against_the_policies_of_its_action_only() -> None:
    texts = [f'permit(principal, action == {named(one)}, resource);forbid(principal, action, resource == Writ::Resource::"{one}");'
             for one in ACTIONS]  # fmt: skip
    loaded = load(policy(policies="".join(texts), schema=PLAIN))
    assert {name: len(loaded.slice_of(name).policies) for name in (*ACTIONS, "other")} == dict.fromkeys(ACTIONS, 4) | {"other": 3}
    assert loaded.slice_of("file.read").names == {"policy0": "policy1", "policy1": "policy2", "policy2": "policy3", "policy3": "policy5"}


def test_policy_whose_scope_is_not_understood_is_in_every_slice() -> None:
    odd: list[object] = [
        {"op": "All"}, {"op": "=="}, {"op": "in"}, {"op": "is", "entity_type": "Writ::Action"}, {}, None, "all",
        {"op": "==", "slot": "?action"}, {"op": "==", "entity": {"type": "Writ::Action"}}, {"op": "in", "entities": ["tool.call"]},
        {"op": "==", "entity": {"type": "Writ::Action", "id": "tool.call"}, "more": 1},
        {"op": "==", "entity": {"type": "Writ::Action", "id": "tool.call", "more": 1}},
        {"op": "in", "entity": {"type": "Writ::Action", "id": "a"}, "entities": []},
    ]  # fmt: skip
    assert [scope({"action": one}, groups=False) for one in odd] == [None] * len(odd)
    assert scope({}, groups=False) is None
    assert applicable([None, frozenset({"a"}), frozenset(), None]) == ({"a": (0, 1, 3)}, (0, 3))


def test_scope_names_actions_of_ours_and_a_group_may_hold_any() -> None:
    ours, other = {"type": "Writ::Action", "id": "a"}, {"type": "Other::Action", "id": "b"}
    assert scope({"action": {"op": "==", "entity": ours}}, groups=True) == frozenset("a")
    assert scope({"action": {"op": "==", "entity": other}}, groups=False) == frozenset()
    assert scope({"action": {"op": "in", "entities": [ours, other]}}, groups=False) == frozenset("a")
    assert scope({"action": {"op": "in", "entity": ours}}, groups=False) == frozenset("a")
    assert scope({"action": {"op": "in", "entity": ours}}, groups=True) is None
    assert scope({"action": {"op": "in", "entities": [ours]}}, groups=True) is None


def test_groups_are_known_by_their_word_and_not_by_texts_and_comments() -> None:
    assert has_groups(GROUPED)
    assert not has_groups(PLAIN)
    assert not has_groups('// in\nentity Agent; // in a comment\raction "in", "be in";')
    assert has_groups('// x\raction "a"in["b"];')


def test_statements_end_where_cedar_ends_them() -> None:
    text = '@id("a;\\";") permit(principal, action, resource); // b;\rforbid(principal, action, resource) when { "//" == ";" }; // rest;'
    assert [len(part) for part in statements(text)] == [49, 64]
    assert "".join(statements(text)) == text.rpartition(" //")[0]


@example(text='\r permit(principal == Writ::Agent::"b", action, resource); //')
@given(text=st.text(alphabet=';"\\/\r\n a\x0b\x85'))
def test_text_that_parts_otherwise_than_cedar_is_not_sliced_wrongly(text: str) -> None:
    """Wherever Cedar can read it, a comment of odd characters changes no answer."""
    base = 'permit(principal == Writ::Agent::"a", action == Writ::Action::"tool.call", resource);'
    odd = f'{base}//{text}\n forbid(principal == Writ::Agent::"b", action == Writ::Action::"file.read", resource);'
    try:
        cedarpy.PolicySet.from_str(odd)
    except ValueError:
        return
    bundle, context = policy(policies=odd, schema=PLAIN), request(1, 1, "g")
    assert answers(load(bundle), context) == answers(whole(bundle), context)


def test_bundle_with_too_much_in_its_slices_is_evaluated_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"permit(principal, action == {named('tool.call')}, resource); permit(principal, action == {named('file.read')}, resource);"
    bundle = policy(policies=text, schema=PLAIN)
    assert len(load(bundle).slices) == 2
    cedar.forget()
    monkeypatch.setattr(cedar, "MAX_SLICED", 1)
    assert (load(bundle).slices, len(load(bundle).others.policies)) == ({}, 2)
    cedar.forget()


def test_carriage_return_ends_a_comment_so_nothing_hides_behind_it() -> None:
    """Cedar reads on there, and its parser recurses: brackets that we took for a comment would have ended the process."""
    with pytest.raises(FormatError, match="32 brackets"):
        load(policy(policies=f"// hidden\rpermit(principal, action, resource) when {{ {'(' * 99}true{')' * 99} }};", schema=SCHEMA))


# --- what policies see of the clock --------------------------------------------------------------------------------------


def seen(condition: str) -> Moments:
    return load(policy(policies=f"forbid(principal, action, resource) when {{ {condition} }};", schema=PLAIN)).others.moments


@pytest.mark.parametrize(
    "condition, expected",
    [
        ("context.depth == 0", Moments((), ())),
        ("context.attest_age <= 30", Moments((), (30,))),
        ("30 > context.attest_age || context.attest_age == 60 || context.now != -5", Moments((-5,), (30, 60))),
        ('context["now"] < 7', Moments((7,), ())),
        ("context has now && context.now >= 7", Moments((7,), ())),
        ("context.now == context.attest_age", Moments(None, None)),
        ("[context.now].contains(5)", Moments(None, ())),
        ("{a: context.attest_age} == {a: 1}", Moments((), None)),
        ("context == context", Moments(None, None, None, ASKED)),
        ("[context].contains(context)", Moments(None, None, None, ASKED)),
        ("context has used && 3 > context.used", Moments((), (), (3,), frozenset({"used"}))),
        ("context has used", Moments((), (), (), frozenset({"used"}))),
        ('context has exceptions && context["exceptions"].isEmpty()', Moments((), (), (), frozenset({"exceptions"}))),
        ("context has used && context.used == context.now", Moments(None, (), None, frozenset({"used"}))),
        ("(if context.depth == 1 then context.now else 5) < 3", Moments(None, ())),
        ('{"Var": context.gate, ".": 1} has "now"', Moments((), ())),
        ("context.now < 7 && context.now == context.depth", Moments(None, ())),
    ],
)
def test_clock_is_seen_by_what_it_is_compared_with(condition: str, expected: Moments) -> None:
    assert seen(condition) == expected


def test_moments_are_told_apart_at_a_literal_and_on_either_side() -> None:
    between = Moments((10, 20), None)
    assert [between.place(now, 0)[0] for now in (9, 10, 11, 19, 20, 21)] == [0, 1, 2, 2, 3, 4]
    assert between.place(0, 77)[1] == 77


def test_strange_nodes_are_looked_into() -> None:
    look: dict[str, Any] = {".": {"left": {"Var": "context"}, "attr": "now"}}
    for odd in ({"==": {"left": look}}, {"==": {"left": look, "right": {"Value": True}}}, {"<": [look, {"Value": 1}]},
                {"==": {"left": look, "right": {"Value": 1}}, "<": 1}, {"new": {"deep": [look]}}):  # fmt: skip
        assert moments([{"conditions": [{"kind": "when", "body": odd}]}]) == Moments(None, ())

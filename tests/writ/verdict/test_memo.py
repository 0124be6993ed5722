"""A memo changes no answer: whatever was asked before, `decide` says with one what it says without."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.world.scene import NOW, POLICIES, policy
from tests.writ.verdict.test_decide import ACTION, CLAIMS, SCENE, TOKEN, code, verified
from tests.writ.verdict.test_slicing import ACTIONS, OVERFLOWS, PLAIN, bundles
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.grants import grant_set
from writ.formats.policy_bundle import PolicyBundle
from writ.verdict import decide as module
from writ.verdict.cedar import CedarAnswer
from writ.verdict.cedar import evaluate as real_evaluate
from writ.verdict.decide import decide
from writ.verdict.decision import Decision
from writ.verdict.memo import Memo
from writ.verdict.token import VerifiedToken

GRANTS = grant_set([(act, what) for act in ACTIONS for what in ("x", "y")])
LIFE = CLAIMS.expires_at - NOW
asks = st.lists(
    st.tuples(st.sampled_from((*ACTIONS, "tool.unknown")), st.sampled_from("xyz"), st.sampled_from(["a;b", "socket"]),
              st.sampled_from([-2, 0, 1, 29, 30, 31, LIFE - 1, LIFE, 1 << 63]) | st.integers(0, LIFE + 1), st.booleans(),
              st.sampled_from([None, 0, 1, 2, 3])),
    min_size=1, max_size=24,
)  # fmt: skip


@given(bundle=bundles(), asked=asks, most=st.sampled_from([1, 3, 1024]), agent=st.sampled_from("ab"))
@settings(max_examples=60)
def test_memo_changes_no_decision(
    bundle: PolicyBundle, asked: list[tuple[str, str, str, int, bool, int | None]], most: int, agent: str
) -> None:
    """Any order of actions, resources, gates, seconds and tokens, the clock also set back, by one memo that may be too small."""
    first = replace(CLAIMS, policy=bundle.digest, grants=GRANTS, agent=replace(CLAIMS.agent, name=agent))
    later = replace(first, issued_at=first.issued_at - 25, tpm_class="discrete", grants=GRANTS[:3], exceptions=("a",))
    tokens, memo = (verified(first), verified(later)), Memo(most)
    for act, what, gate, after, other, used in asked:
        action, token = Action(act, what, Digest.of(what.encode())), tokens[other]
        plain = decide(action, token=token, bundle=bundle, gate=gate, now=NOW + after, used=used)
        assert decide(action, token=token, bundle=bundle, gate=gate, now=NOW + after, memo=memo, used=used) == plain
        assert len(memo) <= most


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The actions that Cedar is asked about from now on."""
    asked: list[str] = []

    def evaluate(*args: object, **named: object) -> CedarAnswer:
        asked.append(str(named["action"]))
        return real_evaluate(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "evaluate", evaluate)
    return asked


def ask(
    memo: Memo, *, bundle: PolicyBundle, token: VerifiedToken, now: int = NOW, action: Action = ACTION, gate: str = "socket"
) -> Decision:  # fmt: skip
    return decide(action, token=token, bundle=bundle, gate=gate, now=now, memo=memo)


def test_cedar_is_asked_again_only_where_a_policy_could_tell_the_moments_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    late = 'forbid(principal, action == Writ::Action::"tool.call", resource) when { context.attest_age > 30 || context.now == 5 };'
    bundle = policy(policies=POLICIES + late)
    token, memo, asked = verified(replace(CLAIMS, policy=bundle.digest)), Memo(), counted(monkeypatch)
    decisions = [ask(memo, bundle=bundle, token=token, now=CLAIMS.issued_at + after) for after in (0, 1, 29, 30, 31, 32, 59, 5)]
    assert [one.permit for one in decisions] == [True, True, True, True, False, False, False, True]
    assert len(asked) == 3, "before, at and after the 30th second"
    assert len({one.context for one in decisions}) == len(decisions), "the recorded context is of the second itself"


def test_arguments_do_not_matter_and_everything_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    memo, asked, bundle = Memo(), counted(monkeypatch), SCENE.bundle
    ask(memo, bundle=bundle, token=TOKEN)
    other = ask(memo, bundle=bundle, token=TOKEN, action=replace(ACTION, arguments=Digest.of(b"other")))
    assert (len(asked), other.action.arguments) == (1, Digest.of(b"other"))
    ask(memo, bundle=bundle, token=TOKEN, gate="other")
    ask(memo, bundle=bundle, token=TOKEN, action=replace(ACTION, resource="files/b"))
    ask(memo, bundle=bundle, token=verified(replace(CLAIMS, token_id="another-token-16")))
    assert len(asked) == 4


def test_dead_token_is_refused_whatever_the_memo_holds() -> None:
    memo = Memo()
    assert ask(memo, bundle=SCENE.bundle, token=TOKEN, now=CLAIMS.expires_at - 1).permit
    assert code(ask(memo, bundle=SCENE.bundle, token=TOKEN, now=CLAIMS.expires_at)) == "token-expired"
    assert code(ask(memo, bundle=replace(SCENE.bundle, version=9), token=TOKEN)) == "policy-digest-mismatch"


def test_what_erred_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = policy(policies=POLICIES + f"forbid(principal, action, resource) when {{ {OVERFLOWS} }};")
    token, memo, asked = verified(replace(CLAIMS, policy=bundle.digest)), Memo(), counted(monkeypatch)
    assert [code(ask(memo, bundle=bundle, token=token)) for _ in range(3)] == ["policy-error"] * 3
    assert (len(asked), len(memo)) == (3, 0)
    unread = policy(policies="permit(", schema=PLAIN)
    assert code(ask(memo, bundle=unread, token=verified(replace(CLAIMS, policy=unread.digest)))) == "policy-error"
    assert len(memo) == 0


def test_memo_is_bounded_and_begins_anew() -> None:
    memo = Memo(2)
    for number in range(5):
        memo.keep(number, ((), ()))
        assert len(memo) <= 2
    assert memo.judged(4) == ((), ())
    assert memo.judged(0) is None
    assert memo.context("a") is None
    memo.keep_context("a", b"1")
    memo.keep_context("b", b"2")
    assert (memo.context("a"), memo.context("b")) == (None, b"2")

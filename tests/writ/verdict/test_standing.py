"""One word for each way a host can stand, in a fixed order, and never "trusted" by silence."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import writ.verdict.attestation
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.reason import REMEDIES, Reason
from writ.verdict.standing import CONTRADICTED, OWED, RULED_OUT, WORDS, Appraised, Facts, Standing, followed, says, standing

NOW = 1_790_000_000
LIFE = 60


def reasons(*codes: str) -> tuple[Reason, ...]:
    return tuple(Reason(code, "claim", "a", "b") for code in sorted(codes))


ACCEPTED = Appraised(True, (), NOW - 10, NOW - 500)
TRUSTED = Facts("active", None, NOW - 9_000, False, NOW - 10, ACCEPTED)


def refused(*codes: str) -> Facts:
    return replace(TRUSTED, appraised=Appraised(False, reasons(*codes), NOW - 10, NOW - 40))


def at(facts: Facts, *, now: int = NOW, life: int = LIFE) -> Standing:
    return standing(facts, token_life=life, now=now)


def test_accepted_and_fresh_is_trusted() -> None:
    assert at(TRUSTED) == Standing("trusted", NOW - 500)


def test_never_attested_is_never_seen() -> None:
    assert at(replace(TRUSTED, appraised=None)) == Standing("never-seen", NOW - 9_000)
    assert at(replace(TRUSTED, status="admitted", appraised=None, contacted_at=None)).word == "never-seen"


@pytest.mark.parametrize(
    "codes,word",
    [
        (["tpm-class-refused"], "refused"),
        (["attestor-not-rooted"], "refused"),
        (["governance-mismatch"], "untrusted"),
        (["runtime-log-mismatch"], "untrusted"),
        (["boot-log-required"], "rebooted"),
        (["full-log-required"], "rebooted"),
        (["ima-log-required"], "rebooted"),
        (["governance-mismatch", "tpm-class-refused"], "untrusted"),
        (["boot-log-required", "attestor-not-rooted"], "rebooted"),
        (["boot-log-required", "file-mismatch"], "untrusted"),
        ([], "refused"),
    ],
)
def test_refusal_is_told_by_its_worst_reason(codes: list[str], word: str) -> None:
    assert at(refused(*codes)) == Standing(word, NOW - 40)


@pytest.mark.parametrize("codes", [["tpm-class-refused"], ["governance-mismatch"], ["boot-log-required"]])
def test_failed_host_never_reads_better_by_silence(codes: list[str]) -> None:
    word = at(refused(*codes)).word
    assert {at(refused(*codes), now=NOW + later).word for later in (0, LIFE, 10 * LIFE, 10**9)} == {word}


def test_silent_for_a_token_s_life_is_unreachable_and_not_trusted() -> None:
    assert at(TRUSTED, now=NOW - 10 + LIFE - 1).word == "trusted"
    assert at(TRUSTED, now=NOW - 10 + LIFE) == Standing("unreachable", NOW - 10 + LIFE)
    assert at(replace(TRUSTED, contacted_at=None)).word == "unreachable"


def test_host_that_calls_without_being_accepted_is_stale() -> None:
    calls = replace(TRUSTED, contacted_at=NOW + 2 * LIFE)
    assert at(calls, now=NOW + 2 * LIFE) == Standing("stale", NOW - 10 + LIFE)


def test_acceptance_from_the_future_is_stale() -> None:
    early = NOW - 10 - CLOCK_SKEW
    assert at(TRUSTED, now=early).word == "trusted"
    assert at(TRUSTED, now=early - 1).word == "stale"


def test_acceptance_from_before_an_operator_moved_the_host_is_stale() -> None:
    assert at(replace(TRUSTED, appraised=replace(ACCEPTED, overtaken=True))) == Standing("stale", NOW - 9_000)


def test_nothing_is_trusted_without_a_policy() -> None:
    assert at(TRUSTED, life=0).word == "unreachable"


def test_cleared_stands_whatever_was_attested_since() -> None:
    assert at(replace(TRUSTED, cleared=True, appraised=None)) == Standing("cleared", NOW - 9_000)
    assert at(replace(refused("governance-mismatch"), cleared=True)).word == "cleared"


def test_contained_is_told_from_forked_and_both_outrank_what_was_attested() -> None:
    for facts in (TRUSTED, refused("governance-mismatch"), replace(TRUSTED, cleared=True), replace(TRUSTED, appraised=None)):
        assert at(replace(facts, status="contained", contained_by="fork")) == Standing("forked", NOW - 9_000)
        assert at(replace(facts, status="contained", contained_by="operator")).word == "contained"
        assert at(replace(facts, status="retired", contained_by="fork")).word == "retired"


FACTS = st.builds(
    Facts,
    st.sampled_from(("admitted", "active", "contained", "retired")),
    st.sampled_from((None, "fork", "operator")),
    st.integers(0, NOW),
    st.booleans(),
    st.none() | st.integers(NOW - 200, NOW + 10),
    st.none()
    | st.builds(
        Appraised, st.booleans(), st.lists(st.sampled_from(sorted(REMEDIES)), max_size=3).map(lambda codes: reasons(*set(codes))),
        st.integers(NOW - 200, NOW + 10), st.integers(0, NOW), st.booleans(),
    ),
)  # fmt: skip


@given(FACTS, st.integers(0, 300))
def test_trusted_means_accepted_fresh_and_active(facts: Facts, life: int) -> None:
    word = standing(facts, token_life=life, now=NOW).word
    assert word in WORDS
    last = facts.appraised
    good = last is not None and last.accepted and not last.reasons and not last.overtaken and -CLOCK_SKEW <= NOW - last.decided_at < life
    heard = facts.contacted_at is not None and NOW - facts.contacted_at < life
    assert (word == "trusted") == (good and heard and not facts.cleared and facts.status in ("admitted", "active"))


# --- since when ----------------------------------------------------------------------------------------------------------


def test_trust_that_goes_on_keeps_its_beginning_and_a_gap_begins_anew() -> None:
    first = followed(None, accepted=True, reasons=(), at=NOW, token_life=LIFE)
    assert first == Appraised(True, (), NOW, NOW)
    second = followed(first, accepted=True, reasons=(), at=NOW + 30, token_life=LIFE)
    assert (second.decided_at, second.since) == (NOW + 30, NOW)
    assert followed(second, accepted=True, reasons=(), at=NOW + 30 + LIFE, token_life=LIFE).since == NOW + 30 + LIFE
    assert followed(replace(second, overtaken=True), accepted=True, reasons=(), at=NOW + 31, token_life=LIFE).since == NOW + 31


def test_refusal_that_goes_on_keeps_its_beginning_across_silence_and_other_reasons() -> None:
    first = followed(None, accepted=False, reasons=reasons("governance-mismatch"), at=NOW, token_life=LIFE)
    second = followed(first, accepted=False, reasons=reasons("runtime-log-mismatch"), at=NOW + 9_000, token_life=LIFE)
    assert second.since == NOW
    third = followed(second, accepted=False, reasons=reasons("tpm-class-refused"), at=NOW + 9_001, token_life=LIFE)
    assert third.since == NOW + 9_001


# --- the table -----------------------------------------------------------------------------------------------------------


def closure(module: ModuleType) -> Iterator[ModuleType]:
    """The modules of `writ.verdict` that `module` rests on, itself first."""
    found = [module.__name__]
    for name in found:
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("writ.verdict.") and node.module not in found:
                found.append(str(node.module))
    return map(importlib.import_module, found)


def carried() -> set[str]:
    """Every reason code that is spelt in the code that makes an attest decision."""
    return {
        node.value
        for module in closure(writ.verdict.attestation)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in REMEDIES
    }


def test_every_code_that_an_attest_decision_can_carry_is_in_exactly_one_class() -> None:
    assert {"governance-mismatch", "boot-log-required", "tpm-class-refused", "clock-fell", "component-mismatch"} <= carried()
    assert carried() - (CONTRADICTED | RULED_OUT | OWED) == set()
    for one, other in combinations((CONTRADICTED, RULED_OUT, OWED), 2):
        assert not one & other
    assert set(REMEDIES) >= CONTRADICTED | RULED_OUT | OWED


def test_code_in_no_class_is_read_as_a_contradiction() -> None:
    assert says(accepted=False, reasons=reasons("internal")) == "untrusted"
    assert says(accepted=True, reasons=reasons("boot-log-required")) == "rebooted"

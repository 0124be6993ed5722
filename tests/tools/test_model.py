"""The models of docs/model: small cases come out as they must, and a checker that found otherwise would say so."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from tools.model import MODELS, Case, CouldNot, check, find_spin, main, read_cases

CASES = read_cases()
SMALL = [case for case in CASES if case.small]

needs_spin = pytest.mark.skipif(find_spin() is None or shutil.which("gcc") is None, reason="needs spin and gcc; `./run model` brings them")


def spin() -> str:
    found = find_spin()
    assert found is not None
    return found


def test_each_broken_variant_and_each_limit_must_be_refuted() -> None:
    assert [case.name for case in CASES if case.name.startswith(("broken: ", "limit: ", "reached: ")) != bool(case.refuted)] == []


def test_each_broken_variant_of_a_model_is_a_case() -> None:
    asked = {(case.model, key) for case in CASES for key in case.settings if key.startswith("BROKEN_")}
    written = {
        (path.stem, word)
        for path in MODELS.glob("*.pml")
        for word in path.read_text().replace("(", " ").replace(")", " ").split()
        if word.startswith("BROKEN_") and not word.endswith("...")
    }

    assert asked == written


def test_each_name_is_a_case_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@needs_spin
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_a_small_case_comes_out_as_it_must(case: Case) -> None:
    found = check(case, spin())

    assert found.broken == case.refuted
    assert found.states > 100


@needs_spin
def test_what_was_expected_to_hold_and_does_not_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    broken = next(case for case in SMALL if case.refuted)
    monkeypatch.setattr("tools.model.read_cases", lambda: [replace(broken, refuted="")])

    assert main(["--short"]) == 1
    assert "WRONG: expected holds" in capsys.readouterr().out


@needs_spin
def test_a_search_that_is_cut_short_is_no_result() -> None:
    with pytest.raises(CouldNot, match="to the end"):
        check(next(case for case in SMALL if not case.refuted), spin(), depth=20)


def test_a_name_that_is_no_case_is_misuse() -> None:
    assert main(["no such case"]) == 2

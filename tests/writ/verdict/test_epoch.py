"""The machine over time: every order of counters, and the fair name for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.world.chip import Chip
from tests.world.scene import Scene
from writ.formats.ear import parse_ear_cbor
from writ.formats.state import HostState, clean_runtime
from writ.verdict.epoch import Epoch, epoch_begun, judge_epoch
from writ.verdict.quote import VerifiedQuote

BEFORE = HostState(3, "active", 10_000, 7, 2, True, 0, clean_runtime("sha256"))
QUOTE = VerifiedQuote(Chip().values(), 10_000, 7, 2, True, 1)


def test_first_quote_of_an_enrolment_has_nothing_to_be_compared_with() -> None:
    assert judge_epoch(replace(QUOTE, clock=0, reset_count=0), None).kind == "first"


@pytest.mark.parametrize(
    "reset, restart, clock, kind",
    [
        (7, 2, 10_000, "same"),
        (7, 2, 10_001, "same"),
        (7, 3, 10_000, "resumed"),
        (7, 3, 99_000, "resumed"),
        (8, 0, 0, "rebooted"),
        (8, 9, 10_000, "rebooted"),
        (900, 2, 1, "rebooted"),
    ],
)
def test_time_that_runs_on_is_named_and_not_accused(reset: int, restart: int, clock: int, kind: str) -> None:
    epoch = judge_epoch(replace(QUOTE, reset_count=reset, restart_count=restart, clock=clock), BEFORE)
    assert (epoch.kind, epoch.reason) == (kind, None)


@pytest.mark.parametrize(
    "reset, restart, clock, code, claim",
    [
        (6, 2, 10_000, "reset-count-fell", "reset_count"),
        (0, 99, 99_000, "reset-count-fell", "reset_count"),
        (7, 2, 9_999, "clock-fell", "clock"),
        (7, 3, 9_999, "clock-fell", "clock"),
        (7, 1, 10_000, "clock-fell", "restart_count"),
        (7, 1, 99_000, "clock-fell", "restart_count"),
    ],
)
def test_time_that_runs_backwards_is_a_fork(reset: int, restart: int, clock: int, code: str, claim: str) -> None:
    epoch = judge_epoch(replace(QUOTE, reset_count=reset, restart_count=restart, clock=clock), BEFORE)
    assert epoch.kind == "forked"
    assert epoch.reason is not None
    assert (epoch.reason.code, epoch.reason.claim) == (code, claim)


@pytest.mark.parametrize("safe", [True, False])
def test_safe_flag_is_a_label_only(safe: bool) -> None:
    assert judge_epoch(replace(QUOTE, safe=safe), BEFORE).kind == "same"


def test_reboot_after_suspend_and_resume_is_a_reboot() -> None:
    """restartCount falls to zero and the clock with it: with a risen resetCount neither says anything (facts: T4)."""
    slept = replace(BEFORE, restart_count=5, clock=900_000)
    assert judge_epoch(replace(QUOTE, reset_count=8, restart_count=0, clock=20), slept) == Epoch("rebooted", None)


@pytest.mark.parametrize("reset, restart, begun", [(7, 2, None), (7, 3, "resumed"), (8, 0, "rebooted"), (8, 3, "rebooted"), (6, 9, None)])
def test_epoch_that_began_is_named_once(reset: int, restart: int, begun: str | None) -> None:
    assert epoch_begun(BEFORE, replace(BEFORE, reset_count=reset, restart_count=restart)) == begun
    assert epoch_begun(None, BEFORE) == "first"


def test_result_names_epoch_and_clock_and_accuses_of_neither() -> None:
    """A clock that a power cut may have set back, an equal clock, a resume, a reboot after that: named, with no reason (facts: T4)."""
    scene = Scene()
    scene.chip.safe = False
    seen = []
    steps: tuple[Callable[[], None], ...] = (lambda: None, lambda: scene.chip.tick(-1_000), scene.chip.resume, scene.reboot)
    for step in steps:
        step()
        verdict = scene.attest()
        host = parse_ear_cbor(verdict.result).submodule("host")
        assert host is not None
        assert verdict.entry.reasons == ()
        seen.append((host.epoch, host.clock_safe, host.claim("configuration")))
    assert seen == [("first", False, 32), ("same", False, 32), ("resumed", False, 32), ("rebooted", False, 32)]

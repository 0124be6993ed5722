"""The verifier is away, and comes back: nobody acts without a token, nobody is lost before `hold_max`, and nobody storms it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scale.hosts import Agent, Central, FineClock
from tests.world.chip import Chip
from writ.formats.policy_bundle import HOLD_MAX, TOKEN_LIFE, PolicySettings

STEP = 0.5
"""Seconds: how long a holder sleeps at most."""
CAPACITY = 100
"""Attestations that the verifier answers in a second: about what one core does (`./run bench`)."""


class Fleet:
    """Hosts with one instance each, their verifier and their clock."""

    def __init__(self, folder: Path, count: int, *, capacity: int) -> None:
        self.clock = FineClock()
        settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",))
        assert (settings.token_life, settings.hold_max) == (TOKEN_LIFE, HOLD_MAX) == (60, 600)
        self.central = Central(folder / "verifier", self.clock, capacity=capacity, settings=settings)
        self.agents: list[Agent] = []
        trust = None
        for number in range(count):
            place = folder / f"host-{number}"
            place.mkdir()
            trust = trust or self.central.trust(Chip())
            self.agents.append(Agent(f"host-{number}", self.central, trust, place))
            self.clock.move(60 / count)  # hosts do not start in one moment
            for agent in self.agents:
                agent.turn()

    def pass_time(self, seconds: float) -> Iterator[float]:
        """Each host does what is due, step by step; the seconds that passed are given after each."""
        for number in range(1, round(seconds / STEP) + 1):
            self.clock.move(STEP)
            for agent in self.agents:
                agent.turn()
            yield number * STEP

    def states(self) -> dict[str, int]:
        """How many are in each state."""
        found: dict[str, int] = {}
        for agent in self.agents:
            found[agent.state] = found.get(agent.state, 0) + 1
        return found

    def close(self) -> None:
        """Files are closed."""
        for agent in self.agents:
            agent.close()
        self.central.ledger.close()


@contextlib.contextmanager
def fleet(folder: Path, count: int) -> Iterator[Fleet]:
    """A fleet whose hosts have all renewed at least twice."""
    made = Fleet(folder, count, capacity=CAPACITY)
    try:
        for _ in made.pass_time(90):
            assert made.states() == {"running": count}
        yield made
    finally:
        made.close()


def stay_away(made: Fleet, seconds: float) -> None:
    """The verifier is gone; each instance acts until its token dies, and not a moment longer."""
    made.central.there = False
    ends = {agent.name: held.token.claims.expires_at for agent in made.agents if (held := agent.credential.current())}
    assert len(ends) == len(made.agents)
    last_act: dict[str, bool] = {}
    for _ in made.pass_time(seconds):
        now = made.clock.now()
        for agent in made.agents:
            if agent.killed_for:
                assert not agent.acts()
            elif abs(now - ends[agent.name]) <= 1 or now % 60 == 0:
                last_act[agent.name] = agent.acts()
                assert last_act[agent.name] == (now < ends[agent.name]), f"{agent.name} at {now - ends[agent.name]:+} s of its token's end"
        if now >= max(ends.values()):
            assert not any(agent.cgroup.populated() and not agent.cgroup.state["frozen"] for agent in made.agents)
    assert not any(last_act.values())


def away_for_ten_minutes(folder: Path, count: int) -> dict[str, float]:
    """Ten minutes without a verifier lose nobody, and all run again within a minute of its return."""
    with fleet(folder, count) as made:
        stay_away(made, 600)
        assert made.states() == {"held": count}
        assert all(agent.cgroup.populated() for agent in made.agents), "held is not killed"
        made.central.there = True
        before, back = made.central.clock.boot(), 0.0
        for passed in made.pass_time(60):
            if made.states() == {"running": count}:
                back = passed
                break
        assert made.states() == {"running": count}
        assert all(agent.acts() and not agent.cgroup.state["frozen"] for agent in made.agents)
        peak = max(n for second, n in made.central.asked.items() if second >= int(before))
        return {"hosts": count, "all_running_after_s": back, "peak_requests_in_one_second": peak}


def test_ten_minutes_without_a_verifier_lose_nobody(tmp_path: Path) -> None:
    assert away_for_ten_minutes(tmp_path, 6)["all_running_after_s"] <= 60


@pytest.mark.scale
@pytest.mark.timeout(1800)
def test_three_hundred_hosts_outlive_ten_minutes_without_a_verifier_and_do_not_storm_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = away_for_ten_minutes(tmp_path, 300)
    with capsys.disabled():
        print(f"\n  verifier away for 600 s: {seen}")
    assert seen["peak_requests_in_one_second"] <= 100, "a third of the fleet in one second would be a storm"


def test_a_verifier_that_turns_most_away_still_gets_all_back_within_a_minute(tmp_path: Path) -> None:
    with fleet(tmp_path, 6) as made:
        stay_away(made, 90)
        made.central.capacity = 1
        made.central.there = True
        for _ in made.pass_time(60):
            pass
        assert made.states() == {"running": 6}


def test_hold_max_kills_whoever_was_held_longer_and_no_token_brings_them_back(tmp_path: Path) -> None:
    with fleet(tmp_path, 3) as made:
        stay_away(made, HOLD_MAX + TOKEN_LIFE + 2)
        assert made.states() == {"killed": 3}
        for agent in made.agents:
            times = {state: at for at, state in agent.history if state in ("held", "killed")}
            assert HOLD_MAX < times["killed"] - times["held"] <= HOLD_MAX + STEP
            assert not agent.cgroup.populated()
        made.central.there = True
        for _ in made.pass_time(30):
            pass
        assert made.states() == {"killed": 3}
        assert not any(agent.acts() for agent in made.agents)

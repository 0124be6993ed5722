"""Each role of a real host killed and away, with real agents under it: held past the token's life, thawed only by a fresh appraisal."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from enforcer.launch.cgroup import MOUNTINFO, Cgroup, find_mount
from examples.demo import AGENTS, Story
from examples.stage import Program, Stage, performed, wait_until
from swtpm import Manufacturer, SoftTpm
from writ.formats.eat import parse_token

LIFE = 6
"""Seconds that a token lives here."""
WATCHED = 2.0
"""Seconds for which what is held is watched."""


class Theatre(Stage):
    """A stage whose programs can be asked for by name."""

    def __init__(self) -> None:
        super().__init__(pace=0.0)
        self._named: dict[str, Program] = {}

    def start(self, name: str, arguments: Sequence[str], *, env: Mapping[str, str] | None = None) -> Program:
        """As on any stage."""
        program = super().start(name, arguments, env=env)
        self._named[name] = program
        return program

    def newest(self, name: str) -> Program:
        """The program of that name that was started last."""
        return self._named[name]


class Roles(Story):
    """The demonstration up to its two acting agents, with short tokens; then any role may be killed and come back."""

    agents: tuple[Program, ...] = ()

    def __init__(self, theatre: Theatre, tpm: SoftTpm, stranger: SoftTpm, roots: Path) -> None:
        super().__init__(theatre, tpm, stranger, roots)
        self._theatre = theatre

    def perform(self) -> None:
        """Two agents act."""
        self.set_the_stage()
        self.admit()
        self.approve()
        self._ask_verifier(
            "policy", "publish", "--policies", str(AGENTS / "demo.cedar"),
            "--accept-runtime-only", "--tpm-class", "software", "--token-life", str(LIFE),
        )  # fmt: skip
        self.agents = self.act()
        assert self._stage.unexpected == []

    def kill(self, role: str) -> None:
        """SIGKILL, and it is gone."""
        program = self._theatre.newest(role)
        os.kill(program.pid, signal.SIGKILL)
        assert program.wait(10) == -signal.SIGKILL

    def start(self, role: str) -> int:
        """It serves again; the second before it did."""
        at, place = int(time.time()), self._stage.place
        config = {"verifier": self._verifier_toml, "attestor": self._attestor_toml, "enforcer": self._enforcer_toml}[role]
        self._theatre.start(role, [sys.executable, "-m", role, "--config", str(config), "serve"])
        if role == "enforcer":
            wait_until((place / "enforcer-run" / "control.sock").exists, role)
        return at

    def states(self) -> list[str]:
        """How the instances stand."""
        return [str(one["state"]) for one in self._instances()]

    def parent(self) -> Path:
        """The cgroup that holds theirs."""
        return find_mount(MOUNTINFO.read_text()) / f"writ-demo-{self._stage.place.name[-8:]}"

    def cgroups(self) -> list[Cgroup]:
        """Theirs."""
        parent = self.parent()
        return [Cgroup(path) for path in sorted(parent.iterdir()) if path.is_dir()] if parent.is_dir() else []

    def newest_issue(self) -> dict[bytes, int]:
        """When the newest token of each instance was issued."""
        claims = [parse_token(token).claims for token in self._archive().tokens]
        return {one.instance: max(c.issued_at for c in claims if c.instance == one.instance) for one in claims}

    def held(self) -> None:
        """Every agent is frozen, and says nothing for a while."""
        assert [cgroup.frozen() for cgroup in self.cgroups()] == [True, True]
        before = [len(agent.lines) for agent in self.agents]
        time.sleep(WATCHED)
        assert [len(agent.lines) for agent in self.agents] == before
        assert self.states() == ["held", "held"]

    def away(self, role: str) -> str:
        """The role is killed; its agents are held; it comes back, and each runs again under a token issued since. How long each took."""
        self.kill(role)
        began = time.monotonic()
        wait_until(lambda: self.states() == ["held", "held"], f"a hold without {role}", within=LIFE + 15)
        took = time.monotonic() - began
        self.held()
        back = self.start(role)
        began = time.monotonic()
        wait_until(lambda: self.states() == ["running", "running"], f"a thaw after {role}", within=60)
        thawed = time.monotonic() - began
        assert min(self.newest_issue().values()) >= back
        for agent in self.agents:
            assert agent.wait_for(lambda line: line.startswith("notes.read: done"), within=20, after=len(agent.lines)) is not None
        return f"{role} away: held after {took:.1f} s, thawed {thawed:.1f} s after its return"

    def close(self) -> None:
        """The agents have ended, and their cgroups are gone."""
        for agent in self.agents:
            agent.stop()
        wait_until(lambda: not self.cgroups(), "the end of the agents", within=30)
        Cgroup(self.parent()).remove()


@pytest.fixture
def roles(cgroup_mount: Path, manufacturer: Manufacturer) -> Iterator[Roles]:  # noqa: ARG001 - without one no agent starts
    stage = Theatre()
    with performed(stage), manufacturer.tpm("host") as tpm, manufacturer.tpm("stranger") as stranger:
        roots = stage.place / "ca.pem"
        roots.write_bytes(manufacturer.root_pem + manufacturer.intermediates_pem)
        made = Roles(stage, tpm, stranger, roots)
        made.perform()
        try:
            yield made
        finally:
            made.close()


@pytest.mark.faults
@pytest.mark.cgroup
@pytest.mark.timeout(400)
def test_what_was_held_for_want_of_a_role_thaws_only_after_a_fresh_appraisal(roles: Roles) -> None:
    told = [roles.away(role) for role in ("verifier", "attestor", "enforcer")]

    print("", *told, sep="\n")

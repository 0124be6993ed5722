"""SIGKILL of daemon, zygote, holder, watchdog and agent, alone and together, during a launch and after it: no agent acts."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from enforcer.launch.cgroup import Cgroup
from enforcer.record import LogReader
from tests.enforcer.host import Host, wait_for
from writ.formats.eat import parse_token
from writ.formats.errors import Unavailable
from writ.formats.local import TokenGiven
from writ.formats.record import ActionRecord, OutcomeRecord

pytestmark = pytest.mark.cgroup

BUSY = """
for number in range(100_000):
    ask("notes", "read", name="today")
    time.sleep(0.005)
"""
BOUND = 5.0
"""Seconds within which an agent is frozen or gone, on two loaded cores."""
WATCHED = 0.2
"""Seconds for which it must stay so."""
DELAY = 0.06
VICTIMS = (
    ("daemon",),
    ("zygote",),
    ("holder",),
    ("watchdog",),
    ("agent",),
    ("holder", "watchdog"),
    ("daemon", "holder"),
    ("daemon", "watchdog"),
    ("zygote", "daemon"),
    ("zygote", "holder"),
    ("watchdog", "holder", "daemon"),
)
SEED = 4


class Round:
    """One launch, and what was killed in it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.known = set(host.attestor.instances)
        self.run = host.run("a")
        self.holder = 0
        self.died = 0.0
        self.acted = 0

    # --- how far the launch has come ------------------------------------------------------------------------------------

    def asked(self) -> bool:
        """The client was started."""
        return True

    def held(self) -> bool:
        """There is a holder."""
        found = children(self.zygote())
        self.holder = found[0] if found else self.holder
        return is_holder(self.holder)

    def zygote(self) -> int:
        """The process that becomes a holder for each run; 0 without one."""
        daemon = self.host.daemon
        return next((p for p in children(daemon.pid) if b"enforcer.zygote" in cmdline(p)), 0) if daemon is not None else 0

    def launched(self) -> bool:
        """The attestor has measured it."""
        return self.held() and self.instance() is not None

    def prepared(self) -> bool:
        """There is a cgroup."""
        return self.launched() and self.cgroup().exists()

    def started(self) -> bool:
        """A process waits at its gate, or runs."""
        return self.launched() and bool(self.agents())

    def running(self) -> bool:
        """It acts."""
        return self.launched() and self.size() > 2

    def instance(self) -> bytes | None:
        """The instance of this launch, once there is one."""
        found = set(self.host.attestor.instances) - self.known
        return next(iter(found)) if found else None

    def cgroup(self) -> Cgroup:
        """Its cgroup."""
        return self.host.cgroup_of(self.instance() or bytes(16))

    def agents(self) -> list[int]:
        """Processes that are, or are to be, the agent of this launch: in its cgroup, or about to join it."""
        cgroup = self.cgroup().child("agent")
        joins = f"{cgroup.path}/cgroup.procs".encode()
        joining = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and joins in cmdline(int(p.name))]
        return sorted({*cgroup.processes(), *joining})

    def size(self) -> int:
        """Actions in its log that were let pass: permitted, and not held back after that.

        What became of one that passed before may be written down after the death, as may one that was permitted just before and
        then held back; neither is an action.
        """
        instance = self.instance()
        if instance is None:
            return 0
        try:
            entries = LogReader(self.host.config.instance_dir(instance), instance).entries()
        except Unavailable:
            return 0
        records = [entry.record for entry in entries]
        permitted = sum(isinstance(record, ActionRecord) and record.permit for record in records)
        return permitted - sum(isinstance(record, OutcomeRecord) and record.outcome == "failed" for record in records)

    # --- death -----------------------------------------------------------------------------------------------------------

    def kill(self, victims: tuple[str, ...]) -> list[str]:
        """SIGKILL to each of them that is there, in this order; those that were."""
        found = {} if self.host.daemon is None else {"daemon": self.host.daemon.pid}
        if zygote := self.zygote():
            found["zygote"] = zygote
        if self.held():
            found["holder"] = self.holder
            for child in self._children():
                found["watchdog" if b"watchdog.py" in cmdline(child) else "agent"] = child
        killed = [victim for victim in victims if victim in found]
        self.acted, self.died = self.size(), time.monotonic()
        for victim in killed:
            try:
                os.kill(found[victim], signal.SIGKILL)
            except ProcessLookupError:
                killed.remove(victim)
        if "daemon" in killed and self.host.daemon is not None:
            self.host.daemon.wait()
            self.host.daemon = None
        return killed

    def _children(self) -> list[int]:
        return [c for c in children(self.holder) if b"watchdog.py" in (line := cmdline(c)) or AGENT in line]

    # --- what must hold afterwards -----------------------------------------------------------------------------------------

    def inert(self) -> bool:
        """No agent process is left, or all are frozen."""
        return not self.agents() or self.cgroup().frozen()

    def gone(self) -> bool:
        """Nothing of it is left, and nothing can join."""
        return not self.agents() and not self.cgroup().exists()

    def within(self, holds: Callable[[], bool]) -> float:
        """Seconds from the death until it holds; fails past the bound from now."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < BOUND, f"{holds}: {self.agents()} {self.cgroup().path} {self.log()}"
            time.sleep(0.002)
        return time.monotonic() - (self.died or began)

    def does_not_act(self) -> None:
        """No action passes for a while."""
        before = self.size()
        time.sleep(WATCHED)
        assert self.size() <= before

    def log(self) -> str:
        """The end of the daemon's and the holders' log."""
        return (self.host.folder / "daemon.log").read_text()[-1500:]

    def end(self) -> None:
        """Nothing is left of the round; the daemon serves."""
        if self.host.daemon is None:
            self.host.serve()
        if self.held():
            os.kill(self.holder, signal.SIGKILL)
        for path in (self.host.config.state_dir / "instances").glob("*/state.json"):
            holder = int(self.host.standing(bytes.fromhex(path.parent.name)).get("holder", 0))
            if is_holder(holder) and str(self.host.folder).encode() in cmdline(holder):
                os.kill(holder, signal.SIGKILL)
        if self.run.poll() is None:
            self.run.kill()
        self.run.communicate()
        self.host.runs.remove(self.run)
        self.within(lambda: not self.agents())
        wait_for(lambda: not [p for p in self.cgroup().path.parent.iterdir() if p.is_dir()])


def is_holder(pid: int) -> bool:
    """Whether that process is a holder, or is just becoming one."""
    return pid > 0 and b"enforcer.zygote" in cmdline(pid)


def children(pid: int) -> list[int]:
    """The children of all threads of a process."""
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


AGENT = b"/store/code/a.py"
POINTS = (Round.asked, Round.held, Round.launched, Round.prepared, Round.started, Round.running)


def one_round(host: Host, point: Callable[[Round], bool], victims: tuple[str, ...], delay: float) -> tuple[tuple[str, ...], float]:
    """Kill `victims` of a launch that came to `point`, `delay` seconds later. Who was killed, and seconds until it was contained.

    1. Without holder: gone by the watchdog, or by the daemon; where all are dead, inert without a gate, and gone with the next daemon.
    2. Without daemon: frozen or never started; thawed by a token issued after the next daemon came.
    3. Without watchdog: it runs on under another one.
    """
    this = Round(host)
    try:
        wait_for(lambda: point(this))
        time.sleep(delay)
        killed = this.kill(victims)
        took = 0.0
        if "holder" in killed:
            if {"daemon", "watchdog"} <= set(killed):
                this.does_not_act()
                host.serve()
            took = this.within(this.gone)
            this.does_not_act()
        elif "daemon" in killed:
            took = returns_after_a_fresh_appraisal(this)
        elif "agent" in killed:
            took = this.within(this.gone)
    finally:
        this.end()
    return tuple(killed), took


def returns_after_a_fresh_appraisal(this: Round) -> float:
    """The daemon is dead. Never started; or frozen until it is back, and thawed only by a token given since."""
    host = this.host
    wait_for(lambda: not is_holder(this.holder) or host.standing(this.instance() or b"")["state"] == "held")
    if not is_holder(this.holder):
        took = this.within(this.gone)
        this.does_not_act()
        return took
    instance = this.instance() or b""
    took = this.within(this.inert)
    this.does_not_act()
    assert this.cgroup().frozen()
    died, given = int(time.time()), len(host.attestor.given)
    host.serve()
    host.wait_state(instance, "running")
    fresh: TokenGiven = host.attestor.given[-1]
    assert len(host.attestor.given) > given
    assert parse_token(fresh.token).claims.issued_at >= died
    before = this.size()
    wait_for(lambda: this.size() > before)
    return took


def campaign(host: Host, rounds: int, seed: int) -> dict[tuple[str, ...], list[float]]:
    """That many rounds, every victim at every point in turn, at random moments after it."""
    host.agent("a", BUSY)
    dice = random.Random(seed)
    took: dict[tuple[str, ...], list[float]] = defaultdict(list)
    plan = [(point, victims) for point in POINTS for victims in VICTIMS]
    for number in range(rounds):
        point, victims = plan[number % len(plan)]
        killed, seconds = one_round(host, point, victims, dice.uniform(0, DELAY))
        took[killed].append(seconds)
        # for whoever watches a campaign
        print(f"{point.__name__}: {'+'.join(killed) or 'nobody'} killed, contained after {1000 * seconds:.0f} ms", flush=True)
    return took


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_no_agent_acts_after_any_death_at_any_time_of_a_launch(host: Host) -> None:
    took = campaign(host, len(POINTS) * len(VICTIMS), SEED)

    print()
    for killed, seconds in sorted(took.items()):
        print(
            f"killed {'+'.join(killed) or 'nobody (not there yet)'}: {len(seconds)} rounds, contained within {max(seconds) * 1000:.0f} ms"
        )
    assert sum(map(len, took.values())) >= 40


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victims", [("holder", "watchdog"), ("daemon",)], ids="+".join)
def test_no_agent_acts_after_the_death_of(host: Host, victims: tuple[str, ...]) -> None:
    host.agent("a", BUSY)

    killed, took = one_round(host, Round.running, victims, 0.01)

    assert killed == victims
    assert took < BOUND

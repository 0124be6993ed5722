"""10,000 decisions a second offered: what there is no room for is refused, whatever is answered is on record, and it recovers.

The agent's gate and the process that decides for services. Each is also offered less, for a moment, in every run of the tests.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from enforcer.record import LogReader
from tests.enforcer.gates.test_socket import Gate as AgentGate
from tests.enforcer.relying.behind import SITE, Gate
from tests.enforcer.relying.process import Process, asked
from tests.scale.offered import offer
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.record import ActionRecord, OutcomeRecord

GET = Action("http.get", f"{SITE}/v1/report", Digest.of(b""))
LINE = json.dumps({"id": 1, "tool": "notes", "method": "read", "arguments": {"name": "x" * 100}}).encode() + b"\n"
scale = [pytest.mark.scale, pytest.mark.timeout(180)]
RUNS = [pytest.param(2_000, 0.5, id="a moment"), pytest.param(10_000, 2.0, marks=scale, id="10,000 a second")]


def resident(pid: int | str = "self") -> int:
    """KiB that a process holds."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1])


class Watched:
    """The most that a process held meanwhile."""

    def __init__(self, pid: int | str) -> None:
        self._pid, self._over = pid, threading.Event()
        self.before = self.most = resident(pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, resident(self._pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def told(what: str, came: dict[str, Any], watched: Watched) -> Counter[str]:
    """The answers by their first word; everything offered was answered, and the process grew by no more than a bound."""
    words: Counter[str] = Counter()
    for answer, count in came["answers"].items():
        words[answer.partition(" ")[0]] += count
    sys.stderr.write(
        f"\n{what}: {came['offered']} offered, {dict(words)}, {came['cut']} cut, all in {came['seconds']} s;"
        f" resident {watched.before >> 10} MiB before, {watched.most >> 10} MiB at most; load {os.getloadavg()[0]:.1f}\n"
    )
    assert came["unanswered"] == 0
    assert watched.most - watched.before < 128 << 10
    return words


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[AgentGate]:
    made = AgentGate(tmp_path)
    made.scene.renew()
    yield made
    made.close()


@pytest.mark.parametrize("rate, seconds", RUNS)
def test_agents_gate_sheds_and_every_answer_but_for_want_of_room_has_its_record(
    gate: AgentGate, tmp_path: Path, rate: int, seconds: float
) -> None:
    gate.agents = type("Any", (set,), {"__contains__": lambda *_: True})()  # the one who asks is another process of the test's
    with Watched("self") as watched:
        came = offer(Path(gate.path), [LINE] * int(rate * seconds), rate=rate, connections=16, kind="lines", folder=tmp_path)
    words = told("agent's gate", came, watched)

    records = [entry.record for entry in LogReader(tmp_path, gate.scene.instance).entries()]
    actions = [one for one in records if isinstance(one, ActionRecord)]
    outcomes = {one.of for one in records if isinstance(one, OutcomeRecord)}
    named = {answer.partition(" ")[2] for answer in came["answers"]} - {"unrecorded"}
    assert named == {f"5f1c09ab-{one.sequence}" for one in actions}
    assert words["passed"] == sum(one.permit for one in actions) == gate.tool.called
    assert {one.sequence for one in actions if one.permit} == outcomes
    assert set(words) <= {"passed", "too-many-requests"}
    assert words["too-many-requests"] == sum(count for answer, count in came["answers"].items() if answer.endswith("unrecorded"))
    if rate == 10_000:
        assert words["too-many-requests"] > 0
    gate.scene.clock.since_boot += 2
    assert gate.ask()["ok"] is True


def question(gate: Gate) -> dict[str, str]:
    """What nginx asks, with a proof that nobody has used."""
    return {"Host": SITE.partition("://")[2], "X-Original-Method": "GET", "X-Original-URI": "/v1/report", **gate.proven()}


@pytest.mark.parametrize("rate, seconds", RUNS)
def test_relying_process_sheds_and_every_permit_is_on_record(tmp_path: Path, rate: int, seconds: float) -> None:
    gate, at = Gate(tmp_path, "nginx"), tmp_path / "fa.sock"
    with Process(gate, tmp_path, forward_auth=f"unix:{at}", proxy="nginx", origins=[SITE]) as process:
        process.refresh()

        def request() -> bytes:
            lines = [f"{name}: {value}" for name, value in question(gate).items()]
            return "\r\n".join(["GET /forward-auth HTTP/1.1", *lines, "", ""]).encode()

        some = min(int(rate * seconds), 10_000)
        made = [request() for _ in range(some)]
        requests = [made[number % some] for number in range(int(rate * seconds))]  # asked again, a proof is refused, and recorded as that
        with Watched(process.running.pid) as watched:
            came = offer(at, requests, rate=rate, connections=400, kind="http", folder=tmp_path)
        words = told("relying process", came, watched)
        recorded = [json.loads(line) for line in process.sink().splitlines()]
        permits = {one["reference"] for one in recorded if one["permit"]}
        passed = {answer.partition(" ")[2] for answer in came["answers"] if answer.startswith("passed ")}

        late = words["record-not-durable"]  # refused after 3 s, and perhaps written all the same
        assert passed <= permits
        assert len(permits - passed) <= late
        assert words["passed"] == len(passed)
        shed = words.pop("too-many-requests", 0)
        assert sum(words.values()) - late <= len(recorded) <= sum(words.values())
        assert rate < 10_000 or shed > 0
        process.refresh()
        assert asked(at, "GET", "/forward-auth", headers=question(gate))[0] == 200

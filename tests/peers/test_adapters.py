"""Hooks in the frameworks themselves, unmodified: what the gate permits runs, and nothing else does, whatever is amiss.

Each agent is a process with a model that wants one tool; nothing leaves loopback.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.enforcer.gates.test_socket import Gate
from tests.enforcer.records import entries_of
from tests.peers.conftest import LIB, ROOT
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord

pytestmark = pytest.mark.peers

AGENTS = [("langchain", "sync"), ("langchain", "async"), ("openai", "async"), ("claude", "async")]
FRAMEWORK = {"langchain": "langchain", "openai": "openai-agents", "claude": "claude"}
TOOL = {"langchain": "search_web", "openai": "search_web", "claude": "Bash"}


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """One that permits the tools of every framework."""
    made = Gate(tmp_path, *(("tool.call", f"advisory:{framework}/*") for framework in FRAMEWORK.values()))
    made.scene.renew()
    yield made
    made.close()


def run(agent: str, way: str, path: str, began: Callable[[int], object] = lambda _pid: None) -> Any:
    """What the agent says that ran, and what its model was told."""
    script = Path(__file__).parent / f"frameworks/{agent}_agent.py"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{LIB}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, script, path, TOOL[agent], way], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    began(process.pid)
    said, errors = process.communicate("go\n", timeout=100)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(said.splitlines()[-1])


@pytest.mark.parametrize("agent, way", AGENTS)
def test_a_permitted_tool_runs_and_its_record_says_advisory(agent: str, way: str, gate: Gate, tmp_path: Path) -> None:
    done = run(agent, way, gate.path, gate.agents.add)

    assert (done["ran"], done["refused"]) == (["tides"], False)
    (entry,) = entries_of(tmp_path, gate.scene.instance)
    assert isinstance(entry.record, ActionRecord)
    assert (entry.record.gate, entry.record.permit) == ("advisory", True)
    assert entry.record.resource == f"advisory:{FRAMEWORK[agent]}/{TOOL[agent]}"


@pytest.mark.parametrize("agent, way", AGENTS)
def test_a_refused_tool_does_not_run_and_the_model_is_told_why(agent: str, way: str, gate: Gate) -> None:
    gate.gatekeeper.cut(Reason("hold", "token", "a valid execution token", "none"))

    done = run(agent, way, gate.path, gate.agents.add)

    assert (done["ran"], done["refused"]) == ([], True)
    assert "Do not retry" in done["answer"]
    assert "5f1c09ab-1" in done["answer"]


@pytest.mark.parametrize("agent, way", AGENTS)
def test_without_a_gate_nothing_runs(agent: str, way: str, tmp_path: Path) -> None:
    done = run(agent, way, str(tmp_path / "none"))

    assert (done["ran"], done["refused"]) == ([], True)


@pytest.mark.parametrize("agent, way", AGENTS)
def test_a_gate_that_ends_without_an_answer_lets_nothing_run(agent: str, way: str, tmp_path: Path) -> None:
    path = str(tmp_path / "mute.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        server.shutdown(socket.SHUT_RDWR)
        done = run(agent, way, path)

    assert (done["ran"], done["refused"]) == ([], True)

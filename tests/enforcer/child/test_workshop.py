"""The child's side of the line, with a gatekeeper and no process: what is no command of this child is no action."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from enforcer import frames
from enforcer.child.line import LINE, MAX_FRAME, Answer, Do, End, Hold, Resume, Said
from enforcer.child.workshop import Bench, Workshop
from enforcer.events import AgentEnded, ParentHeld, ParentRuns
from enforcer.gatekeeper import Line
from enforcer.launch.cgroup import Cgroup
from tests.enforcer.scene import Scene
from writ.formats.errors import Misuse
from writ.formats.reason import Reason
from writ.formats.strict import encode_json

RECORD = bytes(range(32))


class Child:
    """A workshop whose bench starts nothing, and the parent's end of its line."""

    def __init__(self, folder: Path) -> None:
        scene = Scene(folder)
        scene.renew()
        self.instance, self.log = scene.instance, scene.log(folder)
        self.line, theirs = socket.socketpair()
        self.events: SimpleQueue[ParentHeld | ParentRuns | AgentEnded] = SimpleQueue()

        def nothing(*_: object) -> Any:
            raise Misuse("nothing is granted here")

        bench = Bench(("/bin/sh", "-c"), nothing, Cgroup(folder), nothing)
        self.workshop = Workshop(theirs, bench, scene.gatekeeper(self.log), agent="coder", instance=scene.instance)
        self.workshop.hear(self.events.put)

    def say(self, said: Said) -> None:
        frames.send(self.line, LINE.encode(said))

    def ask(self, **fields: object) -> Any:
        """The code of the refusal of a command with these fields."""
        self.say(Do(1, RECORD, encode_json(fields)))
        data = frames.receive(self.line, MAX_FRAME, 10)
        assert data is not None
        answer = LINE.parse(data)
        assert isinstance(answer, Answer)
        assert not answer.done
        return json.loads(answer.body)["refusal"]["reasons"][0]["code"]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child(tmp_path)
    yield made
    made.workshop.close()
    made.line.close()
    made.log.close()


def test_command_of_another_instance_is_no_action(child: Child) -> None:
    assert child.ask(instance="0" * 32, script="true") == "malformed"
    assert child.log.checkpoint().size == 0
    assert child.ask(instance=child.instance.hex(), script="true") == "grant-missing"
    assert child.log.checkpoint().size == 2, "one record, and the opening before it"


@pytest.mark.parametrize("last", [End(), Answer(1, True, b"{}"), None])
def test_what_ends_the_line_ends_the_child(child: Child, last: Said | None) -> None:
    child.say(Hold())
    child.say(Resume())
    if last is None:
        child.line.shutdown(socket.SHUT_WR)
    else:
        child.say(last)
    assert [type(child.events.get(timeout=5)) for _ in range(3)] == [ParentHeld, ParentRuns, AgentEnded]


def test_rubbish_ends_the_child(child: Child) -> None:
    frames.send(child.line, b"rubbish")
    assert child.events.get(timeout=5) == AgentEnded(0)


class Wire(Line):
    """Counts its cuts."""

    def __init__(self) -> None:
        self.cuts = 0

    def cut(self) -> None:
        self.cuts += 1

    def mend(self) -> None:
        pass


def test_line_that_was_released_is_cut_no_more(tmp_path: Path) -> None:
    scene, wire, kept = Scene(tmp_path), Wire(), Wire()
    log = scene.log(tmp_path)
    gatekeeper = scene.gatekeeper(log)
    for one in (wire, kept):
        gatekeeper.hold(one)
    gatekeeper.release(wire)
    gatekeeper.cut(Reason("hold", "a", "b", "c"))
    assert (wire.cuts, kept.cuts) == (0, 1)
    log.close()

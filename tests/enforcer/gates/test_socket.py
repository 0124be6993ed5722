"""The gate's wire: strict in, one contract out, whatever comes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enforcer.credential import Held
from enforcer.gates.socket import SocketGate
from enforcer.tools.tool import Led, Reply
from enforcer.wire.lines import MAX_LINE
from tests.enforcer.records import entries_of, records_of
from tests.enforcer.scene import Scene
from tests.parsers import assert_parser_is_total
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason
from writ.formats.record import OutcomeRecord


class Echo:
    """A tool that answers with its arguments, or as it is told, or fails."""

    fails = False
    instead = ""
    called = 0
    led: Led | None = None
    reply: Reply | None = None

    def action(self, method: str, arguments: bytes) -> Action:
        """As a local tool's."""
        return Action("tool.call", f"mcp:notes/{method}", Digest.of(arguments))

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """At once."""
        return contextlib.nullcontext()

    def against(self, method: str) -> Reason | None:
        """Nothing, or what it says instead of its definitions."""
        if self.instead:
            raise FormatError("tool notes", "a version", repr(self.instead))
        return None

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, led: Led) -> Reply:
        """Answer."""
        self.called += 1
        self.led = led
        if self.fails:
            raise Unavailable("tool notes", "it ended")
        return self.reply or Reply(True, arguments)

    def leave(self, within: float) -> None:
        """Nothing goes over."""

    def close(self) -> None:
        """Nothing to end."""


class Gate:
    """A gate for our own uid, over one scene, whose agent has the grants `more`."""

    def __init__(self, folder: Path, *more: tuple[str, str]) -> None:
        self.scene, self.tool = Scene(folder, more=more), Echo()
        self.log = self.scene.log(folder)
        self.gatekeeper = self.scene.gatekeeper(self.log)
        self.path = str(folder / "gate.sock")
        self.agents = {os.getpid()}
        self.gate = SocketGate(
            self.path, uid=os.getuid(), gid=os.getgid(), is_agent=lambda pid: pid in self.agents, gatekeeper=self.gatekeeper,
            tools={"notes": self.tool}, short="5f1c09ab",
        )  # fmt: skip

    def ask(self, **request: object) -> Any:
        """One request on a connection of its own."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.path)
            connection.sendall(json.dumps({"id": 1, "tool": "notes", "method": "read", "arguments": {}} | request).encode() + b"\n")
            return json.loads(connection.makefile("rb").readline())

    def close(self) -> None:
        """The end."""
        self.gate.close()
        self.log.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    made.scene.renew()
    yield made
    made.close()


def test_permitted_action_reaches_the_tool_once_with_canonical_arguments(gate: Gate) -> None:
    answer = gate.ask(id="x", arguments={"b": 1, "a": [True, None, "ä"]})

    assert answer == {"id": "x", "ok": True, "reference": "5f1c09ab-1", "result": {"a": [True, None, "ä"], "b": 1}}
    assert gate.tool.called == 1


def test_process_of_the_right_uid_that_is_not_the_agent_is_not_heard(gate: Gate) -> None:
    gate.agents.clear()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(gate.path)
        connection.settimeout(5)
        assert connection.recv(1) == b""
    assert gate.log.checkpoint().size == 0


def test_held_gate_refuses_and_nothing_reaches_the_tool(gate: Gate) -> None:
    gate.scene.credential.drop()
    answer = gate.ask()

    assert answer["ok"] is False
    (reason,) = answer["refusal"]["reasons"]
    assert set(reason) == {"code", "claim", "expected", "got", "remedy"}
    assert (reason["code"], answer["refusal"]["reference"]) == ("hold", "5f1c09ab-1")
    assert gate.tool.called == 0


def test_failed_forwarding_is_a_failed_outcome(gate: Gate) -> None:
    gate.tool.fails = True
    answer = gate.ask()
    _, outcome = records_of(gate.scene.folder, gate.scene.instance)

    assert (answer["ok"], answer["failure"]["what"]) == (False, "tool notes")
    assert isinstance(outcome, OutcomeRecord)
    assert outcome.outcome == "failed"


def test_what_a_tool_says_instead_of_its_definitions_stands_in_no_record(gate: Gate) -> None:
    gate.tool.instead = "patient-4711"
    answer = json.loads(gate.gate.answer(b'{"id":1,"tool":"notes","method":"read","arguments":{}}'))
    assert [one["code"] for one in answer["refusal"]["reasons"]] == ["unavailable"]
    [entry] = entries_of(Path(gate.path).parent, gate.scene.instance)
    assert b"4711" not in entry.leaf


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"id":1,"tool":"notes","method":"read"}',
        b'{"id":1,"tool":"notes","method":"read","arguments":{},"more":1}',
        b'{"id":1,"id":2,"tool":"notes","method":"read","arguments":{}}',
        b'{"id":1,"tool":"notes","method":"read","arguments":{"a":1,"a":2}}',
        b'{"id":1,"tool":"notes","method":"read","arguments":{"a":1.5}}',
        b'{"id":1,"tool":"notes","method":"read","arguments":{"a":"\\ud800"}}',
        b'{"id":"\\ud800","tool":"notes","method":"read","arguments":{}}',
        b'{"id":1,"tool":"notes","method":"../keys","arguments":{}}',
        b'{"id":1,"tool":"notes","method":"read//x","arguments":{}}',
        b'{"id":1,"tool":"notes/read","method":"x","arguments":{}}',
        b'{"id":true,"tool":"notes","method":"read","arguments":{}}',
        b'{"id":1,"tool":"notes","method":"read","arguments":[]}',
        b'{"id":1,"tool":"notes","method":"read","arguments":' + b"[" * 50 + b"]" * 50 + b"}",
        b"\xff\xfe",
    ],
)
def test_line_that_is_no_request_is_refused_as_malformed(gate: Gate, line: bytes) -> None:
    answer = json.loads(gate.gate.answer(line))

    assert (answer["id"], answer["ok"], answer["reference"]) == (None, False, None)
    assert [r["code"] for r in answer["refusal"]["reasons"]] == ["malformed"]
    assert gate.tool.called == 0
    assert gate.log.checkpoint().size == 0


def test_any_bytes_get_an_answer(gate: Gate) -> None:
    def parse(data: bytes) -> object:
        answer = json.loads(gate.gate.answer(data))
        if answer["id"] is None:
            raise FormatError("request", "a request", "none")
        return answer

    assert_parser_is_total(parse, b'{"arguments":{"a":1},"id":7,"method":"read","tool":"notes"}', flips=200, open_ended=True)


def test_line_without_end_is_cut_off(gate: Gate) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(gate.path)
        connection.sendall(b"x" * (MAX_LINE + 2))
        stream = connection.makefile("rb")
        assert b"malformed" in stream.readline()
        with contextlib.suppress(ConnectionResetError):
            assert stream.readline() == b""


def test_half_open_connections_leave_room_to_refuse_more(gate: Gate) -> None:
    """Sixteen silent connections take the instance's own room; a seventeenth is closed, and closing one makes room."""
    silent = [socket.socket(socket.AF_UNIX) for _ in range(16)]
    for connection in silent:
        connection.connect(gate.path)
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(gate.path)
        late.settimeout(5)
        assert late.recv(1) == b""
    for connection in silent:
        connection.close()
    from tests.enforcer.host import wait_for

    def answered() -> bool:
        try:
            return bool(gate.ask()["ok"])
        except (ConnectionError, json.JSONDecodeError):
            return False

    wait_for(answered)

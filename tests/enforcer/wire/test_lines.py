"""A client on a line that reads no more: it is cut off, what it asked for has its outcome, and others are answered."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enforcer.gates.mcp.stdio import McpStdioGate
from enforcer.wire.lines import MAX_CONNECTIONS
from tests.enforcer.gates.conftest import makes
from tests.enforcer.gates.mcp_rig import Gated, RemoteRig, Rig
from tests.enforcer.gates.test_mcp_remote import progress, working

WITHIN = 0.3
Make = Callable[..., Any]


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[Make]:
    yield from makes(Rig, tmp_path)


@pytest.fixture
def remotes(tmp_path: Path) -> Iterator[Make]:
    yield from makes(RemoteRig, tmp_path)


def line_of(rig: Gated) -> str:
    """Where a gate before the rig's desk listens, whose clients have little time."""
    path = str(rig.folder / "hasty.mcp.sock")
    made = McpStdioGate(path, uid=os.getuid(), gid=os.getgid(), is_agent=lambda _: True, desk=rig.desk, tell_within=WITHIN)
    rig.closing.callback(made.close)
    return path


def call(name: str, **meta: object) -> bytes:
    params = {"name": "read", "arguments": {"name": name}, "_meta": meta}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode() + b"\n"


def connected(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(path)
    return made


def test_a_client_that_takes_no_answer_is_cut_off_and_what_was_done_is_recorded_so(rigs: Make) -> None:
    rig = rigs()
    path = line_of(rig)
    with connected(path) as deaf:

        def ask_on() -> None:
            with contextlib.suppress(OSError):
                while True:
                    deaf.sendall(call("x" * 50_000))

        asking = threading.Thread(target=ask_on)
        asking.start()
        asking.join(30)
        held = asking.is_alive()
        deaf.shutdown(socket.SHUT_RDWR)  # so that a gate that holds on to it fails the test, and nothing more
        asking.join()
    assert not held

    found = rig.records()
    assert len(found) > 2
    assert found == [("tool.call", "mcp:notes/read", True), "done"] * (len(found) // 2)
    assert len(rig.heard("tools/call")) == len(found) // 2


def test_whoever_was_cut_off_leaves_room_for_others(rigs: Make) -> None:
    rig = rigs()
    path = line_of(rig)
    with contextlib.ExitStack() as kept:
        for _ in range(MAX_CONNECTIONS):
            deaf = kept.enter_context(connected(path))
            with contextlib.suppress(OSError):
                deaf.settimeout(30)
                while True:
                    deaf.sendall(call("x" * 50_000))
        with connected(path) as other:
            other.settimeout(30)
            other.sendall(call("today"))
            assert json.loads(other.makefile("rb").readline())["result"]["content"]


def test_a_client_that_hears_no_progress_stops_no_action_and_hears_no_answer_after_a_gap(remotes: Make) -> None:
    rig = remotes()
    path = line_of(rig)
    rig.site.script = working(*(lambda n, at=at: progress(n, at, message="x" * 2000) for at in range(1000)))
    with connected(path) as deaf:
        deaf.sendall(call("today", progressToken="mine"))
        deaf.settimeout(30)
        while deaf.recv(1, socket.MSG_PEEK) and len(rig.records()) < 3:  # it listens, and takes nothing, until the outcome is there
            pass
        lines = deaf.makefile("rb").read().splitlines(keepends=True)
    assert rig.records()[1:] == [("tool.call", "mcp:notes/read", True), "done"]
    assert 0 < len(lines) < 1000
    assert all(one.startswith(b'{"jsonrpc":"2.0","method":"notifications/progress"') for one in lines)

"""More asked than can be answered: requests written at a rate, whatever becomes of them, by a process of its own.

    python -m tests.scale.offered SOCKET RATE CONNECTIONS KIND REQUESTS

Offered is a request whose moment has come. Where a connection takes no more, since nobody reads there, it waits for the next moment that
one does. Said are the answers by what they say, what was never answered, and what was owed on connections that were cut.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

DRAINED_WITHIN: Final = 70.0
"""Seconds after the last request for what is still answered."""
_ROOT: Final = Path(__file__).parents[2]
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_SAID: Final = re.compile(rb"(?i)\r\nx-writ-(?:refusal|reference): *([^\r;]+)")
_ROOM: Final = 256 << 10


@dataclass
class _Connection:
    wire: socket.socket
    unwritten: bytearray = field(default_factory=bytearray)
    unread: bytearray = field(default_factory=bytearray)
    owed: int = 0


def offer(at: Path, requests: Sequence[bytes], *, rate: int, connections: int, kind: str, folder: Path) -> dict[str, Any]:
    """What came of `requests`, offered to the unix socket `at` by another process: `answers` by what they say, `seconds`, and the rest."""
    held = folder / "requests"
    held.write_bytes(b"".join(len(one).to_bytes(4, "big") + one for one in requests))
    command = [sys.executable, "-m", "tests.scale.offered", str(at), str(rate), str(connections), kind, str(held)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _answers(connection: _Connection, kind: str) -> list[str]:
    """Whole answers that have come, by what they say: `passed` with the reference, or the code of the refusal."""
    found: list[str] = []
    data = connection.unread
    while True:
        if kind == "lines":
            end = data.find(b"\n") + 1
            if not end:
                return found
            answer = json.loads(data[:end])
            found.append(f"passed {answer['reference']}" if answer["ok"] else _refused(answer))
        else:
            head = data.find(b"\r\n\r\n")
            if head < 0:
                return found
            length = _LENGTH.search(data, 0, head + 2)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(data) < end:
                return found
            said = _SAID.search(data, 0, head + 2)
            word = (said[1] if said else b"nothing").decode()
            found.append(f"passed {word}" if data.startswith(b"HTTP/1.1 200 ") else f"{word}")
        del data[:end]


def _refused(answer: dict[str, Any]) -> str:
    code = answer["refusal"]["reasons"][0]["code"] if "refusal" in answer else "failure"
    return f"{code} {answer['reference'] or 'unrecorded'}"


def _main(at: str, rate: int, count: int, kind: str, held: str) -> dict[str, Any]:
    data, requests, place = Path(held).read_bytes(), [], 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        requests.append(data[place + 4 : place + 4 + size])
        place += 4 + size
    selector, opened = selectors.DefaultSelector(), []
    for _ in range(count):
        wire = socket.socket(socket.AF_UNIX)
        wire.connect(at)
        wire.setblocking(False)
        opened.append(_Connection(wire))
        selector.register(wire, selectors.EVENT_READ, opened[-1])
    answers: Counter[str] = Counter()
    began, sent, cut = time.monotonic(), 0, 0
    deadline = began + len(requests) / rate + DRAINED_WITHIN
    while time.monotonic() < deadline and (sent < len(requests) or any(one.owed for one in opened)):
        due = min(len(requests), int((time.monotonic() - began) * rate))
        for number in range(sent, due):
            one = opened[number % len(opened)]
            one.unwritten += requests[number]
            one.owed += 1
        sent = due
        for one in opened:
            if one.unwritten:
                try:
                    del one.unwritten[: one.wire.send(one.unwritten[:_ROOM])]
                except BlockingIOError:
                    pass
                except OSError:
                    one.unwritten.clear()
        for key, _ in selector.select(0.001):
            one = key.data
            try:
                part = one.wire.recv(65536)
            except OSError:
                part = b""
            if not part:
                cut += one.owed
                one.owed = 0
                one.unwritten.clear()
                selector.unregister(one.wire)
                opened.remove(one)
                continue
            one.unread += part
            for answer in _answers(one, kind):
                answers[answer] += 1
                one.owed -= 1
        if not opened:
            break
    return {
        "answers": dict(answers), "seconds": round(time.monotonic() - began, 2), "offered": sent, "cut": cut,
        "unanswered": sum(one.owed for one in opened),
    }  # fmt: skip


if __name__ == "__main__":
    json.dump(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]), sys.stdout)

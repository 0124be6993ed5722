"""One command, run: a program in a sandbox and a cgroup of its own, its output taken and bounded, nothing of it left when it has ended."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from enforcer.launch.cgroup import Cgroup
from enforcer.launch.process import Program, Running, exit_status, start
from writ.formats.errors import Unavailable

_PART: Final = 65536
_REAPED_WITHIN: Final = 5.0


@dataclass(slots=True)
class Output:
    """What came of one stream: its first `most` bytes, and size and digest of all of it."""

    most: int
    kept: bytearray = field(default_factory=bytearray)
    size: int = 0
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def take(self, part: bytes) -> None:
        """`part` came."""
        self.kept += part[: max(0, self.most - self.size)]
        self.size += len(part)
        self._hash.update(part)

    def digest(self) -> str:
        """SHA-256 of all that came, as hex."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: `exit` by itself, with this status (its own, or 128 and the signal), or killed at its `time`."""

    how: str
    status: int
    out: Output
    error: Output

    @property
    def done(self) -> bool:
        """Whether it did what it was asked for, as far as it says."""
        return self.how == "exit" and self.status == 0


def execute(program: Program, cgroup: Cgroup, stdin: bytes, *, seconds: int, output: int, enter: Callable[[int], None]) -> Ended:
    """Run `program` alone in `cgroup`, which is gone afterwards, for at most `seconds`.

    1. It starts with three pipes, of which it gets no end but its own.
    2. Standard input is written and output is read until it closed both, or its time is over.
    3. Its status, once it has ended; at its time it is killed.
    4. Whatever it left is killed, and its cgroup removed.

    Raises Unavailable where it could not be started.
    """
    end = time.monotonic() + seconds
    out, error = Output(output), Output(output)
    with contextlib.ExitStack() as undone:
        undone.callback(_clear, cgroup)
        # 1
        (their_in, into), (out_of, their_out), (error_of, their_error) = (os.pipe() for _ in range(3))
        for ours in (out_of, error_of):
            undone.callback(os.close, ours)
        os.set_blocking(into, False)
        with open(into, "wb", buffering=0) as writer:
            try:
                running = start(program, cgroup, (their_in, their_out, their_error), enter)
            finally:
                for theirs in (their_in, their_out, their_error):
                    os.close(theirs)
            # 2
            _carry(writer.fileno(), writer.close, stdin, {out_of: out, error_of: error}, end)
        # 3
        return _ended(running, cgroup, end, out, error)


def _carry(into: int, close: Callable[[], None], stdin: bytes, streams: dict[int, Output], end: float) -> None:
    left, unread = memoryview(stdin), dict(streams)
    if not left:
        close()
    while unread and (remaining := end - time.monotonic()) > 0:
        readable, writable, _ = select.select(list(unread), [into] if left else [], [], remaining)
        for descriptor in readable:
            part = os.read(descriptor, _PART)
            unread[descriptor].take(part)
            if not part:
                del unread[descriptor]
        if writable:
            try:
                left = left[os.write(into, left[:_PART]) :]
            except BrokenPipeError:
                left = left[len(left) :]
            except BlockingIOError:
                continue
            if not left:
                close()


def _ended(running: Running, cgroup: Cgroup, end: float, out: Output, error: Output) -> Ended:
    try:
        return Ended("exit", exit_status(running.outer.wait(timeout=max(0.0, end - time.monotonic()))), out, error)
    except subprocess.TimeoutExpired:
        cgroup.kill()
    try:
        return Ended("time", exit_status(running.outer.wait(timeout=_REAPED_WITHIN)), out, error)
    except subprocess.TimeoutExpired:
        raise Unavailable("command", "it was killed, and has not ended") from None


def _clear(cgroup: Cgroup) -> None:
    cgroup.kill()
    cgroup.remove()

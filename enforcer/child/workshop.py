"""The child's side: commands come from the parent's holder, each is decided and recorded here, under the child's own token.

A child has no agent: nothing runs in it but a command, and nothing of a command is left when it has ended but its files. It has no gate
either, and no program in it holds or sees a token. The record of a command names, as what led to it, the parent's record of the same.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from enforcer import frames
from enforcer.child.command import Command, parse_command
from enforcer.child.execution import Ended, Output, execute
from enforcer.child.line import LINE, MAX_FRAME, Answer, Do, Hold, Resume
from enforcer.events import AgentEnded, ParentHeld, ParentRuns
from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.process import Program
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.measurement import UNMEASURED, Measurement
from writ.formats.reason import Reason
from writ.formats.strict import encode_json
from writ.service import cli, observe

GATE: Final = "instance"
RUN: Final = "instance.run"
MAX_COMMANDS: Final = 8
"""At one time."""
ANSWERED_WITHIN: Final = 5.0
"""Seconds that a child which ends waits for the outcomes of what it killed."""
_LOG = observe.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a command runs with: a program made of argv, folder and environment, a cgroup to make its own below, and its way out."""

    shell: tuple[str, ...]
    program: Callable[[tuple[str, ...], str, dict[str, str]], Program]
    cgroup: Cgroup
    enter: Callable[[int], Callable[[], None]]
    """Called with the first pid of a sandbox before its program runs; returns what is called when the program has ended."""


def line_of(descriptor: int, measurement: Measurement, *, asked: bool) -> socket.socket | None:
    """The line to the parent's holder, out of the standard input of a child's run; None for a run that is no child's.

    Raises Refused where a child's profile comes without a parent's `instance.start`, or that with another profile, or of an agent that is
    only watched: what nobody measured would act without a token.
    """
    profile = measurement.profile
    if asked != (profile in UNMEASURED):
        expected = f"{' or '.join(sorted(UNMEASURED))} for a child instance, another profile for a run"
        raise Refused(Reason("child-refused", "measurement.profile", expected, f"{profile} for a {'child' if asked else 'run'}"))
    if not asked:
        return None
    if measurement.mode != "enforce":
        raise Refused(Reason("child-refused", "measurement.mode", "enforce", measurement.mode))
    try:
        return socket.socket(fileno=os.dup(descriptor))
    except OSError:
        raise Refused(Reason("child-refused", "run", "a line to its parent's holder as standard input", "another")) from None


class Workshop:
    """The commands of one child, each in a thread of its own, at most `MAX_COMMANDS` at a time."""

    def __init__(self, line: socket.socket, bench: Bench, gatekeeper: Gatekeeper, *, agent: str, instance: bytes) -> None:
        """`line` is ours from now on."""
        self._line, self._bench, self._gatekeeper = line, bench, gatekeeper
        self._agent, self._instance = agent, instance
        self._numbers = count()
        self._room = threading.BoundedSemaphore(MAX_COMMANDS)
        self._working: set[threading.Thread] = set()
        self._lock, self._sending = threading.Lock(), threading.Lock()
        frames.bound_sends(line)

    def hear(self, said: Callable[[ParentHeld | ParentRuns | AgentEnded], None]) -> None:
        """Commands are taken from now on; `said` hears, in another thread, of everything else. The end of the line is the child's."""
        threading.Thread(target=self._hear, args=(said,), name="line", daemon=True).start()

    def _hear(self, said: Callable[[ParentHeld | ParentRuns | AgentEnded], None]) -> None:
        with contextlib.suppress(Unavailable, FormatError):
            while (data := frames.receive(self._line, MAX_FRAME, None)) is not None:
                match LINE.parse(data):
                    case Do() as do:
                        self._begin(do)
                    case Hold():
                        said(ParentHeld(time.monotonic_ns()))
                    case Resume():
                        said(ParentRuns())
                    case _:
                        break
        said(AgentEnded(0))

    def _begin(self, do: Do) -> None:
        if not self._room.acquire(blocking=False):
            excess = Reason("too-many-requests", "commands", f"at most {MAX_COMMANDS} at a time", "another")
            self._answer(do, done=False, body=_refusal((excess,), None))
            return
        thread = threading.Thread(target=self._attend, args=(do,), name="command", daemon=True)
        with self._lock:
            self._working.add(thread)
        thread.start()

    def _attend(self, do: Do) -> None:
        try:
            try:
                done, body = self._work(do)
            except Exception as error:  # noqa: BLE001 - a bug of ours is an answer, and its text does not leave
                _LOG.error("command-failed", exception=error)
                done, body = False, _refusal((Reason("internal", "command", "an answer", "a fault of ours"),), None)
            self._answer(do, done=done, body=body)
        finally:
            with self._lock:
                self._working.discard(threading.current_thread())
            self._room.release()

    def _work(self, do: Do) -> tuple[bool, dict[str, Any]]:
        """1. the command, 2. the ruling, 3. the running, 4. the outcome."""
        # 1
        try:
            command = parse_command(do.arguments)
            if command.instance != self._instance.hex():
                raise FormatError("command.instance", self._instance.hex(), command.instance)
        except FormatError as error:
            return False, _refusal((Reason("malformed", error.what[:100], error.expected, error.got),), None)
        # 2
        recorded = command.recorded()
        action = Action(RUN, f"agent:{self._agent}", Digest.of(recorded))
        ruling = self._gatekeeper.ask(action, recorded, gate=GATE, led_by=do.record)
        reference = None if ruling.sequence is None else f"{self._instance.hex()[:8]}-{ruling.sequence}"
        if not ruling.permit:
            return False, _refusal(ruling.reasons, reference)
        # 3
        try:
            ended = self._run(command)
        except Unavailable as error:
            failure = {"what": error.what, "detail": error.detail[:300]}
            self._outcome(ruling, done=False, result={"failure": failure})
            return False, {"failure": failure, "reference": reference}
        # 4
        said: dict[str, Any] = {"ended": ended.how, "status": ended.status, "stderr": _named(ended.error), "stdout": _named(ended.out)}
        self._outcome(ruling, done=ended.done, result=said, status=ended.status)
        for name, output in (("stdout", ended.out), ("stderr", ended.error)):
            said[name]["content"] = base64.b64encode(output.kept).decode()
        return ended.done, {**said, "reference": reference}

    def _run(self, command: Command) -> Ended:
        bench = self._bench
        program = bench.program(command.program(bench.shell), command.folder, dict(command.environment))
        cgroup = Cgroup.fresh(bench.cgroup.path, str(next(self._numbers)))
        closing: list[Callable[[], None]] = []
        try:
            return execute(
                program, cgroup, command.stdin, seconds=command.seconds, output=command.output,
                enter=lambda init: closing.append(bench.enter(init)),
            )  # fmt: skip
        finally:
            for close in closing:
                close()

    def _outcome(self, ruling: Ruling, *, done: bool, result: dict[str, Any], status: int | None = None) -> None:
        if not self._gatekeeper.outcome(ruling, done=done, result=encode_json(result), status=status):
            _LOG.error("outcome-not-durable", sequence=ruling.sequence)

    def _answer(self, do: Do, *, done: bool, body: dict[str, Any]) -> None:
        with self._sending, contextlib.suppress(Unavailable):
            frames.send(self._line, LINE.encode(Answer(do.number, done, encode_json(body))))

    def close(self) -> None:
        """No command is taken any more. What was killed has its outcome, as far as that comes within `ANSWERED_WITHIN`."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RD)
        with self._lock:
            working = list(self._working)
        end = time.monotonic() + ANSWERED_WITHIN
        for thread in working:
            thread.join(max(0.0, end - time.monotonic()))
        self._line.close()


def _named(output: Output) -> dict[str, Any]:
    return {"bytes": output.size, "sha256": output.digest()}


def _refusal(reasons: tuple[Reason, ...], reference: str | None) -> dict[str, Any]:
    return {"refusal": cli.refusal(reasons, reference), "reference": reference}

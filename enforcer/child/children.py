"""The parent's side: `instance` is a tool of an agent that may start children, with the methods start, run and end.

    > {"id": 1, "tool": "instance", "method": "start", "arguments": {"agent": "coder"}}
    < {"id": 1, "ok": true, "reference": "5f1c09ab-3", "result": {"agent": "coder", "instance": "4f0c…"}}
    > {"id": 2, "tool": "instance", "method": "run", "arguments": {"instance": "4f0c…", "script": "make test"}}
    < {"id": 2, "ok": true, "reference": "5f1c09ab-5", "result": {"ended": "exit", "reference": "4f0c1188-0", "status": 0,
       "stderr": {"bytes": 0, "content": "", "sha256": …}, "stdout": {"bytes": 12, "content": "b2suLi4K", "sha256": …}}}

The actions are `instance.start`, `instance.run` and `instance.end` on `agent:NAME`: the parent's grants and policy decide here, the
child's again at the child. A child is launched by the daemon like any other run, with this instance as its parent; its standard input is
the line over which commands go. The line ends with this process, and the child with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from enforcer import frames
from enforcer.child.command import MAX_SECONDS
from enforcer.child.line import LINE, MAX_FRAME, Answer, Do, End, Hold, Resume, Said
from enforcer.control import CONTROL, MAX_CONTROL, CouldNot, RefusedRun, Run, Started
from enforcer.credential import Held
from enforcer.tools.tool import Led, Reply
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_json, encode_json
from writ.service import cli

START: Final = "instance.start"
MAX_CHILDREN: Final = 4
START_WITHIN: Final = 60.0
"""Seconds for a child to be measured, attested and ready."""
END_WITHIN: Final = 30.0


@dataclass(slots=True)
class _Child:
    """One child: the run as its client sees it, and the line. Both end with it."""

    agent: str
    client: socket.socket
    line: socket.socket
    waiting: dict[int, Future[Answer]] = field(default_factory=dict)
    gone: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, said: Said) -> None:
        """The child hears it, or is ended: one that does not listen is not waited for."""
        try:
            with self.lock:
                frames.send(self.line, LINE.encode(said))
        except Unavailable:
            self.cut_off()

    def cut_off(self) -> None:
        """The child's holder sees both connections end, and ends the child."""
        for connection in (self.line, self.client):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Children:
    """The children of one instance. A tool of its gate, and a line of its gatekeeper: what holds the parent holds them."""

    def __init__(self, control: Path, instance: bytes) -> None:
        """`control` is the daemon's socket; `instance` is the parent."""
        self._control, self._instance = control, instance
        self._children: dict[str, _Child] = {}
        self._numbers = count()
        self._lock = threading.Lock()
        self._starting = 0
        self._held = self._closed = False

    # --- the tool ------------------------------------------------------------------------------------------------------

    def action(self, method: str, arguments: bytes) -> Action:
        """`instance.start`, `instance.run` or `instance.end` on `agent:NAME`."""
        f = Fields(decode_json(arguments, "instance"), "instance")
        if method == "start":
            agent = f.name("agent")
            f.done()
        elif method in ("run", "end"):
            agent = self._find(f.text("instance", most=32)).agent
        else:
            raise FormatError("method", "start, run or end", method[:80])
        return Action(f"instance.{method}", f"agent:{agent}", Digest.of(arguments))

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """At once: each child has a line of its own, where its commands are decided again."""
        return contextlib.nullcontext()

    def against(self, method: str) -> Reason | None:
        """Nothing."""

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, led: Led) -> Reply:
        """Start a child, run a command in it, or end it."""
        if held is None:
            raise Unavailable("instance", "a child needs its parent's token, and an observed agent has none")
        given: Any = decode_json(arguments, "instance")
        try:
            if method == "start":
                return self._start(given["agent"])
            child = self._find(given["instance"])
            if method == "end":
                child.say(End())
                if not child.gone.wait(END_WITHIN):
                    raise Unavailable("instance", f"it has not ended within {END_WITHIN:.0f} s")
                return Reply(True, encode_json({"instance": given["instance"]}))
            answer = self._ask(child, led.record, arguments)
            return Reply(answer.done, answer.body, _exit_status(answer.body))
        except Refused as refused:
            return Reply(False, encode_json({"refusal": cli.refusal(refused.reasons)}))

    def _find(self, handle: str) -> _Child:
        with self._lock:
            child = self._children.get(handle)
        if child is None:
            raise FormatError("instance", "an instance that start answered with, and that has not ended", handle[:40])
        return child

    # --- start -----------------------------------------------------------------------------------------------------------

    def _start(self, agent: str) -> Reply:
        """There is room, also for those that are being started."""
        with self._lock:
            if self._closed or len(self._children) + self._starting >= MAX_CHILDREN:
                raise Refused(Reason("too-many-requests", "instance", f"at most {MAX_CHILDREN} children at a time", "another"))
            self._starting += 1
        try:
            return self._launch(agent)
        finally:
            with self._lock:
                self._starting -= 1

    def _launch(self, agent: str) -> Reply:
        """1. The daemon launches it. 2. It is ready, and cut if this instance is by now."""
        # 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            client = frames.connect(str(self._control))
            frames.send(client, CONTROL.encode(Run(agent, (), self._instance, child=True)), (theirs.fileno(), null, null))
        except Unavailable:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(null)
        child = _Child(agent, client, ours)
        try:
            instance = self._started(client)
        except (Refused, Unavailable, FormatError):
            child.cut_off()
            ours.close()
            client.close()
            raise
        # 2
        frames.bound_sends(ours, 1)
        with self._lock:
            self._children[instance.hex()] = child
            held, closed = self._held, self._closed
        threading.Thread(target=self._hear, args=(instance.hex(), child), name="child", daemon=True).start()
        if held:
            child.say(Hold())
        if closed:
            child.cut_off()
        return Reply(True, encode_json({"agent": agent, "instance": instance.hex()}))

    @staticmethod
    def _started(client: socket.socket) -> bytes:
        """The instance, once it is ready. Raises Refused, Unavailable."""
        data = frames.receive(client, MAX_CONTROL, START_WITHIN)
        match None if data is None else CONTROL.parse(data):
            case Started(instance):
                return instance
            case RefusedRun(_, reasons, _):
                raise Refused(*reasons)
            case CouldNot(what, detail):
                raise Unavailable(what, detail)
            case _:
                raise Unavailable("instance", "its holder died while it started")

    # --- run -------------------------------------------------------------------------------------------------------------

    def _ask(self, child: _Child, record: bytes, arguments: bytes) -> Answer:
        number, answer = next(self._numbers), Future[Answer]()
        with self._lock:
            if child.gone.is_set():
                raise Unavailable("instance", "it has ended")
            child.waiting[number] = answer
        child.say(Do(number, record, arguments))
        try:
            return answer.result(timeout=2 * MAX_SECONDS)  # the child bounds it; a hold in between comes on top
        except TimeoutError:
            child.cut_off()
            raise Unavailable("instance", "it does not answer, and was ended") from None

    def _hear(self, handle: str, child: _Child) -> None:
        """Each answer goes to who waits for it, until the line ends, and then nobody waits any more."""
        with contextlib.suppress(Unavailable, FormatError):
            while (data := frames.receive(child.line, MAX_FRAME, None)) is not None:
                answer = LINE.parse(data)
                if not isinstance(answer, Answer):
                    break
                with self._lock:
                    waiting = child.waiting.pop(answer.number, None)
                if waiting is not None:
                    waiting.set_result(answer)
        child.cut_off()
        with self._lock:
            child.gone.set()
            self._children.pop(handle, None)
            left = list(child.waiting.values())
        for one in left:
            one.set_exception(Unavailable("instance", "it ended before its command did"))
        child.line.close()
        child.client.close()

    # --- the parent's standing ---------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """The children are held: no command begins, none goes on, and none connects. Their processes are frozen with ours by the kernel."""
        for child in self._all(held=True):
            child.say(Hold())

    def mend(self) -> None:
        """The children may go on, each under a fresh token of its own."""
        for child in self._all(held=False):
            child.say(Resume())

    def _all(self, *, held: bool) -> list[_Child]:
        with self._lock:
            if self._held == held:
                return []
            self._held = held
            return list(self._children.values())

    def leave(self, within: float) -> None:
        """Every child ends, and with it what it was asked for."""
        self.close()
        end = time.monotonic() + within
        while self._children and time.monotonic() < end:
            time.sleep(0.01)

    def close(self) -> None:
        """Every child ends."""
        with self._lock:
            self._closed = True
            left = list(self._children.values())
        for child in left:
            child.cut_off()


def _exit_status(body: bytes) -> int | None:
    """That of a command that ran, as its child answered."""
    said: Any = decode_json(body, "answer", max_size=MAX_FRAME)
    status = said.get("status") if isinstance(said, Mapping) else None
    return status if type(status) is int else None

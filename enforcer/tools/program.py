"""A local program on standard input and output.

It is started by the holder, in the instance's own cgroup but not among the
agent's processes, under another uid, so that the agent can neither signal nor
trace it nor write to its pipes. It gets one JSON-RPC 2.0 request a line and
answers with one a line; there is no handshake, and no more of MCP than this one
method (a whole server of it is `mcp_program`):

    {"id":1,"jsonrpc":"2.0","method":"tools/call","params":{"arguments":{…},"name":"read"}}
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from enforcer.credential import Held
from enforcer.estate import HeldTool
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.process import Program, Running, start
from enforcer.standstill import Standstill
from enforcer.tools.tool import CALL_WITHIN, MAX_REPLY, RESULT, Led, Reply, spelt
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason
from writ.formats.strict import decode_json, encode_json


def piped(program: Program, cgroup: Cgroup, errors: int) -> tuple[Running, tuple[int, int]]:
    """`program` runs, its standard error going to `errors`; what it reads, and what it says, are ours. Raises Unavailable."""
    server_in, into = os.pipe()
    out, server_out = os.pipe()
    try:
        running = start(program, cgroup, (server_in, server_out, errors))
    except Unavailable:
        os.close(into)
        os.close(out)
        raise
    finally:
        os.close(server_in)
        os.close(server_out)
    os.set_blocking(into, False)
    return running, (into, out)


class StdioTool:
    """A local program. One call at a time; one that breaks the protocol is out of use, a late answer is passed over."""

    def __init__(self, name: str, running: Running, pipes: tuple[int, ...], asked: int = 0, rest: bytes = b"") -> None:
        """`running` takes requests and answers on `pipes`; with none it is out of use. It was `asked` so often; `rest` was read."""
        self._name, self._running, self._next, self._rest = name, running, asked, rest
        self._in, self._out = pipes or (-1, -1)
        self._lock, self._still = threading.RLock(), Standstill()

    @classmethod
    def started(cls, name: str, program: Program, cgroup: Cgroup, errors: int) -> StdioTool:
        """Start it, its standard error going to `errors`. Raises Unavailable."""
        return cls(name, *piped(program, cgroup, errors))

    def leave(self, within: float) -> HeldTool:
        """No call is made any more, and one in flight fails: an answer to it that comes late is passed over."""
        self._still.call()
        if not self._lock.acquire(timeout=within):
            raise Unavailable(f"tool {self._name}", "its call does not end")
        self._lock.release()
        pipes = () if self._in < 0 else (self._in, self._out)
        return HeldTool(self._name, self._running.outer.pid, self._running.init, pipes, self._next, self._rest)

    @property
    def pid(self) -> int:
        """The pid of its sandbox."""
        return self._running.outer.pid

    def action(self, method: str, arguments: bytes) -> Action:
        """`tool.call` on `mcp:<tool>/<method>`."""
        return Action("tool.call", f"mcp:{self._name}/{method}", Digest.of(arguments))

    def turn(self) -> AbstractContextManager[object]:
        """It does one thing at a time: a call that waits for another is decided when it can be done, under the token of then."""
        return self._lock

    def against(self, method: str) -> Reason | None:
        """Nothing: it says nothing of itself."""

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, led: Led) -> Reply:
        """One tools/call and its answer."""
        with self._lock:
            if self._in < 0 or self._still.called:
                raise Unavailable(f"tool {self._name}", "it is not running")
            self._next += 1
            request = b'{"id":%d,"jsonrpc":"2.0","method":"tools/call","params":{"arguments":%s,"name":%s}}\n' % (
                self._next, arguments, encode_json(method),
            )  # fmt: skip
            end = time.monotonic() + CALL_WITHIN
            try:
                self._write(request, end)
                while True:
                    reply = self._answer(self._read_line(end))
                    if reply is not None:
                        return reply
                    if time.monotonic() > end:
                        raise Unavailable(f"tool {self._name}", f"old answers only within {CALL_WITHIN:.0f} s")
            except FormatError:
                self._drop()
                raise

    def _write(self, data: bytes, end: float) -> None:
        view = memoryview(data)
        while view:
            if not select.select([self._still.descriptor], [self._in], [], max(0.0, end - time.monotonic()))[1]:
                self._drop()  # half a request may be in the pipe
                raise Unavailable(f"tool {self._name}", f"it took no request within {CALL_WITHIN:.0f} s")
            try:
                view = view[os.write(self._in, view) :]
            except OSError as error:
                self._drop()
                raise Unavailable(f"tool {self._name}", f"{error.strerror}") from None

    def _read_line(self, end: float) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > MAX_REPLY:
                raise FormatError(f"tool {self._name}", f"a line of at most {MAX_REPLY} bytes", "more")
            ready = select.select([self._out, self._still.descriptor], [], [], max(0.0, end - time.monotonic()))[0]
            if self._still.called:
                raise Unavailable(f"tool {self._name}", "the enforcer comes over to other code")
            if not ready:
                raise Unavailable(f"tool {self._name}", f"no answer within {CALL_WITHIN:.0f} s")
            part = os.read(self._out, 65536)
            if not part:
                self._drop()
                raise Unavailable(f"tool {self._name}", "it ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _answer(self, line: bytes) -> Reply | None:
        """The reply to the request in flight; None for a late one to an earlier request."""
        value = decode_json(line, f"tool {self._name}", max_size=MAX_REPLY)
        if not isinstance(value, Mapping) or value.get("jsonrpc") != "2.0" or type(value.get("id")) is not int or value["id"] > self._next:
            raise FormatError(f"tool {self._name}", f"a JSON-RPC 2.0 answer to {self._next}", repr(value)[:80])
        if value["id"] < self._next:
            return None
        if ("result" in value) == ("error" in value):
            raise FormatError(f"tool {self._name}", "a result or an error", "both or none")
        if "error" in value:
            said: Any = value["error"]
            code = said.get("code") if isinstance(said, Mapping) else None
            return Reply(False, spelt(said), code if type(code) is int else None)
        result: Any = value["result"]
        return Reply(not (isinstance(result, Mapping) and result.get("isError") is True), spelt(result), RESULT)

    def _drop(self) -> None:
        if self._in >= 0:
            os.close(self._in)
            os.close(self._out)
            self._in = self._out = -1

    def close(self) -> None:
        """Kill it. A call in flight fails."""
        with contextlib.suppress(OSError):
            self._running.outer.kill()
        with self._lock:
            self._drop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.outer.wait(timeout=5)

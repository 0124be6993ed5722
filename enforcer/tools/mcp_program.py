"""A server of the Model Context Protocol that is a measured launch, on standard input and output."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from enforcer.estate import HeldTool
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.process import Program, Running
from enforcer.tools.mcp_server import Fault, Hearing, McpServer
from enforcer.tools.program import StdioTool, piped
from enforcer.tools.tool import CALL_WITHIN
from writ.formats.errors import FormatError, Unavailable
from writ.formats.mcp.answer import Said, parse_said
from writ.formats.mcp.approved import ApprovedServer
from writ.formats.mcp.protocol import MODERN


class McpProgram(McpServer, StdioTool):
    """One that breaks the protocol is out of use; one that answers with what nobody asked for only fails."""

    def __init__(
        self, name: str, running: Running, pipes: tuple[int, ...], asked: int = 0, rest: bytes = b"", *, approved: ApprovedServer
    ) -> None:  # fmt: skip
        """As `StdioTool`. One that was `asked` before has had its handshake: `leave` hands over no other."""
        StdioTool.__init__(self, name, running, pipes, asked, rest)
        McpServer.__init__(self, name, approved, greeted=asked > 0)

    @classmethod
    def launched(cls, name: str, program: Program, cgroup: Cgroup, errors: int, approved: ApprovedServer) -> McpProgram:
        """Start it, its standard error going to `errors`. Raises Unavailable."""
        return cls(name, *piped(program, cgroup, errors), approved=approved)

    def leave(self, within: float) -> HeldTool:
        """As `StdioTool`; one that was asked for its handshake and has not answered is out of use, since nobody knows what it speaks."""
        held = StdioTool.leave(self, within)
        unknown = self.approved.protocol != MODERN and not self._greeted and held.asked > 0
        return replace(held, pipes=()) if unknown else held

    def turn(self) -> AbstractContextManager[object]:
        """As `StdioTool`."""
        return StdioTool.turn(self)

    def close(self) -> None:
        """As `StdioTool`."""
        StdioTool.close(self)

    def _exchange(self, method: str, params: Mapping[str, Any], hearing: Hearing) -> Mapping[str, Any] | Fault:
        with self._lock:
            if self._in < 0 or self._still.called:
                raise Unavailable(f"tool {self._name}", "it is not running")
            end = time.monotonic() + CALL_WITHIN
            try:
                if self.approved.protocol != MODERN and not self._greeted:
                    greeting = Hearing()
                    self._greeted_by(self._ask("initialize", self._greeting(), greeting, end))
                    hearing.count(greeting)
                    self._write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n', end)
                    self._greeted = True
                return self._ask(method, params, hearing, end)
            except FormatError:
                self._drop()
                raise

    def _ask(self, method: str, params: Mapping[str, Any], hearing: Hearing, end: float) -> Mapping[str, Any] | Fault:
        self._next += 1
        self._write(self._envelope(self._next, method, params, hearing) + b"\n", end)
        while True:
            said = parse_said(self._read_line(end), f"tool {self._name}")
            if isinstance(said, Said):
                if said.identifier is None:
                    hearing.hear(said, self._next)
                else:
                    self._write(self._declining(said, hearing) + b"\n", end)
            elif not 1 <= said.identifier <= self._next:
                raise FormatError(f"tool {self._name}", f"an answer to {self._next}", f"one to {said.identifier}")
            elif said.identifier == self._next:
                return said.result if said.result is not None else Fault(*said.error) if said.error is not None else {}
            if time.monotonic() > end:
                raise Unavailable(f"tool {self._name}", f"no answer within {CALL_WITHIN:.0f} s, only other words")

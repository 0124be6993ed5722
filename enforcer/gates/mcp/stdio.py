"""The framing of standard input and output for a client that launches its server: one message a line, on a unix socket of each server.

The client launches a bridge in the agent's image, which knows nothing (`/run/writ/NAME.mcp.sock` is the socket of the server NAME):

    import socket, sys, threading
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile("rwb", buffering=0)
    threading.Thread(target=lambda: [sys.stdout.buffer.write(line) and sys.stdout.buffer.flush() for line in f], daemon=True).start()
    for line in sys.stdin.buffer: f.write(line)

There are no headers here, so a message is of the generation that it says itself. Answers come in the order of requests.
A client that does not take one is cut off, and what it asked for has its outcome all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from enforcer.gates.mcp.desk import Desk
from enforcer.gates.mcp.refusal import bad
from enforcer.wire.lines import LineGate, Tell
from enforcer.wire.stream import TELL_WITHIN
from writ.formats.mcp.protocol import BadMessage
from writ.formats.mcp.request import Note, parse_message


def socket_name(server: str) -> str:
    """The file of a server's socket, in the gate's folder."""
    return f"{server}.mcp.sock"


class McpStdioGate(LineGate):
    """The socket of one server."""

    def __init__(
        self, path: str, *, uid: int, gid: int, is_agent: Callable[[int], bool], desk: Desk, tell_within: float = TELL_WITHIN
    ) -> None:  # fmt: skip
        """As `LineGate`."""
        self._desk = desk
        super().__init__(path, uid=uid, gid=gid, is_agent=is_agent, tell_within=tell_within)

    def answer(self, line: bytes, tell: Tell | None = None) -> bytes | None:
        """The answer to one line; none to a notification. What comes before it is told, and nothing is held: other requests wait."""
        try:
            message = parse_message(line)
            return None if isinstance(message, Note) else self._desk.answer(message, tell=tell)
        except BadMessage as error:
            return bad(error)

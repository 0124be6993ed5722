"""The gate on a unix socket: one listener an instance, at which its agent, and nobody else, asks for its actions.

The agent finds the path in WRIT_SOCKET. One JSON object a line each way, at most 1 MiB, one request at a time on a connection:

    > {"id": 1, "tool": "notes", "method": "read", "arguments": {"name": "today"}}
    < {"id": 1, "ok": true, "reference": "5f1c09ab-12", "result": {…}}
    < {"id": 1, "ok": false, "reference": "5f1c09ab-13",
       "refusal": {"verdict": "refused", "reference": "5f1c09ab-13",
                   "reasons": [{"code": …, "claim": …, "expected": …, "got": …, "remedy": …}]}}
    < {"id": 1, "ok": false, "reference": "5f1c09ab-14", "failure": {"what": …, "detail": …}}      permitted, but the tool failed

The tool `advisory` is nobody: what it permits the agent's own process does or does not, so its records say gate `advisory`, its
resource is `advisory:METHOD`, and no outcome follows. It is for the hooks of frameworks (`enforcer.adapters`), which whoever has the
process can leave out.

`id` is an integer or a text of at most 64 characters, `arguments` an object without floating point numbers. `ok` is true where
the action passed and the tool says it was done; a tool's own error is `ok` false with a `result`. A line that is no request is
answered with rule `malformed` and a null id, and is not an action: no record is made of it.

A client needs nothing but a socket:

    s = socket.socket(socket.AF_UNIX); s.connect(os.environ["WRIT_SOCKET"]); f = s.makefile("rwb")
    f.write(json.dumps({"id": 1, "tool": "notes", "method": "read", "arguments": {}}).encode() + b"\\n"); f.flush()
    answer = json.loads(f.readline())

The gate adds token and proof, and the agent never sees either. Whoever connects is known by its pid, as the kernel recorded it:
the uid alone says nothing, because a slot's uid has had other instances before, whose setuid programs may still lie about.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from enforcer import frames
from enforcer.config import ADVISORY
from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.standstill import Standstill
from enforcer.tools import Reply, Tool, spelt
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_json, encode_json
from writ.service import cli, observe

GATE: Final = "socket"
MAX_LINE: Final = 1 << 20
MAX_CONNECTIONS: Final = 16
_PART: Final = 65536
_METHOD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}){0,7}\Z", re.ASCII)
_LOG = observe.get_logger(__name__)
Taken = tuple[socket.socket, Sequence[tuple[socket.socket, bytes]]]
"""A listener, and connections with what was read of each ahead."""


class SocketGate:
    """The listener of one instance and its connections, each in a thread of its own, at most `MAX_CONNECTIONS`."""

    def __init__(
        self, path: str, *, uid: int, gid: int, is_agent: Callable[[int], bool],
        gatekeeper: Gatekeeper, tools: Mapping[str, Tool], short: str,
        taken: Taken | None = None,
    ) -> None:  # fmt: skip
        """Listen at `path`, for processes of `uid` whose pid `is_agent`. `short` is the instance's short name in references.

        `taken` are a listener that is there already, and connections, of each of which somebody has read so much already.
        Raises Unavailable.
        """
        self._uid, self._is_agent, self._gatekeeper, self._tools, self._short = uid, is_agent, gatekeeper, tools, short
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._live: dict[socket.socket, threading.Thread] = {}
        self._left: dict[socket.socket, bytes] = {}
        self._lock = threading.Lock()
        self._told = observe.Seldom()
        self._still, self._closed = Standstill(), False
        self._server, connections = taken or (frames.listen(path, uid=uid, gid=gid, mode=0o600), ())
        for connection, rest in connections:
            if self._room.acquire(blocking=False):
                self._begin(connection, rest)
        threading.Thread(target=self._accept, name="gate", daemon=True).start()

    def _accept(self) -> None:
        for connection in frames.connections(self._server, self._still.readable):
            peer = frames.peer_of(connection)
            if peer.uid != self._uid or not self._is_agent(peer.pid) or not self._room.acquire(blocking=False):
                if self._told.now():
                    _LOG.warning("gate-peer-refused", uid=peer.uid, pid=peer.pid)
                connection.close()
                continue
            self._begin(connection, b"")

    def _begin(self, connection: socket.socket, rest: bytes) -> None:
        thread = threading.Thread(target=self._attend, args=(connection, rest), name="gate-connection", daemon=True)
        with self._lock:
            self._live[connection] = thread
        try:
            thread.start()
        except RuntimeError:  # no thread is left for it
            with self._lock:
                del self._live[connection]
            connection.close()
            self._room.release()

    def _attend(self, connection: socket.socket, rest: bytes) -> None:
        ahead, stays = bytearray(rest), False
        try:
            with contextlib.suppress(OSError):
                while line := self._line(connection, ahead):
                    connection.sendall(self.answer(line) + b"\n")
                    if len(line) > MAX_LINE:
                        return
                stays = line is None
        finally:
            with self._lock:
                if stays and not self._closed:
                    self._left[connection] = bytes(ahead)
                else:
                    del self._live[connection]
                    connection.close()
            self._room.release()

    def _line(self, connection: socket.socket, ahead: bytearray) -> bytes | None:
        """The next line, or what there is at the end of them or beyond the bound; None at a standstill. `ahead` is what was read beyond."""
        while b"\n" not in ahead and len(ahead) <= MAX_LINE:
            if not self._still.readable(connection):
                return None
            part = connection.recv(_PART)
            if not part:
                break
            ahead += part
        if self._still.called:
            return None
        end = ahead.find(b"\n") + 1 or len(ahead)
        line = bytes(ahead[: min(end, MAX_LINE + 1)])
        del ahead[: len(line)]
        return line

    def answer(self, line: bytes) -> bytes:
        """The answer to one line, whatever is in it."""
        try:
            identifier, tool, method, arguments = _parse(line)
        except FormatError as error:
            return encode_json({"id": None, "ok": False, "reference": None, "refusal": cli.refusal([_malformed(error)])})
        try:
            return encode_json({"id": identifier, **self._act(tool, method, arguments)})
        except Exception as error:  # noqa: BLE001 - a bug refuses, and its text does not leave
            _LOG.error("gate-failed", exception=error)
            return encode_json({"id": identifier, "ok": False, "reference": None, "refusal": cli.refusal([_INTERNAL])})

    def _act(self, name: str, method: str, arguments: bytes) -> dict[str, object]:
        """1. the action, 2. the ruling, 3. the forwarding, 4. the outcome."""
        # 1
        tool, advisory = self._tools.get(name), name == ADVISORY
        known = ", ".join(sorted(self._tools)) or "none"
        against = None if tool is not None or advisory else Reason("unknown-tool", "tool", f"one of {known}"[:200], name)
        try:
            none_of_ours = Action("tool.call", f"advisory:{method}" if advisory else f"mcp:{name}/{method}", Digest.of(arguments))
            action = none_of_ours if tool is None else tool.action(method, arguments)
        except FormatError as error:
            return {"ok": False, "reference": None, "refusal": cli.refusal([_malformed(error)])}
        # 2
        ruling = self._gatekeeper.ask(action, arguments, gate=ADVISORY if advisory else GATE, against=against)
        reference = None if ruling.sequence is None else f"{self._short}-{ruling.sequence}"
        if (tool is None and not advisory) or not ruling.permit or ruling.leaf is None:
            return {"ok": False, "reference": reference, "refusal": cli.refusal(ruling.reasons, reference)}
        if tool is None:
            return {"ok": True, "reference": reference, "result": None}
        # 3
        try:
            reply = tool.call(action, method, arguments, ruling.held, ruling.leaf)
        except (Unavailable, FormatError) as error:
            self._outcome(ruling, Reply(False, b""))
            return {"ok": False, "reference": reference, "failure": {"what": error.what, "detail": str(error)[:300]}}
        # 4
        self._outcome(ruling, reply)
        return {"ok": reply.done, "reference": reference, "result": decode_json(reply.body, "result")}

    def _outcome(self, ruling: Ruling, reply: Reply) -> None:
        if not self._gatekeeper.outcome(ruling, done=reply.done, result=reply.body):
            _LOG.error("outcome-not-durable", sequence=ruling.sequence)

    def leave(self, within: float) -> tuple[int, list[tuple[int, bytes]]]:
        """Nobody is attended to any more: the listener, and each connection on which no answer is owed with what was read of it ahead.

        One whose answer nobody takes within `within` seconds is cut.
        """
        self._still.call()
        end = time.monotonic() + within
        with self._lock:
            live = dict(self._live)
        for thread in live.values():
            thread.join(max(0.0, end - time.monotonic()))
        with self._lock:
            for connection in self._live.keys() - self._left.keys():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            return self._server.fileno(), [(connection.fileno(), rest) for connection, rest in self._left.items()]

    def close(self) -> None:
        """Nobody can connect any more, and every connection is cut."""
        self._closed = True
        self._still.call()
        self._server.close()
        with self._lock:
            for connection in self._live:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


_INTERNAL: Final = Reason("internal", "gate", "an answer", "a fault of ours")


def _malformed(error: FormatError) -> Reason:
    return Reason("malformed", error.what[:100], error.expected, error.got)


def _parse(line: bytes) -> tuple[int | str, str, str, bytes]:
    """Identifier, tool, method and the canonical argument bytes. Raises FormatError."""
    if len(line) > MAX_LINE:
        raise FormatError("request", f"a line of at most {MAX_LINE} bytes", "a longer one")
    f = Fields(decode_json(line, "request", max_size=MAX_LINE), "request")
    identifier = f.any("id")
    if isinstance(identifier, bool) or not isinstance(identifier, int | str) or (isinstance(identifier, str) and len(identifier) > 64):
        raise FormatError("request.id", "an integer or a text of at most 64 characters", type(identifier).__name__)
    tool, method = f.name("tool"), f.text("method", least=1, most=512)
    if not _METHOD.match(method):
        raise FormatError("request.method", "words of letters, digits, _ . - joined by /", repr(method)[:80])
    arguments = f.any("arguments")
    if not isinstance(arguments, dict):
        raise FormatError("request.arguments", "an object", type(arguments).__name__)
    f.done()
    spelt(identifier)
    return identifier, tool, method, spelt(arguments)

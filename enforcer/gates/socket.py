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

A request may have a `traceparent` (W3C Trace Context) beside: it is recorded, nothing is decided by it, and what is none is as if it were
not there.

`id` is an integer or a text of at most 64 characters, `arguments` an object without floating point numbers. `ok` is true where
the action passed and the tool says it was done; a tool's own error is `ok` false with a `result`. A line that is no request is
answered with rule `malformed` and a null id, and is not an action: no record is made of it.

A client needs nothing but a socket:

    s = socket.socket(socket.AF_UNIX); s.connect(os.environ["WRIT_SOCKET"]); f = s.makefile("rwb")
    f.write(json.dumps({"id": 1, "tool": "notes", "method": "read", "arguments": {}}).encode() + b"\\n"); f.flush()
    answer = json.loads(f.readline())

The gate adds token and proof, and the agent never sees either. A program that speaks the Model Context Protocol has `gates.mcp`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from enforcer.config import ADVISORY
from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.tools.tool import Led, Reply, Tool, spelt, undefined
from enforcer.wire.lines import MAX_LINE, LineGate, Taken, Tell
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import NO_TOKEN, Reason
from writ.formats.strict import Fields, decode_json, encode_json
from writ.formats.trace import parse_traceparent
from writ.service import cli, observe

GATE: Final = "socket"
_METHOD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}){0,7}\Z", re.ASCII)
_LOG = observe.get_logger(__name__)


class SocketGate(LineGate):
    """The gate at which an agent calls tools by one line each."""

    def __init__(
        self, path: str, *, uid: int, gid: int, is_agent: Callable[[int], bool],
        gatekeeper: Gatekeeper, tools: Mapping[str, Tool], short: str,
        taken: Taken | None = None,
    ) -> None:  # fmt: skip
        """As `LineGate`. `short` is the instance's short name in references. Raises Unavailable."""
        self._gatekeeper, self._tools, self._short = gatekeeper, tools, short
        super().__init__(path, uid=uid, gid=gid, is_agent=is_agent, taken=taken)

    def answer(self, line: bytes, _: Tell | None = None) -> bytes:
        """The answer to one line, whatever is in it."""
        try:
            asked = _parse(line)
        except FormatError as error:
            return encode_json({"id": None, "ok": False, "reference": None, "refusal": cli.refusal([_malformed(error)])})
        try:
            with self._turn(asked.tool):
                said, body = self._act(asked)
            answer = encode_json({"id": asked.identifier, **said})
            return answer if body is None else answer[:-1] + b',"result":' + body + b"}"  # `result` sorts behind all that was said
        except Exception as error:  # noqa: BLE001 - a bug refuses, and its text does not leave
            _LOG.error("gate-failed", exception=error)
            return encode_json({"id": asked.identifier, "ok": False, "reference": None, "refusal": cli.refusal([_INTERNAL])})

    def _turn(self, name: str) -> AbstractContextManager[object]:
        tool = self._tools.get(name)
        return nullcontext() if tool is None else tool.turn()

    def _act(self, asked: _Asked) -> tuple[dict[str, object], bytes | None]:
        """What is answered, and the result as spelt where there is one: 1. the action, 2. the ruling, 3. the forwarding, 4. the outcome."""
        # 1
        name, method, arguments = asked.tool, asked.method, asked.arguments
        tool, advisory, against = self._tools.get(name), name == ADVISORY, None
        try:
            if tool is not None:
                action = tool.action(method, arguments)
                # without a token nobody looks, so one that comes in this moment is too late for this call
                against = self._said_against(tool, method) if self._gatekeeper.passes() else NO_TOKEN
            else:
                action = Action("tool.call", f"advisory:{method}" if advisory else f"mcp:{name}/{method}", Digest.of(arguments))
                if not advisory:
                    known = ", ".join(sorted(self._tools)) or "none"
                    against = Reason("unknown-tool", "tool", f"one of {known}"[:200], name)
        except FormatError as error:
            return {"ok": False, "reference": None, "refusal": cli.refusal([_malformed(error)])}, None
        # 2
        gate = ADVISORY if advisory else GATE
        ruling = self._gatekeeper.ask(action, arguments, gate=gate, against=against, trace=asked.trace)
        reference = None if ruling.sequence is None else f"{self._short}-{ruling.sequence}"
        if (tool is None and not advisory) or not ruling.permit or ruling.leaf is None:
            return {"ok": False, "reference": reference, "refusal": cli.refusal(ruling.reasons, reference)}, None
        if tool is None:
            return {"ok": True, "reference": reference}, b"null"
        # 3
        try:
            reply = tool.call(action, method, arguments, ruling.held, Led(ruling.leaf, asked.trace))
        except (Unavailable, FormatError) as error:
            self._outcome(ruling, Reply(False, b""))
            return {"ok": False, "reference": reference, "failure": {"what": error.what, "detail": str(error)[:300]}}, None
        # 4
        self._outcome(ruling, reply)
        return {"ok": reply.done, "reference": reference}, reply.body

    def _said_against(self, tool: Tool, method: str) -> Reason | None:
        """A tool that cannot be asked for its definition has that against it."""
        try:
            return tool.against(method)
        except (Unavailable, FormatError) as error:
            return undefined(error.what, error)

    def _outcome(self, ruling: Ruling, reply: Reply) -> None:
        if not self._gatekeeper.outcome(ruling, done=reply.done, result=reply.body, status=reply.status):
            _LOG.error("outcome-not-durable", sequence=ruling.sequence)


_INTERNAL: Final = Reason("internal", "gate", "an answer", "a fault of ours")


def _malformed(error: FormatError) -> Reason:
    return Reason("malformed", error.what[:100], error.expected, error.got)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request; `arguments` in their one spelling, `trace` as `formats.trace` has it."""

    identifier: int | str
    tool: str
    method: str
    arguments: bytes
    trace: bytes | None


def _parse(line: bytes) -> _Asked:
    """Read one line. Raises FormatError."""
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
    trace = parse_traceparent(f.any("traceparent")) if f.has("traceparent") else None
    f.done()
    if isinstance(identifier, str):
        spelt(identifier)
    return _Asked(identifier, tool, method, spelt(arguments), trace)

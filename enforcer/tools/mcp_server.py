"""A server of the Model Context Protocol, as a local tool: a measured launch on standard input and output, of either generation.

What was approved of it lies in a measured component as `NAME.mcp.json`, and says which generation it speaks. A tool without that file is a
plain one (`tools.StdioTool`). Its own requests to us are declined and its notifications passed over: it is asked, and asks nothing.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from enforcer.credential import Held
from enforcer.estate import HeldTool
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.image import place_of, within
from enforcer.launch.process import Program, Running
from enforcer.tools.program import StdioTool, piped
from enforcer.tools.tool import CALL_WITHIN, MAX_REPLY, Reply
from writ.formats.action import Action
from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.mcp.answer import Said, listed, parse_result, parse_said, theirs
from writ.formats.mcp.approved import ApprovedServer, definition_digest, encode_approved, instructions_digest, parse_approved
from writ.formats.mcp.protocol import LEGACY, MAX_LIST, METHOD_NOT_FOUND, MODERN
from writ.formats.mcp.request import modern_meta
from writ.formats.measurement import Measurement
from writ.formats.reason import Reason
from writ.formats.strict import decode_json, encode_json
from writ.service import observe
from writ.verdict.definition import Kind, judge_definition

CLIENT, VERSION = "writ-enforcer", "1"
"""What servers hear of who asks, and clients of who answers."""
MAX_PAGES: Final = 64
_LOG = observe.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """An error that a server answered with."""

    code: int
    message: str


def approved_of(folder: Path, measurement: Measurement, name: str) -> ApprovedServer | None:
    """What was approved of the tool `name`, as measured: `folder` has the mounted images. None where there is no such file.

    Raises FormatError for one that is malformed, and for two; Unavailable.
    """
    found: list[ApprovedServer] = []
    for part in measurement.components:
        if part.kind != "tools":
            continue
        path = within(place_of(folder, part), f"/{name}.mcp.json")
        try:
            if path is not None and path.is_file():
                with path.open("rb") as file:
                    found.append(parse_approved(file.read(MAX_REPLY + 1)))
        except OSError as error:
            raise Unavailable(f"{name}.mcp.json", f"{error.strerror}") from None
    if len(found) > 1:
        raise FormatError(f"{name}.mcp.json", "in one component", f"in {len(found)}")
    return found[0] if found else None


class McpServer(StdioTool):
    """One request at a time. One that breaks the protocol is out of use; one that answers with what nobody asked for only fails."""

    def __init__(
        self, name: str, running: Running, pipes: tuple[int, ...], asked: int = 0, rest: bytes = b"", *, approved: ApprovedServer
    ) -> None:  # fmt: skip
        """As `StdioTool`. One that was `asked` before has had its handshake: `leave` hands over no other."""
        super().__init__(name, running, pipes, asked, rest)
        self.approved, self._greeted = approved, asked > 0
        self._instructions: str | None = None
        self._capabilities: Mapping[str, Any] = {}

    @classmethod
    def launched(cls, name: str, program: Program, cgroup: Cgroup, errors: int, approved: ApprovedServer) -> McpServer:
        """Start it, its standard error going to `errors`. Raises Unavailable."""
        return cls(name, *piped(program, cgroup, errors), approved=approved)

    def leave(self, within: float) -> HeldTool:
        """As `StdioTool`; one that was asked for its handshake and has not answered is out of use, since nobody knows what it speaks."""
        held = super().leave(within)
        unknown = self.approved.protocol != MODERN and not self._greeted and held.asked > 0
        return replace(held, pipes=()) if unknown else held

    # --- asking it ---------------------------------------------------------------------------------------------------------

    def request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any] | Fault:
        """What of its result was asked for, or its error. Raises Unavailable, FormatError."""
        with self._lock:
            answered = self._greet_and_ask(method, params)
        if isinstance(answered, Fault):
            return answered
        return parse_result(method, params, answered)

    def list_all(self, method: str) -> list[dict[str, Any]]:
        """Every entry of a list, whatever its pages. Raises Unavailable, FormatError."""
        entries: list[dict[str, Any]] = []
        params: dict[str, Any] = {}
        for _ in range(MAX_PAGES):
            result = self.request(method, params)
            if isinstance(result, Fault):
                raise Unavailable(f"tool {self._name}", f"{method}: error {result.code}")
            entries += listed(method, result)
            if len(entries) > MAX_LIST:
                break
            if not result.get("nextCursor"):
                return entries
            params = {"cursor": result["nextCursor"]}
        raise FormatError(f"tool {self._name}", f"at most {MAX_LIST} entries on {MAX_PAGES} pages", "more")

    def definitions(self, kind: Kind) -> list[dict[str, Any]]:
        """What it says now of its tools or prompts, approved or not."""
        return self.list_all(f"{kind}/list") if self.approved.serves(f"{kind}/list") else []

    def judge(self, kind: Kind, name: str, listed: Sequence[Mapping[str, Any]]) -> Reason | None:
        """Why the definition of `name` is not the approved one."""
        return judge_definition(self.approved, kind, name, listed)

    @property
    def instructions(self) -> str | None:
        """What it says a model should know, where that was approved. Raises Unavailable, FormatError."""
        if self.approved.instructions is None:
            return None
        modern = self.approved.protocol == MODERN
        with self._lock:
            answered = self._greet_and_ask("server/discover" if modern else "ping", {})
        if modern and not isinstance(answered, Fault):
            self._take(answered)
        said = self._instructions
        return said if said is not None and instructions_digest(said) == self.approved.instructions else None

    def propose(self) -> tuple[ApprovedServer, list[dict[str, Any]]]:
        """What would have to be approved for all that it offers to be served, and the definitions as it says them.

        Raises Unavailable, FormatError, also for a server of the other generation.
        """
        modern = self.approved.protocol == MODERN
        with self._lock:
            answered = self._greet_and_ask("server/discover" if modern else "ping", {})
        if modern and isinstance(answered, Fault):
            raise FormatError(f"tool {self._name}", f"protocol {MODERN}", f"error {answered.code}")
        if modern and not isinstance(answered, Fault):
            self._take(answered)
        offered, definitions = self._capabilities, dict[str, list[dict[str, Any]]]()
        for kind in ("tools", "prompts"):
            definitions[kind] = self.list_all(f"{kind}/list") if kind in offered else []
        tools, prompts = ({str(one["name"]): definition_digest(one) for one in definitions[kind]} for kind in ("tools", "prompts"))
        said = None if self._instructions is None else instructions_digest(self._instructions)
        found = ApprovedServer(self.approved.protocol, tools, prompts, "resources" in offered, "completions" in offered, said)
        return parse_approved(encode_approved(found)), [*definitions["tools"], *definitions["prompts"]]

    def _take(self, about: Mapping[str, Any]) -> None:
        """What it says of itself."""
        capabilities, instructions = about.get("capabilities"), about.get("instructions")
        self._capabilities = capabilities if isinstance(capabilities, Mapping) else {}
        self._instructions = instructions if isinstance(instructions, str) else None

    # --- as a tool of the socket gate ----------------------------------------------------------------------------------------

    def against(self, method: str) -> Reason | None:
        """That the tool's definition is not the approved one."""
        return self.judge("tools", method, self.definitions("tools"))

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, record: bytes = b"") -> Reply:
        """One tools/call and its answer."""
        result = self.request("tools/call", {"name": method, "arguments": decode_json(arguments, "arguments")})
        if isinstance(result, Fault):
            return Reply(False, encode_json({"code": theirs(result.code), "message": result.message}))
        return Reply(result.get("isError") is not True, spelt(result))

    # --- the wire ----------------------------------------------------------------------------------------------------------

    def _greet_and_ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any] | Fault:
        if self._in < 0 or self._still.called:
            raise Unavailable(f"tool {self._name}", "it is not running")
        end = time.monotonic() + CALL_WITHIN
        try:
            if self.approved.protocol != MODERN and not self._greeted:
                self._greet(end)
            return self._ask(method, params, end)
        except FormatError:
            self._drop()
            raise

    def _greet(self, end: float) -> None:
        """The handshake of the older generation, in the version that was approved. Raises FormatError for another."""
        wanted = self.approved.protocol
        info = {"name": CLIENT, "version": VERSION}
        result = self._ask("initialize", {"protocolVersion": wanted, "capabilities": {}, "clientInfo": info}, end)
        got = result.message if isinstance(result, Fault) else result.get("protocolVersion")
        if isinstance(result, Fault) or got != wanted:
            raise FormatError(f"tool {self._name}", f"protocol {wanted}", repr(got)[:80])
        self._take(result)
        self._write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n', end)
        self._greeted = True

    def _ask(self, method: str, params: Mapping[str, Any], end: float) -> Mapping[str, Any] | Fault:
        self._next += 1
        meta = {"_meta": modern_meta(CLIENT, VERSION)} if self.approved.protocol == MODERN else {}
        request = {"id": self._next, "jsonrpc": "2.0", "method": method, "params": {**params, **meta}}
        self._write(spelt(request) + b"\n", end)
        while True:
            said = parse_said(self._read_line(end), f"tool {self._name}")
            if isinstance(said, Said):
                self._decline(said, end)
            elif not 1 <= said.identifier <= self._next:
                raise FormatError(f"tool {self._name}", f"an answer to {self._next}", f"one to {said.identifier}")
            elif said.identifier == self._next:
                return said.result if said.result is not None else Fault(*said.error) if said.error is not None else {}
            if time.monotonic() > end:
                raise Unavailable(f"tool {self._name}", f"no answer within {CALL_WITHIN:.0f} s, only other words")

    def _decline(self, said: Said, end: float) -> None:
        """It hears that its request is not served here: no sampling, no elicitation, no roots."""
        if said.identifier is None:
            return
        _LOG.warning("server-request-refused", tool=self._name, method=said.method[:60])
        error = {"code": METHOD_NOT_FOUND, "message": "nothing is served to a server here"}
        answer: dict[str, Any] = {"result": {}} if said.method == "ping" else {"error": error}
        self._write(spelt({"id": said.identifier, "jsonrpc": "2.0", **answer}) + b"\n", end)


def spelt(value: object) -> bytes:
    """The one spelling, of decoded JSON with floats. Raises FormatError for text that has none."""
    try:
        return encode_json(value, floats=True)
    except UnicodeEncodeError:
        raise FormatError("JSON text", "Unicode", "a lone surrogate") from None


def proposal(command: Sequence[str], protocol: str | None = None) -> tuple[ApprovedServer, list[dict[str, Any]]]:
    """As `McpServer.propose`, of a program that is started here, as whoever asks, in no sandbox, and ended. It is tried as one of the newer
    generation first where no `protocol` is given.

    Raises Unavailable, FormatError.
    """
    for tried in (MODERN, LEGACY[0]) if protocol is None else (protocol,):
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise Unavailable(command[0], f"{error.strerror}") from None
        with process:
            if process.stdin is None or process.stdout is None:
                raise Misuse("pipes were asked for")
            pipes = (os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno()))
            os.set_blocking(pipes[0], False)
            server = McpServer("server", Running(process, process.pid), pipes, approved=ApprovedServer(tried, {}, {}))
            try:
                return server.propose()
            except (FormatError, Unavailable):
                if tried != MODERN or protocol is not None:
                    raise
            finally:
                server.close()
    raise Misuse("a protocol at least is tried")

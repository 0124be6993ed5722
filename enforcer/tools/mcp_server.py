"""A server of the Model Context Protocol, of either generation, behind whatever wire: what it is asked, and what of its answers is taken.

What was approved of it lies in a measured component as `NAME.mcp.json`, and says which generation it speaks. A tool without that file is a
plain one (`program.StdioTool`). A server is asked, and asks nothing: what it wants of its client is in its answer, or is declined.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from enforcer.credential import Held
from enforcer.estate import HeldTool
from enforcer.tools.tool import RESULT, Led, Reply
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.mcp.answer import Said, listed, parse_progress, parse_result, theirs
from writ.formats.mcp.approved import ApprovedServer, definition_digest, encode_approved, instructions_digest, parse_approved
from writ.formats.mcp.input import INPUT_REQUIRED, InputRequired, parse_input_required
from writ.formats.mcp.protocol import MAX_LIST, METHOD_NOT_FOUND, MODERN
from writ.formats.mcp.request import NAMED, modern_meta
from writ.formats.reason import Reason
from writ.formats.strict import decode_json, encode_json
from writ.service import observe
from writ.verdict.definition import Kind, judge_definition

CLIENT, VERSION = "writ-enforcer", "1"
"""What servers hear of who asks, and clients of who answers."""
MAX_PAGES: Final = 64
MAX_LISTED: Final = 4 << 20
"""Bytes of a whole list."""
LISTED_WITHIN: Final = 60.0
"""Seconds after which no further page is asked for."""
MAX_TOLD: Final = 1024
"""Notifications of progress of one request."""
_LOG = observe.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """An error that a server answered with."""

    code: int
    message: str


class Hearing:
    """What comes beside the answer to one request. Progress is passed on, at most `MAX_TOLD` times and only as it grows; what else comes is
    not, and is counted."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None] | None = None, offers: frozenset[str] = frozenset()) -> None:
        """`tell` passes progress on; none is asked for where it is None. `offers` are the kinds of questions that may come back."""
        self.tell, self.offers = tell, offers
        self.withheld, self.declined, self.asked = 0, list[str](), 0
        self._told, self._far = 0, float("-inf")

    def hear(self, said: Said, token: int) -> None:
        """A notification, while the request of this number is answered."""
        if said.method == "notifications/progress" and self.tell is not None and self._told < MAX_TOLD:
            with contextlib.suppress(FormatError):
                progress = parse_progress(said.params, token)
                if progress["progress"] > self._far:
                    self._told, self._far = self._told + 1, progress["progress"]
                    self._tell(progress)
                    return
        self.withheld += 1

    def count(self, other: Hearing) -> None:
        """What came beside a request of our own, on the way to this one, is counted here. Of its progress nothing was asked for."""
        self.withheld += other.withheld
        self.declined += other.declined

    def _tell(self, progress: Mapping[str, Any]) -> None:
        try:
            if self.tell is not None:
                self.tell(progress)
        except OSError:  # nobody listens any more: the action goes on
            self.tell = None


class McpServer(ABC):
    """One request at a time, whatever the wire."""

    def __init__(self, name: str, approved: ApprovedServer, *, greeted: bool = False) -> None:
        """`greeted` where the handshake of the older generation is over."""
        self._name, self.approved, self._greeted = name, approved, greeted
        self._instructions: str | None = None
        self._capabilities: Mapping[str, Any] = {}
        self._defined: Mapping[str, Mapping[str, Any]] = {}

    @abstractmethod
    def turn(self) -> AbstractContextManager[object]:
        """As `Tool`."""

    @abstractmethod
    def leave(self, within: float) -> HeldTool | None:
        """As `Tool`."""

    @abstractmethod
    def close(self) -> None:
        """As `Tool`."""

    @abstractmethod
    def _exchange(self, method: str, params: Mapping[str, Any], hearing: Hearing) -> Mapping[str, Any] | Fault:
        """Ask, after the handshake where there is one. Raises Unavailable, FormatError; Refused where the way to it was."""

    # --- asking it ---------------------------------------------------------------------------------------------------------

    def request(self, method: str, params: Mapping[str, Any], hearing: Hearing | None = None) -> dict[str, Any] | Fault | InputRequired:
        """What of its result was asked for, its error, or what it wants first. Raises Unavailable, FormatError, Refused."""
        answered = self._exchange(method, params, hearing or Hearing())
        if isinstance(answered, Fault):
            return answered
        if answered.get("resultType") == INPUT_REQUIRED and method in NAMED and self.approved.protocol == MODERN:
            return parse_input_required(answered, f"result of {method}")
        return parse_result(method, params, answered)

    @staticmethod
    def _other(result: Fault | InputRequired) -> str:
        return f"error {result.code}" if isinstance(result, Fault) else "it wants input first"

    def list_all(self, method: str) -> list[dict[str, Any]]:
        """Every entry of a list, whatever its pages. Raises Unavailable, FormatError."""
        entries: list[dict[str, Any]] = []
        params: dict[str, Any] = {}
        size, end = 0, time.monotonic() + LISTED_WITHIN
        for _ in range(MAX_PAGES):
            if time.monotonic() > end:
                raise Unavailable(f"tool {self._name}", f"{method}: not whole within {LISTED_WITHIN:g} s")
            result = self.request(method, params)
            if not isinstance(result, dict):
                raise Unavailable(f"tool {self._name}", f"{method}: {self._other(result)}")
            page, more = listed(method, result), result.get("nextCursor")
            entries += page
            if more or params:  # one page alone is within the bound of an answer, and most lists are one: asked for before each call
                size += len(spelt(page))
            if len(entries) > MAX_LIST or size > MAX_LISTED:
                break
            if not more:
                return entries
            params = {"cursor": more}
        raise FormatError(f"tool {self._name}", f"at most {MAX_LIST} entries on {MAX_PAGES} pages, of {MAX_LISTED} bytes", "more")

    def definitions(self, kind: Kind) -> list[dict[str, Any]]:
        """What it says now of its tools or prompts, approved or not."""
        found = self.list_all(f"{kind}/list") if self.approved.serves(f"{kind}/list") else []
        if kind == "tools":
            self._defined = {str(one.get("name")): one for one in found}
        return found

    def judge(self, kind: Kind, name: str, listed: Sequence[Mapping[str, Any]]) -> Reason | None:
        """Why the definition of `name` is not the approved one."""
        return judge_definition(self.approved, kind, name, listed)

    @property
    def instructions(self) -> str | None:
        """What it says a model should know, where that was approved. Raises Unavailable, FormatError."""
        if self.approved.instructions is None:
            return None
        modern = self.approved.protocol == MODERN
        answered = self._exchange("server/discover" if modern else "ping", {}, Hearing())
        if modern and not isinstance(answered, Fault):
            self._take(answered)
        said = self._instructions
        return said if said is not None and instructions_digest(said) == self.approved.instructions else None

    def propose(self) -> tuple[ApprovedServer, list[dict[str, Any]]]:
        """What would have to be approved for all that it offers to be served, and the definitions as it says them.

        Raises Unavailable, FormatError, also for a server of the other generation.
        """
        modern = self.approved.protocol == MODERN
        answered = self._exchange("server/discover" if modern else "ping", {}, Hearing())
        if modern and isinstance(answered, Fault):
            raise FormatError(f"tool {self._name}", f"protocol {MODERN}", f"error {answered.code}")
        if modern and not isinstance(answered, Fault):
            self._take(answered)
        offered, definitions = self._capabilities, dict[str, list[dict[str, Any]]]()
        for kind in ("tools", "prompts"):
            definitions[kind] = self.list_all(f"{kind}/list") if kind in offered else []
        tools, prompts = ({str(one["name"]): definition_digest(one) for one in definitions[kind]} for kind in ("tools", "prompts"))
        said = None if self._instructions is None else instructions_digest(self._instructions)
        found = ApprovedServer(
            self.approved.protocol, tools, prompts, "resources" in offered, "completions" in offered, said, self.approved.remote
        )
        return parse_approved(encode_approved(found)), [*definitions["tools"], *definitions["prompts"]]

    def _take(self, about: Mapping[str, Any]) -> None:
        """What it says of itself."""
        capabilities, instructions = about.get("capabilities"), about.get("instructions")
        self._capabilities = capabilities if isinstance(capabilities, Mapping) else {}
        self._instructions = instructions if isinstance(instructions, str) else None

    def _envelope(self, number: int, method: str, params: Mapping[str, Any], hearing: Hearing) -> bytes:
        """The request of this number, in one line."""
        meta = modern_meta(CLIENT, VERSION, hearing.offers) if self.approved.protocol == MODERN else {}
        if hearing.tell is not None:
            meta["progressToken"] = number
        return spelt({"id": number, "jsonrpc": "2.0", "method": method, "params": {**params, **({"_meta": meta} if meta else {})}})

    def _declining(self, said: Said, hearing: Hearing) -> bytes:
        """What it hears of a request of its own: no sampling, no elicitation, no roots. So does, later, who called. A ping is answered."""
        hearing.asked += 1
        if said.method != "ping":
            _LOG.warning("server-request-refused", tool=self._name, method=said.method[:60])
            hearing.declined.append(said.method[:60])
        error = {"code": METHOD_NOT_FOUND, "message": "nothing is served to a server here"}
        answer: dict[str, Any] = {"result": {}} if said.method == "ping" else {"error": error}
        return spelt({"id": said.identifier, "jsonrpc": "2.0", **answer})

    def _greeting(self) -> dict[str, Any]:
        return {"protocolVersion": self.approved.protocol, "capabilities": {}, "clientInfo": {"name": CLIENT, "version": VERSION}}

    def _greeted_by(self, result: Mapping[str, Any] | Fault) -> None:
        """The handshake of the older generation is in the version that was approved. Raises FormatError for another."""
        wanted = self.approved.protocol
        got = result.message if isinstance(result, Fault) else result.get("protocolVersion")
        if isinstance(result, Fault) or got != wanted:
            raise FormatError(f"tool {self._name}", f"protocol {wanted}", repr(got)[:80])
        self._take(result)

    # --- as a tool of the socket gate ----------------------------------------------------------------------------------------

    def action(self, method: str, arguments: bytes) -> Action:
        """`tool.call` on `mcp:<server>/<tool>`."""
        return Action("tool.call", f"mcp:{self._name}/{method}", Digest.of(arguments))

    def against(self, method: str) -> Reason | None:
        """That the tool's definition is not the approved one."""
        try:
            return self.judge("tools", method, self.definitions("tools"))
        except Refused as refused:
            return refused.reasons[0]

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, led: Led) -> Reply:
        """One tools/call and its answer."""
        try:
            result = self.request("tools/call", {"name": method, "arguments": decode_json(arguments, "arguments")})
        except Refused as refused:
            raise Unavailable(f"tool {self._name}", f"refused: {refused.reasons[0]}") from None
        if isinstance(result, InputRequired):
            raise Unavailable(f"tool {self._name}", "it wants input first, which only a client of MCP can give")
        if isinstance(result, Fault):
            code = theirs(result.code)
            return Reply(False, encode_json({"code": code, "message": result.message}), code)
        return Reply(result.get("isError") is not True, spelt(result), RESULT)


def spelt(value: object) -> bytes:
    """The one spelling, of decoded JSON with floats. Raises FormatError for text that has none."""
    try:
        return encode_json(value, floats=True)
    except UnicodeEncodeError:
        raise FormatError("JSON text", "Unicode", "a lone surrogate") from None

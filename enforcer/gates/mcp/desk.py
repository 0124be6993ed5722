"""What a client of the Model Context Protocol is answered, on whatever wire: one desk a server.

| asked                                          | becomes                                                                        |
| ---                                            | ---                                                                            |
| `tools/call`                                   | the action `tool.call` on `mcp:SERVER/TOOL`                                     |
| `resources/read`                               | `resource.read` on `mcp:SERVER/URI`                                             |
| `prompts/get`                                  | `prompt.get` on `mcp:SERVER/PROMPT`                                             |
| `completion/complete`                          | `prompt.get` or `resource.read` on what is completed                           |
| `tools/list`, `prompts/list`, `resources/…list` | no action: the approved definitions that the token grants, and how many it does not |
| `subscriptions/listen`                         | `resource.subscribe` on `mcp:SERVER/URI`, for lists on `mcp:SERVER/tools/list` …    |
| `resources/subscribe`                          | the same action, refused: nothing is held open for the older generation        |
| a question to the client, in a result          | `input.request` on `mcp:SERVER/elicitation` …, before the client sees it       |
| `server/discover`, `initialize`, `ping`, `logging/setLevel` | no action: answered here                                          |

Each action is decided and recorded before anything reaches the server, and has its outcome. A definition is compared with the approved one
before each call, and no other call comes between: what a client was shown is what it calls. Lists take their turn with calls, so that no
call comes between their pages, and what is shown is what the token grants once the list is there. A refusal is an error whose `data` is as
on the socket gate:

    {"id": 7, "jsonrpc": "2.0", "error": {"code": 1403, "message": "refused: grant-missing: …",
      "data": {"ok": false, "reference": "5f1c09ab-12", "refusal": {"verdict": "refused", "reasons": […], "reference": …}}}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.gates.mcp.listening import SUBSCRIBING, Listening
from enforcer.gates.mcp.questions import INPUT, Questions
from enforcer.gates.mcp.refusal import failed, refused
from enforcer.tools.mcp_server import VERSION, Fault, Hearing, McpServer, spelt
from enforcer.tools.tool import RESULT, undefined
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.mcp.answer import relisted, theirs
from writ.formats.mcp.headers import mirrored
from writ.formats.mcp.input import INPUT_REQUIRED, InputRequired
from writ.formats.mcp.names import template, tool_name, uri
from writ.formats.mcp.protocol import INVALID_PARAMS, LEGACY, METHOD_NOT_FOUND, VERSIONS, BadMessage
from writ.formats.mcp.request import Call
from writ.formats.reason import NO_TOKEN, Reason
from writ.service import observe
from writ.verdict.definition import Kind

GATE: Final = "mcp"
ASK: Final = "input.request"
"""A server asks the client: a way into whatever is beside the agent."""
_SHOWN: Final = 8
_INTERNAL: Final = Reason("internal", "gate", "an answer", "a fault of ours")
_KINDS: Final[dict[str, Kind]] = {"tools/call": "tools", "tools/list": "tools", "prompts/get": "prompts", "prompts/list": "prompts"}
_LOG = observe.get_logger(__name__)

Checked = Callable[[Mapping[str, Any]], None]
"""What a wire has against a call, once the definition of its tool is known: raises BadMessage."""
Tell = Callable[[bytes], None]
"""Sends the client one message ahead of its answer, or with none a sign of life. Raises OSError where it is gone."""


class Desk:
    """One server's, for one instance. Thread-safe."""

    def __init__(self, name: str, server: McpServer, gatekeeper: Gatekeeper, short: str) -> None:
        """`short` is the instance's short name in references."""
        self.name, self._server, self._gatekeeper, self._short = name, server, gatekeeper, short
        self._questions = Questions()

    def answer(self, call: Call, checked: Checked = lambda _: None, *, tell: Tell | None = None, holds: bool = False) -> bytes:
        """The answer to one request, whatever comes of it. Raises BadMessage for what `checked` finds, and for what is no action.

        `tell`, where the wire can, is used before it; with `holds` that may go on for as long as the client listens.
        """
        try:
            said = self._answer(call, checked, tell, holds=holds)
        except BadMessage:
            raise
        except FormatError as error:
            raise BadMessage(error, INVALID_PARAMS, call.identifier, modern=call.modern) from None
        except Exception as error:  # noqa: BLE001 - a bug refuses, and its text does not leave
            _LOG.error("gate-failed", exception=error)
            said = refused((_INTERNAL,), None)
        envelope = {"id": call.identifier, "jsonrpc": "2.0"}
        try:
            return spelt({**envelope, **said})
        except FormatError as error:  # what the server said has no spelling
            return spelt({**envelope, **failed(None, error)})

    def _answer(self, call: Call, checked: Checked, tell: Tell | None, *, holds: bool) -> dict[str, Any]:
        if call.method in ("initialize", "server/discover", "ping", "logging/setLevel"):
            return self._of_ours(call)
        if call.method in SUBSCRIBING:
            return Listening(self.name, self._server, self._gatekeeper, self._short).answer(call, tell if holds else None)
        if not self._server.approved.serves(call.method):
            fault = FormatError("message.method", "what the server's approved file offers", call.method)
            raise BadMessage(fault, METHOD_NOT_FOUND, call.identifier, modern=call.modern)
        with self._server.turn():
            return self._list(call) if call.method.endswith("/list") else self._act(call, checked, tell)

    def _of_ours(self, call: Call) -> dict[str, Any]:
        if call.method in ("ping", "logging/setLevel"):
            return {"result": {}}
        about: dict[str, Any] = {"capabilities": self._server.approved.capabilities}
        instructions = None
        try:
            if self._server.approved.instructions is not None:
                with self._server.turn():
                    instructions = None if self._gatekeeper.reaches() is None else self._server.instructions
        except Refused as error:
            return refused(error.reasons, None)
        except (Unavailable, FormatError) as error:
            return failed(None, error)
        if instructions is not None:
            about["instructions"] = instructions
        if call.modern:
            return self._result(call, {**about, "supportedVersions": list(VERSIONS)}, {})
        version = call.params["protocolVersion"]
        info = {"name": self.name, "version": VERSION}
        return {"result": {**about, "protocolVersion": version if version in LEGACY else LEGACY[0], "serverInfo": info}}

    def _list(self, call: Call) -> dict[str, Any]:
        """Approved definitions, and resources, as far as the token grants them. Not an action: nothing of it is recorded."""
        if not self._gatekeeper.passes():
            return refused((NO_TOKEN,), None)
        if "cursor" in call.params:
            raise FormatError("params.cursor", "none: a list is one page", repr(call.params["cursor"])[:80])
        try:
            entries = self._server.list_all(call.method)
            reaches = self._gatekeeper.reaches()  # as it is now: the list took its time
            if reaches is None:
                return refused((NO_TOKEN,), None)
            kind = _KINDS.get(call.method)
            shown = [one for one in entries if self._may_show(call.method, kind, one, entries, reaches)]
        except Refused as error:
            return refused(error.reasons, None)
        except (Unavailable, FormatError) as error:
            return failed(None, error)
        if kind is not None:  # two that are alike are one
            shown = list({str(one["name"]): one for one in shown}.values())
        return self._result(call, relisted(call.method, shown), {"writ/hidden": len(entries) - len(shown)})

    def _may_show(
        self, method: str, kind: Kind | None, one: Mapping[str, Any], entries: list[dict[str, Any]], reaches: Callable[[str, str], bool]
    ) -> bool:
        try:
            if kind is not None:
                name = tool_name(one.get("name"), "name")
                action = {"tools": "tool.call", "prompts": "prompt.get"}[kind]
                if not reaches(action, f"mcp:{self.name}/{name}") or self._server.judge(kind, name, entries) is not None:
                    return False
                if kind == "tools":
                    mirrored(one)
                return True
            spelling = uri(one.get("uri"), "uri") if method == "resources/list" else template(one.get("uriTemplate"), "uriTemplate")
            return reaches("resource.read", f"mcp:{self.name}/{spelling}")
        except FormatError:
            return False

    def _act(self, call: Call, checked: Checked, tell: Tell | None) -> dict[str, Any]:
        """1. the action, 2. what the server's definition has against it, 3. the ruling, 4. the forwarding, 5. the outcome."""
        # 1
        name, arguments = _what(call)
        body = spelt(arguments)
        action = Action(name, f"mcp:{self.name}/{_of(call)}", Digest.of(body))
        # 2, 3
        against = self._questions.against(call) or (self._against(call, action, checked) if call.method in _KINDS else None)
        ruling = self._gatekeeper.ask(action, body, gate=GATE, against=against, trace=call.trace)
        reference = self._reference(ruling)
        if not ruling.permit or ruling.leaf is None:
            return refused(ruling.reasons, reference)
        # 4
        hearing = self._hearing(call, tell)
        try:
            result = self._server.request(call.method, call.params, hearing)
            whole = spelt(_recorded(result))
        except Refused as error:
            self._outcome(ruling, done=False, result=b"")
            return refused(error.reasons, reference)
        except (Unavailable, FormatError) as error:
            self._outcome(ruling, done=False, result=b"")
            return failed(reference, error)
        # 5
        beside: dict[str, Any] = {"writ/withheld": hearing.withheld} if hearing.withheld else {}
        if hearing.declined:
            beside["writ/declined"] = hearing.declined[:_SHOWN]
        if isinstance(result, Fault):
            self._outcome(ruling, done=False, result=whole, status=theirs(result.code))
            data = {"ok": False, "reference": reference, **beside}
            return {"error": {"code": theirs(result.code), "message": result.message, "data": data}}
        if isinstance(result, InputRequired):
            self._outcome(ruling, done=False, result=whole, status=RESULT)
            return self._wanted(call, result, reference)
        self._outcome(ruling, done=result.get("isError") is not True, result=whole, status=RESULT)
        return self._result(call, result, {"writ/reference": reference, **beside})

    def _against(self, call: Call, action: Action, checked: Checked) -> Reason | None:
        """What speaks against a call before it is decided: its definition, what the wire said of it, or that neither can be known.

        The server is asked for nobody who has no grant.
        """
        reaches = self._gatekeeper.reaches()
        if reaches is None:
            return NO_TOKEN  # also where a token comes in this moment: nobody has looked at the definition
        if not reaches(action.name, action.resource):
            return Reason("grant-missing", "token.grants", f"{action.name} on {action.resource}"[:200], "other grants")
        kind, wanted = _KINDS[call.method], str(call.params["name"])
        try:
            listed = self._server.definitions(kind)
            against = self._server.judge(kind, wanted, listed)
        except Refused as error:
            return error.reasons[0]
        except (Unavailable, FormatError) as error:
            return undefined(f"tool {self.name}", error)
        if against is None:
            checked(next(one for one in listed if one.get("name") == wanted))
        return against

    def _hearing(self, call: Call, tell: Tell | None) -> Hearing:
        """Progress goes to a client that wants it, under its own token; questions may come that it takes, and that the token grants."""
        progress = None
        if tell is not None and call.progress is not None:

            def progress(far: Mapping[str, Any]) -> None:
                params = {"progressToken": call.progress, **far}
                tell(spelt({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))

        reaches = self._gatekeeper.reaches()
        may = {kind for kind in call.offers if reaches is not None and reaches(ASK, f"mcp:{self.name}/{kind}")}
        return Hearing(progress, frozenset(may))

    def _wanted(self, call: Call, wanted: InputRequired, reference: str | None) -> dict[str, Any]:
        """What the server wants first reaches the client, if each kind of question may: an action each, also where nobody would answer."""
        asked: list[Ruling] = []
        for kind in sorted({kind for kind, _ in wanted.questions.values()}):
            body = spelt({key: one for key, (of, one) in wanted.questions.items() if of == kind})
            against = None
            if kind not in call.offers:
                against = Reason("input-not-offered", f"result of {call.method}", "a result, or a question that the client takes", kind)
            action = Action(ASK, f"mcp:{self.name}/{kind}", Digest.of(body))
            asked.append(self._gatekeeper.ask(action, body, gate=GATE, against=against, trace=call.trace))
        refusals = [one for one in asked if not one.permit]
        for one in asked:
            if one.permit:
                self._outcome(one, done=not refusals, result=b"")
        if refusals:
            return refused(refusals[0].reasons, self._reference(refusals[0]))
        if not call.modern:
            return failed(reference, Unavailable(f"server {self.name}", "it wants to be asked again, which the client's generation cannot"))
        self._questions.asked(call, wanted)
        return self._result(call, {**wanted.result, "resultType": INPUT_REQUIRED}, {"writ/reference": reference})

    def _reference(self, ruling: Ruling) -> str | None:
        return None if ruling.sequence is None else f"{self._short}-{ruling.sequence}"

    def _outcome(self, ruling: Ruling, *, done: bool, result: bytes, status: int | None = None) -> None:
        if not self._gatekeeper.outcome(ruling, done=done, result=result, status=status):
            _LOG.error("outcome-not-durable", sequence=ruling.sequence)

    def _result(self, call: Call, result: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
        """In the generation of the client, whatever the server's. What a token shows is nobody else's, and may be otherwise in a moment."""
        if not call.modern:
            return {"result": {**result, "_meta": meta}}
        cached = {} if call.method in ("tools/call", "prompts/get", "completion/complete") else {"ttlMs": 0, "cacheScope": "private"}
        server = {"io.modelcontextprotocol/serverInfo": {"name": self.name, "version": VERSION}}
        return {"result": {"resultType": "complete", **result, **cached, "_meta": {**server, **meta}}}


def _what(call: Call) -> tuple[str, dict[str, Any]]:
    """The action's name, and the arguments that are recorded with it: all that goes to the server beside what the resource says."""
    beside = {name: call.params[name] for name in INPUT if name in call.params}
    match call.method:
        case "tools/call" | "prompts/get":
            name, arguments = "tool.call" if call.method == "tools/call" else "prompt.get", call.params["arguments"]
            return name, {"arguments": arguments, **beside} if beside else arguments
        case "resources/read":
            return "resource.read", beside
        case _:
            return ("prompt.get" if "name" in call.params["ref"] else "resource.read"), {"completion": dict(call.params)}


def _recorded(result: Mapping[str, Any] | Fault | InputRequired) -> Mapping[str, Any]:
    if isinstance(result, Fault):
        return {"code": result.code, "message": result.message}
    return result.result if isinstance(result, InputRequired) else result


def _of(call: Call) -> str:
    """The part of the resource behind the server's name."""
    if call.name is not None:
        return call.name
    ref = call.params["ref"]
    return str(ref["name"]) if "name" in ref else template(ref["uri"], "params.ref.uri")

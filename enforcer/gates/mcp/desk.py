"""What a client of the Model Context Protocol is answered, on whatever wire: one desk a server.

| asked                                          | becomes                                                                        |
| ---                                            | ---                                                                            |
| `tools/call`                                   | the action `tool.call` on `mcp:SERVER/TOOL`                                     |
| `resources/read`                               | `resource.read` on `mcp:SERVER/URI`                                             |
| `prompts/get`                                  | `prompt.get` on `mcp:SERVER/PROMPT`                                             |
| `completion/complete`                          | `prompt.get` or `resource.read` on what is completed                           |
| `tools/list`, `prompts/list`, `resources/…list` | no action: the approved definitions that the token grants, and how many it does not |
| `server/discover`, `initialize`, `ping`, `logging/setLevel` | no action: answered here                                          |

Each action is decided and recorded before anything reaches the server, and has its outcome. A definition is compared with the approved one
before each call, and no other call comes between: what a client was shown is what it calls. A refusal is an error whose `data` is as on the
socket gate:

    {"id": 7, "jsonrpc": "2.0", "error": {"code": 1403, "message": "refused: grant-missing: …",
      "data": {"ok": false, "reference": "5f1c09ab-12", "refusal": {"verdict": "refused", "reasons": […], "reference": …}}}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.tools.mcp_server import VERSION, Fault, McpServer, spelt
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.mcp.answer import relisted, theirs
from writ.formats.mcp.headers import mirrored
from writ.formats.mcp.names import template, tool_name, uri
from writ.formats.mcp.protocol import FAILED, INVALID_PARAMS, LEGACY, METHOD_NOT_FOUND, REFUSED, UNSUPPORTED_VERSION, VERSIONS, BadMessage
from writ.formats.mcp.request import Call
from writ.formats.reason import NO_TOKEN, Reason
from writ.service import cli, observe
from writ.verdict.definition import Kind

GATE: Final = "mcp"
_INTERNAL: Final = Reason("internal", "gate", "an answer", "a fault of ours")
_KINDS: Final[dict[str, Kind]] = {"tools/call": "tools", "tools/list": "tools", "prompts/get": "prompts", "prompts/list": "prompts"}
_LOG = observe.get_logger(__name__)

Checked = Callable[[Mapping[str, Any]], None]
"""What a wire has against a call, once the definition of its tool is known: raises BadMessage."""


class Desk:
    """One server's, for one instance. Thread-safe."""

    def __init__(self, name: str, server: McpServer, gatekeeper: Gatekeeper, short: str) -> None:
        """`short` is the instance's short name in references."""
        self.name, self._server, self._gatekeeper, self._short = name, server, gatekeeper, short

    def answer(self, call: Call, checked: Checked = lambda _: None) -> bytes:
        """The answer to one request, whatever comes of it. Raises BadMessage for what `checked` finds, and for what is no action."""
        try:
            said = self._answer(call, checked)
        except BadMessage:
            raise
        except FormatError as error:
            raise BadMessage(error, INVALID_PARAMS, call.identifier, modern=call.modern) from None
        except Exception as error:  # noqa: BLE001 - a bug refuses, and its text does not leave
            _LOG.error("gate-failed", exception=error)
            said = self._refusal((_INTERNAL,), None)
        envelope = {"id": call.identifier, "jsonrpc": "2.0"}
        try:
            return spelt({**envelope, **said})
        except FormatError as error:  # what the server said has no spelling
            return spelt({**envelope, **self._failure(None, error)})

    def _answer(self, call: Call, checked: Checked) -> dict[str, Any]:
        if call.method in ("initialize", "server/discover", "ping", "logging/setLevel"):
            return self._of_ours(call)
        if not self._server.approved.serves(call.method):
            fault = FormatError("message.method", "what the server's approved file offers", call.method)
            raise BadMessage(fault, METHOD_NOT_FOUND, call.identifier, modern=call.modern)
        if call.method.endswith("/list"):
            return self._list(call)
        with self._server.turn():
            return self._act(call, checked)

    def _of_ours(self, call: Call) -> dict[str, Any]:
        if call.method in ("ping", "logging/setLevel"):
            return {"result": {}}
        about: dict[str, Any] = {"capabilities": self._server.approved.capabilities}
        try:
            instructions = None if self._gatekeeper.reaches() is None else self._server.instructions
        except (Unavailable, FormatError) as error:
            return self._failure(None, error)
        if instructions is not None:
            about["instructions"] = instructions
        if call.modern:
            return self._result(call, {**about, "supportedVersions": list(VERSIONS)}, {})
        version = call.params["protocolVersion"]
        info = {"name": self.name, "version": VERSION}
        return {"result": {**about, "protocolVersion": version if version in LEGACY else LEGACY[0], "serverInfo": info}}

    def _list(self, call: Call) -> dict[str, Any]:
        """Approved definitions, and resources, as far as the token grants them. Not an action: nothing of it is recorded."""
        reaches = self._gatekeeper.reaches()
        if reaches is None:
            return self._refusal((NO_TOKEN,), None)
        if "cursor" in call.params:
            raise FormatError("params.cursor", "none: a list is one page", repr(call.params["cursor"])[:80])
        try:
            entries = self._server.list_all(call.method)
            kind = _KINDS.get(call.method)
            shown = [one for one in entries if self._may_show(call.method, kind, one, entries, reaches)]
        except (Unavailable, FormatError) as error:
            return self._failure(None, error)
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

    def _act(self, call: Call, checked: Checked) -> dict[str, Any]:
        """1. the action, 2. what the server's definition has against it, 3. the ruling, 4. the forwarding, 5. the outcome."""
        # 1
        name, arguments = _what(call)
        body = spelt(arguments)
        action = Action(name, f"mcp:{self.name}/{_of(call)}", Digest.of(body))
        # 2
        against, unasked = None, None
        if call.method in _KINDS and self._gatekeeper.reaches() is None:
            against = NO_TOKEN  # also where a token comes in this moment: nobody has looked at the definition
        elif call.method in _KINDS:
            kind, wanted = _KINDS[call.method], str(call.params["name"])
            try:
                listed = self._server.definitions(kind)
                against = self._server.judge(kind, wanted, listed)
            except (Unavailable, FormatError) as error:
                unasked = error
            else:
                if against is None:
                    checked(next(one for one in listed if one.get("name") == wanted))
        # 3
        if unasked is not None:
            against = Reason("unavailable", f"tool {self.name}"[:100], "its definitions", str(unasked)[:200])
        ruling = self._gatekeeper.ask(action, body, gate=GATE, against=against)
        reference = None if ruling.sequence is None else f"{self._short}-{ruling.sequence}"
        if not ruling.permit or ruling.leaf is None:
            return self._refusal(ruling.reasons, reference)
        # 4
        try:
            result = self._server.request(call.method, call.params)
            whole = spelt({"code": result.code, "message": result.message} if isinstance(result, Fault) else result)
        except (Unavailable, FormatError) as error:
            self._outcome(ruling, done=False, result=b"")
            return self._failure(reference, error)
        # 5
        if isinstance(result, Fault):
            self._outcome(ruling, done=False, result=whole)
            return {"error": {"code": theirs(result.code), "message": result.message, "data": {"ok": False, "reference": reference}}}
        self._outcome(ruling, done=result.get("isError") is not True, result=whole)
        return self._result(call, result, {"writ/reference": reference})

    def _outcome(self, ruling: Ruling, *, done: bool, result: bytes) -> None:
        if not self._gatekeeper.outcome(ruling, done=done, result=result):
            _LOG.error("outcome-not-durable", sequence=ruling.sequence)

    def _result(self, call: Call, result: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
        """In the generation of the client, whatever the server's. What a token shows is nobody else's, and may be otherwise in a moment."""
        if not call.modern:
            return {"result": {**result, "_meta": meta}}
        cached = {} if call.method in ("tools/call", "prompts/get", "completion/complete") else {"ttlMs": 0, "cacheScope": "private"}
        server = {"io.modelcontextprotocol/serverInfo": {"name": self.name, "version": VERSION}}
        return {"result": {**result, **cached, "resultType": "complete", "_meta": {**server, **meta}}}

    def _refusal(self, reasons: tuple[Reason, ...], reference: str | None) -> dict[str, Any]:
        return {"error": refusal_error(REFUSED, reasons, reference)}

    def _failure(self, reference: str | None, error: FormatError | Unavailable) -> dict[str, Any]:
        failure = {"what": error.what, "detail": str(error)[:300]}
        data = {"ok": False, "reference": reference, "failure": failure}
        return {"error": {"code": FAILED, "message": f"failed: {failure['detail']}", "data": data}}


def _what(call: Call) -> tuple[str, dict[str, Any]]:
    """The action's name, and the arguments that are recorded with it."""
    match call.method:
        case "tools/call":
            return "tool.call", call.params["arguments"]
        case "prompts/get":
            return "prompt.get", call.params["arguments"]
        case "resources/read":
            return "resource.read", {}
        case _:
            return ("prompt.get" if "name" in call.params["ref"] else "resource.read"), {"completion": dict(call.params)}


def _of(call: Call) -> str:
    """The part of the resource behind the server's name."""
    if call.name is not None:
        return call.name
    ref = call.params["ref"]
    return str(ref["name"]) if "name" in ref else template(ref["uri"], "params.ref.uri")


def refusal_error(code: int, reasons: tuple[Reason, ...], reference: str | None) -> dict[str, Any]:
    """The error of a refusal: a sentence for a model that sees no more, and the refusal whole."""
    first = min(reasons)
    beyond = "" if reference is None else f" (reference {reference})"
    data = {"ok": False, "reference": reference, "refusal": cli.refusal(reasons, reference)}
    return {"code": code, "message": f"refused: {first}. {first.remedy}{beyond}", "data": data}


def bad(error: BadMessage) -> bytes:
    """The answer to what was no request of ours: no action, no record."""
    reason = Reason("malformed", error.what[:100], error.expected, error.got)
    shown = refusal_error(error.code, (reason,), None)
    if error.code == UNSUPPORTED_VERSION:
        shown["data"] |= {"supported": list(VERSIONS), "requested": error.got.strip("'")}
    identifier = {} if error.identifier is None and error.modern else {"id": error.identifier}
    return spelt({"jsonrpc": "2.0", **identifier, "error": shown})

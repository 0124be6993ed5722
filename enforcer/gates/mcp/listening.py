"""A client that listens for changes (`subscriptions/listen`): a stream that is held, and each thing on it an action that was permitted.

| wanted                    | the action `resource.subscribe` on |
| ---                       | ---                                |
| `resourceSubscriptions`   | `mcp:SERVER/URI`                   |
| `toolsListChanged` …      | `mcp:SERVER/tools/list` …          |

All of them are permitted, or nothing is listened for. What passes is that something has changed, never what. It is read anew then, which is
an action of its own. The stream ends with the client, with any cut, and after `MOST` notifications.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.gates.mcp.refusal import failed, refused
from enforcer.tools.mcp_remote import McpRemote
from enforcer.tools.mcp_server import Fault, McpServer, spelt
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.mcp.answer import Said, theirs
from writ.formats.mcp.protocol import META, MODERN
from writ.formats.mcp.request import LIST_CHANGES, Call
from writ.formats.reason import NO_TOKEN, Reason
from writ.service import observe

SUBSCRIBING: Final = ("subscriptions/listen", "resources/subscribe", "resources/unsubscribe")
SUBSCRIBE: Final = "resource.subscribe"
MOST: Final = 1024
MOST_HEARD: Final = 16 * MOST
"""Of all that comes on a stream, also what is withheld."""
ALIVE_EVERY: Final = 15.0
"""Seconds after which a client of a silent stream is told that it is there: whoever has gone is noticed."""
_GATE: Final = "mcp"
_UPDATED: Final = "notifications/resources/updated"
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_LOG = observe.get_logger(__name__)


class Listening:
    """One client's, of one server."""

    def __init__(self, name: str, server: McpServer, gatekeeper: Gatekeeper, short: str) -> None:
        """As `Desk`."""
        self._name, self._server, self._gatekeeper, self._short = name, server, gatekeeper, short
        self._told = observe.Seldom()

    def answer(self, call: Call, tell: Any) -> dict[str, Any]:
        """How it ended: until then `tell` sends what comes. Where it is None, nothing can be held, and everything is refused.

        1. Each thing is an action. 2. The server is asked for all of it. 3. What comes, and each has its outcome.
        """
        # 1
        wanted: Mapping[str, Any] = call.params.get("notifications", {"resourceSubscriptions": [call.params.get("uri")]})
        body = spelt(dict(call.params))
        server, against = self._server, self._against(tell)
        rulings = [self._asked(resource, body, against, call.trace) for resource in self._resources(wanted)]
        refusals = [one for one in rulings if not one.permit]
        ended: dict[str, Any] = refused(refusals[0].reasons, self._reference(refusals[0])) if refusals else {}
        told = 0
        try:
            # 2
            if not refusals and isinstance(server, McpRemote):
                with contextlib.closing(server.listen(call.params, ALIVE_EVERY)) as heard:
                    # 3
                    for number, said in enumerate(heard):
                        if number >= MOST_HEARD:
                            raise FormatError(f"server {self._name}", f"at most {MOST_HEARD} notifications on a stream", "more")
                        if isinstance(said, Fault):
                            ended = {"error": {"code": theirs(said.code), "message": said.message, "data": {"ok": False}}}
                            break
                        passed = None if said is None else self._passed(said, wanted, call)
                        if said is None or passed is not None:
                            tell(b"" if passed is None else spelt(passed))
                            told += passed is not None
                        if told >= MOST:
                            break
        except OSError:
            pass  # the client has gone
        except Refused as error:
            ended = refused(error.reasons, None)
        except (Unavailable, FormatError) as error:
            ended = failed(self._reference(rulings[0]), error)
        finally:
            for one in rulings:
                if one.permit:
                    self._outcome(one, told, done=bool(told) and not ended)
        return ended or {"result": {"resultType": "complete", "_meta": {META + "subscriptionId": call.identifier}}}

    def _against(self, tell: Any) -> Reason | None:
        if self._gatekeeper.reaches() is None:
            return NO_TOKEN
        if tell is not None and isinstance(self._server, McpRemote) and self._server.approved.protocol == MODERN:
            return None
        return Reason(
            "stream-not-served", f"server {self._name}"[:100], f"one of {MODERN} on the network, over HTTP", "another, or another wire"
        )

    def _resources(self, wanted: Mapping[str, Any]) -> list[str]:
        lists = [method.split("/")[1] for method, one in LIST_CHANGES.items() if wanted.get(one)]
        return [f"mcp:{self._name}/{one}/list" for one in lists] + [
            f"mcp:{self._name}/{uri}" for uri in wanted.get("resourceSubscriptions", [])
        ]

    def _asked(self, resource: str, body: bytes, against: Reason | None, trace: bytes | None) -> Ruling:
        return self._gatekeeper.ask(Action(SUBSCRIBE, resource, Digest.of(body)), body, gate=_GATE, against=against, trace=trace)

    def _passed(self, said: Said, wanted: Mapping[str, Any], call: Call) -> dict[str, Any] | None:
        """What the client hears of a notification: that what it wanted has changed, and nothing beside."""
        params = said.params if isinstance(said.params, dict) else {}
        found: dict[str, Any] | None = None
        if said.method == _ACKNOWLEDGED:
            agreed = params.get("notifications")
            found = {"notifications": _agreed(wanted, agreed if isinstance(agreed, dict) else {})}
        elif wanted.get(LIST_CHANGES.get(said.method, "")):
            found = {}
        elif said.method == _UPDATED and params.get("uri") in wanted.get("resourceSubscriptions", []):
            found = {"uri": params["uri"]}
        if found is None:
            if self._told.now():
                _LOG.warning("notification-withheld", server=self._name, method=said.method[:60])
            return None
        return {"jsonrpc": "2.0", "method": said.method, "params": {**found, "_meta": {META + "subscriptionId": call.identifier}}}

    def _reference(self, ruling: Ruling) -> str | None:
        return None if ruling.sequence is None else f"{self._short}-{ruling.sequence}"

    def _outcome(self, ruling: Ruling, told: int, *, done: bool) -> None:
        if not self._gatekeeper.outcome(ruling, done=done, result=spelt({"told": told})):
            _LOG.error("outcome-not-durable", sequence=ruling.sequence)


def _agreed(wanted: Mapping[str, Any], agreed: Mapping[str, Any]) -> dict[str, Any]:
    """Of what was wanted, what the server will tell."""
    lists = {one: True for one in LIST_CHANGES.values() if wanted.get(one) and agreed.get(one) is True}
    of = agreed.get("resourceSubscriptions")
    uris = [one for one in wanted.get("resourceSubscriptions", []) if isinstance(of, list) and one in of]
    return {**lists, **({"resourceSubscriptions": uris} if uris else {})}

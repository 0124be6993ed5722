"""ASGI middleware: no request reaches the service without a token, a proof used once, a permit, and a durable record of it.

    party = RelyingParty(audience="reports", issuer="https://verifier.example", feed=VerifierFeed(...), sink=FileSink(...),
                         clock=SystemClock(), engine=installed_engine())
    app = Middleware(app, origin="https://reports.example", party=party)

A request is the action `http.<method>` on its exact URL; the arguments are its
body. Query strings, percent-encodings and dot segments are refused, since two
readers could take them for two resources. What was decided is in
`scope["extensions"]["writ"]`: agent, instance, host, token id.

Any doubt is a refusal: 400 for what is no request, 401 with `WWW-Authenticate: DPoP` for token and proof, 403 for grant and
policy, 503 where we could not tell. Refusals are RFC 9457 problems with the reasons of the refusal contract.

Source: RFC 9457; ASGI 3.0.
"""

from __future__ import annotations

from typing import Final

from enforcer.relying.asgi import (
    App,
    Message,
    Receive,
    Room,
    Scope,
    Send,
    admitted,
    checked_origin,
    http_action,
    is_http,
    new_reference,
    one_length,
    read_body,
    reasons_of,
    refuse,
    shown,
    target_of,
)
from enforcer.relying.party import Presented, RelyingParty
from writ.formats.digest import Digest
from writ.formats.trace import trace_of

__all__ = ["App", "Message", "Middleware", "Receive", "Scope", "Send"]

GATE: Final = "relying"
MAX_WAITING: Final = 256
"""Requests that are being decided at once; more are refused."""


class Middleware:
    """Around one ASGI application."""

    def __init__(self, app: App, *, origin: str, party: RelyingParty) -> None:
        """`origin` is scheme and authority as clients write them; `party` decides. Raises Misuse for another origin."""
        self._app, self._origin, self._party = app, checked_origin(origin), party
        self._room = Room(MAX_WAITING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI scope. Only `lifespan` passes unasked; what is neither that nor `http` is refused."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if not await is_http(scope, send):
            return
        reference = new_reference()
        try:
            with self._room:
                one_length(scope)
                body = await read_body(receive)
                action = http_action(str(scope["method"]), self._origin, target_of(scope), Digest.of(body))
                request = Presented(action, str(scope["method"]), action.resource, *shown(scope), trace=trace_of(scope["headers"]))
                token = await admitted(self._party, request, gate=GATE, reference=reference)
        except Exception as error:  # noqa: BLE001 - whatever fails before a decision refuses (I3)
            await refuse(send, reasons_of(error, "middleware", reference), reference)
            return
        claims = token.claims
        writ = {"agent": str(claims.agent), "instance": claims.instance.hex(), "host": claims.host, "token_id": claims.token_id}
        await self._app({**scope, "extensions": {**scope.get("extensions", {}), "writ": writ}}, _again(body, receive), send)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the judged body once, and then whatever comes."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again

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

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from enforcer.relying.party import Presented, RelyingParty, challenge_of, status_of
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse, Refused, Unavailable
from writ.formats.lease import LEASE_HEADER
from writ.formats.reason import Reason
from writ.formats.strict import encode_json
from writ.service import cli, observe

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GATE: Final = "relying"
MAX_BODY: Final = 1 << 20
_LEASE: Final = LEASE_HEADER.lower().encode("ascii")
_LOG = observe.get_logger(__name__)


class Middleware:
    """Around one ASGI application."""

    def __init__(self, app: App, *, origin: str, party: RelyingParty) -> None:
        """`origin` is scheme and authority as clients write them; `party` decides. Raises Misuse for another origin."""
        if not origin.startswith(("https://", "http://")) or origin.count("/") != 2:
            raise Misuse("origin is scheme://authority without a path")
        self._app, self._origin, self._party = app, origin, party

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI scope. Only `lifespan` passes unasked; what is neither that nor `http` is refused."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "not supported"})
            return
        reference = secrets.token_hex(6)
        try:
            body = await _read(receive)
            request = _request(scope, self._origin, body)
            token = self._party.admit(request, gate=GATE, reference=reference)
        except Refused as refused:
            await _refuse(send, refused.reasons, reference)
            return
        except FormatError as error:
            await _refuse(send, (Reason("malformed", error.what[:100], error.expected, error.got),), reference)
            return
        except Exception as error:  # noqa: BLE001 - whatever fails before a decision refuses (I3); its text does not leave
            _LOG.error("middleware-failed", exception=error, reference=reference)
            await _refuse(send, (Reason("internal", "middleware", "a decision", "a fault of ours"),), reference)
            return
        claims = token.claims
        writ = {"agent": str(claims.agent), "instance": claims.instance.hex(), "host": claims.host, "token_id": claims.token_id}
        await self._app({**scope, "extensions": {**scope.get("extensions", {}), "writ": writ}}, _again(body, receive), send)


def _request(scope: Scope, origin: str, body: bytes) -> Presented:
    """The action that the request is, with its token and proof. Raises FormatError, Refused."""
    method = str(scope["method"])
    if not method.isascii() or not method.isalpha() or not method.isupper():
        raise FormatError("method", "letters", repr(method)[:40])
    if scope.get("query_string"):
        raise FormatError("query", "none", f"{len(scope['query_string'])} bytes")
    raw = bytes(scope.get("raw_path") or str(scope["path"]).encode())
    if b"%" in raw or b"//" in raw or raw != str(scope["path"]).encode("ascii", "replace"):
        raise FormatError("path", "a normalised path without percent-encodings", repr(raw)[:80])
    action = Action(f"http.{method.lower()}", origin + raw.decode("ascii"), Digest.of(body))
    values = {name: _single(scope, name) for name in (b"authorization", b"dpop", _LEASE)}
    authorization, proof = values[b"authorization"], values[b"dpop"]
    if authorization is None:
        raise Refused(Reason("unauthenticated", "Authorization", "DPoP and a token", "none"))
    kind, _, token = authorization.partition(" ")
    if kind.lower() != "dpop":
        raise Refused(Reason("unauthenticated", "Authorization", "DPoP and a token", repr(kind)[:20]))
    if proof is None:
        raise Refused(Reason("proof-missing", "DPoP", "one proof", "none"))
    return Presented(action, method, token, proof, values[_LEASE])


def _single(scope: Scope, wanted: bytes) -> str | None:
    """The one value of a header, None where there is none. Raises FormatError for two, or for other than ASCII."""
    found = [bytes(value) for name, value in scope["headers"] if bytes(name).lower() == wanted]
    if len(found) > 1:
        raise FormatError(f"header {wanted.decode()}", "once", f"{len(found)} times")
    if not found:
        return None
    if not found[0].isascii():
        raise FormatError(f"header {wanted.decode()}", "ASCII", "other bytes")
    return found[0].decode("ascii")


async def _read(receive: Receive) -> bytes:
    """The whole body, at most `MAX_BODY` bytes. Raises Refused, or Unavailable where the client left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Unavailable("client", "left before its request was whole")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise Refused(Reason("too-large", "body", f"at most {MAX_BODY} bytes", "more"))
        if not message.get("more_body", False):
            return bytes(body)


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


async def _refuse(send: Send, reasons: tuple[Reason, ...], reference: str) -> None:
    status = status_of(reasons)
    headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", challenge_of(reasons).encode()))
    problem = {"type": f"urn:writ:reason:{reasons[0].code}", "title": "refused", "status": status, **cli.refusal(reasons, reference)}
    body = encode_json(problem)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

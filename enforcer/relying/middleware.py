"""ASGI middleware: no request reaches the service without a token, a proof used once, a permit, and a durable record of it.

    app = Middleware(app, origin="https://reports.example", audience="https://reports.example", issuer="https://verifier.example",
                     feed=Feed(...), sink=FileSink(...), clock=SystemClock(), engine=installed_engine())

A request is the action `http.<method>` on its exact URL; the arguments are its
body. Query strings, percent-encodings and dot segments are refused, since two
readers could take them for two resources. What was decided is in
`scope["extensions"]["writ"]`: agent, instance, host, token id.

Any doubt is a refusal: 400 for what is no request, 401 with `WWW-Authenticate: DPoP` for token and proof, 403 for grant and
policy, 503 where we could not tell. Refusals are RFC 9457 problems with the reasons of the refusal contract.

One process has one replay cache: behind several workers, each worker must have its own origin or all share one process.

Source: RFC 9449 sections 4.3, 7.1; RFC 9457; ASGI 3.0.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from enforcer.replay_cache import ReplayCache
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError, Misuse, Refused, Unavailable
from writ.formats.jose import parse_dpop
from writ.formats.keys import PublicKey
from writ.formats.policy_bundle import CLOCK_SKEW, PolicyBundle
from writ.formats.reason import Reason
from writ.formats.strict import encode_json
from writ.service import cli, observe
from writ.service.clock import Clock
from writ.verdict.decide import decide
from writ.verdict.decision import Decision
from writ.verdict.token import Revocation, VerifiedToken, verify_proof, verify_token

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GATE: Final = "relying"
MAX_BODY: Final = 1 << 20
_LOG = observe.get_logger(__name__)

_STATUS: Final[Mapping[str, int]] = {
    "malformed": 400, "too-large": 413, "too-many-requests": 503, "unavailable": 503, "internal": 503, "record-not-durable": 503,
    "status-stale": 503, "policy-unknown": 503, "policy-digest-mismatch": 503,
    "policy-refused": 403, "policy-error": 403, "grant-missing": 403, "hold": 403,
}  # fmt: skip
"""HTTP status by reason code; every other code is about token or proof: 401."""
_PROOF_CODES: Final = ("proof-missing", "proof-invalid", "proof-mismatch", "proof-stale", "proof-replayed")


@dataclass(frozen=True, slots=True)
class Access:
    """What the sink makes durable: one decision about one request. `proof`: digest of the verified DPoP proof."""

    decided_at: int
    engine: EngineId
    agent: str | None
    instance: bytes | None
    action: str
    resource: str
    token: Digest | None
    bundle: Digest | None
    proof: Digest | None
    context: bytes
    permit: bool
    reasons: tuple[Reason, ...]
    reference: str


class Sink(Protocol):
    """Where decisions go."""

    def write(self, access: Access) -> None:
        """`access` is durable when this returns. Anything raised refuses the request."""
        ...


class Feed(Protocol):
    """What the verifier publishes, as fresh as it could be had. Each answers None where it does not know."""

    def keys(self) -> Mapping[str, PublicKey]:
        """Token keys by key id."""
        ...

    def revocation(self) -> Revocation | None:
        """The status list."""
        ...

    def bundle(self, named: Digest) -> PolicyBundle | None:
        """The policy of that digest, or the newest."""
        ...


@dataclass(frozen=True, slots=True)
class _Request:
    action: Action
    method: str
    token: str
    proof: str


class Middleware:
    """Around one ASGI application."""

    def __init__(
        self, app: App, *, origin: str, audience: str, issuer: str, feed: Feed, sink: Sink, clock: Clock, engine: EngineId,
        replay: ReplayCache | None = None,
    ) -> None:  # fmt: skip
        """`origin` is scheme and authority as clients write them. Raises Misuse without a sink: nothing passes unrecorded (I4).

        A proof that an earlier process may have seen is refused: for some seconds after a start nothing passes.
        """
        if not callable(getattr(sink, "write", None)):
            raise Misuse("the middleware needs a durable sink")
        if not origin.startswith(("https://", "http://")) or origin.count("/") != 2:
            raise Misuse("origin is scheme://authority without a path")
        self._app, self._origin, self._audience, self._issuer = app, origin, audience, issuer
        self._feed, self._sink, self._clock, self._engine = feed, sink, clock, engine
        self._replay = replay if replay is not None else ReplayCache(refuse_made_before=clock.now() + CLOCK_SKEW + 1)

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
            token = self._judge(request, reference)
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

    def _judge(self, request: _Request, reference: str) -> VerifiedToken:
        """The request may pass, and that is recorded.

        1. The clock is read once; keys, status list and policy are taken once.
        2. The token is the verifier's, for us, alive, not revoked by a fresh list.
        3. The proof is by its holder, for this very request.
        4. It was never used before.
        5. Grant and policy permit it.
        6. The decision, either way, is durable before anything passes.

        Raises Refused.
        """
        # 1
        now = self._clock.now()
        try:
            token, proof = self._authenticate(request, now)
        except Refused as refused:
            self._record(request, None, None, None, refused.reasons, b"\xa0", now, reference)
            raise
        # 5
        bundle = self._feed.bundle(token.claims.policy)
        decision: Decision = decide(request.action, token=token, bundle=bundle, gate=GATE, now=now)
        # 6
        self._record(request, token, bundle, proof, decision.reasons, decision.context, now, reference)
        if not decision.permit:
            raise Refused(*decision.reasons)
        return token

    def _authenticate(self, request: _Request, now: int) -> tuple[VerifiedToken, Digest]:
        revocation = self._feed.revocation()
        if revocation is None:
            raise Refused(Reason("status-stale", "status_list", "a fresh list", "none"))
        # 2
        try:
            signed = parse_token(request.token)
        except FormatError as error:
            raise Refused(Reason("token-malformed", error.what[:100], error.expected, error.got)) from None
        token = verify_token(signed, keys=self._feed.keys(), issuer=self._issuer, audience=self._audience, now=now, revocation=revocation)
        # 3
        try:
            proof = parse_dpop(request.proof)
        except FormatError as error:
            raise Refused(Reason("proof-invalid", error.what[:100], error.expected, error.got)) from None
        verified = verify_proof(proof, token, request.action, method=request.method, uri=request.action.resource, now=now)
        # 4
        self._replay.take(verified.single_use, forget_after=verified.forget_after, made_at=proof.iat, now=now)
        return token, Digest.of(request.proof.encode("ascii"))

    def _record(
        self, request: _Request, token: VerifiedToken | None, bundle: PolicyBundle | None, proof: Digest | None,
        reasons: tuple[Reason, ...], context: bytes, now: int, reference: str,
    ) -> None:  # fmt: skip
        access = Access(
            decided_at=now, engine=self._engine, agent=None if token is None else str(token.claims.agent),
            instance=None if token is None else token.claims.instance, action=request.action.name, resource=request.action.resource,
            token=None if token is None else token.digest, bundle=None if token is None or bundle is None else bundle.digest,
            proof=proof, context=context, permit=not reasons, reasons=reasons, reference=reference,
        )  # fmt: skip
        try:
            self._sink.write(access)
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the record is not known to be durable
            _LOG.error("sink-failed", exception=error, reference=reference)
            raise Refused(Reason("record-not-durable", "sink", "a durable record", type(error).__name__)) from None


def _request(scope: Scope, origin: str, body: bytes) -> _Request:
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
    values = {name: _single(scope, name) for name in (b"authorization", b"dpop")}
    authorization, proof = values[b"authorization"], values[b"dpop"]
    if authorization is None:
        raise Refused(Reason("unauthenticated", "Authorization", "DPoP and a token", "none"))
    kind, _, token = authorization.partition(" ")
    if kind.lower() != "dpop":
        raise Refused(Reason("unauthenticated", "Authorization", "DPoP and a token", repr(kind)[:20]))
    if proof is None:
        raise Refused(Reason("proof-missing", "DPoP", "one proof", "none"))
    return _Request(action, method, token, proof)


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
    status = max(_STATUS.get(reason.code, 401) for reason in reasons)
    headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
    if status == 401:
        error = "invalid_dpop_proof" if any(reason.code in _PROOF_CODES for reason in reasons) else "invalid_token"
        headers.append((b"www-authenticate", f'DPoP error="{error}", algs="Ed25519 ES256"'.encode()))
    problem = {"type": f"urn:writ:reason:{reasons[0].code}", "title": "refused", "status": status, **cli.refusal(reasons, reference)}
    body = encode_json(problem)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

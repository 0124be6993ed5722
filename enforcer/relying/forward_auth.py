"""Forward-auth: a proxy asks for each request whether it may pass, and hands on only what we answered 200.

    app = ForwardAuth(proxy="nginx", origins=("https://reports.example",), party=party)

Every path of this application is the one endpoint, so that no answer of 200 can come from anything but a decision. It answers 200, 401
or 403 and nothing else: what could not be decided is 403 with the reason. What the original request was is read from one convention, that
of the proxy that is configured, and never from whichever header is there, since the others may be the client's own:

    envoy            the request line and Host of what it sends us        (ext_authz HTTP, without path_prefix)
    nginx            X-Original-Method, X-Original-URI and Host           (auth_request, all three set by proxy_set_header)
    caddy, traefik   X-Forwarded-Method, -Proto, -Host and -Uri           (forward_auth, forwardAuth)

The proof names the body by its digest, and most proxies send none here. Whose word the body then is says `body`:

    none             the empty body, which is all that the proxy lets through to the service
    sent             the body that came with the request
    claimed          the digest that the proof names, which the service must compare

In all three the answer carries the digest that was decided, as `Content-Digest`, for the proxy to hand on.

Does not say who the proxy is: whoever reaches the socket learns only whether a proof that it holds would have passed, and has used it up.

Source: envoy.extensions.filters.http.ext_authz.v3 HttpService; ngx_http_auth_request_module; RFC 9530 section 2.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from enforcer.relying.asgi import (
    Receive,
    Room,
    Scope,
    Send,
    admitted,
    answer,
    checked_origin,
    http_action,
    is_http,
    new_reference,
    one_length,
    read_body,
    reasons_of,
    refuse,
    shown,
    single,
    target_of,
)
from enforcer.relying.party import Presented, RelyingParty, status_of
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse
from writ.formats.jose import parse_dpop
from writ.formats.strict import parse_b64url
from writ.formats.trace import trace_of
from writ.verdict.token import VerifiedToken

Proxy = Literal["envoy", "nginx", "caddy", "traefik"]
Body = Literal["none", "sent", "claimed"]
PROXIES: Final[tuple[Proxy, ...]] = get_args(Proxy)
BODIES: Final[tuple[Body, ...]] = get_args(Body)
SENDS_BODY: Final[tuple[Proxy, ...]] = ("envoy", "traefik")
"""What can send the body along: `with_request_body`, `forwardBody`."""

GATE: Final = "forward-auth"
ENDPOINT: Final = b"/forward-auth"
"""The path that a proxy asks at which does not send us the request's own."""
MAX_WAITING: Final = 256
"""Requests at once; more are refused."""
_PARTIAL: Final = b"x-envoy-auth-partial-body"
_NOTHING: Final = Digest.of(b"")


class ForwardAuth:
    """The endpoint for one proxy, or several alike."""

    def __init__(self, *, proxy: Proxy, origins: Sequence[str], party: RelyingParty, body: Body = "none") -> None:
        """`origins` are scheme and authority of what stands behind the proxy, as clients write them. Raises Misuse.

        Envoy and nginx say the authority only, so each may have one scheme.
        """
        if proxy not in PROXIES or body not in BODIES or (body == "sent" and proxy not in SENDS_BODY):
            raise Misuse(f"no convention for proxy {proxy!r} with body {body!r}")
        by_authority = {checked_origin(origin).partition("://")[2]: origin for origin in origins}
        if not origins or (proxy in ("envoy", "nginx") and len(by_authority) != len(set(origins))):
            raise Misuse("origins: at least one, and one scheme for each authority where the proxy does not say which")
        self._proxy, self._body, self._party = proxy, body, party
        self._origins, self._by_authority = frozenset(origins), by_authority
        self._room = Room(MAX_WAITING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI scope: a request is decided; what is none is refused."""
        if not await is_http(scope, send):
            return
        reference = new_reference()
        try:
            with self._room:
                request = await self._request(scope, receive)
                token = await admitted(self._party, request, gate=GATE, reference=reference)
        except Exception as error:  # noqa: BLE001 - whatever fails before a decision refuses (I3)
            reasons = reasons_of(error, "forward-auth", reference)
            said = [(b"x-writ-refusal", f"{reasons[0].code}; reference={reference}".encode("ascii"))]  # nginx hands on no body
            await refuse(send, reasons, reference, status=401 if status_of(reasons) == 401 else 403, headers=said)
            return
        await answer(send, 200, b"", content_type=b"text/plain", headers=_identity(token, request.action.arguments, reference))

    async def _request(self, scope: Scope, receive: Receive) -> Presented:
        """What the proxy asks for.

        1. It asks for no other protocol, of which the rest would not be decided, and its body, if any, has one length.
        2. Method, origin and target are those of the one convention, each said once; the origin is one of ours.
        3. Token and proof, each once.
        4. The body's digest is known, or is the one that the proof claims where that is configured.

        Raises Refused, FormatError, Unavailable.
        """
        # 1
        if any(bytes(name).lower() == b"upgrade" for name, _ in scope["headers"]):
            raise FormatError("header upgrade", "none", "another protocol")
        one_length(scope)
        # 2
        method, origin, target = self._asked(scope)
        # 3
        token, proof, lease = shown(scope)
        # 4
        body = await read_body(receive)
        action = http_action(method, origin, target, self._digest(scope, body, proof))
        return Presented(action, method, action.resource, token, proof, lease, trace=trace_of(scope["headers"]))

    def _asked(self, scope: Scope) -> tuple[str, str, bytes]:
        if self._proxy == "envoy":
            return str(scope["method"]), self._of_authority(scope), target_of(scope)
        if scope["method"] != "GET" or target_of(scope) != ENDPOINT:
            raise FormatError("request", f"GET {ENDPOINT.decode()}", repr(target_of(scope))[:80])
        if self._proxy == "nginx":
            return _said(scope, "x-original-method"), self._of_authority(scope), _said(scope, "x-original-uri").encode("ascii")
        origin = f"{_said(scope, 'x-forwarded-proto')}://{_said(scope, 'x-forwarded-host')}"
        if origin not in self._origins:
            raise self._not_ours(origin)
        return _said(scope, "x-forwarded-method"), origin, _said(scope, "x-forwarded-uri").encode("ascii")

    def _of_authority(self, scope: Scope) -> str:
        authority = _said(scope, "host")
        origin = self._by_authority.get(authority)
        if origin is None:
            raise self._not_ours(authority)
        return origin

    def _not_ours(self, got: str) -> FormatError:
        return FormatError("origin", f"one of {len(self._origins)} that are configured", repr(got)[:80])

    def _digest(self, scope: Scope, body: bytes, proof: str) -> Digest:
        if self._proxy == "envoy" and single(scope, _PARTIAL) not in (None, "false"):
            raise FormatError("body", "the whole of it", "a part")
        if self._body == "claimed":
            if body:
                raise FormatError("body", "none here, since the service compares its digest", f"{len(body)} bytes")
            return _claimed(proof)
        if body and self._body == "none":
            raise FormatError("body", "none", f"{len(body)} bytes")
        return Digest.of(body)


def _said(scope: Scope, name: str) -> str:
    value = single(scope, name.encode("ascii"))
    if not value:
        raise FormatError(f"header {name}", "one, set by the proxy", "none")
    return value


def _claimed(proof: str) -> Digest:
    """The digest of arguments that the proof claims; where it claims none, that of nothing, for which it will not do either."""
    try:
        claimed = parse_dpop(proof).arg
    except FormatError:
        return _NOTHING  # whoever judges the proof says why
    return _NOTHING if claimed is None else Digest("sha256", parse_b64url(claimed, "proof.arg"))


def _identity(token: VerifiedToken, body: Digest, reference: str) -> list[tuple[bytes, bytes]]:
    """What the proxy sets on the request that it hands on. All of them, always, so that none of the client's own is left."""
    said: Mapping[str, str] = {
        "x-writ-agent": str(token.claims.agent), "x-writ-instance": token.claims.instance.hex(), "x-writ-reference": reference,
        "content-digest": f"sha-256=:{base64.b64encode(body.value).decode('ascii')}:",
    }  # fmt: skip
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in said.items()]

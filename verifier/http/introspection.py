"""Token introspection (RFC 7662): whether an execution token is active now, for a relying service or whoever reads.

Whatever is not a live token that this caller may learn of is `{"active": false}` and nothing else, whether it is rubbish, forged, expired,
revoked, for another audience or of another namespace. The answer is no decision: token, proof and grants are still the service's to check.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from verifier.access import Operator
from verifier.http.route import Parts, Route
from verifier.ledger.schema import TokenRow
from writ.formats.eat import TokenClaims, parse_token
from writ.formats.errors import FormatError
from writ.formats.jose import verify_jws
from writ.formats.keys import key_id
from writ.formats.strict import decode_json

FORM: Final = "application/x-www-form-urlencoded"
INACTIVE: Final[dict[str, object]] = {"active": False}


def routes(parts: Parts) -> tuple[Route, ...]:
    """The one route."""

    async def introspect(request: Request) -> Any:
        token = _asked(request.headers.get("Content-Type", ""), await request.body())
        said = await run_in_threadpool(_introspection, parts, request.state.operator, token)
        return JSONResponse(said, headers={"Cache-Control": "no-store"})

    return (Route("POST", "/v1/introspect", "relying", introspect, body_type=FORM),)


def _asked(kind: str, body: bytes) -> str:
    """The token of the form; other parameters are read over, none may come twice. Raises FormatError. Source: RFC 7662 section 2.1."""
    if kind.partition(";")[0].strip().lower() != FORM:
        raise FormatError("introspection", FORM, repr(kind)[:80])
    try:
        given = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=8)
    except ValueError:
        raise FormatError("introspection", "a form with token=…", "another body") from None
    names = [name for name, _ in given]
    if "token" not in names or len(set(names)) != len(names):
        raise FormatError("introspection", "a form with token=…, no parameter twice", f"{len(names)} parameters")
    return dict(given)["token"]


def _introspection(parts: Parts, operator: Operator, compact: str) -> dict[str, object]:
    """The answer. Source: RFC 7662 section 2.2; RFC 9449 section 6.2.

    1. It is a token of ours, signed by a key that is published now.
    2. The caller may learn of it: by its namespace and, for a relying service, by its audience.
    3. It has not expired.
    4. It was issued, and is not revoked.
    """
    now = parts.clock.now()
    # 1
    try:
        token = parse_token(compact)
    except FormatError:
        return INACTIVE
    claims = token.claims
    key = next((key for key in parts.keys.token_keys(now) if key_id(key) == token.jws.kid), None)
    if key is None or not verify_jws(token.jws, key):
        return INACTIVE
    # 2
    if not _may_learn(operator, claims):
        return INACTIVE
    # 3
    if now >= claims.expires_at:
        return INACTIVE
    # 4
    rows = parts.ledger.read().select(TokenRow, token_id=claims.token_id)
    if not rows or any(row.revoked for row in rows):
        return INACTIVE
    said: dict[str, object] = decode_json(token.jws.payload, "token")
    return {**said, "active": True, "token_type": "DPoP"}


def _may_learn(operator: Operator, claims: TokenClaims) -> bool:
    return operator.covers(claims.agent.namespace) and (operator.role != "relying" or operator.audience == claims.audience)

"""From errors and reasons to HTTP: the only table of status codes, RFC 9457 for people and operators, CBOR for hosts.

An answer names what was expected and what came, never a secret and never an
exception's own text. What nobody foresaw is a 500 with a reference that the log has too.
"""

from __future__ import annotations

import secrets
from typing import Final

from starlette.responses import JSONResponse, Response

from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.exchange import EXCHANGE, Problem
from writ.formats.reason import Reason
from writ.service.observe import get_logger

CBOR: Final = "application/cbor"
PROBLEM_JSON: Final = "application/problem+json"

STATUS: Final[dict[str, int]] = {
    "malformed": 400,
    "unauthenticated": 401,
    "proof-missing": 401,
    "proof-stale": 401,
    "proof-invalid": 401,
    "proof-mismatch": 401,
    "proof-replayed": 401,
    "forbidden": 403,
    "not-found": 404,
    "host-unknown": 404,
    "conflict": 409,
    "nonce-spent": 409,
    "nonce-unknown": 409,
    "nonce-superseded": 409,
    "nonce-expired": 409,
    "policy-unknown": 409,
    "policy-rollback": 409,
    "host-already-enrolled": 409,
    "ek-already-bound": 409,
    "too-large": 413,
    "too-many-requests": 429,
    "internal": 500,
    "unavailable": 503,
}
REFUSED: Final = 403
"""The status of every other reason."""

TITLES: Final[dict[int, str]] = {
    400: "Malformed", 401: "Not authenticated", 403: "Refused", 404: "Not found", 405: "Method not allowed", 408: "Too slow",
    409: "Conflict",
    413: "Too large", 415: "Wrong media type", 422: "Malformed", 429: "Too many requests", 500: "Internal error", 503: "Unavailable",
}  # fmt: skip

_LOG = get_logger("verifier.http")


def answer(error: Exception, *, cbor: bool) -> Response:
    """The response to an error of any kind."""
    reasons = reasons_of(error)
    status = STATUS.get(reasons[0].code, REFUSED)
    reference = secrets.token_hex(8)
    if status >= 500:
        _LOG.error("could-not", exception=error, status=status, reference=reference)
    else:
        _LOG.info("refused", status=status, code=reasons[0].code, reference=reference)
    return problem(status, reasons, reference, cbor=cbor)


def problem(status: int, reasons: tuple[Reason, ...], reference: str, *, cbor: bool, headers: dict[str, str] | None = None) -> Response:
    """The response with that status and those reasons."""
    extra = dict(headers or {})
    if status == 401:
        extra["WWW-Authenticate"] = "DPoP" if cbor else "Bearer"
    if status in (429, 503):
        extra["Retry-After"] = "1"
    if cbor:
        return Response(EXCHANGE.encode(Problem(reference, reasons)), status, extra, CBOR)
    document = {
        "type": "about:blank",
        "title": TITLES.get(status, "Refused"),
        "status": status,
        "detail": str(reasons[0])[:500],
        "reference": reference,
        "reasons": [reason.to_json() for reason in reasons],
    }
    return JSONResponse(document, status, extra, PROBLEM_JSON)


def reasons_of(error: Exception) -> tuple[Reason, ...]:
    """What an error says, as reasons; an unforeseen one says nothing but that it is ours."""
    if isinstance(error, Refused):
        return tuple(Reason(r.code, _plain(r.claim), _plain(r.expected), _plain(r.got)) for r in error.reasons[:512])
    if isinstance(error, FormatError):
        return (Reason("malformed", _plain(error.what), _plain(error.expected), _plain(error.got)),)
    if isinstance(error, Unavailable):
        return (Reason("unavailable", _plain(error.what), "an answer", _plain(error.detail)),)
    return (Reason("internal", "verifier", "an answer", "a fault of ours"),)


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() and not 0xD800 <= ord(c) < 0xE000 else "?" for c in text)[:200]

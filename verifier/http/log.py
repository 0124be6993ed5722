"""What anyone may read: keys, status lists, health. None of it holds an EK certificate or an argument hash."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response
from fastapi.responses import JSONResponse

from verifier.http.route import Parts, Route
from verifier.token_exchange import EXCHANGE_JWKS

STATUS_LIST: str = "application/statuslist+jwt"


def routes(parts: Parts) -> tuple[Route, ...]:
    """The public routes."""

    def jwks() -> Response:
        return JSONResponse(parts.keys.jwks(parts.clock.now()), headers={"Cache-Control": "max-age=60"})

    def discovery() -> Response:
        return JSONResponse(parts.exchange.metadata(), headers={"Cache-Control": "max-age=60"})

    def exchange_jwks() -> Response:
        return JSONResponse(parts.keys.exchange_jwks(parts.clock.now()), headers={"Cache-Control": "max-age=60"})

    def status(number: Annotated[int, Path(alias="list", ge=0, lt=1 << 31)]) -> Response:
        return Response(parts.revocations.status_list(number), media_type=STATUS_LIST, headers={"Cache-Control": "no-store"})

    def healthz() -> Response:
        return JSONResponse({"status": "alive"})

    def readyz() -> Response:
        parts.keys.current()
        return JSONResponse({"status": "ready"})

    return (
        Route("GET", "/.well-known/jwks.json", "public", jwks),
        Route("GET", "/.well-known/openid-configuration", "public", discovery),
        Route("GET", EXCHANGE_JWKS, "public", exchange_jwks),
        Route("GET", "/v1/status/{list}", "public", status, answer_type=STATUS_LIST),
        Route("GET", "/healthz", "public", healthz),
        Route("GET", "/readyz", "public", readyz),
    )

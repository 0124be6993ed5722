"""What anyone may read: keys, status lists, the transparency log, health. None of it holds an EK certificate or an argument hash."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response
from fastapi.responses import JSONResponse

from verifier.config import LOG_PATH
from verifier.http.route import Parts, Route
from verifier.ledger import Tables
from verifier.ledger.translog import TransparencyLog
from verifier.token_exchange import EXCHANGE_JWKS
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.tlog.tile import parse_path

STATUS_LIST: str = "application/statuslist+jwt"


CHECKPOINT: str = "text/plain; charset=utf-8"


RECEIPT: str = 'application/cose; cose-type="cose-sign1"'
Leaf = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


def _entry(tables: Tables, leaf: str) -> int:
    """The sequence of the entry with that leaf hash: the first, if there are several."""
    rows = tables.entries(leaf, most=1)
    if not rows:
        raise Refused(Reason("not-found", "leaf", "the leaf hash of an entry of this log", leaf))
    return rows[0].sequence


def _log(parts: Parts) -> TransparencyLog:
    if parts.translog is None or not parts.translog.checkpoint:
        raise Refused(Reason("not-found", "log", "a log with a checkpoint", "none"))
    return parts.translog


def _no_tile(path: str) -> Refused:
    return Refused(Reason("not-found", "tile", "a tile of this log", repr(path[:80])))


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
        parts.ledger.demand()
        return JSONResponse({"status": "ready"})

    def checkpoint() -> Response:
        return Response(_log(parts).shown, media_type=CHECKPOINT, headers={"Cache-Control": "no-cache"})

    def tile(path: Annotated[str, Path(max_length=80)]) -> Response:
        try:
            named = parse_path(f"tile/{path}")
        except FormatError:
            raise _no_tile(path) from None
        data = _log(parts).tile(parts.ledger.read(), named)
        if data is None:
            raise _no_tile(path)
        return Response(data, media_type="application/octet-stream", headers={"Cache-Control": "public, max-age=31536000, immutable"})

    def receipt(leaf: Leaf) -> Response:
        tables = parts.ledger.read()
        return Response(_log(parts).receipt(tables, _entry(tables, leaf)), media_type=RECEIPT, headers={"Cache-Control": "no-cache"})

    def proof(leaf: Leaf) -> Response:
        tables = parts.ledger.read()
        return Response(_log(parts).proof(tables, _entry(tables, leaf)), media_type=CHECKPOINT, headers={"Cache-Control": "no-cache"})

    return (
        Route("GET", f"{LOG_PATH}/receipt/{{leaf}}", "public", receipt, answer_type=RECEIPT),
        Route("GET", f"{LOG_PATH}/proof/{{leaf}}", "public", proof, answer_type=CHECKPOINT),
        Route("GET", f"{LOG_PATH}/checkpoint", "public", checkpoint, answer_type=CHECKPOINT),
        Route("GET", f"{LOG_PATH}/tile/{{path:path}}", "public", tile, answer_type="application/octet-stream"),
        Route("GET", "/.well-known/jwks.json", "public", jwks),
        Route("GET", "/.well-known/openid-configuration", "public", discovery),
        Route("GET", EXCHANGE_JWKS, "public", exchange_jwks),
        Route("GET", "/v1/status/{list}", "public", status, answer_type=STATUS_LIST),
        Route("GET", "/healthz", "public", healthz),
        Route("GET", "/readyz", "public", readyz),
    )

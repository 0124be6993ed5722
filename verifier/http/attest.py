"""The routes of hosts: enrolment with a ticket, then nonce, evidence and exchange of tokens under a proof of the host key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request, Response
from starlette.concurrency import run_in_threadpool

from verifier.cosigning import demand
from verifier.http.problems import CBOR
from verifier.http.route import SMALL, Parts, Route
from writ.formats.errors import FormatError
from writ.formats.evidence import MAX_SIZE
from writ.formats.exchange import EXCHANGE, Activation, EnrolRequest
from writ.formats.strict import b64url
from writ.service.uplink import RECEIPT_HEADER

Host = Annotated[str, Path(min_length=1, max_length=63)]


def routes(parts: Parts) -> tuple[Route, ...]:
    """What a host may call."""

    def waits(host: str | None = None) -> None:
        """Nothing is decided that waits for its witnesses too long."""
        demand(parts.cosigning, parts.ledger.read(), host)

    def enrol(body: bytes) -> bytes:
        message = EXCHANGE.parse(body)
        if not isinstance(message, EnrolRequest):
            raise FormatError("exchange.kind", "enrol-request", type(message).__name__)
        return EXCHANGE.encode(parts.enrolment.enrol(message, body))

    def activate(body: bytes) -> bytes:
        waits()
        message = EXCHANGE.parse(body)
        if not isinstance(message, Activation):
            raise FormatError("exchange.kind", "activation", type(message).__name__)
        return parts.enrolment.activate(message, body)

    def nonce(host: str, body: bytes) -> bytes:
        if body:
            raise FormatError("nonce request", "no body", f"{len(body)} bytes")
        return parts.attestation.nonce(host)

    def attest(host: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        """The answer, and beside it the receipt of its decision, without which it does not leave; none where there is no log."""
        waits(host)
        answered = parts.attestation.attest(host, body)
        if parts.translog is None:
            return answered.answer, {}
        receipt = parts.translog.receipt(parts.ledger.read(), answered.sequence)
        return answered.answer, {RECEIPT_HEADER: b64url(receipt)}

    async def post_enrol(request: Request) -> Response:
        return Response(await run_in_threadpool(enrol, await request.body()), media_type=CBOR)

    def exchange(host: str, body: bytes) -> bytes:
        waits(host)
        return parts.exchange.exchange(host, body)

    async def post_activate(request: Request) -> Response:
        return Response(await run_in_threadpool(activate, await request.body()), media_type=CBOR)

    async def post_nonce(request: Request, host: Host) -> Response:
        return Response(await run_in_threadpool(nonce, host, await request.body()), media_type=CBOR)

    async def post_attest(request: Request, host: Host) -> Response:
        answer, headers = await run_in_threadpool(attest, host, await request.body())
        parts.counters.add("verifier_attestations_total")
        return Response(answer, media_type=CBOR, headers=headers)

    async def post_exchange(request: Request, host: Host) -> Response:
        answer = await run_in_threadpool(exchange, host, await request.body())
        parts.counters.add("verifier_exchanges_total")
        return Response(answer, media_type=CBOR, headers={"Cache-Control": "no-store"})

    return (
        Route("POST", "/v1/enrol", "public", post_enrol, SMALL * 3, cbor=True, body_type=CBOR, answer_type=CBOR),
        Route("POST", "/v1/enrol/activate", "public", post_activate, SMALL, cbor=True, body_type=CBOR, answer_type=CBOR),
        Route("POST", "/v1/hosts/{host}/nonce", "host", post_nonce, SMALL, cbor=True, answer_type=CBOR),
        Route("POST", "/v1/hosts/{host}/attest", "host", post_attest, MAX_SIZE, cbor=True, body_type=CBOR, answer_type=CBOR),
        Route("POST", "/v1/hosts/{host}/exchange", "host", post_exchange, SMALL, cbor=True, body_type=CBOR, answer_type=CBOR),
    )

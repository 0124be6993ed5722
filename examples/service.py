"""A relying service: an ASGI application behind Writ's middleware, served on loopback.

python -m examples.service PORT ISSUER TRUST DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from enforcer.relying.client import Sources, VerifierFeed
from enforcer.relying.middleware import Message, Middleware, Receive, Scope, Send
from enforcer.relying.party import RelyingParty
from enforcer.relying.sink import FileSink
from writ.formats.trust import parse_trust
from writ.service.clock import SystemClock
from writ.service.engine_id import installed_engine

AUDIENCE = "tools"


async def reports(scope: Scope, _receive: Receive, send: Send) -> None:
    """The service itself: it answers whoever gets past the middleware."""
    if scope["type"] != "http":
        return
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
    await send(start)
    await send({"type": "http.response.body", "body": b"the report\n"})


def main(port: str, issuer: str, trust: str, directory: str) -> None:
    """Serve until stopped."""
    place = Path(directory)
    keys = parse_trust(Path(trust).read_bytes()).decision_keys
    feed = VerifierFeed(Sources(f"{issuer}/.well-known/jwks.json", f"{issuer}/v1/status/0", place / "policy.cose", keys), SystemClock())
    feed.refresh()
    feed.start()
    party = RelyingParty(
        audience=AUDIENCE, issuer=issuer, feed=feed, sink=FileSink(place / "service.jsonl"), clock=SystemClock(), engine=installed_engine()
    )
    guarded = Middleware(reports, origin=f"http://127.0.0.1:{port}", party=party)
    uvicorn.run(guarded, host="127.0.0.1", port=int(port), log_level="warning", lifespan="off")


if __name__ == "__main__":
    main(*sys.argv[1:])

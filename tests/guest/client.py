"""Runs inside the guest: launches an agent and asks for its token, as an enforcer would, and prints what came back as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from writ.formats.keys import ED25519, PublicKey
from writ.formats.local import LOCAL, MAX_FRAME, Launch, Launched, Local, Refusal, TokenAsk, TokenGiven, Unreachable
from writ.formats.tlog.merkle import EMPTY_ROOT
from writ.service.peers import Connection, connect

_ANSWER_WITHIN = 180.0


async def _exchange(line: Connection, message: Local) -> Local:
    await line.send(LOCAL.encode(message))
    data = await line.receive(_ANSWER_WITHIN)
    if data is None:
        raise SystemExit("the attestor closed the connection")
    return LOCAL.parse(data)


async def _ask(socket: Path, agent: str) -> dict[str, object]:
    key = PublicKey(ED25519, Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    line = await connect(socket, MAX_FRAME, _ANSWER_WITHIN)
    try:
        launched = await _exchange(line, Launch(agent, (), key, None))
        if not isinstance(launched, Launched):
            raise SystemExit(f"no launch: {launched}")
        ask = TokenAsk(launched.instance, key, launched.audience, launched.grants, 0, EMPTY_ROOT, 0, ())
        answer = await _exchange(line, ask)
    finally:
        line.close()
    if isinstance(answer, Unreachable):
        raise SystemExit(f"no answer from the verifier: {answer}")
    reasons = [reason.to_json() for reason in answer.reasons] if isinstance(answer, Refusal) else []
    return {"token": isinstance(answer, TokenGiven), "reasons": reasons}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_ask(Path(sys.argv[1]), sys.argv[2]))))

"""The vectors that `docs/relying.md` ships, against our own relying party: whoever passes them decides as it does."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from enforcer.relying.client import parse_jwks, verify_status_list
from enforcer.relying.middleware import Message, Middleware, Receive, Scope, Send
from enforcer.relying.party import RelyingParty
from enforcer.replay_cache import ReplayCache
from tests.docs.blocks import ROOT
from tests.enforcer.relying import vectors
from tests.enforcer.relying.test_middleware import MemorySink
from tests.world.attestor import ENGINE
from tests.world.clock import HandClock
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.keys import PublicKey
from writ.formats.policy_bundle import CLOCK_SKEW, PolicyBundle, parse_bundle
from writ.formats.strict import parse_b64url
from writ.verdict.token import Revocation

DOCUMENT: dict[str, Any] = json.loads(vectors.FILE.read_text())
CHECKED_BY = {
    "method": 1, "query": 1, "path": 1, "action.resource": 1, "action.name": 1, "body": 2,
    "header authorization": 3, "header dpop": 3, "header writ-lease": 3, "Authorization": 4, "DPoP": 4,
    "status_list": 6, "token.kid": 8, "token": 9, "token.iss": 10, "token.aud": 11, "token.iat": 12,
    "token.status.uri": 14, "token.status.idx": 14, "status_list.iat": 14, "status_list.exp": 14,
    "proof.jwk": 18, "proof": 19, "proof.ath": 20, "proof.htm": 21, "proof.htu": 21, "proof.act": 22, "proof.res": 22, "proof.arg": 22,
    "bundle": 25, "token.grants": 26, "sink": 28,
}  # fmt: skip
"""The number of the check by the claim that a reason names; where one claim has two checks, `number` tells them apart."""
BY_CODE = {"token-expired": 12, "token-revoked": 15, "policy-refused": 27, "proof-replayed": 24, "too-many-requests": 24}


def number(reason: dict[str, str]) -> int:
    """The check of docs/relying.md that gave this reason."""
    code, claim = reason["code"], reason["claim"]
    if code == "token-malformed":
        return 13 if claim == "token.exp" and reason["got"].endswith(" s") else 7
    if code.startswith("lease-"):
        return 16
    if code == "proof-invalid" and claim not in ("proof.jwk", "proof"):
        return 17
    if code == "proof-stale":
        return 23 if " to " in reason["expected"] else 24
    return BY_CODE.get(code) or CHECKED_BY[claim]


class Feed:
    """What a case says that the verifier published, held since the case began."""

    def __init__(self, service: dict[str, Any]) -> None:
        self._revocation: Revocation | None = None
        self._keys: dict[str, PublicKey] = {}
        try:
            self._keys = parse_jwks(DOCUMENT["jwks"][service["jwks"]].encode())
            if service["status_list"] is not None:
                signed = DOCUMENT["status_lists"][service["status_list"]]
                self._revocation = verify_status_list(signed, self._keys, service["status_uri"], service["now"])
        except (FormatError, Refused):
            pass  # nothing is held
        self._bundles = [parse_bundle(parse_b64url(DOCUMENT["policies"][name]["bundle"], name)) for name in service["holds"]]

    def keys(self) -> dict[str, PublicKey]:
        """Token keys."""
        return self._keys

    def revocation(self) -> Revocation | None:
        """Status list."""
        return self._revocation

    def bundle(self, named: Digest) -> PolicyBundle | None:
        """Policy."""
        return next((one for one in self._bundles if one.digest == named), self._bundles[0] if self._bundles else None)


async def reached(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def answer(app: Middleware, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    sent: list[Message] = []
    body = request["body"].encode() * request["times"]

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    path, _, query = request["target"].partition("?")
    headers = [(name.encode(), value.encode("latin-1")) for name, value in request["headers"]]
    scope = {
        "type": "http", "method": request["method"], "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": headers,
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_the_shipped_file_is_what_our_formats_make() -> None:
    assert vectors.encoded() == vectors.FILE.read_text(), "python -m tests.enforcer.relying.vectors > examples/relying/vectors.json"


def test_each_check_that_a_request_can_fail_refuses_one() -> None:
    checks = Counter(request["expect"].get("check") for case in DOCUMENT["cases"] for request in case["requests"])
    assert set(checks) - {None} == set(range(1, 29)) - {5}, "keys that are none leave no list: 5 is seen as 6 and 8"
    assert len(DOCUMENT["cases"]) >= 60
    page = (ROOT / "docs/relying.md").read_text()
    assert [line for line in range(1, 29) if f"\n| {line} | " not in page] == []


def decided(case: dict[str, Any]) -> list[dict[str, Any]]:
    """What our relying party answers to the requests of a case, as `expect` spells it."""
    service = DOCUMENT["service"] | case["service"]
    clock = HandClock(service["now"])
    started = service["started_at"]
    replay = ReplayCache(service["capacity"], refuse_made_before=started + CLOCK_SKEW + 1 if started else 0)
    party = RelyingParty(
        audience=service["audience"], issuer=service["issuer"], feed=Feed(service), sink=MemorySink(fails=not service["durable"]),
        clock=clock, engine=ENGINE, replay=replay,
    )  # fmt: skip
    app, answers = Middleware(reached, origin=service["origin"], party=party), []
    for request in case["requests"]:
        clock.wall = service["now"] + request["at"]
        status, said = answer(app, request)
        if status == 200:
            answers.append(vectors.yes())
            continue
        (reason,) = said["reasons"]
        answers.append(vectors.no(number(reason), reason["code"], status))
    return answers


@pytest.mark.parametrize("case", DOCUMENT["cases"], ids=lambda case: case["name"])
def test_vector(case: dict[str, Any]) -> None:
    assert decided(case) == [request["expect"] for request in case["requests"]]

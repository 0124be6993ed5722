"""A proxy's question about one request, with token and proof, in each proxy's own convention."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from enforcer.relying.forward_auth import Body, ForwardAuth, Proxy
from tests.enforcer.relying.asking import Answer, Header, exchange
from tests.enforcer.relying.test_middleware import Service
from writ.formats.action import Action
from writ.formats.digest import Digest

SITE = "https://reports.example.org"
PLAIN = "http://reports.example.org"
PORTED = f"{PLAIN}:8080"
GRANTS = tuple((action, f"{origin}/v1/*") for origin in (SITE, PLAIN, PORTED) for action in ("http.get", "http.post"))


class Gate(Service):
    """Forward-auth for one kind of proxy, and a client with a token for what is behind it."""

    def __init__(self, folder: Path, proxy: Proxy, *, body: Body = "none", origins: tuple[str, ...] = (SITE,)) -> None:
        super().__init__(folder, *GRANTS)
        self.proxy, self.body = proxy, body
        self.gate = ForwardAuth(proxy=proxy, origins=origins, party=self.party(), body=body)

    def proven(self, method: str = "GET", url: str = f"{SITE}/v1/report", body: bytes = b"", **changed: Any) -> dict[str, str]:
        """The client's two headers for a request."""
        proof = self.proof_of(Action(f"http.{method.lower()}", url, Digest.of(body)), method, **changed)
        return {"authorization": f"DPoP {self.held.compact}", "dpop": proof}

    def question(
        self, shown: Mapping[str, str], method: str = "GET", target: str = "/v1/report", *, origin: str = SITE, sent: bytes = b"",
        more: tuple[Header, ...] = (), without: tuple[str, ...] = (),
    ) -> Answer:  # fmt: skip
        """What the gate says of a request: `shown` is the client's, `more` comes in addition, `without` is left out."""
        scheme, _, authority = origin.partition("://")
        convention: Mapping[str, str] = {
            "envoy": {"host": authority, "x-envoy-auth-partial-body": "false"},
            "nginx": {"host": authority, "x-original-method": method, "x-original-uri": target},
        }.get(
            self.proxy,
            {"x-forwarded-method": method, "x-forwarded-proto": scheme, "x-forwarded-host": authority, "x-forwarded-uri": target},
        )
        given = {**shown, **convention}
        headers = [(name.encode(), value.encode()) for name, value in given.items() if name not in without]
        path, _, query = target.partition("?") if self.proxy == "envoy" else ("/forward-auth", "", "")
        method = method if self.proxy == "envoy" else "GET"
        return exchange(self.gate, [*headers, *more], method=method, path=path, query=query.encode(), body=sent)

    @staticmethod
    def digest(body: bytes) -> str:
        """`Content-Digest` of a body."""
        return f"sha-256=:{base64.b64encode(sha256(body).digest()).decode()}:"


def reason(answer: Answer) -> tuple[int, str]:
    """Status and first reason of a refusal."""
    return answer.status, json.loads(answer.body)["reasons"][0]["code"]


def claim(answer: Answer) -> str:
    """What the first reason is about."""
    said: str = json.loads(answer.body)["reasons"][0]["claim"]
    return said

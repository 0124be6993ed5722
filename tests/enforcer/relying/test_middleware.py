"""A relying service: nothing reaches it without token, proof, permit and record."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from enforcer.credential import Held
from enforcer.relying import middleware
from enforcer.relying.middleware import Middleware, Receive, Scope, Send
from enforcer.relying.party import RelyingParty
from enforcer.relying.sink import FileSink
from enforcer.replay_cache import ReplayCache
from tests.enforcer.relying.asking import Header, exchange
from tests.enforcer.scene import Scene
from tests.signers import new_signer
from tests.world.attestor import AUDIENCE, ENGINE, ISSUER, STATUS
from writ.formats.access import Access
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import Misuse, Unavailable
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.formats.keys import PublicKey, key_id
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.strict import b64url
from writ.verdict.token import Revocation

ORIGIN = "http://127.0.0.1"


@dataclass
class KnownFeed:
    """What the verifier published, by hand."""

    held_keys: dict[str, PublicKey]
    list: Revocation | None
    policy: PolicyBundle | None

    def keys(self) -> Mapping[str, PublicKey]:
        """Token keys."""
        return self.held_keys

    def revocation(self) -> Revocation | None:
        """Status list."""
        return self.list

    def bundle(self, named: Digest) -> PolicyBundle | None:
        """Policy."""
        return self.policy


@dataclass
class MemorySink:
    """Keeps decisions, or fails."""

    fails: bool = False
    kept: list[Access] = field(default_factory=list)

    def write(self, access: Access) -> None:
        """Keep it."""
        if self.fails:
            raise Unavailable("sink", "disk full")
        self.kept.append(access)


class Service:
    """One service behind the middleware, one client with a token."""

    def __init__(self, folder: Path, *more: tuple[str, str]) -> None:
        """The agent has the grants `more` too."""
        self.scene = Scene(folder, more=more)
        self.held: Held = self.scene.renew()
        self.now = self.scene.clock.wall
        keys = {key_id(self.scene.attestor.tokens.public): self.scene.attestor.tokens.public}
        self.feed = KnownFeed(keys, Revocation(STATUS, self.now, frozenset()), self.scene.attestor.bundle())
        self.sink, self.reached, self.replay = MemorySink(), 0, ReplayCache()
        self.app = self.wrap()

    def party(self, **changed: Any) -> RelyingParty:
        """Who decides, with something else in it."""
        parts: dict[str, Any] = {"audience": AUDIENCE, "issuer": ISSUER, "feed": self.feed, "sink": self.sink, "replay": self.replay}
        return RelyingParty(clock=self.scene.clock, engine=ENGINE, **(parts | changed))

    def wrap(self, origin: str = ORIGIN, **changed: Any) -> Middleware:
        """The middleware with something else in it."""
        return Middleware(self.inner, origin=origin, party=self.party(**changed))

    async def inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The service: says who came, and what the body was."""
        self.reached += 1
        message = await receive()
        body = json.dumps({"agent": scope["extensions"]["writ"]["agent"], "body": message["body"].decode()}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    def proof(self, body: bytes = b"{}", path: str = "/v1/report", **changed: Any) -> str:
        """A proof for the request."""
        return self.proof_of(Action("http.post", ORIGIN + path, Digest.of(body)), "POST", **changed)

    def proof_of(self, action: Action, method: str, uri: str | None = None, **changed: Any) -> str:
        """A proof for an action; the URI is its resource unless there is another. `changed` claims are signed all the same."""
        claims: dict[str, Any] = {
            "jti": b64url(secrets.token_bytes(24)), "htm": method, "htu": uri or action.resource, "iat": self.now,
            "ath": b64url(self.held.token.digest.value), "act": action.name, "res": action.resource, "arg": b64url(action.arguments.value),
        }  # fmt: skip
        return sign_dpop(encode_dpop_payload(**(claims | changed)), self.scene.key)

    def headers(self, **changed: str) -> list[Header]:
        """The two headers that are needed."""
        given = {"authorization": f"DPoP {self.held.compact}", "dpop": self.proof()} | changed
        return [(name.encode(), value.encode()) for name, value in given.items() if value]

    def ask(
        self, headers: Iterable[Header], *, path: str = "/v1/report", raw: bytes | None = None, query: bytes = b"", body: bytes = b"{}",
        method: str = "POST", kind: str = "http",
    ) -> tuple[int, dict[str, str], Any]:  # fmt: skip
        """Status, headers and decoded body of the answer."""
        got = exchange(self.app, headers, method=method, path=path, raw=raw, query=query, body=body, kind=kind)
        return got.status, dict(got.headers), got.sent if kind != "http" else json.loads(got.body)

    def code(self, headers: Iterable[Header], **more: Any) -> tuple[int, str]:
        """Status and first reason of a refusal."""
        status, _, problem = self.ask(headers, **more)
        return status, problem["reasons"][0]["code"]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def test_proven_request_passes_once_and_is_recorded(service: Service) -> None:
    headers = service.headers()
    status, _, answer = service.ask(headers)

    assert (status, answer) == (200, {"agent": "spiffe://example.org/test/agent/a", "body": "{}"})
    (access,) = service.sink.kept
    assert (access.permit, access.action, access.resource) == (True, "http.post", ORIGIN + "/v1/report")
    assert (access.token, access.instance) == (service.held.token.digest, service.scene.instance)
    assert service.code(headers) == (401, "proof-replayed")
    assert service.reached == 1


def test_more_at_once_than_there_is_room_for_is_refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MAX_WAITING", 0)
    service.app = service.wrap()
    assert service.code(service.headers()) == (503, "too-many-requests")
    assert (service.reached, service.sink.kept) == (0, [])


def test_full_replay_cache_refuses(service: Service) -> None:
    service.app = service.wrap(replay=ReplayCache(capacity=1))
    first = service.headers()
    assert service.ask(first)[0] == 200
    assert service.code(service.headers()) == (503, "too-many-requests")
    assert service.code(first) == (401, "proof-replayed")


def test_after_a_restart_no_proof_that_may_have_been_seen_is_taken(service: Service) -> None:
    early = service.headers(dpop=service.proof(iat=service.now + 4))
    service.app = service.wrap(replay=None)
    assert service.code(early) == (401, "proof-stale")
    service.now = service.scene.clock.wall = service.now + 7
    assert service.ask(service.headers())[0] == 200


def test_stolen_token_is_useless_with_another_key(service: Service) -> None:
    thief = new_signer()
    service.scene.key = thief

    assert service.code(service.headers()) == (401, "proof-invalid")


@pytest.mark.parametrize(
    "changed, code",
    [
        ({"htm": "GET"}, "proof-mismatch"),
        ({"htu": ORIGIN + "/v1/other"}, "proof-mismatch"),
        ({"res": ORIGIN + "/v1/other"}, "proof-mismatch"),
        ({"act": "tool.call"}, "proof-mismatch"),
        ({"arg": b64url(bytes(32))}, "proof-mismatch"),
        ({"ath": b64url(bytes(32))}, "proof-mismatch"),
        ({"iat": 1}, "proof-stale"),
    ],
)
def test_proof_for_something_else_is_refused(service: Service, changed: dict[str, Any], code: str) -> None:
    assert service.code(service.headers(dpop=service.proof(**changed))) == (401, code)
    assert service.reached == 0


def test_old_and_future_proofs_are_refused(service: Service) -> None:
    for shift in (-36, 6):
        assert service.code(service.headers(dpop=service.proof(iat=service.now + shift))) == (401, "proof-stale")


def test_body_that_is_not_the_proven_one_is_refused(service: Service) -> None:
    assert service.code(service.headers(), body=b'{"more":1}') == (401, "proof-mismatch")


@pytest.mark.parametrize(
    "changed, status, code",
    [
        ({"authorization": ""}, 401, "unauthenticated"),
        ({"authorization": "Bearer x"}, 401, "unauthenticated"),
        ({"authorization": "DPoP x"}, 401, "token-malformed"),
        ({"authorization": "DPoP " + "a." * 9000}, 401, "token-malformed"),
        ({"authorization": "DPoP \u00e4"}, 400, "malformed"),
        ({"dpop": ""}, 401, "proof-missing"),
        ({"dpop": "x.y.z"}, 401, "proof-invalid"),
    ],
)
def test_missing_or_malformed_header_is_refused(service: Service, changed: dict[str, str], status: int, code: str) -> None:
    assert service.code(service.headers(**changed)) == (status, code)


@pytest.mark.parametrize("name", [b"authorization", b"dpop", b"Authorization", b"DPoP"])
def test_header_that_comes_twice_is_refused(service: Service, name: bytes) -> None:
    """Envoy CVE-2021-32777: two readers take two values."""
    headers = service.headers()
    for twice in ([*headers, (name, dict(headers)[name.lower()])], [(name, b"x"), *headers]):
        assert service.code(twice) == (400, "malformed")


@pytest.mark.parametrize(
    "path, raw, query",
    [
        ("/v1/other", b"/v1/report", b""),
        ("/v1/report", b"/v1/%72eport", b""),
        ("/v1/report", b"/v1/x/../report", b""),
        ("/v1/../report", b"/v1/../report", b""),
        ("/v1//report", b"/v1//report", b""),
        ("/v1/report", b"/v1/report", b"x=1"),
        ("/v1/r eport", b"/v1/r%20eport", b""),
        ("/v1/\u00e4", "/v1/\u00e4".encode(), b""),
    ],
)
def test_path_with_two_readings_is_refused(service: Service, path: str, raw: bytes, query: bytes) -> None:
    assert service.code(service.headers(), path=path, raw=raw, query=query) == (400, "malformed")
    assert service.reached == 0


def test_refusal_is_a_problem_with_the_refusal_contract(service: Service) -> None:
    status, headers, problem = service.ask([])

    assert (status, headers["content-type"]) == (401, "application/problem+json")
    assert headers["www-authenticate"].startswith("DPoP error=")
    assert problem["status"] == 401
    assert set(problem["reasons"][0]) == {"code", "claim", "expected", "got", "remedy"}
    assert problem["reference"]


def test_expired_token_is_refused(service: Service) -> None:
    service.scene.clock.wall += 60
    service.now += 60

    assert service.code(service.headers()) == (401, "token-expired")


def test_other_audience_and_issuer_are_refused(service: Service) -> None:
    service.app = service.wrap(audience="urn:other")
    assert service.code(service.headers()) == (401, "token-audience")
    service.app = service.wrap(issuer="https://other.example")
    assert service.code(service.headers()) == (401, "token-issuer")


def test_revoked_token_is_refused(service: Service) -> None:
    service.feed.list = Revocation(STATUS, service.now, frozenset({0}))

    assert service.code(service.headers()) == (401, "token-revoked")


@pytest.mark.parametrize("age", [None, 301])
def test_missing_or_stale_status_list_refuses(service: Service, age: int | None) -> None:
    service.feed.list = None if age is None else Revocation(STATUS, service.now - age, frozenset())

    assert service.code(service.headers()) == (503, "status-stale")


def test_no_keys_no_policy_no_permission(service: Service) -> None:
    service.feed.policy = None
    assert service.code(service.headers()) == (503, "policy-unknown")
    service.feed.policy = replace(service.scene.attestor.bundle(), version=7)
    assert service.code(service.headers()) == (503, "policy-digest-mismatch")
    service.feed.held_keys = {}
    assert service.code(service.headers()) == (401, "token-key-unknown")


def test_grant_and_policy_refuse_with_403_and_are_recorded(service: Service) -> None:
    service.app = service.wrap(origin="http://127.0.0.2")
    uri = "http://127.0.0.2/v1/report"
    assert service.code(service.headers(dpop=service.proof(htu=uri, res=uri))) == (403, "grant-missing")
    assert [access.permit for access in service.sink.kept] == [False]


def test_sink_that_fails_refuses(service: Service) -> None:
    service.sink.fails = True

    assert service.code(service.headers()) == (503, "record-not-durable")
    assert service.reached == 0


def test_no_sink_is_misuse(service: Service) -> None:
    with pytest.raises(Misuse):
        service.wrap(sink=None)


def test_body_above_the_bound_is_refused(service: Service) -> None:
    assert service.code(service.headers(), body=b"x" * ((1 << 20) + 2)) == (413, "too-large")


def test_websocket_is_refused(service: Service) -> None:
    assert service.ask(service.headers(), kind="websocket")[2][0]["type"] == "websocket.close"
    assert service.reached == 0


def test_error_in_a_source_refuses_without_its_text(service: Service) -> None:
    class Broken(KnownFeed):
        def keys(self) -> Mapping[str, PublicKey]:
            raise RuntimeError("secret")

    service.app = service.wrap(feed=Broken({}, service.feed.list, None))
    status, _, problem = service.ask(service.headers())

    assert (status, problem["reasons"][0]["code"]) == (503, "internal")
    assert "secret" not in json.dumps(problem)


def test_file_sink_survives_a_torn_line_and_refuses_after_a_failed_write(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_bytes(b'{"torn":')
    service.app = service.wrap(sink=FileSink(path))
    assert service.ask(service.headers())[0] == 200
    lines = path.read_bytes().splitlines()

    assert lines[0] == b'{"torn":'
    assert json.loads(lines[1])["permit"] is True
    with pytest.raises(Unavailable):
        FileSink(tmp_path / "none" / "access.jsonl")
    full = FileSink(Path("/dev/full"))
    for _ in range(2):
        with pytest.raises(Unavailable):
            full.write(Access(0, ENGINE.tree, None, None, "http.get", "x", None, None, None, b"", (), "r"))

"""Forward-auth: what each kind of proxy asks, and that 200 is never anything but a permit that is on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from enforcer.relying import forward_auth
from enforcer.relying.forward_auth import Body, ForwardAuth, Proxy
from enforcer.replay_cache import ReplayCache
from tests.enforcer.relying.asking import exchange
from tests.enforcer.relying.behind import PLAIN, PORTED, SITE, Gate, claim, reason
from tests.enforcer.relying.test_middleware import KnownFeed
from writ.formats.digest import Digest
from writ.formats.errors import Misuse
from writ.formats.policy_bundle import PolicyBundle
from writ.verdict.token import Revocation

PROXIES: tuple[Proxy, ...] = get_args(Proxy)


@pytest.fixture(params=PROXIES)
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Gate:
    return Gate(tmp_path, request.param)


def test_a_permit_is_recorded_passes_once_and_says_who_came(gate: Gate) -> None:
    shown = gate.proven()
    passed = gate.question(shown)

    assert (passed.status, passed.body) == (200, b"")
    assert passed.header("x-writ-agent") == "spiffe://example.org/test/agent/a"
    assert passed.header("x-writ-instance") == gate.scene.instance.hex()
    assert passed.header("content-digest") == Gate.digest(b"")
    (access,) = gate.sink.kept
    assert (access.permit, access.action, access.resource) == (True, "http.get", f"{SITE}/v1/report")
    assert access.reference == passed.header("x-writ-reference")
    assert reason(gate.question(shown)) == (401, "proof-replayed")


def test_each_request_is_its_own_action(gate: Gate) -> None:
    assert gate.question(gate.proven("POST"), "POST").status == 200
    assert reason(gate.question(gate.proven("GET"), "POST")) == (401, "proof-mismatch")
    assert reason(gate.question(gate.proven(), target="/v1/other")) == (401, "proof-mismatch")
    assert reason(gate.question(gate.proven("PUT"), "PUT")) == (403, "grant-missing")
    assert reason(gate.question(gate.proven(url=f"{SITE}/v2/x"), target="/v2/x")) == (403, "grant-missing")


def test_refusals_of_token_and_proof_are_401_with_the_challenge(gate: Gate) -> None:
    for shown in ({}, {"authorization": "Bearer x"}, gate.proven() | {"dpop": "x.y.z"}):
        refused = gate.question(shown)
        assert refused.status == 401
        assert (refused.header("www-authenticate") or "").startswith("DPoP error=")
        assert set(json.loads(refused.body)["reasons"][0]) == {"code", "claim", "expected", "got", "remedy"}
        assert refused.header("x-writ-agent") is None


def stale(gate: Gate) -> None:
    gate.feed.list = None


def without_policy(gate: Gate) -> None:
    gate.feed.policy = None


def full_disk(gate: Gate) -> None:
    gate.sink.fails = True


def broken_feed(gate: Gate) -> None:
    class Broken(KnownFeed):
        def bundle(self, named: Digest) -> PolicyBundle | None:
            raise RuntimeError("secret")

    broken = Broken(gate.feed.held_keys, gate.feed.list, None)
    gate.gate = ForwardAuth(proxy=gate.proxy, origins=(SITE,), party=gate.party(feed=broken))


def full_cache(gate: Gate) -> None:
    gate.gate = ForwardAuth(proxy=gate.proxy, origins=(SITE,), party=gate.party(replay=ReplayCache(capacity=0)))


@pytest.mark.parametrize(
    "amiss, code",
    [
        (stale, "status-stale"),
        (without_policy, "policy-unknown"),
        (full_disk, "record-not-durable"),
        (broken_feed, "internal"),
        (full_cache, "too-many-requests"),
    ],
)
def test_what_could_not_be_decided_is_403_with_the_reason(gate: Gate, amiss: Any, code: str) -> None:
    amiss(gate)
    refused = gate.question(gate.proven())

    assert reason(refused) == (403, code)
    assert b"secret" not in refused.body


def test_revoked_is_401(gate: Gate) -> None:
    gate.feed.list = Revocation(gate.feed.list.uri if gate.feed.list else "", gate.now, frozenset({0}))
    assert reason(gate.question(gate.proven())) == (401, "token-revoked")


def test_more_at_once_than_there_is_room_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_auth, "MAX_WAITING", 0)
    gate = Gate(tmp_path, "nginx")
    assert reason(gate.question(gate.proven())) == (403, "too-many-requests")


def test_what_is_no_http_is_refused(gate: Gate) -> None:
    assert exchange(gate.gate, [], kind="websocket").sent[0]["type"] == "websocket.close"


# --- bodies -------------------------------------------------------------------------------------------------------------


def test_by_default_only_the_empty_body_passes(gate: Gate) -> None:
    assert reason(gate.question(gate.proven("POST", body=b"x"), "POST")) == (401, "proof-mismatch")
    refused = gate.question(gate.proven("POST", body=b"x"), "POST", sent=b"x")
    assert (reason(refused), claim(refused)) == ((403, "malformed"), "body")


@pytest.mark.parametrize("proxy", ["envoy", "traefik"])
def test_body_that_is_sent_along_is_the_one_decided(tmp_path: Path, proxy: Proxy) -> None:
    gate = Gate(tmp_path, proxy, body="sent")
    shown = gate.proven("POST", body=b'{"a":1}')
    passed = gate.question(shown, "POST", sent=b'{"a":1}')
    assert passed.header("content-digest") == Gate.digest(b'{"a":1}')
    assert reason(gate.question(gate.proven("POST", body=b'{"a":1}'), "POST", sent=b'{"a":2}')) == (401, "proof-mismatch")
    assert reason(gate.question(gate.proven("POST", body=b'{"a":1}'), "POST")) == (401, "proof-mismatch")
    assert reason(gate.question(gate.proven("POST", body=b"x"), "POST", sent=b"x" * ((1 << 20) + 1))) == (403, "too-large")


def test_claimed_digest_is_decided_and_handed_on(tmp_path: Path) -> None:
    for proxy in PROXIES:
        gate = Gate(tmp_path / proxy, proxy, body="claimed")
        passed = gate.question(gate.proven("POST", body=b"the body"), "POST")
        assert passed.header("content-digest") == Gate.digest(b"the body")
        assert reason(gate.question(gate.proven("POST", body=b"the body"), "POST", sent=b"the body")) == (403, "malformed")
        shown = gate.proven("POST", body=b"the body")
        assert reason(gate.question(shown | {"dpop": "x.y.z"}, "POST")) == (401, "proof-invalid")


def test_claim_without_a_digest_is_refused(tmp_path: Path) -> None:
    gate = Gate(tmp_path, "nginx", body="claimed")
    assert reason(gate.question(gate.proven(arg=None))) == (401, "proof-mismatch")


def test_envoy_says_nothing_of_a_body_where_there_is_none(tmp_path: Path) -> None:
    gate = Gate(tmp_path, "envoy", body="sent")
    assert gate.question(gate.proven(), without=("x-envoy-auth-partial-body",)).status == 200


# --- how it is made -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proxy, body, origins",
    [
        ("haproxy", "none", (SITE,)),
        ("nginx", "some", (SITE,)),
        ("nginx", "sent", (SITE,)),
        ("caddy", "sent", (SITE,)),
        ("nginx", "none", ()),
        ("nginx", "none", (f"{SITE}/v1",)),
        ("nginx", "none", ("reports.example.org",)),
        ("nginx", "none", (SITE, "http://reports.example.org")),
        ("envoy", "none", (SITE, "http://reports.example.org")),
    ],
)
def test_other_conventions_are_misuse(tmp_path: Path, proxy: Any, body: Any, origins: tuple[str, ...]) -> None:
    with pytest.raises(Misuse):
        Gate(tmp_path, proxy, body=body, origins=origins)


def test_the_scheme_is_the_proxys_where_it_says_one(tmp_path: Path) -> None:
    plain = "http://reports.example.org"
    gate = Gate(tmp_path, "caddy", origins=(SITE, plain))
    assert gate.question(gate.proven(url=f"{plain}/v1/report"), origin=plain).status == 200
    assert reason(gate.question(gate.proven(), origin=plain)) == (401, "proof-mismatch")


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_port_is_part_of_an_origin(tmp_path: Path, proxy: Any) -> None:
    """As docs/relying.md says of a proxy to whose port agents come themselves."""
    gate = Gate(tmp_path / "ported", proxy, origins=(PORTED,))
    assert gate.question(gate.proven(url=f"{PORTED}/v1/report"), origin=PORTED).status == 200
    other = Gate(tmp_path / "other", proxy, origins=(PLAIN,))
    refused = other.question(other.proven(url=f"{PORTED}/v1/report"), origin=PORTED)
    assert (refused.status, claim(refused)) == (403, "origin")


def test_bodies_and_proxies_are_what_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "relying.md").read_text()
    for word in (*PROXIES, *get_args(Body)):
        assert f"`{word}`" in page, word

"""What a relying service believes of what it fetches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enforcer.relying import client
from enforcer.relying.client import Sources, VerifierFeed, fetch, parse_jwks, verify_policy, verify_status_list
from tests.enforcer.relying.site import NOW, URI, Site, status_list
from tests.signers import new_signer
from tests.world.attestor import Attestor
from tests.world.clock import HandClock
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.keys import key_id
from writ.formats.policy_bundle import CONTENT_TYPE, encode_bundle


def test_status_list_tells_what_is_revoked() -> None:
    signer = new_signer()
    revocation = verify_status_list(status_list(signer, revoked=(3, 60)), {key_id(signer.public): signer.public}, URI, NOW)

    assert (revocation.revoked, revocation.issued_at) == (frozenset({3, 60}), NOW)


def test_status_list_by_another_key_for_another_uri_or_expired_is_refused() -> None:
    signer, other = new_signer(), new_signer()
    keys = {key_id(signer.public): signer.public}
    for text in (status_list(other), status_list(signer, sub=URI + "2"), status_list(signer, exp=NOW, iat=NOW - 60)):
        with pytest.raises(Refused):
            verify_status_list(text, keys, URI, NOW)


def test_key_set_names_each_key_by_its_thumbprint() -> None:
    signer = new_signer()
    jwk = {**signer.public.to_jwk(), "kid": key_id(signer.public)}
    assert parse_jwks(json.dumps({"keys": [jwk]}).encode()) == {key_id(signer.public): signer.public}
    for text in (b"{}", b"[]", b'{"keys":[{}]}', json.dumps({"keys": [{**jwk, "kid": "other"}]}).encode(), b"\xff"):
        with pytest.raises(FormatError):
            parse_jwks(text)


def test_policy_by_another_key_is_refused() -> None:
    attestor = Attestor(Path("unused"), {})
    signed = attestor.sign(encode_bundle(attestor.bundle()), CONTENT_TYPE)
    assert verify_policy(signed, (attestor.decision.public,)) == attestor.bundle()
    with pytest.raises(Refused):
        verify_policy(signed, (new_signer().public,))
    with pytest.raises(FormatError):
        verify_policy(attestor.sign(encode_bundle(attestor.bundle()), "text/plain"), (attestor.decision.public,))


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def test_feed_holds_what_was_fetched_and_lets_it_age(site: Site, tmp_path: Path) -> None:
    signer, attestor, clock = new_signer(), Attestor(Path("unused"), {}), HandClock(NOW)
    sources = Sources(f"{site.url}/jwks", f"{site.url}/status", tmp_path / "policy", (attestor.decision.public,))
    feed = VerifierFeed(sources, clock)
    feed.refresh()
    old = attestor.bundle()
    assert (dict(feed.keys()), feed.revocation(), feed.bundle(old.digest)) == ({}, None, None)

    site.pages["/jwks"] = json.dumps({"keys": [{**signer.public.to_jwk(), "kid": key_id(signer.public)}]}).encode()
    site.pages["/status"] = status_list(signer, sub=f"{site.url}/status", revoked=(1,)).encode()
    (tmp_path / "policy").write_bytes(attestor.sign(encode_bundle(old), CONTENT_TYPE))
    feed.refresh()
    assert list(feed.keys()) == [key_id(signer.public)]
    revocation = feed.revocation()
    assert revocation is not None
    assert revocation.revoked == {1}

    # an older list and an older policy do not take the place of newer ones; a new policy stands beside the one before
    site.pages["/status"] = status_list(signer, sub=f"{site.url}/status", iat=NOW - 30).encode()
    new = replace(old, version=2)
    (tmp_path / "policy").write_bytes(attestor.sign(encode_bundle(new), CONTENT_TYPE))
    feed.refresh()
    (tmp_path / "policy").write_bytes(attestor.sign(encode_bundle(replace(old, version=1, issued_at=5)), CONTENT_TYPE))
    feed.refresh()
    assert feed.revocation() == revocation
    assert (feed.bundle(old.digest), feed.bundle(new.digest)) == (old, new)

    site.status = 500
    clock.since_boot += client.KEYS_LIVE + 1
    feed.refresh()
    assert dict(feed.keys()) == {}


def test_redirect_error_size_and_slowness_are_unavailable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/jwks"] = b"x" * 200
    for status in (301, 404, 500):
        site.status = status
        with pytest.raises(Unavailable):
            fetch(f"{site.url}/jwks")
    site.status = 200
    monkeypatch.setattr(client, "MAX_DOCUMENT", 100)
    with pytest.raises(Unavailable, match="more than"):
        fetch(f"{site.url}/jwks")
    monkeypatch.setattr(client, "MAX_DOCUMENT", 1000)
    monkeypatch.setattr(client, "ANSWER_WITHIN", 0.3)
    site.wait = 0.02
    with pytest.raises(Unavailable):
        fetch(f"{site.url}/jwks")


@pytest.mark.parametrize("url", ["http://example.org/", "ftp://127.0.0.1/", "file:///etc/passwd", ""])
def test_url_that_is_neither_https_nor_loopback_is_malformed(url: str) -> None:
    with pytest.raises(FormatError):
        fetch(url)

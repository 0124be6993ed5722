"""A relying service whose clock was stepped, or whose status list is older than the token or of tomorrow."""

from __future__ import annotations

from pathlib import Path

from tests.enforcer.relying.test_middleware import Service
from tests.world.attestor import STATUS
from writ.verdict.token import Revocation


def seen(service: Service, at: int) -> None:
    """The clock shows `at`, and the verifier published a list then."""
    service.now = service.scene.clock.wall = at
    service.feed.list = Revocation(STATUS, at, frozenset())


def test_i6_status_list_older_than_the_tokens_life_refuses(tmp_path: Path) -> None:
    service = Service(tmp_path)
    claims = service.held.token.claims
    service.feed.list = Revocation(STATUS, service.now - (claims.expires_at - claims.issued_at) - 60, frozenset())
    assert service.ask(service.headers())[0] == 503


def test_i6_status_list_of_tomorrow_refuses(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.feed.list = Revocation(STATUS, service.now + 86_400, frozenset())
    assert service.ask(service.headers())[0] == 503


def test_i7_proof_is_used_once_though_the_clock_goes_ahead_and_back(tmp_path: Path) -> None:
    service = Service(tmp_path)
    start, captured = service.now, service.headers()
    assert service.ask(captured)[0] == 200
    seen(service, start + 45)
    assert service.ask(service.headers())[0] == 200
    seen(service, start)
    assert service.ask(captured)[0] == 401

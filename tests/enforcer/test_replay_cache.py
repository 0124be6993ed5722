"""Single use."""

from __future__ import annotations

import pytest

from enforcer.replay_cache import ReplayCache
from writ.formats.errors import Refused


def test_used_twice_is_refused() -> None:
    cache = ReplayCache()
    cache.take("a", forget_after=100, made_at=50, now=50)
    with pytest.raises(Refused, match="proof-replayed"):
        cache.take("a", forget_after=100, made_at=50, now=99)


def test_full_cache_refuses_new_work_and_forgets_nothing() -> None:
    cache = ReplayCache(capacity=3)
    for name in "abc":
        cache.take(name, forget_after=100, made_at=50, now=50)
    with pytest.raises(Refused, match="too-many-requests"):
        cache.take("d", forget_after=100, made_at=50, now=50)
    for name in "abc":
        with pytest.raises(Refused, match="proof-replayed"):
            cache.take(name, forget_after=100, made_at=50, now=100)


def test_what_lapsed_makes_room() -> None:
    cache = ReplayCache(capacity=1)
    cache.take("a", forget_after=100, made_at=50, now=50)
    cache.take("b", forget_after=200, made_at=101, now=101)


def test_proof_that_an_earlier_process_may_have_seen_is_refused() -> None:
    cache = ReplayCache(refuse_made_before=60)
    with pytest.raises(Refused, match="proof-stale"):
        cache.take("a", forget_after=100, made_at=59, now=61)
    cache.take("b", forget_after=100, made_at=60, now=61)

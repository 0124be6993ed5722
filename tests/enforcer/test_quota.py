"""An instance fills neither the disk nor the log of its neighbours."""

from __future__ import annotations

from pathlib import Path

from enforcer.quota import BYTES_AT_ONCE, BYTES_PER_SECOND, RECORD_BYTES, RECORDS_AT_ONCE, RECORDS_PER_SECOND, Quota
from tests.enforcer.records import records_of
from tests.enforcer.scene import Scene
from tests.enforcer.test_gatekeeper import READ
from tests.world.clock import HandClock


def taken(quota: Quota, size: int, most: int) -> int:
    """How many records of `size` are taken, of `most`."""
    return sum(quota.take(size) is None for _ in range(most))


def test_records_are_bounded_at_once_and_in_time() -> None:
    clock = HandClock()
    quota = Quota(clock)
    assert taken(quota, 0, RECORDS_AT_ONCE + 10) == RECORDS_AT_ONCE
    clock.advance(1)
    assert taken(quota, 0, RECORDS_PER_SECOND + 10) == RECORDS_PER_SECOND


def test_bytes_are_bounded_at_once_and_in_time() -> None:
    clock = HandClock()
    quota = Quota(clock)
    megabyte = (1 << 20) - RECORD_BYTES
    assert taken(quota, megabyte, 100) == BYTES_AT_ONCE >> 20
    clock.advance(8)
    assert taken(quota, megabyte, 100) == 8 * BYTES_PER_SECOND >> 20


def test_the_sum_never_comes_back_and_outcomes_count() -> None:
    clock = HandClock()
    quota = Quota(clock, in_all=4 * RECORD_BYTES)
    assert quota.take(RECORD_BYTES) is None
    quota.spend(0)
    clock.advance(3600)
    refused = quota.take(RECORD_BYTES)
    assert refused is not None
    assert (refused.code, refused.claim, refused.got) == ("too-many-requests", "log.bytes", str(RECORD_BYTES))
    assert quota.take(0) is None


def test_what_is_beyond_the_quota_is_refused_without_a_record(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.renew()
    log = scene.log(scene.folder)
    try:
        gatekeeper = scene.gatekeeper(log)
        big = b"x" * (1 << 20)
        rulings = [gatekeeper.ask(READ, big, gate="socket") for _ in range(40)]
    finally:
        log.close()
    refused = [ruling for ruling in rulings if not ruling.permit]
    assert refused
    assert {(r.sequence, r.reasons[0].code) for r in refused} == {(None, "too-many-requests")}
    assert len(records_of(scene.folder, scene.instance)) == len(rulings) - len(refused)

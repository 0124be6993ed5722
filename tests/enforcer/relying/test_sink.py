"""The sink of lines: many callers share a sync, a fault refuses from then on, and what hangs is waited for no longer than said."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enforcer.relying import sink as module
from enforcer.relying.sink import FileSink
from tests.world.attestor import ENGINE
from writ.formats.access import Access
from writ.formats.errors import Unavailable


def access(reference: str) -> Access:
    return Access(
        decided_at=1, engine=ENGINE.tree, agent=None, instance=None, action="http.get", resource="http://a/b", token=None, bundle=None,
        proof=None, context=b"\xa0", reasons=(), reference=reference,
    )  # fmt: skip


def references(path: Path) -> list[str]:
    return [json.loads(line)["reference"] for line in path.read_bytes().splitlines()]


def test_callers_who_come_together_share_a_sync_and_each_line_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, began, gate, synced, real = tmp_path / "lines", threading.Event(), threading.Event(), [0], os.fsync

    def fsync(descriptor: int) -> None:
        began.set()
        gate.wait(10)
        synced[0] += 1
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    sink = FileSink(path)
    with ThreadPoolExecutor(32) as pool:
        told = [pool.submit(sink.write, access(str(number))) for number in range(32)]
        began.wait(10)
        time.sleep(0.2)
        assert not any(one.done() for one in told)
        gate.set()
        for one in told:
            one.result(10)
    assert sorted(references(path), key=int) == [str(number) for number in range(32)]
    assert synced[0] < 16


def test_write_that_hangs_refuses_all_and_what_was_withdrawn_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, began, gate, real = tmp_path / "lines", threading.Event(), threading.Event(), os.fsync

    def fsync(descriptor: int) -> None:
        began.set()
        gate.wait(20)
        real(descriptor)

    monkeypatch.setattr(module, "DURABLE_WITHIN", 0.2)
    monkeypatch.setattr("os.fsync", fsync)
    sink = FileSink(path)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sink.write, access("first"))
        began.wait(10)
        second = pool.submit(sink.write, access("second"))
        for one in (first, second):
            with pytest.raises(Unavailable, match="not durable within"):
                one.result(10)
    assert sink.broken
    with pytest.raises(Unavailable, match="hangs"):
        sink.write(access("third"))
    gate.set()
    while sink.broken:
        pass
    sink.write(access("fourth"))
    assert references(path) == ["first", "fourth"]


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), RuntimeError("x")])
def test_failed_write_refuses_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    sink = FileSink(tmp_path / "lines")

    def fsync(_: int) -> None:
        raise fault

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", fsync)
        with pytest.raises(Unavailable):
            sink.write(access("one"))
    assert sink.broken
    with pytest.raises(Unavailable, match="earlier"):
        sink.write(access("two"))

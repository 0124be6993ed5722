"""Drift is found by the hint, by the timer without it, and by reading everything again."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from attestor.measure.manifest import measure_manifest, read_manifest
from attestor.measure.store import Store
from attestor.measure.watch import Watch
from writ.formats.digest import Digest
from writ.formats.eventlog.runtime import DriftEvent, encode_event

ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def followed(store: Store, watch: Watch, tmp_path: Path, prompt: str, *instances: bytes, agent: str = "a") -> Path:
    """Instances of `agent` that run from a tree with that prompt, whose file every agent's tree shares."""
    source = tmp_path / f"source-{prompt}-{agent}"
    source.mkdir()
    (source / "prompt.txt").write_text(prompt)
    (source / "a.toml").write_text(
        f'version = 1\nagent = "{agent}"\nnamespace = "n"\naudience = "x"\ncommand = ["run"]\n'
        '[components.prompt]\nkind = "prompts"\nsource = "prompt.txt"\n'
    )
    measured = measure_manifest(read_manifest(source / "a.toml"), source, domain="example.org", read=store.read)
    place = store.assemble(measured.measurement, measured.trees)
    for instance in instances:
        watch.follow(instance, measured.measurement.root(), measured.trees)
    return place / "prompt/prompt.txt"


def spoil(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"evil")


def test_drift_names_the_instances_of_the_tree_and_no_other_and_once(store: Store, tmp_path: Path) -> None:
    watch = Watch(store, interval=1, rehash_interval=60)
    path = followed(store, watch, tmp_path, "good", ONE, TWO)
    followed(store, watch, tmp_path, "kind", THREE)
    assert watch.scan() == ()
    spoil(path)
    drifts = watch.scan()
    assert drifts == tuple(DriftEvent(i, "prompt", "prompt.txt", Digest.of(b"good"), Digest.of(b"evil")) for i in (ONE, TWO))
    assert watch.scan() == ()
    assert len(watch.roots()) == 1


def test_instance_that_was_left_does_not_drift(store: Store, tmp_path: Path) -> None:
    watch = Watch(store, interval=1, rehash_interval=60)
    path = followed(store, watch, tmp_path, "good", ONE)
    watch.leave(ONE)
    spoil(path)
    assert watch.scan() == ()


def test_drift_of_a_tree_that_is_gone_can_be_written_into_the_log(store: Store, tmp_path: Path) -> None:
    watch = Watch(store, interval=1, rehash_interval=60)
    path = followed(store, watch, tmp_path, "good", ONE)
    for directory in (path.parent, path.parent.parent):
        directory.chmod(0o755)
    path.unlink()
    path.parent.rmdir()
    (drift,) = watch.scan()
    assert drift.got is None
    assert encode_event(drift)


async def first_drift(watch: Watch, change: Path) -> float:
    """Seconds from the change to its notice."""
    noticed = asyncio.Event()

    async def notice(_: DriftEvent) -> None:
        noticed.set()

    task = asyncio.create_task(watch.run(notice))
    await asyncio.sleep(0.3)
    began = time.monotonic()
    spoil(change)
    await asyncio.wait_for(noticed.wait(), 10)
    elapsed = time.monotonic() - began
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return elapsed


def test_kernel_s_hint_makes_it_fast(store: Store, tmp_path: Path) -> None:
    watch = Watch(store, interval=30, rehash_interval=60)
    assert asyncio.run(first_drift(watch, followed(store, watch, tmp_path, "good", ONE))) < 2


def test_hint_of_one_tree_tells_of_all_that_share_its_file(store: Store, tmp_path: Path) -> None:
    """Of the two trees only one is named by the kernel: they were built while it watched."""
    watch = Watch(store, interval=30, rehash_interval=60)
    noticed: set[bytes] = set()

    async def story() -> None:
        both = asyncio.Event()

        async def notice(drift: DriftEvent) -> None:
            noticed.add(drift.instance)
            if noticed == {ONE, TWO}:
                both.set()

        task = asyncio.create_task(watch.run(notice))
        await asyncio.sleep(0.3)
        path = await asyncio.to_thread(followed, store, watch, tmp_path, "good", ONE)
        await asyncio.to_thread(followed, store, watch, tmp_path, "good", TWO, agent="another")
        assert len(watch.roots()) == 2
        await asyncio.sleep(0.5)
        spoil(path)
        await asyncio.wait_for(both.wait(), 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())


def test_hint_is_about_the_tree_it_names_and_building_one_is_none(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(store, interval=30, rehash_interval=60)
    tree = followed(store, watch, tmp_path, "good", ONE).parents[1]
    followed(store, watch, tmp_path, "kind", TWO)
    scans: list[frozenset[Digest] | None] = []

    def scan(*, only: frozenset[Digest] | None = None) -> tuple[DriftEvent, ...]:
        scans.append(only)
        return ()

    monkeypatch.setattr(watch, "scan", scan)
    built = [("added", f"{store.root}/staging/12/prompt"), ("added", f"{store.root}/objects/ab/abcd"), ("added", f"{tree.parent}/abcd")]
    watch.look([*built, ("deleted", f"{store.root}/objects/ab/abcd"), ("added", f"{store.root}/measured/ab")])
    assert scans == []
    watch.look([*built, ("modified", f"{tree}/prompt/prompt.txt")])
    assert [[root.hex() for root in only or ()] for only in scans] == [[tree.name]]
    for other in ("objects/ab/abcd", "corrupt/abcd", "trees/abcd/prompt/prompt.txt", "trees", ""):
        watch.look([*built, ("modified", f"{store.root}/{other}")])
    assert scans[1:] == [None] * 5


def test_timer_finds_what_no_hint_told(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without inotify: as where its limit is reached."""
    import watchfiles.main

    def none(*_: object, **__: object) -> None:
        raise OSError(28, "no inotify")

    monkeypatch.setattr(watchfiles.main, "RustNotify", none)
    watch = Watch(store, interval=1, rehash_interval=60)
    assert asyncio.run(first_drift(watch, followed(store, watch, tmp_path, "good", ONE))) < 3


def test_reading_again_finds_what_stat_data_hide(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that moved no stat data, as one to the raw disk: here the store is made to believe so."""
    watch = Watch(store, interval=30, rehash_interval=1)
    path = followed(store, watch, tmp_path, "good", ONE)
    monkeypatch.setattr(store, "_verified", lambda *_: (Digest.of(b"good"), 4))
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"evil")
    assert watch.scan() == ()
    (drift,) = watch.scan(rehash=True)
    assert drift.got == Digest.of(b"evil")
    assert os.path.getsize(path) == 4

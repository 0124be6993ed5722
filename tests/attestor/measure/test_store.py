"""The measured store: what was hashed is what runs, and nothing false is used."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from attestor.measure import store as store_module
from attestor.measure.manifest import Measured, measure_manifest, read_manifest
from attestor.measure.store import Difference, Store
from attestor.measure.tree import Identity, hash_file, identity_of
from writ.formats.digest import Digest
from writ.formats.errors import Unavailable
from writ.formats.tree import Component, component_root, entry_digest

MANIFEST = """
version = 1
agent = "a"
namespace = "n"
audience = "x"
command = ["run"]
[components.code]
kind = "code"
source = "src"
[components.prompt]
kind = "prompts"
source = "prompt.txt"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    (place / "src/deep/er").mkdir(parents=True)
    (place / "src/empty").mkdir()
    (place / "src/main.py").write_bytes(b"main")
    (place / "src/run").write_bytes(b"main")
    (place / "src/run").chmod(0o755)
    (place / "src/deep/er/data").write_bytes(b"data" * 1000)
    (place / "src/deep/up").symlink_to("../main.py")
    Path(os.fsdecode(os.fsencode(place) + b"/src/odd\xff\n")).write_bytes(b"odd")
    (place / "prompt.txt").write_bytes(b"be good")
    (place / "a.toml").write_text(MANIFEST)
    return place


def measure(store: Store, source: Path) -> Measured:
    return measure_manifest(read_manifest(source / "a.toml"), source, domain="example.org", read=store.read)


def assemble(store: Store, source: Path) -> tuple[Path, Measured]:
    measured = measure(store, source)
    return store.assemble(measured.measurement, measured.trees), measured


def test_tree_is_the_source_unwritable(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    place, measured = assemble(store, source)
    assert place == tmp_path / "store/trees" / measured.measurement.root().hex()
    assert (place / "code/deep/er/data").read_bytes() == b"data" * 1000
    assert os.readlink(place / "code/deep/up") == "../main.py"
    assert (place / "code/empty").is_dir()
    assert os.path.exists(os.fsencode(place) + b"/code/odd\xff\n")
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in place.rglob("*") if not path.is_symlink()}
    assert {mode for name, mode in modes.items() if name != "run"} == {0o444, 0o555}
    assert (modes["run"], modes["main.py"], stat.S_IMODE(place.stat().st_mode)) == (0o555, 0o444, 0o555)
    assert store.check(place, measured.trees) == store.check(place, measured.trees, rehash=True) == ()


def test_offline_and_stored_measurements_are_the_same(tmp_path: Path, source: Path) -> None:
    offline = measure_manifest(read_manifest(source / "a.toml"), source, domain="example.org")
    assert offline.measurement == measure(Store(tmp_path / "store"), source).measurement


def test_objects_are_named_by_their_content_and_shared(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    first, _ = assemble(store, source)
    (source / "prompt.txt").write_bytes(b"be better")
    second, _ = assemble(store, source)
    assert first != second
    assert (first / "code/main.py").stat().st_ino == (second / "code/main.py").stat().st_ino
    for path in (tmp_path / "store/objects").glob("*/*"):
        assert path.name.removesuffix(".x") == Digest.of(path.read_bytes()).hex()


def test_source_changed_after_measuring_does_not_reach_the_tree(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    measured = measure(store, source)
    with (source / "src/main.py").open("r+b") as file:
        file.write(b"EVIL")
    place = store.assemble(measured.measurement, measured.trees)
    assert (place / "code/main.py").read_bytes() == b"main"


@pytest.mark.parametrize("fresh", [False, True], ids=["same process", "restarted"])
def test_corrupted_object_is_moved_aside_and_never_runs(fresh: bool, tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    first, _ = assemble(store, source)
    broken = first / "prompt/prompt.txt"
    broken.chmod(0o644)
    broken.write_bytes(b"be evil")
    broken.chmod(0o444)
    if fresh:
        store = Store(tmp_path / "store")
    second, measured = assemble(store, source)
    assert (second / "prompt/prompt.txt").read_bytes() == b"be good"
    assert store.check(second, measured.trees, rehash=True) == ()
    assert [path.read_bytes() for path in (tmp_path / "store/corrupt").glob("*") if path.is_file()] == [b"be evil"]


def test_object_corrupted_between_measuring_and_assembling_is_refused(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    measured = measure(store, source)
    entry = measured.trees[1].entries[0]
    assert entry.digest is not None
    place = tmp_path / "store/objects" / entry.digest.hex()[:2] / entry.digest.hex()
    place.chmod(0o644)
    place.write_bytes(b"be evil")
    place.chmod(0o444)
    with pytest.raises(Unavailable, match="corrupt"):
        store.assemble(measured.measurement, measured.trees)
    again, _ = assemble(store, source)
    assert (again / "prompt/prompt.txt").read_bytes() == b"be good"


def test_object_of_the_right_content_and_wrong_mode_is_not_used(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    first, _ = assemble(store, source)
    (first / "prompt/prompt.txt").chmod(0o666)
    second, _ = assemble(store, source)
    assert stat.S_IMODE(next((tmp_path / "store/objects").glob(f"*/{Digest.of(b'be good').hex()}")).stat().st_mode) == 0o444
    assert second.is_dir()


@pytest.mark.parametrize("rehash", [False, True])
def test_every_change_of_a_tree_is_a_difference(rehash: bool, tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    place, measured = assemble(store, source)
    code = measured.trees[0]
    root = component_root(code)
    was = {entry.path: entry_digest(entry) for entry in code.entries}
    for directory in (place, *(path for path in place.rglob("*") if path.is_dir())):
        directory.chmod(0o755)

    def differences() -> set[Difference]:
        return set(store.check(place, measured.trees, rehash=rehash))

    assert differences() == set()
    (place / "code/main.py").chmod(0o644)
    (place / "code/main.py").write_bytes(b"MAIN")
    assert Difference("code", "main.py", was["main.py"], Digest.of(b"MAIN")) in differences()
    (place / "code/deep/er/data").unlink()
    assert Difference("code", "deep/er/data", was["deep/er/data"], None) in differences()
    (place / "code/new").write_bytes(b"new")
    assert Difference("code", "new", root, Digest.of(b"new")) in differences()
    (place / "code/deep/up").unlink()
    (place / "code/deep/up").symlink_to("../run")
    assert {d.path for d in differences()} >= {"deep/up", "new", "deep/er/data", "main.py"}
    os.mkfifo(place / "code/pipe")
    assert [(d.component, d.path, d.got) for d in differences() if d.component == "code"] == [("code", "pipe", None)]
    (place / "stranger").mkdir()
    assert "stranger" in {d.path for d in differences()}


@pytest.mark.parametrize("victim", ["prompt", "."])
def test_tree_that_vanished_is_a_difference(victim: str, tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    place, measured = assemble(store, source)
    store_module._remove(place / victim)  # noqa: SLF001 - what rm -r does to unwritable directories
    found = store.check(place, measured.trees)
    assert {d.component for d in found} >= {"prompt"}
    assert all(d.got is None for d in found)


def test_write_that_restores_size_and_mtime_is_seen_by_its_ctime(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    place, measured = assemble(store, source)
    path = place / "prompt/prompt.txt"
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"be evil")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [d.path for d in store.check(place, measured.trees)] == ["prompt.txt"]


def test_second_launch_hashes_nothing_again(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once what was written has settled: two writes within one tick of the clock would look like one."""
    store = Store(tmp_path / "store")
    assemble(store, source)
    time.sleep(0.2)
    store.check(*assemble_again(store, source))
    hashed: list[int] = []

    def counted(fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
        hashed.append(identity[2])
        return hash_file(fd, identity, executable)

    monkeypatch.setattr(store_module, "hash_file", counted)
    assemble(store, source)
    (source / "prompt.txt").write_bytes(b"be better")
    place, measured = assemble(store, source)
    store.check(place, measured.trees)
    assert set(hashed) == {len(b"be better")}
    restarted = Store(tmp_path / "store")
    restarted.check(place, measured.trees)
    assert sum(hashed) > 4000


def test_tree_at_rest_is_not_even_opened(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    place, measured = assemble(store, source)
    time.sleep(0.2)
    store.check(place, measured.trees)

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a tree at rest was read")

    monkeypatch.setattr(store_module, "measure_tree", opened)
    assert store.check(place, measured.trees) == ()
    (place / "code/empty").chmod(0o755)
    (place / "code/empty/new").mkdir()
    with pytest.raises(AssertionError):
        store.check(place, measured.trees)


def assemble_again(store: Store, source: Path) -> tuple[Path, tuple[Component, ...]]:
    place, measured = assemble(store, source)
    return place, measured.trees


def test_fresh_file_is_hashed_until_a_write_must_show(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write whose ctime is that of the file's making, as within one tick of a coarse clock."""
    store = Store(tmp_path / "store")
    place, measured = assemble(store, source)
    path = place / "prompt/prompt.txt"
    made = identity_of(path.stat())
    path.chmod(0o644)
    path.write_bytes(b"be evil")
    monkeypatch.setattr(store_module, "identity_of", lambda info: made if info.st_ino == made[1] else identity_of(info))
    assert [d.path for d in store.check(place, measured.trees)] == ["prompt.txt"]


def test_measurement_is_recalled_and_a_false_one_is_not(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    _, measured = assemble(store, source)
    root = measured.measurement.root()
    assert Store(tmp_path / "store").recall(root) == (measured.measurement, measured.trees)
    assert store.recall(Digest.of(b"other")) is None
    tree = tmp_path / "store/measured" / component_root(measured.trees[0]).hex()
    tree.write_bytes(tree.read_bytes().replace(b"main.py", b"main.pz"))
    assert store.recall(root) is None
    assert store.recall_measurement(root) == measured.measurement
    (tmp_path / "store/measured" / root.hex()).write_bytes(b"x")
    assert store.recall(root) is None
    assert store.recall_measurement(root) is None


def test_collect_removes_what_no_instance_uses(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    old, _ = assemble(store, source)
    (source / "prompt.txt").write_bytes(b"be better")
    new, measured = assemble(store, source)
    assert store.collect([measured.measurement.root()]) == 1
    assert not old.exists()
    assert store.check(new, measured.trees) == ()
    assert not list((tmp_path / "store/objects").glob(f"*/{Digest.of(b'be good').hex()}"))
    assert store.recall(measured.measurement.root()) is not None
    (source / "prompt.txt").write_bytes(b"be good")
    again, _ = assemble(store, source)
    assert (again / "prompt/prompt.txt").read_bytes() == b"be good"


def test_launches_at_once_share_one_tree(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(assemble(store, source)[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert not list((tmp_path / "store/staging").iterdir())


def test_what_a_crash_left_half_done_is_cleared_at_start(tmp_path: Path) -> None:
    Store(tmp_path / "store")
    (tmp_path / "store/staging/half/deep").mkdir(parents=True)
    (tmp_path / "store/staging/half").chmod(0o555)
    Store(tmp_path / "store")
    assert not list((tmp_path / "store/staging").iterdir())


@pytest.mark.usefixtures("source")
def test_store_works_without_root(tmp_path: Path) -> None:
    """Its directories are unwritable to their owner too; what is false must still move aside, and what is unused go."""
    code = (
        "import os, sys, pathlib\n"
        "from attestor.measure.manifest import measure_manifest, read_manifest\n"
        "from attestor.measure.store import Store\n"
        "if os.geteuid() == 0:\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "store, source = Store(pathlib.Path('store')), pathlib.Path('source')\n"
        "def assemble():\n"
        "    m = measure_manifest(read_manifest(source / 'a.toml'), source, domain='example.org', read=store.read)\n"
        "    return store.assemble(m.measurement, m.trees)\n"
        "first = assemble()\n"
        "prompt = first / 'prompt/prompt.txt'\n"
        "prompt.chmod(0o644); prompt.write_bytes(b'be evil')\n"
        "assert assemble() == first and prompt.read_bytes() == b'be good'\n"
        "assert store.collect([]) == 1\n"
        "print('done')\n"
    )
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == os.geteuid() and not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o011)
    (tmp_path / "store").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "store", 65534, 65534)
    root = Path(store_module.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "done\n", done.stderr


def test_tree_is_readable_to_other_users_whatever_the_umask(tmp_path: Path, source: Path) -> None:
    before = os.umask(0o077)
    try:
        place, _ = assemble(Store(tmp_path / "store"), source)
    finally:
        os.umask(before)
    ways = [path for path in (place, *place.parents) if path.is_relative_to(tmp_path / "store")]
    assert all(path.stat().st_mode & 0o005 == 0o005 for path in [*ways, *(p for p in place.rglob("*") if p.is_dir())])
    assert (place / "prompt/prompt.txt").stat().st_mode & 0o004


def test_store_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o777)
    with pytest.raises(Unavailable, match="owner alone"):
        Store(tmp_path / "store")


def test_launch_of_a_small_agent_again_takes_well_under_a_second(tmp_path: Path, source: Path) -> None:
    for number in range(300):
        (source / f"src/m{number}.py").write_text(f"x = {number}\n")
    store = Store(tmp_path / "store")
    assemble(store, source)
    began = time.monotonic()
    assemble(store, source)
    assert time.monotonic() - began < 1


def test_i11_releases_that_share_its_objects_are_no_drift_of_a_tree(tmp_path: Path, source: Path) -> None:
    """Each release links the shared objects once more, which moves their ctime, also while they are being read."""
    (source / "src/weights").write_bytes(bytes(128 << 20))
    store = Store(tmp_path / "store")
    place, measured = assemble(store, source)
    done = threading.Event()

    def release() -> None:
        for version in range(250):
            (source / "prompt.txt").write_bytes(b"version %d" % version)
            assemble(store, source)
        done.set()

    releasing = threading.Thread(target=release)
    releasing.start()
    seen = set()
    while not done.is_set():
        seen |= {*store.check(place, measured.trees, rehash=True), *store.check(place, measured.trees)}
    releasing.join()
    assert seen == set()

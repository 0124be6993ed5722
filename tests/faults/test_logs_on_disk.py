"""Both logs over a disk that fails: what was answered is there, nothing is forked, and a write that failed answers nothing.

Beside kills at every call of the disk and every line of code: losses of power, at which only what was synced stays; a disk that is full,
in fact and call by call; syncs that fail, of which Linux forgets what was to be written; and two writers at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from enforcer.record import LogReader
from tests.faults.disk import Fault, Machine, Round, Writers
from tests.faults.verifier import LedgerCopy
from tests.faults.writers import INSTANCE
from tests.world.scene import signer
from tests.world.translog import ORIGIN
from verifier.ledger.schema import EntryRow
from verifier.ledger.sequencer import MAX_GROUP
from verifier.ledger.translog import agrees, look, standing
from writ.formats.tlog import merkle
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.note import PLAIN, NoteKey
from writ.formats.tlog.receipt import parse_receipt
from writ.verdict.transparency import verify_checkpoint, verify_receipt

KINDS = ("verifier", "enforcer")
KEY = NoteKey(ORIGIN, PLAIN, signer("log").public)
ROUNDS = int(os.environ.get("WRIT_ROUNDS", "1000"))
SEED = int(os.environ.get("WRIT_SEED", "1"))
A_LOG_FOR = 100
"""Rounds, then another log begins."""


@dataclass
class Auditor:
    """All that was ever answered about one log, and whether a log that comes back holds to it."""

    kind: str
    told: dict[int, str] = field(default_factory=dict)
    contents: dict[int, str] = field(default_factory=dict)
    seen: dict[int, bytes] = field(default_factory=dict)

    def hear(self, done: Round) -> None:
        """What left, left: each answer is of its own place, each checkpoint of its size the only one, each receipt holds."""
        for one in done.said:
            if "leaf" in one:
                assert self.told.setdefault(one["sequence"], one["leaf"]) == one["leaf"], "two entries at one place"
            if "content" in one:
                self.contents[one["sequence"]] = one["content"]
            if "size" in one:
                self._saw(one["size"], bytes.fromhex(one["root"]))
            if one.get("checkpoint"):
                checkpoint = verify_checkpoint(parse_signed_checkpoint(one["checkpoint"].encode()), KEY)
                self._saw(checkpoint.size, checkpoint.root)
            if "receipt" in one:
                receipt, leaf = parse_receipt(bytes.fromhex(one["receipt"])), bytes.fromhex(one["leaf"])
                assert verify_receipt(receipt, leaf, KEY.key, issuer=KEY.name) == one["sequence"]
                root = merkle.root_from_path(leaf, receipt.index, receipt.size, receipt.path)
                assert root is not None
                self._saw(receipt.size, root)

    def _saw(self, size: int, root: bytes) -> None:
        assert self.seen.setdefault(size, root) == root, "two roots of one size"

    def judge(self, folder: Path) -> int:
        """The log in `folder`, a copy, has what was answered and extends what was seen; how many entries it has."""
        leaves = self._verifiers(folder) if self.kind == "verifier" else self._enforcers(folder)
        assert {at: leaf for at, leaf in self.told.items() if leaves[at : at + 1] != [bytes.fromhex(leaf)]} == {}, "answered, and lost"
        frontier, roots = merkle.EMPTY_FRONTIER, {0: merkle.EMPTY_ROOT}
        for size, leaf in enumerate(leaves, 1):
            frontier = merkle.append(frontier, leaf)
            if size in self.seen:
                roots[size] = merkle.frontier_root(frontier)
        assert {size: root for size, root in self.seen.items() if roots.get(size) != root} == {}, "seen, and forked"
        return len(leaves)

    def _verifiers(self, folder: Path) -> list[bytes]:
        head = look(folder / "log-head", KEY)
        if not (folder / "ledger.sqlite").exists():
            return []
        tables = LedgerCopy(folder / "ledger.sqlite")
        try:
            assert tables.integrity() == "ok"
            rows = tables.select(EntryRow)
            assert [row.sequence for row in rows] == list(range(len(rows)))
            assert all(merkle.leaf_hash(row.entry) == row.leaf for row in rows)
            size = standing(tables, KEY).edge.size
            agrees(tables, size, head)
            assert size - (0 if head is None else head.size) <= MAX_GROUP
        finally:
            tables.close()
        return [row.leaf for row in rows]

    def _enforcers(self, folder: Path) -> list[bytes]:
        if not self.told:
            return []
        read = LogReader(folder, INSTANCE)
        found = {entry.record.sequence: entry.content for entry in read.entries()}
        assert {at: said for at, said in self.contents.items() if found[at] != said.encode()} == {}, "recorded, and not to be opened"
        return list(read.leaf_hashes)


@dataclass
class Site:
    """A machine and the auditor of its log."""

    machine: Machine
    auditor: Auditor

    def run(self, fault: Fault | None = None, **how: Any) -> Round:
        """A writer ran, and what it left behind was judged."""
        done = self.machine.run(fault, **how)
        self.auditor.hear(done)
        self.judge()
        return done

    def judge(self) -> int:
        """The log as a start would find it."""
        with tempfile.TemporaryDirectory() as room:
            return self.auditor.judge(self.machine.copy(Path(room) / "copy"))

    def lose_power(self) -> None:
        """And what came back was judged."""
        self.machine.lose_power()
        self.judge()


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writers]:
    made = Writers(tmp_path_factory.mktemp("writers"))
    try:
        yield made
    finally:
        made.close()


def sites(kind: str, room: Path, writers: Writers, dice: random.Random) -> Iterator[Site]:
    """Logs of their own, each after it has begun."""
    for number in itertools.count():
        yield Site(Machine(room / f"{kind}-{number}", writers, kind, dice), Auditor(kind))


def steps_of(site: Site) -> dict[str, int]:
    """How many steps a round has, by calls and by lines."""
    return {by: site.run(Fault(1 << 60, by)).steps for by in ("call", "line")}


def killed(kind: str, room: Path, writers: Writers, rounds: int) -> Counter[str]:
    """That many deaths of writers, at steps that are spread over all there are, with a loss of power after some; what happened."""
    dice, happened = random.Random(f"{kind}/{SEED}"), Counter[str]()
    logs = sites(kind, room, writers, dice)
    site = next(logs)
    site.run()
    most = steps_of(site)
    for number in range(rounds):
        if number % A_LOG_FOR == A_LOG_FOR - 1:
            happened["entries"] += site.judge()
            site = next(logs)
        by = ("call", "line")[number % 2]
        at = (number // 2 * 7919) % most[by] if dice.random() < 0.9 else dice.randrange(most[by])
        done = site.run(Fault(at, by, dice.choice(("kill before", "kill after"))))
        happened["killed" if done.status == -9 else "came to its end"] += 1
        happened["answered"] += done.answered
        if dice.random() < 0.4:
            site.lose_power()
            happened["lost power"] += 1
    assert not site.run().refused, "a log that nothing fails any more goes on"
    happened["entries"] += site.judge()
    return happened


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_i4_a_log_survives_a_thousand_kills_at_every_step_with_losses_of_power(kind: str, tmp_path: Path, writers: Writers) -> None:
    happened = killed(kind, tmp_path, writers, ROUNDS)

    print(f"\n{kind}: " + ", ".join(f"{what}: {count}" for what, count in sorted(happened.items())))
    assert happened["killed"] > ROUNDS * 0.8
    assert happened["answered"] > ROUNDS / 4


@pytest.mark.faults
@pytest.mark.short
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_i4_a_log_survives_kills_and_losses_of_power(kind: str, tmp_path: Path, writers: Writers) -> None:
    happened = killed(kind, tmp_path, writers, 30)

    assert happened["killed"] > 20
    assert happened["lost power"] > 5


@pytest.mark.faults
@pytest.mark.short
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_i4_what_a_start_reads_it_has_synced_before_anyone_hears_of_it(kind: str, tmp_path: Path, writers: Writers) -> None:
    """Killed around each sync of one commit; a start that writes nothing, and says what it found; then the power fails."""
    site = next(sites(kind, tmp_path, writers, random.Random(SEED)))
    site.run()
    steps, deaths = site.run(Fault(1 << 60), changes=1, callers=1).steps, 0
    for at in range(steps):
        deaths += site.run(Fault(at, "call", "kill after"), changes=1, callers=1).status == -9
        assert not site.run(changes=0, closes=False).refused
        site.lose_power()

    assert deaths > steps / 2


def failed(site: Site, fault: Fault) -> bool:
    """One round with a disk that fails at a step, one with a disk that works and no time to close, a loss of power; was the fault met?

    Whoever was refused was refused for good, by a writer that says why it ended.
    """
    bad = site.run(fault, changes=2, callers=2)
    assert bad.status == 0
    ended = next((one["ended"] for one in bad.said if "ended" in one), "")
    if bad.refused and bad.answered:
        assert ended, "a write failed, and the writer went on"
    if ended:
        order = ["leaf" in one for one in bad.said if "leaf" in one or "refused" in one]
        assert order[-1] is False, "answered after a write that failed"
    good = site.run(changes=2, callers=2, closes=False)
    assert good.refused == []
    assert good.answered == 5
    site.lose_power()
    return bool(bad.refused)


FAULTS = [(does, sticky) for does in ("no space", "short", "io error") for sticky in (False, True)]


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_i4_a_disk_that_fails_at_any_call_ends_the_writer_and_answers_nothing(kind: str, tmp_path: Path, writers: Writers) -> None:
    dice = random.Random(f"{kind}/{SEED}/fails")
    logs, met = sites(kind, tmp_path, writers, dice), Counter[str]()
    site = next(logs)
    fresh = site.run(Fault(1 << 60), changes=2, callers=2).steps
    later = site.run(Fault(1 << 60), changes=2, callers=2).steps
    for does, sticky in FAULTS:
        for at in range(0, later, 5 if sticky else 1):
            met[does] += failed(site, Fault(at, "call", does, sticky))
        site = next(logs)
        for at in range(0, fresh, 3):
            met[does] += failed(next(logs), Fault(at, "call", does, sticky))

    print(f"\n{kind}: {fresh} calls in a new log, {later} in one that goes on; met " + ", ".join(f"{k}: {v}" for k, v in met.items()))
    assert min(met.values()) > later / 2, met


@pytest.mark.faults
@pytest.mark.short
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_i4_a_disk_that_fails_ends_the_writer(kind: str, tmp_path: Path, writers: Writers) -> None:
    site = next(sites(kind, tmp_path, writers, random.Random(SEED)))
    site.run()
    steps = site.run(Fault(1 << 60), changes=2, callers=2).steps
    places = range(2, steps, steps // 3)

    met = Counter(does for at in places for does, sticky in FAULTS if failed(site, Fault(at, "call", does, sticky)))
    assert min(met[does] for does, _ in FAULTS) > 1


# --- a disk that is full in fact ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(room: Path, kind: str) -> Iterator[Path]:
    """A file system of its own with little room."""
    place = room / "small"
    place.mkdir()
    made = ["-t", "tmpfs", "-o", "size=1m", "none"]
    if kind == "ext4":
        image = room / "image"
        with image.open("wb") as file:
            file.truncate(3 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True, timeout=60)
        made = ["-o", "loop", str(image)]
    if subprocess.run(["mount", *made, str(place)], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip(f"cannot mount {kind} here: needs root, and a loop device for ext4")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("system", ["tmpfs", "ext4"])
def test_i4_a_full_disk_ends_the_writer_and_loses_nothing(system: str, kind: str, tmp_path: Path, writers: Writers) -> None:
    auditor = Auditor(kind)
    with small_disk(tmp_path, system) as disk:
        folder = disk / "log"
        folder.mkdir()
        full = writers.run(kind, folder, changes=1500, callers=4)
        auditor.hear(full)
        ended = next(one["ended"] for one in full.said if "ended" in one)
        assert full.answered > 10
        assert ended in ("SQLITE_FULL", "a write failed (OperationalError)"), ended
        order = ["leaf" in one for one in full.said if "leaf" in one or "refused" in one]
        assert not order[-1]
        shutil.copytree(folder, tmp_path / "roomy", ignore=shutil.ignore_patterns("*-shm"))
        shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("*-shm"))
        auditor.judge(tmp_path / "copy")
    again = writers.run(kind, tmp_path / "roomy", changes=5, callers=2)
    auditor.hear(again)
    assert again.refused == []
    entries = auditor.judge(tmp_path / "roomy")
    print(f"\n{kind} on {system}: full after {full.answered} answers, then {again.answered} more; {entries} entries")


# --- two writers -------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_i6_of_two_writers_one_is_refused_and_the_log_is_one(kind: str, tmp_path: Path, writers: Writers) -> None:
    (tmp_path / "second").mkdir()
    second, folder, auditor = Writers(tmp_path / "second"), tmp_path / "log", Auditor(kind)
    folder.mkdir()
    refused = both = 0
    try:
        for number in range(20):
            for one in (writers, second):
                one.begin(kind, folder, Fault(number * 3, "call", "kill after") if one is second and number % 2 else None)
            ends = [one.end() for one in (writers, second)]
            for end in ends:
                auditor.hear(end)
            refused += any("process" in said for end in ends for said in end.refused)
            both += all(end.answered for end in ends)
    finally:
        second.close()

    assert not writers.run(kind, folder).refused
    assert auditor.judge(folder) > 20
    assert refused > 0, (refused, both)

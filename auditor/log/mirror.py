"""`auditor log mirror`: a copy of a log that only grows, and every checkpoint that was seen of it.

    checkpoint            the one whose tiles and entries are all here
    checkpoints/SIZE      every one that was seen, and that extends those before it
    evidence/SIZE-ROOT    those that do not, or came later and were shorter
    tile/…                as the log serves them; a file once here is never written again
    incoming/             what was fetched and is not judged to its end yet: the next run judges it anew, and fetches only what is missing

A checkpoint is written down before what it covers is fetched, so that whoever showed it cannot take it back; `checkpoint` is exchanged
after everything that it covers is on the disk. Whatever ends the process, the next run goes on from there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from auditor.log.diff import first_difference
from auditor.log.source import CHECKPOINT, Directory, Source, answer, parse_served, pieces, read_checkpoint, read_file
from writ.formats.errors import Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, Checkpoint, SignedCheckpoint
from writ.formats.tlog.edge import Edge
from writ.formats.tlog.note import encode_note
from writ.formats.tlog.tile import WIDTH, path_of
from writ.verdict.log_audit import LogAudit, LogTrust, fork
from writ.verdict.log_tiles import ProvingTiles, prove_tiles

CHECKPOINTS: Final = "checkpoints"
EVIDENCE: Final = "evidence"
_INCOMING: Final = "incoming"
_SEEN = re.compile(r"(?:0|[1-9][0-9]{0,18})(?:-[0-9a-f]{16})?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a run did: the checkpoint that is held now, the entries that were new, and what was checked against what."""

    checkpoint: Checkpoint
    new: int
    steps: tuple[str, ...]


def seen_in(path: Path, trust: LogTrust, *names: str) -> list[SignedCheckpoint]:
    """The checkpoints that a mirror keeps below `names`, signed by the log, smallest first. Raises Refused or Unavailable."""
    found = []
    for name in names:
        for file in sorted((path / name).glob("*")):
            if not _SEEN.match(file.name):
                continue
            signed = _signed(file, trust)
            if str(signed.checkpoint.size) != file.name.partition("-")[0]:
                raise Refused(Reason("checkpoint-invalid", f"{name}/{file.name}", f"size {file.name}", str(signed.checkpoint.size)))
            found.append(signed)
    return sorted(found, key=lambda one: one.checkpoint.size)


def _signed(file: Path, trust: LogTrust) -> SignedCheckpoint:
    signed = parse_served(read_file(file, MAX_CHECKPOINT) or b"", f"{file.parent.name}/{file.name}")
    trust.verify_kept(signed)
    return signed


def mirror(source: Source, path: Path, trust: LogTrust) -> Mirrored:
    """The mirror at `path` has all that `source` has, and it extends what was here.

    1. The log signed the checkpoint that is served, and the quorum cosigned it.
    2. It is not smaller than one that was seen, and no other of its size.
    3. Its tree has the root of each that was seen, at that size: then it is written down.
    4. What is new is fetched and judged to the signed root.
    5. It is put in its place, and the checkpoint after it.

    Raises Refused, where nothing was written but evidence and, after step 3, a checkpoint; Unavailable.
    """
    with _alone(path) as held:
        # 1
        signed = read_checkpoint(source)
        new = trust.verify(signed)
        have = Held(held, trust)
        steps = [f"checkpoint: {new.origin}, size {new.size}, signed by the log's key"]
        # 2
        have.not_behind(new, signed, source)
        steps.append(f"order: size {new.size} against {len(have.seen)} checkpoints seen before, of which the largest is {have.most}")
        if have.complete == new:
            return Mirrored(new, 0, (*steps, "entries: nothing new"))
        # 3
        have.extended(signed, source)
        steps.append(f"history: the log's root at each size seen from {have.size} on against the checkpoint that was seen")
        _write(held / CHECKPOINTS / str(new.size), encode_note(signed.note))
        # 4
        _fetch(source, held, new, have)
        steps.append(f"tiles and entries: {new.size - have.size} new ones against their leaves, tiles and the signed root")
        # 5
        _place(held)
        _exchange(held / CHECKPOINT, encode_note(signed.note))
        return Mirrored(new, new.size - have.size, tuple(steps))


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """The directory of a mirror, for one process at a time."""
    try:
        for name in ("", CHECKPOINTS, EVIDENCE):
            (path / name).mkdir(parents=True, exist_ok=True)
        with (path / "lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unavailable(str(path), "another process is mirroring into it: let it end") from None
            yield path
            shutil.rmtree(path / _INCOMING, ignore_errors=True)
    except OSError as error:
        raise Unavailable(str(path), f"cannot be written: {error.strerror}") from None


class Held:
    """What a mirror has: all entries up to `size`, and checkpoints that may be further."""

    def __init__(self, path: Path, trust: LogTrust) -> None:
        """Raises Refused where the mirror itself was changed, or is another log's."""
        self._path, self._source = path, Directory(path)
        self.seen = [one.checkpoint for one in seen_in(path, trust, CHECKPOINTS)]
        self.complete = _signed(path / CHECKPOINT, trust).checkpoint if (path / CHECKPOINT).exists() else None
        self.size = 0 if self.complete is None else self.complete.size
        self.most = max((one.size for one in self.seen), default=0)
        self.tiles: ProvingTiles | None = None
        if self.complete is not None:
            try:
                self.tiles = answer(self._source, prove_tiles(self.complete))
            except Refused as error:
                raise _in_mirror(error) from None

    def not_behind(self, new: Checkpoint, signed: SignedCheckpoint, source: Source) -> None:
        """`new` is of the log that is mirrored, at least as large as any that was seen, and no other of the same size. Raises Refused."""
        for kept in self.seen:
            if kept.origin != new.origin:
                raise Refused(Reason("checkpoint-invalid", "checkpoint.origin", kept.origin, new.origin))
        ours = self._root_at(new.size)
        other = next((kept for kept in self.seen if kept.size == new.size and kept.root != new.root), None)
        if other is not None or (ours is not None and ours != new.root):
            self._keep(signed)
            raise Refused(self._where(new, source) or fork(other or Checkpoint(new.origin, new.size, ours or b""), new.root))
        if new.size < self.most:
            self._keep(signed)
            raise Refused(Reason("log-rollback", "checkpoint.size", f"at least {self.most}", str(new.size)))

    def extended(self, signed: SignedCheckpoint, source: Source) -> None:
        """What is served extends every checkpoint whose entries may not be here yet, and the last whose entries are. Raises Refused."""
        theirs = answer(source, prove_tiles(signed.checkpoint))
        for kept in self.seen:
            if self.size <= kept.size and (root := answer(source, theirs.edge_at(kept.size)).root()) != kept.root:
                self._keep(signed)
                raise Refused(self._parting(source, theirs) or fork(kept, root))

    def edge(self) -> Edge:
        """Where the log goes on: behind its last full bundle."""
        return Edge() if self.tiles is None else answer(self._source, self.tiles.edge_at(self.size - self.size % WIDTH))

    def _root_at(self, size: int) -> bytes | None:
        """The root of the mirrored log at a size up to its own."""
        return None if self.tiles is None or size > self.size else answer(self._source, self.tiles.edge_at(size)).root()

    def _where(self, new: Checkpoint, source: Source) -> Reason | None:
        """The first entry that differs, if both trees tell."""
        try:
            return self._parting(source, answer(source, prove_tiles(new)))
        except Refused:
            return None

    def _parting(self, source: Source, theirs: ProvingTiles) -> Reason | None:
        differs = None if self.tiles is None else first_difference((self._source, self.tiles), (source, theirs))
        if differs is None:
            return None
        at, ours, other = differs
        return Reason("log-fork", f"entry.{at}", f"leaf {ours.hex()} at size {self.size}", f"leaf {other.hex()} at size {theirs.size}")

    def _keep(self, signed: SignedCheckpoint) -> None:
        one = signed.checkpoint
        _write(self._path / EVIDENCE / f"{one.size}-{one.root.hex()[:16]}", encode_note(signed.note))


def _in_mirror(error: Refused) -> Refused:
    return Refused(*(Reason(one.code, f"mirror, {one.claim}"[:200], one.expected, one.got) for one in error.reasons))


def _fetch(source: Source, path: Path, new: Checkpoint, have: Held) -> None:
    """What is new, judged, in `incoming`, and nothing else there. Raises Refused, with nothing there.

    What an earlier run left is read before the source is asked, and judged like it; where that does not hold it is thrown away, and all
    of it is asked for: a finding is of what the source has.
    """
    incoming = path / _INCOMING
    left = incoming.is_dir()
    kept = [one for one in have.seen if have.size < one.size]
    audit = LogAudit(new, kept, have.edge())
    judged: set[Path] = set()
    for piece in pieces(_Left(incoming, source) if left else source, audit):
        target = incoming / path_of(piece.tile)
        judged.add(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not left or not target.exists():
            _exchange(target, piece.data)
    if findings := audit.findings():
        shutil.rmtree(incoming, ignore_errors=True)
        if left:
            _fetch(source, path, new, have)
            return
        raise Refused(*findings)
    for one in [file for file in incoming.rglob("*") if file.is_file() and file not in judged]:
        one.unlink()


class _Left:
    """A log of which some files were fetched before."""

    def __init__(self, incoming: Path, source: Source) -> None:
        self.name, self._incoming, self._source = source.name, incoming, source

    def get(self, path: str, most: int) -> bytes | None:
        """See Source."""
        found = read_file(self._incoming / path, most)
        return self._source.get(path, most) if found is None else found


def _place(path: Path) -> None:
    """Every file of `incoming` is where it belongs, and on the disk; one that was there already is the same. Raises Refused."""
    touched: set[Path] = set()
    for directory, _, names in os.walk(path / _INCOMING):
        below = Path(directory).relative_to(path / _INCOMING)
        for above in (*reversed(below.parents), below):
            (path / above).mkdir(exist_ok=True)
            touched.add(path / above)
        for name in names:
            _link(Path(directory) / name, path / below / name)
    for one in sorted(touched, key=lambda one: len(one.parts), reverse=True):
        _sync(one)


def _link(source: Path, target: Path) -> None:
    source.chmod(0o444)
    try:
        target.hardlink_to(source)
    except FileExistsError:
        if target.read_bytes() != source.read_bytes():
            raise Refused(Reason("log-tile-mismatch", f"mirror, {target.name}", "what the log committed to", "another file")) from None


def _write(target: Path, data: bytes) -> None:
    """The file is there and on the disk; one that was there already stays."""
    if not target.exists():
        _exchange(target, data)


def _exchange(target: Path, data: bytes) -> None:
    temporary = target.parent / f".{target.name}.new"
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    _sync(target.parent)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

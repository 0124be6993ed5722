"""Where a log is read: a directory or an address, of which nothing is believed. Bounded in size and time; no redirect is obeyed."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeVar

from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, SignedCheckpoint, parse_signed_checkpoint
from writ.formats.tlog.merkle import HASH_SIZE
from writ.formats.tlog.tile import ENTRIES, MAX_BUNDLE, WIDTH, Tile, path_of
from writ.service.clock import SystemClock
from writ.service.uplink import Uplink
from writ.verdict.log_audit import LogAudit, Piece
from writ.verdict.log_tiles import Asking

CHECKPOINT: Final = "checkpoint"
T = TypeVar("T")


class Source(Protocol):
    """A log as someone serves it."""

    name: str

    def get(self, path: str, most: int) -> bytes | None:
        """The bytes at `path`, of which there are at most `most` and one more; None where there is nothing. Raises Unavailable."""


class Directory:
    """A log exported, or mirrored, into a directory."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise Unavailable(str(path), "expected a directory with a log, got none; an address begins with https://")
        self.name, self._path = str(path), path

    def get(self, path: str, most: int) -> bytes | None:
        """See Source. What is no ordinary file is Unavailable: a pipe would never end."""
        return read_file(self._path / path, most)


PATIENCE: Final = 30
"""Seconds for which a server that has enough of us is asked again."""


class Address:
    """A log served below an address, by the client that roles have for the verifier."""

    def __init__(self, url: str, ca_file: Path | None) -> None:
        """https, or http to a loopback address. Raises FormatError."""
        self._uplink = Uplink(url, ca_file=ca_file, signer=None, clock=SystemClock(), timeout=30.0, max_answer=MAX_BUNDLE + 1)
        self.name = self._uplink.base_url

    def get(self, path: str, most: int) -> bytes | None:
        """See Source."""
        answer = self._uplink.get(f"/{path}")
        for _ in range(PATIENCE):
            if answer.status != 429:
                break
            time.sleep(1.0)  # it serves so many requests a second and no more
            answer = self._uplink.get(f"/{path}")
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise Unavailable(f"{self.name}/{path}", f"expected status 200, or 404 where there is nothing, got {answer.status}")
        return answer.body[: most + 1]

    def close(self) -> None:
        """The connection is closed."""
        self._uplink.close()


def is_address(text: str) -> bool:
    """Whether this names a server, not a directory."""
    return text.startswith(("https://", "http://"))


@contextmanager
def open_source(text: str, ca_file: Path | None) -> Iterator[Source]:
    """The log at an address or in a directory, until the end of the block. Raises Unavailable or FormatError."""
    if not is_address(text):
        yield Directory(Path(text))
        return
    address = Address(text, ca_file)
    try:
        yield address
    finally:
        address.close()


def read_file(path: Path, most: int) -> bytes | None:
    """At most `most` bytes of an ordinary file, and one more where it has them; None where there is no file. Raises Unavailable."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unavailable(str(path), error.strerror or "cannot be read") from None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Unavailable(str(path), "expected an ordinary file, got something else")
        try:
            return file.read(most + 1)
        except OSError as error:
            raise Unavailable(str(path), error.strerror or "cannot be read") from None


def read_tile(source: Source, tile: Tile) -> bytes | None:
    """The file of a tile or a bundle, and nothing said about it; None where there is none. Raises Unavailable."""
    return source.get(path_of(tile), MAX_BUNDLE if tile.level == ENTRIES else WIDTH * HASH_SIZE)


def answer(source: Source, asking: Asking[T]) -> T:
    """What comes of a question about a log, whose files are those of `source`."""
    try:
        tile = next(asking)
        while True:
            tile = asking.send(read_tile(source, tile))
    except StopIteration as done:
        found: T = done.value
        return found


def pieces(source: Source, audit: LogAudit) -> Iterator[Piece]:
    """Every file of the log that `audit` reads in `source`, as it has to be."""
    asking = audit.pieces()
    data: bytes | None = None
    while True:
        try:
            item = asking.send(data)
        except StopIteration:
            return
        data = read_tile(source, item) if isinstance(item, Tile) else None
        if isinstance(item, Piece):
            yield item


def read_checkpoint(source: Source) -> SignedCheckpoint:
    """The checkpoint that the source serves now. Says nothing yet about who signed it. Raises Refused or Unavailable."""
    data = source.get(CHECKPOINT, MAX_CHECKPOINT)
    if data is None:
        raise Unavailable(f"{source.name}/{CHECKPOINT}", "expected the checkpoint of a log, got nothing there")
    return parse_served(data, CHECKPOINT)


def parse_served(data: bytes, claim: str) -> SignedCheckpoint:
    """A checkpoint that somebody else wrote: what is none is a finding. Raises Refused."""
    try:
        return parse_signed_checkpoint(data)
    except FormatError as error:
        raise Refused(Reason("checkpoint-invalid", claim, f"{error.what}: {error.expected}"[:200], error.got)) from None

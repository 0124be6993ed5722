"""Tiles of a log of several levels that lead to its root, and where two such logs part."""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from typing import Any

import pytest

from writ.formats.errors import Misuse, Refused
from writ.formats.tlog.checkpoint import Checkpoint
from writ.formats.tlog.edge import Edge
from writ.formats.tlog.merkle import leaf_hash, root
from writ.formats.tlog.tile import Tile
from writ.verdict.log_audit import MOST_FINDINGS, Findings, LogAudit, Timeline
from writ.verdict.log_tiles import parting, prove_tiles

Files = dict[Tile, bytes]


@cache
def all_leaves() -> list[bytes]:
    return [leaf_hash(b"%d" % at) for at in range(66_000)]


def log(size: int, *, other: int | None = None) -> tuple[Checkpoint, Files]:
    """A checkpoint and its tiles; the leaf `other` is not the one of `all_leaves`."""
    leaves = all_leaves()[:size]
    if other is not None:
        leaves = [*leaves[:other], bytes(32), *leaves[other + 1 :]]
    edge = Edge()
    tiles = edge.append(leaves) + edge.partial()
    return Checkpoint("o", size, edge.root()), {tile: b"".join(hashes) for tile, hashes in tiles}


def told(asking: Generator[Any, bytes | None, Any], files: Files) -> Any:
    """What comes of a question about one log."""
    try:
        tile = next(asking)
        while True:
            tile = asking.send(files.get(tile))
    except StopIteration as done:
        return done.value


def compared(one: tuple[Checkpoint, Files], two: tuple[Checkpoint, Files]) -> Any:
    """What comes of the question about two."""
    a, b = (told(prove_tiles(checkpoint), files) for checkpoint, files in (one, two))
    asking = parting(a, b)
    try:
        whose, tile = next(asking)
        while True:
            whose, tile = asking.send((one if whose is a else two)[1].get(tile))
    except StopIteration as done:
        return done.value


@pytest.mark.parametrize("at", [0, 255, 256, 1000, 65_535, 65_536, 65_900])
@pytest.mark.parametrize("one, two", [(66_000, 66_000), (66_000, 65_901), (65_901, 66_000)])
def test_two_logs_part_where_they_do(at: int, one: int, two: int) -> None:
    assert compared(log(one), log(two, other=at)) == (at, all_leaves()[at], bytes(32))


@pytest.mark.parametrize("one, two", [(66_000, 66_000), (66_000, 65_536), (256, 65_537), (0, 5), (66_000, 255)])
def test_two_that_agree_do_not_part(one: int, two: int) -> None:
    assert compared(log(one), log(two)) is None


@pytest.mark.parametrize("size", [0, 1, 255, 256, 300, 65_535, 65_536, 65_999, 66_000])
def test_the_root_of_an_earlier_size_is_that_of_so_many_leaves(size: int) -> None:
    checkpoint, files = log(66_000)
    tiles = told(prove_tiles(checkpoint), files)

    assert told(tiles.edge_at(size), files).root() == root(all_leaves()[:size])


@pytest.mark.parametrize("tile", [Tile(0, 3), Tile(1, 0)])
def test_a_full_tile_that_leads_nowhere_is_refused(tile: Tile) -> None:
    checkpoint, files = log(66_000)
    tiles = told(prove_tiles(checkpoint), files)
    files[tile] = files[tile][:-1] + b"\0"

    with pytest.raises(Refused) as refused:
        told(tiles.edge_at(1000), files)
    assert [(one.code, one.claim) for one in refused.value.reasons] == [("log-tile-mismatch", str(tile))]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_an_edge_that_leads_nowhere_is_refused(level: int) -> None:
    checkpoint, files = log(66_000)
    tile = max((tile for tile in files if tile.level == level), key=lambda one: one.index)
    files[tile] = bytes(32) + files[tile][32:]

    with pytest.raises(Refused) as refused:
        told(prove_tiles(checkpoint), files)
    assert [one.code for one in refused.value.reasons] == ["log-root-mismatch"]


def test_what_no_log_has_is_misuse() -> None:
    checkpoint, files = log(300)
    tiles = told(prove_tiles(checkpoint), files)
    for asking in (tiles.hashes(0, 2), tiles.hashes(1, 1), tiles.edge_at(301), tiles.edge_at(-1)):
        with pytest.raises(Misuse):
            told(asking, files)
    edge = Edge()
    edge.append(all_leaves()[:5])
    with pytest.raises(Misuse):
        LogAudit(checkpoint, (), edge)


def test_what_is_found_beyond_a_bound_is_counted() -> None:
    timeline, found = Timeline(5, None), Findings()
    timeline.take(0, 1_000_000)
    for index in range(1, MOST_FINDINGS + 8):
        reason = timeline.take(index, 1)
        assert reason is not None
        found.add(reason)

    reasons = found.reasons()
    assert len(reasons) == MOST_FINDINGS + 1
    assert (reasons[-1].code, reasons[-1].got) == ("reasons-left-out", "7 more")

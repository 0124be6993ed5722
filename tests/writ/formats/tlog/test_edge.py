"""The right edge of a log against roots and tiles that are made from all leaves at once."""

from __future__ import annotations

from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.errors import Misuse
from writ.formats.tlog.edge import Edge
from writ.formats.tlog.merkle import leaf_hash, root
from writ.formats.tlog.tile import WIDTH, Tile, fold, tiles_of


@cache
def all_leaves() -> list[bytes]:
    return [leaf_hash(b"%d" % at) for at in range(66_000)]


def grown(size: int, step: int) -> tuple[Edge, dict[Tile, tuple[bytes, ...]]]:
    edge = Edge()
    tiles: dict[Tile, tuple[bytes, ...]] = {}
    for at in range(0, size, step):
        tiles |= dict(edge.append(all_leaves()[at : min(at + step, size)]))
    return edge, tiles | dict(edge.partial())


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 600, 65_535, 65_536, 65_537, 66_000])
def test_root_and_tiles_are_those_of_all_leaves(size: int) -> None:
    edge, tiles = grown(size, 1000)

    assert (edge.size, edge.root()) == (size, root(all_leaves()[:size]))
    assert set(tiles) == set(tiles_of(size))
    for tile, hashes in tiles.items():
        wide = WIDTH**tile.level
        first = tile.index * WIDTH * wide
        assert hashes[-1] == root(all_leaves()[first + (tile.width - 1) * wide : first + tile.width * wide])


@given(st.integers(0, 1200), st.integers(1, 700))
def test_steps_make_no_difference(size: int, step: int) -> None:
    edge, tiles = grown(size, step)

    assert (edge.root(), tiles) == (root(all_leaves()[:size]), grown(size, 1200)[1])


def test_a_copy_grows_on_its_own() -> None:
    edge, _ = grown(300, 300)
    other = edge.copy()
    other.append([sha256(b"other").digest()] * 300)

    assert (edge.size, edge.root()) == (300, root(all_leaves()[:300]))
    assert other.size == 600


def test_what_is_no_hash_is_misuse() -> None:
    with pytest.raises(Misuse):
        Edge().append([b"short"])
    for hashes in ([], [bytes(32)] * 3):
        with pytest.raises(Misuse):
            fold(hashes)

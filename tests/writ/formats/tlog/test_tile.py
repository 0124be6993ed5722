"""Tiles: paths in one spelling, exactly the tiles that a size has, and proofs out of them that are those out of all leaves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.tlog import MemoryLog
from writ.formats.errors import FormatError, Misuse
from writ.formats.tlog import merkle
from writ.formats.tlog.tile import (
    ENTRIES,
    MAX_ENTRY,
    MAX_LEVEL,
    WIDTH,
    Tile,
    bundles_of,
    consistency_from,
    encode_bundle,
    inclusion_from,
    parse_bundle,
    parse_path,
    parse_tile,
    path_of,
    root_of,
    tiles_of,
    widths,
)

MOST_INDEX = merkle.MAX_SIZE >> 8
tiles = st.builds(Tile, st.integers(ENTRIES, MAX_LEVEL), st.integers(0, MOST_INDEX), st.integers(1, WIDTH))


@cache
def log() -> MemoryLog:
    """As large as the example of the specification: three levels of tiles."""
    return MemoryLog([b"%d" % number for number in range(70_000)])


def held(size: int) -> dict[Tile, Sequence[bytes]]:
    """The tiles of a log of `size`, and no other."""
    return {tile: log().tile(tile) for tile in tiles_of(size)}


# --- paths -----------------------------------------------------------------------------------------------------------------


@given(tiles)
def test_a_tile_comes_back_from_its_path(tile: Tile) -> None:
    assert parse_path(path_of(tile)) == tile
    assert str(tile) == path_of(tile)


@given(st.text(st.sampled_from("tile/0123x.p7entris"), max_size=30))
def test_a_path_that_is_read_is_written_the_same(text: str) -> None:
    for path in (text, f"tile/0/{text}", f"tile/0/000.p/{text}", f"tile/entries/x{text}/000"):
        try:
            tile = parse_path(path)
        except FormatError:
            continue
        assert path_of(tile) == path


@pytest.mark.parametrize(
    "path, tile",
    [
        ("tile/0/000", Tile(0, 0)), ("tile/entries/000.p/1", Tile(ENTRIES, 0, 1)),
        ("tile/7/x036/x028/x797/x018/x963/967", Tile(7, MOST_INDEX)),
        ("tile/0/x001/x234/067", Tile(0, 1_234_067)), ("tile/1/x001/000.p/255", Tile(1, 1000, 255)), ("tile/2/999", Tile(2, 999)),
    ],
)  # fmt: skip
def test_paths_are_those_of_the_specification(path: str, tile: Tile) -> None:
    assert (parse_path(path), path_of(tile)) == (tile, path)


@pytest.mark.parametrize(
    "path",
    [
        "", "/tile/0/000", "tile/0/000/", "tile/0/00", "tile/0/0000", "tile/00/000", "tile/8/000", "tile/-1/000", "tile/data/000",
        "tile/names/000", "tile/0/x000/000", "tile/0/x001", "tile/0/001/000", "tile/0/X001/000", "tile/0/000.p/0", "tile/0/000.p/00",
        "tile/0/000.p/01", "tile/0/000.p/256", "tile/0/000.p/999", "tile/0/000.p/", "tile/0/000.p", "tile/0/000\n", "tile/0/000.p/1\n",
        "tile/0/\u0661\u0662\u0663", "tile/0/../0/000", "tile/0/x999/x999/x999/x999/x999/999", "tile/0/x001/x000/x000/x000/x000/x000/000",
        "checkpoint",
    ],
)  # fmt: skip
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(FormatError, match="tile"):
        parse_path(path)


@pytest.mark.parametrize("level, index, width", [(-2, 0, 1), (8, 0, 1), (0, -1, 1), (0, MOST_INDEX + 1, 1), (0, 0, 0), (0, 0, 257)])
def test_a_tile_out_of_range_cannot_be_named(level: int, index: int, width: int) -> None:
    with pytest.raises(FormatError, match="a level up to"):
        Tile(level, index, width)


# --- which there are ---------------------------------------------------------------------------------------------------------


def test_the_tiles_of_a_size_are_those_of_the_specification() -> None:
    found = list(tiles_of(70_000))
    assert len([tile for tile in found if tile.level == 0]) == 274
    assert [str(tile) for tile in found if tile.level or tile.index > 272] == [
        "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1",
    ]  # fmt: skip
    assert [str(tile) for tile in tiles_of(256)] == ["tile/0/000", "tile/1/000.p/1"]
    assert not list(tiles_of(0))
    assert [str(tile) for tile in bundles_of(257)] == ["tile/entries/000", "tile/entries/001.p/1"]
    last = list(tiles_of(merkle.MAX_SIZE, since=merkle.MAX_SIZE - 1))
    assert last == [Tile(0, MOST_INDEX, 255)]
    assert widths(merkle.MAX_SIZE, MAX_LEVEL) == (0, 127)


@given(st.integers(0, 70_000), st.integers(0, 70_000))
def test_what_a_log_grew_by_is_all_that_it_did_not_have(one: int, other: int) -> None:
    since, size = sorted((one, other))
    for of in (tiles_of, bundles_of):
        before, after = set(of(since)), set(of(size))
        assert set(of(size, since=since)) == after - before
        assert {tile for tile in before if tile.width == WIDTH} <= after


def test_a_partial_tile_feeds_no_level_above() -> None:
    for size in (1, 255, 256, 257, 65_535, 65_536, 65_537):
        for level in range(3):
            full, partial = widths(size, level)
            assert full * WIDTH + partial == size // 256**level


# --- contents --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=WIDTH))
def test_a_bundle_comes_back_as_it_was(entries: list[bytes]) -> None:
    assert parse_bundle(encode_bundle(entries), len(entries)) == tuple(entries)


@given(st.binary(max_size=200), st.integers(0, 20))
def test_a_bundle_that_is_read_is_written_the_same(data: bytes, width: int) -> None:
    try:
        entries = parse_bundle(data, width)
    except FormatError:
        return
    assert encode_bundle(entries) == data
    assert len(entries) == width


def test_readers_are_total() -> None:
    assert_parser_is_total(lambda data: parse_bundle(data, 3), encode_bundle([b"one", b"", b"three" * 20]))
    assert_parser_is_total(lambda data: parse_tile(data, 3), b"".join(log().leaves[:3]))
    assert_parser_is_total(lambda data: parse_path(data.decode("latin-1")), b"tile/0/x001/234.p/7", open_ended=True)


@pytest.mark.parametrize(
    "data, width, got",
    [
        (b"", 1, "got 0"), (b"\0", 1, "got 0"), (b"\0\1", 1, "got 0"), (b"\0\1a", 2, "got 1"), (b"\0\1a\0", 1, "more bytes"),
        (b"\0\1a\0\1b", 1, "more bytes"), (b"\0\2a", 1, "got 0"), (b"\0\0", 0, "more bytes"),
    ],
)  # fmt: skip
def test_a_bundle_of_another_width_is_refused(data: bytes, width: int, got: str) -> None:
    with pytest.raises(FormatError, match=got):
        parse_bundle(data, width)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_tile_of_another_width_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="32 bytes"):
        parse_tile(bytes(size), 1)


def test_an_entry_is_bounded() -> None:
    assert parse_bundle(encode_bundle([bytes(MAX_ENTRY)]), 1) == (bytes(MAX_ENTRY),)
    with pytest.raises(Misuse, match=str(MAX_ENTRY)):
        encode_bundle([bytes(MAX_ENTRY + 1)])


# --- proofs ----------------------------------------------------------------------------------------------------------------

SIZES = (1, 2, 3, 7, 255, 256, 257, 258, 511, 512, 513, 700, 65_535, 65_536, 65_537, 65_792, 65_793, 70_000)


@pytest.mark.parametrize("size", SIZES)
def test_roots_and_proofs_out_of_tiles_are_those_out_of_all_leaves(size: int) -> None:
    read, leaves = held(size).__getitem__, log().leaves[:size]
    top = merkle.root(leaves)
    assert root_of(read, size) == top
    near = {0, 1, 255, 256, 257, 511, 65_535, 65_536, size // 2, size - 2, size - 1}
    for index in sorted(at for at in near if 0 <= at < size):
        proof = inclusion_from(read, index, size)
        assert merkle.verify_inclusion(leaves[index], index, size, proof, top)
        if size <= 700:
            assert proof == merkle.inclusion_proof(leaves, index)
    for old in sorted(at for at in near | {size} if 0 <= at <= size):
        proof = consistency_from(read, old, size)
        assert merkle.verify_consistency(old, merkle.root(leaves[:old]), size, top, proof)
        if size <= 700:
            assert proof == merkle.consistency_proof(leaves, old)


@given(st.integers(1, 1500), st.data())
def test_proofs_out_of_tiles_are_those_of_any_size(size: int, data: st.DataObject) -> None:
    read, leaves = held(size).__getitem__, log().leaves[:size]
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    assert inclusion_from(read, index, size) == merkle.inclusion_proof(leaves, index)
    assert consistency_from(read, old, size) == merkle.consistency_proof(leaves, old)
    assert root_of(read, size) == merkle.root(leaves)


@given(st.integers(0, 11), st.integers(0, 30), st.integers(1, 60))
def test_the_root_of_a_subtree_is_that_of_its_leaves(height: int, at: int, length: int) -> None:
    start = at << height
    end = min(start + min(length, 1 << height), 70_000)
    if start < end:
        assert root_of(log().tile, 70_000, start, end) == merkle.root(log().leaves[start:end])


def test_a_proof_of_a_large_log_reads_few_tiles() -> None:
    asked: list[Tile] = []

    def read(tile: Tile) -> Sequence[bytes]:
        asked.append(tile)
        return log().tile(tile)

    inclusion_from(read, 40_000, 70_000)
    consistency_from(read, 40_000, 70_000)
    assert len(set(asked)) <= 2 * 6


@pytest.mark.parametrize(
    "call, expected",
    [
        (lambda: root_of(log().tile, 0), "no leaves"), (lambda: root_of(log().tile, 5, 2, 2), "no leaves"),
        (lambda: root_of(log().tile, 5, 0, 6), "no leaves"),
        (lambda: root_of(log().tile, 8, 1, 3), "a multiple"), (lambda: inclusion_from(log().tile, 5, 5), "no leaf 5"),
        (lambda: inclusion_from(log().tile, -1, 5), "no leaf -1"), (lambda: consistency_from(log().tile, 6, 5), "no earlier size 6"),
        (lambda: consistency_from(log().tile, -1, 5), "no earlier size -1"),
    ],
)  # fmt: skip
def test_what_no_log_has_is_misuse(call: object, expected: str) -> None:
    assert callable(call)
    with pytest.raises(Misuse, match=re.escape(expected)):
        call()

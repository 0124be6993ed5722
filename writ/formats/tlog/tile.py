"""Tiles: a log as files that any web server can serve, and proofs out of them.

A tile holds 256 hashes of one level, or fewer at the right edge; level 0 are leaf hashes, and each hash of level n+1 is the root of a full
tile of level n. An entry bundle holds the same 256 entries as a tile of level 0.

    tile/LEVEL/N          tile/entries/N            N in groups of three digits: x001/x234/067
    tile/LEVEL/N.p/W      tile/entries/N.p/W        W of 256

>>> path_of(Tile(0, 1234067, 112))
'tile/0/x001/x234/067.p/112'
>>> [str(tile) for tile in tiles_of(70_000)][-3:]
['tile/1/000', 'tile/1/001.p/17', 'tile/2/000.p/1']

Source: C2SP tlog-tiles (2026-07).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError, Misuse
from writ.formats.tlog.merkle import HASH_SIZE, MAX_SIZE, node_hash

WIDTH: Final = 256
_HEIGHT: Final = 8
ENTRIES: Final = -1
"""The level of entry bundles."""
MAX_LEVEL: Final = 7
"""A log of fewer than 2**63 entries has tiles of levels 0 to 7."""
MAX_ENTRY: Final = (1 << 16) - 1
MAX_BUNDLE: Final = WIDTH * (MAX_ENTRY + 2)

_PATH = re.compile(r"tile/(entries|[0-7])/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tile:
    """The tile `index` of `level` (`ENTRIES`: an entry bundle), of `width` hashes or entries. Raises FormatError."""

    level: int
    index: int
    width: int = WIDTH

    def __post_init__(self) -> None:
        if not ENTRIES <= self.level <= MAX_LEVEL or not 0 <= self.index <= MAX_SIZE >> _HEIGHT or not 1 <= self.width <= WIDTH:
            raise FormatError("tile", f"a level up to {MAX_LEVEL}, an index and a width up to {WIDTH}", f"{self.level}, {self.width}")

    def __str__(self) -> str:
        return path_of(self)


def path_of(tile: Tile) -> str:
    """The path below a log's prefix."""
    digits = f"{tile.index:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    named = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    level = "entries" if tile.level == ENTRIES else str(tile.level)
    return f"tile/{level}/{named}" + ("" if tile.width == WIDTH else f".p/{tile.width}")


def parse_path(path: str) -> Tile:
    """Read a path below a log's prefix, in its one spelling. Raises FormatError."""
    match = _PATH.match(path)
    if match is None:
        raise FormatError("tile path", "tile/LEVEL/N or tile/LEVEL/N.p/W", repr(path[:80]))
    level = ENTRIES if match[1] == "entries" else int(match[1])
    tile = Tile(level, int(match[2].replace("x", "").replace("/", "")), WIDTH if match[3] is None else int(match[3]))
    if path_of(tile) != path:
        raise FormatError("tile path", path_of(tile), repr(path[:80]))
    return tile


def widths(size: int, level: int) -> tuple[int, int]:
    """How many full tiles of `level` a log of `size` has, and the width of the partial one behind them, 0 for none."""
    hashes = size if level == ENTRIES else size >> (_HEIGHT * level)
    return hashes >> _HEIGHT, hashes & (WIDTH - 1)


def tiles_of(size: int, *, since: int = 0) -> Iterator[Tile]:
    """The tiles of a log of `size` that one of `since` entries does not have, level by level; entry bundles are not among them."""
    for level in range(MAX_LEVEL + 1):
        yield from _of_level(size, level, since)


def bundles_of(size: int, *, since: int = 0) -> Iterator[Tile]:
    """The entry bundles of a log of `size` that one of `since` entries does not have."""
    yield from _of_level(size, ENTRIES, since)


def _of_level(size: int, level: int, since: int) -> Iterator[Tile]:
    (full, partial), (had, had_partial) = widths(size, level), widths(since, level)
    for index in range(had, full):
        yield Tile(level, index)
    if partial and (full, partial) != (had, had_partial):
        yield Tile(level, full, partial)


# --- contents ------------------------------------------------------------------------------------------------------------


def parse_tile(data: bytes, width: int) -> tuple[bytes, ...]:
    """The hashes of a tile. Raises FormatError."""
    if len(data) != width * HASH_SIZE:
        raise FormatError("tile", f"{width * HASH_SIZE} bytes", f"{len(data)} bytes")
    return tuple(data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE))


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """An entry bundle: each entry behind its length in two bytes. Raises Misuse for one that is too long."""
    if any(len(entry) > MAX_ENTRY for entry in entries):
        raise Misuse(f"an entry has at most {MAX_ENTRY} bytes")
    return b"".join(part for entry in entries for part in (len(entry).to_bytes(2, "big"), entry))


def parse_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """The `width` entries of a bundle. Raises FormatError."""
    entries: list[bytes] = []
    at = 0
    for _ in range(width):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise FormatError("entry bundle", f"{width} entries", f"{len(entries)}", at)
        entries.append(data[at + 2 : end])
        at = end
    if at != len(data):
        raise FormatError("entry bundle", f"{width} entries", "more bytes", at)
    return tuple(entries)


# --- proofs out of tiles ---------------------------------------------------------------------------------------------------

Hashes = Callable[[Tile], Sequence[bytes]]
"""Reads a tile. It has exactly the tile's width of hashes, of 32 bytes each."""


def root_of(read: Hashes, size: int, start: int = 0, end: int | None = None) -> bytes:
    """The root over leaves `start` to `end` (all of them by default) of a log of `size`, out of its tiles.

    `start` is a multiple of the largest power of two below the range, as every subtree's is. Raises Misuse otherwise.
    """
    end = size if end is None else end
    if not 0 <= start < end <= size:
        raise Misuse(f"no leaves {start} to {end} in a log of {size}")
    length = end - start
    if length & (length - 1) == 0:
        return _perfect(read, size, start, length)
    middle = start + (1 << length.bit_length() - 1)
    return node_hash(_perfect(read, size, start, middle - start), root_of(read, size, middle, end))


def _perfect(read: Hashes, size: int, start: int, length: int) -> bytes:
    """The root of a perfect subtree: its hashes in the highest tile that has them, folded."""
    if start % length:
        raise Misuse("a perfect subtree starts at a multiple of its length")
    level = (length.bit_length() - 1) // _HEIGHT
    first, count = start >> (_HEIGHT * level), length >> (_HEIGHT * level)
    full, partial = widths(size, level)
    index, at = first >> _HEIGHT, first & (WIDTH - 1)
    return fold(read(Tile(level, index, WIDTH if index < full else partial))[at : at + count])


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes: of a full tile, the hash of it in the level above."""
    if not hashes or len(hashes) & (len(hashes) - 1):
        raise Misuse(f"a power of two of hashes, not {len(hashes)}")
    while len(hashes) > 1:
        hashes = [node_hash(hashes[one], hashes[one + 1]) for one in range(0, len(hashes), 2)]
    return hashes[0]


def inclusion_from(read: Hashes, index: int, size: int) -> tuple[bytes, ...]:
    """What `merkle.inclusion_proof` gives for the first `size` leaves, out of some `3 log(size) / 8` tiles. Raises Misuse."""
    if not 0 <= index < size:
        raise Misuse(f"no leaf {index} in a log of {size}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        left = index < middle
        path.append(root_of(read, size, middle, end) if left else root_of(read, size, start, middle))
        start, end = (start, middle) if left else (middle, end)
    return tuple(reversed(path))


def consistency_from(read: Hashes, old: int, size: int) -> tuple[bytes, ...]:
    """What `merkle.consistency_proof` gives for the first `size` leaves, out of tiles. Raises Misuse."""
    if not 0 <= old <= size:
        raise Misuse(f"no earlier size {old} of a log of {size}")
    if old in {0, size}:
        return ()
    path, start, end, whole = [], 0, size, True
    while old != end:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if old <= middle:
            path.append(root_of(read, size, middle, end))
            end = middle
        else:
            path.append(root_of(read, size, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(root_of(read, size, start, end))
    return tuple(reversed(path))

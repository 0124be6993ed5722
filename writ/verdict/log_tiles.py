"""Files of a log judged: the hashes and entries that they hold, or what is wrong with them; and tiles that lead to a signed root.

Nothing here believes a file because it is there. A `ProvingTiles` reads hashes of which each leads to the root of the checkpoint, by some
`log(size) / 8` files: enough to say whether a log extends an earlier one, and where two of them part.

Nothing here reads, either: what needs a file yields its `Tile`, and is sent the bytes that are there, or None (`Asking`).

Source: C2SP tlog-tiles (2026-07).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from typing import Final, TypeVar

from writ.formats.errors import Misuse, Refused
from writ.formats.reason import Reason
from writ.formats.tlog.checkpoint import Checkpoint
from writ.formats.tlog.edge import Edge
from writ.formats.tlog.merkle import HASH_SIZE, leaf_hash
from writ.formats.tlog.tile import ENTRIES, MAX_LEVEL, WIDTH, Tile, fold, path_of, widths

T = TypeVar("T")
Asking = Generator[Tile, bytes | None, T]
"""Yields a tile, and is sent the file; None where it is not there. It is bounded by whoever reads."""
_MOST_CACHED: Final = 64


def hashes_of(tile: Tile) -> Asking[tuple[bytes, ...]]:
    """The hashes of `tile`, or of its full tile where the partial one is gone. Says nothing of whose they are. Raises Refused."""
    data, width = yield from _served(tile)
    if len(data) < width * HASH_SIZE:
        raise Refused(Reason("log-tile-cut", path_of(tile), f"{width * HASH_SIZE} bytes", f"{len(data)} bytes"))
    if len(data) > width * HASH_SIZE:
        raise Refused(Reason("log-trailing-bytes", path_of(tile), f"{width * HASH_SIZE} bytes", f"{len(data)} bytes"))
    return tuple(data[at : at + HASH_SIZE] for at in range(0, tile.width * HASH_SIZE, HASH_SIZE))


def entries_of(index: int, committed: Sequence[bytes]) -> Asking[tuple[bytes, ...]]:
    """The entries of bundle `index`, whose leaf hashes are `committed`. Raises Refused with the one thing that is wrong.

    1. A bundle with exactly the entries that the log committed to is accepted.
    2. Where they are the same up to its end, or up to more bytes, it was cut, or something follows.
    3. Of others the first that differs says: the committed ones in another order, one left out, one put in, or one altered.
    """
    tile = Tile(ENTRIES, index, len(committed))
    data, width = yield from _served(tile)
    entries, rest = _split(data, width)
    held = entries[: tile.width]
    leaves = [leaf_hash(entry) for entry in held]
    # 1
    whole = len(entries) == width and not rest
    if whole and leaves == list(committed):
        return tuple(held)
    # 2
    at = next((one for one, (is_there, wanted) in enumerate(zip(leaves, committed, strict=False)) if is_there != wanted), None)
    if at is None:
        code = "log-tile-cut" if len(entries) < width else "log-trailing-bytes"
        raise Refused(Reason(code, path_of(tile), f"{width} entries", f"{len(entries)} entries and {len(rest)} bytes"))
    # 3
    claim = f"entry.{index * WIDTH + at}"
    wanted, got = committed[at].hex(), leaves[at].hex()
    if sorted(leaves) == sorted(committed):
        raise Refused(Reason("log-entry-reordered", claim, f"leaf {wanted}", f"leaf {got}"))
    if committed[at + 1 : at + 2] == (leaves[at],):
        raise Refused(Reason("log-entry-removed", claim, f"leaf {wanted}", "the entry after it"))
    if leaves[at + 1 : at + 2] == [committed[at]]:
        raise Refused(Reason("log-entry-inserted", claim, f"leaf {wanted}", f"leaf {got} before it"))
    raise Refused(Reason("log-entry-altered", claim, f"leaf {wanted}", f"leaf {got}"))


def bundle_of(index: int, width: int) -> Asking[tuple[bytes, ...]]:
    """The `width` entries of a bundle of which no tile says what they are. Raises Refused."""
    tile = Tile(ENTRIES, index, width)
    data, served = yield from _served(tile)
    entries, rest = _split(data, served)
    if len(entries) < served:
        raise Refused(Reason("log-tile-cut", path_of(tile), f"{served} entries", f"{len(entries)} entries and {len(rest)} bytes"))
    if rest:
        raise Refused(Reason("log-trailing-bytes", path_of(tile), f"{served} entries", f"{len(rest)} bytes more"))
    return tuple(entries[:width])


def _served(tile: Tile) -> Asking[tuple[bytes, int]]:
    """What is there for a tile, and how wide that is: a log may take a partial tile away once it has the full one."""
    data = yield tile
    if data is not None:
        return data, tile.width
    full = None if tile.width == WIDTH else (yield Tile(tile.level, tile.index))
    if full is None:
        raise Refused(Reason("log-tile-missing", path_of(tile), f"{tile.width} of {WIDTH}", "no such file"))
    return full, WIDTH


def _split(data: bytes, most: int) -> tuple[list[bytes], bytes]:
    """Up to `most` whole entries, and the bytes behind them."""
    entries: list[bytes] = []
    at = 0
    while len(entries) < most and at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data):
            break
        entries.append(data[at + 2 : end])
        at = end
    return entries, data[at:]


class ProvingTiles:
    """Hashes of a log, each of which leads to the root of the checkpoint; `prove_tiles` makes one."""

    def __init__(self, size: int, edge: Mapping[int, tuple[bytes, ...]]) -> None:
        self.size: Final = size
        self._edge = edge
        self._cache: OrderedDict[tuple[int, int], tuple[bytes, ...]] = OrderedDict()

    def hashes(self, level: int, index: int) -> Asking[tuple[bytes, ...]]:
        """The hashes of a tile of the log, at its width there. Raises Refused."""
        full, partial = widths(self.size, level)
        if index > full or (index == full and not partial):
            raise Misuse(f"no tile {index} of level {level} in a log of {self.size}")
        if index == full:
            return self._edge[level]
        if (level, index) in self._cache:
            self._cache.move_to_end((level, index))
            return self._cache[level, index]
        tile = Tile(level, index)
        hashes, above = (yield from hashes_of(tile)), (yield from self.hashes(level + 1, index // WIDTH))[index % WIDTH]
        if (got := fold(hashes)) != above:
            raise Refused(Reason("log-tile-mismatch", path_of(tile), above.hex(), got.hex()))
        self._cache[level, index] = hashes
        if len(self._cache) > _MOST_CACHED:
            self._cache.popitem(last=False)
        return hashes

    def edge_at(self, size: int) -> Asking[Edge]:
        """The log as it was with its first `size` entries: its root, and where it went on. Raises Refused."""
        if not 0 <= size <= self.size:
            raise Misuse(f"no first {size} entries in a log of {self.size}")
        rows: dict[int, tuple[bytes, ...]] = {}
        for level in range(MAX_LEVEL + 1):
            full, partial = widths(size, level)
            if partial:
                rows[level] = (yield from self.hashes(level, full))[:partial]
        return Edge.at(size, lambda tile: rows[tile.level])


def prove_tiles(checkpoint: Checkpoint) -> Asking[ProvingTiles]:
    """The tiles of the log of `checkpoint`, which was verified before: its right edge leads to the root. Raises Refused."""
    rows: dict[int, tuple[bytes, ...]] = {}
    for level in range(MAX_LEVEL + 1):
        full, partial = widths(checkpoint.size, level)
        if partial:
            rows[level] = yield from hashes_of(Tile(level, full, partial))
    if (root := Edge.at(checkpoint.size, lambda tile: rows[tile.level]).root()) != checkpoint.root:
        raise Refused(Reason("log-root-mismatch", f"checkpoint.{checkpoint.size}", checkpoint.root.hex(), root.hex()))
    return ProvingTiles(checkpoint.size, rows)


def parting(a: ProvingTiles, b: ProvingTiles) -> Generator[tuple[ProvingTiles, Tile], bytes | None, tuple[int, bytes, bytes] | None]:
    """The first entry in which two logs differ, with its leaf hash in each; None where the longer extends the other.

    The perfect subtrees of the shorter, left to right, are compared as hashes; below the first that differs, level by level. Asks for
    tiles of the one or the other. Raises Refused where a tile does not hold.
    """
    size = min(a.size, b.size)
    for level in range(MAX_LEVEL, -1, -1):
        index, width = widths(size, level)
        found = (yield from _differ(a, b, level, index, width)) if width else None
        while found is not None and level:
            level -= 1  # noqa: PLW2901 - the walk over levels ends here, and goes down
            below = yield from _differ(a, b, level, found[0], WIDTH)
            if below is None:
                raise Misuse("tiles that agree, below hashes that differ")
            found = below
        if found is not None:
            return found
    return None


def _differ(
    a: ProvingTiles, b: ProvingTiles, level: int, index: int, width: int
) -> Generator[tuple[ProvingTiles, Tile], bytes | None, tuple[int, bytes, bytes] | None]:
    """The first hash of `level` that differs, of the first `width` in a tile."""
    ones = yield from _of(a, level, index)
    others = yield from _of(b, level, index)
    for at, (one, other) in enumerate(zip(ones[:width], others[:width], strict=True), index * WIDTH):
        if one != other:
            return at, one, other
    return None


def _of(tiles: ProvingTiles, level: int, index: int) -> Generator[tuple[ProvingTiles, Tile], bytes | None, tuple[bytes, ...]]:
    """The tile of one of the two, each of whose questions says whose it is."""
    asking = tiles.hashes(level, index)
    try:
        tile = next(asking)
        while True:
            data = yield tiles, tile
            tile = asking.send(data)
    except StopIteration as done:
        hashes: tuple[bytes, ...] = done.value
        return hashes

"""The right edge of a log: of each level the hashes behind its last full tile. Enough to append, and to know root and tiles as they fill.

>>> edge = Edge()
>>> [str(tile) for tile, _ in edge.append([bytes(32)] * 600)]
['tile/0/000', 'tile/0/001']
>>> [str(tile) for tile, _ in edge.partial()], edge.size
(['tile/0/002.p/88', 'tile/1/000.p/2'], 600)

Source: C2SP tlog-tiles (2026-07); RFC 9162 section 2.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from writ.formats.errors import Misuse
from writ.formats.tlog.merkle import EMPTY_ROOT, HASH_SIZE, MAX_SIZE, Frontier
from writ.formats.tlog.tile import MAX_LEVEL, WIDTH, Hashes, Tile, fold, root_of, widths


class Edge:
    """Grows by leaf hashes and forgets what lies in full tiles: some eight times 256 hashes, however large the log."""

    def __init__(self) -> None:
        self.size = 0
        self._rows: list[list[bytes]] = [[] for _ in range(MAX_LEVEL + 1)]

    @classmethod
    def at(cls, size: int, read: Hashes) -> Edge:
        """The edge of a log of `size`, out of its tiles as `read` gives them."""
        edge = cls()
        edge.size = size
        for level in range(MAX_LEVEL + 1):
            full, partial = widths(size, level)
            edge._rows[level] = list(read(Tile(level, full, partial))) if partial else []
        return edge

    def copy(self) -> Edge:
        """Another one, that grows on its own."""
        return Edge.at(self.size, lambda tile: self._rows[tile.level])

    def append(self, hashes: Sequence[bytes]) -> list[tuple[Tile, tuple[bytes, ...]]]:
        """The tiles that these leaves fill, lower levels before those above. Raises Misuse for what is no hash, or too many."""
        if self.size + len(hashes) > MAX_SIZE or any(len(one) != HASH_SIZE for one in hashes):
            raise Misuse(f"append takes hashes of {HASH_SIZE} bytes and a log of at most {MAX_SIZE} entries")
        filled: list[tuple[Tile, tuple[bytes, ...]]] = []
        at = 0
        while at < len(hashes):
            row = self._rows[0]
            taken = hashes[at : at + WIDTH - len(row)]
            row.extend(taken)
            at += len(taken)
            self.size += len(taken)
            self._rise(filled)
        return filled

    def _rise(self, filled: list[tuple[Tile, tuple[bytes, ...]]]) -> None:
        for level in range(MAX_LEVEL):
            row = self._rows[level]
            if len(row) < WIDTH:
                return
            filled.append((Tile(level, (self.size >> (8 * (level + 1))) - 1), tuple(row)))
            self._rows[level + 1].append(fold(row))
            self._rows[level] = []

    def partial(self) -> list[tuple[Tile, tuple[bytes, ...]]]:
        """The partial tiles of the log as it is now."""
        return [(Tile(level, widths(self.size, level)[0], len(row)), tuple(row)) for level, row in enumerate(self._rows) if row]

    def frontier(self) -> Frontier:
        """The perfect subtrees of the log as it is now, for whoever appends and wants the root each time."""
        roots: list[bytes] = []
        for row in reversed(self._rows):
            at = 0
            for bit in reversed(range(8)):
                if len(row) & 1 << bit:
                    roots.append(fold(row[at : at + (1 << bit)]))
                    at += 1 << bit
        return Frontier(self.size, tuple(roots))

    def root(self) -> bytes:
        """The root of the log as it is now."""
        return root_of(lambda tile: self._rows[tile.level], self.size) if self.size else EMPTY_ROOT

"""Merkle trees of RFC 9162 section 2.1: roots, inclusion and consistency proofs, and an append that needs no old leaf.

The tree over entries d[0] … d[n-1] hashes each entry to a leaf, and splits at
the largest power of two below n:

    MTH()        = SHA-256("")
    leaf(d)      = SHA-256(0x00 || d)
    node(l, r)   = SHA-256(0x01 || l || r)
    MTH(d[0:n])  = node(MTH(d[0:k]), MTH(d[k:n]))

Everything here works on leaf hashes of 32 bytes and on sizes below 2**63.
A proof is a tuple of hashes and nothing more. **Index, size and root are
arguments that the caller takes from signed bytes, never from the sender of
the proof**: the same hashes can lead to the same root for another index in a
tree of another size.

>>> leaves = [leaf_hash(bytes([i])) for i in range(5)]
>>> top = root(leaves)
>>> verify_inclusion(leaves[2], 2, 5, inclusion_proof(leaves, 2), top)
True
>>> verify_inclusion(leaves[2], 3, 5, inclusion_proof(leaves, 2), top)
False
>>> verify_consistency(3, root(leaves[:3]), 5, top, consistency_proof(leaves, 3))
True

Source: RFC 9162 sections 2.1.1 (hash), 2.1.3 (inclusion), 2.1.4 (consistency).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from writ.formats.errors import FormatError, Misuse

HASH_SIZE: Final = 32
MAX_SIZE: Final = (1 << 63) - 1
"""Most entries a tree may be said to have; a proof is then at most 63 hashes for inclusion, 64 for consistency."""

MOST_HASHES: Final = 63
"""Of a proof that we read or make."""

EMPTY_ROOT: Final = sha256(b"").digest()
"""Root of the tree without entries."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry): the leaf of an entry."""
    return sha256(b"\x00" + entry).digest()


def node_hash(l: bytes, r: bytes) -> bytes:  # noqa: E741 - the letters of RFC 9162
    """SHA-256(0x01 || l || r): the node above two subtrees."""
    return sha256(b"\x01" + l + r).digest()


def _split(size: int) -> int:
    """The largest power of two below `size`, for size >= 2."""
    return 1 << (size - 1).bit_length() - 1


def _subtree_root(leaf_hashes: Sequence[bytes], start: int, end: int) -> bytes:
    """MTH of a non-empty range: level by level, an odd last node rises unchanged."""
    level = list(leaf_hashes[start:end])
    while len(level) > 1:
        pairs = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def _of_hash_size(leaf_hashes: Sequence[bytes]) -> None:
    for value in leaf_hashes:
        if len(value) != HASH_SIZE:
            raise Misuse(f"a leaf hash has {HASH_SIZE} bytes, not {len(value)}")


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over `leaf_hashes`, in order; `EMPTY_ROOT` for none."""
    _of_hash_size(leaf_hashes)
    return _subtree_root(leaf_hashes, 0, len(leaf_hashes)) if leaf_hashes else EMPTY_ROOT


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int, size: int | None = None) -> tuple[bytes, ...]:
    """The hashes that lead from leaf `index` to the root of the first `size` leaves (all of them by default), leaf first.

    Raises Misuse unless 0 <= index < size <= len(leaf_hashes).

    Source: RFC 9162 section 2.1.3.1.
    """
    _of_hash_size(leaf_hashes)
    size = len(leaf_hashes) if size is None else size
    if not 0 <= index < size <= len(leaf_hashes):
        raise Misuse(f"no leaf {index} in a tree of {size}, of {len(leaf_hashes)} leaves held")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_subtree_root(leaf_hashes, middle, end))
            end = middle
        else:
            path.append(_subtree_root(leaf_hashes, start, middle))
            start = middle
    return tuple(reversed(path))


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """The hashes that show the tree over all `leaf_hashes` to extend the one over the first `old_size`.

    Empty when the sizes are equal and when `old_size` is 0. Raises Misuse
    unless 0 <= old_size <= len(leaf_hashes).

    Source: RFC 9162 section 2.1.4.1.
    """
    _of_hash_size(leaf_hashes)
    if not 0 <= old_size <= len(leaf_hashes):
        raise Misuse(f"no earlier size {old_size} of a tree of {len(leaf_hashes)}")
    if old_size in {0, len(leaf_hashes)}:
        return ()
    path: list[bytes] = []
    start, end, whole = 0, len(leaf_hashes), True
    while old_size != end:  # `old_size` counts from 0; the subproof covers leaves start..end
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(_subtree_root(leaf_hashes, middle, end))
            end = middle
        else:
            path.append(_subtree_root(leaf_hashes, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(_subtree_root(leaf_hashes, start, end))
    return tuple(reversed(path))


def _hashes(values: Sequence[bytes]) -> bool:
    return all(isinstance(value, bytes) and len(value) == HASH_SIZE for value in values)


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root to which `path` leads from the leaf hash `leaf` at `index` of a tree of `size` entries.

    None for an index outside the tree, a path one hash too long or too short, and a hash that is not 32 bytes. A root that comes out is
    worth what signed it together with `size`.

    Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size <= MAX_SIZE or not _hashes((leaf, *path)):
        return None
    at, last, value = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            value = node_hash(sibling, value)
            while not at & 1 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        at, last = at >> 1, last >> 1
    return value if last == 0 else None


def beside(first: int, end: int, size: int) -> list[tuple[int, int]]:
    """The subtrees (start, end) of a tree of `size` that lie beside leaves `first` to `end`, left to right: their roots prove the range.

    Raises Misuse unless 0 <= first < end <= size.
    """
    if not 0 <= first < end <= size <= MAX_SIZE:
        raise Misuse(f"no range from {first} to {end} in a tree of {size}")
    found: list[tuple[int, int]] = []

    def walk(start: int, stop: int) -> None:
        if stop <= first or end <= start:
            found.append((start, stop))
        elif not first <= start < stop <= end:
            middle = start + _split(stop - start)
            walk(start, middle)
            walk(middle, stop)

    walk(0, size)
    return found


def root_from_range(leaves: Sequence[bytes], first: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root of a tree of `size` to which the leaf hashes `leaves`, from `first` on, lead with the subtrees `beside` them.

    None for a range outside the tree, a hash too many or too few, and one that is not 32 bytes. A root that comes out is worth what signed
    it together with `size`: then these are all leaves of the range, each in its place.
    """
    end = first + len(leaves)
    if not 0 <= first < end <= size <= MAX_SIZE or not _hashes((*leaves, *proof)):
        return None
    given = dict(zip(places := beside(first, end, size), proof, strict=False))
    if len(places) != len(proof):
        return None

    def over(start: int, stop: int) -> bytes:
        if (known := given.get((start, stop))) is not None:
            return known
        if first <= start and stop <= end:
            return _subtree_root(leaves, start - first, stop - first)
        middle = start + _split(stop - start)
        return node_hash(over(start, middle), over(middle, stop))

    return over(0, size)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` leads from the leaf hash `leaf` at `index` to `root` of a tree of `size` entries.

    False for anything else. Does not say that `root` and `size` are anyone's: take both from a signed checkpoint.
    """
    return _hashes((root,)) and root_from_path(leaf, index, size, proof) == root


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree `size`, `root` holds the tree `old_size`, `old_root` unchanged as its beginning.

    Anything extends the empty log: with `old_size` 0 the answer is yes if, and
    only if, `old_root` is `EMPTY_ROOT` and the proof is empty. (RFC 9162 leaves
    that case out.) A tree of size 0 has no other root than `EMPTY_ROOT`. False
    for a size that fell, an equal size with another root, a proof one hash too
    long or too short, and a hash that is not 32 bytes.

    Source: RFC 9162 section 2.1.4.2.
    """
    # 1. Sizes and hashes are in range, and an empty tree has the empty root.
    if not 0 <= old_size <= size <= MAX_SIZE or not _hashes((old_root, root, *proof)):
        return False
    if (old_size == 0 and old_root != EMPTY_ROOT) or (size == 0 and root != EMPTY_ROOT):
        return False
    # 2. From nothing, and from itself, there is nothing to prove.
    if old_size in {0, size}:
        return not proof and (old_size == 0 or old_root == root)
    # 3. An old tree that is a perfect subtree is its own first hash.
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        return False
    at, last = old_size - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    # 4. Climb once, towards both roots.
    old, new = path[0], path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not at & 1 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        at, last = at >> 1, last >> 1
    # 5. Both are reached, with no hash to spare.
    return last == 0 and old == old_root and new == root


@dataclass(frozen=True, slots=True)
class Frontier:
    """What an append must know of a tree: its size and the roots of its perfect subtrees, largest (leftmost) first.

    There is one root for each bit set in `size`. Raises FormatError otherwise.
    """

    size: int
    roots: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE:
            raise FormatError("frontier", f"a size of 0 to {MAX_SIZE}", str(self.size)[:40])
        if len(self.roots) != self.size.bit_count():
            raise FormatError("frontier", f"{self.size.bit_count()} roots for size {self.size}", f"{len(self.roots)}")
        if not _hashes(self.roots):
            raise FormatError("frontier", f"roots of {HASH_SIZE} bytes", "another length")


EMPTY_FRONTIER: Final = Frontier(0, ())


def append(frontier: Frontier, *leaf_hashes: bytes) -> Frontier:
    """The frontier after more leaves. Raises Misuse for a hash that is not 32 bytes or a tree that would be too full."""
    if frontier.size + len(leaf_hashes) > MAX_SIZE or not _hashes(leaf_hashes):
        raise Misuse(f"append takes hashes of {HASH_SIZE} bytes and a tree of at most {MAX_SIZE} entries")
    roots = list(frontier.roots)
    for before, leaf in enumerate(leaf_hashes, frontier.size):
        value, size = leaf, before
        while size & 1:  # a carry: two perfect subtrees of one height become the next
            value, size = node_hash(roots.pop(), value), size >> 1
        roots.append(value)
    return Frontier(frontier.size + len(leaf_hashes), tuple(roots))


def frontier_root(frontier: Frontier) -> bytes:
    """The root of the tree that `frontier` stands for, as `root` would compute it from all leaves."""
    if not frontier.roots:
        return EMPTY_ROOT
    value = frontier.roots[-1]
    for left in reversed(frontier.roots[:-1]):
        value = node_hash(left, value)
    return value

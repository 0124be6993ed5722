"""Merkle trees against RFC 9162, published probes, and every small tree there is."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.errors import FormatError, Misuse
from writ.formats.tlog import merkle

# The reference leaves and roots of RFC 6962's own implementation (google/certificate-transparency, merkle_tree_test).
ENTRIES = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

MOST = 33
LEAVES = [merkle.leaf_hash(bytes([n])) for n in range(MOST)]
TREES = [merkle.root(LEAVES[:n]) for n in range(MOST + 1)]
OTHER = sha256(b"another").digest()


def recursive_root(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + recursive_root(leaves[:k]) + recursive_root(leaves[k:])).digest()


def recursive_subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """RFC 9162 section 2.1.4.1, word for word."""
    if m == len(leaves):
        return [] if whole else [recursive_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*recursive_subproof(m, leaves[:k], whole), recursive_root(leaves[k:])]
    return [*recursive_subproof(m - k, leaves[k:], False), recursive_root(leaves[:k])]


def recursive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162 section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*recursive_path(m, leaves[:k]), recursive_root(leaves[k:])]
    return [*recursive_path(m - k, leaves[k:]), recursive_root(leaves[:k])]


def spoilt(proof: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    """Every proof that is one step away: a hash changed, dropped, doubled, exchanged with its neighbour, added, cut short."""
    found: list[tuple[bytes, ...]] = []
    for at, value in enumerate(proof):
        before, after = proof[:at], proof[at + 1 :]
        found += [(*before, bytes([value[0] ^ 1]) + value[1:], *after), (*before, value[:-1] + bytes([value[-1] ^ 0x80]), *after)]
        found += [before + after, (*before, value, value, *after), (*before, OTHER, value, *after)]
        found += [(*before, value[:-1], *after), (*before, value + b"\0", *after)]
        if after:
            found.append((*before, after[0], value, *after[1:]))
    found += [(*proof, OTHER), (OTHER, *proof), (*proof, merkle.EMPTY_ROOT)]
    return found


def test_roots_are_those_of_the_reference_implementation() -> None:
    leaves = [merkle.leaf_hash(entry) for entry in ENTRIES]
    assert [merkle.root(leaves[:n]).hex() for n in range(9)] == ROOTS


def test_roots_and_proofs_are_those_of_the_recursive_definition() -> None:
    for size in range(MOST + 1):
        leaves = LEAVES[:size]
        assert merkle.root(leaves) == recursive_root(leaves)
        for index in range(size):
            assert merkle.inclusion_proof(leaves, index) == tuple(recursive_path(index, leaves))
            assert merkle.inclusion_proof(LEAVES, index, size) == merkle.inclusion_proof(leaves, index)
        for old in range(1, size + 1):
            assert merkle.consistency_proof(leaves, old) == tuple(recursive_subproof(old, leaves, True))


def test_every_inclusion_proof_verifies_and_every_spoilt_one_fails() -> None:
    for size in range(1, MOST + 1):
        for index in range(size):
            leaf, top = LEAVES[index], TREES[size]
            proof = merkle.inclusion_proof(LEAVES, index, size)
            assert merkle.verify_inclusion(leaf, index, size, proof, top)
            for wrong in spoilt(proof):
                assert not merkle.verify_inclusion(leaf, index, size, wrong, top), (index, size)
            for other in range(-1, size + 2):
                assert other == index or not merkle.verify_inclusion(leaf, other, size, proof, top), (index, other, size)
            assert not merkle.verify_inclusion(OTHER, index, size, proof, top)
            assert not merkle.verify_inclusion(leaf, index, size, proof, OTHER)
            assert not merkle.verify_inclusion(leaf, index, size, proof, top[:-1])
            assert not merkle.verify_inclusion(leaf + b"\0", index, size, proof, top)


def test_every_consistency_proof_verifies_and_every_spoilt_one_fails() -> None:
    for size in range(1, MOST + 1):
        for old in range(1, size + 1):
            before, after = TREES[old], TREES[size]
            proof = merkle.consistency_proof(LEAVES[:size], old)
            assert merkle.verify_consistency(old, before, size, after, proof)
            for wrong in spoilt(proof):
                assert not merkle.verify_consistency(old, before, size, after, wrong), (old, size)
            assert not merkle.verify_consistency(old, OTHER, size, after, proof)
            assert not merkle.verify_consistency(old, before, size, OTHER, proof)
            assert not merkle.verify_consistency(old, before[:-1], size, after, proof)
            assert not merkle.verify_consistency(old, before, size, after + b"\0", proof)
            if old < size:
                assert not merkle.verify_consistency(size, after, old, before, proof)
                assert not merkle.verify_consistency(old, after, size, before, proof)
                assert not merkle.verify_consistency(old, before, size, after, ())


def test_a_rewritten_history_is_not_consistent() -> None:
    rewritten = [*LEAVES[:3], OTHER, *LEAVES[4:]]
    for size in range(5, MOST + 1):
        for old in range(4, size):
            proof = merkle.consistency_proof(rewritten[:size], old)
            assert not merkle.verify_consistency(old, TREES[old], size, merkle.root(rewritten[:size]), proof)


def test_anything_extends_the_empty_log_and_only_the_empty_log() -> None:
    assert merkle.consistency_proof(LEAVES, 0) == ()
    assert merkle.verify_consistency(0, merkle.EMPTY_ROOT, 5, TREES[5], ())
    assert merkle.verify_consistency(0, merkle.EMPTY_ROOT, 0, merkle.EMPTY_ROOT, ())
    assert not merkle.verify_consistency(0, OTHER, 5, TREES[5], ())
    assert not merkle.verify_consistency(0, merkle.EMPTY_ROOT, 5, TREES[5], (OTHER,))
    assert not merkle.verify_consistency(0, merkle.EMPTY_ROOT, 0, OTHER, ())
    assert not merkle.verify_consistency(0, OTHER, 0, OTHER, ())
    assert not merkle.verify_consistency(0, merkle.EMPTY_ROOT, 5, TREES[5][:-1], ())


def test_no_leaf_is_in_the_empty_tree() -> None:
    assert not merkle.verify_inclusion(merkle.EMPTY_ROOT, 0, 0, (), merkle.EMPTY_ROOT)


def test_sizes_out_of_range_are_false_not_an_error() -> None:
    for size in (-1, 1 << 63, 1 << 200):
        assert not merkle.verify_inclusion(LEAVES[0], 0, size, (), LEAVES[0])
        assert not merkle.verify_consistency(1, TREES[1], size, TREES[2], (LEAVES[1],))
        assert not merkle.verify_consistency(size, TREES[1], size, TREES[1], ())
    assert not merkle.verify_inclusion(LEAVES[0], -1, 1, (), LEAVES[0])


def test_largest_tree_is_verified_with_exactly_63_hashes() -> None:
    size = merkle.MAX_SIZE
    value = LEAVES[0]
    for _ in range(63):
        value = merkle.node_hash(value, OTHER)
    assert merkle.verify_inclusion(LEAVES[0], 0, size, (OTHER,) * 63, value)
    assert not merkle.verify_inclusion(LEAVES[0], 0, size, (OTHER,) * 64, merkle.node_hash(value, OTHER))
    assert not merkle.verify_inclusion(LEAVES[0], 0, size + 1, (OTHER,) * 63, value)


def test_same_hashes_lead_to_one_root_for_another_index_and_size() -> None:
    """Why size and index come from signed bytes: this is how the trees are, not a fault of ours."""
    left, leaf = TREES[2], LEAVES[2]
    assert merkle.verify_inclusion(leaf, 2, 3, (left,), TREES[3])
    assert merkle.verify_inclusion(leaf, 1, 2, (left,), TREES[3])


@pytest.mark.parametrize("index, size", [(-1, 3), (3, 3), (0, 0), (0, 34), (5, 4)])
def test_a_proof_for_no_leaf_is_misuse(index: int, size: int) -> None:
    with pytest.raises(Misuse):
        merkle.inclusion_proof(LEAVES, index, size)


@pytest.mark.parametrize("old", [-1, 34])
def test_a_proof_from_no_earlier_tree_is_misuse(old: int) -> None:
    with pytest.raises(Misuse):
        merkle.consistency_proof(LEAVES, old)


def test_leaf_hashes_of_another_length_are_misuse() -> None:
    for call in (
        lambda: merkle.root([b"short"]),
        lambda: merkle.inclusion_proof([b"short"], 0),
        lambda: merkle.consistency_proof([b"short"], 1),
        lambda: merkle.append(merkle.EMPTY_FRONTIER, b"short"),
    ):
        with pytest.raises(Misuse):
            call()


def test_frontier_gives_each_root_without_the_leaves() -> None:
    frontier = merkle.EMPTY_FRONTIER
    assert merkle.frontier_root(frontier) == merkle.EMPTY_ROOT
    for size, leaf in enumerate(LEAVES, 1):
        frontier = merkle.append(frontier, leaf)
        assert (frontier.size, merkle.frontier_root(frontier)) == (size, TREES[size])
        assert merkle.Frontier(frontier.size, frontier.roots) == frontier


@pytest.mark.parametrize(
    "size, roots",
    [(-1, ()), (1 << 63, (OTHER,)), (0, (OTHER,)), (3, (OTHER,)), (4, (OTHER, OTHER)), (1, (OTHER[:-1],)), (2, (OTHER + b"\0",))],
)
def test_a_frontier_that_is_none_is_refused(size: int, roots: tuple[bytes, ...]) -> None:
    with pytest.raises(FormatError):
        merkle.Frontier(size, roots)


def test_a_full_tree_takes_no_more() -> None:
    with pytest.raises(Misuse):
        merkle.append(merkle.Frontier(merkle.MAX_SIZE, (OTHER,) * 63), OTHER)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=300), st.data())
def test_larger_trees_prove_themselves(entries: list[bytes], data: st.DataObject) -> None:
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    index = data.draw(st.integers(0, len(leaves) - 1))
    old = data.draw(st.integers(0, len(leaves)))
    top = merkle.root(leaves)
    assert top == recursive_root(leaves)
    assert merkle.verify_inclusion(leaves[index], index, len(leaves), merkle.inclusion_proof(leaves, index), top)
    assert merkle.verify_consistency(old, merkle.root(leaves[:old]), len(leaves), top, merkle.consistency_proof(leaves, old))


@given(st.lists(st.binary(max_size=40), max_size=70), st.integers(-5, 1 << 65), st.integers(-5, 1 << 65), st.binary(max_size=40))
def test_rubbish_proofs_are_false_and_never_an_error(proof: list[bytes], index: int, size: int, top: bytes) -> None:
    assert not merkle.verify_inclusion(OTHER, index, size, proof, top)
    assert not merkle.verify_consistency(index, OTHER, size, top, proof) or (index == size and top == OTHER)


# --- published vectors -------------------------------------------------------------------------------------------------

PROBES = "audit/transparency-dev_merkle/testdata"


def _probes(vectors: Path, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    found = [(path, json.loads(path.read_bytes())) for path in sorted((vectors / PROBES / kind).rglob("*.json"))]
    assert len(found) > 50, f"expected the probes of transparency-dev/merkle, got {len(found)}"
    return found


def _bytes(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def test_published_inclusion_probes_are_judged_as_upstream_does(vectors: Path) -> None:
    for path, probe in _probes(vectors, "inclusion"):
        proof = [_bytes(value) for value in probe["proof"] or []]
        verdict = merkle.verify_inclusion(_bytes(probe["leafHash"]), probe["leafIdx"], probe["treeSize"], proof, _bytes(probe["root"]))
        assert verdict is not probe["wantErr"], path


def test_published_consistency_probes_are_judged_as_upstream_does_but_for_roots_that_are_no_hash(vectors: Path) -> None:
    """One probe that upstream accepts has equal roots which are the text "don't care 2": here a root has 32 bytes."""
    different = []
    for path, probe in _probes(vectors, "consistency"):
        proof = [_bytes(value) for value in probe["proof"] or []]
        verdict = merkle.verify_consistency(probe["size1"], _bytes(probe["root1"]), probe["size2"], _bytes(probe["root2"]), proof)
        if verdict is probe["wantErr"]:
            different.append((path.name, verdict, len(_bytes(probe["root1"]))))
    assert different == [("sizes-are-equal-one-and-proof-is-empty.json", False, 12)]


def test_published_logs_hash_to_their_signed_roots(vectors: Path) -> None:
    log = vectors / "audit/transparency-dev_tessera/testdata/log"
    for size in range(16):
        leaves: list[bytes] = []
        bundle = (log / f"tile/entries/000.p/{size}").read_bytes() if size else b""
        while bundle:
            length = int.from_bytes(bundle[:2], "big")
            leaves.append(merkle.leaf_hash(bundle[2 : 2 + length]))
            bundle = bundle[2 + length :]
        signed = (log / f"checkpoint.{size}").read_text().split("\n")
        assert signed[1] == str(len(leaves)) == str(size)
        assert base64.b64decode(signed[2]) == merkle.root(leaves)

"""Logs that others published: notes, checkpoints, tiles, cosignatures and what is asked of witnesses, judged as their sources say.

The inclusion and consistency probes are in `tests/writ/formats/tlog/test_merkle.py`; what every row of the manifest comes to is in
`test_audit.py`.
"""

from __future__ import annotations

import base64
import gzip
import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.world.tlog import MemoryLog
from tests.writ.verdict.refusal import refused
from writ.formats.errors import FormatError
from writ.formats.keys import ED25519, PublicKey
from writ.formats.tlog import merkle
from writ.formats.tlog.above import MAX_TEXT
from writ.formats.tlog.checkpoint import SignedCheckpoint, parse_checkpoint, parse_signed_checkpoint
from writ.formats.tlog.cosignature import cosigned_at, parse_policy
from writ.formats.tlog.note import PLAIN, NoteKey, encode_note, is_signed, parse_note, parse_vkey
from writ.formats.tlog.proof import HEADER, encode_tlog_proof, parse_tlog_proof
from writ.formats.tlog.tile import (
    ENTRIES,
    WIDTH,
    Tile,
    bundles_of,
    consistency_from,
    inclusion_from,
    parse_bundle,
    parse_path,
    parse_tile,
    path_of,
    root_of,
    tiles_of,
)
from writ.formats.tlog.witnessing import encode_add_checkpoint, parse_add_checkpoint
from writ.verdict.transparency import verify_checkpoint, verify_included, verify_witnessed

TESSERA: Final = "audit/transparency-dev_tessera/testdata/log"
TESSERA_KEY: Final = parse_vkey("example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx")
SUNLIGHT: Final = "audit/sunlight/cmd/skylight/testdata"
LOG_HASH: Final = "000de184301123b9278c086a7d9f68c9577e83872224c197058fd90784ea9706"
NAVIGLI: Final = "audit/sunlight/testdata/navigli2025h2"
COSIGNED: Final = 1_767_139_200


@pytest.fixture(scope="module")
def inline(vectors: Path) -> Any:
    return json.loads((vectors / "audit/inline/tlog_inline.json").read_text())


def hashes_of(folder: Path, tile: Tile) -> tuple[bytes, ...]:
    return parse_tile((folder / path_of(tile)).read_bytes(), tile.width)


# --- Tessera: a whole log at every size up to 15 ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(16))
def test_tessera_checkpoint_tiles_and_bundles_of_a_size_agree(vectors: Path, size: int) -> None:
    folder = vectors / TESSERA
    data = (folder / f"checkpoint.{size}").read_bytes()
    signed = parse_signed_checkpoint(data)
    assert encode_note(signed.note) == data
    checkpoint = verify_checkpoint(signed, TESSERA_KEY)
    assert checkpoint.size == size
    leaves = [one for tile in tiles_of(size) for one in hashes_of(folder, tile)]
    entries = [one for tile in bundles_of(size) for one in parse_bundle((folder / path_of(tile)).read_bytes(), tile.width)]
    assert [merkle.leaf_hash(entry) for entry in entries] == leaves
    assert checkpoint.root == merkle.root(leaves)


@pytest.mark.parametrize("size", range(1, 16))
def test_tessera_entries_are_proven_out_of_tiles_and_each_size_extends_those_before(vectors: Path, size: int) -> None:
    folder = vectors / TESSERA
    read = {tile: hashes_of(folder, tile) for tile in tiles_of(size)}.__getitem__
    signed = parse_signed_checkpoint((folder / f"checkpoint.{size}").read_bytes())
    checkpoint = verify_checkpoint(signed, TESSERA_KEY)
    (leaves,) = [hashes_of(folder, tile) for tile in tiles_of(size)]
    assert root_of(read, size) == checkpoint.root
    for index in range(size):
        text = f"{HEADER}\nindex {index}\n" + "".join(
            f"{base64.b64encode(one).decode()}\n" for one in inclusion_from(read, index, size)
        )  # as another would write it
        proof = parse_tlog_proof(text.encode() + b"\n" + (folder / f"checkpoint.{size}").read_bytes())
        assert verify_included(leaves[index], proof, checkpoint) == index
    for old in range(size):
        before = verify_checkpoint(parse_signed_checkpoint((folder / f"checkpoint.{old}").read_bytes()), TESSERA_KEY)
        assert merkle.verify_consistency(old, before.root, size, checkpoint.root, consistency_from(read, old, size))


def test_tessera_files_are_those_that_its_sizes_have(vectors: Path) -> None:
    folder = vectors / TESSERA
    found = {file.relative_to(folder).as_posix() for file in (folder / "tile").rglob("*") if file.is_file()}
    assert found == {path_of(tile) for size in range(16) for of in (tiles_of, bundles_of) for tile in of(size)}
    assert {path_of(parse_path(name)) for name in found} == found
    assert (folder / "checkpoint").read_bytes() == (folder / "checkpoint.15").read_bytes()


def test_tessera_checkpoint_with_another_byte_or_key_is_refused(vectors: Path) -> None:
    data = (vectors / TESSERA / "checkpoint").read_bytes()
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            signed = parse_signed_checkpoint(changed)
        except FormatError:
            continue
        assert refused(lambda signed=signed: verify_checkpoint(signed, TESSERA_KEY)).code == "checkpoint-invalid"  # type: ignore[misc] # a default


# --- Sunlight: a witness, a mirror, and a log of certificates ----------------------------------------------------------------


def verifier_key(file: Path) -> NoteKey:
    (vkey,) = json.loads(file.read_text())["verifier_keys"]
    return parse_vkey(vkey)


def test_sunlight_mirror_cosigned_its_three_hundred_leaves(vectors: Path) -> None:
    mirror = vectors / SUNLIGHT / "witness/mirror"
    key = verifier_key(mirror / "mirror.v0.json")
    assert str(key) == "mirror.example.org+3fb148ef+BAAjjch9GyYz0sJsJx7ALhbdAtz2ov0unbzSl1vMp94O"
    folder = mirror / LOG_HASH
    signed = parse_signed_checkpoint((folder / "checkpoint").read_bytes())
    assert cosigned_at(signed.note, key) == COSIGNED
    assert (signed.checkpoint.origin, signed.checkpoint.size) == ("rome2026h1.example.org", 300)
    read = {tile: hashes_of(folder, tile) for tile in tiles_of(300)}.__getitem__
    assert [path_of(tile) for tile in tiles_of(300)] == ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"]
    leaves = [one for index in (0, 1) for one in read(Tile(0, index, (256, 44)[index]))]
    assert merkle.root(leaves) == root_of(read, 300) == signed.checkpoint.root
    assert read(Tile(1, 0, 1)) == (merkle.root(leaves[:256]),)
    assert sha256(signed.checkpoint.origin.encode()).hexdigest() == LOG_HASH
    for index in (0, 255, 256, 299):
        assert merkle.verify_inclusion(leaves[index], index, 300, inclusion_from(read, index, 300), signed.checkpoint.root)


def test_sunlight_mirror_has_texts_in_the_place_of_entries(vectors: Path) -> None:
    """Packed for HTTP, and no bundles when unpacked: its tests only serve them."""
    folder = vectors / SUNLIGHT / "witness/mirror" / LOG_HASH
    for tile in bundles_of(300):
        data = (folder / path_of(tile)).read_bytes()
        assert gzip.decompress(data).startswith(b"fake mirror")
        for one in (data, gzip.decompress(data)):
            with pytest.raises(FormatError, match="entry bundle"):
                parse_bundle(one, tile.width)


@pytest.mark.parametrize("decoy", ["witness/checkpoint", "witness/mirror/checkpoint"])
def test_sunlight_decoys_are_no_checkpoints(vectors: Path, decoy: str) -> None:
    with pytest.raises(FormatError):
        parse_signed_checkpoint((vectors / SUNLIGHT / decoy).read_bytes())


def static_ct_time(vectors: Path, data: bytes) -> int:
    """The time of a static-ct-api checkpoint in milliseconds. Its key is of type 5, ECDSA over a TLS structure, which no log of ours has.

    Raises InvalidSignature.
    """
    listed = json.loads((vectors / SUNLIGHT / "tree/log.v3.json").read_text())
    spki = base64.b64decode(listed["key"])
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    log_id = sha256(spki).digest()
    assert log_id == base64.b64decode(listed["log_id"])
    key_id = sha256(checkpoint.origin.encode() + b"\n\x05" + log_id).digest()[:4]
    (line,) = [one for one in note.signatures if (one.name, one.key_id) == (checkpoint.origin, key_id)]
    time, (hash_name, signer, *size) = int.from_bytes(line.signature[:8], "big"), line.signature[8:12]
    assert (hash_name, signer, int.from_bytes(bytes(size), "big")) == (4, 3, len(line.signature) - 12)  # SHA-256, ECDSA
    head = b"\0\1" + time.to_bytes(8, "big") + checkpoint.size.to_bytes(8, "big") + checkpoint.root  # RFC 6962 section 3.5
    key = load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(line.signature[12:], head, ec.ECDSA(hashes.SHA256()))
    assert listed["final_tree_head"]["sha256_root_hash"] == base64.b64encode(checkpoint.root).decode()
    return time


def test_sunlight_log_of_certificates_and_its_witness_signed_one_checkpoint(vectors: Path) -> None:
    tree, witness = vectors / SUNLIGHT / "tree", vectors / SUNLIGHT / "witness"
    alone, cosigned = (tree / "checkpoint").read_bytes(), (witness / LOG_HASH / "checkpoint").read_bytes()
    assert static_ct_time(vectors, alone) == static_ct_time(vectors, cosigned) == COSIGNED * 1000
    with pytest.raises(InvalidSignature):
        static_ct_time(vectors, alone.replace(b"\n300\n", b"\n301\n"))
    assert parse_note(alone).text == parse_note(cosigned).text
    key = verifier_key(witness / "witness.v0.json")
    assert cosigned_at(parse_note(cosigned), key) == COSIGNED
    assert cosigned_at(parse_note(alone), key) is None
    assert cosigned_at(parse_note(cosigned.replace(b"\n300\n", b"\n301\n")), key) is None


def test_sunlight_decoy_tiles_of_the_log_of_certificates_are_no_tiles(vectors: Path) -> None:
    tree = vectors / SUNLIGHT / "tree"
    for tile in tiles_of(300):
        with pytest.raises(FormatError, match="tile: expected"):
            hashes_of(tree, tile)
    for name in ("tile/data/000", "tile/data/001.p/44", "tile/names/000"):  # tiles of static-ct-api's own, packed
        assert gzip.decompress((tree / name).read_bytes()).startswith((b"fake", b'["example.org"]'))
        with pytest.raises(FormatError, match="tile path"):
            parse_path(name)


def test_navigli_tiles_are_read_and_a_partial_one_is_the_beginning_of_the_full_one(vectors: Path) -> None:
    folder = vectors / NAVIGLI
    paths = [file.relative_to(folder).as_posix() for file in sorted((folder / "tile/0").rglob("*")) if file.is_file()]
    tiles = [parse_path(path) for path in paths]
    assert tiles == [Tile(0, 0), Tile(0, 1), Tile(0, 2), Tile(0, 3), Tile(0, 3, 10)]
    assert hashes_of(folder, Tile(0, 3))[:10] == hashes_of(folder, Tile(0, 3, 10))
    assert len({one for tile in tiles for one in hashes_of(folder, tile)}) == 4 * WIDTH
    for file in sorted((folder / "tile/names").rglob("*")):  # what an entry is named by: a tile of static-ct-api's own
        if file.is_file():
            with pytest.raises(FormatError, match="tile path"):
                parse_path(file.relative_to(folder).as_posix())


# --- constants out of specifications and tests of others ---------------------------------------------------------------------


def test_inline_note_of_the_specification_is_signed(inline: Any) -> None:
    for one in inline["signed_note"]:
        assert one["verdict"] == "accept"
        note, key = parse_note(one["note"].encode()), parse_vkey(one["vkey"])
        assert is_signed(note, key)
        assert encode_note(note) == one["note"].encode()
        assert not is_signed(parse_note(one["note"].replace("example message", "example  message").encode()), key)
    assert len(inline["signed_note"]) == 1


def test_inline_keys_get_their_verdict(inline: Any) -> None:
    verdicts = []
    for one in inline["vkey"]:
        try:
            verdicts.append((str(parse_vkey(one["vkey"])) == one["vkey"], one["verdict"]))
        except FormatError:
            verdicts.append((False, one["verdict"]))
    assert verdicts == [(True, "accept"), (False, "reject"), (False, "reject")]
    assert parse_vkey(inline["skey"][0]["matching_vkey"]) == parse_vkey(inline["vkey"][0]["vkey"])


def test_inline_witness_exchange_from_five_to_eight_is_consistent(inline: Any) -> None:
    told = inline["witness_add_checkpoint"]
    key, other = parse_vkey(told["mPK"]), parse_vkey(told["bPK"])
    before, after = (parse_signed_checkpoint(told[name].encode()) for name in ("mInit", "mNext"))
    first, then = verify_checkpoint(before, key), verify_checkpoint(after, key)
    proof = [bytes.fromhex(one) for one in told["consProof_hex"]]
    assert (first.size, then.size) == (5, 8)
    assert merkle.verify_consistency(first.size, first.root, then.size, then.root, proof)
    for at in range(len(proof)):
        assert not merkle.verify_consistency(first.size, first.root, then.size, then.root, proof[:at] + proof[at + 1 :])
    assert refused(lambda: verify_checkpoint(before, other)).code == "checkpoint-invalid"
    assert parse_vkey(told["wPK"]).kind == PLAIN  # as witnesses signed before cosignatures had a type


HASH: Final = base64.b64encode(bytes(32)).decode()
NO_PROOFS: Final = {
    "missing header": ("index 5\n", f"{HEADER}, an index and hashes"),
    "invalid extra data encoding": (f"{HEADER}\nextra !\nindex 5\n", f"{HEADER}, an index and hashes"),
    "missing index": (f"{HEADER}\n{HASH}\n", f"{HEADER}, an index and hashes"),
    "invalid index - not a number": (f"{HEADER}\nindex abc\n", f"{HEADER}, an index and hashes"),
    "invalid index - negative": (f"{HEADER}\nindex -1\n", f"{HEADER}, an index and hashes"),
    "invalid hash base64": (f"{HEADER}\nindex 5\n!\n", "base64"),
    "incorrect hash length": (f"{HEADER}\nindex 5\nAAAA\n", "at most 63 hashes of 32 bytes"),
    "scanner error - buffer too large": (f"{HEADER}\nindex 5\n{'A' * (1 << 20)}\n", f"at most {MAX_TEXT} bytes"),
}
"""Reason for which others refuse a proof, without their text -> what is above the checkpoint of ours, and what our reader expected."""


@pytest.mark.parametrize("name", NO_PROOFS)
def test_inline_proof_is_refused_for_its_reason(inline: Any, name: str) -> None:
    assert {one["name"] for one in inline["tlog_proof_reject"]} == set(NO_PROOFS)
    below = encode_tlog_proof(MemoryLog([b"a", b"b"]).proof(0)).partition(b"\n\n")[2]
    assert parse_tlog_proof(f"{HEADER}\nindex 5\n{HASH}\n\n".encode() + below).index == 5
    head, expected = NO_PROOFS[name]
    with pytest.raises(FormatError, match=expected):
        parse_tlog_proof(head.encode() + b"\n" + below)


def test_inline_session_with_a_witness_is_read_and_judged(inline: Any) -> None:
    """What its nine answers rest on: whose checkpoint, and whether it extends the last one. Those that a witness gives by heart
    (409: it stands elsewhere) follow from the sizes."""
    session = inline["litewitness_session"]
    raw = bytes.fromhex(session["log_key_hex"])
    origin = f"sigsum.org/v1/tree/{sha256(raw).hexdigest()}"
    key = NoteKey(origin, PLAIN, PublicKey(ED25519, raw))
    known, root, answers = 0, merkle.EMPTY_ROOT, []
    for request in session["requests"]:
        body = request["body"].encode()
        if (spare := b"8WVrx6gx=\n") in body:  # a signature whose base64 has bits to spare, which others decode and then refuse
            with pytest.raises(FormatError, match="one spelling"):
                parse_add_checkpoint(body)
            body = body.replace(spare, b"8WVrx6gw=\n")
        asked = parse_add_checkpoint(body)
        assert encode_add_checkpoint(asked) == body
        checkpoint = asked.checkpoint.checkpoint
        if checkpoint.origin != origin or not is_signed(asked.checkpoint.note, key):
            answers.append(403)
        elif asked.old != known:
            answers.append(409)
        elif not merkle.verify_consistency(known, root, checkpoint.size, checkpoint.root, asked.proof):
            answers.append(422)
        else:
            known, root = checkpoint.size, checkpoint.root
            answers.append(200)
    assert answers == [request["http"] for request in session["requests"]]
    assert answers.count(200) == 3


def test_a_policy_of_published_keys_judges_the_published_checkpoints(vectors: Path) -> None:
    """The example log under the witness of Sunlight: nobody cosigned it, so only a policy without a quorum takes it."""
    witness = verifier_key(vectors / SUNLIGHT / "witness/witness.v0.json")
    signed: SignedCheckpoint = parse_signed_checkpoint((vectors / TESSERA / "checkpoint").read_bytes())
    for quorum, taken in (("none", True), ("w", False)):
        policy = parse_policy(f"log {TESSERA_KEY}\nwitness w {witness}\nquorum {quorum}\n".encode())
        if taken:
            assert verify_witnessed(signed, policy).checkpoint.size == 15
        else:
            assert refused(lambda policy=policy: verify_witnessed(signed, policy)).code == "quorum-missing"  # type: ignore[misc] # a default


def test_bundle_and_tile_of_one_place_are_named_alike() -> None:
    assert path_of(Tile(ENTRIES, 0, 15)) == "tile/entries/000.p/15"

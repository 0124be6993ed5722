"""A log in memory: its entries, the tiles and bundles of every size, and checkpoints that the log and witnesses sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.signers import MemorySigner
from tests.world.scene import ENGINE_ID, NAMESPACE, NOW, sign_entry, signer
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, OperatorAct, parse_entry
from writ.formats.proof_bundle import ProofBundle, Published
from writ.formats.tlog import merkle
from writ.formats.tlog.checkpoint import Checkpoint, SignedCheckpoint
from writ.formats.tlog.cosignature import cosign
from writ.formats.tlog.note import COSIGNATURE, PLAIN, Note, NoteKey, encode_note, sign_note
from writ.formats.tlog.proof import TlogProof, encode_tlog_proof
from writ.formats.tlog.receipt import encode_receipt
from writ.formats.tlog.tile import WIDTH, Tile, bundles_of, encode_bundle, path_of, tiles_of
from writ.formats.trust import Trust

ORIGIN = "log.example.org/writ"


def plain_key(name: str = ORIGIN) -> NoteKey:
    """The key of the log `name`."""
    return NoteKey(name, PLAIN, signer(f"log/{name}").public)


def witness_key(name: str) -> NoteKey:
    """The key of the witness `name`."""
    return NoteKey(name, COSIGNATURE, signer(f"witness/{name}").public)


@dataclass
class MemoryLog:
    """A log of `entries` under `origin`, as whoever has all of it sees it."""

    entries: list[bytes]
    origin: str = ORIGIN
    levels: list[list[bytes]] = field(init=False)

    def __post_init__(self) -> None:
        self.levels = [[merkle.leaf_hash(entry) for entry in self.entries]]
        while len(self.levels[-1]) >= WIDTH:
            below = self.levels[-1]
            self.levels.append([merkle.root(below[at : at + WIDTH]) for at in range(0, len(below) - WIDTH + 1, WIDTH)])

    @property
    def leaves(self) -> list[bytes]:
        """The leaf hashes."""
        return self.levels[0]

    @property
    def signer(self) -> MemorySigner:
        """Who signs for the log."""
        return signer(f"log/{self.origin}")

    def tile(self, tile: Tile) -> Sequence[bytes]:
        """The hashes of a tile."""
        return self.levels[tile.level][tile.index * WIDTH : tile.index * WIDTH + tile.width]

    def checkpoint(self, size: int | None = None, *, witnesses: Sequence[str] = (), time: int = NOW) -> SignedCheckpoint:
        """The first `size` entries, signed by the log and then by `witnesses`."""
        size = len(self.entries) if size is None else size
        said = Checkpoint(self.origin, size, merkle.root(self.leaves[:size]))
        signed = sign_note(str(said), plain_key(self.origin), self.signer.sign)
        lines = (cosign(str(said), witness_key(name), time, signer(f"witness/{name}").sign) for name in witnesses)
        return SignedCheckpoint(said, Note(signed.text, (*signed.signatures, *lines)))

    def proof(self, index: int, size: int | None = None, *, witnesses: Sequence[str] = ()) -> TlogProof:
        """That the entry `index` is in the log of `size`."""
        checkpoint = self.checkpoint(size, witnesses=witnesses)
        return TlogProof(index, merkle.inclusion_proof(self.leaves, index, checkpoint.checkpoint.size), checkpoint)

    def receipt(self, index: int, size: int | None = None, *, by: MemorySigner | None = None) -> bytes:
        """The same as a COSE receipt."""
        size, by = len(self.entries) if size is None else size, by or self.signer
        return encode_receipt(
            self.origin, size=size, index=index,
            path=merkle.inclusion_proof(self.leaves, index, size), root=merkle.root(self.leaves[:size]),
            algorithm=by.public.algorithm, kid=by.public.thumbprint(), sign=by.sign,
        )  # fmt: skip

    def tree(self) -> dict[str, bytes]:
        """Path below the log's prefix -> bytes: its tiles and bundles."""
        size = len(self.entries)
        files = {path_of(tile): b"".join(self.tile(tile)) for tile in tiles_of(size)}
        return files | {path_of(one): encode_bundle(self.entries[one.index * WIDTH :][: one.width]) for one in bundles_of(size)}

    def write(self, folder: Path, *, witnesses: Sequence[str] = ()) -> None:
        """The log as the files that a web server serves."""
        files = {"checkpoint": encode_note(self.checkpoint(witnesses=witnesses).note), **self.tree()}
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


@dataclass(frozen=True)
class InLog:
    """A proof bundle whose decisions stand in a log, behind the acts that published policy and references; and trust in that log."""

    bundle: ProofBundle
    trust: Trust
    log: MemoryLog
    signed: tuple[bytes, ...]
    """The entries, in order: genesis, the acts, enrolment, attestation, another, carrier."""

    def place(self, signed: bytes, *, receipt: bool = False, size: int | None = None, witnesses: Sequence[str] = ()) -> bytes:
        """Where an entry of the log stands."""
        index = self.log.entries.index(signed)
        return self.log.receipt(index, size) if receipt else encode_tlog_proof(self.log.proof(index, size, witnesses=witnesses))

    def placed(self, *, receipt: bool = False, witnesses: Sequence[str] = ()) -> ProofBundle:
        """The bundle with all its places, in that spelling."""

        def at(signed: bytes) -> bytes:
            return self.place(signed, receipt=receipt, witnesses=witnesses)

        one = self.bundle
        policy, references = (Published(signed, at(signed)) for signed in self.signed[1:3])
        return replace(
            one, enrol_inclusion=at(one.enrol_decision), attest_inclusion=at(one.attest_decision),
            carrier_inclusion=at(one.carrier_decision), policy_published=policy, references_published=references,
        )  # fmt: skip


def in_log(bundle: ProofBundle, trust: Trust) -> InLog:
    """`bundle` as a verifier has it that logs."""
    decision = parse_entry(parse_sign1(bundle.attest_decision).payload or b"")
    assert isinstance(decision, AttestDecision)
    inputs, at = dict(decision.inputs), decision.decided_at - 6_000
    acts = [
        sign_entry(OperatorAct(ENGINE_ID.digest, at, NAMESPACE, "root", act, "all", inputs[name]))
        for name, act in (("policy", "policy-publish"), ("references", "reference-import"))
    ]
    entries = (b"genesis", *acts, bundle.enrol_decision, bundle.attest_decision, b"another", bundle.carrier_decision, b"later")
    log = MemoryLog(list(entries))
    made = InLog(bundle, replace(trust, log_keys=(plain_key(),)), log, entries)
    return replace(made, bundle=made.placed())

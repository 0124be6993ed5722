"""What a record store judges: does a known host send this, is it that host's log, and do these leaves, on top of all there is, lead to what
was signed?

A store holds every leaf, so it makes the root again instead of being shown a proof.

Source: C2SP tlog-mirror (2026-07, a draft), whose checks these are where each upload ends at a checkpoint of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.jose import DpopProof, b64url, verify_jws
from writ.formats.reason import Reason
from writ.formats.tlog.checkpoint import Checkpoint
from writ.formats.tlog.edge import Edge
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.tlog.note import NoteKey, is_signed
from writ.formats.tlog.storing import PATH, AddRecords, instance_of, log_key
from writ.formats.tlog.tile import Tile


@dataclass(frozen=True, slots=True)
class ProvenRecords:
    """Proof that `verify_records` ran: the log goes on to `checkpoint`. `text` is what is cosigned, `edge` the log's from then on, `filled`
    the tiles that became full."""

    checkpoint: Checkpoint
    text: str
    edge: Edge
    filled: tuple[tuple[Tile, tuple[bytes, ...]], ...]


@dataclass(frozen=True, slots=True)
class VerifiedSender:
    """Proof that `verify_sender` ran: the one key of `hosts` (one, but for a key that is listed under several names) signed a request
    whose body has this SHA-256, in base64url."""

    hosts: tuple[NoteKey, ...]
    body: str

    @property
    def name(self) -> str:
        """The key, for whoever counts by sender."""
        return self.hosts[0].key.raw.hex()


def verify_sender(proof: DpopProof, hosts: Collection[NoteKey]) -> VerifiedSender:
    """A host of `hosts` signed a request to add records, body and all.

    1. The proof is for POST to an address that ends in /add-records, and names a body's digest (`proof-mismatch`).
    2. Its key is a host's, and made it (`sender-unknown`).

    Neither its time nor whether it was seen is asked: a request that is sent again stores nothing that is not there, and a host whose clock
    is wrong has records, too. Nor which store it was made for: what a host signed, any store that lists it may have. Raises Refused.
    """
    # 1
    if proof.htm != "POST" or not proof.htu.endswith(PATH):
        raise _refused("proof-mismatch", "dpop", f"POST to an address that ends in {PATH}", f"{proof.htm} {proof.htu}")
    if proof.arg is None:
        raise _refused("proof-mismatch", "dpop.arg", "the digest of the body", "none")
    # 2
    found = tuple(host for host in hosts if host.key == proof.key)
    if not found or not verify_jws(proof.jws, proof.key):
        raise _refused("sender-unknown", "dpop", "a proof by the key of a host of this store", "none that holds")
    return VerifiedSender(found, proof.arg)


def verify_body(body: bytes, sender: VerifiedSender) -> None:
    """`body` is what the sender signed, to the last byte. Raises Refused (`proof-mismatch`)."""
    if (digest := b64url(Digest.of(body).value)) != sender.body:
        raise _refused("proof-mismatch", "dpop.arg", digest, sender.body)


def verify_signed(asked: AddRecords, sender: VerifiedSender) -> NoteKey:
    """The key of the log, under whose name the host that sends it signed the checkpoint.

    1. The log is one of the sender's (`log-unknown`).
    2. Its key signed the checkpoint under the log's own name (`checkpoint-invalid`).

    Raises Refused.
    """
    origin = asked.checkpoint.checkpoint.origin
    # 1
    try:
        name, instance = instance_of(origin)
    except FormatError as error:
        raise _refused("log-unknown", "checkpoint.origin", error.expected, origin) from None
    keys = [log_key(host, instance) for host in sender.hosts if host.name == name]
    if not keys:
        raise _refused(
            "log-unknown", "checkpoint.origin", f"a log of {' or '.join(host.name for host in sender.hosts)}, who sends it", origin
        )
    # 2
    for key in keys:
        if is_signed(asked.checkpoint.note, key):
            return key
    raise _refused("checkpoint-invalid", "checkpoint.signature", f"one by {' or '.join(key.id.hex() for key in keys)}", "none that holds")


def verify_records(asked: AddRecords, edge: Edge, root_at: Callable[[int], bytes]) -> ProvenRecords:
    """The log whose edge is `edge` goes on by these leaves to the checkpoint, which `verify_signed` found signed.

    1. What the checkpoint says of a size that the store has is so (`log-forked`); `root_at` is the root at a size up to that.
    2. The leaves begin where the store's end (`stored-size`; the size is in expected).
    3. They lead to the root that was signed (`log-forked`).

    Whoever calls must make leaves and checkpoint durable, and see that nobody did meanwhile, before a cosignature leaves. `edge` is as it
    was. Says nothing about what the leaves say. Raises Refused, with one reason.
    """
    checkpoint = asked.checkpoint.checkpoint
    # 1
    if checkpoint.size <= edge.size and (known := root_at(checkpoint.size)) != checkpoint.root:
        raise _refused("log-forked", f"root at size {checkpoint.size}", known.hex(), checkpoint.root.hex())
    # 2
    if asked.start != edge.size:
        raise _refused("stored-size", "start", str(edge.size), str(asked.start))
    # 3
    grown = edge.copy()
    filled = grown.append([leaf_hash(leaf) for leaf in asked.leaves])
    if grown.root() != checkpoint.root:
        raise _refused("log-forked", f"root at size {checkpoint.size}", grown.root().hex(), checkpoint.root.hex())
    return ProvenRecords(checkpoint, asked.checkpoint.note.text, grown, tuple(filled))


def _refused(code: str, claim: str, expected: str, got: str) -> Refused:
    return Refused(Reason(code, claim, expected[:200], got[:200]))

"""Logs judged: is this checkpoint the log's, do enough witnesses say that they saw it, and is this entry in it?

Size, index and root are taken from what was signed. That a checkpoint is the newest, or the only one of its size, no signature says:
witnesses say that they saw no other, and an auditor compares what he holds.

Source: C2SP tlog-checkpoint, tlog-cosignature, tlog-policy; RFC 9162 section 2.1.3; RFC 9942.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from writ.formats.cose import sign1_bytes
from writ.formats.errors import Refused
from writ.formats.keys import PublicKey, key_id
from writ.formats.reason import Reason
from writ.formats.strict import b64url
from writ.formats.tlog.checkpoint import Checkpoint, SignedCheckpoint
from writ.formats.tlog.cosignature import TlogPolicy, cosigned_at
from writ.formats.tlog.inclusion import Inclusion
from writ.formats.tlog.merkle import root_from_path
from writ.formats.tlog.note import NoteKey, is_signed
from writ.formats.tlog.proof import TlogProof
from writ.formats.tlog.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that the log signed, and the witnesses of the policy that cosigned it: by their names there, with the time of each."""

    checkpoint: Checkpoint
    seen: tuple[tuple[str, int], ...]


def verify_checkpoint(signed: SignedCheckpoint, key: NoteKey) -> Checkpoint:
    """The log of `key` signed this checkpoint, under its own name. Raises Refused."""
    if signed.checkpoint.origin != key.name:
        raise _refused("checkpoint-invalid", "checkpoint.origin", key.name, signed.checkpoint.origin)
    if not is_signed(signed.note, key):
        raise _refused("checkpoint-invalid", "checkpoint.signature", f"one by {key.name}+{key.id.hex()}", "none that holds")
    return signed.checkpoint


def verify_witnessed(signed: SignedCheckpoint, policy: TlogPolicy) -> Witnessed:
    """A log of the policy signed the checkpoint, and its quorum of witnesses cosigned it.

    1. The log is one of the policy's, and every line by a key that the policy has for it holds; there is one at least.
    2. No line says it is of a witness of the policy and does not hold.
    3. The witnesses make the quorum.

    Raises Refused.
    """
    # 1
    keys = [key for key, _ in policy.logs if key.name == signed.checkpoint.origin]
    if not keys:
        raise _refused("checkpoint-invalid", "checkpoint.origin", "a log of the policy", signed.checkpoint.origin)
    checkpoint, *_ = [verify_checkpoint(signed, key) for key in [key for key in keys if signed.note.by(key) is not None] or keys]
    # 2
    seen = []
    for witness in policy.witnesses:
        time = cosigned_at(signed.note, witness.key)
        if time is not None:
            seen.append((witness.name, time))
        elif signed.note.by(witness.key) is not None:
            raise _refused("checkpoint-invalid", f"cosignature.{witness.name}", "one that holds", "one that does not")
    # 3
    if not policy.satisfied(frozenset(name for name, _ in seen)):
        raise _refused("quorum-missing", "checkpoint.cosignatures", f"the quorum {policy.quorum}", f"{len(seen)} witnesses")
    return Witnessed(checkpoint, tuple(seen))


def verify_included(leaf: bytes, proof: TlogProof, checkpoint: Checkpoint) -> int:
    """The index of the entry with the leaf hash `leaf`, which is in the log of `checkpoint`; that was verified before. Raises Refused."""
    if proof.checkpoint.checkpoint != checkpoint:
        raise _refused("inclusion-invalid", "proof.checkpoint", str(checkpoint.size), str(proof.checkpoint.checkpoint.size))
    if root_from_path(leaf, proof.index, checkpoint.size, proof.hashes) != checkpoint.root:
        raise _refused("inclusion-invalid", "proof", f"a path to the root at size {checkpoint.size}", f"index {proof.index}")
    return proof.index


def verify_receipt(receipt: Receipt, leaf: bytes, key: PublicKey, *, issuer: str) -> int:
    """The index of the entry with the leaf hash `leaf` in the log of `issuer`, whose `key` signed the root that its path leads to.

    Raises Refused.
    """
    sign1 = receipt.sign1
    if receipt.issuer != issuer:
        raise _refused("receipt-invalid", "receipt.issuer", issuer, receipt.issuer)
    if sign1.kid != key.thumbprint() or sign1.algorithm != key.algorithm:
        raise _refused("receipt-invalid", "receipt.kid", f"{key.algorithm} {key_id(key)}", f"{sign1.algorithm} {b64url(sign1.kid or b'')}")
    root = root_from_path(leaf, receipt.index, receipt.size, receipt.path)
    if root is None or not key.verify(sign1.signature, sign1_bytes(sign1.protected, root)):
        raise _refused("receipt-invalid", "receipt.signature", "one over the root that the path leads to", "another")
    return receipt.index


@dataclass(frozen=True, slots=True)
class Logged:
    """An entry stands at `index` of the log of `origin`, under a root that the log signed at `size`; and who of the policy saw that root.

    `seen` is None where no policy was asked. Says nothing of other entries, nor that it is the only log of that name.
    """

    origin: str
    size: int
    index: int
    seen: tuple[tuple[str, int], ...] | None


def verify_logged(leaf: bytes, inclusion: Inclusion, keys: Sequence[NoteKey], policy: TlogPolicy | None, claim: str) -> Logged:
    """The entry with the leaf hash `leaf` is in a log of one of `keys`, which are plain keys that somebody trusts.

    1. The log names itself as one of the keys does.
    2. That key signed the checkpoint, or the receipt; under a `policy` the witnesses of its quorum cosigned the checkpoint, and a receipt,
       which they do not sign, is refused.
    3. The path leads from the leaf to the signed root, by the size that was signed.

    Raises Refused.
    """
    # 1
    origin = inclusion.issuer if isinstance(inclusion, Receipt) else inclusion.checkpoint.checkpoint.origin
    named = [key for key in keys if key.name == origin]
    if not named:
        raise _refused("trust-root-unknown", f"{claim}.origin", ", ".join(sorted({key.name for key in keys})), origin)
    # 2, 3
    if isinstance(inclusion, Receipt):
        if policy is not None:
            raise _refused(
                "quorum-missing", f"{claim}.cosignatures", f"the quorum {policy.quorum}", "a receipt, which is the log's word alone"
            )
        by = next((key for key in named if key.key.thumbprint() == inclusion.sign1.kid), named[0])
        return Logged(origin, inclusion.size, verify_receipt(inclusion, leaf, by.key, issuer=origin), None)
    signed = inclusion.checkpoint
    by = next((key for key in named if signed.note.by(key) is not None), named[0])
    checkpoint = verify_checkpoint(signed, by)
    seen = None if policy is None else verify_witnessed(signed, policy).seen
    return Logged(origin, checkpoint.size, verify_included(leaf, inclusion, checkpoint), seen)


def _refused(code: str, claim: str, expected: str, got: str) -> Refused:
    return Refused(Reason(code, claim, expected[:200], got[:200]))

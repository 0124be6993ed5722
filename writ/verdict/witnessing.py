"""What a witness judges: is this checkpoint the log's, and is all that was cosigned before still in it?

A witness holds one checkpoint of each log, the last that it cosigned. It sees no entry and vouches for none; it says that it never saw
another history.

Source: C2SP tlog-witness v1.0.0.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from writ.formats.errors import Refused
from writ.formats.reason import Reason
from writ.formats.tlog.checkpoint import Checkpoint
from writ.formats.tlog.merkle import EMPTY_ROOT, verify_consistency
from writ.formats.tlog.note import NoteKey, is_signed
from writ.formats.tlog.witnessing import AddCheckpoint


@dataclass(frozen=True, slots=True)
class ProvenExtension:
    """Proof that `verify_extension` ran: a checkpoint of a known log that extends the last one cosigned. `text` is what is cosigned."""

    checkpoint: Checkpoint
    text: str


def verify_extension(asked: AddCheckpoint, logs: Collection[NoteKey], latest: Checkpoint | None) -> ProvenExtension:
    """One of `logs` signed the checkpoint, and it extends `latest`, the last that was cosigned of this origin (None: none was).

    1. The origin is that of a log (`log-unknown`).
    2. A key of that log signed the checkpoint; lines of other keys say nothing (`checkpoint-invalid`).
    3. The old size is not above the size (`malformed`).
    4. The old size is that of `latest`, 0 without one (`witnessed-size`; the size is in expected).
    5. At an equal size the root is equal (`log-forked`).
    6. The proof leads from `latest` to the checkpoint, and is empty from nothing (`consistency-invalid`).

    Whoever calls must store the checkpoint in place of `latest`, and see that nobody did meanwhile, before a cosignature leaves.
    Raises Refused, with one reason. Does not say that there is no other history: another witness may have seen one.

    Source: C2SP tlog-witness v1.0.0, add-checkpoint.
    """
    checkpoint, note = asked.checkpoint.checkpoint, asked.checkpoint.note
    # 1
    keys = [key for key in logs if key.name == checkpoint.origin]
    if not keys:
        raise _refused("log-unknown", "checkpoint.origin", "a log of this witness", checkpoint.origin)
    # 2
    if not any(is_signed(note, key) for key in keys):
        raise _refused(
            "checkpoint-invalid", "checkpoint.signature", " or ".join(f"one by {key.id.hex()}" for key in keys), "none that holds"
        )
    # 3
    if asked.old > checkpoint.size:
        raise _refused("malformed", "old", f"at most {checkpoint.size}", str(asked.old))
    # 4
    size, root = (0, EMPTY_ROOT) if latest is None else (latest.size, latest.root)
    if asked.old != size:
        raise _refused("witnessed-size", "old", str(size), str(asked.old))
    # 5
    if checkpoint.size == size and checkpoint.root != root:
        raise _refused("log-forked", f"root at size {size}", root.hex(), checkpoint.root.hex())
    # 6
    if not verify_consistency(size, root, checkpoint.size, checkpoint.root, asked.proof):
        raise _refused("consistency-invalid", "proof", f"one from size {size} to {checkpoint.size}", f"{len(asked.proof)} hashes")
    return ProvenExtension(checkpoint, note.text)


def _refused(code: str, claim: str, expected: str, got: str) -> Refused:
    return Refused(Reason(code, claim, expected[:200], got[:200]))

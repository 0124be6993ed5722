"""A log in memory that writes itself as files, and signs checkpoints of what it is told to: honest, and otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.signers import MemorySigner, new_signer
from tests.world.scene import ENGINE_ID, sign_entry, signer
from tests.world.tlog import MemoryLog
from writ.formats.decision import Genesis, OperatorAct
from writ.formats.tlog.checkpoint import Checkpoint
from writ.formats.tlog.merkle import leaf_hash, root
from writ.formats.tlog.note import PLAIN, Note, NoteKey, encode_note, sign_note
from writ.formats.trust import Trust

ORIGIN = "verifier.example.org/log"
ISSUER = "https://verifier.example.org"
STARTED = 1_800_000_000


@dataclass
class WorldLog:
    """Entries, and the key that signs their root."""

    entries: list[bytes]
    key: MemorySigner = field(default_factory=new_signer)
    origin: str = ORIGIN

    @property
    def note_key(self) -> NoteKey:
        """What an auditor is given."""
        return NoteKey(self.origin, PLAIN, self.key.public)

    def at(self, size: int) -> WorldLog:
        """The log as it was."""
        return WorldLog(self.entries[:size], self.key, self.origin)

    def with_entry(self, index: int, entry: bytes) -> WorldLog:
        """A log by the same key in which one entry is another."""
        return WorldLog([*self.entries[:index], entry, *self.entries[index + 1 :]], self.key, self.origin)

    def root(self) -> bytes:
        """Over all entries."""
        return root([leaf_hash(entry) for entry in self.entries])

    def checkpoint(self) -> Checkpoint:
        """Of all entries."""
        return Checkpoint(self.origin, len(self.entries), self.root())

    def note(self, checkpoint: Checkpoint | None = None) -> Note:
        """The checkpoint as the key signs it: the true one unless told otherwise."""
        return sign_note(str(self.checkpoint() if checkpoint is None else checkpoint), self.note_key, self.key.sign)

    def files(self) -> dict[str, bytes]:
        """Path below the log's prefix -> bytes: checkpoint, tiles and bundles of this size."""
        return {"checkpoint": encode_note(self.note()), **MemoryLog(self.entries, self.origin).tree()}

    def write(self, path: Path) -> Path:
        """The log is served from `path`; partial tiles of earlier sizes stay."""
        for name, data in self.files().items():
            put(path / name, data)
        return path


def put(path: Path, data: bytes) -> None:
    """The file has these bytes, whatever stood there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def act(at: int, subject: str = "api") -> OperatorAct:
    """A decision at `at` seconds."""
    return OperatorAct(ENGINE_ID.digest, at, "billing", "root", "api-key-create", subject, None)


def decisions(size: int, *, every: int = 10, first: int = 0) -> list[bytes]:
    """Signed decisions, `every` so many seconds, from number `first` on."""
    return [sign_entry(act(STARTED + every * at, f"key-{at}")) for at in range(first, first + size)]


def begun(entries: list[bytes]) -> WorldLog:
    """A log of these entries under a new key, of which the first is its genesis instead."""
    log = WorldLog(list(entries))
    log.entries[0] = sign_entry(Genesis(ENGINE_ID, STARTED, ISSUER, "example.org", log.origin, log.key.public))
    return log


def auditors_trust(log: WorldLog) -> Trust:
    """What an auditor of `log` believes: its key, and the key of its decisions."""
    return Trust("example.org", ISSUER, (), (), (signer("decision").public,), log_keys=(log.note_key,))

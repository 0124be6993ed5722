"""A log and its witnesses, in memory: what is signed, asked and cosigned is real; only the wire and the disk are not there."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from auditor.witness import state
from auditor.witness.cosigner import Cosigner
from tests.signers import MemorySigner, new_signer
from tests.world.clock import HandClock
from tests.world.translog import WorldLog
from writ.formats.errors import Unavailable
from writ.formats.tlog.checkpoint import SignedCheckpoint
from writ.formats.tlog.cosignature import TlogPolicy, parse_policy
from writ.formats.tlog.merkle import consistency_proof, leaf_hash
from writ.formats.tlog.note import COSIGNATURE, NoteKey
from writ.formats.tlog.witnessing import AddCheckpoint, encode_add_checkpoint
from writ.service.uplink import Answer


class Log:
    """A log that signs whatever it is told to: also a second history, where `forked` made it."""

    def __init__(self, origin: str = "log.example/one", entries: int = 8, log: WorldLog | None = None) -> None:
        self._log = log or WorldLog([b"entry %d" % at for at in range(entries)], origin=origin)
        self.signer, self.key = self._log.key, self._log.note_key

    def forked(self, at: int) -> Log:
        """The same log with another entry at `at`."""
        return Log(log=self._log.with_entry(at, b"another"))

    def signed(self, size: int) -> SignedCheckpoint:
        """Its checkpoint at `size`."""
        then = self._log.at(size)
        return SignedCheckpoint(then.checkpoint(), then.note())

    def prove(self, old: int, size: int) -> tuple[bytes, ...]:
        """That `size` extends `old`."""
        return consistency_proof([leaf_hash(entry) for entry in self._log.entries[:size]], old)

    def asks(self, old: int, size: int, proof: Iterable[bytes] | None = None) -> AddCheckpoint:
        """What it asks of a witness; with the right proof, unless another is given."""
        return AddCheckpoint(old, tuple(self.prove(old, size) if proof is None else proof), self.signed(size))

    def body(self, old: int, size: int, proof: Iterable[bytes] | None = None) -> bytes:
        """As bytes."""
        return encode_add_checkpoint(self.asks(old, size, proof))


@dataclass
class WitnessInMemory:
    """A whole witness but for wire and disk: a `verifier.witnesses.Reach`. `away` and `gate` are its faults."""

    name: str
    logs: tuple[NoteKey, ...]
    clock: HandClock = field(default_factory=HandClock)
    signer: MemorySigner = field(default_factory=new_signer)
    away: bool = False
    gate: threading.Event | None = None
    """Where there is one, no request is answered until it is set."""
    asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = NoteKey(f"{self.name}.example/w", COSIGNATURE, self.signer.public)
        self.cosigner = Cosigner(self.key, self.signer, self.logs, state.in_memory(), self.clock)

    def post(self, path: str, body: bytes, _content_type: str, *, retry: bool = False) -> Answer:
        """As Uplink.post."""
        self.asked.append(body)
        if self.gate is not None:
            self.gate.wait(30)
        if self.away:
            raise Unavailable(self.name, "is away")
        answer = self.cosigner.add(body) if path == "/add-checkpoint" else None
        return Answer(404, "", b"") if answer is None else Answer(answer.status, answer.content_type, answer.body)

    def close(self) -> None:
        """As Uplink.close."""


def policy_of(log: NoteKey, witnesses: Iterable[tuple[str, NoteKey, str]], quorum: str = "all") -> TlogPolicy:
    """A policy over these witnesses (name, key, address or nothing); `quorum` is any, all, a number, or none."""
    known = list(witnesses)
    lines = [f"log {log}", *(f"witness {name} {key} {url}" for name, key, url in known)]
    ending = ["quorum none"] if quorum == "none" else [f"group q {quorum} {' '.join(name for name, _, _ in known)}", "quorum q"]
    return parse_policy("\n".join([*lines, *ending, ""]).encode())

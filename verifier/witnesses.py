"""Asks the configured witnesses to cosign a checkpoint. Whether what came back is enough is the policy's affair, not theirs.

Each witness is asked in a thread of its own, over a connection of its own, and remembers there which size it cosigned last. One that is
slow, away or wrong costs the others nothing: `ask` goes on without it, and does not wait for it the next time either, until it is back.

    409 SIZE      it knows the log at another size: asked again from there, at most `MOST_ROUNDS` times
    409 above us  it says that it cosigned more than this log has: the log was put back, or another writes under its key (`ahead`)
    422           our proof does not lead from what it cosigned: the log has two histories (`forked`); so has it after a
                  409 from the very size that we ask about

Source: C2SP tlog-witness v1.0.0.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from writ.formats.errors import FormatError, Unavailable, WritError
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, SignedCheckpoint
from writ.formats.tlog.cosignature import NONE, TlogPolicy, Witness, cosigned_at
from writ.formats.tlog.note import Note, NoteSignature
from writ.formats.tlog.witnessing import AddCheckpoint, encode_add_checkpoint, parse_cosignatures, parse_size
from writ.service import observe
from writ.service.clock import SystemClock
from writ.service.uplink import Answer, Uplink

MOST_ROUNDS: Final = 3
"""Requests to one witness for one checkpoint: another writer of ours may have moved it on once more."""
CONTENT_TYPE: Final = "text/plain; charset=utf-8"
KINDS: Final = ("no-address", "busy", "late", "unreachable", "refused", "malformed", "invalid", "moving", "unproven", "ahead", "forked")
"""What may be wrong with a witness's answer: a closed set, for the labels of counters."""
ALARMS: Final = ("ahead", "forked")
"""What is wrong with the log rather than with the witness."""

Proof = tuple[bytes, ...]
Prove = Callable[[int], Proof]
"""The consistency proof from an earlier size, above 0, to the checkpoint that is asked about. May raise WritError. It is called from one
thread at a time, which is not that of who asks, and perhaps after `ask` has returned."""

_log = observe.get_logger(__name__)


class Reach(Protocol):
    """The way to one witness."""

    def post(self, path: str, body: bytes, content_type: str, *, retry: bool = False) -> Answer:
        """The answer to POST `path`, as `Uplink.post`. Raises Unavailable."""
        ...

    def close(self) -> None:
        """Nothing more is asked this way."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one witness's cosignature is not there. `kind` is one of `KINDS`, `detail` for people."""

    witness: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What came back in time: cosignatures that hold, by the policy's witnesses, and why each other one is missing.

    `checkpoint` is the one that was asked about with these lines on it. That it satisfies the policy says `verify_witnessed`.
    """

    checkpoint: SignedCheckpoint
    signatures: tuple[NoteSignature, ...]
    faults: tuple[Fault, ...]


class _FaultError(Exception):
    def __init__(self, kind: str, detail: str) -> None:
        self.kind, self.detail = kind, detail
        super().__init__(detail)


@dataclass(slots=True)
class _Line:
    """One witness, how it is reached, and what is remembered of it."""

    witness: Witness
    reach: Reach
    known: int = 0
    busy: threading.Lock = field(default_factory=threading.Lock)


class Witnesses:
    """The witnesses of one policy, asked about one log. `ask` is for one thread at a time."""

    def __init__(self, policy: TlogPolicy, reach: Callable[[Witness], Reach | None]) -> None:
        """`reach` gives the way to a witness; None where the policy names no address."""
        self._policy = policy
        self._lines = [_Line(witness, way) for witness in policy.witnesses if (way := reach(witness)) is not None]
        self._unknown = tuple(
            Fault(one.name, "no-address", "the policy says no address of it")
            for one in policy.witnesses
            if one.name not in {line.witness.name for line in self._lines}
        )

    def close(self) -> None:
        """The connections are closed; what is under way comes to its end first."""
        for line in self._lines:
            line.reach.close()

    def ask(self, signed: SignedCheckpoint, prove: Prove, *, seconds: float) -> Collected:
        """Each witness is asked at once; what came within `seconds` is returned, sooner where it makes the quorum.

        Witnesses that are then still at work stand in neither list. With the quorum `none` all are waited for. A witness that is still at
        work from an earlier call is not asked. Raises nothing for what a witness does: see `faults`.
        """
        answers: queue.SimpleQueue[tuple[str, NoteSignature | Fault]] = queue.SimpleQueue()
        proofs = _Proofs(prove)
        faults, lines, awaited = list(self._unknown), dict[str, NoteSignature](), set[str]()
        deadline = time.monotonic() + seconds
        for line in self._lines:
            if not line.busy.acquire(blocking=False):
                faults.append(Fault(line.witness.name, "busy", "it is still at an earlier checkpoint"))
                continue
            awaited.add(line.witness.name)
            threading.Thread(target=_attend, args=(line, signed, proofs, answers), name="witness", daemon=True).start()
        while awaited and not (self._policy.quorum != NONE and self._policy.satisfied(frozenset(lines))):
            try:
                name, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                faults.extend(Fault(one, "late", f"no answer within {seconds:g} s") for one in sorted(awaited))
                break
            awaited.discard(name)
            if isinstance(answer, Fault):
                faults.append(answer)
            else:
                lines[name] = answer
        for fault in faults:
            tell = _log.error if fault.kind in ALARMS else _log.warning
            tell("witness-fault", witness=fault.witness, kind=fault.kind, detail=fault.detail)
        return Collected(with_lines(signed, lines.values()), tuple(lines.values()), tuple(faults))


def uplinks(ca_file: Path | None, seconds: float) -> Callable[[Witness], Uplink | None]:
    """How witnesses are reached over the network: TLS 1.3, plain HTTP on loopback alone; each request ends within `seconds`.

    The function raises FormatError for an address that is none.
    """

    def reach(witness: Witness) -> Uplink | None:
        if witness.url is None:
            return None
        try:
            return Uplink(witness.url, ca_file=ca_file, signer=None, clock=SystemClock(), timeout=seconds, max_answer=MAX_CHECKPOINT)
        except FormatError as error:
            raise FormatError(f"address of witness {witness.name}", error.expected, error.got) from None

    return reach


def with_lines(signed: SignedCheckpoint, lines: Iterable[NoteSignature]) -> SignedCheckpoint:
    """The checkpoint with these lines on it; each takes the place of one by the same key."""
    fresh = tuple(lines)
    taken = {(one.name, one.key_id) for one in fresh}
    kept = (one for one in signed.note.signatures if (one.name, one.key_id) not in taken)
    return SignedCheckpoint(signed.checkpoint, Note(signed.note.text, (*kept, *fresh)))


class _Proofs:
    """Proofs from each size that is asked for, made once, one at a time."""

    def __init__(self, prove: Prove) -> None:
        self._prove = prove
        self._made: dict[int, Proof] = {}
        self._lock = threading.Lock()

    def __call__(self, old: int) -> Proof:
        with self._lock:
            if old not in self._made:
                self._made[old] = self._prove(old)
            return self._made[old]


def _attend(line: _Line, signed: SignedCheckpoint, prove: Prove, answers: queue.SimpleQueue[tuple[str, NoteSignature | Fault]]) -> None:
    """One witness is asked, and what became of it is told once, whatever it was."""
    name = line.witness.name
    told: NoteSignature | Fault = Fault(name, "unreachable", "an error of ours")
    try:
        told = _asked(line, signed, prove)
    except _FaultError as fault:
        told = Fault(name, fault.kind, fault.detail)
    except Exception as error:  # noqa: BLE001 - one witness's thread takes nobody with it
        _log.error("internal", exception=error, witness=name)
    finally:
        line.busy.release()
        answers.put((name, told))


def _asked(line: _Line, signed: SignedCheckpoint, prove: Prove) -> NoteSignature:
    """The cosignature of a witness. Raises _FaultError.

    1. Ask from the size at which it cosigned last, as far as we know.
    2. 200: its line is on it, and holds.
    3. 409: ask again from the size that it says, unless that is beyond the checkpoint or where we asked from.
    4. Anything else is a refusal.
    """
    size = signed.checkpoint.size
    for _ in range(MOST_ROUNDS):
        # 1
        old = min(line.known, size)
        answer = _post(line, signed, prove, old)
        # 2
        if answer.status == 200:
            found = _held(line.witness, signed, answer.body)
            line.known = size
            return found
        # 3
        if answer.status == 409:
            said = _size(answer.body)
            if said > size:
                raise _FaultError("ahead", f"it says that it cosigned {said} entries, this checkpoint has {size}")
            if said != old:
                line.known = said
                continue
        # 4
        if old and (answer.status == 422 or (answer.status == 409 and old == size)):
            raise _FaultError("forked", f"what it cosigned at size {old} is not the beginning of this log")
        raise _FaultError("refused", f"status {answer.status} from size {old} to {size}")
    raise _FaultError("moving", f"it knew another size {MOST_ROUNDS} times")


def _post(line: _Line, signed: SignedCheckpoint, prove: Prove, old: int) -> Answer:
    try:
        proof = prove(old) if 0 < old < signed.checkpoint.size else ()
    except WritError as error:
        raise _FaultError("unproven", str(error)) from None
    try:
        return line.reach.post("/add-checkpoint", encode_add_checkpoint(AddCheckpoint(old, proof, signed)), CONTENT_TYPE, retry=True)
    except Unavailable as error:
        raise _FaultError("unreachable", str(error)) from None


def _held(witness: Witness, signed: SignedCheckpoint, body: bytes) -> NoteSignature:
    """The line of `witness` in its answer, which holds over the checkpoint; other lines are nobody's we asked."""
    try:
        note = Note(signed.note.text, parse_cosignatures(body))
    except FormatError as error:
        raise _FaultError("malformed", str(error)) from None
    found = note.by(witness.key)
    if found is None or cosigned_at(note, witness.key) is None:
        raise _FaultError("invalid", f"expected a cosignature by {witness.key.name}+{witness.key.id.hex()} that holds, got none")
    return found


def _size(body: bytes) -> int:
    try:
        return parse_size(body)
    except FormatError as error:
        raise _FaultError("malformed", str(error)) from None

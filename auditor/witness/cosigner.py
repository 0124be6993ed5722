"""A witness without the wire: from a request's bytes to an answer's, every time.

    POST /add-checkpoint               C2SP tlog-witness
    GET  /SHA-256(origin)/checkpoint   the last checkpoint that was cosigned, with the cosignature (ours: no specification has one yet)

    200 cosigned     400 not understood     403 not signed by the log     404 a log that is not known
    409 another size than the last cosigned, which is the answer; or another root at it, and then an alarm as well
    422 a proof that does not hold     503 the state cannot be read or written: nothing was cosigned

Source: C2SP tlog-witness v1.0.0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from hashlib import sha256
from typing import Final

from auditor.serving.http import NOTHING, PLAIN, Answer, Route, only, said
from auditor.witness.state import State
from writ.formats.errors import FormatError, Refused, Unavailable, WritError
from writ.formats.keys import Signer
from writ.formats.tlog.checkpoint import EMPTY
from writ.formats.tlog.cosignature import cosign
from writ.formats.tlog.note import Note, NoteKey, NoteSignature, encode_note, is_signed
from writ.formats.tlog.witnessing import MAX_REQUEST, SIZE_TYPE, AddCheckpoint, encode_cosignatures, parse_add_checkpoint
from writ.service import observe
from writ.service.clock import Clock
from writ.verdict.witnessing import verify_extension

MOST_ALARMS: Final = 1000
"""Forks that are told one by one; later ones are counted among what is refused."""

_STATUS: Final = {
    "malformed": 400,
    "checkpoint-invalid": 403,
    "log-unknown": 404,
    "witnessed-size": 409,
    "log-forked": 409,
    "consistency-invalid": 422,
}
_PLACE = re.compile(r"/([0-9a-f]{64})/checkpoint\Z")

_log = observe.get_logger(__name__)


class Cosigner:
    """Cosigns with `key` what `logs` sign, once the state says that it follows on what was cosigned before. For any thread."""

    def __init__(self, key: NoteKey, signer: Signer, logs: Collection[NoteKey], state: State, clock: Clock) -> None:
        self.key = key
        self._signer, self._state, self._clock = signer, state, clock
        self._logs = tuple(logs)
        self._places = {sha256(log.name.encode()).hexdigest(): log.name for log in logs}
        self._alarmed: set[tuple[str, int, bytes]] = set()
        self._seldom = observe.Seldom()

    most: Final = MAX_REQUEST

    def find(self, method: str, path: str, proof: str) -> Route | Answer:
        """See `serving.http.Service`."""
        if path == "/add-checkpoint":
            return Route(self.add) if method == "POST" else only("POST")
        place = _PLACE.match(path)
        if place is None:
            return NOTHING
        return Route(lambda _: self.latest(place[1])) if method == "GET" else only("GET")

    def add(self, body: bytes) -> Answer:
        """The answer to add-checkpoint; with 200, its checkpoint is the last of the log, and that is durable. Raises nothing of ours."""
        try:
            asked = parse_add_checkpoint(body)
        except FormatError as error:
            return said(422 if error.what == EMPTY else 400, str(error))
        try:
            return self._judged(asked)
        except (Unavailable, FormatError) as error:
            return _unavailable(error)

    def latest(self, place: str) -> Answer:
        """The last cosigned checkpoint of the log whose origin has this SHA-256, in hex."""
        try:
            with self._state.exclusive() as held:
                note = held.note(self._places.get(place, ""))
        except Unavailable as error:
            return _unavailable(error)
        return said(404, "no checkpoint of such a log was cosigned") if note is None else Answer(200, PLAIN, note)

    def close(self) -> None:
        """The state is closed."""
        self._state.close()

    def _judged(self, asked: AddCheckpoint) -> Answer:
        """1. Under the lock of the state: judge, cosign, store. 2. Only when that is durable: answer."""
        checkpoint, note = asked.checkpoint.checkpoint, asked.checkpoint.note
        # 1
        with self._state.exclusive() as held:
            latest = held.latest(checkpoint.origin)
            try:
                proven = verify_extension(asked, self._logs, latest)
            except Refused as refused:
                return self._refused(refused, asked, 0 if latest is None else latest.size, held.note(checkpoint.origin))
            line = cosign(proven.text, self.key, self._clock.now(), self._signer.sign)
            held.put(proven.checkpoint, encode_note(Note(proven.text, (*self._signed(note, checkpoint.origin), line))))
        # 2
        _log.info("witness-cosigned", origin=checkpoint.origin, size=checkpoint.size, old=asked.old)
        return Answer(200, PLAIN, encode_cosignatures((line,)))

    def _signed(self, note: Note, origin: str) -> Iterator[NoteSignature]:
        """The lines of the log itself; what else a sender added is not kept."""
        for key in self._logs:
            if key.name == origin and is_signed(note, key) and (line := note.by(key)) is not None:
                yield line

    def _refused(self, refused: Refused, asked: AddCheckpoint, size: int, known: bytes | None) -> Answer:
        reason, checkpoint = refused.reasons[0], asked.checkpoint.checkpoint
        seen = (checkpoint.origin, checkpoint.size, checkpoint.root)
        if reason.code == "log-forked" and seen not in self._alarmed and len(self._alarmed) < MOST_ALARMS:
            self._alarmed.add(seen)
            shown = "" if known is None else known.decode()
            other = encode_note(asked.checkpoint.note).decode()
            _log.error("witness-fork", origin=checkpoint.origin, size=checkpoint.size, cosigned=shown, other=other)
        elif self._seldom.now():
            _log.warning("witness-refused", reason=str(reason))
        status = _STATUS[reason.code]
        return Answer(status, SIZE_TYPE, f"{size}\n".encode()) if status == 409 else said(status, str(reason))


def _unavailable(error: WritError) -> Answer:
    _log.error("witness-unavailable", detail=str(error))
    return said(503, "the witness cannot reach its state: ask later")

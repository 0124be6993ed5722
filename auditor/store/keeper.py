"""A record store without the wire: from a request's bytes to an answer's, every time.

    POST /add-records                  the next records of a log (formats.tlog.storing)
    GET  /SHA-256(origin)/checkpoint   the last checkpoint, with the store's cosignature
    GET  /SHA-256(origin)/tile/…       hash tiles (C2SP tlog-tiles); entry bundles where the store shows them

    200 stored and cosigned     400 not understood     403 not signed by a host     404 a log of no host that is known
    409 the store has another size, which is the answer; or the log forked, and then an alarm as well
    503 nothing was stored: ask later     507 nothing was stored: the quota is used up

Sealed contents and papers are not served: they are read on the store's own machine. Source: C2SP tlog-mirror (2026-07, a draft).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from hashlib import sha256
from typing import Final

from auditor.serving.http import PLAIN, Answer, Work, said
from auditor.store.records import Held, Records
from writ.formats.errors import FormatError, Refused, Unavailable, WritError
from writ.formats.keys import Signer
from writ.formats.tlog.checkpoint import SignedCheckpoint
from writ.formats.tlog.cosignature import cosign
from writ.formats.tlog.note import Note, NoteKey, NoteSignature, encode_note
from writ.formats.tlog.storing import INFO_TYPE, MAX_REQUEST, AddRecords, encode_info, parse_add_records
from writ.formats.tlog.tile import ENTRIES, WIDTH, Tile, encode_bundle, parse_path
from writ.formats.tlog.witnessing import encode_cosignatures
from writ.service import observe
from writ.service.clock import Clock
from writ.verdict.storing import verify_records, verify_signed

OCTETS: Final = "application/octet-stream"
_PATH = re.compile(r"/([0-9a-f]{64})/(checkpoint|tile/[a-z0-9./]{1,80})\Z")
_STATUS: Final = {"checkpoint-invalid": 403, "log-unknown": 404, "stored-size": 409, "log-forked": 409}
MARGIN: Final = 64 << 10
"""Bytes that a request may take beyond its own: tiles, rows and pages."""

_log = observe.get_logger(__name__)


class Keeper:
    """Keeps what `hosts` send, up to `quota` bytes in all, and cosigns it with `key`. For any thread."""

    most: Final = MAX_REQUEST

    def __init__(
        self, key: NoteKey, signer: Signer, hosts: Collection[NoteKey], records: Records, clock: Clock, *, quota: int, shows: bool = False
    ) -> None:
        """With `shows` the leaves are served too: whoever reaches the address can read what agents did, though not with what arguments."""
        self.key = key
        self._signer, self._hosts, self._records, self._clock = signer, tuple(hosts), records, clock
        self._quota, self._shows = quota, shows
        self._places: dict[str, str] = {}
        self._seldom = observe.Seldom()

    def find(self, path: str) -> tuple[str, Work] | None:
        """See `serving.http.Service`."""
        if path == "/add-records":
            return "POST", self.add
        match = _PATH.match(path)
        return None if match is None else ("GET", lambda _: self.get(match[1], match[2]))

    def add(self, body: bytes) -> Answer:
        """The answer to add-records; with 200, all of it is durable, and so is the checkpoint. Raises nothing of ours."""
        try:
            asked = parse_add_records(body)
            key = verify_signed(asked, self._hosts)
        except FormatError as error:
            return said(400, str(error))
        except Refused as refused:
            return self._refused(refused)
        try:
            return self._stored(asked, key, len(body))
        except (Unavailable, FormatError) as error:
            return _unavailable(error)

    def get(self, place: str, path: str) -> Answer:
        """The checkpoint, or a tile, of the log whose origin has this SHA-256, in hex."""
        try:
            with self._records.exclusive() as held:
                return self._read(held, place, path)
        except (Unavailable, FormatError) as error:
            return _unavailable(error)

    def close(self) -> None:
        """The store is closed."""
        self._records.close()

    def _stored(self, asked: AddRecords, key: NoteKey, length: int) -> Answer:
        """1. Under the lock: what was stored already is answered as it was; the rest is judged, cosigned and stored. 2. Durable: answer."""
        checkpoint, note = asked.checkpoint.checkpoint, asked.checkpoint.note
        origin = checkpoint.origin
        # 1
        with self._records.exclusive() as held:
            if held.bytes_used() + length + MARGIN > self._quota:
                _log.error("store-full", quota=self._quota, used=held.bytes_used())
                return said(507, f"expected room within {self._quota} bytes, got {held.bytes_used()} used: raise --most-bytes, or add disk")
            edge = held.edge(origin)
            try:
                known = self._known(held, asked)
                if known is not None:
                    held.add_papers(origin, asked.papers)
                    return Answer(200, PLAIN, known)
                proven = verify_records(asked, edge, lambda size: held.root_at(origin, size))
            except Refused as refused:
                return self._refused(refused, held, asked.checkpoint, edge.size)
            line = cosign(proven.text, self.key, self._clock.now(), self._signer.sign)
            held.add(asked, proven, encode_note(Note(proven.text, (*_own(note, key), line))))
            held.add_papers(origin, asked.papers)
        # 2
        _log.debug("records-stored", origin=origin, size=checkpoint.size, records=len(asked.leaves))
        return Answer(200, PLAIN, encode_cosignatures((line,)))

    def _known(self, held: Held, asked: AddRecords) -> bytes | None:
        """The cosignature that was given for just this checkpoint: its answer was lost, or there are papers to add."""
        stored = held.latest(asked.checkpoint.checkpoint.origin)
        if stored is None or stored.checkpoint != asked.checkpoint.checkpoint:
            return None
        line = stored.note.by(self.key)
        return None if line is None else encode_cosignatures((line,))

    def _refused(self, refused: Refused, held: Held | None = None, other: SignedCheckpoint | None = None, size: int = 0) -> Answer:
        reason = refused.reasons[0]
        if reason.code == "log-forked" and held is not None and other is not None:
            latest = held.latest(other.checkpoint.origin)
            if held.add_fork(latest, other):
                shown = "" if latest is None else encode_note(latest.note).decode()
                origin = other.checkpoint.origin
                _log.error("store-fork", origin=origin, size=other.checkpoint.size, held=shown, other=encode_note(other.note).decode())
        elif self._seldom.now():
            _log.warning("store-refused", reason=str(reason))
        status = _STATUS[reason.code]
        if reason.code == "stored-size":
            return Answer(status, INFO_TYPE, encode_info(size))
        return said(status, str(reason))

    def _read(self, held: Held, place: str, path: str) -> Answer:
        origin = self._origin(held, place)
        nothing = said(404, "nothing of such a log is stored")
        if origin is None:
            return nothing
        if path == "checkpoint":
            latest = held.latest(origin)
            return nothing if latest is None else Answer(200, PLAIN, encode_note(latest.note))
        try:
            tile = parse_path(path)
        except FormatError as error:
            return said(404, str(error))
        data = self._entries(held, origin, tile) if tile.level == ENTRIES else held.hashes(origin, tile)
        return nothing if data is None else Answer(200, OCTETS, data if isinstance(data, bytes) else b"".join(data))

    def _entries(self, held: Held, origin: str, tile: Tile) -> bytes | None:
        first = tile.index * WIDTH
        if not self._shows:
            return None
        leaves = held.leaves(origin, first, first + tile.width)
        return encode_bundle(leaves) if len(leaves) == tile.width else None

    def _origin(self, held: Held, place: str) -> str | None:
        if place not in self._places:
            self._places = {sha256(origin.encode()).hexdigest(): origin for origin in held.origins()}
        return self._places.get(place)


def _own(note: Note, key: NoteKey) -> Iterator[NoteSignature]:
    """The line of the log itself; what else a sender added is not kept."""
    if (line := note.by(key)) is not None:
        yield line


def _unavailable(error: WritError) -> Answer:
    _log.error("store-unavailable", detail=str(error))
    return said(503, "the store cannot reach its file: ask later")

"""A record store without the wire: from a request's bytes to an answer's, every time.

    POST /add-records                  the next records of a log (formats.tlog.storing)
    GET  /SHA-256(origin)/checkpoint   the last checkpoint, with the store's cosignature
    GET  /SHA-256(origin)/tile/…       hash tiles (C2SP tlog-tiles); entry bundles where the store shows them

    200 stored and cosigned     400 not understood     403 not sent, or not signed, by a host     404 a log of no host that is known
    409 the store has another size, which is the answer; or the log forked, and then an alarm as well
    503 nothing was stored: ask later     507 nothing was stored: a quota is used up, the host's own or that of all

Who sends is known by the head, before a body is read. What is there already is answered as it was, and takes no room.

Sealed contents and papers are not served: they are read on the store's own machine. Source: C2SP tlog-mirror (2026-07, a draft).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from hashlib import sha256
from typing import Final

from auditor.serving.http import NOTHING, PLAIN, Answer, Route, only, said
from auditor.store.records import Held, Records
from writ.formats.errors import FormatError, Refused, Unavailable, WritError
from writ.formats.jose import parse_dpop
from writ.formats.keys import Signer
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, SignedCheckpoint
from writ.formats.tlog.cosignature import cosign
from writ.formats.tlog.note import Note, NoteKey, NoteSignature, encode_note
from writ.formats.tlog.storing import INFO_TYPE, MAX_REQUEST, PATH, AddRecords, encode_info, instance_of, parse_add_records
from writ.formats.tlog.tile import ENTRIES, WIDTH, Tile, encode_bundle, parse_path
from writ.formats.tlog.witnessing import encode_cosignatures
from writ.service import observe
from writ.service.clock import Clock
from writ.verdict.storing import ProvenRecords, VerifiedSender, verify_body, verify_records, verify_sender, verify_signed

OCTETS: Final = "application/octet-stream"
_PATH = re.compile(r"/([0-9a-f]{64})/(checkpoint|tile/[a-z0-9./]{1,80})\Z")
_STATUS: Final = {
    "sender-unknown": 403,
    "proof-mismatch": 403,
    "checkpoint-invalid": 403,
    "log-unknown": 404,
    "stored-size": 409,
    "log-forked": 409,
}
MARGIN: Final = 512 << 10
"""Bytes that a request may take beyond its own: tiles, rows and pages."""

_log = observe.get_logger(__name__)


class Keeper:
    """Keeps what `hosts` send, up to `quota` bytes in all and `share` of one host, and cosigns it with `key`. For any thread."""

    most: Final = MAX_REQUEST

    def __init__(
        self,
        key: NoteKey,
        signer: Signer,
        hosts: Collection[NoteKey],
        records: Records,
        clock: Clock,
        *,
        quota: int,
        share: int | None = None,
        shows: bool = False,
    ) -> None:
        """`share` None: each host has an equal part of `quota`, so that none, nor all others together, takes what is another's.

        With `shows` the leaves are served too: whoever reaches the address can read what agents did, though not with what arguments.
        Nobody else writes to `records`. Raises Unavailable.
        """
        self.key = key
        self._signer, self._hosts, self._records, self._clock = signer, tuple(hosts), records, clock
        self._quota, self._shows = quota, shows
        self._share = quota // max(1, len({host.name for host in hosts})) if share is None else share
        with records.exclusive() as held:
            self._places = {_place(origin): origin for origin in held.origins()}
        self._seldom, self._seldom_unsent, self._seldom_full = observe.Seldom(), observe.Seldom(), observe.Seldom()

    def find(self, method: str, path: str, proof: str) -> Route | Answer:
        """See `serving.http.Service`."""
        if path == PATH:
            return self._from(proof) if method == "POST" else only("POST")
        match = _PATH.match(path)
        if match is None:
            return NOTHING
        return Route(lambda _: self.get(match[1], match[2])) if method == "GET" else only("GET")

    def _from(self, proof: str) -> Route | Answer:
        try:
            sender = verify_sender(parse_dpop(proof), self._hosts)
        except (FormatError, Refused) as error:
            if self._seldom_unsent.now():
                _log.warning("store-sender-refused", reason=str(error))
            return said(403, f"{error}: add-records takes a DPoP proof over the body, by the key of a host of this store (--hosts)")
        return Route(lambda body: self.add(body, sender), sender.name)

    def add(self, body: bytes, sender: VerifiedSender) -> Answer:
        """The answer to add-records; with 200, all of it is durable, and so is the checkpoint. Raises nothing of ours."""
        try:
            verify_body(body, sender)
            asked = parse_add_records(body)
            key = verify_signed(asked, sender)
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
        """1. Under the lock: what was stored already is answered as it was. 2. The rest is judged. 3. Where there is room, it is cosigned
        and stored. 4. Durable: answer."""
        checkpoint = asked.checkpoint.checkpoint
        origin = checkpoint.origin
        with self._records.exclusive() as held:
            # 1
            papers = held.lacking(origin, asked.papers)
            known = self._known(held, asked)
            if known is not None and not papers:
                return Answer(200, PLAIN, known)
            # 2
            proven: ProvenRecords | None = None
            if known is None:
                edge = held.edge(origin)
                try:
                    proven = verify_records(asked, edge, lambda size: held.root_at(origin, size))
                except Refused as refused:
                    return self._refused_by(held, refused, asked, key, edge.size)
            # 3
            own = 0 if proven is None else length - sum(len(body) for _, body in asked.papers)
            if (full := self._full(held, origin, own + sum(len(body) for _, body in papers))) is not None:
                return full
            with held.charged(instance_of(origin)[0]):
                if proven is not None:
                    line = cosign(proven.text, self.key, self._clock.now(), self._signer.sign)
                    self._places[_place(origin)] = origin
                    held.add(asked, proven, encode_note(Note(proven.text, (*_own(asked.checkpoint.note, key), line))))
                    known = encode_cosignatures((line,))
                held.add_papers(origin, papers)
        # 4
        _log.debug("records-stored", origin=origin, size=checkpoint.size, records=len(asked.leaves), papers=len(papers))
        return Answer(200, PLAIN, known or b"")

    def _known(self, held: Held, asked: AddRecords) -> bytes | None:
        """The cosignature that was given for just this checkpoint: its answer was lost, or there are papers to add."""
        stored = held.latest(asked.checkpoint.checkpoint.origin)
        if stored is None or stored.checkpoint != asked.checkpoint.checkpoint:
            return None
        line = stored.note.by(self.key)
        return None if line is None else encode_cosignatures((line,))

    def _full(self, held: Held, origin: str, length: int) -> Answer | None:
        """What is said where a request of so many bytes may have no room: of its host's share, or of the whole."""
        host, more = instance_of(origin)[0], length + MARGIN
        own, used = held.bytes_of(host), held.bytes_used()
        for option, most, got, whose in (("--most-bytes-host", self._share, own, host), ("--most-bytes", self._quota, used, "all hosts")):
            if got + more > most:
                if self._seldom_full.now():
                    _log.error("store-full", whose=whose, most=most, used=got)
                return said(507, f"expected room for {more} bytes within {most} of {whose}, got {got} used: raise {option}, or add disk")
        return None

    def _refused(self, refused: Refused) -> Answer:
        reason = refused.reasons[0]
        if self._seldom.now():
            _log.warning("store-refused", reason=str(reason))
        return said(_STATUS[reason.code], str(reason))

    def _refused_by(self, held: Held, refused: Refused, asked: AddRecords, key: NoteKey, size: int) -> Answer:
        """What the log that is held says against these records. A fork is kept, with what was signed, where there is room."""
        reason, other = refused.reasons[0], asked.checkpoint
        if reason.code == "stored-size":
            return Answer(_STATUS[reason.code], INFO_TYPE, encode_info(size))
        origin = other.checkpoint.origin
        latest, signed = held.latest(origin), SignedCheckpoint(other.checkpoint, Note(other.note.text, tuple(_own(other.note, key))))
        if self._full(held, origin, 2 * MAX_CHECKPOINT) is None:
            with held.charged(instance_of(origin)[0]):
                if held.add_fork(latest, signed):
                    shown = "" if latest is None else encode_note(latest.note).decode()
                    _log.error("store-fork", origin=origin, size=other.checkpoint.size, held=shown, other=encode_note(signed.note).decode())
                    return said(_STATUS[reason.code], str(reason))
        return self._refused(refused)

    def _read(self, held: Held, place: str, path: str) -> Answer:
        origin = self._places.get(place)
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


def _place(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()


def _own(note: Note, key: NoteKey) -> Iterator[NoteSignature]:
    """The line of the log itself; what else a sender added is not kept."""
    if (line := note.by(key)) is not None:
        yield line


def _unavailable(error: WritError) -> Answer:
    _log.error("store-unavailable", detail=str(error))
    return said(503, "the store cannot reach its file: ask later")

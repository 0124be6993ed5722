"""How much of the runtime log the verifier has judged, and the evidence whose answer was lost: kept in a file, through a restart.

    acknowledged.cbor   beside the log: events judged, and the last evidence that carried new events and has no answer yet

It decides only what is sent. A file that is gone, old or false costs one more
exchange: the verifier asks for the whole log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestor.config import read_private, write_private
from writ.formats.digest import Nonce
from writ.formats.errors import FormatError, Unavailable
from writ.formats.evidence import MAX_SIZE
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.service.observe import get_logger

_LOG = get_logger("attestor.acknowledged")
_WHAT: Final = "acknowledged"
_MAX_FILE: Final = MAX_SIZE + 4096


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the log: behind so many events, where the register of the quoted bank has this value."""

    events: int
    register: bytes


START: Final = Point(0, b"")


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Evidence that was sent, or was about to be, with the nonce it spends. `upto` is where its log ends."""

    nonce: Nonce
    upto: Point
    evidence: bytes


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the verifier has judged, and what it may have judged."""

    upto: Point = START
    unanswered: Unanswered | None = None


def read_acknowledged(directory: Path) -> Acknowledged:
    """What the file says; nothing acknowledged where there is none that can be read."""
    try:
        data = read_private(directory / "acknowledged.cbor", most=_MAX_FILE)
        return Acknowledged() if data is None else _parse(data)
    except (Unavailable, FormatError) as error:
        _LOG.warning("acknowledged-unreadable", exception=error)
        return Acknowledged()


def write_acknowledged(directory: Path, known: Acknowledged) -> None:
    """The file says so, durably; a disk that refuses is logged and stops nothing."""
    sent = known.unanswered
    value = {
        "v": 1,
        **_point_out(known.upto),
        "unanswered": None if sent is None else {"nonce": sent.nonce.value, **_point_out(sent.upto), "evidence": sent.evidence},
    }
    try:
        write_private(directory / "acknowledged.cbor", encode_cbor(value))
    except Unavailable as error:
        _LOG.warning("acknowledged-not-written", exception=error)


def _point_out(point: Point) -> dict[str, object]:
    return {"events": point.events, "register": point.register}


def _parse(data: bytes) -> Acknowledged:
    f = Fields(decode_cbor(data, _WHAT, max_size=_MAX_FILE), _WHAT)
    f.version(1)
    upto, unanswered = _point(f), None
    if f.is_null("unanswered"):
        f.null("unanswered")
    else:
        u = f.fields("unanswered")
        unanswered = Unanswered(Nonce(u.raw("nonce", size=32)), _point(u), u.raw("evidence", most=MAX_SIZE))
        u.done()
    f.done()
    return Acknowledged(upto, unanswered)


def _point(f: Fields) -> Point:
    return Point(f.uint("events"), f.raw("register", most=64))

"""How far this host has seen the verifier's logs grow, and that one went back: kept on disk, of all instances, past and to come.

    {"v": 1, "logs": [["verifier.example.org/log", 41, 44]], "lost": []}

Entry 41 of 44 is the last place of a decision that came with a token. What is decided later stands behind it, whichever instance asked and
whichever code asks: `Renewal` reads this before it asks. A log that went back (`verifier-rolled-back`) is kept too, and ends by an
operator's act alone (`enforcer log settle`), never by a restart, by a launch, or by the log growing past the place again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from enforcer.bundles import locked, write_durably
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.verdict.transparency import Logged

_FILE: Final = "seen"
_MOST: Final = 64
"""Logs kept: one for each that a trust file of this host ever named and that gave a token."""
MAX_PLACES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Places:
    """The last place in each log, by origin; and why the verifier is not followed any more, or None."""

    logs: tuple[Logged, ...] = ()
    lost: Reason | None = None


class HeldPlaces:
    """The file of one host, in a folder of its own, shared by its instances.

    Every method raises Unavailable, and FormatError for a file that is altered.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / _FILE

    def read(self) -> Places:
        """What stands now."""
        try:
            return parse_places(self._path.read_bytes()) if self._path.exists() else Places()
        except OSError as error:
            raise Unavailable("places in the log", f"{self._path}: {error.strerror}") from None

    def advance(self, place: Logged) -> None:
        """From now on what comes stands behind `place`, unless something did already that stands further."""
        before = self.read()
        if any(one.origin == place.origin and one.index >= place.index and one.size >= place.size for one in before.logs):
            return
        with locked(self._folder, "places in the log"):
            held = self.read()
            last = next((one for one in held.logs if one.origin == place.origin), place)
            most = replace(place, index=max(place.index, last.index), size=max(place.size, last.size), seen=None)
            others = tuple(one for one in held.logs if one.origin != place.origin)
            self._write(replace(held, logs=tuple(sorted((*others, most), key=lambda one: one.origin))))

    def alarm(self, reason: Reason) -> None:
        """The verifier went back: no instance of this host follows it, until somebody settles that."""
        with locked(self._folder, "places in the log"):
            self._write(replace(self.read(), lost=reason))

    def settle(self) -> bool:
        """An operator has settled it: the verifier is followed again, from wherever it stands; a file that is altered goes too.

        False where it was followed.
        """
        with locked(self._folder, "places in the log"):
            try:
                lost = self.read().lost is not None
            except FormatError:
                lost = True
            self._write(Places())
            return lost

    def _write(self, places: Places) -> None:
        write_durably(self._path, encode_places(places))


def encode_places(places: Places) -> bytes:
    """The one spelling of `places`."""
    logs = [[one.origin, one.index, one.size] for one in places.logs]
    return encode_cbor({"v": 1, "logs": logs, "lost": [] if places.lost is None else [places.lost.to_cbor()]})


def parse_places(data: bytes) -> Places:
    """Read places. Raises FormatError."""
    f = Fields(decode_cbor(data, "places", max_size=MAX_PLACES), "places")
    f.version(1)
    logs = tuple(_place(item) for item in f.items("logs", most=_MOST))
    lost = tuple(Reason.from_cbor(item) for item in f.items("lost", most=1))
    f.done()
    places = Places(logs, lost[0] if lost else None)
    if [one.origin for one in logs] != sorted({one.origin for one in logs}) or encode_places(places) != data:
        raise FormatError("places", "logs sorted, each once, in the one spelling", "another")
    return places


def _place(item: object) -> Logged:
    if not isinstance(item, list) or len(item) != 3:
        raise FormatError("places.logs", "origin, index and size", type(item).__name__)
    f = Fields(dict(zip(("origin", "index", "size"), item, strict=True)), "places.logs")
    return Logged(f.text("origin", least=1, most=255), f.uint("size"), f.uint("index"), None)

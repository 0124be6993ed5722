"""An archive: what a verifier or an enforcer hands to an auditor, whole and unordered.

Objects are named by their SHA-256 and by nothing else, so archives of several
sources merge by union. The auditor picks the parts of a proof bundle from them
by the digests that signed decisions and records name. Where an entry stands in
the verifier's log, an archive says in the words of that log, and by the hash of its leaf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tlog.inclusion import parse_inclusion
from writ.formats.tlog.merkle import HASH_SIZE

T = TypeVar("T", bytes, str)

MAX_ARCHIVE: Final = 256 << 20
MAX_ITEMS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class InstanceLog:
    """All leaves of one instance's action log, in order."""

    instance: bytes
    leaves: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, order=True)
class Placed:
    """Where the entry of a leaf hash stands in a verifier's log: a tlog-proof or a receipt (`tlog.inclusion`)."""

    leaf: bytes
    inclusion: bytes


@dataclass(frozen=True, slots=True)
class Archive:
    """`entries` are COSE_Sign1 of decisions, `tokens` compact tokens, `objects` anything that a digest names; `places` is a sorted set."""

    entries: tuple[bytes, ...]
    tokens: tuple[str, ...]
    objects: tuple[bytes, ...]
    logs: tuple[InstanceLog, ...]
    places: tuple[Placed, ...] = ()

    def merged(self, other: Archive) -> Archive:
        """The union. Of two logs of one instance the longer is taken if it extends the other; else FormatError."""
        logs = {log.instance: log for log in self.logs}
        for log in other.logs:
            known = logs.get(log.instance, log)
            short, long = sorted((known, log), key=lambda item: len(item.leaves))
            if long.leaves[: len(short.leaves)] != short.leaves:
                raise FormatError("archive.logs", "logs of which one extends the other", f"a fork of {log.instance.hex()}")
            logs[log.instance] = long
        return Archive(
            tuple(sorted({*self.entries, *other.entries})),
            tuple(sorted({*self.tokens, *other.tokens})),
            tuple(sorted({*self.objects, *other.objects})),
            tuple(logs[key] for key in sorted(logs)),
            tuple(sorted({*self.places, *other.places})),
        )

    def by_digest(self) -> dict[Digest, bytes]:
        """Every object under its name."""
        return {Digest.of(item): item for item in self.objects}


EMPTY: Final = Archive((), (), (), ())


def encode_archive(archive: Archive) -> bytes:
    """The one spelling: entries, tokens and objects as sorted sets, logs by instance."""
    places = [[one.leaf, one.inclusion] for one in sorted(set(archive.places))]
    return encode_cbor(
        {
            "v": 1,
            "entries": sorted(set(archive.entries)),
            "tokens": sorted(set(archive.tokens)),
            "objects": sorted(set(archive.objects)),
            "logs": [[log.instance, list(log.leaves)] for log in sorted(archive.logs, key=lambda item: item.instance)],
        }
        | ({"places": places} if places else {})
    )


def parse_archive(data: bytes) -> Archive:
    """Read an archive. Raises FormatError."""
    f = Fields(decode_cbor(data, "archive", max_size=MAX_ARCHIVE), "archive")
    f.version(1)
    entries, objects = (_set_of(bytes, f.items(key, most=MAX_ITEMS), key) for key in ("entries", "objects"))
    tokens = _set_of(str, f.items("tokens", most=MAX_ITEMS), "tokens")
    logs = tuple(_log(item) for item in f.items("logs", most=MAX_ITEMS))
    places = _places(f.items("places", most=MAX_ITEMS)) if f.has("places") else ()
    f.done()
    ids = [log.instance for log in logs]
    if ids != sorted(set(ids)):
        raise FormatError("archive.logs", "one log an instance, sorted", "another order")
    return Archive(entries, tokens, objects, logs, places)


def parse_place(body: bytes) -> Placed:
    """Read a place as an enforcer's papers keep it: the hash of the leaf, then the inclusion. Raises FormatError."""
    place = Placed(body[:HASH_SIZE], body[HASH_SIZE:])
    parse_inclusion(place.inclusion)
    return place


def _set_of(kind: type[T], items: list[object], what: str) -> tuple[T, ...]:
    found = tuple(item for item in items if isinstance(item, kind))
    if len(found) != len(items) or list(found) != sorted(set(found)):
        raise FormatError(f"archive.{what}", f"a sorted set of {kind.__name__}", "another")
    return found


def _places(items: list[object]) -> tuple[Placed, ...]:
    """What is absent where there is nothing to say."""
    places = tuple(_place(item) for item in items)
    if not places or list(places) != sorted(set(places)):
        raise FormatError("archive.places", "a sorted set of one or more, or no such key", "another")
    return places


def _place(value: object) -> Placed:
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError("archive.places", "[leaf, inclusion]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "archive.places")
    place = Placed(f.raw(0, size=HASH_SIZE), f.raw(1))
    parse_inclusion(place.inclusion)
    return place


def _log(value: object) -> InstanceLog:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], list):
        raise FormatError("archive.logs", "[instance, leaves]", type(value).__name__)
    leaves = tuple(item for item in value[1] if isinstance(item, bytes) and len(item) <= 65535)
    if not isinstance(value[0], bytes) or len(value[0]) != 16 or len(leaves) != len(value[1]):
        raise FormatError("archive.logs", "an instance of 16 bytes and leaves of at most 65535", "another")
    return InstanceLog(value[0], leaves)

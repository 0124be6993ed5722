"""A range bundle: all records of one agent between two times, with what shows that none is left out.

A CMW collection of three: the signed checkpoint of the verifier's log; entries of that log, every one from a place on; and what of action
logs they speak of. Well formed it proves nothing: `verdict.range_proof` judges it. Its labels are such that its type comes first, so what
a file is shows in its first bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.cmw import encode_collection, parse_collection
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT

TYPE: Final = "urn:writ:range:1"
MAX_RANGE: Final = 256 << 20
_MOST: Final = 1_000_000
_CHECKPOINT: Final = ("checkpoint", "application/vnd.writ.log-checkpoint")
_ENTRIES: Final = ("log-entries", "application/vnd.writ.log-entries")
_RANGE: Final = ("agent-range", "application/vnd.writ.agent-range+cbor")
_BEGIN: Final = b"\xa4\x68__cmwc_t" + encode_cbor(TYPE)


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """A leaf of an action log at `index`, with the path to the root of a checkpoint of `size` records."""

    record: bytes
    index: int
    size: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LogPart:
    """Leaves of an instance's log from `first` on; `before` are the perfect subtrees in front of them; `openings` those of them."""

    instance: bytes
    first: int
    before: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    openings: tuple[ProvenLeaf, ...]
    """What the first leaves stand under, where that lies in front of them."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """An instance of another agent: by the claims of a token that it got, or by the opening of its log.

    One id may be of several: whoever has root on another host chooses it.
    """

    instance: bytes
    claims: bytes | None
    opening: ProvenLeaf | None


@dataclass(frozen=True, slots=True)
class RangeBundle:
    """The records of `agent` from `earliest` to `latest` (seconds, both included); `entries` are those of the log from `first` on."""

    agent: str
    earliest: int
    latest: int
    checkpoint: bytes
    first: int
    entries: tuple[bytes, ...]
    proof: tuple[bytes, ...]
    tokens: tuple[str, ...]
    policies: tuple[bytes, ...]
    """Those that the tokens name, for how far clocks may differ."""
    logs: tuple[LogPart, ...]
    strangers: tuple[Stranger, ...]


def is_range_bundle(data: bytes) -> bool:
    """Whether these bytes begin as one, and as nothing else of ours."""
    return data.startswith(_BEGIN)


def encode_range_bundle(b: RangeBundle) -> bytes:
    """The one spelling."""
    entries = b"".join(len(entry).to_bytes(2, "big") + entry for entry in b.entries)
    value = {
        "v": 1,
        "agent": b.agent,
        "earliest": b.earliest,
        "latest": b.latest,
        "first": b.first,
        "proof": list(b.proof),
        "tokens": list(b.tokens),
        "policies": list(b.policies),
        "logs": [_part_out(one) for one in b.logs],
        "strangers": [[one.instance, one.claims, None if one.opening is None else _leaf_out(one.opening)] for one in b.strangers],
    }
    members = {
        _CHECKPOINT[0]: (_CHECKPOINT[1], b.checkpoint, None),
        _ENTRIES[0]: (_ENTRIES[1], entries, None),
        _RANGE[0]: (_RANGE[1], encode_cbor(value), None),
    }
    return encode_collection(members, collection_type=TYPE)


def parse_range_bundle(data: bytes) -> RangeBundle:
    """Read one. Raises FormatError."""
    collection = parse_collection(data, what="range bundle", max_size=MAX_RANGE)
    if collection.type != TYPE or len(collection.members) != 3:
        raise FormatError("range bundle", f"three members of the type {TYPE}", f"{len(collection.members)} of {collection.type}"[:200])
    parts: list[bytes] = []
    for label, media_type in (_CHECKPOINT, _ENTRIES, _RANGE):
        member = collection.record(label)
        if member is None or member.type != media_type or member.indicator is not None:
            raise FormatError(f"range bundle, {label}", media_type, "none" if member is None else str(member.type)[:80])
        parts.append(member.value)
    checkpoint, entries, written = parts
    if len(checkpoint) > MAX_CHECKPOINT:
        raise FormatError("range bundle, checkpoint", f"at most {MAX_CHECKPOINT} bytes", f"{len(checkpoint)} bytes")
    f = Fields(decode_cbor(written, "agent range", max_size=MAX_RANGE), "agent range")
    f.version(1)
    made = RangeBundle(
        agent=f.text("agent"), earliest=f.uint("earliest"), latest=f.uint("latest"), checkpoint=checkpoint, first=f.uint("first"),
        entries=_entries(entries), proof=_hashes(f.items("proof", most=128)), tokens=_tokens(f.items("tokens", most=_MOST)),
        policies=_policies(f.items("policies", most=1024)), logs=tuple(_log(item) for item in f.items("logs", most=_MOST)),
        strangers=tuple(_stranger(item) for item in f.items("strangers", most=_MOST)),
    )  # fmt: skip
    f.done()
    twice = len({one.instance for one in made.logs}) != len(made.logs) or len(set(made.strangers)) != len(made.strangers)
    if twice or made.earliest > made.latest:
        raise FormatError("agent range", "one log an instance, each stranger once, and a time after another", "something else")
    return made


def _entries(data: bytes) -> tuple[bytes, ...]:
    found: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or end < at + 3:
            raise FormatError("range bundle, log-entries", "entries behind their lengths", f"{len(data) - at} bytes", at)
        found.append(data[at + 2 : end])
        at = end
    if not found:
        raise FormatError("range bundle, log-entries", "entries", "none")
    return tuple(found)


def _hashes(items: list[object]) -> tuple[bytes, ...]:
    found = tuple(item for item in items if isinstance(item, bytes) and len(item) == 32)
    if len(found) != len(items):
        raise FormatError("agent range", "hashes of 32 bytes", "something else")
    return found


def _tokens(items: list[object]) -> tuple[str, ...]:
    found = tuple(item for item in items if isinstance(item, str))
    if len(found) != len(items) or list(found) != sorted(set(found)):
        raise FormatError("agent range.tokens", "a sorted set of text", "something else")
    return found


def _policies(items: list[object]) -> tuple[bytes, ...]:
    found = tuple(item for item in items if isinstance(item, bytes))
    if len(found) != len(items) or list(found) != sorted(set(found)):
        raise FormatError("agent range.policies", "a sorted set of bytes", "something else")
    return found


def _array(value: object, names: tuple[str, ...], what: str) -> Fields:
    if not isinstance(value, list) or len(value) != len(names):
        raise FormatError(what, f"an array of {', '.join(names)}", type(value).__name__)
    return Fields(dict(zip(names, value, strict=True)), what)


def _leaf_out(leaf: ProvenLeaf) -> list[object]:
    return [leaf.record, leaf.index, leaf.size, list(leaf.proof)]


def _part_out(one: LogPart) -> list[object]:
    return [one.instance, one.first, list(one.before), list(one.leaves), [_leaf_out(leaf) for leaf in one.openings]]


def _leaf(value: object) -> ProvenLeaf:
    f = _array(value, ("record", "index", "size", "proof"), "leaf")
    return ProvenLeaf(f.raw("record", most=65535), f.uint("index"), f.uint("size"), _hashes(f.items("proof", most=64)))


def _log(value: object) -> LogPart:
    f = _array(value, ("instance", "first", "before", "leaves", "openings"), "logs")
    instance, first, before = f.raw("instance", size=16), f.uint("first"), _hashes(f.items("before", most=63))
    listed = f.items("leaves", most=_MOST)
    leaves = tuple(item for item in listed if isinstance(item, bytes) and len(item) <= 65535)
    if len(leaves) != len(listed):
        raise FormatError("logs.leaves", "leaves of at most 65535 bytes", "something else")
    return LogPart(instance, first, before, leaves, tuple(_leaf(item) for item in f.items("openings", most=64)))


def _stranger(value: object) -> Stranger:
    f = _array(value, ("instance", "claims", "opening"), "strangers")
    instance, claims = f.raw("instance", size=16), f.optional_raw("claims", most=16384)
    opening = None if (leaf := f.any("opening")) is None else _leaf(leaf)
    if (claims is None) == (opening is None):
        raise FormatError("strangers", "claims or an opening", "both, or neither")
    return Stranger(instance, claims, opening)

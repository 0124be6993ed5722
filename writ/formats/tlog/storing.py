"""What a host asks of a record store: the next leaves of one action log, what lies sealed beside them, and the checkpoint they lead to.

    {"v": 1, "checkpoint": note, "leaves": entry bundle, "papers": [[kind, bytes]…], "sealed": bytes, "start": 1000}

The leaves are those from `start` to the size of the checkpoint, as an entry bundle of tlog-tiles; the sealed contents stand in the same
order, each behind its length in four bytes, 0 for none. Papers are what an auditor will look for by digest: decisions, tokens, objects.

The log of an instance is named after its host's: `records.example.org/host-1/` and the instance in hex. One key of the host signs them all.

The whole request is signed by that key, as a DPoP proof (RFC 9449) in its head: POST, the address, and the SHA-256 of the body as `arg`. So
it is known whose it is before any of the body is read, and nobody but the host adds a paper.

The answer is the store's cosignature of the checkpoint. A store that has another size says which, as `text/x.tlog.mirror-info`.

Source: ours, docs/formats.md; the answers are those of C2SP tlog-mirror (2026-07, a draft).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError, Misuse
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, SignedCheckpoint, parse_signed_checkpoint
from writ.formats.tlog.merkle import MAX_SIZE
from writ.formats.tlog.note import NoteKey, encode_note
from writ.formats.tlog.tile import encode_bundle, parse_bundle

PATH: Final = "/add-records"
CONTENT_TYPE: Final = "application/vnd.writ.records+cbor"
INFO_TYPE: Final = "text/x.tlog.mirror-info"
MOST_RECORDS: Final = 4096
MAX_SEALED: Final = (4 << 20) + (64 << 10)
"""Of one record: content of 4 MiB, a context, salts and a seal."""
MAX_REQUEST: Final = 12 << 20
MOST_PAPERS: Final = 256
PAPERS: Final = ("entry", "object", "place", "token")
_WHAT: Final = "add-records"
_INFO = re.compile(r"(0|[1-9][0-9]{0,18})\n(0|[1-9][0-9]{0,18})\n\n\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class AddRecords:
    """Leaves from `start` on and their sealed contents, up to `checkpoint`. `sealed` has None where there is none. Raises FormatError."""

    start: int
    checkpoint: SignedCheckpoint
    leaves: tuple[bytes, ...]
    sealed: tuple[bytes | None, ...]
    papers: tuple[tuple[str, bytes], ...] = ()

    def __post_init__(self) -> None:
        size = self.checkpoint.checkpoint.size
        if not 0 <= self.start <= size or size - self.start > MOST_RECORDS:
            raise FormatError(f"{_WHAT}.start", f"at most {size}, and by at most {MOST_RECORDS}", str(self.start))
        if not len(self.leaves) == len(self.sealed) == size - self.start:
            raise FormatError(f"{_WHAT}.leaves", f"{size - self.start}, and as many contents", f"{len(self.leaves)}, {len(self.sealed)}")
        if any(len(one or b"") > MAX_SEALED for one in self.sealed) or b"" in self.sealed:
            raise FormatError(f"{_WHAT}.sealed", f"1 to {MAX_SEALED} bytes each, or none", "another length")
        if len(self.papers) > MOST_PAPERS or any(kind not in PAPERS for kind, _ in self.papers):
            raise FormatError(f"{_WHAT}.papers", f"at most {MOST_PAPERS} of {', '.join(PAPERS)}", "others")


def encode_add_records(asked: AddRecords) -> bytes:
    """The body of the request. Raises Misuse for one that is too large."""
    data = encode_cbor(
        {
            "v": 1,
            "start": asked.start,
            "checkpoint": encode_note(asked.checkpoint.note),
            "leaves": encode_bundle(asked.leaves),
            "sealed": encode_sealed(asked.sealed),
            "papers": [list(paper) for paper in asked.papers],
        }
    )
    if len(data) > MAX_REQUEST:
        raise Misuse(f"a request of {len(data)} bytes, of at most {MAX_REQUEST}")
    return data


def parse_add_records(data: bytes) -> AddRecords:
    """Read the body. Raises FormatError."""
    f = Fields(decode_cbor(data, _WHAT, max_size=MAX_REQUEST), _WHAT)
    f.version(1)
    start = f.uint("start", most=MAX_SIZE)
    checkpoint = parse_signed_checkpoint(f.raw("checkpoint", most=MAX_CHECKPOINT))
    leaves, sealed = f.raw("leaves", most=MAX_REQUEST), f.raw("sealed", most=MAX_REQUEST)
    papers = tuple(_paper(one) for one in f.items("papers", most=MOST_PAPERS))
    f.done()
    count = checkpoint.checkpoint.size - start
    if not 0 <= count <= MOST_RECORDS:
        raise FormatError(f"{_WHAT}.start", f"within {MOST_RECORDS} below {checkpoint.checkpoint.size}", str(start))
    return AddRecords(start, checkpoint, parse_bundle(leaves, count), parse_sealed(sealed, count), papers)


def encode_sealed(sealed: tuple[bytes | None, ...]) -> bytes:
    """Each behind its length in four bytes."""
    return b"".join(part for one in sealed for part in (len(one or b"").to_bytes(4, "big"), one or b""))


def parse_sealed(data: bytes, count: int) -> tuple[bytes | None, ...]:
    """The `count` contents, None where there is none. Raises FormatError."""
    found: list[bytes | None] = []
    at = 0
    for _ in range(count):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if at + 4 > len(data) or end > len(data):
            raise FormatError("sealed contents", f"{count}", f"{len(found)}", at)
        found.append(data[at + 4 : end] or None)
        at = end
    if at != len(data):
        raise FormatError("sealed contents", f"{count}", "more bytes", at)
    return tuple(found)


def encode_info(size: int) -> bytes:
    """What a store says that has the log at another size: its size, the next record, and no ticket."""
    return f"{size}\n{size}\n\n".encode()


def parse_info(data: bytes) -> int:
    """The next record that a store takes. Raises FormatError."""
    match = _INFO.match(data[:64].decode("ascii", "replace"))
    if match is None or len(data) > 64 or match[1] != match[2] or int(match[1]) > MAX_SIZE:
        raise FormatError("mirror info", "size and next entry, the same number, and no ticket", repr(data[:40]))
    return int(match[1])


def log_key(host: NoteKey, instance: bytes) -> NoteKey:
    """The key of an instance's action log: the host's, under the log's own name."""
    return NoteKey(f"{host.name}/{instance.hex()}", host.kind, host.key)


def instance_of(origin: str) -> tuple[str, bytes]:
    """The host's name and the instance in the name of an action log. Raises FormatError."""
    host, _, instance = origin.rpartition("/")
    if not host or not re.fullmatch(r"[0-9a-f]{32}", instance):
        raise FormatError("action log", "HOST/INSTANCE, the instance in 32 digits of hex", repr(origin[:80]))
    return host, bytes.fromhex(instance)


def _paper(value: object) -> tuple[str, bytes]:
    match value:
        case [str(kind), bytes(body)]:
            return kind, body
    raise FormatError(f"{_WHAT}.papers", "pairs of a kind and bytes", type(value).__name__)

"""Signed notes: a text, and who signed it.

    text ending in a newline
                                                    an empty line
    — NAME base64(key id of 4 bytes || signature)   one line a signature

A key is written `NAME+hex(key id)+base64(type || key)`. Its id is SHA-256 over name, newline, type and key, so neither can be put in
another's place. Lines by keys that nobody asked about are kept and say nothing.

>>> key = parse_vkey("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
>>> key.name, key.id.hex()
('PeterNeumann', 'c74f20a3')

Source: C2SP signed-note v1.0.0; tlog-cosignature v1.0.1.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from writ.formats.errors import FormatError, Misuse
from writ.formats.keys import ED25519, PublicKey

PLAIN: Final = 0x01
"""Ed25519 over the text."""
COSIGNATURE: Final = 0x04
"""Ed25519 over the time and the text of a checkpoint (`formats.tlog.cosignature`)."""
KINDS: Final = (PLAIN, COSIGNATURE)

MAX_NOTE: Final = 1 << 20
MOST_SIGNATURES: Final = 100
MAX_NAME: Final = 255

_NAME = re.compile(r"[^\s+\x00-\x20\x7f]{1,255}\Z")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
_HEAD: Final = "— "


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A key that signs notes under `name`: Ed25519, of one of `KINDS`. Does not say whose it is. Raises FormatError."""

    name: str
    kind: int
    key: PublicKey

    def __post_init__(self) -> None:
        _named(self.name, "note key")
        if self.kind not in KINDS:
            raise FormatError("note key", "type 1 (Ed25519) or 4 (cosignature)", f"type {self.kind}")
        if self.key.algorithm != ED25519:
            raise FormatError("note key", "an Ed25519 key", self.key.algorithm)

    @property
    def id(self) -> bytes:
        """Four bytes that find the key; they prove nothing."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.key.raw).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{to_base64(bytes([self.kind]) + self.key.raw)}"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One line: `signature` is whatever follows the key id, by the type of the key."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text and the lines below it. Says nothing yet about who signed it."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def by(self, key: NoteKey) -> NoteSignature | None:
        """The line that says it is of `key`; None where there is none."""
        return next((one for one in self.signatures if (one.name, one.key_id) == (key.name, key.id)), None)


def parse_vkey(text: str) -> NoteKey:
    """Read a key. Raises FormatError."""
    name, _, rest = text.partition("+")
    named, _, encoded = rest.partition("+")
    data = from_base64(encoded, "note key")
    if len(data) != 33:
        raise FormatError("note key", "a type and 32 bytes", f"{len(data)} bytes")
    key = NoteKey(name, data[0], PublicKey(ED25519, data[1:]))
    if named != key.id.hex():
        raise FormatError("note key", f"id {key.id.hex()}", repr(named[:16]))
    return key


def parse_note(data: bytes, what: str = "note", *, max_size: int = MAX_NOTE) -> Note:
    """Read a note.

    1. UTF-8 of at most `max_size` bytes, without control characters but newlines, ending with one.
    2. The last empty line parts text and signatures, and there is at least one of them and at most 100.
    3. Each line is a dash, a name, and base64 in its one spelling of at least five bytes; none is of the same name and key id as another.

    Raises FormatError.
    """
    # 1
    if len(data) > max_size:
        raise FormatError(what, f"at most {max_size} bytes", f"{len(data)} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(what, "UTF-8", "bytes that are not", error.start) from None
    if _CONTROL.search(text) or not text.endswith("\n"):
        raise FormatError(what, "lines of printable text, each ended", "something else")
    # 2
    body, parted, lines = text.rpartition("\n\n")
    signatures = lines.removesuffix("\n").split("\n")
    if not parted or not body or not 1 <= len(signatures) <= MOST_SIGNATURES:
        raise FormatError(what, f"a text, an empty line and 1 to {MOST_SIGNATURES} signatures", "something else")
    # 3
    read = tuple(_signature(line, what) for line in signatures)
    if len({(one.name, one.key_id) for one in read}) != len(read):
        raise FormatError(what, "one signature of a key", "two")
    return Note(body + "\n", read)


def encode_note(note: Note) -> bytes:
    """The bytes of a note. Raises Misuse for what `parse_note` would refuse."""
    lines = (f"{_HEAD}{one.name} {to_base64(one.key_id + one.signature)}\n" for one in note.signatures)
    try:
        data = f"{note.text}\n{''.join(lines)}".encode()
        same = parse_note(data) == note
    except (UnicodeEncodeError, FormatError) as error:
        raise Misuse(f"no note can say this: {error}") from None
    if not same:
        raise Misuse("a note that reads back as another")
    return data


def sign_note(text: str, key: NoteKey, sign: Callable[[bytes], bytes]) -> Note:
    """`text` signed by the private half of `key`, which is one of type 1. Raises Misuse."""
    if key.kind != PLAIN:
        raise Misuse("a plain signature takes a plain key")
    return Note(text, (NoteSignature(key.name, key.id, sign(text.encode())),))


def is_signed(note: Note, key: NoteKey) -> bool:
    """Whether the plain key `key` signed the text. False where no line is of it; so is one that does not hold."""
    line = note.by(key)
    return key.kind == PLAIN and line is not None and key.key.verify(line.signature, note.text.encode())


def _signature(line: str, what: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_HEAD).partition(" ")
    if not line.startswith(_HEAD):
        raise FormatError(what, "signature lines that begin with a dash and a space", "another")
    data = from_base64(encoded, what)
    if len(data) < 5:
        raise FormatError(what, "a key id of 4 bytes and a signature", f"{len(data)} bytes")
    return NoteSignature(_named(name, what), data[:4], data[4:])


def _named(name: str, what: str) -> str:
    if not _NAME.match(name):
        raise FormatError(f"{what} name", f"1 to {MAX_NAME} characters, no space and no plus", repr(name[:80]))
    return name


def to_base64(data: bytes) -> str:
    """Base64 with padding (RFC 4648 section 4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def from_base64(text: str, what: str) -> bytes:
    """Read base64 with padding in its one spelling. Raises FormatError."""
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise FormatError(what, "base64", repr(text[:40])) from None
    if to_base64(data) != text:
        raise FormatError(what, "base64 in its one spelling", repr(text[:40]))
    return data

"""RPM packages: what a `.rpm` will put on a disk, from the digests in its header.

    lead 96 bytes | signature header, padded to 8 | header | payload
    header: 8e ad e8 01, u32 0, u32 entries, u32 bytes | entries of 16 bytes: tag, type, offset, count | bytes

The payload is not read: rpm itself, while it installs, refuses a file whose
content is not what the header says, and the header is under the checksum of
its repository. Its own SHA-256, where the signature header has one, is held
against the bytes; no signature is verified here.

Source: rpm 4.18, docs/manual/format.md, "Package format", "Header Format"; rpmtag.h.
"""

from __future__ import annotations

import hashlib
import re
import stat
from typing import BinaryIO, Final

from verifier.packages import Package
from verifier.packages.deb import absolute
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.tar import MAX_ENTRIES, read_exactly

MAX_HEADER: Final = 64 << 20
MAX_TAGS: Final = 0xFFFF

_MAGIC: Final = b"\x8e\xad\xe8\x01"
_SHA256_HEADER: Final = 273
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH = 1000, 1001, 1002, 1003, 1022
_SOURCE_RPM, _MODES, _DIGESTS, _FLAGS, _DIRECTORY_INDEXES, _BASENAMES, _DIRECTORIES = 1044, 1030, 1035, 1037, 1116, 1117, 1118
_DIGEST_ALGORITHM: Final = 5011
_GHOST: Final = 1 << 6
_SHA256: Final = 8
"""PGPHASHALGO_SHA256. Without the tag the digests are MD5."""

_INT16, _INT32, _STRING, _STRINGS = 3, 4, 6, 8
_SIZES: Final = {_INT16: 2, _INT32: 4}
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~^-]{0,119}\Z", re.ASCII)

_Tags = dict[int, tuple[int, int, int]]
"""Tag -> type, offset, count."""


def read_rpm(file: BinaryIO, what: str = "rpm") -> Package:
    """The package in `file`, which is read from its beginning. Raises FormatError.

    1. Lead: a binary package of format 3 or 4.
    2. Signature header; the header, whose SHA-256 is what the signature header says where it says so.
    3. Name, epoch, version, release, architecture.
    4. Files that are regular and no ghosts, with SHA-256 digests.
    """
    file.seek(0)
    # 1
    lead = read_exactly(file.read, 96, what)
    if lead[:4] != b"\xed\xab\xee\xdb" or lead[4] not in (3, 4):
        raise FormatError(what, "an RPM package", "another file", 0)
    # 2
    signature = _Header(file, f"{what} signature header")
    read_exactly(file.read, -signature.store_size % 8, what)
    header = _Header(file, f"{what} header")
    if signature.has(_SHA256_HEADER) and (said := signature.text(_SHA256_HEADER)) != (got := hashlib.sha256(header.raw).hexdigest()):
        raise FormatError(f"{what} header", f"sha256:{said[:64]}", f"sha256:{got}")
    if not header.has(_SOURCE_RPM):
        raise FormatError(what, "a binary package", "a source package")
    # 3
    name, version, release, architecture = (header.word(tag) for tag in (_NAME, _VERSION, _RELEASE, _ARCH))
    epoch = f"{header.integers(_EPOCH)[0]}:" if header.has(_EPOCH) else ""
    # 4
    files, left_out = _files(header, what) if header.has(_BASENAMES) else ((), 0)
    return Package(name, f"{epoch}{version}-{release}", architecture, files, left_out)


def _files(header: _Header, what: str) -> tuple[tuple[tuple[str, Digest], ...], int]:
    names, directories, places = header.texts(_BASENAMES), header.texts(_DIRECTORIES), header.integers(_DIRECTORY_INDEXES)
    digests, modes, flags = header.texts(_DIGESTS), header.integers(_MODES), header.integers(_FLAGS)
    if not len(names) == len(places) == len(digests) == len(modes) == len(flags) <= MAX_ENTRIES:
        raise FormatError(f"{what} header", "as many digests, modes and flags as names", f"{len(names)} names, {len(digests)} digests")
    algorithm = header.integers(_DIGEST_ALGORITHM)[0] if header.has(_DIGEST_ALGORITHM) else 1
    found: dict[str, Digest] = {}
    for name, place, digest, mode, flag in zip(names, places, digests, modes, flags, strict=True):
        if not stat.S_ISREG(mode) or flag & _GHOST:
            continue
        if place >= len(directories):
            raise FormatError(f"{what} header", f"one of {len(directories)} directories", f"{place}")
        if algorithm != _SHA256:
            raise FormatError(f"{what} header", "file digests of SHA-256", "MD5" if algorithm == 1 else f"algorithm {algorithm}")
        path = absolute(directories[place] + b"/" + name, what)
        if path in found or not re.fullmatch(rb"[0-9a-f]{64}", digest):
            raise FormatError(f"{what} header", "each path once, with a digest in hex", f"{ascii(path)[:100]} {digest[:64]!r}")
        found[path] = Digest("sha256", bytes.fromhex(digest.decode("ascii")))
    return tuple(sorted(found.items())), len(names) - len(found)


class _Header:
    """One header structure, read from where the file stands."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._what = what
        head = read_exactly(file.read, 16, what)
        count, self.store_size = int.from_bytes(head[8:12], "big"), int.from_bytes(head[12:16], "big")
        if head[:4] != _MAGIC or not 1 <= count <= MAX_TAGS or self.store_size > MAX_HEADER:
            raise FormatError(what, f"a header of at most {MAX_TAGS} tags and {MAX_HEADER} bytes", head[:8].hex())
        index, self._store = read_exactly(file.read, 16 * count, what), read_exactly(file.read, self.store_size, what)
        self.raw = head + index + self._store
        self._tags: _Tags = {}
        for at in range(0, len(index), 16):
            tag, kind, offset, number = (int.from_bytes(index[at + part : at + part + 4], "big") for part in (0, 4, 8, 12))
            if tag in self._tags or offset > self.store_size:
                raise FormatError(what, "each tag once, its value within the header", f"tag {tag}")
            self._tags[tag] = kind, offset, number

    def has(self, tag: int) -> bool:
        """Whether the tag is there."""
        return tag in self._tags

    def _value(self, tag: int, *kinds: int) -> tuple[int, int, int]:
        found = self._tags.get(tag)
        if found is None or found[0] not in kinds or not 1 <= found[2] <= self.store_size:
            raise FormatError(
                self._what, f"tag {tag} of type {' or '.join(map(str, kinds))}", "none" if found is None else f"type {found[0]}"
            )
        return found

    def integers(self, tag: int) -> list[int]:
        """The 16 or 32 bit integers of a tag, at least one."""
        kind, offset, count = self._value(tag, _INT16, _INT32)
        size = _SIZES[kind]
        part = self._store[offset : offset + size * count]
        if len(part) != size * count:
            raise FormatError(self._what, f"{count} integers for tag {tag}", f"{len(part)} bytes")
        return [int.from_bytes(part[at : at + size], "big") for at in range(0, len(part), size)]

    def texts(self, tag: int) -> list[bytes]:
        """The strings of a tag, at least one."""
        _, offset, count = self._value(tag, _STRING, _STRINGS)
        parts = self._store[offset:].split(b"\0", count)
        if len(parts) <= count:
            raise FormatError(self._what, f"{count} strings for tag {tag}", f"{len(parts) - 1}")
        return parts[:count]

    def text(self, tag: int) -> str:
        """The one string of a tag, in ASCII."""
        return self.texts(tag)[0].decode("ascii", "replace")

    def word(self, tag: int) -> str:
        """A name, version, release or architecture."""
        if not _WORD.match(text := self.text(tag)):
            raise FormatError(f"{self._what} tag {tag}", "a name or version", ascii(text)[:80])
        return text

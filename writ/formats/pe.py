"""PE/COFF images: what firmware measures of them, and what a unified kernel image (UKI) holds.

    "MZ" … u32 at 0x3c: where "PE\\0\\0" stands
    COFF header, 20 bytes: machine, number of sections, …, size of the optional header, characteristics
    optional header: magic 0x10b (PE32) or 0x20b (PE32+), …, checksum at 64, …, data directories
    section headers, 40 bytes each: name, virtual size, virtual address, raw size, raw offset, …
    contents; at the very end the certificate table, if the image is signed

The Authenticode digest leaves out the checksum, the directory entry of the
certificate table and that table, so that signing does not change it. It is
what `EV_EFI_BOOT_SERVICES_APPLICATION` extends and what db and dbx list.

Firmware hashes the bytes of the file as it lies there. A signing tool that
pads an unsigned file to eight bytes hashes the padding with it: the digest of
an unsigned file whose size is no multiple of 8 is not that of its signed copy.

What is read here is what EDK II accepts to hash, less what two readers could
understand differently: overlapping contents and bytes behind the certificates
are refused. A digest says what was read, not that anyone signed it or booted it.

Source: Microsoft, PE Format, "Certificate Data", "Section Table"; Windows Authenticode Portable Executable Signature Format 1.0,
"Calculating the PE Image Hash"; EDK II, DxeTpm2MeasureBootLib, MeasurePeCoff.c; UAPI Group, "Unified Kernel Image".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError, Misuse

MAX_IMAGE: Final = 2 << 30
"""Bytes."""
MAX_SECTIONS: Final = 96
"""What the Windows loader takes; more than any boot image has."""
MAX_PADDING: Final = 1 << 20
"""Zero bytes that a section's content may have in memory beyond the file."""

_PE32, _PE32_PLUS = 0x10B, 0x20B
_DIRECTORIES_AT: Final = {_PE32: 96, _PE32_PLUS: 112}
_CERTIFICATES: Final = 4
_MOST_DIRECTORIES: Final = 16


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its name without padding, where its content lies in the file, and how long it is in memory, in bytes."""

    name: str
    virtual_size: int
    virtual_address: int
    raw_offset: int
    raw_size: int


@dataclass(frozen=True, slots=True)
class Image:
    """A PE image as parsed. `certificates` is (offset, size) of the certificate table, None for an unsigned image."""

    data: bytes
    machine: int
    sections: tuple[Section, ...]
    certificates: tuple[int, int] | None
    skipped: tuple[tuple[int, int], ...]
    """(start, end) of what the headers hold that the Authenticode digest leaves out."""
    headers: int

    def named(self, name: str) -> Section | None:
        """The first section of this name."""
        return next((section for section in self.sections if section.name == name), None)

    def content(self, section: Section) -> bytes:
        """The section as it lies in memory: `virtual_size` bytes, zeros where the file has fewer.

        A section whose virtual size is 0 is as long as its raw data. Raises
        FormatError for more than `MAX_PADDING` zeros.
        """
        size = section.virtual_size or section.raw_size
        if size - section.raw_size > MAX_PADDING:
            raise FormatError(f"PE section {section.name!a}", f"at most {MAX_PADDING} bytes beyond the file", f"{size - section.raw_size}")
        return self.data[section.raw_offset : section.raw_offset + min(size, section.raw_size)].ljust(size, b"\0")

    def digest(self, algorithm: str = "sha256") -> Digest:
        """The Authenticode digest.

        1. The headers without the checksum and the directory entry of the certificates.
        2. Each section's raw data, in the order of the file.
        3. What follows, up to the certificate table.
        """
        if algorithm not in SIZES:
            raise Misuse(f"unknown hash algorithm {algorithm!r}")
        running, view, at = hashlib.new(algorithm, usedforsecurity=True), memoryview(self.data), 0
        # 1
        for start, end in self.skipped:
            running.update(view[at:start])
            at = end
        running.update(view[at : self.headers])
        # 2
        hashed = self.headers
        for section in sorted(self.sections, key=lambda section: section.raw_offset):
            running.update(view[section.raw_offset : section.raw_offset + section.raw_size])
            hashed += section.raw_size
        # 3
        running.update(view[hashed : len(self.data) - (self.certificates[1] if self.certificates else 0)])
        return Digest(algorithm, running.digest())


def parse_pe(data: bytes, what: str = "PE image") -> Image:
    """Read the headers of an image; contents stay where they are. Raises FormatError, and nothing else, on any bytes.

    1. DOS header, signature, COFF header.
    2. Optional header: as long as its directories say; checksum, size of the headers, certificate table.
    3. Section headers, within the headers.
    4. Contents: within the file, apart from each other, before the certificates, which end it.
    """
    if len(data) > MAX_IMAGE:
        raise FormatError(what, f"at most {MAX_IMAGE} bytes", f"{len(data)} bytes")
    # 1
    if data[:2] != b"MZ":
        raise FormatError(what, "MZ", data[:2].hex() or "nothing", 0)
    pe = _u32(data, 0x3C, what)
    if _part(data, pe, 4, what) != b"PE\0\0":
        raise FormatError(what, "PE and two zero bytes", data[pe : pe + 4].hex(), pe)
    machine, count, optional_size = _u16(data, pe + 4, what), _u16(data, pe + 6, what), _u16(data, pe + 20, what)
    # 2
    optional = pe + 24
    magic = _u16(data, optional, what)
    if magic not in _DIRECTORIES_AT:
        raise FormatError(what, "an optional header of PE32 or PE32+", f"magic {magic:#x}", optional)
    directories_at = _DIRECTORIES_AT[magic]
    directories = _u32(data, optional + directories_at - 4, what)
    if directories > _MOST_DIRECTORIES or optional_size != directories_at + 8 * directories:
        raise FormatError(
            what, f"an optional header of {directories_at} bytes and 8 for each of at most 16 directories", f"{optional_size}"
        )
    headers = _u32(data, optional + 60, what)
    skipped, certificates = [(optional + 64, optional + 68)], None
    if directories > _CERTIFICATES:
        entry = optional + directories_at + 8 * _CERTIFICATES
        skipped.append((entry, entry + 8))
        offset, size = _u32(data, entry, what), _u32(data, entry + 4, what)
        certificates = (offset, size) if size else None
        if certificates and (offset + size != len(data) or offset % 8):
            raise FormatError(what, "a certificate table at a multiple of 8 that ends the file", f"{size} bytes at {offset}", entry)
    # 3
    table = optional + optional_size
    if count > MAX_SECTIONS or not table + 40 * count <= headers <= len(data):
        raise FormatError(
            what, f"at most {MAX_SECTIONS} section headers within the headers", f"{count} and {headers} bytes of headers", table
        )
    sections = tuple(_section(data, table + 40 * at, what) for at in range(count))
    # 4
    end, last = headers, len(data) if certificates is None else certificates[0]
    for section in sorted((section for section in sections if section.raw_size), key=lambda section: section.raw_offset):
        if not end <= section.raw_offset <= section.raw_offset + section.raw_size <= last:
            got = f"{section.name!a}: {section.raw_size} bytes at {section.raw_offset}"
            raise FormatError(what, f"contents apart from each other, between {headers} and {last}", got)
        end = section.raw_offset + section.raw_size
    return Image(data, machine, sections, certificates, tuple(skipped), headers)


def _section(data: bytes, at: int, what: str) -> Section:
    name = _part(data, at, 8, what).rstrip(b"\0").decode("latin-1")
    virtual_size, virtual_address, raw_size, raw_offset = (_u32(data, at + offset, what) for offset in (8, 12, 16, 20))
    return Section(name, virtual_size, virtual_address, raw_offset if raw_size else 0, raw_size)


def _part(data: bytes, at: int, size: int, what: str) -> bytes:
    if at + size > len(data):
        raise FormatError(what, f"{size} bytes", f"{max(len(data) - at, 0)} bytes", at)
    return data[at : at + size]


def _u16(data: bytes, at: int, what: str) -> int:
    return int.from_bytes(_part(data, at, 2, what), "little")


def _u32(data: bytes, at: int, what: str) -> int:
    return int.from_bytes(_part(data, at, 4, what), "little")

"""Small PE images, made from their sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ALIGNMENT: Final = 512


def make_pe(
    sections: Sequence[tuple[str, bytes]],
    *,
    certificates: bytes = b"",
    plus: bool = True,
    checksum: int = 0,
    directories: int = 16,
    trailing: bytes = b"",
    machine: int = 0x8664,
) -> bytes:
    """A PE image whose contents lie 512 bytes apart, with `trailing` behind them and then the certificates, if any."""
    fixed = 112 if plus else 96
    optional = bytearray(fixed + 8 * directories)
    optional[0:2] = (0x20B if plus else 0x10B).to_bytes(2, "little")
    pe_at = 0x80
    table_at = pe_at + 24 + len(optional)
    headers = -(-(table_at + 40 * len(sections)) // ALIGNMENT) * ALIGNMENT
    table, contents, at, address = b"", b"", headers, 0x1000
    for name, content in sections:
        raw = content.ljust(-(-len(content) // ALIGNMENT) * ALIGNMENT, b"\0")
        fields = (len(content), address, len(raw), at if raw else 0)
        table += name.encode("latin-1").ljust(8, b"\0") + b"".join(f.to_bytes(4, "little") for f in fields) + bytes(16)
        contents += raw
        at += len(raw)
        address += max(len(raw), 0x1000)
    body_end = at + len(trailing)
    if certificates:
        trailing += bytes(-body_end % 8)
        body_end += -body_end % 8
        optional[fixed + 32 : fixed + 40] = body_end.to_bytes(4, "little") + len(certificates).to_bytes(4, "little")
    optional[60:64] = headers.to_bytes(4, "little")
    optional[64:68] = checksum.to_bytes(4, "little")
    optional[fixed - 4 : fixed] = directories.to_bytes(4, "little")
    coff = machine.to_bytes(2, "little") + len(sections).to_bytes(2, "little") + bytes(12) + len(optional).to_bytes(2, "little") + bytes(2)
    dos = b"MZ".ljust(0x3C, b"\0") + pe_at.to_bytes(4, "little")
    head = (dos.ljust(pe_at, b"\0") + b"PE\0\0" + coff + optional + table).ljust(headers, b"\0")
    return head + contents + trailing + certificates

"""Bytes as tools of others write them into text: hexadecimal, or base64 of either alphabet, padded or not. No format of ours is so."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from writ.formats.errors import FormatError

_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")


def bytes_of_text(text: str, what: str) -> bytes:
    """What the text spells, with space where a tool broke its lines: hexadecimal where all of it may be that. Raises FormatError."""
    try:
        plain = "".join(text.split()).encode("ascii")
        if not plain.lower().strip(b"0123456789abcdef"):
            return binascii.a2b_hex(plain)
        plain = plain.translate(_FROM_URL).rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except ValueError:  # also of what is not ASCII
        raise FormatError(what, "hexadecimal or base64", repr(text[:40])) from None

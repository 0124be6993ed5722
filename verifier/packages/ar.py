"""The container that Debian packages come in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from writ.formats.errors import FormatError


def ar_members(file: BinaryIO, what: str, *, most: int = 16) -> Iterator[tuple[str, int]]:
    """Name and size of each member; `file` then stands at its content, of which any part may be read before the next.

    Raises FormatError. Source: ar(5), deb(5).
    """
    if file.read(8) != b"!<arch>\n":
        raise FormatError(what, "an ar archive", "another file", 0)
    end = file.seek(0, 2)
    at = 8
    for _ in range(most):
        if at >= end:
            return
        file.seek(at)
        header = file.read(60)
        name, size = header[:16].rstrip(b" ").removesuffix(b"/"), header[48:58].rstrip(b" ")
        if len(header) != 60 or header[58:] != b"`\n" or not size.isdigit() or not name.isascii():
            raise FormatError(what, "the header of an ar member", "other bytes", at)
        if int(size) > end - at - 60:
            raise FormatError(what, f"a member of {int(size)} bytes", f"{end - at - 60}", at)
        yield name.decode("ascii"), int(size)
        at += 60 + int(size) + int(size) % 2
    raise FormatError(what, f"at most {most} members", "more", at)

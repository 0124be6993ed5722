"""Files as an auditor is handed them: read up to a bound, and written whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from writ.formats.errors import FormatError, Unavailable

if TYPE_CHECKING:
    from writ.formats.archive import Archive


def read(path: Path, most: int) -> bytes:
    """The bytes of a file of at most `most`. Raises Unavailable or FormatError."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unavailable(str(path), error.strerror or "cannot be read") from None
    if len(data) > most:
        raise FormatError(str(path), f"at most {most} bytes", "a larger file")
    return data


def write(path: Path, data: bytes) -> None:
    """The file has these bytes. Raises Unavailable."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be written") from None


def archive_of(sources: Sequence[Path]) -> Archive:
    """The union of archives. Raises Unavailable, FormatError for what is none and for two logs that part."""
    from writ.formats.archive import EMPTY, MAX_ARCHIVE, parse_archive

    archive = EMPTY
    for source in sources:
        archive = archive.merged(parse_archive(read(source, MAX_ARCHIVE)))
    return archive

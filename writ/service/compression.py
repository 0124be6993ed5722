"""Compressed streams, unpacked forwards and bounded: gzip, xz, bzip2, and zstd by its program.

Nothing here believes a size: a stream is refused when it grows beyond what is asked for, a decompressor beyond `MAX_MEMORY`.
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, Protocol, cast

from writ.formats.errors import FormatError, Unavailable
from writ.formats.tar import CHUNK, Read

MAX_UNPACKED: Final = 16 << 30
"""Bytes that one compressed stream may grow to."""
MAX_MEMORY: Final = 256 << 20
"""Bytes that a decompressor may take; `xz -9` needs 65 MiB, `zstd --ultra -22` 128."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _Gzip:
    """zlib's object with the methods of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_MAKERS: Final[dict[str, Callable[[], _Decompressor]]] = {
    "gz": _Gzip,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY),
    "bz2": bz2.BZ2Decompressor,
}
COMPRESSIONS: Final = ("", *_MAKERS, "zst")


@contextmanager
def decompressed(compression: str, read: Read, what: str, *, most: int = MAX_UNPACKED) -> Iterator[Read]:
    """A stream of what `read` holds compressed, of at most `most` bytes; `compression` is a suffix without its dot.

    Raises FormatError, when read from, for what is not such a stream or grows
    larger; Unavailable for zst where no program `zstd` is installed.
    """
    if compression == "":
        yield _bounded(read, most, what)
    elif compression == "zst":
        with _zstd(read, what) as inflated:
            yield _bounded(inflated, most, what)
    elif compression in _MAKERS:
        yield _bounded(_inflated(_MAKERS[compression], read, f"{what} ({compression})"), most, what)
    else:
        raise FormatError(what, f"a compression of {', '.join(filter(None, COMPRESSIONS))}, or none", compression[:20])


def _bounded(read: Read, most: int, what: str) -> Read:
    left = most

    def bounded(size: int) -> bytes:
        nonlocal left
        part = read(size)
        left -= len(part)
        if left < 0:
            raise FormatError(what, f"at most {most} bytes unpacked", "more")
        return part

    return bounded


def _inflated(make: Callable[[], _Decompressor], read: Read, what: str) -> Read:
    """Stream after stream, as the tools concatenate them; zero bytes may follow the last."""
    inner, given, ended = make(), b"", False

    def inflate(size: int) -> bytes:
        nonlocal inner, given, ended
        while size and not ended:
            if inner.eof:
                given = (inner.unused_data or given).lstrip(b"\0")
                while not given and (more := read(CHUNK)):
                    given = more.lstrip(b"\0")
                if not given:
                    ended = True
                    break
                inner = make()
            try:
                part = inner.decompress(given, size)
                given = b""
                if part or inner.eof:
                    if part:
                        return part
                    continue
                if not (given := read(CHUNK)):
                    raise FormatError(what, "a whole stream", "its beginning")
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                raise FormatError(what, "a stream that can be unpacked", type(error).__name__) from None
        return b""

    return inflate


@contextmanager
def _zstd(read: Read, what: str) -> Iterator[Read]:
    program = shutil.which("zstd")
    if program is None:
        raise Unavailable(what, "expected the program zstd, to unpack a .zst member; found none")
    with tempfile.TemporaryFile() as packed:
        while part := read(CHUNK):
            packed.write(part)
        packed.seek(0)
        command = [program, "--decompress", "--stdout", "--quiet", f"--memory={MAX_MEMORY >> 20}MB"]
        running = subprocess.Popen(command, stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        output = cast(BinaryIO, running.stdout)  # PIPE was asked for
        try:

            def inflate(size: int) -> bytes:
                part = output.read(min(size, CHUNK))
                if not part and size and running.wait() != 0:
                    raise FormatError(f"{what} (zst)", "a stream that can be unpacked", f"exit status {running.returncode} of zstd")
                return part

            yield inflate
        finally:
            output.close()
            running.kill()
            running.wait()

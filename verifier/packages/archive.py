"""The containers that packages come in: ar, tar, and compressed streams, read forwards and bounded.

Nothing here believes a size: a stream is refused when it grows beyond
`MAX_UNPACKED`, a name beyond `MAX_NAME`, a decompressor beyond `MAX_MEMORY`.
The tar reader knows what dpkg knows (deb(5)): v7, ustar, and GNU long names.
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
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol, cast

from writ.formats.errors import FormatError, Unavailable

MAX_UNPACKED: Final = 16 << 30
"""Bytes that one compressed stream may grow to."""
MAX_MEMORY: Final = 256 << 20
"""Bytes that a decompressor may take; `xz -9` needs 65 MiB, `zstd --ultra -22` 128."""
MAX_NAME: Final = 8192
MAX_ENTRIES: Final = 200_000
CHUNK: Final = 1 << 20

Read = Callable[[int], bytes]
"""At most so many bytes of a stream; none at its end."""


def read_exactly(read: Read, size: int, what: str) -> bytes:
    """`size` bytes. Raises FormatError where the stream ends before."""
    parts, left = [], size
    while left and (part := read(left)):
        parts.append(part)
        left -= len(part)
    if left:
        raise FormatError(what, f"{size} bytes", f"{size - left}")
    return b"".join(parts)


def limited(file: BinaryIO, size: int) -> Read:
    """The next `size` bytes of `file`, as a stream of their own."""
    left = size

    def read(most: int) -> bytes:
        nonlocal left
        part = file.read(min(most, left))
        left -= len(part)
        return part

    return read


# --- compression -------------------------------------------------------------------------------------------------------


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


# --- ar ----------------------------------------------------------------------------------------------------------------


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


# --- tar ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry: its path as bytes, its type flag (`0` file, `1` hard link, `2` symbolic link, `5` directory, …), target and size."""

    path: bytes
    flag: str
    target: bytes
    size: int


def tar_entries(read: Read, what: str) -> Iterator[tuple[TarEntry, Read]]:
    """Each entry with a stream of its content. What is not read of it is passed over. Raises FormatError.

    Type flags that dpkg does not know (PAX headers, sparse files) are refused.
    """
    long_path, long_target = b"", b""
    for _ in range(2 * MAX_ENTRIES):
        header = read_exactly(read, 512, what)
        if not any(header):
            return
        _check_sum(header, what)
        size, flag = _number(header[124:136], what), chr(header[156] or ord("0"))
        if flag in "LK":
            name = read_exactly(read, _name_size(size, what), what).rstrip(b"\0")
            read_exactly(read, -size % 512, what)
            long_path, long_target = (name, long_target) if flag == "L" else (long_path, name)
            continue
        if flag not in "0123456":
            raise FormatError(what, "a tar entry of a type that dpkg knows", repr(flag))
        path, target = header[:100].partition(b"\0")[0], header[157:257].partition(b"\0")[0]
        if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
            path = prefix + b"/" + path
        content = size if flag == "0" else 0
        left = content

        def inner(most: int) -> bytes:
            nonlocal left
            part = read(min(most, left))
            if not part and left and most:
                raise FormatError(what, f"{left} more bytes of a file", "the end")
            left -= len(part)
            return part

        yield TarEntry(long_path or path, flag, long_target or target, content), inner
        while left:
            inner(CHUNK)
        read_exactly(read, -content % 512, what)
        long_path, long_target = b"", b""
    raise FormatError(what, f"at most {2 * MAX_ENTRIES} tar entries", "more")


def _name_size(size: int, what: str) -> int:
    if not 1 <= size <= MAX_NAME:
        raise FormatError(what, f"a name of 1 to {MAX_NAME} bytes", f"{size}")
    return size


def _check_sum(header: bytes, what: str) -> None:
    blank = header[:148] + b" " * 8 + header[156:]
    if _number(header[148:156], what) not in (sum(blank), sum(byte - 256 if byte > 127 else byte for byte in blank)):
        raise FormatError(what, "a tar header that sums up", "another sum")


def _number(field: bytes, what: str) -> int:
    """Octal digits, or base 256 as GNU tar writes large sizes."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if digits and not all(byte in b"01234567" for byte in digits):
            raise FormatError(what, "an octal number", repr(field)[:60])
        number = int(digits or b"0", 8)
    if number > MAX_UNPACKED:
        raise FormatError(what, f"at most {MAX_UNPACKED} bytes", f"{number}")
    return number

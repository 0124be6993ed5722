"""tar archives, read forwards and bounded: v7, ustar, GNU long names, and PAX headers where the reader asks for them.

Nothing here believes a size: a number beyond `MAX_NUMBER` is refused, a name beyond `MAX_NAME`, a PAX header beyond `MAX_PAX`. A path
is bytes as they stand; where it leads is the reader's to judge.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Interchange Format"; tar(5) of GNU tar; deb(5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from writ.formats.errors import FormatError

MAX_NUMBER: Final = 16 << 30
"""Bytes of one file, and any other number of a header."""
MAX_NAME: Final = 8192
MAX_PAX: Final = 1 << 20
"""Bytes of one extended header: names, times and extended attributes."""
MAX_ENTRIES: Final = 200_000
CHUNK: Final = 1 << 20
CAPABILITY: Final = "SCHILY.xattr.security.capability"
"""The PAX key under which a file's capabilities stand."""
_SPARSE: Final = "GNU.sparse."

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


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry: its path as bytes, its type flag (`0` file, `1` hard link, `2` symbolic link, `5` directory, …), target and size.

    `mode` are its permission bits, with setuid, setgid and sticky; `capable` says that it carries file capabilities.
    """

    path: bytes
    flag: str
    target: bytes
    size: int
    mode: int = 0
    capable: bool = False


def tar_entries(read: Read, what: str, *, pax: bool = False) -> Iterator[tuple[TarEntry, Read]]:
    """Each entry with a stream of its content, up to the first block of zeros. What is not read of it is passed over.

    Type flags that dpkg does not know are refused (sparse files, and what is newer), but for extended headers with `pax`, of which path,
    target and size count. Raises FormatError.
    """
    long_path, long_target, extended = b"", b"", dict[str, bytes]()
    for _ in range(2 * MAX_ENTRIES):
        header = read_exactly(read, 512, what)
        if not any(header):
            if long_path or long_target or extended:
                raise FormatError(what, "an entry after its long name or extended header", "the end")
            return
        _check_sum(header, what)
        size, flag = _number(header[124:136], what), chr(header[156] or ord("0"))
        if flag in "LK":
            name = read_exactly(read, _name_size(size, what), what).rstrip(b"\0")
            read_exactly(read, -size % 512, what)
            long_path, long_target = (name, long_target) if flag == "L" else (long_path, name)
            continue
        if pax and flag in "xg":
            records = _pax(read_exactly(read, _pax_size(size, what), what), what)
            read_exactly(read, -size % 512, what)
            if flag == "x":
                extended = records
            elif records.keys() & {"path", "linkpath", "size"}:
                raise FormatError(what, "a name and a size for one entry", "a global extended header with them")
            continue
        entry = _entry(header, flag, size, (long_path, long_target), extended, what)
        left = entry.size

        def inner(most: int) -> bytes:
            nonlocal left
            part = read(min(most, left))
            if not part and left and most:
                raise FormatError(what, f"{left} more bytes of a file", "the end")
            left -= len(part)
            return part

        yield entry, inner
        while left:
            inner(CHUNK)
        read_exactly(read, -entry.size % 512, what)
        long_path, long_target, extended = b"", b"", {}
    raise FormatError(what, f"at most {2 * MAX_ENTRIES} tar entries", "more")


def _entry(header: bytes, flag: str, size: int, long: tuple[bytes, bytes], extended: Mapping[str, bytes], what: str) -> TarEntry:
    """The entry of a header, and of what came before it."""
    if flag not in "0123456":
        raise FormatError(what, "a tar entry of a type that we know", repr(flag))
    path, target = header[:100].partition(b"\0")[0], header[157:257].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
        path = prefix + b"/" + path
    if "size" in extended:
        size = _decimal(extended["size"], what)
    content = size if flag == "0" else 0
    path, target = extended.get("path") or long[0] or path, extended.get("linkpath") or long[1] or target
    return TarEntry(path, flag, target, content, _number(header[100:108], what) & 0o7777, CAPABILITY in extended)


def _pax(data: bytes, what: str) -> dict[str, bytes]:
    """The records of an extended header: `LENGTH KEY=VALUE\\n`, each key once. Raises FormatError."""
    found: dict[str, bytes] = {}
    while data:
        digits = data[:8].partition(b" ")[0]
        length = _decimal(digits, what)
        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if length > len(data) or not equals or data[length - 1 : length] != b"\n":
            raise FormatError(what, "a PAX record `LENGTH KEY=VALUE`", repr(data[:40]))
        try:
            name = key.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(what, "PAX keys in UTF-8", repr(key[:40])) from None
        if name in found or name.startswith(_SPARSE):
            raise FormatError(what, "PAX keys, each once, and no sparse file", repr(name)[:60])
        if name in ("path", "linkpath") and (not 1 <= len(value) <= MAX_NAME or b"\0" in value):
            raise FormatError(what, f"a name of 1 to {MAX_NAME} bytes without NUL", f"{len(value)} bytes")
        found[name], data = value, data[length:]
    return found


def _pax_size(size: int, what: str) -> int:
    if not 1 <= size <= MAX_PAX:
        raise FormatError(what, f"an extended header of 1 to {MAX_PAX} bytes", f"{size}")
    return size


def _decimal(digits: bytes, what: str) -> int:
    if not 1 <= len(digits) <= 20 or not digits.isdigit() or (number := int(digits)) > MAX_NUMBER:
        raise FormatError(what, f"a decimal number up to {MAX_NUMBER}", repr(digits[:20]))
    return number


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
    if number > MAX_NUMBER:
        raise FormatError(what, f"at most {MAX_NUMBER} bytes", f"{number}")
    return number

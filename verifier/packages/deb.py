"""Debian packages: what a `.deb` will put on a disk.

    !<arch>  debian-binary "2.0\\n"  control.tar.{gz,xz,zst}  data.tar.{gz,xz,bz2,zst}

Source: deb(5), deb-control(5); Debian Policy 5.6 (names, versions, architectures).
"""

from __future__ import annotations

import hashlib
import re
from typing import BinaryIO, Final

from verifier.packages import Package
from verifier.packages.ar import ar_members
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.tar import CHUNK, MAX_ENTRIES, Read, limited, read_exactly, tar_entries
from writ.formats.tree import spell
from writ.service.compression import decompressed

MAX_CONTROL: Final = 1 << 20
MAX_CONTROL_TAR: Final = 64 << 20

_FIELDS: Final = {
    "Package": re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}\Z", re.ASCII),
    "Version": re.compile(r"[A-Za-z0-9.+:~-]{1,120}\Z", re.ASCII),
    "Architecture": re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z", re.ASCII),
}


def read_deb(file: BinaryIO, what: str = "deb") -> Package:
    """The package in `file`, which is read from its beginning. Raises FormatError; Unavailable as `decompressed`.

    1. The members of the ar archive, in their order.
    2. The control file's name, version and architecture.
    3. The data: each regular file hashed as it goes by; hard links are files.
    """
    file.seek(0)
    fields: dict[str, str] = {}
    for at, (name, size) in enumerate(member for member in ar_members(file, what) if not member[0].startswith("_")):
        stem, _, suffix = name.partition(".tar")
        compression = suffix.removeprefix(".")
        # 1
        if at == 0:
            if name != "debian-binary" or not read_exactly(limited(file, min(size, 16)), min(size, 16), what).startswith(b"2."):
                raise FormatError(what, "debian-binary of version 2", name[:20])
        # 2
        elif at == 1 and stem == "control":
            with decompressed(compression, limited(file, size), what, most=MAX_CONTROL_TAR) as read:
                fields = _control(read, what)
        # 3
        elif at == 2 and stem == "data":
            with decompressed(compression, limited(file, size), what) as read:
                files, left_out = _files(read, what)
            return Package(fields["Package"], fields["Version"], fields["Architecture"], files, left_out)
        else:
            raise FormatError(what, "debian-binary, control.tar and data.tar", name[:20])
    raise FormatError(what, "debian-binary, control.tar and data.tar", "less")


def _control(read: Read, what: str) -> dict[str, str]:
    for entry, content in tar_entries(read, f"{what} control"):
        if entry.flag == "0" and entry.path.removeprefix(b"./") == b"control":
            if entry.size > MAX_CONTROL:
                raise FormatError(f"{what} control", f"at most {MAX_CONTROL} bytes", f"{entry.size}")
            found = fields_of(read_exactly(content, entry.size, what), f"{what} control")
            return checked(found, f"{what} control")
    raise FormatError(f"{what} control", "a file control", "none")


def fields_of(data: bytes, what: str) -> dict[str, str]:
    """The fields of one stanza: name -> first line of the value. Raises FormatError."""
    found: dict[str, str] = {}
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise FormatError(what, "UTF-8", "bytes that are not") from None
    for line in lines:
        if line.startswith((" ", "\t", "#")) or not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon or name in found:
            raise FormatError(what, "fields `Name: value`, each once", line[:60])
        found[name] = value.strip()
    return found


def checked(found: dict[str, str], what: str) -> dict[str, str]:
    """`found`, if name, version and architecture are there and are such. Raises FormatError."""
    for name, pattern in _FIELDS.items():
        if not pattern.match(found.get(name, "")):
            raise FormatError(f"{what}.{name}", "one as Debian Policy has it", repr(found.get(name))[:80])
    return found


def _files(read: Read, what: str) -> tuple[tuple[tuple[str, Digest], ...], int]:
    found: dict[str, Digest] = {}
    left_out = 0
    for entry, content in tar_entries(read, f"{what} data"):
        if entry.flag not in "01":
            left_out += 1
            if left_out > MAX_ENTRIES:
                raise FormatError(f"{what} data", f"at most {MAX_ENTRIES} entries", "more")
            continue
        path = absolute(entry.path, what)
        if path in found:
            raise FormatError(f"{what} data", "each path once", ascii(path)[:120])
        if entry.flag == "1":
            target = absolute(entry.target, what)
            if target not in found:
                raise FormatError(f"{what} data", "a hard link to a file before it", ascii(target)[:120])
            found[path] = found[target]
        else:
            running = hashlib.sha256()
            while part := content(CHUNK):
                running.update(part)
            found[path] = Digest("sha256", running.digest())
        if len(found) > MAX_ENTRIES:
            raise FormatError(f"{what} data", f"at most {MAX_ENTRIES} files", "more")
    return tuple(sorted(found.items())), left_out


def absolute(path: bytes, what: str) -> str:
    """Where a path of a package lies once it is installed, in the one spelling of names. Raises FormatError for one that leads up."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if not parts or b".." in parts or b"\0" in path:
        raise FormatError(what, "a path within the package", repr(path)[:120])
    return "/" + "/".join(map(spell, parts))

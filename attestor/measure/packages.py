"""Installed packages: a tree in which every distribution's RECORD is checked, not believed.

The source is a `site-packages` directory, or a virtual environment, of which
its `site-packages` is the component (its `bin` holds links out of it and an
`activate` that no agent runs). Everything in it is measured, listed in a
RECORD or not. A RECORD adds a demand: each file it names with a hash must be
there and be that file.

Files that a RECORD names outside the source (console scripts, manual pages)
are no part of the component and cannot be reached from the store; they are
neither checked nor measured.

Source: PyPA, "Recording installed projects": RECORD, hash as urlsafe base64 without padding.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attestor.measure.tree import Reader, hash_file, measure_tree
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.strict import b64url, parse_b64url
from writ.formats.tree import Component, ComponentKind, Entry, spell, unspell

MAX_RECORD: Final = 64 << 20
_HASHES: Final = ("sha256", "sha384", "sha512")


def measure_packages(
    name: str, kind: ComponentKind, source: Path, *, excludes: Callable[[str], bool] = lambda _: False, read: Reader = hash_file
) -> Component:
    """The component that `source` is, every RECORD in it satisfied. Raises Refused `record-mismatch`, or as `measure_tree`."""
    root = site_packages(name, source)
    measured = measure_tree(name, kind, root, excludes=excludes, read=read)
    by_path = {entry.path: entry for entry in measured.entries}
    for path in by_path:
        if path.endswith(".dist-info/RECORD") and path.count("/") == 1:
            _check_record(name, root, path, by_path, excludes)
    return measured


def site_packages(name: str, source: Path) -> Path:
    """`source` itself, or the one site-packages of the virtual environment that it is."""
    if not (source / "pyvenv.cfg").is_file():
        return source
    found = sorted(source.glob("lib/python3*/site-packages"))
    if len(found) != 1:
        raise Refused(Reason("source-missing", f"{name}:{source}"[:1000], "one lib/python3*/site-packages", f"{len(found)}"))
    return found[0]


def _check_record(name: str, root: Path, path: str, by_path: dict[str, Entry], excludes: Callable[[str], bool]) -> None:
    """Each row of the RECORD holds: path, hash, size."""
    for row in _rows(name, root, path, by_path[path]):
        listed = _normal(row[0]) if len(row) == 3 else None
        if listed is None:
            raise _mismatch(name, path, "rows of relative path, hash and size", ",".join(row)[:100])
        inner = spell(listed.encode("utf-8", "surrogateescape"))
        if listed.startswith(("../", "/")) or excludes(inner):
            continue
        entry = by_path.get(inner)
        if entry is None and not row[1]:
            continue  # a bytecode cache or a signature: named without a hash, so that it may be missing
        if entry is None or entry.digest is None:
            raise _mismatch(name, inner, row[1][:200], "none" if entry is None else f"a {entry.kind}")
        if row[1] and (got := _hash_as(root, entry, row[1])) != row[1]:
            raise _mismatch(name, inner, row[1][:200], got)
        if row[2] and row[2] != str(entry.size):
            raise _mismatch(name, inner, f"{row[2][:20]} bytes", f"{entry.size} bytes")


def _rows(name: str, root: Path, path: str, entry: Entry) -> list[list[str]]:
    data = _content(root, entry)
    if data is None or len(data) > MAX_RECORD:
        raise _mismatch(name, path, "the RECORD that was measured", "another")
    try:
        return [row for row in csv.reader(data.decode("utf-8").splitlines(), strict=True) if row]
    except (UnicodeDecodeError, csv.Error):
        raise _mismatch(name, path, "CSV in UTF-8", "bytes that are not") from None


def _content(root: Path, entry: Entry) -> bytes | None:
    """The bytes that were measured, read once more, or None where they are no longer those."""
    try:
        data = (root / os.fsdecode(unspell(entry.path))).read_bytes()
    except OSError:
        return None
    return data if Digest.of(data) == entry.digest else None


def _normal(path: str) -> str | None:
    """The path without `.` and with every `..` at its beginning, or None for an empty one. Absolute ones stay so."""
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/") if path else []:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts) if parts else None


def _hash_as(root: Path, entry: Entry, wanted: str) -> str:
    """The hash of the measured file, in the algorithm and spelling that the RECORD uses."""
    algorithm, _, value = wanted.partition("=")
    if algorithm not in _HASHES:
        return f"a hash of {', '.join(_HASHES)} only"
    try:
        parse_b64url(value, "RECORD hash")
    except FormatError:
        return "no urlsafe base64 hash"
    if algorithm == "sha256" and entry.digest is not None:
        return f"sha256={b64url(entry.digest.value)}"
    data = _content(root, entry)
    return "a file that changed meanwhile" if data is None else f"{algorithm}={b64url(hashlib.new(algorithm, data).digest())}"


def _mismatch(name: str, path: str, expected: str, got: str) -> Refused:
    expected, got = (spell(text.encode("utf-8", "surrogateescape")) for text in (expected, got))
    return Refused(Reason("record-mismatch", f"{name}:{path}"[:1000], expected[:1000], got[:1000]))

r"""The component Merkle tree: what a component of an agent's runtime consists of, down to each file, under one root.

A component is a list of entries (files, symbolic links, directories) below
one source, sorted by path. Its root binds every path, kind, execute bit,
size, content and link target. Owner, times and the other mode bits are no
part of it: the store in which a component runs sets those itself.

What stands for content is the SHA-256 of it for a `file`, the fs-verity digest
for an `fs-verity`, the root hash of the device for a `dm-verity`. The kind is in
each leaf, so that none of the three can be taken for another.

Paths are relative, separated by `/`, without empty, `.` and `..` segments.
Names on disk are bytes; here they are text, spelled one way: valid UTF-8 as it
is, except that every byte that is not valid UTF-8, every control character and
the backslash is `\x` and two lower-case hex digits. The spelling is a
bijection, so no two names on disk share one, and `unspell` refuses any other.

>>> spell(b"caf\xc3\xa9/\xff\\\n")
'caf\xe9/\\xff\\x5c\\x0a'
>>> unspell(spell(b"\xff\\")) == b"\xff\\"
True
>>> code = Component("code", "code", (file_entry("agent.py", b"print()\n"), Entry.link("latest", "agent.py")))
>>> component_root(code).hex()[:16]
'eb497170f608c4be'

A tree says what was hashed, not that what runs is this.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, cast, get_args

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_cbor, encode_cbor, name
from writ.formats.tlog import merkle

MAX_PATH: Final = 4096
"""Bytes of a path or link target on disk (PATH_MAX)."""
MAX_SPELT_PATH: Final = 4 * MAX_PATH
"""Characters of its spelling, at most."""
MAX_ENTRIES: Final = 200_000
MAX_TREE: Final = 64 << 20
"""Bytes of an encoded tree."""

EntryKind = Literal["file", "link", "dir", "fs-verity", "dm-verity"]
ComponentKind = Literal["interpreter", "packages", "code", "weights", "prompts", "tools", "image"]
DEVICE: Final = "device"
"""Path of the one entry of a component that is a dm-verity device."""
ENTRY_KINDS: Final[tuple[EntryKind, ...]] = get_args(EntryKind)
COMPONENT_KINDS: Final[tuple[ComponentKind, ...]] = get_args(ComponentKind)

_ESCAPED = re.compile("[\x00-\x1f\x7f\\\\\udc80-\udcff]")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})", re.ASCII)


# --- names -----------------------------------------------------------------------------------------------------------


def spell(raw: bytes) -> str:
    r"""The one spelling of a name, path or link target on disk. Any bytes have one."""
    text = raw.decode("utf-8", "surrogateescape")
    return text if _is_plain(text) else _ESCAPED.sub(_escape, text)


def _is_plain(text: str) -> bool:
    """Whether it is surely its own spelling, as nearly every name is."""
    return text.isascii() and text.isprintable() and "\\" not in text


def _escape(char: re.Match[str]) -> str:
    code = ord(char[0])
    return f"\\x{code - 0xDC00 if code > 0xDC00 else code:02x}"  # surrogateescape marks a byte that is not UTF-8 as 0xDC00 + byte


def unspell(text: str, what: str = "path") -> bytes:
    """The bytes on disk. Raises FormatError unless `text` is exactly what `spell` writes for them."""
    if _is_plain(text):
        return text.encode()
    try:
        parts = _ESCAPE.split(text)
        raw = b"".join(bytes.fromhex(part) if at % 2 else part.encode() for at, part in enumerate(parts))
    except UnicodeEncodeError as error:
        raise FormatError(what, "text without lone surrogates", "one", error.start) from None
    if spell(raw) != text:
        raise FormatError(what, r"one spelling: \xHH for bytes that are not UTF-8, control characters and backslash", ascii(text)[:120])
    return raw


def check_path(path: str, what: str = "path") -> None:
    """Return if `path` is a relative path in its one spelling. Raises FormatError."""
    raw = unspell(path, what)
    if not 1 <= len(raw) <= MAX_PATH or b"\0" in raw:
        raise FormatError(what, f"1 to {MAX_PATH} bytes without NUL", ascii(path)[:120])
    if any(segment in {b"", b".", b".."} for segment in raw.split(b"/")):
        raise FormatError(what, "a relative path without empty, . or .. segments", ascii(path)[:120])


# --- entries and components --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, symbolic link, directory or device of a component. Raises FormatError for a combination that is none.

    A file has a size in bytes and the SHA-256 of its content, or its fs-verity
    digest over SHA-256, and may be executable (by its owner). A device has the
    size of its data and its dm-verity root hash over SHA-256. A link has a target, spelled as a name is, and
    any text at all: where it leads is the measurer's to judge. A directory has
    only its path.
    """

    path: str
    kind: EntryKind
    mode_exec: bool
    size: int
    digest: Digest | None
    target: str | None

    def __post_init__(self) -> None:
        check_path(self.path)
        what = f"entry {ascii(self.path)[:80]}"
        if self.kind not in ENTRY_KINDS:
            raise FormatError(what, f"one of {', '.join(ENTRY_KINDS)}", repr(self.kind)[:80])
        if not 0 <= self.size < 1 << 63:
            raise FormatError(what, "a size of 0 to 2**63-1", str(self.size)[:40])
        if (self.digest is None) != (self.kind in ("link", "dir")) or (self.target is not None) != (self.kind == "link"):
            raise FormatError(what, "a digest for a file and a target for a link, and only there", self.kind)
        if self.digest is not None and self.digest.algorithm != "sha256":
            raise FormatError(what, "a sha256 digest", self.digest.algorithm)
        if (self.digest is None and self.size) or (self.mode_exec and self.kind not in ("file", "fs-verity")):
            raise FormatError(what, "size and execute bit on a file only", self.kind)
        if self.target is not None:
            raw = unspell(self.target, f"{what} target")
            if not 1 <= len(raw) <= MAX_PATH or b"\0" in raw:
                raise FormatError(f"{what} target", f"1 to {MAX_PATH} bytes without NUL", f"{len(raw)} bytes")

    @classmethod
    def file(cls, path: str, digest: Digest, size: int, *, executable: bool = False) -> Entry:
        """A file of `size` bytes whose content hashes to `digest`."""
        return cls(path, "file", executable, size, digest, None)

    @classmethod
    def fs_verity(cls, path: str, digest: Digest, size: int, *, executable: bool = False) -> Entry:
        """A file of `size` bytes whose fs-verity digest is `digest`."""
        return cls(path, "fs-verity", executable, size, digest, None)

    @classmethod
    def dm_verity(cls, root: Digest, size: int) -> Entry:
        """A dm-verity device whose `size` bytes of data have the root hash `root`."""
        return cls(DEVICE, "dm-verity", False, size, root, None)

    @classmethod
    def link(cls, path: str, target: str) -> Entry:
        """A symbolic link; `target` in its one spelling."""
        return cls(path, "link", False, 0, None, target)

    @classmethod
    def dir(cls, path: str) -> Entry:
        """A directory."""
        return cls(path, "dir", False, 0, None, None)


def file_entry(path: str, content: bytes, *, executable: bool = False) -> Entry:
    """The entry of a file with this `content`, held in memory."""
    return Entry.file(path, Digest.of(content), len(content), executable=executable)


@dataclass(frozen=True, slots=True)
class Component:
    """A named part of an agent's runtime: its entries sorted by path, each path once. Raises FormatError otherwise.

    Nothing lies beneath a path that is itself a file or a link. Directories
    need not be listed for what lies beneath them. A device is alone.
    """

    name: str
    kind: ComponentKind
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        name(self.name, "component.name")
        if self.kind not in COMPONENT_KINDS:
            raise FormatError("component.kind", f"one of {', '.join(COMPONENT_KINDS)}", repr(self.kind)[:80])
        if len(self.entries) > MAX_ENTRIES:
            raise FormatError("component", f"at most {MAX_ENTRIES} entries", f"{len(self.entries)}")
        for before, after in pairwise(self.entries):
            if before.path >= after.path:
                raise FormatError("component", "entries sorted by path, each once", f"{after.path[:90]!a} after {before.path[:90]!a}")
        if len(self.entries) > 1 and any(entry.kind == "dm-verity" for entry in self.entries):
            raise FormatError("component", "a device alone", f"{len(self.entries)} entries")
        leaves = {entry.path for entry in self.entries if entry.kind != "dir"}
        for entry in self.entries:
            parent = entry.path.rpartition("/")[0]
            while parent:
                if parent in leaves:
                    raise FormatError("component", "nothing beneath a file or link", ascii(entry.path)[:120])
                parent = parent.rpartition("/")[0]


def component(name: str, kind: ComponentKind, entries: Sequence[Entry]) -> Component:
    """The component of `entries` in any order."""
    return Component(name, kind, tuple(sorted(entries, key=lambda entry: entry.path)))


# --- roots -----------------------------------------------------------------------------------------------------------


def _entry_row(entry: Entry) -> list[object]:
    digest = None if entry.digest is None else entry.digest.value
    return [entry.path, entry.kind, entry.mode_exec, entry.size, digest, entry.target]


def component_root(component: Component) -> Digest:
    """The SHA-256 that stands for `component`; equal roots mean equal name, kind and entries.

        leaf[i] = leaf_hash(CBOR [path, kind, exec, size, digest / null, target / null])
        top     = the Merkle root over the leaves (RFC 9162 2.1)
        root    = SHA-256(CBOR ["writ/component/v1", name, kind, number of entries, top])

    The header starts with 0x85 and a leaf or node with 0x00 or 0x01, so none
    can be taken for another.
    """
    top = merkle.root([merkle.leaf_hash(encode_cbor(_entry_row(entry))) for entry in component.entries])
    return Digest.of(encode_cbor(["writ/component/v1", component.name, component.kind, len(component.entries), top]))


# --- bytes -----------------------------------------------------------------------------------------------------------


def encode_tree(component: Component) -> bytes:
    """The bytes in which a tree travels, once; whoever receives them compares `component_root` with the quoted root."""
    rows = [_entry_row(entry) for entry in component.entries]
    return encode_cbor({"v": 1, "name": component.name, "kind": component.kind, "entries": rows})


def parse_tree(data: bytes, *, max_size: int = MAX_TREE) -> Component:
    """Read a tree. Raises FormatError, and nothing else, on any bytes."""
    f = Fields(decode_cbor(data, "tree", max_size=max_size), "tree")
    f.version(1)
    component = Component(
        f.name("name"),
        cast(ComponentKind, f.text("kind")),  # Component itself refuses any other
        tuple(_parse_row(row) for row in f.items("entries", most=MAX_ENTRIES)),
    )
    f.done()
    return component


def _parse_row(row: object) -> Entry:
    if not isinstance(row, list) or len(row) != 6:
        raise FormatError("tree entry", "an array of six", type(row).__name__)
    f = Fields(dict(enumerate(row)), "tree entry")
    return Entry(
        path=f.text(0, most=MAX_SPELT_PATH),
        kind=cast(EntryKind, f.text(1)),  # Entry itself refuses any other
        mode_exec=f.flag(2),
        size=f.uint(3),
        digest=None if row[4] is None else f.digest(4),
        target=None if row[5] is None else f.text(5, most=MAX_SPELT_PATH),
    )


# --- differences -------------------------------------------------------------------------------------------------------


def entry_digest(entry: Entry) -> Digest:
    """What stands for one entry where entries are compared: the digest of a file or device, else the entry's leaf hash."""
    return entry.digest if entry.digest is not None else _leaf_digest(entry)


def _leaf_digest(entry: Entry) -> Digest:
    return Digest("sha256", merkle.leaf_hash(encode_cbor(_entry_row(entry))))


def diff(old: Component, new: Component) -> tuple[tuple[str, Digest | None, Digest | None], ...]:
    """Each path that differs, sorted, with its `entry_digest` before and after; None where it is not.

    Where a file's execute bit changed and its content did not, the two leaf
    hashes stand there, so that the two always differ. Empty exactly when the
    entries are equal; names and kinds of the components are not compared.
    """
    before = {entry.path: entry for entry in old.entries}
    after = {entry.path: entry for entry in new.entries}
    return tuple(
        (path, *_digests(before.get(path), after.get(path)))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    )


def _digests(before: Entry | None, after: Entry | None) -> tuple[Digest | None, Digest | None]:
    if before is not None and after is not None and entry_digest(before) == entry_digest(after):
        return _leaf_digest(before), _leaf_digest(after)
    return None if before is None else entry_digest(before), None if after is None else entry_digest(after)

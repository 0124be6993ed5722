"""fs-verity and dm-verity: the digests by which the kernel holds a file or a device, computed from content alone.

Both are Merkle trees over blocks. A block is hashed behind the salt; the
hashes fill blocks of the next level, the last one padded with zeros; where one
hash is left, it is the root. fs-verity's digest is the hash of a descriptor:

    u8 version 1 | u8 hash algorithm | u8 log2(block) | u8 salt size | u32 0 | u64 data size
    root hash, 64 bytes | salt, 32 bytes | 144 zero bytes

dm-verity (format 1) has no descriptor: the root is the answer, and how many
bytes of data it stands for has to be said beside it, since a device whose data
are another's hash blocks has the same root. `DmVerity` and `VerityTable` carry
both.

>>> fsverity_digest([b""]).hex()[:16]
'3d248ca542a24fc6'

A digest says what content the kernel would insist on, not that it does: that
is `writ/service/verity.py`'s to ask.

Source: Linux, Documentation/filesystems/fsverity.rst, "Merkle tree" and "fs-verity descriptor";
Documentation/admin-guide/device-mapper/verity.rst; cryptsetup, "DMVerity", on-disk format version 1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError, Misuse

BLOCK: Final = 4096
FS_ALGORITHMS: Final = {"sha256": 1, "sha512": 2}
"""FS_VERITY_HASH_ALG_* by our name."""
FS_ALGORITHM_NAMES: Final = {number: algorithm for algorithm, number in FS_ALGORITHMS.items()}
DM_ALGORITHMS: Final = ("sha256", "sha512")
MAX_FS_SALT: Final = 32
MAX_DM_SALT: Final = 256
MAX_TABLE: Final = 4096
"""Characters of the parameters of one dm-verity target."""
SECTOR: Final = 512

_HASH_INPUT: Final = {"sha256": 64, "sha512": 128}
"""Bytes that the compression function takes at once: fs-verity pads the salt to a multiple of it."""
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-f]{2})+\Z", re.ASCII)


# --- the tree ----------------------------------------------------------------------------------------------------------


class _Tree:
    """The root over content that comes in chunks of any size; memory is a block for each level."""

    def __init__(self, algorithm: str, salt: bytes, data_block: int, hash_block: int) -> None:
        self._salted = hashlib.new(algorithm, salt, usedforsecurity=True)
        self._data_block, self._hash_block, self._digest = data_block, hash_block, SIZES[algorithm]
        self._rest = b""
        self._levels: list[bytearray] = [bytearray()]
        self.size = 0

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        data = self._rest + chunk if self._rest else chunk
        whole = len(data) - len(data) % self._data_block
        self._rest = bytes(data[whole:])
        if whole:
            self._levels[0] += self._hashed(memoryview(data)[:whole], self._data_block)
            self._carry()

    def root(self) -> bytes | None:
        """The root hash, or None over no content at all. No further `update` after this."""
        if self._rest:
            self._levels[0] += self._hashed(memoryview(self._rest.ljust(self._data_block, b"\0")), self._data_block)
            self._rest = b""
            self._carry()
        level = 0
        while True:
            pending = self._levels[level]
            last = level + 1 == len(self._levels)
            if last and len(pending) == self._digest:
                return bytes(pending)
            if last and not pending:
                return None
            if pending:
                if last:
                    self._levels.append(bytearray())
                self._levels[level + 1] += self._hashed(memoryview(bytes(pending).ljust(self._hash_block, b"\0")), self._hash_block)
            level += 1

    def _hashed(self, data: memoryview, block: int) -> bytes:
        found = []
        for at in range(0, len(data), block):
            running = self._salted.copy()
            running.update(data[at : at + block])
            found.append(running.digest())
        return b"".join(found)

    def _carry(self) -> None:
        """Whole blocks of hashes move up as one hash each."""
        level = 0
        while len(self._levels[level]) >= self._hash_block:
            pending = self._levels[level]
            whole = len(pending) - len(pending) % self._hash_block
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level + 1] += self._hashed(memoryview(bytes(pending[:whole])), self._hash_block)
            del pending[:whole]
            level += 1


def _check_block(block: int, what: str) -> None:
    if not (SECTOR <= block <= 65_536 and block & (block - 1) == 0):
        raise Misuse(f"{what} is a power of two from {SECTOR} to 65536, got {block}")


# --- fs-verity ---------------------------------------------------------------------------------------------------------


class FsVerity:
    """The fs-verity digest of a file whose content comes in chunks.

    `salt` is at most 32 bytes; `block` bytes is the size of the tree's blocks.
    Raises Misuse for parameters that fs-verity does not have.
    """

    def __init__(self, *, algorithm: str = "sha256", block: int = BLOCK, salt: bytes = b"") -> None:
        _check_block(block, "the block")
        if algorithm not in FS_ALGORITHMS or len(salt) > MAX_FS_SALT:
            raise Misuse(f"fs-verity has {' and '.join(FS_ALGORITHMS)} and at most {MAX_FS_SALT} bytes of salt")
        self._algorithm, self._block, self._salt = algorithm, block, salt
        padded = salt.ljust(-(-len(salt) // _HASH_INPUT[algorithm]) * _HASH_INPUT[algorithm], b"\0")
        self._tree = _Tree(algorithm, padded, block, block)

    def update(self, chunk: bytes) -> None:
        """`chunk` follows what came before."""
        self._tree.update(chunk)

    def digest(self) -> Digest:
        """What FS_IOC_MEASURE_VERITY would answer. An empty file has a root of zeros."""
        root = self._tree.root() or bytes(SIZES[self._algorithm])
        head = bytes((1, FS_ALGORITHMS[self._algorithm], self._block.bit_length() - 1, len(self._salt)))
        descriptor = head + bytes(4) + self._tree.size.to_bytes(8, "little") + root.ljust(64, b"\0") + self._salt.ljust(32, b"\0")
        return Digest.of(descriptor + bytes(144), self._algorithm)


def fsverity_digest(chunks: Iterable[bytes], *, algorithm: str = "sha256", block: int = BLOCK, salt: bytes = b"") -> Digest:
    """The fs-verity digest of the concatenated `chunks`."""
    made = FsVerity(algorithm=algorithm, block=block, salt=salt)
    for chunk in chunks:
        made.update(chunk)
    return made.digest()


# --- dm-verity ---------------------------------------------------------------------------------------------------------


class DmVerity:
    """The root hash of a dm-verity device (format 1) whose content comes in chunks.

    `salt` is at most 256 bytes. Raises Misuse for parameters that are none.
    """

    def __init__(self, *, algorithm: str = "sha256", data_block: int = BLOCK, hash_block: int = BLOCK, salt: bytes = b"") -> None:
        _check_block(data_block, "the data block")
        _check_block(hash_block, "the hash block")
        if algorithm not in DM_ALGORITHMS or len(salt) > MAX_DM_SALT:
            raise Misuse(f"expected {' or '.join(DM_ALGORITHMS)} and at most {MAX_DM_SALT} bytes of salt")
        self._algorithm, self._data_block = algorithm, data_block
        self._tree = _Tree(algorithm, salt, data_block, hash_block)

    @property
    def size(self) -> int:
        """Bytes of content so far."""
        return self._tree.size

    def update(self, chunk: bytes) -> None:
        """`chunk` follows what came before."""
        self._tree.update(chunk)

    def root(self) -> Digest:
        """The root hash. Raises FormatError unless the content is one or more whole blocks."""
        if not self.size or self.size % self._data_block:
            raise FormatError("dm-verity image", f"a positive multiple of {self._data_block} bytes", f"{self.size} bytes")
        root = self._tree.root()
        return Digest(self._algorithm, root or b"")


def dmverity_root(
    chunks: Iterable[bytes], *, algorithm: str = "sha256", data_block: int = BLOCK, hash_block: int = BLOCK, salt: bytes = b""
) -> Digest:
    """The root hash over the concatenated `chunks`. Raises FormatError as `DmVerity.root`."""
    made = DmVerity(algorithm=algorithm, data_block=data_block, hash_block=hash_block, salt=salt)
    for chunk in chunks:
        made.update(chunk)
    return made.root()


_HARMLESS: Final = {
    "restart_on_corruption": 0, "panic_on_corruption": 0, "restart_on_error": 0, "panic_on_error": 0, "try_verify_in_tasklet": 0,
    "use_fec_from_device": 1, "fec_roots": 1, "fec_blocks": 1, "fec_start": 1, "root_hash_sig_key_desc": 1,
}  # fmt: skip
"""Optional parameters under which every read is still verified -> how many words follow.

Not among them: `ignore_corruption` and `check_at_most_once`, which let false
content through, and `ignore_zero_blocks`, which answers zeros without reading.
"""


@dataclass(frozen=True, slots=True)
class VerityTable:
    """The parameters of one dm-verity target: what the kernel insists on, as its table says it.

    `size` is in bytes. That no optional parameter weakens it is checked, that
    the kernel has this table loaded is not.
    """

    root: Digest
    size: int
    data_block: int
    hash_block: int
    salt: bytes


def parse_table(parameters: str) -> VerityTable:
    """Read `1 DEV HASH_DEV DATA_BLOCK HASH_BLOCK BLOCKS HASH_START ALGORITHM ROOT SALT [N OPTION…]`.

    Raises FormatError, also for an option under which false content could be read.
    """
    if len(parameters) > MAX_TABLE:
        raise FormatError("dm-verity table", f"at most {MAX_TABLE} characters", f"{len(parameters)}")
    words = parameters.split()
    if len(words) < 10:
        raise FormatError("dm-verity table", "ten parameters", f"{len(words)}")
    version, _, _, data_block, hash_block, blocks, _, algorithm, root, salt = words[:10]
    if version != "1":
        raise FormatError("dm-verity table", "format 1", version[:20])
    if algorithm not in DM_ALGORITHMS or not _HEX.match(root) or len(root) != 2 * SIZES[algorithm]:
        raise FormatError("dm-verity table", f"a root hash of {' or '.join(DM_ALGORITHMS)}", f"{algorithm[:20]} {root[:140]}")
    if salt != "-" and (not _HEX.match(salt) or len(salt) > 2 * MAX_DM_SALT):
        raise FormatError("dm-verity table", "a salt in hex or -", salt[:80])
    sizes = [_number(word) for word in (data_block, hash_block, blocks)]
    if any(not SECTOR <= size <= 65_536 or size & (size - 1) for size in sizes[:2]) or not 1 <= sizes[2] < 1 << 47:
        raise FormatError("dm-verity table", "block sizes and a count of blocks", f"{data_block[:20]} {hash_block[:20]} {blocks[:20]}")
    _check_options(words[10:])
    digest = Digest(algorithm, bytes.fromhex(root))
    return VerityTable(digest, sizes[0] * sizes[2], sizes[0], sizes[1], b"" if salt == "-" else bytes.fromhex(salt))


def _number(word: str) -> int:
    if not _NUMBER.match(word):
        raise FormatError("dm-verity table", "a decimal number", word[:40])
    return int(word)


def _check_options(words: list[str]) -> None:
    if words and _number(words[0]) != len(words) - 1:
        raise FormatError("dm-verity table", f"{words[0]} optional parameters", f"{len(words) - 1}")
    at = 1
    while at < len(words):
        if words[at] not in _HARMLESS:
            raise FormatError("dm-verity table", "no option under which a read is not verified", words[at][:60])
        at += 1 + _HARMLESS[words[at]]
    if at > max(len(words), 1):
        raise FormatError("dm-verity table", "a value for each option", "none for the last")

"""File systems made without mounting: the root file tree under dm-verity, and the data disk, on which fs-verity can be used."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swtpm.guest.packages import BuildError, tool

BLOCK: Final = 4096
_UUID: Final = "57524954-0000-4000-8000-000000000001"
DATA_UUID: Final = "57524954-0000-4000-8000-000000000002"
"""Of the data disk, by which the IMA policy knows it."""
_SALT: Final = "57726974"
_DATA_MEGABYTES: Final = 256
_MEGABYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Verity:
    """A dm-verity device whose hash tree lies behind its data: data blocks of 4096 bytes, root hash and salt in hex, SHA-256."""

    blocks: int
    root: str
    salt: str


def make_root(tree: Path, target: Path, *, spare: int = 24) -> Verity:
    """`target` is an ext4 of `tree`, owned by root, with `spare` megabytes and more for itself, and the hash tree behind it."""
    taken = sum(-(-path.lstat().st_size // BLOCK) * BLOCK for path in tree.rglob("*") if not path.is_symlink()) // _MEGABYTE
    size = taken + taken // 8 + spare
    _mkfs(tree, target, size, "-O", "^has_journal", "-U", _UUID, "-E", "hash_seed=" + _UUID)
    return seal(target, size * _MEGABYTE)


def seal(target: Path, size: int) -> Verity:
    """The first `size` bytes of `target`, whole blocks, are followed by their hash tree, without a superblock."""
    told = tool(
        *("veritysetup", "format", "--no-superblock", "--data-block-size", str(BLOCK), "--hash-block-size", str(BLOCK), "--hash", "sha256"),
        *("--salt", _SALT, "--data-blocks", str(size // BLOCK), "--hash-offset", str(size), os.fspath(target), os.fspath(target)),
    )
    root = re.search(r"^Root hash:\s+([0-9a-f]{64})$", told, re.MULTILINE)
    if root is None:
        raise BuildError("veritysetup: expected a root hash, got none")
    return Verity(size // BLOCK, root.group(1), _SALT)


def make_data(tree: Path, target: Path) -> None:
    """`target` is an empty data disk but for `tree`, and its file system can do fs-verity."""
    _mkfs(tree, target, _DATA_MEGABYTES, "-O", "verity", "-U", DATA_UUID)


def _mkfs(tree: Path, target: Path, megabytes: int, *options: str) -> None:
    target.unlink(missing_ok=True)
    as_root = () if os.geteuid() == 0 else ("unshare", "--map-root-user")  # whoever builds: in the guest all is root's
    tool(
        *(*as_root, "mke2fs", "-q", "-t", "ext4", "-b", str(BLOCK), "-m", "0", *options, "-d", os.fspath(tree)),
        *(os.fspath(target), f"{megabytes}M"),
    )

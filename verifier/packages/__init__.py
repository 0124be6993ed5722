"""Packages of an operating system, read for what they will put on a disk: paths and digests, before anything is installed.

What is read here is the maker's intent. Not in it, and therefore no reference
value of ours: what maintainer scripts make (initrds, caches, `.pyc` files,
diverted names), configuration that an administrator edited, and whatever a
machine compiles for itself (DKMS). Nothing is unpacked to a disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.errors import FormatError

FILES: Final = "files/"
"""Environments of packages begin with it; the name of the package follows."""
MERGED: Final = ("/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/")
"""Directories that are links into /usr where /usr is merged: the kernel then knows a file there by its other name."""


@dataclass(frozen=True, slots=True)
class Package:
    """A binary package as read: each regular file's path and the SHA-256 of its content, sorted by path.

    `left_out` counts what is no regular file: links, directories, devices.
    Says nothing about who made the package.
    """

    name: str
    version: str
    architecture: str
    files: tuple[tuple[str, Digest], ...]
    left_out: int

    @property
    def id(self) -> str:
        """`name_version_architecture`."""
        return f"{self.name}_{self.version}_{self.architecture}"


def package_corim(package: Package, namespace: str) -> Corim | None:
    """The reference values of `package`, unsigned, or None where it brings no regular file.

    A path below /bin, /sbin or /lib* stands there in both spellings. Raises
    FormatError for a package with more files than a CoRIM holds, or whose two
    spellings of one path differ in content.
    """
    found = dict(package.files)
    for path, digest in package.files:
        if path.startswith(MERGED) and found.setdefault("/usr" + path, digest) != digest:
            raise FormatError(f"package {package.id}", f"one content for {path[:120]} and its name below /usr", "two")
    if not found:
        return None
    return Corim(package.id, namespace, FILES + package.name, tuple(sorted(found.items())))

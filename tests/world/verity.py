"""A kernel with fs-verity and dm-verity, in memory: what it holds it measures as Linux does, and no test can write to it by mistake."""

from __future__ import annotations

import os
from pathlib import Path

from writ.formats.digest import Digest
from writ.formats.verity import VerityTable, dmverity_root, fsverity_digest
from writ.service.verity import NotHeld


class FakeKernel:
    """Files are known by device and inode, and keep their digest whatever is done to them: a real kernel refuses to let them be written."""

    def __init__(self, *, able: bool = True) -> None:
        self.able = able
        self.enabled: dict[tuple[int, int], Digest] = {}
        self.devices: dict[Path, VerityTable] = {}

    def measure(self, fd: int) -> Digest | None:
        info = os.fstat(fd)
        return self.enabled.get((info.st_dev, info.st_ino))

    def enable(self, fd: int) -> None:
        if not self.able:
            raise NotHeld("EOPNOTSUPP")
        info = os.fstat(fd)
        self.enabled[info.st_dev, info.st_ino] = fsverity_digest([os.pread(fd, info.st_size, 0)])

    def enable_path(self, path: Path) -> Digest:
        fd = os.open(path, os.O_RDONLY)
        try:
            self.enable(fd)
            return self.enabled[os.fstat(fd).st_dev, os.fstat(fd).st_ino]
        finally:
            os.close(fd)

    def mount(self, place: Path, content: bytes, salt: bytes = b"") -> None:
        self.devices[place] = VerityTable(dmverity_root([content], salt=salt), len(content), 4096, 4096, salt)

    def device(self, place: Path) -> VerityTable:
        for known, table in self.devices.items():
            if known == place or (known.exists() and place.exists() and known.samefile(place)):
                return table
        raise NotHeld("no mount point")

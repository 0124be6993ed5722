"""Digests of what a kernel would hold, from the artefact, without one; and the refusal where it does not hold what it should.

What a kernel really holds is asked of it: `writ/service/verity.py`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.verity import DmVerity, FsVerity
from writ.service.verity import NotHeld, named

_CHUNK: Final = 1 << 20


def refused(name: str, path: str, hold: str, got: str) -> Refused:
    """The refusal for a component's path that `hold` was to hold."""
    return Refused(Reason("verity-unavailable", f"{name}:{path}"[:1000], f"{hold} over SHA-256", got[:200]))


class Artefacts:
    """Digests from content alone, as a kernel with fs-verity (4096, no salt) and `veritysetup format` would have them.

    `seen` is called with each count of bytes read.
    """

    def __init__(self, seen: Callable[[int], None] = lambda _: None) -> None:
        self._seen = seen

    def file(self, fd: int, identity: tuple[int, ...], executable: bool) -> tuple[Digest, int]:
        """A `Held.file`."""
        del identity, executable
        running, size = FsVerity(), 0
        while chunk := os.read(fd, _CHUNK):
            running.update(chunk)
            size += len(chunk)
            self._seen(len(chunk))
        return running.digest(), size

    def device(self, source: Path, image: Path | None, salt: bytes) -> tuple[Digest, int]:
        """A `Held.device`: of `image`, which has to be given. It is read as it is, superblock of veritysetup or not."""
        del source
        if image is None:
            raise NotHeld("no image in the manifest to compute it from")
        running = DmVerity(salt=salt)
        try:
            with image.open("rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise NotHeld("an image that is no regular file")
                while chunk := file.read(_CHUNK):
                    running.update(chunk)
                    self._seen(len(chunk))
            return running.root(), running.size
        except OSError as error:
            raise NotHeld(f"image: {named(error)}") from None
        except FormatError as error:
            raise NotHeld(f"image: {error.got}") from None

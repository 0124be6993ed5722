"""A durable sink for a relying service: one JSON line a decision, written and synced before the request passes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from enforcer.relying.party import Access
from writ.formats.errors import Unavailable
from writ.formats.strict import encode_json


class FileSink:
    """Appends to one file. After a failed write nothing is accepted any more: the file's end is not known."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, mode 0600; a torn last line of an earlier process is closed off. Raises Unavailable."""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")
        except OSError as error:
            raise Unavailable("sink", f"{path}: {error.strerror}") from None
        self._lock = threading.Lock()
        self._broken = False

    @property
    def broken(self) -> bool:
        """Whether a write has failed."""
        return self._broken

    def write(self, access: Access) -> None:
        """The line is on disk. Raises Unavailable."""
        line = encode_json(
            {
                "at": access.decided_at, "reference": access.reference, "agent": access.agent, "action": access.action,
                "instance": None if access.instance is None else access.instance.hex(), "resource": access.resource,
                "token": None if access.token is None else str(access.token),
                "policy": None if access.bundle is None else str(access.bundle),
                "proof": None if access.proof is None else str(access.proof), "context": access.context.hex(), "permit": access.permit,
                "reasons": [reason.to_json() for reason in access.reasons], "engine": str(access.engine.tree),
            }
        ) + b"\n"  # fmt: skip
        with self._lock:
            if self._broken:
                raise Unavailable("sink", "an earlier write failed")
            try:
                written = os.write(self._file, line)
                os.fsync(self._file)
            except OSError as error:
                self._broken = True
                raise Unavailable("sink", f"{error.strerror}") from None
            if written != len(line):
                self._broken = True
                raise Unavailable("sink", f"expected {len(line)} bytes written, got {written}")

"""`auditor witness serve`."""

from __future__ import annotations

from pathlib import Path

from auditor.serving.listen import Listen
from auditor.serving.listen import serve as serve_until_stopped
from auditor.witness import directory
from writ.service.clock import SystemClock


def serve(folder: Path, logs: Path, listen: Listen) -> None:
    """The witness in `folder` cosigns for `logs` until SIGTERM or SIGINT. Raises FormatError and Unavailable where it cannot begin."""
    witness = directory.open_cosigner(folder, logs, SystemClock())
    try:
        serve_until_stopped(witness, listen, "witness", str(witness.key))
    finally:
        witness.close()

"""The folder of a witness: `serving.folder`, and its state.

    state.sqlite     the last checkpoint of each log

**None of it is put back from a backup**: a witness with an older state would cosign a log that was put back as well, or forked since.
A witness whose folder is lost is another witness, with another key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from auditor.serving import folder as own
from auditor.witness import state
from auditor.witness.cosigner import Cosigner
from writ.formats.tlog.note import NoteKey
from writ.service.clock import Clock

_STATE: Final = "state.sqlite"


def init(folder: Path, name: str) -> NoteKey:
    """A new witness `name` is durable in `folder`. Raises as `serving.folder.init`."""
    return own.init(folder, name, "witness", lambda made: state.create(made / _STATE))


def open_cosigner(folder: Path, logs: Path, clock: Clock) -> Cosigner:
    """The witness in `folder`, for the logs that the policy in `logs` names. What that says of witnesses is not its affair.

    Raises FormatError and Unavailable, also where name, key and state are not all there.
    """
    key, signer = own.load(folder)
    return Cosigner(key, signer, own.logs(logs, key), state.open_state(folder / _STATE), clock)

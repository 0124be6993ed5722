"""`auditor store serve`."""

from __future__ import annotations

from pathlib import Path

from auditor.serving import folder as own
from auditor.serving.listen import Listen
from auditor.serving.listen import serve as serve_until_stopped
from auditor.store import records
from auditor.store.keeper import Keeper
from writ.formats.tlog.note import NoteKey
from writ.service.clock import SystemClock


def init(folder: Path, name: str) -> NoteKey:
    """A new store `name` is durable in `folder`. Raises as `serving.folder.init`."""
    return own.init(folder, name, "store", records.create)


def serve(folder: Path, hosts: Path, listen: Listen, *, quota: int, share: int | None, shows: bool) -> None:
    """The store in `folder` keeps what the hosts send whose keys the policy in `hosts` names, until SIGTERM or SIGINT.

    Raises FormatError and Unavailable where it cannot begin.
    """
    key, signer = own.load(folder)
    keeper = Keeper(key, signer, own.logs(hosts, key), records.open_records(folder), SystemClock(), quota=quota, share=share, shows=shows)
    try:
        serve_until_stopped(keeper, listen, "store", str(key))
    finally:
        keeper.close()

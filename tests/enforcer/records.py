"""What an instance did, as its log has it: every record but the openings, which say whose the log is."""

from __future__ import annotations

from pathlib import Path

from enforcer.record import Entry, LogReader
from writ.formats.record import ActionRecord, Opening, OutcomeRecord


def entries_of(folder: Path, instance: bytes) -> list[Entry]:
    """Each action and outcome in the log in `folder`, in order, with what it hides; the keys are those of its host, or lie in it."""
    keys = folder.parent.parent / "namespaces"
    return [
        entry for entry in LogReader(folder, instance, keys if keys.is_dir() else None).entries() if not isinstance(entry.record, Opening)
    ]


def records_of(folder: Path, instance: bytes) -> list[ActionRecord | OutcomeRecord]:
    """The same, without what they hide."""
    records = (entry.record for entry in LogReader(folder, instance).entries())
    return [record for record in records if not isinstance(record, Opening)]

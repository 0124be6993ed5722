"""What a store has, as the archive that `auditor export`, `lineage` and `replay` read: for a host that is lost, or not believed any more.

Every log is read anew from its leaves, and its root compared with the last checkpoint that the store cosigned. Sealed contents stay behind:
without them contexts are as erased.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from auditor.store.records import Held, open_records
from writ.formats.archive import EMPTY, Archive, InstanceLog, Placed, parse_place
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.tlog.merkle import leaf_hash, root
from writ.formats.tlog.storing import instance_of


def export(folder: Path, instances: Collection[bytes] = ()) -> Archive:
    """The archive of these instances, or of all, out of the store in `folder`. Raises FormatError, Unavailable, Refused (`not-found`)."""
    records = open_records(folder)
    try:
        with records.exclusive() as held:
            named = {instance_of(origin)[1]: origin for origin in held.origins()}
            if absent := set(instances) - named.keys():
                raise Refused(Reason("not-found", "instance", "one that the store has", min(absent).hex()))
            archive = EMPTY
            for instance in instances or named:
                archive = archive.merged(_of(held, named[instance], instance))
            return archive
    finally:
        records.close()


def _of(held: Held, origin: str, instance: bytes) -> Archive:
    latest = held.latest(origin)
    size = 0 if latest is None else latest.checkpoint.size
    leaves = tuple(held.leaves(origin, 0, size))
    found = root([leaf_hash(leaf) for leaf in leaves])
    if latest is None or len(leaves) != size or found != latest.checkpoint.root:
        raise FormatError("record store", f"the {size} records that were cosigned of {origin}", f"{len(leaves)} with another root")
    papers = held.papers(origin)
    entries, objects = (tuple(sorted(body for kind, body in papers if kind == wanted)) for wanted in ("entry", "object"))
    tokens = tuple(sorted(body.decode("ascii", "replace") for kind, body in papers if kind == "token"))
    return Archive(entries, tokens, objects, (InstanceLog(instance, leaves),), tuple(sorted({*_places(papers)})))


def _places(papers: Sequence[tuple[str, bytes]]) -> Iterator[Placed]:
    """Where entries stand, as the host says; what cannot be read says nothing, and does not spoil the archive of all others."""
    for kind, body in papers:
        if kind == "place":
            with contextlib.suppress(FormatError):
                yield parse_place(body)

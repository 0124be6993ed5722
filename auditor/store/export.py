"""What a store has, as the archive that `auditor export`, `lineage` and `replay` read: for a host that is lost, or not believed any more.

Every log is read anew from its leaves, and its root compared with the last checkpoint that the store cosigned. Sealed contents stay behind:
without them contexts are as erased. Whoever kept the keys of a host (NAMESPACE.key, and of each instance its content.key as INSTANCE.key)
has the contexts, too, as the host itself would have shown them.

A host writes under its own name alone, but names instances as it likes: where two have a log of one, nobody here chooses between them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from auditor.store.records import Held, open_records
from writ.formats.archive import EMPTY, Archive, InstanceLog, Placed, parse_place
from writ.formats.cose import parse_sign1
from writ.formats.decision import parse_entry
from writ.formats.eat import parse_token
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.hidden import unseal, unwrap
from writ.formats.operator_log import OPERATOR_LOG
from writ.formats.reason import Reason
from writ.formats.record import Opening, parse_log, preimage_of
from writ.formats.spiffe import AgentId
from writ.formats.tlog.merkle import leaf_hash, root
from writ.formats.tlog.storing import instance_of
from writ.service.key_files import read_key


def export(folder: Path, instances: Collection[bytes] = (), keys: Path | None = None, hosts: Collection[str] = ()) -> Archive:
    """The archive of these instances, or of all, of these hosts, or of all, out of the store in `folder`, with the contexts that the keys
    in `keys` open.

    Raises FormatError, Unavailable, Refused (`not-found`, and `instance-ambiguous` where two hosts have a log of one).
    """
    records = open_records(folder)
    try:
        with records.exclusive() as held:
            named = _named(held.origins(), instances, hosts)
            if absent := set(instances) - named.keys():
                raise Refused(Reason("not-found", "instance", "one that the store has", min(absent).hex()))
            archive = EMPTY
            for instance in instances or named:
                archive = archive.merged(_of(held, named[instance], instance, keys))
            return archive
    finally:
        records.close()


def _named(origins: Sequence[str], instances: Collection[bytes], hosts: Collection[str]) -> dict[bytes, str]:
    """The one log of each instance that is wanted, among those of the hosts that are."""
    named: dict[bytes, str] = {}
    for origin in origins:
        host, instance = instance_of(origin)
        if instance == OPERATOR_LOG:
            continue  # each host has one, which is no instance's: `acts` shows them
        if (hosts and host not in hosts) or (instances and instance not in instances):
            continue
        if (other := named.setdefault(instance, origin)) != origin:
            both = f"{instance_of(other)[0]} and {host}"
            raise Refused(Reason("instance-ambiguous", instance.hex(), "one host with a log of it", both[:200]))
    return named


def whole(held: Held, origin: str) -> list[tuple[bytes, bytes | None]]:
    """Every leaf of a log with what is sealed beside it, as they were cosigned. Raises FormatError where they are not."""
    latest = held.latest(origin)
    size = 0 if latest is None else latest.checkpoint.size
    kept = list(held.contents(origin, 0, size))
    if latest is None or len(kept) != size or root([leaf_hash(leaf) for leaf, _ in kept]) != latest.checkpoint.root:
        raise FormatError("record store", f"the {size} records that were cosigned of {origin}", f"{len(kept)} with another root")
    return kept


def _of(held: Held, origin: str, instance: bytes, keys: Path | None) -> Archive:
    kept = whole(held, origin)
    leaves = tuple(leaf for leaf, _ in kept)
    papers = held.papers(origin)
    entries, objects = tuple(sorted(_entries(papers))), tuple(sorted(body for kind, body in papers if kind == "object"))
    tokens = tuple(sorted({*_tokens(papers)}))
    shown = () if keys is None else _contexts(kept, instance, keys)
    return Archive(entries, tokens, tuple(sorted({*objects, *shown})), (InstanceLog(instance, leaves),), tuple(sorted({*_places(papers)})))


def _entries(papers: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
    """The signed decisions among the papers; what is none, whoever sent it, does not spoil the archive of all others."""
    for kind, body in papers:
        if kind == "entry":
            with contextlib.suppress(FormatError):
                parse_entry(parse_sign1(body).payload or b"")
                yield body


def _places(papers: Sequence[tuple[str, bytes]]) -> Iterator[Placed]:
    """Where entries stand, as the host says; what cannot be read says nothing, and does not spoil the archive of all others."""
    for kind, body in papers:
        if kind == "place":
            with contextlib.suppress(FormatError):
                yield parse_place(body)


def _tokens(papers: Sequence[tuple[str, bytes]]) -> Iterator[str]:
    """The tokens among the papers; what is none, whoever sent it, does not spoil the archive of all others either."""
    for kind, body in papers:
        if kind == "token":
            with contextlib.suppress(FormatError, UnicodeDecodeError):
                yield parse_token(body.decode("ascii")).jws.compact


def _contexts(kept: list[tuple[bytes, bytes | None]], instance: bytes, keys: Path) -> Iterator[bytes]:
    """Contexts, and what opens the commitments to them, by the names by which an auditor finds them; none of a log that does not read."""
    key: bytes | None = None
    try:
        records = parse_log([leaf for leaf, _ in kept])
    except FormatError:
        return  # its leaves are in the archive, and whoever judges it finds that; the other logs keep their contexts
    for record, (_, sealed) in zip(records, kept, strict=True):
        if isinstance(record, Opening):
            namespace = AgentId.parse(record.agent).namespace
            key = unwrap(kept_key(keys / f"{instance.hex()}.key"), kept_key(keys / f"{namespace}.key"), instance)
        hidden = unseal(key, instance, record, sealed)
        if hidden is not None and hidden.context is not None and hidden.context_salt is not None:
            yield preimage_of(hidden.context_salt, hidden.context)
            yield hidden.context


def kept_key(path: Path) -> bytes | None:
    """What is in the file; None where there is none. Raises Unavailable."""
    try:
        return read_key(path)
    except OSError as error:
        raise Unavailable(f"key {path}", error.strerror or "cannot be read") from None

"""What operators of hosts held, lifted and erased, out of a store: root of a host can drop its own log of that, not what was shipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from auditor.store.export import kept_key, whole
from auditor.store.records import Held, open_records
from writ.formats.errors import FormatError
from writ.formats.hidden import unseal, unwrap
from writ.formats.operator_log import OPERATOR_LOG, Act, acts_of, held_of
from writ.formats.reason import Reason
from writ.formats.record import Record, parse_log
from writ.formats.tlog.storing import instance_of


@dataclass(frozen=True, slots=True)
class Operators:
    """Of one host: every act in order, and what stands against its log: two histories, or that it is none, and then no act is told."""

    host: str
    acts: tuple[Act, ...]
    reasons: tuple[Reason, ...]

    def to_json(self) -> dict[str, object]:
        """For people and scripts."""
        return {"host": self.host, "acts": [one.to_json() for one in self.acts], "held": sorted(held_of(self.acts))}


def operators(folder: Path, keys: Sequence[Path] = ()) -> list[Operators]:
    """The operator log of every host in the store in `folder`, as it was cosigned, sorted.

    By whom and why is told where one of `keys` is a copy of a host's `operator/` folder. Says nothing of what a host did not ship, nor of
    keys that its root destroyed by hand. Raises FormatError, Unavailable.
    """
    records = open_records(folder)
    try:
        with records.exclusive() as held:
            forked = {origin for origin, _, _ in held.forks()}
            named = [(instance_of(origin), origin) for origin in held.origins()]
            return [_of(held, origin, host, keys, origin in forked) for (host, instance), origin in named if instance == OPERATOR_LOG]
    finally:
        records.close()


def _of(held: Held, origin: str, host: str, keys: Sequence[Path], forked: bool) -> Operators:
    kept = whole(held, origin)
    reasons = [Reason("log-forked", host, "one history of what its operators did", "another beside it")] if forked else []
    acts: tuple[Act, ...] = ()
    try:
        acts = tuple(acts_of(_opened(kept, keys)))
    except FormatError as error:  # whatever a host shipped, it hides no other's
        reasons.append(Reason("malformed", host, error.expected, error.got))
    return Operators(host, acts, tuple(reasons))


def _opened(kept: Sequence[tuple[bytes, bytes | None]], keys: Sequence[Path]) -> list[tuple[Record, bytes | None]]:
    """Each record with what it hides, by whichever key opens that: a key of another host opens nothing."""
    found = [unwrap(kept_key(one / "content.key"), kept_key(one / "operator.key"), OPERATOR_LOG) for one in keys]
    read: list[tuple[Record, bytes | None]] = []
    for record, (_, sealed) in zip(parse_log([leaf for leaf, _ in kept]), kept, strict=True):
        opened = (unseal(key, OPERATOR_LOG, record, sealed) for key in found)
        read.append((record, next((one.content for one in opened if one is not None), None)))
    return read

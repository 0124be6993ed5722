"""The operator log of a host: who held what its action logs hide, lifted a hold, or erased, and why. An action log like any other.

    log.hold, log.lift, log.erase    on namespace/NAME or instance/ID, permitted without a token, of the gate `operator`
    log.settle                       on verifier, likewise
    arguments                        {"by", "why"}, of a hold on an instance also its "namespace" where that was known; JSON, sealed

It stands under an id that no instance has: instances are numbered at random, and this one is a hash. What was done, to what and when,
whoever has the leaves can see; by whom and why takes the log's keys. That it is whole, its root says.

Source: ours, docs/formats.md, "Operator log".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.record import ActionRecord, Opening, Record
from writ.formats.strict import Fields, decode_json
from writ.formats.strict import name as checked_name

OPERATOR_LOG: Final = sha256(b"writ/operator-log/v1").digest()[:16]
"""In the place of an instance."""
HOLD, LIFT, ERASE, SETTLE = "log.hold", "log.lift", "log.erase", "log.settle"
VERIFIER: Final = "verifier"
"""The resource of `log.settle`: that it is followed again, after it lost what it had confirmed."""
GATE: Final = "operator"
MAX_SAID: Final = 32_768
_INSTANCE, _NAMESPACE = "instance/", "namespace/"


@dataclass(frozen=True, slots=True)
class Act:
    """What an operator did to `resource`, and when. `outcome` is of an erasure: `done`, `failed`, or None where nobody knows.

    `by` and `why` are None without the log's keys, and so is `namespace`: of a held instance, as it was known when the hold was set.
    """

    act: str
    resource: str
    at: int
    by: str | None
    why: str | None
    namespace: str | None = None
    outcome: str | None = None

    def to_json(self) -> dict[str, object]:
        """For people and scripts."""
        ended = {"outcome": self.outcome} if self.act == ERASE else {}
        return {"act": self.act, "resource": self.resource, "at": self.at, "by": self.by, "why": self.why, **ended}


def of_namespace(namespace: str) -> str:
    """The resource of a namespace. Raises FormatError for what is no name."""
    return _NAMESPACE + checked_name(namespace, "namespace")


def of_instance(instance: bytes) -> str:
    """The resource of an instance."""
    return _INSTANCE + instance.hex()


def is_instance(resource: str) -> bool:
    """Whether it is one of `of_instance`."""
    return resource.startswith(_INSTANCE)


def instance_in(resource: str) -> bytes:
    """The instance that it is a resource of. Raises FormatError."""
    text = resource.removeprefix(_INSTANCE)
    if resource != _INSTANCE + text or not re.fullmatch(r"[0-9a-f]{32}", text):
        raise FormatError("resource", "instance/ and 32 digits of hex", repr(resource[:80]))
    return bytes.fromhex(text)


def encode_said(by: str, why: str, namespace: str | None) -> bytes:
    """The arguments of an act."""
    return json.dumps({"by": by, "why": why} | ({} if namespace is None else {"namespace": namespace})).encode()


def acts_of(read: Iterable[tuple[Record, bytes | None]]) -> list[Act]:
    """What a whole operator log says, in order: its records, each with what it hides, None where no key opens that. Raises FormatError."""
    found: list[Act] = []
    places: dict[int, int] = {}
    for record, content in read:
        if isinstance(record, Opening):
            if record.instance != OPERATOR_LOG:
                raise FormatError("operator log", f"the id {OPERATOR_LOG.hex()}", record.instance.hex())
        elif isinstance(record, ActionRecord):
            places[record.sequence] = len(found)
            found.append(_act(record, content))
        elif record.of in places:
            at = places[record.of]
            found[at] = replace(found[at], outcome=record.outcome)
    return found


def held_of(acts: Iterable[Act]) -> dict[str, Act]:
    """Every resource that is held after these acts, and the last act that held it; a namespace that an earlier one knew stays known."""
    held: dict[str, Act] = {}
    for one in acts:
        if one.act == HOLD:
            known = held.get(one.resource)
            held[one.resource] = one if known is None or known.namespace is None else replace(one, namespace=known.namespace)
        elif one.act == LIFT:
            held.pop(one.resource, None)
    return held


def _act(record: ActionRecord, content: bytes | None) -> Act:
    if record.action not in (HOLD, LIFT, ERASE, SETTLE) or record.gate != GATE:
        raise FormatError(
            "operator log", f"{HOLD}, {LIFT}, {ERASE} or {SETTLE} of the gate {GATE}", f"{record.action} of {record.gate}"[:120]
        )
    if content is None:
        return Act(record.action, record.resource, record.decided_at, None, None)
    f = Fields(decode_json(content, "operator log", max_size=MAX_SAID), "operator log")
    by, why, namespace = f.text("by"), f.text("why"), f.name("namespace") if f.has("namespace") else None
    f.done()
    return Act(record.action, record.resource, record.decided_at, by, why, namespace)

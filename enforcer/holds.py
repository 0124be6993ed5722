"""Legal holds: what is held is not erased, until somebody lifts the hold. Who did what, and why, is a record in the host's own log.

    operator/    an action log like any other, of `spiffe://localhost/operator/agent/enforcer`: log.hold, log.lift and log.erase, each on
                 namespace/NAME or instance/ID, and log.settle on verifier; its arguments {"by", "why"}

What is held now is what that log says, read from its start each time: there is no second truth to alter. It is root's file, as every log
of a host is; what it says cannot be changed without its root changing.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from enforcer.config import EnforcerConfig
from enforcer.content_keys import KEY_FILE, ContentKeys
from enforcer.places import HeldPlaces
from enforcer.record import LOG_FILE, ActionLog, LogReader, erase
from writ.formats.action import Action, encode_context
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.record import ActionDraft, ActionRecord, Opening, OutcomeDraft, parse_record
from writ.formats.spiffe import AgentId
from writ.service.clock import Clock
from writ.service.engine_id import installed_engine

HOLD, LIFT, ERASE, SETTLE = "log.hold", "log.lift", "log.erase", "log.settle"
VERIFIER: Final = "verifier"
"""The resource of `log.settle`."""
GATE: Final = "operator"
MOST_WORDS: Final = 1000
_OPERATOR: Final = AgentId("localhost", "operator", "enforcer")
_NO_CONTEXT: Final = encode_context({})


@dataclass(frozen=True, slots=True)
class Act:
    """What an operator did to `resource`, when, who, and why."""

    act: str
    resource: str
    at: int
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class Said:
    """Who acts, and why."""

    by: str
    why: str

    def __post_init__(self) -> None:
        for what, text, least in (("--by", self.by, 1), ("--why", self.why, 0)):
            if not least <= len(text) <= MOST_WORDS or not text.isprintable():
                raise FormatError(what, f"{least} to {MOST_WORDS} printable characters", repr(text[:80]))


def of_namespace(name: str) -> str:
    """The resource of a namespace."""
    return f"namespace/{AgentId('d', name, 'a').namespace}"


def of_instance(instance: bytes) -> str:
    """The resource of an instance."""
    return f"instance/{instance.hex()}"


class Holds:
    """The operator's log of one host."""

    def __init__(self, config: EnforcerConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._folder = config.state_dir / "operator"
        self._instance = hashlib.sha256(b"writ/operator-log/v1").digest()[:16]

    def acts(self) -> list[Act]:
        """Everything that was done, in order. Raises FormatError for a log that was altered, Unavailable."""
        if not (self._folder / LOG_FILE).exists():
            return []
        entries = LogReader(self._folder, self._instance, self._config.namespace_keys).entries()
        return [_act(e.record, e.content) for e in entries if isinstance(e.record, ActionRecord)]

    def held(self) -> dict[str, Act]:
        """Every resource that is held now, and who set the hold last."""
        found: dict[str, Act] = {}
        for one in self.acts():
            if one.act == HOLD:
                found[one.resource] = one
            elif one.act == LIFT:
                found.pop(one.resource, None)
        return found

    def hold(self, resource: str, said: Said) -> None:
        """`resource` is held: nothing of it is erased any more. Raises Unavailable where that cannot be recorded."""
        with closing(self._open()) as log:
            self._record(log, HOLD, resource, said)

    def lift(self, resource: str, said: Said) -> None:
        """The hold on `resource` is lifted. Raises Refused (`not-found`) where there is none, Unavailable."""
        with closing(self._open()) as log:  # one act at a time
            if resource not in self.held():
                raise Refused(Reason("not-found", "hold", f"one on {resource}", "none"))
            self._record(log, LIFT, resource, said)

    def erase_instance(self, instance: bytes, said: Said) -> bool:
        """What the log of an instance hides is unreadable for ever, and who did it recorded first. False where it was already.

        Raises Refused (`held`), Unavailable while it runs.
        """
        folder = self._config.instance_dir(instance)
        with closing(self._open()) as log:
            held = self.held()
            namespace = namespace_of(folder)
            for resource in (of_instance(instance), *(() if namespace is None else (of_namespace(namespace),))):
                _refuse_held(held, resource)
            if not (folder / KEY_FILE).exists():
                return False
            at = self._record(log, ERASE, of_instance(instance), said)
            return self._did(log, at, lambda: erase(folder))

    def erase_namespace(self, namespace: str, said: Said) -> bool:
        """The same of every instance of a namespace, past ones and those whose logs are elsewhere. Raises the same."""
        with closing(self._open()) as log:
            held = self.held()
            _refuse_held(held, of_namespace(namespace))
            for instance in self._instances(namespace):
                _refuse_held(held, of_instance(instance))
            at = self._record(log, ERASE, of_namespace(namespace), said)
            return self._did(log, at, ContentKeys(self._config.namespace_keys, namespace).erase)

    def settle(self, said: Said) -> None:
        """The verifier is followed again, from wherever its log stands, and who said so is on record first. Raises Unavailable."""
        with closing(self._open()) as log:
            at = self._record(log, SETTLE, VERIFIER, said)
            self._did(log, at, HeldPlaces(self._config.places_dir).settle)

    def _did(self, log: ActionLog, at: int, erases: Any) -> bool:
        """The outcome is on record, whatever it is."""
        try:
            erased = bool(erases())
        except BaseException:
            log.append(OutcomeDraft(self._clock.now(), at, False), b"")
            raise
        log.append(OutcomeDraft(self._clock.now(), at, True), b"")
        return erased

    def _instances(self, namespace: str) -> Iterator[bytes]:
        for folder in sorted((self._config.state_dir / "instances").glob("*")):
            if len(folder.name) == 32 and namespace_of(folder) == namespace:
                yield bytes.fromhex(folder.name)

    def _open(self) -> ActionLog:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable("operator log", f"{self._folder}: {error.strerror}") from None
        return ActionLog(self._folder, self._instance, _OPERATOR, installed_engine(), self._clock.now(), self._config.namespace_keys)

    def _record(self, log: ActionLog, act: str, resource: str, said: Said) -> int:
        arguments = json.dumps({"by": said.by, "why": said.why}).encode()
        action = Action(act, resource, Digest.of(arguments))
        return log.append(ActionDraft(self._clock.now(), action, None, None, _NO_CONTEXT, (), None, GATE), arguments).sequence


def namespace_of(folder: Path) -> str | None:
    """The namespace of the log in `folder`; None where it has no record yet. Raises Unavailable, FormatError."""
    if not (folder / LOG_FILE).exists():
        return None
    try:
        with closing(sqlite3.connect(f"file:{folder / LOG_FILE}?mode=ro", uri=True)) as db:
            row = db.execute("SELECT leaf FROM records WHERE sequence = 0").fetchone()
    except sqlite3.Error as error:
        raise Unavailable("action log", f"{folder}: SQLite says {type(error).__name__}") from None
    first = None if row is None else parse_record(row[0])
    return AgentId.parse(first.agent).namespace if isinstance(first, Opening) else None


def _refuse_held(held: dict[str, Act], resource: str) -> None:
    if (act := held.get(resource)) is not None:
        raise Refused(Reason("held", resource, "no legal hold on it", f"one by {act.by[:80]} since {act.at}"))


def _act(record: ActionRecord, content: bytes | None) -> Act:
    said = {"by": "erased", "why": "erased"} if content is None else json.loads(content)
    return Act(record.action, record.resource, record.decided_at, str(said["by"]), str(said["why"]))

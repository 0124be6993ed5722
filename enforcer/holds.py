"""Legal holds: what is held is not erased, until somebody lifts the hold. Who did what, and why, is a record in the host's own log.

    operator/    an action log like any other (`formats.operator_log`), with keys of its own in its folder; it ships to the store as they do

What is held now is what that log says, read from its start each time: there is no second truth to alter, and whether an instance's folder
is still there changes nothing. It is root's file, as every log of a host is; what it says cannot be changed without its root changing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enforcer.config import EnforcerConfig
from enforcer.content_keys import KEY_FILE, ContentKeys
from enforcer.places import HeldPlaces
from enforcer.record import LOG_FILE, ActionLog, LogReader, erase
from writ.formats.action import Action, encode_context
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.operator_log import (
    ERASE,
    GATE,
    HOLD,
    LIFT,
    OPERATOR_LOG,
    SETTLE,
    VERIFIER,
    Act,
    acts_of,
    encode_said,
    held_of,
    instance_in,
    is_instance,
    of_instance,
    of_namespace,
)
from writ.formats.reason import Reason
from writ.formats.record import ActionDraft, Opening, OutcomeDraft, parse_record
from writ.formats.spiffe import AgentId
from writ.service.clock import Clock
from writ.service.engine_id import installed_engine

MOST_WORDS: Final = 1000
_OPERATOR: Final = AgentId("localhost", "operator", "enforcer")
_NO_CONTEXT: Final = encode_context({})


@dataclass(frozen=True, slots=True)
class Said:
    """Who acts, and why."""

    by: str
    why: str

    def __post_init__(self) -> None:
        for what, text, least in (("--by", self.by, 1), ("--why", self.why, 0)):
            if not least <= len(text) <= MOST_WORDS or not text.isprintable():
                raise FormatError(what, f"{least} to {MOST_WORDS} printable characters", repr(text[:80]))


class Holds:
    """The operator's log of one host."""

    def __init__(self, config: EnforcerConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._folder = config.log_dir(OPERATOR_LOG)

    def acts(self) -> list[Act]:
        """Everything that was done, in order. Raises FormatError for a log that was altered, Unavailable."""
        if not (self._folder / LOG_FILE).exists():
            return []
        return acts_of((entry.record, entry.content) for entry in LogReader(self._folder, OPERATOR_LOG).entries())

    def held(self) -> dict[str, Act]:
        """Every resource that is held now, and who set the hold last."""
        return held_of(self.acts())

    def hold(self, resource: str, said: Said) -> None:
        """`resource` is held: nothing of it is erased any more. Raises Unavailable where that cannot be recorded."""
        namespace = None
        if is_instance(resource):
            with suppress(Unavailable, FormatError):  # a log that does not read is held all the same
                namespace = namespace_of(self._config.instance_dir(instance_in(resource)))
        with closing(self._open()) as log:
            self._record(log, HOLD, resource, said, namespace)

    def lift(self, resource: str, said: Said) -> None:
        """The hold on `resource` is lifted. Raises Refused (`not-found`) where there is none, Unavailable."""
        with closing(self._open()) as log:  # one act at a time
            if resource not in self.held():
                raise Refused(Reason("not-found", "hold", f"one on {resource}", "none"))
            self._record(log, LIFT, resource, said)

    def erase_instance(self, instance: bytes, said: Said) -> bool:
        """What the log of an instance hides is unreadable for ever, and who did it recorded first. False where it was already.

        A hold on it refuses, and one on its namespace: on any, where no record says which that is. Raises Refused (`held`), Unavailable
        while it runs.
        """
        folder = self._config.instance_dir(instance)
        with closing(self._open()) as log:
            own = namespace_of(folder)
            for resource, act in self.held().items():
                if resource == of_instance(instance) or (not is_instance(resource) and (own is None or resource == of_namespace(own))):
                    raise _held(resource, act)
            if not (folder / KEY_FILE).exists():
                return False
            at = self._record(log, ERASE, of_instance(instance), said)
            return self._did(log, at, lambda: erase(folder))

    def erase_namespace(self, namespace: str, said: Said) -> bool:
        """The same of every instance of a namespace, past ones and those whose logs are elsewhere.

        A hold on one of them refuses, whatever is left of its folder: the hold itself says of which namespace it is, and where that was not
        known then, it holds every namespace. Raises the same.
        """
        whole = of_namespace(namespace)
        with closing(self._open()) as log:
            for resource, act in self.held().items():
                if resource == whole or (is_instance(resource) and act.namespace in (None, namespace)):
                    raise _held(resource, act)
            at = self._record(log, ERASE, whole, said)
            return self._did(log, at, ContentKeys(self._config.namespace_keys, namespace).erase)

    def settle(self, said: Said) -> bool:
        """The verifier is followed again, from wherever its log stands, and who said so is on record first.

        False where it was. Raises Unavailable.
        """
        with closing(self._open()) as log:
            at = self._record(log, SETTLE, VERIFIER, said)
            return self._did(log, at, HeldPlaces(self._config.places_dir).settle)

    def _did(self, log: ActionLog, at: int, erases: Callable[[], bool]) -> bool:
        """The outcome is on record, whatever it is."""
        try:
            erased = erases()
        except BaseException:
            log.append(OutcomeDraft(self._clock.now(), at, False), b"")
            raise
        log.append(OutcomeDraft(self._clock.now(), at, True), b"")
        return erased

    def _open(self) -> ActionLog:
        """Its keys lie in its own folder, among those of no namespace."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable("operator log", f"{self._folder}: {error.strerror}") from None
        return ActionLog(self._folder, OPERATOR_LOG, _OPERATOR, installed_engine(), self._clock.now())

    def _record(self, log: ActionLog, act: str, resource: str, said: Said, namespace: str | None = None) -> int:
        arguments = encode_said(said.by, said.why, namespace)
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


def _held(resource: str, act: Act) -> Refused:
    by = "somebody whom no key names" if act.by is None else act.by[:80]
    return Refused(Reason("held", resource, "no legal hold on it", f"one by {by} since {act.at}"))

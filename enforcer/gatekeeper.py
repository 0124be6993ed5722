"""The one place of a host where actions are decided: snapshot, decide, make the record durable, and only then answer."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from enforcer.approvals import Approvals
from enforcer.credential import Credential, Held
from enforcer.quota import BYTES_IN_ALL, Quota
from enforcer.record import ActionLog, Recorded
from enforcer.shadow import Decided, Shadow
from writ.formats.action import Action, encode_context
from writ.formats.digest import Digest
from writ.formats.errors import Misuse, Unavailable
from writ.formats.grants import Grant, covers
from writ.formats.reason import NO_TOKEN, Reason
from writ.formats.record import MAX_STATUS, ActionDraft, OutcomeDraft
from writ.service.clock import Clock
from writ.verdict.approval import Asked, Given, consent_of
from writ.verdict.decide import counts, decide, would_refuse
from writ.verdict.memo import Memo

_NO_CONTEXT: Final = encode_context({})


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a gate is told. `held` is there exactly where the action was permitted; `sequence` and `leaf` (the record's leaf hash) are None
    where no record could be made.

    `observed` says that it passes all the same, of an agent that is only watched; then there is no token, and `reasons` would have refused.
    """

    action: Action
    reasons: tuple[Reason, ...]
    sequence: int | None
    held: Held | None
    leaf: bytes | None = None
    observed: bool = False

    @property
    def permit(self) -> bool:
        """Whether the action may pass now."""
        return self.held is not None or self.observed


@dataclass(frozen=True, slots=True)
class _Judged:
    permit: bool
    reasons: tuple[Reason, ...]
    context: bytes
    held: Held | None


class Line(Protocol):
    """What a gate holds open after an action has passed, so that a cut must reach it. Both may be called when they change nothing."""

    def cut(self) -> None:
        """Not another byte passes, and nothing new, until `mend`."""

    def mend(self) -> None:
        """What is new passes again."""


class Gatekeeper:
    """Decides for one instance. Thread-safe."""

    def __init__(
        self, *, credential: Credential, log: ActionLog, clock: Clock, observes: tuple[Grant, ...] | None = None, last: bytes | None = None,
        left: int = BYTES_IN_ALL, shadow: Shadow | None = None, approvals: Approvals | None = None,
    ) -> None:  # fmt: skip
        """`observes`, where it is not None, are the grants of an agent that is only watched: nothing it does is decided by a token.

        `last` is the leaf hash of the last action's record, of one that has acted before, and `left` what the instance may still write.
        `shadow` is told what was decided under a token, and changes nothing of it. `approvals` holds what waits for a person, and what
        people gave; without it nothing can be approved.
        """
        self._shadow = shadow
        self._observes = observes
        self._credential, self._log, self._clock = credential, log, clock
        self._quota = Quota(clock, in_all=left)
        self._memo = Memo()
        self._approvals = approvals
        self._cut: tuple[Reason, ...] = ()
        self._lines: list[Line] = []
        self._last = last
        self._used = Counter(log.permits)
        self._lock, self._counting = threading.Lock(), threading.Lock()

    @property
    def spent(self) -> Reason | None:
        """Why nothing of this instance will ever pass again: its quota is used up."""
        return self._quota.spent

    def stood(self) -> tuple[bytes | None, int]:
        """The leaf hash of the last action's record, and the bytes that may still be written."""
        with self._lock:
            return self._last, self._quota.left

    def reaches(self) -> Callable[[str, str], bool] | None:
        """Whether an action on a resource is granted by the token in force: not whether it may pass. None where nothing passes now."""
        if self._cut:
            return None
        if self._observes is not None:
            return lambda _action, _resource: True
        held = self._held()
        if held is None:
            return None
        grants = held.token.claims.grants
        return lambda action, resource: any(covers(one, action, resource) for one in grants)

    def passes(self) -> bool:
        """Whether anything may pass now: nothing is cut, and a token is in force, or the agent is only watched."""
        return not self._cut and (self._observes is not None or self._held() is not None)

    def _held(self) -> Held | None:
        try:
            return self._credential.current()
        except OSError:  # a clock that cannot be read
            return None

    def cut(self, *reasons: Reason) -> None:
        """From now on nothing passes, for these reasons, until `mend`: nor what was decided and has not been answered, nor on any line."""
        if not reasons:
            raise Misuse("cut needs a reason")
        with self._lock:
            self._cut = tuple(sorted(set(reasons)))
            for line in reversed(self._lines):  # bytes stop before children are told, who may be slow to listen
                line.cut()

    def mend(self) -> None:
        """Tokens decide again."""
        with self._lock:
            self._cut = ()
            for line in self._lines:
                line.mend()

    def hold(self, line: Line) -> None:
        """`line` is cut and mended with everything else from now on, and cut now if everything is."""
        with self._lock:
            self._lines.append(line)
            if self._cut:
                line.cut()

    def release(self, line: Line) -> None:
        """`line` is closed for good, and cut no more."""
        with self._lock:
            self._lines = [held for held in self._lines if held is not line]

    def ask(
        self, action: Action, arguments: bytes, *, gate: str, against: Reason | None = None, led_by: bytes | None = None,
        trace: bytes | None = None,
    ) -> Ruling:  # fmt: skip
        """Whether `action` may pass now; `against` is what the gate itself found (no such tool). Where everything is cut, that is why.

        `led_by` is the leaf hash of the record that led to this one, where that is in another instance's log. `trace` is what the asker
        said of its trace (`formats.trace`): it is recorded, and nothing is decided by it.

        0. There is room for a record, else it is refused without one.
        1. Token and bundle are taken once, the clock is read once. Permits of the same action are counted: where a policy looks, it is
           decided by itself, from the count to its record.
        2. The action is decided; what lacks an approval, again with the one that was given, if there is one: it is spent from then on.
        3. The record, and the arguments sealed beside it, are durable; a log that fails refuses (I4).
        4. Nothing was cut and no token died meanwhile; else the record gets a failed outcome and the action does not pass.

        Of an observed agent the record is a refusal, and the action passes unless the gate cannot, or everything is cut.
        Where a clock cannot be read, nothing passes.
        """
        try:
            return self._ask(action, arguments, gate, against, led_by, trace)
        except OSError as error:
            fault = Reason("unavailable", "clock", "a clock that can be read", str(error.strerror)[:200])
            return Ruling(action, (fault,), None, None)

    def _ask(
        self, action: Action, arguments: bytes, gate: str, against: Reason | None, led_by: bytes | None, trace: bytes | None
    ) -> Ruling:  # fmt: skip
        # 0
        excess = self._quota.take(len(arguments))
        if excess is not None:
            return Ruling(action, (excess,), None, None)
        # 1
        with self._lock:
            cut, parent = self._cut, self._last if led_by is None else led_by
        held, now = (None, self._clock.now()) if cut or against is not None else (self._credential.current(), self._clock.now())
        watched, stands = self._observes is not None and against is None and not cut, cut or (() if against is None else (against,))
        with self._counting if held is not None and counts(held.bundle, action.name) else contextlib.nullcontext():
            return self._decide(action, arguments, gate, stands, held, now, parent, trace, watched)

    def _decide(
        self, action: Action, arguments: bytes, gate: str, stands: tuple[Reason, ...], held: Held | None, now: int, parent: bytes | None,
        trace: bytes | None, watched: bool,
    ) -> Ruling:  # fmt: skip
        # 2
        used = self._used[action.name]
        judged = self._judge(action, stands, held, gate, now, used)
        # 3
        try:
            recorded = self._log.append(_draft(action, judged, parent, gate, now, trace), arguments)
        except Unavailable as error:
            fault = Reason("record-not-durable", "record", "a durable record", error.detail[:200])
            if judged.permit:
                self._count(action)  # it may be on record all the same
            return Ruling(action, (fault, *judged.reasons), None, None)
        sequence = recorded.sequence
        self._wait_for_approval(action, judged, gate, recorded)
        with self._lock:
            cut, self._last = self._cut, recorded.leaf_hash
        if judged.permit:
            self._count(action)
        self._tell(action, judged, gate, now, sequence, used)
        if not judged.permit:
            return Ruling(action, judged.reasons, sequence, None, recorded.leaf_hash, observed=watched and not cut)
        # 4
        if cut or self._credential.current() is None:
            late = cut or (NO_TOKEN,)
            self._outcome(sequence, False, b"")
            return Ruling(action, late, sequence, None, recorded.leaf_hash)
        return Ruling(action, (), sequence, judged.held, recorded.leaf_hash)

    def _count(self, action: Action) -> None:
        with self._lock:
            self._used[action.name] += 1

    def _tell(self, action: Action, judged: _Judged, gate: str, now: int, sequence: int, used: int) -> None:
        """The shadow hears of it, if there is one; whatever comes of that ends here."""
        if self._shadow is None or judged.held is None:
            return
        with contextlib.suppress(Exception):
            consent = consent_of(judged.context)
            self._shadow.saw(Decided(action, judged.held.token.claims, gate, now, judged.reasons, sequence, consent, used))

    def outcome(self, ruling: Ruling, *, done: bool, result: bytes, status: int | None = None) -> bool:
        """What became of a permitted action is recorded, its result sealed beside the log. False where that failed.

        `status` is that of the wire (`OutcomeRecord`); one that no record can hold is none.
        """
        if ruling.sequence is None or not ruling.permit:
            raise Misuse("an outcome of an action that did not pass")
        return self._outcome(ruling.sequence, done, result, status)

    def _outcome(self, of: int, done: bool, result: bytes, status: int | None = None) -> bool:
        now = self._clock.now()
        self._quota.spend(len(result))
        try:
            known = status if status is not None and abs(status) < MAX_STATUS else None
            self._log.append(OutcomeDraft(now, of, done, known), result)
        except Unavailable:
            return False
        return True

    def _judge(self, action: Action, against: tuple[Reason, ...], held: Held | None, gate: str, now: int, used: int) -> _Judged:
        if against:
            return _Judged(False, against, _NO_CONTEXT, None)
        if self._observes is not None:
            return _Judged(False, would_refuse(action, self._observes), _NO_CONTEXT, None)
        token, bundle = (None, None) if held is None else (held.token, held.bundle)
        lag = None if bundle is None or bundle.settings.record_lag_most is None else self._log.lag(now)
        decision = decide(action, token=token, bundle=bundle, gate=gate, now=now, memo=self._memo, used=used, lag=lag)
        if (given := self._given(action, gate, decision.reasons)) is not None:
            decision = decide(action, token=token, bundle=bundle, gate=gate, now=now, given=given, used=used, lag=lag)
        return _Judged(decision.permit, decision.reasons, decision.context, held)

    def _given(self, action: Action, gate: str, reasons: tuple[Reason, ...]) -> Given | None:
        """The approval that was given for this action, if that is all it lacks. Whatever comes of it, nobody gets it again."""
        return self._approvals.take(action, gate) if self._approvals is not None and _lacks_approval(reasons) else None

    def _wait_for_approval(self, action: Action, judged: _Judged, gate: str, recorded: Recorded) -> None:
        """A person can approve the action from now on, if that is all it lacks."""
        if self._approvals is not None and _lacks_approval(judged.reasons):
            self._approvals.wait(Asked(action, gate, recorded.leaf_hash, recorded.commitment))


def _draft(action: Action, judged: _Judged, parent: bytes | None, gate: str, now: int, trace: bytes | None) -> ActionDraft:
    token: Digest | None = None if judged.held is None else judged.held.token.digest
    bundle: Digest | None = None if judged.held is None else judged.held.bundle.digest
    return ActionDraft(now, action, token, bundle, judged.context, judged.reasons, parent, gate, trace)


def _lacks_approval(reasons: tuple[Reason, ...]) -> bool:
    return [reason.code for reason in reasons] == ["approval-required"]

"""When an instance asks for its next token, what it carries, and what an answer means for it."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enforcer import papers
from enforcer.bundles import HeldBundles
from enforcer.credential import Held, Subject, accept, renew_in
from enforcer.leases import with_lease
from enforcer.places import HeldPlaces
from enforcer.record import ActionLog, Checkpoint
from enforcer.relay import Relay
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.local import Local, Refusal, TokenAsk, TokenGiven, Unreachable
from writ.formats.reason import Reason
from writ.formats.trust import Trust
from writ.service import observe
from writ.service.clock import Clock
from writ.verdict.transparency import Logged

_LOG = observe.get_logger(__name__)

RETRY_LEAST: Final = 0.5
RETRY_MOST: Final = 10.0
"""Seconds between asks that got no token: doubled each time, and then a random half to the whole of it, so that all the hosts
whose verifier was away do not come back at one moment."""
ROLLED_BACK: Final = "verifier-rolled-back"
TRANSIENT: Final = frozenset(
    {
        "nonce-unknown",
        "nonce-spent",
        "nonce-expired",
        "nonce-superseded",
        "action-log-base",
        "anchor-proof-required",
        "too-many-requests",
        "unavailable",
        "conflict",
        "internal",
    }
)
"""Refusals of the exchange and not of the instance: asking again is the remedy, and meanwhile the token in force decides."""
MOST_ANCHORED: Final = 16
"""Anchors since the last checkpoint that was carried: a request proves so many, and what is behind them is the window."""
FIRST_TRIES: Final = 3
"""Asks for the first token, where the exchange and not the instance is refused."""
SETTLE_WITHIN: Final = 30.0
"""Seconds that an ended instance waits for the question under way."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A verified token."""

    held: Held


@dataclass(frozen=True, slots=True)
class NotNow:
    """No token, for these reasons; asking again may help. `answered` False: nobody said no, nobody answered."""

    reasons: tuple[Reason, ...]
    answered: bool


@dataclass(frozen=True, slots=True)
class Never:
    """No token ever again."""

    reasons: tuple[Reason, ...]


Verdict = Granted | NotNow | Never


class Renewal:
    """Asks for one instance, one question at a time, and knows which checkpoint the verifier has seen."""

    def __init__(
        self, subject: Subject, relay: Relay, log: ActionLog, trust: Trust, bundles: HeldBundles, places: HeldPlaces, folder: Path,
        clock: Clock, carried: int = 0, lost: Reason | None = None,
    ) -> None:  # fmt: skip
        """`carried` is how many records the verifier has been given a checkpoint of already, `lost` why it was not followed any more."""
        self._subject, self._relay, self._log, self._trust = subject, relay, log, trust
        self._bundles, self._places, self._folder, self._clock = bundles, places, folder, clock
        self._carried = self._confirmed = carried
        self._lost = lost
        self._anchored: set[int] = set()
        self._questions = 0
        self._due = clock.boot()
        self._failures = 0
        self._lock = threading.Lock()
        self._asking = False

    @property
    def carried(self) -> int:
        """How many records the verifier has been given a checkpoint of, as far as we know."""
        return self._carried

    @property
    def lost(self) -> Reason | None:
        """Why this instance does not follow the verifier any more."""
        return self._lost

    def to_anchor(self) -> Checkpoint | None:
        """The log as it is durable now, to be anchored: its size is proven with the next checkpoint, whether that comes about or not.

        None where there is nothing new, and while a question is under way: what it carries was taken before, and must not be less.
        """
        with self._lock:
            checkpoint = self._log.checkpoint()
            new = checkpoint.size > self._carried and checkpoint.size not in self._anchored
            if self._questions or not new or len(self._anchored) >= MOST_ANCHORED:
                return None
            self._anchored.add(checkpoint.size)
            return checkpoint

    def not_anchored(self, size: int) -> None:
        """The log of that size was refused as an anchor: it is in no register, and nothing is to be proven of it."""
        with self._lock:
            self._anchored.discard(size)

    def due_in(self) -> float | None:
        """Seconds until the next ask; None while one is under way."""
        with self._lock:
            return None if self._asking else max(0.0, self._due - self._clock.boot())

    def ask_now(self) -> None:
        """The next ask is due."""
        with self._lock:
            self._due, self._failures = self._clock.boot(), 0

    def first(self) -> Held:
        """The first token. Raises Refused; Unavailable where nobody answered."""
        verdict = self.ask()
        for _ in range(FIRST_TRIES - 1):
            if not isinstance(verdict, NotNow) or verdict.answered:
                break
            time.sleep(RETRY_LEAST)
            verdict = self.ask()
        if isinstance(verdict, Granted):
            return verdict.held
        if isinstance(verdict, NotNow) and not verdict.answered:
            raise Unavailable("attestor", str(verdict.reasons[0]))
        raise Refused(*verdict.reasons)

    def observe(self) -> tuple[Reason, ...]:
        """Why the verifier gives this instance no token: it is asked once, for the record, and never again. Raises Refused for one."""
        verdict = self.ask()
        if isinstance(verdict, Granted):
            raise Refused(Reason("observed", "token", "none, for an observed agent", verdict.held.token.claims.token_id))
        with self._lock:
            self._due = math.inf
        return verdict.reasons

    def begin(self, heard: Callable[[Verdict], None]) -> None:
        """Ask in the background; `heard` gets the verdict from another thread."""
        with self._lock:
            if self._asking:
                return
            self._asking = True

        def renew() -> None:
            heard(self.renew())

        threading.Thread(target=renew, name="renewal", daemon=True).start()

    def renew(self) -> Verdict:
        """Ask now, in this thread, and know when to ask next."""
        verdict = self.ask()
        with self._lock:
            self._asking = False
            self._schedule(verdict)
        return verdict

    def _schedule(self, verdict: Verdict) -> None:
        chance = secrets.randbelow(1 << 20) / (1 << 20)
        if isinstance(verdict, Granted):
            self._failures = 0
            wait = renew_in(verdict.held.life, chance)
        else:
            self._failures += 1
            wait = min(RETRY_MOST, RETRY_LEAST * 2 ** min(self._failures - 1, 8)) * (0.5 + chance / 2)
        self._due = self._clock.boot() + wait

    def carry_the_rest(self) -> None:
        """The instance is over: records that no checkpoint carried are carried now, whatever the answer.

        A token that comes of it is never used. Of a drifted instance a refusal
        comes, and the verifier keeps the checkpoint all the same. Where it
        stands elsewhere than we thought, it is asked once more from there.
        """
        end = time.monotonic() + SETTLE_WITHIN
        while self.due_in() is None and time.monotonic() < end:
            time.sleep(0.01)
        if self._lost is None and self.due_in() is not None and self._log.checkpoint().size > self._carried:
            _, moved = self._ask()
            if moved and self._log.checkpoint().size > self._carried:
                self._ask()

    def ask(self) -> Verdict:
        """Ask, and verify what comes.

        1. The checkpoint of the log as it is durable now, with the proof that it extends the one carried last, and each anchor since.
        2. The answer, or none.
        3. A token is verified link by link, and its papers are kept; of hardware mode, it comes with its first lease or not at all.
        4. The checkpoint counts as carried where the verifier answered with a token, or a decision of it says which one it holds.
        5. A verifier that lost what it had confirmed by a token is asked no more, and no instance of this host gets one, before an operator
           has settled it and, of those that know of it, ever: it says that it holds less of the log, or its own log is no continuation
           of that whose receipt came with a token. A true new enrolment of the host is not that: of an instance from before it the
           verifier says for ever that it is tainted.
        """
        try:
            self._lost = self._lost or self._places.read().lost
        except (FormatError, Unavailable) as error:
            return _not_judged(error)
        if self._lost is not None:
            return NotNow((self._lost,), True)
        verdict, moved = self._ask()
        return self._ask()[0] if moved and not isinstance(verdict, Never) else verdict

    def _ask(self) -> tuple[Verdict, bool]:
        """The answer, and whether the verifier said that it holds another checkpoint, or anchors, than the ones we took it to hold."""
        with self._lock:
            self._questions += 1
        try:
            try:
                after = self._places.read().logs
            except (FormatError, Unavailable) as error:
                return _not_judged(error), False
            return self._question(after)
        finally:
            with self._lock:
                self._questions -= 1

    def _question(self, after: Sequence[Logged]) -> tuple[Verdict, bool]:
        """`after` was read before this asks: whatever is decided on it stands behind."""
        # 1
        checkpoint, carried = self._log.checkpoint(), self._carried
        with self._lock:
            sizes = sorted(size for size in self._anchored if size <= checkpoint.size)
        ask = TokenAsk(
            self._subject.instance, self._subject.session_key, self._subject.audience, self._subject.grants,
            checkpoint.size, checkpoint.root, carried, self._log.consistency(carried, checkpoint.size),
            tuple((size, self._log.consistency(size, checkpoint.size)) for size in sizes),
        )  # fmt: skip
        # 2
        answer = self._relay.ask(ask)
        # 3, 4, 5
        try:
            decided = isinstance(answer, Refusal) and answer.decided
            if isinstance(answer, Refusal) and decided and (lacks := self._lacking(answer)):
                return Never(lacks), False
            return self._judge(answer, checkpoint.size, after), isinstance(answer, Refusal) and decided and self._resume(answer)
        except Refused as refused:
            self._lost = next((reason for reason in refused.reasons if reason.code == ROLLED_BACK), None)
            if self._lost is not None:
                self._alarm(self._lost)
            return NotNow(refused.reasons, True), False
        except (FormatError, Unavailable) as error:
            return _not_judged(error), False

    def _alarm(self, reason: Reason) -> None:
        _LOG.error(ROLLED_BACK, instance=self._subject.instance.hex(), detail=str(reason), next=reason.remedy)
        try:
            self._places.alarm(reason)
        except (FormatError, Unavailable) as error:  # this instance knows, whatever others hear
            _LOG.error("alarm-not-kept", detail=str(error))

    def _judge(self, answer: Local, size: int, after: Sequence[Logged]) -> Verdict:
        if isinstance(answer, TokenGiven):
            held = accept(answer, self._subject, self._trust, self._bundles, wall=self._clock.now(), boot=self._clock.boot(), after=after)
            if held.logged is not None:
                self._places.advance(held.logged)
            self._carried = self._confirmed = size
            with self._lock:
                self._anchored = {one for one in self._anchored if one > size}
            papers.keep(self._folder, answer, logged=held.logged is not None)
            try:
                return Granted(with_lease(held, self._relay, self._clock))
            except Refused as refused:  # the host moved on between the quote and the lease: the token before may still be alive
                return NotNow(refused.reasons, False)
        if isinstance(answer, Refusal):
            reasons = answer.reasons or (Reason("policy-refused", "token", "a token", "a refusal without a reason"),)
            if answer.final:
                return Never(reasons)
            return NotNow(reasons, not all(reason.code in TRANSIENT for reason in reasons))
        if isinstance(answer, Unreachable):
            raise Unavailable("attestor", answer.detail)
        raise FormatError("answer", "a token, a refusal or none", type(answer).__name__)

    def _resume(self, refusal: Refusal) -> bool:
        """An answer was lost: the verifier is ahead of us then and says where it stands, and the next proof starts there.

        Or what was anchored before this code took over: it says of which sizes it lacks a proof, and the next ask has those. Only what it
        decided says where it stands: of what anybody on the way can say, nothing here follows.
        """
        for reason in () if refusal.final else refusal.reasons:
            if reason.code == "action-log-base" and reason.expected.isdecimal() and int(reason.expected) < self._confirmed:
                least = f"{self._confirmed} records at least, which a token confirmed"
                raise Refused(Reason(ROLLED_BACK, reason.claim, least, reason.expected[:20]))
        wanted = self._wanted(refusal)
        with self._lock:
            self._anchored |= wanted
        for reason in refusal.reasons:
            if reason.code == "action-log-base" and reason.expected.isdecimal() and int(reason.expected) <= self._log.checkpoint().size:
                self._carried = int(reason.expected)
                return True
        return bool(wanted)

    def _lacking(self, refusal: Refusal) -> tuple[Reason, ...]:
        """A reason where the verifier saw an anchor of more records than our log has: it was cut, and no token may follow."""
        size = self._log.checkpoint().size
        lost = max((wanted for wanted in self._wanted(refusal) if wanted > size), default=None)
        return () if lost is None else (Reason("anchor-inconsistent", "log", f"{lost} records", f"{size} records"),)

    def _wanted(self, refusal: Refusal) -> set[int]:
        sizes = (size for reason in refusal.reasons if reason.code == "anchor-proof-required" for size in reason.expected.split(" "))
        return {int(size) for size in sizes if size.isascii() and size.isdecimal() and len(size) < 20}


def _not_judged(error: FormatError | Unavailable) -> NotNow:
    """No answer that could be read; or what this host has seen of the verifier's log cannot, and none is asked for."""
    if isinstance(error, FormatError):
        return NotNow((Reason("malformed", error.what[:100], error.expected, error.got),), True)
    return NotNow((Reason("unavailable", error.what[:100], "an answer", error.detail[:200]),), False)

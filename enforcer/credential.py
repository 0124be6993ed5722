"""The session key of one instance and the token it holds: everything relayed is verified here, and dies on time here.

The relay (the attestor) is believed in nothing that carries a signature. The
root of it is the pinned decision keys of the trust file:

    decision key -> signed AttestDecision -> digest of exactly these claims
                 -> signed policy bundle  -> digest that the claims name
    token keys (relayed) sign the token, and are believed because the decision vouches for every claim

A token of hardware mode is in force only beside a lease, which a key in the host's TPM signed a moment ago.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from enforcer.bundles import HeldBundles, verify_bundle, verify_signed
from writ.formats.decision import CONTENT_TYPE as DECISION_TYPE
from writ.formats.decision import AttestDecision, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import SignedToken, parse_token
from writ.formats.errors import FormatError, Refused
from writ.formats.grants import Grant
from writ.formats.keys import PublicKey, key_id
from writ.formats.lease import parse_lease
from writ.formats.local import LeaseGiven, TokenGiven
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.tlog.receipt import parse_receipt
from writ.formats.trust import Trust
from writ.service.clock import Clock
from writ.verdict.token import VerifiedToken, verify_lease, verify_token
from writ.verdict.transparency import Logged, verify_logged

RENEW_JITTER: Final = 0.10


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a token must be for: what this holder launched, and nothing else."""

    instance: bytes
    agent: AgentId
    session_key: PublicKey
    audience: str
    grants: tuple[Grant, ...]
    parent: bytes | None


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A verified lease, as it is shown to others, with both clocks when it was asked for, in seconds."""

    data: bytes
    alive_until: int
    asked_wall: int
    asked_boot: float

    @property
    def life(self) -> int:
        """Seconds of life that were left when it was asked for."""
        return self.alive_until - self.asked_wall

    def remaining(self, wall: int, boot: float) -> float:
        """Seconds until it is dead by either clock; 0 or less where it is."""
        return min(self.alive_until - wall, self.life - (boot - self.asked_boot))


@dataclass(frozen=True, slots=True)
class Held:
    """A verified token with its bundle, compact form and both clocks at receipt, in seconds; and its lease, where it takes one.

    `logged` is where its decision stands in the verifier's log; None where the trust file names no log.
    """

    token: VerifiedToken
    compact: str
    bundle: PolicyBundle
    received_wall: int
    received_boot: float
    lease: HeldLease | None = None
    logged: Logged | None = None

    @property
    def life(self) -> int:
        """Seconds of life that were left at receipt."""
        return self.token.claims.expires_at - self.received_wall

    def unexpired(self, wall: int, boot: float) -> bool:
        """Whether neither clock says that the token is dead: the wall clock past `exp`, or as much boot time gone as life was left."""
        return wall < self.token.claims.expires_at and 0 <= boot - self.received_boot < self.life

    def leased(self, wall: int, boot: float) -> bool:
        """Whether it takes no lease, or its lease is alive."""
        return self.token.claims.lease is None or (self.lease is not None and self.lease.remaining(wall, boot) > 0)

    def alive(self, wall: int, boot: float) -> bool:
        """Whether neither clock says that it is dead, nor its lease."""
        return self.unexpired(wall, boot) and self.leased(wall, boot)


def accept(
    given: TokenGiven, subject: Subject, trust: Trust, bundles: HeldBundles, *, wall: int, boot: float, after: Sequence[Logged] = ()
) -> Held:  # fmt: skip
    """The relayed answer is the verifier's, for `subject`, fresh, and no step back; `after` is the last place in each log before it was
    asked for.

    1. The decision is signed by a pinned decision key; where the trust file names a log, its receipt shows it in that log, behind what
       was there before.
    2. Its outcome for the instance names exactly these claims, and nothing stands against the host or the instance.
    3. The token is by this trust's issuer, signed by the key it names, alive, for this audience.
    4. Its claims are those of the instance that was launched, with grants and lineage.
    5. EAR and policy are those that the decision and the claims name; the policy is signed, and no older than held.

    Raises FormatError or Refused at the first fault.
    """
    # 1
    entry = parse_entry(verify_signed(given.decision, DECISION_TYPE, trust.decision_keys, "decision"))
    if not isinstance(entry, AttestDecision):
        raise FormatError("decision", "an attestation", type(entry).__name__)
    logged = _logged(given, trust, after)
    # 2
    token = parse_token(given.token)
    _vouched(entry, token, subject)
    # 3
    keys = {key_id(key): key for key in given.token_keys}
    verified = verify_token(token, keys=keys, issuer=trust.issuer, audience=subject.audience, now=wall, revocation=None)
    # 4
    _is_for(verified, entry, subject)
    # 5
    claims = verified.claims
    if Digest.of(given.result) != entry.result or claims.result != entry.result:
        raise Refused(Reason("digest-mismatch", "result", str(entry.result), str(Digest.of(given.result))))
    bundle = verify_bundle(given.policy, trust.decision_keys, claims.policy)
    if dict(entry.inputs)["policy"] != bundle.digest:
        raise Refused(Reason("policy-digest-mismatch", "decision.policy", str(dict(entry.inputs)["policy"]), str(bundle.digest)))
    if bundle.namespace != subject.agent.namespace:
        raise Refused(Reason("policy-unknown", "policy.namespace", subject.agent.namespace, bundle.namespace))
    bundles.advance(bundle)
    return Held(verified, token.jws.compact, bundle, wall, boot, logged=logged)


def leased(held: Held, lease: LeaseGiven, *, wall: int, boot: float) -> Held:
    """`held` with this lease, which the TPM made for its token; both clocks are of when it was asked for. Raises FormatError, Refused."""
    verified = verify_lease(parse_lease(lease.lease), held.token, now=wall)
    if verified is None:
        raise Refused(Reason("lease-mismatch", "lease", "none, for a token without one", "a lease"))
    fresh = HeldLease(lease.lease, verified.alive_until, wall, boot)
    return Held(held.token, held.compact, held.bundle, held.received_wall, held.received_boot, fresh, held.logged)


def _logged(given: TokenGiven, trust: Trust, after: Sequence[Logged]) -> Logged | None:
    """Where the decision stands, by its receipt. A log only grows: what is decided later stands behind, under a size that is no smaller.

    The same decision once more is no news here: `Credential.take` refuses its token.
    """
    if not trust.log_keys:
        return None
    if given.receipt is None:
        raise Refused(Reason("receipt-missing", "receipt", f"one of {trust.log_keys[0].name}", "none"))
    place = verify_logged(leaf_hash(given.decision), parse_receipt(given.receipt), trust.log_keys, None, "receipt")
    for last in after:
        if last.origin == place.origin and (place.index < last.index or place.size < last.size):
            wanted, got = f"entry {last.index} of {last.size}, or later", f"entry {place.index} of {place.size}"
            raise Refused(Reason("verifier-rolled-back", "receipt.index", wanted, got))
    return place


def _vouched(entry: AttestDecision, token: SignedToken, subject: Subject) -> None:
    outcome = next((o for o in entry.outcomes if o.instance == subject.instance), None)
    if outcome is None:
        raise Refused(Reason("instance-unknown", "decision.outcomes", subject.instance.hex(), f"{len(entry.outcomes)} others"))
    if entry.reasons or outcome.reasons:
        raise Refused(*entry.reasons, *outcome.reasons)
    got = Digest.of(token.jws.payload)
    if outcome.claims != got:
        raise Refused(Reason("digest-mismatch", "token", str(outcome.claims), str(got)))


def _is_for(verified: VerifiedToken, entry: AttestDecision, subject: Subject) -> None:
    claims = verified.claims
    checks: Sequence[tuple[str, object, object]] = (
        ("instance", subject.instance.hex(), claims.instance.hex()),
        ("sub", str(subject.agent), str(claims.agent)),
        ("cnf", subject.session_key.thumbprint().hex(), claims.key.hex()),
        ("host", entry.host, claims.host),
        ("iat", entry.decided_at, claims.issued_at),
        ("grants", list(subject.grants), list(claims.grants)),
        ("parent", subject.parent, claims.lineage[0] if claims.lineage else None),
    )
    for name, expected, got in checks:
        if expected != got:
            raise Refused(Reason("token-malformed", f"token.{name}", str(expected)[:200], str(got)[:200]))


class Credential:
    """The token in force, for whoever asks at a moment. Thread-safe; it never returns one that is dead."""

    def __init__(self, clock: Clock, seen: Sequence[str] = ()) -> None:
        """`seen` are the ids of tokens held before."""
        self._clock = clock
        self._held: Held | None = None
        self._seen = dict.fromkeys(seen)
        self._lock = threading.Lock()

    def take(self, held: Held) -> None:
        """`held` is in force. Raises Refused for a token that was here before: only a fresh appraisal thaws."""
        with self._lock:
            if held.token.claims.token_id in self._seen:
                raise Refused(Reason("conflict", "token.jti", "a token not held before", held.token.claims.token_id))
            self._seen[held.token.claims.token_id] = None
            self._held = held

    @property
    def seen(self) -> tuple[str, ...]:
        """The ids of the tokens held so far, the latest last."""
        with self._lock:
            return tuple(self._seen)

    def renew(self, leased: Held) -> bool:
        """The token in force has this lease from now on; False where another is in force by now, or none."""
        with self._lock:
            if self._held is None or self._held.token.digest != leased.token.digest:
                return False
            self._held = leased
            return True

    def holding(self) -> Held | None:
        """The token that was taken last and has not expired, whatever became of its lease."""
        with self._lock:
            held = self._held
        return held if held is not None and held.unexpired(self._clock.now(), self._clock.boot()) else None

    def over(self) -> Reason:
        """Why nothing is in force, where a token was."""
        held = self.holding()
        if held is not None and not held.leased(self._clock.now(), self._clock.boot()):
            return Reason("lease-expired", "lease", "a lease in time", "none")
        return Reason("token-expired", "token.exp", "a renewal in time", "none")

    def drop(self) -> None:
        """Nothing is in force: after a hold or a kill only a new token helps."""
        with self._lock:
            self._held = None

    def current(self) -> Held | None:
        """The token in force now, or None."""
        with self._lock:
            held = self._held
        return held if held is not None and held.alive(self._clock.now(), self._clock.boot()) else None

    def remaining(self) -> float:
        """Seconds until the token in force is dead by either clock; 0 where there is none."""
        held = self.current()
        if held is None:
            return 0.0
        wall, boot = self._clock.now(), self._clock.boot()
        left = min(held.token.claims.expires_at - wall, held.life - (boot - held.received_boot))
        return max(0.0, left if held.lease is None else min(left, held.lease.remaining(wall, boot)))


def renew_in(life: float, chance: float) -> float:
    """Seconds to wait before renewing: half of the life that was left at receipt, ±10 %, `chance` being in [0, 1)."""
    return life * (0.5 + RENEW_JITTER * (2 * chance - 1) / 2)

"""The relying party: whether a request that came with a token and a proof may pass here, and the durable record of it.

Every surface that relies on Writ's tokens turns its wire into a `Presented` request and asks here. Whoever presents them is not known
otherwise: the token names the agent, and the proof shows that its holder asks for this very action, once.

One process has one replay cache: behind several workers, each worker must have its own origin or all share one process.

Source: RFC 9449 sections 4.3, 7.1; RFC 9457.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from enforcer.replay_cache import ReplayCache
from writ.formats.access import Access
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError, Misuse, Refused
from writ.formats.jose import DpopProof, parse_dpop
from writ.formats.keys import PublicKey
from writ.formats.lease import parse_lease
from writ.formats.policy_bundle import CLOCK_SKEW, PolicyBundle
from writ.formats.reason import Reason
from writ.formats.strict import parse_b64url
from writ.service import observe
from writ.service.clock import Clock
from writ.verdict.decide import decide
from writ.verdict.memo import Memo, SignatureMemo
from writ.verdict.token import Revocation, VerifiedToken, verify_lease, verify_proof, verify_token

_LOG = observe.get_logger(__name__)

_STATUS: Final[Mapping[str, int]] = {
    "malformed": 400, "too-large": 413, "too-many-requests": 503, "unavailable": 503, "internal": 503, "record-not-durable": 503,
    "status-stale": 503, "policy-unknown": 503, "policy-digest-mismatch": 503,
    "policy-refused": 403, "policy-error": 403, "approval-required": 403, "grant-missing": 403, "hold": 403,
}  # fmt: skip
"""HTTP status by reason code; every other code is about token or proof: 401."""
_PROOF_CODES: Final = ("proof-missing", "proof-invalid", "proof-mismatch", "proof-stale", "proof-replayed")
_NO_CONTEXT: Final = b"\xa0"


def status_of(reasons: Sequence[Reason]) -> int:
    """The HTTP status of a refusal."""
    return max(_STATUS.get(reason.code, 401) for reason in reasons)


def challenge_of(reasons: Sequence[Reason]) -> str:
    """The `WWW-Authenticate` of a refusal with 401. Source: RFC 9449 section 7.1."""
    error = "invalid_dpop_proof" if any(reason.code in _PROOF_CODES for reason in reasons) else "invalid_token"
    return f'DPoP error="{error}", algs="Ed25519 ES256"'


class Sink(Protocol):
    """Where decisions go."""

    def write(self, access: Access) -> None:
        """`access` is durable when this returns. Anything raised refuses the request."""
        ...


class Feed(Protocol):
    """What the verifier publishes, as fresh as it could be had. Each answers at once, from what it holds; None where it does not know."""

    def keys(self) -> Mapping[str, PublicKey]:
        """Token keys by key id."""
        ...

    def revocation(self) -> Revocation | None:
        """The status list."""
        ...

    def bundle(self, named: Digest) -> PolicyBundle | None:
        """The policy of that digest, or the newest."""
        ...


@dataclass(frozen=True, slots=True)
class Presented:
    """An action asked for, and what was shown for it, perhaps a lease. The proof names `method` and `uri`.

    `agent` is who the asker says that the agent is, None where nobody says: the token knows. `trace` is what the asker said of its trace.
    """

    action: Action
    method: str
    uri: str
    token: str
    proof: str
    lease: str | None = None
    agent: str | None = None
    trace: bytes | None = None


@dataclass(frozen=True, slots=True)
class Weighed:
    """What was decided, and is not durable yet. `token` is there where one was verified, also of a request that is refused."""

    token: VerifiedToken | None
    access: Access

    def passed(self) -> VerifiedToken:
        """The token of a request that was permitted, once `access` is durable. Raises Refused."""
        if self.token is None or not self.access.permit:
            raise Refused(*self.access.reasons)
        return self.token


def not_durable(error: Exception, reference: str) -> Refused:
    """What refuses where a sink raised `error`, which is logged."""
    _LOG.error("sink-failed", exception=error, reference=reference)
    return Refused(Reason("record-not-durable", "sink", "a durable record", type(error).__name__))


class RelyingParty:
    """Decides for one service. Thread-safe."""

    def __init__(
        self, *, audience: str, issuer: str, feed: Feed, sink: Sink, clock: Clock, engine: EngineId, replay: ReplayCache | None = None
    ) -> None:
        """Raises Misuse without a sink: nothing passes unrecorded (I4).

        A proof that an earlier process may have seen is refused: for some seconds after a start nothing passes.
        """
        if not callable(getattr(sink, "write", None)):
            raise Misuse("a relying party needs a durable sink")
        self._audience, self._issuer = audience, issuer
        self.sink: Final = sink
        self._feed, self._clock, self._engine = feed, clock, engine
        self._memo, self._signatures = Memo(), SignatureMemo()
        self._replay = replay if replay is not None else ReplayCache(refuse_made_before=clock.now() + CLOCK_SKEW + 1)

    def admit(self, request: Presented, *, gate: str, reference: str) -> VerifiedToken:
        """The request may pass, and that is recorded under `reference`: as `weigh`, and then durable. Raises Refused."""
        weighed = self.weigh(request, gate=gate, reference=reference)
        try:
            self.sink.write(weighed.access)
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the record is not known to be durable
            raise not_durable(error, reference) from None
        return weighed.passed()

    def weigh(self, request: Presented, *, gate: str, reference: str) -> Weighed:
        """What is decided about the request. Nothing may pass by it until its `access` is durable (I4). Waits for nobody.

        1. The clock is read once; keys, status list and policy are taken once.
        2. The token is the verifier's, for us, alive, not revoked by a fresh list, and of the agent that was named, if one was; where it
           takes a lease, that is alive, too.
        3. The proof is by its holder, for this very request.
        4. It was never used before.
        5. Grant and policy permit it.

        Raises Refused where there is nothing to record it by: the clock cannot be read.
        """
        # 1
        try:
            now = self._clock.now()
        except OSError as error:
            raise Refused(Reason("unavailable", "clock", "a clock that can be read", str(error.strerror)[:200])) from None
        try:
            token, proof = self._authenticate(request, now)
        except Refused as refused:
            return Weighed(None, self._access(request, None, None, None, refused.reasons, _NO_CONTEXT, now, reference))
        # 5
        bundle = self._feed.bundle(token.claims.policy)
        decision = decide(request.action, token=token, bundle=bundle, gate=gate, now=now, memo=self._memo)
        return Weighed(token, self._access(request, token, bundle, proof, decision.reasons, decision.context, now, reference))

    def _authenticate(self, request: Presented, now: int) -> tuple[VerifiedToken, DpopProof]:
        revocation = self._feed.revocation()
        if revocation is None:
            raise Refused(Reason("status-stale", "status_list", "a fresh list", "none"))
        # 2
        try:
            signed = self._signatures.token(request.token) or parse_token(request.token)
        except FormatError as error:
            raise Refused(Reason("token-malformed", error.what[:100], error.expected, error.got)) from None
        token = verify_token(
            signed, keys=self._feed.keys(), issuer=self._issuer, audience=self._audience, now=now, revocation=revocation,
            memo=self._signatures,
        )  # fmt: skip
        if request.agent is not None and request.agent != str(token.claims.agent):
            raise Refused(Reason("unauthenticated", "subject.id", str(token.claims.agent), repr(request.agent)[:200]))
        try:
            lease = None if request.lease is None else parse_lease(parse_b64url(request.lease, "lease"))
        except FormatError as error:
            raise Refused(Reason("lease-invalid", error.what[:100], error.expected, error.got)) from None
        verify_lease(lease, token, now=now)
        # 3
        try:
            proof = parse_dpop(request.proof)
        except FormatError as error:
            raise Refused(Reason("proof-invalid", error.what[:100], error.expected, error.got)) from None
        verified = verify_proof(proof, token, request.action, method=request.method, uri=request.uri, now=now)
        # 4
        self._replay.take(verified.single_use, forget_after=verified.forget_after, made_at=proof.iat, now=now)
        return token, proof

    def _access(
        self, request: Presented, token: VerifiedToken | None, bundle: PolicyBundle | None, proof: DpopProof | None,
        reasons: tuple[Reason, ...], context: bytes, now: int, reference: str,
    ) -> Access:  # fmt: skip
        return Access(
            decided_at=now, engine=self._engine.tree, agent=None if token is None else str(token.claims.agent),
            instance=None if token is None else token.claims.instance, action=request.action.name, resource=request.action.resource,
            token=None if token is None else token.digest, bundle=None if token is None or bundle is None else bundle.digest,
            proof=None if proof is None else Digest.of(request.proof.encode("ascii")), context=context, reasons=reasons,
            reference=reference, parent=None if proof is None or proof.led is None else parse_b64url(proof.led, "proof.led"),
            trace=request.trace,
        )  # fmt: skip

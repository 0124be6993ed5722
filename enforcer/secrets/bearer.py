"""Tokens of an instance for elsewhere: asked of the verifier by way of the attestor, verified here, kept in memory while they are good.

They are bearer tokens, the one kind that Writ issues, so nobody but the enforcer holds them: an agent has a placeholder, as for any other
secret, and none is ever a file that it reads.

The relay is believed in nothing: a pinned decision key signed the decision, which names exactly the claims of the token.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from enforcer.bundles import verify_signed
from enforcer.credential import Held
from enforcer.secrets.source import DUE, GiveBack, Lease
from writ.formats.action import exchange_action
from writ.formats.decision import CONTENT_TYPE, ExchangeDecision, parse_entry
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.exchange import exchange_uri
from writ.formats.exchange_token import parse_exchange_token
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.formats.keys import Signer
from writ.formats.local import ExchangeAsk, ExchangeGiven, Local, Refusal, Unreachable
from writ.formats.reason import Reason
from writ.formats.strict import b64url
from writ.formats.trust import Trust
from writ.service.clock import Clock
from writ.verdict.token import VerifiedExchangeToken, verify_exchange_token

Ask = Callable[[Local], Local]
_REFUSED_NOW: Final = Reason("policy-refused", "exchange", "a token", "a refusal without a reason")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A token, with both clocks at its receipt, in seconds."""

    token: VerifiedExchangeToken
    wall: int
    boot: float

    def left(self, wall: int, boot: float) -> float:
        """Seconds for which it is still used, by the clock that says less."""
        life = self.token.claims.expires_at - self.wall
        return life * DUE - max(wall - self.wall, boot - self.boot)


class Bearers:
    """The exchange tokens of one instance, at most one for each audience. Thread-safe; one is asked for at a time.

    What was refused under one execution token is not asked again under it: an agent could make the verifier sign a refusal for each of
    its requests.
    """

    def __init__(self, key: Signer, trust: Trust, ask: Ask, clock: Clock) -> None:
        """`key` is the session key; `ask` asks the attestor."""
        self._key, self._trust, self._ask, self._clock = key, trust, ask, clock
        self._kept: dict[str, _Kept] = {}
        self._refused: dict[str, tuple[Digest, tuple[Reason, ...]]] = {}
        self._era = 0
        self._lock, self._asking = threading.Lock(), threading.Lock()

    def token(self, audience: str, held: Held) -> tuple[str, float]:
        """The compact token for `audience`, and for how many seconds it may be used. Raises Unavailable, without any text of it."""
        with self._asking:
            with self._lock:
                era, kept, refused = self._era, self._kept.get(audience), self._refused.get(audience)
            if kept is None or kept.left(self._clock.now(), self._clock.boot()) <= 0:
                if refused is not None and refused[0] == held.token.digest:
                    raise _unavailable(audience, refused[1])
                kept = self._fetched(audience, held)
                with self._lock:
                    if self._era != era:
                        raise Unavailable(f"token for {audience}", "cut off")
                    self._kept[audience] = kept
            return kept.token.compact, kept.left(self._clock.now(), self._clock.boot())

    def forget(self) -> None:
        """None is known any more, not even one that is under way."""
        with self._lock:
            self._era += 1
            self._kept.clear()

    def _fetched(self, audience: str, held: Held) -> _Kept:
        wall, boot = self._clock.now(), self._clock.boot()
        try:
            return _Kept(self._asked(audience, held, wall), wall, boot)
        except Refused as refused:
            with self._lock:
                self._refused[audience] = held.token.digest, refused.reasons
            raise _unavailable(audience, refused.reasons) from None
        except FormatError as error:
            raise Unavailable(f"token for {audience}", f"expected {error.expected} in {error.what}") from None

    def _asked(self, audience: str, held: Held, now: int) -> VerifiedExchangeToken:
        """1. A proof for this token and audience, used once. 2. The answer. 3. Decision and token, verified."""
        # 1
        action, claims = exchange_action(audience), held.token.claims
        uri = exchange_uri(self._trust.issuer, claims.host)
        proof = encode_dpop_payload(
            jti=secrets.token_urlsafe(24), htm="POST", htu=uri, iat=now, ath=b64url(held.token.digest.value),
            act=action.name, res=action.resource, arg=b64url(action.arguments.value),
        )  # fmt: skip
        lease = None if held.lease is None else held.lease.data
        # 2
        answer = self._ask(ExchangeAsk(claims.instance, audience, held.compact, sign_dpop(proof, self._key), lease))
        if isinstance(answer, Refusal):
            raise Refused(*(answer.reasons or (_REFUSED_NOW,)))
        if isinstance(answer, Unreachable):
            raise Unavailable("attestor", answer.detail)
        if not isinstance(answer, ExchangeGiven):
            raise FormatError("exchange answer", "a token, a refusal or none", type(answer).__name__)
        # 3
        decision = parse_entry(verify_signed(answer.decision, CONTENT_TYPE, self._trust.decision_keys, "decision"))
        if not isinstance(decision, ExchangeDecision):
            raise FormatError("decision", "an exchange", type(decision).__name__)
        return verify_exchange_token(
            parse_exchange_token(answer.token), decision, answer.key, execution=held.token, audience=audience, issuer=self._trust.issuer,
            now=now,
        )  # fmt: skip


class BearerToken:
    """The exchange token for `audience` as a secret, to be put into requests: `Authorization: Bearer`, say."""

    def __init__(self, bearers: Bearers, audience: str) -> None:
        self._bearers, self._audience = bearers, audience

    def fetch(self, held: Held) -> Lease:
        """As `Source`."""
        compact, seconds = self._bearers.token(self._audience, held)
        return Lease(compact.encode("ascii"), seconds)

    def forget(self) -> GiveBack | None:
        """As `Source`; nobody takes a bearer token back: it ends by itself, in minutes."""
        self._bearers.forget()
        return None


def _unavailable(audience: str, reasons: tuple[Reason, ...]) -> Unavailable:
    return Unavailable(f"token for {audience}", "refused: " + ", ".join(sorted({reason.code for reason in reasons})))

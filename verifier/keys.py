"""The verifier's keys: one that signs decisions, those that sign execution tokens, the current and the ones whose tokens still live,
those that sign exchange tokens, and one that approves the use of lease keys, in a form that TPMs verify.

The decision key is pinned by every host at enrolment and bound into every
quote. Token keys rotate: the ledger says which is current, the key directory
(0700) holds the private halves, and the JWKS shows a former one until the
last token it can have signed is dead. Keys of exchange tokens rotate in the same way and are never the same, in a JWKS of their own; a new
one is shown for `AHEAD` before it signs, since who reads it elsewhere asks when he pleases.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from verifier.ledger import Entry, Ledger
from verifier.ledger.schema import ExchangeKeyRow, KeyRow
from writ.formats.cose import encode_sign1
from writ.formats.decision import CONTENT_TYPE, AttestDecision, EnrolDecision, ExchangeDecision, Genesis, encode_entry, parse_entry
from writ.formats.decision import Entry as LogEntry
from writ.formats.eat import TYP, TokenClaims, encode_claims
from writ.formats.errors import Unavailable
from writ.formats.exchange_token import TYP as EXCHANGE_TYP
from writ.formats.exchange_token import ExchangeClaims, encode_exchange_claims
from writ.formats.jose import sign_jws
from writ.formats.keys import ED25519, ES256, PublicKey, Signer, key_id, parse_spki
from writ.formats.lease import LeaseApproval, encode_lease_approval
from writ.formats.policy_bundle import CLOCK_SKEW, TOKEN_LIFE_CEILING
from writ.formats.tpm.policy import to_authorize
from writ.service.signers import create_signer, load_or_create_signer, load_signer
from writ.verdict.lease_key import Approvable

RETIRED_FOR: Final = TOKEN_LIFE_CEILING + 2 * CLOCK_SKEW + 60
"""Seconds for which a former token key is still shown: a token's longest life, clocks that differ, a commit under way."""
AHEAD: Final = 300
"""Seconds for which a new key of exchange tokens is shown before it signs."""
DECISION_FILE: Final = "decision.key"
LOG_FILE: Final = "log.key"
APPROVAL_FILE: Final = "approval.key"


class Keys:
    """The signers of this verifier. Private halves never leave it."""

    def __init__(self, directory: Path, ledger: Ledger) -> None:
        self._directory = directory
        self._ledger = ledger
        self._loaded: dict[str, Signer] = {}
        self._lock = threading.Lock()
        self.decision: Signer = load_signer(directory / DECISION_FILE)

    @property
    def approver(self) -> PublicKey:
        """The approval key, made at its first use; a policy of hardware mode names it."""
        return self._approval().public

    def approve(self, what: Approvable, approver: PublicKey) -> bytes:
        """The signed approval, encoded. Raises Unavailable where the policy's `approver` is no key of this verifier."""
        signer = self._approval()
        if signer.public != approver:
            raise Unavailable("approval key", "expected the one that the policy names; publish the policy again with --hardware")
        signature = signer.sign(to_authorize(what.moment.policy, what.ref))
        return encode_lease_approval(LeaseApproval(what.instance, what.ref, what.moment, approver, signature))

    def _approval(self) -> Signer:
        with self._lock:
            if APPROVAL_FILE not in self._loaded:
                self._loaded[APPROVAL_FILE] = load_or_create_signer(self._directory / APPROVAL_FILE, ES256)
            return self._loaded[APPROVAL_FILE]

    def current(self) -> Signer:
        """The signer of tokens. Raises Unavailable where `verifier init` never made one."""
        for row in self._ledger.read().select(KeyRow):
            if row.retired_at is None:
                return self._signer(row.kid)
        raise Unavailable("token key", "expected a current key, got none; run `verifier init`")

    def make(self) -> PublicKey:
        """A new token key lies in the directory; it is current only when the ledger says so."""
        return self._made("token", ED25519)

    def make_exchange(self) -> PublicKey:
        """A new key of exchange tokens lies in the directory; it is shown only when the ledger says so."""
        return self._made("exchange", ES256)

    def _made(self, kind: str, algorithm: str) -> PublicKey:
        fresh = self._directory / f"{kind}.new"
        fresh.unlink(missing_ok=True)
        public = create_signer(fresh, algorithm).public
        fresh.rename(self._directory / f"{kind}-{key_id(public)}.key")
        return public

    def exchange_signer(self, now: int) -> Signer:
        """The signer of exchange tokens: the newest key that was shown for `AHEAD`, or the first there is. Raises Unavailable."""
        rows = sorted(self._ledger.read().select(ExchangeKeyRow), key=lambda row: (row.created_at, row.retired_at is None))
        if not rows:
            raise Unavailable("exchange key", "expected a key, got none; run `verifier init`")
        shown = [row for row in rows if row.created_at + AHEAD <= now] or rows[:1]
        return self._signer(shown[-1].kid, "exchange")

    def exchange_keys(self, now: int) -> tuple[PublicKey, ...]:
        """The keys under which a live exchange token stands, or will within `AHEAD`, the newest first."""
        rows = self._ledger.read().select(ExchangeKeyRow)
        shown = [row for row in rows if row.retired_at is None or now < row.retired_at + AHEAD + RETIRED_FOR]
        return tuple(
            parse_spki(row.public) for row in sorted(shown, key=lambda row: (row.retired_at is not None, -row.created_at, row.kid))
        )

    def token_keys(self, now: int) -> tuple[PublicKey, ...]:
        """The keys under which a live token may stand, the current one first."""
        rows = [row for row in self._ledger.read().select(KeyRow) if row.retired_at is None or now < row.retired_at + RETIRED_FOR]
        return tuple(parse_spki(row.public) for row in sorted(rows, key=lambda row: (row.retired_at is not None, -row.created_at, row.kid)))

    def jwks(self, now: int) -> dict[str, object]:
        """The JWK Set of `token_keys` (RFC 7517 section 5)."""
        return _jwks(self.token_keys(now))

    def exchange_jwks(self, now: int) -> dict[str, object]:
        """The JWK Set of `exchange_keys`."""
        return _jwks(self.exchange_keys(now))

    def sign_decision(self, payload: bytes, content_type: str) -> bytes:
        """A COSE_Sign1 by the decision key."""
        key = self.decision.public
        return encode_sign1(payload, algorithm=key.algorithm, kid=key.thumbprint(), sign=self.decision.sign, content_type=content_type)

    def sign_entry(self, decision: LogEntry) -> Entry:
        """The decision signed, ready for the log. Raises FormatError for one that nobody could read there: it is no decision."""
        encoded = encode_entry(decision)
        parse_entry(encoded)
        signed = self.sign_decision(encoded, CONTENT_TYPE)
        if isinstance(decision, AttestDecision):
            return Entry("attest", decision.namespace, decision.host, decision.decided_at, signed)
        if isinstance(decision, EnrolDecision):
            return Entry("enrol", decision.namespace, decision.host, decision.decided_at, signed)
        if isinstance(decision, ExchangeDecision):
            return Entry("exchange", decision.namespace, decision.host, decision.decided_at, signed)
        if isinstance(decision, Genesis):
            return Entry("genesis", decision.namespace, "", decision.decided_at, signed)
        host = decision.subject if decision.act.startswith("host-") else ""
        return Entry("operator", decision.namespace, host, decision.decided_at, signed)

    def sign_token(self, claims: TokenClaims, signer: Signer) -> str:
        """The compact execution token."""
        return self.sign_jwt(encode_claims(claims), TYP, signer)

    def sign_exchange(self, claims: ExchangeClaims, signer: Signer) -> str:
        """The compact exchange token."""
        return self.sign_jwt(encode_exchange_claims(claims), EXCHANGE_TYP, signer)

    def sign_jwt(self, payload: bytes, typ: str, signer: Signer) -> str:
        """A compact JWS by a token key, under its id."""
        return sign_jws(payload, typ=typ, signer_algorithm=signer.public.algorithm, sign=signer.sign, kid=key_id(signer.public))

    def _signer(self, kid: str, kind: str = "token") -> Signer:
        with self._lock:
            if kid not in self._loaded:
                self._loaded[kid] = load_signer(self._directory / f"{kind}-{kid}.key")
            return self._loaded[kid]


def _jwks(keys: tuple[PublicKey, ...]) -> dict[str, object]:
    return {"keys": [{**key.to_jwk(), "kid": key_id(key), "use": "sig", "alg": key.algorithm} for key in keys]}


def log_signer(directory: Path) -> Signer:
    """The key of the log's checkpoints, made where there is none."""
    return load_or_create_signer(directory / LOG_FILE)


def make_decision_key(directory: Path) -> PublicKey:
    """A decision key lies in the directory; an existing one stays and is returned."""
    return load_or_create_signer(directory / DECISION_FILE).public

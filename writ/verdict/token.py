"""Tokens, proofs of possession and leases, judged: is this token good here, now, and is its holder the one it names?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from writ.formats.action import Action
from writ.formats.decision import ExchangeDecision
from writ.formats.digest import Digest, hash_bytes
from writ.formats.eat import SignedToken, TokenClaims
from writ.formats.errors import FormatError, Refused
from writ.formats.exchange_token import ExchangeClaims, SignedExchangeToken
from writ.formats.jose import DpopProof, b64url, verify_jws
from writ.formats.keys import PublicKey, key_id
from writ.formats.lease import Lease, lease_binding
from writ.formats.policy_bundle import CLOCK_SKEW, TOKEN_LIFE_CEILING
from writ.formats.reason import Reason
from writ.formats.tpm.attest import parse_attest
from writ.formats.tpm.public import parse_public
from writ.verdict.lease_key import run_of, same, stated
from writ.verdict.memo import SignatureMemo

PROOF_LIFE: Final = 30
"""Seconds for which a proof of possession may be used after it was made; a replay cache must remember for as long."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """Proof that `verify_token` ran at `verified_at` (seconds). It is dead from `claims.expires_at` on, whoever holds it."""

    claims: TokenClaims
    digest: Digest
    verified_at: int


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """Proof that `verify_proof` ran. `single_use` must be taken from a replay cache, once, before anything passes."""

    single_use: str
    forget_after: int


@dataclass(frozen=True, slots=True)
class VerifiedLease:
    """Proof that `verify_lease` ran. Dead from `alive_until` on (seconds since the epoch, rounded down), whoever holds it."""

    alive_until: int


@dataclass(frozen=True, slots=True)
class VerifiedExchangeToken:
    """Proof that `verify_exchange_token` ran. Whoever has it can use it, at its audience, until `claims.expires_at`."""

    claims: ExchangeClaims
    compact: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What a status list said: its uri, when it was issued, which of its `size` places are not VALID, until when it holds (seconds)."""

    uri: str
    issued_at: int
    revoked: frozenset[int]
    expires_at: int = 1 << 62
    size: int = 1 << 31


def verify_token(
    token: SignedToken, *, keys: Mapping[str, PublicKey], issuer: str, audience: str, now: int,
    revocation: Revocation | None, skew: int = CLOCK_SKEW, memo: SignatureMemo | None = None,
) -> VerifiedToken:  # fmt: skip
    """The token was issued by `issuer` for `audience` and is alive at `now`.

    Does not say who presents it (`verify_proof`) nor what it permits (`decide`). `memo` changes no answer, and is added to: a signature
    that was verified is not verified again, everything else is.

    1. Its key id is one of the issuer's keys, and that key signed it.
    2. Issuer and audience are exactly those expected.
    3. It is alive: issued not later than now, give or take the skew, and not expired, with no skew in its favour.
    4. Its life is no longer than the ceiling.
    5. It is not revoked, by a list that has a place for it, has not expired and is no older than the token's own life. With `revocation`
       None the caller has it from the verifier within this token's life and takes revocation by push.

    Raises Refused at the first fault.
    """
    claims = token.claims
    # 1
    key = None if token.jws.kid is None else keys.get(token.jws.kid)
    if key is None:
        raise Refused(Reason("token-key-unknown", "token.kid", f"one of {len(keys)} keys", str(token.jws.kid)[:64]))
    if not (verify_jws(token.jws, key) if memo is None else memo.signed(token, key)):
        raise Refused(Reason("signature-invalid", "token", "a signature by the issuer", "another"))
    # 2
    if claims.issuer != issuer:
        raise Refused(Reason("token-issuer", "token.iss", issuer, claims.issuer))
    if claims.audience != audience:
        raise Refused(Reason("token-audience", "token.aud", audience, claims.audience))
    # 3
    if claims.issued_at > now + skew:
        raise Refused(Reason("token-not-yet-valid", "token.iat", f"at most {now + skew}", str(claims.issued_at)))
    if now >= claims.expires_at:
        raise Refused(Reason("token-expired", "token.exp", f"later than {now}", str(claims.expires_at)))
    # 4
    life = claims.expires_at - claims.issued_at
    if life > TOKEN_LIFE_CEILING:
        raise Refused(Reason("token-malformed", "token.exp", f"a life of at most {TOKEN_LIFE_CEILING} s", f"{life} s"))
    # 5
    if revocation is not None:
        if revocation.uri != claims.status_uri:
            raise Refused(Reason("status-stale", "token.status.uri", revocation.uri, claims.status_uri))
        if not now - life <= revocation.issued_at <= now + skew:
            raise Refused(Reason("status-stale", "status_list.iat", f"{now - life} to {now + skew}", str(revocation.issued_at)))
        if now >= revocation.expires_at:
            raise Refused(Reason("status-stale", "status_list.exp", f"later than {now}", str(revocation.expires_at)))
        if claims.status_index >= revocation.size:
            raise Refused(Reason("status-stale", "token.status.idx", f"below {revocation.size}", str(claims.status_index)))
        if claims.status_index in revocation.revoked:
            raise Refused(Reason("token-revoked", "token.status.idx", "a valid index", str(claims.status_index)))
    return VerifiedToken(claims, token.digest, now)


def verify_proof(
    proof: DpopProof, token: VerifiedToken, action: Action, *, method: str, uri: str, now: int, skew: int = CLOCK_SKEW
) -> VerifiedProof:
    """Whoever made `proof` holds the key that `token` names, and made it for this action.

    1. The proof's key is the one the token confirms, and signed it.
    2. It is for this token.
    3. It is for this method and URI, and for exactly this action, resource and arguments.
    4. It was made within `PROOF_LIFE` seconds, give or take the skew.

    Single use is the caller's: `single_use` goes into a replay cache before the action passes.
    Raises Refused at the first fault. Source: RFC 9449 section 4.3.
    """
    # 1
    thumbprint = proof.key.thumbprint()
    if thumbprint != token.claims.key:
        raise Refused(Reason("proof-invalid", "proof.jwk", b64url(token.claims.key), b64url(thumbprint)))
    if not verify_jws(proof.jws, proof.key):
        raise Refused(Reason("proof-invalid", "proof", "a signature by the token's key", "another"))
    # 2
    expected = b64url(token.digest.value)
    if proof.ath != expected:
        raise Refused(Reason("proof-mismatch", "proof.ath", expected, str(proof.ath)))
    # 3
    claimed = (("htm", method, proof.htm), ("htu", uri, proof.htu), ("act", action.name, proof.act),
               ("res", action.resource, proof.res), ("arg", b64url(action.arguments.value), proof.arg))  # fmt: skip
    for name, want, got in claimed:
        if got != want:
            raise Refused(Reason("proof-mismatch", f"proof.{name}", want, str(got)))
    # 4
    if not now - PROOF_LIFE - skew <= proof.iat <= now + skew:
        raise Refused(Reason("proof-stale", "proof.iat", f"{now - PROOF_LIFE - skew} to {now + skew}", str(proof.iat)))
    return VerifiedProof(f"{b64url(thumbprint)}.{proof.jti}", proof.iat + PROOF_LIFE + 2 * skew + 1)


def verify_lease(lease: Lease | None, token: VerifiedToken, *, now: int) -> VerifiedLease | None:
    """The TPM signed for this token a moment ago; None where the token asks for no lease.

    The TPM's time is laid on the verifier's clock by what the token says: its `lease.time` was not after `iat`. So a lease counts as up to
    as much later than it was made as the host took to answer the nonce, and never past the token's `exp`.

    1. A lease came.
    2. Its key is the very one that the token names, by the whole public area, and signed it, and the TPM made what was signed.
    3. It states the TPM's time, in the same run of the TPM that was appraised: no reset since, nor a restart.
    4. It is for this token and its session key.
    5. It was made after the appraisal, and not longer than its life ago, with no skew in its favour.

    Raises Refused at the first fault. Source: TPM 2.0 Library Part 3, TPM2_GetTime.
    """
    wanted, claims = token.claims.lease, token.claims
    if wanted is None:
        return None
    # 1
    if lease is None:
        raise Refused(Reason("lease-missing", "lease", "a lease", "none"))
    # 2
    if hash_bytes("sha256", lease.public) != wanted.key:
        raise Refused(Reason("lease-invalid", "lease.public", wanted.key.hex(), hash_bytes("sha256", lease.public).hex()))
    try:
        time = stated(lease.attest, lease.signature, parse_public(lease.public), "lease", "lease-invalid")
        attest = parse_attest(lease.attest)
    except FormatError as error:
        raise Refused(Reason("lease-invalid", error.what[:100], error.expected, error.got)) from None
    # 3
    same("lease-mismatch", "lease.resets", run_of(wanted), run_of(time))
    # 4
    bound = lease_binding(claims.instance, claims.key, token.digest)
    same("lease-mismatch", "lease.extra_data", bound.hex(), attest.extra_data.hex())
    # 5
    if time.time < wanted.time:
        raise Refused(Reason("lease-mismatch", "lease.time", f"at least {wanted.time}", str(time.time)))
    alive_until = min(claims.issued_at + (time.time - wanted.time) // 1000 + wanted.life, claims.expires_at)
    if now >= alive_until:
        raise Refused(Reason("lease-expired", "lease.time", f"alive after {now}", f"until {alive_until}"))
    return VerifiedLease(alive_until)


def verify_exchange_token(
    token: SignedExchangeToken,
    decision: ExchangeDecision,
    key: PublicKey,
    *,
    execution: VerifiedToken,
    audience: str,
    issuer: str,
    now: int,
) -> VerifiedExchangeToken:  # fmt: skip
    """The exchange token is what `decision` decided for this execution token and audience, and is alive at `now`.

    That a pinned decision key signed `decision` is the caller's to have verified. Does not say that anybody else takes the token.

    1. The decision is on this instance and audience, and names exactly these claims.
    2. `key` signed the token, under its id.
    3. The claims are those of the execution token, for this audience.
    4. It has not ended, and ends no later than the execution token.

    Raises Refused at the first fault.
    """
    claims, held = token.claims, execution.claims
    # 1
    wanted = (held.host, held.instance.hex(), audience, str(Digest.of(token.jws.payload)))
    said = (decision.host, decision.instance.hex(), decision.audience, str(decision.claims))
    if wanted != said:
        raise Refused(Reason("digest-mismatch", "exchange.decision", " ".join(wanted)[:200], " ".join(said)[:200]))
    # 2
    if token.jws.kid != key_id(key) or not verify_jws(token.jws, key):
        raise Refused(Reason("signature-invalid", "exchange_token", "a signature by the issuer", "another"))
    # 3
    checks = (
        ("iss", issuer, claims.issuer), ("sub", str(held.agent), str(claims.agent)), ("aud", audience, claims.audience),
        ("host", held.host, claims.host), ("instance", held.instance.hex(), claims.instance.hex()),
        ("tpm_class", held.tpm_class, claims.tpm_class), ("runtime", held.runtime, claims.runtime),
        ("exceptions", " ".join(held.exceptions), " ".join(claims.exceptions)),
        ("execution_token", str(execution.digest), str(claims.execution_token)),
    )  # fmt: skip
    for name, expected, got in checks:
        if expected != got:
            raise Refused(Reason("token-malformed", f"exchange_token.{name}", expected[:200], got[:200]))
    # 4
    if not now < claims.expires_at <= held.expires_at:
        raise Refused(Reason("token-expired", "exchange_token.exp", f"later than {now}, up to {held.expires_at}", str(claims.expires_at)))
    return VerifiedExchangeToken(claims, token.jws.compact)

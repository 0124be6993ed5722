"""The exchange token: a JWT of one instance for one audience elsewhere, such as a vault or a cloud. It is a bearer token.

The one exception to I7: who has it can use it, at its audience and until `exp`. So it is held by the enforcer only, lives no longer than
the execution token that it was given for and `MAX_LIFE`, and is labelled, so that nobody takes one kind for the other:

    header  {"alg":"ES256","kid":"…","typ":"JWT"}    an execution token has the type eat+jwt, and is signed by other keys
    claims  iss sub aud iat nbf exp jti (RFC 7519), token_use = "writ-exchange-bearer", and what was appraised

`aud` is one text, never an array. `ExchangeClaims` is what the bytes mean; nobody has verified them yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest
from writ.formats.eat import RUNTIME_TIERS, parse_exceptions
from writ.formats.errors import FormatError
from writ.formats.jose import SignedJws, parse_jws
from writ.formats.keys import ES256
from writ.formats.spiffe import AgentId
from writ.formats.state import TPM_CLASSES
from writ.formats.strict import Fields, decode_json, encode_json

TYP: Final = "JWT"
"""What federations and JWT-SVID ask for."""
TOKEN_USE: Final = "writ-exchange-bearer"
MAX_TOKEN: Final = 16_384
MAX_LIFE: Final = 300
"""Seconds."""

_HEX16 = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class ExchangeClaims:
    """The claims of an exchange token. Times in seconds since the epoch; `execution_token` is the digest of the one it was given for.

    `exceptions` are that token's: what was let pass, by a policy or by an exemption.
    """

    issuer: str
    agent: AgentId
    audience: str
    issued_at: int
    expires_at: int
    token_id: str
    host: str
    instance: bytes
    tpm_class: str
    runtime: str
    exceptions: tuple[str, ...]
    execution_token: Digest

    def __post_init__(self) -> None:
        if not 0 < self.expires_at - self.issued_at <= MAX_LIFE:
            raise FormatError("exchange token.exp", f"a life of 1 to {MAX_LIFE} s", f"{self.expires_at - self.issued_at} s")


@dataclass(frozen=True, slots=True)
class SignedExchangeToken:
    """An exchange token as it arrived: claims that nobody has verified yet."""

    jws: SignedJws
    claims: ExchangeClaims


def encode_exchange_claims(claims: ExchangeClaims) -> bytes:
    """The payload to be signed."""
    return encode_json(
        {
            "iss": claims.issuer,
            "sub": str(claims.agent),
            "aud": claims.audience,
            "iat": claims.issued_at,
            "nbf": claims.issued_at,
            "exp": claims.expires_at,
            "jti": claims.token_id,
            "token_use": TOKEN_USE,
            "host": claims.host,
            "instance": claims.instance.hex(),
            "tpm_class": claims.tpm_class,
            "runtime": claims.runtime,
            "exceptions": list(claims.exceptions),
            "execution_token": str(claims.execution_token),
        }
    )


def parse_exchange_claims(payload: bytes) -> ExchangeClaims:
    """Read a payload: every claim present, none unknown, one spelling. Raises FormatError."""
    f = Fields(decode_json(payload, "exchange token", max_size=MAX_TOKEN, one_spelling=True), "exchange token")
    if (use := f.text("token_use")) != TOKEN_USE:
        raise FormatError("exchange token.token_use", TOKEN_USE, repr(use)[:80])
    issued_at = f.uint("iat")
    if (begins := f.uint("nbf")) != issued_at:
        raise FormatError("exchange token.nbf", f"{issued_at}, its iat", str(begins))
    instance, of = f.text("instance"), Digest.parse(f.text("execution_token"))
    if not _HEX16.match(instance) or of.algorithm != "sha256":
        raise FormatError("exchange token", "an instance in 32 hex digits and a sha256 digest", f"{instance} {of}"[:80])
    claims = ExchangeClaims(
        issuer=f.text("iss", least=1),
        agent=AgentId.parse(f.text("sub")),
        audience=f.text("aud", least=1, most=256),
        issued_at=issued_at,
        expires_at=f.uint("exp"),
        token_id=f.text("jti", least=16, most=64),
        host=f.name("host"),
        instance=bytes.fromhex(instance),
        tpm_class=_one_of(f, "tpm_class", TPM_CLASSES),
        runtime=_one_of(f, "runtime", RUNTIME_TIERS),
        exceptions=parse_exceptions(f, "exchange token"),
        execution_token=of,
    )
    f.done()
    return claims


def parse_exchange_token(compact: str) -> SignedExchangeToken:
    """Read a compact JWS of ES256 with our claims; verifies nothing. Raises FormatError."""
    jws = parse_jws(compact, typ=TYP, max_size=MAX_TOKEN)
    if jws.algorithm != ES256 or jws.kid is None:
        raise FormatError("exchange token", f"{ES256} and a kid", f"{jws.algorithm}, {'a' if jws.kid else 'no'} kid")
    return SignedExchangeToken(jws, parse_exchange_claims(jws.payload))


def _one_of(f: Fields, claim: str, accepted: tuple[str, ...]) -> str:
    if (value := f.text(claim)) not in accepted:
        raise FormatError(f"exchange token.{claim}", f"one of {', '.join(accepted)}", repr(value)[:80])
    return value

"""The execution token: an EAT (RFC 9711) as a JWT, bound to one instance's session key.

A token says: this verifier appraised this instance as `runtime` and permits it
the `grants` until `exp`, to whoever proves possession of the key `cnf` names.
`TokenClaims` is what the bytes mean; `verdict.token` says whether to believe them.

Claims, all required: `iss sub aud iat exp jti cnf.jkt eat_profile` (RFC 7519,
7800, 9449, 9711), `status.status_list` (Token Status List), and ours:
`host instance policy result grants lineage tpm_class runtime exceptions`. One more, `lease`, is there where the token is worth nothing
without a lease of a key in the host's TPM (`lease.LeaseTerms`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.grants import Grant, encode_grants, parse_grants
from writ.formats.jose import SignedJws, b64url, parse_b64url, parse_jws
from writ.formats.lease import LeaseTerms
from writ.formats.spiffe import AgentId
from writ.formats.state import TPM_CLASSES
from writ.formats.strict import Fields, decode_json, encode_json

PROFILE: Final = "urn:writ:execution-token:1"
TYP: Final = "eat+jwt"
MAX_TOKEN: Final = 16384
RUNTIME_TIERS: Final = ("affirming", "runtime-only", "sandboxed")
"""`sandboxed`: the host is affirming, and what runs in the instance was not measured."""

_HEX16 = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """The claims of an execution token. Times in seconds since the epoch; `lineage` from parent to root."""

    issuer: str
    agent: AgentId
    audience: str
    issued_at: int
    expires_at: int
    token_id: str
    key: bytes
    host: str
    instance: bytes
    policy: Digest
    result: Digest
    grants: tuple[Grant, ...]
    lineage: tuple[bytes, ...]
    tpm_class: str
    runtime: str
    exceptions: tuple[str, ...]
    status_index: int
    status_uri: str
    lease: LeaseTerms | None = None


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A token as it arrived: claims that nobody has verified yet."""

    jws: SignedJws
    claims: TokenClaims

    @property
    def digest(self) -> Digest:
        """SHA-256 of the compact form: how records and proofs name the token."""
        return Digest.of(self.jws.compact.encode("ascii"))


def encode_claims(claims: TokenClaims) -> bytes:
    """The payload to be signed."""
    return encode_json(
        {
            "iss": claims.issuer,
            "sub": str(claims.agent),
            "aud": claims.audience,
            "iat": claims.issued_at,
            "exp": claims.expires_at,
            "jti": claims.token_id,
            "cnf": {"jkt": b64url(claims.key)},
            "eat_profile": PROFILE,
            "status": {"status_list": {"idx": claims.status_index, "uri": claims.status_uri}},
            "host": claims.host,
            "instance": claims.instance.hex(),
            "policy": str(claims.policy),
            "result": str(claims.result),
            "grants": encode_grants(claims.grants),
            "lineage": [i.hex() for i in claims.lineage],
            "tpm_class": claims.tpm_class,
            "runtime": claims.runtime,
            "exceptions": list(claims.exceptions),
            **({} if claims.lease is None else {"lease": claims.lease.to_json()}),
        }
    )


def parse_claims(payload: bytes) -> TokenClaims:
    """Read a payload: every claim present, none unknown, one spelling. Raises FormatError."""
    f = Fields(decode_json(payload, "token", max_size=MAX_TOKEN, one_spelling=True), "token")
    if (profile := f.text("eat_profile")) != PROFILE:
        raise FormatError("token.eat_profile", PROFILE, repr(profile))
    cnf = f.fields("cnf")
    key = parse_b64url(cnf.text("jkt", most=43), "token.cnf.jkt")
    cnf.done()
    if len(key) != 32:
        raise FormatError("token.cnf.jkt", "a SHA-256 thumbprint", f"{len(key)} bytes")
    status = f.fields("status")
    entry = status.fields("status_list")
    index, uri = entry.uint("idx", most=1 << 30), entry.text("uri", least=1)
    entry.done()
    status.done()
    claims = TokenClaims(
        issuer=f.text("iss", least=1),
        agent=AgentId.parse(f.text("sub")),
        audience=f.text("aud", least=1, most=256),
        issued_at=f.uint("iat"),
        expires_at=f.uint("exp"),
        token_id=f.text("jti", least=16, most=64),
        key=key,
        host=f.name("host"),
        instance=_hex16(f.any("instance")),
        policy=_sha256(f.text("policy")),
        result=_sha256(f.text("result")),
        grants=parse_grants(f.any("grants")),
        lineage=tuple(_hex16(item) for item in f.items("lineage", most=16)),
        tpm_class=_one_of(f.text("tpm_class"), TPM_CLASSES, "tpm_class"),
        runtime=_one_of(f.text("runtime"), RUNTIME_TIERS, "runtime"),
        exceptions=parse_exceptions(f, "token"),
        status_index=index,
        status_uri=uri,
        lease=LeaseTerms.read(f.fields("lease")) if f.has("lease") else None,
    )
    f.done()
    return claims


def parse_token(compact: str) -> SignedToken:
    """Read a compact JWS with our claims; verifies nothing. Raises FormatError."""
    jws = parse_jws(compact, typ=TYP, max_size=MAX_TOKEN)
    return SignedToken(jws, parse_claims(jws.payload))


def _hex16(value: Any) -> bytes:
    if not isinstance(value, str) or not _HEX16.match(value):
        raise FormatError("token", "32 lower-case hex digits", repr(value)[:80])
    return bytes.fromhex(value)


def _sha256(text: str) -> Digest:
    digest = Digest.parse(text)
    if digest.algorithm != "sha256":
        raise FormatError("token", "a sha256 digest", digest.algorithm)
    return digest


def _one_of(value: str, accepted: tuple[str, ...], what: str) -> str:
    if value not in accepted:
        raise FormatError(f"token.{what}", f"one of {', '.join(accepted)}", repr(value))
    return value


def parse_exceptions(f: Fields, what: str) -> tuple[str, ...]:
    """The claim `exceptions` of this kind of token. Raises FormatError."""
    found: list[str] = []
    for value in f.items("exceptions", most=80):
        if not isinstance(value, str) or not 1 <= len(value) <= 64:
            raise FormatError(f"{what}.exceptions", "reason codes", repr(value)[:80])
        found.append(value)
    return tuple(found)

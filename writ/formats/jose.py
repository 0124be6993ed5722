"""Compact JWS and the DPoP proof: what the bytes say, not whether it is true.

    header.payload.signature        each base64url without padding, RFC 7515 section 7.1
    header  {"alg":"Ed25519","kid":"…","typ":"…"}   alg, typ, kid, jwk and nothing else

A `SignedJws` is parsed, not verified; `verify_jws` is one of two checks, the
other being that the key is one to be believed.

>>> parse_jws("e30.e30.e30", typ="dpop+jwt")
Traceback (most recent call last):
...
writ.formats.errors.FormatError: JWS header: expected key 'alg', got none
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from writ.formats.errors import FormatError, Misuse
from writ.formats.keys import ALGORITHMS, PublicKey, Signer, parse_jwk
from writ.formats.strict import Fields, b64url, decode_json, encode_json, parse_b64url

DPOP_TYP: Final = "dpop+jwt"
DPOP_MAX_SIZE: Final = 8192

_HEADER_MAX: Final = 4096
_REFUSED: Final = ("crit", "b64", "jku", "x5u", "x5c", "zip")
"""Named so that the refusal says which; every other unknown member is refused as well."""


@dataclass(frozen=True, slots=True)
class SignedJws:
    """A compact JWS as parsed. Says nothing yet about who signed it.

    `header` is read-only; `signing_input` is the ASCII text that the
    signature covers, taken from `compact` and never re-encoded.
    """

    header: Mapping[str, Any] = field(hash=False)
    payload: bytes
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    compact: str = field(repr=False)

    @property
    def algorithm(self) -> str:
        """`alg` of the header: one of `keys.ALGORITHMS`."""
        value: str = self.header["alg"]
        return value

    @property
    def kid(self) -> str | None:
        """`kid` of the header, where it has one."""
        return self.header.get("kid")


def parse_jws(text: str, *, typ: str, max_size: int = 16384) -> SignedJws:
    """Read a compact JWS of exactly the type `typ`.

    1. Bounded, exactly three parts, each canonical base64url.
    2. The header is strict JSON with alg and typ, kid and jwk if wanted, and
       nothing else: crit, b64, jku and the like are refused.
    3. alg is one of ours, typ is `typ` to the letter, a jwk is a public key.
    4. The signature has 64 bytes.

    Raises FormatError. Source: RFC 7515 sections 4, 5.2, 7.1; RFC 8725.
    """
    if len(text) > max_size:
        raise FormatError("JWS", f"at most {max_size} characters", f"{len(text)}")
    parts = text.split(".")
    if len(parts) != 3:
        raise FormatError("JWS", "three parts", f"{len(parts)}")
    header_bytes, payload, signature = (parse_b64url(part, f"JWS {name}") for part, name in zip(parts, _PARTS, strict=True))
    header = decode_json(header_bytes, "JWS header", max_size=_HEADER_MAX)
    f = Fields(header, "JWS header")
    for name in _REFUSED:
        if f.has(name):
            raise FormatError("JWS header", "alg, typ, kid, jwk and nothing else", repr(name))
    if (alg := f.text("alg", most=32)) not in ALGORITHMS:
        raise FormatError("JWS header.alg", " or ".join(ALGORITHMS), repr(alg))
    if (got := f.text("typ", most=64)) != typ:
        raise FormatError("JWS header.typ", repr(typ), repr(got))
    if f.has("kid"):
        f.text("kid", most=256, least=1)
    if f.has("jwk") and (key := parse_jwk(f.any("jwk"))).algorithm != alg:
        raise FormatError("JWS header.jwk", f"a key of {alg}", f"a key of {key.algorithm}")
    f.done()
    if len(signature) != 64:
        raise FormatError("JWS signature", "64 bytes", f"{len(signature)} bytes")
    signing_input = text[: text.rindex(".")].encode("ascii")
    return SignedJws(MappingProxyType(header), payload, signing_input, signature, text)


_PARTS: Final = ("header", "payload", "signature")


def sign_jws(
    payload: bytes,
    *,
    typ: str,
    signer_algorithm: str,
    sign: Callable[[bytes], bytes],
    kid: str | None = None,
    jwk: dict[str, str] | None = None,
) -> str:
    """The compact JWS over `payload`; `sign` returns the raw 64-byte signature. Raises Misuse for an algorithm not ours."""
    if signer_algorithm not in ALGORITHMS:
        raise Misuse(f"no JWS algorithm {signer_algorithm!r}")
    header: dict[str, object] = {"alg": signer_algorithm, "typ": typ}
    if kid is not None:
        header["kid"] = kid
    if jwk is not None:
        header["jwk"] = jwk
    signing_input = f"{b64url(encode_json(header))}.{b64url(payload)}"
    return f"{signing_input}.{b64url(sign(signing_input.encode('ascii')))}"


def verify_jws(jws: SignedJws, key: PublicKey) -> bool:
    """Whether `key` signed `jws`, under the algorithm that both name. Does not say whether `key` is to be believed."""
    return jws.algorithm == key.algorithm and key.verify(jws.signature, jws.signing_input)


# --- DPoP --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DpopProof:
    """A DPoP proof as parsed: possession of `key` is claimed, `verify_jws(proof.jws, proof.key)` shows it.

    `ath` is base64url of SHA-256 over the access token's ASCII, None where
    no token goes with the proof (a token request). Of ours are
    `act` (action name), `res` (resource) and `arg` (base64url of the
    argument's SHA-256), where the proof is for one action, and `led` (base64url
    of 32 bytes): the leaf hash of the record of an enforcer that led to it.
    """

    jti: str
    htm: str
    htu: str
    iat: int
    ath: str | None
    nonce: str | None
    key: PublicKey
    act: str | None
    res: str | None
    arg: str | None
    led: str | None
    jws: SignedJws


def parse_dpop(text: str) -> DpopProof:
    """Read a DPoP proof, of a token request or (with `ath`) for a resource. Raises FormatError.

    Does not verify the signature, the time, the token or whether `jti` was seen.

    Source: RFC 9449 sections 4.2, 4.3, 7.
    """
    jws = parse_jws(text, typ=DPOP_TYP, max_size=DPOP_MAX_SIZE)
    if "jwk" not in jws.header:
        raise FormatError("DPoP proof", "the public key under 'jwk'", "none")
    f = Fields(decode_json(jws.payload, "DPoP proof", max_size=DPOP_MAX_SIZE), "DPoP proof")
    proof = DpopProof(
        jti=f.text("jti", least=16, most=128),
        htm=f.text("htm", least=1, most=32),
        htu=f.text("htu", least=1, most=2048),
        iat=f.uint("iat"),
        ath=_digest_text(f, "ath") if f.has("ath") else None,
        nonce=f.text("nonce", least=1, most=256) if f.has("nonce") else None,
        key=parse_jwk(jws.header["jwk"]),
        act=f.text("act", least=1, most=256) if f.has("act") else None,
        res=f.text("res", least=1, most=1024) if f.has("res") else None,
        arg=_digest_text(f, "arg") if f.has("arg") else None,
        led=_digest_text(f, "led") if f.has("led") else None,
        jws=jws,
    )
    f.done()
    if "?" in proof.htu or "#" in proof.htu:
        raise FormatError("DPoP proof.htu", "a URI without query and fragment", repr(proof.htu[:80]))
    return proof


def _digest_text(f: Fields, key: str) -> str:
    text = f.text(key, most=43)
    if len(parse_b64url(text, f"DPoP proof.{key}")) != 32:
        raise FormatError(f"DPoP proof.{key}", "base64url of 32 bytes", f"{len(text)} characters")
    return text


def encode_dpop_payload(
    *,
    jti: str,
    htm: str,
    htu: str,
    iat: int,
    ath: str | None = None,
    nonce: str | None = None,
    act: str | None = None,
    res: str | None = None,
    arg: str | None = None,
    led: str | None = None,
) -> bytes:
    """The claims of a DPoP proof as JSON; what is None is left out."""
    claims = {
        "jti": jti,
        "htm": htm,
        "htu": htu,
        "iat": iat,
        "ath": ath,
        "nonce": nonce,
        "act": act,
        "res": res,
        "arg": arg,
        "led": led,
    }
    return encode_json({name: value for name, value in claims.items() if value is not None})


def sign_dpop(payload: bytes, signer: Signer) -> str:
    """The DPoP proof over `payload` (of `encode_dpop_payload`) with the signer's public key in its header."""
    key = signer.public
    return sign_jws(
        payload,
        typ=DPOP_TYP,
        signer_algorithm=key.algorithm,
        sign=signer.sign,
        jwk=key.to_jwk(),
    )


__all__ = [
    "DPOP_MAX_SIZE",
    "DPOP_TYP",
    "DpopProof",
    "SignedJws",
    "b64url",
    "encode_dpop_payload",
    "parse_b64url",
    "parse_dpop",
    "parse_jws",
    "sign_dpop",
    "sign_jws",
    "verify_jws",
]

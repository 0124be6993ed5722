"""The vectors of `docs/relying.md`: requests to a relying service, each with the answer that its numbered checks give.

    python -m tests.enforcer.relying.vectors > examples/relying/vectors.json

Made by our own formats, and where a request has to be wrong by hand. The same bytes each time: private keys are hashes of their names (and
keys of nobody), ES256 signs deterministically (RFC 6979), and the status lists are ZLIB streams of stored blocks, which every zlib
spells alike.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from writ.formats import status_list
from writ.formats.digest import Digest
from writ.formats.eat import TYP, TokenClaims, encode_claims
from writ.formats.exchange_token import ExchangeClaims, encode_exchange_claims
from writ.formats.grants import grant_set
from writ.formats.jose import DPOP_TYP
from writ.formats.keys import ED25519, ES256, PublicKey, key_id
from writ.formats.policy_bundle import PolicyBundle, PolicySettings, encode_bundle
from writ.formats.spiffe import AgentId
from writ.formats.strict import b64url, encode_json

FILE: Final = Path(__file__).parents[3] / "examples/relying/vectors.json"
NOW: Final = 1_800_000_000
ISSUER, AUDIENCE, ORIGIN = "https://verifier.example.org", "reports", "https://reports.example.org"
STATUS: Final = f"{ISSUER}/v1/status/0"
PLACES: Final = 64
TARGET, BODY = "/v1/report", '{"day":"today"}'
Made = dict[str, Any]


@dataclass(frozen=True)
class TestKey:
    """A key of nobody: its private half is the hash of its name."""

    name: str
    algorithm: str

    @property
    def private(self) -> ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
        """The private half."""
        seed = hashlib.sha256(f"writ test vector, no secret: {self.name}".encode()).digest()
        if self.algorithm == ED25519:
            return ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        return ec.derive_private_key(int.from_bytes(seed, "big") >> 1, ec.SECP256R1())

    @property
    def public(self) -> PublicKey:
        """The public half."""
        public = self.private.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            return PublicKey(ED25519, public.public_bytes(Encoding.Raw, PublicFormat.Raw))
        return PublicKey(ES256, public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))

    def sign(self, message: bytes) -> bytes:
        """The raw signature, always the same."""
        private = self.private
        if isinstance(private, ed25519.Ed25519PrivateKey):
            return private.sign(message)
        r, s = utils.decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


ISSUERS: Final = {ED25519: TestKey("issuer", ED25519), ES256: TestKey("issuer of ES256", ES256)}
AGENTS: Final = {ED25519: TestKey("agent", ED25519), ES256: TestKey("agent of ES256", ES256)}
STRANGER: Final = TestKey("stranger", ED25519)
EXCHANGER: Final = TestKey("issuer of exchange tokens", ES256)
ISSUER_KEY, AGENT_KEY = ISSUERS[ED25519], AGENTS[ED25519]

SCHEMA: Final = """namespace Writ {
  entity Agent; entity Resource;
  action "http.get", "http.post" appliesTo {
    principal: Agent, resource: Resource,
    context: { now: Long, attest_age: Long, gate: String, host: String, namespace: String, tpm_class: String, runtime: String, depth: Long }
  };
}
"""
BUNDLES: Final = {
    "grants suffice": '@id("agents") permit (principal, action, resource) when { context.namespace == "billing" };\n',
    "asks for more": (
        '@id("agents") permit (principal, action, resource) when { context.namespace == "billing" };\n'
        '@id("no-report") forbid (principal, action, resource == Writ::Resource::"https://reports.example.org/v1/report");\n'
    ),
}
HELD: Final = {
    name: PolicyBundle("billing", number, NOW - 86_400, PolicySettings(), SCHEMA, text)
    for number, (name, text) in enumerate(BUNDLES.items(), 1)
}
CLAIMS: Final = TokenClaims(
    issuer=ISSUER, agent=AgentId("example.org", "billing", "reporter"), audience=AUDIENCE, issued_at=NOW - 10, expires_at=NOW + 50,
    token_id="token-of-the-vectors", key=AGENT_KEY.public.thumbprint(), host="h1", instance=bytes(range(16)),
    policy=HELD["grants suffice"].digest, result=Digest.of(b"result"),
    grants=grant_set([("http.post", f"{ORIGIN}/v1/*"), ("http.get", f"{ORIGIN}/v1/report")]), lineage=(), tpm_class="discrete",
    runtime="affirming", exceptions=(), status_index=8, status_uri=STATUS,
)  # fmt: skip


# --- what is sent -------------------------------------------------------------------------------------------------------


def jws(header: bytes | dict[str, Any], payload: bytes, signer: TestKey) -> str:
    """A compact JWS, whatever header and payload are."""
    head = header if isinstance(header, bytes) else encode_json(header)
    signed = f"{b64url(head)}.{b64url(payload)}"
    return f"{signed}.{b64url(signer.sign(signed.encode()))}"


def token_header(signer: TestKey, **changed: Any) -> dict[str, Any]:
    """The header of a token; what is None is left out."""
    header = {"alg": signer.algorithm, "typ": TYP, "kid": key_id(signer.public), **changed}
    return {name: value for name, value in header.items() if value is not None}


def token(signer: TestKey = ISSUER_KEY, *, header: dict[str, Any] | None = None, **changed: Any) -> str:
    """A token with other claims."""
    return jws(token_header(signer, **(header or {})), encode_claims(replace(CLAIMS, **changed)), signer)


def respelt(change: Callable[[dict[str, Any]], Any]) -> str:
    """A token whose claims were changed as JSON, after the formats had their say."""
    claims = json.loads(encode_claims(CLAIMS))
    change(claims)
    return jws(token_header(ISSUER_KEY), encode_json(claims), ISSUER_KEY)


def proof_claims(compact: str, *, method: str = "POST", target: str = TARGET, body: str = BODY, **changed: Any) -> dict[str, Any]:
    """The claims of a proof for a request; what is None is left out."""
    uri = ORIGIN + target
    claims = {
        "jti": "proof-of-the-vectors", "htm": method, "htu": uri, "iat": NOW, "ath": b64url(hashlib.sha256(compact.encode()).digest()),
        "act": f"http.{method.lower()}", "res": uri, "arg": b64url(hashlib.sha256(body.encode()).digest()), **changed,
    }  # fmt: skip
    return {name: value for name, value in claims.items() if value is not None}


def proof_header(signer: TestKey, **changed: Any) -> dict[str, Any]:
    """The header of a proof."""
    return {"alg": signer.algorithm, "typ": DPOP_TYP, "jwk": signer.public.to_jwk(), **changed}


def proof(compact: str, signer: TestKey = AGENT_KEY, *, header: dict[str, Any] | None = None, **changed: Any) -> str:
    """A proof for the request that `changed` describes."""
    return jws(proof_header(signer, **(header or {})), encode_json(proof_claims(compact, **changed)), signer)


def yes() -> Made:
    """It passes."""
    return {"pass": True}


def no(check: int, code: str, status: int = 401) -> Made:
    """It is refused, by the check of that number."""
    return {"pass": False, "check": check, "code": code, "status": status}


def request(
    expect: Made, *, compact: str | None = None, shown: str | None = None, method: str = "POST", target: str = TARGET, body: str = BODY,
    times: int = 1, headers: Iterable[tuple[str, str]] | None = None, at: int = 0, **more: Any,
) -> Made:  # fmt: skip
    """A request `at` seconds after the case began, its body `times` over. Token and proof are good ones unless given."""
    compact = compact or token()
    shown = shown or proof(compact, method=method, target=target, body=body * times if times < 10 else "")
    sent = [("Authorization", f"DPoP {compact}"), ("DPoP", shown)] if headers is None else list(headers)
    made = {"at": at, "method": method, "target": target, "headers": [list(one) for one in sent], "body": body, "times": times}
    return {**made, "expect": expect, **more}


def case(name: str, *requests: Made, **service: Any) -> Made:
    """A case: the service differs from that of the file in `service`."""
    return {"name": name, "service": service, "requests": list(requests)}


# --- what the verifier publishes ----------------------------------------------------------------------------------------


def key_set(*keys: TestKey, **changed: Any) -> str:
    """A JWKS."""
    return encode_json({"keys": [{**key.public.to_jwk(), "kid": key_id(key.public), **changed} for key in keys]}).decode()


def listed(
    signer: TestKey = ISSUER_KEY, *, revoked: tuple[int, ...] = (), bits: int = 1, places: int = PLACES,
    header: dict[str, Any] | None = None, lst: str | None = None, **changed: Any,
) -> str:  # fmt: skip
    """A signed status list."""
    statuses = status_list.StatusList.empty(bits, places)
    for index in revoked:
        statuses = statuses.with_status(index, 1)
    inner = {"bits": bits, "lst": lst or b64url(zlib.compress(statuses.values, 0))}
    claims = {"sub": STATUS, "iat": NOW - 5, "exp": NOW + 55, "ttl": 15, "status_list": inner, **changed}
    kept = {name: value for name, value in claims.items() if value is not None}
    return jws({"alg": signer.algorithm, "typ": status_list.TYP, "kid": key_id(signer.public), **(header or {})}, encode_json(kept), signer)


BOTH: Final = key_set(*ISSUERS.values())
KEY_SETS: Final = {
    "both": BOTH,
    "of a stranger": key_set(STRANGER),
    "empty": '{"keys":[]}',
    "no JSON": "keys",
    "a key twice": BOTH.replace('{"keys":', '{"keys":[],"keys":'),
    "named otherwise": key_set(*ISSUERS.values(), kid="one"),
    "with a private half": key_set(ISSUER_KEY, d=b64url(bytes(32))),
    "for encryption": key_set(ISSUER_KEY, use="enc"),
    "of another algorithm": key_set(ISSUER_KEY, alg="ES256"),
    "not on its curve": key_set(ISSUER_KEY, x=b64url(b"\x02" + bytes(31))),
}
LISTS: Final = {
    "fresh": listed(),
    "fresh, by ES256": listed(ISSUERS[ES256]),
    "two bits": listed(bits=2),
    "revokes 8": listed(revoked=(8,)),
    "revokes 8, two bits": listed(revoked=(8,), bits=2),
    "revokes 7 and 9": listed(revoked=(7, 9)),
    "by a stranger": listed(STRANGER),
    "forged": listed(STRANGER, header={"kid": key_id(ISSUER_KEY.public)}),
    "a token's type": listed(header={"typ": TYP}),
    "of another place": listed(sub=f"{ISSUER}/v1/status/1"),
    "expired": listed(iat=NOW - 60, exp=NOW),
    "without an end": listed(exp=None),
    "as old as a token may be": listed(iat=NOW - 60, exp=NOW + 300),
    "older than the token's life": listed(iat=NOW - 61, exp=NOW + 300),
    "of the future": listed(iat=NOW + 6, exp=NOW + 60),
    "ends in 20 s": listed(exp=NOW + 20),
    "short": listed(places=8),
    "no stream": listed(lst="AAAA"),
    "a torn stream": listed(lst=b64url(zlib.compress(bytes(8), 0)[:-1])),
    "a trailing byte": listed(lst=b64url(zlib.compress(bytes(8), 0) + b"\0")),
    "three bits": listed(status_list={"bits": 3, "lst": b64url(zlib.compress(bytes(8), 0))}),
}


# --- the cases ----------------------------------------------------------------------------------------------------------


def of_the_request() -> list[Made]:
    """Checks 1 to 4."""
    good = token()
    pair = [("Authorization", f"DPoP {good}"), ("DPoP", proof(good))]
    small = [("authorization", f"DPOP {good}"), ("dpop", proof(good))]
    malformed: list[tuple[str, dict[str, Any]]] = [
        ("a query", {"target": "/v1/report?day=today"}),
        ("an escape", {"target": "/v1/%72eport"}),
        ("an escaped slash", {"target": "/v1%2freport"}),
        ("a way up", {"target": "/v1/../report"}),
        ("a dot", {"target": "/v1/./report"}),
        ("a way up at the end", {"target": "/v1/report/.."}),
        ("a way up with parameters", {"target": "/v1/..;a=b/report"}),
        ("a backslash", {"target": "/v1/..\\report"}),
        ("a fragment", {"target": "/v1/report#today"}),
        ("two slashes", {"target": "/v1//report"}),
        ("two slashes in front", {"target": "//v1/report"}),
        ("a whole URL", {"target": f"{ORIGIN}/v1/report"}),
        ("a long path", {"target": "/v1/" + "x" * 512}),
        ("no letters", {"method": "P-ST", "shown": proof(good)}),
        ("small letters", {"method": "post", "shown": proof(good)}),
    ]
    found = [case(f"a request with {what}", request(no(1, "malformed", 400), **changed)) for what, changed in malformed]
    found += [
        case("a body of a byte too many", request(no(2, "too-large", 413), shown=proof(good), body="x", times=(1 << 20) + 1)),
        case("two tokens", request(no(3, "malformed", 400), headers=[*pair, pair[0]])),
        case("two proofs", request(no(3, "malformed", 400), headers=[*pair, ("dpop", proof(good, jti="another-proof-here"))])),
        case("another token in front", request(no(3, "malformed", 400), headers=[("authorization", "Bearer x"), *pair])),
        case("a token that is not ASCII", request(no(3, "malformed", 400), headers=[("Authorization", "DPoP \u00e4"), pair[1]])),
        case("nothing shown", request(no(4, "unauthenticated"), headers=[])),
        case("a token as a bearer", request(no(4, "unauthenticated"), headers=[("Authorization", f"Bearer {good}"), pair[1]])),
        case("no proof", request(no(4, "proof-missing"), headers=pair[:1])),
        case("headers in small letters, scheme in capitals", request(yes(), headers=small)),
    ]
    return found


def of_what_is_published() -> list[Made]:
    """Checks 5, 6, 14 and 15."""
    key = no(8, "token-key-unknown")
    # without keys there is no list that could be believed
    found = [case(f"keys: {name}", request(no(6, "status-stale", 503)), jwks=name) for name in KEY_SETS if name != "both"]
    found.append(case("a token key that was withdrawn", request(key, compact=token(STRANGER))))
    stale = (
        "by a stranger", "forged", "a token's type", "of another place", "expired", "without an end", "no stream", "a torn stream",
        "a trailing byte", "three bits",
    )  # fmt: skip
    found += [case(f"status list: {name}", request(no(6, "status-stale", 503)), status_list=name) for name in stale]
    found.append(case("no status list", request(no(6, "status-stale", 503)), status_list=None))
    for name in ("older than the token's life", "of the future", "short"):
        found.append(case(f"status list: {name}", request(no(14, "status-stale", 503)), status_list=name))
    found.append(case("a token of another list", request(no(14, "status-stale", 503), compact=token(status_uri=f"{ISSUER}/v1/status/1"))))
    passing = ("fresh, by ES256", "two bits", "revokes 7 and 9", "as old as a token may be")
    found += [case(f"status list: {name}", request(yes()), status_list=name) for name in passing]
    revoked = no(15, "token-revoked")
    found += [case(f"status list: {name}", request(revoked), status_list=name) for name in ("revokes 8", "revokes 8, two bits")]
    late = token()
    found.append(
        case(
            "a status list that ends while it is held",
            request(yes(), at=19, shown=proof(late, iat=NOW + 19)),
            request(no(14, "status-stale", 503), at=20, shown=proof(late, iat=NOW + 20, jti="a-proof-of-a-second-later")),
            status_list="ends in 20 s",
        )
    )
    return found


def of_the_token() -> list[Made]:
    """Checks 7 to 13."""
    form, payload, header = no(7, "token-malformed"), encode_claims(CLAIMS), token_header(ISSUER_KEY)
    good = token()
    elsewhere = encode_exchange_claims(
        ExchangeClaims(
            ISSUER, CLAIMS.agent, AUDIENCE, NOW - 10, NOW + 50, "exchange-token-of-the-vectors", "h1", CLAIMS.instance, "discrete",
            "affirming", (), Digest.of(good.encode()),
        )
    )  # fmt: skip
    last = good[:-1] + ("B" if good[-1] == "A" else chr(ord(good[-1]) + 1))
    wrong: list[tuple[str, str]] = [
        ("two parts", good.rpartition(".")[0]),
        ("four parts", good + ".e30"),
        ("padding", good + "=="),
        ("a signature whose unused bits are set", last),
        ("standard base64", good.rpartition(".")[0] + "." + "+/" * 43),
        ("a short signature", good[:-4]),
        ("more than 16384 characters", jws(header, b" " * 16384, ISSUER_KEY)),
        ("alg none", jws({**header, "alg": "none"}, payload, ISSUER_KEY)),
        ("alg EdDSA", jws({**header, "alg": "EdDSA"}, payload, ISSUER_KEY)),
        ("alg HS256", jws({**header, "alg": "HS256"}, payload, ISSUER_KEY)),
        ("no type", jws({"alg": ED25519, "kid": header["kid"]}, payload, ISSUER_KEY)),
        ("the type of a proof", jws({**header, "typ": DPOP_TYP}, payload, ISSUER_KEY)),
        ("its type in capitals", jws({**header, "typ": TYP.upper()}, payload, ISSUER_KEY)),
        ("crit in its header", jws({**header, "crit": ["exp"]}, payload, ISSUER_KEY)),
        ("jku in its header", jws({**header, "jku": "https://evil.example/keys"}, payload, ISSUER_KEY)),
        ("an unknown member in its header", jws({**header, "x": 1}, payload, ISSUER_KEY)),
        ("alg twice", jws(encode_json(header).replace(b'{"alg"', b'{"alg":"none","alg"'), payload, ISSUER_KEY)),
        ("a header that is no object", jws(b"[]", payload, ISSUER_KEY)),
        ("claims with spaces", jws(header, payload.replace(b",", b", ", 1), ISSUER_KEY)),
        ("a claim twice", jws(header, payload.replace(b'{"aud"', b'{"aud":"reports","aud"'), ISSUER_KEY)),
        ("claims in another order", jws(header, b'{"sub":"x",' + payload[1:], ISSUER_KEY)),
        ("something behind its claims", jws(header, payload + b"{}", ISSUER_KEY)),
        ("a time as a fraction", jws(header, payload.replace(b'"exp":1800000050', b'"exp":1800000050.0'), ISSUER_KEY)),
        ("a time as an exponent", jws(header, payload.replace(b'"exp":1800000050', b'"exp":18e8'), ISSUER_KEY)),
        ("a time as text", respelt(lambda claims: claims.update(exp="1800000050"))),
        ("a time below zero", respelt(lambda claims: claims.update(iat=-1))),
        ("true as a time", respelt(lambda claims: claims.update(iat=True))),
        ("bytes that are not UTF-8", jws(header, payload.replace(b'"h1"', b'"h\xff"'), ISSUER_KEY)),
        ("an audience that is a list", respelt(lambda claims: claims.update(aud=["reports"]))),
        ("another profile", respelt(lambda claims: claims.update(eat_profile="urn:writ:execution-token:2"))),
        ("no grants", respelt(lambda claims: claims.pop("grants"))),
        ("no status", respelt(lambda claims: claims.pop("status"))),
        ("no cnf", respelt(lambda claims: claims.pop("cnf"))),
        ("a claim that nobody knows", respelt(lambda claims: claims.update(role="admin"))),
        ("grants out of order", respelt(lambda claims: claims["grants"].reverse())),
        ("a grant with a wildcard within", respelt(lambda claims: claims.update(grants=[["http.post", "https://*/v1/report"]]))),
        ("a grant of a way up", respelt(lambda claims: claims.update(grants=[["http.post", f"{ORIGIN}/v1/%2e%2e/*"]]))),
        ("a name that is no agent's", respelt(lambda claims: claims.update(sub="spiffe://example.org/billing/reporter"))),
        ("a thumbprint of 31 bytes", respelt(lambda claims: claims.update(cnf={"jkt": b64url(bytes(31))}))),
        ("an unknown tier", respelt(lambda claims: claims.update(runtime="trusted"))),
        ("the claims of an exchange token", jws(token_header(ISSUERS[ES256]), elsewhere, ISSUERS[ES256])),
        ("the type of an exchange token", jws({**token_header(ISSUERS[ES256]), "typ": "JWT"}, payload, ISSUERS[ES256])),
        ("a digest in capitals", respelt(lambda claims: claims.update(policy=str(claims["policy"]).upper()))),
    ]
    found = [case(f"a token with {what}", request(form, compact=compact, shown=proof(good))) for what, compact in wrong]
    forged, es256 = no(9, "signature-invalid"), ISSUERS[ES256]
    kid = {"kid": key_id(ISSUER_KEY.public)}
    bearer = jws({**token_header(EXCHANGER), "typ": "JWT"}, elsewhere, EXCHANGER)
    found += [
        case("an exchange token for this very audience", request(form, compact=bearer, shown=proof(good))),
        case("a token that a key of exchange tokens signed", request(no(8, "token-key-unknown"), compact=token(EXCHANGER))),
        case("a token without a key id", request(no(8, "token-key-unknown"), compact=token(header={"kid": None}))),
        case("a token of a key that is not published", request(no(8, "token-key-unknown"), compact=token(STRANGER))),
        case("a token that a stranger signed", request(forged, compact=token(STRANGER, header=kid))),
        case("a token whose key is of another algorithm", request(forged, compact=token(es256, header=kid))),
        case("a token with another's claims", request(forged, compact=swapped(good, token(host="h2")))),
        case("a token by ES256 with another's claims", request(forged, compact=swapped(token(es256), token(es256, host="h2")))),
        case("a token of another issuer", request(no(10, "token-issuer"), compact=token(issuer=f"{ISSUER}/"))),
        case("a token for another audience", request(no(11, "token-audience"), compact=token(audience="reports2"))),
        case("a token issued in 5 s", request(yes(), compact=token(issued_at=NOW + 5))),
        case("a token issued in 6 s", request(no(12, "token-not-yet-valid"), compact=token(issued_at=NOW + 6))),
        case("a token that ends in a second", request(yes(), compact=token(expires_at=NOW + 1))),
        case("a token that ends now", request(no(12, "token-expired"), compact=token(expires_at=NOW))),
        case("a token of 300 s", request(yes(), compact=token(expires_at=CLAIMS.issued_at + 300))),
        case("a token of 301 s", request(no(13, "token-malformed"), compact=token(expires_at=CLAIMS.issued_at + 301))),
        case(
            "a token that ends between two requests",
            request(yes(), shown=proof(good, iat=NOW + 49), at=49),
            request(no(12, "token-expired"), shown=proof(good, iat=NOW + 50, jti="a-proof-of-a-second-later"), at=50),
        ),
    ]
    return found


def swapped(one: str, other: str) -> str:
    """The signature of `one` under the claims of `other`."""
    return other.rpartition(".")[0] + "." + one.rpartition(".")[2]


def of_the_proof() -> list[Made]:
    """Checks 17 to 24."""
    good, es256 = token(), AGENTS[ES256]
    form, header, claims = no(17, "proof-invalid"), proof_header(AGENT_KEY), encode_json(proof_claims(good))
    jwk = AGENT_KEY.public.to_jwk()
    wrong: list[tuple[str, str]] = [
        ("no parts", "x"),
        ("alg none", jws({**header, "alg": "none"}, claims, AGENT_KEY)),
        ("the type of a token", jws({**header, "typ": TYP}, claims, AGENT_KEY)),
        ("no key", jws({"alg": ED25519, "typ": DPOP_TYP}, claims, AGENT_KEY)),
        ("a private key", jws({**header, "jwk": {**jwk, "d": b64url(bytes(32))}}, claims, AGENT_KEY)),
        ("a key of another algorithm", jws({**header, "alg": ES256}, claims, AGENT_KEY)),
        ("a key of small order", jws({**header, "jwk": {**jwk, "x": b64url(b"\x01" + bytes(31))}}, claims, AGENT_KEY)),
        ("a key off its curve", jws({**proof_header(es256), "jwk": {**es256.public.to_jwk(), "y": b64url(bytes(32))}}, claims, es256)),
        ("a key of RSA", jws({**header, "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}}, claims, AGENT_KEY)),
        ("a key of P-384", jws({**proof_header(es256), "jwk": {**es256.public.to_jwk(), "crv": "P-384"}}, claims, es256)),
        ("a key with a coordinate of 33 bytes", jws({**header, "jwk": {**jwk, "x": b64url(bytes(33))}}, claims, AGENT_KEY)),
        ("a key that has a member too many", jws({**header, "jwk": {**jwk, "x5u": "https://evil.example"}}, claims, AGENT_KEY)),
        ("jku in its header", jws({**header, "jku": "https://evil.example/keys"}, claims, AGENT_KEY)),
        ("htm twice", jws(header, claims.replace(b'{"act"', b'{"htm":"GET","act"'), AGENT_KEY)),
        ("a claim that nobody knows", proof(good, x="y")),
        ("a short jti", proof(good, jti="x" * 15)),
        ("a long jti", proof(good, jti="x" * 129)),
        ("no jti", proof(good, jti=None)),
        ("no iat", proof(good, iat=None)),
        ("a query in its URI", proof(good, htu=f"{ORIGIN}{TARGET}?day=today")),
        ("an ath of 31 bytes", proof(good, ath=b64url(bytes(31)))),
        ("a led of 31 bytes", proof(good, led=b64url(bytes(31)))),
        ("a led that is no text", proof(good, led=7)),
        ("a control character in its jti", proof(good, jti="proof-of\nthe-vectors")),
        ("more than 8192 characters", jws(header, claims + b" " * 8192, AGENT_KEY)),
        ("something behind its claims", jws(header, claims + b"1", AGENT_KEY)),
        ("half a character in its jti", jws(header, claims.replace(b"proof-of-the", b"proof-of-\\ud800"), AGENT_KEY)),
        ("brackets without end", jws(header, b"[" * 6000, AGENT_KEY)),
    ]
    found = [case(f"a proof with {what}", request(form, shown=shown)) for what, shown in wrong]
    found += [
        case("a proof with its claims in another spelling", request(yes(), shown=jws(header, respaced(claims), AGENT_KEY))),
        case("a proof by a thief's key", request(no(18, "proof-invalid"), shown=proof(good, STRANGER))),
        case("a proof of the agent's key by a thief", request(no(19, "proof-invalid"), shown=proof(good, STRANGER, header={"jwk": jwk}))),
        case("a proof with another's claims", request(no(19, "proof-invalid"), shown=swapped(proof(good), proof(good, iat=NOW + 1)))),
        case("a proof for another token", request(no(20, "proof-mismatch"), shown=proof(token(host="h2")))),
        case("a proof for no token", request(no(20, "proof-mismatch"), shown=proof(good, ath=None))),
        case("a proof for another method", request(no(21, "proof-mismatch"), shown=proof(good, htm="GET"))),
        case("a proof for another URI", request(no(21, "proof-mismatch"), shown=proof(good, htu=f"{ORIGIN}/v1/report/"))),
        case(
            "a proof for another origin", request(no(21, "proof-mismatch"), shown=proof(good, htu=f"https://reports.example.com{TARGET}"))
        ),
        case("a proof for another action", request(no(22, "proof-mismatch"), shown=proof(good, act="http.get"))),
        case("a proof for no action", request(no(22, "proof-mismatch"), shown=proof(good, act=None))),
        case("a proof for another resource", request(no(22, "proof-mismatch"), shown=proof(good, res=f"{ORIGIN}/v1/other"))),
        case("a proof for another body", request(no(22, "proof-mismatch"), shown=proof(good), body='{"day":"all"}')),
        case("a proof for no body", request(no(22, "proof-mismatch"), shown=proof(good, arg=None))),
        case("a proof that names what led to it", request(yes(), shown=proof(good, led=b64url(bytes(32))))),
        case("a proof made 35 s ago", request(yes(), shown=proof(good, iat=NOW - 35))),
        case("a proof made 36 s ago", request(no(23, "proof-stale"), shown=proof(good, iat=NOW - 36))),
        case("a proof made in 5 s", request(yes(), shown=proof(good, iat=NOW + 5))),
        case("a proof made in 6 s", request(no(23, "proof-stale"), shown=proof(good, iat=NOW + 6))),
    ]
    return found + of_single_use()


def respaced(data: bytes) -> bytes:
    """The same JSON with spaces, in another order."""
    return json.dumps(dict(reversed(json.loads(data).items())), indent=1).encode()


def of_single_use() -> list[Made]:
    """Check 24: sequences."""
    good = token()
    first, second = request(yes()), request(yes(), shown=proof(good, jti="another-proof-here"))
    full, ahead = no(24, "too-many-requests", 503), proof(good, iat=NOW + 5)
    replayed = no(24, "proof-replayed")
    again = request(yes(), at=46, shown=proof(good, iat=NOW + 46))
    return [
        case("a proof used twice", first, request(replayed)),
        case("two proofs, one after the other", first, second),
        case("a proof used again after 40 s", request(yes(), shown=ahead), request(replayed, at=40, shown=ahead)),
        case("a jti used again when its proof has lapsed", first, again),
        case("no room to remember", first, {**second, "expect": full}, capacity=1),
        case("a replay where there is no room", first, request(replayed), capacity=1),
        case("room again when a proof has lapsed", first, again, capacity=1),
        case("a proof from before a restart", request(no(24, "proof-stale"), shown=ahead), started_at=NOW),
        case("a proof made 6 s after a restart", request(yes(), at=6, shown=proof(good, iat=NOW + 6)), started_at=NOW),
        case("a refused proof is not used up", request(no(21, "proof-mismatch"), target="/v1/other", shown=proof(good)), first),
        case("a jti that two keys use", first, by_another_agent()),
    ]


def by_another_agent() -> Made:
    """The same jti by the key of another token."""
    other = AGENTS[ES256]
    compact = token(key=other.public.thumbprint(), token_id="another-token-of-them")
    return request(yes(), compact=compact, shown=proof(compact, other))


def of_the_permission() -> list[Made]:
    """Checks 25 to 28."""
    asking = token(policy=HELD["asks for more"].digest)
    digest = no(25, "policy-digest-mismatch", 503)
    only = grant_set([("http.post", f"{ORIGIN}/v1/*")])
    grants = no(26, "grant-missing", 403)
    other = "/v2/report"
    return [
        case("a policy that is not known", request(digest, compact=token(policy=Digest.of(b"another")))),
        case("no policy at all", request(no(25, "policy-unknown", 503)), holds=[], pins=[]),
        case("a policy that forbids it", request(no(27, "policy-refused", 403), compact=asking, without_cedar=digest)),
        case("a policy that permits it there", request(yes(), compact=asking, target="/v1/other", without_cedar=digest)),
        case("a method that is not granted", request(grants, method="GET", target="/v1/report", body="", compact=token(grants=only))),
        case("a path that is not granted", request(grants, target=other)),
        case("the bare prefix of a grant", request(grants, target="/v1/")),
        case("a path that only begins as a grant", request(grants, target="/v1x/report")),
        case("an exact grant", request(yes(), method="GET", body="")),
        case("what lies below an exact grant", request(grants, method="GET", target="/v1/report/1", body="")),
        case("a path deep below a prefix", request(yes(), target="/v1/a/b/c")),
        case("no grants", request(grants, compact=token(grants=()))),
        case("a record that does not become durable", request(no(28, "record-not-durable", 503)), durable=False),
    ]


def passing() -> list[Made]:
    """Both algorithms, of issuer and agent, in every pair."""
    found = []
    for issuer in ISSUERS.values():
        for agent in AGENTS.values():
            compact = token(issuer, key=agent.public.thumbprint())
            name = f"a token by {issuer.algorithm}, a proof by {agent.algorithm}"
            found.append(case(name, request(yes(), compact=compact, shown=proof(compact, agent))))
    return found


def document() -> Made:
    """All of it."""
    from tests.enforcer.relying.lease_vectors import of_the_lease  # which is made with what stands here

    cases = [
        *passing(), *of_the_request(), *of_what_is_published(), *of_the_token(), *of_the_lease(), *of_the_proof(), *of_the_permission(),
    ]  # fmt: skip
    assert len({one["name"] for one in cases}) == len(cases)
    service = {
        "now": NOW, "issuer": ISSUER, "audience": AUDIENCE, "origin": ORIGIN, "status_uri": STATUS, "started_at": 0, "capacity": 100_000,
        "jwks": "both", "status_list": "fresh", "holds": list(HELD), "pins": ["grants suffice"], "durable": True,
    }  # fmt: skip
    policies = {name: {"digest": str(bundle.digest), "bundle": b64url(encode_bundle(bundle))} for name, bundle in HELD.items()}
    return {"v": 1, "service": service, "jwks": KEY_SETS, "status_lists": LISTS, "policies": policies, "cases": cases}


def encoded() -> str:
    """The file: one case a line, so that a change of one is a change of one line."""
    made = document()
    cases = ",\n".join(json.dumps(one, sort_keys=True) for one in made.pop("cases"))
    head = json.dumps(made, sort_keys=True, indent=1)
    return f'{head[:-2]},\n "cases": [\n{cases}\n ]\n}}\n'


if __name__ == "__main__":
    sys.stdout.write(encoded())

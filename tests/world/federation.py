"""Whoever takes JWTs of an issuer that it finds by OpenID Connect Discovery, as OpenBao's and Vault's JWT method documents it.

Nothing of Writ is imported: the token is read and verified by json, base64 and cryptography alone.
"""

from __future__ import annotations

import base64
import json
import ssl
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature


class NotTaken(Exception):
    """The token is not taken, and why."""


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def discovered(url: str, ca_file: Path | None) -> Callable[[], list[dict[str, str]]]:
    """The keys of the issuer at `url`, fetched anew each time; what is published must call itself exactly `url`."""

    def read(page: str) -> Any:
        context = ssl.create_default_context(cafile=ca_file) if page.startswith("https:") else None
        with urllib.request.urlopen(page, timeout=10, context=context) as answer:  # noqa: S310 - the test says which page
            return json.load(answer)

    def keys() -> list[dict[str, str]]:
        found = read(f"{url}/.well-known/openid-configuration")
        if found["issuer"] != url:
            raise NotTaken(f"discovery at {url} says {found['issuer']}")
        listed: list[dict[str, str]] = read(found["jwks_uri"])["keys"]
        return listed

    return keys


@dataclass
class JwtMethod:
    """One role of such a method. `clock` in seconds; the leeway is what the vault calls `clock_skew_leeway`.

    Source: the JWT/OIDC auth method (API) of OpenBao 2 and Vault 1: config and role parameters.
    """

    keys: Callable[[], list[dict[str, str]]]
    bound_issuer: str
    bound_audiences: tuple[str, ...]
    clock: Callable[[], int]
    bound_subject: str = ""
    bound_claims: dict[str, str] = field(default_factory=dict)
    user_claim: str = "sub"
    leeway: int = 60
    supported_algs: tuple[str, ...] = ("ES256",)

    def login(self, compact: str) -> str:
        """The user of the token. Raises NotTaken."""
        try:
            head, payload, signature = compact.split(".")
            header, claims = json.loads(decoded(head)), json.loads(decoded(payload))
        except ValueError as error:
            raise NotTaken("not a JWT") from error
        self._signed(header, f"{head}.{payload}".encode(), decoded(signature))
        now, audiences = self.clock(), claims.get("aud", ())
        named = (audiences,) if isinstance(audiences, str) else tuple(audiences)
        checks = {
            "issuer": claims.get("iss") == self.bound_issuer,
            "audience": any(one in self.bound_audiences for one in named),
            "subject": self.bound_subject in ("", claims.get("sub")),
            "expired": "exp" in claims and now - self.leeway <= claims["exp"],
            "not before": now + self.leeway >= claims.get("nbf", claims.get("iat", now + 1000)),
            "claims": all(claims.get(name) == value for name, value in self.bound_claims.items()),
            "user": isinstance(claims.get(self.user_claim), str),
        }
        if failed := [name for name, holds in checks.items() if not holds]:
            raise NotTaken(", ".join(failed))
        return str(claims[self.user_claim])

    def _signed(self, header: dict[str, Any], signed: bytes, signature: bytes) -> None:
        if header.get("alg") not in self.supported_algs:
            raise NotTaken(f"alg {header.get('alg')}")
        found = [key for key in self.keys() if key["kid"] == header.get("kid")]
        if not found or found[0]["alg"] != header["alg"]:
            raise NotTaken("no such key")
        x, y = (int.from_bytes(decoded(found[0][part]), "big") for part in ("x", "y"))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        try:
            numbers = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            public.verify(encode_dss_signature(*numbers), signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise NotTaken("signature") from error

"""PyJWT as it is: ISSUER CA AUDIENCE, a token on standard input; `sub` on standard output, exit 1 with what PyJWT calls it."""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request

import jwt

issuer, ca, audience = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
try:
    with urllib.request.urlopen(f"{issuer}/.well-known/openid-configuration", context=context) as answer:  # noqa: S310 - the test says which
        found = json.load(answer)
    token = sys.stdin.read().strip()
    key = jwt.PyJWKClient(found["jwks_uri"], ssl_context=context).get_signing_key_from_jwt(token)
    required = ["exp", "iat", "nbf", "jti", "sub", "aud", "iss"]
    algorithms = found["id_token_signing_alg_values_supported"]
    claims = jwt.decode(token, key, algorithms=algorithms, audience=audience, issuer=issuer, options={"require": required})
except (jwt.PyJWTError, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(claims["sub"])

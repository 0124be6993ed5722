"""`verifier check token`: an execution token, its time, and its signature."""

from __future__ import annotations

import argparse
from pathlib import Path

from verifier.check.finding import Finding, Options, read_file
from writ.formats.eat import parse_token
from writ.formats.jose import verify_jws
from writ.formats.keys import PublicKey, key_id, parse_jwk
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.strict import Fields, decode_json


def check_token(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. It is an execution token. 2. Its time. 3. Its signature, by a key of --trust (a JWKS file or a directory of them)."""
    # 1
    text = read_file(args.file).decode("ascii", "replace").strip()
    token = parse_token(text)
    c = token.claims
    finding.claims |= {
        "iss": c.issuer, "sub": str(c.agent), "aud": c.audience, "iat": c.issued_at, "exp": c.expires_at, "jti": c.token_id,
        "host": c.host, "instance": c.instance.hex(), "policy": str(c.policy), "result": str(c.result), "tpm_class": c.tpm_class,
        "runtime": c.runtime, "grants": [list(grant) for grant in c.grants], "exceptions": list(c.exceptions),
        "lineage": [parent.hex() for parent in c.lineage], "status_uri": c.status_uri, "status_index": c.status_index,
    }  # fmt: skip
    # 2
    if options.at >= c.expires_at:
        finding.refuse("token-expired", "exp", f"after {options.at}", str(c.expires_at))
    if c.issued_at > options.at + CLOCK_SKEW:
        finding.refuse("token-not-yet-valid", "iat", f"at most {options.at + CLOCK_SKEW}", str(c.issued_at))
    # 3
    if options.trust is None:
        finding.note("token-key-unknown", "signature", "--trust, a JWKS, to judge the signature", "none")
        return
    keys = {key_id(key): key for key in _jwks(options.trust)}
    key = keys.get(token.jws.kid or "")
    if key is None:
        finding.refuse("token-key-unknown", "kid", "a key of the JWKS", token.jws.kid or "none")
    elif not verify_jws(token.jws, key):
        finding.refuse("signature-invalid", "signature", "a signature by the key that the token names", "another")


def _jwks(path: Path) -> list[PublicKey]:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    keys: list[PublicKey] = []
    for file in files:
        f = Fields(decode_json(read_file(file), file.name), file.name)
        keys += [parse_jwk(item) for item in f.items("keys", most=64)]
    return keys

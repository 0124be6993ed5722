"""What a thief tries with copies of what travelled. Each function returns the code of the refusal, or `accepted`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from writ.formats.digest import Digest, Nonce
from writ.formats.evidence import Evidence, binding, encode_evidence
from writ.formats.exchange import EXCHANGE, AttestAnswer, NonceAnswer, Problem
from writ.formats.jose import b64url, encode_dpop_payload, sign_dpop
from writ.formats.tpm.attest import encode_attest, parse_attest
from writ.formats.tpm.signature import Signature, encode_signature
from writ.service.clock import SystemClock
from writ.service.signers import MemorySigner, load_signer
from writ.service.uplink import Uplink


def answers(url: str, path: str) -> bool:
    """Whether the server says 200."""
    try:
        with urllib.request.urlopen(url + path, timeout=2) as answer:  # noqa: S310 - an address of ours, on loopback
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def listens(port: int) -> bool:
    """Whether something accepts connections on the port of the loopback address."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def overwrite(path: Path, data: bytes) -> None:
    """The bytes of a read-only file are replaced in place, as root can."""
    path.chmod(0o644)
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, 0)
    finally:
        os.close(fd)


def attest(url: str, host: str, host_key: Path, make: Callable[[Nonce], Evidence]) -> str:
    """Fetch a nonce as the host, whose request key was stolen too, and send what `make` makes of it."""
    with Uplink(url, ca_file=None, signer=load_signer(host_key), clock=SystemClock()) as uplink:
        fetched = EXCHANGE.parse(uplink.post(f"/v1/hosts/{host}/nonce", b"", "application/cbor").body)
        if not isinstance(fetched, NonceAnswer):
            return "no nonce"
        evidence = encode_evidence(make(Nonce(fetched.nonce)))
        answer = EXCHANGE.parse(uplink.post(f"/v1/hosts/{host}/attest", evidence, "application/cmw+cbor").body)
    if isinstance(answer, Problem | AttestAnswer) and answer.reasons:
        return answer.reasons[0].code
    return "accepted"


def forge(evidence: Evidence, nonce: Nonce, verifier: bytes = bytes(32)) -> Evidence:
    """The evidence with a quote for the fresh nonce, signed by a key of the thief's own."""
    true = parse_attest(evidence.attest)
    forged = encode_attest(replace(true, extra_data=binding(verifier, evidence.host, nonce, evidence.requests)))
    r, s = utils.decode_dss_signature(ec.generate_private_key(ec.SECP256R1()).sign(forged, ec.ECDSA(hashes.SHA256())))
    signature = Signature("ecdsa", "sha256", r=r.to_bytes(32, "big"), s=s.to_bytes(32, "big"))
    return replace(evidence, nonce=nonce, attest=forged, signature=encode_signature(signature))


def use_token(compact: str, service: str) -> str:
    """Present a stolen token to a relying service, with a proof made by the thief's own key."""
    url = f"{service}/report"
    payload = encode_dpop_payload(
        jti=secrets.token_urlsafe(24),
        htm="POST",
        htu=url,
        iat=SystemClock().now(),
        ath=b64url(Digest.of(compact.encode()).value),
        act="http.post",
        res=url,
        arg=b64url(Digest.of(b"").value),
    )
    headers = {"Authorization": f"DPoP {compact}", "DPoP": sign_dpop(payload, MemorySigner.generate())}
    request = urllib.request.Request(url, data=b"", headers=headers, method="POST")  # noqa: S310 - an address of ours, on loopback
    try:
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - as above
            return "accepted"
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["reasons"][0]["code"])

"""Exchange tokens before verifiers that others wrote: each finds the keys by discovery over TLS, and takes one token and no other."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.conftest import CONFORMANCE, LIB, go, node
from tests.peers.test_relying import RealClock, go_env
from tests.signers import new_signer
from tests.verifier.test_token_exchange import AGENT, CLOUD, GRANTS, PERMIT, VAULT, asked
from tests.world.chip import Maker
from tests.world.federation import decoded
from tests.world.host import SimulatedHost
from tests.world.network import certified
from tests.world.verifier import RunningVerifier, running_verifier
from writ.formats.jose import sign_jws
from writ.formats.keys import ES256, key_id
from writ.formats.strict import b64url, encode_json

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

HERE = Path(__file__).parent / "verifiers"
JOSE = CONFORMANCE.parents[3] / "jose/dist/webapi/index.js"
"""The package that the conformance suite brings along."""
PEERS = ("pyjwt", "jose", "node", "go")
__all__ = ["go_env"]


@dataclass
class Issuer:
    """A verifier behind TLS, an agent's host, and how each verifier of tokens is started."""

    verifier: RunningVerifier
    host: SimulatedHost
    ca_file: Path
    commands: dict[str, list[str]]

    def says(self, peer: str, token: str, *, audience: str = VAULT, issuer: str | None = None) -> tuple[int, str]:
        """Exit status and what it said."""
        url = issuer or self.verifier.url
        where = [url, audience] if peer in ("jose", "node") else [url, str(self.ca_file), audience]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(LIB), "NODE_EXTRA_CA_CERTS": str(self.ca_file)}
        done = subprocess.run(
            [*self.commands[peer], *where], input=token, env=env, capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
        return done.returncode, (done.stdout if done.returncode == 0 else done.stderr).strip()

    def given(self, audience: str = VAULT) -> str:
        """A fresh exchange token."""
        self.host.fetch_nonce()
        return self.host.exchange(asked(self.host, audience=audience)).token


@pytest.fixture(scope="module")
def issuer(go_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    place = tmp_path_factory.mktemp("issuer")
    built = Path(go_env["HOME"]) / "verifier"
    done = subprocess.run([go(), "build", "-o", built, "."], cwd=HERE / "go", env=go_env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = {
        "pyjwt": [sys.executable, str(HERE / "with_pyjwt.py")], "jose": [str(node()), str(HERE / "with_jose.mjs"), str(JOSE)],
        "node": [str(node()), str(HERE / "plain.mjs")], "go": [str(built)],
    }  # fmt: skip
    certificate = certified(place, "127.0.0.1")
    with running_verifier(place, clock=RealClock(), certificate=certificate) as verifier:
        verifier.trust(Maker())
        verifier.publish(PERMIT)
        host = verifier.host("h1")
        host.launch("one", grants=GRANTS)
        verifier.approve(host)
        yield Issuer(verifier, host, certificate[0], commands)


@pytest.mark.parametrize("peer", PEERS)
def test_a_token_is_taken_by_whom_it_is_for(issuer: Issuer, peer: str) -> None:
    token = issuer.given()
    assert issuer.says(peer, token) == (0, AGENT)
    assert issuer.says(peer, token, audience=CLOUD)[0] == 1
    assert issuer.says(peer, issuer.given(CLOUD), audience=CLOUD) == (0, AGENT)


def _respelt(token: str, **changed: object) -> str:
    """The token with another header, under the same signature."""
    header, rest = token.split(".", 1)
    return f"{b64url(encode_json({**json.loads(decoded(header)), **changed}))}.{rest}"


def _hmac(issuer: Issuer, token: str) -> str:
    """Signed by HS256 with the public key's bytes, which everybody has."""
    (key,) = issuer.verifier.made.parts.keys.exchange_keys(int(time.time()))[:1]
    signed = _respelt(token, alg="HS256").rpartition(".")[0]
    return f"{signed}.{b64url(hmac.new(key.to_spki(), signed.encode(), hashlib.sha256).digest())}"


def _by_stranger(_: Issuer, token: str) -> str:
    """Another's signature under the issuer's key id."""
    stranger, (header, payload, _signature) = new_signer(ES256), token.split(".")
    kid = json.loads(decoded(header))["kid"]
    return sign_jws(decoded(payload), typ="JWT", signer_algorithm=ES256, sign=stranger.sign, kid=kid)


def _by_unknown(_: Issuer, token: str) -> str:
    stranger, payload = new_signer(ES256), decoded(token.split(".")[1])
    return sign_jws(payload, typ="JWT", signer_algorithm=ES256, sign=stranger.sign, kid=key_id(stranger.public))


def _by_token_key(issuer: Issuer, token: str) -> str:
    """The claims of an exchange token, signed by the key of execution tokens."""
    signer = issuer.verifier.made.parts.keys.current()
    return issuer.verifier.made.parts.keys.sign_jwt(decoded(token.split(".")[1]), "JWT", signer)


ATTACKS: dict[str, Callable[[Issuer, str], str]] = {
    "the execution token": lambda issuer, _: asked(issuer.host).token,
    "alg none": lambda _, token: _respelt(token, alg="none").rpartition(".")[0] + ".",
    "alg none, with the signature": lambda _, token: _respelt(token, alg="none"),
    "HS256 by the public key": _hmac,
    "a stranger's signature": _by_stranger,
    "a stranger's key": _by_unknown,
    "the key of execution tokens": _by_token_key,
    "another's audience": lambda _, token: _swapped(token, aud=CLOUD),
    "a longer life": lambda _, token: _swapped(token, exp=int(time.time()) + 9999),
    "no signature": lambda _, token: token.rpartition(".")[0] + ".",
}


def _swapped(token: str, **changed: object) -> str:
    """The token with another claim, under the same signature."""
    header, payload, signature = token.split(".")
    return f"{header}.{b64url(encode_json({**json.loads(decoded(payload)), **changed}))}.{signature}"


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_other_token_is_taken(issuer: Issuer, peer: str, attack: str) -> None:
    token = issuer.given()
    forged = ATTACKS[attack](issuer, token)
    code, said = issuer.says(peer, forged, audience=CLOUD if attack == "another's audience" else VAULT)
    assert code == 1, said
    assert "Traceback" not in said
    assert issuer.says(peer, token)[0] == 0, "the token itself is"


@pytest.mark.parametrize("peer", PEERS)
def test_an_issuer_under_another_name_or_certificate_is_none(issuer: Issuer, peer: str) -> None:
    assert issuer.says(peer, issuer.given(), issuer=issuer.verifier.url.replace("127.0.0.1", "localhost"))[0] == 1


def test_keys_that_rotate_are_found_by_each_before_and_after(issuer: Issuer) -> None:
    before = issuer.given()
    issuer.verifier.client.post("/v1/keys/exchange/rotate")
    after = issuer.given()
    assert {issuer.says(peer, token) for peer in PEERS for token in (before, after)} == {(0, AGENT)}


def test_dead_token_is_taken_by_nobody(issuer: Issuer) -> None:
    """Last, since its policy stays."""
    issuer.verifier.publish(PERMIT, token_life=6)
    token = issuer.given()
    time.sleep(7)
    assert [issuer.says(peer, token)[0] for peer in PEERS] == [1] * len(PEERS)

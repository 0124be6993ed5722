"""Introspection (RFC 7662) and the status list, as a relying service meets them."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from urllib.parse import urlencode

import pytest

from tests.signers import new_signer
from tests.verifier.test_access import call, filled
from tests.verifier.test_operator import token_of
from tests.world.host import SimulatedHost
from tests.world.verifier import RunningVerifier
from verifier.http.app import table
from verifier.http.introspection import FORM
from writ.formats.eat import TYP, encode_claims, parse_token
from writ.formats.errors import FormatError, Refused
from writ.formats.jose import parse_jws, sign_jws, verify_jws
from writ.formats.keys import key_id
from writ.formats.status_list import TYP as LIST_TYP
from writ.formats.status_list import parse_status_list


@dataclass
class Service:
    """A relying service with an API key."""

    verifier: RunningVerifier
    key: str

    def post(self, body: str, kind: str = FORM) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": kind}
        return call(self.verifier, "POST", "/v1/introspect", body=body.encode(), headers=headers)[:2]

    def ask(self, token: str, **more: str) -> bytes:
        """The answer to the form, byte for byte."""
        status, body = self.post(urlencode({"token": token, **more}))
        assert status == 200, body
        return body


def service(verifier: RunningVerifier, audience: str = "tools", namespace: str = "default") -> Service:
    body = {"namespace": namespace, "role": "relying", "audience": audience}
    return Service(verifier, verifier.client.post("/v1/api-keys", body)["key"])


INACTIVE = b'{"active":false}'


def test_live_token_is_active_with_its_claims_and_no_others(verifier: RunningVerifier, host: SimulatedHost) -> None:
    token = token_of(host, "one")
    said = json.loads(service(verifier).ask(token, token_type_hint="access_token"))

    assert (said.pop("active"), said.pop("token_type")) == (True, "DPoP")
    assert said == json.loads(parse_token(token).jws.payload)
    assert said["cnf"] == {"jkt": key_id(host.instances["one"].key.public)}


def test_whatever_is_not_active_for_this_caller_gets_one_answer(verifier: RunningVerifier, host: SimulatedHost) -> None:
    token, ours = token_of(host, "one"), service(verifier)
    parsed, stranger = parse_token(token), new_signer()
    payload, kid = encode_claims(parsed.claims), parsed.jws.kid or ""
    forged = sign_jws(payload, typ=TYP, signer_algorithm=stranger.public.algorithm, sign=stranger.sign, kid=kid)
    other_type = sign_jws(payload, typ="JWT", signer_algorithm=stranger.public.algorithm, sign=stranger.sign, kid=kid)
    answers = {
        "rubbish": ours.ask("rubbish"), "nothing": ours.ask(""), "long": ours.ask("x" * 20_000), "cut": ours.ask(token[:-4] + "AAAA"),
        "forged": ours.ask(forged), "another type": ours.ask(other_type), "another audience": service(verifier, "other").ask(token),
        "a longer audience": service(verifier, "tools2").ask(token), "another namespace": service(verifier, namespace="billing").ask(token),
        "a status list": ours.ask(call(verifier, "GET", "/v1/status/0")[1].decode()),
    }  # fmt: skip
    assert {name: answer for name, answer in answers.items() if answer != INACTIVE} == {}
    assert ours.ask(token) != INACTIVE


def test_revoked_and_expired_tokens_are_inactive(verifier: RunningVerifier, host: SimulatedHost) -> None:
    ours, token = service(verifier), token_of(host, "one")
    verifier.client.post("/v1/revocations", {"kind": "jti", "subject": parse_token(token).claims.token_id})
    assert ours.ask(token) == INACTIVE
    expiring = token_of(host, "one")
    assert ours.ask(expiring) != INACTIVE
    verifier.clock.advance(60)
    assert ours.ask(expiring) == INACTIVE


def test_token_of_an_instance_or_host_that_was_revoked_is_inactive(verifier: RunningVerifier, host: SimulatedHost) -> None:
    ours, token = service(verifier), token_of(host, "one")
    verifier.client.post("/v1/revocations", {"kind": "instance", "subject": host.instances["one"].instance.hex()})
    assert ours.ask(token) == INACTIVE


def test_token_by_a_key_that_was_rotated_away_is_active_while_the_key_is_published(verifier: RunningVerifier, host: SimulatedHost) -> None:
    ours, token = service(verifier), token_of(host, "one")
    verifier.client.post("/v1/keys/rotate")
    assert ours.ask(token) != INACTIVE


@pytest.mark.parametrize(
    "body, kind",
    [
        ("nothing", FORM), ("", FORM), ("a=b", FORM), ("token=a&token=b", FORM), ("token=a&x=1&x=2", FORM), ("token=\u00e4", FORM),
        ("&".join(f"p{number}=1" for number in range(9)), FORM), ('{"token":"a"}', "application/json"), ("token=a", "text/plain"),
    ],
)  # fmt: skip
def test_body_that_is_no_form_with_one_token_is_malformed(verifier: RunningVerifier, body: str, kind: str) -> None:
    status, said = service(verifier).post(body, kind)
    assert (status, json.loads(said)["reasons"][0]["code"]) == (400, "malformed")


def test_relying_service_asks_that_and_nothing_else(verifier: RunningVerifier) -> None:
    headers = {"Authorization": f"Bearer {service(verifier).key}"}
    opened = set()
    for route in table(verifier.made.parts):
        if route.caller not in ("public", "host") and call(verifier, route.method, filled(route.path), headers=headers)[0] != 403:
            opened.add(route.path)
    assert opened == {"/v1/introspect"}


def test_nobody_asks_without_a_key_and_a_publisher_does_not(verifier: RunningVerifier) -> None:
    form = {"Content-Type": FORM}
    assert call(verifier, "POST", "/v1/introspect", body=b"token=a", headers=form)[0] == 401
    key = verifier.client.post("/v1/api-keys", {"namespace": "default", "role": "publisher"})["key"]
    assert call(verifier, "POST", "/v1/introspect", body=b"token=a", headers={**form, "Authorization": f"Bearer {key}"})[0] == 403


def test_reader_of_the_namespace_asks_about_any_audience(verifier: RunningVerifier, host: SimulatedHost) -> None:
    token = token_of(host, "one")
    for namespace, active in (("default", True), ("billing", False)):
        key = verifier.client.post("/v1/api-keys", {"namespace": namespace, "role": "reader"})["key"]
        assert (Service(verifier, key).ask(token) != INACTIVE) is active


def test_audience_goes_with_the_role_and_with_no_other(verifier: RunningVerifier) -> None:
    for body in ({"role": "relying"}, {"role": "reader", "audience": "tools"}):
        with pytest.raises((FormatError, Refused), match="audience"):
            verifier.client.post("/v1/api-keys", {"namespace": "default", **body})


def test_status_list_is_what_the_draft_asks_for(verifier: RunningVerifier, host: SimulatedHost) -> None:
    """draft-ietf-oauth-status-list-21 sections 5.1 and 8.1: media type, typ, sub, iat, exp, ttl."""
    token = parse_token(token_of(host, "one"))
    connection = http.client.HTTPConnection(verifier.url.removeprefix("http://"), timeout=10)
    connection.request("GET", "/v1/status/0", headers={"Accept": "application/statuslist+jwt"})
    answer = connection.getresponse()
    jws = parse_jws(answer.read().decode("ascii"), typ=LIST_TYP, max_size=1 << 20)
    connection.close()
    listed = parse_status_list(jws.payload)

    assert answer.headers["Content-Type"] == "application/statuslist+jwt"
    assert (token.claims.status_uri, listed.sub) == (f"{verifier.url}/v1/status/0", f"{verifier.url}/v1/status/0")
    assert (listed.iat, listed.exp) == (verifier.clock.now(), verifier.clock.now() + 60)
    assert 0 < listed.ttl < listed.exp - listed.iat
    assert token.claims.status_index < listed.statuses.size
    assert any(verify_jws(jws, key) for key in verifier.made.parts.keys.token_keys(verifier.clock.now()))

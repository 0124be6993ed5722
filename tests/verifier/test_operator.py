"""Operators over HTTP: policy, reference values, revocation, keys, decisions."""

from __future__ import annotations

import base64
import http.client
import json
from pathlib import Path

import pytest

from tests.signers import new_signer
from tests.world.authority import Ca
from tests.world.chip import Maker
from tests.world.host import SimulatedHost
from tests.world.verifier import DEFAULT_POLICY, SETTINGS, RunningVerifier
from verifier.http.wire import to_base64
from verifier.ledger import Change, Committed, TokensRevoked
from writ.formats.archive import parse_archive
from writ.formats.corim import Corim, sign_corim
from writ.formats.cose import parse_sign1, verify_sign1
from writ.formats.decision import ACTS, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import Refused
from writ.formats.jose import parse_jws, verify_jws
from writ.formats.keys import key_id, parse_jwk
from writ.formats.policy_bundle import parse_bundle
from writ.formats.status_list import TYP, parse_status_list
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.x509 import parse_certificate, to_pem


def post(verifier: RunningVerifier, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(verifier.url.removeprefix("http://"), timeout=10)
    try:
        headers = {"Authorization": f"Bearer {verifier.key_file.read_text().strip()}", "Content-Type": kind}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def public(verifier: RunningVerifier, path: str) -> bytes:
    connection = http.client.HTTPConnection(verifier.url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()
    finally:
        connection.close()


def revoked(verifier: RunningVerifier, token: str) -> bool:
    claims = parse_token(token).claims
    jws = parse_jws(public(verifier, claims.status_uri.removeprefix(verifier.url)).decode(), typ=TYP, max_size=200_000)
    keys = {item["kid"]: parse_jwk(item) for item in json.loads(public(verifier, "/.well-known/jwks.json"))["keys"]}
    assert verify_jws(jws, keys[jws.kid or ""])
    listed = parse_status_list(jws.payload)
    assert listed.sub == claims.status_uri
    assert listed.iat == verifier.clock.now()
    return listed.statuses.get(claims.status_index) == 1


# --- policy -------------------------------------------------------------------------------------------------------------


def policy(**changes: object) -> dict[str, object]:
    texts = {name: (DEFAULT_POLICY / file).read_text() for name, file in (("schema", "schema.cedarschema"), ("policies", "default.cedar"))}
    return {"settings": SETTINGS, **texts, **changes}


def test_policy_is_signed_by_the_decision_key_and_numbered(verifier: RunningVerifier) -> None:
    shown = verifier.client.get("/v1/policies/current")
    signed = parse_sign1(base64.b64decode(shown["signed"]))
    assert verify_sign1(signed, verifier.made.parts.keys.decision.public)
    assert str(parse_bundle(signed.payload or b"").digest) == shown["digest"]
    assert shown["version"] == 1
    assert verifier.client.post("/v1/policies", policy())["version"] == 2


def test_policy_never_goes_back(verifier: RunningVerifier) -> None:
    verifier.client.post("/v1/policies", policy(version=10))
    for version in (1, 9, 10):
        with pytest.raises(Refused, match="policy-rollback"):
            verifier.client.post("/v1/policies", policy(version=version))
    assert verifier.client.get("/v1/policies/current")["version"] == 10


@pytest.mark.parametrize(
    "changes",
    [
        {"policies": "permit(principal, action, resource);"},
        {"policies": "permit(principal"},
        {"policies": 'permit(principal, action == Writ::Action::"nothing", resource);'},
        {"policies": 'forbid(principal, action == Writ::Action::"tool.call", resource);'},
        {"policies": 'permit(principal, action == Writ::Action::"tool.call", resource);'},
        {"schema": "entity"},
        {"settings": {"token_life": 301}},
        {"settings": {"nonsense": 1}},
        {"settings": {"token_life": "60"}},
    ],
)
def test_policy_that_would_err_is_never_published(verifier: RunningVerifier, changes: dict[str, object]) -> None:
    status, body = post(verifier, "/v1/policies", json.dumps(policy(**changes)).encode())
    assert status in (400, 422)
    assert json.loads(body)["reasons"][0]["code"] == "malformed"
    assert verifier.client.get("/v1/policies/current")["version"] == 1


@pytest.mark.parametrize(
    "path, body, said",
    [
        ("retirements", {"digests": ["zz"]}, ("body.digests.0", "sha256: and 64 lower-case hex digits", "2 characters")),
        ("hosts", {"host": "H"}, ("body.host", "1 to 63 of a-z 0-9 . _ -, letter or digit first and last", "1 characters")),
        ("retirements", {"digests": []}, ("body.digests", "at least 1 items", "0 items")),
        ("retirements", {}, ("body.digests", "a value", "none")),
        ("retirements", {"digests": "zz"}, ("body.digests", "an array", "2 characters")),
        ("retirements", {"digests": [None]}, ("body.digests.0", "text", "null")),
        ("retirements", [], ("body", "an object", "0 items")),
        ("hosts", {"host": "h", "life": 59}, ("body.life", "at least 60", "59")),
        ("hosts", {"host": "h", "life": 1 << 52}, ("body.life", "at most 2592000", str(1 << 52))),
        ("hosts", {"host": "h", "life": "60"}, ("body.life", "a whole number", "2 characters")),
        ("hosts", {"host": "h", "unendorsed": 1}, ("body.unendorsed", "true or false", "1")),
        ("hosts", {"host": "h", "other": {}}, ("body.other", "no such member", "an object")),
        ("revocations", {"kind": "x", "subject": "h"}, ("body.kind", "'jti', 'instance' or 'host'", "1 characters")),
        ("revocations", {"kind": "jti", "subject": "h" * 65}, ("body.subject", "at most 64 characters", "65 characters")),
        ("revocations", {"kind": "jti", "subject": ""}, ("body.subject", "at least 1 characters", "0 characters")),
        ("publications", {"signed": [""] * 33}, ("body.signed", "at most 32 items", "33 items")),
        ("references", {"corims": [""], "publisher": True}, ("body.publisher", "an object", "true or false")),
        ("policies", {**policy(), "version": 1 << 53}, ("body.version", f"below {1 << 53}", str(1 << 53))),
    ],
)
def test_body_of_another_shape_is_told_what_was_expected_and_what_came(
    verifier: RunningVerifier, path: str, body: object, said: tuple[str, str, str]
) -> None:
    status, answer = post(verifier, f"/v1/{path}", json.dumps(body).encode())
    reasons = json.loads(answer)["reasons"]
    assert status == 422
    assert [(one["code"], one["claim"], one["expected"], one["got"]) for one in reasons] == [("malformed", *said)]
    assert all(one["remedy"] for one in reasons)


def test_namespace_without_a_policy_says_so(verifier: RunningVerifier) -> None:
    client = verifier.as_operator(verifier.key_file, "billing")
    with pytest.raises(Refused, match="policy-unknown"):
        client.get("/v1/policies/current")


# --- reference values ---------------------------------------------------------------------------------------------------


def corim(name: str = "c1", namespace: str = "default", value: bytes = b"x") -> Corim:
    return Corim(name, namespace, f"spiffe://example.org/{namespace}/agent/a", (("code", Digest.of(value)),))


def test_unsigned_reference_values_are_signed_by_the_verifier(verifier: RunningVerifier) -> None:
    from verifier.http.wire import from_base64
    from writ.formats.corim import encode_corim, parse_signed_corim

    row = verifier.client.post("/v1/references", {"corims": [to_base64(encode_corim(corim()))]})["references"][0]
    shown = verifier.client.get(f"/v1/references/{row['digest']}")
    signed = parse_signed_corim(from_base64(shown["signed"], "signed"))
    assert verify_sign1(signed.sign1, verifier.made.parts.keys.decision.public)
    assert signed.corim == corim()


def test_reference_values_of_a_publisher_need_its_key(verifier: RunningVerifier) -> None:
    publisher = new_signer()
    item = to_base64(sign_corim(corim(), publisher, signer_name="publisher"))
    for key in (None, new_signer().public.to_jwk()):
        with pytest.raises(Refused, match="signature-invalid"):
            verifier.client.post("/v1/references", {"corims": [item], "publisher": key})
    rows = verifier.client.post("/v1/references", {"corims": [item], "publisher": publisher.public.to_jwk()})["references"]
    assert verifier.client.get(f"/v1/references/{rows[0]['digest']}")["signer"] == "publisher"


def test_reference_values_of_another_namespace_are_refused(verifier: RunningVerifier) -> None:
    from writ.formats.corim import encode_corim

    with pytest.raises(Refused, match="forbidden"):
        verifier.client.post("/v1/references", {"corims": [to_base64(encode_corim(corim(namespace="billing")))]})


def test_replacing_reference_values_retires_other_versions(verifier: RunningVerifier) -> None:
    from writ.formats.corim import encode_corim

    for name, value in (("c1", b"1"), ("c2", b"2")):
        verifier.client.post("/v1/references", {"corims": [to_base64(encode_corim(corim(name, value=value)))]})
    assert len(verifier.client.get("/v1/references")["references"]) == 2
    verifier.client.post("/v1/references", {"corims": [to_base64(encode_corim(corim("c3", value=b"3")))], "replace": True})
    assert [row["id"] for row in verifier.client.get("/v1/references")["references"]] == ["c3"]


@pytest.mark.parametrize("corims", [[], ["!"], [""], ["AAAA"], ["x"] * 257, "AAAA", [1]])
def test_rubbish_is_no_reference_value(verifier: RunningVerifier, corims: object) -> None:
    assert post(verifier, "/v1/references", json.dumps({"corims": corims}).encode())[0] in (400, 422)


def test_changed_prompt_is_refused_until_it_is_approved(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.launch("two", prompt=b"be cruel")
    answer = host.attest("one", "two")
    assert answer.answers[0].token is not None
    assert [(r.code, r.claim.rpartition(".")[2]) for r in answer.answers[1].reasons] == [("component-mismatch", "prompts")]
    verifier.approve(host)
    assert host.attest("two").answers[0].token is not None


# --- revocation ---------------------------------------------------------------------------------------------------------


def token_of(host: SimulatedHost, *names: str) -> str:
    token = host.attest(*names).answers[0].token
    assert token is not None
    return token


def test_revoked_token_is_in_the_status_list(verifier: RunningVerifier, host: SimulatedHost) -> None:
    token = token_of(host, "one")
    assert not revoked(verifier, token)
    verifier.client.post("/v1/revocations", {"kind": "jti", "subject": parse_token(token).claims.token_id})
    assert revoked(verifier, token)
    assert not revoked(verifier, token_of(host, "one"))


def test_revoked_instance_never_gets_a_token_again_nor_do_its_children(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.launch("child", parent="one")
    host.launch("other")
    answer = host.attest("one", "child", "other")
    tokens = [a.token for a in answer.answers]
    instance = host.instances["one"].instance.hex()
    verifier.client.post("/v1/revocations", {"kind": "instance", "subject": instance})
    assert [revoked(verifier, token or "") for token in tokens] == [True, True, False]
    answer = host.attest("one", "child", "other")
    assert [a.token is not None for a in answer.answers] == [False, False, True]
    assert [r.code for r in answer.answers[0].reasons] == ["instance-tainted"]


def test_child_has_a_token_no_longer_than_its_parent_and_none_where_that_was_revoked(
    verifier: RunningVerifier, host: SimulatedHost
) -> None:
    parent = parse_token(token_of(host, "one")).claims
    verifier.clock.advance(30)
    host.launch("child", parent="one")
    child = parse_token(token_of(host, "child")).claims
    assert (child.issued_at, child.expires_at) == (parent.issued_at + 30, parent.expires_at)
    verifier.client.post("/v1/revocations", {"kind": "jti", "subject": parent.token_id})
    refusal = host.attest("child").answers[0]
    assert (refusal.token, [reason.code for reason in refusal.reasons]) == (None, ["parent-refused"])
    both = [parse_token(answer.token or "").claims.expires_at for answer in host.attest("child", "one").answers]
    assert both[0] == both[1] > parent.expires_at
    verifier.clock.advance(61)
    host.fetch_nonce()
    assert [reason.code for reason in host.attest("child").answers[0].reasons] == ["parent-refused"]


def test_revoked_token_takes_those_that_descend_from_it_and_no_later_ones(verifier: RunningVerifier, host: SimulatedHost) -> None:
    for name, parent in (("child", "one"), ("grandchild", "child")):
        host.launch(name, parent=parent)
    host.launch("other")
    first = [answer.token or "" for answer in host.attest("one", "child", "grandchild", "other").answers]
    verifier.clock.advance(20)
    host.fetch_nonce()
    later = [answer.token or "" for answer in host.attest("one", "child", "grandchild").answers]
    verifier.client.post("/v1/revocations", {"kind": "jti", "subject": parse_token(first[0]).claims.token_id})
    assert [revoked(verifier, token) for token in first] == [True, True, True, False]
    assert [revoked(verifier, token) for token in later] == [False, False, False]
    verifier.client.post("/v1/revocations", {"kind": "jti", "subject": parse_token(later[1]).claims.token_id})
    assert [revoked(verifier, token) for token in later] == [False, True, True]
    assert all(answer.token for answer in host.attest("one", "child", "grandchild").answers), "nobody is tainted"


def test_token_of_a_child_that_comes_while_its_parents_is_revoked_is_revoked_too(
    verifier: RunningVerifier, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verifier read who descends from it; before it commits, a child starts and has a token that rests on it."""
    token = token_of(host, "one")
    commit = verifier.made.ledger.commit
    given: list[str] = []

    def late(change: Change) -> Committed:
        if isinstance(change, TokensRevoked) and not given:
            given.append("")
            host.launch("child", parent="one")
            given[0] = token_of(host, "child")
        return commit(change)

    monkeypatch.setattr(verifier.made.ledger, "commit", late)
    verifier.client.post("/v1/revocations", {"kind": "jti", "subject": parse_token(token).claims.token_id})
    assert [revoked(verifier, one) for one in (token, *given)] == [True, True]


def test_revoked_host_is_contained_and_its_nonce_and_tokens_are_dead(verifier: RunningVerifier, host: SimulatedHost) -> None:
    from tests.world.host import RefusedByVerifier

    token = token_of(host, "one")
    evidence = host.evidence("one")
    verifier.client.post("/v1/revocations", {"kind": "host", "subject": "h1"})
    assert revoked(verifier, token)
    with pytest.raises(RefusedByVerifier, match="nonce-superseded"):
        host.deliver(evidence)
    host.fetch_nonce()
    assert "host-contained" in [r.code for r in host.attest("one").reasons]
    host.reboot()
    host.launch("one")
    assert "host-contained" in [r.code for r in host.deliver(host.evidence("one", first=0), "one").reasons]
    verifier.client.post("/v1/hosts/h1/release")
    assert host.attest("one").answers[0].token is not None


def test_host_revoked_before_its_first_attestation_is_contained(verifier: RunningVerifier, host: SimulatedHost) -> None:
    verifier.client.post("/v1/revocations", {"kind": "host", "subject": "h1"})
    host.fetch_nonce()
    assert "host-contained" in [r.code for r in host.attest("one").reasons]
    assert verifier.client.get("/v1/hosts/h1")["status"] == "contained"


@pytest.mark.parametrize("kind, subject", [("jti", "x" * 22), ("instance", "0" * 32), ("host", "nobody")])
def test_revoking_what_is_not_there_is_said_so(verifier: RunningVerifier, kind: str, subject: str) -> None:
    with pytest.raises(Refused, match="not-found"):
        verifier.client.post("/v1/revocations", {"kind": kind, "subject": subject})


def test_releasing_a_host_that_is_not_contained_is_a_conflict(verifier: RunningVerifier, host: SimulatedHost) -> None:
    assert host.name == "h1"
    with pytest.raises(Refused, match="conflict"):
        verifier.client.post("/v1/hosts/h1/release")


# --- keys ---------------------------------------------------------------------------------------------------------------


def test_former_token_key_is_shown_until_its_last_token_is_dead(verifier: RunningVerifier, host: SimulatedHost) -> None:
    before = parse_token(token_of(host, "one")).jws.kid
    kid = verifier.client.post("/v1/keys/rotate")["kid"]
    shown = [item["kid"] for item in json.loads(public(verifier, "/.well-known/jwks.json"))["keys"]]
    assert shown == [kid, before]
    answer = host.attest("one")
    assert parse_token(answer.answers[0].token or "").jws.kid == kid
    assert [key_id(key) for key in answer.token_keys] == shown
    verifier.clock.advance(400)
    assert [item["kid"] for item in json.loads(public(verifier, "/.well-known/jwks.json"))["keys"]] == [kid]


def test_rotation_waits_while_too_many_keys_have_live_tokens(verifier: RunningVerifier, host: SimulatedHost) -> None:
    for _ in range(7):
        verifier.client.post("/v1/keys/rotate")
    with pytest.raises(Refused, match="too-many-requests"):
        verifier.client.post("/v1/keys/rotate")
    assert len(host.attest("one").token_keys) == 8
    verifier.clock.advance(400)
    verifier.client.post("/v1/keys/rotate")


def test_private_keys_are_never_shown(verifier: RunningVerifier) -> None:
    shown = [set(item) for item in json.loads(public(verifier, "/.well-known/jwks.json"))["keys"]]
    assert shown
    assert all(names == {"kty", "crv", "x", "kid", "use", "alg"} for names in shown)


# --- decisions ----------------------------------------------------------------------------------------------------------


def test_decision_is_explained_by_its_reference(verifier: RunningVerifier) -> None:
    host = verifier.host("h1")
    host.launch("one")
    answer = host.attest("one")
    reference = leaf_hash(answer.decision).hex()
    for spelt in (reference, reference[:16]):
        shown = verifier.client.get(f"/v1/decisions/{spelt}")
        assert shown["verdict"] == "refused"
        assert [r["code"] for r in shown["reasons"]] == ["governance-mismatch"]
        assert shown["reasons"][0]["remedy"]
        assert shown["result"]["submods"]["host"]


def test_decisions_of_another_namespace_are_not_shown(verifier: RunningVerifier, host: SimulatedHost, tmp_path: Path) -> None:
    reference = leaf_hash(host.attest("one").decision).hex()
    key = tmp_path / "key"
    key.write_text(verifier.client.post("/v1/api-keys", {"namespace": "billing", "role": "reader"})["key"])
    with pytest.raises(Refused, match="not-found"):
        verifier.as_operator(key).get(f"/v1/decisions/{reference}")


def test_every_operators_act_is_in_the_log(verifier: RunningVerifier, host: SimulatedHost) -> None:
    token = token_of(host, "one")
    made = verifier.client.post("/v1/api-keys", {"namespace": "default", "role": "reader"})
    verifier.client.post(f"/v1/api-keys/{made['id']}/revoke")
    verifier.client.post("/v1/keys/rotate")
    verifier.client.post("/v1/revocations", {"kind": "jti", "subject": parse_token(token).claims.token_id})
    verifier.client.post("/v1/revocations", {"kind": "host", "subject": "h1"})
    verifier.client.post("/v1/hosts/h1/release")
    verifier.client.post("/v1/hosts/h1/replace", {})
    verifier.client.post("/v1/hosts/h1/retire")
    archive = parse_archive(verifier.client.export())
    acts = {e.act for e in (parse_entry(parse_sign1(signed).payload or b"") for signed in archive.entries) if isinstance(e, OperatorAct)}
    elsewhere = {act for act in ACTS if act.startswith(("reference-", "content-", "log-"))} - {"reference-import"} | {"host-excuse"}
    assert acts == set(ACTS) - elsewhere


def test_export_holds_what_the_decisions_name(verifier: RunningVerifier, host: SimulatedHost) -> None:
    from verifier.export import objects_of
    from writ.formats.decision import AttestDecision

    for _ in range(3):
        host.attest("one")
    archive = parse_archive(verifier.client.export(page=4))
    held = archive.by_digest()
    found = [parse_entry(parse_sign1(signed).payload or b"") for signed in archive.entries]
    attests = sorted((e for e in found if isinstance(e, AttestDecision)), key=lambda e: e.nonce_issued_at)
    assert len(attests) == 3
    missing = {d for e in attests for name, d in e.inputs if name not in ("references", "state") and d not in held}
    assert missing == set()
    assert len([e for e in attests if dict(e.inputs)["state"] in held or dict(e.inputs)["state"] == Digest.of(b"")]) == 3
    assert all(digest in held for e in attests for digest in (e.result,))
    assert objects_of(attests[0])
    assert len(archive.tokens) == 3


def test_trust_file_names_roots_and_decision_key(verifier: RunningVerifier) -> None:
    from writ.formats.trust import parse_trust

    trust = parse_trust(base64.b64decode(verifier.client.get("/v1/trust")["file"]))
    assert [root.certificate for root in trust.roots] == [Maker().root()]
    assert trust.decision_keys == (verifier.made.parts.keys.decision.public,)
    assert (trust.domain, trust.issuer) == ("example.org", verifier.url)


def trust_files(*files: tuple[str, bytes]) -> list[dict[str, str]]:
    return [{"name": name, "data": base64.b64encode(data).decode("ascii")} for name, data in files]


def test_files_are_taken_below_what_is_believed_and_refused_otherwise(verifier: RunningVerifier) -> None:
    from writ.formats.trust import ChainRules, parse_trust

    before = verifier.client.get("/v1/trust")
    ca, stranger = Maker().intermediate(), Maker("stranger").root()
    answer = verifier.client.post("/v1/trust", {"files": trust_files(("ca.cer", ca), ("stranger.cer", stranger), ("x.crl", b"rubbish"))})
    assert [(one["file"], one["code"]) for one in answer["refused"]] == [("x.crl", "malformed"), ("stranger.cer", "fingerprint-mismatch")]
    trust = parse_trust(base64.b64decode(answer["file"]))
    assert ca in trust.intermediates
    assert [root.certificate for root in trust.roots] == [Maker().root()]
    assert answer["added"] == {"roots": [], "intermediates": 0, "crls": [], "ocsp": [], "rules": None}, "it was believed already"
    only_bad = verifier.client.post("/v1/trust", {"files": trust_files(("stranger.cer", stranger))})
    assert only_bad["added"] == {"roots": [], "intermediates": 0, "crls": [], "ocsp": [], "rules": None}
    assert (only_bad["digest"], len(only_bad["refused"])) == (answer["digest"], 1)
    ruled = verifier.client.post("/v1/trust", {"rules": {"crl_required": True, "crl_max_age": 3600, "sha1": False}})
    assert parse_trust(base64.b64decode(ruled["file"])).rules == ChainRules(True, 3600, False)
    assert ruled["added"]["rules"] == ruled["rules"]
    assert before["rules"] == {"crl_required": False, "crl_max_age": 604800, "sha1": False}


def test_crl_of_a_believed_ca_is_taken_and_shown(verifier: RunningVerifier) -> None:
    ca = Ca("authority")
    crl = ca.crl(7, this=1_000_000_000)
    pem = to_pem(parse_certificate(ca.certificate()))
    answer = verifier.client.post("/v1/trust", {"pem": pem, "tpm_class": "software", "files": trust_files(("a.crl", crl))})
    assert answer["refused"] == []
    assert [(one["this_update"], one["revoked"]) for one in answer["crls"]] == [(1_000_000_000, 1)]
    assert answer["added"]["crls"] == answer["crls"]
    assert [one["tpm_class"] for one in answer["added"]["roots"]] == ["software"]


@pytest.mark.parametrize("body", [{"pem": "x"}, {"tpm_class": "discrete"}, {"files": [{"name": "a", "data": "*"}]}])
def test_import_of_another_shape_is_refused(verifier: RunningVerifier, body: dict[str, object]) -> None:
    assert post(verifier, "/v1/trust", json.dumps(body).encode())[0] == 400


@pytest.mark.parametrize("pem", ["x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN PRIVATE KEY-----\n"])
def test_rubbish_is_no_trust_anchor(verifier: RunningVerifier, pem: str) -> None:
    assert post(verifier, "/v1/trust", json.dumps({"pem": pem, "tpm_class": "discrete"}).encode())[0] == 400


def test_readiness_needs_no_credential_and_tells_nothing_else(verifier: RunningVerifier) -> None:
    assert json.loads(public(verifier, "/healthz")) == {"status": "alive"}
    assert json.loads(public(verifier, "/readyz")) == {"status": "ready"}


def test_refusals_are_counted_by_code_and_only_for_readers(verifier: RunningVerifier, host: SimulatedHost) -> None:
    from tests.world.host import RefusedByVerifier

    evidence = host.evidence("one")
    host.fetch_nonce()
    with pytest.raises(RefusedByVerifier):
        host.deliver(evidence)
    connection = http.client.HTTPConnection(verifier.url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {verifier.key_file.read_text().strip()}"})
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    assert 'verifier_refused_total{code="nonce-superseded"} 1' in text


def test_operators_act_goes_through_while_the_host_attests(verifier: RunningVerifier, host: SimulatedHost) -> None:
    """The state moves with every attestation; a retirement is tried again until it fits between two."""
    import threading

    from tests.world.host import RefusedByVerifier

    started = threading.Event()

    def renew() -> None:
        for _ in range(200):
            try:
                host.attest("one")
            except RefusedByVerifier as refused:
                codes.extend(refused.codes)
                return
            started.set()

    codes: list[str] = []
    thread = threading.Thread(target=renew)
    thread.start()
    started.wait(10)
    assert verifier.client.post("/v1/hosts/h1/retire")["status"] == "retired"
    thread.join(30)
    assert codes
    assert set(codes) <= {"host-not-active", "nonce-superseded"}

"""Who may call what: a walk of every route without and with the wrong credentials, and keys that are stolen, replayed or revoked."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path

import pytest

from tests.world.host import RefusedByVerifier, SimulatedHost
from tests.world.verifier import RunningVerifier
from verifier.http.app import table
from verifier.http.route import CALLERS
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.exchange import EXCHANGE, Problem
from writ.formats.jose import b64url, encode_dpop_payload, sign_dpop
from writ.formats.keys import Signer
from writ.service.signers import MemorySigner


def call(
    verifier: RunningVerifier, method: str, path: str, *, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection(verifier.url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Content-Type", "")
    finally:
        connection.close()


def filled(path: str) -> str:
    for name, value in {
        "host": "h1",
        "digest": "sha256:" + "0" * 64,
        "reference": "0" * 12,
        "list": "0",
        "key": "0" * 16,
        "path:path": "0/000.p/1",
        "leaf": "0" * 64,
    }.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def key_of(verifier: RunningVerifier) -> str:
    return verifier.key_file.read_text().strip()


def make_key(verifier: RunningVerifier, folder: Path, role: str, namespace: str) -> Path:
    answer = verifier.client.post("/v1/api-keys", {"namespace": namespace, "role": role, "label": "test"})
    path = folder / f"{role}-{namespace}.key"
    path.write_text(answer["key"])
    return path


def test_every_route_that_answers_is_in_the_table(verifier: RunningVerifier) -> None:
    paths = verifier.made.app.openapi()["paths"]
    served = {(method.upper(), path) for path, item in paths.items() for method in item if method in ("get", "post")}
    stated = {(route.method, route.path.replace(":path", "")) for route in table(verifier.made.parts)}
    assert served == stated
    assert {route.caller for route in table(verifier.made.parts)} == set(CALLERS)


def test_walk_without_credentials_opens_nothing(verifier: RunningVerifier) -> None:
    """Public routes answer or refuse what is sent; every other route says 401 before it looks at anything."""
    verifier.host("h1")
    public = {
        ("GET", "/.well-known/jwks.json"), ("GET", "/v1/status/{list}"), ("GET", "/healthz"), ("GET", "/readyz"),
        ("GET", "/.well-known/openid-configuration"), ("GET", "/.well-known/exchange-jwks.json"),
        ("POST", "/v1/enrol"), ("POST", "/v1/enrol/activate"), ("GET", "/log/checkpoint"), ("GET", "/log/tile/{path:path}"),
        ("GET", "/log/receipt/{leaf}"), ("GET", "/log/proof/{leaf}"),
    }  # fmt: skip
    for route in table(verifier.made.parts):
        for body in (b"", b"{", b"\xff" * 100, b'{"host":"h2"}'):
            if route.method == "GET" and body:
                continue
            status, content, kind = call(verifier, route.method, filled(route.path), body=body)
            where = f"{route.method} {route.path} {body[:10]!r}"
            if (route.method, route.path) in public:
                assert status == (404 if "{leaf}" in route.path else 200 if route.method == "GET" else 400), where
                continue
            assert status == 401, where
            if route.cbor:
                problem = EXCHANGE.parse(content)
                assert isinstance(problem, Problem)
            else:
                assert kind == "application/problem+json", where
                assert [r["code"] for r in json.loads(content)["reasons"]] == ["unauthenticated"]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer writ_", "Bearer writ_" + "A" * 43, "Basic d3JpdDp4", "Bearer " + "x" * 5000, "bearer \xff"]
)
def test_wrong_api_keys_open_nothing(verifier: RunningVerifier, header: str) -> None:
    assert call(verifier, "GET", "/v1/hosts", headers={"Authorization": header})[0] == 401


def test_reader_reads_and_does_not_act(verifier: RunningVerifier, tmp_path: Path) -> None:
    path = make_key(verifier, tmp_path, "reader", "default")
    headers = {"Authorization": f"Bearer {path.read_text()}"}
    for route in table(verifier.made.parts):
        if route.caller in ("operator", "domain"):
            assert call(verifier, route.method, filled(route.path), headers=headers)[0] == 403, route.path
    assert call(verifier, "GET", "/v1/hosts", headers=headers)[0] == 200


def test_publisher_hands_in_and_withdraws_and_does_nothing_else(verifier: RunningVerifier, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {make_key(verifier, tmp_path, 'publisher', 'default').read_text()}"}
    opened = []
    for route in table(verifier.made.parts):
        if route.caller not in ("public", "host"):
            body = b"{" if route.method == "POST" else b""
            status, content, _ = call(verifier, route.method, filled(route.path), headers=headers, body=body)
            if status != 403:
                opened.append((route.method, route.path, status))
                continue
            assert [r["code"] for r in json.loads(content)["reasons"]] == ["forbidden"]
    assert opened == [("POST", "/v1/proposals/{digest}/withdraw", 400), ("POST", "/v1/publications", 400)]


def test_publisher_belongs_to_one_namespace(verifier: RunningVerifier, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="forbidden"):
        verifier.client.post("/v1/api-keys", {"namespace": "*", "role": "publisher"})
    other = verifier.as_operator(make_key(verifier, tmp_path, "publisher", "billing"), "default")
    with pytest.raises(Refused, match="forbidden"):
        other.post("/v1/publications", {"signed": ["x"]})


def test_name_that_never_enrolled_is_no_namespaces_for_ever(verifier: RunningVerifier, tmp_path: Path) -> None:
    """Names of hosts are in the public log: an operator of another namespace could admit and retire those that will be wanted."""
    squatter, tenant = (verifier.as_operator(make_key(verifier, tmp_path, "operator", name), name) for name in ("squatter", "tenant"))
    ticket = squatter.post("/v1/hosts", {"host": "h8"})["ticket"]
    with pytest.raises(Refused, match="conflict"):
        tenant.post("/v1/hosts", {"host": "h8"})
    squatter.post("/v1/hosts/h8/retire")
    with pytest.raises(Refused, match="not-found"):
        squatter.get("/v1/hosts/h8")
    fresh = tenant.post("/v1/hosts", {"host": "h8"})["ticket"]
    with pytest.raises(RefusedByVerifier):
        verifier.stranger("h8").enrol(ticket)
    verifier.stranger("h8").enrol(fresh)
    assert tenant.get("/v1/hosts/h8")["generation"] == 1
    tenant.post("/v1/hosts/h8/retire")
    with pytest.raises(Refused, match="conflict"):
        tenant.post("/v1/hosts", {"host": "h8"})


def test_name_whose_admission_ran_out_unused_is_free_and_not_before(verifier: RunningVerifier, tmp_path: Path) -> None:
    squatter, tenant = (verifier.as_operator(make_key(verifier, tmp_path, "operator", name), name) for name in ("squatter", "tenant"))
    for life in (60, 120):
        squatter.post("/v1/hosts", {"host": "h8", "life": life})
    verifier.clock.advance(61)
    with pytest.raises(Refused, match="conflict"):
        tenant.post("/v1/hosts", {"host": "h8"})
    verifier.clock.advance(60)
    tenant.post("/v1/hosts", {"host": "h8"})
    assert squatter.get("/v1/hosts") == {"hosts": []}


def test_figures_of_all_namespaces_are_for_who_reads_all(verifier: RunningVerifier, tmp_path: Path) -> None:
    for role, namespace, status in (("reader", "billing", 403), ("operator", "billing", 403), ("reader", "*", 200)):
        key = make_key(verifier, tmp_path, role, namespace)
        assert call(verifier, "GET", "/metrics", headers={"Authorization": f"Bearer {key.read_text()}"})[0] == status, (role, namespace)


def test_namespace_key_reaches_no_other_namespace(verifier: RunningVerifier, tmp_path: Path) -> None:
    verifier.host("h1")
    other = verifier.as_operator(make_key(verifier, tmp_path, "operator", "billing"))
    with pytest.raises(Refused, match="not-found"):
        other.get("/v1/hosts/h1")
    with pytest.raises(Refused, match="not-found"):
        other.post("/v1/hosts/h1/retire")
    with pytest.raises(Refused, match="not-found"):
        other.post("/v1/revocations", {"kind": "host", "subject": "h1"})
    assert other.get("/v1/hosts") == {"hosts": []}
    with pytest.raises(Refused, match="forbidden"):
        verifier.as_operator(tmp_path / "operator-billing.key", "default").get("/v1/hosts")
    with pytest.raises(Refused, match="conflict"):
        other.post("/v1/hosts", {"host": "h1"})


def test_namespace_operator_touches_nothing_of_the_domain(verifier: RunningVerifier, tmp_path: Path) -> None:
    other = verifier.as_operator(make_key(verifier, tmp_path, "operator", "billing"))
    for path, body in (("/v1/keys/rotate", None), ("/v1/trust", {"pem": "x", "tpm_class": "discrete"})):
        with pytest.raises(Refused, match="forbidden"):
            other.post(path, body)
    for namespace in ("*", "default"):
        with pytest.raises(Refused, match="forbidden"):
            other.post("/v1/api-keys", {"namespace": namespace, "role": "reader"})


def test_revoked_key_is_of_no_use(verifier: RunningVerifier, tmp_path: Path) -> None:
    path = make_key(verifier, tmp_path, "reader", "default")
    client = verifier.as_operator(path)
    client.get("/v1/hosts")
    made = [row for row in verifier.client.get("/v1/api-keys")["api_keys"] if row["role"] == "reader"]
    verifier.client.post(f"/v1/api-keys/{made[0]['id']}/revoke")
    with pytest.raises(Refused, match="unauthenticated"):
        client.get("/v1/hosts")


def test_api_keys_are_stored_as_hashes(verifier: RunningVerifier) -> None:
    secret = key_of(verifier).encode()
    files = [file for file in verifier.config.state_dir.rglob("*") if file.is_file()]
    assert verifier.config.ledger_file in files
    assert [file for file in files if secret in file.read_bytes()] == []


def test_first_api_key_is_its_owners_alone(verifier: RunningVerifier) -> None:
    assert verifier.key_file.stat().st_mode & 0o777 == 0o600
    assert verifier.config.key_dir.stat().st_mode & 0o777 == 0o700


# --- hosts --------------------------------------------------------------------------------------------------------------


def dpop(
    host: SimulatedHost, path: str, body: bytes, *, iat: int, signer: Signer | None = None, changes: dict[str, str] | None = None
) -> str:
    claims = {"htm": "POST", "htu": f"http://verifier{path}", "arg": b64url(Digest.of(body).value), **(changes or {})}
    payload = encode_dpop_payload(jti="j" * 20, iat=iat, **claims)
    return sign_dpop(payload, signer or host.key)


@pytest.fixture
def host(verifier: RunningVerifier) -> SimulatedHost:
    return verifier.host("h1")


NONCE = "/v1/hosts/h1/nonce"


def test_host_proof_is_accepted_once(verifier: RunningVerifier, host: SimulatedHost) -> None:
    headers = {"DPoP": dpop(host, NONCE, b"", iat=verifier.clock.now())}
    assert call(verifier, "POST", NONCE, headers=headers)[0] == 200
    status, body, _ = call(verifier, "POST", NONCE, headers=headers)
    problem = EXCHANGE.parse(body)
    assert isinstance(problem, Problem)
    assert (status, [r.code for r in problem.reasons]) == (401, ["proof-replayed"])


@pytest.mark.parametrize(
    "changes", [{"htm": "GET"}, {"htu": "http://verifier/v1/hosts/h2/nonce"}, {"arg": b64url(bytes(32))}], ids=["method", "path", "body"]
)
def test_proof_for_another_request_is_refused(verifier: RunningVerifier, host: SimulatedHost, changes: dict[str, str]) -> None:
    proof = dpop(host, NONCE, b"", iat=verifier.clock.now(), changes=changes)
    assert call(verifier, "POST", NONCE, headers={"DPoP": proof})[0] == 401


@pytest.mark.parametrize("off", [-61, 61])
def test_proof_of_another_time_is_refused(verifier: RunningVerifier, host: SimulatedHost, off: int) -> None:
    proof = dpop(host, NONCE, b"", iat=verifier.clock.now() + off)
    assert call(verifier, "POST", NONCE, headers={"DPoP": proof})[0] == 401


def test_proof_by_another_key_is_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    other = verifier.host("h2")
    for signer in (MemorySigner.generate(), other.key):
        proof = dpop(host, NONCE, b"", iat=verifier.clock.now(), signer=signer)
        assert call(verifier, "POST", NONCE, headers={"DPoP": proof})[0] == 401


@pytest.mark.parametrize("proof", ["", "x", "a.b.c", "x" * 9000])
def test_proof_that_is_none_is_refused(verifier: RunningVerifier, host: SimulatedHost, proof: str) -> None:
    assert host.name == "h1"
    assert call(verifier, "POST", NONCE, headers={"DPoP": proof})[0] in (400, 401)


def test_api_key_does_not_open_host_routes(verifier: RunningVerifier, host: SimulatedHost) -> None:
    assert host.name == "h1"
    assert call(verifier, "POST", NONCE, headers={"Authorization": f"Bearer {key_of(verifier)}"})[0] == 401


def test_host_key_does_not_open_operator_routes(host: SimulatedHost) -> None:
    with pytest.raises((FormatError, RefusedByVerifier, Unavailable)):
        host.ask("/v1/hosts/h1/retire", b"")


def test_errors_never_carry_what_was_sent(verifier: RunningVerifier) -> None:
    secret = "writ_" + "S" * 43
    status, body, _ = call(verifier, "GET", "/v1/hosts", headers={"Authorization": f"Bearer {secret}"})
    assert status == 401
    assert b"SSSS" not in body
    headers = {"Authorization": f"Bearer {key_of(verifier)}", "Content-Type": "application/json"}
    status, body, _ = call(verifier, "POST", "/v1/hosts", body=json.dumps({"host": secret}).encode(), headers=headers)
    assert status == 422
    assert b"SSSS" not in body


def test_unforeseen_fault_is_500_without_its_text(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(verifier.made.parts.hosts, "list", broken)
    status, body, kind = call(verifier, "GET", "/v1/hosts", headers={"Authorization": f"Bearer {key_of(verifier)}"})
    assert (status, kind) == (500, "application/problem+json")
    assert b"swordfish" not in body
    assert re.fullmatch(r"[0-9a-f]{16}", json.loads(body)["reference"])


@pytest.mark.parametrize("path", ["/", "/v2/hosts", "/v1/hosts/h1/unknown", "/docs", "/redoc", "/v1/hosts/", "/%00", "/v1/../v1/hosts"])
def test_unknown_paths_are_not_found(verifier: RunningVerifier, path: str) -> None:
    status, body, kind = call(verifier, "GET", path)
    assert (status, kind) == (404, "application/problem+json")
    assert json.loads(body)["status"] == 404


def test_wrong_method_is_said_so(verifier: RunningVerifier) -> None:
    assert call(verifier, "DELETE", "/v1/hosts")[0] == 405

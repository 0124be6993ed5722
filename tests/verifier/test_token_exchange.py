"""Exchange tokens: who gets one, for how long, what is recorded, and what is published for those who verify them.

Invariant I7 has one labelled exception, a bearer token; each test named after an attack fails where the check is taken out.
"""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.signers import new_signer
from tests.verifier.test_introspection import INACTIVE, service
from tests.world.chip import Maker
from tests.world.federation import JwtMethod, NotTaken, decoded, discovered
from tests.world.host import RefusedByVerifier, SimulatedHost
from tests.world.network import certified
from tests.world.verifier import RunningVerifier, running_verifier
from verifier.__main__ import main
from verifier.attest import ReferenceSets, read_inputs
from verifier.http.wire import to_base64
from verifier.keys import AHEAD, RETIRED_FOR, Keys
from verifier.ledger.schema import EntryRow, ProofRow
from verifier.ledger.transaction import MOST_EXCHANGES, blob
from verifier.token_exchange import EXCHANGE_JWKS, TokenExchange
from writ.formats.corim import Corim, encode_corim
from writ.formats.cose import parse_sign1, verify_sign1
from writ.formats.decision import ExchangeDecision, encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import FormatError, Refused
from writ.formats.exchange import EXCHANGE, ExchangeAnswer, ExchangeRequest
from writ.formats.exchange_token import MAX_LIFE, parse_exchange_token
from writ.formats.keys import key_id, parse_cose_key
from writ.formats.policy_bundle import parse_bundle
from writ.formats.state import parse_host_record, parse_host_state
from writ.formats.strict import b64url, decode_cbor, encode_json
from writ.service.engine_id import installed_engine
from writ.verdict.reference import GOVERNANCE
from writ.verdict.token import PROOF_LIFE
from writ.verdict.token_exchange import Exchanging, decide_exchange

VAULT, CLOUD, OTHER = "https://vault.example.org", "api://cloud", "https://ungranted.example.org"
PERMIT = f"""
@id("vault-and-cloud")
permit (principal, action == Writ::Action::"token.exchange", resource)
when {{ resource == Writ::Audience::"{VAULT}" || resource == Writ::Audience::"{CLOUD}" }};
"""
GRANTS = (("token.exchange", CLOUD), ("token.exchange", VAULT), ("token.exchange", "https://unpermitted.example.org"))
AGENT = "spiffe://example.org/default/agent/reporter"


@pytest.fixture
def verifier(bare: RunningVerifier) -> RunningVerifier:
    bare.trust(Maker())
    bare.publish(PERMIT)
    return bare


@pytest.fixture
def host(verifier: RunningVerifier) -> SimulatedHost:
    made = verifier.host("h1")
    made.launch("one", grants=GRANTS)
    made.launch("two", agent="scribe", grants=GRANTS[1:2])
    verifier.approve(made)
    return made


def tokens(host: SimulatedHost, *names: str) -> list[str]:
    answers = {one.instance: one.token for one in host.attest(*names).answers}
    found = [answers[host.instances[name].instance] for name in names]
    assert all(found), answers
    return [token or "" for token in found]


def asked(host: SimulatedHost, name: str = "one", audience: str = VAULT) -> ExchangeRequest:
    return host.exchange_request(name, tokens(host, name)[0], audience)


def refused(host: SimulatedHost, request: ExchangeRequest) -> list[str]:
    with pytest.raises(RefusedByVerifier) as caught:
        host.exchange(request)
    assert request.token not in str(caught.value.problem)
    return caught.value.codes


def decisions(verifier: RunningVerifier) -> list[ExchangeDecision]:
    rows = verifier.made.ledger.read().select(EntryRow, namespace="default")
    found = [parse_entry(parse_sign1(row.entry).payload or b"") for row in rows if row.kind == "exchange"]
    assert all(isinstance(one, ExchangeDecision) for one in found)
    return [one for one in found if isinstance(one, ExchangeDecision)]


def fetch(verifier: RunningVerifier, path: str, **headers: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(verifier.url.removeprefix("http://"), timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in {"Host": "127.0.0.1", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


# --- what is given ----------------------------------------------------------------------------------------------------------


def test_token_is_for_one_audience_says_that_it_is_a_bearer_and_is_recorded_first(verifier: RunningVerifier, host: SimulatedHost) -> None:
    request = asked(host)
    answer = host.exchange(request)
    header, payload = (json.loads(decoded(part)) for part in answer.token.split(".")[:2])
    now, execution = verifier.clock.now(), parse_token(request.token)

    assert header == {"alg": "ES256", "typ": "JWT", "kid": key_id(answer.key)}
    assert payload.pop("jti")
    assert payload == {
        "iss": verifier.url, "sub": AGENT, "aud": VAULT, "iat": now, "nbf": now, "exp": execution.claims.expires_at,
        "token_use": "writ-exchange-bearer", "host": "h1", "instance": host.instances["one"].instance.hex(), "tpm_class": "software",
        "runtime": "runtime-only", "exceptions": ["attestor-not-rooted"], "execution_token": str(execution.digest),
    }  # fmt: skip
    signed = parse_sign1(answer.decision)
    assert host.decision_key is not None
    assert verify_sign1(signed, host.decision_key)
    (decision,) = decisions(verifier)
    assert parse_entry(signed.payload or b"") == decision
    assert (decision.audience, decision.claims) == (VAULT, Digest.of(parse_exchange_token(answer.token).jws.payload))


def test_i5_decision_is_made_again_from_what_it_names(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.exchange(asked(host))
    refused(host, asked(host, "two", CLOUD))
    tables = verifier.made.ledger.read()
    found = decisions(verifier)
    assert [one.claims is None for one in found] == [False, True]
    for decision in found:
        named = {name: blob(tables, decision.namespace, digest) for name, digest in decision.inputs}
        blobs = {name: data for name, data in named.items() if data is not None}
        assert blobs.keys() == named.keys()
        exchanging = Exchanging(verifier.url, f"{verifier.url}/v1/hosts/h1/exchange", decision.decided_at, decision.issued)
        again = decide_exchange(
            blobs["request"], record=parse_host_record(blobs["record"]), state=parse_host_state(blobs["state"]),
            references=read_inputs(tables, "h1", ReferenceSets()).references, bundle=parse_bundle(blobs["policy"]),
            keys=[parse_cose_key(key) for key in decode_cbor(blobs["keys"], "keys")], exchanging=exchanging, engine=decision.engine,
        )  # fmt: skip
        assert encode_entry(again.entry) == encode_entry(decision)


@pytest.mark.parametrize("life, aged, left", [(60, 0, 60), (60, 41, 19), (300, 0, 300), (300, 10, 290)])
def test_it_ends_with_the_execution_token(verifier: RunningVerifier, host: SimulatedHost, life: int, aged: int, left: int) -> None:
    verifier.publish(PERMIT, token_life=life)
    (token,) = tokens(host, "one")
    verifier.clock.advance(aged)
    claims = parse_exchange_token(host.exchange(host.exchange_request("one", token, CLOUD)).token).claims
    assert claims.expires_at - claims.issued_at == left <= MAX_LIFE
    assert claims.expires_at == parse_token(token).claims.expires_at


# --- who gets none ------------------------------------------------------------------------------------------------------------


def test_default_is_no_and_each_no_is_a_signed_decision(verifier: RunningVerifier, host: SimulatedHost) -> None:
    (token,) = tokens(host, "one")
    wanted = {OTHER: "grant-missing", "https://unpermitted.example.org": "policy-refused"}
    for audience, code in wanted.items():
        assert refused(host, host.exchange_request("one", token, audience)) == [code]
    assert [(one.audience, one.claims, one.reasons[0].code) for one in decisions(verifier)] == [(a, None, c) for a, c in wanted.items()]
    verifier.publish()
    assert refused(host, asked(host)) == ["policy-refused"], "the default policy permits no such token to anybody"


def test_a_forbid_wins_by_what_was_appraised(verifier: RunningVerifier, host: SimulatedHost) -> None:
    closed = '@id("c") forbid (principal, action == Writ::Action::"token.exchange", resource) when { context.runtime == "runtime-only" };'
    verifier.publish(PERMIT + closed)
    assert refused(host, asked(host)) == ["policy-refused"]


def test_audience_swapped_behind_the_proof_is_refused(host: SimulatedHost) -> None:
    request = asked(host)
    assert refused(host, replace(request, audience=CLOUD)) == ["proof-mismatch"]
    host.exchange(request)


@pytest.mark.parametrize(
    "changed, code",
    [
        ({"act": "tool.call"}, "proof-mismatch"), ({"res": CLOUD}, "proof-mismatch"), ({"htm": "GET"}, "proof-mismatch"),
        ({"htu": "https://elsewhere.example.org/v1/hosts/h1/exchange"}, "proof-mismatch"),
        ({"arg": "A" * 43}, "proof-mismatch"), ({"ath": "A" * 43}, "proof-mismatch"),
    ],
)  # fmt: skip
def test_proof_for_anything_else_is_refused(host: SimulatedHost, changed: dict[str, str], code: str) -> None:
    (token,) = tokens(host, "one")
    assert refused(host, host.exchange_request("one", token, VAULT, changed=changed)) == [code]


def test_stolen_execution_token_without_its_session_key_gets_none(host: SimulatedHost) -> None:
    """By the host's own uplink: who has taken over the attestor, or another instance's holder."""
    (token,) = tokens(host, "one")
    for thief in (new_signer(), host.instances["two"].key, host.key):
        assert refused(host, host.exchange_request("one", token, VAULT, key=thief)) == ["proof-invalid"]


def test_stolen_token_and_session_key_are_of_no_use_from_another_host(verifier: RunningVerifier, host: SimulatedHost) -> None:
    (token,) = tokens(host, "one")
    thief = verifier.host("h2")
    thief.instances["one"] = host.instances["one"]
    thief.fetch_nonce()
    assert refused(thief, thief.exchange_request("one", token, VAULT)) == ["token-host"]


def test_nobody_but_the_host_asks(verifier: RunningVerifier, host: SimulatedHost) -> None:
    request = EXCHANGE.encode(asked(host))
    assert host.say("/v1/hosts/h1/exchange", request, uplink=host.anonymous).status == 401
    stranger = verifier.host("h2")
    assert stranger.say("/v1/hosts/h1/exchange", request).status == 401
    assert decisions(verifier) == []


def test_replayed_proof_is_refused_also_by_a_verifier_that_was_restarted(verifier: RunningVerifier, host: SimulatedHost) -> None:
    request, parts = asked(host), verifier.made.parts
    host.exchange(request)
    assert refused(host, request) == ["proof-replayed"]
    engine = installed_engine().digest
    restarted = TokenExchange(
        parts.ledger, Keys(verifier.config.key_dir, parts.ledger), parts.clock, engine, verifier.url, secrets.token_bytes, ReferenceSets()
    )
    with pytest.raises(Refused, match="proof-replayed"):
        restarted.exchange("h1", EXCHANGE.encode(request))
    (row,) = parts.ledger.read().select(ProofRow)
    assert row.expires_at >= verifier.clock.now() + PROOF_LIFE, "for as long as anybody would take it"
    refusing = host.exchange_request("one", request.token, OTHER)
    assert refused(host, refusing) == ["grant-missing"]
    assert refused(host, refusing) == ["proof-replayed"], "a refusal uses it up, too"


def test_why_says_what_was_decided(verifier: RunningVerifier, host: SimulatedHost, capsys: pytest.CaptureFixture[str]) -> None:
    (token,) = tokens(host, "one")
    host.exchange(host.exchange_request("one", token, VAULT))
    refused(host, host.exchange_request("one", token, OTHER))
    given, not_given = [row.reference for row in verifier.made.ledger.read().select(EntryRow, kind="exchange")]
    where = ["--url", verifier.url, "--api-key-file", str(verifier.key_file)]
    said = []
    for reference in (given, not_given):
        assert main(["why", reference, *where]) == 0
        said.append(capsys.readouterr().out)
    assert said[0].startswith("given: h1 at ")
    assert VAULT in said[0]
    assert "grant-missing" in said[1]
    assert f"an exchange token for {OTHER}" in said[1]


def test_expired_proof_and_expired_token_are_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    (token,) = tokens(host, "one")
    early = host.exchange_request("one", token, VAULT)
    verifier.clock.advance(36)
    assert refused(host, early) == ["proof-stale"]
    host.exchange(host.exchange_request("one", token, VAULT))
    verifier.clock.advance(24)
    assert refused(host, host.exchange_request("one", token, VAULT)) == ["token-expired"]


def test_exchange_token_is_exchanged_for_nothing(host: SimulatedHost) -> None:
    request = asked(host)
    given = host.exchange(request).token
    assert refused(host, host.exchange_request("one", given, CLOUD)) == ["malformed"]


def test_revoked_token_gets_none(verifier: RunningVerifier, host: SimulatedHost) -> None:
    request = asked(host)
    verifier.client.post("/v1/revocations", {"kind": "jti", "subject": parse_token(request.token).claims.token_id})
    assert refused(host, request) == ["token-revoked"]
    host.exchange(asked(host))  # another token of the instance is not


@pytest.mark.parametrize("changed", [{"token_id": "never-issued-by-anyone"}, {"token_id": None}])
def test_token_that_the_ledger_does_not_know_of_this_instance_gets_none(
    verifier: RunningVerifier, host: SimulatedHost, changed: dict[str, str | None]
) -> None:
    """By who has the key of execution tokens: the id of no token, or of another instance's."""
    one, two = tokens(host, "one", "two")
    token_id = changed["token_id"] or parse_token(two).claims.token_id
    keys = verifier.made.parts.keys
    forged = keys.sign_token(replace(parse_token(one).claims, token_id=token_id), keys.current())
    assert refused(host, host.exchange_request("one", forged, VAULT)) == ["token-revoked"]


def test_revoked_instance_and_contained_host_get_none(verifier: RunningVerifier, host: SimulatedHost) -> None:
    one, two = tokens(host, "one", "two")
    verifier.client.post("/v1/revocations", {"kind": "instance", "subject": host.instances["one"].instance.hex()})
    assert refused(host, host.exchange_request("one", one, VAULT)) == ["token-revoked"]
    host.exchange(host.exchange_request("two", two, VAULT))  # its neighbour does
    verifier.client.post("/v1/revocations", {"kind": "host", "subject": "h1"})
    assert refused(host, host.exchange_request("two", two, VAULT)) == ["token-revoked"]


def test_drifted_and_stopped_instances_get_none_though_their_tokens_live(verifier: RunningVerifier, host: SimulatedHost) -> None:
    one, two = tokens(host, "one", "two")
    key = host.instances["two"]
    host.drift("one")
    host.stop("two")
    host.attest()
    host.instances["two"] = key
    assert refused(host, host.exchange_request("one", one, VAULT)) == ["token-revoked"]
    assert refused(host, host.exchange_request("two", two, VAULT)) == ["instance-stopped"]
    assert decisions(verifier)[-1].reasons[0].code == "instance-stopped"


def test_rebooted_host_gets_none_for_what_ran_before(host: SimulatedHost) -> None:
    (token,) = tokens(host, "one")
    before = host.instances["one"]
    host.reboot()
    host.attest()
    host.instances["one"] = before
    assert refused(host, host.exchange_request("one", token, VAULT)) == ["instance-unknown"]


def test_token_of_a_policy_that_is_not_in_force_gets_none(verifier: RunningVerifier, host: SimulatedHost) -> None:
    request = asked(host)
    verifier.publish(PERMIT, token_life=50)
    assert refused(host, request) == ["policy-digest-mismatch"]
    host.exchange(asked(host))


def test_agent_that_is_approved_no_more_gets_none(verifier: RunningVerifier, host: SimulatedHost) -> None:
    request = asked(host)
    listed = verifier.client.get("/v1/references")["references"]
    (digest,) = [one["digest"] for one in listed if one["environment"] == AGENT]
    verifier.client.post("/v1/retirements", {"digests": [digest]})
    assert refused(host, request) == ["agent-unknown"]


def test_i6_host_is_appraised_under_what_hosts_are_judged_by_now_before_it_gets_more(
    verifier: RunningVerifier, host: SimulatedHost
) -> None:
    """Whatever comes or goes of it: a version that names PCRs refuses hosts, too, which were accepted without."""
    (token,) = tokens(host, "one")
    more = encode_corim(Corim("governance-2", "default", GOVERNANCE, (("attestor", Digest.of(b"another")),)))
    verifier.client.post("/v1/references", {"corims": [to_base64(more)]})
    assert refused(host, host.exchange_request("one", token, VAULT)) == ["host-unappraised"]
    assert decisions(verifier) == []
    (fresh,) = tokens(host, "one")
    host.exchange(host.exchange_request("one", fresh, VAULT))
    host.exchange(host.exchange_request("one", token, VAULT))  # the older one too, since it is the host that was appraised


def test_agents_that_come_and_go_leave_the_others_theirs(verifier: RunningVerifier, host: SimulatedHost) -> None:
    (token,) = tokens(host, "one")
    listed = verifier.client.get("/v1/references")["references"]
    verifier.client.post("/v1/retirements", {"digests": [one["digest"] for one in listed if one["environment"].endswith("/scribe")]})
    host.launch("three", agent="newcomer")
    verifier.approve(host)
    host.exchange(host.exchange_request("one", token, VAULT))


def test_i11_exchanges_under_one_token_end_and_what_is_refused_then_is_in_no_log(verifier: RunningVerifier, host: SimulatedHost) -> None:
    one, two = tokens(host, "one", "two")
    for at in range(MOST_EXCHANGES):
        request = host.exchange_request("one", one, VAULT if at % 2 else OTHER)
        host.exchange(request) if at % 2 else refused(host, request)
    entries = len(verifier.made.ledger.read().select(EntryRow))
    for audience in (VAULT, OTHER):
        assert refused(host, host.exchange_request("one", one, audience)) == ["exchange-limit"]
    assert len(verifier.made.ledger.read().select(EntryRow)) == entries
    host.exchange(host.exchange_request("two", two, VAULT))
    (following,) = tokens(host, "one")
    host.exchange(host.exchange_request("one", following, VAULT))


# --- what is published ------------------------------------------------------------------------------------------------------


def test_discovery_is_of_the_configured_issuer_whatever_the_request_says(verifier: RunningVerifier) -> None:
    expected = fetch(verifier, "/.well-known/openid-configuration")
    assert (expected["issuer"], expected["jwks_uri"]) == (verifier.url, f"{verifier.url}{EXCHANGE_JWKS}")
    assert expected["id_token_signing_alg_values_supported"] == ["ES256"]
    for lie in ({"Host": "evil.example.org"}, {"X-Forwarded-Host": "evil.example.org"}, {"Forwarded": "host=evil.example.org;proto=http"}):
        assert fetch(verifier, "/.well-known/openid-configuration", **lie) == expected


def test_neither_kind_of_token_verifies_under_the_keys_of_the_other(verifier: RunningVerifier, host: SimulatedHost) -> None:
    request = asked(host)
    given = host.exchange(request).token
    ours, elsewhere = ({key["kid"]: key for key in fetch(verifier, path)["keys"]} for path in ("/.well-known/jwks.json", EXCHANGE_JWKS))
    assert not ours.keys() & elsewhere.keys()
    assert {(key["kty"], key["crv"], key["alg"], key["use"]) for key in elsewhere.values()} == {("EC", "P-256", "ES256", "sig")}
    assert all("d" not in key for key in (*ours.values(), *elsewhere.values()))
    assert json.loads(decoded(given.split(".")[0]))["kid"] in elsewhere
    assert json.loads(decoded(request.token.split(".")[0]))["kid"] in ours
    with pytest.raises(FormatError, match="typ"):
        parse_token(given)
    with pytest.raises(FormatError, match="typ"):
        parse_exchange_token(request.token)


def test_exchange_token_is_inactive_to_introspection(verifier: RunningVerifier, host: SimulatedHost) -> None:
    request = asked(host)
    given = host.exchange(request).token
    assert service(verifier).ask(given) == INACTIVE
    assert service(verifier).ask(request.token) != INACTIVE
    assert service(verifier, VAULT).ask(given) == INACTIVE


def kids(verifier: RunningVerifier) -> list[str]:
    return [key["kid"] for key in fetch(verifier, EXCHANGE_JWKS)["keys"]]


def test_new_key_is_shown_before_it_signs_and_the_former_one_until_its_last_token_died(
    verifier: RunningVerifier, host: SimulatedHost
) -> None:
    def signing() -> str:
        return key_id(host.exchange(asked(host)).key)

    (first,) = kids(verifier)
    assert signing() == first
    second = verifier.client.post("/v1/keys/exchange/rotate")["kid"]
    assert sorted(kids(verifier)) == sorted([first, second])
    assert signing() == first, "who verifies has not heard of the new one yet"
    verifier.clock.advance(AHEAD - 1)
    host.fetch_nonce()
    assert signing() == first
    verifier.clock.advance(1)
    assert signing() == second
    verifier.clock.advance(RETIRED_FOR - 1)
    assert sorted(kids(verifier)) == sorted([first, second])
    verifier.clock.advance(1)
    assert kids(verifier) == [second]
    acts = [row for row in verifier.made.ledger.read().select(EntryRow, kind="operator") if b"exchange-key-rotate" in row.entry]
    assert len(acts) == 2, "the first by init"


def test_rotation_of_one_kind_leaves_the_other(verifier: RunningVerifier) -> None:
    before = kids(verifier), {key["kid"] for key in fetch(verifier, "/.well-known/jwks.json")["keys"]}
    verifier.client.post("/v1/keys/rotate")
    assert kids(verifier) == before[0]
    shown = {key["kid"] for key in fetch(verifier, "/.well-known/jwks.json")["keys"]}
    assert shown > before[1]
    verifier.client.post("/v1/keys/exchange/rotate")
    assert {key["kid"] for key in fetch(verifier, "/.well-known/jwks.json")["keys"]} == shown
    listed = verifier.client.get("/v1/keys")
    assert {key["kid"] for key in listed["exchange_keys"]} == set(kids(verifier))


# --- who takes it -----------------------------------------------------------------------------------------------------------


class Federated:
    """A verifier behind TLS, an agent on its host, and somebody who finds its keys by discovery."""

    def __init__(self, running: RunningVerifier, ca_file: Path) -> None:
        self.verifier = running
        running.trust(Maker())
        running.publish(PERMIT)
        self.host = running.host("h1")
        self.host.launch("one", grants=GRANTS)
        running.approve(self.host)
        self.method = JwtMethod(discovered(running.url, ca_file), running.url, (VAULT,), running.clock.now, bound_subject=AGENT)

    def given(self, audience: str = VAULT) -> ExchangeAnswer:
        return self.host.exchange(asked(self.host, audience=audience))


@pytest.fixture
def federated(tmp_path: Path) -> Iterator[Federated]:
    certificate = certified(tmp_path, "127.0.0.1")
    with running_verifier(tmp_path, certificate=certificate) as running:
        yield Federated(running, certificate[0])


def not_taken(method: JwtMethod, token: str) -> str:
    with pytest.raises(NotTaken) as caught:
        method.login(token)
    return str(caught.value)


def test_vault_that_discovers_the_keys_takes_the_token_and_no_other(federated: Federated) -> None:
    method, given = federated.method, federated.given()
    assert method.login(given.token) == AGENT
    assert not_taken(method, federated.given(CLOUD).token) == "audience"
    execution = asked(federated.host).token
    assert not_taken(method, execution) == "alg Ed25519"
    federated.verifier.clock.advance(60 + method.leeway)
    assert method.login(given.token), "within the leeway that a vault gives"
    federated.verifier.clock.advance(1)
    assert not_taken(method, given.token) == "expired"


def test_vault_refuses_another_issuer_subject_key_and_signature(federated: Federated) -> None:
    method, token = federated.method, federated.given().token
    head, payload, signature = token.split(".")
    assert not_taken(replace(method, bound_issuer="https://evil.example.org"), token) == "issuer"
    assert not_taken(replace(method, bound_subject=f"{AGENT}s"), token) == "subject"
    assert not_taken(replace(method, bound_claims={"runtime": "affirming"}), token) == "claims"
    assert replace(method, bound_claims={"token_use": "writ-exchange-bearer"}).login(token) == AGENT
    federated.verifier.client.post("/v1/keys/exchange/rotate")
    keys = method.keys()
    others = [key["kid"] for key in keys if key["kid"] != json.loads(decoded(head))["kid"]]
    swapped = b64url(encode_json({**json.loads(decoded(head)), "kid": others[0]}))
    assert not_taken(method, f"{swapped}.{payload}.{signature}") == "signature"
    assert not_taken(method, f"{head}.{payload}.{signature[:-4]}AAAA") == "signature"
    wrong = replace(method, keys=discovered(federated.verifier.url.replace("127.0.0.1", "localhost"), None))
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        wrong.login(token)


def test_issuer_that_calls_itself_otherwise_than_where_it_is_found_is_no_issuer(federated: Federated) -> None:
    token = federated.given().token
    object.__setattr__(federated.verifier.made.parts.exchange, "_issuer", "https://evil.example.org")
    assert "discovery" in not_taken(federated.method, token)

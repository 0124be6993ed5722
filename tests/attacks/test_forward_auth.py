"""Smuggling and confusion against forward-auth and the AuthZEN decision point: each refused, with its reason, and no permit on record.

The agent here has a live token and a grant for all of `/v1/`, so that nothing but the check that is attacked stands in the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enforcer.relying.authzen import EVALUATION, EVALUATIONS
from enforcer.relying.forward_auth import Proxy
from tests.enforcer.relying.asking import Answer, Header, exchange
from tests.enforcer.relying.behind import SITE, Gate, claim, reason
from tests.enforcer.relying.test_authzen import Point, evaluation
from writ.formats.strict import b64url

PROXIES: Final[tuple[Proxy, ...]] = get_args(Proxy)
OWN: Final[dict[str, tuple[bytes, ...]]] = {
    "envoy": (b"host",),
    "nginx": (b"host", b"x-original-method", b"x-original-uri"),
    "caddy": (b"x-forwarded-method", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-uri"),
    "traefik": (b"x-forwarded-method", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-uri"),
}
"""The headers that count, by proxy; beside token and proof."""


@pytest.fixture(params=PROXIES)
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Gate:
    return Gate(tmp_path, request.param)


def nothing_passed(gate: Gate) -> bool:
    return not any(access.permit for access in gate.sink.kept)


# --- headers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"authorization", b"dpop", b"Authorization", b"DPoP"])
def test_token_or_proof_twice_is_refused(gate: Gate, name: bytes) -> None:
    """Envoy CVE-2021-32777: two readers take two values."""
    shown = gate.proven()
    refused = gate.question(shown, more=((name, shown[name.decode().lower()].encode()),))
    assert reason(refused) == (403, "malformed")
    assert claim(refused) == f"header {name.decode().lower()}"
    assert nothing_passed(gate)


@pytest.mark.parametrize("proxy, name", [(proxy, name) for proxy, names in OWN.items() for name in names])
def test_a_header_that_counts_is_there_once(tmp_path: Path, proxy: Proxy, name: bytes) -> None:
    gate = Gate(tmp_path, proxy)
    shown = gate.proven()
    for more in ((name, b"x"), (name.upper(), b"x"), (name, SITE.partition("://")[2].encode())):
        assert (reason(refused := gate.question(shown, more=(more,))), claim(refused)) == ((403, "malformed"), f"header {name.decode()}")
    for without in ({}, {"more": ((name, b""),)}, {"more": ((name, b"\xff"),)}):
        refused = gate.question(shown, without=(name.decode(),), **without)  # type: ignore[arg-type]  # one of its arguments
        assert (reason(refused), claim(refused)) == ((403, "malformed"), f"header {name.decode()}")
    assert nothing_passed(gate)


@pytest.mark.parametrize("target", ["/v1/secret"])
def test_headers_of_another_convention_are_not_looked_at(gate: Gate, target: str) -> None:
    """The client says that it asks for what it has a proof for; the proxy knows better."""
    lies: dict[bytes, bytes] = {
        b"x-original-uri": b"/v1/report", b"x-original-url": b"/v1/report", b"x-original-method": b"GET", b"x-rewrite-url": b"/v1/report",
        b"x-forwarded-uri": b"/v1/report", b"x-forwarded-method": b"GET", b"x-forwarded-proto": b"https", b"x-forwarded-prefix": b"/",
        b"x-forwarded-host": b"reports.example.org", b"x-envoy-original-path": b"/v1/report", b"forwarded": b"host=reports.example.org",
        b"x-http-method-override": b"GET",
    }  # fmt: skip
    more = tuple((name, value) for name, value in lies.items() if name not in OWN[gate.proxy])
    assert reason(gate.question(gate.proven(), target=target, more=more)) == (401, "proof-mismatch")
    assert reason(gate.question(gate.proven(), "POST", more=more)) == (401, "proof-mismatch")
    missing = tuple(name.decode() for name in OWN[gate.proxy])
    assert reason(gate.question(gate.proven(), without=missing, more=more)) == (403, "malformed")
    assert nothing_passed(gate)


@pytest.mark.parametrize(
    "origin",
    [
        "https://other.example.org",
        "https://reports.example.org:443",
        "https://reports.example.org.",
        "https://REPORTS.example.org",
        "https://reports.example.org@other.example.org",
        "https://other.example.org, reports.example.org",
        "https://reports.example.org/v1",
        "https://reports.example.org#",
        "https:// reports.example.org",
    ],
)
def test_what_is_not_of_a_configured_origin_is_refused(gate: Gate, origin: str) -> None:
    refused = gate.question(gate.proven(), origin=origin)
    assert (reason(refused), claim(refused)) == ((403, "malformed"), "origin")


@pytest.mark.parametrize("scheme", ["http", "HTTPS", "ws", "https,http"])
def test_another_scheme_is_another_origin(tmp_path: Path, scheme: str) -> None:
    gate = Gate(tmp_path, "caddy")
    refused = gate.question(gate.proven(), origin=f"{scheme}://reports.example.org")
    assert (reason(refused), claim(refused)) == ((403, "malformed"), "origin")


@pytest.mark.parametrize(
    "method, path, query",
    [("POST", "/forward-auth", b""), ("GET", "/", b""), ("GET", "/forward-auth/", b""), ("GET", "/forward-auth", b"a")],
)
def test_a_proxy_that_asks_elsewhere_is_refused(tmp_path: Path, method: str, path: str, query: bytes) -> None:
    """Configured for Envoy, asking one that reads headers: the request line would be the client's."""
    gate = Gate(tmp_path, "nginx")
    headers = [(b"host", b"reports.example.org"), (b"x-original-method", b"GET"), (b"x-original-uri", b"/v1/report")]
    shown = [(name.encode(), value.encode()) for name, value in gate.proven().items()]
    refused = exchange(gate.gate, [*headers, *shown], method=method, path=path, query=query)
    assert (reason(refused), claim(refused)) == ((403, "malformed"), "request")


def test_our_own_pages_are_no_way_through(gate: Gate) -> None:
    """An Envoy without a prefix hands us the client's path: none of it is a page of ours."""
    for page in ("/healthz", "/readyz", "/.well-known/authzen-configuration", "/access/v1/evaluation", "/metrics", "/forward-auth"):
        refused = exchange(gate.gate, [(b"host", b"reports.example.org")], method="GET", path=page)
        assert refused.status in (401, 403), page


# --- targets ------------------------------------------------------------------------------------------------------------

TARGETS: Final = (
    "/v1/%72eport", "/v1%2freport", "/v1%2Freport", "/v1/%2e%2e/v1/report", "/v1/%252e%252e/report", "/v1/report%00", "/v1/report%",
    "/v1/../v1/report", "/v1/./report", "/v1/report/..", "/v1/report/.", "/..", "/v1/..;/report", "/v1/.;x/report", "/v1//report",
    "//v1/report", "/v1/report//", "/v1\\report", "/v1/..\\report", "/v1/report#x", "/v1/report?", "/v1/report?x=1",
    "/v1/report?access_token=x",
    "http://reports.example.org/v1/report", "https://reports.example.org/v1/report", "//reports.example.org/v1/report",
    "reports.example.org/v1/report", "*", "v1/report", "@other.example.org/v1/report", ":443/v1/report", ".evil.example/v1/report",
    "/v1/re port",    "/v1/report\t", "/v1/\x7f", "/v1/" + "a" * 600,
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("proxy", ["nginx", "traefik"])
def test_a_target_with_two_readings_is_refused(tmp_path: Path, proxy: Proxy, target: str) -> None:
    """Also with a proof that says the same: no two of us need read it alike."""
    gate = Gate(tmp_path, proxy)
    for url in (f"{SITE}/v1/report", (SITE + target).partition("?")[0].replace("#", "")[:2000]):
        refused = gate.question(gate.proven(htu=url, res=url[:1024].replace("\x7f", "")), target=target)
        assert reason(refused) == (403, "malformed")
        assert claim(refused) in ("path", "query", "action.resource")
    assert nothing_passed(gate)


@pytest.mark.parametrize(
    "path, raw, query",
    [
        ("/v1/secret", b"/v1/report", b""),
        ("/v1/report", b"/v1/%72eport", b""),
        ("/v1/report", b"/v1/x/../report", b""),
        ("/v1//report", b"/v1//report", b""),
        ("/v1/..;/report", b"/v1/..;/report", b""),
        ("/v1/report", b"/v1/report", b"x=1"),
        ("http://reports.example.org/v1/report", b"http://reports.example.org/v1/report", b""),
        ("*", b"*", b""),
        ("/v1/\u00e4", "/v1/\u00e4".encode(), b""),
    ],
)
def test_a_request_line_with_two_readings_is_refused(tmp_path: Path, path: str, raw: bytes, query: bytes) -> None:
    gate = Gate(tmp_path, "envoy")
    headers = [(b"host", b"reports.example.org"), *((name.encode(), value.encode()) for name, value in gate.proven().items())]
    refused = exchange(gate.gate, headers, method="GET", path=path, raw=raw, query=query)
    assert reason(refused) == (403, "malformed")
    assert claim(refused) in ("path", "query", "action.resource")


@pytest.mark.parametrize("method", ["get", "Get", "GE T", "GET/1", "G\u00c9T", "GET, POST", "M-SEARCH", "GET\t"])
def test_a_method_in_another_spelling_is_refused(gate: Gate, method: str) -> None:
    if method == "G\u00c9T" and gate.proxy != "envoy":
        return  # a header of other than ASCII: refused above
    refused = gate.question(gate.proven(htm="GET"), method)
    assert (reason(refused), claim(refused)) == ((403, "malformed"), "method")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "QUERY"])
def test_a_method_that_nobody_granted_is_refused(gate: Gate, method: str) -> None:
    assert reason(gate.question(gate.proven(method), method)) == (403, "grant-missing")


# --- bodies -------------------------------------------------------------------------------------------------------------


def test_a_length_and_a_coding_are_refused(gate: Gate) -> None:
    both: tuple[Header, ...] = ((b"content-length", b"0"), (b"transfer-encoding", b"chunked"))
    assert reason(refused := gate.question(gate.proven(), more=both)) == (403, "malformed")
    assert claim(refused) == "body"
    twice: tuple[Header, ...] = ((b"content-length", b"0"), (b"content-length", b"0"))
    assert claim(gate.question(gate.proven(), more=twice)) == "header content-length"
    again: tuple[Header, ...] = ((b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"x"))
    assert claim(gate.question(gate.proven(), more=again)) == "header transfer-encoding"
    assert nothing_passed(gate)


def test_a_body_where_none_is_decided_is_refused(gate: Gate) -> None:
    assert reason(refused := gate.question(gate.proven(), sent=b"x")) == (403, "malformed")
    assert claim(refused) == "body"


def test_a_body_other_than_the_claimed_one_shows_in_the_answer(tmp_path: Path) -> None:
    """The service has the digest that was decided, and nothing that the client can put in its place."""
    gate = Gate(tmp_path, "nginx", body="claimed")
    lies: tuple[Header, ...] = ((b"content-digest", b"sha-256=:AAAA:"), (b"digest", b"x"))
    passed = gate.question(gate.proven(body=b"proven"), more=lies)
    assert passed.header("content-digest") == Gate.digest(b"proven")


@pytest.mark.parametrize("partial", [b"true", b"True", b"", b"false, true", b"0"])
def test_a_part_of_a_body_is_refused(tmp_path: Path, partial: bytes) -> None:
    gate = Gate(tmp_path, "envoy", body="sent")
    header = (b"x-envoy-auth-partial-body", partial)
    refused = gate.question(gate.proven(), without=("x-envoy-auth-partial-body",), more=(header,))
    assert (reason(refused), claim(refused)) == ((403, "malformed"), "body")
    twice = gate.question(gate.proven(), more=((b"x-envoy-auth-partial-body", b"false"),))
    assert claim(twice) == "header x-envoy-auth-partial-body"


def test_another_protocol_is_refused(gate: Gate) -> None:
    for name in (b"upgrade", b"Upgrade"):
        refused = gate.question(gate.proven(), more=((name, b"websocket"),))
        assert (reason(refused), claim(refused)) == ((403, "malformed"), "header upgrade")


# --- token and proof ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, status, code",
    [
        (lambda shown: shown | {"authorization": shown["authorization"].replace("DPoP", "Bearer")}, 401, "unauthenticated"),
        (lambda shown: shown | {"authorization": shown["authorization"][5:]}, 401, "unauthenticated"),
        (lambda shown: shown | {"authorization": shown["authorization"].replace("DPoP ", "DPoP  ")}, 401, "token-malformed"),
        (lambda shown: shown | {"authorization": shown["authorization"] + ", DPoP x"}, 401, "token-malformed"),
        (lambda shown: shown | {"authorization": shown["authorization"] + "="}, 401, "token-malformed"),
        (lambda shown: shown | {"authorization": shown["authorization"][:-4] + "AAAA"}, 401, "signature-invalid"),
        (lambda shown: shown | {"authorization": "DPoP " + "a" * 100_000}, 401, "token-malformed"),
        (lambda shown: shown | {"dpop": shown["dpop"] + ", " + shown["dpop"]}, 401, "proof-invalid"),
        (lambda shown: shown | {"dpop": shown["dpop"][:-4] + "AAAA"}, 401, "proof-invalid"),
        (lambda shown: shown | {"dpop": shown["authorization"][5:]}, 401, "proof-invalid"),
        (lambda shown: {"dpop": shown["dpop"]}, 401, "unauthenticated"),
        (lambda shown: {"authorization": shown["authorization"]}, 401, "proof-missing"),
        (lambda shown: {"proxy-authorization": shown["authorization"], "dpop": shown["dpop"]}, 401, "unauthenticated"),
        (lambda shown: {"cookie": "token=" + shown["authorization"][5:], "dpop": shown["dpop"]}, 401, "unauthenticated"),
    ],
)
def test_another_way_of_showing_a_token_is_refused(
    gate: Gate, change: Callable[[dict[str, str]], dict[str, str]], status: int, code: str
) -> None:
    assert reason(gate.question(change(gate.proven()))) == (status, code)
    assert nothing_passed(gate)


def test_a_token_for_another_audience_is_refused(gate: Gate) -> None:
    from enforcer.relying.forward_auth import ForwardAuth

    gate.gate = ForwardAuth(proxy=gate.proxy, origins=(SITE,), party=gate.party(audience="urn:other"))
    assert reason(gate.question(gate.proven())) == (401, "token-audience")


def test_a_proof_for_the_decision_point_is_none_for_the_gate(tmp_path: Path) -> None:
    """And the other way round: what was made for one surface is no use at another."""
    gate = Gate(tmp_path / "gate", "nginx")
    assert reason(gate.question(gate.proven(htu="https://pdp.example.org/access/v1/evaluation"))) == (401, "proof-mismatch")
    point = Point(tmp_path / "point")
    asked = point.request()
    asked["subject"]["properties"]["proof"] = point.proof_for(asked, uri="document:reports/q3")
    assert evaluation(point, asked)["context"]["reasons"][0]["claim"] == "proof.htu"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                [b"authorization", b"dpop", *OWN["nginx"], *OWN["caddy"], b"content-length", b"upgrade", b"x-envoy-auth-partial-body"]
            ),
            st.binary(max_size=40),
        ),
        max_size=8,
    ),
    method=st.text(max_size=8),
    path=st.one_of(st.just("/forward-auth"), st.text(max_size=20)),
    query=st.binary(max_size=8),
    body=st.binary(max_size=20),
)
def test_whatever_comes_is_401_or_403(gate: Gate, headers: list[Header], method: str, path: str, query: bytes, body: bytes) -> None:
    """Nobody without token and proof gets 200, and nothing that comes is a fault of ours."""
    raw = path.encode("utf-8", "surrogatepass")
    refused = exchange(gate.gate, headers, method=method, path=path, raw=raw, query=query, body=body)
    assert refused.status in (401, 403)
    assert json.loads(refused.body)["reasons"][0]["code"] != "internal"


# --- AuthZEN ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def point(tmp_path: Path) -> Point:
    return Point(tmp_path)


def status_and_claim(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["reasons"][0]["claim"]


def test_deep_json_is_refused(point: Point) -> None:
    deep = b'{"context":' * 40 + b"{}" + b"}" * 40
    assert status_and_claim(point.post(deep)) == (400, "request")
    assert status_and_claim(point.post(b"[" * 1_000_000)) == (400, "request")


def test_a_key_twice_is_refused(point: Point) -> None:
    asked = json.dumps(point.request())
    for twice in (
        asked.replace('"action": {"name": "tool.call"', '"action": {"name": "tool.call", "name": "tool.wipe"'),
        asked[:-1] + ', "subject": {"type": "agent", "id": "x"}}',
    ):
        assert status_and_claim(point.post(twice.encode())) == (400, "request")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"1", b'"x"', b"{} {}", b"\xff\xfe", b'{"context": 1e999}', b'{"a": NaN}', b"{}\x00"]
)
def test_what_is_no_request_is_refused(point: Point, body: bytes) -> None:
    assert point.post(body).status == 400
    assert point.post(body, path="/access/v1/evaluations").status == 400


def test_more_than_a_body_holds_is_refused(point: Point) -> None:
    assert point.post(b" " * ((1 << 20) + 1)).status == 413


def test_ten_thousand_evaluations_are_refused_before_any(point: Point) -> None:
    asked = point.request() | {"evaluations": [{}] * 10_000}
    assert status_and_claim(point.post(json.dumps(asked).encode(), path="/access/v1/evaluations")) == (400, "evaluations")
    assert point.sink.kept == []


def test_one_proof_serves_one_evaluation(point: Point) -> None:
    asked = point.request() | {"evaluations": [{}, {}, {}]}
    answers = json.loads(point.post(json.dumps(asked).encode(), path="/access/v1/evaluations").body)["evaluations"]
    assert [answer["decision"] for answer in answers] == [True, False, False]
    assert answers[1]["context"]["reasons"][0]["code"] == "proof-replayed"


Change = Callable[[dict[str, Any]], Any]
LIES: Final[dict[str, tuple[Change, str, str]]] = {
    "another agent": (lambda r: r["subject"].update(id="spiffe://example.org/test/agent/admin"), "unauthenticated", "subject.id"),
    "a surrogate for an agent": (lambda r: r["subject"].update(id="\ud800"), "unauthenticated", "subject.id"),
    "a user": (lambda r: r["subject"].update(type="user"), "unauthenticated", "subject.type"),
    "a surrogate for a type": (lambda r: r["subject"].update(type="\ud800"), "unauthenticated", "subject.type"),
    "no properties": (lambda r: r["subject"].pop("properties"), "unauthenticated", "subject.properties.token"),
    "no proof": (lambda r: r["subject"]["properties"].pop("proof"), "proof-missing", "subject.properties.proof"),
    "a token that is a list": (lambda r: r["subject"]["properties"].update(token=["x"]), "unauthenticated", "subject.properties.token"),
    "a token beyond ASCII": (lambda r: r["subject"]["properties"].update(token="\u0661"), "unauthenticated", "subject.properties.token"),
    "another action": (lambda r: r["action"].update(name="http.get"), "proof-mismatch", "proof.act"),
    "another resource": (lambda r: r["resource"].update(id="reports/q4"), "proof-mismatch", "proof.res"),
    "another kind of resource": (lambda r: r["resource"].update(type="account"), "proof-mismatch", "proof.res"),
    "a colon moved": (lambda r: r["resource"].update(type="document:reports", id="q3"), "malformed", "resource.type"),
    "properties of the action": (lambda r: r["action"].update(properties={"force": True}), "proof-mismatch", "proof.arg"),
    "properties of the resource": (lambda r: r["resource"].update(properties={"owner": "a"}), "proof-mismatch", "proof.arg"),
    "a surrogate in properties": (lambda r: r["action"].update(properties={"x": "\ud800"}), "malformed", "properties"),
    "dot segments": (lambda r: r["resource"].update(id="reports/../keys"), "malformed", "action.resource"),
    "a wildcard action": (lambda r: r["action"].update(name="*"), "malformed", "action.name"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_word_of_the_enforcement_points_own_permits_nothing(point: Point, name: str) -> None:
    change, code, about = LIES[name]
    asked = point.request()
    change(asked)
    decided = evaluation(point, asked)
    assert decided["decision"] is False
    assert (decided["context"]["reasons"][0]["code"], decided["context"]["reasons"][0]["claim"]) == (code, about)
    assert not any(access.permit for access in point.sink.kept)


def test_properties_do_not_move_between_action_and_resource(point: Point) -> None:
    proven, asked = point.request(action={"a": 1}), point.request(action={"a": 1})
    asked["action"].pop("properties")
    asked["resource"]["properties"] = {"a": 1}
    asked["subject"] = proven["subject"]
    assert evaluation(point, asked)["context"]["reasons"][0]["claim"] == "proof.arg"


def test_a_context_of_the_enforcement_points_own_is_not_looked_at(point: Point) -> None:
    asked = point.request() | {"context": {"decision": True, "attest_age": 0, "namespace": "root"}}
    assert evaluation(point, asked)["decision"] is True
    assert "root" not in str(point.sink.kept[0].context)


@pytest.mark.parametrize(
    "headers", [{"content-type": "text/plain"}, {"content-type": ""}, {"content-type": "application/x-www-form-urlencoded"}]
)
def test_another_media_type_is_refused(point: Point, headers: dict[str, str]) -> None:
    """What a browser sends without asking first."""
    assert status_and_claim(point.post(json.dumps(point.request()).encode(), headers=headers)) == (400, "header content-type")


def test_a_query_is_refused(point: Point) -> None:
    assert status_and_claim(point.post(json.dumps(point.request()).encode(), query=b"decision=true")) == (400, "query")


@pytest.mark.parametrize("value", [b"x" * 129, b"", b"a\tb", b"\xff"])
def test_a_request_id_that_no_header_should_hold_is_not_echoed(point: Point, value: bytes) -> None:
    answer = point.post(json.dumps(point.request()).encode(), more=((b"x-request-id", value),))
    assert answer.status == 400
    assert answer.header("x-request-id") is None
    assert point.post(b"{}", more=((b"x-request-id", b"a"), (b"x-request-id", b"b"))).status == 400


def test_a_thief_of_a_whole_request_has_nothing(point: Point) -> None:
    asked = point.request()
    assert evaluation(point, asked)["decision"] is True
    assert evaluation(point, asked)["context"]["reasons"][0]["code"] == "proof-replayed"
    stolen = point.request()
    stolen["subject"]["properties"]["proof"] = point.proof_for(stolen, ath=b64url(bytes(32)))
    assert evaluation(point, stolen)["context"]["reasons"][0]["claim"] == "proof.ath"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=12) | st.sampled_from(["agent", "document"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["subject", "action", "resource", "context", "type", "id", "name", "properties", "token", "proof", "evaluations", "options"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode())),
    path=st.sampled_from([EVALUATION, EVALUATIONS]),
)
def test_whatever_is_asked_is_denied_or_no_request(point: Point, body: bytes, path: str) -> None:
    answer = point.post(body, path)
    assert answer.status in (200, 400)
    assert b'"decision":true' not in answer.body
    assert b'"internal"' not in answer.body

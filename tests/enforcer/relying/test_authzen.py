"""AuthZEN: what an enforcement point of somebody else's is told, of requests as the specification has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from enforcer.relying import authzen
from enforcer.relying.authzen import CONFIGURATION, EVALUATION, EVALUATIONS, AuthZen, requested
from tests.enforcer.relying.asking import Answer, Header, exchange
from tests.enforcer.relying.test_middleware import Service
from writ.formats.errors import Misuse
from writ.formats.strict import encode_json
from writ.verdict.token import Revocation

PDP = "https://pdp.example.org"
AGENT = "spiffe://example.org/test/agent/a"


class Point(Service):
    """A decision point, and an agent with grants for what it decides."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ("tool.call", "document:reports/*"), ("http.get", "document:reports/*"))
        self.point = AuthZen(pdp=PDP, party=self.party())

    def request(
        self, resource: str = "reports/q3", name: str = "tool.call", action: Mapping[str, Any] = MappingProxyType({}), **changed: Any
    ) -> dict[str, Any]:
        """A request that would be permitted, once."""
        made: dict[str, Any] = {
            "subject": {"type": "agent", "id": AGENT, "properties": {"token": self.held.compact}},
            "action": {"name": name, **({"properties": dict(action)} if action else {})},
            "resource": {"type": "document", "id": resource},
        }
        made["subject"]["properties"]["proof"] = self.proof_for(made, **changed)
        return made

    def proof_for(self, request: dict[str, Any], uri: str = PDP + EVALUATION, **changed: Any) -> str:
        """The agent's proof for what a request asks."""
        return self.proof_of(requested(request), "POST", uri, **changed)

    def post(
        self, body: bytes, path: str = EVALUATION, *, headers: Mapping[str, str] = MappingProxyType({"content-type": "application/json"}),
        more: tuple[Header, ...] = (), query: bytes = b"",
    ) -> Answer:  # fmt: skip
        """What comes back for these bytes."""
        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        return exchange(self.point, [*given, *more], method="POST", path=path, query=query, body=body)

    def batch(self, **body: Any) -> list[dict[str, Any]]:
        """The decisions about several."""
        answer = self.post(json.dumps(body).encode(), EVALUATIONS)
        assert answer.status == 200, answer.body
        decided: list[dict[str, Any]] = json.loads(answer.body)["evaluations"]
        return decided


def evaluation(point: Point, body: dict[str, Any]) -> dict[str, Any]:
    """The one decision about a request."""
    answer = point.post(json.dumps(body).encode())
    assert answer.status == 200, answer.body
    decided: dict[str, Any] = json.loads(answer.body)
    return decided


@pytest.fixture
def point(tmp_path: Path) -> Point:
    return Point(tmp_path)


def test_a_permit_is_recorded_and_names_its_record(point: Point) -> None:
    decided = evaluation(point, point.request())
    assert decided["decision"] is True
    (access,) = point.sink.kept
    assert (access.permit, access.action, access.resource) == (True, "tool.call", "document:reports/q3")
    assert decided["context"] == {"reference": access.reference}


def test_a_refusal_is_a_decision_with_the_refusal_contract(point: Point) -> None:
    decided = evaluation(point, point.request("keys/master"))
    assert decided["decision"] is False
    assert decided["context"]["verdict"] == "refused"
    assert decided["context"]["reference"]
    assert [set(reason) for reason in decided["context"]["reasons"]] == [{"code", "claim", "expected", "got", "remedy"}]
    assert decided["context"]["reasons"][0]["code"] == "grant-missing"


def test_properties_are_what_the_agent_signed(point: Point) -> None:
    asked = point.request(action={"lines": [1, 2], "of": "page"})
    again = json.loads(json.dumps(asked))
    assert evaluation(point, asked)["decision"] is True
    again["subject"]["properties"]["proof"] = point.proof_for(asked)
    again["action"]["properties"] = {"of": "page", "lines": [1, 2]}
    assert evaluation(point, again)["decision"] is True
    assert requested(again).arguments.value == requested(asked).arguments.value
    assert encode_json({"action": again["action"]["properties"], "resource": {}}) == b'{"action":{"lines":[1,2],"of":"page"},"resource":{}}'


def test_what_we_do_not_know_is_ignored(point: Point) -> None:
    asked = point.request() | {"context": {"time": "1985-10-26T01:22-07:00"}, "extra": [1]}
    asked["subject"]["properties"]["department"] = "Sales"
    asked["subject"]["more"] = asked["resource"]["more"] = {}
    assert evaluation(point, asked)["decision"] is True


SPECIFIED: dict[str, Any] = {
    "subject": {"type": "user", "id": "alice@acmecorp.com"},
    "action": {"name": "can_read", "properties": {"method": "GET"}},
    "resource": {"type": "account", "id": "123"},
    "context": {"time": "1985-10-26T01:22-07:00"},
}
"""AuthZEN 1.0 section 6.1."""


def test_the_specifications_own_requests_are_decided(point: Point) -> None:
    """Nobody in them shows anything, so each is a denial; none is an error."""
    decided = evaluation(point, SPECIFIED)
    assert (decided["decision"], decided["context"]["reasons"][0]["claim"]) == (False, "subject.type")
    boxcarred = {
        "subject": {"type": "user", "id": "alice@acmecorp.com"},
        "context": {"time": "2024-05-31T15:22-07:00"},
        "action": {"name": "can_read"},
        "evaluations": [
            {"resource": {"type": "document", "id": "boxcarring.md"}},
            {"resource": {"type": "document", "id": "subject-search.md"}},
            {"action": {"name": "can_edit"}, "resource": {"type": "document", "id": "resource-search.md"}},
        ],
        "options": {"evaluation_semantics": "execute_all", "another_option": "value"},
    }
    assert [item["decision"] for item in point.batch(**boxcarred)] == [False, False, False]


@pytest.mark.parametrize(
    "part, name", [("subject", "type"), ("subject", "id"), ("action", "name"), ("resource", "type"), ("resource", "id")]
)
def test_what_is_required_is_required(point: Point, part: str, name: str) -> None:
    wrong: tuple[Any, ...] = (None, 1, "", [], {})
    for value in wrong:
        asked = point.request()
        asked[part][name] = value
        assert point.post(json.dumps(asked).encode()).status == 400, value
    asked = point.request()
    del asked[part][name]
    refused = point.post(json.dumps(asked).encode())
    assert (refused.status, refused.header("content-type")) == (400, "application/problem+json")
    assert json.loads(refused.body)["reasons"][0]["claim"] == f"{part}.{name}"
    for gone in wrong[:4]:
        asked[part] = gone
        assert point.post(json.dumps(asked).encode()).status == 400
    del asked[part]
    assert point.post(json.dumps(asked).encode()).status == 400


@pytest.mark.parametrize("part", ["subject", "action", "resource"])
def test_properties_and_context_are_objects(point: Point, part: str) -> None:
    asked = point.request()
    asked[part]["properties"] = [1]
    assert point.post(json.dumps(asked).encode()).status == 400
    assert point.post(json.dumps(point.request() | {"context": "x"}).encode()).status == 400


def test_what_could_not_be_decided_is_denied(point: Point) -> None:
    point.sink.fails = True
    assert evaluation(point, point.request())["context"]["reasons"][0]["code"] == "record-not-durable"
    point.sink.fails, point.feed.policy = False, None
    assert evaluation(point, point.request())["context"]["reasons"][0]["code"] == "policy-unknown"
    point.feed.list = Revocation("x", point.now, frozenset())
    assert evaluation(point, point.request())["context"]["reasons"][0]["code"] == "status-stale"


# --- several ------------------------------------------------------------------------------------------------------------


def several(point: Point) -> list[dict[str, Any]]:
    """Permitted, not granted, permitted."""
    return [point.request("reports/a"), point.request("keys/b"), point.request("reports/c")]


@pytest.mark.parametrize(
    "options, decisions",
    [
        ({}, [True, False, True]),
        ({"options": {}}, [True, False, True]),
        ({"options": {"evaluations_semantic": "execute_all"}}, [True, False, True]),
        ({"options": {"evaluations_semantic": "deny_on_first_deny"}}, [True, False]),
        ({"options": {"evaluations_semantic": "permit_on_first_permit"}}, [True]),
    ],
)
def test_the_three_semantics(point: Point, options: dict[str, Any], decisions: list[bool]) -> None:
    assert [item["decision"] for item in point.batch(evaluations=several(point), **options)] == decisions
    assert len(point.sink.kept) == len(decisions)


@pytest.mark.parametrize("options", [{"evaluations_semantic": "some"}, {"evaluations_semantic": ["execute_all"]}, "execute_all", None])
def test_another_semantic_is_refused(point: Point, options: Any) -> None:
    answer = point.post(json.dumps({"evaluations": several(point), "options": options}).encode(), EVALUATIONS)
    assert answer.status == 400
    assert point.sink.kept == []


def test_defaults_hold_for_what_an_evaluation_leaves_out_and_are_replaced_whole(point: Point) -> None:
    first, other = point.request("reports/a"), point.request("reports/b", name="http.get")
    whole = {"subject": first["subject"], "action": first["action"]}
    decided = point.batch(
        **whole,
        resource={"type": "document", "id": "keys/x", "properties": {"left": "out"}},
        evaluations=[{"resource": first["resource"]}, {**other, "context": {}}, {}],
    )
    assert [item["decision"] for item in decided] == [True, True, False]
    assert [access.resource for access in point.sink.kept] == ["document:reports/a", "document:reports/b", "document:keys/x"]


def test_a_fault_of_one_evaluation_is_a_denial_of_that_one(point: Point) -> None:
    good = point.request()
    decided = point.batch(evaluations=[{}, 5, {"subject": None}, good])
    assert [item["decision"] for item in decided] == [False, False, False, True]
    assert decided[0]["context"]["reasons"][0]["code"] == "malformed"


def test_none_of_several_is_one(point: Point) -> None:
    none: tuple[dict[str, Any], ...] = ({}, {"evaluations": []})
    for more in none:
        answer = point.post(json.dumps(point.request() | more).encode(), EVALUATIONS)
        assert json.loads(answer.body)["decision"] is True
    assert point.post(b'{"evaluations": {}}', EVALUATIONS).status == 400


# --- the wire -----------------------------------------------------------------------------------------------------------


def test_the_configuration_names_what_there_is_and_no_search(point: Point) -> None:
    answer = exchange(point.point, [(b"x-request-id", b"r-1")], path=CONFIGURATION)
    assert (answer.status, answer.header("content-type"), answer.header("x-request-id")) == (200, "application/json", "r-1")
    assert json.loads(answer.body) == {
        "policy_decision_point": PDP,
        "access_evaluation_endpoint": f"{PDP}/access/v1/evaluation",
        "access_evaluations_endpoint": f"{PDP}/access/v1/evaluations",
    }


def test_the_request_id_comes_back_with_whatever_is_answered(point: Point) -> None:
    said: tuple[Header, ...] = ((b"X-Request-ID", b"bfe9eb29-ab87-4ca3-be83-a1d5d8305716"),)
    for body, status in ((json.dumps(point.request()).encode(), 200), (b"{", 400)):
        answer = point.post(body, more=said)
        assert (answer.status, answer.header("x-request-id")) == (status, "bfe9eb29-ab87-4ca3-be83-a1d5d8305716")
    assert point.post(b"{}", "/access/v1/search/subject", more=said).header("x-request-id")


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("POST", "/access/v1/search/subject", 404),
        ("POST", "/access/v1/search/resource", 404),
        ("POST", "/access/v1/search/action", 404),
        ("POST", "/access/v1/evaluation/", 404),
        ("GET", "/", 404),
        ("GET", EVALUATION, 405),
        ("PUT", EVALUATIONS, 405),
        ("POST", CONFIGURATION, 405),
    ],
)
def test_there_is_nothing_else(point: Point, method: str, path: str, status: int) -> None:
    answer = exchange(point.point, [(b"content-type", b"application/json")], method=method, path=path, body=b"{}")
    assert answer.status == status
    assert (answer.header("allow") is not None) == (status == 405)


def test_more_at_once_than_there_is_room_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authzen, "MAX_WAITING", 0)
    point = Point(tmp_path)
    assert point.post(json.dumps(point.request()).encode()).status == 503
    assert point.sink.kept == []


def test_what_is_no_http_is_refused(point: Point) -> None:
    assert exchange(point.point, [], kind="websocket").sent[0]["type"] == "websocket.close"


@pytest.mark.parametrize(
    "pdp", ["pdp.example.org", "https://pdp.example.org/", "https://", "ftp://pdp.example.org", "https://pdp.example.org?a"]
)
def test_another_url_is_misuse(point: Point, pdp: str) -> None:
    with pytest.raises(Misuse):
        AuthZen(pdp=pdp, party=point.party())

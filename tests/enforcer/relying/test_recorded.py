"""What a relying service records beside its decision: the trace that was said, and the record that led to the request by its proof."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enforcer.relying.forward_auth import PROXIES, Proxy
from enforcer.relying.sink import FileSink
from tests.enforcer.relying.behind import Gate
from tests.enforcer.relying.test_authzen import Point
from tests.enforcer.relying.test_middleware import ORIGIN, Service
from writ.formats.access import parse_access
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.strict import b64url
from writ.formats.trace import parse_traceparent

SAID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = parse_traceparent(SAID)
HEADER = (b"traceparent", SAID.encode())
RECORD = bytes(range(32))
NONE = [((b"traceparent", b"x"),), (HEADER, HEADER), ((b"traceparent", b"\xff"),), ()]


def test_trace_and_record_of_a_request_are_in_the_services_record(tmp_path: Path) -> None:
    service = Service(tmp_path)
    path = tmp_path / "decisions.jsonl"
    service.app = service.wrap(sink=FileSink(path))
    headers = [*service.headers(dpop=service.proof(led=b64url(RECORD))), HEADER]
    assert service.ask(headers)[0] == 200
    (line,) = path.read_bytes().splitlines()
    access = parse_access(line)
    assert (access.parent, access.trace, access.permit) == (RECORD, TRACE, True)
    assert json.loads(line)["traceparent"] == SAID


def test_request_that_is_refused_names_its_record_once_its_proof_was_verified(tmp_path: Path) -> None:
    service = Service(tmp_path)
    put = Action("http.put", f"{ORIGIN}/v1/report", Digest.of(b"{}"))
    for shown, status in ((service.proof_of(put, "PUT", led=b64url(RECORD)), 403), (service.proof(led=b64url(RECORD)), 401)):
        assert service.ask([*service.headers(dpop=shown), HEADER], method="PUT")[0] == status
    found = [(access.parent, access.trace) for access in service.sink.kept]
    assert found == [(RECORD, TRACE), (None, TRACE)], "who is not known claims nothing"


@pytest.mark.parametrize("more", NONE)
def test_what_is_no_trace_is_none_and_no_error(tmp_path: Path, more: tuple[tuple[bytes, bytes], ...]) -> None:
    service = Service(tmp_path)
    assert service.ask([*service.headers(), *more])[0] == 200
    assert [(access.parent, access.trace) for access in service.sink.kept] == [(None, None)]


@pytest.mark.parametrize("proxy", PROXIES)
def test_trace_of_a_request_behind_a_proxy_is_recorded(tmp_path: Path, proxy: Proxy) -> None:
    gate = Gate(tmp_path, proxy)
    assert gate.question(gate.proven(led=b64url(RECORD)), more=(HEADER,)).status == 200
    for more in NONE:
        assert gate.question(gate.proven(), more=more).status == 200
    assert [(access.parent, access.trace) for access in gate.sink.kept] == [(RECORD, TRACE)] + [(None, None)] * 4


def test_trace_of_an_evaluation_is_that_of_each_decision_in_it(tmp_path: Path) -> None:
    point = Point(tmp_path)
    one = point.request("reports/a", led=b64url(RECORD))
    two = point.request("reports/b")
    answer = point.post(json.dumps(one).encode(), more=(HEADER,))
    assert json.loads(answer.body)["decision"] is True
    batch = {"evaluations": [two, {"subject": 7}]}
    assert point.post(json.dumps(batch).encode(), "/access/v1/evaluations", more=(HEADER,)).status == 200
    assert [(access.parent, access.trace) for access in point.sink.kept] == [(RECORD, TRACE), (None, TRACE)]

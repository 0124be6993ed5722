"""What a hook of a framework asks, and that nothing but a permit lets a tool run."""

from __future__ import annotations

import ast
import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import enforcer.adapters
from enforcer.adapters.ask import NotPermittedError, ask
from tests.enforcer.gates.test_socket import Gate
from tests.enforcer.records import entries_of
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, OutcomeRecord


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path, ("tool.call", "advisory:langchain/*"))
    made.scene.renew()
    yield made
    made.close()


def test_what_is_permitted_is_recorded_as_advisory_and_has_no_outcome(gate: Gate, tmp_path: Path) -> None:
    reference = ask("search_web", {"query": "tides", "weight": 0.5}, framework="langchain", path=gate.path)

    (entry,) = entries_of(tmp_path, gate.scene.instance)
    assert isinstance(entry.record, ActionRecord)
    assert (entry.record.gate, entry.record.resource, entry.record.permit) == ("advisory", "advisory:langchain/search_web", True)
    assert json.loads(json.loads(entry.content or b"")["json"]) == {"query": "tides", "weight": 0.5}
    assert reference == f"5f1c09ab-{entry.record.sequence}"


def test_a_refusal_says_why_and_where_to_look(gate: Gate, tmp_path: Path) -> None:
    with pytest.raises(NotPermittedError, match=r"grant-missing.*\n.*Reference: 5f1c09ab-1") as caught:
        ask("drop_tables", {}, framework="other", path=gate.path)

    assert caught.value.decided
    assert caught.value.reference == "5f1c09ab-1"
    assert not [one for one in entries_of(tmp_path, gate.scene.instance) if isinstance(one.record, OutcomeRecord)]


def test_after_a_cut_nothing_is_permitted(gate: Gate) -> None:
    gate.gatekeeper.cut(Reason("hold", "token", "a valid execution token", "none"))
    with pytest.raises(NotPermittedError, match="hold"):
        ask("search_web", {}, framework="langchain", path=gate.path)


@pytest.mark.parametrize("tool", ["", "a b", "../x", "a/b", "ä", "x" * 129, "a\n"])
def test_a_name_that_is_none_is_not_asked_for(gate: Gate, tool: str) -> None:
    with pytest.raises(NotPermittedError) as caught:
        ask(tool, {}, framework="langchain", path=gate.path)

    assert not caught.value.decided


@pytest.mark.parametrize("arguments", [{"n": float("nan")}, {"s": {1, 2}}, {"b": b"\0"}, {"c": "\ud800"}])
def test_arguments_that_json_has_not_are_no_permit(gate: Gate, arguments: object) -> None:
    try:
        ask("search_web", arguments, framework="langchain", path=gate.path)
    except NotPermittedError:
        return
    assert arguments == {"c": "\ud800"}  # escaped, it is text like any other


@contextlib.contextmanager
def answering(folder: Path, answer: bytes) -> Iterator[str]:
    """A gate of somebody else's, that answers with this and closes."""
    path = str(folder / "other.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=once, daemon=True)
        thread.start()
        yield path
        thread.join(5)


REFUSAL: dict[str, object] = {"id": 1, "ok": False, "reference": None, "refusal": {"verdict": "refused", "reference": None, "reasons": []}}
ANSWERS = [
    b"", b"\n", b"{}\n", b"[]\n", b"null\n", b"true\n", b'{"ok": true}\n', b'{"id": 1, "ok": 1, "reference": "x-1"}\n',
    b'{"id": 2, "ok": true, "reference": "x-1"}\n', b'{"id": 1, "ok": true, "reference": null}\n',
    b'{"id": 1, "ok": true, "reference": "x-1"',
    b"\xff\n", json.dumps(REFUSAL).encode() + b"\n", b'{"id": 1, "ok": false, "failure": {}}\n', b"x" * 70000,
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_no_permit_is_none(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path, answer) as path, pytest.raises(NotPermittedError):
        ask("search_web", {}, framework="langchain", path=path)


def test_a_gate_that_does_not_answer_is_no_permit(tmp_path: Path) -> None:
    path = str(tmp_path / "deaf.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with pytest.raises(NotPermittedError, match="could not be asked"):
            ask("search_web", {}, framework="langchain", path=path, within=0.2)


def test_no_gate_is_no_permit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotPermittedError):
        ask("search_web", {}, framework="langchain", path=str(tmp_path / "none"))
    monkeypatch.delenv("WRIT_SOCKET", raising=False)
    with pytest.raises(NotPermittedError):
        ask("search_web", {}, framework="langchain")


def test_a_hook_needs_nothing_but_its_framework() -> None:
    frameworks = {"claude_agent_sdk", "agents", "langchain", "langchain_core"}
    for path in Path(enforcer.adapters.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names if not name.startswith("enforcer.adapters")}
            assert roots <= frameworks | set(sys.stdlib_module_names), (path.name, roots)

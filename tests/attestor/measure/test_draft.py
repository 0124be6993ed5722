"""A manifest drafted from a run can be parsed and measured, and holds what the run read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from attestor.measure.draft import draft, trace
from attestor.measure.manifest import measure_manifest
from writ.formats.errors import Refused, Unavailable
from writ.formats.manifest import Manifest, parse_manifest

MAIN = """
import json, pathlib, subprocess, sys
import helper
import cbor2
print(pathlib.Path("prompts/system.txt").read_text(), file=open("out.log", "w"))
json.load(open("tools.json"))
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "main.py", "child"], check=True)
else:
    open("model.gguf", "rb").read()
"""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/system.txt").write_text("be good")
    (tmp_path / "tools.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(b"weights")
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "main.py").write_text(MAIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drafted(command: tuple[str, ...], directory: Path) -> Manifest:
    return parse_manifest(draft(command, trace(command), directory, agent="a", namespace="n"))


def test_run_of_a_python_agent_with_a_child(agent: Path) -> None:
    command = (sys.executable, "main.py")
    text = draft(command, trace(command), agent, agent="a", namespace="n")
    manifest = parse_manifest(text)
    by_name = {part.name: part for part in manifest.components}
    assert by_name["interpreter"].source == str(Path(sys.executable).resolve())
    assert by_name["code"].source == "."
    assert by_name["prompts"].source == "prompts/system.txt"
    assert by_name["tools"].source == "tools.json"
    assert by_name["weights"].source == "model.gguf"
    assert [Path(part.source).name for part in manifest.packages] == ["site-packages"]
    assert "out.log" not in {part.source for part in manifest.components}
    small = parse_manifest(without_packages(text))
    assert measure_manifest(small, agent, domain="example.org").measurement.components


def without_packages(text: bytes) -> bytes:
    """The draft, less the whole site-packages of this environment."""
    lines = text.split(b"\n")
    start = lines.index(b"[components.packages]")
    return b"\n".join(lines[:start] + lines[start + 4 :])


def test_native_program_is_code(agent: Path) -> None:
    built = subprocess.run(["cp", "/bin/sleep", agent / "agent"], check=False)
    assert built.returncode == 0
    manifest = drafted((str(agent / "agent"), "0.3"), agent)
    assert [(part.kind, part.source) for part in manifest.components] == [("code", "agent"), ("image", "/")]


def test_run_that_reads_nothing_is_refused(agent: Path) -> None:
    with pytest.raises(Refused, match="nothing that was seen"):
        drafted(("/bin/true",), agent)


def test_program_that_is_not_there_is_said_so(agent: Path) -> None:
    with pytest.raises(Unavailable, match="cannot run"):
        trace((str(agent / "none"),))

"""What the extra `relying` installs is enough: the process serves and the middleware refuses, with nothing else to import."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from tests.enforcer.relying.behind import SITE, Gate
from tests.enforcer.relying.process import Process, asked

ROOT: Final = Path(__file__).parents[3]
MIDDLEWARE: Final = """
import asyncio, sys
from enforcer.relying.middleware import Middleware
from enforcer.relying.party import RelyingParty
from enforcer.relying.sink import FileSink
from writ.service.clock import SystemClock
from writ.service.engine_id import installed_engine

class Feed:
    def revocation(self):
        return None

sink, clock, engine = FileSink(sys.argv[1]), SystemClock(), installed_engine()
party = RelyingParty(audience="reports", issuer="https://v", feed=Feed(), sink=sink, clock=clock, engine=engine)
sent = []
async def send(message):
    sent.append(message)
async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}
scope = {"type": "http", "method": "GET", "path": "/q3", "query_string": b"", "headers": []}
asyncio.run(Middleware(None, origin="https://reports.example", party=party)(scope, receive, send))
print(sent[0]["status"])
"""


def brought(extra: str) -> list[importlib.metadata.Distribution]:
    """Every distribution that `writ[extra]` of pyproject.toml depends on, as it is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"][extra])]
    found: dict[str, importlib.metadata.Distribution] = {}
    while wanted:
        requirement = wanted.pop()
        asked_for = {"", *requirement.extras}
        if requirement.name not in found:
            found[requirement.name] = importlib.metadata.distribution(requirement.name)
            below = [Requirement(line) for line in found[requirement.name].requires or []]
            wanted += [one for one in below if one.marker is None or any(one.marker.evaluate({"extra": name}) for name in asked_for)]
    return list(found.values())


@pytest.fixture
def python(tmp_path: Path) -> list[str]:
    """An interpreter that finds our code, the standard library, and what the extra brings, and no other package."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("writ", "enforcer"):
        (packages / name).symlink_to(ROOT / name)
    for distribution in brought("relying"):
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(str(distribution.locate_file(top)))
    return [sys.executable, "-S", "-E", "-c", f"import sys; sys.path.append({str(packages)!r}); exec(sys.argv.pop(1))"]


def test_the_process_serves_with_what_the_extra_brings(tmp_path: Path, python: list[str]) -> None:
    gate, at = Gate(tmp_path, "nginx"), tmp_path / "fa.sock"
    start = "from enforcer.__main__ import main; sys.exit(main(sys.argv[1:]))"
    with Process(gate, tmp_path, command=[*python, start], forward_auth=f"unix:{at}", proxy="nginx", origins=[SITE]) as process:
        status, said = asked(at, "GET", "/forward-auth")
        assert (status, process.stop()) == (403, 0)  # no method and no target were said
        assert json.loads(said)["reasons"][0]["code"] == "malformed"


def test_the_middleware_refuses_with_what_the_extra_brings(tmp_path: Path, python: list[str]) -> None:
    done = subprocess.run([*python, MIDDLEWARE, str(tmp_path / "sink")], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "401\n"), done.stderr


def test_nothing_else_could_be_imported(python: list[str]) -> None:
    done = subprocess.run([*python, "import pytest"], capture_output=True, text=True, timeout=60, check=False)
    assert "ModuleNotFoundError" in done.stderr

"""A coding agent at work in a child instance: clones, installs from a local index, compiles, tests, commits; and where it is refused."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.enforcer.child import toolchain
from tests.enforcer.child.test_children import GRANTS, PRELUDE
from tests.enforcer.host import Host
from tests.enforcer.records import entries_of, records_of
from tests.world.attestor import KnownAgent
from writ.formats.grants import grant_set
from writ.formats.record import ActionRecord

pytestmark = [pytest.mark.cgroup, pytest.mark.clients]

SHELL = ("/usr/bin/sh", "-euc")
MODULE = b"""#define PY_SSIZE_T_CLEAN
int add(int a, int b) { return a + b; }
"""
TEST = b"""
import ctypes, greeting
assert ctypes.CDLL("./libadd.so").add(40, 2) == 42
assert greeting.hello() == "hello"
print("2 passed")
"""
WHO = "-c user.name=coder -c user.email=coder@example.org"
STEPS = {
    "unpack": "tar -xf -",
    "clone": "git clone -q {origin} src && cd src && git log --oneline",
    "install": "python3 -m venv --without-pip venv && venv/bin/python {pip}/pip install -q --no-index --find-links wheels greeting",
    "compile": "cd src && gcc -O2 -Wall -shared -fPIC -o libadd.so add.c && gcc -o hello hello.c && ./hello",
    "test": "cd src && ../venv/bin/python test_add.py",
    "commit": f"cd src && echo done >> README && git {WHO} commit -qam 'Say so' && git push -q {{push}} HEAD:main && git rev-parse HEAD",
    "bring": "tar -cf - origin.git",
}


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    if lacking := toolchain.lacking():
        missing(lacking)


@pytest.fixture
def handed(tmp_path: Path) -> bytes:
    """A tar of a bare repository and of a folder of wheels."""
    _git(tmp_path, "init", "-q", "-b", "main", "made")
    made = tmp_path / "made"
    (made / "README").write_text("greets\n")
    (made / "add.c").write_bytes(MODULE)
    (made / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n')
    (made / "test_add.py").write_bytes(TEST)
    _git(made, "add", ".")
    _git(made, "commit", "-q", "-m", "Begin")
    _git(tmp_path, "clone", "-q", "--bare", "made", "origin.git")
    _git(tmp_path / "origin.git", "update-server-info")
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels/greeting-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("greeting.py", "def hello():\n    return 'hello'\n")
        wheel.writestr("greeting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        wheel.writestr("greeting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("greeting-1.0.dist-info/RECORD", "")
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name in ("origin.git", "wheels"):
                tar.add(tmp_path / name, name)
        return out.getvalue()


def _git(folder: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": str(folder)}
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *who, *words], cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def work(host: Host, scripts: Sequence[tuple[str, bytes]], *, connects: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The answers to these scripts, one after another until one is not ok; both may connect to these resources."""
    root = host.store / "coder"
    root.mkdir(mode=0o755)
    grants = grant_set([("instance.run", "agent:coder"), *(("net.connect", resource) for resource in connects)])
    host.attestor.agents["coder"] = KnownAgent(root, SHELL, toolchain.lay_out(root), grants, "sandboxed")
    given = [[script, base64.b64encode(stdin).decode()] for script, stdin in scripts]
    body = f"""
    started = ask("instance", "start", agent="coder")
    assert started["ok"], started
    child, answers = started["result"]["instance"], []
    for script, stdin in json.loads({json.dumps(json.dumps(given))}):
        answers.append(run(script, stdin=stdin, limits={{"seconds": 120}}))
        if not answers[-1]["ok"]:
            break
    print(json.dumps(answers))
    """
    host.agent("a", body, prelude=PRELUDE, more=GRANTS, connects=connects)
    status, out, err = host.finish(host.run("a"), 120)
    assert (status, err) == (0, ""), (host.folder / "daemon.log").read_text()[-3000:]
    answers: list[dict[str, Any]] = json.loads(out)
    return answers


def told(answer: dict[str, Any], stream: str = "stdout") -> str:
    return base64.b64decode(answer["result"][stream]["content"]).decode("utf-8", "replace")


def steps(origin: str, push: str, handed: bytes, *names: str) -> list[tuple[str, bytes]]:
    filled = {name: script.format(origin=origin, push=push, pip=next(toolchain.WHEELS.glob("pip-*.whl"))) for name, script in STEPS.items()}
    return [(filled[name], handed if name == "unpack" else b"") for name in names]


def test_it_clones_installs_compiles_tests_and_commits(host: Host, handed: bytes, tmp_path: Path) -> None:
    asked = steps("/work/origin.git", "origin", handed, *STEPS)
    answers = work(host, asked)
    assert [a["ok"] for a in answers] == [True] * len(STEPS), told(answers[-1], "stderr")
    by = dict(zip(STEPS, answers, strict=True))

    assert "Begin" in told(by["clone"])
    assert told(by["compile"]) == "built\n"
    assert told(by["test"]) == "2 passed\n"
    (tmp_path / "back").mkdir()
    subprocess.run(
        ["tar", "--no-same-owner", "-xf", "-", "-C", tmp_path / "back"],
        input=base64.b64decode(by["bring"]["result"]["stdout"]["content"]),
        check=True,
    )
    assert _git(tmp_path / "back" / "origin.git", "rev-parse", "main") == told(by["commit"])
    assert "done" in _git(tmp_path / "back" / "origin.git", "show", "main:README")
    child = host.instance("coder")
    entries = entries_of(host.config.instance_dir(child), child)
    scripts = [json.loads(e.content or b"")["script"]["sha256"] for e in entries if isinstance(e.record, ActionRecord)]
    assert scripts == [hashlib.sha256(script.encode()).hexdigest() for script, _ in asked]


@pytest.fixture
def served(handed: bytes, tmp_path: Path) -> Iterator[int]:
    """The repository over HTTP on loopback."""
    assert handed
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.mark.parametrize("granted", [True, False])
def test_it_clones_from_where_its_grants_say_and_from_nowhere_else(host: Host, handed: bytes, served: int, granted: bool) -> None:
    connects = [f"tcp:127.0.0.1:{served if granted else served + 1}"]
    (answer,) = work(host, steps(f"http://127.0.0.1:{served}/origin.git", "", handed, "clone"), connects=connects)
    child = host.instance("coder")
    records = records_of(host.config.instance_dir(child), child)
    acted = {(r.action, r.resource, r.permit) for r in records if isinstance(r, ActionRecord)}
    assert ("net.connect", f"tcp:127.0.0.1:{served}", granted) in acted, told(answer, "stderr")
    if granted:
        assert "Begin" in told(answer), told(answer, "stderr")
    else:
        assert not answer["ok"]
        assert "403" in told(answer, "stderr")

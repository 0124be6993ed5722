"""Each role as it is installed: what it loads, that it stands without the others, and that pure code is watched while it runs."""

from __future__ import annotations

import json
import linecache
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house.ambient import AmbientCall

ROOT = Path(__file__).parents[2]
ROLES = ("attestor", "verifier", "enforcer", "auditor")

CORE = {"cryptography", "cbor2", "cffi", "_cffi_backend", "typing_extensions"}
LOADED = {  # top-level third-party modules that a role may have in memory, all its modules imported. A new name here is an ADR.
    "attestor": CORE | {"tpm2_pytss", "watchfiles", "anyio", "idna", "packaging"},
    "verifier": CORE
    | {"cedarpy", "fastapi", "starlette", "pydantic", "pydantic_core", "uvicorn"}
    | {"annotated_doc", "annotated_types", "anyio", "click", "h11", "httptools", "idna", "typing_inspection", "uvloop", "websockets"}
    | {"opentelemetry", "dotenv", "yaml", "watchfiles"},
    "enforcer": CORE
    | {"cedarpy", "h11", "h2", "hpack", "hyperframe", "httptools", "uvicorn", "click"}
    | {"watchfiles", "anyio"},  # of uvicorn, which imports its reloader's where they are installed
    "auditor": CORE | {"cedarpy"},
}

IMPORT_ALL = """
import sys
before = set(sys.modules)
import importlib, json, pkgutil
role = sys.argv[1]
package = importlib.import_module(role)
for found in pkgutil.walk_packages(package.__path__, role + "."):
    if not found.name.startswith("enforcer.adapters."):  # each runs in an agent that has its framework, and nowhere else
        importlib.import_module(found.name)
print(json.dumps({n: getattr(m, "__file__", None) for n, m in sys.modules.items() if "." not in n and n not in before}))
"""


def exists(role: str) -> None:
    if not (ROOT / role / "__main__.py").exists():
        pytest.skip(f"{role} has no __main__ yet")


@pytest.mark.parametrize("role", ROLES)
def test_role_loads_only_what_is_on_its_list(role: str) -> None:
    exists(role)
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, role], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name for name, file in json.loads(done.stdout).items() if "site-packages" in (file or "")}

    assert loaded - LOADED[role] == set()


@pytest.mark.parametrize("role", ROLES)
def test_role_stands_with_the_other_roles_removed(role: str, tmp_path: Path) -> None:
    exists(role)
    for room in ("writ", role):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path[:] = [{str(tmp_path)!r}] + [p for p in sys.path if p != {str(ROOT)!r}]\n{IMPORT_ALL}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, role], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    assert json.loads(done.stdout)[role] == str(tmp_path / role / "__init__.py")


# --- the watch over pure code (tests/conftest.py installs it in every test process) ------------------------------------


def as_pure_code(source: str) -> Callable[[], object]:
    """A function whose code claims to come from writ/verdict."""
    names: dict[str, Callable[[], object]] = {}
    exec(compile(source, str(ROOT / "writ" / "verdict" / "planted.py"), "exec"), names)  # noqa: S102 - the file name is the point
    return names["reach"]


@pytest.mark.parametrize(
    "body",
    ["open('/dev/null')", "import os; os.listdir('/')", "import socket; socket.socket()", "import subprocess; subprocess.run(['true'])"],
)
def test_pure_code_that_reaches_outside_is_stopped(body: str) -> None:
    reach = as_pure_code(f"def reach():\n    try:\n        {body}\n    except Exception:\n        pass\n")

    with pytest.raises(AmbientCall, match=r"planted\.py:3"):
        reach()


def test_pure_code_may_be_loaded_and_shells_may_reach() -> None:
    as_pure_code("def reach():\n    import wave\n")()
    with Path(os.devnull).open() as file, socket.socket():
        assert file.read() == ""


class Loud:
    """Part of a cycle, so that the collector destroys it, and a destructor that fails."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        raise ValueError("nobody closed it")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_failure_of_a_destructor_is_told_although_pure_code_runs() -> None:
    linecache.clearcache()  # so that telling it reads this file
    Loud()

    as_pure_code("def reach():\n    import gc\n    gc.collect()\n")()

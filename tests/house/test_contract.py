"""Each contract of the house breaks on the fault it is there for, planted in a copy of the product."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("writ", "attestor", "verifier", "enforcer", "auditor")
CONTRACTS: dict[str, str] = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}

# By contract: the file that is appended to (or made), what is added, what the report must say under that contract's name.
PLANTS: dict[str, list[tuple[str, str, str]]] = {
    "rooms": [
        ("attestor/__init__.py", "import verifier", "attestor -> verifier"),
        ("verifier/__init__.py", "import enforcer", "verifier -> enforcer"),
        ("writ/formats/planted_role.py", "import auditor", "writ.formats.planted_role -> auditor"),
    ],
    "writ": [
        ("writ/planted_room.py", "", "writ.planted_room"),
        ("writ/formats/planted_verdict.py", "import writ.verdict", "writ.formats.planted_verdict -> writ.verdict"),
        ("writ/verdict/planted_service.py", "import writ.service", "writ.verdict.planted_service -> writ.service"),
    ],
    "service-decides-nothing": [("writ/service/__init__.py", "import writ.verdict", "writ.service -> writ.verdict")],
    "pure": [
        ("writ/formats/planted_clock.py", "import time", "writ.formats.planted_clock -> time"),
        ("writ/verdict/planted_file.py", "from pathlib import Path", "writ.verdict.planted_file -> pathlib"),
        ("writ/verdict/planted_chance.py", "import secrets", "writ.verdict.planted_chance -> secrets"),
    ],
    "formats-know-no-policy": [("writ/formats/planted_policy.py", "import cedarpy", "writ.formats.planted_policy -> cedarpy")],
    "attestor-small": [
        ("attestor/__init__.py", "import sqlite3", "attestor -> sqlite3"),
        ("attestor/__init__.py", "import writ.verdict", "attestor -> writ.verdict"),
    ],
    "enforcer-small": [("enforcer/__init__.py", "import fastapi", "enforcer -> fastapi")],
    "auditor-alone": [("auditor/__init__.py", "import starlette", "auditor -> starlette")],
    "check-offline": [("verifier/check/__init__.py", "import fastapi", "verifier.check -> fastapi")],
    "one-cedar": [("verifier/__init__.py", "import cedarpy", "verifier -> cedarpy")],
    "one-tpm": [("verifier/__init__.py", "import tpm2_pytss", "verifier -> tpm2_pytss")],
    "one-gatekeeper": [("auditor/__init__.py", "import writ.verdict.decide", "auditor -> writ.verdict.decide")],
    "relying-alone": [
        ("enforcer/relying/__init__.py", "import enforcer.gatekeeper", "enforcer.relying -> enforcer.gatekeeper"),
    ],
    "watchdog-bare": [("enforcer/launch/watchdog.py", "import writ", "enforcer.launch.watchdog -> writ")],
    "kinds-apart": [
        (
            "writ/verdict/appraise/planted_one.py",
            "import writ.verdict.appraise.planted_two",
            "planted_one -> writ.verdict.appraise.planted_two",
        ),
        ("writ/verdict/appraise/planted_two.py", "", "planted_two"),
    ],
    "gates-apart": [
        ("enforcer/gates/planted_one.py", "import enforcer.gates.planted_two", "planted_one -> enforcer.gates.planted_two"),
        ("enforcer/gates/planted_two.py", "", "planted_two"),
    ],
    "verifier-inside": [("verifier/planted_room.py", "", "verifier.planted_room")],
    "enforcer-inside": [("enforcer/planted_room.py", "", "enforcer.planted_room")],
    "attestor-inside": [("attestor/planted_room.py", "", "attestor.planted_room")],
    "service-closed": [("writ/service/planted_drawer.py", "", "writ.service.planted_drawer")],
    "auditor-inside": [("auditor/planted_room.py", "", "auditor.planted_room")],
    "no-circles": [
        ("writ/formats/planted_head.py", "import writ.formats.planted_tail", "planted_head"),
        ("writ/formats/planted_tail.py", "import writ.formats.planted_head", "planted_tail"),
    ],
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "400", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def copy_of_the_product(folder: Path) -> None:
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "web"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def sections(report: str) -> dict[str, str]:
    """The report of each broken contract, by name."""
    _, _, broken = report.partition("Broken contracts")
    parts = re.split(r"^(.+)\n-{3,}$", broken, flags=re.MULTILINE)
    return {name.strip(): text for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What lint-imports says, by contract, of a copy of the product with every fault planted at once."""
    folder = tmp_path_factory.mktemp("planted")
    copy_of_the_product(folder)
    for contract in CONTRACTS:
        for file, code, _ in PLANTS.get(contract, []):
            with (folder / file).open("a") as planted:
                planted.write(f"\n{code}\n")
    done = lint_imports(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    return sections(done.stdout)


def test_the_product_keeps_every_contract(tmp_path: Path) -> None:
    copy_of_the_product(tmp_path)

    done = lint_imports(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_contract_has_a_planted_fault() -> None:
    assert CONTRACTS.keys() - PLANTS.keys() == set()


@pytest.mark.parametrize("contract", CONTRACTS)
def test_planted_fault_breaks_its_contract(broken: dict[str, str], contract: str) -> None:
    said = broken.get(CONTRACTS[contract], "")

    assert [expected for _, _, expected in PLANTS[contract] if expected not in said] == [], said or "the contract was kept"

"""The mutation run finds the weak test, and only it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.mutate import labelled, mutants_of

ROOT = Path(__file__).parents[2]

CHECK = """
def admits(size: int, limit: int = 8) -> bool:
    \"\"\"Not longer than 3.\"\"\"
    if size < 0 or size > limit:
        raise ValueError("expected " + str(1))
    return True
"""

EVERY_CHANGE = [
    "def admits(size: int, limit: int = 8) -> bool: :: number one higher",
    "if size < 0 or size > limit: :: condition is false",
    "if size < 0 or size > limit: :: condition is true",
    "if size < 0 or size > limit: :: Or turned",
    "if size < 0 or size > limit: :: operand 1 dropped",
    "if size < 0 or size > limit: :: operand 2 dropped",
    'raise ValueError("expected " + str(1)) :: Raise removed',
    "if size < 0 or size > limit: :: Lt turned",
    "if size < 0 or size > limit: :: Gt turned",
    "return True :: truth turned",
    "if size < 0 or size > limit: :: number one higher",
]

PYTEST_INI = "[pytest]\nmarkers =\n  swtpm\n  cgroup\n"
CONFTEST = "import hypothesis\nhypothesis.settings.register_profile('mutate')\n"
STRONG = """
import pytest
from planted import admits
def test_it():
    assert admits(0) and admits(8)
    for size in (-1, 9):
        with pytest.raises(ValueError):
            admits(size)
"""
WEAK = "from planted import admits\ndef test_it():\n    assert admits(5)\n"

TRY_ALL = """
import json, pathlib, sys
from tools.mutate import labelled, outcomes, preload
preload()
path = pathlib.Path("planted.py")
source = path.read_text()
unchanged = [("unchanged", compile(source, str(path), "exec"))]
assert list(outcomes("planted", path, unchanged, ["test_planted.py"], 1, 60)) == [("unchanged", "survived")]
codes = [(label, mutant.code(source, path)) for label, mutant in labelled(source)]
print(json.dumps([label for label, outcome in outcomes("planted", path, codes, ["test_planted.py"], 2, 60) if outcome == "survived"]))
"""


def survivors(folder: Path, test: str) -> str:
    for name, text in (("planted.py", CHECK), ("conftest.py", CONFTEST), ("test_planted.py", test), ("pytest.ini", PYTEST_INI)):
        (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", TRY_ALL], cwd=folder, env={"PYTHONPATH": f"{ROOT}:{folder}"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_change_is_made_and_none_to_text_annotations_or_messages() -> None:
    assert sorted(label for label, _ in labelled(CHECK)) == sorted(EVERY_CHANGE)


def test_every_mutant_is_another_program() -> None:
    path = Path("planted.py")
    programs = {mutant.code(CHECK, path).co_consts for mutant in mutants_of(CHECK)}

    assert len(programs) == len(EVERY_CHANGE)
    assert compile(CHECK, str(path), "exec").co_consts not in programs


def test_the_same_change_on_the_same_text_gets_a_number() -> None:
    assert [label for label, _ in labelled("x = 1\nx = 1\n")] == ["x = 1 :: number one higher", "x = 1 :: number one higher #2"]


def test_a_strong_test_leaves_no_survivor(tmp_path: Path) -> None:
    assert survivors(tmp_path, STRONG) == "[]\n"


def test_a_weak_test_leaves_the_checks_it_does_not_make(tmp_path: Path) -> None:
    said = survivors(tmp_path, WEAK)

    assert "Raise removed" in said
    assert "operand 1 dropped" in said
    assert "condition is true" not in said


@pytest.mark.parametrize("arguments, status", [(["writ.no.such.module"], 2), (["swtpm.slow"], 2), ([], 2)])
def test_misuse_exits_2(arguments: list[str], status: int) -> None:
    done = subprocess.run([sys.executable, "-m", "tools.mutate", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == status
    assert "expected" in done.stderr or "required" in done.stderr

"""What docstrings of the product show is so. pytest itself, told to look for doctests, would look through `tests` alone."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.house.test_house import ROOMS, ROOT

SHOWING = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if ">>> " in path.read_text()]


def named(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_there_are_some() -> None:
    assert len(SHOWING) > 30


@pytest.mark.parametrize("path", SHOWING, ids=named)
def test_docstrings_show_what_is_so(path: Path) -> None:
    done = doctest.testmod(importlib.import_module(named(path)))
    assert done.attempted > 0
    assert done.failed == 0

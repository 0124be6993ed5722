"""Sites beyond a gate, gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.enforcer.gates.newer import Web


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Callable[..., Web]]:
    """Makes a site of HTTP/2, and a gate before it."""
    made: list[Web] = []

    def make(**more: Any) -> Web:
        made.append(Web(tmp_path, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()

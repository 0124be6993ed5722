"""Sites beyond a gate, gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from tests.enforcer.gates.newer import Web

S = TypeVar("S", bound="Site")


class Site(Protocol):
    """Something that is closed afterwards."""

    def close(self) -> None:
        """The end."""


def makes(kind: Callable[..., S], folder: Path) -> Iterator[Callable[..., S]]:
    """What makes sites of a kind, each closed afterwards."""
    made: list[S] = []

    def make(**more: Any) -> S:
        made.append(kind(folder, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Callable[..., Web]]:
    """Makes a site of HTTP/2, and a gate before it."""
    yield from makes(Web, tmp_path)

"""Where an agent may run from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from enforcer.launch.store_root import StoreRoot, store_root
from writ.formats.errors import Refused, Unavailable

OWNERS = frozenset({0, os.getuid()})


@pytest.fixture
def place() -> Iterator[Path]:
    with TemporaryDirectory(dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        root.mkdir(mode=0o755)
        yield root


def test_root_that_only_its_owner_writes_is_taken(place: Path) -> None:
    assert store_root(str(place), OWNERS).path == place


def test_foreign_owner_is_refused(place: Path) -> None:
    with pytest.raises(Refused, match="manifest-mutable"):
        store_root(str(place), frozenset({12345}))


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_root_that_others_write_is_refused(place: Path, mode: int) -> None:
    place.chmod(mode)
    with pytest.raises(Refused, match="manifest-mutable"):
        store_root(str(place), OWNERS)


def test_parent_that_others_write_is_refused(place: Path) -> None:
    place.parent.chmod(0o777)
    with pytest.raises(Refused, match="manifest-mutable"):
        store_root(str(place), OWNERS)


def test_link_is_refused(place: Path) -> None:
    link = place.parent / "link"
    link.symlink_to(place)
    with pytest.raises(Refused, match="no link"):
        store_root(str(link), OWNERS)


@pytest.mark.parametrize("root", ["relative", "/var/../etc", "/var/tmp/", "/var//tmp"])
def test_spelling_with_two_readings_is_refused(root: str) -> None:
    with pytest.raises(Refused, match="normalised"):
        store_root(root, OWNERS)


def test_missing_root_is_unavailable(place: Path) -> None:
    with pytest.raises(Unavailable):
        store_root(str(place / "none"), OWNERS)


def test_store_is_placed_at_the_beginning_of_arguments() -> None:
    root = StoreRoot(Path("/var/lib/writ/store/trees/abc"))

    assert root.argv(("{store}/bin/a", "{store}", "x{store}", "{store}more")) == (
        "/store/bin/a",
        "/store",
        "x{store}",
        "{store}more",
    )


@pytest.mark.parametrize("command", [(), ("python3",), ("bin/a",), ("{store}/../../bin/sh",)])
def test_program_outside_of_any_known_place_is_refused(command: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="component-mismatch"):
        StoreRoot(Path("/store/abc")).argv(command)

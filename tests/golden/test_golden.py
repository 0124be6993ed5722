"""Within one engine number, and within one version of a format, the bytes are those recorded (I5)."""

from __future__ import annotations

import pytest

from tests.golden.record import FILES, read
from tests.world.specimens import specimens

SPECIMENS = specimens()


@pytest.mark.parametrize("name", FILES)
def test_i5_bytes_are_those_recorded(name: str) -> None:
    recorded, made = read(name), FILES[name]()
    assert sorted(recorded) == sorted(made)
    changed = [label for label in made if made[label] != recorded[label]]
    assert not changed, "a change of output raises the engine's number or the format's version, and is recorded beside the old one"


@pytest.mark.parametrize("name", sorted(read("formats-1.txt")))
def test_recorded_bytes_are_still_read(name: str) -> None:
    data, specimen = read("formats-1.txt")[name], SPECIMENS[name]
    assert specimen.encode(specimen.parse(data)) == data

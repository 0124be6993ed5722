"""A hostile agent with code of any kind, against all layers of its sandbox together: `escapes.py` has the attempts, by name."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.hostile import LIBRARY, attempts, worked
from tests.enforcer.inside import Inside, inside
from writ.formats.measurement import PROFILES, Profile

pytestmark = [
    pytest.mark.cgroup,
    pytest.mark.skipif(platform.machine() != "x86_64" or LIBRARY is None, reason="the attempts speak x86-64"),
]


@pytest.fixture(scope="module")
def box() -> Iterator[Inside]:
    with inside("/usr/bin/true", str(LIBRARY)) as made:
        yield made


@pytest.mark.parametrize("inside_uid", [1000, 0], ids=["user", "root"])
@pytest.mark.parametrize("profile", PROFILES)
def test_i8_nothing_that_a_hostile_agent_tries_works(box: Inside, cgroup_mount: Path, profile: Profile, inside_uid: int) -> None:
    found = attempts(box, cgroup_mount, profile, inside_uid)
    assert worked(found, profile) == {}
    assert len(found) >= 150

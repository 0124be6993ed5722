"""A verifier that serves on loopback, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.chip import Maker
from tests.world.host import SimulatedHost
from tests.world.verifier import RunningVerifier, running_verifier


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[RunningVerifier]:
    """Just initialised: no policy, no anchors."""
    with running_verifier(tmp_path) as running:
        yield running


@pytest.fixture
def verifier(bare: RunningVerifier) -> RunningVerifier:
    """With the default policy and one TPM manufacturer."""
    bare.trust(Maker())
    bare.publish()
    return bare


@pytest.fixture
def host(verifier: RunningVerifier) -> SimulatedHost:
    """Enrolled, with one approved instance that has not asked yet."""
    made = verifier.host("h1")
    made.launch("one")
    verifier.approve(made)
    return made

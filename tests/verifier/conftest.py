"""A verifier that serves on loopback, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.chip import Maker
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

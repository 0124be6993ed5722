"""Published TPM vectors, read where they lie and never copied here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[5] / "shared" / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of vectors; skips without it, but fails under WRIT_CI=1."""
    root = Path(os.environ.get("WRIT_VECTORS", _BESIDE))
    if not (root / "tpm-quotes").is_dir():
        if os.environ.get("WRIT_CI") == "1":
            pytest.fail("no vectors: set WRIT_VECTORS")
        pytest.skip("no vectors: set WRIT_VECTORS")
    return root

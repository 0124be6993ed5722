"""A validated policy never errs on a request that its schema allows, at length."""

from __future__ import annotations

import pytest

from tests.writ.verdict.test_lint import ask_at_random

pytestmark = pytest.mark.scale


@pytest.mark.timeout(1200)
def test_validated_bundles_never_err_on_100_000_requests_of_their_schema() -> None:
    bundles, permitted = ask_at_random(6, 100_000)
    assert bundles >= 2_000
    assert 5_000 < permitted < 95_000, "both answers are seen"

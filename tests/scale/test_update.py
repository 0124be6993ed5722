"""An update of the base system goes across a fleet: what tests/writ/verdict/test_dry_run.py shows of a few hosts, of three hundred."""

from __future__ import annotations

import pytest

from tests.writ.verdict.test_dry_run import rolled_across


@pytest.mark.scale
def test_update_is_rolled_across_three_hundred_hosts_without_a_false_refusal() -> None:
    rolled_across(300)

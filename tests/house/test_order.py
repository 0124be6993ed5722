"""The order in which tests are begun loses none of them."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import dealt


@given(st.lists(st.none() | st.floats(3, 100), max_size=40), st.integers(1, 7))
def test_every_test_is_dealt_once_and_each_worker_begins_with_the_longest_it_has(times: list[float | None], workers: int) -> None:
    names = [f"t{at}" for at in range(len(times))]
    took = {name: time for name, time in zip(names, times, strict=True) if time is not None}
    order = dealt(names, took, workers)
    assert sorted(order) == list(range(len(names)))
    if len(took) * 2 <= len(names) - workers:  # none has more long ones than its block holds
        left, blocks = len(names), []
        for worker in range(workers):
            blocks.append(left // (workers - worker))
            left -= blocks[-1]
        starts = [0, *itertools.accumulate(blocks[:-1])]
        begun = [took.get(names[order[at]]) for at in starts if at < len(order)]
        assert begun[: len(took)] == sorted(took.values(), reverse=True)[:workers]

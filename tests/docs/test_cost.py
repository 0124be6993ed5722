"""What the logs cost, by measured sizes: the budgets hold, and the table of docs/operations.md is theirs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.world.scene import Scene, permitted, sign_entry, sign_token
from tests.world.specimens import specimens
from writ.formats.anchor import AnchorRow, ShownAnchors
from writ.formats.decision import AttestDecision, encode_entry
from writ.formats.record import encode_record

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
LENGTH, HASH = 2, 32
"""Bytes of an entry in its bundle's length and in its tile; higher tiles are an eighth of a byte more."""
EVERY = 30
"""Seconds between renewals, which come at half of a token's 60 seconds."""
DAYS = 2557
"""In seven years."""
ANCHORS = 3
"""Between two renewals: one every ten seconds, where something was done in each."""
ACTIONS = 10_000
"""Of a busy host in a day."""


@cache
def renewal(instances: int) -> AttestDecision:
    """The decision on a host of which nothing changed since its last attestation, with ids and numbers as of a log of years."""
    scene = Scene()
    names = [f"agent-{at}" for at in range(instances)]
    for name in names:
        scene.launch(name)
    scene.attest(*names)
    entry = scene.attest(*names).entry
    assert (entry.verdict, {one.claims is None for one in entry.outcomes}) == ("accepted", {False})
    outcomes = tuple(replace(one, token_id="x" * 22, status_index=(1 << 17) - 1, log_size=1 << 31) for one in entry.outcomes)
    return replace(entry, status_list=1 << 15, outcomes=outcomes)


def cost(entry: AttestDecision) -> int:
    return len(sign_entry(entry)) + LENGTH + HASH


@cache
def anchored(rows: int) -> AttestDecision:
    """The same of one instance, with as many anchors since the last, each of its own extend."""
    plain = renewal(1)
    batches = tuple((AnchorRow(bytes(16), 1 << 31, bytes(32)),) for _ in range(rows))
    return replace(plain, anchors=ShownAnchors(15, 300, 0, bytes(32), bytes(32), batches))


@cache
def acted() -> tuple[int, int]:
    """Bytes of an action's leaf and of its outcome's."""
    scene = Scene()
    scene.launch("one")
    claims = permitted(scene.attest("one"))
    record = scene.act("one", sign_token(claims), claims)
    record = replace(record, action="http.get", resource="https://api.example.com:443/v1/reports", sequence=1 << 20, opening=1 << 16)
    outcome = replace(scene.outcome("one", 1), sequence=1 << 21, of=1 << 20, status=200, size=1 << 20)
    return len(encode_record(record)), len(encode_record(outcome))


def test_unchanged_renewal_of_an_instance_costs_at_most_700_bytes_of_log() -> None:
    one = renewal(1)
    assert cost(one) <= 660
    assert cost(replace(one, host="h" * 32, namespace="n" * 32)) <= 700
    assert cost(replace(one, host="h" * 63, namespace="n" * 63)) <= 770, "the longest names there are"


@pytest.mark.parametrize("instances", [2, 10])
def test_each_further_instance_costs_its_outcome(instances: int) -> None:
    assert cost(renewal(instances)) - cost(renewal(1)) <= 125 * (instances - 1)


def test_anchors_cost_what_they_name_and_a_renewal_without_any_nothing() -> None:
    assert cost(anchored(3)) - cost(renewal(1)) <= 80 + 3 * 60
    assert encode_entry(replace(anchored(3), anchors=None)) == encode_entry(renewal(1))


def test_action_costs_at_most_300_bytes() -> None:
    assert acted()[0] <= 300
    assert acted()[1] <= 80


def table() -> list[str]:
    """The rows, as the page has them."""

    def row(what: str, size: int, times: int) -> str:
        day = size * times
        return f"| {what} | {size} | {day / 1e6:.2f} MB | {day * DAYS / 1e9:.2f} GB |"

    signed = {name: len(sign_entry(one.value)) + LENGTH + HASH for name, one in specimens().items() if name in EACH}
    return [
        *(
            row(f"renewal of a host with {count} instance{'s' * (count > 1)}, every {EVERY} s", cost(renewal(count)), 86_400 // EVERY)
            for count in (1, 2, 10)
        ),
        row(f"the first of these, with {ANCHORS} anchors between two renewals", cost(anchored(ANCHORS)), 86_400 // EVERY),
        row(f"action with its outcome, {ACTIONS:,} a day", sum(acted()) + 2 * HASH, ACTIONS),
        *(f"| {what} | {signed[name]} | | |" for name, what in EACH.items()),
    ]


EACH = {"exchange-decision": "exchange token", "enrol-decision": "enrolment", "operator-act": "act of an operator"}


def test_table_of_the_page_is_what_was_measured() -> None:
    page = PAGE.read_text()
    for row in table():
        assert row in page, "\n".join(table())

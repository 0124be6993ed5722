"""Agent ids: one shape, one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.errors import FormatError
from writ.formats.spiffe import AgentId

NAME = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", fullmatch=True)


@given(NAME, NAME, NAME)
def test_id_round_trips(domain: str, namespace: str, name: str) -> None:
    agent = AgentId(domain, namespace, name)
    assert AgentId.parse(str(agent)) == agent


@given(st.text(alphabet="spife:/agntx.", max_size=40) | st.text())
def test_any_text_is_an_id_in_its_one_spelling_or_refused(text: str) -> None:
    try:
        agent = AgentId.parse(text)
    except FormatError:
        return
    assert str(agent) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://example.org/billing/reporter",
        "spiffe://example.org/billing/agents/reporter",
        "spiffe://example.org/billing/agent/reporter/",
        "spiffe://example.org/billing/agent/",
        "spiffe://example.org//agent/reporter",
        "spiffe:///billing/agent/reporter",
        "spiffe://Example.org/billing/agent/reporter",
        "spiffe://example.org:443/billing/agent/reporter",
        "spiffe://user@example.org/billing/agent/reporter",
        "spiffe://example.org/billing/agent/Reporter",
        "spiffe://example.org/billing/agent/reporter\n",
        "spiffe://example.org/billing/agent/reporter?x",
        "spiffe://example.org/bill%69ng/agent/reporter",
        "spiffe://example.org/../agent/reporter",
        "SPIFFE://example.org/billing/agent/reporter",
        "https://example.org/billing/agent/reporter",
        "spiffe://" + "a" * 256 + "/billing/agent/reporter",
        "spiffe://example.org/billing/agent/" + "a" * 64,
        "spiffe://example.org/billing/agent/" + "a" * 3000,
    ],
)
def test_another_shape_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        AgentId.parse(text)


def test_parts_that_no_id_has_make_none() -> None:
    for domain, namespace, name in [("a/b", "n", "x"), ("d", "n/agent/x", "y"), ("d", "n", ""), ("", "n", "x")]:
        with pytest.raises(FormatError):
            AgentId(domain, namespace, name)

"""Policies that name tools nobody approved are told of."""

from __future__ import annotations

import pytest

from tests.writ.verdict.test_lint import DEFAULT
from writ.formats.digest import Digest
from writ.formats.mcp.approved import ApprovedServer
from writ.formats.mcp.protocol import MODERN
from writ.formats.policy_bundle import PolicyBundle, PolicySettings
from writ.verdict.catalogue import uncatalogued
from writ.verdict.schema import cedar_schema

PIN = Digest.of(b"read")
CATALOGUE = {
    "notes": ApprovedServer(MODERN, {"read": PIN}, {"greet": PIN}, resources=True),
    "bank": ApprovedServer(MODERN, {"pay": PIN}, {}),
}


def bundle(policies: str) -> PolicyBundle:
    return PolicyBundle("candidate", 1, 0, PolicySettings(), cedar_schema(), policies)


def rule(resource: str, *, condition: bool = False) -> str:
    named = f'Writ::Resource::"{resource}"'
    if condition:
        call = 'action == Writ::Action::"tool.call"'
        return f'@id("it") forbid(principal, {call}, resource) when {{ [Writ::Resource::"tcp:a:1", {named}].contains(resource) }};'
    return f'@id("it") permit(principal, action, resource == {named});'


@pytest.mark.parametrize("condition", [False, True])
@pytest.mark.parametrize(
    "resource, why",
    [
        ("mcp:notes/read", None), ("mcp:notes/greet", None), ("mcp:notes/note://today", None), ("mcp:notes/tools/list", None),
        ("mcp:notes/elicitation", None), ("tcp:notes:443", None), ("mcp:bank/pay", None),
        ("mcp:notes/raed", "no tool or prompt of that name is approved, but greet, read"),
        ("mcp:note/read", "no server of that name, but bank, notes"),
        ("mcp:bank/read", "no tool or prompt"), ("mcp:bank/note://today", "the server's resources are not served"),
    ],
)  # fmt: skip
def test_what_a_policy_names_is_in_the_catalogue_or_told_of(resource: str, why: str | None, *, condition: bool) -> None:
    found = uncatalogued(bundle(rule(resource, condition=condition)), CATALOGUE)
    assert [(one.policy, one.code) for one in found] == ([] if why is None else [("it", "not-in-catalogue")])
    assert why is None or why in found[0].detail


def test_the_default_policy_names_no_tool() -> None:
    assert uncatalogued(bundle((DEFAULT / "default.cedar").read_text()), {}) == ()

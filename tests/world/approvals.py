"""A policy that asks a person, the people, and what they would sign."""

from __future__ import annotations

from typing import Final

from tests.signers import new_signer
from writ.formats.approval import Approval
from writ.formats.digest import Digest
from writ.formats.keys import ES256
from writ.verdict.approval import Asked
from writ.verdict.schema import cedar_schema

ALICE: Final = new_signer()
BOB: Final = new_signer(ES256)
PEOPLE: Final = (("alice", ALICE.public), ("bob", BOB.public))
SCHEMA: Final = cedar_schema()
POLICIES: Final = """
@id("issue") permit(principal, action == Writ::Action::"token.issue", resource);
@id("tools") permit(principal, action == Writ::Action::"tool.call", resource);
@id("a-person-sends") forbid(principal, action, resource == Writ::Resource::"mcp:notes/send") unless { context has approver };
@id("bob-wipes") forbid(principal, action, resource == Writ::Resource::"mcp:notes/wipe")
  unless { context has approver && context.approver == "bob" };
@id("never") forbid(principal, action, resource == Writ::Resource::"mcp:notes/never");
"""


def approval_of(asked: Asked, *, instance: bytes, policy: Digest, made_at: int) -> Approval:
    """What a person signs of `asked`."""
    action = asked.action
    return Approval(
        instance, action.name, action.resource, asked.commitment, policy, asked.gate, asked.leaf, made_at, made_at + 300, bytes(16)
    )  # fmt: skip

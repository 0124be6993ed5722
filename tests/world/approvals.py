"""A policy that asks a person, the people, and what they would sign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from tests.signers import new_signer
from tests.world.scene import DEMO, Scene, policy
from writ.formats.action import Action
from writ.formats.approval import Approval, sign_approval
from writ.formats.digest import Digest
from writ.formats.keys import ES256
from writ.formats.record import commit, encode_record
from writ.verdict.approval import Asked, Consent
from writ.verdict.decide import judge_recorded
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


# --- over what the scene of the verifier grants --------------------------------------------------------------------------

BUNDLE: Final = policy(replace(DEMO, approvers=PEOPLE), schema=SCHEMA, policies=POLICIES.replace("mcp:notes/", "files/"))
SEND, WIPE, NEVER, READ = (Action("tool.call", f"files/{what}", Digest.of(b"arguments")) for what in ("send", "wipe", "never", "read"))


class Approved(Scene):
    """A scene under `BUNDLE`: what it does, where it is not told what, is to send, and alice approved it."""

    def act(self, name: str, token: str, claims: Any, **more: Any) -> Any:
        """Recorded as an enforcer would, with the approval."""
        if more:
            return super().act(name, token, claims, **more)
        one, asked = self.running[name], Asked(SEND, "socket", bytes(32), bytes(32))
        made = approval_of(asked, instance=one.instance, policy=self.bundle.digest, made_at=self.now)
        self.approval = sign_approval(made, ALICE)
        consent = Consent("alice", str(Digest.of(self.approval)))
        answer = judge_recorded(SEND, claims, self.bundle, gate="socket", now=self.now, consent=consent)
        record = super().act(name, token, claims, resource="files/read")
        record = replace(record, resource="files/send", context=commit(bytes(32), answer.context))
        one.contexts[record.sequence] = answer.context
        one.leaves[-1] = encode_record(record)
        return record

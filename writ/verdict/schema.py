"""The Cedar schema of the questions that Writ asks: made from the action kinds, so that a policy and a gate mean the same.

`token.issue` and `token.exchange` are asked by the verifier, every other kind by an
enforcer or a relying service. A kind that a service of one's own asks for (`reports.render`)
is added to `kinds`; a policy cannot name one that the schema lacks.

>>> "  action \\"reports.render\\" appliesTo {" in cedar_schema(("reports.render",))
True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from writ.formats.action import EXCHANGE, METHODS, WEBSOCKET, Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError

ISSUE: Final = "token.issue"
BY_VERIFIER: Final = (ISSUE, EXCHANGE)
"""The kinds that the verifier asks for, each about an audience."""
KINDS: Final = (
    ("tool.call", "resource.read", "resource.subscribe", "prompt.get", "input.request"),
    ("net.connect", "net.reach", "net.accept"),
    (*(f"http.{method.lower()}" for method in METHODS), WEBSOCKET),
    ("secret.send", "secret.read"),
    ("file.read", "file.write", "exec.run", "instance.start", "instance.run", "instance.end"),
)
"""The action kinds of Writ's gates, a row for what belongs together."""
ISSUE_CONTEXT: Final = {"host": "String", "tpm_class": "String", "runtime": "String", "endorsed": "Bool"}
ACTION_CONTEXT: Final = {
    "now": "Long", "attest_age": "Long", "gate": "String", "host": "String", "namespace": "String", "tpm_class": "String",
    "runtime": "String", "depth": "Long",
}  # fmt: skip
"""Name and Cedar type of what `decide.decision_context` holds."""
APPROVED_CONTEXT: Final = {"approval?": "String", "approver?": "String"}
"""What `approval.Consent` adds, where a person approved the action."""
MORE_CONTEXT: Final = {"exceptions?": "Set<String>", "used?": "Long"}
"""Where a policy asks: the token's exceptions, if it has some, and how often the instance has had the action permitted before."""
MAX_KINDS: Final = 256

_ACTED: Final = {**ACTION_CONTEXT, **APPROVED_CONTEXT, **MORE_CONTEXT}
_HEAD: Final = """// What Writ's questions look like to Cedar. `token.issue` and `token.exchange` are asked
// by the verifier, every other action by an enforcer; more action kinds may be added.
namespace Writ {
  entity Agent;
  entity Audience;
  entity Resource;

  // May this agent hold an execution token for this audience? And, under one, have its enforcer
  // hold a bearer token (an exchange token) for that audience elsewhere?
"""


def cedar_schema(more: Sequence[str] = ()) -> str:
    """The schema with the kinds of Writ's gates, and `more` after them.

    Raises FormatError for what cannot be an action's name, or is one already.
    """
    known = {*BY_VERIFIER, *(kind for row in KINDS for kind in row)}
    if len(more) > MAX_KINDS or len(set(more)) != len(more):
        raise FormatError("action kinds", f"at most {MAX_KINDS}, each once", f"{len(more)}")
    for kind in more:
        Action(kind, "any", Digest.of(b""))
        if kind in known:
            raise FormatError("action kind", "one that the schema does not have", kind)
    text = _HEAD + _action([BY_VERIFIER], "Audience", ISSUE_CONTEXT)
    text += "\n  // May this agent do this, under a valid token that grants it?\n" + _action(KINDS, "Resource", _ACTED)
    if more:
        text += "\n  // Asked by services of one's own, as the others are.\n"
        text += _action([[kind] for kind in more], "Resource", _ACTED)
    return text + "}\n"


def _action(rows: Sequence[Sequence[str]], resource: str, context: dict[str, str]) -> str:
    names = ",\n         ".join(", ".join(f'"{kind}"' for kind in row) for row in rows)
    attributes = ", ".join(f"{name}: {kind}" for name, kind in context.items())
    return f"""  action {names} appliesTo {{
    principal: Agent,
    resource: {resource},
    context: {{ {attributes} }},
  }};
"""

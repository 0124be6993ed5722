"""Whether what a server says of a tool or a prompt is what was approved, by digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from writ.formats.mcp.approved import ApprovedServer, definition_digest
from writ.formats.reason import Reason

Kind = Literal["tools", "prompts"]


def judge_definition(approved: ApprovedServer, kind: Kind, name: str, listed: Sequence[Mapping[str, Any]]) -> Reason | None:
    """None if every definition of `name` that is `listed` is the approved one, and there is one; else why not.

    1. Somebody approved a definition of that name.
    2. What the server says now has its digest; two of one name are one too many, unless they are alike.

    Says nothing of what the server does when it is called: its code is measured, or it is not. Raises FormatError for a lone surrogate.
    """
    # 1
    pinned = {"tools": approved.tools, "prompts": approved.prompts}[kind].get(name)
    got = sorted({definition_digest(one).hex() for one in listed if one.get("name") == name})
    if pinned is None:
        return Reason("tool-unapproved", f"{kind}.{name}"[:200], "an approved definition", got[0] if got else "none")
    # 2
    if got != [pinned.hex()]:
        return Reason("tool-changed", f"{kind}.{name}"[:200], pinned.hex(), ", ".join(got)[:200] or "none")
    return None

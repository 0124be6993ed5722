"""Claude Agent SDK: a PreToolUse hook that asks the enforcer.

    ClaudeAgentOptions(hooks={"PreToolUse": [pre_tool_use()]})

It covers every tool of the session, those of MCP servers and of sub-agents too. With `on_failure="block"` a hook that fails blocks; an SDK
without that option is refused when the hook is made, since there a failure counts as no decision.
"""

from __future__ import annotations

import asyncio
from typing import Any

from claude_agent_sdk import HookMatcher

from enforcer.adapters.ask import WITHIN, NotPermittedError, ask


def pre_tool_use(path: str | None = None) -> HookMatcher:
    """The hook, for every tool. `path` is the gate's socket, by default that of WRIT_SOCKET.

    Raises TypeError for an SDK in which it could only fail open.
    """

    async def decide(data: Any, _tool_use: str | None, _context: object) -> Any:
        try:
            await asyncio.to_thread(ask, data["tool_name"], data["tool_input"], framework="claude", path=path)
        except NotPermittedError as error:
            return _said("deny", str(error))
        except Exception:  # noqa: BLE001 - input that this hook does not understand
            return _said("deny", "the enforcer could not be asked; the tool must not run")
        return {}  # no opinion: the session's own permission rules still decide

    return HookMatcher(matcher=None, hooks=[decide], timeout=2 * WITHIN, on_failure="block")


def _said(decision: str, why: str) -> dict[str, Any]:
    return {
        "hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": why},
    }

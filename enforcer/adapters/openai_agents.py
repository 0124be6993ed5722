"""OpenAI Agents SDK: a tool input guardrail that asks the enforcer.

    @function_tool(tool_input_guardrails=[guardrail()])

It covers function tools and those of MCP servers that it is given to. Shell, apply-patch, computer and hosted tools have no such guardrail:
nothing here sees them, only the sandbox does.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agents.tool_guardrails import ToolGuardrailFunctionOutput, ToolInputGuardrail, ToolInputGuardrailData

from enforcer.adapters.ask import NotPermittedError, ask


def guardrail(path: str | None = None) -> ToolInputGuardrail[Any]:
    """The guardrail. `path` is the gate's socket, by default that of WRIT_SOCKET.

    What the enforcer refuses is told to the model; where it cannot be asked the run ends.
    """

    async def decide(data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        try:
            arguments = json.loads(data.context.tool_arguments or "{}")
            reference = await asyncio.to_thread(ask, data.context.tool_name, arguments, framework="openai-agents", path=path)
        except NotPermittedError as error:
            if error.decided:
                return ToolGuardrailFunctionOutput.reject_content(str(error), error.reference)
            return ToolGuardrailFunctionOutput.raise_exception(str(error))
        except Exception:  # noqa: BLE001 - a call that this guardrail does not understand
            return ToolGuardrailFunctionOutput.raise_exception("the enforcer could not be asked")
        return ToolGuardrailFunctionOutput.allow(reference)

    return ToolInputGuardrail(guardrail_function=decide, name="writ")

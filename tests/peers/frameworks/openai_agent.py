"""An agent of the OpenAI Agents SDK, whose model wants one tool: python openai_agent.py GATE TOOL async.

Prints what ran and what came of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from agents import Agent, Model, ModelResponse, Runner, Usage, function_tool, set_tracing_disabled
from agents.exceptions import ToolInputGuardrailTripwireTriggered
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from enforcer.adapters.openai_agents import guardrail

ran: list[str] = []


class Said(Model):  # type: ignore[misc]
    """A model that says what it is told to, and keeps what it was asked last."""

    def __init__(self, *says: Any) -> None:
        self.says: list[Any] = list(says)
        self.asked: Any = None

    async def get_response(self, system_instructions: object, input: Any, *_more: object, **_named: object) -> ModelResponse:  # noqa: A002
        """The next."""
        self.asked = input
        return ModelResponse(output=[self.says.pop(0)], usage=Usage(), response_id=None)

    def stream_response(self, *_more: object, **_named: object) -> Any:
        """Not asked for."""
        raise NotImplementedError


def work(query: str) -> str:
    """The tool."""
    ran.append(query)
    return "found"


async def run(gate: str, tool: str) -> dict[str, object]:
    """One run of the agent."""
    text = ResponseOutputText(text="done", type="output_text", annotations=[])
    model = Said(
        ResponseFunctionToolCall(name=tool, arguments='{"query": "tides"}', call_id="1", type="function_call"),
        ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message"),
    )
    made = function_tool(work, name_override=tool, tool_input_guardrails=[guardrail(gate)])
    try:
        await Runner.run(Agent(name="a", model=model, tools=[made]), "go")
    except ToolInputGuardrailTripwireTriggered as error:
        return {"ran": ran, "answer": str(error.output.output_info), "refused": True}
    (answer,) = [one["output"] for one in model.asked if one.get("type") == "function_call_output"]
    return {"ran": ran, "answer": answer, "refused": not ran}


def main(gate: str, tool: str, _way: str) -> None:
    """One run of the agent, once a line has come."""
    sys.stdin.readline()
    set_tracing_disabled(True)
    print(json.dumps(asyncio.run(run(gate, tool))))


if __name__ == "__main__":
    main(*sys.argv[1:])

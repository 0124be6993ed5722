"""An agent of LangChain, whose model wants one tool: python langchain_agent.py GATE TOOL sync|async.

Prints what ran and what came of it.
"""

from __future__ import annotations

import asyncio
import json
import sys

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import StructuredTool

from enforcer.adapters.langchain import Writ

ran: list[str] = []


def work(query: str) -> str:
    """The tool."""
    ran.append(query)
    return "found"


class Model(GenericFakeChatModel):  # type: ignore[misc]
    """Says what it is told to."""

    def bind_tools(self, tools: object, **_more: object) -> Model:
        """It knows what it will call."""
        return self


def main(gate: str, tool: str, way: str) -> None:
    """One run of the agent, once a line has come."""
    sys.stdin.readline()
    says = [AIMessage("", tool_calls=[{"name": tool, "args": {"query": "tides"}, "id": "1"}]), AIMessage("done")]
    tools = [StructuredTool.from_function(work, name=tool, description="A tool.")]
    agent = create_agent(Model(messages=iter(says)), tools=tools, middleware=[Writ(gate)])
    asked = {"messages": [("user", "go")]}
    state = agent.invoke(asked) if way == "sync" else asyncio.run(agent.ainvoke(asked))
    (answer,) = [one for one in state["messages"] if isinstance(one, ToolMessage)]
    print(json.dumps({"ran": ran, "answer": answer.content, "refused": answer.status == "error"}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""LangChain and LangGraph: a middleware around each tool call that asks the enforcer.

    create_agent(model, tools=[…], middleware=[…, Writ()])        # last: what is outside of it may try again, and is asked again

In a graph without `create_agent`: ToolNode(tools, wrap_tool_call=writ.wrap_tool_call, awrap_tool_call=writ.awrap_tool_call).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import ToolMessage

from enforcer.adapters.ask import NotPermittedError, ask


class Writ(AgentMiddleware[Any, Any]):
    """No tool runs that the enforcer did not permit; a refusal is the tool's answer, as an error."""

    def __init__(self, path: str | None = None) -> None:
        """`path` is the gate's socket, by default that of WRIT_SOCKET."""
        super().__init__()
        self._path = path

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        """The tool's answer, or the refusal."""
        refusal = self._refusal(request)
        return handler(request) if refusal is None else refusal

    async def awrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]) -> Any:
        """The same, in an event loop."""
        refusal = await asyncio.to_thread(self._refusal, request)
        return await handler(request) if refusal is None else refusal

    def _refusal(self, request: ToolCallRequest) -> ToolMessage | None:
        call = request.tool_call
        try:
            ask(call["name"], call["args"], framework="langchain", path=self._path)
        except NotPermittedError as error:
            return ToolMessage(content=str(error), name=call["name"], tool_call_id=call["id"] or "", status="error")
        return None

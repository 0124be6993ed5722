"""An MCP server over stdio with two tools, `read` and `append`, on one file of notes. Standard library only.

Speaks MCP 2026-07-28 (stateless): one JSON-RPC request a line, one answer a line.
"""

import json
import sys
from typing import Any

NOTES = ["buy milk", "call the bank"]
TOOLS = [
    {
        "name": "read",
        "description": "Read one note by its number.",
        "inputSchema": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
    {
        "name": "append",
        "description": "Append a note.",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
]


def call(name: object, arguments: dict[str, Any]) -> str:
    """The text a tool answers, or ValueError."""
    if name == "read":
        number = arguments.get("number")
        if not isinstance(number, int) or not 0 <= number < len(NOTES):
            raise ValueError(f"number must be 0 to {len(NOTES) - 1}")
        return NOTES[number]
    if name == "append":
        text = arguments.get("text")
        if not isinstance(text, str):
            raise ValueError("text must be a string")
        NOTES.append(text)
        return f"note {len(NOTES) - 1} written"
    raise ValueError(f"no tool {name}")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The JSON-RPC answer to one request."""
    method, params = request.get("method"), request.get("params", {})
    if method == "tools/list":
        return {"result": {"tools": TOOLS}}
    if method == "tools/call":
        try:
            text, failed = call(params.get("name"), params.get("arguments", {})), False
        except ValueError as error:
            text, failed = str(error), True
        return {"result": {"content": [{"type": "text", "text": text}], "isError": failed}}
    return {"error": {"code": -32601, "message": "unknown method"}}


for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer(asked)}), flush=True)

"""An agent of the Claude Agent SDK with its own program, and a model on loopback that wants one command run.

python claude_agent.py GATE TOOL async, where TOOL is Bash. Prints what ran and what came of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, query

from enforcer.adapters.claude import pre_tool_use

answers: list[str] = []


class Api(BaseHTTPRequestHandler):
    """The messages API, as far as it is asked: one tool call, then the end."""

    tool, line = "", ""

    def do_POST(self) -> None:
        """One turn of the model."""
        asked: Any = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.startswith("/v1/messages") or "count_tokens" in self.path:
            self._answer("application/json", b'{"input_tokens": 1}')
            return
        results = [
            part for message in asked["messages"] if isinstance(message["content"], list) for part in message["content"]
            if part.get("type") == "tool_result"
        ]  # fmt: skip
        answers.extend(json.dumps(part.get("content")) for part in results)
        wants = bool(asked.get("tools")) and not results
        block = {"type": "tool_use", "id": "toolu_1", "name": self.tool, "input": {}} if wants else {"type": "text", "text": ""}
        given = json.dumps({"command": self.line, "description": "work"})
        delta = {"type": "input_json_delta", "partial_json": given} if wants else {"type": "text_delta", "text": "done"}
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"], "content": [], "usage": usage}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": message | {"stop_reason": None, "stop_sequence": None}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use" if wants else "end_turn", "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        ]
        if asked.get("stream"):
            self._answer("text/event-stream", b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events))
        else:
            content = [{"type": "text", "text": "done"}]
            self._answer("application/json", json.dumps(message | {"content": content, "stop_reason": "end_turn"}).encode())

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_more: object) -> None:
        """Quiet."""


async def run(gate: str, tool: str) -> dict[str, object]:
    """One run of the agent."""
    with tempfile.TemporaryDirectory() as home, ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mark = Path(home) / "ran"
        Api.tool, Api.line = tool, f"touch {mark}"
        environment = {
            "HOME": home, "PATH": os.environ["PATH"], "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}",
            "ANTHROPIC_API_KEY": "none", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CONFIG_DIR": home, "IS_SANDBOX": "1",
        }  # fmt: skip
        options = ClaudeAgentOptions(
            hooks={"PreToolUse": [pre_tool_use(gate)]}, allowed_tools=[tool], permission_mode="bypassPermissions", env=environment,
            cwd=home, setting_sources=[], model="claude-sonnet-4-5",
        )  # fmt: skip
        async for _message in query(prompt="go", options=options):
            pass
        server.shutdown()
        return {"ran": ["tides"] if mark.exists() else [], "answer": "".join(answers), "refused": not mark.exists()}


def main(gate: str, tool: str, _way: str) -> None:
    """One run of the agent, once a line has come."""
    sys.stdin.readline()
    print(json.dumps(asyncio.run(run(gate, tool))))


if __name__ == "__main__":
    main(*sys.argv[1:])

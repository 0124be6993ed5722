"""The conformance suite of the Model Context Protocol, of both generations, against our gate with the SDK's server behind it.

What fails is what is not served, by name: a change in either direction is noticed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from enforcer.tools.proposed import of_program
from tests.enforcer.gates.mcp_rig import OLD, Rig
from tests.peers.conftest import CONFORMANCE, LIB, node, program
from writ.formats.mcp.protocol import MODERN

pytestmark = pytest.mark.peers

SERVER = """
import base64, json
from typing import Annotated
import mcp_types as t
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from pydantic import Field

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
app = MCPServer("everything")

def text(words): return t.TextContent(type="text", text=words)
def image(): return t.ImageContent(type="image", data=PNG, mime_type="image/png")
def inner(uri, words):
    return t.EmbeddedResource(type="resource", resource=t.TextResourceContents(uri=uri, mime_type="text/plain", text=words))

@app.tool()
def test_simple_text() -> str:
    "Text."
    return "This is a simple text response for testing."

@app.tool(structured_output=False)
def test_image_content() -> list[t.ImageContent]:
    "An image."
    return [image()]

@app.tool(structured_output=False)
def test_audio_content() -> list[t.AudioContent]:
    "A sound."
    return [t.AudioContent(type="audio", data=WAV, mime_type="audio/wav")]

@app.tool(structured_output=False)
def test_embedded_resource() -> list[t.EmbeddedResource]:
    "A resource."
    return [inner("test://embedded-resource", "This is an embedded resource content.")]

@app.tool(structured_output=False)
def test_multiple_content_types() -> list[t.TextContent | t.ImageContent | t.EmbeddedResource]:
    "All of them."
    return [text("Multiple content types test:"), image(), inner("test://mixed-content-resource", json.dumps({"value": 123}))]

@app.tool()
def test_headers(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    "An argument that a header repeats."
    return region

@app.tool()
def test_error_handling() -> str:
    "Fail."
    raise ValueError("This tool intentionally returns an error for testing")

@app.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."

@app.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    return base64.b64decode(PNG)

@app.resource("test://template/{id}/data", mime_type="application/json")
def of_template(id: str) -> str:
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

@app.prompt()
def test_simple_prompt() -> str:
    "Text."
    return "This is a simple prompt for testing."

@app.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    "Arguments."
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

@app.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    "A resource."
    resource = inner(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]

@app.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    "An image."
    return [UserMessage(image()), UserMessage("Please analyze the image above.")]

@app.completion()
async def complete(ref, argument, context):
    return t.Completion(values=["a"], total=1, has_more=False)

app.run("stdio")
"""
INPUT = {
    f"input-required-result-{word}"
    for word in (
        "basic-elicitation", "basic-sampling", "basic-list-roots", "request-state", "multiple-input-requests", "multi-round",
        "non-tool-request", "result-type", "tampered-state", "capability-check",
    )
}  # fmt: skip
UNSERVED = {
    MODERN: {*INPUT, "tools-call-with-progress", "json-schema-2020-12", "server-stateless"},
    OLD: {
        "tools-call-with-logging", "tools-call-with-progress", "tools-call-sampling", "tools-call-elicitation",
        "elicitation-sep1034-defaults", "elicitation-sep1330-enums", "resources-subscribe", "resources-unsubscribe", "json-schema-2020-12",
    },
}  # fmt: skip
"""Input from the client, progress, logs and subscriptions; and scenarios that want a tool of their own behind us."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", [MODERN, OLD])
def test_what_the_suite_finds_wrong_is_what_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    suite, server, results = program("conformance", CONFORMANCE), tmp_path / "everything.py", tmp_path / "results"
    server.write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(LIB))
    command = (sys.executable, str(server))
    grants = (("prompt.get", "mcp:notes/*"), ("resource.read", "mcp:notes/test://*"))
    rig = Rig(tmp_path, command=command, pins=of_program(command, version)[0], grants=grants, environment=dict(os.environ))
    try:
        url = f"http://127.0.0.1:{rig.port}/mcp/notes"
        words = ["server", "--url", url, "--suite", "all", "--spec-version", version, "--output-dir", str(results)]
        subprocess.run([node(), suite, *words], cwd=tmp_path, capture_output=True, timeout=280, check=False)
    finally:
        rig.close()
    failed: dict[str, set[str]] = {}
    found = list(results.glob("server-*/checks.json"))
    for path in found:
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z\Z", "", path.parent.name.removeprefix("server-"))
        wrong = {f"{one['id']}: {one.get('errorMessage', '')[:100]}" for one in json.loads(path.read_text()) if one["status"] == "FAILURE"}
        failed |= {scenario: wrong} if wrong else {}
    assert len(found) >= 30
    assert {name: wrong for name, wrong in failed.items() if name not in UNSERVED[version]} == {}
    assert UNSERVED[version] - failed.keys() == set()

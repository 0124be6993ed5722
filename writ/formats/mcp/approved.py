"""What was approved of a server: the generation that it speaks, and what it says of its tools and prompts, by digest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.mcp.names import tool_name
from writ.formats.mcp.protocol import MAX_LIST, VERSIONS
from writ.formats.strict import Fields, decode_json, encode_json


def definition_digest(definition: Mapping[str, Any]) -> Digest:
    """The SHA-256 of a definition's one spelling, whole. Raises FormatError for text that has none."""
    try:
        return Digest.of(encode_json(definition, floats=True))
    except UnicodeEncodeError:
        raise FormatError("definition", "Unicode", "a lone surrogate") from None


def instructions_digest(text: str) -> Digest:
    """The same of what a server says that a model should know. Raises FormatError."""
    return definition_digest({"instructions": text})


@dataclass(frozen=True, slots=True)
class ApprovedServer:
    """What was approved of a server: the generation it speaks, and its definitions by digest.

    It lies beside the server's code in a component that is measured, as `NAME.mcp.json`: another definition is another measurement.
    Resources come and go, so they are served or not, as a whole; `instructions` are shown to a model only where their digest is approved.

        {"completions": false, "instructions": null, "prompts": {}, "protocol": "2026-07-28", "resources": true,
         "tools": {"read": "5f70bf18…"}, "v": 1}
    """

    protocol: str
    tools: Mapping[str, Digest]
    prompts: Mapping[str, Digest]
    resources: bool = False
    completions: bool = False
    instructions: Digest | None = None

    @property
    def capabilities(self) -> dict[str, Any]:
        """What a client is told that there is."""
        offered = {"tools": self.tools, "prompts": self.prompts, "resources": self.resources, "completions": self.completions}
        return {name: {} for name, there in offered.items() if there}

    def serves(self, method: str) -> bool:
        """Whether requests of `method` go to this server."""
        kind = method.partition("/")[0]
        return {"completion": "completions"}.get(kind, kind) in self.capabilities


def encode_approved(approved: ApprovedServer) -> bytes:
    """The one spelling."""
    return encode_json(
        {
            "v": 1,
            "protocol": approved.protocol,
            "tools": {name: digest.hex() for name, digest in approved.tools.items()},
            "prompts": {name: digest.hex() for name, digest in approved.prompts.items()},
            "resources": approved.resources,
            "completions": approved.completions,
            "instructions": None if approved.instructions is None else approved.instructions.hex(),
        }
    )


def parse_approved(data: bytes) -> ApprovedServer:
    """Read what was approved; spaces and order are the author's. Raises FormatError."""
    f = Fields(decode_json(data, "mcp.json"), "mcp.json")
    f.version(1)
    protocol = f.text("protocol")
    if protocol not in VERSIONS:
        raise FormatError("mcp.json.protocol", ", ".join(VERSIONS), repr(protocol)[:40])
    tools, prompts = dict(_pinned(f, "tools")), dict(_pinned(f, "prompts"))
    resources, completions, instructions = f.flag("resources"), f.flag("completions"), f.any("instructions")
    f.done()
    return ApprovedServer(
        protocol, tools, prompts, resources, completions, None if instructions is None else _hex(instructions, "mcp.json.instructions")
    )


def _pinned(f: Fields, key: str) -> Iterator[tuple[str, Digest]]:
    for name, text in f.mapping(key, most=MAX_LIST).items():
        yield tool_name(name, f"mcp.json.{key}"), _hex(text, f"mcp.json.{key}.{name}")


def _hex(text: object, what: str) -> Digest:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{64}", text):
        raise FormatError(what, "a SHA-256 in small hex", repr(text)[:80])
    return Digest("sha256", bytes.fromhex(text))

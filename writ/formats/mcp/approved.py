"""What was approved of a server: the generation that it speaks, and what it says of its tools and prompts, by digest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.mcp.names import tool_name, uri
from writ.formats.mcp.protocol import MAX_LIST, VERSIONS
from writ.formats.strict import Fields, decode_json, encode_json, name

MAX_HEADERS: Final = 8
_URL: Final = re.compile(r"(?:https://[a-z0-9.\[\]:_-]+|http://(?:127\.0\.0\.1|\[::1\])(?::[0-9]+)?)/[^?]*\Z")
_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}\Z", re.ASCII)
_VALUE: Final = re.compile(r"((?:[\x21-\x7a|~][\x20-\x7a|~]{0,255})?)(?:\{([a-z0-9._-]{1,63})\})?\Z", re.ASCII)
_OURS: Final = frozenset(
    {"host", "connection", "transfer-encoding", "te", "trailer", "upgrade", "expect", "keep-alive", "origin", "cookie", "last-event-id"}
)
_OUR_KINDS: Final = ("content-", "accept", "proxy-", "mcp-")
"""What the names of others of ours begin with."""


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
class Remote:
    """Where a server on the network is, and what is said to it in each request beside what the protocol wants, each as name, text and the
    secret of the manifest that follows the text, if any.

        {…, "headers": {"Authorization": "Bearer {tools-key}"}, "url": "https://tools.example.com/mcp", "v": 2}
    """

    url: str
    headers: tuple[tuple[str, str, str | None], ...] = ()

    @property
    def secrets(self) -> frozenset[str]:
        """The secrets that it is sent."""
        return frozenset(secret for _, _, secret in self.headers if secret is not None)


@dataclass(frozen=True, slots=True)
class ApprovedServer:
    """What was approved of a server: the generation it speaks, and its definitions by digest.

    It lies beside the server's code in a component that is measured, as `NAME.mcp.json`: another definition is another measurement.
    Resources come and go, so they are served or not, as a whole; `instructions` are shown to a model only where their digest is approved.

        {"completions": false, "instructions": null, "prompts": {}, "protocol": "2026-07-28", "resources": true,
         "tools": {"read": "5f70bf18…"}, "v": 1}

    A server on the network is nobody's measured code. It has a file of version 2, which also says where it is (`Remote`).
    """

    protocol: str
    tools: Mapping[str, Digest]
    prompts: Mapping[str, Digest]
    resources: bool = False
    completions: bool = False
    instructions: Digest | None = None
    remote: Remote | None = None

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
    remote = approved.remote
    beyond = {} if remote is None else {"url": remote.url, "headers": {name: _shown(text, secret) for name, text, secret in remote.headers}}
    return encode_json(
        {
            "v": 1 if remote is None else 2,
            **beyond,
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
    version = f.version(1, 2)
    protocol = f.text("protocol")
    if protocol not in VERSIONS:
        raise FormatError("mcp.json.protocol", ", ".join(VERSIONS), repr(protocol)[:40])
    tools, prompts = dict(_pinned(f, "tools")), dict(_pinned(f, "prompts"))
    resources, completions, instructions = f.flag("resources"), f.flag("completions"), f.any("instructions")
    remote = remote_of(f.any("url"), f.mapping("headers", most=MAX_HEADERS)) if version == 2 else None
    f.done()
    return ApprovedServer(
        protocol,
        tools,
        prompts,
        resources,
        completions,
        None if instructions is None else _hex(instructions, "mcp.json.instructions"),
        remote,
    )


def remote_of(url: object, headers: Mapping[str, Any]) -> Remote:
    """Where a server is, and what is sent there, as a file says it. Raises FormatError."""
    spelling = uri(url, "mcp.json.url")
    if not _URL.match(spelling):
        raise FormatError("mcp.json.url", "https://HOST/PATH, or http:// to 127.0.0.1 or [::1], and no query", repr(url)[:120])
    found = sorted(_header(called, text) for called, text in headers.items())
    if len({one.lower() for one, _, _ in found}) != len(found) or len(found) > MAX_HEADERS:
        raise FormatError("mcp.json.headers", f"at most {MAX_HEADERS}, each name once", ", ".join(one for one, _, _ in found)[:80])
    return Remote(spelling, tuple(found))


def _header(called: str, value: object) -> tuple[str, str, str | None]:
    if not _HEADER.match(called) or called.lower() in _OURS or called.lower().startswith(_OUR_KINDS):
        raise FormatError(
            "mcp.json.headers", "names of headers, but for those of MCP, of the content and of the connection", repr(called)[:80]
        )
    found = _VALUE.match(value) if isinstance(value, str) else None
    if found is None:
        raise FormatError(f"mcp.json.headers.{called}", "printable ASCII, and at its end at most one {SECRET}", repr(value)[:40])
    return called, found[1], None if found[2] is None else name(found[2], f"mcp.json.headers.{called}")


def _shown(text: str, secret: str | None) -> str:
    return text if secret is None else f"{text}{{{secret}}}"


def _pinned(f: Fields, key: str) -> Iterator[tuple[str, Digest]]:
    for called, text in f.mapping(key, most=MAX_LIST).items():
        yield tool_name(called, f"mcp.json.{key}"), _hex(text, f"mcp.json.{key}.{called}")


def _hex(text: object, what: str) -> Digest:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{64}", text):
        raise FormatError(what, "a SHA-256 in small hex", repr(text)[:80])
    return Digest("sha256", bytes.fromhex(text))

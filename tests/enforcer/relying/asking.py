"""One request to an ASGI application, as a server would hand it over, and what came back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from enforcer.relying.asgi import App, Message

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Answer:
    """What the application sent: status (0 for what was no HTTP), headers in their order, body, and all messages as they were."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    sent: tuple[Message, ...]

    def header(self, name: str) -> str | None:
        """The value of a header that must not come twice."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, found
        return found[0] if found else None


def exchange(
    app: App, headers: Iterable[Header], *, method: str = "GET", path: str = "/", raw: bytes | None = None, query: bytes = b"",
    body: bytes = b"", kind: str = "http",
) -> Answer:  # fmt: skip
    """One request, its body in two parts."""
    sent: list[Message] = []
    messages: list[Message] = [
        {"type": "http.request", "body": body[:1], "more_body": True},
        {"type": "http.request", "body": body[1:]},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": kind, "method": method, "path": path, "raw_path": raw if raw is not None else path.encode(), "query_string": query,
        "headers": list(headers),
    }  # fmt: skip

    async def once() -> None:
        await app(scope, receive, send)

    asyncio.run(once())
    if kind != "http":
        return Answer(0, (), b"", tuple(sent))
    text = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(sent[0]["status"], tuple((k.decode(), v.decode()) for k, v in sent[0]["headers"]), text, tuple(sent))

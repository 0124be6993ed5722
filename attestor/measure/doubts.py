"""What in a manifest can never do what it seems to say: for who writes it. Nothing is refused for it, and no verdict rests on it.

A grant is text that is measured and compared, so a typing error in one is found by nobody until the agent is refused what it was
meant to have. The forms are those of docs/operations.md, "The way out", "Secrets" and "Agents that write and run code".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from writ.formats.action import EXCHANGE, METHODS, WEBSOCKET, exchange_action
from writ.formats.errors import FormatError
from writ.formats.grants import Grant
from writ.formats.manifest import Manifest

_HTTP: Final = (*(f"http.{method.lower()}" for method in METHODS), WEBSOCKET)
_KNOWN: Final = (
    "tool.call", "net.connect", "net.reach", "net.accept", *_HTTP, "secret.send", "secret.read",
    "instance.start", "instance.run", "instance.end", EXCHANGE,
)  # fmt: skip
_AUTHORITY: Final = re.compile(r"(?:\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?):[1-9][0-9]{0,4}", re.ASCII)
_URL: Final = re.compile(r"https?://([^/]+)/")


def doubts(manifest: Manifest) -> tuple[str, ...]:
    """One sentence for each part of the manifest that cannot be of use as it is written."""
    return (*_of_grants(manifest), *_of_secrets(manifest), *_of_forwards(manifest))


def _of_grants(manifest: Manifest) -> Iterator[str]:
    named = {one.name for one in manifest.secrets}
    for grant in manifest.grants:
        expected = _expected(grant, named)
        if expected is not None:
            yield f'grant ["{grant.action}", "{grant.resource}"]: expected {expected}'


def _expected(grant: Grant, secrets: set[str]) -> str | None:
    """What a grant of this action looks like, where this one does not."""
    action, (kind, _, rest) = grant.action, grant.resource.partition(":")
    if action not in _KNOWN:
        return f"an action that a gate of Writ asks for: {', '.join(_KNOWN)}"
    if action == "tool.call":
        return None if kind == "mcp" and "/" in rest else "mcp:TOOL/METHOD or mcp:TOOL/*"
    if action == "net.accept":
        return None if kind == "tcp" and rest.isdecimal() else "tcp:PORT, the port inside"
    if action in ("net.connect", "net.reach"):
        fits = (kind == "tcp" and _is_authority(rest)) or (kind == "unix" and action == "net.connect")
        return None if fits else "tcp:HOST:PORT, in lower case"
    if action in _HTTP:
        url = _URL.match(grant.resource)
        return None if url and _is_authority(url[1]) else "https://HOST:PORT/PATH or …/*, in lower case and with the port"
    if action.startswith("instance."):
        return None if kind == "agent" and rest else "agent:NAME"
    if action == EXCHANGE:
        return None if _is_audience(grant.resource) else "one audience, spelt as a resource and with no /* at its end"
    name, _, place = rest.partition("@")
    if kind != "secret" or name not in secrets:
        return f"secret: and a name of [secrets] ({', '.join(sorted(secrets)) or 'none is there'})"
    if action == "secret.send":
        return None if (url := _URL.match(place)) and _is_authority(url[1]) else "secret:NAME@https://HOST:PORT/PATH or …/*"
    return "secret:NAME, with no place" if place else None


def _is_audience(text: str) -> bool:
    try:
        exchange_action(text)
    except FormatError:
        return False
    return not text.endswith("/*")


def _is_authority(text: str) -> bool:
    return _AUTHORITY.fullmatch(text) is not None


def _of_secrets(manifest: Manifest) -> Iterator[str]:
    for secret in manifest.secrets:
        action = "secret.read" if secret.is_file else "secret.send"
        if not any(one.action == action and one.resource.partition("@")[0] == f"secret:{secret.name}" for one in manifest.grants):
            what = "the agent is not launched without one" if secret.is_file else "without one it is put into no request"
            yield f"secret {secret.name}: expected a grant of {action} on it; {what}"


def _of_forwards(manifest: Manifest) -> Iterator[str]:
    for forward in manifest.forwards:
        if not any(one.action == "net.connect" and one.resource == forward.to for one in manifest.grants):
            yield f"forward of port {forward.listen}: expected a grant of net.connect on {forward.to}"

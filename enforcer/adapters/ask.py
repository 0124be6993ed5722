"""One question at the agent's gate: may a tool of this process run with these arguments? Standard library only."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

WITHIN: Final = 15.0
"""Seconds for an answer: longer than a record may take to be durable."""
MAX_ANSWER: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z", re.ASCII)


class NotPermittedError(Exception):
    """The tool must not run. `decided` where the enforcer said so; else it could not be asked. `str` is for people and models."""

    def __init__(self, why: str, *, decided: bool, reference: str | None = None) -> None:
        super().__init__(why)
        self.decided, self.reference = decided, reference


def ask(tool: str, arguments: object, *, framework: str, path: str | None = None, within: float = WITHIN) -> str:
    """The enforcer permits `tool` with `arguments`, and that is recorded; returns the record's reference.

    The action is `tool.call` on `advisory:FRAMEWORK/TOOL`. `path` is the gate's socket, by default that of WRIT_SOCKET.
    Does not prove that the tool then runs, or runs with these arguments. Raises NotPermittedError, and nothing else.
    """
    if not (_NAME.match(tool) and _NAME.match(framework)):
        raise NotPermittedError(f"{ascii(tool)[:140]} is no name of a tool that can be asked for", decided=False)
    try:
        spelt = json.dumps(arguments, sort_keys=True, separators=(",", ":"), allow_nan=False)  # as text: our JSON has no floats
        request = {"id": 1, "tool": "advisory", "method": f"{framework}/{tool}", "arguments": {"json": spelt}}
        answer = json.loads(_exchange(json.dumps(request).encode() + b"\n", path or os.environ["WRIT_SOCKET"], within))
        if answer["id"] == 1 and answer["ok"] is True and isinstance(answer["reference"], str):
            return answer["reference"]
        refusal = answer["refusal"]
        why = _card(tool, refusal)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, it was not permitted
        raise NotPermittedError(
            f"{tool}: the enforcer could not be asked ({type(error).__name__}); it must not run", decided=False
        ) from None
    raise NotPermittedError(why, decided=True, reference=refusal["reference"])


def _card(tool: str, refusal: Mapping[str, Any]) -> str:
    """The refusal in lines: what, why, next, and where to look."""
    lines = [f"{tool} was refused. Do not retry it or work around it."]
    lines += [f"{one['code']}: {one['claim']}: expected {one['expected']}, got {one['got']}. {one['remedy']}" for one in refusal["reasons"]]
    if refusal["reference"]:
        lines.append(f"Reference: {refusal['reference']}")
    return "\n".join(lines)


def _exchange(request: bytes, path: str, within: float) -> bytes:
    """One line to the socket and one back, all of it before `within` seconds have passed. Raises OSError, ValueError."""
    end, answer = time.monotonic() + within, b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(within)
        connection.connect(path)
        connection.sendall(request)
        while b"\n" not in answer:
            connection.settimeout(max(0.001, end - time.monotonic()))
            part = connection.recv(65536)
            if not part or len(answer) > MAX_ANSWER:
                raise ValueError("no whole answer")
            answer += part
    return answer

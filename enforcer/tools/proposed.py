"""What would have to be approved of a server of the Model Context Protocol for all that it offers to be served: for a person to read.

The server is asked as whoever runs the command, with no gate between: nothing is decided, and nothing recorded.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from enforcer.credential import Held
from enforcer.gatekeeper import Ruling
from enforcer.launch.process import Running
from enforcer.tools.mcp_program import McpProgram
from enforcer.tools.mcp_remote import McpRemote
from enforcer.tools.mcp_server import McpServer
from enforcer.wire.addresses import SystemResolver
from enforcer.wire.host_tls import upstream_contexts
from writ.formats.action import Action
from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.mcp.approved import ApprovedServer, Remote
from writ.formats.mcp.protocol import LEGACY, MODERN

Proposed = tuple[ApprovedServer, list[dict[str, Any]]]
"""What would be approved, and each definition as the server says it."""


def _proposed(protocol: str | None, begun: Callable[[str], AbstractContextManager[McpServer]]) -> Proposed:
    """What the server that is `begun` for a protocol says: for this one, or for each generation until one is spoken."""
    for tried in (MODERN, LEGACY[0]) if protocol is None else (protocol,):
        with begun(tried) as server:
            try:
                return server.propose()
            except (FormatError, Unavailable):
                if tried != MODERN or protocol is not None:
                    raise
    raise Misuse("a protocol at least is tried")


def of_program(command: Sequence[str], protocol: str | None = None) -> Proposed:
    """As `propose`, of a program that is started here, as whoever asks, in no sandbox, and ended. It is tried as one of the newer
    generation first where no `protocol` is given.

    Raises Unavailable, FormatError.
    """
    return _proposed(protocol, partial(_begun, command))


@contextlib.contextmanager
def _begun(command: Sequence[str], tried: str) -> Iterator[McpServer]:
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise Unavailable(command[0], f"{error.strerror}") from None
    with process:
        if process.stdin is None or process.stdout is None:
            raise Misuse("pipes were asked for")
        pipes = (os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno()))
        os.set_blocking(pipes[0], False)
        with contextlib.closing(
            McpProgram("server", Running(process, process.pid), pipes, approved=ApprovedServer(tried, {}, {}))
        ) as server:
            yield server


def of_remote(
    remote: Remote, protocol: str | None = None, *, roots: Path | None = None, secrets: Mapping[str, Path] | None = None
) -> Proposed:
    """The same of a server on the network, whose host is verified by `roots` (None: the system's). Raises Unavailable, FormatError."""
    try:
        contexts = upstream_contexts(None if roots is None else str(roots))
    except OSError as error:
        raise Unavailable("roots", f"{roots}: {error.strerror or 'no certificates'}") from None

    def begun(tried: str) -> contextlib.closing[McpRemote]:
        approved = ApprovedServer(tried, {}, {}, remote=remote)
        asks, given = _Oneself(), _Given(secrets or {})
        return contextlib.closing(McpRemote("server", approved, asks=asks, resolver=SystemResolver(), contexts=contexts, secrets=given))

    return _proposed(protocol, begun)


class _Oneself:
    """Whoever runs the command may go where they may go."""

    def ask(self, action: Action, arguments: bytes, *, gate: str) -> Ruling:
        """It passes, and is recorded nowhere."""
        return Ruling(action, (), None, None, observed=True)

    def outcome(self, ruling: Ruling, *, done: bool, result: bytes) -> bool:
        """So is this."""
        return True


class _Given:
    """Secrets in files."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def value(self, name: str, held: Held | None) -> bytes:
        """Raises Unavailable."""
        if name not in self._files:
            raise Unavailable(f"secret {name}", f"expected --secret {name}=FILE")
        try:
            return self._files[name].read_bytes()
        except OSError as error:
            raise Unavailable(f"secret {name}", f"{self._files[name]}: {error.strerror}") from None

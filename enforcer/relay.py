"""The attestor as this host's enforcer sees it: a relay on a unix socket that is believed in nothing it could have invented."""

from __future__ import annotations

import socket
from typing import Final

from enforcer import frames
from writ.formats.errors import FormatError, Unavailable
from writ.formats.local import LOCAL, MAX_FRAME, Drift, Launch, Local, Unreachable, Watch

ASK_WITHIN: Final = 30.0
"""Seconds for a quote of a slow TPM, the verifier's answer and a queue before us."""
LAUNCH_WITHIN: Final = 600.0
"""Seconds: a first launch hashes and copies weights."""


class Relay:
    """One connection for each question, so that a slow answer holds up nobody else."""

    def __init__(self, path: str) -> None:
        self._path = path

    def ask(self, message: Local) -> Local:
        """The answer; `Unreachable` where there is none, in time or in a form that we can read."""
        try:
            connection = frames.connect(self._path)
        except Unavailable as error:
            return Unreachable(f"attestor: {error.detail}"[:1000])
        with connection:
            try:
                frames.send(connection, LOCAL.encode(message))
                answer = frames.receive(connection, MAX_FRAME, LAUNCH_WITHIN if isinstance(message, Launch) else ASK_WITHIN)
                return Unreachable("attestor: it closed without an answer") if answer is None else LOCAL.parse(answer)
            except Unavailable as error:
                return Unreachable(f"attestor: {error.detail}"[:1000])
            except FormatError as error:
                return Unreachable(f"attestor: {error}"[:1000])

    def watch(self) -> socket.socket:
        """A connection on which the attestor reports drift. Raises Unavailable."""
        connection = frames.connect(self._path)
        try:
            frames.send(connection, LOCAL.encode(Watch()))
        except Unavailable:
            connection.close()
            raise
        return connection


def next_drift(connection: socket.socket) -> Drift:
    """The next drift reported. Raises Unavailable when the attestor is gone or says what we cannot read."""
    while True:
        try:
            data = frames.receive(connection, MAX_FRAME, None)
            message = None if data is None else LOCAL.parse(data)
        except FormatError as error:
            raise Unavailable("attestor", str(error)) from None
        if message is None:
            raise Unavailable("attestor", "it closed the watch")
        if isinstance(message, Drift):
            return message

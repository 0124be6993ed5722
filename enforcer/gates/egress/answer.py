"""What the gate itself says to an agent, in HTTP: a refusal, a failure, or that this was no request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from enforcer.gates.egress.stream import Stream
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.strict import encode_json
from writ.service import cli

LINGER: Final = 1.0


class Answer:
    """One answer of our own, and the end. Where another's has begun, or what is said there is not ours to say, nothing."""

    def __init__(self, near: Stream | None, short: str, may_speak: Callable[[], bool] = lambda: True) -> None:
        """`near` None is somebody who does not speak HTTP. `short` is the instance's short name in references."""
        self._near, self._short, self._may_speak = near, short, may_speak

    def silence(self) -> None:
        """What is said from now on is not HTTP."""
        self._near = None

    def malformed(self, error: FormatError) -> None:
        """400: no action, and no record."""
        self._say(400, "Malformed", self._refusal((malformed(error),), None))

    def refused(self, reasons: tuple[Reason, ...], sequence: int | None) -> None:
        """403, as the record at `sequence` says."""
        self._say(403, "Refused", self._refusal(reasons, sequence))

    def failed(self, sequence: int | None, what: str, detail: str) -> None:
        """502: it was permitted, and could not be done."""
        failure = {"what": what, "detail": detail[:300]}
        self._say(502, "Failed", encode_json({"ok": False, "reference": self._reference(sequence), "failure": failure}))

    def _reference(self, sequence: int | None) -> str | None:
        return None if sequence is None else f"{self._short}-{sequence}"

    def _refusal(self, reasons: tuple[Reason, ...], sequence: int | None) -> bytes:
        reference = self._reference(sequence)
        return encode_json({"ok": False, "reference": reference, "refusal": cli.refusal(reasons, reference)})

    def _say(self, status: int, word: str, body: bytes) -> None:
        near = self._near
        if near is None or not self._may_speak():
            return
        head = f"HTTP/1.1 {status} {word}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(OSError):
            near.settimeout(LINGER)
            near.sendall(head.encode("ascii") + body)
            near.end()
            near.linger(LINGER)


def malformed(error: FormatError) -> Reason:
    """What was no request, as a reason."""
    return Reason("malformed", error.what[:100], error.expected, error.got)

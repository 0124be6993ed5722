"""What the gate itself says to an agent, in HTTP: a refusal, a failure, or that this was no request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from enforcer.wire.stream import LINGER, Stream
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.strict import encode_json
from writ.service import cli

Say = Callable[[int, str, bytes], None]
"""Says a status, its word, and JSON; where nobody hears it, nothing."""


class Answer:
    """One answer of our own, and the end. Where another's has begun, or what is said there is not ours to say, nothing."""

    def __init__(self, say: Say | None, short: str, may_speak: Callable[[], bool] = lambda: True) -> None:
        """`say` None is to somebody who does not speak HTTP. `short` is the instance's short name in references."""
        self._say, self._short, self._may_speak = say, short, may_speak

    def silence(self) -> None:
        """What is said from now on is not HTTP."""
        self._say = None

    def malformed(self, error: FormatError) -> None:
        """400: no action, and no record."""
        self._tell(400, "Malformed", self._refusal((malformed(error),), None))

    def refused(self, reasons: tuple[Reason, ...], sequence: int | None) -> None:
        """403, as the record at `sequence` says."""
        self._tell(403, "Refused", self._refusal(reasons, sequence))

    def failed(self, sequence: int | None, what: str, detail: str) -> None:
        """502: it was permitted, and could not be done."""
        failure = {"what": what, "detail": detail[:300]}
        self._tell(502, "Failed", encode_json({"ok": False, "reference": self._reference(sequence), "failure": failure}))

    def _reference(self, sequence: int | None) -> str | None:
        return None if sequence is None else f"{self._short}-{sequence}"

    def _refusal(self, reasons: tuple[Reason, ...], sequence: int | None) -> bytes:
        reference = self._reference(sequence)
        return encode_json({"ok": False, "reference": reference, "refusal": cli.refusal(reasons, reference)})

    def _tell(self, status: int, word: str, body: bytes) -> None:
        if self._say is not None and self._may_speak():
            self._say(status, word, body)


def saying(near: Stream) -> Say:
    """Who says it in HTTP/1.1, as the last that is said there."""

    def say(status: int, word: str, body: bytes) -> None:
        head = f"HTTP/1.1 {status} {word}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(OSError):
            near.sendall(head.encode("ascii") + body, LINGER)
            near.end()
            near.linger(LINGER)

    return say


def malformed(error: FormatError) -> Reason:
    """What was no request, as a reason."""
    return Reason("malformed", error.what[:100], error.expected, error.got)

"""A stream of server-sent events: what is in the `data` of each, one message an event.

    event: message
    data: {"jsonrpc":"2.0","id":1,"result":{…}}

Lines end LF or CR LF. An event of another name than `message`, a field of another name and a lone CR, which some take for the end of a
line and others do not, are refused. Comments, ids and times to reconnect are passed over, as is an event without data: nothing is resumed.

>>> events = Events(1024)
>>> events.feed(b": still here\\n\\ndata: 1\\n"), events.feed(b"data: 2\\n\\ndata")
([], [b'1\\n2'])

Source: HTML, Living Standard, 9.2.6 "Interpreting an event stream".
"""

from __future__ import annotations

from typing import Final

from writ.formats.errors import FormatError

_FIELDS: Final = (b"data", b"event", b"id", b"retry")
_WHAT: Final = "event stream"


class Events:
    """Reads a stream as it comes."""

    def __init__(self, most: int) -> None:
        """No line, and no event, is longer than `most` bytes."""
        self._most, self._rest, self._data = most, bytearray(), list[bytes]()
        self._size = 0

    def feed(self, part: bytes) -> list[bytes]:
        """The data of the events that end in `part`. Raises FormatError."""
        first, *more = part.split(b"\n")
        self._rest += first  # what is held of a line is not copied for each part of it
        if max(map(len, (self._rest, *more))) > self._most:
            raise FormatError(_WHAT, f"lines of at most {self._most} bytes", "a longer one")
        if not more:
            return []
        lines, self._rest = [bytes(self._rest), *more[:-1]], bytearray(more[-1])
        return [whole for line in lines if (whole := self._line(line.removesuffix(b"\r"))) is not None]

    def _line(self, line: bytes) -> bytes | None:
        """The data of the event that `line` ends."""
        if b"\r" in line:
            raise FormatError(_WHAT, "lines that end LF or CR LF", "a lone CR")
        if not line:
            whole, self._data, self._size = b"\n".join(self._data), [], 0
            return whole or None
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name and name not in _FIELDS:
            raise FormatError(_WHAT, "data, event, id, retry or a comment", repr(name[:40]))
        if name == b"event" and value != b"message":
            raise FormatError(f"{_WHAT}.event", "message", repr(value[:40]))
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self._most:
                raise FormatError(_WHAT, f"an event of at most {self._most} bytes", "a longer one")
        return None


def event(data: bytes) -> bytes:
    """One message, which has no line break in it, as an event."""
    return b"event: message\ndata: " + data + b"\n\n"

"""One side of an exchange: a message that comes and a message that goes, in the words of h11, whatever the version on the wire.

    Request | Response, Data …, EndOfMessage        an InformationalResponse only comes

A request says its length as HTTP/1.1 would, so one without a length and without chunks has no content.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import h11

from enforcer.wire.limits import Ended
from enforcer.wire.stream import Stream
from writ.formats.errors import FormatError

_PART: Final = 64 << 10


class Side(Protocol):
    """Thread-safe as far as one thread may read while another writes."""

    @property
    def over(self) -> bool:
        """Whether it is known already that only the end is still to come."""

    @property
    def streams(self) -> bool:
        """Whether an answer may come while its request goes on."""

    def next(self) -> h11.Event:
        """What came. Raises TimeoutError where nothing did, and may be called again then; Ended, OSError, FormatError."""

    def send(self, event: h11.Event, *, last: bool = False) -> None:
        """It has left. With `last` the end follows at once. Raises TimeoutError, Ended, OSError, FormatError."""

    def proceed(self) -> None:
        """Whoever waits to be told to go on with a request is told."""

    def on_stop(self, act: Callable[[], None] | None) -> None:
        """`act`, which must not wait, is called once this side has nothing more to say or to hear before its time."""

    def stop(self) -> None:
        """Nothing more comes or goes: who waits here is told. From any thread; does not wait."""

    def ignore(self) -> None:
        """What still comes is not taken: who waits for it is told. Something may be said still."""

    def opened(self) -> Stream:
        """What is beneath, with what was read too far, where both sides have agreed to speak something else."""


class Http1:
    """A message each way on a connection of HTTP/1.1. h11 reads it and spells it; trailers do not pass."""

    streams: Final = False

    def __init__(self, stream: Stream, reader: h11.Connection | None = None, *, keep: bool = True) -> None:
        """`reader` has read the head of a request, to which nothing was said yet; None for the other side, to which one goes.

        Where `keep` is False, the agent is told that this was the only one.
        """
        self._stream, self._keep = stream, keep
        self._h11 = h11.Connection(h11.CLIENT) if reader is None else reader
        self._lock = threading.Lock()
        self._ahead: h11.Event | None = None
        self._stopped = False

    @property
    def over(self) -> bool:
        """As a Side."""
        if self._ahead is None:
            event = self._event()
            self._ahead = event if isinstance(event, h11.Event) else None
        return isinstance(self._ahead, h11.EndOfMessage)

    @property
    def done(self) -> bool:
        """Whether both messages are whole, and another may follow."""
        states = (self._h11.our_state, self._h11.their_state)
        return states == (h11.DONE, h11.DONE) and (self._h11.our_role is h11.SERVER or not self._h11.trailing_data[0])

    def may_speak(self) -> bool:
        """Whether an answer has not begun."""
        return self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def next(self) -> h11.Event:
        """As a Side."""
        ahead, self._ahead = self._ahead, None
        while (event := ahead or self._event()) is h11.NEED_DATA:
            data = self._stream.recv(_PART)
            if not data and self._stopped:  # the end that we made ourselves says nothing about the message
                raise Ended("reset")
            with self._lock, _refusing():
                self._h11.receive_data(data)
        if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
            raise Ended("unanswered")
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) else event

    def send(self, event: h11.Event, *, last: bool = False) -> None:
        """As a Side."""
        if isinstance(event, h11.Request):
            headers = [(name, value) for name, value in event.headers.raw_items() if name.lower() != b"te"]
            event = h11.Request(method=event.method, target=event.target, headers=headers)
        elif isinstance(event, h11.Response) and not self._keep:
            headers = [*event.headers.raw_items(), (b"Connection", b"close")]
            event = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
        elif isinstance(event, h11.EndOfMessage):
            event = h11.EndOfMessage()
        with self._lock, _refusing():
            data = self._h11.send(event) or b""
        self._stream.sendall(data)

    def proceed(self) -> None:
        """As a Side."""
        if self._h11.they_are_waiting_for_100_continue:
            self.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))

    def on_stop(self, act: Callable[[], None] | None) -> None:
        """As a Side: an agent that ends is noticed when it is written to."""

    def stop(self) -> None:
        """As a Side."""
        self._stopped = True
        self._stream.shut()

    def ignore(self) -> None:
        """As a Side: nobody waits for the rest of a request while it is answered."""

    def opened(self) -> Stream:
        """As a Side."""
        self._stream.unread(self._h11.trailing_data[0])
        return self._stream

    def _event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        with self._lock, _refusing():
            return self._h11.next_event()


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except h11.ProtocolError:  # its text quotes lines of the answer, and a host may say a secret in one that it was sent
        raise FormatError("http", "a request and an answer of HTTP/1.1", "another") from None

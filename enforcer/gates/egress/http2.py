"""One connection of HTTP/2, and its streams, each a side of an exchange.

One thread reads; what came goes to the stream that it is of, and waits there until an exchange takes it. What waits is bounded by the
window of its stream, and the other side is given more only for what was handed on, so a slow side slows the other. The window of the
connection is that of all its streams together: a stream that stands still holds up no other.

h2 keeps the state of connection and streams, `frames` bounds what h2 does not.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import h11
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from enforcer.gates.egress.frames import Frame, Frames, Type
from enforcer.gates.egress.request import Headers, parse_trailers
from enforcer.wire.head import MAX_HEAD
from enforcer.wire.limits import Ended, Limits
from enforcer.wire.stream import LINGER, Stream
from writ.formats.errors import FormatError

WINDOW: Final = 256 << 10
"""Bytes that may wait on one stream."""
TABLE: Final = 4096
"""Bytes of headers that are remembered to compress others, whatever the other side would take (RFC 7541 4.2)."""
DRIBBLE: Final = 1024
"""Bytes: a frame that is shorter, and only for want of a window, earns the other side nothing."""
_PART: Final = 64 << 10
_DEFAULT_WINDOW: Final = 65535
_H2: Final = "http2.frames"
"""What h2 refused, and will say so."""
_OF_HTTP1: Final = frozenset({b"connection", b"host", b"transfer-encoding"})


class _Connection(H2Connection):
    MAX_CLOSED_STREAMS = 1024


class Http2:
    """Over `stream`, as the client or as the server. Thread-safe; one thread reads."""

    def __init__(self, stream: Stream, limits: Limits, *, client: bool) -> None:
        """`why` is why nothing comes or goes any more, None while something may."""
        self.client, self.limits, self.lock = client, limits, threading.Lock()
        self.frames = Frames(preface=not client)
        self.sides: dict[int, Http2Stream] = {}
        self.h2 = _Connection(H2Configuration(client_side=client, validate_inbound_headers=client, header_encoding=None))
        self.h2.decoder.max_header_list_size = MAX_HEAD
        self.h2.local_settings = Settings(
            client=client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: WINDOW, SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.streams,
            },
        )  # fmt: skip
        self._stream, self._sending = stream, threading.Lock()
        self._asked: list[tuple[Http2Stream, Headers, bool]] = []
        self.why: Exception | None = None
        self._settled = self._draining = False
        self._places = 0

    def begin(self) -> None:
        """Our preface has left. Raises OSError."""
        with self.lock:
            self.h2.initiate_connection()
            self.h2.increment_flow_control_window(WINDOW * self.limits.streams - _DEFAULT_WINDOW)
        self.flush()

    def settle(self) -> None:
        """The other side has said its settings, within the time to dial. Raises Ended, OSError, FormatError."""
        end = time.monotonic() + self.limits.dial_within
        while not self._settled:
            self.read(within=end - time.monotonic())

    def read(self, *, within: float | None = None) -> list[tuple[Http2Stream, Headers, bool]]:
        """What came next is where it belongs. Returns each request that begins, its fields, and whether no content follows.

        Raises Ended at the end and after `within` seconds (where None, those of a head in the middle of one, else of `idle`, and without
        end while streams are open); OSError; FormatError for what is no HTTP/2 or too much of it, once the other side was told.
        """
        if not self._readable(within):
            self._refuse(Ended("idle"), ErrorCodes.NO_ERROR)
            raise Ended("idle")
        data = self._stream.come(_PART)
        if data is None:
            return []
        if not data:
            raise Ended("unanswered")
        try:
            asked = self.hear(data)
        except FormatError as error:
            self._refuse(error, None if error.what == _H2 else ErrorCodes.ENHANCE_YOUR_CALM)
            raise
        self.flush()
        return asked

    def hear(self, data: bytes) -> list[tuple[Http2Stream, Headers, bool]]:
        """As `read`, of what came, and without a word to the other side. Raises FormatError."""
        try:
            for frame in self.frames.take(data):
                self._take(frame)
        except ProtocolError as error:
            raise FormatError(_H2, "frames of RFC 9113", type(error).__name__) from None
        asked, self._asked = self._asked, []
        return asked

    def reserve(self) -> Http2Stream | None:
        """The side of one more request of ours, None where there is no room for it."""
        with self.lock:
            most = min(self.h2.remote_settings.max_concurrent_streams, self.limits.streams)
            if self.why is not None or self._draining or self._places >= most:
                return None
            self._places += 1
            return Http2Stream(self, None)

    def release(self, side: Http2Stream) -> None:
        """There is room again; with the lock held."""
        self._places -= 1
        if side.number is not None:
            self.sides.pop(side.number, None)

    @property
    def spent(self) -> bool:
        """Whether nothing is under way on it, nor ever will be."""
        return (self.why is not None or self._draining) and not self._places

    def fail(self, why: Exception) -> None:
        """Nothing more comes or goes, on any stream. From any thread; does not wait."""
        self._stop(why)
        self._stream.shut()

    def flush(self, within: float = -1) -> None:
        """All that was to be sent has left. Raises TimeoutError, OSError."""
        if not self._sending.acquire(timeout=within):
            raise TimeoutError
        try:
            while True:
                with self.lock:
                    data = self.h2.data_to_send()
                if not data:
                    return
                self._stream.sendall(data)
        finally:
            self._sending.release()

    def _readable(self, within: float | None) -> bool:
        """Something is there to be read. False after too long without."""
        if within is None and self.frames.heading:
            within = self.frames.heading_since + self.limits.head_within - time.monotonic()
        while not self._stream.readable(self.limits.idle if within is None else within):
            if within is not None or not self.sides:
                return False
        return True

    def _take(self, frame: Frame) -> None:
        stopped: list[Http2Stream] = []
        with self.lock:
            if frame.type == Type.GOAWAY:  # h2 would take it for the end also of the streams that are still answered
                self._draining = True
                stopped = [side for number, side in self.sides.items() if self.client and number > frame.last_stream]
            else:
                events = self.h2.receive_data(frame.data)
                if frame.type == Type.DATA and not any(isinstance(event, DataReceived) for event in events):
                    self.frames.spend(1)
                for event in events:
                    stopped += self._event(event)
                self._settled = self._settled or frame.type == Type.SETTINGS
                if self.h2.encoder.header_table_size > TABLE:  # noqa: PLR1730 - to set what is set would hide that the other side changed it
                    self.h2.encoder.header_table_size = TABLE
        for side in stopped:
            side.fail(Ended("reset"))

    def _event(self, event: Event) -> list[Http2Stream]:
        """It is where it belongs; those streams that ended with it before their time."""
        side = self.sides.get(getattr(event, "stream_id", 0))
        if isinstance(event, RequestReceived):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            side = self.sides[event.stream_id] = Http2Stream(self, event.stream_id, fields)
            self._places += 1
            self._asked.append((side, fields, event.stream_ended is not None))
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            for one in self.sides.values() if side is None else [side]:
                one.wake()
        elif isinstance(event, StreamReset) and side is not None:
            self.frames.spend(0 if event.remote_reset else 8)
            return [side]
        elif isinstance(event, DataReceived):
            if not event.data and event.stream_ended is None:
                self.frames.spend(1)
            if side is None:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                side.take_data(event.data, event.flow_controlled_length)
        elif isinstance(event, ResponseReceived | TrailersReceived) and side is not None:
            side.take_fields([(bytes(name), bytes(value)) for name, value in event.headers])
        elif isinstance(event, StreamEnded) and side is not None:
            side.take_end()
        return []

    def _stop(self, why: Exception) -> None:
        with self.lock:
            self.why = self.why or why
            sides = list(self.sides.values())
        for side in sides:
            side.fail(why)

    def _refuse(self, why: Exception, code: ErrorCodes | None) -> None:
        """The other side is told, as far as it listens, that this was all; where `code` is None, h2 has said so."""
        self._stop(why)
        self._stream.settimeout(LINGER)
        with contextlib.suppress(ProtocolError, OSError):
            if code is not None:
                with self.lock:
                    self.h2.close_connection(code)
            self.flush(LINGER)
            self._stream.end()
            self._stream.linger(LINGER)


class Http2Stream:
    """One request and its answer: a Side."""

    streams: Final = True

    def __init__(self, connection: Http2, number: int | None, fields: Headers | None = None) -> None:
        """`fields` of the request that came; without a number, one of ours goes, once it is sent."""
        self.number = number
        self._of, self._h2, self._idle = connection, connection.h2, connection.limits.idle
        self._changed = threading.Condition(connection.lock)
        self._came: deque[tuple[bytes, int] | Headers] = deque()
        self._owed = 0
        self._left = None if fields is None else _length(fields)
        self._waits = fields is not None and (b"expect", b"100-continue") in fields
        self._heads = fields is not None
        self._ended = self._begun = self._finished = self._ignored = False
        self._trailers: Headers = []
        self._bodiless = False
        self._why: Exception | None = None
        self._act: Callable[[], None] | None = None

    # --- what the connection says, with its lock held

    def take_fields(self, fields: Headers) -> None:
        """An answer's head, or what follows the content."""
        if self._heads:
            self._trailers = fields
            return
        self._heads = True
        self._left = None if self._bodiless or dict(fields).get(b":status") in (b"204", b"304") else _length(fields)
        self._came.append(fields)
        self._changed.notify_all()

    def take_data(self, data: bytes, cost: int) -> None:
        """Some content, which took so much of the window."""
        if self._left is not None:
            self._left -= len(data)
        self._came.append((data, cost))
        self._changed.notify_all()

    def take_end(self) -> None:
        """All has come."""
        self._ended = True
        self._changed.notify_all()

    def wake(self) -> None:
        """There may be room to send."""
        self._changed.notify_all()

    # --- a Side

    @property
    def over(self) -> bool:
        """As a Side."""
        with self._changed:
            return self._ended and not (self._came or self._trailers or self._left)

    def next(self) -> h11.Event:
        """As a Side. What was taken before counts as handed on."""
        self._repay()
        with self._changed:
            if not (self._came or self._ended or self._why or self._ignored):
                self._changed.wait(self._idle)
            if self._ignored:
                raise Ended("reset")
            if self._why is not None and not self._ended:
                raise self._why
            if not (self._came or self._ended):
                raise TimeoutError
            if not self._came:
                return self._end()
            came = self._came.popleft()
            if isinstance(came, tuple):
                self._owed += came[1]
                return h11.Data(data=came[0])
        return _answer(came)

    def send(self, event: h11.Event, *, last: bool = False) -> None:
        """As a Side."""
        if isinstance(event, h11.Data):
            self._send_data(memoryview(event.data), last=last)
        elif isinstance(event, h11.EndOfMessage):
            self._send_end(list(event.headers))
        elif isinstance(event, h11.Request):
            named = dict(event.headers)
            fields = [(b":method", event.method), (b":scheme", b"https"), (b":authority", named[b"host"]), (b":path", event.target)]
            self._send_head([*fields, *_plain(event.headers)], last=last)
        elif isinstance(event, h11.Response | h11.InformationalResponse):
            self._begun = self._begun or isinstance(event, h11.Response)
            self._send_head([(b":status", b"%d" % event.status_code), *_plain(event.headers)], last=last)

    def proceed(self) -> None:
        """As a Side."""
        if self._waits:
            self.send(h11.InformationalResponse(status_code=100, headers=[]))

    def on_stop(self, act: Callable[[], None] | None) -> None:
        """As a Side."""
        with self._changed:
            self._act, why = act, self._why
            if act is not None and why is not None:
                act()

    def stop(self) -> None:
        """As a Side."""
        self.fail(Ended("reset"))

    def ignore(self) -> None:
        """As a Side."""
        with self._changed:
            self._ignored = True
            self._changed.notify_all()

    def opened(self) -> Stream:
        """As a Side: never."""
        raise FormatError("http", "no switch to another protocol within HTTP/2", "one")

    # --- what its exchange's thread does beside

    def may_speak(self) -> bool:
        """Whether an answer has not begun, and somebody hears it."""
        return not self._begun and self._why is None

    def say(self, status: int, _word: str, body: bytes) -> None:
        """An answer of our own, as far as it is heard soon."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self._idle = LINGER
        with contextlib.suppress(OSError, Ended, FormatError):
            self.send(h11.Response(status_code=status, headers=headers))
            self.send(h11.Data(data=body))
            self.send(h11.EndOfMessage())

    def fail(self, why: Exception) -> None:
        """It goes no further, in either direction. From any thread; does not wait."""
        with self._changed:
            self._why = self._why or why
            self._changed.notify_all()
            if self._act is not None:
                self._act()

    def leave(self, *, refused: bool = False) -> None:
        """Nobody cares for it any more: what is not at its end is reset, what was not taken is let go. Raises OSError."""
        self._repay()
        with self._changed:
            self._why = self._why or Ended("reset")
            while self._came:
                came = self._came.popleft()
                self._owed += came[1] if isinstance(came, tuple) else 0
            if self.number is not None and not (self._ended and self._finished):
                code = ErrorCodes.CANCEL if self._of.client else ErrorCodes.NO_ERROR if self._finished else ErrorCodes.INTERNAL_ERROR
                with contextlib.suppress(ProtocolError):
                    self._h2.reset_stream(self.number, ErrorCodes.REFUSED_STREAM if refused else code)
            self._of.release(self)
        self._repay()
        self._of.flush()

    def _repay(self) -> None:
        """The other side may send as much again as was handed on."""
        with self._changed:
            owed, self._owed = self._owed, 0
            if not owed or self.number is None:
                return
            with contextlib.suppress(ProtocolError):
                self._h2.acknowledge_received_data(owed, self.number)
        self._of.flush()

    def _end(self) -> h11.EndOfMessage:
        if self._left:
            raise FormatError("http", "as much content as its length says", f"{self._left} bytes less")
        return h11.EndOfMessage(headers=parse_trailers(self._trailers))

    def _send(self, act: Callable[[int], int]) -> int:
        """`act` is called with the lock held, and what it says has left. Returns what it returns."""
        with self._changed:
            self._check()
            try:
                number = self._h2.get_next_available_stream_id() if self.number is None else self.number
                done = act(number)
            except StreamClosedError:
                raise Ended("reset") from None
            except ProtocolError as error:
                raise FormatError("http2", "what may be said now", type(error).__name__) from None
            self.number, self._of.sides[number] = number, self
        self._of.flush()
        return done

    def _send_head(self, fields: Headers, *, last: bool) -> None:
        def act(number: int) -> int:
            self._h2.send_headers(number, fields, end_stream=last)
            self._of.frames.earn(10)
            self._finished = last
            return 0

        self._bodiless = (b":method", b"HEAD") in fields
        self._send(act)

    def _send_data(self, data: memoryview, *, last: bool) -> None:
        def act(number: int) -> int:
            size = min(self._room(number), len(data))
            if size >= min(len(data), DRIBBLE):
                self._of.frames.earn(4)
            self._finished = last and size == len(data)
            self._h2.send_data(number, data[:size], end_stream=self._finished)
            return size

        while data:
            data = data[self._send(act) :]

    def _send_end(self, trailers: Headers) -> None:
        def act(number: int) -> int:
            if trailers:
                self._h2.send_headers(number, trailers, end_stream=True)
            else:
                self._h2.end_stream(number)
            self._finished = True
            return 0

        if not self._finished:
            self._send(act)

    def _room(self, number: int) -> int:
        """How many bytes may be sent now, more than none; with the lock held. Raises TimeoutError, Ended."""
        end = time.monotonic() + self._idle
        while True:
            self._check()
            if (room := min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)) > 0:
                return room
            if not self._changed.wait(end - time.monotonic()):
                raise TimeoutError

    def _check(self) -> None:
        if (why := self._why or self._of.why) is not None:
            raise why


def _plain(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Fields as HTTP/2 spells them."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in _OF_HTTP1]


def _length(fields: Headers) -> int | None:
    for name, value in fields:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


def _answer(fields: Headers) -> h11.Response:
    status = dict(fields).get(b":status", b"")
    try:
        return h11.Response(status_code=int(status), headers=[(name, value) for name, value in fields if not name.startswith(b":")])
    except (ValueError, h11.LocalProtocolError):
        raise FormatError("http", "an answer", "another") from None

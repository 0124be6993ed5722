"""Whom a holder talks to: its client, and the daemon, one after another. What they say becomes events.

A daemon's link says by its mere being there that the daemon lives, and its end is an event, whatever the way.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from enforcer import frames
from enforcer.code_id import installed_code
from enforcer.control import CONTROL, MAX_CONTROL, Approve, Approved, Attach, Attached, Contain, Control, Deliver, Stored
from enforcer.events import ComeOver, Event, FromClient, Killed, LinkLost, LinkUp
from enforcer.standstill import Standstill
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.reason import Reason
from writ.service import observe

_LOG = observe.get_logger(__name__)
LEAVE_WITHIN: Final = 2.0
"""Seconds for what the client is just saying."""


class Links:
    """The connections of one instance. `link` is the daemon's that is there now, as the thread that takes the events knows it."""

    def __init__(self, client: socket.socket, link: socket.socket, events: SimpleQueue[Event]) -> None:
        self._client, self._events = client, events
        self.link: socket.socket | None = link
        self._client_heard: threading.Thread | None = None
        self._link_lost = threading.Event()
        self._still = Standstill()
        self._approve: Callable[[bytes], Approved] | None = None
        self._stored: Callable[[int], None] = lambda _: None
        for connection in (client, link):
            frames.bound_sends(connection)

    def open(self, path: str, instance: bytes, state: Callable[[], str], taken: socket.socket | None = None) -> None:
        """The daemon is heard, and one that comes later too, at `path`; each is told the `state` of `instance`. Raises Unavailable.

        `taken` is a listener that is there already.
        """
        self._instance, self._state = instance, state
        threading.Thread(target=self._hear_link, args=(self.link,), name="link", daemon=True).start()
        self._server = taken or frames.listen(path, uid=os.getuid(), gid=os.getgid(), mode=0o600)
        threading.Thread(target=self._accept, name="holder-socket", daemon=True).start()

    def approve_by(self, approve: Callable[[bytes], Approved]) -> None:
        """Approvals that the daemon hands on are judged by `approve` from now on; before, none is taken."""
        self._approve = approve

    def stored_by(self, stored: Callable[[int], None]) -> None:
        """How many records are in the store off the host is told to `stored` from now on."""
        self._stored = stored

    def leave(self) -> tuple[int, int]:
        """The client is heard no more. Its connection, and the listener, at which nobody is accepted since a daemon of other code came."""
        self._still.call()
        if self._client_heard is not None:
            self._client_heard.join(LEAVE_WITHIN)
        return self._client.fileno(), self._server.fileno()

    def close(self) -> None:
        """No other daemon comes."""
        self._server.close()

    def daemon(self) -> socket.socket:
        """The link to the daemon that asked for this run. Raises Unavailable where it died: nothing is started that nobody watches."""
        if self.link is None or self._link_lost.is_set():
            raise Unavailable("daemon", "it ended while the agent was being started")
        return self.link

    def hear_client(self) -> None:
        """What the client says is an event, and its end the last of them."""
        self._client_heard = threading.Thread(target=self._hear_client, name="client", daemon=True)
        self._client_heard.start()

    def tell(self, message: Control) -> None:
        """Client and daemon hear it, as far as they are there."""
        self.tell_client(message)
        self.tell_daemon(message)

    def tell_client(self, message: Control) -> None:
        """The client hears it, if it is there."""
        self._tell(self._client, message)

    def tell_daemon(self, message: Control) -> None:
        """The daemon hears it, if it is there."""
        self._tell(self.link, message)

    @staticmethod
    def _tell(connection: socket.socket | None, message: Control) -> None:
        if connection is not None:
            with contextlib.suppress(Unavailable):
                frames.send(connection, CONTROL.encode(message))

    def _hear_client(self) -> None:
        message: Deliver | None = None
        while self._still.readable(self._client):
            try:
                data = frames.receive(self._client, MAX_CONTROL, None)
                parsed: Control | None = None if data is None else CONTROL.parse(data)
            except (Unavailable, FormatError):
                parsed = None
            message = parsed if isinstance(parsed, Deliver) else None
            self._events.put(FromClient(message))
            if message is None:
                return

    def _hear_link(self, link: socket.socket | None) -> None:
        """Obey the daemon while it is there; its end is an event, whatever the way."""
        if link is None:
            raise Misuse("no link")
        try:
            frames.send(link, CONTROL.encode(Attached(self._instance, self._state(), installed_code())))
            while (data := frames.receive(link, MAX_CONTROL, None)) is not None:
                message = CONTROL.parse(data)
                if isinstance(message, Contain) and message.instance == self._instance and message.reasons:
                    self._events.put(Killed(message.reasons, time.monotonic_ns()))
                elif isinstance(message, Stored) and message.instance == self._instance:
                    self._stored(message.size)
                elif isinstance(message, Approve) and message.instance == self._instance and self._approve is not None:
                    frames.send(link, CONTROL.encode(self._judged(self._approve, message.approval)))
        except (Unavailable, FormatError):
            pass
        self._link_lost.set()
        self._events.put(LinkLost(link, time.monotonic_ns()))

    @staticmethod
    def _judged(approve: Callable[[bytes], Approved], signed: bytes) -> Approved:
        """What `approve` says; a fault of ours is a refusal, and no end of the link."""
        try:
            return approve(signed)
        except Exception as error:  # noqa: BLE001 - whatever it is, the daemon is heard on
            _LOG.error("approval-failed", exception=error)
            return Approved(Digest.of(signed).value, (Reason("internal", "approval", "an answer", "a fault of ours"),))

    def _accept(self) -> None:
        """Daemons come one after another. After one of other code nobody is accepted: who comes then waits for the code that takes over."""
        for connection in frames.connections(self._server):
            try:
                data = None if frames.peer_of(connection).uid != os.getuid() else frames.receive(connection, MAX_CONTROL, 5.0)
                wanted = None if data is None else CONTROL.parse(data)
            except (Unavailable, FormatError):
                wanted = None
            if not isinstance(wanted, Attach):
                connection.close()
                continue
            frames.bound_sends(connection)
            if wanted.code != installed_code():
                self._events.put(ComeOver(connection, wanted))
                return
            self._events.put(LinkUp(connection))
            threading.Thread(target=self._hear_link, args=(connection,), name="link", daemon=True).start()

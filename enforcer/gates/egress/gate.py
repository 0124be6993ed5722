"""The gate to the network: an HTTP proxy for one agent, at which every destination is an action.

The agent finds it in HTTP_PROXY and HTTPS_PROXY. It takes `CONNECT HOST:PORT`, and any method on `http://…`, one request a connection:

    > CONNECT api.example.org:443 HTTP/1.1
    < HTTP/1.1 200 Connection established                                                        and then a tunnel
    < HTTP/1.1 403 Refused                 {"ok": false, "reference": "5f1c09ab-12", "refusal": {…}}
    < HTTP/1.1 502 Failed                  {"ok": false, "reference": "5f1c09ab-12", "failure": {"what": …, "detail": …}}
    < HTTP/1.1 400 Malformed               {"ok": false, "reference": null, "refusal": {…}}       no action, no record

The action is `net.connect` on `tcp:HOST:PORT`. A name is looked up after that was permitted, once. Each address that it leads to and
that is not public is an action of its own, on `tcp:ADDRESS:PORT`, so it takes a grant of its own.

Who connects needs no proof: the listener is in the network namespace of the agent's sandbox, where nobody else is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

import h11

from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.gates.egress import exchange, tunnel
from enforcer.gates.egress.addresses import Resolver, is_public
from enforcer.gates.egress.destination import Address, Destination, at
from enforcer.gates.egress.request import END, MAX_HEAD, Wanted, parse_head
from enforcer.gates.egress.tunnel import Ended, Limits, Traffic
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.strict import encode_json
from writ.service import cli, observe

GATE: Final = "egress"
KIND: Final = "net.connect"
CLOSE_WITHIN: Final = 5.0
_ABORT: Final = struct.pack("ii", 1, 0)
"""SO_LINGER (socket(7)): what was not sent yet is thrown away, and the peer hears of a reset."""
_LOG = observe.get_logger(__name__)


class EgressGate:
    """The listener of one instance and its connections, each in a thread of its own. It can be cut and mended, and closed for good."""

    def __init__(
        self, server: socket.socket, *, gatekeeper: Gatekeeper, resolver: Resolver, short: str, limits: Limits | None = None
    ) -> None:
        """`server` listens on a port that it was told, and is ours from now on. `short` is the instance's short name in references."""
        self._server, self._gatekeeper, self._resolver, self._short = server, gatekeeper, resolver, short
        self._limits = limits or Limits()
        self._room = threading.BoundedSemaphore(self._limits.connections)
        self._changed = threading.Condition()
        self._open, self._closed, self._era = True, False, 0
        self._live: set[socket.socket] = set()
        self._attending: set[threading.Thread] = set()
        self._acceptor = threading.Thread(target=self._accept, name="egress", daemon=True)
        self._acceptor.start()
        gatekeeper.hold(self)

    # --- the line, and its cut ---------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Nobody connects and no byte passes, until `mend`. What was in flight gets its outcome."""
        with self._changed:
            self._era += 1
            self._open = False
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            for connection in self._live:
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """New connections pass again; those that were cut stay cut."""
        with self._changed:
            if self._open or self._closed:
                return
            try:
                self._server.listen(self._limits.connections)
            except OSError as error:  # the agent took its own port before it was frozen: it has no way out any more
                _LOG.warning("egress-port-taken", error=error.strerror)
                return
            self._open = True
            self._changed.notify_all()

    def close(self) -> None:
        """Cut for good. What was in flight has its outcome, as far as it ends within `CLOSE_WITHIN`."""
        with self._changed:
            self._closed = True
            attending = [self._acceptor, *self._attending]
            self._changed.notify_all()
        self.cut()
        end = time.monotonic() + CLOSE_WITHIN
        for thread in attending:
            thread.join(max(0.0, end - time.monotonic()))
        self._gatekeeper.release(self)
        self._server.close()

    def _accept(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open or self._closed)
                if self._closed:
                    return
                era = self._era
            try:
                near, _ = self._server.accept()
            except OSError:
                time.sleep(0.001)  # cut, or no descriptor left
                continue
            if not self._room.acquire(blocking=False):
                _LOG.warning("egress-full", connections=self._limits.connections)
                near.close()
                continue
            thread = threading.Thread(target=self._attend, args=(near, era), name="egress-connection", daemon=True)
            with self._changed:
                self._attending.add(thread)
            thread.start()

    @contextlib.contextmanager
    def _joined(self, connection: socket.socket, era: int) -> Iterator[socket.socket]:
        """`connection` is cut with the line, and closed afterwards. Raises Ended where the line was cut since `era`."""
        try:
            with self._changed:
                if self._era != era:
                    raise Ended("cut")
                self._live.add(connection)
            yield connection
        finally:
            with self._changed:
                self._live.discard(connection)
                connection.close()

    # --- one connection ----------------------------------------------------------------------------------------------------

    def _attend(self, near: socket.socket, era: int) -> None:
        try:
            with self._joined(near, era):
                self._serve(near, era)
        except (Ended, OSError):
            pass
        except Exception as error:  # noqa: BLE001 - a bug refuses, and its text does not leave
            _LOG.error("egress-failed", exception=error)
        finally:
            with self._changed:
                self._attending.discard(threading.current_thread())
            self._room.release()

    def _serve(self, near: socket.socket, era: int) -> None:
        """1. what is wanted, 2. the ruling on it, 3. the address, 4. the connection, 5. the forwarding, 6. the outcome."""
        # 1
        try:
            wanted = parse_head(_head(near, self._limits.head_within))
        except FormatError as error:
            exchange.say(near, 400, "Malformed", self._refusal((_malformed(error),), None))
            return
        # 2
        rulings = [self._ask(wanted.destination, wanted.arguments)]
        if not rulings[0].permit:
            exchange.say(near, 403, "Refused", self._refusal(rulings[0].reasons, rulings[0].sequence))
            return
        traffic, address, ended = Traffic(), None, "internal"
        try:
            # 3
            addresses = self._addresses(wanted, rulings)
            # 4
            with self._dialled(addresses, wanted.destination.port, era) as far:
                address = far.getpeername()[0]
                # 5
                self._forward(near, wanted, far, traffic)
            ended = "closed"
        except Refused as refused:
            ended = "refused"
            exchange.say(near, 403, "Refused", self._refusal(refused.reasons, rulings[-1].sequence))
        except Unavailable as error:
            ended = "unavailable"
            exchange.say(near, 502, "Failed", self._failure(rulings[0].sequence, error.what, error.detail))
        except FormatError as error:
            ended = "malformed"
            _LOG.warning("egress-malformed", sequence=rulings[0].sequence, what=error.what, expected=error.expected, got=error.got)
            self._unanswered(near, wanted, rulings[0].sequence, str(error))
        except Ended as end:
            ended = str(end)
            self._unanswered(near, wanted, rulings[0].sequence, ended)
        except OSError as error:
            ended = "reset"
            self._unanswered(near, wanted, rulings[0].sequence, error.strerror or ended)
        finally:
            # 6
            with self._changed:
                ended = ended if self._era == era else "cut"
            # TLS clients end by a reset: whoever closes with an alert unread sends one.
            done = ended == "closed" or (ended == "reset" and wanted.onward is None and traffic.sent > 0)
            result = {"address": address, "ended": ended, "received": traffic.received, "sent": traffic.sent}
            for ruling in rulings:
                if ruling.permit and not self._gatekeeper.outcome(ruling, done=done, result=encode_json(result)):
                    _LOG.error("outcome-not-durable", sequence=ruling.sequence)

    def _ask(self, destination: Destination, arguments: bytes) -> Ruling:
        return self._gatekeeper.ask(Action(KIND, destination.resource, Digest.of(arguments)), arguments, gate=GATE)

    def _addresses(self, wanted: Wanted, rulings: list[Ruling]) -> tuple[Address, ...]:
        """Where the destination leads. Each address that is not public is asked for, and its ruling is among `rulings`.

        Raises Refused where one of them was refused, Unavailable where there is none.
        """
        destination = wanted.destination
        if destination.literal is not None:
            return (destination.literal,)
        addresses = self._resolver.addresses(destination.host)
        if not addresses:
            raise Unavailable("name", f"{destination.host}: no address")
        for address in addresses:
            if is_public(address):
                continue
            if not isinstance(address, IPv4Address) and address.ipv4_mapped is not None:
                raise Unavailable("name", f"{destination.host}: leads to an IPv4-mapped address")
            rulings.append(self._ask(at(address, destination.port), wanted.arguments))
            if not rulings[-1].permit:
                raise Refused(*rulings[-1].reasons)
        return addresses

    @contextlib.contextmanager
    def _dialled(self, addresses: tuple[Address, ...], port: int, era: int) -> Iterator[socket.socket]:
        """A connection to the first of `addresses` that takes one. Raises Unavailable, Ended."""
        end, said = time.monotonic() + self._limits.dial_within, "no address"
        for address in addresses:
            family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
            with self._joined(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC), era) as far:
                said = _connect(far, (str(address), port), max(0.0, end - time.monotonic()))
                if not said:
                    yield far
                    return
        raise Unavailable("destination", said)

    def _forward(self, near: socket.socket, wanted: Wanted, far: socket.socket, traffic: Traffic) -> None:
        if wanted.onward is not None:
            exchange.run(near, wanted.reader, wanted.onward, far, self._limits, traffic)
            return
        near.settimeout(self._limits.idle)
        near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        tunnel.run(near, far, wanted.destination, self._limits, traffic, wanted.reader.trailing_data[0])

    def _unanswered(self, near: socket.socket, wanted: Wanted, sequence: int | None, detail: str) -> None:
        """Where a plain request has no answer yet, it has this one. A tunnel only breaks off: what is in it is not ours to speak."""
        if wanted.onward is not None and wanted.reader.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            exchange.say(near, 502, "Failed", self._failure(sequence, "http", detail))

    # --- what is said ------------------------------------------------------------------------------------------------------

    def _reference(self, sequence: int | None) -> str | None:
        return None if sequence is None else f"{self._short}-{sequence}"

    def _refusal(self, reasons: tuple[Reason, ...], sequence: int | None) -> bytes:
        reference = self._reference(sequence)
        return encode_json({"ok": False, "reference": reference, "refusal": cli.refusal(reasons, reference)})

    def _failure(self, sequence: int | None, what: str, detail: str) -> bytes:
        return encode_json({"ok": False, "reference": self._reference(sequence), "failure": {"what": what, "detail": detail[:300]}})


def _malformed(error: FormatError) -> Reason:
    return Reason("malformed", error.what[:100], error.expected, error.got)


def _head(near: socket.socket, within: float) -> bytes:
    """What came, at least to the end of a head. Raises FormatError above `MAX_HEAD`, Ended where it does not come whole in time."""
    end, data = time.monotonic() + within, b""
    while END not in data:
        if len(data) > MAX_HEAD:
            raise FormatError("request", f"a head of at most {MAX_HEAD} bytes", "a longer one")
        near.settimeout(max(0.001, end - time.monotonic()))
        try:
            part = near.recv(MAX_HEAD)
        except TimeoutError:
            raise Ended("idle") from None
        if not part or time.monotonic() > end:
            raise Ended("idle")
        data += part
    if data.index(END) > MAX_HEAD:
        raise FormatError("request", f"a head of at most {MAX_HEAD} bytes", "a longer one")
    return data


def _connect(far: socket.socket, to: tuple[str, int], within: float) -> str:
    """Connected within so many seconds, or why not."""
    far.setblocking(False)
    number = far.connect_ex(to)
    if number == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(far, select.POLLOUT)
        if not poll.poll(within * 1000):
            return f"no answer within {within:.0f} s"
        number = far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if not number:
        try:
            far.getpeername()  # cut while it was being dialled: no error, and no peer
        except OSError as error:
            number = error.errno or errno.ENOTCONN
    return os.strerror(number) if number else ""

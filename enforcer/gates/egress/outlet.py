"""An instance's ways out, by its grants: whether there are any, what its programs must be told of them, and the gate of each sandbox.

| a grant of            | gives                                                                          |
| ---                   | ---                                                                            |
| `net.connect`         | the proxy                                                                      |
| `http.*` on a URL     | the proxy, and the certificate of the instance's CA, by which TLS to there ends at it |
| `net.accept`          | a port inside, where the host's configuration has an address for it |

A forward of the manifest is a port inside, whatever is granted: each connection is decided.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from enforcer.gatekeeper import Gatekeeper
from enforcer.gates.egress.gate import EgressGate
from enforcer.gates.egress.instance_ca import InstanceCa
from enforcer.gates.egress.passage import ACCEPT, INBOUND_SHARE, Forwarded, Inbound, Local, MakeWay, Served
from enforcer.gates.egress.session import Opened
from enforcer.gates.egress.way import CONNECT, Way
from enforcer.launch.image import within
from enforcer.launch.netns import ADDRESS, Namespace
from enforcer.launch.sandbox import GATE
from enforcer.quota import Quota
from enforcer.secrets.held import Secrets
from enforcer.wire.addresses import SystemResolver
from enforcer.wire.destination import Destination, parse_authority
from enforcer.wire.host_tls import upstream_contexts
from enforcer.wire.limits import Limits
from enforcer.wire.line import ListeningLine
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.forward import PROXY_PORT, Forward
from writ.formats.grants import Grant, covers
from writ.formats.reason import Reason
from writ.formats.secret import PROXIED, PROXY_RULES, TRUSTING
from writ.service.clock import Clock

CA_FILE: Final = "ca.pem"
_PROXY: Final = f"http://{ADDRESS}:{PROXY_PORT}"
_ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"
"""Where an image of Debian's kind keeps the roots it trusts."""
_MAX_ROOTS: Final = 4 << 20


class Outlet:
    """The ways out of one instance, and into it, for each sandbox that it has."""

    def __init__(
        self, grants: Sequence[Grant], clock: Clock, secrets: Secrets, *, roots: Path | None, always: bool,
        forwards: Sequence[Forward] = (), sockets: Collection[str] = (), inbound: Sequence[tuple[int, tuple[str, int]]] = (),
        ca: bytes | None = None,
    ) -> None:  # fmt: skip
        """`secrets` go where TLS ends here. `roots` are whom hosts are verified by, the system's where None; with `always` there is a
        proxy whatever is granted.

        `sockets` are the unix sockets that a forward may name, `inbound` the ports inside with the address of this host for each, of which
        those that are granted are opened. `ca` is what a CA of this instance left. Raises Unavailable, Refused, FormatError.
        """
        hosts = opened_by(grants)
        self._clock = clock
        self.leads = always or bool(hosts) or any(grant.action == CONNECT for grant in grants)
        self._opened: Opened | None = None
        if hosts:
            try:
                upstream = upstream_contexts(None if roots is None else str(roots))
            except OSError as error:
                raise Unavailable("egress_ca_file", f"{roots}: {error.strerror or 'no certificates'}") from None
            self._opened = Opened(frozenset(host.authority for host in hosts), InstanceCa(hosts, clock, ca), upstream, secrets)
        self._forwards = [(one.listen, _place(one, sockets, {host.authority for host in hosts})) for one in forwards]
        self._inbound = [(port, at) for port, at in inbound if any(covers(grant, ACCEPT, f"tcp:{port}") for grant in grants)]

    @property
    def ca(self) -> bytes | None:
        """What the instance's CA leaves to the program that takes this one's place in its process."""
        return None if self._opened is None else self._opened.ca.left()

    @property
    def environment(self) -> dict[str, str]:
        """What the instance's programs find in theirs."""
        trusted = dict.fromkeys(TRUSTING, f"{GATE}/{CA_FILE}") if self._opened is not None else {}
        proxied = {**dict.fromkeys(PROXIED, _PROXY), **dict(zip(PROXY_RULES, ("", "", "1"), strict=True))}
        return {**proxied, **trusted} if self.leads else {}

    def lay(self, folder: Path, image: Path) -> bool:
        """`folder`, a sandbox's gate, has whom to trust: the instance's CA, and whom `image` trusts, for what stays opaque.

        False where there is nothing to be trusted. Raises Unavailable.
        """
        if self._opened is None:
            return False
        try:
            path = folder / CA_FILE
            path.write_bytes(self._opened.ca.certificate + _roots_of(image))
            path.chmod(0o444)
        except OSError as error:
            raise Unavailable("certificates for the agent", f"{error.strerror}") from None
        return True

    def open(self, init: int, gatekeeper: Gatekeeper, short: str) -> Callable[[], None]:
        """The ways of the sandbox that begins with `init` are open, before its program runs. What is returned closes them for good.

        Raises Unavailable; none is open then.
        """
        if not (self.leads or self._forwards or self._inbound):
            return lambda: None
        with contextlib.ExitStack() as made:
            namespace = Namespace(init)
            made.callback(namespace.close)
            ways = _Ways(gatekeeper, short, made)
            if self.leads:
                gate = EgressGate(
                    namespace.listen(PROXY_PORT), gatekeeper=gatekeeper, resolver=ways.resolver, short=short, limits=ways.limits,
                    opened=self._opened, room=ways.room,
                )  # fmt: skip
                made.callback(gate.close)
            for port, place in self._forwards:
                serves = partial(Forwarded, port, place) if isinstance(place, Destination) else partial(Local, port, place)
                ways.add(namespace.listen(port), serves)
            others, callers = Quota(self._clock, share=INBOUND_SHARE), threading.BoundedSemaphore(ways.limits.connections)
            for port, at in self._inbound:
                ways.add(_outside(at), partial(Inbound, port, namespace.unconnected, ADDRESS, others), callers)
            return made.pop_all().close


class _Ways:
    """What the ways of one sandbox share."""

    def __init__(self, gatekeeper: Gatekeeper, short: str, made: contextlib.ExitStack) -> None:
        self.limits, self.resolver, self._gatekeeper, self._short, self._made = Limits(), SystemResolver(), gatekeeper, short, made
        self.room = threading.BoundedSemaphore(self.limits.connections)

    def add(self, server: socket.socket, made: Callable[[MakeWay], Served], room: threading.BoundedSemaphore | None = None) -> None:
        """A line of its own, cut with all others. With `room` its connections take none from the agent's."""

        def way(era: int) -> Way:
            return Way(self._gatekeeper, self.resolver, self.limits, line, era, self._short)

        line = ListeningLine(server, made(way).serve, room or self.room, self.limits)
        line.begin()
        self._gatekeeper.hold(line)
        self._made.callback(self._gatekeeper.release, line)
        self._made.callback(line.close)


def _place(forward: Forward, sockets: Collection[str], opened: Collection[str]) -> Destination | str:
    """Where it leads. Raises Refused where requests there are decided one by one, Unavailable for a socket that this host does not give."""
    if forward.path is not None:
        if forward.path not in sockets:
            raise Unavailable("forwards", f"{forward.to}: not among this host's unix_sockets")
        return forward.path
    destination = parse_authority(forward.to.removeprefix("tcp:"))
    if destination.authority in opened:
        raise Refused(Reason("malformed", "manifest.forwards", "a place without grants of requests", forward.to))
    return destination


def _outside(at: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_server(at, family=socket.AF_INET6 if ":" in at[0] else socket.AF_INET)
    except OSError as error:
        raise Unavailable("inbound", f"{at[0]} port {at[1]}: {error.strerror}") from None


def opened_by(grants: Sequence[Grant]) -> tuple[Destination, ...]:
    """Each `HOST:PORT` that an `http` grant names as it would be asked for. A URL without a port, or spelt otherwise, names none."""
    found: dict[str, Destination] = {}
    for grant in grants:
        scheme, _, rest = grant.resource.partition("://")
        authority, slash, _ = rest.partition("/")
        if not grant.action.startswith("http.") or scheme not in ("http", "https") or not slash:
            continue
        try:
            host = parse_authority(authority)
        except FormatError:
            continue
        if host.authority == authority:
            found[authority] = host
    return tuple(found[authority] for authority in sorted(found))


def _roots_of(image: Path) -> bytes:
    """None where the image has none."""
    found = within(image, _ROOTS)
    if found is None:
        return b""
    try:
        with found.open("rb") as file:
            data = file.read(_MAX_ROOTS + 1)
    except OSError:
        return b""
    if len(data) > _MAX_ROOTS:
        raise Unavailable("image", f"its roots are longer than {_MAX_ROOTS} bytes")
    return data

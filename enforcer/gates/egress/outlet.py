"""An instance's ways out, by its grants: whether there are any, what its programs must be told of them, and the gate of each sandbox.

| a grant of            | gives                                                                          |
| ---                   | ---                                                                            |
| `net.connect`         | the proxy                                                                      |
| `http.*` on a URL     | the proxy, and the certificate of the instance's CA, by which TLS to there ends at it |
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from enforcer.gatekeeper import Gatekeeper
from enforcer.gates.egress.addresses import SystemResolver
from enforcer.gates.egress.destination import Destination, parse_authority
from enforcer.gates.egress.gate import KIND, EgressGate
from enforcer.gates.egress.instance_ca import InstanceCa, upstream_context
from enforcer.gates.egress.session import Opened
from enforcer.launch.netns import ADDRESS, listen_in
from enforcer.launch.sandbox import GATE
from writ.formats.errors import FormatError, Unavailable
from writ.formats.grants import Grant
from writ.service.clock import Clock

PROXY_PORT: Final = 3128
CA_FILE: Final = "ca.pem"
_PROXY: Final = f"http://{ADDRESS}:{PROXY_PORT}"
_PROXIED: Final = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
"""Programs differ in the spelling that they read, and curl reads the small one only for http."""
_TRUSTING: Final = (
    "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "NPM_CONFIG_CAFILE",
)  # fmt: skip
_ROOTS: Final = ("etc", "ssl", "certs", "ca-certificates.crt")
"""Where an image of Debian's kind keeps the roots it trusts."""
_MAX_ROOTS: Final = 4 << 20


class Outlet:
    """The ways out of one instance, for each sandbox that it has."""

    def __init__(self, grants: Sequence[Grant], clock: Clock, *, roots: Path | None, always: bool) -> None:
        """`roots` are whom hosts are verified by, the system's where None; with `always` there is a proxy whatever is granted.

        Raises Unavailable.
        """
        hosts = opened_by(grants)
        self.leads = always or bool(hosts) or any(grant.action == KIND for grant in grants)
        self._opened: Opened | None = None
        if hosts:
            try:
                upstream = upstream_context(None if roots is None else str(roots))
            except OSError as error:
                raise Unavailable("egress_ca_file", f"{roots}: {error.strerror or 'no certificates'}") from None
            self._opened = Opened(frozenset(host.authority for host in hosts), InstanceCa(hosts, clock), upstream)

    @property
    def environment(self) -> dict[str, str]:
        """What the instance's programs find in theirs."""
        trusted = dict.fromkeys(_TRUSTING, f"{GATE}/{CA_FILE}") if self._opened is not None else {}
        return {**dict.fromkeys(_PROXIED, _PROXY), "NO_PROXY": "", "no_proxy": "", **trusted} if self.leads else {}

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

    def open(self, init: int, gatekeeper: Gatekeeper, short: str) -> EgressGate:
        """The gate of the sandbox that begins with `init`, before its program runs. Raises Unavailable."""
        server = listen_in(init, PROXY_PORT)
        return EgressGate(server, gatekeeper=gatekeeper, resolver=SystemResolver(), short=short, opened=self._opened)


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
    """None where the image has none. No link is followed: within an image, it would lead out of it."""
    folder = os.open(image, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for at, name in enumerate(_ROOTS):
            flags = (os.O_PATH | os.O_DIRECTORY) if at < len(_ROOTS) - 1 else os.O_RDONLY
            inner = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        with open(os.dup(folder), "rb") as file:
            data = file.read(_MAX_ROOTS + 1)
    except OSError:
        return b""
    finally:
        os.close(folder)
    if len(data) > _MAX_ROOTS:
        raise Unavailable("image", f"its roots are longer than {_MAX_ROOTS} bytes")
    return data

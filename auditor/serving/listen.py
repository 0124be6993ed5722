"""Where a service listens, and until when."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from auditor.serving.http import MOST_CONNECTIONS, Server, Service, is_prefix
from writ.formats.errors import FormatError, Unavailable
from writ.service import observe

_log = observe.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a service is reached. Without TLS that is a loopback address."""

    address: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None


def parse_listen(text: str, prefix: str, certificate: Path | None, key: Path | None) -> Listen:
    """Read what the command line says of it. Raises FormatError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise FormatError("--listen", "ADDRESS:PORT with an IP address", repr(text[:80])) from None
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise FormatError("--listen", "a port from 0 to 65535", repr(port[:20]))
    if not is_prefix(prefix):
        raise FormatError("--prefix", "nothing, or segments such as /w1 without a slash at the end", repr(prefix[:80]))
    if (certificate is None) != (key is None):
        raise FormatError("--tls-cert", "--tls-cert and --tls-key together", "one of them")
    tls = None if certificate is None or key is None else _tls(certificate, key)
    if tls is None and not address.is_loopback:
        raise FormatError("--listen", "a loopback address, or --tls-cert and --tls-key", repr(text[:80]))
    return Listen(str(address), int(port), prefix, tls)


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError:
        raise FormatError("--tls-cert", "a certificate chain and its unencrypted key, PEM", "something else") from None
    except OSError as error:
        raise Unavailable("--tls-cert", error.strerror or "cannot be read") from None
    return context


def _no_password() -> str:
    return ""


def serve(service: Service, listen: Listen, name: str, vkey: str) -> None:
    """`service`, told of in the log as `name` with the key `vkey`, is served until SIGTERM or SIGINT. Raises Unavailable."""
    with _listener(listen) as listener:
        asyncio.run(_until_stopped(Server(service, listen.prefix, listen.tls), listener, listen, name, vkey))


def _listener(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    try:
        return socket.create_server((listen.address, listen.port), family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        raise Unavailable("--listen", f"cannot listen on {listen.address} port {listen.port}: {error.strerror}") from None


async def _until_stopped(server: Server, listener: socket.socket, listen: Listen, name: str, vkey: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host = f"[{listen.address}]" if ":" in listen.address else listen.address
    scheme = "http" if listen.tls is None else "https"
    _log.info(f"{name}-serving", url=f"{scheme}://{host}:{listener.getsockname()[1]}{listen.prefix}", vkey=vkey)
    await server.serve(listener, stop)

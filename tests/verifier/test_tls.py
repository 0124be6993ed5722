"""TLS: version 1.3 and nothing older, the right certificate or none."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.world.tls import self_signed
from tests.world.verifier import free_socket, serving
from verifier import compose
from verifier.config import VerifierConfig
from verifier.operate import Client, Server
from writ.formats.errors import FormatError, Unavailable


@dataclass
class Site:
    url: str
    folder: Path
    address: tuple[str, int]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    self_signed(tmp_path / "cert.pem", tmp_path / "key.pem", "127.0.0.1")
    self_signed(tmp_path / "other.pem", tmp_path / "other-key.pem", "127.0.0.1")
    bound = free_socket()
    address = bound.getsockname()
    url = f"https://127.0.0.1:{address[1]}"
    config = VerifierConfig(tmp_path / "state", "example.org", url, f"127.0.0.1:{address[1]}", tmp_path / "cert.pem", tmp_path / "key.pem")
    config.state_dir.mkdir()
    compose.init(config, tmp_path / "operator.key")
    made = compose.verifier(config)
    with serving(made, config, bound):
        yield Site(url, tmp_path, address)
    made.close()


def test_operator_speaks_tls_to_the_right_certificate(site: Site) -> None:
    client = Client(Server(site.url, site.folder / "operator.key", site.folder / "cert.pem", None))
    assert client.get("/v1/hosts") == {"hosts": []}
    client.close()
    wrong = Client(Server(site.url, site.folder / "operator.key", site.folder / "other.pem", None))
    with pytest.raises(Unavailable):
        wrong.get("/v1/hosts")
    wrong.close()


def test_older_tls_is_refused(site: Site) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(site.address, timeout=10) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)


def test_half_a_handshake_blocks_nobody(site: Site) -> None:
    stuck = [socket.create_connection(site.address, timeout=10) for _ in range(50)]
    for sock in stuck:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
    client = Client(Server(site.url, site.folder / "operator.key", site.folder / "cert.pem", None))
    started = time.monotonic()
    assert client.get("/v1/hosts") == {"hosts": []}
    assert time.monotonic() - started < 5
    client.close()
    for sock in stuck:
        sock.close()


def test_no_session_ticket_is_given(site: Site) -> None:
    """A resumed session would be believed for a handshake that nobody looks at any more (SPIRE 6715)."""
    context = ssl.create_default_context(cafile=str(site.folder / "cert.pem"))
    with socket.create_connection(site.address, timeout=10) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
        sock.sendall(b"GET /v1/hosts HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 401")  # tickets come before the first answer
        assert sock.session is None or not sock.session.has_ticket


@pytest.mark.parametrize("listen", ["192.0.2.1:1", "[2001:db8::1]:1", "localhost:8443", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"])
def test_only_loopback_goes_without_tls(tmp_path: Path, listen: str) -> None:
    with pytest.raises(FormatError):
        VerifierConfig(tmp_path, "example.org", "http://127.0.0.1:1", listen)


def test_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="together"):
        VerifierConfig(tmp_path, "example.org", "https://v", "127.0.0.1:1", tmp_path / "cert")


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "[::1]:1"])
def test_loopback_addresses_are_accepted(tmp_path: Path, listen: str) -> None:
    assert VerifierConfig(tmp_path, "example.org", "http://v", listen).address[1] == 1

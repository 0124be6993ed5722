"""Requests that end at the gate: each an action on its URL, recorded before it passes; what could be read in two ways is refused."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from enforcer.gates.egress.instance_ca import InstanceCa
from enforcer.gates.egress.outlet import CA_FILE, Outlet, opened_by
from enforcer.gates.egress.request import parse_asked
from enforcer.gates.egress.url import MAX_PATH, path_of
from enforcer.record import LogReader
from enforcer.wire.destination import parse_authority
from enforcer.wire.head import MAX_HEAD
from enforcer.wire.host_tls import H1, H2, upstream_contexts
from enforcer.wire.limits import Limits
from tests.enforcer.gates.conftest import makes
from tests.enforcer.gates.proxied import NO_SECRETS, Proxied
from tests.enforcer.host import wait_for
from tests.parsers import assert_parser_is_total
from tests.world import web as world_web
from tests.world.network import Names, Server, certified
from tests.world.web import site
from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.grants import grant_set
from writ.formats.reason import Reason
from writ.service.clock import SystemClock

CUT = Reason("token-revoked", "token", "a valid token", "revoked")
HOST = "api.test"


class Web:
    """A site with TLS that is called `api.test`, and a gate whose agent has grants on it."""

    def __init__(self, folder: Path, *, secure: bool = True, certificate_of: str = HOST, limits: Limits | None = None) -> None:
        certificate = certified(folder, certificate_of)
        self.server = Server(site, certificate=certificate if secure else None)
        self.port, self.folder, self.roots, self.limits = self.server.port, folder, certificate[0], limits
        self.authority = f"{HOST}:{self.port}"
        self.scheme = "https" if secure else "http"
        self.url = f"{self.scheme}://{self.authority}"
        self.out: Proxied | None = None

    def gate(self, *more: tuple[str, str], connects: tuple[str, ...] = (), reach: bool = True) -> Proxied:
        """Grants as pairs of a word of `http.` and a path, and of the address that the name leads to."""
        pairs = [(f"http.{word}", self.url + path) for word, path in more]
        names = Names()
        names.name(HOST, "127.0.0.1")
        if reach:
            pairs.append(("net.reach", f"tcp:127.0.0.1:{self.port}"))
        self.out = Proxied(self.folder, *connects, names=names, more=tuple(pairs), roots=self.roots, limits=self.limits)
        return self.out

    def close(self) -> None:
        if self.out is not None:
            self.out.close()
        self.server.close()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Callable[..., Web]]:
    yield from makes(Web, tmp_path)


def trusting(out: Proxied) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(out.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def secured(out: Proxied, authority: str, *, name: str = HOST, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """TLS within a tunnel, as `name`."""
    tunnel = out.tunnel(authority)
    try:
        return (context or trusting(out)).wrap_socket(tunnel, server_hostname=name)
    except BaseException:
        tunnel.close()
        raise


def answers(connection: socket.socket, count: int = 1) -> list[tuple[int, bytes]]:
    """Status and body of so many answers, each with a length."""
    stream, found = connection.makefile("rb"), []
    for _ in range(count):
        line = stream.readline()
        assert line, "an answer"
        length = 0
        while (header := stream.readline()) not in (b"\r\n", b""):
            if header.lower().startswith(b"content-length:"):
                length = int(header.partition(b":")[2])
        found.append((int(line.split(b" ")[1]), stream.read(length)))
    return found


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def get(path: str, host: str, *more: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *more, "", ""]).encode()


# --- what passes -----------------------------------------------------------------------------------------------------------


def test_curl_with_the_instances_ca_reaches_what_is_granted_and_no_other_path_or_method(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"), ("post", "/v1/notes"))

    def curl(*words: str) -> subprocess.CompletedProcess[str]:
        return out.curl("--cacert", str(out.ca_file), *words)

    done = curl("--fail-with-body", f"{one.url}/v1/a?b=c")
    assert (done.returncode, done.stdout) == (0, "GET /v1/a?b=c "), done.stderr
    assert curl("--data", "abc", f"{one.url}/v1/notes").stdout == "POST /v1/notes abc"
    for words in ([f"{one.url}/v2/a"], ["--data", "x", f"{one.url}/v1/a"], ["--head", f"{one.url}/v1/a"]):
        assert "403" in curl("--fail", *words).stderr
    assert json.loads(curl(f"{one.url}/").stdout)["refusal"]["reasons"][0]["expected"] == f"http.get on {one.url}/"
    address = f"tcp:127.0.0.1:{one.port}"
    assert out.records()[:4] == [(f"{one.url}/v1/a", True), (address, True), ("outcome", "done"), ("outcome", "done")]
    assert [what for what in out.records() if what[1] is False] == [
        (f"{one.url}/v2/a", False), (f"{one.url}/v1/a", False), (f"{one.url}/v1/a", False), (f"{one.url}/", False),
    ]  # fmt: skip
    assert out.results()[0].items() >= {"address": "127.0.0.1", "ended": "closed", "opaque": False, "received": 14, "sent": 0}.items()
    assert b"Host: %s\r\n" % one.authority.encode() in one.server.heard


def test_urllib_accepts_the_constrained_ca(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read())"
    environment = {"https_proxy": out.url, "SSL_CERT_FILE": str(out.ca_file), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code, f"{one.url}/v1/a"], env=environment, capture_output=True, text=True, check=False)

    assert done.stdout == "b'GET /v1/a '\n", done.stderr


def test_requests_one_after_another_and_all_at_once_are_each_decided_and_share_the_way_there(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"), ("post", "/v1/*"))
    with secured(out, one.authority) as near:
        near.sendall(get("/v1/a", one.authority))
        assert answers(near) == [(200, b"GET /v1/a ")]
        near.sendall(get("/v1/b", one.authority) + f"POST /v1/c HTTP/1.1\r\nHost: {one.authority}\r\nContent-Length: 3\r\n\r\nabc".encode())
        near.sendall(get("/v2/no", one.authority) + get("/v1/after", one.authority))
        found = answers(near, 3)
        assert found[:2] == [(200, b"GET /v1/b "), (200, b"POST /v1/c abc")]
        assert found[2][0] == 403
        assert ended(near), "nothing is served after a refusal"
    assert one.server.connections == 1
    assert b"/v2/no" not in one.server.heard
    assert b"/v1/after" not in one.server.heard
    assert [what for what in out.records() if what[0].startswith("https:")] == [
        (f"{one.url}/v1/a", True), (f"{one.url}/v1/b", True), (f"{one.url}/v1/c", True), (f"{one.url}/v2/no", False),
    ]  # fmt: skip


def test_second_request_on_another_host_is_malformed_and_goes_nowhere(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    with secured(out, one.authority) as near:
        near.sendall(get("/v1/a", one.authority) + get("/v1/b", "other.test"))
        assert [status for status, _ in answers(near, 2)] == [200, 400]
    assert b"/v1/b" not in one.server.heard


def test_events_pass_one_by_one(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/events"))
    world_web.go_on.clear()
    with secured(out, one.authority) as near:
        near.sendall(get("/events", one.authority))
        data = b""
        while b"data: 0" not in data:
            data += near.recv(4096)
        assert b"data: 1" not in data
        world_web.go_on.set()
        while b"data: 2" not in data:
            data += near.recv(4096)


HANDSHAKE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def frame(text: bytes) -> bytes:
    return bytes([0x81, 0x80 | len(text)]) + b"mask" + bytes(b ^ b"mask"[at % 4] for at, b in enumerate(text))


def switched(near: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += near.recv(1)
    return head


def test_websocket_is_an_action_of_its_own_and_then_passes_both_ways(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("websocket", "/ws"))
    with secured(out, one.authority) as near:
        near.sendall(get("/ws", one.authority, *HANDSHAKE) + frame(b"first"))
        assert switched(near).startswith(b"HTTP/1.1 101 ")
        assert near.recv(7) == b"\x81\x05first"
        near.sendall(frame(b"hello"))
        assert near.recv(7) == b"\x81\x05hello"
    assert out.records()[0] == (f"{one.url}/ws", True)
    assert out.results()[0]["received"] == 14
    assert out.results()[0]["opaque"] is False


def test_grant_to_get_opens_no_websocket(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/ws"))
    with secured(out, one.authority) as near:
        near.sendall(get("/ws", one.authority, *HANDSHAKE))
        ((status, body),) = answers(near)
    assert (status, json.loads(body)["refusal"]["reasons"][0]["expected"]) == (403, f"http.websocket on {one.url}/ws")
    assert one.server.connections == 0


@pytest.mark.parametrize("path", ["/bad-accept", "/unasked-101", "/two-lengths", "/huge-head"])
def test_answer_that_answers_another_request_or_is_no_http_is_a_failure(web: Callable[..., Web], path: str) -> None:
    one = web()
    out = one.gate(("get", path), ("websocket", path))
    with secured(out, one.authority) as near:
        near.sendall(get(path, one.authority, *(HANDSHAKE if path == "/bad-accept" else ())))
        assert answers(near)[0][0] == 502
    assert out.results()[0]["ended"] == "malformed"


def test_answer_that_is_cut_short_is_not_made_whole(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/short"))
    with secured(out, one.authority) as near:
        near.sendall(get("/short", one.authority))
        data = b""
        try:
            while part := near.recv(4096):
                data += part
        except OSError:
            pass
        assert data.endswith(b"abc")
    assert ("outcome", "failed") in out.records()


@pytest.mark.parametrize("path", ["/extra", "/late"])
def test_answer_nobody_asked_for_never_answers_the_next_request(web: Callable[..., Web], path: str) -> None:
    one = web()
    out = one.gate(("get", "/*"))
    with secured(out, one.authority) as near:
        near.sendall(get(path, one.authority))
        assert answers(near) == [(200, b"a")]
        time.sleep(0.5)
        near.sendall(get("/next", one.authority))
        assert answers(near) == [(200, b"GET /next ")]
    assert one.server.connections == 2


@pytest.mark.parametrize("extra", [("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"), ("Upgrade: tls",)])
def test_nothing_but_a_websocket_is_upgraded(web: Callable[..., Web], extra: tuple[str, ...]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    with secured(out, one.authority) as near:
        near.sendall(get("/v1/a", one.authority, *extra))
        assert answers(near) == [(200, b"GET /v1/a ")]
    assert b"pgrade" not in one.server.heard
    assert b"HTTP2" not in one.server.heard


def test_plain_http_is_decided_by_url_whether_through_a_tunnel_or_not(web: Callable[..., Web]) -> None:
    one = web(secure=False)
    out = one.gate(("get", "/v1/*"))
    assert out.curl(f"{one.url}/v1/a").stdout == "GET /v1/a "
    assert out.curl("--proxytunnel", f"{one.url}/v1/b").stdout == "GET /v1/b "
    for words in ([f"{one.url}/v2"], ["--proxytunnel", f"{one.url}/v2"]):
        assert json.loads(out.curl(*words).stdout)["refusal"]["reasons"][0]["code"] == "grant-missing"
    assert b"/v2" not in one.server.heard


def test_content_to_the_proxy_itself_may_take_longer_than_a_head(web: Callable[..., Web]) -> None:
    one = web(secure=False, limits=Limits(head_within=0.3))
    out = one.gate(("post", "/v1/*"))
    with out.connect() as near:
        near.sendall(f"POST {one.url}/v1/a HTTP/1.1\r\nHost: {one.authority}\r\nContent-Length: 3\r\n\r\n".encode())
        time.sleep(0.8)
        near.sendall(b"abc")
        assert answers(near) == [(200, b"POST /v1/a abc")]


def test_grant_over_tls_is_none_without(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    with out.tunnel(one.authority) as near:
        near.sendall(get("/v1/a", one.authority))
        assert answers(near)[0][0] == 403
    assert out.records() == [(f"http://{one.authority}/v1/a", False)]


# --- opaque or not ---------------------------------------------------------------------------------------------------------


def test_grant_of_a_url_wins_over_one_of_the_destination(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"), connects=(one.authority, f"127.0.0.1:{one.port}"))
    done = out.curl("--cacert", str(one.roots), f"{one.url}/v1/a")
    assert done.returncode == 60, "the certificate is the instance's, never the host's"
    assert json.loads(out.curl("--cacert", str(out.ca_file), f"{one.url}/v2").stdout)["ok"] is False
    assert one.server.connections == 0


def test_destination_alone_stays_opaque_and_is_recorded_so(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(connects=(one.authority, f"127.0.0.1:{one.port}"), reach=False)
    done = out.curl("--cacert", str(one.roots), f"{one.url}/v2")
    assert done.stdout == "GET /v2 ", done.stderr
    assert out.results()[0]["opaque"] is True


def test_grant_of_an_address_behind_a_url_opens_no_tunnel_to_it(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    status, _ = out.ask(f"CONNECT 127.0.0.1:{one.port} HTTP/1.1\r\nHost: 127.0.0.1:{one.port}\r\n\r\n".encode())
    assert status == 403


def test_address_behind_a_url_that_is_not_public_takes_a_grant_of_its_own(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"), connects=(f"127.0.0.1:{one.port}",), reach=False)
    body = json.loads(out.curl("--cacert", str(out.ca_file), f"{one.url}/v1/a").stdout)
    assert body["refusal"]["reasons"][0]["expected"] == f"net.reach on tcp:127.0.0.1:{one.port}"
    assert one.server.connections == 0


def test_client_that_pins_is_refused_with_a_record_and_never_tunnelled(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"), connects=(one.authority,))
    with pytest.raises(ssl.SSLCertVerificationError):
        secured(out, one.authority, context=ssl.create_default_context(cafile=str(one.roots)))
    wait_for(lambda: out.log.checkpoint().size)
    assert out.records() == [(f"tcp:{one.authority}", False)]
    assert refusals(out) == [("tls-refused", "unknown_ca")]
    assert one.server.connections == 0


def refusals(out: Proxied) -> list[tuple[str, str]]:
    records = [entry.record for entry in LogReader(out.scene.folder, out.scene.instance).entries()]
    return [(reason.code, reason.got) for one in records for reason in getattr(one, "reasons", ())]


@pytest.mark.parametrize("name", ["other.test", None, "x.api.test"])
def test_server_name_that_is_not_the_tunnels_is_refused_and_recorded(web: Callable[..., Web], name: str | None) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    context = trusting(out)
    context.check_hostname = False
    with pytest.raises((OSError, ssl.SSLError)):
        secured(out, one.authority, name=name, context=context)  # type: ignore[arg-type]  # no name is a case
    assert wait_for(lambda: refusals(out))[0][0] == "malformed"
    assert one.server.connections == 0


# --- the host's certificate ------------------------------------------------------------------------------------------------


def test_host_with_a_wrong_certificate_is_not_sent_the_request(web: Callable[..., Web]) -> None:
    one = web(certificate_of="other.test")
    out = one.gate(("get", "/v1/*"))
    body = json.loads(out.curl("--cacert", str(out.ca_file), f"{one.url}/v1/a").stdout)
    assert body["failure"]["what"] == "certificate"
    assert one.server.heard == b""
    assert ("outcome", "failed") in out.records()


def test_host_whose_root_is_not_trusted_is_not_sent_the_request(web: Callable[..., Web]) -> None:
    one = web()
    one.roots = None  # type: ignore[assignment]  # the system's
    out = one.gate(("get", "/v1/*"))
    body = json.loads(out.curl("--cacert", str(out.ca_file), f"{one.url}/v1/a").stdout)
    assert (body["failure"]["what"], one.server.heard) == ("certificate", b"")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_host_with_an_old_tls_is_not_spoken_to(web: Callable[..., Web]) -> None:
    one = web()
    old = one.server.tls
    assert old is not None
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    out = one.gate(("get", "/v1/*"))
    body = json.loads(out.curl("--cacert", str(out.ca_file), f"{one.url}/v1/a").stdout)
    assert (body["failure"]["what"], one.server.heard) == ("TLS", b"")


# --- the instance's CA -----------------------------------------------------------------------------------------------------


def ca(*hosts: str) -> InstanceCa:
    return InstanceCa(map(parse_authority, hosts), SystemClock())


@pytest.mark.parametrize("other", ["other.test:443", "x.api.test:443", "1.2.3.4:443", "127.0.0.1:443"])
def test_no_leaf_is_made_for_a_host_that_is_not_granted(other: str) -> None:
    with pytest.raises(Misuse):
        ca("api.test:443", "9.9.9.9:443").context(parse_authority(other))


def test_ca_is_bound_to_its_hosts_and_short_lived_and_another_for_each_instance() -> None:
    made = ca("api.test:443", "9.9.9.9:443")
    certificate = x509.load_pem_x509_certificate(made.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)

    assert constraints.critical
    assert [str(one.value) for one in constraints.value.permitted_subtrees or ()] == ["api.test", "9.9.9.9/32"]
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc < timedelta(days=400)
    assert ca("api.test:443").certificate != made.certificate
    assert b"PRIVATE" not in made.certificate


def test_nothing_is_resumed_so_there_is_no_early_data(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    context = trusting(out)
    with secured(out, one.authority, context=context) as near:
        near.sendall(get("/v1/a", one.authority))
        answers(near)
        session = near.session
        assert near.version() == "TLSv1.3"
        assert near.selected_alpn_protocol() is None
    assert session is None or not session.has_ticket


def test_bytes_before_the_tunnel_is_open_are_not_lost_and_not_more_trusted(web: Callable[..., Web]) -> None:
    """An eager client sends its ClientHello behind CONNECT."""
    one = web()
    out = one.gate(("get", "/v1/*"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(out).wrap_bio(incoming, outgoing, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with out.connect() as near:
        near.sendall(f"CONNECT {one.authority} HTTP/1.1\r\nHost: {one.authority}\r\n\r\n".encode() + outgoing.read())
        assert switched(near).startswith(b"HTTP/1.1 200 ")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                near.sendall(outgoing.read()) if outgoing.pending else None
                incoming.write(near.recv(65536))
        tls.write(get("/v2", one.authority))
        near.sendall(outgoing.read())
        incoming.write(near.recv(65536))
        assert tls.read(65536).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("offered", [["http/1.1"], []])
def test_http_2_that_was_not_agreed_upon_is_malformed(web: Callable[..., Web], offered: list[str]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    context = trusting(out)
    if offered:
        context.set_alpn_protocols(offered)
    with secured(out, one.authority, context=context) as near:
        assert near.selected_alpn_protocol() != "h2"
        near.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert answers(near)[0][0] == 400


@pytest.mark.parametrize(
    "grants, authorities",
    [
        ([("http.get", "https://a.test:443/*")], ["a.test:443"]),
        ([("http.post", "http://a.test:80/x"), ("http.get", "https://[::2]:443/*")], ["[::2]:443", "a.test:80"]),
        ([("http.post", "https://a.test/v1/*")], []),
        ([("http.get", "https://A.test:443/*")], []),
        ([("http.get", "https://a.test:443")], []),
        ([("http.get", "https://*")], []),
        ([("tool.call", "https://a.test:443/*")], []),
        ([("http.get", "ftp://a.test:443/*")], []),
    ],
)
def test_what_grants_open(grants: list[tuple[str, str]], authorities: list[str]) -> None:
    assert [one.authority for one in opened_by(grant_set(grants))] == authorities


def test_roots_of_the_image_follow_the_ca_and_no_link_out_of_it(tmp_path: Path) -> None:
    outlet = Outlet(grant_set([("http.get", "https://a.test:443/*")]), SystemClock(), NO_SECRETS, roots=None, always=False)
    image, folder = tmp_path / "image", tmp_path / "gate"
    (image / "etc/ssl/certs").mkdir(parents=True)
    folder.mkdir()
    bundle = image / "etc/ssl/certs/ca-certificates.crt"
    bundle.write_bytes(b"ROOTS")
    assert outlet.lay(folder, image)
    assert (folder / CA_FILE).read_bytes().endswith(b"-----END CERTIFICATE-----\nROOTS")
    bundle.unlink()
    bundle.symlink_to("/etc/passwd")
    (folder / CA_FILE).unlink()
    assert outlet.lay(folder, image)
    assert (folder / CA_FILE).read_bytes().endswith(b"-----END CERTIFICATE-----\n")
    assert outlet.environment["SSL_CERT_FILE"] == "/run/writ/ca.pem"


def test_roots_of_the_system_are_read_at_first_use_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ssl.SSLContext] = []

    def context(**given: Any) -> ssl.SSLContext:
        made.append(create(**given))
        return made[-1]

    create = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", context)
    upstream = upstream_contexts(None)
    assert (list(upstream), len(upstream), made) == ([H1, H2], 2, [])
    assert [upstream[H2], upstream[H1], upstream[H2]] == [made[0], made[1], made[0]]
    assert [one.verify_mode for one in made] == [ssl.CERT_REQUIRED] * 2


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_file_of_roots_that_is_none_refuses_the_launch(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "roots.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Unavailable, match="egress_ca_file"):
        Outlet(grant_set([("http.get", "https://a.test:443/*")]), SystemClock(), NO_SECRETS, roots=file, always=False)


def test_instance_without_grants_has_no_way_out() -> None:
    outlet = Outlet((), SystemClock(), NO_SECRETS, roots=None, always=False)
    assert (outlet.leads, outlet.environment) == (False, {})


# --- what is no request ----------------------------------------------------------------------------------------------------

H = "Host: api.test:7\r\n"
MALFORMED = {
    "no Host": "GET /v1/a HTTP/1.1\r\n\r\n",
    "no Host in HTTP/1.0": "GET /v1/a HTTP/1.0\r\n\r\n",
    "another Host": "GET /v1/a HTTP/1.1\r\nHost: other.test:7\r\n\r\n",
    "another port": "GET /v1/a HTTP/1.1\r\nHost: api.test:8\r\n\r\n",
    "default port": "GET /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "two Hosts": f"GET /v1/a HTTP/1.1\r\n{H}{H}\r\n",
    "user name in Host": "GET /v1/a HTTP/1.1\r\nHost: x@api.test:7\r\n\r\n",
    "IDNA in Host": "GET /v1/a HTTP/1.1\r\nHost: \u00e4pi.test:7\r\n\r\n",
    "mapped IPv6 in Host": "GET /v1/a HTTP/1.1\r\nHost: [::ffff:1.2.3.4]:7\r\n\r\n",
    "absolute form": f"GET https://api.test:7/v1/a HTTP/1.1\r\n{H}\r\n",
    "absolute form of another": f"GET https://other.test:7/v1/a HTTP/1.1\r\n{H}\r\n",
    "asterisk": f"OPTIONS * HTTP/1.1\r\n{H}\r\n",
    "CONNECT inside": f"CONNECT other.test:443 HTTP/1.1\r\n{H}\r\n",
    "TRACE": f"TRACE /v1/a HTTP/1.1\r\n{H}\r\n",
    "method in small letters": f"get /v1/a HTTP/1.1\r\n{H}\r\n",
    "unknown method": f"PURGE /v1/a HTTP/1.1\r\n{H}\r\n",
    "length and chunks": f"POST /v1/a HTTP/1.1\r\n{H}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": f"POST /v1/a HTTP/1.1\r\n{H}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "chunks with a tab": f"POST /v1/a HTTP/1.1\r\n{H}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "folded line": f"GET /v1/a HTTP/1.1\r\n{H}X: y\r\n z\r\n\r\n",
    "bare line feed": f"GET /v1/a HTTP/1.1\r\nX: y\n{H}\r\n",
    "bare carriage return": f"GET /v1/a HTTP/1.1\r\n{H}X: y\rZ: z\r\n\r\n",
    "zero byte": f"GET /v1/a HTTP/1.1\r\n{H}X: \0\r\n\r\n",
    "method in a header": f"POST /v1/a HTTP/1.1\r\n{H}X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n",
    "path in a header": f"GET /v1/a HTTP/1.1\r\n{H}X-Original-URL: /admin\r\n\r\n",
    "fragment": f"GET /v1/a?x#y HTTP/1.1\r\n{H}\r\n",
    "long path": f"GET /{'a' * MAX_PATH} HTTP/1.1\r\n{H}\r\n",
    "POST to a WebSocket": "POST /ws HTTP/1.1\r\n" + H + "\r\n".join(HANDSHAKE) + "\r\n\r\n",
    "WebSocket with content": "GET /ws HTTP/1.1\r\n" + H + "\r\n".join(HANDSHAKE) + "\r\nContent-Length: 1\r\n\r\nx",
    "WebSocket without a key": "GET /ws HTTP/1.1\r\n" + H + "\r\n".join(HANDSHAKE[:3]) + "\r\n\r\n",
    "WebSocket with two keys": "GET /ws HTTP/1.1\r\n" + H + "\r\n".join((*HANDSHAKE, HANDSHAKE[3])) + "\r\n\r\n",
    "WebSocket of another version": "GET /ws HTTP/1.1\r\n" + H + "\r\n".join(HANDSHAKE).replace(": 13", ": 8") + "\r\n\r\n",
    "WebSocket without Connection": "GET /ws HTTP/1.1\r\n" + H + "\r\n".join((HANDSHAKE[0], *HANDSHAKE[2:])) + "\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_within_a_tunnel_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        parse_asked(MALFORMED[name].encode(), parse_authority("api.test:7"), secure=True)


@pytest.mark.parametrize("name", ["another Host", "CONNECT inside", "bare line feed", "length and chunks"])
def test_what_is_no_request_is_400_and_reaches_nobody(web: Callable[..., Web], name: str) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"), ("post", "/v1/*"))
    with secured(out, one.authority) as near:
        near.sendall(MALFORMED[name].replace("api.test:7", one.authority).encode() + get("/v1/b", one.authority))
        assert answers(near)[0][0] == 400
        assert ended(near)
    assert (out.log.checkpoint().size, one.server.connections) == (0, 0)


PATHS = [
    "", "v1", "//", "//v1", "/v1//a", "/.", "/..", "/v1/../v2", "/v1/./a", "/v1/..", "/v1/%2e%2e/v2", "/v1/%2E%2e", "/v1/.%2e/v2",
    "/v1%2f..%2fv2", "/v1%2F", "/v1%5cv2", "/v1\\v2", "/v1/..;/v2", "/v1/..;a=b/v2", "/v1/.;/", "/v1/%252e%252e/v2", "/v1/%25%32%65",
    "/%00",
    "/%0a", "/%0d%0a", "/%7f", "/%41", "/%7e", "/%2D", "/a b", "/a%", "/a%2", "/a%zz", "/a%u002e", "/a?b", "/a#b", "/\u00e9", "/a|b",
    "/a{b}",
    '/a"b', "/a<b", "/a^b", "/a`b", "/[a]", "https://a/b",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_path_that_two_readers_could_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(FormatError):
        path_of(path)


@pytest.mark.parametrize(
    "path, spelt",
    [
        ("/", "/"), ("/v1/", "/v1/"), ("/v1/a.b..c", "/v1/a.b..c"), ("/...", "/..."), ("/.well-known/x", "/.well-known/x"),
        ("/caf%c3%a9", "/caf%C3%A9"), ("/a;b=c/d", "/a;b=c/d"), ("/@a/b:c", "/@a/b:c"), ("/a%20b", "/a%20b"), ("/100%25", "/100%25"),
    ],
)  # fmt: skip
def test_path_has_one_spelling(path: str, spelt: str) -> None:
    assert path_of(path) == spelt
    assert path_of(spelt) == spelt


@given(st.text(max_size=40) | st.from_regex(r"/[a-z./%25ef;~]{0,30}", fullmatch=True))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        found = path_of(text)
    except FormatError:
        return
    assert path_of(found) == found
    assert not re.search(r"(^|/)\.\.?(;|/|$)|//|%2[eEfF]", found)


def test_any_bytes_are_a_request_within_a_tunnel_or_refused() -> None:
    there = parse_authority("api.test:7")
    for specimen in (get("/v1/a?b", "api.test:7"), get("/ws", "api.test:7", *HANDSHAKE)):
        assert_parser_is_total(lambda data: parse_asked(data, there, secure=True), specimen, open_ended=True)


def test_refused_path_tricks_reach_nobody_also_when_a_prefix_is_granted(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    for path in ("/v1/../v2", "/v1/%2e%2e/v2", "/v1/..;/v2", "/v1//v2"):
        with secured(out, one.authority) as near:
            near.sendall(get(path, one.authority))
            assert answers(near)[0][0] == 400
    assert one.server.connections == 0


# --- bounds, and the cut ---------------------------------------------------------------------------------------------------


def test_long_head_within_a_tunnel_is_refused(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("get", "/v1/*"))
    with secured(out, one.authority) as near:
        near.sendall(get("/v1/a", one.authority, "X: " + "x" * (2 * MAX_HEAD)))
        assert answers(near)[0][0] == 400


@pytest.mark.parametrize("where", ["hello", "handshake", "head"])
def test_slow_client_is_given_up(web: Callable[..., Web], where: str) -> None:
    one = web(limits=Limits(head_within=0.4))
    out = one.gate(("get", "/v1/*"))
    begun = time.monotonic()
    if where == "head":
        near: socket.socket = secured(out, one.authority)
        near.sendall(b"G")
    else:
        near = out.tunnel(one.authority)
        near.sendall(b"\x16\x03\x01" if where == "hello" else client_hello())
        if where == "handshake":
            near.recv(65536)
    with near:
        near.settimeout(5)
        while not ended(near):
            pass
    assert time.monotonic() - begun < 4
    assert one.server.connections == 0


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST).do_handshake()
    return outgoing.read()


def test_bytes_of_requests_and_websockets_are_bounded(web: Callable[..., Web]) -> None:
    one = web(limits=Limits(sent=1000, received=1000))
    out = one.gate(("post", "/v1/*"), ("websocket", "/ws"))
    with secured(out, one.authority) as near:
        near.sendall(f"POST /v1/a HTTP/1.1\r\nHost: {one.authority}\r\nContent-Length: 1001\r\n\r\n".encode() + b"x" * 1001)
        assert answers(near)[0][0] == 502
    with secured(out, one.authority) as near:
        near.sendall(get("/ws", one.authority, *HANDSHAKE))
        switched(near)
        for _ in range(9):
            near.sendall(frame(b"x" * 100))
            assert len(near.recv(102)) == 102
        near.sendall(frame(b"x" * 100))
        while not ended(near):
            pass
    assert {one["ended"] for one in out.results()} == {"limit"}


def test_cut_ends_twenty_busy_flows_of_every_kind_at_once(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("websocket", "/ws"), ("get", "/v1/*"))
    flows = []
    for at in range(20):
        near = secured(out, one.authority)
        if at % 2:
            near.sendall(get("/ws", one.authority, *HANDSHAKE))
            switched(near)
        flows.append(near)
    counts = [0] * len(flows)

    def busy(at: int) -> None:
        near = flows[at]
        try:
            while True:
                if at % 2:
                    near.sendall(frame(b"x" * 100))
                    counts[at] += bool(near.recv(102))
                else:
                    near.sendall(get("/v1/a", one.authority))
                    counts[at] += len(answers(near))
        except (OSError, AssertionError):
            pass

    threads = [threading.Thread(target=busy, args=(at,)) for at in range(len(flows))]
    for thread in threads:
        thread.start()
    wait_for(lambda: all(counts))
    begun = time.monotonic_ns()
    out.gatekeeper.cut(CUT)
    spent = (time.monotonic_ns() - begun) / 1e6
    for thread in threads:
        thread.join(5)
    print(f"cut of {len(flows)} flows: {spent:.2f} ms")
    assert spent < 100
    assert not any(thread.is_alive() for thread in threads)
    time.sleep(0.2)  # what had passed before the cut is read by the server after it
    heard = len(one.server.heard)
    time.sleep(0.2)
    assert len(one.server.heard) == heard
    for near in flows:
        near.close()
    out.records()
    out.gatekeeper.mend()
    with secured(out, one.authority) as near:
        near.sendall(get("/v1/a", one.authority))
        assert answers(near) == [(200, b"GET /v1/a ")]


def test_every_outcome_says_cut_or_done_and_none_is_missing(web: Callable[..., Web]) -> None:
    one = web()
    out = one.gate(("websocket", "/ws"))
    with secured(out, one.authority) as near:
        near.sendall(get("/ws", one.authority, *HANDSHAKE))
        switched(near)
        out.gatekeeper.cut(CUT)
        assert ended(near)
    assert [one["ended"] for one in out.results()] == ["cut", "cut"]
    assert {what for what in out.records() if what[0] == "outcome"} == {("outcome", "failed")}

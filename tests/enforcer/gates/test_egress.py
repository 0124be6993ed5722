"""The way out: every destination an action, recorded before it is dialled; what is in doubt is refused; a cut reaches every byte."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.gates.egress.client_hello import MAX_HELLO, MAX_RECORDS, ClientHello, read_client_hello
from enforcer.gates.egress.gate import EgressGate
from enforcer.gates.egress.request import parse_head
from enforcer.gates.egress.tunnel import may_begin
from enforcer.wire.addresses import is_public
from enforcer.wire.destination import Address, parse_authority
from enforcer.wire.head import MAX_HEAD
from enforcer.wire.limits import Limits
from enforcer.wire.line import ListeningLine
from tests.enforcer.gates.proxied import Proxied, listener
from tests.enforcer.host import wait_for
from tests.enforcer.records import records_of
from tests.parsers import assert_parser_is_total
from tests.world.network import Names, Serve, Server, certified, echo, flood, greeting, http, silent
from writ.formats.errors import FormatError
from writ.formats.reason import Reason

CUT = Reason("token-revoked", "token", "a valid token", "revoked")
Make = Callable[..., Proxied]
MakeServer = Callable[..., Server]


@pytest.fixture
def served() -> Iterator[MakeServer]:
    """Servers, gone afterwards."""
    made: list[Server] = []

    def make(serve: Serve, **more: object) -> Server:
        made.append(Server(serve, **more))  # type: ignore[arg-type]  # passed through
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Make]:
    """A gate, closed afterwards."""
    made: list[Proxied] = []

    def make(*connects: str, limits: Limits | None = None, names: Names | None = None) -> Proxied:
        made.append(Proxied(tmp_path, *connects, limits=limits, names=names))
        return made[-1]

    yield make
    for one in made:
        one.close()


def named(name: str, *answers: str | tuple[str, ...]) -> Names:
    names = Names()
    names.name(name, *answers)
    return names


# --- what passes -----------------------------------------------------------------------------------------------------------


def test_curl_reaches_a_granted_name_over_http_and_the_outcome_counts_the_bytes(proxied: Make, served: MakeServer) -> None:
    web = served(http)
    out = proxied(f"api.test:{web.port}", f"127.0.0.1:{web.port}", names=named("api.test", "127.0.0.1"))
    done = out.curl("--data", "abc", f"http://API.test:{web.port}/a?b=c")

    assert (done.returncode, done.stdout) == (0, "hello abc"), done.stderr
    assert out.records() == [
        (f"tcp:api.test:{web.port}", True), (f"tcp:127.0.0.1:{web.port}", True), ("outcome", "done"), ("outcome", "done"),
    ]  # fmt: skip
    assert out.results()[0].items() >= {"address": "127.0.0.1", "ended": "closed", "opaque": False, "received": 9, "sent": 3}.items()
    head = web.heard.split(b"\r\n")
    assert head[:2] == [b"POST /a?b=c HTTP/1.1", f"Host: api.test:{web.port}".encode()]
    assert not any(line.lower().startswith(b"proxy-") for line in head)


def test_curl_reaches_a_granted_name_over_https_and_sees_its_certificate(proxied: Make, served: MakeServer, tmp_path: Path) -> None:
    certificate = certified(tmp_path, "api.test")
    web = served(http, certificate=certificate)
    out = proxied(f"api.test:{web.port}", f"127.0.0.1:{web.port}", names=named("api.test", "127.0.0.1"))
    done = out.curl("--cacert", str(certificate[0]), f"https://api.test:{web.port}/")

    assert (done.returncode, done.stdout) == (0, "hello "), done.stderr
    assert [outcome for what, outcome in out.records() if what == "outcome"] == ["done", "done"]
    assert out.results()[0]["sent"] > 300


URLLIB = """
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2])
print(urllib.request.build_opener(urllib.request.ProxyHandler(), urllib.request.HTTPSHandler(context=context)).open(sys.argv[1]).read())
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_urllib_reaches_a_granted_address(proxied: Make, served: MakeServer, tmp_path: Path, scheme: str) -> None:
    certificate = certified(tmp_path, "127.0.0.1")
    web = served(http, certificate=certificate if scheme == "https" else None)
    out = proxied(f"127.0.0.1:{web.port}")
    environment = {**os.environ, "http_proxy": out.url, "https_proxy": out.url, "no_proxy": ""}
    command = [sys.executable, "-c", URLLIB, f"{scheme}://127.0.0.1:{web.port}/", str(certificate[0])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)

    assert (done.returncode, done.stdout) == (0, "b'hello '\n"), done.stderr
    assert out.records() == [(f"tcp:127.0.0.1:{web.port}", True), ("outcome", "done")]


def test_tunnel_without_tls_passes_where_the_port_is_not_443_and_either_side_may_begin(proxied: Make, served: MakeServer) -> None:
    mail = served(greeting)
    out = proxied(f"127.0.0.1:{mail.port}")
    with out.tunnel(f"127.0.0.1:{mail.port}") as tunnel:
        assert tunnel.recv(11) == b"220 hello\r\n"
        tunnel.sendall(b"EHLO\r\n")
        assert tunnel.recv(6) == b"EHLO\r\n"
        tunnel.shutdown(socket.SHUT_WR)
        assert tunnel.recv(1) == b""
    assert out.results() == [{"address": "127.0.0.1", "ended": "closed", "opaque": True, "received": 17, "sent": 6}]


def test_large_bodies_pass_both_ways_whole(proxied: Make, served: MakeServer) -> None:
    back = served(echo)
    out = proxied(f"127.0.0.1:{back.port}")
    data, got = random.Random(1).randbytes(3 << 20), bytearray()
    with out.tunnel(f"127.0.0.1:{back.port}") as tunnel:
        sender = threading.Thread(target=tunnel.sendall, args=(b"!" + data,))
        sender.start()
        while len(got) <= len(data):
            got += tunnel.recv(65536)
        sender.join()
    assert bytes(got) == b"!" + data


def test_record_is_durable_before_anything_is_dialled(proxied: Make, served: MakeServer) -> None:
    web = served(http)
    out = proxied(f"127.0.0.1:{web.port}")
    out.log.close()
    status, body = out.ask(f"GET http://127.0.0.1:{web.port}/ HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\n\r\n".encode())

    assert (status, [r["code"] for r in body["refusal"]["reasons"]]) == (403, ["record-not-durable"])
    assert (web.connections, body["reference"]) == (0, None)


# --- what is not granted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["CONNECT", "GET"])
def test_destination_that_is_not_granted_is_refused_recorded_and_neither_looked_up_nor_dialled(
    proxied: Make, served: MakeServer, form: str
) -> None:
    web = served(http)
    out = proxied(f"127.0.0.1:{web.port + 1}", f"other.test:{web.port}", names=named("api.test", "127.0.0.1"))
    target = f"api.test:{web.port}" if form == "CONNECT" else f"http://api.test:{web.port}/"
    status, body = out.ask(f"{form} {target} HTTP/1.1\r\nHost: api.test:{web.port}\r\n\r\n".encode())

    assert (status, body["ok"], body["reference"]) == (403, False, "5f1c09ab-1")
    (reason,) = body["refusal"]["reasons"]
    assert set(reason) == {"code", "claim", "expected", "got", "remedy"}
    assert (reason["code"], reason["expected"]) == ("grant-missing", f"net.connect on tcp:api.test:{web.port}")
    assert out.records() == [(f"tcp:api.test:{web.port}", False)]
    assert (out.names.asked, web.connections) == ([], 0)


def test_curl_is_told_403(proxied: Make) -> None:
    out = proxied("api.test:443")
    done = out.curl("https://other.test/")

    assert done.returncode != 0
    assert "403" in done.stderr


def test_policy_forbids_beneath_the_grant(proxied: Make, served: MakeServer) -> None:
    web = served(http)
    out = proxied(f"127.0.0.1:{web.port}")
    out.scene.attestor.policies += f'@id("no") forbid (principal, action, resource == Writ::Resource::"tcp:127.0.0.1:{web.port}");'
    out.scene.attestor.version += 1
    out.scene.renew()
    status, body = out.ask(f"GET http://127.0.0.1:{web.port}/ HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\n\r\n".encode())

    assert (status, body["refusal"]["reasons"][0]["code"], web.connections) == (403, "policy-refused", 0)


# --- where a name leads ----------------------------------------------------------------------------------------------------


def test_name_that_leads_to_a_private_address_takes_a_grant_of_the_address(proxied: Make, served: MakeServer) -> None:
    web = served(http)
    out = proxied(f"api.test:{web.port}", f"127.0.0.1:{web.port + 1}", names=named("api.test", "127.0.0.1"))
    status, body = out.ask(f"GET http://api.test:{web.port}/ HTTP/1.1\r\nHost: api.test:{web.port}\r\n\r\n".encode())

    assert (status, body["reference"]) == (403, "5f1c09ab-2")
    assert body["refusal"]["reasons"][0]["expected"] == f"net.connect on tcp:127.0.0.1:{web.port}"
    assert web.connections == 0
    assert out.records() == [(f"tcp:api.test:{web.port}", True), (f"tcp:127.0.0.1:{web.port}", False), ("outcome", "failed")]
    assert out.results()[0]["ended"] == "refused"


def test_one_private_address_among_others_refuses_the_name(proxied: Make, served: MakeServer) -> None:
    web = served(http)
    names = named("api.test", ("127.0.0.1", "169.254.169.254"))
    out = proxied(f"api.test:{web.port}", f"127.0.0.1:{web.port}", names=names)
    status, body = out.ask(f"GET http://api.test:{web.port}/ HTTP/1.1\r\nHost: api.test:{web.port}\r\n\r\n".encode())

    assert (status, web.connections) == (403, 0)
    assert body["refusal"]["reasons"][0]["expected"] == f"net.connect on tcp:169.254.169.254:{web.port}"


def test_name_that_leads_to_a_mapped_address_is_refused_whatever_is_granted(proxied: Make, served: MakeServer) -> None:
    web = served(http)
    out = proxied(f"api.test:{web.port}", f"127.0.0.1:{web.port}", names=named("api.test", "::ffff:127.0.0.1"))
    status, body = out.ask(f"GET http://api.test:{web.port}/ HTTP/1.1\r\nHost: api.test:{web.port}\r\n\r\n".encode())

    assert (status, "mapped" in body["failure"]["detail"], web.connections) == (502, True, 0)


def test_what_is_dialled_is_the_address_that_was_checked(proxied: Make, served: MakeServer) -> None:
    """Rebinding: the second answer would be another server, and is never asked for."""
    web = served(http)
    other = served(http, address="127.0.0.2", port=web.port)
    out = proxied(f"api.test:{web.port}", f"127.0.0.1:{web.port}", names=named("api.test", "127.0.0.1", "127.0.0.2"))

    assert out.curl(f"http://api.test:{web.port}/").stdout == "hello "
    assert (web.connections, other.connections, out.names.asked) == (1, 0, ["api.test"])


def test_name_without_an_address_is_a_failed_outcome(proxied: Make) -> None:
    out = proxied("gone.test:80")
    status, body = out.ask(b"GET http://gone.test/ HTTP/1.1\r\nHost: gone.test\r\n\r\n")

    assert (status, body["failure"]["what"], body["reference"]) == (502, "name", "5f1c09ab-1")
    assert out.records() == [("tcp:gone.test:80", True), ("outcome", "failed")]


def test_destination_that_does_not_answer_is_a_failed_outcome(proxied: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    out = proxied(f"127.0.0.1:{port}")
    status, body = out.ask(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())

    assert (status, body["failure"]) == (502, {"what": "destination", "detail": "Connection refused"})
    assert out.results() == [{"address": None, "ended": "unavailable", "opaque": True, "received": 0, "sent": 0}]


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3",  # noqa: S104
         "10.0.0.5", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1",
        "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
        "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1", "::", "::1", "::ffff:8.8.8.8", "::ffff:10.0.0.1", "::8.8.8.8",
        "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
        "2002:a00:1::1", "3fff::1", "4000::1",
    ],
)  # fmt: skip
def test_address_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["9.9.9.9", "100.63.255.255", "100.128.0.1", "172.32.0.1", "223.255.255.255", "2606:4700::1", "2a00::1"]
)
def test_address_is_public(address: str) -> None:
    assert is_public(ip_address(address))


def test_the_hosts_own_address_is_not_public_whatever_it_is(cgroup_mount: Path) -> None:  # noqa: ARG001 - needs root
    code = "from enforcer.wire.addresses import *; print(is_public(ip_address('9.9.9.9')), is_public(ip_address('9.9.9.8')))"
    script = f'ip link set lo up && ip address add 9.9.9.9/32 dev lo && exec "{sys.executable}" -c "{code}"'
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)

    assert done.stdout == "False True\n", done.stderr


# --- what is no request ----------------------------------------------------------------------------------------------------

GET = b"GET http://a.test/ HTTP/1.1\r\n"
MALFORMED = {
    "origin form": b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "https without CONNECT": b"GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "another scheme": b"GET ftp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "fragment": b"GET http://a.test/#x HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "CONNECT with a URL": b"CONNECT http://a.test:80/ HTTP/1.1\r\nHost: a.test:80\r\n\r\n",
    "CONNECT without a port": b"CONNECT a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "no Host": GET + b"\r\n",
    "two Hosts": GET + b"Host: a.test\r\nHost: a.test\r\n\r\n",
    "another Host": GET + b"Host: b.test\r\n\r\n",
    "another port in Host": GET + b"Host: a.test:81\r\n\r\n",
    "another Host for CONNECT": b"CONNECT a.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n",
    "another port for CONNECT": b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:80\r\n\r\n",
    "another Host in HTTP/1.0": b"GET http://a.test/ HTTP/1.0\r\nHost: b.test\r\n\r\n",
    "list of Hosts": GET + b"Host: a.test, b.test\r\n\r\n",
    "user name": b"GET http://b.test@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "user name in CONNECT": b"CONNECT b.test:80@a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
    "back slash": b"GET http://a.test\\@b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "length and chunks": GET + b"Host: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": GET + b"Host: a.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "length with a sign": GET + b"Host: a.test\r\nContent-Length: +5\r\n\r\nabcde",
    "chunks of another kind": GET + b"Host: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": GET + b"Host: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST http://a.test/ HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "CONNECT with a length": b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\nContent-Length: 5\r\n\r\nabcde",
    "CONNECT with chunks": b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare line feed": GET + b"Host: a.test\nX: y\r\n\r\n",
    "bare carriage return": GET + b"Host: a.test\r\nX: y\rZ: z\r\n\r\n",
    "folded line": GET + b"Host: a.test\r\nX: y\r\n z\r\n\r\n",
    "space before the colon": GET + b"Host: a.test\r\nContent-Length : 5\r\n\r\nabcde",
    "header without a name": GET + b"Host: a.test\r\n: x\r\n\r\n",
    "zero byte": GET + b"Host: a.test\r\nX: \0\r\n\r\n",
    "bytes above ASCII": GET + b"Host: a.test\r\nX: \xff\r\n\r\n",
    "empty line first": b"\r\n" + GET + b"Host: a.test\r\n\r\n",
    "two spaces": b"GET  http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "another version": b"GET http://a.test/ HTTP/2.0\r\nHost: a.test\r\n\r\n",
    "no version": b"GET http://a.test/\r\nHost: a.test\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\x05hello\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_is_400_and_no_action(proxied: Make, name: str) -> None:
    out = proxied("a.test:80", "a.test:443", "b.test:80")
    status, body = out.ask(MALFORMED[name])

    assert (status, body["reference"], [r["code"] for r in body["refusal"]["reasons"]]) == (400, None, ["malformed"])
    assert (out.log.checkpoint().size, out.names.asked) == (0, [])


@pytest.mark.parametrize(
    "authority",
    [
        "", ":", ":80", "a.test", "a.test:", "a.test:0", "a.test:080", "a.test:+80", "a.test:-1", "a.test:65536", "a.test:99999999",
        "a.test:8 0",

        "a.test:0x50", "a.test:80:80", "a.test:٨٠", "a.test.:80", ".a.test:80", "a..test:80", "a%2etest:80", "a_.-test:80", "-a.test:80",
        "a test:80", "ä.test:80", "a" * 64 + ".test:80", ".".join(["a" * 60] * 5) + ":80", "127.1:80", "127.0.1:80", "2130706433:80",
        "0x7f000001:80", "0x7f.0.0.1:80", "0177.0.0.1:80", "127.0.0.01:80", "127.0.0.0x1:80", "127.0.0.256:80", "127.0.0.1.:80",
        "1.2.3.4.5:80", "a.0x:80", "a.1:80", "::1:80", "[::1:80", "::1]:80", "[::1]80", "[]:80", "[127.0.0.1]:80", "[::ffff:127.0.0.1]:80",
        "[::ffff:7f00:1]:80", "[0:0:0:0:0:0:0:1]:80", "[::0001]:80", "[fe80::1%lo]:80", "[::1%25lo]:80", "[v1.a]:80", "[::127.0.0.1]:80",
    ],
)  # fmt: skip
def test_odd_spelling_of_a_destination_is_refused(authority: str) -> None:
    with pytest.raises(FormatError):
        parse_authority(authority)


@pytest.mark.parametrize(
    "authority, resource",
    [
        ("a.test:443", "tcp:a.test:443"), ("API.Test:80", "tcp:api.test:80"), ("xn--nxasmq6b.test:1", "tcp:xn--nxasmq6b.test:1"),
        ("localhost:65535", "tcp:localhost:65535"), ("_x.a-b.test:80", "tcp:_x.a-b.test:80"), ("1.2.3.4:80", "tcp:1.2.3.4:80"),
        ("[::1]:80", "tcp:[::1]:80"), ("[2001:DB8::A]:80", "tcp:[2001:db8::a]:80"), ("1.2.3.a:80", "tcp:1.2.3.a:80"),
    ],
)  # fmt: skip
def test_destination_has_one_spelling(authority: str, resource: str) -> None:
    destination = parse_authority(authority)

    assert destination.resource == resource
    assert parse_authority(destination.authority) == destination


@given(st.text(max_size=60) | st.from_regex(r"[\[\]0-9a-fx.:%@_-]{0,30}", fullmatch=True))
def test_any_text_is_a_destination_or_refused(text: str) -> None:
    try:
        destination = parse_authority(text)
    except FormatError:
        return
    assert parse_authority(destination.authority) == destination


def test_any_bytes_are_a_request_or_refused() -> None:
    for specimen in (GET + b"Host: a.test\r\nX: y\r\n\r\n", b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"):
        assert_parser_is_total(parse_head, specimen, open_ended=True)


def test_what_connection_names_is_left_out_but_never_the_framing(proxied: Make, served: MakeServer) -> None:
    web = served(http)
    out = proxied(f"127.0.0.1:{web.port}")
    host = f"127.0.0.1:{web.port}".encode()
    status, body = out.ask(
        b"POST http://%s/ HTTP/1.1\r\nHost: %s\r\nConnection: X-Secret, Content-Length\r\nX-Secret: 1\r\nX-Kept: 2\r\n"
        b"Proxy-Authorization: Basic x\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n"
        b"abcGET http://%s/two HTTP/1.1\r\n\r\n" % (host, host, host)
    )  # fmt: skip

    assert (status, body) == (200, b"hello abc")
    assert web.heard == b"POST / HTTP/1.1\r\nHost: %s\r\nX-Kept: 2\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc" % host
    assert web.connections == 1


# --- what a tunnel begins with ---------------------------------------------------------------------------------------------


def hello(name: str | None) -> bytes:
    """A real ClientHello of this Python's OpenSSL."""
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def record(message: bytes) -> bytes:
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def spelt(extensions: bytes | None) -> bytes:
    """A small ClientHello with these extensions."""
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    if extensions is not None:
        body += len(extensions).to_bytes(2, "big") + extensions
    return record(b"\x01" + len(body).to_bytes(3, "big") + body)


def sni(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(bytes([kind]) + len(name).to_bytes(2, "big") + name for name in names)
    listed = len(entries).to_bytes(2, "big") + entries
    return b"\0\0" + len(listed).to_bytes(2, "big") + listed


def test_client_hello_of_openssl_is_read() -> None:
    assert read_client_hello(hello("api.test")) == ClientHello("api.test", False)
    assert read_client_hello(hello(None)) == ClientHello(None, False)
    assert read_client_hello(spelt(None)) == ClientHello(None, False)


def test_client_hello_in_several_records_is_read_and_every_part_of_it_is_not_yet_one() -> None:
    message = hello("api.test")[5:]
    whole = b"".join(record(message[at : at + 60]) for at in range(0, len(message), 60))

    assert read_client_hello(whole) == ClientHello("api.test", False)
    assert {read_client_hello(whole[:size]) for size in range(len(whole))} == {None}


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1",
        b"\x15\x03\x01\0\x02\x01\0",
        b"\x16\x02\0",
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\x40\x01",
        record(b"\x02\0\0\x01\0"),
        record(b"\x01" + (MAX_HELLO + 1).to_bytes(3, "big")),
        b"".join(record(one) for one in [b"\x01", b"\0", b"\x01", b"\0", *[b"x"] * MAX_RECORDS]),
        record(spelt(b"")[5:] + b"\x01"),
        record(b"\x01\0\0\x02\x03\x03"),
        spelt(None)[:9] + b"\x02" + spelt(None)[10:],
        record(spelt(None)[5:] + b"\0\0"),
        spelt(sni(b"a.test") + sni(b"a.test")),
        spelt(sni(b"a.test", b"b.test")),
        spelt(sni()),
        spelt(sni(b"")),
        spelt(sni(b"a.test", kind=1)),
        spelt(sni(b"a.t\xe4st")),
        spelt(sni(b"a.test\0.b.test")),
        spelt(sni(b"a.test")[:-1]),
        spelt(b"\0\0\0\x09\0\x08" + sni(b"a.test")[6:]),
    ],
)
def test_what_is_no_client_hello_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        read_client_hello(data)


@given(st.binary(max_size=600), st.integers(0, 600))
def test_any_bytes_are_a_client_hello_or_not(noise: bytes, at: int) -> None:
    real = hello("api.test")
    for data in (noise, real[:at] + noise + real[at:], record(noise[:300] or b"\x01"), spelt(noise)):
        try:
            found = read_client_hello(data)
        except FormatError:
            continue
        assert found is None or isinstance(found, ClientHello)


def test_every_spoilt_client_hello_is_answered() -> None:
    def whole(data: bytes) -> object:
        found = read_client_hello(data)
        if found is None:
            raise FormatError("ClientHello", "all of it", "a part")
        return found

    assert_parser_is_total(whole, hello("api.test"), open_ended=True)


@pytest.mark.parametrize(
    "destination, said",
    [
        ("api.test:443", spelt(sni(b"other.test"))),
        ("api.test:8443", spelt(sni(b"other.test"))),
        ("api.test:443", spelt(sni(b"api.test."))),
        ("api.test:443", spelt(sni(b"x.api.test"))),
        ("api.test:443", spelt(b"")),
        ("api.test:443", spelt(sni(b"api.test") + b"\xfe\x0d\0\0")),
        ("1.2.3.4:443", spelt(sni(b"1.2.3.4"))),
        ("1.2.3.4:443", spelt(sni(b"api.test"))),
        ("api.test:443", b"GET / HTTP/1.1\r\n"),
        ("1.2.3.4:443", b"\0"),
        ("api.test:8443", b"\x16\x03\x01\0\x01\x02"),
    ],
)
def test_tunnel_may_not_begin_with(destination: str, said: bytes) -> None:
    with pytest.raises(FormatError):
        may_begin(parse_authority(destination), said)


@pytest.mark.parametrize(
    "destination, said, begins",
    [
        ("api.test:443", spelt(sni(b"api.test")), True),
        ("API.test:443", spelt(sni(b"Api.Test")), True),
        ("1.2.3.4:443", spelt(b""), True),
        ("[::2]:443", spelt(None), True),
        ("api.test:22", b"SSH-2.0-x\r\n", True),
        ("api.test:443", spelt(sni(b"api.test"))[:30], False),
        ("api.test:22", b"", False),
    ],
)
def test_tunnel_may_begin_with(destination: str, said: bytes, begins: bool) -> None:
    assert may_begin(parse_authority(destination), said) is begins


@pytest.mark.parametrize("said", [spelt(sni(b"other.test")), spelt(b""), spelt(sni(b"api.test"))[:40]])
def test_nothing_of_a_tunnel_that_begins_wrongly_reaches_the_destination(proxied: Make, served: MakeServer, said: bytes) -> None:
    back = served(echo)
    out = proxied(f"api.test:{back.port}", f"127.0.0.1:{back.port}", names=named("api.test", "127.0.0.1"))
    with out.tunnel(f"api.test:{back.port}") as tunnel:
        tunnel.sendall(said)
        tunnel.shutdown(socket.SHUT_WR)
        assert ended(tunnel)
    assert [one["sent"] for one in out.results()] == [0, 0]
    assert ("outcome", "failed") in out.records()
    assert back.heard == b""


def test_443_is_silent_until_the_agent_has_named_the_host(proxied: Make, served: MakeServer) -> None:
    address = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
    try:
        talks = served(greeting, address=address, port=443)
    except OSError:
        pytest.skip("port 443 cannot be bound")
    out = proxied(f"{address}:443")
    with out.tunnel(f"{address}:443") as tunnel:
        wait_for(lambda: talks.connections)
        tunnel.settimeout(0.3)
        with pytest.raises(TimeoutError):
            tunnel.recv(1)
        tunnel.settimeout(10)
        tunnel.sendall(b"plain")
        assert ended(tunnel)
    assert talks.heard == b""


def ended(connection: socket.socket) -> bool:
    """Whether the other side has ended it, one way or the other, without another byte."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


# --- bounds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MAX_HEAD, 4 * MAX_HEAD])
def test_long_head_is_refused(proxied: Make, size: int) -> None:
    status, body = proxied("a.test:80").ask(GET + b"Host: a.test\r\nX: " + b"x" * size + b"\r\n\r\n")

    assert (status, "at most" in body["refusal"]["reasons"][0]["expected"]) == (400, True)


def test_head_without_an_end_is_refused_before_its_time(proxied: Make) -> None:
    begun = time.monotonic()
    with proxied("a.test:80").connect() as near:
        near.sendall(b"G" * (2 * MAX_HEAD))
        assert near.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert time.monotonic() - begun < 5


def test_slow_head_is_given_up(proxied: Make) -> None:
    out = proxied("a.test:80", limits=Limits(head_within=0.3))
    with out.connect() as slow:
        begun = time.monotonic()
        for _ in range(100):
            try:
                slow.sendall(b"G")
            except ConnectionError:
                break
            time.sleep(0.05)
        assert time.monotonic() - begun < 2
    assert out.log.checkpoint().size == 0


def test_connections_are_bounded_and_one_that_ends_makes_room(proxied: Make, served: MakeServer) -> None:
    back = served(echo)
    out = proxied(f"127.0.0.1:{back.port}", limits=Limits(connections=2))
    first, second = (out.tunnel(f"127.0.0.1:{back.port}") for _ in range(2))
    with closing(second):
        with out.connect() as third:
            assert ended(third)
        first.close()

        def again() -> bool:
            try:
                out.tunnel(f"127.0.0.1:{back.port}").close()
            except (AssertionError, ConnectionError):
                return False
            return True

        wait_for(again)


@pytest.mark.parametrize(
    "limits, serve, counted",
    [(Limits(sent=100_000), silent, "sent"), (Limits(received=100_000), flood, "received")],
)
def test_bytes_each_way_are_bounded(proxied: Make, served: MakeServer, limits: Limits, serve: Serve, counted: str) -> None:
    server = served(serve)
    out = proxied(f"127.0.0.1:{server.port}", limits=limits)
    got = 0
    with out.tunnel(f"127.0.0.1:{server.port}") as tunnel:
        try:
            if counted == "sent":
                while True:
                    tunnel.sendall(b"x" * 10_000)
            while part := tunnel.recv(65536):
                got += len(part)
        except ConnectionError:
            pass
    result = out.results()[0]
    assert (result["ended"], result[counted]) == ("limit", 100_000)
    assert got <= 100_000
    assert len(server.heard) <= 100_000


@pytest.mark.parametrize("limits", [Limits(sent=1000), Limits(received=1000)])
def test_bytes_of_a_plain_request_and_its_answer_are_bounded(proxied: Make, served: MakeServer, limits: Limits) -> None:
    web = served(http)
    out = proxied(f"127.0.0.1:{web.port}", limits=limits)
    host = f"127.0.0.1:{web.port}".encode()
    with out.connect() as near:
        near.sendall(b"POST http://%s/ HTTP/1.1\r\nHost: %s\r\nContent-Length: 1001\r\n\r\n" % (host, host) + b"x" * 1001)
        data = b""
        try:
            while part := near.recv(65536):
                data += part
        except ConnectionError:
            pass
    assert data.count(b"x") <= 1000
    assert out.results()[0]["ended"] == "limit"


@pytest.mark.parametrize("busy", [True, False])
def test_connection_ends_in_time_however_much_passes_and_others_begin(proxied: Make, served: MakeServer, busy: bool) -> None:
    server = served(echo)
    out = proxied(f"127.0.0.1:{server.port}", limits=Limits(life=0.5))
    began = time.monotonic()
    with out.tunnel(f"127.0.0.1:{server.port}") as tunnel, contextlib.suppress(OSError):
        while time.monotonic() < began + 10:
            tunnel.sendall(b"x")
            if not tunnel.recv(1):
                break
            if busy:
                out.connect().close()
    assert 0.5 <= time.monotonic() - began < 8
    assert out.results()[0]["ended"] in ("reset", "closed"), "as whoever notices it first has it"


@pytest.mark.parametrize("form", ["tunnel", "http"])
def test_idle_connection_is_ended(proxied: Make, served: MakeServer, form: str) -> None:
    server = served(silent)
    out = proxied(f"127.0.0.1:{server.port}", limits=Limits(idle=0.3))
    host = f"127.0.0.1:{server.port}"
    if form == "tunnel":
        with out.tunnel(host) as tunnel:
            assert ended(tunnel)
    else:
        assert out.ask(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[0] == 502
    assert out.results()[0]["ended"] == "idle"


def test_answer_that_is_no_http_is_a_failure_and_none_of_it_is_passed_on(proxied: Make, served: MakeServer) -> None:
    server = served(greeting)
    out = proxied(f"127.0.0.1:{server.port}")
    host = f"127.0.0.1:{server.port}"
    status, body = out.ask(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    assert (status, body["failure"]["what"]) == (502, "http")
    assert out.results()[0]["ended"] == "malformed"


# --- cut -------------------------------------------------------------------------------------------------------------------


def test_cut_ends_every_connection_under_load_records_each_and_mends(proxied: Make, served: MakeServer) -> None:
    pours, back = served(flood), served(echo)
    out = proxied(f"127.0.0.1:{pours.port}", f"127.0.0.1:{back.port}")
    tunnels = [out.tunnel(f"127.0.0.1:{port}") for port in (pours.port, back.port) * 10]
    got = [0] * len(tunnels)
    stopped: list[bool] = []

    def drain(at: int) -> None:
        try:
            while part := tunnels[at].recv(65536):
                got[at] += len(part)
        except ConnectionError:
            pass
        stopped.append(True)

    readers = [threading.Thread(target=drain, args=(at,)) for at in range(0, len(tunnels), 2)]
    for reader in readers:
        reader.start()
    time.sleep(0.3)
    begun = time.monotonic_ns()
    out.gatekeeper.cut(CUT)
    spent = (time.monotonic_ns() - begun) / 1e6
    for reader in readers:
        reader.join(5)
    print(f"cut of {len(tunnels)} connections under load: {spent:.2f} ms")

    assert len(stopped) == 10
    assert all(got[::2])
    with pytest.raises(ConnectionError):
        out.connect()
    for tunnel in tunnels[1::2]:
        assert ended(tunnel)
    results = out.results()
    assert {one["ended"] for one in results} == {"cut"}
    assert len(results) == len(tunnels)
    assert {outcome for what, outcome in out.records() if what == "outcome"} == {"failed"}
    out.gatekeeper.mend()
    out.gatekeeper.mend()
    with out.tunnel(f"127.0.0.1:{back.port}") as tunnel:
        tunnel.sendall(b"again")
        assert tunnel.recv(5) == b"again"
    for tunnel in tunnels:
        tunnel.close()


def test_agent_cannot_take_its_own_port_while_it_is_cut(proxied: Make) -> None:
    out = proxied("a.test:80")
    out.gatekeeper.cut(CUT)
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", out.port))
    with pytest.raises(ConnectionError):
        out.connect()
    out.gatekeeper.mend()
    out.connect().close()


def test_port_that_cannot_be_listened_on_again_stays_cut_until_it_can(proxied: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    out = proxied("a.test:80")
    out.gatekeeper.cut(CUT)
    with monkeypatch.context() as taken:
        taken.setattr(ListeningLine, "_listen", lambda _: socket.create_server(("127.0.0.1", out.port)))
        out.gatekeeper.mend()
    with pytest.raises(ConnectionError):
        out.connect()
    out.gatekeeper.mend()
    out.connect().close()


class Slow(Names):
    """Says when it is asked, and answers once it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.looking, self.go = threading.Event(), threading.Event()

    def addresses(self, name: str) -> tuple[Address, ...]:
        self.looking.set()
        self.go.wait(10)
        return super().addresses(name)


def test_action_decided_before_a_cut_is_not_dialled_after_the_thaw(proxied: Make, served: MakeServer) -> None:
    web = served(http)
    names = Slow()
    names.name("api.test", "127.0.0.1")
    out = proxied(f"api.test:{web.port}", f"127.0.0.1:{web.port}", names=names)
    with out.connect() as near:
        near.sendall(f"GET http://api.test:{web.port}/ HTTP/1.1\r\nHost: api.test:{web.port}\r\n\r\n".encode())
        assert names.looking.wait(5)
        out.gatekeeper.cut(CUT)
        out.gatekeeper.mend()
        names.go.set()
        assert ended(near)
    assert {one["ended"] for one in out.results()} == {"cut"}
    assert web.connections == 0


def test_gate_made_while_everything_is_cut_is_cut(proxied: Make) -> None:
    out = proxied("a.test:80")
    out.gatekeeper.cut(CUT)
    server = listener()
    port = server.getsockname()[1]
    late = EgressGate(server, gatekeeper=out.gatekeeper, resolver=out.names, short="x")
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    late.close()


def test_closed_gate_does_not_come_back_and_has_recorded_what_was_in_flight(proxied: Make, served: MakeServer) -> None:
    back = served(echo)
    out = proxied(f"127.0.0.1:{back.port}")
    tunnel = out.tunnel(f"127.0.0.1:{back.port}")
    out.gate.close()
    assert len(records_of(out.scene.folder, out.scene.instance)) == 2
    out.gatekeeper.mend()
    with pytest.raises(ConnectionError):
        out.connect()
    assert ended(tunnel)
    tunnel.close()
    assert (
        json.dumps(out.results()[0], sort_keys=True) == '{"address": "127.0.0.1", "ended": "cut", "opaque": true, "received": 0, "sent": 0}'
    )


def test_gate_that_is_being_closed_is_not_mended(proxied: Make, served: MakeServer) -> None:
    web = served(http)
    names = Slow()
    out = proxied(f"api.test:{web.port}", names=names)
    with out.connect() as near:
        near.sendall(f"GET http://api.test:{web.port}/ HTTP/1.1\r\nHost: api.test:{web.port}\r\n\r\n".encode())
        assert names.looking.wait(5)
        closing = threading.Thread(target=out.gate.close)
        closing.start()
        assert wait_for(lambda: ended(near))
        out.gatekeeper.mend()
        with pytest.raises(ConnectionError):
            out.connect()
        names.go.set()
        closing.join(10)

"""The uplink against real servers: good ones, slow ones, liars, and other people's certificates."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.signers import new_signer
from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.jose import b64url, parse_dpop, verify_jws
from writ.formats.keys import Signer
from writ.service.uplink import Answer, Uplink

Script = Callable[[socket.socket, int], None]
Seen = tuple[int, str, str, dict[str, str], bytes]
"""Client port, method, path, headers, body."""
Start = Callable[..., tuple[str, list[Seen]]]


class Stopped:
    """A clock that stands still."""

    def now(self) -> int:
        return 1_767_225_600

    def boot(self) -> float:
        return 1.0


def uplink(
    url: str,
    *,
    ca_file: Path | None = None,
    signer: Signer | None = None,
    timeout: float = 5.0,
    max_answer: int = 100_000,
    slowest: int | None = None,
) -> Uplink:
    return Uplink(url, ca_file=ca_file, signer=signer, clock=Stopped(), timeout=timeout, max_answer=max_answer, slowest=slowest)


# --- servers ------------------------------------------------------------------------------------------------------------


class Echo(BaseHTTPRequestHandler):
    """Answers each request with its own body, and keeps what it saw."""

    protocol_version = "HTTP/1.1"
    seen: list[Seen]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.client_address[1], self.command, self.path, dict(self.headers.items()), body))
        self.send_response(201 if self.command == "POST" else 200)
        self.send_header("Content-Type", "application/cbor")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_args: object) -> None:
        """Quiet."""


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def make(context: ssl.SSLContext | None = None) -> tuple[str, list[Seen]]:
        seen: list[Seen] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Echo,), {"seen": seen, "timeout": 5}))
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a refused handshake is what some tests want
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((server, thread))
        return f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}", seen

    yield make
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], str]]:
    """A server that does with each accepted connection (numbered from 0) what a script says."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def make(script: Script) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.05)

        def attend(sock: socket.socket, number: int) -> None:
            with sock:
                sock.settimeout(5)
                try:
                    script(sock, number)
                except OSError:
                    return

        def accept() -> None:
            number = 0
            with listener:
                while not stop.is_set():
                    try:
                        sock, _ = listener.accept()
                    except TimeoutError:
                        continue
                    thread = threading.Thread(target=attend, args=(sock, number))
                    thread.start()
                    threads.append(thread)
                    number += 1

        threads.append(threading.Thread(target=accept))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield make
    stop.set()
    for thread in threads:
        thread.join()


def request(sock: socket.socket) -> bytes:
    """Read one request whose body is what Content-Length says."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (chunk := sock.recv(4096)):
            return b""
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += sock.recv(4096)
    return head + b"\r\n\r\n" + body


# --- certificates, made here ----------------------------------------------------------------------------------------------


def certificate(
    name: str,
    *,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
    address: str | None = None,
    expired: bool = False,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * day)
        .not_valid_after(now - day if expired else now + day)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if address is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key if issuer is None else issuer[1], hashes.SHA256()), key


def server_context(folder: Path, made: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> ssl.SSLContext:
    both = folder / "server.pem"
    pem = made[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both.write_bytes(made[0].public_bytes(Encoding.PEM) + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


def written(folder: Path, name: str, made: x509.Certificate) -> Path:
    (folder / name).write_bytes(made.public_bytes(Encoding.PEM))
    return folder / name


# --- what works -----------------------------------------------------------------------------------------------------------


def test_post_and_get_come_back_over_one_kept_connection(start: Start) -> None:
    url, seen = start()
    with uplink(url) as link:
        assert link.post("/v1/attest", b"body", "application/cbor") == Answer(201, "application/cbor", b"body")
        assert link.get("/v1/nonce?a=b").status == 200
        assert link.post("/v1/attest", b"x" * 100_000, "application/cbor").body == b"x" * 100_000

    assert [row[1:3] for row in seen] == [("POST", "/v1/attest"), ("GET", "/v1/nonce?a=b"), ("POST", "/v1/attest")]
    assert len({row[0] for row in seen}) == 1
    assert "DPoP" not in seen[0][3]


@pytest.mark.parametrize("algorithm", ["Ed25519", "ES256"])
def test_each_request_carries_a_new_proof_over_method_and_address(start: Start, algorithm: str) -> None:
    url, seen = start()
    signer = new_signer(algorithm)
    with uplink(url + "/api/", signer=signer) as link:
        link.post("/v1/attest?x=1", b"body", "application/cbor")
        link.get("/v1/nonce")
        assert link.base_url == url + "/api"

    proofs = [parse_dpop(row[3]["DPoP"]) for row in seen]
    assert [(p.htm, p.htu, p.iat, p.key) for p in proofs] == [
        ("POST", f"{url}/api/v1/attest", Stopped().now(), signer.public),
        ("GET", f"{url}/api/v1/nonce", Stopped().now(), signer.public),
    ]
    assert all(verify_jws(p.jws, signer.public) for p in proofs)
    assert proofs[0].jti != proofs[1].jti
    assert [p.arg for p in proofs] == [b64url(hashlib.sha256(body).digest()) for body in (b"body", b"")]


def test_tls_13_to_a_server_of_the_given_ca_is_kept_alive(start: Start, tmp_path: Path) -> None:
    ca = certificate("test CA")
    url, seen = start(server_context(tmp_path, certificate("server", issuer=ca, address="127.0.0.1")))
    with uplink(url, ca_file=written(tmp_path, "ca.pem", ca[0])) as link:
        assert link.post("/a", b"hello", "text/plain; charset=utf-8").body == b"hello"
        assert link.get("/b").status == 200

    assert len({row[0] for row in seen}) == 1


# --- certificates that are refused ----------------------------------------------------------------------------------------


def test_wrong_certificates_are_refused_and_said(start: Start, tmp_path: Path) -> None:
    ca, stranger = certificate("test CA"), certificate("test CA")
    trusted = written(tmp_path, "ca.pem", ca[0])
    for made, why in (
        (certificate("server", issuer=stranger, address="127.0.0.1"), "trusted|refused"),
        (certificate("server", issuer=ca, address="127.0.0.2"), "names another"),
        (certificate("server", issuer=ca), "names another"),
        (certificate("server", issuer=ca, address="127.0.0.1", expired=True), "has expired"),
        (certificate("server", address="127.0.0.1"), "trusted|refused"),
    ):
        url, seen = start(server_context(tmp_path, made))
        with uplink(url, ca_file=trusted) as link, pytest.raises(Unavailable, match=f"the server's certificate .*({why})"):
            link.get("/")
        assert seen == []


def test_tls_12_is_refused(start: Start, tmp_path: Path) -> None:
    ca = certificate("test CA")
    context = server_context(tmp_path, certificate("server", issuer=ca, address="127.0.0.1"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    url, seen = start(context)
    with uplink(url, ca_file=written(tmp_path, "ca.pem", ca[0])) as link, pytest.raises(Unavailable, match=r"no TLS 1\.3"):
        link.get("/")
    assert seen == []


# --- servers that misbehave -----------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

BAD_ANSWERS = [
    (b"", "closed the connection"),
    (b"garbage\r\n\r\n", "something else"),
    (b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "a redirect"),
    (b"HTTP/1.1 200 OK\r\n\r\nno length", "states its length"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n", "at most 100000 bytes, got 100001"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "10 bytes, got 5|something else"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n" + b"x" * 0x20000 + b"\r\n0\r\n\r\n", "got more"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "something else"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "something else"),
    (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", "something else"),
    (b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n", "something else"),
    (b"\xff\xfe\x00" * 50, "something else|closed"),
]


@pytest.mark.parametrize("data, why", BAD_ANSWERS, ids=range(len(BAD_ANSWERS)))
def test_bad_answer_is_unavailable_and_says_why(scripted: Callable[[Script], str], data: bytes, why: str) -> None:
    def script(sock: socket.socket, _number: int) -> None:
        request(sock)
        sock.sendall(data)

    with uplink(scripted(script)) as link, pytest.raises(Unavailable, match=why):
        link.post("/", b"", "text/plain")


def test_any_bytes_are_an_answer_or_unavailable(scripted: Callable[[Script], str]) -> None:
    data = [b""]

    def script(sock: socket.socket, _number: int) -> None:
        request(sock)
        sock.sendall(data[0])

    url = scripted(script)
    heads = st.sampled_from(
        [
            b"",
            b"HTTP/1.1 ",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: ",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ]
    )

    @given(heads, st.binary(max_size=60))
    @settings(max_examples=60)
    def ask(head: bytes, tail: bytes) -> None:
        data[0] = head + tail
        with uplink(url, max_answer=50, timeout=1) as link, contextlib.suppress(Unavailable):
            assert len(link.get("/").body) <= 50

    ask()


def test_chunked_answer_within_the_bound_is_read(scripted: Callable[[Script], str]) -> None:
    def script(sock: socket.socket, _number: int) -> None:
        request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")

    with uplink(scripted(script)) as link:
        assert link.get("/") == Answer(200, "", b"abc")


def test_answer_with_connection_close_is_read_whole(scripted: Callable[[Script], str]) -> None:
    def script(sock: socket.socket, _number: int) -> None:
        request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n")
        time.sleep(0.05)
        sock.sendall(b"abc")

    with uplink(scripted(script)) as link:
        assert [link.get("/").body for _ in range(2)] == [b"abc", b"abc"]


@pytest.mark.parametrize(
    "prefix", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n"], ids=["silent", "head", "body"]
)
def test_slow_loris_server_is_left_at_the_deadline(scripted: Callable[[Script], str], prefix: bytes) -> None:
    """A byte now and then keeps no one beyond the deadline of the whole request."""

    def script(sock: socket.socket, _number: int) -> None:
        request(sock)
        sock.sendall(prefix)
        for _ in range(100):
            time.sleep(0.02)
            sock.sendall(b"x" if prefix else b"")

    started = time.monotonic()
    with uplink(scripted(script), timeout=0.3) as link, pytest.raises(Unavailable, match=r"no answer in 0\.3 s"):
        link.get("/")
    assert time.monotonic() - started < 1.8


def test_server_that_does_not_read_is_left_at_the_deadline(scripted: Callable[[Script], str]) -> None:
    with uplink(scripted(lambda _sock, _number: time.sleep(1)), timeout=0.3) as link, pytest.raises(Unavailable, match="no answer"):
        link.post("/", bytes(50_000_000), "text/plain")


@pytest.mark.parametrize("slowest", [None, 100_000])
def test_a_large_body_has_the_time_that_a_slow_line_takes(scripted: Callable[[Script], str], slowest: int | None) -> None:
    """Ten seconds more for it here, where that was said; nothing more for a request without a body."""

    def script(sock: socket.socket, _number: int) -> None:
        time.sleep(0.6)
        request(sock)
        sock.sendall(OK)

    with uplink(scripted(script), timeout=0.3, slowest=slowest) as link:
        if slowest is None:
            with pytest.raises(Unavailable, match=r"no answer in 0\.3 s"):
                link.post("/", bytes(1_000_000), "text/plain")
        else:
            assert link.post("/", bytes(1_000_000), "text/plain").status == 200
        with pytest.raises(Unavailable, match=r"no answer in 0\.3 s"):
            link.get("/")


def test_nobody_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with uplink(f"http://127.0.0.1:{port}") as link, pytest.raises(Unavailable, match="refused"):
        link.get("/")


# --- once, or twice where twice is once -------------------------------------------------------------------------------------


def test_request_that_may_have_arrived_is_not_sent_again_unasked(scripted: Callable[[Script], str]) -> None:
    bodies: list[bytes] = []

    def script(sock: socket.socket, number: int) -> None:
        bodies.append(request(sock))
        if number:
            sock.sendall(OK)

    with uplink(scripted(script)) as link, pytest.raises(Unavailable, match="closed the connection"):
        link.post("/", b"once", "text/plain")
    assert len(bodies) == 1


def test_retry_sends_the_same_bytes_once_more_with_a_new_proof(scripted: Callable[[Script], str]) -> None:
    requests: list[bytes] = []

    def script(sock: socket.socket, number: int) -> None:
        requests.append(request(sock))
        if number:
            sock.sendall(OK)

    with uplink(scripted(script), signer=new_signer()) as link:
        assert link.post("/", b"twice", "text/plain", retry=True).body == b"ok"

    bodies = [data.partition(b"\r\n\r\n")[2] for data in requests]
    proofs = [next(line for line in data.split(b"\r\n") if line.startswith(b"DPoP: ")) for data in requests]
    assert bodies == [b"twice", b"twice"]
    assert parse_dpop(proofs[0][6:].decode()).jti != parse_dpop(proofs[1][6:].decode()).jti


def test_retry_is_one_and_no_more(scripted: Callable[[Script], str]) -> None:
    requests: list[bytes] = []
    with uplink(scripted(lambda sock, _number: requests.append(request(sock)))) as link, pytest.raises(Unavailable):
        link.post("/", b"", "text/plain", retry=True)
    assert len(requests) == 2


def test_kept_connection_that_the_server_closed_is_replaced_before_anything_is_sent(scripted: Callable[[Script], str]) -> None:
    requests: list[bytes] = []

    def script(sock: socket.socket, _number: int) -> None:
        requests.append(request(sock))
        sock.sendall(OK)

    with uplink(scripted(script)) as link:
        link.post("/", b"1", "text/plain")
        time.sleep(0.1)
        assert link.post("/", b"2", "text/plain").body == b"ok"
    assert len(requests) == 2


def test_bytes_pushed_before_a_request_are_not_taken_for_its_answer(scripted: Callable[[Script], str]) -> None:
    def script(sock: socket.socket, number: int) -> None:
        request(sock)
        sock.sendall(OK + (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" if number == 0 else b""))
        request(sock)

    with uplink(scripted(script)) as link:
        link.get("/")
        time.sleep(0.05)
        assert link.get("/").body == b"ok"


def test_second_thread_waits_no_longer_than_its_deadline(scripted: Callable[[Script], str]) -> None:
    def script(sock: socket.socket, _number: int) -> None:
        request(sock)
        time.sleep(0.5)
        sock.sendall(OK)

    with uplink(scripted(script), timeout=0.3) as link:

        def ask() -> None:
            with pytest.raises(Unavailable):
                link.get("/")

        first = threading.Thread(target=ask)
        first.start()
        time.sleep(0.01)
        started = time.monotonic()
        with pytest.raises(Unavailable):
            link.get("/")
        assert time.monotonic() - started < 0.9
        first.join()


# --- addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://verifier.example",
        "http://10.0.0.1",
        "http://localhost.example",
        "http://0.0.0.0",
        "ftp://127.0.0.1",
        "https://",
        "https://user:hunter2@verifier.example",
        "https://verifier.example/?a=b",
        "https://verifier.example/#a",
        "https://verifier.example:99999",
        "https://user:hunter2@verifier.example:99999",
        "ftp://user:hunter2@127.0.0.1",
        "https://verifier.example/a b",
        "https://verifier.example\r\nX: y",
        "https://[::1",
        "verifier.example",
        "",
    ],
)
def test_address_that_is_none_of_ours_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(FormatError) as caught:
        uplink(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url, spelt",
    [
        ("HTTPS://Verifier.Example:443/", "https://verifier.example"),
        ("https://verifier.example:8443/api", "https://verifier.example:8443/api"),
        ("http://127.5.5.5:80", "http://127.5.5.5"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost:1", "http://localhost:1"),
    ],
)
def test_address_has_one_spelling(url: str, spelt: str) -> None:
    assert uplink(url).base_url == spelt


@pytest.mark.parametrize("path", ["v1", "", "/a b", "/a\r\nX: y", "/é", "/a#b"])
def test_path_that_is_none_is_misuse(path: str) -> None:
    with pytest.raises(Misuse):
        uplink("http://127.0.0.1:1").get(path)


def test_content_type_that_is_none_is_misuse() -> None:
    with pytest.raises(Misuse):
        uplink("http://127.0.0.1:1").post("/", b"", "text/plain\r\nX: y")


def test_ca_file_must_be_there_and_hold_certificates(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="a readable file"):
        uplink("https://a.example", ca_file=tmp_path / "none")
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(FormatError, match="certificates in PEM"):
        uplink("https://a.example", ca_file=tmp_path / "ca.pem")

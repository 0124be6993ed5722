"""Fetching roots over HTTPS from a server of the test: only the pinned bytes are written."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.world.authority import Ca
from tests.world.tls import self_signed
from verifier import trust_fetch
from verifier.__main__ import main
from writ.formats.digest import Digest
from writ.formats.x509 import parse_certificate, to_pem

ROOT, OTHER = Ca("root"), Ca("other")


@dataclass
class Web:
    """An HTTPS server: path -> (status, headers, body)."""

    folder: Path
    port: int = 0
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.port}{path}"

    def fetch(self, capsys: pytest.CaptureFixture[str], *addresses: str, more: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]]:
        """Exit code and the one root of `verifier trust fetch` for a list of that root alone."""
        pinned = (
            f'[[root]]\nname = "Root"\nmanufacturer = "TEST"\ntpm_class = "discrete"\nsha256 = "{Digest.of(ROOT.certificate()).hex()}"\n'
            f'addresses = {json.dumps(addresses)}\nsources = ["a test"]\n'
        )
        (self.folder / "list.toml").write_text(pinned)
        argv = [
            "trust",
            "fetch",
            "--out",
            str(self.out),
            "--list",
            str(self.folder / "list.toml"),
            "--tls-ca",
            str(self.folder / "cert.pem"),
        ]
        code = main([*argv, "--json", *more])
        return code, json.loads(capsys.readouterr().out)["roots"][0]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def written(self) -> list[Path]:
        return sorted(self.out.iterdir()) if self.out.exists() else []


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    self_signed(tmp_path / "cert.pem", tmp_path / "key.pem", "127.0.0.1")
    made = Web(tmp_path)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            status, headers, body = made.pages.get(self.path, (404, {}, b"no"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
            """Nothing: the test asks `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.parametrize("body", [ROOT.certificate(), to_pem(parse_certificate(ROOT.certificate())).encode()], ids=["der", "pem"])
def test_pinned_root_is_fetched_and_written_as_der(web: Web, capsys: pytest.CaptureFixture[str], body: bytes) -> None:
    web.pages["/root.cer"] = (200, {}, body)
    code, shown = web.fetch(capsys, web.url("/root.cer"))
    assert (code, shown["outcome"]) == (0, "fetched")
    assert [path.read_bytes() for path in web.written()] == [ROOT.certificate()]
    assert shown["file"] == str(web.written()[0])


@pytest.mark.parametrize(
    "body", [OTHER.certificate(), b"<html>", b"", ROOT.certificate() + b"x", to_pem(parse_certificate(ROOT.certificate())).encode() * 2]
)
def test_other_bytes_are_refused_and_nothing_is_written(web: Web, capsys: pytest.CaptureFixture[str], body: bytes) -> None:
    web.pages["/root.cer"] = (200, {}, body)
    web.pages["/second"] = (200, {}, ROOT.certificate())
    code, shown = web.fetch(capsys, web.url("/root.cer"), web.url("/second"))
    assert (code, shown["outcome"], web.written()) == (1, "refused", [])
    assert "fingerprint-mismatch" in shown["detail"]
    assert web.asked == ["/root.cer"]


def test_next_address_is_asked_where_one_does_not_answer(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.pages["/root.cer"] = (200, {}, ROOT.certificate())
    code, shown = web.fetch(capsys, web.url("/absent"), web.url("/root.cer"))
    assert (code, shown["outcome"]) == (0, "fetched")
    code, shown = web.fetch(capsys, web.url("/absent"))
    assert (code, shown["outcome"]) == (3, "unreachable")
    assert "404" in shown["detail"]


def test_redirect_on_the_same_host_is_followed_three_times(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(4):
        web.pages[f"/{step}"] = (302, {"Location": f"/{step + 1}"}, b"")
    web.pages["/4"] = (200, {}, ROOT.certificate())
    assert web.fetch(capsys, web.url("/1"))[0] == 0
    code, shown = web.fetch(capsys, web.url("/0"))
    assert (code, "redirects" in shown["detail"]) == (3, True)


@pytest.mark.parametrize("to", ["https://localhost:{port}/root.cer", "http://127.0.0.1:{port}/root.cer", "file:///etc/passwd"])
def test_redirect_elsewhere_is_not_followed(web: Web, capsys: pytest.CaptureFixture[str], to: str) -> None:
    web.pages["/root.cer"] = (200, {}, ROOT.certificate())
    web.pages["/moved"] = (302, {"Location": to.format(port=web.port)}, b"")
    code, shown = web.fetch(capsys, web.url("/moved"))
    assert (code, shown["outcome"], web.written(), web.asked) == (3, "unreachable", [], ["/moved"])


def test_answer_that_never_ends_is_cut_off(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.pages["/root.cer"] = (200, {}, ROOT.certificate() + bytes(trust_fetch.MAX_ANSWER))
    code, shown = web.fetch(capsys, web.url("/root.cer"))
    assert (code, shown["outcome"], web.written()) == (3, "unreachable", [])
    assert "at most" in shown["detail"]


def test_server_without_a_certificate_of_the_given_ca_is_not_asked(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.pages["/root.cer"] = (200, {}, ROOT.certificate())
    self_signed(web.folder / "cert.pem", web.folder / "other-key.pem", "127.0.0.1")
    code, shown = web.fetch(capsys, web.url("/root.cer"))
    assert (code, shown["outcome"], web.asked) == (3, "unreachable", [])


def test_root_without_an_address_says_so(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = web.fetch(capsys)
    assert (code, shown["outcome"]) == (0, "unpublished")


def test_only_manufacturers_of_the_list_can_be_named(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.pages["/root.cer"] = (200, {}, ROOT.certificate())
    assert web.fetch(capsys, web.url("/root.cer"), more=("--manufacturer", "TEST"))[0] == 0
    argv = ["trust", "fetch", "--out", str(web.out), "--manufacturer", "NONE"]
    assert main(argv) == 2


def test_place_that_cannot_be_written_is_named(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.pages["/root.cer"] = (200, {}, ROOT.certificate())
    web.fetch(capsys, web.url("/root.cer"))
    web.written()[0].unlink()
    web.out.rmdir()
    web.out.write_text("a file")
    argv = ["trust", "fetch", "--out", str(web.out), "--list", str(web.folder / "list.toml"), "--tls-ca", str(web.folder / "cert.pem")]
    assert main(argv) == 3
    assert "out" in capsys.readouterr().err

"""A git host and two package indexes in one HTTPS server, as far as their clients ask."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import ssl
import subprocess
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

NAME: Final = "clients.test"


class Registries:
    """`notes` is a repository, a distribution and a package; `port` serves them, and `asked` are the requests that came."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path]) -> None:
        self.folder, self.asked = folder, list[str]()
        folder.mkdir()
        _repository(folder)
        self.files = {"/simple/notes/": _INDEX, f"/files/{_WHEEL}": _wheel(), "/npm/notes/-/notes-1.0.0.tgz": _package()}
        serving = type("Serving", (_Handler,), {"served": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), serving)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self.files["/npm/notes"] = _manifest(self.port, self.files["/npm/notes/-/notes-1.0.0.tgz"])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Nothing is served any more."""
        self._server.shutdown()
        self._server.server_close()


_WHEEL = "notes-1.0-py3-none-any.whl"
_INDEX = f'<!DOCTYPE html><a href="/files/{_WHEEL}">{_WHEEL}</a>'.encode()


class _Handler(BaseHTTPRequestHandler):
    served: Registries
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the class above
        """Nowhere."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        self.served.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path.startswith("/notes.git/"):
            self._git(path, query, body)
            return
        found = self.served.files.get(path)
        kind = "application/json" if path == "/npm/notes" else "text/html" if path.endswith("/") else "application/octet-stream"
        self._say(200 if found is not None else 404, [("Content-Type", kind)], found or b"")

    def _git(self, path: str, query: str, body: bytes) -> None:
        """git's own CGI."""
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.served.folder), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        pairs = [line.decode().partition(": ")[::2] for line in head.split(b"\r\n") if line]
        status = next((int(value.split(" ")[0]) for name, value in pairs if name == "Status"), 200)
        self._say(status, [pair for pair in pairs if pair[0] != "Status"], rest)

    def _say(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _repository(folder: Path) -> None:
    work = folder / "work"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", "-C"]
    work.mkdir()
    (work / "README").write_text("notes\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, str(work), *words], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(folder / "notes.git")], check=True)


def _wheel() -> bytes:
    files = {
        "notes.py": b"said = 'notes'\n",
        "notes-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: notes\nVersion: 1.0\n",
        "notes-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = "".join(f"{name},,\n" for name in [*files, "notes-1.0.dist-info/RECORD"])
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in {**files, "notes-1.0.dist-info/RECORD": rows.encode()}.items():
            archive.writestr(name, content)
    return data.getvalue()


def _package() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in {"package.json": b'{"name": "notes", "version": "1.0.0"}', "index.js": b"module.exports = 'notes'\n"}.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def _manifest(port: int, package: bytes) -> bytes:
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
    dist = {"tarball": f"https://{NAME}:{port}/npm/notes/-/notes-1.0.0.tgz", "integrity": integrity}
    version = {"name": "notes", "version": "1.0.0", "dist": dist}
    return json.dumps({"name": "notes", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}).encode()

"""`auditor witness serve` and `auditor store serve` as processes of their own, on loopback."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from auditor.serving import folder as own
from auditor.store import serve as store
from auditor.witness import directory
from tests.world.store import proof
from writ.formats.keys import Signer
from writ.formats.tlog.note import NoteKey
from writ.formats.tlog.storing import PATH

AUDITOR = (sys.executable, "-m", "auditor")
ROOT = Path(__file__).parents[2]


class Served:
    """A witness in `folder`, made if it is not there; begun, ended and begun again."""

    verb, keys = "witness", "--logs"
    make = staticmethod(directory.init)

    def __init__(self, folder: Path, logs: Iterable[NoteKey], *options: str, name: str = "witness.example/w1") -> None:
        self.folder, self._options = folder, options
        if not (folder / "vkey").exists():
            self.make(folder, name)
        self.key = own.vkey(folder)
        self.logs = folder.parent / f"{folder.name}.logs"
        self.logs.write_text("".join(f"log {key}\n" for key in logs) + "quorum none\n")
        self.begin()

    def begin(self) -> None:
        """It serves, at a port that the system chose."""
        self.stderr = (self.folder.parent / f"{self.folder.name}.log").open("w+")
        served = [*AUDITOR, self.verb, "serve", str(self.folder), self.keys, str(self.logs)]
        command = [*served, "--listen", "127.0.0.1:0", *self._options]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=self.stderr, stdout=subprocess.DEVNULL)
        while not (lines := self.said()):
            assert self.process.poll() is None, Path(self.stderr.name).read_text()
        self.url: str = lines[0]["url"]
        self.port = urlsplit(self.url).port or 0

    def said(self) -> list[dict[str, Any]]:
        """The whole lines that it logged."""
        return [json.loads(line) for line in Path(self.stderr.name).read_text().split("\n")[:-1]]

    def kill(self) -> None:
        """Gone, without a word."""
        self.process.kill()
        self.process.wait(20)
        self.stderr.close()

    def end(self) -> int:
        """Asked to stop; the exit code. Whatever happened, it never failed as nobody foresaw."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        said = Path(self.stderr.name).read_text()
        self.stderr.close()
        assert "Traceback" not in said, said
        assert '"internal"' not in said, said
        return code

    def post(
        self, body: bytes, path: str = "/add-checkpoint", method: str = "POST", tls: ssl.SSLContext | None = None, proof: str | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the answer, over a connection of its own."""
        made: http.client.HTTPConnection
        if tls is not None:
            made = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=tls)
        else:
            made = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            made.request(method, path, body, {} if proof is None else {"DPoP": proof})
            answer = made.getresponse()
            return answer.status, answer.read()
        finally:
            made.close()

    def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """All that comes back for these bytes until the witness closes; `end` says that nothing more is sent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
            found = b""
            try:
                while part := connection.recv(65536):
                    found += part
            except ConnectionResetError:
                pass
            return found


class ServedStore(Served):
    """A record store; `logs` are the keys of hosts."""

    verb, keys = "store", "--hosts"
    make = staticmethod(store.init)

    def add(self, signer: Signer, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to add-records, sent by the host whose key this is."""
        return self.post(body, PATH, proof=proof(signer, body))

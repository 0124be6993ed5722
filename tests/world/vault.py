"""A vault and a token exchange on loopback, as OpenBao's API and RFC 8693 have them; both take exchange tokens."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from tests.world.federation import JwtMethod, NotTaken

JWT = "urn:ietf:params:oauth:token-type:jwt"


class Vault:
    """Its role `writ` takes whom `method` takes, and so does its token exchange. What is asked and revoked is remembered."""

    def __init__(self, method: JwtMethod, certificate: tuple[Path, Path] | None = None) -> None:
        self.method = method
        self.shown: list[str] = []
        """Each token that came to a login or an exchange."""
        self.kept: dict[str, dict[str, Any]] = {"secret/data/mail": {"data": {"key": "s3cret-mail"}, "metadata": {"version": 1}}}
        self.tokens: dict[str, str] = {}
        """Each token of the vault that is alive, and whom it is for."""
        self.leases: dict[str, str] = {}
        """Each lease that is alive, and the token it hangs on."""
        self.asked: list[str] = []
        self.exchanged: list[Mapping[str, list[str]]] = []
        self.answers = threading.Event()
        """While it is not set, nobody is answered."""
        self.answers.set()
        self.status: int | None = None
        self.lease_seconds = 60
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nobody is served any more."""
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def takes(self, compact: str) -> str | None:
        """The agent of a token that is good here."""
        self.shown.append(compact)
        try:
            return self.method.login(compact)
        except NotTaken:
            return None

    def answer(self, method: str, path: str, body: bytes, bearer: str) -> tuple[int, dict[str, Any] | None]:
        """Status and body."""
        if self.status is not None:
            return self.status, {"errors": ["told to"]}
        if path == "/sts":
            return self._exchange(parse_qs(body.decode()))
        if (method, path) == ("POST", "/v1/auth/jwt/login"):
            asked = json.loads(body)
            agent = self.takes(asked["jwt"]) if asked["role"] == "writ" else None
            if agent is None:
                return 400, {"errors": ["error validating token"]}
            token = f"hvs.{secrets.token_hex(12)}"
            self.tokens[token] = agent
            return 200, {"auth": {"client_token": token, "lease_duration": 3600, "renewable": True}, "data": None, "lease_id": ""}
        if bearer not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        if (method, path) == ("POST", "/v1/auth/token/revoke-self"):
            del self.tokens[bearer]
            self.leases = {lease: token for lease, token in self.leases.items() if token != bearer}
            return 204, None
        if path == "/v1/database/creds/reader":
            lease = f"database/creds/reader/{secrets.token_hex(6)}"
            self.leases[lease] = bearer
            return 200, {"lease_id": lease, "lease_duration": self.lease_seconds, "data": {"password": secrets.token_hex(8)}}
        if (kept := self.kept.get(path.removeprefix("/v1/"))) is not None:
            return 200, {"lease_id": "", "lease_duration": 0, "data": kept}
        return 404, {"errors": []}

    def _exchange(self, asked: Mapping[str, list[str]]) -> tuple[int, dict[str, Any]]:
        self.exchanged.append(asked)
        if asked["subject_token_type"] != [JWT] or self.takes(asked["subject_token"][0]) is None:
            return 400, {"error": "invalid_request"}
        return 200, {"access_token": "ya29.cloud", "token_type": "Bearer", "expires_in": 600}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        vault = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                vault.asked.append(f"{self.command} {self.path}")
                vault.answers.wait(20)
                status, said = vault.answer(self.command, self.path, body, self.headers.get("Authorization", "").removeprefix("Bearer "))
                data = b"" if said is None else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815 - its name there

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        return Handler

"""What a verifier publishes, served over HTTP and changed by hand."""

from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.signers import MemorySigner
from writ.formats.jose import sign_jws
from writ.formats.keys import key_id
from writ.formats.status_list import TYP, StatusList, StatusListToken, encode_status_list

NOW = 1_800_000_000
URI = "http://127.0.0.1/status"


def status_list(signer: MemorySigner, *, sub: str = URI, iat: int = NOW, exp: int = NOW + 60, revoked: tuple[int, ...] = ()) -> str:
    """A signed list in which these indexes are revoked."""
    statuses = StatusList.empty(1, 64)
    for index in revoked:
        statuses = statuses.with_status(index, 1)
    payload = encode_status_list(StatusListToken(sub, iat, exp, 30, statuses))
    return sign_jws(payload, typ=TYP, signer_algorithm=signer.public.algorithm, sign=signer.sign, kid=key_id(signer.public))


class Site:
    """A verifier's public pages, changed by hand."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.status, self.wait = 200, 0.0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                body = site.pages.get(self.path, b"")
                with contextlib.suppress(OSError):
                    self.send_response(site.status)
                    self.send_header("Content-Length", str(len(body)))
                    self.send_header("Location", "/jwks")
                    self.end_headers()
                    for at in range(0, len(body), 1 if site.wait else 65536):
                        self.wfile.write(body[at : at + 1] if site.wait else body[at : at + 65536])
                        time.sleep(site.wait)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Nobody is answered any more."""
        self.server.shutdown()
        self.server.server_close()

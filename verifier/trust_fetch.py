"""Fetch manufacturers' roots from where they are published, and believe only the bytes that are pinned.

The address, the name server, the TLS certificate and the web server decide
nothing: the fingerprint does, which is why an http address does no harm.
Bounded in size, in time and in redirects; a redirect to another host is not
followed. Nothing is written that does not match.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from verifier.manufacturers import PinnedRoot
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.x509 import MAX_CERTIFICATE, parse_certificate, parse_pem_certificates

MAX_ANSWER: Final = 2 * MAX_CERTIFICATE
"""Bytes of one answer: a certificate in PEM."""
MAX_SECONDS: Final = 30
"""For one address, redirects and all."""
MAX_REDIRECTS: Final = 3
_MOVED: Final = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one root: the file that was written, or why none was. `unpublished` means that no address is known."""

    root: PinnedRoot
    file: Path | None
    outcome: str
    detail: str

    def to_json(self) -> dict[str, object]:
        """For people and scripts."""
        return {
            "name": self.root.name,
            "outcome": self.outcome,
            "file": None if self.file is None else str(self.file),
            "detail": self.detail,
        }


def fetch_roots(pinned: Sequence[PinnedRoot], out: Path, *, ca_file: Path | None = None) -> list[Fetched]:
    """Each root is in `out` as DER if an address gave exactly the pinned bytes; else the outcome says why not, and nothing is there.

    1. The addresses of a root are tried in order until one answers.
    2. An answer with another fingerprint is refused, and no further address asked.

    `ca_file` replaces the system's CAs for TLS. Raises Unavailable if `out` cannot be written.
    """
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    return [_one(root, out, context) for root in pinned]


def _one(root: PinnedRoot, out: Path, context: ssl.SSLContext) -> Fetched:
    if not root.addresses:
        return Fetched(root, None, "unpublished", "no address is known; `verifier trust import` takes it from a file")
    faults: list[str] = []
    for address in root.addresses:
        # 1
        try:
            data = fetch(address, context)
        except Unavailable as error:
            faults.append(f"{error.what}: {error.detail}")
            continue
        # 2
        try:
            der = pinned_certificate(data, root)
        except Refused as refused:
            return Fetched(root, None, "refused", f"{address}: {refused.reasons[0]}")
        return Fetched(root, _write(out, root, der), "fetched", address)
    return Fetched(root, None, "unreachable", "; ".join(faults))


def pinned_certificate(data: bytes, root: PinnedRoot) -> bytes:
    """The DER in `data` (PEM or DER), which is exactly the pinned certificate. Raises Refused `fingerprint-mismatch`."""
    try:
        found = parse_pem_certificates(data, "answer") if b"-----BEGIN" in data else (parse_certificate(data),)
        got = ", ".join(str(Digest.of(one.der)) for one in found)
    except FormatError:
        found, got = (), "no certificate"
    if len(found) != 1 or Digest.of(found[0].der) != root.fingerprint:
        raise Refused(Reason("fingerprint-mismatch", "certificate", str(root.fingerprint), got[:200]))
    return found[0].der


def fetch(address: str, context: ssl.SSLContext) -> bytes:
    """The body behind `address`. Raises Unavailable: no answer in time, too large, an error, or a redirect that is not followed."""
    deadline = time.monotonic() + MAX_SECONDS
    for _ in range(1 + MAX_REDIRECTS):
        at = urlsplit(address)
        status, moved, body = _get(at, address, context, deadline)
        if status == 200:
            return body
        if status not in _MOVED or moved is None:
            raise Unavailable(address, f"expected status 200, got {status}")
        address = urljoin(address, moved)
        to = urlsplit(address)
        if (to.hostname, to.scheme) != (at.hostname, at.scheme) and (to.hostname, at.scheme, to.scheme) != (at.hostname, "http", "https"):
            raise Unavailable(at.geturl(), f"expected no redirect to another host or to plain http, got one to {to.scheme}://{to.hostname}")
    raise Unavailable(address, f"expected at most {MAX_REDIRECTS} redirects, got more")


def _get(at: SplitResult, address: str, context: ssl.SSLContext, deadline: float) -> tuple[int, str | None, bytes]:
    left = deadline - time.monotonic()
    if at.scheme not in ("http", "https") or not at.hostname or left <= 0:
        raise Unavailable(address, "expected an http or https address and an answer in time")
    connection: http.client.HTTPConnection
    try:
        if at.scheme == "https":
            connection = http.client.HTTPSConnection(at.hostname, at.port, timeout=left, context=context)
        else:
            connection = http.client.HTTPConnection(at.hostname, at.port, timeout=left)
        try:
            target = (at.path or "/") + (f"?{at.query}" if at.query else "")
            connection.request("GET", target, headers={"Accept": "*/*", "Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.getheader("Location"), _body(answer, address, deadline)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(address, f"expected an answer, got {type(error).__name__}") from None


def _body(answer: http.client.HTTPResponse, address: str, deadline: float) -> bytes:
    body = b""
    while chunk := answer.read1(4096):
        body += chunk
        if len(body) > MAX_ANSWER:
            raise Unavailable(address, f"expected at most {MAX_ANSWER} bytes, got more")
        if time.monotonic() > deadline:
            raise Unavailable(address, f"expected an answer within {MAX_SECONDS} s")
    return body


def _write(out: Path, root: PinnedRoot, der: bytes) -> Path:
    """Under its fingerprint, whole or not at all."""
    path = out / f"{root.manufacturer}-{root.fingerprint.hex()[:16]}.cer"
    part = path.with_suffix(".part")
    try:
        out.mkdir(parents=True, exist_ok=True)
        part.write_bytes(der)
        part.replace(path)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be written") from None
    return path

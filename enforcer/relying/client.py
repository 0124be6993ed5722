"""What a verifier publishes, fetched and held: token keys, status list, policy. Standard library only.

Everything has a deadline and a bound, redirects are not followed, and old
answers grow stale by themselves: a verifier that is away stops permissions, it
never grants them. The status list and the policy carry signatures that are
checked here; the keys are believed because TLS says whose they are.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from writ.formats.cose import CONTENT_TYPE as CONTENT_TYPE_LABEL
from writ.formats.cose import parse_sign1, verify_sign1
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.jose import parse_jws, verify_jws
from writ.formats.keys import PublicKey, key_id, parse_jwk
from writ.formats.policy_bundle import CONTENT_TYPE, PolicyBundle, parse_bundle
from writ.formats.reason import Reason
from writ.formats.status_list import TYP, VALID, parse_status_list
from writ.formats.strict import decode_json
from writ.service import observe
from writ.service.clock import Clock
from writ.verdict.token import Revocation

ANSWER_WITHIN: Final = 5.0
KEYS_LIVE: Final = 300
"""Seconds for which fetched keys are believed; a key withdrawn is forgotten by then."""
MAX_DOCUMENT: Final = 2 << 20
_LOG = observe.get_logger(__name__)


def fetch(url: str, *, cafile: str | None = None, accept: str = "*/*") -> bytes:
    """The body of a GET that answered 200. Raises Unavailable; FormatError for a URL that is neither https nor http to loopback."""
    parts = urlsplit(url)
    loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise FormatError("url", "https, or http to loopback", url[:120])
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=ANSWER_WITHIN, context=ssl.create_default_context(cafile=cafile)
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=ANSWER_WITHIN)
    try:
        connection.request("GET", parts.path or "/", headers={"Accept": accept})
        answer = connection.getresponse()
        return _body(answer, url)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable("verifier", f"{url}: {type(error).__name__}") from None
    finally:
        connection.close()


def _body(answer: http.client.HTTPResponse, url: str) -> bytes:
    """The body, part by part, within one deadline for all of it."""
    if answer.status != 200:
        raise Unavailable("verifier", f"{url}: status {answer.status}")
    end, body = time.monotonic() + ANSWER_WITHIN, bytearray()
    while part := answer.read1(65536):
        body += part
        if len(body) > MAX_DOCUMENT or time.monotonic() > end:
            raise Unavailable("verifier", f"{url}: more than {MAX_DOCUMENT} bytes or {ANSWER_WITHIN:.0f} s")
    return bytes(body)


def parse_jwks(data: bytes) -> dict[str, PublicKey]:
    """Keys by key id; each must name itself by its thumbprint. Raises FormatError. Source: RFC 7517 section 5."""
    value = decode_json(data, "JWKS", max_size=MAX_DOCUMENT)
    if not isinstance(value, Mapping) or not isinstance(value.get("keys"), list) or len(value["keys"]) > 64:
        raise FormatError("JWKS", "an object with at most 64 keys", type(value).__name__)
    found = {}
    for item in value["keys"]:
        key = parse_jwk(item)
        if item.get("kid") != key_id(key):
            raise FormatError("JWKS.kid", key_id(key), str(item.get("kid"))[:64])
        found[key_id(key)] = key
    return found


def verify_status_list(compact: str, keys: Mapping[str, PublicKey], uri: str, now: int) -> Revocation:
    """The revocations of `uri`, signed by one of `keys` and not expired. Raises FormatError, Refused."""
    jws = parse_jws(compact, typ=TYP, max_size=MAX_DOCUMENT)
    key = keys.get(jws.kid or "")
    if key is None or not verify_jws(jws, key):
        raise Refused(Reason("signature-invalid", "status_list", f"a signature by one of {len(keys)} keys", str(jws.kid)[:64]))
    token = parse_status_list(jws.payload)
    if token.sub != uri:
        raise Refused(Reason("status-stale", "status_list.sub", uri, token.sub[:200]))
    if now >= token.exp:
        raise Refused(Reason("status-stale", "status_list.exp", f"later than {now}", str(token.exp)))
    revoked = frozenset(index for index in range(token.statuses.size) if token.statuses.get(index) != VALID)
    return Revocation(token.sub, token.iat, revoked, token.exp, token.statuses.size)


def verify_policy(signed: bytes, decision_keys: Sequence[PublicKey]) -> PolicyBundle:
    """The policy, signed by a pinned decision key. Raises FormatError, Refused."""
    sign1 = parse_sign1(signed, what="policy")
    if sign1.headers.get(CONTENT_TYPE_LABEL) != CONTENT_TYPE or sign1.payload is None:
        raise FormatError("policy", CONTENT_TYPE, repr(sign1.headers.get(CONTENT_TYPE_LABEL))[:80])
    if not any(verify_sign1(sign1, key) for key in decision_keys):
        raise Refused(Reason("signature-invalid", "policy", f"a signature by one of {len(decision_keys)} pinned keys", "another"))
    return parse_bundle(sign1.payload)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the verifier publishes, the decision keys that the service pins, and the file that holds the signed policy."""

    jwks_url: str
    status_uri: str
    policy_file: Path
    decision_keys: tuple[PublicKey, ...]
    cafile: str | None = None


class VerifierFeed:
    """Fetches in the background and answers from what it holds. A `Feed` of `relying.party`."""

    def __init__(self, sources: Sources, clock: Clock, interval: float = 10.0) -> None:
        """Nothing is known until the first `refresh`."""
        self._sources, self._clock, self._interval = sources, clock, interval
        self._keys: tuple[float, dict[str, PublicKey]] = (0.0, {})
        self._revocation: Revocation | None = None
        self._bundles: tuple[PolicyBundle, ...] = ()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Refresh from now on, in a thread of its own, until the process ends."""
        threading.Thread(target=self._forever, name="verifier-feed", daemon=True).start()

    def _forever(self) -> None:
        while True:
            self.refresh()
            time.sleep(self._interval)

    def refresh(self) -> None:
        """Fetch all three; what fails leaves the older answer, which ages. A policy of a lower version is not taken."""
        for step in (self._refresh_keys, self._refresh_revocation, self._refresh_bundle):
            try:
                step()
            except (Unavailable, FormatError, Refused) as error:
                _LOG.warning("feed-refresh-failed", what=step.__name__, detail=str(error)[:300])

    def _refresh_keys(self) -> None:
        keys = parse_jwks(fetch(self._sources.jwks_url, cafile=self._sources.cafile))
        with self._lock:
            self._keys = (self._clock.boot(), keys)

    def _refresh_revocation(self) -> None:
        compact = fetch(self._sources.status_uri, cafile=self._sources.cafile).decode("ascii", "replace")
        revocation = verify_status_list(compact, self.keys(), self._sources.status_uri, self._clock.now())
        with self._lock:
            if self._revocation is not None and revocation.issued_at < self._revocation.issued_at:
                raise Refused(
                    Reason("status-stale", "status_list.iat", f"at least {self._revocation.issued_at}", str(revocation.issued_at))
                )
            self._revocation = revocation

    def _refresh_bundle(self) -> None:
        try:
            signed = self._sources.policy_file.read_bytes()
        except OSError as error:
            raise Unavailable("policy", f"{self._sources.policy_file}: {error.strerror}") from None
        bundle = verify_policy(signed, self._sources.decision_keys)
        with self._lock:
            newest = self._bundles[0] if self._bundles else None
            if newest is not None and bundle.version < newest.version:
                raise Refused(Reason("policy-rollback", "policy.version", f"at least {newest.version}", str(bundle.version)))
            if newest is None or bundle.digest != newest.digest:
                self._bundles = (bundle, *self._bundles[:1])

    def keys(self) -> Mapping[str, PublicKey]:
        """Token keys, none once they are older than `KEYS_LIVE`."""
        with self._lock:
            fetched, keys = self._keys
        return keys if self._clock.boot() - fetched <= KEYS_LIVE else {}

    def revocation(self) -> Revocation | None:
        """The newest status list; whether it is fresh enough is judged with the token."""
        with self._lock:
            return self._revocation

    def bundle(self, named: Digest) -> PolicyBundle | None:
        """The policy of that digest, of the newest two: a token may have been issued just before a new one. Else the newest."""
        with self._lock:
            return next((bundle for bundle in self._bundles if bundle.digest == named), self._bundles[0] if self._bundles else None)

"""Secrets of OpenBao or HashiCorp Vault, asked for with an exchange token of the instance, which the vault verifies for itself.

    POST /v1/auth/jwt/login {"jwt", "role"}        -> a token of the vault, for this instance alone
    GET  /v1/PATH                                  -> the secret, in one field of the answer's data
    POST /v1/auth/token/revoke-self                -> that token, and every lease under it, are gone

The vault finds the verifier's keys of such tokens by discovery (its JWT method's `oidc_discovery_url`); a role says which agents it takes
(`bound_subject`, a SPIFFE ID) for which audience. It never sees the execution token.

Source: the HTTP API of OpenBao 2 and Vault 1 (JWT/OIDC auth method; token; lease).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from enforcer.credential import Held
from enforcer.secrets.bearer import Bearers
from enforcer.secrets.source import DUE, FRESH_FOR, MAX_SECRET, WITHIN, GiveBack, Lease
from writ.formats.errors import FormatError, Unavailable
from writ.formats.strict import Fields, decode_json, encode_json
from writ.service import observe
from writ.service.clock import Clock
from writ.service.uplink import Answer, Uplink

_MAX_ANSWER: Final = 256 << 10
_MAX_FORMER: Final = 64
"""Former sessions of an instance that are still ended with it; what was leased under an older one has long run out."""
_LOG = observe.get_logger(__name__)


class Session:
    """An instance's session with one vault: begun at its first secret, ended by `forget`. Thread-safe."""

    def __init__(self, bearers: Bearers, url: str, *, audience: str, mount: str, role: str, ca_file: Path | None, clock: Clock) -> None:
        """Raises FormatError for a URL or CA file that is none."""
        self._bearers, self._audience = bearers, audience
        self._url, self._mount, self._role, self._ca_file, self._clock = url, mount, role, ca_file, clock
        self._token, self._until = "", 0.0
        self._former: list[str] = []
        self._denied: set[str] = set()
        self._lock = threading.Lock()
        self._uplink(None).close()

    def read(self, path: str, held: Held) -> Fields:
        """The answer to a read of `path` below /v1. A session that has ended is begun anew, once. Raises Unavailable, FormatError.

        A vault says 403 to a session that ended and to a path that the role may not read. What was refused to a session that had just
        begun is the path's, and no reason to begin another: an agent could have one begun for each of its requests.
        """
        for token in self._tokens(path, held):
            with self._uplink(token) as uplink:
                answer = uplink.get(f"/v1/{quote(path)}")
            if answer.status != 403:
                with self._lock:
                    self._denied.discard(path)
                return _fields(answer, path)
        with self._lock:
            self._denied.add(path)
        raise Unavailable("vault", f"{path}: refused (403) to role {self._role}")

    def _tokens(self, path: str, held: Held) -> Iterator[str]:
        """The token that is there, and one that is new, but for a path that was refused to a new one before."""
        with self._lock:
            kept, denied = self._token if time.monotonic() < self._until else "", path in self._denied
        if kept:
            yield kept
            if denied:
                return
        shown, _ = self._bearers.token(self._audience, held)
        with self._uplink(None) as uplink:
            body = encode_json({"jwt": shown, "role": self._role})
            answer = _fields(uplink.post(f"/v1/auth/{quote(self._mount)}/login", body, "application/json"), "login")
        auth = answer.fields("auth")
        token, seconds = auth.text("client_token", least=1, most=4096), auth.uint("lease_duration")
        with self._lock:
            if self._token:  # leases may hang on it
                self._former = [*self._former, self._token][-_MAX_FORMER:]
            self._token, self._until = token, time.monotonic() + seconds * DUE
        yield token

    def forget(self) -> GiveBack | None:
        """As `Source`: what gives back ends the session at the vault, and with it whatever it had leased."""
        self._bearers.forget()
        with self._lock:
            tokens = [*self._former, *([self._token] if self._token else [])]
            self._token, self._until = "", 0.0
            self._former.clear()
        return (lambda: self._revoke(tokens)) if tokens else None

    def _revoke(self, tokens: list[str]) -> None:
        *former, current = tokens
        for token in former:  # most have ended by themselves: then there is nothing to give back
            self._revoked(token, ended=True)
        self._revoked(current)

    def _revoked(self, token: str, *, ended: bool = False) -> None:
        try:
            with self._uplink(token) as uplink:
                answer = uplink.post("/v1/auth/token/revoke-self", b"{}", "application/json", retry=True)
            failed = "" if answer.status in (200, 204, *((403,) if ended else ())) else f"status {answer.status}"
        except Unavailable as error:
            failed = error.detail
        if failed:
            _LOG.warning("lease-left", role=self._role, detail=failed)

    def _uplink(self, token: str | None) -> Uplink:
        return Uplink(
            self._url, ca_file=self._ca_file, signer=None, clock=self._clock, timeout=WITHIN, max_answer=_MAX_ANSWER, bearer=token
        )  # fmt: skip


class VaultSecret:
    """What `field` (names between dots, within `data`) of `path` is: `data.password` for KV version 2, `password` for a dynamic one."""

    def __init__(self, name: str, session: Session, path: str, field: str) -> None:
        self._name, self._session, self._path, self._field = name, session, path, field

    def fetch(self, held: Held) -> Lease:
        """As `Source`."""
        try:
            answer = self._session.read(self._path, held)
            value = answer.fields("data")
            *inner, last = self._field.split(".")
            for step in inner:
                value = value.fields(step)
            secret = value.text(last, least=1, most=MAX_SECRET).encode()
            leased = answer.optional_text("lease_id") if answer.has("lease_id") else None
            seconds = answer.uint("lease_duration") * DUE if leased else FRESH_FOR
        except FormatError as error:
            raise Unavailable(f"secret {self._name}", f"{self._path}: expected {error.expected} in {error.what}") from None
        return Lease(secret, seconds)

    def forget(self) -> GiveBack | None:
        """As `Source`; the session is the instance's, so this ends all of its secrets."""
        return self._session.forget()


def _fields(answer: Answer, what: str) -> Fields:
    if answer.status != 200:
        raise Unavailable("vault", f"{what}: expected 200, got {answer.status}")
    return Fields(decode_json(answer.body, "vault", max_size=_MAX_ANSWER), "vault")

"""Who calls: an operator by an API key, a host by a proof of its enrolled key. Nobody else gets past the public routes.

API keys are `writ_` and 43 characters of base64url, 256 bits from the
operating system; the ledger holds their SHA-256. A key has one namespace (or
`*`, the whole domain) and one role: a `reader` reads, an `operator` also acts,
a `publisher` hands in signed reference values of its namespace, withdraws
what of it still waits, and does nothing else, and a `relying` service asks
whether tokens for its one audience are active, and nothing else.

Where an act takes two people, a person is a key that a key of the whole domain
made, together with all the keys made with it: an operator of a namespace
becomes no second person by making himself another key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from verifier.keys import Keys
from verifier.ledger import ApiKeyMade, Entry, Ledger
from verifier.ledger.schema import ApiKeyRow, HostRow
from writ.formats.decision import DOMAIN, OperatorAct
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.jose import DpopProof, parse_dpop, verify_jws
from writ.formats.reason import Reason
from writ.formats.state import HostRecord, parse_host_record
from writ.formats.strict import b64url, name
from writ.service.clock import Clock

ROLES: Final = ("operator", "publisher", "reader", "relying")
WHOLE_DOMAIN: Final = "*"
PREFIX: Final = "writ_"

PROOF_LIFE: Final = 60
"""Seconds by which a host's clock may differ from ours, either way."""
MAX_PROOFS: Final = 4096
"""Proofs remembered for one host. More within their life are refused rather than forgotten."""


@dataclass(frozen=True, slots=True)
class Operator:
    """An authenticated API key. `person` is the id of the key that stands for its holder, empty for its own.

    `audience` is that of a relying service, and empty for any other role.
    """

    id: str
    namespace: str
    role: str
    label: str
    person: str = ""
    audience: str = ""

    @property
    def who(self) -> str:
        """Whose approval counts as one."""
        return self.person or self.id

    def covers(self, namespace: str) -> bool:
        """Whether the key reaches that namespace."""
        return self.namespace in (namespace, WHOLE_DOMAIN)


class OperatorLog:
    """Makes the signed entry for an operator's act. Nothing an operator does is without one."""

    def __init__(self, keys: Keys, engine: Digest) -> None:
        self._keys = keys
        self._engine = engine

    def entry(self, operator: Operator, act: str, subject: str, *, namespace: str, at: int, detail: Digest | None = None) -> Entry:
        """The entry, ready to commit."""
        recorded = DOMAIN if namespace == WHOLE_DOMAIN else namespace
        return self._keys.sign_entry(OperatorAct(self._engine, at, recorded, operator.id, act, subject, detail))


class ApiKeys:
    """Operators' keys."""

    def __init__(self, ledger: Ledger, log: OperatorLog, clock: Clock, random: Callable[[int], bytes]) -> None:
        self._ledger = ledger
        self._log = log
        self._clock = clock
        self._random = random

    def authenticate(self, header: str | None) -> Operator:
        """The operator behind an Authorization header. Raises Refused `unauthenticated`."""
        scheme, _, secret = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.startswith(PREFIX) or len(secret) != len(PREFIX) + 43 or not secret.isascii():
            raise _unauthenticated("an API key as a bearer token")
        row = self._ledger.read().get(ApiKeyRow, Digest.of(secret.encode("ascii")).value)
        if row is None or row.revoked_at is not None:
            raise _unauthenticated("a valid API key")
        return Operator(row.id, row.namespace, row.role, row.label, row.person, row.audience)

    def create(self, operator: Operator, *, namespace: str, role: str, label: str, audience: str = "") -> tuple[str, ApiKeyRow]:
        """A new key exists; its secret is returned once and stored nowhere. Raises Refused, FormatError."""
        if namespace != WHOLE_DOMAIN:
            name(namespace, "namespace")
        if namespace == DOMAIN:
            raise FormatError(
                "namespace", f"a name other than {DOMAIN}, under which acts on the whole domain are recorded", repr(namespace)
            )
        if not operator.covers(namespace):
            raise Refused(Reason("forbidden", "namespace", operator.namespace, namespace))
        if role not in ROLES:
            raise FormatError("role", " or ".join(ROLES), repr(role[:20]))
        if bool(audience) != (role == "relying"):
            raise FormatError("audience", "one for the role relying, and for no other", f"{len(audience)} characters")
        if role == "publisher" and namespace == WHOLE_DOMAIN:
            raise Refused(Reason("forbidden", "namespace", "one namespace, for a publisher", WHOLE_DOMAIN))
        secret = PREFIX + b64url(self._random(32))
        now = self._clock.now()
        key = self._random(8).hex()
        person = key if operator.namespace == WHOLE_DOMAIN else operator.who
        row = ApiKeyRow(Digest.of(secret.encode("ascii")).value, key, namespace, role, label, now, None, person, audience)
        entry = self._log.entry(operator, "api-key-create", row.id, namespace=namespace, at=now)
        self._ledger.commit(ApiKeyMade(entry, row))
        return secret, row

    def revoke(self, operator: Operator, key: str) -> ApiKeyRow:
        """The key is of no use from now on. Raises Refused `not-found`."""
        found = [row for row in self._ledger.read().select(ApiKeyRow, id=key) if operator.covers(row.namespace)]
        if not found:
            raise Refused(Reason("not-found", "api_key", "an API key of this namespace", key[:40]))
        old, now = found[0], self._clock.now()
        row = replace(old, revoked_at=now)
        self._ledger.commit(ApiKeyMade(self._log.entry(operator, "api-key-revoke", key, namespace=old.namespace, at=now), row))
        return row

    def list(self, operator: Operator) -> tuple[ApiKeyRow, ...]:
        """The keys that this operator may see."""
        return tuple(row for row in self._ledger.read().select(ApiKeyRow) if operator.covers(row.namespace))


class HostProofs:
    """Proofs of possession of a host's enrolled key (RFC 9449), each of use once."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._seen: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def authenticate(self, host: str, proof: str | None, *, method: str, path: str, body: bytes) -> HostRecord:
        """The enrolled host behind a DPoP proof. Raises FormatError, Refused.

        1. It is the host's, for this method and path, and of now (`sender`).
        2. It is over this body.
        3. It is used for the first time.
        """
        # 1
        parsed, record = self.sender(host, proof, method=method, path=path)
        # 2
        if parsed.arg != b64url(Digest.of(body).value):
            raise Refused(Reason("proof-mismatch", "dpop.arg", "the digest of the body", "another or none"))
        # 3
        self._once(host, parsed.jti, parsed.iat, self._clock.now())
        return record

    def sender(self, host: str, proof: str | None, *, method: str, path: str) -> tuple[DpopProof, HostRecord]:
        """The enrolled host whose key made the proof, whatever it was made over and however often it was used. Raises FormatError, Refused.

        1. It is well formed, for this method and path.
        2. Its time is ours, give or take `PROOF_LIFE`.
        3. The host is enrolled and not retired, and its key made the proof.
        """
        # 1
        if proof is None:
            raise _unauthenticated("a DPoP proof by the host key")
        parsed = parse_dpop(proof)
        if parsed.htm != method or urlsplit(parsed.htu).path != path:
            raise Refused(Reason("proof-mismatch", "dpop", f"{method} {path}"[:200], f"{parsed.htm} {urlsplit(parsed.htu).path}"[:200]))
        # 2
        now = self._clock.now()
        if abs(now - parsed.iat) > PROOF_LIFE:
            raise Refused(Reason("proof-stale", "dpop.iat", f"within {PROOF_LIFE} s of {now}", str(parsed.iat)))
        # 3
        row = self._ledger.read().get(HostRow, host)
        if row is None or row.record is None:
            raise _unauthenticated("a proof by the key of an enrolled host")
        record = parse_host_record(row.record)
        if parsed.key != record.host_key or not verify_jws(parsed.jws, record.host_key):
            raise _unauthenticated("a proof by the key of an enrolled host")
        if row.status == "retired":
            raise Refused(Reason("host-not-active", "host.status", "active", row.status))
        return parsed, record

    def _once(self, host: str, jti: str, iat: int, now: int) -> None:
        with self._lock:
            seen = self._seen.setdefault(host, {})
            if len(seen) >= MAX_PROOFS // 2:
                self._seen[host] = seen = {known: until for known, until in seen.items() if until >= now}
            if jti in seen:
                raise Refused(Reason("proof-replayed", "dpop.jti", "a proof used once", "a used one"))
            if len(seen) >= MAX_PROOFS:
                raise Refused(Reason("too-many-requests", "dpop", f"at most {MAX_PROOFS} proofs in {2 * PROOF_LIFE} s", "more"))
            seen[jti] = iat + PROOF_LIFE


def _unauthenticated(expected: str) -> Refused:
    return Refused(Reason("unauthenticated", "credential", expected, "none that is valid"))

"""Revocation: of a token, of an instance with its descendants, of a host. Published as a signed Token Status List.

What is revoked never heals by itself: an instance is tainted for ever, a host
is contained until an operator releases it. Every revocation raises the
namespace's epoch, so that a verdict under way is void.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Final

from verifier.access import Operator, OperatorLog
from verifier.attest import LIST_SIZE, descendants
from verifier.keys import Keys
from verifier.ledger import ATTEMPTS, HostChange, Ledger, TokensRevoked, Void
from verifier.ledger.schema import EntryRow, HostRow, TokenRow
from writ.formats.errors import Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.state import HostState, clean_runtime, encode_host_state, parse_host_record, parse_host_state
from writ.formats.status_list import INVALID, TYP, StatusList, StatusListToken, encode_status_list
from writ.service.clock import Clock
from writ.verdict.issue import status_uri

LIST_LIFE: Final = 60
"""Seconds a status list may be used; a token lives no shorter by default, so that a stale list is a refusal in time."""
LIST_TTL: Final = 15
KEPT: Final = 2
"""Seconds for which a signed list is given out again."""


class Revocations:
    """Revokes, and publishes what is revoked."""

    def __init__(self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock, issuer: str) -> None:
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock
        self._issuer = issuer
        self._lists: dict[int, tuple[int, str]] = {}
        self._lock = threading.Lock()

    def revoke(self, operator: Operator, namespace: str, kind: str, subject: str) -> EntryRow:
        """The subject (`jti`, `instance` as hex, or `host`) is revoked, and all that descends from it. Raises Refused `not-found`.

        Of a `jti` those are the tokens of the instance's descendants that may rest on it (ADR 0037): they end no later than it. Instances
        stay as they are, and attest again.
        """
        for _ in range(ATTEMPTS):
            now = self._clock.now()
            entry = self._log.entry(operator, "token-revoke", f"{kind} {subject}", namespace=namespace, at=now)
            token, host, instances, change = self._affected(namespace, kind, subject)
            try:
                committed = self._ledger.commit(TokensRevoked(entry, token, host, instances, change))
            except Void:
                continue
            with self._lock:
                self._lists.clear()
            if committed.entry is not None:
                return committed.entry
        raise Unavailable("revocation", f"the state of {subject[:64]} moved {ATTEMPTS} times")

    def _affected(self, namespace: str, kind: str, subject: str) -> tuple[str | None, str, tuple[bytes, ...], HostChange | None]:
        tables = self._ledger.read()
        if kind == "jti":
            rows = tables.select(TokenRow, token_id=subject, namespace=namespace)
            if not rows:
                raise _unknown(kind, namespace, subject)
            row = tables.get(HostRow, rows[0].host)
            if row is None or row.state is None:
                return subject, "", (), None
            return subject, row.host, descendants(parse_host_state(row.state), rows[0].instance)[1:], HostChange(row, row)
        if kind == "host":
            row = tables.get(HostRow, subject)
            if row is None or row.namespace != namespace or row.record is None or row.status == "retired":
                raise _unknown(kind, namespace, subject)
            return None, row.host, (), HostChange(row, _contained(row), void=True)
        instance = bytes.fromhex(subject)
        for row in tables.select(HostRow, namespace=namespace):
            state = None if row.state is None else parse_host_state(row.state)
            if state is not None and state.runtime.find(instance) is not None:
                doomed = descendants(state, instance)
                return None, row.host, doomed, HostChange(row, _tainted(row, state, doomed))
        raise _unknown(kind, namespace, subject)

    def status_list(self, number: int) -> str:
        """The signed status list of that number. Raises Refused `not-found` for one that has no token yet."""
        now = self._clock.now()
        with self._lock:
            kept = self._lists.get(number)
        if kept is not None and 0 <= now - kept[0] < KEPT:
            return kept[1]
        tables = self._ledger.read()
        last = tables.last(TokenRow)
        if number > 0 and (last is None or number > last.status_index // LIST_SIZE):
            raise Refused(Reason("not-found", "status list", "the number of a list", str(number)[:20]))
        statuses = bytearray(StatusList.empty(1, LIST_SIZE).values)
        for token in tables.select(TokenRow, revoked=1):
            if token.status_index // LIST_SIZE == number:
                place = token.status_index % LIST_SIZE
                statuses[place // 8] |= INVALID << place % 8
        claims = StatusListToken(status_uri(self._issuer, number), now, now + LIST_LIFE, LIST_TTL, StatusList(1, bytes(statuses)))
        signed = self._keys.sign_jwt(encode_status_list(claims), TYP, self._keys.current())
        with self._lock:
            if len(self._lists) > 64:
                self._lists.clear()
            self._lists[number] = (now, signed)
        return signed


def _tainted(row: HostRow, state: HostState, doomed: tuple[bytes, ...]) -> HostRow:
    runtime = state.runtime
    for instance in doomed:
        known = runtime.find(instance)
        if known is not None:
            runtime = runtime.with_instance(known.in_phase("tainted"))
    after = replace(state, version=state.version + 1, runtime=runtime)
    return replace(row, state=encode_host_state(after), version=after.version)


def _contained(row: HostRow) -> HostRow:
    """The host contained by an operator; one contained by a fork stays so."""
    by = row.contained_by or "operator"
    bank = parse_host_record(row.record or b"").bank
    unseen = HostState(-1, "active", 0, 0, 0, False, 0, clean_runtime(bank))
    state = unseen if row.state is None else parse_host_state(row.state)
    after = replace(state, version=state.version + 1, status="contained")
    return replace(row, status="contained", contained_by=by, state=encode_host_state(after), version=after.version)


def _unknown(kind: str, namespace: str, subject: str) -> Refused:
    return Refused(Reason("not-found", kind, f"a {kind} of {namespace}", subject[:64]))

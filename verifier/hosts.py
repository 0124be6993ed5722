"""Hosts in an operator's hands: admitted, listed, released, replaced, retired. Each act is logged in the commit that makes it true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from verifier.access import Operator, OperatorLog
from verifier.attest import token_life
from verifier.enrol import ticket_id
from verifier.heard import facts
from verifier.ledger import Admitted, HostChange, HostMoved, Ledger, Tables, decide_and_commit
from verifier.ledger.schema import AdmissionRow, HeardRow, HostRow
from verifier.ledger.transaction import unheard
from verifier.proposals import settings_in_force
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.policy_bundle import PolicySettings
from writ.formats.reason import Reason
from writ.formats.record import commit
from writ.formats.state import HostState, clean_runtime, encode_host_state, parse_host_record, parse_host_state
from writ.formats.strict import b64url
from writ.service.clock import Clock
from writ.verdict.appraise.boot import BOOT_ENVIRONMENTS
from writ.verdict.appraise.ima import ENVIRONMENT as FILES
from writ.verdict.appraise.ima import ROOTED_PARTS
from writ.verdict.publication import people_needed
from writ.verdict.standing import Standing, standing

MAX_TICKET_LIFE: Final = 30 * 24 * 3600
ATTEMPTS: Final = 20
EXCUSED: Final = (*BOOT_ENVIRONMENTS, FILES, *ROOTED_PARTS)
"""Environments that a host without logs is not compared with."""


Change = Callable[[HostRow], HostChange]


@dataclass(frozen=True, slots=True)
class KnownHost:
    """A host as it is recorded, and how it stands now. `reasons` are those of the last decision."""

    row: HostRow
    heard: HeardRow
    standing: Standing
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Admission:
    """What an admission gave: a ticket that is shown once, or None where an EK digest was admitted; 0 for no expiry."""

    host: str
    namespace: str
    ticket: str | None
    expires_at: int


class Hosts:
    """The hosts of all namespaces."""

    def __init__(self, ledger: Ledger, log: OperatorLog, clock: Clock, random: Callable[[int], bytes]) -> None:
        self._ledger = ledger
        self._log = log
        self._clock = clock
        self._random = random

    def admit(self, operator: Operator, namespace: str, host: str, *, ek: Digest | None, unendorsed: bool, life: int) -> Admission:
        """The host may enrol once: by the returned ticket or, with `ek`, by that TPM without one. Raises FormatError, Refused."""
        now = self._clock.now()
        admission, row = self._admission(namespace, host, ek=ek, unendorsed=unendorsed, life=life, now=now)
        hidden = None if ek is None else Digest("sha256", commit(row.id, ek.value))  # the log is public, and names no EK
        entry = self._log.entry(operator, "host-admit", host, namespace=namespace, at=now, detail=hidden)
        self._ledger.commit(Admitted(entry, row))
        return admission

    def _admission(
        self, namespace: str, host: str, *, ek: Digest | None, unendorsed: bool, life: int, now: int
    ) -> tuple[Admission, AdmissionRow]:
        if unendorsed and ek is None:
            raise FormatError("admission", "an EK digest where no certificate is asked for", "none")
        if not 60 <= life <= MAX_TICKET_LIFE:
            raise FormatError("admission.life", f"60 to {MAX_TICKET_LIFE} seconds", str(life))
        ticket = b64url(self._random(32)) if ek is None else None
        row_id = self._random(32) if ticket is None else ticket_id(ticket)
        expires_at = 0 if ticket is None else now + life
        row = AdmissionRow(
            row_id, host, namespace, None if ek is None else str(ek), int(unendorsed), int(ticket is not None), expires_at, 0
        )
        return Admission(host, namespace, ticket, expires_at), row

    def get(self, namespace: str, host: str) -> HostRow:
        """The host. Raises Refused `not-found`."""
        return _host(self._ledger.read(), namespace, host)

    def known(self, namespace: str, host: str) -> KnownHost:
        """The host, and how it stands. Raises Refused `not-found`."""
        row, tables = self.get(namespace, host), self._ledger.read()
        return self._known(row, tables.get(HeardRow, host), token_life(tables, namespace))

    def list(self, namespace: str, *, most: int, after: str | None) -> tuple[KnownHost, ...]:
        """The hosts of the namespace by name, those behind `after`, and how each stands.

        Two reads, each of `most` rows: every host has a row of what was heard of it, under the same key.
        """
        tables = self._ledger.read()
        rows = tables.select(HostRow, most=most, after=after, namespace=namespace)
        heard = {row.host: row for row in tables.select(HeardRow, most=most, after=after, namespace=namespace)}
        life = token_life(tables, namespace)
        return tuple(self._known(row, heard.get(row.host), life) for row in rows)

    def _known(self, row: HostRow, heard: HeardRow | None, life: int) -> KnownHost:
        told = heard or unheard(row.host, row.namespace, 0)
        known = facts(row, told)
        reasons = () if known.appraised is None else known.appraised.reasons
        return KnownHost(row, told, standing(known, token_life=life, now=self._clock.now()), reasons)

    def release(self, operator: Operator, namespace: str, host: str) -> HostRow:
        """A contained host may attest again; what was tainted stays so. Raises Refused `conflict` for any other host.

        After a fork the recorded counters say nothing of the TPM that is now
        approved: they start anew, and the log is asked for in full.
        """

        def released(row: HostRow) -> HostChange:
            if row.status != "contained":
                raise Refused(Reason("conflict", "host.status", "contained", row.status))
            after = replace(row, status="active", contained_by=None)
            if row.state is None:
                return HostChange(row, after)
            state = parse_host_state(row.state)
            state = replace(state, version=state.version + 1, status="active")
            if row.contained_by == "fork":
                state = _from_anew(state, row)
            return HostChange(row, replace(after, state=encode_host_state(state), version=state.version))

        return self._move(operator, "host-release", namespace, host, released)

    def replace(self, operator: Operator, namespace: str, host: str, *, ek: Digest | None, unendorsed: bool, life: int) -> Admission:
        """The host's TPM is retired and burnt, its tokens revoked; another TPM may enrol under the name, as a new generation."""
        admission, admitted = self._admission(namespace, host, ek=ek, unendorsed=unendorsed, life=life, now=self._clock.now())

        def replaced(row: HostRow) -> HostChange:
            if row.ek is None or row.status == "retired":
                raise Refused(Reason("conflict", "host.status", "an enrolled host", row.status))
            status = "contained" if row.status == "contained" else "admitted"
            return HostChange(row, replace(row, status=status, ek=None, record=None), burn=True, void=True)

        self._move(operator, "host-replace", namespace, host, replaced, admitted)
        return admission

    def retire(self, operator: Operator, namespace: str, host: str) -> KnownHost:
        """The host and its TPM are out of service for ever; of one that never enrolled only the admission, and its name is free again."""

        def retired(row: HostRow) -> HostChange:
            if row.status == "retired":
                raise Refused(Reason("conflict", "host.status", "a host in service", row.status))
            return HostChange(row, replace(row, status="retired"), burn=True, void=True, gone=row.generation == 0)

        row, tables = self._move(operator, "host-retire", namespace, host, retired), self._ledger.read()
        heard = tables.get(HeardRow, host) or unheard(host, namespace, self._clock.now())
        return self._known(row, heard, token_life(tables, namespace))

    def excuse(self, operator: Operator, namespace: str, host: str) -> HostRow:
        """The host owes no log of boot or IMA until it sends one again.

        Where a policy asks for a rooted runtime it is refused as before. Raises Refused `conflict`:

        1. Where reference values of boot or files take several people: one does not lift the check alone.
        2. For a host that owes nothing, and one whose logs of this boot are known: what stands against them stands.
        """
        # 1
        settings = settings_in_force(self._ledger.read(), namespace) or PolicySettings()
        needed = max(people_needed(environment, settings) for environment in EXCUSED)
        if needed > 1:
            raise Refused(Reason("conflict", "policy.approvals", "one person for boot, files and rooted parts", str(needed)))

        # 2
        def excused(row: HostRow) -> HostChange:
            state = None if row.state is None else parse_host_state(row.state)
            if state is None or not state.logs or state.boot is not None or state.ima is not None or row.status == "retired":
                raise Refused(Reason("conflict", "host.logs", "a host that owes logs, and sent none in this boot", "another"))
            state = state.moved(state.status, ())
            return HostChange(row, replace(row, state=encode_host_state(state), version=state.version))

        return self._move(operator, "host-excuse", namespace, host, excused)

    def _move(
        self, operator: Operator, act: str, namespace: str, host: str, change: Change, admission: AdmissionRow | None = None
    ) -> HostRow:
        """The change is committed on the host as it stands; an attestation that came between only makes it be tried again."""

        def moved(tables: Tables) -> tuple[HostMoved, HostRow]:
            made = change(_host(tables, namespace, host))
            detail = None if made.before.record is None else Digest.of(made.before.record)
            entry = self._log.entry(operator, act, host, namespace=namespace, at=self._clock.now(), detail=detail)
            return HostMoved(entry, made, admission), made.after

        return decide_and_commit(self._ledger, moved, what="hosts", of=f"the state of {host}", attempts=ATTEMPTS)


def _host(tables: Tables, namespace: str, host: str) -> HostRow:
    row = tables.get(HostRow, host)
    if row is None or row.namespace != namespace:
        raise Refused(Reason("not-found", "host", f"a host of {namespace}", host[:63]))
    return row


def _from_anew(state: HostState, row: HostRow) -> HostState:
    bank = parse_host_record(row.record or b"").bank
    tainted = tuple(i.in_phase("tainted") for i in state.runtime.instances if i.phase in ("drifted", "tainted"))
    return replace(state, clock=0, reset_count=0, restart_count=0, runtime=clean_runtime(bank).with_instances(tainted))

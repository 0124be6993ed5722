"""The rules of a commit, for every storage: what must still hold, and what is written.

`apply` runs inside one transaction. It raises before it writes, or the caller
rolls back: nothing of a refused change stays. The entries of all changes of
one transaction are appended together, at its end, by `entered`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Final

from verifier.ledger import (
    Admitted,
    ApiKeyMade,
    Applied,
    Attested,
    Basis,
    Began,
    Change,
    Committed,
    Consent,
    Consented,
    ContentErased,
    ContentHeld,
    DelegationPublished,
    EngineInstalled,
    Enrolment,
    Entry,
    Exchanged,
    HostChange,
    HostMoved,
    KeyRotated,
    NonceIssued,
    Noted,
    PolicyPublished,
    ReferencesImported,
    Tables,
    TokensRevoked,
    TrustImported,
    Void,
)  # fmt: skip
from verifier.ledger.blobs import blob_id
from verifier.ledger.schema import (
    AdmissionRow,
    AnswerRow,
    ApprovalRow,
    BlobRow,
    EkRow,
    EntryRow,
    ExchangeKeyRow,
    ExemptionRow,
    HeardRow,
    HostRow,
    KeyRow,
    NonceRow,
    ProofRow,
    ProposalRow,
    ReferenceRow,
    SpaceRow,
    TokenRow,
    TrustRow,
)  # fmt: skip
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse, Refused, Unavailable
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.reason import Reason
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.tlog.tile import MAX_ENTRY
from writ.verdict.reference import judges_hosts, reference_set

NO_REFERENCES: Final = reference_set(()).digest.value
KEPT_AFTER_EXPIRY: Final = 3600
"""Seconds for which expired nonces, answers and tokens stay, so that a late use of one is told what it is."""
PRUNED_EVERY: Final = 32
"""Entries of the log between two prunings."""
MOST_EXCHANGES: Final = 64
"""Exchanges decided under one execution token: as many as it has grants at most. A holder asks once for each audience."""


def space(tables: Tables, namespace: str) -> SpaceRow:
    """The namespace; an empty one if nothing was ever published in it."""
    return tables.get(SpaceRow, namespace) or SpaceRow(namespace, None, 0, NO_REFERENCES, 0)


def stored_answer(tables: Tables, nonce: NonceRow | None, evidence: bytes) -> bytes | None:
    """The answer that went out before, if exactly this evidence spent the nonce."""
    if nonce is None or nonce.spent_by != evidence:
        return None
    answer = tables.get(AnswerRow, nonce.nonce)
    return None if answer is None or answer.evidence != evidence else answer.answer


def judge_nonce(nonce: NonceRow | None, *, host: str, at: int) -> NonceRow:
    """The nonce is this host's, unspent, the newest, and within its life at `at`. Raises Refused."""
    if nonce is None or nonce.host != host:
        raise Refused(Reason("nonce-unknown", "nonce", "a nonce of this host", "another"))
    if nonce.spent_by is not None:
        raise Refused(Reason("nonce-spent", "nonce", "an unspent nonce", "a spent one"))
    if not nonce.newest:
        raise Refused(Reason("nonce-superseded", "nonce", "the newest nonce of the host", "an older one"))
    if at >= nonce.expires_at or at < nonce.issued_at - CLOCK_SKEW:
        raise Refused(Reason("nonce-expired", "nonce", f"used from {nonce.issued_at} and before {nonce.expires_at}", str(at)))
    return nonce


@singledispatch
def apply(change: Change, tables: Tables) -> Applied:  # noqa: ARG001 - the registered rules use both
    """Check `change` against what stands now, and write all of it but its entry, which `entered` writes."""
    raise Misuse(f"no rule for {type(change).__name__}")


@apply.register
def _attested(change: Attested, tables: Tables) -> Applied:
    """1. The nonce. 2. The host. 3. Policy, references, epoch. 4. All writes: nonce, state, tokens, next nonce, answer, entry."""
    # 1
    nonce = tables.get(NonceRow, change.nonce)
    again = stored_answer(tables, nonce, change.evidence)
    if again is not None:
        return Applied(None, again, repeated=True)
    nonce = judge_nonce(nonce, host=change.entry.host, at=change.entry.at)
    # 2
    host = _host(tables, change.entry.host)
    if host.status not in ("active", "contained"):
        raise Refused(Reason("host-not-active", "host.status", "active", host.status))
    if host.record is None or Digest.of(host.record).value != change.basis.record:
        raise Void("the host's record")
    if host.version != change.basis.version:
        raise Void("the host's state")
    # 3
    _still(tables, host.namespace, change.basis)
    # 4
    tables.put(replace(nonce, newest=0, spent_by=change.evidence))
    contained_by = None if change.status != "contained" else host.contained_by or "fork"
    tables.put(replace(host, status=change.status, contained_by=contained_by, state=change.state, version=change.version))
    tables.put(replace(change.heard, governing=space(tables, host.namespace).governing))
    if change.status == "contained":
        _revoke(tables, tables.select(TokenRow, host=host.host, revoked=0))
    for instance in change.doomed:
        _revoke(tables, tables.select(TokenRow, instance=instance, host=host.host, revoked=0))
    for token in change.tokens:
        if tables.get(TokenRow, token.status_index) is not None:
            raise Void("the status index")
        tables.put(token)
    _issue(tables, change.next_nonce)
    tables.put(change.answer)
    if change.listed is not None:
        tables.put(change.listed)
    _blobs(tables, change.blobs, host.namespace)
    return Applied(_fitting(change.entry), change.answer.answer)


@apply.register
def _began(change: Began, tables: Tables) -> Applied:
    """There is no entry yet."""
    if tables.last(EntryRow) is not None:
        raise Misuse("a log begins once")
    return Applied(_fitting(change.entry))


@apply.register
def _noted(change: Noted, tables: Tables) -> Applied:
    """The entry says it all."""
    _blobs(tables, change.blobs)
    return Applied(_fitting(change.entry))


@apply.register
def _installed(change: EngineInstalled, tables: Tables) -> Applied:
    """The object is there for whoever reads the log."""
    _blobs(tables, (change.engine,))
    return Applied(None)


@apply.register
def _exchanged(change: Exchanged, tables: Tables) -> Applied:
    """The proof is used up, the decision in the log. What is refused here writes nothing, so nobody makes the log grow by it.

    1. The proof is unused.
    2. The execution token is live, of this instance, and not at the end of its exchanges; its parents hold live ones.
    3. The basis stands, the host was not refused at its last attestation, and what hosts are judged by is what it was then.
    4. All writes: proof, count, entry.
    """
    # 1
    if tables.get(ProofRow, change.proof.proof) is not None:
        raise Refused(Reason("proof-replayed", "proof.jti", "a proof used once", "a used one"))
    # 2
    rows = tables.select(TokenRow, token_id=change.token_id)
    if not any((row.host, row.instance) == (change.entry.host, change.instance) for row in rows) or any(row.revoked for row in rows):
        raise Refused(Reason("token-revoked", "token.jti", "a token that was issued and not revoked", change.token_id[:64]))
    if (made := max(row.exchanges for row in rows)) >= MOST_EXCHANGES:
        raise Refused(Reason("exchange-limit", "token.jti", f"at most {MOST_EXCHANGES} exchanges under one token", f"{made} before"))
    for parent in change.lineage:
        held = tables.select(TokenRow, instance=parent, host=change.entry.host, revoked=0)
        if not any(row.expires_at > change.entry.at for row in held):
            raise Refused(Reason("token-revoked", "token.lineage", "a parent with a token", "none"))
    # 3
    host = _host(tables, change.entry.host)
    if host.record is None or Digest.of(host.record).value != change.basis.record:
        raise Void("the host's record")
    if host.version != change.basis.version:
        raise Void("the host's state")
    _still(tables, host.namespace, change.basis)
    heard = tables.get(HeardRow, host.host)
    if heard is None or not heard.accepted:
        raise Refused(Reason("host-refused", "host.verdict", "accepted at its last attestation", "refused"))
    if heard.governing != space(tables, host.namespace).governing:
        raise Refused(Reason("host-unappraised", "host.verdict", "under the reference values of now", "under those of before"))
    # 4
    tables.put(change.proof)
    for row in rows:
        tables.put(replace(row, exchanges=row.exchanges + 1))
    _blobs(tables, change.blobs, host.namespace)
    return Applied(_fitting(change.entry))


@apply.register
def _enrolment(change: Enrolment, tables: Tables) -> Applied:
    """1. The admission is unspent. 2. The EK is free or this host's. 3. The host takes no other EK. 4. All writes."""
    # 1
    admission = judge_admission(tables.get(AdmissionRow, change.admission), at=change.entry.at)
    # 2, 3
    before = tables.get(HostRow, change.host.host)
    judge_ek(tables, before, ek=change.host.ek or "", host=change.host.host)
    if before is None or before.generation + 1 != change.host.generation or before.namespace != change.host.namespace:
        raise Refused(Reason("conflict", "host.generation", str(change.host.generation), "another"))
    if before != change.before:
        raise Void("the host")
    # 4
    tables.put(replace(admission, spent=1))
    tables.put(EkRow(change.host.ek or "", change.host.host, 0))
    tables.put(change.host)
    heard = tables.get(HeardRow, change.host.host)
    cleared = change.cleared or (heard is not None and bool(heard.cleared))
    tables.put(unheard(change.host.host, change.host.namespace, change.entry.at, cleared=cleared))
    _void(tables, change.host.host, change.entry.at)
    _issue(tables, change.nonce)
    _blobs(tables, change.blobs, change.host.namespace)
    return Applied(_fitting(change.entry))


def judge_admission(admission: AdmissionRow | None, *, at: int) -> AdmissionRow:
    """The admission is known, unspent and unexpired. Raises Refused."""
    if admission is None:
        raise Refused(Reason("ticket-unknown", "ticket", "a ticket of `verifier host admit`", "another or none"))
    if admission.spent:
        raise Refused(Reason("ticket-spent", "ticket", "an unspent ticket", "a spent one"))
    if admission.expires_at and at >= admission.expires_at:
        raise Refused(Reason("ticket-expired", "ticket", f"used before {admission.expires_at}", str(at)))
    return admission


def judge_ek(tables: Tables, before: HostRow | None, *, ek: str, host: str) -> None:
    """This EK may enrol as this host: never burnt, of no other host, and the host has no other. Raises Refused."""
    known = tables.get(EkRow, ek)
    if known is not None and known.burnt:
        raise Refused(Reason("ek-burnt", "ek", "a TPM that was not retired", ek))
    if known is not None and known.host != host:
        raise Refused(Reason("ek-already-bound", "ek", f"a TPM of no other host than {host}", ek))
    if before is not None and before.ek is not None and before.ek != ek:
        raise Refused(Reason("host-already-enrolled", "ek", before.ek, ek))
    if before is not None and before.status == "retired":
        raise Refused(Reason("host-not-active", "host.status", "a host that was not retired", before.status))


@apply.register
def _admitted(change: Admitted, tables: Tables) -> Applied:
    admission = change.admission
    host = tables.get(HostRow, admission.host)
    if host is not None and host.namespace != admission.namespace and _never_came(tables, host, change.entry.at):
        _forgotten(tables, host.host)
        host = None
    if host is not None and (host.status == "retired" or host.namespace != admission.namespace):
        raise Refused(Reason("conflict", "host", f"a new host or one of {admission.namespace}", f"a host that is {host.status}"))
    if host is None:
        tables.put(HostRow(admission.host, admission.namespace, 0, "admitted", None, None, None, None, -1))
        tables.put(unheard(admission.host, admission.namespace, change.entry.at))
    tables.put(admission)
    return Applied(_fitting(change.entry))


def _never_came(tables: Tables, host: HostRow, at: int) -> bool:
    """It was admitted, never enrolled, and no admission of it is of use any more."""
    waiting = tables.select(AdmissionRow, host=host.host, spent=0)
    return host.generation == 0 and all(one.expires_at and at >= one.expires_at for one in waiting)


def _forgotten(tables: Tables, host: str) -> None:
    """Nothing but the log and its spent admissions knows the name."""
    for admission in tables.select(AdmissionRow, host=host, spent=0):
        tables.put(replace(admission, spent=1))
    tables.drop(HostRow, host)
    tables.drop(HeardRow, host)


@apply.register
def _host_moved(change: HostMoved, tables: Tables) -> Applied:
    _change(tables, change.change, change.entry.at)
    if change.admission is not None:
        tables.put(change.admission)
    return Applied(_fitting(change.entry))


def _change(tables: Tables, change: HostChange, at: int) -> None:
    host = change.before.host
    if tables.get(HostRow, host) != change.before:
        raise Void("the host")
    if change.gone:
        _forgotten(tables, host)
        return
    tables.put(change.after)
    _moved(tables, change, at)
    if change.burn and change.before.ek is not None:
        tables.put(EkRow(change.before.ek, host, 1))
    if change.burn:
        for admission in tables.select(AdmissionRow, host=host, spent=0):
            tables.put(replace(admission, spent=1))
    if change.void:
        _void(tables, host, at)


@apply.register
def _references(change: ReferencesImported, tables: Tables) -> Applied:
    now = space(tables, change.entry.namespace)
    if now.references_digest != change.before:
        raise Void("the reference values")
    if change.policy is not None and now.policy != change.policy:
        raise Void("the policy")
    _consent(tables, change.entry.namespace, change.consent)
    governs = any(judges_hosts(row.environment) for row in change.rows)
    for digest in change.retired:
        row, exemption = tables.get(ReferenceRow, digest), tables.get(ExemptionRow, digest)
        if row is not None:
            tables.put(replace(row, active=0, retired_at=change.entry.at))
            governs |= judges_hosts(row.environment)
        if exemption is not None:
            tables.put(replace(exemption, active=0))
            governs = True
    for one in (*change.rows, *change.exemptions):
        tables.put(one)
    tables.put(replace(now, references_digest=change.digest, governing=now.governing + governs))
    _blobs(tables, change.blobs)
    return Applied(_fitting(change.entry))


@apply.register
def _content_held(change: ContentHeld, tables: Tables) -> Applied:
    """A hold is set once, and lifted once."""
    now = space(tables, change.entry.namespace)
    if bool(now.held) == change.held:
        expected = "no legal hold yet" if change.held else "a legal hold"
        raise Refused(Reason("conflict", "namespace.held", expected, "one" if now.held else "none"))
    tables.put(replace(now, held=int(change.held)))
    _blobs(tables, change.why)
    return Applied(_fitting(change.entry))


@apply.register
def _content_erased(change: ContentErased, tables: Tables) -> Applied:
    """No hold is on it. Answers of its hosts, which lie in the clear, go now; the key is destroyed once this is on record."""
    namespace = change.entry.namespace
    if space(tables, namespace).held:
        raise Refused(Reason("held", "namespace.held", "no legal hold", "one"))
    for host in tables.select(HostRow, namespace=namespace):
        for nonce in tables.select(NonceRow, host=host.host):
            tables.drop(AnswerRow, nonce.nonce)
    _blobs(tables, change.why)
    return Applied(_fitting(change.entry), erases=namespace)


@apply.register
def _consented(change: Consented, tables: Tables) -> Applied:
    _consent(tables, change.entry.namespace, change.consent)
    for row in change.rows:
        if tables.get(ReferenceRow, row.digest) is None:
            tables.put(row)
    _blobs(tables, change.blobs)
    return Applied(_fitting(change.entry))


def _consent(tables: Tables, namespace: str, consent: Consent | None) -> None:
    """The proposal, its approvals, and the rules it was held against are those that were read; then it is written on."""
    if consent is None:
        return
    now = space(tables, namespace)
    if (now.policy, now.delegation) != (consent.policy, consent.delegation):
        raise Void("the policy or the delegation")
    if tables.get(ProposalRow, consent.after.digest) != consent.before:
        raise Void("the proposal")
    if tuple(row.id for row in tables.select(ApprovalRow, proposal=consent.after.digest)) != consent.seen:
        raise Void("the approvals")
    tables.put(consent.after)
    for approval in consent.approvals:
        tables.put(approval)


@apply.register
def _policy(change: PolicyPublished, tables: Tables) -> Applied:
    now = space(tables, change.row.namespace)
    if change.row.version <= now.policy_version:
        raise Refused(Reason("policy-rollback", "policy.version", f"above {now.policy_version}", str(change.row.version)))
    if change.before is not None and now.policy != change.before:
        raise Void("the policy")
    if now.references_digest != change.references:
        raise Void("the reference values")
    _consent(tables, change.row.namespace, change.consent)
    tables.put(change.row)
    tables.put(replace(now, policy=change.row.digest, policy_version=change.row.version))
    _blobs(tables, change.blobs)
    return Applied(_fitting(change.entry))


@apply.register
def _delegation(change: DelegationPublished, tables: Tables) -> Applied:
    now = space(tables, change.row.namespace)
    if change.row.version <= now.delegation_version:
        raise Refused(Reason("delegation-rollback", "delegation.version", f"above {now.delegation_version}", str(change.row.version)))
    tables.put(change.row)
    tables.put(replace(now, delegation=change.row.digest, delegation_version=change.row.version))
    _blobs(tables, change.blobs)
    return Applied(_fitting(change.entry))


@apply.register
def _revoked(change: TokensRevoked, tables: Tables) -> Applied:
    if change.change is not None:
        _change(tables, change.change, change.entry.at)
    doomed: list[TokenRow] = []
    if change.token_id is not None:
        doomed += tables.select(TokenRow, token_id=change.token_id, namespace=change.entry.namespace)
    end = max((row.expires_at for row in doomed), default=None)
    for instance in change.instances:
        doomed += [row for row in tables.select(TokenRow, instance=instance, host=change.host) if end is None or row.expires_at <= end]
    _revoke(tables, doomed)
    now = space(tables, change.entry.namespace)
    tables.put(replace(now, epoch=now.epoch + 1))
    return Applied(_fitting(change.entry))


@apply.register
def _api_key(change: ApiKeyMade, tables: Tables) -> Applied:
    tables.put(change.row)
    return Applied(_fitting(change.entry))


@apply.register
def _key(change: KeyRotated, tables: Tables) -> Applied:
    table: type[KeyRow | ExchangeKeyRow] = type(change.row)
    current = [row.kid for row in tables.select(table) if row.retired_at is None]
    if current != ([] if change.former is None else [change.former.kid]):
        raise Void("the token key")
    if change.former is not None:
        tables.put(replace(change.former, retired_at=change.entry.at))
    tables.put(change.row)
    return Applied(_fitting(change.entry))


@apply.register
def _trust(change: TrustImported, tables: Tables) -> Applied:
    current = tables.select(TrustRow, current=1)
    if [row.digest for row in current] != ([] if change.before is None else [change.before]):
        raise Void("the trust anchors")
    for row in current:
        tables.put(replace(row, current=0))
    tables.put(change.row)
    _blobs(tables, change.blobs)
    return Applied(_fitting(change.entry))


@apply.register
def _nonce(change: NonceIssued, tables: Tables) -> Applied:
    host = _host(tables, change.row.host)
    if host.record is None or host.status == "retired":
        raise Refused(Reason("host-not-active", "host.status", "an enrolled host", host.status))
    _issue(tables, change.row)
    return Applied(None)


# --- parts --------------------------------------------------------------------------------------------------------------


def _host(tables: Tables, host: str) -> HostRow:
    row = tables.get(HostRow, host)
    if row is None:
        raise Refused(Reason("host-unknown", "host", "an admitted host", host[:63]))
    return row


def _still(tables: Tables, namespace: str, basis: Basis) -> None:
    now = space(tables, namespace)
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("the policy", lambda: now.policy == basis.policy),
        ("the reference values", lambda: now.references_digest == basis.references),
        ("the revocation epoch", lambda: now.epoch == basis.epoch),
    )
    for what, holds in checks:
        if not holds():
            raise Void(what)


def _issue(tables: Tables, nonce: NonceRow) -> None:
    """The nonce is the newest of its host from now on, and the only one of use. Raises Unavailable if it was issued before."""
    if tables.get(NonceRow, nonce.nonce) is not None:
        raise Unavailable("randomness", "a nonce that was issued before came again")
    for older in tables.select(NonceRow, host=nonce.host, newest=1):
        tables.put(replace(older, newest=0))
    tables.put(nonce)
    heard = tables.get(HeardRow, nonce.host)
    if heard is not None:
        tables.put(replace(heard, contacted_at=nonce.issued_at))


def unheard(host: str, namespace: str, at: int, *, cleared: bool = False) -> HeardRow:
    """Of a host of which nothing was heard since it was admitted or enrolled, at `at`."""
    return HeardRow(host, namespace, at, None, int(cleared), None, 0, b"\x80", at, 0, "", at)


def _moved(tables: Tables, change: HostChange, at: int) -> None:
    """An operator moved the host: what was accepted before speaks for it no more, and of a TPM that went nothing is said."""
    after = change.after
    heard = tables.get(HeardRow, after.host) or unheard(after.host, after.namespace, at)
    if after.record is None and change.before.record is not None:
        heard = unheard(after.host, after.namespace, at)
    elif after.status != change.before.status:
        heard = replace(heard, moved_at=at, overtaken=1)
    tables.put(heard)


def _void(tables: Tables, host: str, at: int) -> None:
    """No outstanding nonce of the host is of use, and its live tokens are revoked."""
    for nonce in tables.select(NonceRow, host=host, newest=1):
        tables.put(replace(nonce, newest=0))
    _revoke(tables, [token for token in tables.select(TokenRow, host=host, revoked=0) if token.expires_at > at])


def _revoke(tables: Tables, tokens: list[TokenRow]) -> None:
    for token in tokens:
        tables.put(replace(token, revoked=1))


def blob(tables: Tables, namespace: str, digest: Digest) -> bytes | None:
    """What a decision of `namespace` names; None where it is not kept, or was erased."""
    found = tables.get(BlobRow, blob_id(namespace, digest)) or tables.get(BlobRow, blob_id("", digest))
    return None if found is None else found.data


def _blobs(tables: Tables, blobs: tuple[bytes, ...], namespace: str = "") -> None:
    """They are there: the domain's in the clear, of a namespace what the domain does not have, sealed."""
    for data in blobs:
        digest = Digest.of(data)
        if blob(tables, namespace, digest) is None:
            tables.put(BlobRow(blob_id(namespace, digest), data, namespace))


def _fitting(entry: Entry) -> Entry:
    if len(entry.signed) > MAX_ENTRY:
        raise FormatError("entry", f"at most {MAX_ENTRY} bytes", f"{len(entry.signed)} bytes")
    return entry


def entered(applied: Sequence[Applied], tables: Tables) -> list[Committed]:
    """The entries of these changes are in the log, in this order, behind those there are."""
    last, rows, done = tables.last(EntryRow), [], []
    first = at = 0 if last is None else last.sequence + 1
    for one in applied:
        row = None
        if (entry := one.entry) is not None:
            row = EntryRow(at, entry.kind, entry.namespace, entry.host, entry.at, leaf_hash(entry.signed), entry.signed)
            rows.append(row)
            at += 1
        done.append(Committed(row, one.answer, one.repeated))
    tables.append(rows)
    if rows and -(-first // PRUNED_EVERY) != -(-at // PRUNED_EVERY):
        _prune(tables, rows[-1].at)
    return done


def _prune(tables: Tables, at: int) -> None:
    tables.prune(NonceRow, at - KEPT_AFTER_EXPIRY)
    tables.prune(AnswerRow, at - KEPT_AFTER_EXPIRY)
    tables.prune(TokenRow, at - KEPT_AFTER_EXPIRY)
    tables.prune(ProofRow, at - KEPT_AFTER_EXPIRY)


__all__ = ["apply", "blob", "entered", "judge_admission", "judge_ek", "judge_nonce", "space", "stored_answer", "unheard"]

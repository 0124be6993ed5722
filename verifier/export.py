"""The log handed to an auditor: signed decisions, where each stands in the log, and every object that they name."""

from __future__ import annotations

from verifier.ledger import Tables
from verifier.ledger.schema import AnswerRow, EntryRow, ExemptionRow, ReferenceRow
from verifier.ledger.transaction import blob
from verifier.ledger.translog import LEAST_RECEIPT, TransparencyLog
from writ.formats.archive import Archive, Placed
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, EnrolDecision, Entry, ExchangeDecision, Genesis, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.exchange import EXCHANGE, AttestAnswer
from writ.formats.record import parse_preimage


def archived(tables: Tables, log: TransparencyLog | None, namespace: str, *, whole: bool, most: int, after: int) -> Archive:
    """Of the `most` entries behind sequence number `after`, those of the namespace, or with `whole` all.

    Those that the log has not published yet are left out, and so are places where there is no log. Tokens are there as long as their
    answers are kept; an enforcer's archive holds its own.
    """
    rows = [row for row in tables.select(EntryRow, most=most, after=after) if whole or row.namespace == namespace]
    published = None if log is None else log.current()
    if published is not None:
        rows = [row for row in rows if row.sequence < published.size]
    decisions = [parse_entry(parse_sign1(row.entry).payload or b"") for row in rows]
    named = {(decision.namespace, digest) for decision in decisions for digest in objects_of(decision)}
    spaces = {decision.namespace for decision in decisions}
    named |= {(space, Digest.parse(r.digest)) for space in spaces for r in tables.select(ReferenceRow, namespace=space)}
    named |= {(space, Digest.parse(r.digest)) for space in spaces for r in tables.select(ExemptionRow, namespace=space)}
    named |= {("", digest) for decision in decisions if (digest := _reason(tables, decision)) is not None}
    tokens = [token for decision in decisions if isinstance(decision, AttestDecision) for token in _tokens(tables, decision)]
    objects = {found for space, digest in named if (found := blob(tables, space, digest)) is not None}
    proven = log is not None and published is not None and published.size >= LEAST_RECEIPT
    places = {Placed(row.leaf, log.proof(tables, row.sequence)) for row in rows} if proven and log is not None else set()
    return Archive(
        tuple(sorted({row.entry for row in rows})), tuple(sorted(set(tokens))), tuple(sorted(objects)), (), tuple(sorted(places))
    )


def objects_of(decision: Entry) -> tuple[Digest, ...]:
    """What a decision names by digest."""
    if isinstance(decision, AttestDecision):
        return (decision.engine, *(digest for _, digest in decision.inputs), decision.result, decision.state_after)
    if isinstance(decision, EnrolDecision):
        return (decision.engine, decision.record, decision.evidence, decision.trust)
    if isinstance(decision, ExchangeDecision):
        return (decision.engine, *(digest for _, digest in decision.inputs))
    if isinstance(decision, Genesis):
        return ()
    return (decision.engine,) if decision.detail is None else (decision.engine, decision.detail)


def _reason(tables: Tables, decision: Entry) -> Digest | None:
    """What names the reason of an act on contents, to which its entry commits."""
    if not isinstance(decision, OperatorAct) or not decision.act.startswith("content-") or decision.detail is None:
        return None
    opened = blob(tables, "", decision.detail)
    return None if opened is None else parse_preimage(opened)[1]


def _tokens(tables: Tables, decision: AttestDecision) -> list[str]:
    row = tables.get(AnswerRow, decision.nonce)
    answer = None if row is None else EXCHANGE.parse(row.answer)
    return [a.token for a in answer.answers if a.token is not None] if isinstance(answer, AttestAnswer) else []

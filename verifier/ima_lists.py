"""The IMA lists of hosts, where they are kept anyway: in the evidence that brought them, part by part."""

from __future__ import annotations

from verifier.ledger import Tables
from verifier.ledger.schema import HostRow, ImaRow
from verifier.ledger.transaction import blob
from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog.ima import replay
from writ.formats.evidence import Evidence, parse_evidence
from writ.formats.ima_state import ImaState
from writ.formats.state import HostState
from writ.verdict.dry_run import MeasuredRows


def listed_part(evidence: Evidence, name: Digest, *, before: HostState | None, after: HostState) -> ImaRow | None:
    """Where the list went on with this evidence, whose SHA-256 is `name`; None where it did not."""
    sent = evidence.ima_log
    now = after.ima_part if sent is not None and sent.more else after.ima
    if sent is None or now is None or now.entries <= sent.first:
        return None
    known = () if before is None else (before.ima, before.ima_part)
    start = next((one.register for one in known if one is not None and one.entries == sent.first), bytes(SIZES[now.bank]))
    return ImaRow(f"{evidence.host}/{sent.first:08d}", evidence.host, sent.first, now.entries, start, now.register, name.value)


def recorded_list(tables: Tables, host: str, ima: ImaState) -> MeasuredRows | None:
    """The rows of the list that `ima` is about, or None where a part of it is no longer kept."""
    entries, register, of = 0, bytes(SIZES[ima.bank]), tables.get(HostRow, host)
    rows: list[bytes] = []
    violated: list[bytes] = []
    for part in sorted(tables.select(ImaRow, host=host), key=lambda row: row.first):
        if entries == ima.entries:
            break
        if (part.first, part.before) != (entries, register):
            continue
        evidence = None if of is None else blob(tables, of.namespace, Digest("sha256", part.evidence))
        found = None if evidence is None else _replayed(evidence, register, ima.bank, part.after)
        if found is None:
            return None
        rows += found.rows
        violated += found.violated
        entries, register = part.last, part.after
    return MeasuredRows(tuple(rows), tuple(violated)) if (entries, register) == (ima.entries, ima.register) else None


def _replayed(evidence: bytes, register: bytes, bank: str, quoted: bytes) -> MeasuredRows | None:
    try:
        sent = parse_evidence(evidence).ima_log
        found = None if sent is None else replay(sent.entries, register, bank, quoted)
    except FormatError:
        return None
    return None if found is None else MeasuredRows(found.rows, found.violated)

"""What was last heard of a host, between the ledger's row and the word that says how the host stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from verifier.ledger.schema import HeardRow, HostRow
from writ.formats.decision import MAX_REASONS, AttestDecision
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.state import HostState
from writ.formats.strict import decode_cbor, encode_cbor
from writ.verdict.epoch import epoch_begun
from writ.verdict.standing import Appraised, Facts, followed

_MAX_REASONS_SIZE: Final = 4 << 20


def facts(row: HostRow, heard: HeardRow) -> Facts:
    """What is recorded of the host, as the verdict on its standing takes it."""
    return Facts(row.status, row.contained_by, heard.moved_at, bool(heard.cleared), heard.contacted_at, _appraised(heard))


def heard_after(
    heard: HeardRow, decision: AttestDecision, *, before: HostState | None, after: HostState, token_life: int
) -> HeardRow:  # fmt: skip
    """What is to be said of the host once this decision is committed."""
    at, accepted = decision.decided_at, decision.verdict == "accepted"
    last = followed(_appraised(heard), accepted=accepted, reasons=decision.reasons, at=at, token_life=token_life)
    begun = "first" if heard.decided_at is None else epoch_begun(before, after)
    contained = after.status == "contained" and (before is None or before.status != "contained")
    return replace(
        heard,
        moved_at=at if contained else heard.moved_at,
        cleared=0 if accepted else heard.cleared,
        decided_at=at,
        accepted=int(accepted),
        reasons=encode_cbor([reason.to_cbor() for reason in last.reasons]),
        since=last.since,
        overtaken=0,
        epoch=begun or heard.epoch,
        epoch_at=at if begun else heard.epoch_at,
    )


def _appraised(heard: HeardRow) -> Appraised | None:
    if heard.decided_at is None:
        return None
    items = decode_cbor(heard.reasons, "reasons", max_size=_MAX_REASONS_SIZE)
    if not isinstance(items, list) or len(items) > MAX_REASONS:
        raise FormatError("reasons", f"an array of at most {MAX_REASONS}", type(items).__name__)
    reasons = tuple(Reason.from_cbor(item) for item in items)
    return Appraised(bool(heard.accepted), reasons, heard.decided_at, heard.since, bool(heard.overtaken))

"""Anchors replayed: checkpoints of action logs, from the register that was known to the one that a quote shows.

Between two quotes the attestor extends checkpoints into a PCR of their own. An
anchor pins its action log like a carried checkpoint does, and earlier: root
who drops a record after its anchor has no log that extends it any more.

The verifier follows the register from quote to quote (`follow_anchors`), and
each instance's next checkpoint must extend all that was anchored of it
(`judge_anchored`). Anybody follows it again from the public log alone
(`anchor_audit`).

Not shown by any of this: what was anchored after the last quote of a boot,
since a reset makes the register zero again; and how often anchors are made,
which is the host's own affair.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from writ.formats.anchor import MAX_ANCHORED, Anchors, Batch, ShownAnchors, led
from writ.formats.decision import AttestDecision
from writ.formats.evidence import InstanceRequest
from writ.formats.reason import Reason
from writ.formats.state import AnchorState, HostRecord, HostState, InstanceState, RuntimeState
from writ.formats.tlog.merkle import verify_consistency
from writ.formats.tpm.pcr import PcrValues
from writ.verdict.epoch import Epoch
from writ.verdict.quote import VerifiedQuote

MISMATCH: Final = "anchor-register-mismatch"
INCONSISTENT: Final = "anchor-inconsistent"
PROOF_REQUIRED: Final = "anchor-proof-required"


def follow_anchors(
    anchors: Anchors | None, record: HostRecord, state: HostState | None, epoch: Epoch, quote: VerifiedQuote
) -> tuple[AnchorState | None, tuple[Batch, ...], tuple[Reason, ...]]:
    """The register of anchors as the quote shows it, the batches that led there, and what stands against the host.

    1. A boot begins without anchors. Which PCR they are in, and what it held before, stands for the rest of the boot from the first
       evidence that says so: that it held that is proven by where the batches lead, as nobody finds a collision.
    2. What travels goes on from the register that is known, or the host is told which that is.
    3. The batches lead to the quoted value. Where none travelled, the register has not moved.

    Of a register that fails in 2 or 3 nothing is taken, and what was known stays known.
    """
    # 1
    known = None if state is None or epoch.kind == "rebooted" else state.anchors
    if anchors is None:
        if known is None or quote.pcrs.get(known.pcr) == known.register:
            return known, (), ()
        return known, (), (_mismatch(known.pcr, known.register, quote.pcrs.get(known.pcr)),)
    if anchors.pcr == record.runtime_pcr or (known is not None and anchors.pcr != known.pcr):
        expected = f"PCR {known.pcr}" if known is not None else f"another than PCR {record.runtime_pcr}"
        return known, (), (Reason(MISMATCH, "anchors.pcr", expected, f"PCR {anchors.pcr}"),)
    # 2
    if known is not None and anchors.base != known.register:
        return known, (), (Reason("anchor-base", "anchors.base", known.register.hex(), anchors.base.hex()),)
    # 3
    quoted, register = quote.pcrs.get(anchors.pcr), led(record.bank, anchors.base, anchors.batches)
    if register != quoted:
        return known, (), (_mismatch(anchors.pcr, register, quoted),)
    return AnchorState(anchors.pcr, anchors.base if known is None else known.base, register), anchors.batches, ()


def _mismatch(pcr: int, register: bytes, quoted: bytes) -> Reason:
    return Reason(MISMATCH, f"pcr{pcr}", register.hex(), quoted.hex())


def with_anchors(runtime: RuntimeState, batches: Iterable[Batch]) -> tuple[RuntimeState, tuple[Reason, ...]]:
    """The instances, each owing its log to what was anchored of it; and a reason for an anchor of an instance that never started."""
    unknown: list[Reason] = []
    for row in (row for batch in batches for row in batch):
        instance = runtime.find(row.instance)
        if instance is None:
            unknown.append(Reason("instance-unknown", f"anchors.{row.instance.hex()}", "a start event in the quoted log", "none"))
        else:
            runtime = runtime.with_instance(instance.with_anchor(row.size, row.root))
    return runtime, tuple(unknown)


def before_anchors(pcrs: PcrValues, anchors: AnchorState | None) -> PcrValues:
    """The PCR values as they were before the first anchor of the boot: what logs and reference values of the boot explain."""
    if anchors is None:
        return pcrs
    return PcrValues(pcrs.bank, tuple((index, anchors.base if index == anchors.pcr else value) for index, value in pcrs.values))


def judge_anchored(request: InstanceRequest, known: InstanceState, claim: str) -> tuple[Reason, ...]:
    """What of the instance's anchors the checkpoint in `request` does not extend.

    1. Without a proof from an anchor, or carrying less than was anchored, it is to carry again: an honest log can, whatever got lost.
    2. A proof that does not lead from the anchor to the checkpoint says that the log lacks what was anchored.
    3. More anchors than an enforcer makes are nobody's that follows the protocol.
    """
    reasons: list[Reason] = []
    proofs = dict(request.anchored)
    for size, root in known.anchored:
        # 1
        if size > request.log_size or size not in proofs:
            got = f"{request.log_size} records" if size > request.log_size else "no proof"
            reasons.append(Reason(PROOF_REQUIRED, f"{claim}.anchors", str(size), got))
        # 2
        elif not verify_consistency(size, root, request.log_size, request.log_root, proofs[size]):
            expected, got = f"an extension of {size} records with root {root.hex()}", f"{request.log_size} records of another log"
            reasons.append(Reason(INCONSISTENT, f"{claim}.anchors", expected, got))
    # 3
    if len(known.anchored) > MAX_ANCHORED:
        reasons.append(Reason(INCONSISTENT, f"{claim}.anchors", f"at most {MAX_ANCHORED} between two checkpoints", "more"))
    return tuple(reasons)


def shown(anchors: Anchors | None, quote: VerifiedQuote) -> ShownAnchors | None:
    """What the entry in the public log says of them: enough to be replayed without evidence or state."""
    if anchors is None:
        return None
    quoted = quote.pcrs.get(anchors.pcr)
    return ShownAnchors(anchors.pcr, quote.reset_count, quote.restart_count, anchors.base, quoted, anchors.batches)


def taken_of(decision: AttestDecision) -> ShownAnchors | None:
    """The anchors in an entry, where the verifier took them: not with a reason with which it keeps nothing of them."""
    return None if {reason.code for reason in decision.reasons} & _NOT_TAKEN else decision.anchors


_NOT_TAKEN: Final = frozenset(
    {
        MISMATCH, "anchor-base", "runtime-log-mismatch", "runtime-log-malformed", "runtime-log-rewound", "full-log-required",
        "instance-key-reused", "reset-count-fell", "clock-fell",
    }
)  # fmt: skip

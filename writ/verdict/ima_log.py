"""The IMA list beside a quote: appraised as far as it is new, and owed by a host that sent it before."""

from __future__ import annotations

from writ.formats.boot_state import BootState
from writ.formats.eventlog.ima import IMA_PCR
from writ.formats.evidence import Evidence
from writ.formats.ima_rules import ImaRules
from writ.formats.ima_state import MAX_REASONS, ImaState
from writ.formats.reason import Reason
from writ.formats.state import HostState
from writ.formats.tpm.pcr import PcrValues
from writ.verdict.appraise.ima import ImaReferences, appraise_ima
from writ.verdict.epoch import Epoch


def follow_ima(
    evidence: Evidence,
    state: HostState | None,
    epoch: Epoch,
    pcrs: PcrValues,
    found: BootState | None,
    references: ImaReferences,
    rules: ImaRules,
) -> tuple[ImaState | None, ImaState | None, tuple[Reason, ...]]:
    """What is known of the list up to the quoted PCR 10, what came of one in parts, and what stands against it.

    `pcrs` are the quoted values, `found` is what is known of the boot: the kernel measured PCRs 8 and 9 as it found them, and they may
    have moved since.

    1. A host that never sent a list owes none; that nothing is known of its files is another matter (`appraise`).
    2. One that did owes it in every boot, up to the quoted register; and whole after a resume, which another kernel may stand behind.
    3. The list is judged; where more is wrong than is kept, that is a reason of its own, which no exemption lets pass.
    """
    known, part = (state.ima, state.ima_part) if state is not None and epoch.kind == "same" else (None, None)
    sent = evidence.ima_log
    # 1
    if sent is None and (state is None or "ima" not in state.logs):
        return None, None, ()
    # 2
    if sent is None:
        at = "0" if known is None else str(known.entries)
        return known, part, (Reason("ima-log-required", "ima", f"the list from entry {at}, or in full", "none"),)
    # 3
    boot = {index: pcrs.get(index) for index in range(IMA_PCR)} | dict(found.loader if found is not None else ())
    quoted = None if sent.more else pcrs.get(IMA_PCR)
    result = appraise_ima(known, sent.entries, sent.first, quoted, pcrs.bank, references, rules, boot=boot, part=part)
    return result.state, result.part, with_the_rest(result.reasons, str(result.count))


def with_the_rest(reasons: tuple[Reason, ...], count: str) -> tuple[Reason, ...]:
    """`reasons`, and one more where there may be others than these were kept: `count` says how many. No exemption lets that one pass."""
    if len(reasons) < MAX_REASONS:
        return reasons
    return (*reasons, Reason("ima-not-approved", "ima.entries", f"fewer than {MAX_REASONS} differences", count))

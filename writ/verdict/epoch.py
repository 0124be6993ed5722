"""The machine over time: is this the TPM that answered before, later?

resetCount counts TPM resets (reboots), restartCount restarts and resumes since
then, clock the milliseconds of power. They come from the AK's own quote, and
the AK is a child of the EK, so they are not obfuscated.

Source: TPM 2.0 Library Part 1 r1.59, 36 Timing Components; Part 2, 10.11.1 TPMS_CLOCK_INFO.
"""

from __future__ import annotations

from dataclasses import dataclass

from writ.formats.reason import Reason
from writ.formats.state import HostState
from writ.verdict.quote import VerifiedQuote


@dataclass(frozen=True, slots=True)
class Epoch:
    """Where the quote stands after the last one: `first`, `same`, `resumed` or `rebooted`, or `forked` with its reason.

    A reboot or a resume is named, never accused. `forked` means that time ran
    backwards for this TPM: a restored or cloned one; the host is contained.
    """

    kind: str
    reason: Reason | None


def judge_epoch(quote: VerifiedQuote, state: HostState | None) -> Epoch:
    """Compare the quote's counters with the recorded ones.

    1. No state: the first quote of an enrolment.
    2. resetCount must not fall; a rise is a reboot, after which clock and restartCount start anew.
    3. Within a boot the clock must not fall (equal is a quick retry) and restartCount must not fall;
       a rise of restartCount is a resume from suspend.

    `safe` = 0 (the clock may have lost up to 69 minutes in a power cut) is a
    label on the result, neither an accusation nor a pass.
    """
    # 1
    if state is None:
        return Epoch("first", None)
    # 2
    if quote.reset_count < state.reset_count:
        return Epoch("forked", Reason("reset-count-fell", "reset_count", f"at least {state.reset_count}", str(quote.reset_count)))
    if quote.reset_count > state.reset_count:
        return Epoch("rebooted", None)
    # 3
    if quote.clock < state.clock:
        return Epoch("forked", Reason("clock-fell", "clock", f"at least {state.clock}", str(quote.clock)))
    if quote.restart_count < state.restart_count:
        return Epoch("forked", Reason("clock-fell", "restart_count", f"at least {state.restart_count}", str(quote.restart_count)))
    return Epoch("resumed" if quote.restart_count > state.restart_count else "same", None)

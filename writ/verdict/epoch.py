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

    A reboot or a resume is named, never accused. `resumed` is a TPM Resume or a TPM Restart: both leave resetCount and raise
    restartCount, but a Restart clears the registers, as after hibernation, or where root sent TPM2_Shutdown(STATE) before a boot. So
    nothing that was known of the boot may be taken over without being judged against the quoted registers again. `forked` means that
    time ran backwards for this TPM: a restored or cloned one; the host is contained.
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


def epoch_begun(before: HostState | None, after: HostState) -> str | None:
    """How the epoch of `after` began, if it is not the one that `before` stood in: `first`, `rebooted` or `resumed`."""
    if before is None:
        return "first"
    if after.reset_count > before.reset_count:
        return "rebooted"
    return "resumed" if after.reset_count == before.reset_count and after.restart_count > before.restart_count else None

"""How a host stands, in one word that tells every kind of "no" from the others.

    never-seen   admitted or enrolled, and never attested since
    trusted      the last decision accepted, and a token it gave may still live
    refused      the evidence is sound; policy or a hard rule says no
    untrusted    the evidence contradicts what was approved, recorded or quoted
    rebooted     a boot or resume whose logs are still owed
    stale        it calls, but nothing it said was accepted within a token's life
    unreachable  it did not call within the time in which a renewal was due
    cleared      enrolled anew after TPM2_Clear, and not accepted since
    forked       contained, because its TPM went backwards
    contained    contained by an operator or by what it did
    retired      out of service for ever

The word is for people: it gives no token, and nothing is decided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.reason import Reason

WORDS: Final = (
    "never-seen", "trusted", "refused", "untrusted", "rebooted", "stale", "unreachable", "cleared", "forked", "contained", "retired",
)  # fmt: skip

OWED: Final = frozenset({"boot-log-required", "full-log-required", "ima-log-partial", "ima-log-required"})
"""Nothing contradicts yet: a log of this boot has not come."""

RULED_OUT: Final = frozenset(
    {
        "action-log-base", "anchor-base", "anchor-proof-required",
        "agent-unknown", "attestor-not-rooted", "executables-unmeasured", "grants-not-narrower", "host-contained",
        "host-not-active",
        "host-refused", "host-unknown", "ima-template-unknown", "lease-key-missing", "manifest-mutable", "nonce-expired", "observed",
        "parent-refused",
        "policy-error", "policy-refused", "policy-unknown", "reasons-left-out", "reference-expired", "revocation-unknown",
        "token-audience", "tpm-class-refused",
    }
)  # fmt: skip
"""The evidence is what it says it is, and the answer is no all the same."""

CONTRADICTED: Final = frozenset(
    {
        # the quote
        "algorithm-refused", "ak-parent", "extra-data-mismatch", "nonce-mismatch", "not-tpm-generated", "pcr-digest-mismatch",
        "pcr-selection-mismatch", "signature-invalid", "wrong-attest-type",
        # the machine over time
        "clock-fell", "reset-count-fell", "tpm-cleared",
        # the runtime and its log
        "action-log-inconsistent", "anchor-inconsistent", "anchor-register-mismatch",
        "component-mismatch", "component-missing", "component-unexpected", "governance-mismatch",
        "instance-drifted", "instance-key-mismatch", "instance-key-reused", "instance-stopped", "instance-tainted", "instance-unknown",
        "lease-key-refused",
        "runtime-log-malformed", "runtime-log-mismatch", "runtime-log-rewound",
        # the boot
        "boot-aggregate-mismatch", "boot-mismatch", "event-digest-mismatch", "uefi-log-malformed", "uefi-log-mismatch",
        "uefi-measurement-error",
        # files
        "file-mismatch", "file-unknown", "ima-log-malformed", "ima-log-mismatch", "ima-log-rewound", "ima-not-approved",
        "ima-signature-invalid", "ima-violation",
    }
)  # fmt: skip
"""What came is not what was approved, recorded or quoted. A code in no class is read as one of these."""


@dataclass(frozen=True, slots=True)
class Appraised:
    """The last decision on a host since it enrolled, in seconds since the epoch.

    `since` is the first of the decisions that said the same without a break.
    `overtaken` says that an operator has moved the host since: what was
    accepted before speaks for it no more.
    """

    accepted: bool
    reasons: tuple[Reason, ...]
    decided_at: int
    since: int
    overtaken: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What is recorded of a host. `status` is admitted, active, contained or retired, since `moved_at`.

    `contacted_at` is when the newest nonce was issued to it: each call of a
    host that knows its key ends with one. `cleared` stands from an enrolment
    after TPM2_Clear until the next accepted attestation.
    """

    status: str
    contained_by: str | None
    moved_at: int
    cleared: bool
    contacted_at: int | None
    appraised: Appraised | None


@dataclass(frozen=True, slots=True)
class Standing:
    """One of `WORDS`, and since when it is so."""

    word: str
    since: int


def standing(facts: Facts, *, token_life: int, now: int) -> Standing:
    """The word for `facts` at `now`. The first that applies:

    1. `retired`; then `forked` or `contained`, by who contained it. Only an operator ends these.
    2. `cleared`, whatever it attested since, as long as nothing was accepted.
    3. `never-seen`: no decision.
    4. The last decision refused: `untrusted` if any reason contradicts, else `rebooted` if any log is owed (what else is missing then
       follows from that), else `refused`. Silence changes none of these: only accepted evidence does.
    5. `unreachable`: the last contact lies a token's life back, or is not known.
    6. `stale`: the last acceptance lies a token's life back, or in the future by more than clocks may differ, or an operator has moved
       the host since.
    7. `trusted`.

    `token_life` is the policy's, 0 where none is in force: then nothing is trusted. A host where no agent runs has no reason to call
    and reads `unreachable` too: the verifier cannot tell the two apart, and neither is trusted.
    """
    # 1
    if facts.status == "retired":
        return Standing("retired", facts.moved_at)
    if facts.status == "contained":
        return Standing("forked" if facts.contained_by == "fork" else "contained", facts.moved_at)
    # 2
    if facts.cleared:
        return Standing("cleared", facts.moved_at)
    # 3
    last = facts.appraised
    if last is None:
        return Standing("never-seen", facts.moved_at)
    # 4
    said = says(accepted=last.accepted, reasons=last.reasons)
    if said != "trusted":
        return Standing(said, last.since)
    # 5
    if facts.contacted_at is None or now - facts.contacted_at >= token_life:
        return Standing("unreachable", last.decided_at if facts.contacted_at is None else facts.contacted_at + token_life)
    # 6
    if last.overtaken:
        return Standing("stale", facts.moved_at)
    if not -CLOCK_SKEW <= now - last.decided_at < token_life:
        return Standing("stale", last.decided_at + token_life)
    # 7
    return Standing("trusted", last.since)


def says(*, accepted: bool, reasons: tuple[Reason, ...]) -> str:
    """What one decision says by itself: trusted, untrusted, rebooted or refused."""
    codes = {reason.code for reason in reasons}
    if accepted and not codes:
        return "trusted"
    if codes - OWED - RULED_OUT:
        return "untrusted"
    return "rebooted" if codes & OWED else "refused"


def followed(before: Appraised | None, *, accepted: bool, reasons: tuple[Reason, ...], at: int, token_life: int) -> Appraised:
    """The decision of `at` after the one `before`: `since` goes on where both say the same, and trust only without a gap."""
    said = says(accepted=accepted, reasons=reasons)
    goes_on = before is not None and said == says(accepted=before.accepted, reasons=before.reasons)
    if said == "trusted" and before is not None and (before.overtaken or not 0 <= at - before.decided_at < token_life):
        goes_on = False
    return Appraised(accepted, reasons, at, before.since if before is not None and goes_on else at)

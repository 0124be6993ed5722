"""What other reference values would say of hosts as they attested last: which would pass, which would not, and why.

Nothing is proven here and nothing issued: recorded state is held against a set
that is not in force. A host may have moved since it was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.measurement import parse_measurement
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.reason import Reason
from writ.formats.state import HostRecord, HostState
from writ.verdict.appraisal import MOST_DIFFERENCES, as_registers, at_most, lineage, not_as_approved, stands_against, unmeasured
from writ.verdict.appraise.ima import judge_rows
from writ.verdict.ima_log import with_the_rest
from writ.verdict.issue import ISSUE_ACTION, narrowed, tier_of
from writ.verdict.reference import ReferenceSet, exempted

_ASKED_ANEW: Final = frozenset({"algorithm-refused", "file-mismatch", "file-unknown", "ima-signature-invalid", "ima-violation"})
"""Of the recorded verdict on the IMA list, the reasons that other reference values can give or take."""


@dataclass(frozen=True, slots=True)
class MeasuredRows:
    """The rows of a host's whole IMA list, as `formats.eventlog.ima.replay` gives them, and of its violations."""

    rows: tuple[bytes, ...]
    violated: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What would stand against a host and each of its running instances, sorted; `labels` name the exemptions that would be used."""

    host: str
    reasons: tuple[Reason, ...]
    instances: tuple[tuple[bytes, str, tuple[Reason, ...]], ...]
    labels: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing would stand against the host or a running instance."""
        return not self.reasons and not any(reasons for _, _, reasons in self.instances)


def foresee(
    record: HostRecord, state: HostState, listed: MeasuredRows | None, references: ReferenceSet, bundle: PolicyBundle, now: int
) -> Foreseen:
    """How the host would fare under `references` if it attested unchanged at `now`.

    `listed` are the rows of the list that `state.ima` is about, or None where
    they are not at hand: then that is a reason. Of PCRs the runtime log's is
    recorded, and those that the boot log led to; where reference values name
    another, that is a reason too. What stands against logs and counters
    stands whatever is approved. Where nothing stands against a running
    instance, the policy is asked for a token for its manifest's audience.
    """
    host = [] if state.boot is None else list(state.boot.reasons)
    seen = None
    if state.ima is not None:
        host.extend(r for r in state.ima.verdict.reasons if r.code not in _ASKED_ANEW or r.claim == "ima.boot_aggregate")
        if listed is None:
            host.append(Reason("ima-log-required", "ima", "the list as it was recorded", "none"))
            seen = state.ima.seen
        else:
            reasons, seen = judge_rows(listed.rows, listed.violated, references.files(now), bundle.settings.ima)
            host.extend(with_the_rest(reasons, "more"))
    for log, told in (("uefi", state.boot), ("ima", state.ima)):
        if log in state.logs and told is None:
            host.append(Reason("boot-log-required" if log == "uefi" else "ima-log-required", log, "the log of this boot", "none"))
    recorded = [(record.runtime_pcr, state.runtime.register), *(() if state.boot is None else state.boot.registers)]
    registers = as_registers(record.bank, recorded)
    against, missing, _ = stands_against(record, state.boot, seen, state.runtime, references, bundle.settings, now, registers)
    if state.status != "active":
        host.append(Reason("host-not-active", "host.status", "active", state.status))
    left, labels = exempted([*host, *against], references, None, record.host, now)
    used = set(labels)
    instances = []
    for known in state.runtime.instances:
        if known.phase == "running":
            claim = f"instance.{known.instance.hex()}"
            found, more = exempted(not_as_approved(known, references, claim, now), references, known.agent, record.host, now)
            used |= more
            if not left and not found:
                parents, _ = lineage(known, state.runtime)
                agents, tier = (known.agent, *(parent.agent for parent in parents)), tier_of(not missing, unmeasured(known, *parents))
                audience = parse_measurement(known.measurement).audience
                refused = narrowed(ISSUE_ACTION, agents, audience, record=record, bundle=bundle, tier=tier, claim=claim)
                found = () if refused is None else (refused,)
            instances.append((known.instance, str(known.agent), at_most(found, MOST_DIFFERENCES)))
    return Foreseen(record.host, at_most(left, MOST_DIFFERENCES), tuple(instances), tuple(sorted(used)))

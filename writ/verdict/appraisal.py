"""Appraisal: verified evidence against reference values and policy, to an attestation result.

Everything here is judged after the TPM is known to speak, so every reason is
collected, for the host and for each instance, and sorted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

from writ.formats.anchor import ShownAnchors
from writ.formats.boot_state import BootState
from writ.formats.decision import MAX_REASONS
from writ.formats.digest import Digest
from writ.formats.ear import Ear, submodule
from writ.formats.eventlog.runtime import command_digest
from writ.formats.evidence import InstanceRequest
from writ.formats.grants import narrower
from writ.formats.measurement import UNMEASURED, parse_measurement
from writ.formats.policy_bundle import PolicyBundle, PolicySettings
from writ.formats.reason import Reason
from writ.formats.state import HostRecord, HostState, InstanceState, RuntimeState
from writ.formats.strict import encode_cbor
from writ.formats.tlog.merkle import verify_consistency
from writ.verdict.anchor import INCONSISTENT, PROOF_REQUIRED, before_anchors, judge_anchored
from writ.verdict.appraise.boot import BOOT_ENVIRONMENTS, SECURE_BOOT
from writ.verdict.appraise.ima import PARTS, ROOTED
from writ.verdict.evidence import VerifiedEvidence
from writ.verdict.reference import GOVERNANCE, ReferenceSet, compare, exempted, measured_values

Seen = tuple[tuple[str, str], ...]
"""The required files that IMA measured, as (component, digest)."""
Registers = Mapping[int, Digest]
"""PCR values by index, in the bank that is quoted."""


@dataclass(frozen=True, slots=True)
class InstanceResult:
    """The appraisal of one instance. `reasons` empty means: nothing stands against it but the policy.

    `exceptions` label the exemptions that let a difference of its own or of a parent's pass, and name it where programs run in it or in
    a parent that nobody measured.
    """

    request: InstanceRequest
    state: InstanceState | None
    parents: tuple[InstanceState, ...]
    reasons: tuple[Reason, ...]
    exceptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """Proof that `appraise` ran: the EAR, what stands against the host and each instance, and the state that follows.

    `exceptions` are what was let pass for the host: reasons that the policy waives, by code, and exemptions by label; each is named in
    the token. `rooted` says that boot and IMA, in the same quote, vouch for who wrote the runtime log. `anchors` are what travelled of
    them.
    """

    ear: Ear
    reasons: tuple[Reason, ...]
    exceptions: tuple[str, ...]
    rooted: bool
    instances: tuple[InstanceResult, ...]
    state_after: HostState
    anchors: ShownAnchors | None


TAINTING = frozenset({"action-log-inconsistent", INCONSISTENT, "instance-drifted", "instance-tainted"})
"""Reasons after which an instance never becomes trusted again (I6)."""
NOT_CONTINUED = frozenset(
    {"action-log-inconsistent", "action-log-base", INCONSISTENT, PROOF_REQUIRED, "instance-unknown", "instance-key-mismatch"}
)
"""Reasons after which the checkpoint is not taken: it does not extend the one before, or what was anchored since, or it is not the
instance that says so."""
OBSERVED = "observed"
"""The reason against an agent that is not enforced: no exemption lets it pass, and no policy is asked (I3)."""
NOT_ROOTED = Reason("attestor-not-rooted", "executables", "boot or IMA evidence for the attestor", "none")
RUNS_UNMEASURED = "executables-unmeasured"
GOVERNED_BEFORE = "governance-before"
"""The claim of a set that governed earlier in this boot: what it let happen is not undone by the next one."""
MOST_DIFFERENCES = 64
"""Reasons of one code that a decision names for the host, and again for all of its instances together (but one for each)."""
NOT_CHECKED = Reason("revocation-unknown", "hardware", "a fresh CRL or OCSP response for each certificate at enrolment", "none")
"""No reason to refuse: the verifier's trust rules say whether a TPM enrols so. It is said for as long as the enrolment lasts."""
_CHANGED = frozenset(
    {
        "boot-mismatch", "component-missing", "component-unexpected", "file-mismatch", "file-unknown", "governance-mismatch",
        "ima-not-approved",
    }
)  # fmt: skip
_STATES = {str(Digest.of(word)): word.decode() for word in (b"on", b"off", b"unknown")}
"""What the reference value named `secure-boot` stands for."""


def appraise(
    verified: VerifiedEvidence,
    *,
    record: HostRecord,
    state: HostState | None,
    references: ReferenceSet,
    bundle: PolicyBundle,
    now: int,
    nonce: bytes,
) -> AttestationResult:
    """What the evidence is worth.

    1. The host: its recorded status, its counters, its log, its governance, its class of TPM.
    2. Rooting: without boot or IMA evidence the runtime claims are `runtime-only`, refused unless the policy accepts it.
    3. Each instance that asks: it runs, with this key, unchanged, from approved components, below parents of which the same is
       true, for no more than its own manifest and its parent's allow, and its action log only grew, beyond what was anchored, too.
    4. The state that follows: counters and log as quoted, checkpoints moved, tainted instances marked, a forked host contained.

    A difference from the reference values for which an exemption is in force is let pass, and its label kept.
    """
    settings = bundle.settings
    # 1
    host = list(verified.findings)
    if state is not None and state.status != "active":
        host.append(Reason("host-contained" if state.status == "contained" else "host-not-active", "host.status", "active", state.status))
    # 1, 2
    runtime = verified.runtime
    seen = None if verified.ima is None else verified.ima.seen
    registers = as_registers(verified.quote.pcrs.bank, before_anchors(verified.quote.pcrs, verified.anchors).values)
    against, missing, waived = stands_against(record, verified.boot, seen, runtime, references, settings, now, registers)
    left, labels = exempted([*host, *against], references, None, record.host, now)
    exceptions = tuple(sorted({*labels, *((NOT_ROOTED.code,) if waived else ())}))
    # 3
    share = max(1, MOST_DIFFERENCES // max(1, len(verified.requests)))
    instances = tuple(_instance(request, runtime, references, record.host, now, share) for request in verified.requests)
    # 4
    after = _state_after(verified, state, instances, left, now)
    reasons = at_most(left, MOST_DIFFERENCES)
    ear = _ear(verified, record, reasons, missing, bool(labels), instances, bundle, now, nonce)
    return AttestationResult(ear, reasons, exceptions, not missing, instances, after, verified.shown)


def at_most(reasons: Iterable[Reason], most: int) -> tuple[Reason, ...]:
    """The reasons, sorted, each once, and of each code no more than `most`; one more says how many those are not.

    A decision must have room for what is said of its host and of 256 instances. Every code that stands against them stays.
    """
    found = sorted(set(reasons))
    named = [reason for _, alike in groupby(found, key=lambda reason: reason.code) for reason in islice(alike, most)]
    if len(named) < len(found):
        named.append(Reason("reasons-left-out", "reasons", f"{most} of a kind at most", f"{len(found) - len(named)} more"))
    return tuple(sorted(named))


def within(reasons: Iterable[Reason], room: int) -> tuple[Reason, ...]:
    """The reasons, sorted, each once, as many as `room` bytes of a decision hold; one more says how many those are not.

    Of each code one comes before any second. Where nothing fits, that one says so all the same.
    """
    found = sorted(set(reasons))
    if size_of(found) <= room and len(found) <= MAX_REASONS:
        return tuple(found)
    ranked = sorted((rank, reason) for _, alike in groupby(found, key=lambda reason: reason.code) for rank, reason in enumerate(alike))
    named: list[Reason] = []
    left = room - size_of([_left_out(len(found))])
    for _, reason in ranked:
        size = len(encode_cbor(reason.to_cbor()))
        if size <= left and len(named) < MAX_REASONS - 1:
            named.append(reason)
            left -= size
    return tuple(sorted((*named, _left_out(len(found) - len(named)))))


def size_of(reasons: Sequence[Reason]) -> int:
    """Bytes that these take in a decision."""
    return len(encode_cbor([reason.to_cbor() for reason in reasons])) + 2


def _left_out(count: int) -> Reason:
    return Reason("reasons-left-out", "reasons", "as many as fit", f"{count} more")


def as_registers(bank: str, values: Iterable[tuple[int, bytes]]) -> Registers:
    """PCR values of `bank` as reference values name them."""
    return {index: Digest(bank, value) for index, value in values}


def stands_against(
    record: HostRecord,
    boot: BootState | None,
    seen: Seen | None,
    runtime: RuntimeState | None,
    references: ReferenceSet,
    settings: PolicySettings,
    now: int,
    registers: Registers,
) -> tuple[list[Reason], list[Reason], bool]:
    """What of a host's recorded measurements is not as approved; what is missing to root its runtime; whether the policy waives that.

    What is missing and not waived is among the first. `seen` is None without IMA evidence.
    """
    against: list[Reason] = []
    if runtime is not None:
        for claim, governing in (
            (GOVERNANCE, runtime.governance),
            *((GOVERNED_BEFORE, one) for one in runtime.unapproved if one != runtime.governance),
        ):
            against += compare(
                GOVERNANCE, dict(governing), references, claim=claim, mismatch="governance-mismatch", now=now, registers=registers
            )
    if record.tpm_class not in settings.tpm_classes:
        against.append(Reason("tpm-class-refused", "tpm_class", " or ".join(settings.tpm_classes), record.tpm_class))
    contradicted, missing = _rooting(boot, seen, references, now, registers)
    waived = bool(missing) and settings.accept_runtime_only
    return [*against, *contradicted, *([] if waived else missing)], missing, waived


def _rooting(
    boot: BootState | None, seen: Seen | None, references: ReferenceSet, now: int, registers: Registers
) -> tuple[list[Reason], list[Reason]]:
    """What contradicts the reference values of a boot, and what is missing before boot and IMA vouch for the writer of the runtime log.

    A contradiction always stands against the host; what is missing is a matter of policy. Reference values that all ran out are a
    contradiction: what they refused is not approved by their end.

    1. The boot is one of the approved ones, in each of its three environments. PCRs that their versions name are compared without any
       log, and ran out without one: the quote has them.
    2. Each part that measures or enforces, what runs it, and the rules by which the kernel measured, was measured as approved.
    """
    # 1
    against: list[Reason] = []
    missing: list[Reason] = []
    measured = {} if boot is None else dict(boot.values)
    for environment in BOOT_ENVIRONMENTS:
        values = dict(measured[environment]) if environment in measured else None
        if references.of(environment, now):
            found = compare(environment, values, references, claim=environment, mismatch="boot-mismatch", now=now, registers=registers)
            against.extend(_in_words(reason) for reason in found)
            if boot is not None and values is None:
                missing.append(_unrooted(environment, "registers that the boot log replays to", "others"))
        elif not references.ran_out(environment, now):
            if boot is not None:
                missing.append(_unrooted(environment, f"reference values for {environment}", "none"))
        elif boot is not None or references.pins(environment):
            against.append(Reason("reference-expired", environment, f"reference values for {environment} that are valid", "none"))
    if boot is None and seen is None:
        return against, [NOT_ROOTED]
    if boot is None:
        missing.extend(_unrooted(environment, "boot evidence", "none") for environment in BOOT_ENVIRONMENTS)
    # 2
    files = None if seen is None else frozenset(seen)
    for part in PARTS:
        missing.extend(_part(part, files, references, now))
    return against, missing


def _part(part: str, seen: frozenset[tuple[str, str]] | None, references: ReferenceSet, now: int) -> tuple[Reason, ...]:
    """Nothing, if one version of the part was measured whole; else the first file that lacks of the nearest version."""
    if seen is None:
        return (_unrooted(part, "IMA evidence", "none"),)
    versions = [version for version in references.of(f"{ROOTED}{part}", now) if version.components]
    if not versions:
        return (_unrooted(part, f"reference values for {ROOTED}{part}", "none"),)
    lacking = [[name for name, digest in c.components if (name, str(digest)) not in seen] for c in versions]
    nearest = min(lacking, key=lambda names: (len(names), names))
    return (_unrooted(part, f"{nearest[0]} measured as approved"[:200], f"{len(nearest)} files that were not"),) if nearest else ()


def _unrooted(what: str, expected: str, got: str) -> Reason:
    return Reason(NOT_ROOTED.code, f"executables.{what}", expected, got)


def _in_words(reason: Reason) -> Reason:
    """Whether Secure Boot was on is a digest among the reference values, and a word to people."""
    if reason.claim != f"{SECURE_BOOT}.secure-boot":
        return reason
    return Reason(reason.code, reason.claim, _STATES.get(reason.expected, reason.expected), _STATES.get(reason.got, reason.got))


def _instance(
    request: InstanceRequest, runtime: RuntimeState | None, references: ReferenceSet, host: str, now: int, most: int
) -> InstanceResult:
    claim = f"instance.{request.instance.hex()}"
    known = None if runtime is None else runtime.find(request.instance)
    if runtime is None or known is None:
        return InstanceResult(request, None, (), (Reason("instance-unknown", claim, "a start event in the quoted log", "none"),), ())
    reasons: list[Reason] = []
    if known.phase != "running":
        code = {"stopped": "instance-stopped", "drifted": "instance-drifted", "tainted": "instance-tainted"}[known.phase]
        reasons.append(Reason(code, f"{claim}.phase", "running", known.phase))
    thumbprint = request.session_key.thumbprint()
    if thumbprint != known.session_key:
        reasons.append(Reason("instance-key-mismatch", f"{claim}.session_key", known.session_key.hex(), thumbprint.hex()))
    against, labels = exempted(not_as_approved(known, references, claim, now), references, known.agent, host, now)
    reasons.extend(against)
    reasons.extend(_within(request, known, "manifest", claim))
    if request.log_from != known.log_size:
        reasons.append(Reason("action-log-base", f"{claim}.log_from", str(known.log_size), str(request.log_from)))
    elif not verify_consistency(known.log_size, known.log_root, request.log_size, request.log_root, request.log_proof):
        expected, got = f"an extension of {known.log_size} records", f"{request.log_size} records from {request.log_from}"
        reasons.append(Reason("action-log-inconsistent", f"{claim}.log", expected, got))
    reasons.extend(judge_anchored(request, known, claim))
    parents, whole = lineage(known, runtime)
    if not whole or any(parent.phase != "running" for parent in parents):
        reasons.append(Reason("instance-tainted", f"{claim}.lineage", "running parents", "one that is not"))
    else:
        judged = [exempted(not_as_approved(parent, references, claim, now), references, parent.agent, host, now) for parent in parents]
        labels = labels.union(*(used for _, used in judged))
        if any(found for found, _ in judged):
            reasons.append(Reason("parent-refused", f"{claim}.lineage", "parents that would pass", "one that would not"))
    if parents:
        reasons.extend(_within(request, parents[0], "parent", claim))
    labels |= unmeasured(known, *parents)
    return InstanceResult(request, known, parents, at_most(reasons, most), tuple(sorted(labels)))


def unmeasured(*lineage: InstanceState) -> frozenset[str]:
    """The label of an instance whose measured profile, or a parent's, lets it run what it wrote itself; else none."""
    profiles = {parse_measurement(one.measurement).profile for one in lineage if one.measurement}
    return frozenset({RUNS_UNMEASURED} if profiles & UNMEASURED else ())


def not_as_approved(known: InstanceState, references: ReferenceSet, claim: str, now: int) -> tuple[Reason, ...]:
    """How an instance's measurement differs from the approved versions of its agent, none of which has PCRs."""
    if not known.measurement:
        return (Reason("component-missing", f"{claim}.measurement", str(known.manifest), "none"),)
    measurement = parse_measurement(known.measurement)
    values = measured_values(measurement)
    reasons = list(compare(str(known.agent), values, references, claim=claim, mismatch="component-mismatch", now=now, registers={}))
    if measurement.agent != known.agent:
        reasons.append(Reason("component-mismatch", f"{claim}.agent", str(known.agent), str(measurement.agent)))
    if command_digest(measurement.command) != known.command:
        reasons.append(Reason("component-mismatch", f"{claim}.argv", str(known.command), str(command_digest(measurement.command))))
    if measurement.mode != "enforce":
        reasons.append(Reason(OBSERVED, f"{claim}.mode", "enforce", measurement.mode))
    mutable = [c.name for c in measurement.components if c.mutable]
    if mutable:
        reasons.append(Reason("manifest-mutable", f"{claim}.components", "components in the measured store", ", ".join(mutable)[:200]))
    return tuple(reasons)


def _within(request: InstanceRequest, ceiling: InstanceState, whose: str, claim: str) -> tuple[Reason, ...]:
    """Nothing, if audience and grants asked for are within what the measured manifest of `ceiling` allows."""
    if not ceiling.measurement:
        return ()
    measured = parse_measurement(ceiling.measurement)
    if not narrower(request.grants, measured.grants):
        expected, got = f"within {len(measured.grants)} grants of its {whose}", f"{len(request.grants)} grants"
        return (Reason("grants-not-narrower", f"{claim}.grants", expected, got),)
    if whose == "manifest" and request.audience != measured.audience:
        return (Reason("token-audience", f"{claim}.audience", measured.audience, request.audience),)
    return ()


def lineage(known: InstanceState, runtime: RuntimeState) -> tuple[tuple[InstanceState, ...], bool]:
    """The parents, nearest first, and whether that is all of them (at most 16)."""
    parents: list[InstanceState] = []
    at = known.parent
    while at is not None and len(parents) < 16:
        parent = runtime.find(at)
        if parent is None:
            return tuple(parents), False
        parents.append(parent)
        at = parent.parent
    return tuple(parents), at is None


def _state_after(
    verified: VerifiedEvidence, state: HostState | None, instances: tuple[InstanceResult, ...], left: tuple[Reason, ...], now: int
) -> HostState:
    """`left` is what stands against the host."""
    quote = verified.quote
    version = 0 if state is None else state.version + 1
    logs = tuple(sorted({*(() if state is None else state.logs), *verified.logs}))
    if verified.runtime is None and state is not None:
        status = "contained" if verified.epoch.kind == "forked" and state.status == "active" else state.status
        return state.moved(status, logs)
    clean = RuntimeState(0, bytes(len(quote.pcrs.values[0][1])), (), ())
    parts = {reason.claim.partition(".")[0] for reason in left}
    runtime = (
        clean if verified.runtime is None else verified.runtime.judged(now=GOVERNANCE not in parts, before=GOVERNED_BEFORE not in parts)
    )
    for result in instances:
        if result.state is None:
            continue
        codes = {reason.code for reason in result.reasons}
        moved = result.state.in_phase("tainted") if codes & TAINTING else result.state
        if not codes & NOT_CONTINUED:
            moved = moved.with_checkpoint(result.request.log_size, result.request.log_root)
        runtime = runtime.with_instance(moved)
    status = "active" if state is None else state.status
    return HostState(
        version, status, quote.clock, quote.reset_count, quote.restart_count, quote.safe, now, runtime,
        logs, verified.boot, verified.ima, verified.ima_part,
        None if verified.runtime is None else verified.anchors,
    )  # fmt: skip


def _ear(
    verified: VerifiedEvidence, record: HostRecord, reasons: tuple[Reason, ...], missing: list[Reason], exempt: bool,
    instances: tuple[InstanceResult, ...], bundle: PolicyBundle, now: int, nonce: bytes,
) -> Ear:  # fmt: skip
    """The attestation result. Executables are affirming only where nothing is missing that vouches for the attestor itself, and hardware
    only where CRLs said that nobody revoked its certificate.
    """
    policy = (str(bundle.digest),)
    identity = 97 if verified.epoch.kind == "forked" or any(r.code.startswith("host-") for r in reasons) else 2
    unchecked = [NOT_CHECKED] if record.endorsed and not record.revocation_checked else []
    hardware = 2 if record.endorsed and not unchecked and record.tpm_class in ("discrete", "firmware") else 32
    changed = [r for r in reasons if r.code in _CHANGED]
    good = 32 if missing or exempt or reasons else 2
    host = submodule(
        {
            "instance-identity": identity,
            "configuration": 2 if verified.quote.safe else 32,
            "executables": 33 if changed or verified.runtime is None else good,
            "hardware": hardware,
        },
        policy_ids=policy,
        reasons=(*reasons, *missing, *unchecked),
        runtime_only=bool(missing),
        epoch=verified.epoch.kind,
        clock_safe=verified.quote.safe,
    )
    parts = [("host", host)]
    for result in instances:
        vector = {
            "instance-identity": 2 if result.state is not None else 97,
            "executables": 96 if result.reasons else 32 if result.exceptions else good,
        }
        parts.append(
            (
                f"instance.{result.request.instance.hex()}",
                submodule(vector, policy_ids=policy, reasons=(*result.reasons, *_warnings(result)), runtime_only=bool(missing)),
            )
        )
    return Ear("writ", "1", now, tuple(sorted(parts)), nonce=nonce, tpm_class=record.tpm_class)


def _warnings(result: InstanceResult) -> tuple[Reason, ...]:
    """Why executables are at warning although nothing stands against the instance, where it is for no exemption."""
    if RUNS_UNMEASURED not in result.exceptions:
        return ()
    claim = f"instance.{result.request.instance.hex()}.executables"
    return (Reason(RUNS_UNMEASURED, claim, "a profile that runs measured programs only", "one that runs any"),)

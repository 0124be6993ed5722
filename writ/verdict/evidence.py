"""Evidence verified: every part that travelled is bound to the quote, or is not here.

`VerifiedEvidence` holds only what the TPM vouches for in answer to our nonce:
the PCRs, the clock, the runtime log up to the quoted register, and the
requests, whose keys, grants and checkpoints the quote binds (I2).
"""

from __future__ import annotations

from dataclasses import dataclass

from writ.formats.anchor import ShownAnchors
from writ.formats.boot_state import BootState
from writ.formats.digest import Digest, extend
from writ.formats.errors import FormatError, Refused
from writ.formats.eventlog.cel import CelRecord, parse_cel
from writ.formats.eventlog.runtime import event_digests
from writ.formats.evidence import Evidence, InstanceRequest, binding
from writ.formats.ima_rules import ImaRules
from writ.formats.ima_state import ImaState
from writ.formats.measurement import parse_measurement
from writ.formats.reason import Reason
from writ.formats.state import AnchorState, HostRecord, HostState, InstanceState, RuntimeState, clean_runtime
from writ.formats.tpm.public import parse_public
from writ.verdict.anchor import before_anchors, follow_anchors, shown, with_anchors
from writ.verdict.appraise.ima import ImaReferences
from writ.verdict.boot_logs import follow_boot
from writ.verdict.epoch import Epoch, judge_epoch
from writ.verdict.ima_log import follow_ima
from writ.verdict.quote import VerifiedQuote, verify_quote
from writ.verdict.runtime_log import replay


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """Proof that `verify_evidence` ran.

    `logs` names the logs that travelled, whatever they are worth. `runtime` is None where the log did not lead to the quoted register, with
    the reason in `findings`; nothing of such a log is kept, nor of anchors. `shown` is what travelled of these, whatever it is worth.
    """

    quote: VerifiedQuote
    epoch: Epoch
    runtime: RuntimeState | None
    boot: BootState | None
    ima: ImaState | None
    ima_part: ImaState | None
    logs: tuple[str, ...]
    requests: tuple[InstanceRequest, ...]
    anchors: AnchorState | None
    shown: ShownAnchors | None
    findings: tuple[Reason, ...]


def verify_evidence(
    evidence: Evidence, *, record: HostRecord, state: HostState | None, verifier: bytes, files: ImaReferences, rules: ImaRules
) -> VerifiedEvidence:
    """The evidence is the enrolled TPM's answer to the nonce in it, and these parts are what it covers.

    Whether that nonce is ours, unspent and unexpired is the ledger's to say,
    in the same transaction that spends it. `verifier` is the thumbprint of the
    decision key. `files` and `rules` are what the entries of an IMA list are
    held against while they are replayed: the list itself is not kept.

    1. The evidence speaks of the enrolled host.
    2. The quote verifies under the enrolled AK, over the enrolled bank, with the binding of everything that travelled.
    3. The counters are compared with the recorded ones.
    4. The log, continued from where it was left or sent in full, replays to the quoted register.
    5. The anchors lead to their quoted register, and each instance owes its log to what was anchored of it.
    6. The logs of the boot and of IMA lead to the quoted registers, as far as anything is taken from them: to what the register of
       anchors held before the first of them.
    7. Each measurement kept is the preimage of a root that the log names. Others are dropped: they may belong to the
       tail of the log, which is neither trusted nor an error.

    Until 2 has passed the sender is nobody: FormatError or Refused, at the
    first fault. From 3 on the TPM is known to speak, and every fault is
    collected in `findings`.
    """
    # 1
    if evidence.host != record.host:
        raise Refused(Reason("host-unknown", "host", record.host, evidence.host))
    # 2
    bound = binding(verifier, evidence.host, evidence.nonce, evidence.requests, evidence.further)
    quote = verify_quote(
        evidence.attest,
        evidence.signature,
        evidence.pcrs,
        ak=parse_public(record.ak),
        qualified_name=record.qualified_name,
        extra_data=bound,
        bank=record.bank,
    )
    # 3
    epoch = judge_epoch(quote, state)
    findings = [] if epoch.reason is None else [epoch.reason]
    # 4
    runtime = None
    if epoch.reason is None:
        try:
            runtime = _runtime(evidence, record, state, epoch, quote.pcrs.get(record.runtime_pcr))
        except Refused as refused:
            findings.extend(refused.reasons)
        except FormatError as error:
            findings.append(Reason("runtime-log-malformed", "runtime_log", error.expected, error.got))
    # 5
    anchors = None if state is None else state.anchors
    if epoch.reason is None:
        anchors, batches, against = follow_anchors(evidence.anchors, record, state, epoch, quote)
        findings.extend(against)
        if runtime is not None:
            runtime, against = with_anchors(runtime, batches)
            findings.extend(against)
    # 6
    boot, ima, part = (None, None, None) if state is None else (state.boot, state.ima, state.ima_part)
    if epoch.reason is None:
        boot, against = follow_boot(evidence, state, epoch, before_anchors(quote.pcrs, anchors), record.runtime_pcr)
        findings.extend(against)
        ima, part, against = follow_ima(evidence, state, epoch, quote.pcrs, boot, files, rules)
        findings.extend(against)
    # 7
    if runtime is not None:
        runtime = _with_measurements(runtime, evidence.measurements)
    logs = tuple(name for name, part in (("ima", evidence.ima_log), ("uefi", evidence.uefi_log)) if part is not None)
    said = None if epoch.reason is not None else shown(evidence.anchors, quote)
    return VerifiedEvidence(
        quote, epoch, runtime, boot, ima, part, logs, evidence.requests, anchors, said, tuple(sorted(set(findings)))
    )  # fmt: skip


def _runtime(evidence: Evidence, record: HostRecord, state: HostState | None, epoch: Epoch, quoted: bytes) -> RuntimeState:
    records = parse_cel(evidence.log, first=evidence.log_first)
    if state is None or epoch.kind == "rebooted":
        if evidence.log_first != 0:
            raise Refused(Reason("full-log-required", "log_first", "0", str(evidence.log_first)))
        start = clean_runtime(record.bank).with_instances(() if state is None else _never_again(state.runtime.instances))
        return replay(start, records, pcr=record.runtime_pcr, bank=record.bank, quoted=quoted)
    known = state.runtime
    if evidence.log_first == 0:
        records = _known_prefix(records, known, record.bank)
    elif evidence.log_first != known.events:
        raise Refused(Reason("runtime-log-rewound", "log_first", f"0 or {known.events}", str(evidence.log_first)))
    return replay(known, records, pcr=record.runtime_pcr, bank=record.bank, quoted=quoted)


def _known_prefix(records: tuple[CelRecord, ...], known: RuntimeState, bank: str) -> tuple[CelRecord, ...]:
    """What follows the events already judged, after the resent ones led to the same register."""
    if len(records) < known.events:
        raise Refused(Reason("runtime-log-rewound", "log", f"at least {known.events} events", str(len(records))))
    register = clean_runtime(bank).register
    for record in records[: known.events]:
        register = extend(bank, register, event_digests(record.content, (bank,))[0].value)
    if register != known.register:
        raise Refused(Reason("runtime-log-mismatch", f"register after {known.events} events", known.register.hex(), register.hex()))
    return records[known.events :]


def _never_again(instances: tuple[InstanceState, ...]) -> tuple[InstanceState, ...]:
    """What survives a reboot: instances that were found tainted, so that none of them is ever started again (I6)."""
    return tuple(i.in_phase("tainted") for i in instances if i.phase in ("drifted", "tainted"))


def _with_measurements(runtime: RuntimeState, travelled: tuple[bytes, ...]) -> RuntimeState:
    roots = {i.manifest for i in runtime.instances}
    by_root: dict[Digest, bytes] = {}
    for item in travelled:
        root = Digest.of(item)
        if root not in roots:
            continue
        try:
            parse_measurement(item)
        except FormatError:
            continue  # the instance stays without one, and is refused for it alone
        by_root[root] = item
    return runtime.with_instances(tuple(i if i.measurement else i.measured(by_root.get(i.manifest, b"")) for i in runtime.instances))

"""Evidence assembled, sent, and its answer read: one attestation of the host for many instances.

The attestor builds the quoted bytes itself, from the requests of its own
socket; it signs nobody's digest. What the verifier acknowledged is remembered
only after its signature on the decision was verified under the pinned key.
The reasons of an answer are those of that decision, and what stands beside it
is not read; a problem, which nothing signs, may cost one more try and no more.

Evidence that carries new events or anchors is remembered before it is sent. If its
answer is lost, the very same bytes are sent again before anything else, for
as long as the verifier keeps the answer: so the two never differ about how
much of the log is known, and a log of any length needs no second sending.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from attestor.acknowledged import Acknowledged, Point, Unanswered, read_acknowledged, write_acknowledged
from attestor.collect.anchors import AnchorRegister
from attestor.collect.kernel_logs import KernelLogs
from attestor.collect.runtime_log import RuntimeLog
from attestor.config import Enrolment
from attestor.exchange import ask, read_answer
from attestor.leases import Leases, approver_of
from attestor.tpm import Tpm
from writ.formats.anchor import AnchorRow, Anchors
from writ.formats.cose import parse_sign1, verify_sign1
from writ.formats.decision import AttestDecision, parse_entry
from writ.formats.digest import Digest, Nonce
from writ.formats.ear import parse_ear_cbor
from writ.formats.eat import parse_token
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.eventlog.ima import IMA_PCR
from writ.formats.evidence import Evidence, InstanceRequest, binding, encode_evidence, further, parse_evidence
from writ.formats.exchange import AttestAnswer, NonceAnswer
from writ.formats.policy_bundle import parse_bundle
from writ.formats.public import with_names
from writ.formats.reason import Reason
from writ.formats.strict import parse_b64url
from writ.formats.tlog.receipt import MAX_RECEIPT
from writ.service.clock import Clock
from writ.service.uplink import Uplink

CMW_TYPE: Final = "application/cmw+cbor"
_MAX_EVIDENCE: Final = 28 << 20
"""Bytes: with decision, result and policy beside it, it fits into one frame of the local socket."""
_MARGIN: Final = 5.0
"""Seconds before its end at which a nonce is no longer used."""
_PATIENCE: Final = 60.0
"""Seconds for which evidence is sent again to a verifier whose answers to it are of no use."""
_NOT_APPRAISED: Final = frozenset(
    {
        "runtime-log-mismatch", "runtime-log-malformed", "runtime-log-rewound", "full-log-required", "reset-count-fell", "clock-fell",
        "instance-key-reused",
    }
)  # fmt: skip
"""Reasons with which the verifier keeps nothing of the log that was sent."""
_IN_FULL: Final = frozenset({"runtime-log-rewound", "full-log-required"})
_LOGS_AGAIN: Final = frozenset({"boot-log-required", "ima-log-required", "ima-log-rewound"})
"""Reasons with which the verifier asks for the logs of boot and IMA from their beginning."""
_ANCHORS_NOT_TAKEN: Final = frozenset({"anchor-base", "anchor-register-mismatch"})
"""Reasons with which the verifier keeps nothing of the anchors that were sent."""
_LEASE_KEYS: Final = frozenset({"lease-key-missing", "lease-key-refused"})
"""Reasons that another policy's approval key mends: it came with the answer."""
_PARTIAL: Final = "ima-log-partial"
_MOST_PARTS: Final = 8
"""Parts of an IMA list that follow one another: more than its largest size makes."""


@dataclass(frozen=True, slots=True)
class Attested:
    """The answer to one attestation, `as_signed`, and the evidence it answers. `receipt` is as it came: nothing here has read it."""

    answer: AttestAnswer
    evidence: bytes
    verdict: str
    receipt: bytes | None


class Attestation:
    """The host's side of the exchange with one verifier: the nonce in hand, and how much of the log it has seen.

    One attestation at a time; not for several threads at once.
    """

    def __init__(
        self, tpm: Tpm, log: RuntimeLog, logs: KernelLogs, uplink: Uplink, enrolment: Enrolment, clock: Clock,
        anchors: AnchorRegister | None = None,
    ) -> None:  # fmt: skip
        self._anchors = anchors or AnchorRegister(log.directory, tpm, pcr=None, bank=enrolment.bank)
        self._tpm, self._log, self._logs, self._uplink, self._enrolment, self._clock = tpm, log, logs, uplink, enrolment, clock
        self._leases = Leases(tpm, enrolment.host, enrolment.decision_key.thumbprint())
        self._nonce: tuple[Nonce, float] | None = None
        self._known: Acknowledged | None = None
        self._boot = log.boots
        self._told: set[bytes] = set()
        self._vain_since: float | None = None

    def attest(self, requests: tuple[InstanceRequest, ...], measurements: dict[bytes, bytes]) -> Attested:
        """The verifier's committed decision over a fresh quote that covers `requests`.

        `measurements` holds the encoded measurement of each instance asked
        for. A nonce that the verifier no longer takes is replaced once, and a
        log it wants in full is sent in full once; that it knows less of it
        than we took it to is remembered only where a decision says so.

        Raises Refused with the verifier's reasons where it answered without a
        decision, Unavailable where TPM or verifier did not answer.
        """
        self._settle()
        in_full = False
        for last in (False, False, True):
            try:
                attested = self._whole(requests, measurements, in_full)
            except Refused as refused:
                codes = {reason.code for reason in refused.reasons}
                if last or (not any(code.startswith("nonce-") for code in codes) and not codes & _IN_FULL):
                    raise
                self._nonce, in_full = None, bool(codes & _IN_FULL)
                continue
            in_full = False
            codes = {reason.code for reason in attested.answer.reasons}
            if self._follow(attested.answer) and not last:
                continue
            if self._anchors_again(attested.answer) and not last:
                continue
            if codes & _LOGS_AGAIN:
                self._logs.forget()
            elif self._seen.events or not codes & _IN_FULL:
                return attested
            if last:
                return attested
        raise Unavailable("verifier", "asked for nonce or log again and again")

    def _anchors_again(self, answer: AttestAnswer) -> bool:
        """Whether the verifier says that it knows another register of anchors than we took it to, and ours leads on from that."""
        wanted = [reason.expected for reason in answer.reasons if reason.code == "anchor-base"]
        return any(self._anchors.resume_from(register) for register in wanted)

    def open_anchors(self) -> None:
        """The register of anchors is as its file says, or nothing is anchored in this boot. Raises Unavailable."""
        self._anchors.open()

    def anchor(self, rows: tuple[AnchorRow, ...]) -> tuple[AnchorRow, ...]:
        """The checkpoints are in the register of anchors, for the next quote to show, but for those returned, for want of room. From any
        thread.

        Raises Refused, also in hardware mode, where each extend would end every lease of the host; Unavailable.
        """
        if self._leases.in_force:
            raise Refused(Reason("anchors-off", "policy.lease_approver", "none", "one: each anchor would end every lease"))
        return self._anchors.anchor(rows)

    def _follow(self, answer: AttestAnswer) -> bool:
        """Leases are made under the policy that came, for the tokens that came; whether there is one the sooner for asking again."""
        changed = self._leases.follow(approver_of(answer.policy))
        for one in answer.answers:
            if one.token is not None:
                self._leases.passed_on(one.instance, one.token, one.approval)
        return changed and any(reason.code in _LEASE_KEYS for one in answer.answers for reason in one.reasons)

    def lease(self, instance: bytes) -> bytes:
        """A lease for the instance's last token. From any thread. Raises Refused where the TPM refuses, Unavailable."""
        return self._leases.lease(instance)

    def over(self, instance: bytes) -> None:
        """The instance ended: its lease key is gone."""
        self._leases.forget(instance)

    def check_ak(self) -> None:
        """The key that quotes is there. Raises Refused `tpm-cleared`, Unavailable."""
        self._tpm.check_ak()

    def close(self) -> None:
        """The line to the verifier is closed."""
        self._uplink.close()

    def _whole(self, requests: tuple[InstanceRequest, ...], measurements: dict[bytes, bytes], in_full: bool) -> Attested:
        """`_once`, and again for each further part of an IMA list that came and was kept."""
        attested = self._once(requests, measurements, in_full)
        for _ in range(_MOST_PARTS):
            codes = {reason.code for reason in attested.answer.reasons}
            if _PARTIAL not in codes or codes & _NOT_APPRAISED:
                break
            attested = self._once(requests, measurements)
        return attested

    def _once(self, requests: tuple[InstanceRequest, ...], measurements: dict[bytes, bytes], in_full: bool = False) -> Attested:
        """1. A nonce. 2. The quote. 3. The log up to it, what is new or `in_full`. 4. Send, the same bytes again if the answer is lost.
        5. Verify and remember.
        """
        e = self._enrolment
        # 1
        nonce = self._take_nonce()
        # 2
        lease_keys = self._leases.evidence(requests, nonce)
        quoted = self._tpm.quote(binding(e.decision_key.thumbprint(), e.host, nonce, requests, further(lease_keys)), e.bank)
        # 3
        events = self._log.position(quoted.pcrs.get(e.runtime_pcr))
        if events is None:
            self._nonce = None
            self._log.open()
            raise Unavailable("runtime log", "the register was not what the log says; compared anew")
        if self._boot != self._log.boots:
            self._boot = self._log.boots
            self._leases.forget_all()
            self._forget()
            self._logs.forget()
        logs, anchors = self._logs.travelling(quoted.pcrs.get(IMA_PCR)), self._anchors.travelling(quoted.pcrs)
        upto, seen = Point(events, quoted.pcrs.get(e.runtime_pcr)), self._seen
        new = not in_full and self._log.register(seen.events) == seen.register and seen.events <= events
        first, told = (seen.events if new else 0), (set() if in_full else self._told)
        fresh = tuple(sorted({measurements[r.instance] for r in requests if r.instance in measurements and r.instance not in told}))
        evidence = encode_evidence(
            Evidence(
                host=e.host, nonce=nonce, attest=quoted.attest, signature=quoted.signature, pcrs=quoted.pcrs,
                log_first=first, log=self._log.since(first, events), measurements=fresh, requests=requests,
                uefi_log=logs.uefi, systemd_log=logs.systemd, ima_log=logs.ima, lease_keys=lease_keys, anchors=anchors,
            )
        )  # fmt: skip
        if len(evidence) > _MAX_EVIDENCE:
            raise Unavailable("evidence", f"expected at most {_MAX_EVIDENCE} bytes, got {len(evidence)}: a reboot starts a short log")
        # 4
        if events > first or anchors is not None:
            self._remember(Acknowledged(seen, Unanswered(nonce, upto, evidence)))
        try:
            answer, receipt = self._send(evidence)
        except Unavailable:
            # Whether the nonce was spent is not known: the very same bytes get the stored answer, if there is one.
            answer, receipt = self._send(evidence)
        # 5
        decision, answer = self._believe(answer, nonce, evidence)
        self._nonce = Nonce(answer.nonce), self._clock.boot() + answer.nonce_life - _MARGIN
        if self._acknowledge(answer, upto, anchors):
            self._logs.acknowledge(logs)
            self._told |= {request.instance for request in requests}
        return Attested(answer, evidence, decision.verdict, receipt)

    def _send(self, evidence: bytes) -> tuple[AttestAnswer, bytes | None]:
        """The answer, and the receipt that came beside it. Raises Refused, Unavailable."""
        came = self._uplink.post(f"/v1/hosts/{self._enrolment.host}/attest", evidence, CMW_TYPE, retry=True)
        answer = read_answer(self._uplink.base_url, came, AttestAnswer)
        try:
            receipt = parse_b64url(came.receipt, "receipt") if came.receipt else None
        except FormatError as error:
            raise Unavailable(self._uplink.base_url, f"a receipt that is none: {error}") from None
        if receipt is not None and len(receipt) > MAX_RECEIPT:
            raise Unavailable(self._uplink.base_url, f"expected a receipt of at most {MAX_RECEIPT} bytes, got {len(receipt)}")
        return answer, receipt

    def _settle(self) -> None:
        """No evidence with new events is without an answer, unless the verifier has forgotten it.

        Raises Unavailable where the verifier does not answer: then nothing else is to be sent. Answers that are of no use,
        as a verifier's that was enrolled anew, hold it up for `_PATIENCE` at most.
        """
        sent = self._recall().unanswered
        if sent is None:
            return
        came = self._uplink.post(f"/v1/hosts/{self._enrolment.host}/attest", sent.evidence, CMW_TYPE)
        try:
            _, answer = self._believe(read_answer(self._uplink.base_url, came, AttestAnswer), sent.nonce, sent.evidence)
        except Refused:  # never judged, and its nonce is of no use any more; or judged too long ago
            self._remember(Acknowledged(self._seen))
            return
        except Unavailable:
            now = self._clock.boot()
            self._vain_since = now if self._vain_since is None else self._vain_since
            if now - self._vain_since > _PATIENCE:
                self._remember(Acknowledged(self._seen))
            raise
        self._acknowledge(answer, sent.upto, parse_evidence(sent.evidence).anchors)

    def _acknowledge(self, answer: AttestAnswer, upto: Point, anchors: Anchors | None) -> bool:
        """What the verifier said of log and anchors up to there is remembered; whether it has judged the log."""
        codes = {reason.code for reason in answer.reasons}
        if codes & _NOT_APPRAISED:
            self._forget()
            return False
        if anchors is not None and not codes & _ANCHORS_NOT_TAKEN:
            self._anchors.acknowledge(anchors)
        self._remember(Acknowledged(upto))
        return True

    def _take_nonce(self) -> Nonce:
        """The nonce in hand, which is in hand no longer, or a new one."""
        held, self._nonce = self._nonce, None
        if held is not None and self._clock.boot() < held[1]:
            return held[0]
        return Nonce(ask(self._uplink, f"/v1/hosts/{self._enrolment.host}/nonce", b"", NonceAnswer).nonce)

    def _believe(self, answer: AttestAnswer, nonce: Nonce, evidence: bytes) -> tuple[AttestDecision, AttestAnswer]:
        """The decision in `answer`, which the pinned key signed, for this host, nonce and evidence; and the answer as it was signed.

        Raises Unavailable for any other.
        """
        try:
            signed = parse_sign1(answer.decision, what="decision")
            entry = parse_entry(signed.payload or b"")
        except FormatError as error:
            raise Unavailable("verifier", f"decision malformed: {error}") from None
        if not verify_sign1(signed, self._enrolment.decision_key):
            raise Unavailable("verifier", "expected a decision under the pinned key, got another signature")
        if not isinstance(entry, AttestDecision) or (entry.host, entry.nonce) != (self._enrolment.host, nonce.value):
            raise Unavailable("verifier", "expected the decision on this attestation, got another")
        if dict(entry.inputs).get("evidence") != Digest.of(evidence):
            raise Unavailable("verifier", "expected the decision on this evidence, got one on another")
        try:
            return entry, as_signed(answer, entry)
        except FormatError as error:
            raise Unavailable("verifier", f"an answer beside its decision: {error}") from None

    def _forget(self) -> None:
        """The next attestation carries the log from its first event, and every measurement."""
        self._remember(Acknowledged())
        self._told.clear()

    @property
    def _seen(self) -> Point:
        return self._recall().upto

    def _recall(self) -> Acknowledged:
        if self._known is None:
            self._known = read_acknowledged(self._log.directory)
        return self._known

    def _remember(self, known: Acknowledged) -> None:
        if known != self._recall():
            write_acknowledged(self._log.directory, known)
            self._known, self._vain_since = known, None


def as_signed(answer: AttestAnswer, decision: AttestDecision) -> AttestAnswer:
    """`answer` with the reasons that its signed `decision` and the result named there have, whatever stands beside them.

    Result, policy and the token of each instance are those that the decision names by digest. Receipt, keys, the next nonce and approvals
    of lease keys are as they came. Raises FormatError for anything else.
    """
    policy = parse_bundle(parse_sign1(answer.policy, what="policy").payload or b"")
    parts = (("result", Digest.of(answer.result), decision.result), ("policy", policy.digest, dict(decision.inputs)["policy"]))
    for what, got, expected in parts:
        if got != expected:
            raise FormatError(f"answer.{what}", str(expected), str(got))
    tokens = [(one.instance, None if one.token is None else Digest.of(parse_token(one.token).jws.payload)) for one in answer.answers]
    if tokens != [(one.instance, one.claims) for one in decision.outcomes]:
        raise FormatError("answer.answers", "the outcomes of the decision, with their tokens", "others")
    answers = (replace(one, reasons=outcome.reasons) for one, outcome in zip(answer.answers, decision.outcomes, strict=True))
    return replace(answer, reasons=with_names(decision, parse_ear_cbor(answer.result)), answers=tuple(answers))


def reasons_for(answer: AttestAnswer, instance: bytes) -> tuple[str | None, tuple[Reason, ...]]:
    """The token of `instance`, or None with the reasons: its own, and the host's in place of the word that there are some."""
    for one in answer.answers:
        if one.instance == instance:
            own = (reason for reason in one.reasons if reason.code != "host-refused" or not answer.reasons)
            return (one.token, ()) if one.token is not None else (None, tuple(sorted({*own, *answer.reasons})))
    return None, answer.reasons or (Reason("instance-unknown", f"instance.{instance.hex()}", "an answer", "none"),)

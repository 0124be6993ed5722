"""Answers that are lost, forged or out of step: nothing is believed that the pinned key did not sign."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from attestor import evidence
from attestor.acknowledged import START, Acknowledged, Point, Unanswered, read_acknowledged, write_acknowledged
from attestor.collect import kernel_logs
from attestor.collect.kernel_logs import KernelLogs
from attestor.collect.runtime_log import RuntimeLog
from attestor.config import LogPaths, write_private
from attestor.evidence import Attestation, reasons_for
from swtpm import SoftTpm
from tests.attestor.site import GOVERNANCE, OPERATOR, Host, VerifierSite
from tests.signers import new_signer
from tests.world.ima_logs import Kernel
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, parse_entry
from writ.formats.digest import Digest, Nonce
from writ.formats.errors import Refused, Unavailable
from writ.formats.eventlog.ima import hashed
from writ.formats.eventlog.runtime import StartEvent, command_digest
from writ.formats.evidence import Evidence, InstanceRequest, encode_evidence, parse_evidence
from writ.formats.exchange import EXCHANGE, AttestAnswer, NonceAnswer, Problem
from writ.formats.grants import grant_set
from writ.formats.local import LOCAL, MAX_FRAME, TokenGiven
from writ.formats.reason import Reason
from writ.formats.strict import b64url, encode_cbor
from writ.formats.tlog.merkle import EMPTY_ROOT, leaf_hash, root_from_path
from writ.formats.tlog.receipt import MAX_RECEIPT, parse_receipt
from writ.formats.tpm.pcr import PcrValues
from writ.service.clock import SystemClock
from writ.service.signers import load_or_create_signer
from writ.service.uplink import Answer, Uplink

KEY = new_signer().public
INSTANCE = bytes(range(16))
REQUEST = InstanceRequest(INSTANCE, KEY, "tools", grant_set([("tool.call", "files/*")]), 0, EMPTY_ROOT, 0, ())


class Line(Uplink):
    """The line to a real verifier, of which a test may take answers away or change them."""

    def __init__(self, host: Host) -> None:
        assert host.enrolment is not None
        super().__init__(
            host.enrolment.verifier, ca_file=None, signer=load_or_create_signer(host.state.host_key), clock=SystemClock(), timeout=5
        )
        self.lose = 0
        self.change: Callable[[AttestAnswer], AttestAnswer] = lambda answer: answer
        self.sent: list[bytes] = []
        self.problem: Reason | None = None
        """What somebody on the way says in place of the verifier, which hears nothing of it."""
        self.receipt: str | None = None
        """What stands in the header in place of what the verifier wrote."""

    def post(self, path: str, body: bytes, content_type: str, *, retry: bool = False) -> Answer:
        if self.problem is not None and path.endswith("/attest"):
            self.sent.append(body)
            return Answer(403, "application/cbor", EXCHANGE.encode(Problem("0" * 16, (self.problem,))))
        answer = super().post(path, body, content_type, retry=retry)
        if not path.endswith("/attest"):
            return answer
        self.sent.append(body)
        if self.lose:
            self.lose -= 1
            raise Unavailable("verifier", "the answer was lost")
        message = EXCHANGE.parse(answer.body)
        if isinstance(message, AttestAnswer):
            receipt = answer.receipt if self.receipt is None else self.receipt
            return Answer(answer.status, answer.content_type, EXCHANGE.encode(self.change(message)), receipt)
        return answer


class Bench:
    """An attestation over a log with one started instance."""

    def __init__(self, host: Host, paths: LogPaths | None = None) -> None:
        assert host.enrolment is not None
        self.log = RuntimeLog(host.state.log, host.tpm, pcr=13, bank="sha256")
        self.log.open()
        for event in GOVERNANCE:
            self.log.append(event)
        agent = "spiffe://example.org/demo/agent/reporter"
        self.log.append(StartEvent(INSTANCE, agent, Digest.of(b"root"), command_digest(["x"]), KEY.thumbprint(), None, ()))
        self.line = Line(host)
        self.logs = KernelLogs(paths or LogPaths(), "sha256")
        self.attestation = Attestation(host.tpm, self.log, self.logs, self.line, host.enrolment, SystemClock())

    def attest(self) -> AttestAnswer:
        return self.attestation.attest((REQUEST,), {}).answer

    def close(self) -> None:
        self.attestation.close()
        self.log.close()


@pytest.fixture
def bench(enrolled: Host) -> Bench:
    return Bench(enrolled)


def test_answer_that_was_lost_is_asked_for_again_with_the_same_bytes(bench: Bench) -> None:
    bench.line.lose = 1
    bench.attest()
    assert len(bench.line.sent) == 2
    assert bench.line.sent[0] == bench.line.sent[1]
    bench.close()


def test_receipt_of_the_decision_is_passed_on_as_it_came(bench: Bench) -> None:
    attested = bench.attestation.attest((REQUEST,), {})
    assert attested.receipt is not None
    receipt = parse_receipt(attested.receipt)
    path = root_from_path(leaf_hash(attested.answer.decision), receipt.index, receipt.size, receipt.path)
    assert path is not None
    bench.line.receipt = b64url(b"nobody here reads it")
    assert bench.attestation.attest((REQUEST,), {}).receipt == b"nobody here reads it"
    bench.line.receipt = ""
    assert bench.attestation.attest((REQUEST,), {}).receipt is None
    for wrong in ("no base64url!", b64url(bytes(MAX_RECEIPT + 1))):
        bench.line.receipt = wrong
        with pytest.raises(Unavailable):
            bench.attest()
    bench.close()


class Files:
    """A kernel that measures files into the software TPM's PCR 10, and its list as a file."""

    def __init__(self, host: Host, place: Path) -> None:
        self.host, self.paths, self.kernel = host, LogPaths(ima=place), Kernel(aggregate=False)

    def measure(self, *names: str) -> None:
        for name in names:
            begin = len(self.kernel.binary)
            self.kernel.measure(name, Digest.of(name.encode()))
            row = self.kernel.binary[begin + 24 :]
            self.host.tpm.extend(10, (Digest("sha256", hashlib.sha256(hashed(row)).digest()),))
        assert self.paths.ima is not None
        self.paths.ima.write_bytes(self.kernel.binary)


def lists(bench: Bench) -> list[tuple[int, bool]]:
    """The number of the first entry, and whether others follow, of each list that was sent."""
    sent = [parse_evidence(one).ima_log for one in bench.line.sent]
    return [(one.first, one.more) for one in sent if one is not None]


def test_list_longer_than_one_evidence_goes_on_in_parts_in_one_attestation(
    enrolled: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(enrolled, tmp_path / "ima")
    files.measure(*"abcdefg")
    monkeypatch.setattr(kernel_logs, "MAX_PART", files.kernel.ends[1])
    bench = Bench(enrolled, files.paths)
    codes = {reason.code for reason in bench.attest().reasons}
    assert lists(bench) == [(0, True), (2, True), (4, True), (6, False)]
    assert not codes & {"ima-log-partial", "ima-log-required", "ima-log-mismatch"}
    files.measure(*"hijkl")
    bench.line.sent.clear()
    bench.line.lose = 2
    with pytest.raises(Unavailable, match="lost"):
        bench.attest()
    files.measure("m")
    bench.attest()
    assert lists(bench) == [(7, True), (7, True), (7, True), (9, True), (11, False)]
    bench.close()


def decided(site: VerifierSite, answer: AttestAnswer, *reasons: Reason) -> AttestAnswer:
    """`answer` with another decision of the verifier's: that these stand against the host."""
    entry = parse_entry(parse_sign1(answer.decision).payload or b"")
    assert isinstance(entry, AttestDecision)
    signed = site.built.parts.keys.sign_entry(replace(entry, reasons=tuple(sorted(reasons)))).signed
    return replace(answer, decision=signed, reasons=())


def test_verifier_that_asks_for_parts_for_ever_is_not_obeyed(site: VerifierSite, enrolled: Host, tmp_path: Path) -> None:
    files = Files(enrolled, tmp_path / "ima")
    files.measure(*"ab")
    bench = Bench(enrolled, files.paths)
    partial = Reason("ima-log-partial", "ima.entries", "the list from entry 2", "a part of it")
    bench.line.change = lambda answer: decided(site, answer, partial)
    bench.attest()
    assert len(bench.line.sent) == 9
    bench.line.sent.clear()
    fell = Reason("clock-fell", "clock", "at least 2", "1")
    bench.line.change = lambda answer: decided(site, answer, fell, partial)
    bench.attest()
    assert len(bench.line.sent) == 1, "nothing of it was kept: the same part would only be sent again"
    bench.close()


def test_answer_lost_for_good_is_unavailable_and_the_next_attestation_recovers(bench: Bench) -> None:
    bench.attest()
    bench.log.append(
        StartEvent(bytes(16), "spiffe://example.org/demo/agent/b", Digest.of(b"r"), command_digest(["x"]), bytes(32), None, ())
    )
    bench.line.lose = 2
    with pytest.raises(Unavailable, match="lost"):
        bench.attest()
    answer = bench.attest()
    assert not {reason.code for reason in answer.reasons} & {"runtime-log-rewound", "runtime-log-mismatch", "full-log-required"}
    assert bench.line.sent[-4] == bench.line.sent[-3] == bench.line.sent[-2]
    assert parse_evidence(bench.line.sent[-1]).log_first == len(bench.log)
    bench.close()


def grow(bench: Bench, number: int) -> None:
    """One more event in the log."""
    name = number.to_bytes(16, "big")
    agent = "spiffe://example.org/demo/agent/b"
    bench.log.append(StartEvent(name, agent, Digest.of(b"r"), command_digest(["x"]), bytes(31) + bytes([number]), None, ()))


def restarted(bench: Bench, host: Host) -> Attestation:
    """The attestation of an attestor that was started again over the same files."""
    assert host.enrolment is not None
    return Attestation(host.tpm, bench.log, bench.logs, bench.line, host.enrolment, SystemClock())


def test_restarted_attestor_sends_only_what_is_new(enrolled: Host, bench: Bench) -> None:
    bench.attest()
    known = len(bench.log)
    grow(bench, 1)
    bench.attestation = restarted(bench, enrolled)
    bench.attest()
    assert parse_evidence(bench.line.sent[-1]).log_first == known
    bench.close()


def test_attestor_restarted_after_a_lost_answer_sends_the_same_bytes_first(enrolled: Host, bench: Bench) -> None:
    bench.attest()
    grow(bench, 1)
    bench.line.lose = 2
    with pytest.raises(Unavailable, match="lost"):
        bench.attest()
    bench.attestation = restarted(bench, enrolled)
    bench.attest()
    assert bench.line.sent[-3] == bench.line.sent[-2]
    assert parse_evidence(bench.line.sent[-1]).log_first == len(bench.log)
    bench.close()


@pytest.mark.parametrize("data", [b"rubbish", encode_cbor({"v": 1, "events": 2, "register": bytes(32), "unanswered": None})])
def test_false_memory_of_what_is_known_costs_the_whole_log_and_no_more(data: bytes, enrolled: Host, bench: Bench) -> None:
    bench.attest()
    write_private(bench.log.directory / "acknowledged.cbor", data)
    bench.attestation = restarted(bench, enrolled)
    assert not bench.attest().reasons
    assert parse_evidence(bench.line.sent[-1]).log_first == 0
    bench.close()


def test_evidence_that_the_verifier_no_longer_knows_is_given_up(enrolled: Host, bench: Bench) -> None:
    bench.attest()
    unknown = Unanswered(
        Nonce(bytes(32)), Point(1, bytes(32)), bench.line.sent[-1].replace(parse_evidence(bench.line.sent[-1]).nonce.value, bytes(32))
    )
    write_acknowledged(bench.log.directory, Acknowledged(START, unknown))
    bench.attestation = restarted(bench, enrolled)
    bench.attest()
    assert read_acknowledged(bench.log.directory).unanswered is None
    bench.close()


def test_answers_of_no_use_do_not_hold_up_the_host_for_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.line.lose = 2
    with pytest.raises(Unavailable, match="lost"):
        bench.attest()
    bench.line.change = lambda answer: replace(answer, decision=b"rubbish")
    for clock in (SystemClock(), Later()):
        monkeypatch.setattr(bench.attestation, "_clock", clock)
        with pytest.raises(Unavailable, match="decision"):
            bench.attest()
    bench.line.change = lambda answer: answer
    before = len(bench.line.sent)
    assert not bench.attest().reasons
    assert bench.line.sent[before] != bench.line.sent[before - 1]
    bench.close()


def assert_not_believed(bench: Bench, forged: Callable[[AttestAnswer], AttestAnswer], match: str) -> None:
    """A forged answer is refused by these words, and the true one after it believed."""
    bench.line.change = forged
    with pytest.raises(Unavailable, match=match):
        bench.attest()
    bench.line.change = lambda answer: answer
    bench.attest()
    bench.close()


@pytest.mark.parametrize("part", ["decision", "other decision", "rubbish"])
def test_answer_whose_decision_the_pinned_key_did_not_sign_is_not_believed(part: str, bench: Bench) -> None:
    first = bench.attest()
    flipped = first.decision[:-1] + bytes([first.decision[-1] ^ 1])
    decision = {"decision": flipped, "other decision": first.decision, "rubbish": b"rubbish"}[part]

    def forged(answer: AttestAnswer) -> AttestAnswer:
        return AttestAnswer(
            decision, answer.result, answer.reasons, answer.answers, answer.nonce, answer.nonce_life, answer.policy, answer.token_keys
        )

    assert_not_believed(bench, forged, "decision")


def test_reasons_beside_the_decision_are_not_read(bench: Bench) -> None:
    """A log that is said to be unknown, an instance that is said to be tainted: the decision says neither."""
    before = bench.attest()
    for code in ("instance-tainted", "action-log-base", "full-log-required", "anchor-base"):
        forged = (Reason(code, "x", "0", "y"),)
        bench.line.change = lambda answer, forged=forged: replace(  # type: ignore[misc]  # bound now, and not when it is called
            answer, reasons=forged, answers=tuple(replace(one, reasons=forged) for one in answer.answers)
        )
        sent = len(bench.line.sent)
        answer = bench.attest()
        assert (answer.reasons, reasons_for(answer, INSTANCE)) == (before.reasons, reasons_for(before, INSTANCE))
        assert len(bench.line.sent) == sent + 1
        assert parse_evidence(bench.line.sent[-1]).log_first == len(bench.log)
    bench.close()


@pytest.mark.parametrize("part", ["result", "policy", "answers", "token"])
def test_answer_that_is_not_the_one_decided_is_not_believed(part: str, site: VerifierSite, bench: Bench) -> None:
    first = bench.attest()
    site.publish_policy("// another\n")

    def forged(answer: AttestAnswer) -> AttestAnswer:
        token = tuple(replace(one, token="a.b.c") for one in answer.answers)
        given: dict[str, AttestAnswer] = {
            "result": replace(answer, result=first.result),
            "policy": replace(answer, policy=first.policy),
            "answers": replace(answer, answers=()),
            "token": replace(answer, answers=token),
        }
        return given[part]

    assert_not_believed(bench, forged, "beside its decision")


def test_problem_that_asks_for_the_whole_log_costs_one_more_try_and_is_not_remembered(bench: Bench) -> None:
    """Nothing signs a problem; a log longer than one evidence could never be sent in full again."""
    bench.attest()
    bench.line.problem = Reason("full-log-required", "log_first", "0", "2")
    known, sent = read_acknowledged(bench.log.directory), len(bench.line.sent)
    with pytest.raises(Refused, match="full-log-required"):
        bench.attest()
    assert [parse_evidence(one).log_first for one in bench.line.sent[sent:]] == [len(bench.log), 0, 0]
    assert read_acknowledged(bench.log.directory).upto == known.upto
    bench.line.problem = None
    bench.attest()
    assert parse_evidence(bench.line.sent[-1]).log_first == len(bench.log)
    bench.close()


def test_nonce_in_hand_saves_a_round_trip_and_an_old_one_is_not_used(enrolled: Host, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    whole = Line._request  # noqa: SLF001 - the place where every request passes

    def counted(self: Line, method: str, path: str, body: bytes | None, content_type: str | None, again: bool) -> Answer:
        fetched.append(path.rpartition("/")[2])
        return whole(self, method, path, body, content_type, again)

    monkeypatch.setattr(Line, "_request", counted)
    bench.attest()
    bench.attest()
    assert fetched == ["nonce", "attest", "attest"]
    monkeypatch.setattr(bench.attestation, "_clock", Later())
    bench.attest()
    assert fetched[3:] == ["nonce", "attest"]
    bench.close()
    assert enrolled.enrolment is not None


class Later(SystemClock):
    """An hour on."""

    def boot(self) -> float:
        return super().boot() + 3600


def test_host_that_was_retired_is_refused(site: VerifierSite, bench: Bench) -> None:
    site.built.parts.hosts.retire(OPERATOR, "demo", "host-1")
    with pytest.raises(Refused):
        bench.attest()
    bench.close()


def test_other_messages_are_no_answer(bench: Bench) -> None:
    class Confused(Line):
        def post(self, path: str, body: bytes, content_type: str, *, retry: bool = False) -> Answer:
            return Answer(200, "application/cbor", EXCHANGE.encode(NonceAnswer(bytes(32), 60)))

    bench.line.post = Confused.post.__get__(bench.line)  # type: ignore[method-assign]  # one line that answers wrongly
    with pytest.raises(Unavailable, match="expected AttestAnswer"):
        bench.attest()
    bench.close()


def test_log_of_another_register_is_archived_after_a_reboot_and_refused_before(enrolled: Host, bench: Bench, soft_tpm: SoftTpm) -> None:
    bench.close()
    log = RuntimeLog(enrolled.state.log, enrolled.tpm, pcr=14, bank="sha256")
    with pytest.raises(Unavailable, match="PCR 14"):
        log.open()
    soft_tpm.reset()
    log.open()
    assert log.append(GOVERNANCE[0]) == 0
    assert len(list((enrolled.state.log / "archive").iterdir())) == 1
    log.close()


def test_largest_evidence_is_read_by_verifier_and_enforcer() -> None:
    """Beside 300 KiB each of decision, result and policy it fits into a frame."""
    banks = PcrValues("sha256", ((13, bytes(32)),))
    empty = Evidence("host-1", Nonce(bytes(32)), b"attest", b"signature", banks, 0, b"", (), (REQUEST,))
    room = evidence._MAX_EVIDENCE - len(encode_evidence(empty)) - 16  # noqa: SLF001 - the bound itself
    largest = encode_evidence(replace(empty, log=bytes(room)))
    assert evidence._MAX_EVIDENCE - 32 < len(largest) <= evidence._MAX_EVIDENCE  # noqa: SLF001
    assert parse_evidence(largest).log == bytes(room)
    part = bytes(300 << 10)
    given = TokenGiven("token", part, part, part, (KEY,), KEY, largest, bytes(MAX_RECEIPT))
    assert len(LOCAL.encode(given)) <= MAX_FRAME
    assert LOCAL.parse(LOCAL.encode(given)) == given

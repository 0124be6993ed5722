"""SIGKILL of the attestor at each step of a launch, a stop, a drift and an attestation: nothing unmeasured, nothing measured twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swtpm import SoftTpm
from tests.attestor.site import VerifierSite, launch, token_ask
from tests.faults.attestor import KilledAttestor
from tests.faults.fault import Step
from verifier.ledger.schema import EntryRow, HostRow
from writ.formats.eventlog.runtime import DriftEvent, RuntimeEvent, StartEvent, StopEvent
from writ.formats.local import Done, Launched, Refusal, Stop

DAEMON, LOG, EVIDENCE, UPLINK = "attestor/agentd.py", "attestor/collect/runtime_log.py", "attestor/evidence.py", "writ/service/uplink.py"

APPEND = (
    Step("before the record is written", LOG, "append", "self._write(data)"),
    Step("record written, not yet flushed", LOG, "_write", "os.fsync(fd)"),
    Step("between log append and extend", LOG, "append", "self._complete(known=True)"),
    Step("just before the extend", LOG, "_complete", "self._tpm.extend("),
    Step("between extend and answer", LOG, "append", "return number"),
    Step("before it is noted", DAEMON, "_append", "self._instances.note(event)", last=True),
)
LAUNCH = (
    Step("before anything is measured", DAEMON, "_launch", "measured = await"),
    Step("measured, not in the store", DAEMON, "_launch", "place = await"),
    Step("in the store, not logged", DAEMON, "_launch", "await self._started("),
    *APPEND,
    Step("before the launch is answered", DAEMON, "_launch", "return Launched("),
)
ATTEST = (
    Step("before the nonce is taken", EVIDENCE, "_once", "nonce = self._take_nonce()"),
    Step("before the quote", EVIDENCE, "_once", "quoted = self._tpm.quote("),
    Step("after the quote", EVIDENCE, "_once", "events = self._log.position("),
    Step("before the evidence is remembered", EVIDENCE, "_once", "self._remember(Acknowledged(seen, Unanswered("),
    Step("between quote and post", EVIDENCE, "_once", "answer, receipt = self._send("),
    Step("posted, answer not read", UPLINK, "_attempt", "self._answer(connection.getresponse())"),
    Step("answer read, not believed", EVIDENCE, "_once", "decision, answer = self._believe("),
    Step("believed, not remembered", EVIDENCE, "_once", "if self._acknowledge(answer, upto, anchors):"),
    Step("after the attestation, before the answer", DAEMON, "_attested", "self._verdict = attested.verdict"),
)
FOUND_WITHIN = 30.0
"""Seconds for a turn of the watch."""
QUICK = ("between log append and extend", "between extend and answer")


class Story:
    """One instance that outlives every death of its attestor, and the deaths."""

    def __init__(self, attestor: KilledAttestor) -> None:
        self.attestor = attestor
        self.deaths = self.recorded = 0
        attestor.start()
        self.survivor, self.key = attestor.launched()
        attestor.site.approve(self.survivor)
        self.last = attestor.token(self.survivor, self.key)

    def dies(self) -> tuple[RuntimeEvent, ...]:
        """The attestor has died by itself; the log is at most one event ahead of the register."""
        assert self.attestor.died(), (self.attestor.folder / "attestor.log").read_text()[-2000:]
        self.deaths += 1
        return self.attestor.check_log(behind=1)

    def comes_back(self) -> None:
        """The attestor serves again, and the verifier accepts what it shows: the instance that ran runs on."""
        self.attestor.start()
        fresh = self.attestor.token(self.survivor, self.key)
        assert fresh.token != self.last.token
        self.last = fresh

    def launch_at(self, step: Step) -> None:
        """A launch during which the attestor dies."""
        self.attestor.start(step)
        message, key = launch("reporter")
        self.attestor.armed.touch()
        assert self.attestor.say(message) is None
        events = self.dies()
        recorded = [e for e in events if isinstance(e, StartEvent) and e.session_key == key.thumbprint()]
        assert len(recorded) <= 1
        self.recorded += len(recorded)
        self.comes_back()
        again = self.attestor.say(message)
        if recorded:
            assert isinstance(again, Refusal)
            assert [reason.code for reason in again.reasons] == ["instance-key-reused"]
        else:
            assert isinstance(again, Launched)
            self.attestor.token(again, key)

    def stop_at(self, step: Step) -> None:
        """The stop of an instance, during which the attestor dies; said again it is done, and stands in the log once."""
        self.attestor.start(step)
        instance, key = self.attestor.launched()
        self.attestor.token(instance, key)
        self.attestor.armed.touch()
        assert self.attestor.say(Stop(instance.instance, "exited")) is None
        self.dies()
        self.comes_back()
        assert isinstance(self.attestor.say(Stop(instance.instance, "exited")), Done)
        assert isinstance(self.attestor.say(token_ask(instance, key)), Refusal)
        self.attestor.kill()
        events = self.attestor.check_log(behind=0)
        assert [e.outcome for e in events if isinstance(e, StopEvent) and e.instance == instance.instance] == ["exited"]

    def attest_at(self, step: Step) -> None:
        """An attestation that carries a launch, during which the attestor dies."""
        self.attestor.start(step)
        self.attestor.launched()
        self.attestor.armed.touch()
        assert self.attestor.say(token_ask(self.survivor, self.key)) is None
        before = self.dies()
        self.comes_back()
        self.attestor.kill()
        assert self.attestor.check_log(behind=0) == before

    def drift_at(self, step: Step) -> None:
        """A drift during which the attestor dies: the next one finds it, and the instance gets no token any more."""
        self.attestor.start(step)
        self.attestor.armed.touch()
        prompt = Path(self.survivor.root) / "prompt" / "prompt.txt"
        prompt.chmod(0o644)
        prompt.write_text("be bad")
        self.dies()
        self.attestor.start()
        deadline = time.monotonic() + FOUND_WITHIN
        while not isinstance(refused := self.attestor.say(token_ask(self.survivor, self.key)), Refusal):
            assert time.monotonic() < deadline, "the drift was not found again"
        assert refused.final
        assert "instance-drifted" in {reason.code for reason in refused.reasons}
        # The refusal comes first, then the event; what is asked next waits for it.
        assert isinstance(self.attestor.say(token_ask(self.survivor, self.key)), Refusal)
        self.attestor.kill()
        drifts = [e for e in self.attestor.check_log(behind=0) if isinstance(e, DriftEvent)]
        assert [e.instance for e in drifts] == [self.survivor.instance]

    def decided_once(self, site: VerifierSite) -> int:
        """The verifier's state moved once a decision; how many there were."""
        tables = site.built.ledger.read()
        row = tables.get(HostRow, "host-1")
        decisions = len(tables.select(EntryRow, kind="attest"))
        assert row is not None
        assert (row.status, row.version) == ("active", decisions - 1)
        return decisions


@pytest.fixture
def bare_site(tmp_path: Path) -> Iterator[VerifierSite]:
    made = VerifierSite(tmp_path / "verifier")
    made.publish_policy()
    yield made
    made.stop()


@pytest.fixture
def attestor(tmp_path: Path, bare_site: VerifierSite, soft_tpm: SoftTpm) -> Iterator[KilledAttestor]:
    made = KilledAttestor(tmp_path / "host", soft_tpm, bare_site)
    yield made
    made.kill()


@pytest.mark.faults
@pytest.mark.short
@pytest.mark.timeout(200)
def test_launch_is_measured_once_whenever_the_attestor_dies_around_its_extend(attestor: KilledAttestor, bare_site: VerifierSite) -> None:
    story = Story(attestor)
    for step in APPEND:
        if step.name in QUICK:
            story.launch_at(step)

    assert story.recorded == len(QUICK)
    assert story.decided_once(bare_site) > story.deaths


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_nothing_is_unmeasured_or_measured_twice_whenever_the_attestor_dies(attestor: KilledAttestor, bare_site: VerifierSite) -> None:
    story = Story(attestor)
    for step in LAUNCH:
        story.launch_at(step)
    for step in APPEND:
        story.stop_at(step)
    for step in ATTEST:
        story.attest_at(step)
    decisions = story.decided_once(bare_site)

    print(f"\nattestor killed {story.deaths} times; {story.recorded} launches on record unanswered; {decisions} decisions, each once")
    assert story.deaths == len(LAUNCH) + len(APPEND) + len(ATTEST)


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", APPEND, ids=lambda step: step.name)
def test_drift_is_found_again_whenever_the_attestor_dies_on_it(attestor: KilledAttestor, step: Step) -> None:
    Story(attestor).drift_at(step)


def test_every_named_step_is_in_the_source() -> None:
    assert all(step.line() > 0 for step in (*LAUNCH, *APPEND, *ATTEST))

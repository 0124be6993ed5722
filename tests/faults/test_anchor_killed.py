"""SIGKILL at each step of an anchor, of the quote that shows it and of its entry: no honest log is called otherwise, and none is lost."""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import attestor.collect.anchors as anchors_module
from attestor.collect.anchors import AnchorRegister
from attestor.config import write_private
from attestor.esapi import EsapiTpm
from enforcer.record import LogReader
from swtpm import SoftTpm
from tests.attestor.site import VerifierSite
from tests.enforcer.anchored import Anchored
from tests.faults.attestor import KilledAttestor
from tests.faults.fault import Step
from tests.faults.test_attestor_killed import ATTEST
from writ.formats.anchor import AnchorRow, led
from writ.formats.digest import Digest
from writ.verdict.anchor_audit import replay_anchors
from writ.verdict.carried import judge_anchored

PCR = 15
REGISTER, EVIDENCE, DAEMON = "attestor/collect/anchors.py", "attestor/evidence.py", "attestor/agentd.py"
ANCHOR = (
    Step("asked for, not yet in the file", REGISTER, "anchor", "self._extend(self._keep("),
    Step("written beside, not renamed", "attestor/config.py", "write_private", "fresh.replace(path)"),
    Step("in the file, not extended", REGISTER, "_extend", "self._tpm.extend("),
    Step("extended, not known to be", REGISTER, "_extend", "self._behind = False"),
    Step("extended, not answered", DAEMON, "_extend_rows", "waits.set_result(None)"),
)
SHOW = (
    *ATTEST,
    Step("quoted, the anchors not read", EVIDENCE, "_once", "self._anchors.travelling("),
    Step("entry answered, not acknowledged", EVIDENCE, "_acknowledge", "self._anchors.acknowledge("),
    Step("acknowledged in memory", REGISTER, "_tell", "self._keep("),
)
QUICK = ("in the file, not extended", "extended, not known to be")
ROUNDS = 1000


class Story:
    """One instance with a log that outlives every death of its host's attestor."""

    def __init__(self, attestor: KilledAttestor) -> None:
        self.attestor = attestor
        attestor.start()
        self.one = Anchored(attestor.folder / "instance", attestor.site, attestor.host)
        self.one.act(2)
        self.renews()
        self.deaths = 0

    def renews(self) -> None:
        """The next token comes, if not at the first ask: an answer may have been lost, but nobody is accused."""
        for _ in range(5):
            if self.one.renewed():
                return
            time.sleep(0.1)
        raise AssertionError(self.one.refused())

    def dies(self, step: Step, *, show: bool) -> None:
        """The attestor dies at `step` of an anchor, or of the attestation that shows one, and serves again."""
        self.attestor.start(step)
        self.one.act(1)
        if show:
            self.one.anchor()
            self.one.act(1)
        self.attestor.armed.touch()
        assert not (self.one.renewed() if show else self.one.anchors.anchor())
        assert self.attestor.died(), step.name
        self.deaths += 1
        self.attestor.start()
        self.one.act(1)
        self.one.anchors.anchor()
        self.renews()

    def check(self) -> None:
        """Every anchor replays to the register, and the log leads to each of them."""
        self.one.act(1)
        self.one.anchor()
        self.renews()
        decisions = self.one.decisions()
        assert replay_anchors(decisions) == ()
        self.attestor.kill()
        with self.attestor.chip() as chip:
            register = chip.read("sha256").get(PCR)
        assert [one.anchors.register for one in decisions if one.anchors is not None][-1] == register
        owed = self.one.logged().anchored
        assert len({one.size for one in owed}) >= self.deaths
        assert judge_anchored(owed, LogReader(self.one.folder, self.one.instance).leaf_hashes, "log") == ()


@pytest.fixture
def attestor(tmp_path: Path, soft_tpm: SoftTpm) -> Iterator[KilledAttestor]:
    site = VerifierSite(tmp_path / "verifier")
    site.publish_policy()
    made = KilledAttestor(tmp_path / "host", soft_tpm, site, anchor_pcr=PCR)
    yield made
    made.kill()
    site.stop()


@pytest.mark.faults
@pytest.mark.short
@pytest.mark.timeout(200)
def test_honest_log_is_renewed_when_the_attestor_died_around_the_extend(attestor: KilledAttestor) -> None:
    story = Story(attestor)
    for step in ANCHOR:
        if step.name in QUICK:
            story.dies(step, show=False)
    story.check()


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_no_false_alarm_whenever_the_attestor_dies(attestor: KilledAttestor) -> None:
    story = Story(attestor)
    for step in ANCHOR:
        story.dies(step, show=False)
    for step in SHOW:
        story.dies(step, show=True)
    story.check()
    print(f"\nattestor killed {story.deaths} times around an anchor: every log renewed, every anchor replayed")
    assert story.deaths == len(ANCHOR) + len(SHOW)


class Dying(EsapiTpm):
    """The TPM, with a process that ends before or behind an extend."""

    moment = ""

    def extend(self, pcr: int, digests: tuple[Digest, ...]) -> None:
        if self.moment == "before the extend":
            os.kill(os.getpid(), signal.SIGKILL)
        super().extend(pcr, digests)
        if self.moment == "behind the extend":
            os.kill(os.getpid(), signal.SIGKILL)


MOMENTS = ("before the extend", "behind the extend", "before the file", "behind the file", "some time")


def before_the_file(_path: Path, _data: bytes) -> None:
    """The end, with the old file."""
    os.kill(os.getpid(), signal.SIGKILL)


def behind_the_file(path: Path, data: bytes) -> None:
    """The end, with the new file."""
    write_private(path, data)
    os.kill(os.getpid(), signal.SIGKILL)


def anchors_until_killed(tcti: str, folder: Path, moment: str, said: int, random_seed: int) -> None:
    """In a process of its own: anchors, each told on `said` once it was answered, until it is killed at `moment`."""
    tpm = Dying(tcti, folder / "ak.cbor", allow_software=True)
    register = AnchorRegister(folder, tpm, pcr=PCR, bank="sha256")
    register.open()
    chance = random.Random(random_seed)
    dies_at, number = chance.randrange(4), 0
    while True:
        if number == dies_at:
            tpm.moment = moment
            if moment.endswith("the file"):
                vars(anchors_module)["write_private"] = behind_the_file if moment.startswith("behind") else before_the_file
            if moment == "some time":
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, chance.random() * 0.01)
        size = random_seed * 16 + number + 1
        register.anchor((AnchorRow(bytes(16), size, size.to_bytes(32, "big")),))
        os.write(said, struct.pack(">Q", size))
        number = (number + 1) % 12


def killed_once(tcti: str, folder: Path, number: int) -> list[int]:
    """A process that anchors was killed; what it was answered before."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            anchors_until_killed(tcti, folder, MOMENTS[number % len(MOMENTS)], writer, number + 1)
        finally:
            os._exit(1)
    os.close(writer)
    told = b""
    while part := os.read(reader, 4096):
        told += part
    os.close(reader)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return [size for (size,) in struct.iter_unpack(">Q", told)]


def killed_often(tcti: str, folder: Path, rounds: int) -> tuple[int, int]:
    """So many processes killed; how many anchors were answered, and how many are in register and file without an answer."""
    answered = beyond = 0
    register = bytes(32)
    for number in range(rounds):
        told = killed_once(tcti, folder, number)
        tpm = EsapiTpm(tcti, folder / "ak.cbor", allow_software=True)
        try:
            again = AnchorRegister(folder, tpm, pcr=PCR, bank="sha256")
            again.open()
            quoted = tpm.read("sha256")
            shown = again.travelling(quoted)
            batches = () if shown is None else shown.batches
            assert led("sha256", register, batches) == quoted.get(PCR), MOMENTS[number % len(MOMENTS)]
            sizes = [row.size for batch in batches for row in batch]
            assert sizes[: len(told)] == told, "nothing that was answered is lost"
            assert len(sizes) <= len(told) + 1, "at most one extend without its answer"
            answered, beyond, register = answered + len(told), beyond + len(sizes) - len(told), quoted.get(PCR)
            if shown is not None:
                again.acknowledge(shown)
        finally:
            tpm.close()
    return answered, beyond


@pytest.mark.timeout(120)
def test_file_and_register_agree_after_each_moment(tmp_path: Path, soft_tpm: SoftTpm) -> None:
    answered, beyond = killed_often(soft_tpm.tcti, tmp_path, 4 * len(MOMENTS))
    assert answered > 0
    assert beyond > 0


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_file_and_register_agree_after_a_thousand_deaths(tmp_path: Path, soft_tpm: SoftTpm) -> None:
    answered, beyond = killed_often(soft_tpm.tcti, tmp_path, ROUNDS)
    print(f"\nkilled {ROUNDS} times while it anchored: {answered} anchors answered, {beyond} extended unanswered, none lost")
    assert beyond > 0


def test_every_named_step_is_in_the_source() -> None:
    assert all(step.line() > 0 for step in (*ANCHOR, *SHOW))

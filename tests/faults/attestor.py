"""An attestor as a process that can be killed, on a host with a software TPM, enrolled at a real verifier."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attestor.esapi import EsapiTpm
from attestor.measure.governance import governance_events, measure_governance
from swtpm import SoftTpm
from tests.attestor.site import NAMESPACE, OPERATOR, Host, VerifierSite, launch, token_ask
from tests.faults.fault import ROOT, Step
from verifier.reference import captured_governance
from writ.formats.corim import encode_corim
from writ.formats.digest import extend
from writ.formats.errors import Unavailable
from writ.formats.eventlog.cel import parse_cel
from writ.formats.eventlog.runtime import ComponentEvent, RuntimeEvent, StartEvent, StopEvent, event_digests, parse_record
from writ.formats.keys import PublicKey
from writ.formats.local import LOCAL, MAX_FRAME, Launched, Local, TokenGiven
from writ.service.peers import connect

BANK = "sha256"
PCR = 13
READY_WITHIN = 60.0
DEAD_WITHIN = 60.0


class KilledAttestor:
    """`attestor serve` on one state directory and one TPM: started, killed and started again."""

    def __init__(self, folder: Path, tpm: SoftTpm, site: VerifierSite, anchor_pcr: int = 0) -> None:
        self.folder, self.tpm, self.site = folder, tpm, site
        folder.mkdir()
        self.armed = folder / "armed"
        self.config_file = folder / "attestor.toml"
        with self.chip() as chip:
            self.host = Host(folder, chip)
            self.host.agent("reporter")
            site.trust(tpm)
            self.host.enrol(site)
        corim = captured_governance(NAMESPACE, ((e.name, e.root) for e in governance_events(measure_governance())))
        site.built.parts.references.publish(OPERATOR, NAMESPACE, [encode_corim(corim)], publisher=None, replace=True)
        self.config_file.write_text(
            f'tcti = "{tpm.tcti}"\nallow_software_tpm = true\nstate_dir = "{self.host.state.path}"\nstore_dir = "{self.host.store}"\n'
            f'manifests_dir = "{self.host.manifests}"\nsocket = "{self.host.socket}"\nwatch_interval = 1\n'
            f"anchor_pcr = {anchor_pcr}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def chip(self) -> Iterator[EsapiTpm]:
        """The TPM, while no attestor has it."""
        chip = EsapiTpm(self.tpm.tcti, self.folder / "state" / "ak.cbor", allow_software=True)
        try:
            yield chip
        finally:
            chip.close()

    def start(self, step: Step | None = None) -> None:
        """It answers, and no other does; once `arm` was called it dies at `step`."""
        self.kill()
        self.armed.unlink(missing_ok=True)
        environment = {"PATH": "/usr/bin:/bin", "TSS2_LOG": "all+none", **({} if step is None else step.environment(self.armed))}
        with (self.folder / "attestor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "attestor", "--config", str(self.config_file), "serve"],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + READY_WITHIN
        while not self._ready():
            assert self.process.poll() is None, (self.folder / "attestor.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the attestor did not start"
            time.sleep(0.02)

    def _ready(self) -> bool:
        async def reached() -> bool:
            try:
                line = await connect(self.host.socket, MAX_FRAME, 1)
            except Unavailable:
                return False
            line.close()
            await line.wait_closed()
            return True

        return asyncio.run(reached())

    def died(self) -> bool:
        """Whether it ended by SIGKILL in time."""
        assert self.process is not None
        try:
            return self.process.wait(DEAD_WITHIN) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False

    def kill(self) -> None:
        """It is gone, if it was not."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def say(self, message: Local) -> Local | None:
        """Its answer, or None where it died before it gave one."""

        async def exchanged() -> Local | None:
            try:
                line = await connect(self.host.socket, MAX_FRAME, 5)
                try:
                    await line.send(LOCAL.encode(message))
                    data = await line.receive(60)
                finally:
                    line.close()
                    await line.wait_closed()
            except Unavailable:
                return None
            return None if data is None else LOCAL.parse(data)

        return asyncio.run(exchanged())

    def launched(self) -> tuple[Launched, PublicKey]:
        """A launch that succeeds."""
        message, key = launch("reporter")
        answer = self.say(message)
        assert isinstance(answer, Launched), answer
        return answer, key

    def token(self, launched: Launched, key: PublicKey) -> TokenGiven:
        """A token for that instance: the verifier took the evidence."""
        answer = self.say(token_ask(launched, key))
        assert isinstance(answer, TokenGiven), answer
        return answer

    def check_log(self, *, behind: int) -> tuple[RuntimeEvent, ...]:
        """The log replays to the register, which is at most `behind` events behind it, and says nothing twice; its events."""
        records = parse_cel((self.host.state.log / "runtime.cel").read_bytes())
        events = tuple(parse_record(record) for record in records)
        registers = [bytes(32)]
        for record in records:
            (digest,) = event_digests(record.content, (BANK,))
            registers.append(extend(BANK, registers[-1], digest.value))
        with self.chip() as chip:
            register = chip.read(BANK).get(PCR)
        at = registers.index(register) if register in registers else None
        assert at in range(len(registers) - 1 - behind, len(registers)), (
            at,
            events[-2:],
            (self.folder / "attestor.log").read_text()[-1500:],
        )
        assert len({e.name for e in events if isinstance(e, ComponentEvent)}) == sum(isinstance(e, ComponentEvent) for e in events)
        for of in (StartEvent, StopEvent):
            told = [e.instance for e in events if isinstance(e, of)]
            assert len(set(told)) == len(told)
        return events

"""A site for tests of the attestor: a real verifier on loopback, and a host with a software TPM, each in a directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvicorn

import verifier as verifier_package
import verifier.compose as verifier_compose
from attestor.agentd import AgentDaemon
from attestor.collect.anchors import AnchorRegister
from attestor.collect.kernel_logs import KernelLogs
from attestor.collect.runtime_log import RuntimeLog
from attestor.config import Enrolment, LogPaths, StateDir
from attestor.enrol import enrol
from attestor.esapi import EsapiTpm
from attestor.evidence import Attestation
from attestor.measure.store import Store
from attestor.measure.watch import Watch
from attestor.tpm import Tpm
from swtpm import SoftTpm
from tests.signers import new_signer
from tests.world.applications import application, closed
from verifier.access import Operator
from verifier.config import VerifierConfig
from verifier.reference import captured, captured_governance
from verifier.trust import roots_from_pem
from writ.formats.corim import encode_corim
from writ.formats.digest import Digest
from writ.formats.eventlog.runtime import ComponentEvent
from writ.formats.keys import PublicKey
from writ.formats.local import LOCAL, MAX_FRAME, Launch, Launched, Local, TokenAsk
from writ.formats.measurement import parse_measurement
from writ.formats.policy_bundle import PolicySettings
from writ.formats.tlog.merkle import EMPTY_ROOT
from writ.service.clock import SystemClock
from writ.service.peers import Connection, connect
from writ.service.signers import load_or_create_signer
from writ.service.uplink import Uplink

NAMESPACE = "demo"
OPERATOR = Operator("test", "*", "operator", "test")
GOVERNANCE = (ComponentEvent("governance", "attestor", Digest.of(b"attestor")),)
M = TypeVar("M", bound=Local)


class VerifierSite:
    """A verifier served in a thread; `stop` and `start` are its power button, its state stays."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = VerifierConfig(
            directory, "example.org", self.url, listen=f"127.0.0.1:{self.port}", requests_per_second=10_000, requests_burst=10_000
        )
        verifier_compose.init(self.config, directory / "operator.key")
        self._policies = Path(verifier_package.__file__).parent / "default_policy"
        self.start()

    def start(self) -> None:
        """It answers."""
        self.built = verifier_compose.verifier(self.config, None, application)
        self.server = uvicorn.Server(verifier_compose.server_config(self.built.app, self.config))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < deadline, "the verifier did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        """It does not answer."""
        self.server.should_exit = self.server.force_exit = True
        self.thread.join()
        self.built.close()
        closed(self.built.app)

    def trust(self, tpm: SoftTpm) -> None:
        """The TPM's manufacturer is believed, as one of software TPMs."""
        roots, _ = roots_from_pem(tpm.ca_pem, "software")
        _, intermediates = roots_from_pem(tpm.intermediates_pem, "software")
        self.built.parts.anchors.add(OPERATOR, roots, intermediates)

    def admit(self, host: str) -> str:
        """The ticket with which `host` may enrol."""
        admission = self.built.parts.hosts.admit(OPERATOR, NAMESPACE, host, ek=None, unendorsed=False, life=600)
        assert admission.ticket is not None
        return admission.ticket

    def publish_policy(self, more: str = "", *, hardware: bool = False) -> None:
        """The demo's policy and `more` are in force: software TPMs, runtime-only results; and hardware mode, where it is asked for."""
        approver = self.built.parts.keys.approver if hardware else None
        settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), lease_approver=approver)
        schema, policies = ((self._policies / name).read_text() for name in ("schema.cedarschema", "default.cedar"))
        self.built.parts.policies.publish(OPERATOR, NAMESPACE, settings=settings, schema=schema, policies=policies + more, version=None)

    def approve_governance(self, governance: Iterable[tuple[str, Digest]] | None = None) -> None:
        """That governance is approved, or that of the tests."""
        corim = captured_governance(NAMESPACE, governance or [(e.name, e.root) for e in GOVERNANCE])
        self.built.parts.references.publish(OPERATOR, NAMESPACE, [encode_corim(corim)], publisher=None, replace=True)

    def approve(self, *launched: Launched) -> None:
        """What these launches measured to is approved, beside what was."""
        corims = [encode_corim(captured(parse_measurement(one.measurement))) for one in launched]
        self.built.parts.references.publish(OPERATOR, NAMESPACE, corims, publisher=None, replace=False)


@dataclass
class Host:
    """A host's files, its TPM and, once enrolled, what it pinned."""

    directory: Path
    tpm: EsapiTpm
    enrolment: Enrolment | None = None
    anchor_pcr: int | None = None

    @property
    def state(self) -> StateDir:
        """Its state directory."""
        return StateDir(self.directory / "state")

    @property
    def manifests(self) -> Path:
        """Where its manifests lie."""
        return self.directory / "manifests"

    @property
    def socket(self) -> Path:
        """Where its attestor answers."""
        return self.directory / "a.sock"

    @property
    def store(self) -> Path:
        """Its measured store."""
        return self.directory / "store"

    def agent(self, name: str, prompt: str = "be good", more: str = "") -> Path:
        """An agent of that name with a little code, a prompt and the grants `more`; the directory of its sources."""
        source = self.directory / "agents" / name
        source.mkdir(parents=True, exist_ok=True)
        (source / "main.py").write_text("print('hello')\n")
        (source / "prompt.txt").write_text(prompt)
        self.manifests.mkdir(exist_ok=True)
        (self.manifests / f"{name}.toml").write_text(
            f'version = 1\nagent = "{name}"\nnamespace = "{NAMESPACE}"\naudience = "tools"\n'
            f'command = ["/usr/bin/python3", "{{store}}/code/main.py"]\ngrants = [["tool.call", "files/*"]{more}]\n'
            f'[components.code]\nkind = "code"\nsource = "{source}"\nexclude = ["prompt.txt"]\n'
            f'[components.prompt]\nkind = "prompts"\nsource = "{source}/prompt.txt"\n'
        )
        return source

    def enrol(self, site: VerifierSite, name: str = "host-1") -> Enrolment:
        """The host is enrolled at `site`."""
        self.state.make()
        key = load_or_create_signer(self.state.host_key)
        self.tpm.create_ak()
        with Uplink(site.url, ca_file=None, signer=None, clock=SystemClock()) as uplink:
            self.enrolment = enrol(
                self.tpm, uplink, self.state, host=name, host_key=key.public, ticket=site.admit(name), runtime_pcr=13, bank="sha256"
            )
        return self.enrolment

    def anchors(self, tpm: Tpm | None = None) -> AnchorRegister:
        """Its register of anchors, not yet open."""
        assert self.enrolment is not None
        return AnchorRegister(self.state.log, tpm or self.tpm, pcr=self.anchor_pcr, bank=self.enrolment.bank)

    def daemon(
        self, tpm: Tpm | None = None, *, interval: int = 1, rehash_interval: int = 60, governance: tuple[ComponentEvent, ...] = GOVERNANCE
    ) -> AgentDaemon:
        """An attestor of this host, not yet running."""
        assert self.enrolment is not None
        e, used = self.enrolment, tpm or self.tpm
        log = RuntimeLog(self.state.log, used, pcr=e.runtime_pcr, bank=e.bank)
        signer = load_or_create_signer(self.state.host_key)
        uplink, exchange = (Uplink(e.verifier, ca_file=None, signer=signer, clock=SystemClock(), timeout=5) for _ in range(2))
        store = Store(self.store)
        return AgentDaemon(
            enrolment=e, log=log, store=store,
            attestation=Attestation(used, log, KernelLogs(LogPaths(), e.bank), uplink, e, SystemClock(), self.anchors(used)),
            exchange=exchange,
            watch=Watch(store, interval=interval, rehash_interval=rehash_interval), manifests=self.manifests, governance=lambda: governance,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def running(self, daemon: AgentDaemon | None = None) -> AsyncIterator[None]:
        """The daemon answers while the block runs; how it failed, if it did, is raised."""
        ready = asyncio.Event()
        task = asyncio.create_task((daemon or self.daemon()).run(self.socket, frozenset({0, os.geteuid()}), ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiting.cancel()
            await task
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def ask(self, message: Local, expected: type[M]) -> M:
        """The daemon's answer over its socket, which is of that type."""
        async with self.line() as line:
            return await exchange(line, message, expected)

    @contextlib.asynccontextmanager
    async def line(self) -> AsyncIterator[Connection]:
        """A connection to the daemon."""
        connection = await connect(self.socket, MAX_FRAME, 5)
        try:
            yield connection
        finally:
            connection.close()
            await connection.wait_closed()


async def exchange(line: Connection, message: Local, expected: type[M]) -> M:
    """The answer on `line`, which is of that type."""
    await line.send(LOCAL.encode(message))
    return await receive(line, expected)


async def receive(line: Connection, expected: type[M]) -> M:
    """The next message on `line`, which is of that type."""
    data = await line.receive(20)
    assert data is not None
    answer = LOCAL.parse(data)
    assert isinstance(answer, expected), answer
    return answer


def launch(agent: str, key: PublicKey | None = None) -> tuple[Launch, PublicKey]:
    """A launch of `agent` with a new session key."""
    key = key or new_signer().public
    return Launch(agent, (), key, None), key


def token_ask(launched: Launched, key: PublicKey) -> TokenAsk:
    """What an instance asks with before it ever acted."""
    return TokenAsk(launched.instance, key, launched.audience, launched.grants, 0, EMPTY_ROOT, 0, ())


@contextlib.contextmanager
def host_with(directory: Path, tpm: SoftTpm) -> Iterator[Host]:
    """A host whose TPM is `tpm`."""
    directory.mkdir(parents=True, exist_ok=True)
    chip = EsapiTpm(tpm.tcti, directory / "state" / "ak.cbor", allow_software=True)
    try:
        yield Host(directory, chip)
    finally:
        chip.close()

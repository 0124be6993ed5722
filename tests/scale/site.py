"""One host under load, made of the real programs: verifier, attestor and enforcer as processes, over a software TPM as slow as a real chip.

Agents are tiny: an image of `sleep`, a few shared files of code,
and a prompt each. What they would do costs nothing here, so that what is
measured is Writ. Runs are asked for on the daemon's control socket, as
`enforcer run` does, without an interpreter start for each client.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import verifier as verifier_package
from attestor.measure.closure import image_of
from attestor.measure.governance import governance_events, measure_governance
from attestor.measure.manifest import measure_manifest, read_manifest
from enforcer import frames
from enforcer.control import CONTROL, MAX_CONTROL, Control, Deliver, Run, Started
from enforcer.launch.cgroup import Cgroup, parent_of
from examples import thief
from examples.stage import Program, Stage, free_port, performed, wait_until
from swtpm import Delays, Manufacturer, SoftTpm
from verifier.http.wire import from_base64, to_base64
from verifier.operate import Client, Server
from verifier.reference import captured, captured_governance
from writ.formats.corim import Corim, encode_corim
from writ.formats.manifest import component_lines

DOMAIN, HOST, NAMESPACE = "scale.writ", "scale-host", "scale"
LAUNCH_WITHIN = 60.0
SCHEMA = Path(verifier_package.__file__).parent / "default_policy" / "schema.cedarschema"
POLICY = """
@id("agents-may-hold-tokens")
permit (principal is Writ::Agent, action == Writ::Action::"token.issue", resource == Writ::Audience::"tools");
"""


@dataclass
class Launch:
    """One run: when it was asked for, when it was told that the agent runs, and the connection that keeps it alive."""

    agent: str
    asked: float
    started: float = 0.0
    instance: bytes = b""
    answer: Control | None = None
    connection: socket.socket | None = None

    @property
    def seconds(self) -> float:
        """From the request to the agent that runs, which has its token then."""
        return self.started - self.asked

    def end(self) -> None:
        """The client goes away, and with it the agent."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def finish(self) -> None:
        """The agent was told to end, and has ended, its stop event in the host's log."""
        connection, self.connection = self.connection, None
        if connection is not None:
            with connection:
                frames.send(connection, CONTROL.encode(Deliver(signal.SIGTERM)))
                frames.receive(connection, MAX_CONTROL, LAUNCH_WITHIN)


@dataclass
class Site:
    """The programs of one host and its verifier, in a directory that goes away."""

    stage: Stage
    tpm: SoftTpm
    roots: bytes
    token_life: int = 60
    code_files: int = 100
    instances: list[Launch] = field(default_factory=list)

    # --- putting it up -------------------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        place = self.place = self.stage.place
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.key = place / "verifier" / "operator.key"
        self.verifier_toml, self.attestor_toml, self.enforcer_toml = (place / f"{n}.toml" for n in ("verifier", "attestor", "enforcer"))
        self.cgroup = f"/writ-scale-{place.name[-8:]}"
        self.agents = place / "agents"
        self.verifier_toml.write_text(
            f'state_dir = "{place}/verifier"\nlisten = "127.0.0.1:{port}"\ndomain = "{DOMAIN}"\nissuer = "{self.url}"\n'
        )
        self.attestor_toml.write_text(
            f'tcti = "{self.tpm.tcti}"\nallow_software_tpm = true\nstate_dir = "{place}/attestor"\nstore_dir = "{place}/store"\n'
            f'manifests_dir = "{self.agents}"\nsocket = "{place}/attestor.sock"\n'
        )
        self.enforcer_toml.write_text(
            f'run_dir = "{place}/enforcer-run"\nstate_dir = "{place}/enforcer"\nattestor_socket = "{place}/attestor.sock"\n'
            f'trust_file = "{place}/trust.cbor"\ncgroup = "{self.cgroup}"\n'
        )
        self._shared_files()
        self.serve()

    def _shared_files(self) -> None:
        self.image = "\n".join(component_lines(image_of([Path("/usr/bin/sleep")]))) + "\n"
        code = self.agents / "code"
        code.mkdir(parents=True)
        for number in range(self.code_files):
            (code / f"part{number}.py").write_text(f"# part {number}\n" * 40)

    def _role(self, role: str, *arguments: str) -> None:
        self.stage.command(role, "--config", str(self.place / f"{role}.toml"), *arguments, "--json")

    def serve(self) -> None:
        """Verifier, attestor and enforcer serve; the host is enrolled, its governance approved, the policy published."""
        place = self.place
        self._role("verifier", "init")
        self._role("attestor", "init")
        self.verifier = self.program("verifier", ready=lambda: thief.answers(self.url, "/readyz"))
        with contextlib.closing(Client(Server(self.url, self.key, None, None))) as domain:
            domain.post("/v1/trust", {"pem": self.roots.decode(), "tpm_class": "software"})
            (place / "trust.cbor").write_bytes(from_base64(domain.get("/v1/trust")["file"], "file"))
        self.client = Client(Server(self.url, self.key, None, NAMESPACE))
        ticket = place / "ticket"
        ticket.write_text(str(self.client.post("/v1/hosts", {"host": HOST})["ticket"]))
        self._role("attestor", "enroll", "--verifier", self.url, "--host", HOST, "--ticket", str(ticket))
        governance = [(event.name, event.root) for event in governance_events(measure_governance())]
        self._approve(captured_governance(NAMESPACE, governance))
        settings = {"accept_runtime_only": True, "tpm_classes": ["software"], "token_life": self.token_life}
        self.client.post("/v1/policies", {"settings": settings, "schema": SCHEMA.read_text(), "policies": POLICY})
        self.attestor = self.program("attestor", ready=(place / "attestor.sock").exists)
        self.enforcer = self.program("enforcer", ready=(place / "enforcer-run" / "control.sock").exists)

    def _approve(self, *corims: Corim) -> None:
        self.client.post("/v1/references", {"corims": [to_base64(encode_corim(corim)) for corim in corims], "replace": False})

    def program(self, role: str, *, ready: Any) -> Program:
        """The role serves. Raises StageError."""
        started = self.stage.start(role, [sys.executable, "-m", role, "--config", str(self.place / f"{role}.toml"), "serve"])
        wait_until(ready, f"the {role}", within=60)
        return started

    # --- what operators do -----------------------------------------------------------------------------------------------

    def release(self, *named: tuple[str, str]) -> None:
        """Each agent has this prompt now, and what it measures to is approved beside what was."""
        corims = []
        for agent, prompt in named:
            prompts = self.agents / f"prompts-{agent}"
            prompts.mkdir(exist_ok=True)
            (prompts / "system.txt").write_text(prompt)
            manifest = self.agents / f"{agent}.toml"
            manifest.write_text(
                f'version = 1\nagent = "{agent}"\nnamespace = "{NAMESPACE}"\naudience = "tools"\n'
                'command = ["/usr/bin/sleep", "1000000"]\ngrants = [["tool.call", "mcp:notes/*"]]\n'
                '[components.code]\nkind = "code"\nsource = "code"\n'
                f'[components.prompts]\nkind = "prompts"\nsource = "prompts-{agent}"\n' + self.image
            )
            measured = measure_manifest(read_manifest(manifest), self.agents, domain=DOMAIN)
            corims.append(captured(measured.measurement))
        self._approve(*corims)

    # --- what users do -----------------------------------------------------------------------------------------------------

    def launch(self, agents: Sequence[str]) -> list[Launch]:
        """All of them at once; returns when each runs or was refused."""
        with ThreadPoolExecutor(len(agents)) as pool:
            launches = list(pool.map(self._launch, agents))
        self.instances += launches
        return launches

    def _launch(self, agent: str) -> Launch:
        null = os.open(os.devnull, os.O_RDWR)
        try:
            connection = frames.connect(str(self.place / "enforcer-run" / "control.sock"), 30.0)
            one = Launch(agent, time.monotonic(), connection=connection)
            frames.send(connection, CONTROL.encode(Run(agent, (), None)), (null, null, null))
        finally:
            os.close(null)
        data = frames.receive(connection, MAX_CONTROL, LAUNCH_WITHIN)
        one.started = time.monotonic()
        one.answer = None if data is None else CONTROL.parse(data)
        if isinstance(one.answer, Started):
            one.instance = one.answer.instance
        return one

    # --- what is seen ------------------------------------------------------------------------------------------------------

    def standing(self, instance: bytes) -> str:
        """The state that the instance's holder wrote last."""
        path = self.place / "enforcer" / "instances" / instance.hex() / "state.json"
        return str(json.loads(path.read_text())["state"])

    def standings(self) -> list[dict[str, Any]]:
        """Every change of state of every instance, in the order in which it was logged."""
        return [line for line in self.log("enforcer") if line.get("event") == "standing"]

    def log(self, role: str) -> list[dict[str, Any]]:
        """What a role logged."""
        lines = []
        for line in (self.place / f"{role}.log").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def close(self) -> None:
        """Agents are gone; programs and directory go with the stage."""
        for one in self.instances:
            one.end()
        parent = Cgroup(parent_of(self.cgroup))
        parent.kill()
        self.enforcer.stop()
        deadline = time.monotonic() + 20
        while not all(Cgroup(path).remove() for path in parent.path.iterdir() if path.is_dir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.remove()
        self.client.close()


@contextlib.contextmanager
def standing_site(manufacturer: Manufacturer, *, delays: Delays | None = None, token_life: int = 60) -> Iterator[Site]:
    """A site whose TPM is slow, cleared away afterwards."""
    with performed(Stage(pace=0)) as stage, manufacturer.tpm("scale", delays=delays or Delays()) as tpm:
        site = Site(stage, tpm, manufacturer.root_pem + manufacturer.intermediates_pem, token_life)
        try:
            yield site
        finally:
            site.close()


def percentile(values: Sequence[float], of: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `of` percent do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -(-int(len(ranked) * of) // 100) - 1)]


class Alive:
    """Looks again and again, in a thread, whether instances run; what it saw otherwise is in `seen`."""

    def __init__(self, site: Site, every: float = 1.0) -> None:
        self._site, self._every = site, every
        self.seen: list[tuple[str, str]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._stop.wait(self._every):
            for one in list(self._site.instances):
                if one.connection is not None and one.instance and (state := self._site.standing(one.instance)) != "running":
                    self.seen.append((one.instance.hex(), state))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

"""The holder: one process for one instance. It alone has the session key, the token, the log, the gate and the cgroup.

Forked by the zygote for one run, with the client's connection, its three
descriptors and a link to the daemon. Its life:

1. Make the session key; the attestor measures, stores and extends the launch.
2. Check what was launched; make the cgroup and its watchdog.
3. Ask for a token and verify it. Without one, nothing is ever started.
4. Start the tools, open the gates, start the agent.
5. Renew, hold, thaw, kill, until the agent ends. What was done last is still carried to the verifier then.

If this process dies, by whatever signal, the watchdog kills everything in the cgroup. When a daemon of another version comes,
it comes over (`estate`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from enforcer import frames
from enforcer.child.workshop import Bench, Workshop, line_of
from enforcer.code_id import installed_code
from enforcer.config import EnforcerConfig
from enforcer.contain import write_evidence
from enforcer.control import CONTROL, Attached, Control, CouldNot, RefusedRun, Run, Started
from enforcer.estate import Since
from enforcer.instance import GATE_FILE, STATE_FILE, Instance
from enforcer.launch.cgroup import Cgroup, Limits, parent_of
from enforcer.launch.devices import resolve
from enforcer.launch.image import image_of
from enforcer.launch.process import Program, Watchdog, start
from enforcer.launch.rooms import make_room, with_work
from enforcer.launch.sandbox import GATE, WORK, environment_of
from enforcer.launch.slot import free_slot
from enforcer.launch.store_root import StoreRoot, store_root
from enforcer.tools.mcp_program import McpProgram
from enforcer.tools.program import StdioTool
from writ.formats.errors import FormatError, Misuse, Refused, Unavailable, WritError
from writ.formats.local import Launch, Launched, Refusal, Unreachable
from writ.formats.measurement import parse_measurement
from writ.formats.reason import Reason
from writ.formats.trust import Trust
from writ.service import observe
from writ.service.clock import SystemClock

_LOG = observe.get_logger(__name__)


class Holder(Instance):
    """One instance, from its launch to its end: steps 1 to 4 here, and 5 as any instance."""

    def live(self) -> None:
        """The whole life. Whatever goes wrong before the agent runs is told to the client, and nothing runs."""
        trust = self._config.trust()
        launched = self._launch()
        self._instance = launched.instance
        self._short = launched.instance.hex()[:8]
        try:
            self._prepare(launched, trust)
        except WritError:
            self._stop("exited")
            raise
        try:
            self._admit()
            self._start(launched)
        except WritError as error:
            if isinstance(error, Refused):
                self._note("refused", error.reasons)
            self._cut_off()
            self._stop("exited")
            self._tidy()
            raise
        self.tell(Started(self._instance))
        self._watch_over()

    def _launch(self) -> Launched:
        answer = self._relay.ask(Launch(self._run.agent, self._run.command, self._key.public, self._run.parent))
        if isinstance(answer, Launched):
            return answer
        if isinstance(answer, Refusal):
            raise Refused(*(answer.reasons or (Reason("policy-refused", "launch", "a launch", "a refusal without a reason"),)))
        if isinstance(answer, Unreachable):
            raise Unavailable("attestor", answer.detail.removeprefix("attestor: "))
        raise FormatError("launch answer", "launched, a refusal or none", type(answer).__name__)

    def _prepare(self, launched: Launched, trust: Trust) -> None:
        """The daemon knows what it would have to sweep up; what was launched is what was asked for; there is a place to contain it."""
        frames.send(self._links.daemon(), CONTROL.encode(Attached(launched.instance, "starting", installed_code())))
        self._launched = launched
        measurement = parse_measurement(launched.measurement)
        if measurement.agent.name != self._run.agent or measurement.agent.domain != trust.domain:
            raise Refused(Reason("agent-unknown", "measurement.agent", f"{self._run.agent} of {trust.domain}", str(measurement.agent)))
        if launched.command != measurement.command:
            raise Refused(Reason("component-mismatch", "command", " ".join(measurement.command)[:200], " ".join(launched.command)[:200]))
        if (observed := measurement.mode == "observe") and not self._config.observe:
            raise Refused(Reason("observe-refused", "measurement.mode", "enforce", measurement.mode))
        self._agent_id, self._observed, self._measurement = measurement.agent, observed, measurement
        self._root: StoreRoot = store_root(launched.root, self._config.store_owners)
        self._argv = self._root.argv(launched.command)
        self._profile, self._forwards, self._named = measurement.profile, measurement.forwards, measurement.secrets
        self._line = line_of(self._stdio[0], measurement, asked=self._run.child)
        self._image = image_of(self._config.images_dir, self._root, measurement)
        self._devices = resolve(measurement.devices, map(Path, self._config.cdi_dirs), self._image)
        self._folder = self._config.instance_dir(launched.instance)
        try:
            self._folder.mkdir(mode=0o700)
        except OSError as error:
            raise Unavailable("instance directory", f"{self._folder}: {error.strerror}") from None
        parent = parent_of(self._config.cgroup)
        if self._run.child and self._run.parent is not None:
            parent /= self._run.parent.hex()  # what freezes or kills the parent does so to its children
        limits = Limits(self._config.pids_max, self._config.memory_max, self._config.cpu_max)
        self._cgroup = Cgroup.fresh(parent, launched.instance.hex(), "agent", "tools", limits=limits)
        self._watchdog = Watchdog(self._cgroup)
        self._compose(launched, trust, Since(left=self._config.log_bytes))
        self._slot = free_slot(self._config.run_dir / "slots", self._config.instances, self._config.uid_first, self._cgroup.path)
        self._standing(self._containment.standing)
        self._links.open(str(self._config.holder_socket(launched.instance)), launched.instance, lambda: self._containment.standing.state)

    def _admit(self) -> None:
        """A token is in force; or the agent is observed, and the verifier has said what stands against it."""
        if self._observed:
            refused = self._renewal.observe()
            _LOG.warning("observed", instance=self._instance.hex(), rules=[reason.code for reason in refused])
            self._containment.observe(refused)
        else:
            held = self._renewal.first()
            self._links.daemon()
            self._tenure.begin(held)

    def _start(self, launched: Launched) -> None:
        """Tools, gate, agent, in this order, each in a sandbox; the agent's environment says where its gate is."""
        agent_uid, config = self._slot.agent_uid, self._config
        visible = config.agent_dir(launched.instance)
        self._outlet = self._outlet_of(launched)
        if self._line is not None:
            self._open_workshop(self._line, visible)
            return
        gate = self._make_visible(visible, agent_uid)
        room = make_room(visible / "agent", agent_uid, size=config.room_bytes, files=config.room_files, gate=gate)
        if config.tool_commands:
            self._start_tools(visible)
        self._open_remotes(self._measurement)
        self._open_gate(gate, launched)
        self._open_desks(gate)
        self._outlet.lay(gate, self._image.path)
        ways = {**self._outlet.environment, **self._mcp_environment}
        environment = environment_of(WRIT_SOCKET=f"{GATE}/{GATE_FILE}", **ways, **self._secrets.environment)
        program = Program(self._argv, self._profile, self._image, room, agent_uid, environment, config.pids_max, devices=self._devices)
        self._links.daemon()
        agent = self._agent = start(program, self._cgroup.child("agent"), self._stdio, self._let_out)
        for descriptor in self._stdio:
            os.close(descriptor)
        self._stdio = (-1, -1, -1)
        self._attend_to(agent)

    def _tool(self, name: str, program: Program, errors: int) -> StdioTool:
        """A server of the Model Context Protocol where something was approved of it, else a plain program."""
        cgroup, approved = self._cgroup.child("tools"), self._approved_of(self._measurement, name)
        if approved is None:
            return StdioTool.started(name, program, cgroup, errors)
        return McpProgram.launched(name, program, cgroup, errors, approved)

    def _start_tools(self, visible: Path) -> None:
        """Each in a sandbox of its own, on a room that all of them share."""
        config, uid = self._config, self._slot.tool_uid
        room = make_room(visible / "tools", uid, size=config.room_bytes, files=config.room_files)
        errors = os.open(self._folder / "tools.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            for name, command in sorted(config.tool_commands.items()):
                program = Program(self._root.argv(command), self._profile, self._image, room, uid, environment_of(), config.pids_max)
                self._tools[name] = self._tool(name, program, errors)
        finally:
            os.close(errors)

    def _make_visible(self, visible: Path, uid: int) -> Path:
        """What the sandboxes see of us is there, and in it the folder of the gate with the secrets to be read, which is returned.

        Raises Unavailable, Refused.
        """
        gate = visible / "gate"
        try:
            visible.mkdir(mode=0o711)
            gate.mkdir(mode=0o711)
        except OSError as error:
            raise Unavailable("agent directory", f"{visible}: {error.strerror}") from None
        if not self._observed:
            self._show_secrets(gate, uid).fill()
        return gate

    def _open_workshop(self, line: socket.socket, visible: Path) -> None:
        """A child instance has no agent and no gate: its parent's commands run in it, each in a sandbox of its own on the same room."""
        uid, config = self._slot.agent_uid, self._config
        gate = self._make_visible(visible, uid)
        shown = self._outlet.lay(gate, self._image.path) or any(one.is_file for one in self._named)
        room = make_room(visible / "agent", uid, size=config.room_bytes, files=config.room_files, gate=gate if shown else None)
        room = with_work(room, visible / "work", uid, size=config.work_bytes, files=config.work_files)

        def program(argv: tuple[str, ...], folder: str, environment: dict[str, str]) -> Program:
            ours = {"HOME": WORK, "TMPDIR": f"{WORK}/tmp", **self._outlet.environment, **self._secrets.environment}
            given = environment_of(**{**ours, **environment})
            return Program(argv, self._profile, self._image, room, uid, given, config.pids_max, devices=self._devices, folder=folder)

        def enter(init: int) -> Callable[[], None]:
            return self._outlet.open(init, self._gatekeeper, self._short)

        bench = Bench(self._argv, program, self._cgroup.child("agent"), enter)
        self._workshop = Workshop(line, bench, self._gatekeeper, agent=self._run.agent, instance=self._instance)
        self._links.daemon()
        self._workshop.hear(self._events.put)
        self._links.hear_client()

    def reference(self, reasons: tuple[Reason, ...]) -> str:
        """What `enforcer why` takes for a refusal of the run: the instance, or a reference kept for it."""
        if self._short and (self._config.instance_dir(self._instance) / STATE_FILE).exists():
            return self._short
        return refused_before_launch(self._config, self._run.agent, reasons, self._clock.now())


def refused_before_launch(config: EnforcerConfig, agent: str, reasons: tuple[Reason, ...], now: int) -> str:
    """A refusal that has no instance is kept under a reference of its own, for `enforcer why`."""
    reference = f"r{os.urandom(4).hex()}"
    shown = {"agent": agent, "at": now, "reasons": [r.to_json() for r in reasons], "reference": reference}
    write_evidence(config.state_dir / "refused" / f"{reference}.json", shown)
    return reference


def main(config: EnforcerConfig, request: bytes, client: int, link: int, stdio: tuple[int, int, int]) -> int:
    """Live, and tell the client how it ended. `request` is an encoded Run; the descriptors are this process's own."""
    clock = SystemClock()
    client_end, link_end = (socket.socket(fileno=number) for number in (client, link))
    run = CONTROL.parse(request)
    if not isinstance(run, Run):
        raise Misuse("the daemon sent no Run")
    holder = Holder(config, run, client_end, stdio, link_end, clock)
    answer: Control
    try:
        holder.live()
        return 0
    except Refused as refused:
        answer = RefusedRun(holder.reference(refused.reasons), refused.reasons, False)
    except FormatError as error:
        reasons = (Reason("malformed", error.what[:100], error.expected, error.got),)
        answer = RefusedRun(holder.reference(reasons), reasons, False)
    except Unavailable as error:
        answer = CouldNot(error.what[:1000], error.detail[:1000])
    holder.tell(answer)
    return 1

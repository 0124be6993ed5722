"""The holder: one process for one instance. It alone has the session key, the token, the log, the gate and the cgroup.

Forked by the zygote for one run, with the client's connection, its three
descriptors and a link to the daemon. Its life:

1. Make the session key; the attestor measures, stores and extends the launch.
2. Check what was launched; make the cgroup and its watchdog.
3. Ask for a token and verify it. Without one, nothing is ever started.
4. Start the tools, open the gates, start the agent.
5. Renew, hold, thaw, kill, until the agent ends. What was done last is still carried to the verifier then.

If this process dies, by whatever signal, the watchdog kills everything in the cgroup.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from enforcer import frames
from enforcer.bundles import HeldBundles
from enforcer.child.children import START, Children
from enforcer.child.workshop import Bench, Workshop, line_of
from enforcer.config import CHILDREN, EnforcerConfig
from enforcer.contain import Containment, Standing, last_records, write_evidence
from enforcer.control import CONTROL, Attached, Control, CouldNot, Deliver, Exited, RefusedRun, Run, Started
from enforcer.credential import Credential, Subject
from enforcer.events import AgentEnded, Event, FromClient, Heard, Killed, LinkLost, LinkUp, ParentHeld, ParentRuns
from enforcer.gatekeeper import Gatekeeper
from enforcer.gates.egress.outlet import Outlet
from enforcer.gates.secret_files import SecretFiles
from enforcer.gates.socket import SocketGate
from enforcer.launch.cgroup import Cgroup, Limits, parent_of
from enforcer.launch.devices import resolve
from enforcer.launch.image import image_of
from enforcer.launch.process import Program, Running, Watchdog, start
from enforcer.launch.rooms import clear_rooms, make_room, with_work
from enforcer.launch.sandbox import GATE, WORK, environment_of
from enforcer.launch.slot import Slot
from enforcer.launch.store_root import StoreRoot, store_root
from enforcer.links import Links
from enforcer.record import ActionLog
from enforcer.relay import Relay
from enforcer.renewal import Granted, Renewal, Verdict
from enforcer.secrets.sources import secrets_of
from enforcer.tenure import Tenure
from enforcer.tools import RelyingService, StdioTool, Tool
from writ.formats.errors import FormatError, Misuse, Refused, Unavailable, WritError
from writ.formats.local import Launch, Launched, Refusal, Stop, Unreachable
from writ.formats.measurement import parse_measurement
from writ.formats.reason import Reason
from writ.formats.trust import Trust
from writ.service import observe
from writ.service.clock import Clock, SystemClock
from writ.service.engine_id import installed_engine
from writ.service.signers import MemorySigner

_LOG = observe.get_logger(__name__)
TICK: Final = 0.5
"""Seconds between two looks at watchdog and clocks when nothing happens."""
GRACE: Final = 5.0
"""Seconds an agent has to end after its client is gone."""
STATE_FILE: Final = "state.json"
GATE_FILE: Final = "gate.sock"


class Holder:
    """One instance, from its launch to its end."""

    def __init__(
        self, config: EnforcerConfig, run: Run, client: socket.socket, stdio: tuple[int, int, int], link: socket.socket, clock: Clock
    ) -> None:
        self._config, self._run, self._stdio, self._clock = config, run, stdio, clock
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._links = Links(client, link, self._events)
        self._relay = Relay(str(config.attestor_socket))
        self._key = MemorySigner.generate()
        self._tools: dict[str, Tool] = {}
        self._gate: SocketGate | None = None
        self._close_ways: Callable[[], None] = lambda: None
        self._agent: Running | None = None
        self._workshop: Workshop | None = None
        self._parent_held = False
        self._short = ""
        self._end_by: float | None = None

    # --- 1 to 4 --------------------------------------------------------------------------------------------------------

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
        frames.send(self._links.daemon(), CONTROL.encode(Attached(launched.instance, "starting")))
        measurement = parse_measurement(launched.measurement)
        if measurement.agent.name != self._run.agent or measurement.agent.domain != trust.domain:
            raise Refused(Reason("agent-unknown", "measurement.agent", f"{self._run.agent} of {trust.domain}", str(measurement.agent)))
        if launched.command != measurement.command:
            raise Refused(Reason("component-mismatch", "command", " ".join(measurement.command)[:200], " ".join(launched.command)[:200]))
        if (observed := measurement.mode == "observe") and not self._config.observe:
            raise Refused(Reason("observe-refused", "measurement.mode", "enforce", measurement.mode))
        self._agent_id, self._observed = measurement.agent, observed
        self._root: StoreRoot = store_root(launched.root, self._config.store_owners)
        self._argv = self._root.argv(launched.command)
        self._profile, self._forwards = measurement.profile, measurement.forwards
        self._line = line_of(self._stdio[0], measurement, asked=self._run.child)
        self._image = image_of(self._config.images_dir, self._root, measurement)
        self._devices = resolve(measurement.devices, map(Path, self._config.cdi_dirs), self._image)
        self._folder = self._config.instance_dir(launched.instance)
        try:
            self._folder.mkdir(mode=0o700)
        except OSError as error:
            raise Unavailable("instance directory", f"{self._folder}: {error.strerror}") from None
        self._log = ActionLog(self._folder, launched.instance)
        self._credential = Credential(self._clock)
        self._gatekeeper = Gatekeeper(
            instance=launched.instance, agent=measurement.agent, credential=self._credential, log=self._log,
            engine=installed_engine(), clock=self._clock, observes=launched.grants if observed else None,
        )  # fmt: skip
        self._secrets = secrets_of(self._config, self._run.agent, measurement.secrets, self._clock)
        self._gatekeeper.hold(self._secrets)
        subject = Subject(launched.instance, measurement.agent, self._key.public, launched.audience, launched.grants, self._run.parent)
        bundles = HeldBundles(self._config.state_dir / "policies")
        self._renewal = Renewal(subject, self._relay, self._log, trust, bundles, self._folder, self._clock)
        parent = parent_of(self._config.cgroup)
        if self._run.child and self._run.parent is not None:
            parent /= self._run.parent.hex()  # what freezes or kills the parent does so to its children
        limits = Limits(self._config.pids_max, self._config.memory_max, self._config.cpu_max)
        self._cgroup = Cgroup.fresh(parent, launched.instance.hex(), "agent", "tools", limits=limits)
        self._watchdog = Watchdog(self._cgroup)
        self._containment = Containment(
            self._cgroup, self._gatekeeper, self._credential, self._folder, clock=self._clock, changed=self._standing
        )
        self._tenure = Tenure(self._containment, self._credential, self._clock)
        self._slot = Slot(self._config.run_dir / "slots", self._config.instances, self._config.uid_first, self._cgroup.path)
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
        agent_uid, tool_uid, config = self._slot.agent_uid, self._slot.tool_uid, self._config
        visible = config.agent_dir(launched.instance)
        self._outlet = Outlet(
            launched.grants, self._clock, self._secrets, roots=config.egress_ca_file, always=self._observed, forwards=self._forwards,
            sockets=config.unix_sockets, inbound=config.inbound_of(self._run.agent) if self._line is None else (),
        )  # fmt: skip
        if self._line is not None:
            self._open_workshop(self._line, visible)
            return
        gate = self._make_visible(visible, agent_uid)
        room = make_room(visible / "agent", agent_uid, size=config.room_bytes, files=config.room_files, gate=gate)
        workshop = make_room(visible / "tools", tool_uid, size=config.room_bytes, files=config.room_files)
        errors = os.open(self._folder / "tools.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            for name, command in sorted(self._config.tool_commands.items()):
                argv = self._root.argv(command)
                program = Program(argv, self._profile, self._image, workshop, tool_uid, environment_of(), config.pids_max)
                self._tools[name] = StdioTool(name, program, self._cgroup.child("tools"), errors)
        finally:
            os.close(errors)
        ca = None if self._config.service_ca_file is None else str(self._config.service_ca_file)
        for name, url in sorted(self._config.service_urls.items()):
            self._tools[name] = RelyingService(name, url, self._key, self._clock, ca)
        if any(grant.action == START for grant in launched.grants):
            children = self._tools[CHILDREN] = Children(config.control_socket, self._instance)
            self._gatekeeper.hold(children)
        self._gate = SocketGate(
            str(gate / GATE_FILE), uid=agent_uid, gid=agent_uid, is_agent=self._cgroup.child("agent").holds,
            gatekeeper=self._gatekeeper, tools=self._tools, short=self._short,
        )  # fmt: skip
        self._outlet.lay(gate, self._image.path)
        environment = environment_of(WRIT_SOCKET=f"{GATE}/{GATE_FILE}", **self._outlet.environment, **self._secrets.environment)
        program = Program(self._argv, self._profile, self._image, room, agent_uid, environment, config.pids_max, devices=self._devices)
        self._links.daemon()
        agent = self._agent = start(program, self._cgroup.child("agent"), self._stdio, self._let_out)
        for descriptor in self._stdio:
            os.close(descriptor)
        self._stdio = (-1, -1, -1)
        threading.Thread(target=lambda: self._events.put(AgentEnded(agent.wait())), name="agent", daemon=True).start()
        self._links.hear_client()

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
            files = SecretFiles(gate, uid, self._gatekeeper, self._secrets)
            self._gatekeeper.hold(files)
            files.fill()
        return gate

    def _let_out(self, init: int) -> None:
        self._close_ways = self._outlet.open(init, self._gatekeeper, self._short)

    def _open_workshop(self, line: socket.socket, visible: Path) -> None:
        """A child instance has no agent and no gate: its parent's commands run in it, each in a sandbox of its own on the same room."""
        uid, config = self._slot.agent_uid, self._config
        gate = self._make_visible(visible, uid)
        shown = self._outlet.lay(gate, self._image.path) or any(one.is_file for one in self._secrets.named)
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

    # --- 5 -------------------------------------------------------------------------------------------------------------

    def _watch_over(self) -> None:
        """One event after another, until the end."""
        while True:
            try:
                event: Event | None = self._events.get(timeout=self._wait())
            except Empty:
                event = None
            match event:
                case AgentEnded(status):
                    self._finish(status)
                    return
                case Killed(reasons, noticed):
                    self._kill(reasons, noticed)
                    return
                case Heard(verdict, link):
                    self._heard(verdict, link)
                case LinkLost(link, noticed):
                    if link is self._links.link:
                        self._links.link = None
                        self._kill_for(self._tenure.hold((Reason("hold", "daemon", "a living daemon", "none"),), noticed))
                case LinkUp(link):
                    self._links.link = link
                    self._renewal.ask_now()
                case ParentHeld(noticed):
                    self._parent_held = True
                    self._kill_for(self._tenure.hold((Reason("hold", "parent", "a running parent", "one on hold"),), noticed))
                case ParentRuns():
                    self._parent_held = False
                    self._renewal.ask_now()
                case FromClient(None) if self._workshop is not None:
                    self._finish(0)
                    return
                case FromClient(None):
                    self._end_by = time.monotonic() + GRACE
                    self._signal(signal.SIGTERM)
                case FromClient(Deliver(number)):
                    self._signal(number)
            if fatal := self._overdue():
                self._kill(*fatal)
                return
            if self._links.link is not None and self._renewal.due_in() == 0:
                self._ask(self._links.link)

    def _ask(self, link: socket.socket) -> None:
        self._renewal.begin(lambda verdict: self._events.put(Heard(verdict, link)))

    def _wait(self) -> float:
        """Seconds until something falls due."""
        times = [TICK]
        due = self._renewal.due_in()
        if due is not None and self._links.link is not None:
            times.append(due)
        if self._containment.standing.state == "running":
            times.append(self._credential.remaining())
        return max(0.001, min(times))

    def _heard(self, verdict: Verdict, asked_under: socket.socket) -> None:
        """A token thaws, but only one asked for under the daemon that is there now, and below no parent on hold. A no holds. Where nobody
        answers, time decides."""
        if isinstance(verdict, Granted) and asked_under is not self._links.link:
            self._renewal.ask_now()
            return
        if isinstance(verdict, Granted) and self._parent_held:
            return
        self._kill_for(self._tenure.heard(verdict))

    def _kill_for(self, reasons: tuple[Reason, ...]) -> None:
        if reasons:
            self._events.put(Killed(reasons, time.monotonic_ns()))

    def _overdue(self) -> tuple[tuple[Reason, ...], int] | None:
        """What time alone brings: the token's death holds; a hold too long, a lost watchdog, an agent that will not end kill."""
        noticed = time.monotonic_ns()
        if fatal := self._tenure.overdue(noticed):
            return fatal, noticed
        if not self._watchdog.keep():
            return (Reason("internal", "watchdog", "a watchdog", "none could be started"),), noticed
        if self._log.broken is not None:
            return (Reason("record-not-durable", "log", "an action log that can be written", self._log.broken[:200]),), noticed
        if self._end_by is not None and time.monotonic() > self._end_by:
            self._cgroup.kill()
            self._end_by = None
        return None

    def _kill(self, reasons: tuple[Reason, ...], noticed: int) -> None:
        gone = self._containment.kill(reasons, noticed, records=lambda: last_records(self._folder, self._instance))
        if not gone:
            _LOG.error("kill-incomplete", instance=self._instance.hex())
        self._close("killed", RefusedRun(self._short, reasons, True))

    def _finish(self, status: int) -> None:
        """The agent ended: nothing passes any more."""
        self._containment.end()
        self._close("exited", Exited(status))

    def _close(self, outcome: str, end: Control) -> None:
        """Nothing runs any more, however it ended. What is told comes before what is tidied: an agent decides what its home looks like.

        1. No call is in flight, and its outcome is a record.
        2. What was done last is carried to the verifier, also of an instance that was killed: it can be proven then.
        3. The attestor and the daemon know the end.
        4. What is left behind is removed, and the client hears of the end.
        """
        # 1
        self._cut_off()
        # 2
        if self._links.link is not None:
            self._renewal.carry_the_rest()
        # 3
        self._stop(outcome)
        self._links.tell_daemon(end)
        # 4
        self._tidy()
        self._links.tell_client(end)

    # --- what is told ----------------------------------------------------------------------------------------------------

    def tell(self, message: Control) -> None:
        """Client and daemon hear it, as far as they are there."""
        self._links.tell(message)

    def _signal(self, number: int) -> None:
        if self._agent is not None and self._agent.outer.poll() is None and (program := self._agent.program) is not None:
            with contextlib.suppress(OSError):
                os.kill(program, number)

    def _stop(self, outcome: str) -> None:
        """The attestor writes the stop event; where it does not answer, it learns of it from the daemon or when it looks."""
        for _ in range(3):
            if not isinstance(self._relay.ask(Stop(self._instance, outcome)), Unreachable):
                return
            time.sleep(0.2)
        _LOG.warning("stop-not-told", instance=self._instance.hex(), outcome=outcome)

    def reference(self, reasons: tuple[Reason, ...]) -> str:
        """What `enforcer why` takes for a refusal of the run: the instance, or a reference kept for it."""
        if self._short and (self._config.instance_dir(self._instance) / STATE_FILE).exists():
            return self._short
        return refused_before_launch(self._config, self._run.agent, reasons, self._clock.now())

    # --- what is left behind ---------------------------------------------------------------------------------------------

    def _standing(self, standing: Standing) -> None:
        """Called with every new standing: for people, not for decisions."""
        self._note(standing.state, standing.reasons, since=standing.since, measured=standing.measured.to_json())
        rules, measured = [reason.code for reason in standing.reasons], standing.measured.to_json()
        _LOG.info("standing", instance=self._instance.hex(), state=standing.state, rules=rules, **measured)

    def _note(self, state: str, reasons: tuple[Reason, ...], **more: object) -> None:
        parent = self._run.parent
        write_evidence(
            self._folder / STATE_FILE,
            {
                "instance": self._instance.hex(), "agent": str(self._agent_id), "parent": None if parent is None else parent.hex(),
                "mode": "observe" if self._observed else "enforce",
                "state": state, "reasons": [r.to_json() for r in reasons], "holder": os.getpid(), **more,
            },
        )  # fmt: skip

    def _cut_off(self) -> None:
        """Gates, tools and cgroup are gone."""
        if self._gate is not None:
            self._gate.close()
        self._close_ways()
        self._cgroup.kill()
        for tool in self._tools.values():
            tool.close()
        if self._workshop is not None:
            self._workshop.close()
        self._secrets.close()
        if not self._cgroup.remove():
            _LOG.warning("cgroup-left", path=str(self._cgroup.path))
        self._watchdog.release()

    def _tidy(self) -> None:
        """Socket and home are gone; log, papers and evidence stay."""
        self._log.close()
        self._links.close()
        self._config.holder_socket(self._instance).unlink(missing_ok=True)
        self._image.free()
        if not clear_rooms(self._config.agent_dir(self._instance)):
            _LOG.warning("home-left", path=str(self._config.agent_dir(self._instance)))


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

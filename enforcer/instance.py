"""An instance as its holder holds it, however it came to be: watched over, held, thawed, killed, told of, and left to other code.

`holder` makes one by a launch, `takeover.Successor` of what another left.
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

from enforcer.anchors import Anchors
from enforcer.approvals import Approvals
from enforcer.bundles import HeldBundles
from enforcer.child.children import START, Children
from enforcer.child.workshop import Workshop
from enforcer.code_id import installed_code
from enforcer.config import CHILDREN, EnforcerConfig
from enforcer.contain import Containment, Standing, last_records, write_evidence
from enforcer.control import CONTROL, Approved, Attach, Control, Deliver, Exited, RefusedRun, Run
from enforcer.credential import Credential, Subject
from enforcer.estate import MAX_SEEN, Estate, HeldConnection, Since, leave
from enforcer.events import AgentEnded, ComeOver, Event, FromClient, Heard, Killed, LinkLost, LinkUp, ParentHeld, ParentRuns
from enforcer.gatekeeper import Gatekeeper
from enforcer.gates.egress.outlet import Outlet
from enforcer.gates.mcp.desk import Desk
from enforcer.gates.mcp.http import URL, McpHttpGate
from enforcer.gates.mcp.stdio import McpStdioGate, socket_name
from enforcer.gates.secret_files import SecretFiles
from enforcer.gates.socket import SocketGate
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.image import Image, sweep
from enforcer.launch.netns import ADDRESS, Namespace
from enforcer.launch.process import Running, Watchdog
from enforcer.launch.rooms import clear_rooms
from enforcer.launch.slot import Slot
from enforcer.leases import Leases
from enforcer.links import Links
from enforcer.papers import keep_object
from enforcer.places import HeldPlaces
from enforcer.record import ActionLog
from enforcer.relay import Relay
from enforcer.renewal import Granted, Renewal, Verdict
from enforcer.secrets.bearer import Bearers
from enforcer.secrets.sources import secrets_of
from enforcer.shadow import Shadow, shadow_of
from enforcer.tenure import Tenure
from enforcer.tools.mcp_remote import McpRemote
from enforcer.tools.mcp_server import McpServer
from enforcer.tools.measured import approved_of, remotes_of
from enforcer.tools.service import RelyingService
from enforcer.tools.tool import Tool
from enforcer.wire.addresses import SystemResolver
from enforcer.wire.host_tls import upstream_contexts
from enforcer.wire.lines import LineGate, Taken
from writ.formats.digest import Digest
from writ.formats.errors import Misuse, Unavailable, WritError
from writ.formats.forward import MCP_PORT, Forward
from writ.formats.local import LOCAL, Launched, Stop, Unreachable
from writ.formats.mcp.approved import ApprovedServer
from writ.formats.measurement import Measurement
from writ.formats.reason import Reason
from writ.formats.secret import Secret
from writ.formats.spiffe import AgentId
from writ.formats.trust import Trust
from writ.service import observe
from writ.service.clock import Clock
from writ.service.engine_id import installed_engine
from writ.service.signers import MemorySigner

_LOG = observe.get_logger(__name__)
TICK: Final = 0.5
"""Seconds between two looks at watchdog and clocks when nothing happens."""
LEAVE_WITHIN: Final = 5.0
"""Seconds for a call in flight to fail, and be answered, before other code takes over."""
GRACE: Final = 5.0
"""Seconds an agent has to end after its client is gone."""
STATE_FILE: Final = "state.json"
GATE_FILE: Final = "gate.sock"


class Instance:
    """One instance, from its launch or a takeover to its end."""

    _instance: bytes
    _launched: Launched
    _agent_id: AgentId
    _observed: bool
    _forwards: tuple[Forward, ...]
    _named: tuple[Secret, ...]
    _line: socket.socket | None
    _folder: Path
    _cgroup: Cgroup
    _watchdog: Watchdog
    _slot: Slot
    _image: Image
    _outlet: Outlet

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
        self._desks: dict[str, Desk] = {}
        self._line_gates: list[LineGate] = []
        self._close_ways: Callable[[], None] = lambda: None
        self._agent: Running | None = None
        self._workshop: Workshop | None = None
        self._shadow: Shadow | None = None
        self._parent_held = False
        self._short = ""
        self._end_by: float | None = None
        self._moves = 0
        self._before: bytes | None = None

    # --- what there is of it ---------------------------------------------------------------------------------------------

    def _compose(self, launched: Launched, trust: Trust, since: Since) -> None:
        """What records, decides, renews and contains is there; `since` is where an instance stood that has acted before."""
        config, clock = self._config, self._clock
        self._log = ActionLog(self._folder, launched.instance, self._agent_id, installed_engine(), clock.now(), config.namespace_keys)
        self._credential = Credential(clock, since.seen)
        self._shadow = shadow_of(config, trust, self._folder, clock.now())
        self._approvals = Approvals(launched.instance, clock, lambda signed: keep_object(self._folder, signed))
        self._links.approve_by(self._approve)
        self._links.stored_by(self._log.stored)
        self._gatekeeper = Gatekeeper(
            credential=self._credential, log=self._log, clock=clock, observes=launched.grants if self._observed else None,
            last=since.last, left=since.left, shadow=self._shadow, approvals=self._approvals,
        )  # fmt: skip
        bearers = Bearers(self._key, trust, self._relay.ask, clock)
        self._secrets = secrets_of(config, self._run.agent, self._named, bearers, clock, since.placeholders)
        self._gatekeeper.hold(self._secrets)
        subject = Subject(launched.instance, self._agent_id, self._key.public, launched.audience, launched.grants, self._run.parent)
        bundles = HeldBundles(config.state_dir / "policies")
        places = HeldPlaces(config.places_dir)
        self._renewal = Renewal(subject, self._relay, self._log, trust, bundles, places, self._folder, clock, since.carried, since.lost)
        self._containment = Containment(self._cgroup, self._gatekeeper, self._credential, self._folder, clock=clock, changed=self._standing)
        self._tenure = Tenure(self._containment, self._credential, clock)
        self._leases = Leases(self._credential, self._relay, clock, self._renewal.ask_now)
        every = 0 if self._observed else config.anchor_every
        self._anchors = Anchors(every, launched.instance, self._renewal, self._relay, clock)

    def _outlet_of(self, launched: Launched, ca: bytes | None = None) -> Outlet:
        config = self._config
        return Outlet(
            launched.grants, self._clock, self._secrets, roots=config.egress_ca_file, always=self._observed, forwards=self._forwards,
            sockets=config.unix_sockets, inbound=config.inbound_of(self._run.agent) if self._line is None else (), ca=ca,
        )  # fmt: skip

    def _show_secrets(self, gate: Path, uid: int) -> SecretFiles:
        """Those that `uid` may read will be files below `gate`, and go with every cut."""
        files = SecretFiles(gate, uid, self._gatekeeper, self._secrets)
        self._gatekeeper.hold(files)
        return files

    def _open_gate(self, gate: Path, launched: Launched, taken: Taken | None = None) -> None:
        """The agent is heard, beside the local tools for what needs no process: services and child instances."""
        config = self._config
        ca = None if config.service_ca_file is None else str(config.service_ca_file)
        for name, url in sorted(config.service_urls.items()):
            self._tools[name] = RelyingService(name, url, self._key, self._clock, ca)
        if any(grant.action == START for grant in launched.grants):
            children = self._tools[CHILDREN] = Children(config.control_socket, self._instance)
            self._gatekeeper.hold(children)
        uid = self._slot.agent_uid
        self._gate = SocketGate(
            str(gate / GATE_FILE), uid=uid, gid=uid, is_agent=self._cgroup.child("agent").holds, gatekeeper=self._gatekeeper,
            tools=self._tools, short=self._short, taken=taken,
        )  # fmt: skip

    def _open_remotes(self, measurement: Measurement) -> None:
        """Servers on the network are tools like any other. Nothing is asked of them yet. Raises FormatError, Unavailable."""
        config = self._config
        remotes = remotes_of(config.images_dir, measurement, {*config.tool_commands, *config.service_urls})
        roots = config.egress_ca_file
        try:
            contexts = upstream_contexts(None if roots is None or not remotes else str(roots))
        except OSError as error:
            raise Unavailable("egress_ca_file", f"{roots}: {error.strerror or 'no certificates'}") from None
        for name, approved in remotes.items():
            made = self._tools[name] = McpRemote(
                name, approved, asks=self._gatekeeper, resolver=SystemResolver(), contexts=contexts, secrets=self._secrets
            )
            self._gatekeeper.hold(made.line)

    def _open_desks(self, gate: Path) -> None:
        """Clients of the Model Context Protocol that launch a server are heard; the endpoints over HTTP open with the ways out."""
        uid = self._slot.agent_uid
        for name, tool in sorted(self._tools.items()):
            if isinstance(tool, McpServer):
                desk = self._desks[name] = Desk(name, tool, self._gatekeeper, self._short)
                path, holds = str(gate / socket_name(name)), self._cgroup.child("agent").holds
                self._line_gates.append(McpStdioGate(path, uid=uid, gid=uid, is_agent=holds, desk=desk))

    @property
    def _mcp_environment(self) -> dict[str, str]:
        """What the agent's programs find in theirs: where the endpoints are, and that no proxy leads there."""
        past = dict.fromkeys(("NO_PROXY", "no_proxy"), ADDRESS) if self._outlet.leads else {}
        return {"WRIT_MCP": URL, **past} if self._desks else {}

    def _approved_of(self, measurement: Measurement, name: str) -> ApprovedServer | None:
        return approved_of(self._config.images_dir, measurement, name)

    def _attend_to(self, agent: Running) -> None:
        """The agent's end is an event, as is what its client says."""
        threading.Thread(target=lambda: self._events.put(AgentEnded(agent.ended())), name="agent", daemon=True).start()
        self._links.hear_client()

    def _let_out(self, init: int) -> None:
        """The ways out are open, and beside them the endpoints of the tools. Raises Unavailable; none is open then."""
        with contextlib.ExitStack() as made:
            if self._desks:
                namespace = Namespace(init)
                made.callback(namespace.close)
                made.callback(McpHttpGate(namespace.listen(MCP_PORT), self._desks, self._gatekeeper).close)
            made.callback(self._outlet.open(init, self._gatekeeper, self._short))
            self._close_ways = made.pop_all().close

    # --- its life ----------------------------------------------------------------------------------------------------------

    def _watch_over(self) -> None:
        """One event after another, until the end."""
        self._leases.keep()
        self._anchors.keep()
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
                case ComeOver(link, attach):
                    self._links.link = link
                    if self._come_over(attach):
                        return
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
        self._leases.keep()

    def _kill_for(self, reasons: tuple[Reason, ...]) -> None:
        if reasons:
            self._events.put(Killed(reasons, time.monotonic_ns()))

    def _overdue(self) -> tuple[tuple[Reason, ...], int] | None:
        """What time alone brings: the token's death holds; a hold too long, a lost watchdog, a quota spent, an agent that stays kill."""
        noticed = time.monotonic_ns()
        if fatal := self._tenure.overdue(noticed):
            return fatal, noticed
        if not self._watchdog.keep():
            return (Reason("internal", "watchdog", "a watchdog", "none could be started"),), noticed
        if self._log.broken is not None:
            return (Reason("record-not-durable", "log", "an action log that can be written", self._log.broken[:200]),), noticed
        if (spent := self._gatekeeper.spent) is not None:
            return (spent,), noticed
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
        self._anchors.end()
        self._cut_off()
        self._said_meanwhile()  # a daemon that has just come is told, too
        # 2
        if self._links.link is not None:
            self._renewal.carry_the_rest()
        # 3
        self._stop(outcome)
        self._links.tell_daemon(end)
        # 4
        self._tidy()
        self._links.tell_client(end)

    def _approve(self, signed: bytes) -> Approved:
        """A person's approval is taken, to be used once, or why not. It lets nothing pass until its action is asked again."""
        reasons = self._approvals.give(signed, self._credential.current())
        _LOG.info("approval", instance=self._instance.hex(), rules=[reason.code for reason in reasons])
        return Approved(Digest.of(signed).value, reasons)

    # --- to other code ---------------------------------------------------------------------------------------------------

    def _come_over(self, attach: Attach) -> bool:
        """Held, this process becomes the daemon's code, and this one never returns; else the instance ends, and True is returned.

        A child's commands cannot outlive the code that runs them: it ends. An observed agent ends by its first hold.
        """
        noticed, here = time.monotonic_ns(), installed_code()
        if self._workshop is not None:
            self._finish(0)
            return True
        reason = Reason("hold", "code", attach.code.hex()[:16], here.hex()[:16])
        fatal = self._tenure.hold((reason,), noticed)
        if not fatal and not self._observed:
            _LOG.info("comes-over", instance=self._instance.hex(), code=attach.code.hex(), before=here.hex())
            try:
                estate, fatal = self._estate((reason,))
                if not fatal:
                    leave(estate, attach.command, dict(line.partition("=")[::2] for line in attach.environment))
            except (OSError, WritError) as error:
                fatal = (reason, Reason("internal", "code", "the code of the daemon, started", str(error)[:200]))
        if fatal:
            self._kill(fatal, noticed)
        return bool(fatal)

    def _estate(self, reasons: tuple[Reason, ...]) -> tuple[Estate, tuple[Reason, ...]]:
        """What goes over, once nothing is read, answered or recorded any more. And the reasons to kill it, if somebody has some by now.

        1. No call is in flight, and its outcome is a record. What was leased is given back.
        2. What client and daemon have said already is done.
        3. The log is whole, and closed.
        """
        agent, gate, link = self._agent, self._gate, self._links.link
        if agent is None or gate is None or link is None:
            raise Misuse("an estate without agent, gate or daemon")
        # 1
        tools = tuple(held for tool in self._tools.values() if (held := tool.leave(LEAVE_WITHIN)) is not None)
        listener, connections = gate.leave(LEAVE_WITHIN)
        for one in self._line_gates:
            one.leave(LEAVE_WITHIN)
            one.close()
        self._close_ways()
        self._secrets.close()
        # 2
        client, server = self._links.leave()
        fatal = self._said_meanwhile()
        # 3
        self._end_shadow()
        self._log.close()
        if self._log.broken is not None:
            raise Unavailable("action log", self._log.broken)
        checkpoint, (last, left), (held_since, hold_max) = self._log.checkpoint(), self._gatekeeper.stood(), self._tenure.since
        return Estate(
            code=installed_code(), moves=self._moves + 1, config=self._config.to_json(), run=CONTROL.encode(self._run),
            launched=LOCAL.encode(self._launched), key=self._key.left(), ca=self._outlet.ca,
            log_size=checkpoint.size, log_root=checkpoint.root, carried=self._renewal.carried, last=last, left=left,
            lost=() if self._renewal.lost is None else (self._renewal.lost,),
            seen=self._credential.seen[-MAX_SEEN:], placeholders=tuple(self._secrets.placeholders.values()),
            reasons=reasons, held_since=int(1000 * (held_since or 0)), hold_max=hold_max,
            agent=agent.outer.pid, init=agent.init, cgroup=str(self._cgroup.path), image=str(self._image.path), uid=self._slot.agent_uid,
            tools=tools, connections=tuple(HeldConnection(*one) for one in connections), link=link.fileno(), client=client,
            server=server, gate=listener, watchdog=self._watchdog.pid, watchdog_pipe=self._watchdog.pipe,
            slot=self._slot.descriptor, image_locks=self._image.locks,
        ), fatal  # fmt: skip

    def _said_meanwhile(self) -> tuple[Reason, ...]:
        """Of what was heard and not done: signals are delivered, and the reasons to kill it are returned. The new code hears the rest."""
        fatal: tuple[Reason, ...] = ()
        with contextlib.suppress(Empty):
            while True:
                match self._events.get_nowait():
                    case Killed(reasons, _):
                        fatal = (*fatal, *reasons)
                    case FromClient(Deliver(number)):
                        self._signal(number)
                    case LinkUp(link) | ComeOver(link, _):
                        self._links.link = link
        return fatal

    # --- what is told ----------------------------------------------------------------------------------------------------

    def tell(self, message: Control) -> None:
        """Client and daemon hear it, as far as they are there."""
        self._links.tell(message)

    def _signal(self, number: int) -> None:
        if self._agent is not None and self._agent.alive and (program := self._agent.program) is not None:
            with contextlib.suppress(OSError):
                os.kill(program, number)

    def _stop(self, outcome: str) -> None:
        """The attestor writes the stop event; where it does not answer, it learns of it from the daemon or when it looks."""
        for _ in range(3):
            if not isinstance(self._relay.ask(Stop(self._instance, outcome)), Unreachable):
                return
            time.sleep(0.2)
        _LOG.warning("stop-not-told", instance=self._instance.hex(), outcome=outcome)

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
                "state": state, "reasons": [r.to_json() for r in reasons], "holder": os.getpid(), "code": installed_code().hex(),
                "came_from": None if self._before is None else self._before.hex(), "moves": self._moves, **more,
            },
        )  # fmt: skip

    def _cut_off(self) -> None:
        """Gates, tools and cgroup are gone."""
        if self._gate is not None:
            self._gate.close()
        for one in self._line_gates:
            one.close()
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

    def _end_shadow(self) -> None:
        if self._shadow is not None:
            self._shadow.close()

    def _tidy(self) -> None:
        """Socket and home are gone, and images that nobody holds; log, papers and evidence stay."""
        self._end_shadow()
        self._log.close()
        self._links.close()
        self._config.holder_socket(self._instance).unlink(missing_ok=True)
        self._image.free()
        try:
            sweep(self._config.images_dir, self._config.image_keep)  # a daemon that came later may not see what is mounted here
        except (Unavailable, OSError) as error:
            _LOG.warning("images-left", detail=str(error)[:200])
        if not clear_rooms(self._config.agent_dir(self._instance)):
            _LOG.warning("home-left", path=str(self._config.agent_dir(self._instance)))

"""What a holder of other code becomes by execve: the same instance under this code, held until the verifier has appraised it afresh.

Run as `python -P -m enforcer.takeover DESCRIPTOR`, the descriptor being its estate's. Whatever goes wrong, it ends, and with it the pipe
that the watchdog listens to: nothing of the instance is left then.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Final

from enforcer.code_id import installed_code
from enforcer.config import EnforcerConfig
from enforcer.control import CONTROL, Run
from enforcer.estate import Estate, HeldTool, parse_estate, unsealed
from enforcer.instance import Instance
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.image import Image
from enforcer.launch.process import Inherited, Running, Watchdog
from enforcer.launch.slot import Slot
from enforcer.record import Checkpoint
from enforcer.tools.mcp_program import McpProgram
from enforcer.tools.program import StdioTool
from enforcer.zygote import HOLDER_NAME, keep_from_cores
from writ.formats.errors import FormatError, Unavailable
from writ.formats.local import LOCAL, Launched
from writ.formats.mcp.approved import ApprovedServer
from writ.formats.measurement import Measurement, parse_measurement
from writ.service import observe
from writ.service.clock import Clock, SystemClock
from writ.service.signers import MemorySigner

_LOG = observe.get_logger("enforcer.takeover")
_STANDARD: Final = (0, 1, 2)


class Successor(Instance):
    """One instance, from a takeover to its end. Everything that a launch decides was decided then, and none of it again."""

    def __init__(self, estate: Estate, clock: Clock) -> None:
        """It is held, by this code, with everything that the old code left.

        1. What the estate says is read, whole.
        2. Containment first: the cgroup is frozen, or nothing else is done, and a watchdog of this code is armed.
        3. The log is the one that was left, to the record.
        4. Tools, ways out, and the gate, none of which passes anything while it is held.

        Raises FormatError, Unavailable, Refused, OSError; then this process is to end, and the watchdog ends what is in the cgroup.
        """
        # 1
        run, launched = CONTROL.parse(estate.run), LOCAL.parse(estate.launched)
        if not isinstance(run, Run) or not isinstance(launched, Launched) or run.child:
            raise FormatError("estate", "a run and its launch", "others")
        super().__init__(EnforcerConfig.from_json(estate.config), run, _socket(estate.client), (-1, -1, -1), _socket(estate.link), clock)
        measurement = parse_measurement(launched.measurement)
        self._launched, self._instance, self._short = launched, launched.instance, launched.instance.hex()[:8]
        self._agent_id, self._observed = measurement.agent, False
        self._forwards, self._named = measurement.forwards, measurement.secrets
        self._key, self._line = MemorySigner.taken(estate.key), None  # it is no child's
        self._moves, self._before = estate.moves, estate.code
        # 2
        self._folder, self._cgroup = self._config.instance_dir(self._instance), Cgroup(Path(estate.cgroup))
        self._watchdog = Watchdog(self._cgroup, (estate.watchdog, estate.watchdog_pipe))
        if not self._cgroup.freeze():
            raise Unavailable("cgroup.freeze", "still running")
        # 3
        self._compose(launched, self._config.trust(), estate.since)
        if self._log.checkpoint() != (left := Checkpoint(estate.log_size, estate.log_root)):
            raise FormatError("action log", f"{left.size} records, as they were left", f"{self._log.checkpoint().size}, or others")
        if self._tenure.resume(estate.held_since / 1000, estate.hold_max, estate.reasons):
            raise Unavailable("cgroup.freeze", "still running")
        # 4
        self._slot = Slot(estate.slot, estate.uid)
        self._image = Image(Path(estate.image), estate.image_locks, ())
        self._take(estate, measurement)

    @staticmethod
    def _tool_of(held: HeldTool, approved: ApprovedServer | None) -> StdioTool:
        running = Running(Inherited(held.pid), held.init)
        if approved is None:
            return StdioTool(held.name, running, held.pipes, held.asked, held.rest)
        return McpProgram(held.name, running, held.pipes, held.asked, held.rest, approved=approved)

    def _take(self, estate: Estate, measurement: Measurement) -> None:
        agent = self._agent = Running(Inherited(estate.agent), estate.init)
        for held in estate.tools:
            self._tools[held.name] = self._tool_of(held, self._approved_of(measurement, held.name))
        self._outlet = self._outlet_of(self._launched, estate.ca)
        gate = self._config.agent_dir(self._instance) / "gate"
        self._open_remotes(measurement)
        self._open_desks(gate)
        self._let_out(agent.init)
        self._show_secrets(gate, self._slot.agent_uid)
        connections = [(_socket(one.descriptor), one.rest) for one in estate.connections]
        self._open_gate(gate, self._launched, (_socket(estate.gate), connections))
        socket_path = str(self._config.holder_socket(self._instance))
        self._links.open(socket_path, self._instance, lambda: self._containment.standing.state, _socket(estate.server))
        self._attend_to(agent)

    def live(self) -> None:
        """From here on as any holder, which asks for a token at once."""
        _LOG.info("came-over", instance=self._instance.hex(), code=installed_code().hex(), before=self._before and self._before.hex())
        self._watch_over()


def _socket(descriptor: int) -> socket.socket:
    """The other code may have set a timeout, which is the descriptor's then."""
    made = socket.socket(fileno=descriptor)
    made.setblocking(True)
    return made


def main(number: int) -> int:
    """Take the instance over, and live with it to its end.

    1. This code is known by its digest. The estate is read, and gone: nothing of it stays open.
    2. What it names is closed on the next execve, and nothing else is open.
    3. The instance, held.
    """
    # 1
    installed_code()
    estate = parse_estate(unsealed(number))
    # 2
    _close_others(estate)
    # 3
    Successor(estate, SystemClock()).live()
    return 0


def _close_others(estate: Estate) -> None:
    kept = frozenset(estate.descriptors())
    for descriptor in sorted({int(name) for name in os.listdir("/proc/self/fd")} - kept - set(_STANDARD)):
        with contextlib.suppress(OSError):  # the listing's own
            os.close(descriptor)
    for descriptor in kept:
        os.set_inheritable(descriptor, False)


if __name__ == "__main__":
    status = 1
    try:
        keep_from_cores()
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(HOLDER_NAME)
        observe.configure(sys.stderr)
        status = main(int(sys.argv[1]))
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process ends, and says why
        _LOG.error("takeover-failed", exception=error)
    finally:
        os._exit(status)

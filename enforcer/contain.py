"""Containment of one instance: cut, freeze, evidence, kill. No path leads back from kill, and none from hold without a fresh token.

    starting -> running <-> held -> killed
       |           \\________________/^        ended: the agent's own exit
       +-> observed -> held -> killed        without a token, and never one

*Hold*: nothing passes the gate, every process is stopped. *Kill*: the same, then evidence, then every process is gone.
Each step is measured from the moment at which its cause was noticed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from enforcer.credential import Credential, Held
from enforcer.gatekeeper import Gatekeeper
from enforcer.launch.cgroup import Cgroup
from enforcer.record import LogReader
from writ.formats.errors import Misuse, Refused, WritError
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening
from writ.service.clock import Clock

EVIDENCE_FILE: Final = "containment.json"
LAST_RECORDS: Final = 20


@dataclass(slots=True)
class Measured:
    """Milliseconds from the notice to each step of the latest containment; None for what did not happen."""

    cut_ms: float | None = None
    frozen_ms: float | None = None
    killed_ms: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """As shown by `status` and `why`."""
        return {"cut_ms": self.cut_ms, "frozen_ms": self.frozen_ms, "killed_ms": self.killed_ms}


@dataclass(slots=True)
class Standing:
    """How the instance stands, for people."""

    state: str = "starting"
    reasons: tuple[Reason, ...] = ()
    since: int = 0
    measured: Measured = field(default_factory=Measured)


class Containment:
    """Holds, thaws and kills one cgroup together with its gate. Thread-safe; kill wins over everything."""

    def __init__(
        self, cgroup: Cgroup, gatekeeper: Gatekeeper, credential: Credential, folder: Path, *,
        clock: Clock, changed: Callable[[Standing], None],
    ) -> None:  # fmt: skip
        """`changed` hears of every new standing, after it is in force."""
        self._cgroup, self._gatekeeper, self._credential, self._folder = cgroup, gatekeeper, credential, folder
        self._clock, self._changed = clock, changed
        self._standing = Standing(since=clock.now())
        self._lock = threading.RLock()

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        with self._lock:
            return self._standing

    def run(self, held: Held) -> None:
        """`held` is in force and the processes run: the way out of `starting` and `held`.

        Raises Refused for a token that was held before, and after a kill.
        """
        with self._lock:
            state = self._standing.state
            if state in ("killed", "ended"):
                raise Refused(Reason("instance-tainted", "instance", "a live instance", state))
            self._credential.take(held)
            self._gatekeeper.mend()
            if state == "running":
                return
            self._cgroup.thaw()
            self._stand("running", (), Measured())

    def observe(self, reasons: tuple[Reason, ...]) -> None:
        """It runs without a token, and is called so; `reasons` are why there is none."""
        with self._lock:
            if self._standing.state != "starting":
                raise Misuse("an instance is observed from its start, or not at all")
            self._stand("observed", reasons, Measured())

    def hold(self, reasons: tuple[Reason, ...], noticed: int) -> bool:
        """Nothing passes and nothing runs. `noticed` in monotonic nanoseconds. False where the processes would not freeze: kill them."""
        with self._lock:
            if self._standing.state in ("killed", "ended"):
                return True
            measured = self._cut(reasons, noticed)
            if self._standing.state == "held":
                self._standing.reasons = reasons
                self._changed(self._standing)
                return True
            frozen = self._cgroup.freeze()
            measured.frozen_ms = _since(noticed) if frozen else None
            self._stand("held", reasons, measured)
            return frozen

    def kill(self, reasons: tuple[Reason, ...], noticed: int, *, records: Callable[[], list[dict[str, object]]]) -> bool:
        """Nothing passes, and every process is gone; evidence was taken while they were frozen. False while any is left.

        `records` gives the last records of the log for the evidence.
        """
        with self._lock:
            if self._standing.state in ("killed", "ended"):
                return not self._cgroup.populated()
            measured = self._cut(reasons, noticed)
            if self._cgroup.freeze():
                measured.frozen_ms = _since(noticed)
            snapshot = {"noticed_at": self._clock.now(), "reasons": [r.to_json() for r in reasons], "processes": processes(self._cgroup)}
            gone = self._cgroup.kill()
            measured.killed_ms = _since(noticed) if gone else None
            self._stand("killed", reasons, measured)
            write_evidence(self._folder / EVIDENCE_FILE, {**snapshot, "records": records(), **measured.to_json()})
            return gone

    def end(self) -> None:
        """The agent ended by itself: whatever it left behind is killed, and nothing passes any more."""
        with self._lock:
            if self._standing.state in ("killed", "ended"):
                return
            self._credential.drop()
            self._gatekeeper.cut(Reason("instance-stopped", "instance", "running", "ended"))
            self._cgroup.kill()
            self._stand("ended", (), Measured())

    def _cut(self, reasons: tuple[Reason, ...], noticed: int) -> Measured:
        if not reasons:
            raise Misuse("containment without a reason")
        self._credential.drop()
        self._gatekeeper.cut(*reasons)
        return Measured(cut_ms=_since(noticed))

    def _stand(self, state: str, reasons: tuple[Reason, ...], measured: Measured) -> None:
        self._standing = Standing(state, reasons, self._clock.now(), measured)
        self._changed(self._standing)


def _since(noticed: int) -> float:
    return round((time.monotonic_ns() - noticed) / 1e6, 3)


def processes(cgroup: Cgroup) -> list[dict[str, object]]:
    """What /proc says of each process in `cgroup`: pid, parent, uid, state, command line. A process that vanishes meanwhile is left out."""
    found: list[dict[str, object]] = []
    for pid in cgroup.processes():
        folder = Path("/proc") / str(pid)
        try:
            status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
            command = (folder / "cmdline").read_bytes()[:4096].rstrip(b"\0").split(b"\0")
        except OSError:
            continue
        found.append(
            {
                "pid": pid,
                "parent": int(status.get("PPid", "0")),
                "uid": int(status.get("Uid", "-1").split("\t")[0]),
                "state": status.get("State", "?"),
                "command": [part.decode("utf-8", "replace") for part in command],
            }
        )
    return found


def last_records(folder: Path, instance: bytes) -> list[dict[str, object]]:
    """What was done last, by a log, for the evidence; none where the log cannot be read."""
    try:
        entries = LogReader(folder, instance).entries()
    except WritError:
        return []
    records = [entry.record for entry in entries if not isinstance(entry.record, Opening)][-LAST_RECORDS:]
    return [
        {"sequence": r.sequence, "action": r.action, "resource": r.resource, "permit": r.permit}
        if isinstance(r, ActionRecord)
        else {"sequence": r.sequence, "of": r.of, "outcome": r.outcome}
        for r in records
    ]


def write_evidence(path: Path, value: dict[str, object]) -> None:
    """`value` is at `path` as JSON, whole or not at all. What cannot be written does not stop a containment."""
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")
        fresh.replace(path)
    except OSError:
        return

"""What the kernel saw of one decision and of one record: `./run faults -k kernel` prints it.

A verifier serves, strace is attached to it, and an operator admits a host over HTTP; an action log takes one record under strace. Of the
calls stay those that wrote, synced and answered; equal ones in a row are counted. Nothing of ours says what is synced here.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.auditor.served import ServedStore
from tests.faults.disk import layer
from tests.faults.fault import ROOT
from tests.faults.verifier import KilledVerifier
from tests.world.store import HostLog

CALLS: Final = "pwrite64,write,writev,fsync,fdatasync,sendto,sendmsg"
ENDS_WITHIN: Final = 30.0
_LINE: Final = re.compile(
    r"\d+ +(?P<call>\w+)\(\d+<(?P<what>TCP|[^>]*?)(?::\[[^]]*\])?>(?:, (?P<data>\".*?\"(?:\.\.\.)?))?"
    r"(?:, (?:\d+|NULL))*(?:\) += (?P<result>\d+)| <)"
)


@dataclass(frozen=True)
class Call:
    """One system call: on which file, or `TCP`, or `pipe`; its first bytes, and what it returned."""

    name: str
    what: str
    data: str = ""
    result: str = ""

    def __str__(self) -> str:
        return f"{self.name}({self.what}{f', {self.data}' if self.data else ''})" + (f" = {self.result}" if self.result else "")

    @property
    def place(self) -> tuple[str, str]:
        """What it is told apart by."""
        return self.name, self.what


class CannotTrace(Exception):
    """Strace is not here, or may not attach."""


def decision(room: Path) -> list[Call]:
    """One decision of a verifier that serves: from the first byte it wrote to its answer. Raises CannotTrace."""
    out, server = room / "strace", KilledVerifier(room)
    try:
        server.start()
        assert server.process is not None
        with closing(server.operator()) as operator:
            operator.post("/v1/hosts", {"host": "before"})
            tracer = _strace(out, "-p", str(server.process.pid))
            assert tracer.stderr is not None
            try:
                if b"attached" not in tracer.stderr.readline():
                    raise CannotTrace
                operator.post("/v1/hosts", {"host": "traced"})
                _until(out, "HTTP/1.1 200")
            finally:
                tracer.terminate()
                tracer.communicate(timeout=ENDS_WITHIN)
        head = next(fd for fd in Path(f"/proc/{server.process.pid}/fd").iterdir() if os.readlink(fd).endswith("/log-head"))
        flags = int(Path(f"/proc/{server.process.pid}/fdinfo/{head.name}").read_text().split("flags:")[1].split()[0], 8)
        assert flags & os.O_DSYNC, "the head file is not written through"
    finally:
        server.kill()
    return [call for call in calls(out.read_text()) if call.what in ("ledger.sqlite-wal", "log-head") or "HTTP/1.1" in call.data]


def batch(room: Path) -> list[Call]:
    """One batch of a record store that serves, the second since it was opened: from the first byte written to its answer.

    Raises CannotTrace.
    """
    out, log = room / "strace", HostLog(512)
    store = ServedStore(room / "store", [log.host], name="store.example")
    try:
        assert store.add(log.signer, log.body(0, 256))[0] == 200
        tracer = _strace(out, "-p", str(store.process.pid))
        assert tracer.stderr is not None
        try:
            if b"attached" not in tracer.stderr.readline():
                raise CannotTrace
            assert store.add(log.signer, log.body(256, 512))[0] == 200
            _until(out, "HTTP/1.1 200")
        finally:
            tracer.terminate()
            tracer.communicate(timeout=ENDS_WITHIN)
    finally:
        store.end()
    return [call for call in calls(out.read_text()) if call.what == "records.sqlite-wal" or "HTTP/1.1" in call.data]


def record(room: Path) -> list[Call]:
    """One record of an action log, the second since it was opened: from the first byte written to its answer. Raises CannotTrace."""
    out, folder = room / "strace", room / "log"
    folder.mkdir()
    told = {"kind": "enforcer", "folder": str(folder), "changes": 1, "callers": 1, "closes": True, "fault": None, "trace": None}
    try:
        tracer = _strace(out, sys.executable, "-m", "tests.faults.writers", str(layer(room)))
        _, complaint = tracer.communicate(json.dumps(told).encode() + b"\n", ENDS_WITHIN)
    except FileNotFoundError:
        raise CannotTrace from None
    if tracer.returncode:
        raise CannotTrace(complaint.decode()[-200:])
    seen = calls(out.read_text())
    found = [call for call in seen if call.what == "action-log.sqlite-wal" or (call.what == "pipe" and "leaf" in call.data)]
    first = next(at for at, call in enumerate(found) if call.what == "pipe")
    second = next(at for at in range(first + 1, len(found)) if found[at].what == "pipe")
    return found[first + 1 : second + 1]


def _strace(out: Path, *what: str) -> subprocess.Popen[bytes]:
    asked = ["strace", "-f", "-yy", "-s", "16", "-e", f"trace={CALLS}", "-o", str(out), *what]
    try:
        return subprocess.Popen(
            asked, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"PATH": os.environ["PATH"]}
        )
    except FileNotFoundError:
        raise CannotTrace from None


def _until(out: Path, text: str) -> None:
    deadline = time.monotonic() + ENDS_WITHIN
    while text not in out.read_text():
        assert time.monotonic() < deadline, f"strace did not see {text}"
        time.sleep(0.05)


def calls(text: str) -> list[Call]:
    """The calls that strace wrote down."""
    found = [match for match in map(_LINE.match, text.splitlines()) if match is not None]
    return [Call(m["call"], Path(m["what"]).name.partition(":")[0], m["data"] or "", m["result"] or "") for m in found]


def essential(found: list[Call]) -> list[str]:
    """Those in a row that differ in nothing but bytes are one line, with their number."""
    lines = []
    for _, group in itertools.groupby(found, key=lambda call: call.place):
        alike = list(group)
        one, size = alike[0], sum(int(call.result or 0) for call in alike)
        lines.append(str(one) if len(alike) == 1 else f"{one.name}({one.what}, …) = {size:,} bytes in {len(alike)} calls")
    return lines

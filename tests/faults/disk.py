"""A disk that fails and forgets: the file layer of `layer.c`, writers under it, and what a loss of power leaves of what they wrote.

Of a file a sync makes durable what was written to it before. What was not synced may be there or not, each write by itself. What was to be
written when a sync failed may be lost for ever, although it can still be read, and though the next sync succeeds: so Linux does it.
That a file is there, is gone, or has another name is taken to be durable at once.

Source: fsync(2); P. Huang et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.fault import ROOT

_SOURCE: Final = Path(__file__).parent / "layer.c"
_HEAD: Final = struct.Struct("=BBHQQ")


def layer(room: Path) -> Path:
    """The file layer, compiled."""
    made = room / "layer.so"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", made, _SOURCE, "-ldl"], check=True, timeout=60)
    return made


@dataclass(frozen=True)
class Fault:
    """What happens at step `at`: a kill before a line of code, or at a call (`by`) what `does` says; for ever after, too, if `sticky`."""

    at: int
    by: str = "call"
    does: str = "kill before"
    sticky: bool = False


@dataclass(frozen=True)
class Round:
    """How a writer ended, and what it had said until then, in order."""

    status: int
    said: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        """How many steps it took. Of a writer that came to its end."""
        return int(self.said[-1]["steps"])

    @property
    def answered(self) -> int:
        """How many changes were answered."""
        return sum("leaf" in one for one in self.said)

    @property
    def refused(self) -> list[str]:
        """What was refused."""
        return [str(one["refused"]) for one in self.said if "refused" in one]


class Writers:
    """A process that forks writers under the layer; `close` it."""

    def __init__(self, room: Path) -> None:
        self._log = (room / "writers.log").open("ab")
        so = layer(room)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.writers", str(so)],
            cwd=ROOT, env={"PATH": "/usr/bin:/bin", "LD_PRELOAD": str(so)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip

    def begin(
        self, kind: str, folder: Path, fault: Fault | None = None, trace: Path | None = None, *, changes: int = 2, callers: int = 3,
        closes: bool = True,
    ) -> None:  # fmt: skip
        """A writer of `kind` runs on `folder`, and closes the log or is gone without; `end` waits for it."""
        assert self._process.stdin is not None
        asked = {
            "kind": kind, "folder": str(folder), "changes": changes, "callers": callers, "closes": closes,
            "fault": None if fault is None else vars(fault), "trace": None if trace is None else str(trace),
        }  # fmt: skip
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> Round:
        """What became of it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the writers' process ended; see writers.log"
        told = json.loads(line)
        return Round(told["status"], told["said"])

    def run(self, kind: str, folder: Path, fault: Fault | None = None, trace: Path | None = None, **how: Any) -> Round:
        """Both."""
        self.begin(kind, folder, fault, trace, **how)
        return self.end()

    def close(self) -> None:
        """No writer runs any more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._log.close()


@dataclass
class Machine:
    """One folder, the writers on it, and a disk under it whose power can fail."""

    folder: Path
    writers: Writers
    kind: str
    dice: random.Random
    _since: list[Path] = field(default_factory=list)
    _number: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._base = self.folder.with_name(f"{self.folder.name}.base")
        self._keep()

    def run(self, fault: Fault | None = None, **how: Any) -> Round:
        """A writer runs, and ends."""
        trace = self.folder.with_name(f"{self.folder.name}.trace-{self._number}")
        self._number += 1
        self._since.append(trace)
        return self.writers.run(self.kind, self.folder, fault, trace, **how)

    def copy(self, into: Path) -> Path:
        """What a start would find now, without the index that SQLite makes anew."""
        shutil.copytree(self.folder, into, ignore=shutil.ignore_patterns("*-shm"))
        return into

    def lose_power(self) -> None:
        """The folder holds what was synced since the power failed last, and of the rest what chance left."""
        disk = {str(path.relative_to(self._base)): bytearray(path.read_bytes()) for path in self._base.rglob("*") if path.is_file()}
        pending: dict[str, list[tuple[int, int, bytes]]] = {}
        none_left = self.dice.random() < 0.4
        for trace in self._since:
            for kind, done, name, at, length, data in _records(trace):
                if kind in "rl":
                    target = data.decode()
                    disk[target] = bytearray(disk.get(name, b""))
                    pending[target] = list(pending.get(name, ()))
                    if kind == "r":
                        disk.pop(name, None)
                        pending.pop(name, None)
                elif kind == "u":
                    disk.pop(name, None)
                    pending.pop(name, None)
                elif kind == "s":
                    kept = pending.pop(name, []) if done else self._some(pending.pop(name, []), none_left)
                    _apply(disk.setdefault(name, bytearray()), kept)
                else:
                    pending.setdefault(name, []).append((at, length if kind == "w" else -1, data))
        for name, writes in pending.items():
            _apply(disk.setdefault(name, bytearray()), self._some(writes, none_left))
        shutil.rmtree(self.folder)
        for name, content in disk.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)
        self._keep()

    def _some(self, writes: list[tuple[int, int, bytes]], none_left: bool) -> list[tuple[int, int, bytes]]:
        return [] if none_left else [one for one in writes if self.dice.random() < 0.5]

    def _keep(self) -> None:
        for trace in self._since:
            trace.unlink(missing_ok=True)
        self._since.clear()
        shutil.rmtree(self._base, ignore_errors=True)
        shutil.copytree(self.folder, self._base, ignore=shutil.ignore_patterns("*-shm"))


def _apply(content: bytearray, writes: list[tuple[int, int, bytes]]) -> None:
    for at, length, data in writes:
        if length < 0:
            del content[at:]
        if len(content) < at:
            content.extend(bytes(at - len(content)))
        if length >= 0:
            content[at : at + length] = data


def _records(trace: Path) -> Iterator[tuple[str, bool, str, int, int, bytes]]:
    """Of each call that the layer let through, or failed: what it was, whether it was done, the file, place, length and bytes."""
    raw = trace.read_bytes()
    here = 0
    while here + _HEAD.size <= len(raw):
        kind, done, named, at, length = _HEAD.unpack_from(raw, here)
        here += _HEAD.size
        name = os.fsdecode(raw[here : here + named])
        here += named
        data = raw[here : here + length] if chr(kind) in "wrl" else b""
        here += len(data)
        yield chr(kind), bool(done), name, at, length, data

"""The stage of the demonstration: a place of its own, the programs on it, and lines that say what happened."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attestor.measure.closure import image_of
from enforcer.launch.cgroup import MOUNTINFO, Cgroup, find_mount
from enforcer.launch.mounts import unmount
from writ.formats.errors import Unavailable
from writ.formats.manifest import component_lines

STOP_WITHIN: Final = 10.0


class StageError(Exception):
    """Something that the story needs could not be had."""


class Stage:
    """A directory and a cgroup that go away, programs that are ended, and a count of what did not go as it should."""

    def __init__(self, *, pace: float) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="writ-demo-"))
        self.place.chmod(0o711)
        self.cgroup = f"/writ-demo-{self.place.name[-8:]}"
        self.unexpected: list[str] = []
        self._pace = pace
        self._programs: list[Program] = []

    def say(self, text: str) -> None:
        """A line for the audience."""
        print(text, flush=True)
        time.sleep(self._pace)

    def chapter(self, title: str) -> None:
        """A new part of the story."""
        self.say(f"\n{title}")

    def expect(self, happened: bool, text: str) -> None:
        """A line that must have happened: told as it is, and counted if it did not."""
        if not happened:
            self.unexpected.append(text)
        self.say(f"  {'ok  ' if happened else 'FAIL'} {text}")

    def command(self, role: str, *arguments: str, ok: Sequence[int] = (0,), env: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Run one command of a role with --json; its answer. Raises StageError for another exit status than in `ok`."""
        done = subprocess.run(
            [sys.executable, "-m", role, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **(env or {})},
            check=False,
        )
        if done.returncode not in ok:
            raise StageError(f"{role} {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        try:
            answer = json.loads(done.stdout or "{}")
        except json.JSONDecodeError:
            answer = {"text": done.stdout.strip()}
        return {**answer, "exit": done.returncode} if isinstance(answer, dict) else {"items": answer, "exit": done.returncode}

    def start(self, name: str, arguments: Sequence[str], *, env: Mapping[str, str] | None = None) -> Program:
        """A program that runs until it is stopped; its output is kept."""
        program = Program(name, arguments, self.place / f"{name}.log", {**os.environ, **(env or {})})
        self._programs.append(program)
        return program

    def close(self) -> None:
        """Every program is ended, and the place and the cgroup are gone."""
        for program in reversed(self._programs):
            program.stop()
        self._clear_cgroup()
        self._clear_mounts()
        shutil.rmtree(self.place, ignore_errors=True)

    def _clear_mounts(self) -> None:
        """Nothing is mounted below the place: images outlive their agents for a while, and each has a loop device."""
        points = [line.split(" ")[4] for line in MOUNTINFO.read_text().splitlines()]
        for point in reversed(points):
            if point.startswith(f"{self.place}/"):
                with contextlib.suppress(OSError):
                    unmount(Path(point))

    def _clear_cgroup(self) -> None:
        """The cgroup of this stage, and no other, is gone with whatever was left in it."""
        try:
            parent = Cgroup(find_mount(MOUNTINFO.read_text()) / self.cgroup.lstrip("/"))
        except Unavailable:
            return
        deadline = time.monotonic() + STOP_WITHIN
        while parent.exists() and time.monotonic() < deadline:
            parent.kill()
            with contextlib.suppress(FileNotFoundError):
                for folder in parent.path.iterdir():
                    if folder.is_dir():
                        Cgroup(folder).remove()
            if not parent.remove():
                time.sleep(0.05)
        if parent.exists():
            print(f"a cgroup is left behind: {parent.path}", file=sys.stderr)


class Program:
    """A child process whose lines can be waited for."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.lines: list[str] = []
        self._errors = log
        self._news = threading.Condition()
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=dict(env), text=True
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, wanted: Callable[[str], bool], *, within: float, after: int = 0) -> str | None:
        """The first line from number `after` on that is wanted, or None if the program ended or time ran out first."""
        deadline = time.monotonic() + within
        with self._news:
            while True:
                found = next((line for line in self.lines[after:] if wanted(line)), None)
                left = deadline - time.monotonic()
                if found is not None or left <= 0 or not self._reader.is_alive():
                    return found
                self._news.wait(left)

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self, within: float) -> int | None:
        """Its exit status, or None if it still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(within)
        return None

    def errors(self) -> str:
        """The end of what it wrote on standard error."""
        return self._errors.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """It has ended, by SIGTERM if it listens, else by SIGKILL."""
        if self.running():
            self._process.send_signal(signal.SIGTERM)
            if self.wait(STOP_WITHIN) is None:
                self._process.kill()
                self._process.wait()
        self._reader.join(STOP_WITHIN)
        if self._process.stdout is not None:
            self._process.stdout.close()


def free_port() -> int:
    """A TCP port of the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, *, within: float = 20.0) -> None:
    """Return when `condition` holds. Raises StageError if it does not within that time."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise StageError(f"{what}: not within {within:g} s")
        time.sleep(0.05)


def add_python(manifests: Path) -> None:
    """Each manifest in the directory gets an image of this system's Python, as `attestor manifest image` proposes it."""
    program = Path("/usr/bin/python3")
    library = Path("/usr/lib") / program.resolve().name
    if not program.is_file() or not library.is_dir():
        raise StageError(f"the system's Python: expected {program} and {library}, got none; apt-get install python3")
    lines = component_lines(image_of([program], [library]))
    for manifest in manifests.glob("*.toml"):
        manifest.write_text("\n".join([manifest.read_text(), *lines, ""]))


@contextlib.contextmanager
def performed(stage: Stage) -> Iterator[Stage]:
    """The stage, cleared whatever happens on it."""
    try:
        yield stage
    finally:
        stage.close()

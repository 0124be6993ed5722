"""`./run model`: does the protocol of the logs keep its properties in every state, and is each broken variant of it refuted?

The models are docs/model/*.pml, for the model checker Spin; docs/model/cases.toml says which are asked with what settings, and what must
come of it. Spin makes a program of a model, which is compiled and visits every state within the bounds: none is left out by hashing. A
case that must hold is searched to the end; one that must be refuted is searched breadth first, so that its trace is a shortest one, and
must break the property that is named.

Exit status: 0 every case as it must be, 1 one that is not, 2 misuse, 3 could not.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
MODELS: Final = ROOT / "docs" / "model"
UNPACKED: Final = ROOT / ".model" / "root" / "usr" / "bin" / "spin"
"""Where `./run model` puts it."""
MEMORY: Final = 2000
"""Megabytes for the states of one case."""
DEPTH: Final = 10_000
WITHIN: Final = 300
"""Seconds for one case."""

_STEP: Final = re.compile(r"^\s*\d+:\s|^pan:|^spin:|^#")


class CouldNot(Exception):
    """The checker is missing, refused a model, or did not search it to the end."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model with settings. `refuted` names the property that must be found broken; empty where the model must hold."""

    name: str
    model: str
    settings: Mapping[str, int]
    refuted: str = ""
    small: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a case: the property that broke, empty where the search ended without; the trace to it; states; seconds."""

    broken: str
    trace: tuple[str, ...]
    states: int
    took: float

    def is_as_it_must_be(self, case: Case) -> bool:
        """The case holds, or breaks the very property it must break."""
        return self.broken == case.refuted


def read_cases(path: Path = MODELS / "cases.toml") -> list[Case]:
    """The cases in their order."""
    return [Case(**row) for row in tomllib.loads(path.read_text())["case"]]


def find_spin() -> str | None:
    """Spin where `./run model` unpacked it, or on the path."""
    return str(UNPACKED) if UNPACKED.is_file() else shutil.which("spin")


def check(case: Case, spin: str, *, depth: int = DEPTH) -> Found:
    """Search `case`, no path longer than `depth` steps.

    Raises CouldNot, also where the search stopped before its end: then nothing is known.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="writ-model-") as folder:
        place = Path(folder)
        for source in MODELS.glob("*.pml"):
            shutil.copy(source, place)
        name = f"{case.model}.pml"
        _run([spin, *(f"-D{key}={value}" for key, value in case.settings.items()), "-a", name], place)
        search = ["-DBFS"] if case.refuted else ["-DCOLLAPSE"]
        effort = "-O0" if case.refuted or case.small else "-O2"  # few states or many: what costs is the compiler or the search
        _run(["gcc", effort, "-w", "-DSAFETY", f"-DMEMLIM={MEMORY}", *search, "-o", "pan", "pan.c"], place)
        said = _run(["./pan", f"-m{depth}"], place)
        states, errors = _figure(said, r"(\d+) states, stored"), _figure(said, r"errors: (\d+)")
        if errors:
            trace = _trace(_run(["./pan", "-r", f"{name}.trail"], place, of_any_status=True))
            return Found(trace[-1].removeprefix("VIOLATED "), trace, states, time.monotonic() - started)
        if (cut := re.search(r"Search not completed|max search depth too small|reached -DMEMLIM|out of memory", said)) is not None:
            raise CouldNot(f"expected {case.name!r} to be searched to the end, got: {cut[0]}")
        return Found("", (), states, time.monotonic() - started)


def _run(command: Sequence[str], place: Path, *, of_any_status: bool = False) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=WITHIN,
            text=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CouldNot(f"expected {command[0]} to run and end in {WITHIN} s, got: {error}") from None
    if done.returncode != 0 and not of_any_status:
        raise CouldNot(f"expected {command[0]} to succeed, got status {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def _figure(said: str, pattern: str) -> int:
    found = re.search(pattern, said)
    if found is None:
        raise CouldNot(f"expected the checker to say {pattern!r}, got:\n{said[-2000:]}")
    return int(found[1])


def _trace(said: str) -> tuple[str, ...]:
    """What the model printed on its way, up to the property that broke."""
    lines = []
    for line in said.splitlines():
        if not _STEP.match(line):
            lines.append(line)
        if line.startswith("VIOLATED "):
            return tuple(lines)
    raise CouldNot(f"expected a trace that ends in a property, got:\n{said[-2000:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(prog="./run model", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("containing", nargs="?", default="", help="only the cases whose name contains this")
    parser.add_argument("--short", action="store_true", help="without the traces")
    asked = parser.parse_args(arguments)
    cases = [case for case in read_cases() if asked.containing in case.name]
    if not cases:
        print(f"model: expected a part of a case's name, got {asked.containing!r}", file=sys.stderr)
        return 2
    spin = find_spin()
    if spin is None:
        print("model: expected spin, found none; `./run model` unpacks it", file=sys.stderr)
        return 3
    wrong = states = 0
    started = time.monotonic()
    for case in cases:
        try:
            found = check(case, spin)
        except CouldNot as error:
            print(f"model: {case.name}: {error}", file=sys.stderr)
            return 3
        states += found.states
        wrong += not found.is_as_it_must_be(case)
        _report(case, found, short=asked.short)
    print(f"{len(cases)} cases, {len(cases) - wrong} as they must be, {states:,} states, {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


def _report(case: Case, found: Found, *, short: bool) -> None:
    verdict = f"refuted: {found.broken}" if found.broken else "holds"
    mark = "" if found.is_as_it_must_be(case) else f"   WRONG: expected {f'refuted: {case.refuted}' if case.refuted else 'holds'}"
    print(f"{case.model}: {case.name}\n    {verdict} ({found.states:,} states, {found.took:.1f} s){mark}", flush=True)
    if found.trace and not (short and not mark):
        print("".join(f"        {line}\n" for line in found.trace), end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())

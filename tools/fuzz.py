"""`./run fuzz [TARGET...]`: does a parser, or what judges what it read, answer any bytes at all with anything but a typed error?

Each target of `tools.fuzz_targets` is tried by atheris (libFuzzer) in a process of its own, guided by the branches of writ and
verifier.packages, from seeds that `tools.fuzz_seeds` generates. An exception that is none of the typed ones, an input that takes longer
than `TIMEOUT` and one that takes more than `MEMORY` end the run, and stand in .fuzz/TARGET/found; a later run tries those first, and
goes on from the corpus of the earlier ones.

    .fuzz/atheris               the library, as tools/fuzz.lock names it; put there by ./run
    .fuzz/TARGET/seeds          written anew at each start
    .fuzz/TARGET/corpus         inputs that reached something new
    .fuzz/TARGET/found          inputs that must not do what they do; `--on FILE` tries one again
    .fuzz/TARGET/log            what libFuzzer said

Exit status: 0 nothing found, 1 found something, 2 misuse, 3 could not.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / ".fuzz"
LIBRARY: Final = FOLDER / "atheris"
INSTRUMENTED: Final = ("writ", "verifier", "enforcer", "h2", "hpack")
"""Packages; of verifier no target imports anything but verifier.packages, of enforcer anything but its way out."""
SECONDS: Final = 600
TIMEOUT: Final = 10
"""Seconds for one input, instrumented; the slowest seed takes a hundredth of one."""
MEMORY: Final = 2048
"""MiB of one process."""

_COVERAGE: Final = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units: (\d+)|Done (\d+) runs")
_PEAK: Final = re.compile(r"stat::peak_rss_mb: +(\d+)")


@dataclass(frozen=True, slots=True)
class Tally:
    """What libFuzzer said of one run: branches, features and inputs of the corpus once the seeds were read, and at the end."""

    executions: int
    peak: int
    start: tuple[int, int, int]
    end: tuple[int, int, int]


def tally_of(log: str) -> Tally | None:
    """The figures in what libFuzzer printed, or None where it did not come to its end."""
    executed, peak = _EXECUTED.search(log), _PEAK.search(log)
    begun = log.partition("INITED")[2]
    rows = [(int(branches), int(features), int(inputs)) for branches, features, inputs in _COVERAGE.findall(begun)]
    if executed is None or not rows:
        return None
    return Tally(int(executed[1] or executed[2]), int(peak[1]) if peak else 0, rows[0], rows[-1])


def atheris_is_here() -> bool:
    """Whether the library can be imported."""
    if LIBRARY.is_dir() and str(LIBRARY) not in sys.path:
        sys.path.append(str(LIBRARY))
    return importlib.util.find_spec("atheris") is not None


def write_seeds(name: str, folder: Path) -> int:
    """`folder` holds the generated seeds of a target, and nothing else; their number."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seeds = {hashlib.sha256(seed).hexdigest()[:16]: seed for seed in importlib.import_module("tools.fuzz_seeds").SEEDS[name]()}
    for label, seed in seeds.items():
        (folder / label).write_bytes(seed)
    return len(seeds)


def inside(name: str, flags: list[str], table: str = "tools.fuzz_targets") -> None:
    """Try the target, of the module `table`, until libFuzzer ends this process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        targets = importlib.import_module(table)
    run: Callable[[bytes], None] = targets.TARGETS[name].run
    atheris.Setup([name, *flags], run)
    atheris.Fuzz()


def fuzz(name: str, longest: int, seconds: int) -> bool:
    """Try one target for so long, and print how it went; whether something was found."""
    place = FOLDER / name
    seeds = write_seeds(name, place / "seeds")
    for folder in ("corpus", "found"):
        (place / folder).mkdir(exist_ok=True)
    before = set((place / "found").iterdir())
    flags = [
        f"-max_total_time={seconds}", f"-max_len={longest}", f"-timeout={TIMEOUT}", f"-rss_limit_mb={MEMORY}", "-print_final_stats=1",
        f"-artifact_prefix={place / 'found'}/", *(str(place / folder) for folder in ("corpus", "seeds", "found")),
    ]  # fmt: skip
    with (place / "log").open("wb") as log:
        command = [sys.executable, "-m", "tools.fuzz", "--inside", name, *flags]
        status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    said = (place / "log").read_text(errors="replace")
    found = sorted(str(path.relative_to(ROOT)) for path in set((place / "found").iterdir()) - before)
    tally = tally_of(said)
    if tally is not None:
        print(
            f"{name}: {seconds} s, {tally.executions} executions from {seeds} seeds, branches {tally.start[0]} -> {tally.end[0]}, "
            f"features {tally.start[1]} -> {tally.end[1]}, corpus {tally.start[2]} -> {tally.end[2]}, at most {tally.peak} MiB"
        )
    if status == 0 and not found and tally is not None:
        print(f"{name}: nothing found", flush=True)
        return False
    print(f"{name}: found something (status {status}): {' '.join(found) or 'as before'}; {place.relative_to(ROOT)}/log ends:")
    print("\n".join(said.splitlines()[-25:]), flush=True)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Try the targets named, or all of them, one after the other."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["--inside"]:
        atheris_is_here()
        inside(given[1], given[2:])
        return 0
    parser = argparse.ArgumentParser(prog="./run fuzz", description="Does a parser answer any bytes with anything but a typed error?")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for each target; {SECONDS} unless given")
    parser.add_argument("--on", type=Path, metavar="FILE", help="try the target on one file, and nothing else")
    asked = parser.parse_args(given)
    table = importlib.import_module("tools.fuzz_targets").TARGETS
    if (unknown := [name for name in asked.targets if name not in table]) or asked.seconds < 1 or (asked.on and len(asked.targets) != 1):
        got = unknown[0] if unknown else "--on without one TARGET" if asked.on else f"--seconds {asked.seconds}"
        print(f"fuzz: expected targets of {', '.join(table)}, and seconds of at least 1; got {got}", file=sys.stderr)
        return 2
    if asked.on:
        table[asked.targets[0]].run(asked.on.read_bytes())
        return 0
    if not atheris_is_here():
        print("fuzz: expected atheris in .fuzz/atheris, found none; ./run fuzz puts it there", file=sys.stderr)
        return 3
    found = [fuzz(name, table[name].longest, asked.seconds) for name in asked.targets or table]
    return 1 if any(found) else 0


if __name__ == "__main__":
    sys.exit(main())

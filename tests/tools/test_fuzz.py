"""The fuzz targets hold on generated seeds and on spoilt ones; atheris, where it is installed, finds a planted fault."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from tools import fuzz, fuzz_targets
from tools.fuzz_seeds import SEEDS
from tools.fuzz_targets import TARGETS
from writ.formats.errors import FormatError
from writ.formats.eventlog.ima import summarise
from writ.formats.ima_signature import parse_file_signature
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, parse_log, parse_preimage, parse_record

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
SPOILT = 60
"""Copies of the seeds of each target; the fuzzer itself makes some hundred thousand."""

LOG = """INFO: seed corpus: files: 14 min: 33b max: 9831b total: 60000b rss: 82Mb
#15	INITED cov: 1512 ft: 2529 corp: 14/59Kb exec/s: 0 rss: 83Mb
#16	NEW    cov: 1513 ft: 2530 corp: 15/59Kb lim: 9831 exec/s: 0 rss: 83Mb L: 33/9831 MS: 1 EraseBytes-
#6319	DONE   cov: 1580 ft: 2981 corp: 135/90Kb lim: 9831 exec/s: 526 rss: 83Mb
Done 6319 runs in 12 second(s)
stat::number_of_executed_units: 6319
stat::peak_rss_mb:              83
"""

PLANTED = """
from tools.fuzz_targets import Target
from writ.formats.errors import FormatError
from writ.formats.ima_signature import parse_file_signature

def run(data):
    try:
        parse_file_signature(data)
    except FormatError:
        return
    raise KeyError("planted")

TARGETS = {"planted": Target(run, 64)}
"""
TRY = "import sys; from tools import fuzz; assert fuzz.atheris_is_here(); fuzz.inside('planted', sys.argv[1:], 'planted')"


def spoilt(seed: bytes, chance: random.Random) -> bytes:
    """The seed cut, doubled or with some bytes changed."""
    match chance.randrange(4):
        case 0:
            return seed[: chance.randrange(len(seed) + 1)]
        case 1:
            at = chance.randrange(len(seed) + 1)
            return seed[:at] + seed[max(0, at - chance.randrange(64)) :]
        case _:
            copy = bytearray(seed)
            for _ in range(chance.randrange(1, 5)):
                copy[chance.randrange(len(copy))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            return bytes(copy)


def test_every_target_has_seeds_that_fit() -> None:
    assert SEEDS.keys() == TARGETS.keys()
    for name, make in SEEDS.items():
        sizes = [len(seed) for seed in make()]
        assert sizes, name
        assert max(sizes) <= TARGETS[name].longest, name


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_on_seeds_and_on_spoilt_ones(name: str) -> None:
    chance, seeds = random.Random(0), list(SEEDS[name]())
    for data in [*seeds, *(spoilt(chance.choice(seeds), chance) for _ in range(SPOILT))]:
        TARGETS[name].run(data)


@pytest.mark.parametrize(
    "name, parser",
    [
        ("uefi-log", "parse_uefi_log"),
        ("systemd-log", "parse_systemd_log"),
        ("ima-log", "summarise"),
        ("cel", "parse_cel"),
        ("action-log", "parse_leaf"),
        ("action-log", "parse_preimage"),
        ("action-log", "parse_log"),
        ("evidence", "parse_evidence"),
        ("certificates", "parse_crl"),
        ("snp", "split_report"),
        ("azure", "parse_hcl"),
        ("tdx", "read_quote"),
        ("nitro", "parse_document"),
        ("pe", "parse_pe"),
        ("corim", "parse_foreign_corim"),
        ("tpm", "parse_attest"),
        ("packages", "read_rpm"),
        ("local", "parse_command"),
    ],
)
def test_target_passes_on_what_is_no_format_error(name: str, parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        raise IndexError("planted")

    monkeypatch.setattr(fuzz_targets, parser, broken)
    with pytest.raises(IndexError, match="planted"):
        TARGETS[name].run(b"any")


def test_another_spelling_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lenient(_: bytes) -> tuple[object, ...]:
        return ()

    monkeypatch.setattr(fuzz_targets, "parse_cel", lenient)
    with pytest.raises(fuzz_targets.Found, match="two spellings"):
        TARGETS["cel"].run(b"any")


def read(parse: Callable[[bytes], T], seeds: list[bytes]) -> list[T]:
    """What `parse` makes of those seeds that are for it."""
    found: list[T] = []
    for seed in seeds:
        with suppress(FormatError):
            found.append(parse(seed))
    return found


def test_seeds_of_action_logs_are_of_every_kind_and_a_whole_log() -> None:
    pieces: Callable[[bytes], list[bytes]] = fuzz_targets._pieces  # noqa: SLF001 - what the target rests on
    seeds = list(SEEDS["action-log"]())
    assert {type(one) for one in read(parse_record, seeds)} == {Opening, ActionRecord, OutcomeRecord}
    assert max(len(log) for log in read(lambda data: parse_log(pieces(data)), seeds)) == 6
    assert len(read(parse_preimage, seeds)) == 1


def test_list_put_right_has_no_wrong_template_hash() -> None:
    binary = next(iter(SEEDS["ima-log"]()))
    wrong = binary[:4] + b"\x01" * 20 + binary[24:]
    assert summarise(wrong).fault is not None
    put_right: Callable[[bytes], bytes] = fuzz_targets._put_right  # noqa: SLF001 - what the target rests on
    assert put_right(wrong) == binary


def test_figures_are_those_that_libfuzzer_prints() -> None:
    assert fuzz.tally_of(LOG) == fuzz.Tally(6319, 83, (1512, 2529, 14), (1580, 2981, 135))
    assert fuzz.tally_of(LOG.partition("Done")[0]) is None
    assert fuzz.tally_of("") is None


@pytest.mark.parametrize("arguments", [["no-such-target"], ["cel", "--seconds", "0"], ["--on", "file"], ["cel", "tpm", "--on", "file"]])
def test_misuse_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(arguments) == 2
    assert "expected" in capsys.readouterr().err


def test_one_file_is_tried_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "input").write_bytes(b"any")
    assert fuzz.main(["cel", "--on", str(tmp_path / "input")]) == 0

    def broken(_: object) -> object:
        raise IndexError("planted")

    monkeypatch.setattr(fuzz_targets, "parse_cel", broken)
    with pytest.raises(IndexError):
        fuzz.main(["cel", "--on", str(tmp_path / "input")])


def test_without_atheris_it_could_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fuzz, "LIBRARY", tmp_path / "none")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not entry.endswith(".fuzz/atheris")])
    assert fuzz.main(["cel", "--seconds", "1"]) == 3
    assert "expected atheris" in capsys.readouterr().err


def need_atheris() -> None:
    if not (fuzz.LIBRARY / "mark").exists():
        pytest.skip("needs atheris: ./run fuzz puts it into .fuzz/atheris")


def test_atheris_tries_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    need_atheris()
    monkeypatch.setattr(fuzz, "FOLDER", tmp_path)
    assert not fuzz.fuzz("tpm", TARGETS["tpm"].longest, 2), capsys.readouterr().out
    said = capsys.readouterr().out
    assert "executions from 6 seeds" in said
    assert "tpm: nothing found" in said
    tally = fuzz.tally_of((tmp_path / "tpm/log").read_text(errors="replace"))
    assert tally is not None
    assert tally.start[0] > 100  # branches of writ: it is instrumented


def test_atheris_finds_a_planted_fault_behind_the_checks_of_a_parser(tmp_path: Path) -> None:
    need_atheris()
    (tmp_path / "planted.py").write_text(PLANTED)
    for folder in ("seeds", "found"):
        (tmp_path / folder).mkdir()
    (tmp_path / "seeds/one").write_bytes(b"\x03\x00\x04keyi\x00\x01")  # of no version, and a byte short
    flags = ["-runs=2000000", "-max_total_time=60", "-seed=1", "-max_len=64", f"-artifact_prefix={tmp_path}/found/", f"{tmp_path}/seeds"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-c", TRY, *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode != 0
    assert "KeyError: 'planted'" in done.stdout + done.stderr
    (found,) = (tmp_path / "found").iterdir()
    assert parse_file_signature(found.read_bytes()).type in (3, 6)

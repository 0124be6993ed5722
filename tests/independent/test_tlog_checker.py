"""The checker that knows nothing of us: it passes logs that others published and one of ours, and finds what was done to them."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.independent import tlog_checker
from tests.world.tlog import MemoryLog, plain_key, witness_key
from writ.formats.tlog.note import NoteKey

TESSERA = "audit/transparency-dev_tessera/testdata/log"
TESSERA_KEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
MIRROR = "audit/sunlight/cmd/skylight/testdata/witness/mirror/000de184301123b9278c086a7d9f68c9577e83872224c197058fd90784ea9706"
MIRROR_KEY = "mirror.example.org+3fb148ef+BAAjjch9GyYz0sJsJx7ALhbdAtz2ov0unbzSl1vMp94O"

LOG = MemoryLog([b"%d" % number for number in range(700)])
KEY = str(plain_key())


def ran(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The checker as a program, with nothing of this tree to import."""
    return subprocess.run(
        [sys.executable, "-I", tlog_checker.__file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        check=False,
    )


def test_nothing_of_ours_is_imported() -> None:
    tree = ast.parse(Path(tlog_checker.__file__).read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in named} <= set(sys.stdlib_module_names) | {"cryptography"}


@pytest.mark.parametrize("size", range(16))
def test_every_size_of_a_published_log_holds(vectors: Path, tmp_path: Path, size: int) -> None:
    shutil.copytree(vectors / TESSERA, tmp_path / "log")
    shutil.copyfile(vectors / TESSERA / f"checkpoint.{size}", tmp_path / "log/checkpoint")
    assert f": {size} entries, 31 files, {2 * (15 - size)} of them of a later size" in tlog_checker.check(tmp_path / "log", TESSERA_KEY)


def test_the_program_says_what_it_verified_and_what_it_found(vectors: Path) -> None:
    done = ran(vectors / TESSERA, TESSERA_KEY)
    assert (done.returncode, done.stdout.split(",")[0]) == (0, "example.com/log/testdata: 15 entries"), done.stderr
    done = ran(vectors / TESSERA, KEY)
    assert (done.returncode, done.stderr) == (1, f"found: the checkpoint has no signature by {plain_key().name}\n")


def test_a_published_mirror_holds_but_its_entries_are_not_those_of_its_tiles(vectors: Path) -> None:
    """Sunlight's test data has 300 real leaf hashes, and texts in the place of entry bundles."""
    done = ran(vectors / MIRROR, MIRROR_KEY, "--tiles-only")
    assert (done.returncode, done.stdout.split(", root")[0]) == (
        0,
        "rome2026h1.example.org: 300 entries, 4 files, 0 of them of a later size",
    )
    assert ran(vectors / MIRROR, MIRROR_KEY).returncode == 1


def test_a_log_of_ours_holds(tmp_path: Path) -> None:
    LOG.write(tmp_path, witnesses=["w1"])
    for key in (KEY, str(witness_key("w1"))):
        assert tlog_checker.check(tmp_path, key).startswith(f"{LOG.origin}: 700 entries, 8 files, 0 of them")
    for size in (0, 1, 255, 256, 257, 512, 65_537):
        MemoryLog([b"%d" % number for number in range(size)]).write(tmp_path / str(size))
        assert f": {size} entries," in tlog_checker.check(tmp_path / str(size), KEY)


FILES = ("tile/0/000", "tile/0/001", "tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/000", "tile/entries/001", "tile/entries/002.p/188")


@pytest.mark.parametrize("file", [*FILES, "checkpoint"])
def test_every_file_of_a_log_of_ours_counts(tmp_path: Path, file: str) -> None:
    LOG.write(tmp_path)
    assert {one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*") if one.is_file()} == {*FILES, "checkpoint"}
    whole = (tmp_path / file).read_bytes()
    for data in (whole[:-1], whole + b"x", whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:], bytes([whole[0] ^ 1]) + whole[1:], b""):
        (tmp_path / file).write_bytes(data)
        with pytest.raises((ValueError, IndexError)):
            tlog_checker.check(tmp_path, KEY)
    (tmp_path / file).unlink()
    with pytest.raises((ValueError, OSError)):
        tlog_checker.check(tmp_path, KEY)


def _refused(folder: Path, key: str = KEY) -> str:
    with pytest.raises(ValueError) as caught:
        tlog_checker.check(folder, key)
    return str(caught.value)


def test_what_was_signed_for_another_log_size_or_key_is_found(tmp_path: Path) -> None:
    LOG.write(tmp_path)
    assert _refused(tmp_path, str(plain_key("other"))) == "the checkpoint has no signature by other"
    renamed = NoteKey("other", 1, plain_key().key)
    assert "no signature by other" in _refused(tmp_path, str(renamed))
    assert "its id is another's" in _refused(tmp_path, KEY.replace("log.example", "lug.example"))
    text = (tmp_path / "checkpoint").read_text()
    (tmp_path / "checkpoint").write_text(text.replace("\n700\n", "\n699\n"))
    assert "does not hold" in _refused(tmp_path)
    altered = MemoryLog([b"another", *LOG.entries[1:]])
    altered.write(tmp_path)
    (tmp_path / "checkpoint").write_text(text)
    assert _refused(tmp_path) == "the root that was signed is not that of the tiles"
    exchanged = MemoryLog([*LOG.entries[:5], LOG.entries[6], LOG.entries[5], *LOG.entries[7:]])
    LOG.write(tmp_path)
    exchanged.write(tmp_path / "x")
    shutil.copyfile(tmp_path / "x/tile/entries/000", tmp_path / "tile/entries/000")
    assert _refused(tmp_path) == "tile/entries/000 is not what tile/0/000 says"


def test_a_file_of_another_size_must_agree_and_a_stranger_is_found(tmp_path: Path) -> None:
    LOG.write(tmp_path)
    (tmp_path / "tile/0/002.p").mkdir(exist_ok=True)
    (tmp_path / "tile/0/002.p/7").write_bytes(b"".join(LOG.leaves[512:519]))
    assert "9 files, 0 of them of a later size" in tlog_checker.check(tmp_path, KEY)
    (tmp_path / "tile/0/002.p/7").write_bytes(b"".join(LOG.leaves[513:520]))
    assert _refused(tmp_path) == "tile/0/002.p/7 says something else than the log of 700"
    (tmp_path / "tile/0/002.p/7").rename(tmp_path / "tile/0/0002")
    assert _refused(tmp_path) == "tile/0/0002 is no path of a tile"

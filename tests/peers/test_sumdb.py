"""A log of ours read by code that nobody here wrote: sumdb/note and sumdb/tlog, out of the Go tool itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.peers.conftest import go
from tests.world.tlog import MemoryLog, plain_key
from writ.formats.tlog.tile import consistency_from, inclusion_from

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

PROGRAM = Path(__file__).parent / "verifiers/tlog"
LOG = MemoryLog([b"entry %d" % number for number in range(700)])


@pytest.fixture(scope="module")
def sumdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled with the packages that the Go tool has of its own. Nobody is asked for anything."""
    place = tmp_path_factory.mktemp("sumdb")
    shutil.copytree(PROGRAM, place / "source")
    module = go().parents[1] / "src/cmd/vendor/golang.org/x/mod/sumdb"
    for name in ("note", "tlog"):
        shutil.copytree(module / name, place / "source/mod/sumdb" / name)
    (place / "source/mod/go.mod").write_text("module golang.org/x/mod\n\ngo 1.25\n")
    env = {
        "PATH": os.environ["PATH"], "HOME": str(place), "GOROOT": str(go().parents[1]), "GOCACHE": str(place / "cache"),
        "GOPATH": str(place / "path"), "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "-mod=mod", "GOTELEMETRY": "off",
        "CGO_ENABLED": "0", "GONOSUMDB": "*", "GOSUMDB": "off",
    }  # fmt: skip
    done = subprocess.run(
        [go(), "build", "-o", place / "sumdb", "."], cwd=place / "source", env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return place / "sumdb"


def read(sumdb: Path, folder: Path, proofs: str = "", key: str = "") -> tuple[int, str]:
    done = subprocess.run([sumdb, folder, key or str(plain_key())], input=proofs, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("size", [1, 2, 5, 255, 256, 257, 700, 65_793])
def test_a_log_of_ours_is_read_entry_by_entry_and_its_proofs_are_those_of_sumdb(sumdb: Path, tmp_path: Path, size: int) -> None:
    log = MemoryLog([b"%d" % number for number in range(size)])
    log.write(tmp_path, witnesses=["w1"])
    near = sorted(at for at in {0, 1, 3, 254, 255, 256, 511, 65_535, 65_536, size // 2, size - 1} if at < size)
    told = [("record", at, inclusion_from(log.tile, at, size)) for at in near]
    told += [("tree", at, consistency_from(log.tile, at, size)) for at in [*near, size] if at]
    lines = "".join(f"{word} {at} {' '.join(one.hex() for one in proof)}\n" for word, at, proof in told)
    assert read(sumdb, tmp_path, lines) == (0, f"{size} entries, {len(told)} proofs")


def test_a_log_that_was_altered_is_not_read(sumdb: Path, tmp_path: Path) -> None:
    LOG.write(tmp_path)
    assert read(sumdb, tmp_path)[0] == 0
    assert read(sumdb, tmp_path, key=str(plain_key("another")))[0] == 1
    for file in ("checkpoint", "tile/0/001", "tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/001"):
        whole = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        assert read(sumdb, tmp_path)[0] != 0, file
        (tmp_path / file).write_bytes(whole)
    proof = " ".join(one.hex() for one in inclusion_from(LOG.tile, 5, 700))
    assert read(sumdb, tmp_path, f"record 5 {proof}\n") == (0, "700 entries, 1 proofs")
    assert read(sumdb, tmp_path, f"record 6 {proof}\n")[0] == 1

"""Engines of other versions: recorded as wheels, found by the digest of their sources, and run where they can do nothing but answer."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from auditor import engines
from auditor.__main__ import main
from auditor.engines import LIBRARIES, Engines, confined, record_engine, unpack_engine
from auditor.replay.decisions import Replay, Summary
from writ.formats.archive import parse_archive
from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError, Unavailable
from writ.formats.rerun import Rerun
from writ.formats.trust import parse_trust
from writ.service import engine_id
from writ.service.engine_id import tree_digest
from writ.verdict.engine import ENGINE

ROOT = Path(__file__).parents[2]
ASKED = Rerun("enrol", b"decision", {"evidence": b"", "trust": b""})
EMPTY = {"writ/formats/__init__.py": "", "writ/verdict/__init__.py": ""}
PROBE = """
import json, os, socket, subprocess, sys, threading
from writ.formats.rerun import Made, encode_made

def tried(what):
    try:
        return repr(what())
    except Exception as error:
        return type(error).__name__

def threaded():
    done = []
    thread = threading.Thread(target=lambda: done.append("ran"))
    thread.start()
    thread.join()
    return done

def facts():
    return {
        "connects": tried(lambda: socket.create_connection(("127.0.0.1", PORT), 2)),
        "reads": tried(lambda: open(SECRET).read()),
        "writes": {name: tried(lambda: open(name + "/x", "w")) for name in ("/", "/home", "/engine", "/usr", "/tmp", "/dev")},
        "home": [os.environ.get("HOME"), tried(lambda: os.listdir(os.path.expanduser("~")))],
        "environment": sorted(os.environ),
        "root": sorted(os.listdir("/")),
        "path": sys.path,
        "flags": [sys.flags.isolated, sys.flags.no_site],
        "roots": tried(lambda: os.chroot("/home")),
        "processes": tried(lambda: os.kill(PID, 0)),
        "forks": [tried(os.fork), tried(lambda: subprocess.run(["/usr/bin/true"]))],
        "threads": tried(threaded),
    }

class Reruns:
    def answer(self, message):
        DO
        return encode_made(Made(json.dumps(facts()).encode()))
"""


def wheel(file: Path, files: Mapping[str, str | bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return file


def sources(root: Path = ROOT) -> dict[str, str | bytes]:
    found = [path for room in ("formats", "verdict") for path in (root / "writ" / room).rglob("*.py")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def kept(tmp_path: Path, files: Mapping[str, str | bytes]) -> tuple[EngineId, Engines]:
    """A folder of engines with one of these sources."""
    made = wheel(tmp_path / "made" / "writ-9-py3-none-any.whl", files)
    tree, place = record_engine([made], tmp_path / "engines")
    assert place == tmp_path / "engines" / tree.value.hex()
    return EngineId(ENGINE, tree, ()), Engines(tmp_path / "engines", {tree})


def probe(**words: object) -> dict[str, str | bytes]:
    """An engine that says where it is, instead of deciding."""
    text = PROBE
    for name, value in {"PORT": 1, "SECRET": "/none", "PID": 1, "DO": "pass", **words}.items():
        text = text.replace(name, value if name == "DO" else repr(value))  # type: ignore[arg-type]
    return {**sources(), "writ/verdict/replay.py": text}


def asked(engine: EngineId, among: Engines, count: int = 1) -> list[Any]:
    return list(among.ask(engine, [ASKED] * count))


# --- the engine before this one -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an engine of another number recorded, whose actions see a context that is one second older; `wheel` is it, as built."""
    place = tmp_path_factory.mktemp("previous")
    tree = place / "tree"
    for name in ("writ", "attestor", "verifier", "enforcer", "auditor"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "hatch_build.py", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    change(tree / "writ/verdict/engine.py", "ENGINE: Final = 1", "ENGINE: Final = 0")
    change(tree / "writ/verdict/decide.py", "return max(0, now - claims.issued_at)", "return max(0, now - claims.issued_at) + 1")
    change(tree / "writ/verdict/issue.py", "+ bundle.settings.token_life\n", "+ bundle.settings.token_life - 1\n")
    record = [sys.executable, "-m", "tests.world.recorded", "1", str(place)]
    env = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{ROOT}"}
    subprocess.run(record, cwd=place, env=env, check=True)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "wheel")], cwd=tree, check=True)
    return place


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def replay(place: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["replay", str(place / "verifier"), str(place / "enforcer"), "--trust", str(place / "trust"), "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def test_previous_engines_decisions_are_made_again_by_its_wheel(previous: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = replay(previous, capsys)
    assert (code, told["verdict"]) == (3, "incomplete"), "this engine does not answer for another"
    assert (told["counts"]["not replayed"], told["counts"]["identical"]) == (91, 0)
    code, told = replay(previous, capsys, "--engines", str(tmp_path))
    assert (code, told["counts"]["not replayed"]) == (3, 91), "a folder without it is no better"

    (built,) = (previous / "wheel").glob("*.whl")
    assert main(["engine", str(built), "--engines", str(tmp_path), "--json"]) == 0
    named = json.loads(capsys.readouterr().out)
    assert named["tree"] == str(tree_digest(previous / "tree"))
    code, told = replay(previous, capsys, "--engines", str(tmp_path))
    assert (code, told["counts"]["not replayed"], told["engines"]) == (3, 91, []), "it is there, and nobody accepted it"
    assert f"--accept-engine {named['tree']}" in told["decisions"][0]["reasons"][0]["got"]
    code, told = replay(previous, capsys, "--engines", str(tmp_path), "--accept-engine", named["tree"], "--explain")
    assert told["engines"] == [f"engine 0 {named['tree']} (its recorded wheel, confined): 91 decisions"]
    assert (code, told["verdict"], told["counts"]["identical"]) == (0, "accepted", 91)
    steps = {one["steps"][2] for one in told["decisions"] if one["outcome"] == "identical"}
    assert steps == {f"3. engine 0 {named['tree']}: its recorded wheel, confined"}


def test_it_was_that_engine_and_not_this_one(previous: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under the previous one's name lies this one: it is not run at all. And were it run, it would decide otherwise."""
    tree = tree_digest(previous / "tree")
    place = tmp_path / tree.value.hex()
    wheel(place / "writ-9-py3-none-any.whl", sources())
    code, told = replay(previous, capsys, "--engines", str(tmp_path), "--accept-engine", str(tree))
    assert (code, told["counts"]["not replayed"]) == (3, 91)
    assert f"got {tree_digest(ROOT)}" in told["decisions"][0]["reasons"][0]["got"]

    archive = parse_archive((previous / "verifier").read_bytes()).merged(parse_archive((previous / "enforcer").read_bytes()))
    as_if = EngineId(ENGINE, tree, ())
    summary = Summary()
    for one in Replay(archive, parse_trust((previous / "trust").read_bytes()), Engines(None), as_if).judged():
        summary.add(one)
    assert summary.exit_code == 1
    assert summary.counts["differing"] == 91


# --- what it may do -----------------------------------------------------------------------------------------------------------


def test_engine_sees_no_network_no_files_and_no_home_and_writes_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the auditor")
    with socket.create_server(("127.0.0.1", 0)) as server:
        engine, among = kept(tmp_path, probe(PORT=server.getsockname()[1], SECRET=str(secret), PID=os.getpid()))
        os.environ["WRIT_PROBE"] = "seen"
        try:
            ((made,),) = asked(engine, among)
        finally:
            del os.environ["WRIT_PROBE"]
    told = json.loads(made.data)
    assert told["connects"] in ("ConnectionRefusedError", "OSError")
    assert told["reads"] == "FileNotFoundError"
    assert set(told["writes"].values()) <= {"OSError", "FileNotFoundError", "PermissionError"}, told["writes"]
    assert told["home"] == ["/home", "[]"]
    assert set(told["environment"]) <= {"HOME", "PWD", "LC_CTYPE"}
    assert set(told["root"]) <= {"usr", "lib", "lib64", "bin", "etc", "dev", "home", "engine", Path(sys.base_prefix).parts[1]}
    assert told["path"][-1] == "/engine"
    assert not [one for one in told["path"] if "site-packages" in one or str(ROOT) in one]
    assert told["flags"] == [1, 1]
    assert told["roots"] == "PermissionError", "it has no capability"
    assert told["processes"] == "ProcessLookupError"
    assert told["forks"] == ["PermissionError", "PermissionError"], "it is one process, and stays one"
    assert told["threads"] == "['ran']"


ANSWERED = "import cbor2; sys.stdout.buffer.write(cbor2.dumps({})); sys.stdout.flush(); os._exit({})"


@pytest.mark.parametrize(
    "does",
    [
        "bytearray(8 << 30)", "while True: pass", "import time; time.sleep(30)", "sys.exit(0)", "os.abort()",
        "[print('x' * (1 << 20)) for _ in range(64)]", "return b'no'",
        ANSWERED.format("[]", 0), ANSWERED.format("[encode_made(Made(b'a'))] * 2", 0), ANSWERED.format("[encode_made(Made(b'a'))]", 1),
    ],
)  # fmt: skip
def test_an_engine_that_gives_no_whole_answer_replays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    monkeypatch.setattr(engines, "SECONDS", 3)
    monkeypatch.setattr(engines, "MAX_ANSWERS", 1 << 20)
    engine, among = kept(tmp_path, probe(DO=does))
    (one,) = asked(engine, among)
    assert isinstance(one, Unavailable)


def test_bounds_are_set_before_the_engine_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "MEMORY", 3 << 30)
    look = "import resource; return encode_made(Made(repr([resource.getrlimit(getattr(resource, 'RLIMIT_' + n)) for n in NAMES]).encode()))"
    names = ("AS", "CPU", "FSIZE", "CORE", "NOFILE")
    engine, among = kept(tmp_path, probe(DO=look.replace("NAMES", repr(names))))
    ((made,),) = asked(engine, among)
    assert made.data == repr([(n, n) for n in (3 << 30, engines.SECONDS, engines.MAX_ANSWERS, 0, 64)]).encode()


def test_command_has_no_network_and_one_folder() -> None:
    command = confined(Path("/somewhere"), 9)
    assert command[1:4] == ["--unshare-all", "--die-with-parent", "--new-session"]
    assert "--share-net" not in command
    assert [command[at + 1 :][0] for at, word in enumerate(command) if word in ("--bind", "--dev-bind")] == []


def test_an_engine_is_what_its_sources_say_it_is(tmp_path: Path) -> None:
    """The number beside the digest in a decision is a label; the sources have one of their own."""
    engine, among = kept(tmp_path, probe())
    with pytest.raises(FormatError) as error:
        asked(EngineId(engine.number + 1, engine.tree, ()), among)
    assert (error.value.expected, error.value.got) == (str(ENGINE), str(ENGINE + 1))


def test_an_engine_that_nobody_accepted_is_not_run(tmp_path: Path) -> None:
    engine, _ = kept(tmp_path, probe())
    among = Engines(tmp_path / "engines", {Digest.of(b"another")})
    assert "nobody accepted it" in (among.lacks(engine) or "")


# --- what it is taken from --------------------------------------------------------------------------------------------------------


def test_nothing_that_the_digest_does_not_cover_is_taken_from_the_wheel(tmp_path: Path) -> None:
    more: dict[str, str | bytes] = {
        "writ/__init__.py": "1 / 0",
        "writ/verdict/decide.so": b"\x7fELF",
        "writ/verdict/__pycache__/decide.cpython-311.pyc": b"",
        "cbor2.py": "1 / 0",
        "auditor/__init__.py": "1 / 0",
        "x.pth": "import os",
    }
    made = wheel(tmp_path / "writ-9-py3-none-any.whl", {**EMPTY, **more})
    tree, place = record_engine([made], tmp_path / "engines")
    into = tmp_path / "into"
    into.mkdir()
    unpack_engine(place, tree, into)
    assert (into / "writ/__init__.py").read_bytes() == b""
    left = {path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file()}
    assert not left & (more.keys() - {"writ/__init__.py"})
    assert tree_digest(into) == tree
    assert {"cbor2", "cedarpy", "cffi", "cryptography"} <= {one.partition("/")[0] for one in left}


def test_a_wheel_that_was_altered_is_no_engine(tmp_path: Path) -> None:
    engine, among = kept(tmp_path, probe())
    wheel(tmp_path / "engines" / engine.tree.value.hex() / "writ-9-py3-none-any.whl", probe(DO="x = 1"))
    with pytest.raises(FormatError) as error:
        asked(engine, among)
    assert (error.value.expected, error.value.got[:7]) == (f"the engine {engine.tree}", "sha256:")


def test_a_second_release_with_the_same_engine_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    first = wheel(tmp_path / "writ-1-py3-none-any.whl", {**EMPTY, "auditor/a.py": "1"})
    second = wheel(tmp_path / "writ-2-py3-none-any.whl", {**EMPTY, "auditor/a.py": "2"})
    tree, place = record_engine([first], tmp_path / "engines")
    assert record_engine([second], tmp_path / "engines") == (tree, place)
    assert [one.name for one in place.iterdir()] == [first.name]
    (tmp_path / "into").mkdir()
    unpack_engine(place, tree, tmp_path / "into")


def test_libraries_beside_it_come_before_the_auditors_own_and_lie_over_nothing(tmp_path: Path) -> None:
    engine_wheel = wheel(tmp_path / "writ-9-py3-none-any.whl", EMPTY)
    library = wheel(tmp_path / "cbor2-5.0-py3-none-any.whl", {"cbor2.py": "VERSION = 5"})
    tree, place = record_engine([engine_wheel, library], tmp_path / "engines")
    into = tmp_path / "into"
    into.mkdir()
    unpack_engine(place, tree, into)
    assert (into / "cbor2.py").read_text() == "VERSION = 5"
    assert not (into / "cbor2").exists()
    for bad in ("writ/verdict/decide.py", "../out.py", "/out.py", "cbor2-5.0.data/scripts/x", "cbor2.py"):
        files = {"cbor2.py": ""} if bad == "cbor2.py" else {bad: ""}
        wheel(place / "more-1-py3-none-any.whl", files)
        fresh = tmp_path / f"fresh-{Digest.of(bad.encode()).value.hex()[:8]}"
        fresh.mkdir()
        with pytest.raises(FormatError):
            unpack_engine(place, tree, fresh)
    assert not (tmp_path / "out.py").exists()


def test_what_is_no_engine_is_not_recorded(tmp_path: Path) -> None:
    library = wheel(tmp_path / "cbor2-5.0-py3-none-any.whl", {"cbor2.py": ""})
    (tmp_path / "writ-1-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(FormatError):
        record_engine([library], tmp_path / "engines")
    with pytest.raises(FormatError):
        record_engine([tmp_path / "writ-1-py3-none-any.whl"], tmp_path / "engines")
    with pytest.raises(Unavailable):
        record_engine([tmp_path / "writ-2-py3-none-any.whl"], tmp_path / "engines")
    assert not (tmp_path / "engines").exists()


def test_sources_without_end_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "MAX_SOURCES", 10)
    with pytest.raises(FormatError):
        record_engine([wheel(tmp_path / "writ-9-py3-none-any.whl", {"writ/formats/a.py": "#" * 11})], tmp_path / "engines")


def test_batches_are_answered_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BATCH", 2)
    engine, among = kept(tmp_path, probe(DO="self.n = getattr(self, 'n', 0) + 1; return encode_made(Made(bytes([self.n])))"))
    assert [[one.data for one in batch] for batch in asked(engine, among, 5)] == [[b"\1", b"\2"], [b"\1", b"\2"], [b"\1"]]
    monkeypatch.setattr(engines, "MAX_BATCH", 1)
    assert len(asked(engine, among, 3)) == 3


def test_without_bubblewrap_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BWRAP", str(tmp_path / "none"))
    engine, among = kept(tmp_path, probe())
    (one,) = asked(engine, among)
    assert isinstance(one, Unavailable)
    assert "bubblewrap" in one.detail


def test_libraries_are_those_that_an_engine_names() -> None:
    assert set(engine_id._LIBRARIES) < set(LIBRARIES)  # noqa: SLF001 - cffi lies under cryptography, and has no part in a verdict

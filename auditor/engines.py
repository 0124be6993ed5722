"""Engines of other versions, recorded as wheels and run confined: what was decided by one is decided again by that one.

    DIR/TREE/       TREE is `EngineId.tree` in hex: the digest of the engine's own sources
      writ-….whl    these sources are taken from it, and nothing else of it
      ….whl         libraries under it; what is not here is taken from where the auditor itself is installed

Before its code runs the sources are digested again and must be TREE: a wheel that was altered, or lies under another name, is none.
But any code has a digest, and an engine is handed what was recorded: one that says it again replays everything. So the auditor names the
engines that he accepts, by digests that he has from a release and not from whoever recorded. Libraries have no such digest in a decision,
only versions: who puts them there is trusted with them.

The engine runs in a sandbox of bubblewrap: no network, none of the auditor's files but the interpreter and its libraries, all of it read
only, an empty home, its own processes, and bounds on time, memory and output. It is asked and answers in `writ.formats.rerun`, by standard
input and output. It is one process: a filter on system calls lets it make threads and nothing else.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final
from zipfile import BadZipFile, ZipFile

from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.rerun import Made, Rerun, encode_rerun, parse_made
from writ.formats.strict import decode_cbor, encode_cbor
from writ.service.engine_id import tree_digest

BWRAP: Final = "/usr/bin/bwrap"
SECONDS: Final = 600
"""Of the wall clock, and of the processor, for one batch."""
MEMORY: Final = 4 << 30
MAX_ANSWERS: Final = 256 << 20
BATCH: Final = 1000
MAX_BATCH: Final = 192 << 20
"""Bytes of one batch, unless a single question is larger."""
MAX_SOURCES: Final = 32 << 20
MAX_LIBRARIES: Final = 512 << 20
LIBRARIES: Final = ("cbor2", "cedarpy", "cffi", "cryptography")
"""Distributions that an engine needs."""
_SOURCE = re.compile(r"writ/(?:formats|verdict)/(?:[A-Za-z0-9_]+/)*[A-Za-z0-9_]+\.py\Z")
_NUMBER = re.compile(r"^ENGINE: Final = ([0-9]+)$", re.ASCII | re.MULTILINE)

_INSIDE: Final = """
import resource, sys
seconds, memory, output = map(int, sys.argv[1:])
for what, most in (("AS", memory), ("CPU", seconds), ("FSIZE", output), ("CORE", 0), ("NOFILE", 64)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + what), (most, most))
sys.path.append("/engine")
sys.dont_write_bytecode = True
import cbor2
from writ.verdict.replay import Reruns
answer = Reruns().answer
answers = [answer(one) for one in cbor2.loads(sys.stdin.buffer.read())]
sys.stdout.buffer.write(cbor2.dumps(answers))
"""
"""What the interpreter is given: it binds itself before the first line of the engine is read."""


class Engines:
    """The engines in a folder, each unpacked when it is first asked and run once for each batch."""

    def __init__(self, folder: Path | None, accepted: Collection[Digest] = ()) -> None:
        """`folder` None: there are none. Only those whose sources have a digest in `accepted` are run."""
        self._folder, self._accepted = folder, accepted

    def lacks(self, engine: EngineId) -> str | None:
        """Why nothing can be asked of `engine`; None where it is there. Says nothing of whether it works."""
        if self._folder is None:
            return "no --engines"
        if not self._place(engine).is_dir():
            return f"no {engine.tree.value.hex()} in --engines"
        return (
            None
            if engine.tree in self._accepted
            else f"nobody accepted it; whoever knows that it is a release: --accept-engine {engine.tree}"
        )

    def _place(self, engine: EngineId) -> Path:
        if self._folder is None:
            raise Misuse("no folder of engines")
        return self._folder / engine.tree.value.hex()

    def ask(self, engine: EngineId, reruns: Sequence[Rerun]) -> Iterator[tuple[Made, ...] | Unavailable]:
        """What `engine` makes of each, batch by batch and in order; Unavailable for a batch that it gave no whole answer to.

        Raises FormatError for a wheel that is not this engine, Unavailable where no engine can be run here.
        """
        with tempfile.TemporaryDirectory(prefix="writ-engine-") as place:
            unpack_engine(self._place(engine), engine.tree, Path(place))
            if (got := number_of(Path(place))) != str(engine.number):
                raise FormatError("engine number", got, str(engine.number))
            for batch in _batches(reruns):
                try:
                    yield tuple(map(parse_made, _run(Path(place), batch)))
                except FormatError as error:
                    yield Unavailable("engine", str(error))
                except Unavailable as error:
                    yield error


def record_engine(wheels: Sequence[Path], folder: Path) -> tuple[Digest, Path]:
    """The engine in the one wheel of Writ among `wheels`, and its place in `folder`, where all of them now lie.

    Where a wheel with just this engine lies there already (two releases may share one) it stays with its libraries, and nothing is added.
    Raises FormatError for what is no such wheel, Unavailable.
    """
    engines = [wheel for wheel in wheels if wheel.name.startswith("writ-")]
    if len(engines) != 1:
        raise FormatError("wheels", "one of writ, and its libraries", f"{len(engines)} of writ")
    with tempfile.TemporaryDirectory(prefix="writ-engine-") as place:
        _sources(engines[0], Path(place))
        tree = tree_digest(Path(place))
    into = folder / tree.value.hex()
    try:
        if any(one.name != engines[0].name for one in into.glob("writ-*.whl")):
            return tree, into
        into.mkdir(parents=True, exist_ok=True)
        for wheel in sorted(wheels, key=lambda wheel: wheel in engines):  # the engine last: it says that the others are there
            shutil.copyfile(wheel, into / wheel.name)
    except OSError as error:
        raise Unavailable("--engines", f"{into}: {error.strerror or 'cannot be written'}") from None
    return tree, into


def unpack_engine(kept: Path, tree: Digest, into: Path) -> None:
    """`into` holds the sources of the engine `tree` and libraries, and nothing else. Raises FormatError, Unavailable.

    1. There is one wheel of Writ; of it come the sources of `formats` and `verdict`.
    2. They are the engine that decided: their digest is `tree`.
    3. Libraries come from wheels beside it; those that lack, from the auditor's own.
    """
    # 1
    wheels = sorted(kept.glob("*.whl"))
    engines = [wheel for wheel in wheels if wheel.name.startswith("writ-")]
    if len(engines) != 1:
        raise FormatError(str(kept), "one wheel of writ", f"{len(engines)}")
    _sources(engines[0], into)
    # 2
    if (got := tree_digest(into)) != tree:
        raise FormatError(engines[0].name, f"the engine {tree}", str(got))
    # 3
    beside = [wheel for wheel in wheels if wheel not in engines]
    for wheel in beside:
        _library(wheel, into)
    there = {wheel.name.partition("-")[0].lower() for wheel in beside}
    for name in LIBRARIES:
        if name not in there:
            _own(name, into)


def number_of(engine: Path) -> str:
    """The number that unpacked sources give themselves; nothing where they give none."""
    try:
        found = _NUMBER.search((engine / "writ" / "verdict" / "engine.py").read_text("utf-8"))
    except (FileNotFoundError, UnicodeDecodeError):
        return "none"
    return found[1] if found else "none"


def _sources(wheel: Path, into: Path) -> None:
    """Nothing that the digest does not cover: no compiled code, no bytecode, and of `writ` itself an empty module."""
    left = MAX_SOURCES
    with _zip(wheel) as archive:
        for info in archive.infolist():
            if not _SOURCE.match(info.filename):
                continue
            left -= info.file_size
            if left < 0:
                raise FormatError(wheel.name, f"at most {MAX_SOURCES} bytes of sources", "more")
            archive.extract(info, into)
    (into / "writ").mkdir(exist_ok=True)
    (into / "writ" / "__init__.py").write_bytes(b"")


def _library(wheel: Path, into: Path) -> None:
    """A library as an installer would lay it out, but over no file that is there. Source: PyPA, "Binary distribution format"."""
    left = MAX_LIBRARIES
    with _zip(wheel) as archive:
        for info in archive.infolist():
            path = PurePosixPath(info.filename)
            left -= info.file_size
            bad = path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0] == "writ" or path.parts[0].endswith(".data")
            if bad or left < 0 or (not info.is_dir() and (into / path).exists()):
                raise FormatError(wheel.name, f"a library of at most {MAX_LIBRARIES} bytes beside writ", info.filename[:100])
            archive.extract(info, into)


@contextmanager
def _zip(wheel: Path) -> Iterator[ZipFile]:
    try:
        with ZipFile(wheel) as archive:
            yield archive
    except (BadZipFile, NotImplementedError, RuntimeError):
        raise FormatError(wheel.name, "a wheel", "no ZIP archive that can be read") from None
    except OSError as error:
        raise Unavailable(f"file {wheel}", error.strerror or "cannot be read") from None


def _own(name: str, into: Path) -> None:
    """The distribution `name` as the auditor has it installed: its modules, not its scripts. Raises Unavailable."""
    try:
        files = metadata.files(name) or []
        for file in files:
            if not file.parts[0].startswith("..") and "__pycache__" not in file.parts:
                (into / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), into / file)
    except metadata.PackageNotFoundError:
        raise Unavailable("engine", f"expected a wheel of {name} beside the engine's, or one installed here; there is neither") from None
    except OSError as error:
        raise Unavailable("engine", f"{name}: {error.strerror or 'cannot be copied'}") from None


def _batches(reruns: Sequence[Rerun]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for rerun in reruns:
        message = encode_rerun(rerun)
        if batch and (len(batch) == BATCH or size + len(message) > MAX_BATCH):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += len(message)
    if batch:
        yield batch


def _run(engine: Path, batch: list[bytes]) -> list[bytes]:
    """The engine's answers, one for each. Files without a name: neither side waits for the other to read, and what it writes is bounded."""
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as faults, alone() as calls:
        asked.write(encode_cbor(batch))
        asked.seek(0)
        command = confined(engine, calls)
        try:
            done = subprocess.run(command, stdin=asked, stdout=told, stderr=faults, timeout=SECONDS, check=False, pass_fds=(calls,))
        except subprocess.TimeoutExpired:
            raise Unavailable("engine", f"no answer within {SECONDS} s") from None
        except OSError as error:
            raise Unavailable("engine", f"{BWRAP}: {error.strerror}; a recorded engine is run in bubblewrap") from None
        if done.returncode != 0:
            faults.seek(max(0, faults.seek(0, os.SEEK_END) - 4096))
            last = faults.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise Unavailable("engine", f"it ended with status {done.returncode}: {last[:200]}")
        told.seek(0)
        answers = decode_cbor(told.read(MAX_ANSWERS + 1), "engine's answers", max_size=MAX_ANSWERS)
    if not isinstance(answers, list) or len(answers) != len(batch) or not all(isinstance(one, bytes) for one in answers):
        raise FormatError("engine's answers", f"{len(batch)} of them", type(answers).__name__)
    return answers


@contextmanager
def alone() -> Iterator[int]:
    """A descriptor of the filter under which a process makes threads and no process. Raises Unavailable on a machine that it is not for.

    1. A call of another architecture, or of x32, ends it.
    2. `fork` and `vfork` are refused, and `clone` without CLONE_THREAD.
    3. `clone3`, whose flags no filter sees, is said not to exist: the C library then asks `clone`.

    Source: Linux, Documentation/userspace-api/seccomp_filter.rst; linux/filter.h, linux/seccomp.h.
    """
    if (machine := platform.machine()) not in _MACHINES:
        raise Unavailable("engine", f"expected a machine of {', '.join(_MACHINES)} to confine it on, got {machine}")
    arch, clone, refused = _MACHINES[machine]
    load, equal, set_, ret = 0x20, 0x15, 0x45, 0x06
    program = [
        (load, 0, 0, 4), (equal, 1, 0, arch), (ret, 0, 0, _KILL),                                # 1
        (load, 0, 0, 0), (set_, 0, 1, _X32), (ret, 0, 0, _KILL),
        *(step for call in refused for step in ((equal, 0, 1, call), (ret, 0, 0, _ERRNO | errno.EPERM))),      # 2
        (equal, 0, 1, _CLONE3), (ret, 0, 0, _ERRNO | errno.ENOSYS),                              # 3
        (equal, 0, 3, clone), (load, 0, 0, 16), (set_, 1, 0, _CLONE_THREAD), (ret, 0, 0, _ERRNO | errno.EPERM),   # 2
        (ret, 0, 0, _ALLOW),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as file:
        file.write(b"".join(struct.pack("=HBBI", *step) for step in program))
        file.seek(0)
        yield file.fileno()


_MACHINES: Final = {"x86_64": (0xC000003E, 56, (57, 58)), "aarch64": (0xC00000B7, 220, ())}
"""By machine its audit architecture, and the numbers of `clone`, and of `fork` and `vfork` where it has them."""
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_X32, _CLONE3, _CLONE_THREAD = 0x40000000, 435, 0x00010000


def confined(engine: Path, calls: int) -> list[str]:
    """The command of an interpreter that sees itself, the system's libraries and `engine`, all read only, and nothing else.

    `calls` is a descriptor of the filter on its system calls. `-I -S`: neither environment nor site-packages say what it imports.
    """
    python = Path(os.path.realpath(sys.executable))
    command = [BWRAP, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    command += ["--setenv", "HOME", "/home", "--ro-bind", "/usr", "/usr"]
    for name in ("/lib", "/lib64", "/bin"):
        command += ["--symlink", f"usr{name}", name] if Path(name).is_symlink() else ["--ro-bind-try", name, name]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for prefix in dict.fromkeys((Path(sys.base_prefix), python.parent.parent)):
        if not prefix.is_relative_to("/usr"):
            command += ["--ro-bind", str(prefix), str(prefix)]
    command += ["--dev", "/dev", "--dir", "/home", "--ro-bind", str(engine), "/engine"]
    command += ["--seccomp", str(calls), "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/home"]
    return [*command, "--", str(python), "-I", "-S", "-c", _INSIDE, str(SECONDS), str(MEMORY), str(MAX_ANSWERS)]

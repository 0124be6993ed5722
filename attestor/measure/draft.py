"""A manifest proposed from one run of a program: what it read is what it is made of.

The program runs as it is, with one addition that needs nothing installed: a
`sitecustomize` in front of PYTHONPATH whose audit hook writes down each file
that Python opens for reading or imports, in children too; and, for what is not
Python, the executables and libraries that /proc/PID/maps shows. A Python that
is started with -I or -E, and what another language reads, is not seen: a draft
is a proposal for a person to complete, and says so at its top.

What it writes: an image of the system's programs and libraries that ran, with
Python's standard library; the interpreter; each site-packages as `packages`;
Python files as `code`; and single files as `prompts`, `tools` or `weights` by
their names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestor.measure.closure import CACHES, image_of
from writ.formats.errors import Refused, Unavailable
from writ.formats.manifest import ComponentSpec, Manifest, encode_manifest
from writ.formats.reason import Reason
from writ.formats.tree import ComponentKind

_SUFFIXES: Final[dict[ComponentKind, tuple[str, ...]]] = {
    "weights": (".safetensors", ".gguf", ".onnx", ".pt", ".pth", ".bin", ".ckpt"),
    "prompts": (".txt", ".md", ".jinja", ".jinja2", ".j2", ".prompt"),
    "tools": (".json", ".toml", ".yaml", ".yml"),
}
_SYSTEM: Final = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib/", "/lib64/", "/bin/", "/run/")
_SAMPLE_SECONDS: Final = 0.05
_MOST_FILES: Final = 100_000

_HOOK: Final = """
import os, sys
_out = os.open(os.environ["WRIT_DRAFT_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
def _note(event, arguments):
    if event != "open" or not isinstance(arguments[0], (str, bytes)):
        return
    mode, flags = arguments[1], arguments[2]
    if flags is not None and flags & (os.O_WRONLY | os.O_RDWR) or isinstance(mode, str) and set(mode) & set("wax+"):
        return
    try:
        os.write(_out, os.path.realpath(os.fsencode(arguments[0])) + b"\\0")
    except OSError:
        pass
os.write(_out, b"python:" + os.path.realpath(os.fsencode(sys.executable)) + b"\\0")
sys.addaudithook(_note)
"""


@dataclass(frozen=True, slots=True)
class Traced:
    """What one run was seen to read; paths are real. `python` are the interpreters that reported themselves."""

    read: frozenset[Path]
    executed: frozenset[Path]
    python: frozenset[Path]
    status: int


def trace(command: tuple[str, ...]) -> Traced:
    """Run `command` to its end, its output on our standard error, and note what it reads. Raises Unavailable if it cannot start."""
    # WRIT_DRAFT_TRACE reaches the hook in every child that inherits its environment.
    with tempfile.TemporaryDirectory(prefix="writ-draft-") as folder:
        room, report = Path(folder), Path(folder) / "read"
        (room / "sitecustomize.py").write_text(_HOOK)
        path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH", ""))))
        environment = {**os.environ, "PYTHONPATH": path, "WRIT_DRAFT_TRACE": str(report), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            running = subprocess.Popen(command, env=environment, stdout=sys.__stderr__)
        except OSError as error:
            raise Unavailable("draft", f"cannot run {command[0]!r}: {error.strerror}") from None
        executed: set[Path] = set()
        while running.poll() is None:
            executed |= _mapped(running.pid)
            time.sleep(_SAMPLE_SECONDS)
        lines = [os.fsdecode(line) for line in report.read_bytes().split(b"\0")[:_MOST_FILES] if line] if report.exists() else []
        python = frozenset(Path(line.removeprefix("python:")) for line in lines if line.startswith("python:"))
        read = frozenset(Path(line) for line in lines if line.startswith("/") and not line.startswith(folder) and Path(line).is_file())
        return Traced(read, frozenset(executed), python, running.returncode)


def _mapped(pid: int) -> set[Path]:
    """Executable mappings of a process: its program and its libraries."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:  # it ended just now
        return set()
    mappings = [fields for fields in (line.split(None, 5) for line in lines) if len(fields) == 6]
    return {Path(fields[5]) for fields in mappings if "x" in fields[1] and fields[5].startswith("/")}


def draft(command: tuple[str, ...], traced: Traced, directory: Path, *, agent: str, namespace: str) -> bytes:
    """The proposed manifest as TOML, its sources relative to `directory` where they lie below it.

    Raises Refused where the run read nothing that could be a component.
    """
    program = shutil.which(command[0])
    interpreter = next(iter(sorted(traced.python)), Path(program).resolve() if program and _is_system(Path(program).resolve()) else None)
    parts: list[ComponentSpec] = []
    if interpreter is not None:
        parts.append(ComponentSpec("interpreter", "interpreter", str(interpreter), ()))
    needed = {path for path in traced.executed | traced.python if _is_system(path)}
    standard = {Path(sysconfig.get_path(place)).resolve() for place in ("stdlib", "platstdlib")} if traced.python else set()
    if needed:
        parts.append(image_of(sorted(needed), sorted(standard)))
    libraries = sorted({root for path in traced.read if (root := _site_packages(path)) is not None})
    parts += [ComponentSpec(_numbered("packages", at), "packages", _source(root, directory), CACHES) for at, root in enumerate(libraries)]
    own = sorted(path for path in traced.read | traced.executed if not _is_system(path) and _site_packages(path) is None)
    roots = _common(path for path in own if path.suffix == ".py")
    roots += [p for p in own if p in traced.executed and p not in traced.python and not any(p.is_relative_to(root) for root in roots)]
    parts += [ComponentSpec(_numbered("code", at), "code", _source(root, directory), CACHES) for at, root in enumerate(roots)]
    for kind, suffixes in _SUFFIXES.items():
        found = [path for path in own if path.suffix.lower() in suffixes]
        parts += [ComponentSpec(_numbered(kind, at), kind, _source(path, directory), ()) for at, path in enumerate(found[:16])]
    if not [part for part in parts if part.kind not in ("interpreter", "image")]:
        got = f"nothing that was seen; exit status {traced.status}"
        raise Refused(Reason("source-missing", "draft", "a run that reads code, prompts or tools", got))
    manifest = Manifest(
        agent=agent,
        namespace=namespace,
        audience="tools.example.org",
        command=command,
        components=tuple(sorted(parts, key=lambda part: part.name)),
        secrets=(),
        grants=(),
    )
    head = (
        "# Drafted from one run; what another run would read is not in it. Check each component, set audience and grants,\n"
        "# and let `command` name the store: {store}/code/main.py is main.py of the component `code`.\n"
    )
    return head.encode() + encode_manifest(manifest)


def _is_system(path: Path) -> bool:
    standard = [Path(sysconfig.get_path(place)).resolve() for place in ("stdlib", "platstdlib")]
    return str(path).startswith(_SYSTEM) or any(path.is_relative_to(place) for place in standard)


def _site_packages(path: Path) -> Path | None:
    return next((parent for parent in path.parents if parent.name in ("site-packages", "dist-packages")), None)


def _common(files: Iterable[Path]) -> list[Path]:
    """The fewest directories that hold the files."""
    directories = sorted({path.parent for path in files})
    kept: list[Path] = []
    for directory in directories:
        if not any(directory.is_relative_to(above) for above in kept):
            kept.append(directory)
    return kept


def _source(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)


def _numbered(kind: str, at: int) -> str:
    return kind if at == 0 else f"{kind}-{at + 1}"

"""What a program finds in its sandbox, and what refuses to start."""

from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.launch import process, profile, sandbox
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.profile import SANDBOXES
from enforcer.launch.sandbox import environment_of, specification
from enforcer.launch.seccomp import PLAIN, compiled
from tests.enforcer.inside import Inside, fresh_cgroup, inside
from tests.world.root_fs import PYTHON
from writ.formats.errors import Unavailable
from writ.formats.measurement import PROFILES

pytestmark = pytest.mark.cgroup


@pytest.fixture(scope="module")
def box() -> Iterator[Inside]:
    with inside() as made:
        yield made


@pytest.fixture
def cgroup(cgroup_mount: Path) -> Iterator[Cgroup]:
    with fresh_cgroup(cgroup_mount) as made:
        yield made


def says(box: Inside, cgroup: Cgroup, code: str, *arguments: str) -> str:
    status, said = box.run(box.program(PYTHON, "-I", "-S", "-c", code, *arguments), cgroup.child("agent"))
    assert status == 0, said.decode()
    return said.decode()


def test_program_has_its_places_its_environment_and_its_limits(box: Inside, cgroup: Cgroup) -> None:
    code = """
import json, os, resource
for folder in ("/agent", "/tmp", "/dev/shm"):
    with open(f"{folder}/own", "w") as file: file.write("mine")
limits = {name: resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_CORE", "RLIMIT_NPROC", "RLIMIT_MEMLOCK")}
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({"env": dict(os.environ), "uid": os.getuid(), "cwd": os.getcwd(), "host": os.uname().nodename, "pid": os.getpid(),
  "limits": limits, "caps": [status[k] for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")], "seccomp": status["Seccomp"],
  "privs": status["NoNewPrivs"]}))
"""
    found = json.loads(says(box, cgroup, code))
    assert found["env"] == {"PATH": sandbox.PATH, "HOME": "/agent", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "PWD": "/agent"}
    assert (found["uid"], found["cwd"], found["host"]) == (1000, "/agent", "agent")
    assert found["pid"] < 10, "a pid namespace of its own"
    assert found["limits"] == {"RLIMIT_CORE": [0, 0], "RLIMIT_NPROC": [512, 512], "RLIMIT_MEMLOCK": [0, 0]}
    assert set(found["caps"]) == {"0" * 16}
    assert (found["seccomp"], found["privs"]) == ("2", "1")


def test_exit_status_and_signals_come_out_as_they_are(box: Inside, cgroup: Cgroup) -> None:
    assert box.run(box.program(PYTHON, "-c", "raise SystemExit(7)"), cgroup.child("agent"))[0] == 7
    assert box.run(box.program(PYTHON, "-c", "import os; os.kill(os.getpid(), 9)"), cgroup.child("agent"))[0] == 137


def test_signal_reaches_the_program_and_not_its_sandbox(box: Inside, cgroup: Cgroup) -> None:
    code = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: exit(3))\nopen('/tmp/ready', 'w')\ntime.sleep(60)"
    running = box.spawn(box.program(PYTHON, "-c", code), cgroup.child("agent"))
    while not (box.room.path / "tmp/ready").exists():
        os.sched_yield()
    program = running.program
    assert program is not None
    os.kill(program, 15)
    assert running.outer.wait(timeout=10) == 3


@pytest.mark.parametrize("name", PROFILES)
def test_kernel_below_what_the_profile_needs_refuses_to_start(name: str, box: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = SANDBOXES[name]  # type: ignore[index]  # parametrize has no literal types
    monkeypatch.setattr(profile, "landlock_abi", lambda: wanted.landlock - 1)
    with pytest.raises(Unavailable, match=f"profile {name} needs Landlock ABI {wanted.landlock}, the kernel has"):
        specification(wanted.profile, box.image, {})


def test_rights_that_the_kernel_does_not_know_end_the_shim(box: Inside, cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """No best effort: one bit more than the kernel has, and nothing starts."""
    monkeypatch.setattr(profile, "_RIGHTS_OF", {6: 1 << 40, 2: 1 << 40})
    with pytest.raises(Unavailable, match="landlock ruleset: Invalid argument"):
        box.spawn(box.program(PYTHON, "-c", "pass"), cgroup.child("agent"))


@pytest.mark.parametrize("cut", [0, 1, 40, -1, -8])
def test_specification_that_is_not_whole_starts_nothing(box: Inside, cgroup: Cgroup, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the holder dies while it writes."""
    whole = specification("strict", box.image, {})
    monkeypatch.setattr(process, "specification", lambda *_: whole[:cut])
    with pytest.raises(Unavailable, match=r"spec|filter"):
        box.spawn(box.program(PYTHON, "-c", "open('/tmp/ran', 'w')"), cgroup.child("agent"))
    assert not (box.room.path / "tmp/ran").exists()


@pytest.mark.parametrize("spoilt", [b"", b"x", bytes(64), struct.pack("=I", 0x54495257) + b"\xff" * 200])
def test_rubbish_for_a_specification_starts_nothing(box: Inside, cgroup: Cgroup, spoilt: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "specification", lambda *_: spoilt)
    with pytest.raises(Unavailable, match="launch"):
        box.spawn(box.program(PYTHON, "-c", "open('/tmp/ran', 'w')"), cgroup.child("agent"))
    assert not (box.room.path / "tmp/ran").exists()


def test_what_enters_between_sandbox_and_program_comes_before_the_program(box: Inside, cgroup: Cgroup) -> None:
    seen: list[tuple[int, bool]] = []

    def enter(init: int) -> None:
        seen.append((init, (box.room.path / "tmp/first").exists()))

    null = os.open(os.devnull, os.O_RDWR)
    running = process.start(box.program(PYTHON, "-c", "open('/tmp/first', 'w')"), cgroup.child("agent"), (null, null, null), enter)
    os.close(null)
    running.outer.wait(timeout=10)
    assert seen == [(running.init, False)]
    assert (box.room.path / "tmp/first").exists()


def test_fault_while_entering_starts_nothing(box: Inside, cgroup: Cgroup) -> None:
    def enter(_init: int) -> None:
        raise Unavailable("listener", "none could be made")

    null = os.open(os.devnull, os.O_RDWR)
    with pytest.raises(Unavailable, match="none could be made"):
        process.start(box.program(PYTHON, "-c", "open('/tmp/never', 'w')"), cgroup.child("agent"), (null, null, null), enter)
    os.close(null)
    assert not (box.room.path / "tmp/never").exists()


def test_missing_bubblewrap_is_unavailable(box: Inside, cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "BWRAP", "/nowhere/bwrap")
    with pytest.raises(Unavailable, match="/nowhere/bwrap: No such file"):
        box.spawn(box.program(PYTHON, "-c", "pass"), cgroup.child("agent"))


def test_filters_of_the_two_kinds_differ_in_what_becomes_executable_only() -> None:
    strict, jit = compiled(new_code=False), compiled(new_code=True)
    assert len(strict) % 8 == len(jit) % 8 == 0
    assert strict != jit
    assert len(set(PLAIN)) == len(PLAIN)
    assert not {"mprotect", "mmap", "socket", "clone", "clone3", "ioctl", "prctl", "ptrace", "bpf", "execveat", "memfd_create"} & set(PLAIN)


def test_environment_is_given_and_nothing_else() -> None:
    assert environment_of(WRIT_SOCKET="/run/writ/gate.sock").keys() == {"PATH", "HOME", "LANG", "TMPDIR", "WRIT_SOCKET"}


def test_soft_limit_is_the_hard_one(box: Inside, cgroup: Cgroup) -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    assert says(box, cgroup, code).strip() == "(4096, 4096)"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 4096

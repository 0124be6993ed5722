"""Cgroups: found on any kind of host, frozen and killed as one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.launch.cgroup import Cgroup, Limits, enable, find_mount, instances_below, parent_of
from enforcer.launch.process import Watchdog
from enforcer.launch.sandbox import SHIM_PROGRAM
from tests.enforcer.host import wait_for
from tests.enforcer.inside import Inside, fresh_cgroup, inside
from tests.world.root_fs import PYTHON
from writ.formats.errors import Unavailable

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize("text, path", [(UNIFIED, "/sys/fs/cgroup"), (HYBRID, "/sys/fs/cgroup/unified")])
def test_mount_is_found(text: str, path: str) -> None:
    assert find_mount(text) == Path(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rubbish\n - cgroup2\n",
        UNIFIED.replace("rw,nosuid", "ro,nosuid"),
        UNIFIED.replace("rw,nsdelegate", "ro"),
        HYBRID.splitlines()[0],
    ],
)
def test_no_writable_mount_is_unavailable(text: str) -> None:
    with pytest.raises(Unavailable, match="cgroup v2"):
        find_mount(text)


def test_folder_that_is_no_cgroup_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        parent_of("/writ", tmp_path)


@pytest.fixture
def cgroup(cgroup_mount: Path) -> Iterator[Cgroup]:
    with fresh_cgroup(cgroup_mount) as made:
        yield made


@pytest.fixture(scope="module")
def box() -> Iterator[Inside]:
    with inside() as made:
        yield made


SLEEP = "import time; time.sleep(60)"


@pytest.mark.cgroup
def test_freeze_thaw_kill(box: Inside, cgroup: Cgroup) -> None:
    child = box.spawn(box.program(PYTHON, "-c", "import os\nos.fork()\nwhile True: pass"), cgroup.child("agent")).outer
    assert cgroup.freeze()
    assert cgroup.frozen()
    assert cgroup.thaw()
    wait_for(lambda: not cgroup.frozen())
    assert cgroup.freeze()
    assert cgroup.kill()
    child.wait()
    assert not cgroup.populated()
    assert not cgroup.frozen(), "a cgroup left frozen would hang the next child before its exec"
    assert child.returncode == -9


@pytest.mark.cgroup
def test_a_cgroup_is_used_once(cgroup: Cgroup) -> None:
    with pytest.raises(Unavailable):
        Cgroup.fresh(cgroup.path.parent, cgroup.path.name)


@pytest.mark.cgroup
def test_nothing_joins_a_cgroup_that_was_removed(box: Inside, cgroup: Cgroup) -> None:
    assert cgroup.remove()
    with pytest.raises(Unavailable):
        box.spawn(box.program(PYTHON, "-c", SLEEP), cgroup.child("agent"))


@pytest.mark.cgroup
def test_program_that_cannot_be_run_is_unavailable_and_leaves_nothing(box: Inside, cgroup: Cgroup) -> None:
    with pytest.raises(Unavailable, match="exec: No such file"):
        box.spawn(box.program("/nowhere/program"), cgroup.child("agent"))
    wait_for(lambda: not cgroup.populated())


@pytest.mark.cgroup
def test_root_is_never_what_a_program_runs_as(box: Inside, cgroup: Cgroup) -> None:
    with pytest.raises(Unavailable, match="expected a uid that is not root's, got 0"):
        box.spawn(box.program(PYTHON, "-c", "pass", uid=0), cgroup.child("agent"))


@pytest.mark.cgroup
def test_gate_that_closes_without_a_word_lets_nothing_pass(cgroup: Cgroup, tmp_path: Path) -> None:
    """The child has joined, and its holder dies before opening the gate."""
    child, gate, report, proof = joined(cgroup, tmp_path)
    os.close(gate)

    assert child.wait(timeout=10) == 125
    assert b"gate closed" in os.read(report, 200)
    os.close(report)
    assert not proof.exists()


@pytest.mark.cgroup
def test_gate_that_says_another_word_lets_nothing_pass(cgroup: Cgroup, tmp_path: Path) -> None:
    child, gate, report, proof = joined(cgroup, tmp_path)
    os.write(gate, b"g")
    assert child.wait(timeout=10) == 125
    os.close(gate)
    os.close(report)
    assert not proof.exists()


def joined(cgroup: Cgroup, folder: Path) -> tuple[subprocess.Popen[bytes], int, int, Path]:
    """A child that waits at its gate: it, the gate, its report, and a file that is there once it passed."""
    gate, report = os.pipe(), os.pipe()
    proof = folder / "ran"
    procs = str(cgroup.child("agent").path / "cgroup.procs")
    child = subprocess.Popen(
        [SHIM_PROGRAM, "join", procs, str(gate[0]), str(report[1]), str(report[1]), "61000", "64", "/usr/bin/touch", str(proof)],
        pass_fds=(gate[0], report[1]),
    )
    os.close(gate[0])
    os.close(report[1])
    assert os.read(report[0], 100) == b"joined\n"
    assert cgroup.holds(child.pid)
    return child, gate[1], report[0], proof


@pytest.mark.cgroup
@pytest.mark.parametrize(
    "arguments, word",
    [
        ([], "arguments"),
        (["join"], "arguments"),
        (["other", "1", "2", "3", "4", "5", "6", "7", "8"], "arguments"),
        (["become", "x", "2", "/usr/bin/true"], "descriptor"),
        (["become", "-1", "2", "/usr/bin/true"], "descriptor"),
        (["become", "99", "2", "/usr/bin/true"], "read spec 9"),
        (["join", "/nowhere", "0", "2", "2", "61000", "64", "/usr/bin/true"], "cgroup 2"),
    ],
)
def test_shim_that_is_misused_says_so_and_starts_nothing(arguments: list[str], word: str) -> None:
    done = subprocess.run([SHIM_PROGRAM, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 125
    assert word in done.stderr


@pytest.mark.cgroup
def test_fork_bomb_ends_at_the_limit_of_its_uid(box: Inside, cgroup: Cgroup) -> None:
    code = "import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(60)"
    running = box.spawn(box.program(PYTHON, "-c", code, processes=20), cgroup.child("agent"))
    wait_for(lambda: len(cgroup.processes()) >= 15)
    time.sleep(0.5)
    assert len(cgroup.processes()) <= 22, "the kernel still counts some that ended a moment ago"
    assert cgroup.kill()
    running.outer.wait()


@pytest.mark.cgroup
def test_watchdog_kills_and_removes_when_its_pipe_ends(box: Inside, cgroup: Cgroup) -> None:
    child = box.spawn(box.program(PYTHON, "-c", SLEEP), cgroup.child("agent")).outer
    watchdog = Watchdog(cgroup)
    cgroup.freeze()
    watchdog.release()

    assert not cgroup.exists()
    assert child.wait(timeout=5) == -9


def test_what_is_below_at_any_depth_is_found_frozen_and_killed_with_it(cgroup: Cgroup) -> None:
    inner = Cgroup.fresh(cgroup.path, "b" * 32, "agent")
    command = Cgroup.fresh(inner.child("agent").path, "0")
    sleeper = subprocess.Popen(["/usr/bin/sleep", "60"])
    (command.path / "cgroup.procs").write_text(str(sleeper.pid))

    assert cgroup.processes() == (sleeper.pid,)
    assert (Cgroup.find(cgroup.path, "b" * 32), Cgroup.find(cgroup.path, "c" * 32).exists()) == (inner, False)
    assert instances_below(cgroup.path.parent) == [bytes.fromhex("0" * 32), bytes.fromhex("b" * 32)]
    assert cgroup.freeze()
    assert inner.frozen()
    assert not cgroup.remove()
    assert cgroup.kill()
    assert sleeper.wait(timeout=5) == -9
    assert cgroup.remove()
    assert not cgroup.exists()


def test_watchdog_removes_what_is_below_at_any_depth(cgroup: Cgroup) -> None:
    inner = Cgroup.fresh(cgroup.path, "b" * 32, "agent")
    command = Cgroup.fresh(inner.child("agent").path, "0")
    sleeper = subprocess.Popen(["/usr/bin/sleep", "60"])
    (command.path / "cgroup.procs").write_text(str(sleeper.pid))
    Watchdog(cgroup).release()
    assert not cgroup.exists()
    assert sleeper.wait(timeout=5) == -9


# --- limits ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parent(cgroup_mount: Path) -> Iterator[Path]:
    """A cgroup below which others are made; what the test leaves in it fails its removal."""
    made = parent_of(f"/writ-limits-{os.getpid()}", cgroup_mount)
    yield made
    assert Cgroup(made).remove()


def test_controller_that_the_kernel_has_is_enabled_for_those_below(parent: Path) -> None:
    available = (parent / "cgroup.controllers").read_text().split() or (parent.parent / "cgroup.controllers").read_text().split()
    if not available:
        pytest.skip("this kernel's cgroup v2 has no controller at all")
    enable(parent, available[0])
    below = Cgroup.fresh(parent, "below")

    assert available[0] in (below.path / "cgroup.controllers").read_text().split()
    assert below.remove()


@pytest.mark.parametrize("limits, controller", [(Limits(memory=64 << 20), "memory"), (Limits(cpu=50), "cpu")])
def test_limit_that_nothing_would_hold_is_unavailable_and_leaves_no_cgroup(parent: Path, limits: Limits, controller: str) -> None:
    if controller in (parent.parent / "cgroup.controllers").read_text().split():
        pytest.skip(f"this kernel has the {controller} controller: ./run guest shows what it holds")
    with pytest.raises(Unavailable, match=f"no {controller} controller"):
        Cgroup.fresh(parent, "limited", "agent", limits=limits)
    assert not (parent / "limited").exists()


def test_limit_of_processes_is_held_by_uid_where_no_controller_counts(parent: Path) -> None:
    made = Cgroup.fresh(parent, "limited", limits=Limits(processes=64))
    counted = made.path / "pids.max"

    assert not counted.exists() or counted.read_text() == "64\n"
    assert made.remove()


def test_limits_are_spelt_as_the_kernel_reads_them() -> None:
    assert [line[1:] for line in Limits(64, 1 << 30, 150).lines()] == [
        ("pids.max", "64", False), ("memory.max", "1073741824", True), ("memory.swap.max", "0", False), ("memory.oom.group", "1", True),
        ("cpu.max", "150000 100000", True),
    ]  # fmt: skip
    assert list(Limits().lines()) == []

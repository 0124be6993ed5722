"""Cgroups: found on any kind of host, frozen and killed as one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.launch.cgroup import Cgroup, find_mount, parent_of
from enforcer.launch.process import Watchdog
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
    with pytest.raises(Unavailable, match="exec 2"):
        box.spawn(box.program("/nowhere/program"), cgroup.child("agent"))
    wait_for(lambda: not cgroup.populated())


@pytest.mark.cgroup
def test_root_is_never_what_a_program_runs_as(box: Inside, cgroup: Cgroup) -> None:
    with pytest.raises(Unavailable, match="expected uid 0"):
        box.spawn(box.program(PYTHON, "-c", "pass", uid=0), cgroup.child("agent"))


@pytest.mark.cgroup
def test_gate_that_closes_without_a_word_lets_nothing_pass(cgroup: Cgroup, tmp_path: Path) -> None:
    """The child has joined, and its holder dies before opening the gate."""
    import json
    import sys

    import enforcer.launch.child

    gate_read, gate_write = os.pipe()
    report_read, report_write = os.pipe()
    proof = tmp_path / "ran"
    spec = {
        "cgroup": str(cgroup.child("agent").path), "gate": gate_read, "report": report_write, "uid": 61000, "gid": 61000, "keep": [],
        "limits": {}, "argv": [PYTHON, "-c", f"open({str(proof)!r}, 'w')"],
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", enforcer.launch.child.__file__, json.dumps(spec)], pass_fds=(gate_read, report_write)
    )
    os.close(gate_read)
    os.close(report_write)
    assert os.read(report_read, 100) == b"joined\n"
    os.close(gate_write)

    assert child.wait(timeout=10) == 125
    assert b"gate closed" in os.read(report_read, 200)
    os.close(report_read)
    assert not proof.exists()


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

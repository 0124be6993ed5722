"""The sandbox on the distribution's own kernel: what it lacks, what its controllers hold, and a hostile agent of any kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.attacks import escapes, hostile
from tests.enforcer import inside
from tests.guest.site import Guest
from tests.world import root_fs

pytestmark = pytest.mark.usefixtures("fresh")
THERE = "/var/tmp/there"
LIMITS = r"""
import json, os, subprocess, sys, time
from pathlib import Path
from enforcer.launch.cgroup import MOUNTINFO, Cgroup, Limits, find_mount, parent_of

parent = parent_of("/writ-limits", find_mount(MOUNTINFO.read_text()))
BOMB = "import os, time\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(9)\nexcept OSError: 0"
HOGS = {
    "memory": (Limits(memory=64 << 20), "held = []\nwhile True: held.append(bytearray(1 << 20))"),
    "room": (Limits(memory=64 << 20), "with open('/tmp/room/file', 'wb') as file:\n    while True: file.write(bytes(1 << 20))"),
    "pids": (Limits(processes=16), BOMB),
    "cpu": (Limits(cpu=20), "import time\nend = time.monotonic() + 4\nwhile time.monotonic() < end: pass"),
}
os.makedirs("/tmp/room", exist_ok=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "none", "/tmp/room"], check=True)
told = {}
for name, (limits, program) in HOGS.items():
    made = Cgroup.fresh(parent, name, "agent", limits=limits)
    join = f"open({str(made.path / 'agent' / 'cgroup.procs')!r}, 'w').write('0')\n"
    child = subprocess.Popen([sys.executable, "-c", join + program])
    status = child.wait(timeout=120)
    said = {}
    for file in made.path.glob("*.events"):
        said[file.name] = file.read_text().split()
    said["used"] = int((made.path / "cpu.stat").read_text().split()[1])
    told[name] = {"status": status, "processes": len(made.processes()), **said}
    made.kill()
    made.remove()
print(json.dumps(told))
"""
ATTEMPTS = """
import json, sys
sys.path.insert(0, "THERE")
from enforcer.launch.cgroup import MOUNTINFO, find_mount
from tests.attacks.hostile import LIBRARY, attempts, worked
from tests.enforcer.inside import inside

profile, uid = sys.argv[1], int(sys.argv[2])
with inside("/usr/bin/true", str(LIBRARY)) as box:
    found = attempts(box, find_mount(MOUNTINFO.read_text()), profile, uid)
print(json.dumps([worked(found, profile), len(found)]))
""".replace("THERE", THERE)


LATER = """
import sys
from enforcer.launch.profile import SANDBOXES
from writ.formats.errors import Unavailable
try:
    SANDBOXES[sys.argv[1]].check()
    print("starts")
except Unavailable as error:
    print(error)
"""


def test_controllers_hold_what_the_configuration_says(guest: Guest) -> None:
    told = json.loads(guest.python(LIMITS).output)

    for hog in ("memory", "room"):  # what is written to a room is memory of who wrote it
        assert told[hog]["status"] == -9
        assert after(told[hog]["memory.events"], "oom_group_kill") == 1
    assert told["pids"]["processes"] <= 16
    assert after(told["pids"]["pids.events"], "max") >= 1
    assert told["cpu"]["used"] < 2_000_000, "a fifth of a CPU over four seconds, and what starting Python takes"


def after(words: list[str], name: str) -> int:
    """The number that follows a name."""
    return int(words[words.index(name) + 1])


@pytest.mark.parametrize("profile", ["strict-6.1", "jit-6.1"])
@pytest.mark.parametrize("uid", [1000, 0], ids=["user", "root"])
def test_i8_nothing_that_a_hostile_agent_tries_works_on_linux_6_1(guest: Guest, profile: str, uid: int) -> None:
    for module in (hostile, escapes, inside, root_fs):
        assert module.__file__ is not None
        path = f"{THERE}/{module.__name__.replace('.', '/')}.py"
        guest.machine.run(f"mkdir -p {Path(path).parent}")
        guest.machine.write(path, Path(module.__file__).read_bytes())
    wrong, count = json.loads(guest.python(ATTEMPTS, profile, str(uid)).output)

    assert wrong == {}
    assert count >= 150


@pytest.mark.parametrize("profile", ["strict", "jit"])
def test_profile_that_needs_a_later_kernel_is_refused(guest: Guest, profile: str) -> None:
    said = guest.python(LATER, profile).output.decode()

    assert "needs Landlock ABI 6, the kernel has 2" in said

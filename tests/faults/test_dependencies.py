"""What the enforcer rests on, each missing, hanging, corrupt, full or slow: nothing runs, or what runs is contained. Never permission.

`MATRIX` has a cell for every one of them, and names the tests that show it, here or elsewhere, or says why there is nothing to show.
"""

from __future__ import annotations

import ast
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from enforcer.launch.cgroup import MOUNTINFO, find_mount
from enforcer.launch.image import BWRAP, MKFS
from enforcer.record import LogReader
from tests.enforcer.host import ROOT, Host, wait_for
from writ.formats.policy_bundle import PolicySettings
from writ.formats.record import ActionRecord

faults = pytest.mark.faults
cgroup = pytest.mark.cgroup

FAULTS: Final = ("missing", "hanging", "corrupt", "full", "slow")
_HERE: Final = "tests/faults/test_dependencies.py::"
_RUN, _HELD = "tests/enforcer/test_run.py::", "tests/enforcer/test_containment.py::"
_IMAGE, _BOX = "tests/enforcer/launch/test_image.py::", "tests/enforcer/launch/test_sandbox.py::"
_TOKEN, _LOG = "tests/enforcer/test_credential.py::", "tests/enforcer/test_record.py::"

MATRIX: Final[dict[str, dict[str, tuple[str, ...] | str]]] = {
    "attestor": {
        "missing": (
            f"{_RUN}test_without_an_attestor_nothing_starts_and_the_status_says_so",
            f"{_HERE}test_running_agent_is_held[attestor-missing]",
        ),
        "hanging": (f"{_HERE}test_nothing_starts_while[attestor-hangs]", f"{_HERE}test_running_agent_is_held[attestor-hanging]"),
        "corrupt": (f"{_HERE}test_nothing_is_launched[attestor-corrupt]", f"{_HERE}test_running_agent_is_held[attestor-corrupt]"),
        "full": "a full attestor answers a refusal or not at all: as refused, or as hanging",
        "slow": (f"{_HERE}test_slow_attestor_is_waited_for_and_no_longer_than_the_token_lives",),
    },
    "verifier": {
        "missing": (f"{_HELD}test_verifier_away_past_the_tokens_life_holds_and_its_return_thaws",),
        "hanging": (f"{_HERE}test_running_agent_is_held[attestor-hanging]",),
        "corrupt": (f"{_TOKEN}test_forged_answer_is_refused", f"{_TOKEN}test_no_flipped_bit_of_a_signed_part_is_accepted"),
        "full": "a full verifier answers 429 or 503, which the attestor tells as unreachable: as missing",
        "slow": (f"{_HERE}test_slow_attestor_is_waited_for_and_no_longer_than_the_token_lives",),
    },
    "store": {
        "missing": (
            f"{_HERE}test_nothing_is_launched[store-missing]",
            "tests/enforcer/launch/test_store_root.py::test_missing_root_is_unavailable",
        ),
        "hanging": "the store is a local directory that root writes; a disk that hangs hangs mkfs, below",
        "corrupt": (
            f"{_HERE}test_nothing_is_launched[store-corrupt]",
            f"{_IMAGE}test_store_that_was_changed_after_it_was_measured_is_refused",
        ),
        "full": "the enforcer never writes there",
        "slow": (f"{_HERE}test_slow_tool_is_waited_for[mkfs]",),
    },
    "disk": {
        "missing": (f"{_HERE}test_nothing_is_launched[disk-missing]",),
        "hanging": "a write that never returns holds the action before it: no record, no action; see record-not-durable",
        "corrupt": (f"{_LOG}test_altered_log_is_not_opened", f"{_LOG}test_a_file_that_is_no_database_is_unavailable"),
        "full": (f"{_HERE}test_nothing_is_launched[disk-full]", f"{_HERE}test_agent_whose_records_find_no_room_is_killed"),
        "slow": "an action waits for its record, however long it takes; time alone then ends the token",
    },
    "cgroup": {
        "missing": (
            f"{_HERE}test_nothing_is_launched[cgroup-missing]",
            "tests/enforcer/launch/test_cgroup.py::test_no_writable_mount_is_unavailable",
        ),
        "hanging": "the kernel answers these writes at once; a process that cannot be frozen is not let out either: egress is cut first",
        "corrupt": ("tests/enforcer/launch/test_cgroup.py::test_folder_that_is_no_cgroup_is_unavailable",),
        "full": (f"{_HERE}test_nothing_is_launched[cgroup-full]",),
        "slow": "as hanging",
    },
    "bubblewrap": {
        "missing": (f"{_HERE}test_nothing_is_launched[bubblewrap-missing]", f"{_BOX}test_missing_bubblewrap_is_unavailable"),
        "hanging": (f"{_HERE}test_nothing_is_launched[bubblewrap-hanging]",),
        "corrupt": (
            f"{_HERE}test_nothing_is_launched[bubblewrap-fails]",
            f"{_HERE}test_nothing_is_launched[bubblewrap-lies]",
            f"{_HERE}test_nothing_is_launched[bubblewrap-babbles]",
        ),
        "full": "it keeps nothing",
        "slow": (f"{_HERE}test_slow_tool_is_waited_for[bubblewrap]",),
    },
    "mkfs.erofs": {
        "missing": (f"{_HERE}test_nothing_is_launched[mkfs-missing]", f"{_IMAGE}test_missing_tool_is_unavailable_and_leaves_nothing"),
        "hanging": (f"{_HERE}test_nothing_starts_while[mkfs-hangs]", f"{_IMAGE}test_tool_that_hangs_is_given_up"),
        "corrupt": (f"{_HERE}test_nothing_is_launched[mkfs-fails]", f"{_HERE}test_nothing_is_launched[mkfs-babbles]"),
        "full": "the image is memory: see memory",
        "slow": (f"{_HERE}test_slow_tool_is_waited_for[mkfs]",),
    },
    "kernel": {
        "missing": (
            f"{_HERE}test_nothing_is_launched[kernel-landlock]",
            f"{_HERE}test_nothing_is_launched[kernel-seccomp]",
            f"{_HERE}test_nothing_is_launched[kernel-namespaces]",
            f"{_HERE}test_nothing_is_launched[kernel-loop]",
            f"{_BOX}test_kernel_below_what_the_profile_needs_refuses_to_start",
        ),
        "hanging": "a system call that never returns keeps the launch from ending; the client's end ends it: see mkfs",
        "corrupt": (f"{_BOX}test_rights_that_the_kernel_does_not_know_end_the_shim",),
        "full": "loop devices, processes and memory: as missing, below and in the tests of the fork bomb",
        "slow": "as a slow tool",
    },
    "clock": {
        "missing": "the kernel always has one",
        "hanging": (f"{_TOKEN}test_token_dies_by_the_boot_clock_though_the_wall_clock_was_set_back",),
        "corrupt": (
            f"{_TOKEN}test_token_dies_by_the_wall_clock",
            f"{_TOKEN}test_token_dies_by_the_boot_clock_though_the_wall_clock_was_set_back",
        ),
        "full": "a clock keeps nothing",
        "slow": (f"{_TOKEN}test_token_dies_by_the_boot_clock_though_the_wall_clock_was_set_back",),
    },
    "memory": {
        "missing": (f"{_HERE}test_nothing_is_launched[memory-none]",),
        "hanging": "a process that waits for memory is one that does nothing",
        "corrupt": "beyond what software can notice",
        "full": (f"{_HELD}test_holders_death_kills_its_agent_and_is_told", f"{_HELD}test_watchdog_that_dies_is_replaced"),
        "slow": "as hanging",
    },
    "descriptors": {
        "missing": "there are always some, or the daemon would not have started",
        "hanging": "as full",
        "corrupt": "the kernel checks them",
        "full": (f"{_HERE}test_nothing_is_launched[descriptors-none]",),
        "slow": "as full",
    },
}
"""Dependency -> fault -> the tests that show refusal or containment, or why there is nothing to show."""


@cache
def _tests_of(path: str) -> frozenset[str]:
    return frozenset(node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("dependency", MATRIX)
def test_every_fault_of_every_dependency_has_its_tests(dependency: str) -> None:
    assert tuple(MATRIX[dependency]) == FAULTS
    for shown in MATRIX[dependency].values():
        for test in (shown,) if isinstance(shown, str) else shown:
            if "::" not in test:
                continue
            path, _, name = test.partition("::")
            function, _, case = name.removesuffix("]").partition("[")
            assert function in _tests_of(path), test
            assert not case or path != _HERE.removesuffix("::") or case in _CASES[function], test


# --- a host whose daemon can be broken -------------------------------------------------------------------------------------------


@pytest.fixture
def apart(cgroup_mount: Path, request: pytest.FixtureRequest) -> Iterator[Host]:  # noqa: ARG001 - without one there is no host
    """A host whose daemon has a mount namespace of its own, and system calls as the case says."""
    made = Host()
    case = request.node.callspec.params.get("case", "") if hasattr(request.node, "callspec") else ""
    try:
        made.agent(
            "a",
            'print("ran", flush=True)\nwhile True: print(json.dumps(ask("notes", "read", name="today")), flush=True); time.sleep(0.05)\n',
        )
        made.serve("unshare", "--mount", "--propagation", "private", *(without(FILTERED[case]) if case in FILTERED else ()))
        yield made
    finally:
        made.close()


def below(host: Host, script: str) -> None:
    """A shell script, run in the daemon's mount namespace."""
    assert host.daemon is not None
    subprocess.run(["nsenter", "--mount", f"--target={host.daemon.pid}", "sh", "-ec", script], check=True, capture_output=True)


def fake(tool: str, script: str) -> Callable[[Host], None]:
    """`tool` is this script from now on. The real one is `$real`."""

    def put(host: Host) -> None:
        name = Path(tool).name
        for kind, text in (("real", Path(tool).read_bytes()), ("fake", f"#!/bin/bash\nreal={OWN}/{name}.real\n{script}\n".encode())):
            (host.folder / f"{name}.{kind}").write_bytes(text)
            (host.folder / f"{name}.{kind}").chmod(0o755)
        below(host, f"mount -t tmpfs -o mode=755 none {OWN}; cp -p {host.folder}/{name}.* {OWN}; mount --bind {OWN}/{name}.fake {tool}")

    return put


def over(what: str, path: str) -> Callable[[Host], None]:
    """`what` lies over `path` from now on; `{state}` and `{cgroups}` are this host's."""

    def put(host: Host) -> None:
        below(host, what + " " + path.format(state=host.config.state_dir, cgroups=find_mount(MOUNTINFO.read_text())))

    return put


OWN: Final = "/usr/local/src"
"""In the namespace of the daemon, a place for our programs that those which see nothing but /usr see too."""
LAUNCHES: Final = 'case "$1" in --args) ;; *) exec "$real" "$@" ;; esac\n'
"""bubblewrap also lays out what mkfs reads: only where it starts a sandbox is it another."""
LIES: Final = LAUNCHES + 'info=$(tr "\\0" "\\n" <&$2 | sed -n "/^--info-fd$/{n;p}")\necho \'{"child-pid": 1}\' >&$info\nsleep 60'
CLONE, PRCTL_SECCOMP, LANDLOCK = 56, 317, 444
NEW_USER: Final = 0x10000000
FILTERED: Final = {
    "kernel-landlock": ((LANDLOCK, 0),),
    "kernel-seccomp": ((PRCTL_SECCOMP, 0),),
    "kernel-namespaces": ((CLONE, NEW_USER),),
}
"""Case -> system calls that are not there, or not with these bits in their first argument (0: not at all)."""


def without(calls: tuple[tuple[int, int], ...]) -> tuple[str, ...]:
    """Words that run a command as on a kernel that lacks these system calls."""
    return (sys.executable, "-c", f"from tests.faults.test_dependencies import become; become({calls!r})")


def become(calls: tuple[tuple[int, int], ...]) -> None:
    """The rest of the command line replaces this process, under a filter. Source: seccomp(2); the numbers are those of x86-64."""
    load, equal, anyof, say = 0x20, 0x15, 0x45, 0x06
    steps = []
    for number, bits in calls:
        steps += [(load, 0, 0, 0), (equal, 0, 3 if bits else 1, number)]
        steps += [(load, 0, 0, 16), (anyof, 0, 1, bits)] if bits else []
        steps += [(say, 0, 0, 0x00050000 | 38)]
    steps.append((say, 0, 0, 0x7FFF0000))
    held = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    filter_ = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filter_, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - a program of the test's


def babble(host: Host) -> None:
    """In the attestor's place is one that answers every question with bytes that are no message."""
    host.attestor.stop()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(host.config.attestor_socket))
    server.listen(16)

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            connection.sendall(b"\x00\x00\x00\x04\xff\xff\xff\xff")
            connection.close()

    threading.Thread(target=serve, daemon=True).start()


def changed(host: Host) -> None:
    """The store is not what was measured."""
    with (host.store / "a" / "code" / "a.py").open("a") as file:
        file.write("#")


def unlinked(host: Host) -> None:
    """The store has less than was measured."""
    (host.store / "a" / "code" / "a.py").unlink()


def no_more_cgroups(host: Host) -> None:
    """None can be made below the enforcer's."""
    parent = find_mount(MOUNTINFO.read_text()) / host.cgroup.lstrip("/")
    parent.mkdir(exist_ok=True)
    (parent / "cgroup.max.descendants").write_text("0")


def limit(what: str) -> Callable[[Host], None]:
    """A resource of which holders have this much from now on (prlimit(1))."""

    def put(host: Host) -> None:
        assert host.daemon is not None
        for zygote in host.children(host.daemon.pid):
            subprocess.run(["prlimit", f"--pid={zygote}", what], check=True)

    return put


BROKEN: Final[dict[str, tuple[Callable[[Host], None], str]]] = {
    "attestor-corrupt": (babble, "attestor"),
    "store-missing": (unlinked, "component-mismatch"),
    "store-corrupt": (changed, "component-mismatch"),
    "disk-missing": (over("rm -rf", "{state}/instances"), "instance directory"),
    "disk-full": (over("mount -t tmpfs -o size=4k,nr_inodes=2 none", "{state}/instances"), "No space"),
    "cgroup-missing": (over("mount -t tmpfs none", "{cgroups}"), "cgroup"),
    "cgroup-full": (no_more_cgroups, "cgroup"),
    "bubblewrap-missing": (over("mount --bind /dev/null", BWRAP), "could not"),
    "bubblewrap-hanging": (fake(BWRAP, LAUNCHES + "sleep 60"), "said nothing"),
    "bubblewrap-fails": (fake(BWRAP, LAUNCHES + "exit 1"), "made no sandbox"),
    "bubblewrap-lies": (fake(BWRAP, LIES), "not in its cgroup"),
    "bubblewrap-babbles": (fake(BWRAP, LIES.replace('"child-pid": 1', '"child-pid": "x"')), "launch"),
    "mkfs-missing": (over("mount --bind /dev/null", MKFS), "could not"),
    "mkfs-fails": (fake(MKFS, "echo no room >&2; exit 1"), "no room"),
    "mkfs-babbles": (fake(MKFS, 'for path; do case "$path" in /proc/*) head -c 1M /dev/urandom >"$path" ;; esac; done'), "could not"),
    "kernel-landlock": (lambda _: None, "Landlock"),
    "kernel-seccomp": (lambda _: None, "libseccomp"),
    "kernel-namespaces": (lambda _: None, "could not"),
    "kernel-loop": (over("for loop in /dev/loop*; do mount --bind /dev/null $loop; done; true", ""), "could not"),
    "memory-none": (limit("--as=100000000"), ""),
    "descriptors-none": (limit("--nofile=24"), ""),
}  # fmt: skip
"""Case -> what is broken while the daemon serves, and a word of the refusal."""


def nothing_left(host: Host) -> bool:
    """No process of an agent, no cgroup with one in it."""
    parent = find_mount(MOUNTINFO.read_text()) / host.cgroup.lstrip("/")
    return not any(events.read_text().startswith("populated 1") for events in parent.glob("*/cgroup.events"))


@faults
@cgroup
@pytest.mark.parametrize("case", BROKEN)
def test_nothing_is_launched(apart: Host, case: str) -> None:
    break_, word = BROKEN[case]
    break_(apart)
    status, out, err = apart.finish(apart.run("a"))

    assert (status, out) in ((1, ""), (3, "")), err
    assert word in err
    assert "Traceback" not in err
    wait_for(lambda: nothing_left(apart))
    assert apart.answers(), "the daemon serves on"


STUCK: Final[dict[str, Callable[[Host], None]]] = {
    "attestor-hangs": lambda host: setattr(host.attestor, "silent", 60.0),
    "mkfs-hangs": fake(MKFS, "sleep 60"),
}


@faults
@cgroup
@pytest.mark.parametrize("case", STUCK)
def test_nothing_starts_while(apart: Host, case: str) -> None:
    STUCK[case](apart)
    run = apart.run("a")
    time.sleep(3)
    assert run.poll() is None
    assert nothing_left(apart)
    run.kill()
    for holder in apart.holders():
        os.kill(holder, signal.SIGKILL)
    assert run.communicate()[0] == b""
    wait_for(lambda: nothing_left(apart))


@faults
@cgroup
@pytest.mark.parametrize("case", ["mkfs", "bubblewrap"])
def test_slow_tool_is_waited_for(apart: Host, case: str) -> None:
    fake(BWRAP if case == "bubblewrap" else MKFS, 'sleep 2; exec "$real" "$@"')(apart)
    run = apart.run("a")
    assert run.stdout is not None
    assert run.stdout.readline() == b"ran\n"


# --- under an agent that acts ------------------------------------------------------------------------------------------------------

LIFE: Final = 5
"""Seconds that a token lives here."""


def acting(host: Host) -> bytes:
    """An instance that acts under short tokens."""
    host.attestor.settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=LIFE)
    host.run("a")
    instance = host.instance("a")
    host.wait_state(instance, "running")
    wait_for(lambda: permits(host, instance))
    return instance


def permits(host: Host, instance: bytes) -> int:
    """How many actions were permitted so far."""
    entries = LogReader(host.config.instance_dir(instance), instance).entries()
    return sum(isinstance(entry.record, ActionRecord) and entry.record.permit for entry in entries)


def acts_no_more(host: Host, instance: bytes) -> bool:
    """Nothing is permitted for a second."""
    before = permits(host, instance)
    time.sleep(1)
    return permits(host, instance) == before


AWAY: Final[dict[str, Callable[[Host], None]]] = {
    "attestor-missing": lambda host: host.attestor.stop(),
    "attestor-hanging": lambda host: setattr(host.attestor, "silent", 60.0),
    "attestor-corrupt": babble,
}


@faults
@cgroup
@pytest.mark.parametrize("case", AWAY)
def test_running_agent_is_held(apart: Host, case: str) -> None:
    instance = acting(apart)
    AWAY[case](apart)
    standing = apart.wait_state(instance, "held", LIFE + 10)

    assert [reason["code"] for reason in standing["reasons"]] == ["token-expired"]
    assert apart.cgroup_of(instance).frozen()
    assert acts_no_more(apart, instance)


@faults
@cgroup
def test_slow_attestor_is_waited_for_and_no_longer_than_the_token_lives(apart: Host) -> None:
    instance = acting(apart)
    apart.attestor.silent = 0.5
    before = permits(apart, instance)
    time.sleep(2 * LIFE)
    assert apart.standing(instance)["state"] == "running"
    assert permits(apart, instance) > before
    apart.attestor.silent = LIFE + 2.0
    apart.wait_state(instance, "held", 2 * LIFE + 10)
    assert apart.cgroup_of(instance).frozen()


@faults
@cgroup
def test_agent_whose_records_find_no_room_is_killed(apart: Host) -> None:
    below(apart, f"mount -t tmpfs -o size=1m,mode=700 none {apart.config.state_dir}/instances")
    apart.attestor.settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=60)
    run = apart.run("a")
    assert run.stdout is not None
    assert run.stdout.readline() == b"ran\n"
    assert b'"ok": true' in run.stdout.readline()
    below(apart, f"head -c 2M /dev/zero >{apart.config.state_dir}/instances/filler || true")
    status, out, _ = apart.finish(run)

    assert status != 0, out
    assert nothing_left(apart)


_CASES: Final = {
    "test_nothing_is_launched": tuple(BROKEN), "test_nothing_starts_while": tuple(STUCK), "test_running_agent_is_held": tuple(AWAY),
    "test_slow_tool_is_waited_for": ("mkfs", "bubblewrap"),
}  # fmt: skip

"""`enforcer doctor` on a host where one thing is really missing: each in a mount namespace of its own."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enforcer import doctor
from enforcer.config import EnforcerConfig
from enforcer.launch.image import BWRAP, MKFS
from enforcer.launch.sandbox import SHIM_PROGRAM
from writ.formats.errors import Unavailable

SANDBOX = {"bubblewrap", "mkfs.erofs", "shim", "libseccomp", "user namespaces", "/proc", "Landlock", "images"}
LIBSECCOMP = next(Path("/usr/lib").glob("*-linux-gnu/libseccomp.so.2"), Path("/usr/lib/libseccomp.so.2"))


def without(path: object) -> str:
    return f"mount --bind /dev/null {shlex.quote(str(path))}"


def findings(tmp_path: Path, first: str, enter: str = "exec") -> dict[str, dict[str, Any]]:
    """What doctor finds of the sandbox, after `first` in a mount namespace that ends with it."""
    path = tmp_path / "enforcer.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\ncgroup = "/writ-doctor"\n')
    command = [sys.executable, "-m", "enforcer", "--config", str(path), "doctor", "--json"]
    script = f"{first}\n{enter} {shlex.join(command)}"
    done = subprocess.run(["unshare", "--mount", "sh", "-euc", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    return {finding["check"]: finding for finding in json.loads(done.stdout)["findings"] if finding["check"] in SANDBOX}


@pytest.mark.cgroup
@pytest.mark.usefixtures("cgroup_mount")
def test_a_host_that_can_make_a_sandbox_is_found_so(tmp_path: Path) -> None:
    found = findings(tmp_path, "true")
    assert {name for name, finding in found.items() if finding["ok"]} == SANDBOX


@pytest.mark.cgroup
@pytest.mark.usefixtures("cgroup_mount")
@pytest.mark.parametrize(
    "first, enter, missing",
    [
        (without(BWRAP), "exec", "bubblewrap"),
        (without(MKFS), "exec", "mkfs.erofs"),
        (without(SHIM_PROGRAM), "exec", "shim"),
        (without(LIBSECCOMP), "exec", "libseccomp"),
        # the kernel gives no user namespace to who was chrooted
        ("mount --rbind / /mnt", 'exec chroot /mnt env --chdir="$PWD"', "user namespaces"),
        ("mount --bind /proc/sys /proc/sys\nmount -o remount,bind,ro /proc/sys", "exec", "/proc"),
        ("mount -t tmpfs none /dev\nmknod -m 0666 /dev/null c 1 3", "exec", "images"),
    ],
    ids=["bubblewrap", "mkfs", "shim", "libseccomp", "user-namespaces", "proc", "loop"],
)
def test_what_a_sandbox_needs_and_is_not_there_is_named(tmp_path: Path, first: str, enter: str, missing: str) -> None:
    finding = findings(tmp_path, first, enter)[missing]
    assert not finding["ok"]
    assert finding["remedy"]


def test_the_profiles_that_a_kernel_can_start_are_named() -> None:
    assert doctor.profiles(7) == "ABI 7: strict, jit, strict-6.1, jit-6.1, sandboxed, sandboxed-6.1"
    assert doctor.profiles(2) == "ABI 2: strict-6.1, jit-6.1, sandboxed-6.1; strict needs ABI 6; jit needs ABI 6; sandboxed needs ABI 6"
    for abi in (0, 1):
        with pytest.raises(Unavailable, match=f"ABI {abi}; strict needs ABI 6"):
            doctor.profiles(abi)


def test_sealed_secret_that_is_not_there_is_named(tmp_path: Path) -> None:
    lines = ("a mail sealed /nowhere/mail.cred", "a db vault p f")
    config = EnforcerConfig(
        state_dir=tmp_path / "s", run_dir=tmp_path / "r", secrets=lines, vault_url="https://v.example", vault_role="writ",
        vault_audience="v",
    )  # fmt: skip
    (finding,) = [one for one in doctor.examine(config) if one["check"] == "secrets"]
    assert (finding["ok"], finding["found"]) == (False, "secrets: no file /nowhere/mail.cred")
    config = replace(config, secrets=lines[1:])
    (finding,) = [one for one in doctor.examine(config) if one["check"] == "secrets"]
    assert (finding["ok"], finding["found"]) == (True, "1 sources")

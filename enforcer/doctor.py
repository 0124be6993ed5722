"""What would keep an agent from running here, with the remedy for each."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from enforcer.code_id import installed_code
from enforcer.config import EnforcerConfig
from enforcer.launch.cgroup import Cgroup, Limits, parent_of
from enforcer.launch.image import BWRAP, MKFS, build, host_tools, last_words
from enforcer.launch.mounts import unmount
from enforcer.launch.profile import SANDBOXES, landlock_abi
from enforcer.launch.sandbox import NAMESPACES, NO_FURTHER, SHIM_PROGRAM
from enforcer.launch.seccomp import compiled
from enforcer.receipts import read_receipt, unstored
from enforcer.record import LOG_FILE
from enforcer.relay import Relay
from enforcer.shadow import candidate_of
from writ.formats.errors import Unavailable, WritError
from writ.formats.local import Status, StatusAnswer
from writ.formats.operator_log import OPERATOR_LOG
from writ.formats.tlog.note import parse_vkey
from writ.service.engine_id import installed_engine

_ALLOW_USER_NAMESPACES: Final = (
    "Allow user namespaces to every uid: sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 (Debian), "
    "kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile for bwrap (Ubuntu)."
)
_HAVE_LANDLOCK: Final = (
    "Boot Linux 6.12 (6.1 for the profiles that end in -6.1) with `landlock` in lsm=. A container's filter has to allow its system calls."
)
_UNCOVER_PROC: Final = (
    "Mount nothing over parts of /proc, and leave /proc/sys writable: in a unit no ProtectKernelTunables, ProtectKernelLogs, ProcSubset."
)
STORED_WITHIN: Final = 60
"""Seconds that a record may be on this host alone."""
_WITHIN: Final = 15.0
"""Seconds for a program that does nothing, in a sandbox."""


def examine(config: EnforcerConfig) -> list[dict[str, Any]]:
    """One finding for each thing that is needed: `check`, `ok`, `found` and, where it is not ok, `remedy`."""
    checks: tuple[tuple[str, Callable[[], str], str], ...] = (
        ("root", _root, "Run the enforcer as root: it makes cgroups and drops to other uids."),
        ("cgroup v2", lambda: str(parent_of(config.cgroup)), "Mount cgroup2 read-write, Linux 5.14 or later."),
        (
            "limits",
            lambda: _limits(config),
            "Boot a kernel whose cgroup2 has the controller, or take memory_max and cpu_max out of enforcer.toml.",
        ),
        ("trust file", lambda: f"{len(config.trust().decision_keys)} decision keys", "Copy the verifier's trust file to trust_file."),
        ("shadow policy", lambda: _shadow(config), "Copy a policy there that the verifier signed: verifier policy show --out FILE."),
        ("uids", lambda: _uids(config), "Choose uid_first so that no account has one of these uids."),
        ("directories", lambda: _folders(config), "Give the directories to root."),
        ("bubblewrap", lambda: _program(BWRAP), "Install bubblewrap 0.8 or later: apt-get install bubblewrap."),
        ("mkfs.erofs", lambda: _program(MKFS), "apt-get install erofs-utils."),
        ("shim", lambda: _program(str(SHIM_PROGRAM)), "Install writ again, from a wheel of this architecture."),
        ("libseccomp", _filters, "Install libseccomp 2.5 or later: apt-get install libseccomp2."),
        ("user namespaces", lambda: _sandboxed(config.uid_first), _ALLOW_USER_NAMESPACES),
        ("/proc", lambda: _sandboxed(config.uid_first, *NO_FURTHER, "--proc", "/proc"), _UNCOVER_PROC),
        ("Landlock", lambda: profiles(landlock_abi()), _HAVE_LANDLOCK),
        ("images", _images, "Load the modules loop and erofs: modprobe --all loop erofs. A container has to be given loop devices."),
        ("secrets", lambda: _secrets(config), "Make each with systemd-creds encrypt --name=NAME, on this host."),
        ("attestor", lambda: _attestor(config), "Start the attestor, and set attestor_socket."),
        ("record store", lambda: record_store(config), "Look at record_store, its key and this host's key there, and what its log says."),
        (
            "holders",
            lambda: _holders(config),
            "systemctl restart writ-enforcer: instances come over to the installed code, on hold.",
        ),
        ("engine", lambda: f"engine {installed_engine().number}, {installed_engine().tree}", "Install writ again."),
    )
    findings: list[dict[str, Any]] = []
    for name, look, remedy in checks:
        try:
            findings.append({"check": name, "ok": True, "found": look()})
        except WritError as error:
            findings.append({"check": name, "ok": False, "found": str(error), "remedy": remedy})
    return findings


def _root() -> str:
    if os.geteuid() != 0:
        raise Unavailable("uid", f"expected 0, got {os.geteuid()}")
    return "uid 0"


def _uids(config: EnforcerConfig) -> str:
    last = config.uid_first + 2 * config.instances - 1
    taken = [entry.pw_name for entry in pwd.getpwall() if config.uid_first <= entry.pw_uid <= last]
    if taken:
        raise Unavailable("uids", f"{', '.join(taken)[:120]} within {config.uid_first} to {last}")
    return f"{config.uid_first} to {last}"


def _folders(config: EnforcerConfig) -> str:
    config.make_folders()
    return f"{config.state_dir}, {config.run_dir}"


def _shadow(config: EnforcerConfig) -> str:
    """The candidate can stand beside the policy in force, or there is none. Raises Unavailable, FormatError, Refused."""
    if config.shadow_policy is None:
        return "none"
    bundle = candidate_of(config.shadow_policy, config.trust())
    return f"version {bundle.version} of {bundle.namespace}, {bundle.digest}"


def record_store(config: EnforcerConfig) -> str:
    """Every record of this host is in the store, but for those of the last seconds; or there is none. Raises Unavailable, FormatError."""
    if not config.record_store:
        return "none"
    store, now = parse_vkey(config.record_store_key), int(time.time())
    behind = oldest = logs = 0
    operators = config.log_dir(OPERATOR_LOG)
    for path in (*(config.state_dir / "instances").glob("*/" + LOG_FILE), *operators.glob(LOG_FILE)):
        name = OPERATOR_LOG.hex() if path.parent == operators else path.parent.name
        kept = read_receipt(path.parent, store, f"{config.record_log}/{name}")
        try:
            records, since = unstored(path.parent, 0 if kept is None else kept.signed.checkpoint.size)
        except sqlite3.Error as error:
            raise Unavailable("action log", f"{path}: SQLite says {type(error).__name__}") from None
        logs, behind, oldest = logs + 1, behind + records, max(oldest, 0 if since is None else now - since)
    if oldest > STORED_WITHIN:
        raise Unavailable("record store", f"{behind} records are on this host alone, the oldest for {oldest} s")
    return f"{logs} logs, {behind} records on this host alone, the oldest for {oldest} s"


def _attestor(config: EnforcerConfig) -> str:
    answer = Relay(str(config.attestor_socket)).ask(Status())
    if not isinstance(answer, StatusAnswer):
        raise Unavailable("attestor", str(getattr(answer, "detail", type(answer).__name__)).removeprefix("attestor: "))
    return f"host {answer.host}, {'enrolled' if answer.enrolled else 'not enrolled'}"


def _secrets(config: EnforcerConfig) -> str:
    """Every sealed file is there; nothing is decrypted, and no vault asked. Raises Unavailable."""
    sealed = config.sealed_secrets
    if lacking := [str(path) for path in sealed if not path.is_file()]:
        raise Unavailable("secrets", f"no file {', '.join(lacking)[:200]}")
    if sealed and shutil.which("systemd-creds") is None:
        raise Unavailable("secrets", "no systemd-creds, which decrypts them (systemd 250 or later)")
    return f"{len(config.secrets)} sources"


def _holders(config: EnforcerConfig) -> str:
    """How many instances there are, all of whose holders run the code that is installed. Raises Unavailable."""
    found = [path.stem for path in (config.run_dir / "holders").glob("*.sock")]
    other = []
    for name in found:
        try:
            shown = json.loads((config.instance_dir(bytes.fromhex(name)) / "state.json").read_text())
        except (OSError, ValueError):
            continue
        if shown.get("code") != installed_code().hex():
            other.append(name[:8])
    if other:
        raise Unavailable("holders", f"{len(other)} of {len(found)} run other code than is installed: {', '.join(sorted(other))[:120]}")
    return f"{len(found)}, all of code {installed_code().hex()[:16]}"


def _limits(config: EnforcerConfig) -> str:
    """A cgroup takes the limits that an instance would have. Raises Unavailable."""
    limits = Limits(config.pids_max, config.memory_max, config.cpu_max)
    probe = Cgroup.fresh(parent_of(config.cgroup), f"doctor-{os.getpid()}", limits=limits)
    counted = "counted by cgroup" if (probe.path / "pids.max").exists() else "counted by uid only"
    probe.remove()
    memory, cpu = config.memory_max, config.cpu_max
    return f"{config.pids_max} processes, {counted}; memory {memory or 'without limit'}; cpu {cpu or 'without limit'}"


def _program(path: str) -> str:
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise Unavailable(path, "no program is there")
    return path


def _filters() -> str:
    return f"filters of {len(compiled(new_code=False)) // 8} (strict) and {len(compiled(new_code=True)) // 8} (jit) instructions"


def _sandboxed(uid: int, *more: str) -> str:
    """bubblewrap makes the namespaces of a sandbox as `uid`, as at a launch, and ends. Raises Unavailable."""
    drop = ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    command = [*drop, BWRAP, *NAMESPACES, *host_tools(), *more, "--", "/usr/bin/true"]
    try:
        done = subprocess.run(command, env={}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=_WITHIN, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable("sandbox", str(error)[:200]) from None
    if done.returncode:
        raise Unavailable("sandbox", f"as uid {uid}: {last_words(done.stderr)}")
    return f"uid {uid} may have its own"


def profiles(abi: int) -> str:
    """The profiles that a kernel with this ABI of Landlock can start, and what the others need. Raises Unavailable where it is none."""
    able = [name for name, sandbox in SANDBOXES.items() if sandbox.landlock <= abi]
    lacking = [f"{name} needs ABI {sandbox.landlock}" for name, sandbox in SANDBOXES.items() if name not in able]
    if not able:
        raise Unavailable("Landlock", f"ABI {abi}; {', '.join(lacking)}")
    return "; ".join([f"ABI {abi}: {', '.join(able)}", *lacking])


def _images() -> str:
    """An image of nothing is made, mounted and unmounted. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="writ-doctor-") as name:
        trees, mounted = Path(name, "trees"), Path(name, "mounted")
        for folder in (trees / "base", mounted):
            folder.mkdir(parents=True)
        try:
            build(trees / "base", mounted, is_root=True)
            unmount(mounted)
        except OSError as error:
            raise Unavailable("image", f"{error.filename}: {error.strerror}") from None
    return "erofs through a loop device"

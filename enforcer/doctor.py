"""What would keep an agent from running here, with the remedy for each."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from typing import Any

from enforcer.config import EnforcerConfig
from enforcer.launch.cgroup import parent_of
from enforcer.relay import Relay
from writ.formats.errors import Unavailable, WritError
from writ.formats.local import Status, StatusAnswer
from writ.service.engine_id import installed_engine


def examine(config: EnforcerConfig) -> list[dict[str, Any]]:
    """One finding for each thing that is needed: `check`, `ok`, `found` and, where it is not ok, `remedy`."""
    checks: tuple[tuple[str, Callable[[], str], str], ...] = (
        ("root", _root, "Run the enforcer as root: it makes cgroups and drops to other uids."),
        ("cgroup v2", lambda: str(parent_of(config.cgroup)), "Mount cgroup2 read-write, Linux 5.14 or later."),
        ("trust file", lambda: f"{len(config.trust().decision_keys)} decision keys", "Copy the verifier's trust file to trust_file."),
        ("uids", lambda: _uids(config), "Choose uid_first so that no account has one of these uids."),
        ("directories", lambda: _folders(config), "Give the directories to root."),
        ("attestor", lambda: _attestor(config), "Start the attestor, and set attestor_socket."),
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


def _attestor(config: EnforcerConfig) -> str:
    answer = Relay(str(config.attestor_socket)).ask(Status())
    if not isinstance(answer, StatusAnswer):
        raise Unavailable("attestor", getattr(answer, "detail", type(answer).__name__))
    return f"host {answer.host}, {'enrolled' if answer.enrolled else 'not enrolled'}"

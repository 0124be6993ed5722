"""What can be said of ansible/ and deploy/ without a host: `./run rollout` says the rest."""

from __future__ import annotations

import configparser
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML carries no types, and only this test reads YAML

from attestor.config import AttestorConfig
from auditor.__main__ import main as auditor
from enforcer.config import EnforcerConfig
from enforcer.relying.config import RelyingConfig
from verifier.config import VerifierConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROOT: Final = Path(__file__).parents[2]
PLAYBOOK: Final = ROOT / "ansible"
UNITS: Final = sorted((ROOT / "deploy/systemd").glob("*.service"))
CONFIGS: Final[dict[str, type[DataclassInstance]]] = {
    "verifier": VerifierConfig, "attestor": AttestorConfig, "enforcer": EnforcerConfig, "relying": RelyingConfig,
}  # fmt: skip
BY: Final = {"relying": ("enforcer", "relying", " --relying")}
"""Program, verb of the daemon and option of `config check`, where they are not those of a role of that name."""
COSIGNERS: Final = {
    "store": "store serve /var/lib/writ/store --hosts /etc/writ/store-hosts",
    "witness": "witness serve /var/lib/writ/witness --logs /etc/writ/witness-logs",
}
"""Verbs of the auditor that serve, which have options and no configuration."""
CONFINED: Final = (
    "LockPersonality", "NoNewPrivileges", "PrivateTmp", "ProtectClock", "ProtectHome", "ProtectHostname", "ProtectKernelLogs",
    "ProtectKernelModules", "ProtectKernelTunables", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID",
)  # fmt: skip
LOOSENED: Final = ("ProtectHostname", "ProtectKernelLogs", "ProtectKernelTunables", "RestrictNamespaces")
"""What the enforcer's unit cannot set, since it makes sandboxes."""
FILES: Final = sorted(path for path in PLAYBOOK.rglob("*.yml"))


def tasks_of(value: Any) -> list[dict[str, Any]]:
    """Every task of a file, those in blocks too."""
    found: list[dict[str, Any]] = []
    for task in value if isinstance(value, list) else []:
        found += [task, *tasks_of(task.get("block"))]
    return found


def unit(path: Path) -> configparser.RawConfigParser:
    """A unit file; of a key that is repeated the last value."""
    parsed = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parsed.optionxform = str  # type: ignore[assignment, method-assign]  # keys of units have capitals
    parsed.read(path)
    return parsed


def test_no_folder_of_the_playbook_is_a_python_package() -> None:
    assert not list(PLAYBOOK.rglob("__init__.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PLAYBOOK)))
def test_each_file_is_yaml_and_each_task_is_named(path: Path) -> None:
    text = path.read_text()
    read = yaml.safe_load(text)
    assert text.startswith("---\n")
    if "tasks" in path.parts or "handlers" in path.parts:
        assert all("name" in task for task in tasks_of(read))


@pytest.mark.parametrize("role", CONFIGS)
def test_each_key_that_a_role_sets_is_one_of_its_configuration(role: str) -> None:
    read = yaml.safe_load((PLAYBOOK / "roles" / role / "tasks/main.yml").read_text())
    (written,) = [task for task in tasks_of(read) if "ansible.builtin.template" in task]
    given = written["vars"]
    keys = set(re.findall(r"'(\w+)':", given["writ_made_config"]))
    keys |= {key for name, value in given.items() if name != "writ_made_config" for key in value}
    assert keys
    assert keys <= {field.name for field in dataclasses.fields(CONFIGS[role])}
    program, _, option = BY.get(role, (role, "serve", ""))
    assert written["ansible.builtin.template"]["validate"] == f"/opt/writ/current/venv/bin/{program} --config %s config check{option}"


def test_what_carries_a_ticket_or_a_key_is_not_logged() -> None:
    read = [task for path in FILES if "tasks" in path.parts for task in tasks_of(yaml.safe_load(path.read_text()))]
    carrying = [
        task
        for task in read
        if re.search(r"'admit'|\.ticket|writ_verifier_tls_key }}", str({k: v for k, v in task.items() if k != "block"}))
    ]
    assert len(carrying) == 3
    assert all(task.get("no_log") is True for task in carrying)


def test_there_is_a_unit_for_each_role() -> None:
    assert [path.name for path in UNITS] == [f"writ-{role}.service" for role in sorted([*CONFIGS, *COSIGNERS])]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_each_unit_is_confined_and_starts_its_role(path: Path) -> None:
    role = path.stem.removeprefix("writ-")
    service = unit(path)["Service"]
    program, verb, _ = BY.get(role, (role, "serve", ""))
    command = f"auditor {COSIGNERS[role]} $WRIT_OPTIONS" if role in COSIGNERS else f"{program} --config /etc/writ/{role}.toml {verb}"
    assert service["ExecStart"] == f"/opt/writ/current/venv/bin/{command}"
    assert service["ProtectSystem"] == "strict"
    assert set(CONFINED) - set(LOOSENED if role == "enforcer" else {}) == {key for key in CONFINED if service.get(key) == "yes"}
    assert service["Restart"] == "on-failure"
    assert service["Environment"].startswith(("PYTHONPYCACHEPREFIX=/var/cache/writ/", "TSS2_LOG="))
    assert ("User" in service) == (role != "enforcer")


def test_the_enforcer_leaves_its_holders_alive_in_a_delegated_cgroup() -> None:
    service = unit(ROOT / "deploy/systemd/writ-enforcer.service")["Service"]
    assert (service["Delegate"], service["KillMode"], service["RuntimeDirectoryPreserve"]) == ("yes", "process", "yes")


def test_what_the_enforcers_unit_allows_for_its_sandboxes_is_exactly_this_and_each_has_its_reason() -> None:
    text = (ROOT / "deploy/systemd/writ-enforcer.service").read_text()
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    reasons = " ".join(line for line in text.splitlines() if line.startswith("#"))
    words = {
        key: {word for line in lines if line.startswith(f"{key}=") for word in line.partition("=")[2].split()}
        for key in ("CapabilityBoundingSet", "RestrictAddressFamilies", "SystemCallFilter")
    }
    assert "DevicePolicy=closed" in lines
    assert all("modprobe@loop.service" in line for line in lines if line.startswith(("Wants=", "After=")))
    allowed = [line.removeprefix("DeviceAllow=") for line in lines if line.startswith("DeviceAllow=")]
    assert allowed == ["/dev/loop-control rw", "block-loop r", "/dev/tpmrm0 rw", "/dev/mapper/control rw"]
    drops = {f"CAP_{name}" for name in ("SETUID", "SETGID", "KILL", "CHOWN", "FOWNER", "DAC_OVERRIDE", "DAC_READ_SEARCH")}
    assert words["CapabilityBoundingSet"] - drops == {"CAP_SYS_ADMIN", "CAP_SETFCAP", "CAP_SYS_PTRACE"}
    assert words["RestrictAddressFamilies"] == {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}
    calls = {"@mount", "sethostname", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}
    denied = {"~@clock", "@cpu-emulation", "@debug", "@module", "@obsolete", "@raw-io", "@reboot", "@swap"}
    assert words["SystemCallFilter"] - denied - {"@system-service", "@setuid", "@chown"} == calls
    for word in (
        *LOOSENED,
        "PrivateDevices",
        "CAP_SYS_ADMIN",
        "CAP_SETFCAP",
        "CAP_SYS_PTRACE",
        "AF_NETLINK",
        "@mount",
        "sethostname",
        "seccomp",
        "Landlock",
    ):
        assert word in reasons


@pytest.mark.parametrize("role", COSIGNERS)
def test_a_cosigner_is_made_once_as_its_own_user_with_options_that_exist(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tasks_of(yaml.safe_load((PLAYBOOK / "roles" / role / "tasks/main.yml").read_text()))
    (made,) = [task["ansible.builtin.command"] for task in tasks if "ansible.builtin.command" in task]
    assert made["creates"] == f"/var/lib/writ/{role}/vkey", "what has forgotten is not made anew"
    assert made["argv"][:5] == ["runuser", f"--user=writ-{role}", "--", "/opt/writ/current/venv/bin/auditor", role]
    service = unit(ROOT / f"deploy/systemd/writ-{role}.service")["Service"]
    assert (service["User"], service["StateDirectory"], service["StateDirectoryMode"]) == (f"writ-{role}", f"writ/{role}", "0700")
    assert (service["CapabilityBoundingSet"], service["PrivateUsers"], service["PrivateDevices"]) == ("", "yes", "yes")
    said = (ROOT / f"deploy/systemd/writ-{role}.service").read_text()
    assert auditor([*COSIGNERS[role].split()[:2], "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in re.findall(r"--[a-z-]+", said))


@pytest.mark.parametrize("role", [*CONFIGS, *COSIGNERS])
def test_role_is_restarted_by_what_it_runs_and_not_by_what_the_play_changed(role: str) -> None:
    """A host of both groups has the release before its second play, in which nothing of it changes any more."""
    tasks = tasks_of(yaml.safe_load((PLAYBOOK / "roles" / role / "tasks/main.yml").read_text()))
    names = [task["name"] for task in tasks]
    at = names.index("It is of this release")
    assert tasks[at]["ansible.builtin.include_role"] == {"name": "release", "tasks_from": "runs.yml"}
    assert tasks[at]["vars"] == {"writ_role": role}
    assert names[at - 1 : at + 2] == ["It is enabled and started", "It is of this release", "It has what changed"]
    (looks,) = yaml.safe_load((PLAYBOOK / "roles/release/tasks/runs.yml").read_text())
    assert looks["notify"] == "Restart {{ writ_role }}"
    (handler,) = yaml.safe_load((PLAYBOOK / "roles" / role / "handlers/main.yml").read_text())
    assert handler["name"] == f"Restart {role}"
    assert "notify" not in (PLAYBOOK / "roles/release/tasks/main.yml").read_text()


def test_agent_hosts_get_the_packages_that_a_sandbox_is_made_with() -> None:
    tasks = tasks_of(yaml.safe_load((PLAYBOOK / "roles/enforcer/tasks/main.yml").read_text()))
    (installed,) = [task["ansible.builtin.apt"]["name"] for task in tasks if "ansible.builtin.apt" in task]
    (set_up,) = re.findall(r"^PACKAGES_SANDBOX='(.*)'$", (ROOT / "run").read_text(), re.MULTILINE)
    assert set(installed) == {*set_up.split(), "mount"}


def test_only_the_group_of_the_relying_unit_reaches_its_sockets_and_its_state_is_its_own() -> None:
    service = unit(ROOT / "deploy/systemd/writ-relying.service")["Service"]
    assert (service["User"], service["Group"], service["RuntimeDirectoryMode"], service["StateDirectoryMode"]) == (
        "writ-relying", "writ-relying", "0750", "0700",
    )  # fmt: skip
    assert (service["CapabilityBoundingSet"], service["PrivateUsers"], service["PrivateDevices"]) == ("", "yes", "yes")


def test_a_host_of_both_groups_has_the_anchors_of_each_role_apart() -> None:
    """What one role copied would be no change for the other, which reads it when it starts."""
    places = [
        task["vars"]["writ_exported"]
        for role in CONFIGS
        for task in tasks_of(yaml.safe_load((PLAYBOOK / "roles" / role / "tasks/main.yml").read_text()))
        if task.get("ansible.builtin.include_role", {}).get("tasks_from") == "exported.yml"
    ]
    assert len(places) == len(set(places)) == 3

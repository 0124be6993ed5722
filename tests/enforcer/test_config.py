"""Configuration: what is wrong is said, by the command too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enforcer.__main__ import main
from enforcer.config import EnforcerConfig
from tests.world.attestor import Attestor
from writ.formats.errors import FormatError, Unavailable
from writ.formats.trust import Trust, encode_trust
from writ.service import cli


def test_tools_and_services_are_named() -> None:
    config = EnforcerConfig(tools=("notes {store}/bin/python -I '{store}/a b.py'",), services=("reports https://reports.example/v1",))

    assert config.tool_commands == {"notes": ("{store}/bin/python", "-I", "{store}/a b.py")}
    assert config.service_urls == {"reports": "https://reports.example/v1"}


@pytest.mark.parametrize(
    "values",
    [
        {"tools": ("notes",)},
        {"tools": ("Notes /bin/x",)},
        {"tools": ("notes 'unclosed",)},
        {"tools": ("notes /bin/x", "notes /bin/y")},
        {"tools": ("notes /bin/x",), "services": ("notes https://x",)},
        {"services": ("reports https://x and more",)},
        {"tools": tuple(f"t{n} /bin/x" for n in range(33))},
        {"cgroup": "/"},
        {"cgroup": "writ"},
        {"cgroup": "/writ/../x"},
        {"uid_first": 0},
        {"uid_first": (1 << 31) - 1},
        {"instances": 0},
        {"pids_max": 1},
        {"memory_max": 1 << 20},
        {"cpu_max": -1},
        {"store_uids": ("root",)},
        {"tools": ("instance /bin/x",)},
        {"services": ("instance https://x",)},
        {"work_bytes": (1 << 20) - 1},
        {"work_files": 15},
        {"run_dir": Path("run")},
    ],
)
def test_configuration_that_cannot_be_meant_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        EnforcerConfig(**values)


def test_config_check_names_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "enforcer.toml"
    path.write_text('cgroop = "/writ"\npids_max = "many"\n')
    code = cli.run(main, ["--config", str(path), "config", "check", "--json"])
    faults = json.loads(capsys.readouterr().out)["faults"]

    assert code == 2
    assert len(faults) == 2
    assert "did you mean 'cgroup'" in faults[0]
    path.write_text('cgroup = "/writ"\n')
    assert cli.run(main, ["--config", str(path), "config", "check"]) == 0


def test_trust_is_pinned_by_a_file_with_a_decision_key(tmp_path: Path) -> None:
    config = EnforcerConfig(trust_file=tmp_path / "trust.cbor")
    with pytest.raises(Unavailable):
        config.trust()
    trust = Attestor(Path("unused"), {}).trust()
    config.trust_file.write_bytes(encode_trust(trust))
    assert config.trust() == trust
    config.trust_file.write_bytes(encode_trust(Trust("d", "i", (), (), ())))
    with pytest.raises(FormatError, match="decision key"):
        config.trust()
    config.trust_file.write_bytes(b"rubbish")
    with pytest.raises(FormatError):
        config.trust()


@pytest.mark.parametrize("words", [["why", "nothing"], ["why", "5f1c09ab-x"], ["status", "xyz"], ["log", "show"], ["log", "prove", "5f1c"]])
def test_reference_that_is_none_is_misuse_or_refused(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "enforcer.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n')

    assert cli.run(main, ["--config", str(path), *words]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_export_to_where_nothing_can_be_written_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "enforcer.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n')

    assert cli.run(main, ["--config", str(path), "log", "export", "--output", f"{tmp_path}/nowhere/x"]) == 3
    assert f"could not: file {tmp_path}/nowhere/x: No such file or directory" in capsys.readouterr().err


def test_without_a_daemon_run_could_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "enforcer.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n')

    assert cli.run(main, ["--config", str(path), "run", "--agent", "a"]) == 3
    assert "control.sock: No such file or directory; is `enforcer serve` running, with the same --config?" in capsys.readouterr().err


def test_doctor_finds_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "enforcer.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\ntrust_file = "{tmp_path}/none"\nattestor_socket = "{tmp_path}/no"\n'
    )
    code = cli.run(main, ["--config", str(path), "doctor", "--json"])
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}

    assert code == 3
    assert not findings["trust file"]["ok"]
    assert not findings["attestor"]["ok"]
    assert findings["attestor"]["remedy"]
    assert findings["engine"]["ok"]


@pytest.mark.parametrize(
    "line",
    [
        "a 8080",
        "a 0 127.0.0.1:1",
        "a 99999 127.0.0.1:1",
        "a 8080 host.test:1",
        "a 8080 127.0.0.1",
        "A! 8080 127.0.0.1:1",
        "a \u0661 127.0.0.1:1",
    ],
)
def test_inbound_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(FormatError):
        EnforcerConfig(inbound=(line,))


def test_inbound_ports_are_of_an_agent_and_each_address_once() -> None:
    config = EnforcerConfig(inbound=("a 8080 127.0.0.1:1", "b 8080 [::1]:1", "a 81 127.0.0.1:2"))
    assert config.inbound_of("a") == ((8080, ("127.0.0.1", 1)), (81, ("127.0.0.1", 2)))
    assert config.inbound_of("b") == ((8080, ("::1", 1)),)
    with pytest.raises(FormatError):
        EnforcerConfig(inbound=("a 8080 127.0.0.1:1", "b 8080 127.0.0.1:1"))
    with pytest.raises(FormatError):
        EnforcerConfig(unix_sockets=("run/model.sock",))

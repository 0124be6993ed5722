"""The command, as a person or a script runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestor.__main__ import main
from swtpm import SoftTpm
from tests.attestor.site import Host, VerifierSite, exchange, launch, receive, token_ask
from writ.formats.digest import Digest
from writ.formats.local import Done, Drift, Launched, Refusal, TokenGiven, Watch
from writ.formats.measurement import parse_measurement
from writ.formats.reason import REMEDIES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(host: Host, soft_tpm: SoftTpm) -> dict[str, str]:
    """The environment of an attestor on `host`."""
    return {
        **os.environ,
        "ATTESTOR_TCTI": soft_tpm.tcti,
        "ATTESTOR_ALLOW_SOFTWARE_TPM": "true",
        "ATTESTOR_STATE_DIR": str(host.directory / "state"),
        "ATTESTOR_STORE_DIR": str(host.store),
        "ATTESTOR_MANIFESTS_DIR": str(host.manifests),
        "ATTESTOR_SOCKET": str(host.socket),
    }


def run(environment: dict[str, str], *arguments: str, stdin: str = "") -> tuple[int, Any]:
    """Exit status and the JSON printed."""
    done = subprocess.run(
        [sys.executable, "-m", "attestor", *arguments, "--json"], cwd=ROOT, env=environment, input=stdin, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def test_from_nothing_to_a_serving_attestor(site: VerifierSite, host: Host, soft_tpm: SoftTpm, here: dict[str, str]) -> None:
    site.trust(soft_tpm)
    code, doctor = run(here, "doctor")
    assert (code, doctor["ok"]) == (1, False)
    assert next(f for f in doctor["findings"] if f["check"] == "enrolment")["next"] == "Run `attestor enroll`."
    code, made = run(here, "init")
    assert (code, made["ak_created"], made["ek_certificates"]) == (0, True, 1)
    certificate = x509.load_der_x509_certificate(host.tpm.endorsement().certificates[0])
    assert made["ek"] == str(Digest.of(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)))
    code, again = run(here, "init")
    assert (code, again["ak_created"], again["ak_name"], again["host_key"]) == (0, False, made["ak_name"], made["host_key"])

    assert run(here, "serve")[1]["reasons"][0]["code"] == "not-enrolled"
    code, pinned = run(here, "enroll", "--verifier", site.url, "--host", "host-1", "--ticket", "-", stdin=site.admit("host-1") + "\n")
    assert (code, pinned["namespace"], pinned["runtime_pcr"]) == (0, "demo", 13)
    code, measured = run(here, "measure", str(host.manifests / "reporter.toml"))
    assert (code, measured["agent"]) == (0, "spiffe://example.org/demo/agent/reporter")

    with serving(here):
        code, status = run(here, "status")
        assert code == 0
        assert (status["host"], status["instances"], status["last_verdict"]) == ("host-1", 0, "none")
        assert status["events"] == len(run(here, "measure", "--governance")[1]["governance"])
    assert run(here, "status")[0] == 3


def test_killed_daemon_finds_its_instances_again(site: VerifierSite, enrolled: Host, here: dict[str, str]) -> None:
    governance = run(here, "measure", "--governance")[1]["governance"]
    site.approve_governance([(part, Digest.parse(root)) for part, root in governance.items()])
    message, key = launch("reporter")
    with serving(here) as daemon:
        launched = asyncio.run(enrolled.ask(message, Launched))
        site.approve(launched)
        asyncio.run(enrolled.ask(token_ask(launched, key), TokenGiven))
        daemon.kill()
        daemon.wait()
        assert run(here, "status")[0] == 3
    with serving(here):
        asyncio.run(enrolled.ask(token_ask(launched, key), TokenGiven))
        assert run(here, "status")[1]["instances"] == 1
        prompt = Path(launched.root) / "prompt/prompt.txt"
        prompt.chmod(0o644)
        prompt.write_bytes(b"be evil")

        async def drifted() -> Drift:
            async with enrolled.line() as line:
                await exchange(line, Watch(), Done)
                return await receive(line, Drift)

        assert asyncio.run(drifted()).instance == launched.instance


def test_cleared_tpm_is_named_by_every_command_and_healed_by_ak_ticket_and_full_log(
    site: VerifierSite, enrolled: Host, soft_tpm: SoftTpm, here: dict[str, str]
) -> None:
    governance = run(here, "measure", "--governance")[1]["governance"]
    site.approve_governance([(part, Digest.parse(root)) for part, root in governance.items()])
    message, key = launch("reporter")
    enroll = ("enroll", "--verifier", site.url, "--host", "host-1")
    soft_tpm.reset()
    with serving(here):
        launched = asyncio.run(enrolled.ask(message, Launched))
        site.approve(launched)
        asyncio.run(enrolled.ask(token_ask(launched, key), TokenGiven))
        soft_tpm.clear()
        refusal = asyncio.run(enrolled.ask(token_ask(launched, key), Refusal))
        assert [reason.code for reason in refusal.reasons] == ["tpm-cleared"]
        status = run(here, "status")[1]
        assert (status["last_verdict"], status["next"]) == ("tpm-cleared", REMEDIES["tpm-cleared"])
    with serving(here):  # it starts, says so before anyone asks, and watches what runs
        assert run(here, "status")[1]["last_verdict"] == "tpm-cleared"
    code, doctor = run(here, "doctor")
    found = next(finding for finding in doctor["findings"] if finding["check"] == "ak")
    assert (code, found["ok"], found["next"]) == (1, False, REMEDIES["tpm-cleared"])
    for command in (enroll, ("init",)):
        code, answer = run(here, *command)
        assert (code, [reason["code"] for reason in answer["reasons"]]) == (1, ["tpm-cleared"])

    assert run(here, "init", "--new-ak")[0] == 0
    code, answer = run(here, *enroll)
    assert (code, answer["reasons"][0]["code"]) == (1, "ek-not-admitted")
    assert run(here, *enroll, "--ticket", "-", stdin=site.admit("host-1") + "\n")[0] == 0
    assert site.built.parts.hosts.known("demo", "host-1").standing.word == "cleared"
    with serving(here):
        assert "instance-tainted" in {r.code for r in asyncio.run(enrolled.ask(token_ask(launched, key), Refusal)).reasons}
        message, key = launch("reporter")
        asyncio.run(enrolled.ask(token_ask(asyncio.run(enrolled.ask(message, Launched)), key), TokenGiven))
    assert site.built.parts.hosts.known("demo", "host-1").standing.word == "trusted"


@contextlib.contextmanager
def serving(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The daemon, ready; afterwards ended by SIGTERM, unless the test ended it, and with status 0."""
    daemon = subprocess.Popen([sys.executable, "-m", "attestor", "serve"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stderr is not None
        while "ready" not in (line := daemon.stderr.readline()):
            assert line, "the daemon ended"
        yield daemon
        if daemon.returncode is None:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait()
        if daemon.stderr is not None:
            daemon.stderr.close()


def test_measure_offline_needs_no_tpm_and_writes_the_measurement(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, out = str(host.manifests / "reporter.toml"), tmp_path / "measurement.cbor"
    assert main(["measure", manifest, "--offline", "--domain", "example.org", "--json", "--out", str(out)]) == 0
    shown = json.loads(capsys.readouterr().out)
    measurement = parse_measurement(out.read_bytes())
    assert shown["manifest_root"] == str(measurement.root())
    assert [entry["path"] for part in shown["components"] for entry in part["entries"]] == ["main.py", "prompt.txt"]
    assert main(["measure", manifest, "--offline", "--domain", "example.org"]) == 0
    said = capsys.readouterr().out
    assert "entries  1, 7 bytes" in said, "each by its path is in --json"
    assert 'grant ["tool.call", "files/*"]: expected mcp:TOOL/METHOD' in said


@pytest.mark.parametrize(
    "arguments,code",
    [
        (["measure"], 2),
        (["measure", "none.toml", "--offline", "--domain", "example.org"], 3),
        (["measure", "none.toml", "--offline"], 2),
        (["measure", "x.toml", "--governance"], 2),
        (["enroll", "--verifier", "https://v.example", "--host", "h", "--pcr", "16"], 2),
        (["enroll", "--verifier", "https://v.example", "--host", "h", "--pcr", "23"], 2),
        (["enroll", "--verifier", "https://v.example", "--host", "h", "--bank", "sha1"], 2),
        (["enroll", "--verifier", "https://v.example", "--host", "No Name"], 2),
        (["serve", "--config", "x"], 2),
        ([], 2),
    ],
)
def test_misuse_is_told_from_failure(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    assert "Traceback" not in capsys.readouterr().err


def test_software_tpm_needs_the_flag(here: dict[str, str]) -> None:
    code, said = run({**here, "ATTESTOR_ALLOW_SOFTWARE_TPM": "false"}, "init")
    assert (code, said["what"]) == (2, "tcti")


@pytest.mark.parametrize(
    "text", ["tcti = 1", "watch_interval = 0", 'ek = "p521"', 'ak = "x"', 'peers = ["root"]', "unknown = 1", "verifier_timeout = 1000"]
)
def test_configuration_that_is_wrong_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text(text)
    assert main(["--config", str(tmp_path / "a.toml"), "config", "check", "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 1


def test_governance_roots_are_the_same_each_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = []
    for number in range(2):
        assert main(["measure", "--governance", "--json", "--out", str(tmp_path / str(number))]) == 0
        found.append(json.loads(capsys.readouterr().out)["governance"]["interpreter"])
        time.sleep(0.01)
    assert found[0] == found[1]
    assert {"attestor", "writ", "interpreter"} <= json.loads(json.dumps(list_governance(capsys))).keys()


def list_governance(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    main(["measure", "--governance", "--json"])
    shown: dict[str, str] = json.loads(capsys.readouterr().out)["governance"]
    return shown


@pytest.mark.parametrize("pcr", [7, 10, 16, 23, 24])
def test_register_that_others_need_or_anybody_resets_is_never_that_of_anchors(pcr: int, here: dict[str, str]) -> None:
    code, answer = run(here | {"ATTESTOR_ANCHOR_PCR": str(pcr)}, "config", "check")
    assert code == 2
    assert "anchor_pcr" in str(answer["faults"])


def test_register_of_anchors_is_shown_and_is_not_the_runtime_logs(enrolled: Host, here: dict[str, str]) -> None:
    assert enrolled.enrolment is not None
    taken = enrolled.enrolment.runtime_pcr
    for pcr, apart in ((15, True), (taken, False)):
        findings = run(here | {"ATTESTOR_ANCHOR_PCR": str(pcr)}, "doctor")[1]["findings"]
        found = next(one for one in findings if one["check"] == "anchors")
        assert (found["ok"], found["found"].startswith(f"PCR {pcr}, not begun")) == (apart, True)
    assert run(here | {"ATTESTOR_ANCHOR_PCR": str(taken)}, "serve")[0] == 2

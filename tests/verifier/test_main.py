"""The `verifier` command as a process: from init to a token and its export; stopped, killed and started again."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.world.chip import Maker
from tests.world.host import RefusedByVerifier, SimulatedHost
from verifier.__main__ import main
from verifier.ledger.schema import EntryRow, HostRow, NonceRow, TokenRow
from verifier.ledger.sqlite import SqliteTables, connect
from writ.formats.archive import parse_archive
from writ.formats.cose import parse_sign1
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import Unavailable
from writ.formats.exchange import EXCHANGE, AttestAnswer
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.trust import parse_trust
from writ.formats.x509 import parse_certificate, to_pem


@dataclass
class Command:
    """A verifier on this machine, operated by its command only."""

    config: Path
    folder: Path
    url: str
    process: subprocess.Popen[bytes] | None = None

    def run(self, *argv: str | Path, code: int = 0) -> dict[str, Any]:
        """The JSON that the command prints; it runs in this process, as `main` is all there is to it."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            got = main(["--config", str(self.config), *map(str, argv), "--json"])
        assert got == code, f"{argv}: {got} {out.getvalue()} {err.getvalue()}"
        shown: dict[str, Any] = json.loads(out.getvalue())
        return shown

    def serve(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "verifier", "--config", self.config, "serve"], stderr=subprocess.DEVNULL)
        port = int(self.url.rpartition(":")[2])
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        pytest.fail("the verifier did not start within 20 s")

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = tmp_path / "verifier.toml"
    url = f"http://127.0.0.1:{port}"
    config.write_text(f'state_dir = "{tmp_path}/state"\ndomain = "example.org"\nissuer = "{url}"\nlisten = "127.0.0.1:{port}"\n')
    made = Command(config, tmp_path, url)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()


def ready(command: Command) -> None:
    command.run("init")
    command.serve()
    pem = command.folder / "maker.pem"
    pem.write_text("".join(to_pem(parse_certificate(der)) for der in (Maker().root(), Maker().intermediate())))
    command.run("trust", "import", pem, "--tpm-class", "software")
    command.run("policy", "publish", "--accept-runtime-only", "--tpm-class", "software")


@pytest.mark.timeout(180)
def test_from_init_to_a_token_and_its_proof(command: Command) -> None:
    folder = command.folder
    ready(command)
    assert command.run("init")["api_key_file"] is None, "a second init changes nothing"
    command.run("host", "admit", "h1", "--ticket-file", folder / "ticket")
    host = SimulatedHost("h1", command.url)
    try:
        host.enrol((folder / "ticket").read_text().strip())
        host.govern()
        host.launch("one")
        refused = host.attest("one")
        assert refused.answers[0].token is None
        shown = command.run("why", leaf_hash(refused.decision).hex()[:16])
        assert shown["reasons"][0]["code"] == "governance-mismatch"
        captured = command.run("reference", "capture", "--host", "h1", "--out", folder / "corims")["captured"]
        assert sorted(c["environment"] for c in captured) == ["governance", "spiffe://example.org/default/agent/reporter"]
        files = sorted((folder / "corims").glob("*.corim"))
        assert command.run("reference", "diff", files[0], code=1)["versions"] == []
        command.run("reference", "import", *files)
        assert command.run("reference", "diff", files[0])["versions"][0]["differences"] == {}
        assert len(command.run("reference", "list")["references"]) == 2
        token = host.attest("one").answers[0].token
        assert token is not None
        command.run("host", "revoke", "jti", parse_token(token).claims.token_id)
        command.run("key", "rotate")
        command.run("trust", "export", "--out", folder / "trust")
        command.run("export", "--out", folder / "archive")
        shown = command.run("policy", "show", "--out", folder / "policy")
        assert Digest.of(parse_sign1((folder / "policy").read_bytes()).payload or b"") == Digest.parse(shown["digest"])
        assert command.run("policy", "show", "--out", folder / "corims", code=3)["what"] == f"file {folder / 'corims'}"
        assert command.run("init")["api_key_file"] is None  # beside the daemon, which holds the ledger
        assert command.run("serve", code=3)["what"] == "log head"  # which a verifier takes first
        assert parse_trust((folder / "trust").read_bytes()).roots[0].tpm_class == "software"
        assert token in parse_archive((folder / "archive").read_bytes()).tokens
        assert command.run("host", "list")["hosts"][0]["status"] == "active"
        assert command.run("host", "show", "nobody", code=1)["reasons"][0]["code"] == "not-found"
        assert all(check["ok"] for check in command.run("doctor")["checks"])
    finally:
        host.close()
    assert command.end(signal.SIGTERM) == 0
    assert command.run("host", "list", code=3)["error"] == "unavailable"


def test_wrong_configuration_is_named(command: Command) -> None:
    assert command.run("config", "check") == {"faults": []}
    command.config.write_text(command.config.read_text().replace("127.0.0.1", "192.0.2.1") + 'colour = "blue"\n')
    faults = command.run("config", "check", code=2)["faults"]
    assert any("colour" in fault for fault in faults)
    command.config.write_text(command.config.read_text().replace('colour = "blue"\n', ""))
    assert any("loopback" in fault for fault in command.run("config", "check", code=2)["faults"])
    assert command.run("init", code=2)["error"] == "malformed"


def test_serving_without_init_says_so(command: Command) -> None:
    assert command.run("serve", code=3)["what"] == "state directory"
    assert [check["ok"] for check in command.run("doctor", code=1)["checks"]][:2] == [False, False]


@pytest.mark.timeout(60)
def test_i4_a_write_that_fails_ends_the_verifier_which_says_so(command: Command) -> None:
    """It could not: systemd starts it again, and it serves once a start can write."""
    command.run("init")
    command.serve()
    process = command.process
    assert process is not None
    no_more = (command.folder / "state" / "log-head").stat().st_size // 2
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (no_more, no_more))
    command.run("host", "admit", "h1", code=3)
    assert process.wait(20) == 3
    command.serve()
    assert command.run("host", "list")["hosts"] == []
    command.run("host", "admit", "h1")


@pytest.mark.timeout(180)
def test_killed_under_load_it_loses_no_decision_and_accepts_no_nonce_twice(command: Command) -> None:
    """SIGKILL while six hosts attest: every token that left has its durable decision; every spent nonce stays spent."""
    ready(command)
    hosts = []
    for at in range(6):
        host = SimulatedHost(f"h{at}", command.url)
        ticket = command.run("host", "admit", host.name)["ticket"]
        host.enrol(ticket)
        host.govern()
        host.launch("one")
        host.attest("one")
        hosts.append(host)
    command.run("reference", "capture", "--host", "h0", "--approve")
    for host in hosts[1:]:
        command.run("reference", "capture", "--host", host.name, "--approve")
    tokens: list[str] = []
    sent: dict[str, bytes] = {}
    stop = threading.Event()

    def renew(host: SimulatedHost) -> None:
        while not stop.is_set():
            evidence = host.evidence("one")
            sent[host.name] = evidence
            try:
                answer = host.deliver(evidence, "one")
            except (Unavailable, RefusedByVerifier):
                return
            tokens.extend(a.token for a in answer.answers if a.token is not None)

    threads = [threading.Thread(target=renew, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    assert command.end(signal.SIGKILL) == -signal.SIGKILL
    stop.set()
    for thread in threads:
        thread.join(30)
    assert len(tokens) > 6
    durable = inspect(command, tokens)
    command.serve()
    for host in hosts:
        said = EXCHANGE.parse(host.say(f"/v1/hosts/{host.name}/attest", sent[host.name]).body)
        assert isinstance(said, AttestAnswer) or [r.code for r in said.reasons] == ["nonce-spent"]  # type: ignore[union-attr] # a Problem
    after = inspect(command, tokens)
    assert after >= durable
    for host in hosts:
        host.close()


def inspect(command: Command, tokens: list[str]) -> int:
    """Every token has its row, every entry is as hashed and in sequence, every spent nonce has one entry; the number of entries."""
    looked = connect(command.folder / "state" / "ledger.sqlite")
    try:
        tables = SqliteTables(looked)
        known = {row.token_id for row in tables.select(TokenRow)}
        assert {parse_token(token).claims.token_id for token in tokens} <= known
        entries = tables.select(EntryRow)
        assert [row.sequence for row in entries] == list(range(len(entries)))
        assert all(leaf_hash(row.entry) == row.leaf for row in entries)
        spent = [row for row in tables.select(NonceRow) if row.spent_by is not None]
        assert len(spent) == len([row for row in entries if row.kind == "attest"])
        for host in tables.select(HostRow):
            assert host.version == len([row for row in entries if row.kind == "attest" and row.host == host.host]) - 1
        return len(entries)
    finally:
        looked.close()


def test_secrets_are_written_for_their_owner_alone(command: Command) -> None:
    old = os.umask(0)
    try:
        ready(command)
        command.run("host", "admit", "h1", "--ticket-file", command.folder / "ticket")
        for name, *role in (("reader", "--role", "reader"), ("relying", "--role", "relying", "--audience", "reports")):
            command.run("key", "create", *role, "--for-namespace", "default", "--out", command.folder / name)
    finally:
        os.umask(old)
    for file in ("ticket", "reader", "relying", "state/operator.key"):
        assert (command.folder / file).stat().st_mode & 0o777 == 0o600
    assert command.run("host", "list", "--api-key-file", command.folder / "reader")["hosts"][0]["host"] == "h1"
    assert command.run("host", "retire", "h1", "--api-key-file", command.folder / "reader", code=1)["reasons"][0]["code"] == "forbidden"
    assert command.run("host", "list", "--api-key-file", command.folder / "relying", code=1)["reasons"][0]["code"] == "forbidden"


def test_commands_load_no_verdict_and_no_server_before_they_need_one() -> None:
    loaded = "import sys, verifier.__main__; print(*sorted(name for name in sys.modules if name.startswith(('writ.verdict', 'verifier.'))))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {
        "verifier.__main__", "verifier.check", "verifier.check.finding", "verifier.commands", "verifier.config", "verifier.operate",
        "verifier.policy_commands", "verifier.reference_commands", "verifier.trust_commands",
    }  # fmt: skip

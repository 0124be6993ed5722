"""Secrets of a real agent: it holds placeholders, its requests carry the secrets, and containment gives back what was leased."""

from __future__ import annotations

import contextlib
import json
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from enforcer.gates.egress.outlet import Outlet
from enforcer.launch.sandbox import environment_of
from enforcer.record import LogReader
from enforcer.secrets.held import Secrets
from tests.enforcer.child.test_children import GRANTS, PRELUDE
from tests.enforcer.host import Host, wait_for
from tests.enforcer.test_containment import short_life
from tests.world.network import Server
from tests.world.vault import Vault
from tests.world.web import site
from writ.formats.errors import FormatError
from writ.formats.grants import grant_set
from writ.formats.local import Refusal
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord
from writ.formats.secret import OURS, Secret, secret_set
from writ.service.clock import SystemClock

pytestmark = pytest.mark.cgroup

VAULT = "https://vault.example.org"
NAMED = (Secret("db", "DB_PASSWORD"), Secret("mail", "file"))
BODY = """
import http.client, time
proxy = http.client.HTTPConnection("127.0.0.1", 3128, timeout=10)
url = "http://127.0.0.1:PORT/v1/a"
proxy.request("GET", url, headers={"X-Password": os.environ["DB_PASSWORD"]})
answer = proxy.getresponse()
print(json.dumps({
    "status": answer.status, "variable": os.environ["DB_PASSWORD"],
    "file": open("/run/writ/secrets/mail").read() if os.path.exists("/run/writ/secrets/mail") else None,
}), flush=True)
time.sleep(STAY)
"""
PATIENT = """
import http.client
while not os.path.exists("/agent/enough"):
    try:AGAIN
    except (OSError, http.client.HTTPException):  # an upgrade cuts connections through the gate, as every hold does
        pass
"""


class Placed:
    """A host whose vault has the secrets of the agent `a`, and a site that they are sent to."""

    def __init__(self, host: Host) -> None:
        self.host, self.site = host, Server(site)
        self.vault = Vault(host.attestor.method(VAULT))
        self.serve()

    def serve(self, agent: str = "a", **more: object) -> None:
        """A daemon whose configuration says `more`, and where the secrets of `agent` come from."""
        lines = (f"{agent} db vault database/creds/reader password", f"{agent} mail vault secret/data/mail data.key")
        self.host.write_config(secrets=lines, vault_url=self.vault.url, vault_role="writ", vault_audience=VAULT, **more)
        if self.host.daemon is not None:
            self.host.kill_daemon()
        self.host.serve()

    def agent(self, *more: tuple[str, str], stay: int = 0, named: Sequence[Secret] = NAMED) -> None:
        """The agent may ask for the site's pages, and `more`."""
        body = BODY.replace("PORT", str(self.site.port)).replace("STAY", str(stay))
        self.host.agent("a", body, more=[("http.get", self.url), *more], secrets=named)

    @property
    def url(self) -> str:
        """The page."""
        return f"http://127.0.0.1:{self.site.port}/v1/a"

    @property
    def grants(self) -> tuple[tuple[str, str], ...]:
        """Of both secrets."""
        return ("secret.send", f"secret:db@{self.url}"), ("secret.read", "secret:mail"), ("token.exchange", VAULT)

    def state_of_host(self) -> bytes:
        """All that the enforcer wrote."""
        found = [*self.host.config.state_dir.rglob("*"), self.host.folder / "daemon.log"]
        return b"".join(path.read_bytes() for path in found if path.is_file())

    def close(self) -> None:
        self.site.close()
        self.vault.close()


@pytest.fixture
def placed(idle_host: Host) -> Iterator[Placed]:
    made = Placed(idle_host)
    yield made
    made.close()


def test_i8_agent_uses_a_secret_that_it_never_sees_and_reads_one_that_it_may(placed: Placed) -> None:
    placed.agent(*placed.grants)
    status, out, err = placed.host.finish(placed.host.run("a"))

    assert (status, err) == (0, "")
    told = json.loads(out)
    assert (told["status"], told["file"]) == (200, "s3cret-mail")
    heard = placed.site.heard.decode()
    password = heard.partition("X-Password: ")[2].partition("\r\n")[0]
    assert len(password) == 16
    assert told["variable"].startswith("writ-secret-db-")
    assert password not in out
    assert password.encode() not in placed.state_of_host()
    assert not placed.vault.leases, "its end gave back what was leased"
    assert not placed.vault.tokens
    instance = placed.host.instance("a")
    records = [e.record for e in LogReader(placed.host.config.instance_dir(instance), instance).entries()]
    acted = [(r.action, r.resource, r.permit) for r in records if isinstance(r, ActionRecord)]
    assert acted == [
        ("secret.read", "secret:mail", True),
        ("http.get", placed.url, True),
        ("secret.send", f"secret:db@{placed.url}", True),
    ]


def test_containment_gives_leases_back_and_takes_files_away_and_a_thaw_asks_anew(placed: Placed) -> None:
    host = placed.host
    short_life(host)
    placed.agent(*placed.grants, stay=60)
    run = host.run("a")
    instance = host.instance("a")
    file = host.config.agent_dir(instance) / "gate/secrets/mail"
    wait_for(lambda: placed.site.heard and file.exists())
    assert len(placed.vault.leases) == 1
    host.attestor.refusal = Refusal((Reason("governance-mismatch", "governance.policy", "a", "b"),), False)
    host.wait_state(instance, "held")
    assert not file.exists()
    wait_for(lambda: not placed.vault.leases and not placed.vault.tokens)
    host.attestor.refusal = None
    host.wait_state(instance, "running", 20)
    wait_for(file.exists)
    assert file.read_text() == "s3cret-mail"
    run.terminate()
    host.finish(run)
    assert not placed.vault.tokens


def test_secret_to_be_read_without_a_grant_is_no_launch(placed: Placed) -> None:
    placed.agent(placed.grants[0], placed.grants[2])
    status, out, err = placed.host.finish(placed.host.run("a"))
    assert status != 0
    assert out == ""
    assert "grant-missing" in err
    assert "GET /v1/secret/data/mail" not in placed.vault.asked


def test_secret_that_the_host_has_no_source_of_is_no_launch(placed: Placed) -> None:
    placed.agent(named=(Secret("other", "OTHER"),))
    status, _, err = placed.host.finish(placed.host.run("a"))
    assert status != 0
    assert "enforcer.toml has no source of it for a" in err


def test_observed_agent_has_placeholders_and_no_secret(placed: Placed) -> None:
    placed.agent(*placed.grants)
    placed.serve(observe=True)
    known = placed.host.attestor.agents["a"]
    placed.host.attestor.agents["a"] = replace(known, mode="observe", grants=grant_set([("http.get", placed.url)]))
    status, out, _ = placed.host.finish(placed.host.run("a"))

    assert status == 0
    assert json.loads(out)["status"] == 502
    assert json.loads(out)["file"] is None
    assert (placed.vault.asked, placed.site.heard) == ([], b"")


@pytest.mark.parametrize("granted", [True, False])
def test_child_has_the_secrets_of_its_own_manifest_and_grants_and_none_of_its_parents(placed: Placed, granted: bool) -> None:
    host, script = placed.host, 'read line < /run/writ/secrets/mail || :; echo "$line $DB"'
    reads = (("secret.read", "secret:mail"), ("token.exchange", VAULT))
    placed.serve("coder")
    host.child("coder", more=reads if granted else ())
    known = host.attestor.agents["coder"]
    host.attestor.agents["coder"] = replace(known, secrets=(Secret("db", "DB"), Secret("mail", "file")))
    body = f"""
    started = ask("instance", "start", agent="coder")
    child = started["result"]["instance"] if started["ok"] else None
    print(json.dumps([started["ok"], said(run({script!r})) if child else None]))
    """
    host.agent("a", body, prelude=PRELUDE, more=[*GRANTS, *reads])
    status, out, err = host.finish(host.run("a"), 60)

    assert (status, err) == (0, "")
    if not granted:
        assert json.loads(out) == [False, None]
        return
    started, told = json.loads(out)
    mail, _, db = told.strip().partition(" ")
    assert (started, mail, db.startswith("writ-secret-db-")) == (True, "s3cret-mail", True)


def test_placeholders_outlive_an_upgrade_and_leases_do_not(placed: Placed) -> None:
    host, again = placed.host, BODY.replace("PORT", str(placed.site.port)).replace("STAY", "0.2")
    host.agent(
        "a", PATIENT.replace("AGAIN", textwrap.indent(again, "        ")), more=[("http.get", placed.url), *placed.grants], secrets=NAMED
    )
    run = host.run("a")
    instance = host.instance("a")
    wait_for(lambda: placed.vault.leases)
    (first,) = placed.vault.leases
    host.install("next")
    host.kill_daemon()
    host.serve()
    wait_for(lambda: (shown := host.standing(instance))["moves"] == 1 and shown["state"] == "running", 30)
    heard = len(placed.site.heard)
    wait_for(lambda: len(placed.site.heard) > heard + 200 and set(placed.vault.leases) - {first})
    (host.config.agent_dir(instance) / "agent/home/enough").touch()
    status, out, err = host.finish(run)

    assert (status, err) == (0, "")
    assert {json.loads(line)["variable"] for line in out.splitlines()} == {json.loads(out.splitlines()[0])["variable"]}
    assert json.loads(out.splitlines()[-1])["file"] == "s3cret-mail"
    passwords = {line.split(b": ")[1] for line in placed.site.heard.split(b"\r\n") if line.startswith(b"X-Password: ")}
    assert len(passwords) >= 2
    assert not any(one.startswith(b"writ-secret-") for one in passwords)
    assert not placed.vault.leases


@pytest.mark.parametrize("ways", [(), (("http.get", "https://a.test:443/*"),), (("net.connect", "tcp:a.test:443"),)], ids=len)
def test_no_variable_of_the_enforcers_can_be_a_secrets(ways: tuple[tuple[str, str], ...]) -> None:
    outlet = Outlet(grant_set(ways), SystemClock(), Secrets((), {}), roots=None, always=False)
    given = environment_of(WRIT_SOCKET="x", **outlet.environment)
    assert given.keys() <= OURS
    for variable in given:
        with pytest.raises(FormatError, match="the agent's own"):
            secret_set([("key", variable)], "secrets")


LEAKS = """
import http.client, socket, time
proxy = http.client.HTTPConnection("127.0.0.1", 3128, timeout=10)
proxy.request("GET", "http://127.0.0.1:PORT/v1/a", headers={"Authorization": "Bearer " + os.environ["API_TOKEN"]})
status = proxy.getresponse().status
seen, reached = [], []
tops = ("/run", "/tmp", "/agent", "/etc", "/dev/shm")
places = [os.path.join(at, name) for top in tops for at, _, names in os.walk(top) for name in names]
for path in places + [f"/proc/{pid}/{kind}" for pid in os.listdir("/proc") if pid.isdigit() for kind in ("environ", "cmdline")]:
    try:
        if os.path.isfile(path):
            seen += [path] if b"eyJhbGciOiJFUzI1NiI" in open(path, "rb").read(1 << 20) else []
    except OSError:
        pass
for path in ["ATTESTOR", "/run/writ/attestor.sock"]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        reached.append(path)
    except OSError:
        pass
print(json.dumps({"status": status, "variable": os.environ["API_TOKEN"], "seen": seen, "reached": reached}), flush=True)
time.sleep(STAY)
"""


def shown_by_descendants() -> list[bytes]:
    """Command line and environment of each process that descends from this one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    found = []
    for pid in ours - {os.getpid()}:
        with contextlib.suppress(OSError):
            found += [Path(f"/proc/{pid}/{kind}").read_bytes() for kind in ("cmdline", "environ")]
    return found


def test_i8_exchange_token_is_in_the_request_and_nowhere_else(placed: Placed) -> None:
    """Not in the sandbox, a command line, an environment, a log or a record; and no way leads from the agent to who gives it."""
    host = placed.host
    host.write_config(secrets=(f"a api bearer {VAULT}",))
    host.kill_daemon()
    host.serve()
    body = LEAKS.replace("PORT", str(placed.site.port)).replace("ATTESTOR", str(host.config.attestor_socket)).replace("STAY", "3")
    grants = [("http.get", placed.url), ("secret.send", f"secret:api@{placed.url}"), ("token.exchange", VAULT)]
    host.agent("a", body, more=grants, secrets=(Secret("api", "API_TOKEN"),))
    run = host.run("a")
    wait_for(lambda: b"Authorization: Bearer " in placed.site.heard)
    token = placed.site.heard.partition(b"Authorization: Bearer ")[2].partition(b"\r\n")[0]
    shown = shown_by_descendants()
    assert token.startswith(b"eyJhbGciOiJFUzI1NiI"), "what the agent looks for"
    status, out, err = host.finish(run)
    told = json.loads(out)

    assert (status, err) == (0, "")
    assert host.attestor.method(VAULT).login(token.decode()) == "spiffe://example.org/test/agent/a"
    assert (told["status"], told["seen"], told["reached"]) == (200, [], [])
    assert told["variable"].startswith("writ-secret-api-")
    assert len(shown) > 6
    assert not any(token in one for one in shown)
    assert token not in placed.state_of_host()
    assert token not in out.encode()


def test_held_instance_asks_for_no_exchange_token_and_a_thaw_asks_anew(placed: Placed) -> None:
    host = placed.host
    short_life(host)
    placed.agent(*placed.grants, stay=60)
    run = host.run("a")
    instance = host.instance("a")
    wait_for(lambda: placed.site.heard)
    before = len(host.attestor.exchanges)
    host.attestor.refusal = Refusal((Reason("governance-mismatch", "governance.policy", "a", "b"),), False)
    host.wait_state(instance, "held")
    assert len(host.attestor.exchanges) == before
    host.attestor.refusal = None
    host.wait_state(instance, "running", 20)
    wait_for(lambda: len(host.attestor.exchanges) > before)
    assert len(set(placed.vault.shown)) == len(placed.vault.shown), "no session is begun twice with one token"
    run.terminate()
    host.finish(run)

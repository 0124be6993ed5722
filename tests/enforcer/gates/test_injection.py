"""Placeholders in requests: the secret is sent where a grant says, and nowhere else; the agent never has it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from enforcer.credential import Held
from enforcer.gatekeeper import Gatekeeper
from enforcer.gates.secret_files import SecretFiles
from enforcer.record import ActionLog, LogReader
from enforcer.secrets.held import Secrets
from enforcer.secrets.source import GiveBack, Lease
from tests.enforcer.gates.proxied import Proxied
from tests.enforcer.host import wait_for
from tests.enforcer.scene import Scene
from tests.world.network import Names, Server, certified
from tests.world.web import site
from writ.formats.errors import Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord
from writ.formats.secret import Secret

HOST = "api.test"
KEY = b"s3cret-key"
CUT = Reason("token-revoked", "token", "a valid token", "revoked")


@dataclass
class Known:
    """A source in memory; None is one that fails."""

    value: bytes | None
    fetched: int = 0

    def fetch(self, held: Held) -> Lease:
        assert held.compact
        self.fetched += 1
        if self.value is None:
            raise Unavailable("secret", "its source is away")
        return Lease(self.value)

    def forget(self) -> GiveBack | None:
        return None


class Web:
    """A site whose agent may ask for `/v1/*` and `/v2/*`, and send its key to `/v1/*`."""

    def __init__(self, folder: Path, value: bytes | None, *more: tuple[str, str]) -> None:
        certificate = certified(folder, HOST)
        self.server = Server(site, certificate=certificate)
        self.url = f"https://{HOST}:{self.server.port}"
        self.source, self.other = Known(value), Known(b"other")
        self.secrets = Secrets((Secret("key", "API_KEY"), Secret("other", "OTHER")), {"key": self.source, "other": self.other})
        self.placeholder, self.second = self.secrets.environment["API_KEY"], self.secrets.environment["OTHER"]
        names = Names()
        names.name(HOST, "127.0.0.1")
        granted = [
            *((f"http.{word}", f"{self.url}/{part}/*") for word in ("get", "post") for part in ("v1", "v2")),
            ("secret.send", f"secret:key@{self.url}/v1/*"),
            ("net.reach", f"tcp:127.0.0.1:{self.server.port}"),
            *((action, resource.replace("URL", self.url)) for action, resource in more),
        ]
        self.out = Proxied(folder, names=names, more=tuple(granted), roots=certificate[0], secrets=self.secrets)

    def curl(self, path: str, *words: str) -> tuple[str, str]:
        """Status and body."""
        done = self.out.curl("--cacert", str(self.out.ca_file), "--write-out", "\n%{http_code}", *words, f"{self.url}{path}")
        body, _, status = done.stdout.rpartition("\n")
        return status, body

    def decided(self) -> list[tuple[str, str, bool]]:
        """Each record of a decision, but of addresses."""
        self.out.records()
        found = [entry.record for entry in LogReader(self.out.scene.folder, self.out.scene.instance).entries()]
        return [
            (one.action, one.resource.removeprefix(self.url), one.permit)
            for one in found
            if isinstance(one, ActionRecord) and one.action != "net.reach"
        ]

    def written(self) -> bytes:
        """Everything that the log and what is sealed beside it hold."""
        return b"".join(path.read_bytes() for path in sorted(self.out.scene.folder.rglob("*")) if path.is_file())

    def close(self) -> None:
        self.out.close()
        self.server.close()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    made = Web(tmp_path, KEY)
    yield made
    made.close()


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_secret_stands_where_its_placeholder_stood_and_each_sending_is_an_action(web: Web, version: str) -> None:
    status, body = web.curl(
        "/v1/a", version, "--header", f"Authorization: Bearer {web.placeholder}", "--header", f"X-Key: a{web.placeholder}b"
    )

    assert (status, body) == ("200", "GET /v1/a ")
    assert b"authorization: bearer " + KEY + b"\r\n" in web.server.heard.lower()
    assert b"x-key: a" + KEY + b"b\r\n" in web.server.heard.lower()
    assert web.decided() == [("http.get", "/v1/a", True), ("secret.send", f"secret:key@{web.url}/v1/a", True)]
    entries = LogReader(web.out.scene.folder, web.out.scene.instance).entries()
    sealed = [json.loads(e.content or b"") for e in entries if isinstance(e.record, ActionRecord) and e.record.action == "secret.send"]
    assert sealed == [{"headers": ["authorization", "x-key"], "secret": "key"}]
    assert KEY not in web.written()


def test_basic_credentials_are_looked_into(web: Web) -> None:
    assert web.curl("/v1/a", "--user", f"name:{web.placeholder}")[0] == "200"
    assert b": Basic " + base64.b64encode(b"name:" + KEY) + b"\r\n" in web.server.heard


@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "X-Key: {}", "Cookie: a={}; b=c"])
def test_secret_goes_only_where_a_grant_of_it_says(web: Web, header: str) -> None:
    status, body = web.curl("/v2/a", "--header", header.format(web.placeholder))

    assert status == "403"
    assert "grant-missing" in body
    assert web.server.heard == b"", "the request was permitted, and is not sent without its secret"
    assert web.decided() == [("http.get", "/v2/a", True), ("secret.send", f"secret:key@{web.url}/v2/a", False)]
    assert web.source.fetched == 0, "a secret is fetched after the decision"
    assert not web.out.results()[0]["sent"]


def test_second_secret_without_a_grant_holds_back_the_first(web: Web) -> None:
    assert web.curl("/v1/a", "--header", f"X-A: {web.placeholder}", "--header", f"X-B: {web.second}")[0] == "403"
    assert web.server.heard == b""
    assert web.other.fetched == 0


def test_secret_that_looks_like_a_placeholder_is_not_replaced(tmp_path: Path) -> None:
    web = Web(tmp_path, b"", ("secret.send", "secret:other@URL/v1/*"))
    try:
        web.source.value = web.second.encode()
        assert web.curl("/v1/a", "--header", f"X-A: {web.placeholder} {web.second}")[0] == "200"
        assert f": {web.second} other\r\n".encode() in web.server.heard
    finally:
        web.close()


def test_placeholder_in_path_query_or_body_stays_one_and_no_other_agents_means_anything(web: Web) -> None:
    stranger = Secrets((Secret("key", "API_KEY"),), {}).environment["API_KEY"]
    assert web.curl(f"/v1/{web.placeholder}?k={web.placeholder}", "--data", web.placeholder)[0] == "200"
    assert web.curl("/v1/b", "--header", f"X-Key: {stranger}")[0] == "200"

    assert KEY not in web.server.heard
    assert web.source.fetched == 0


@pytest.mark.parametrize("value", [b"a\r\nX-Evil: 1", b"a\nb", b"\xff", b"a\0", b" a", b"\n"])
def test_secret_that_would_break_a_header_is_not_sent(tmp_path: Path, value: bytes) -> None:
    web = Web(tmp_path, value)
    try:
        status, body = web.curl("/v1/a", "--header", f"X-Key: {web.placeholder}")
        assert (status, web.server.heard) == ("502", b"")
        assert "Evil" not in body
    finally:
        web.close()


def test_newline_at_the_end_of_a_file_is_none_of_the_secret(tmp_path: Path) -> None:
    web = Web(tmp_path, KEY + b"\n")
    try:
        assert web.curl("/v1/a", "--header", f"X-Key: {web.placeholder}")[0] == "200"
        assert b": " + KEY + b"\r\n" in web.server.heard
    finally:
        web.close()


def test_source_that_fails_is_a_failure_and_nothing_is_sent(tmp_path: Path) -> None:
    web = Web(tmp_path, None)
    try:
        status, body = web.curl("/v1/a", "--header", f"X-Key: {web.placeholder}")
        assert (status, web.server.heard) == ("502", b"")
        assert "it cannot be had now" in body
        assert [one["ended"] for one in web.out.results()] == ["unavailable", "unavailable"]
    finally:
        web.close()


# --- files -------------------------------------------------------------------------------------------------------------------


def files(folder: Path, *grants: tuple[str, str], value: bytes | None = KEY) -> tuple[SecretFiles, Gatekeeper, Known, ActionLog]:
    scene = Scene(folder, more=grants)
    scene.renew()
    log, source = scene.log(folder), Known(value)
    gatekeeper, secrets = scene.gatekeeper(log), Secrets((Secret("key", "file"),), {"key": source})
    (folder / "gate").mkdir()
    made = SecretFiles(folder / "gate", 12345, gatekeeper, secrets)
    for line in (secrets, made):
        gatekeeper.hold(line)
    return made, gatekeeper, source, log


def test_file_takes_a_grant_is_the_agents_alone_and_goes_with_a_cut(tmp_path: Path) -> None:
    made, gatekeeper, source, log = files(tmp_path, ("secret.read", "secret:key"))
    path = tmp_path / "gate/secrets/key"
    made.fill()
    assert path.read_bytes() == KEY
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o400, 12345)
    gatekeeper.cut(CUT)
    assert not path.exists()
    gatekeeper.mend()
    wait_for(path.exists)
    wait_for(lambda: path.read_bytes() == KEY)
    assert source.fetched == 2
    log.close()


def test_file_without_a_grant_or_a_source_is_no_launch(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    made, _, source, log = files(tmp_path / "a")
    with pytest.raises(Refused, match="grant-missing"):
        made.fill()
    assert (source.fetched, (tmp_path / "a/gate/secrets/key").exists()) == (0, False)
    log.close()
    made, _, _, log = files(tmp_path / "b", ("secret.read", "secret:key"), value=None)
    with pytest.raises(Unavailable):
        made.fill()
    log.close()

"""Relying services in Go and Node, started for real, before a verifier that serves: allowed, refused, and refused when it is away."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import all_blocks
from tests.docs.blocks import commands as commands_of
from tests.enforcer.relying import mutations, vectors
from tests.enforcer.relying.site import Site, status_list
from tests.enforcer.relying.test_vectors import decided
from tests.peers.conftest import ROOT, go, node
from tests.signers import new_signer
from tests.world.chip import Maker
from tests.world.clock import HandClock
from tests.world.host import SimulatedHost
from tests.world.tls import self_signed
from tests.world.verifier import RunningVerifier, free_socket, running_verifier
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import Unavailable
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.formats.keys import ED25519, ES256, Signer, key_id
from writ.formats.reason import REMEDIES
from writ.formats.strict import b64url

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

EXAMPLES = ROOT / "examples/relying"
PEERS = ("go", "node")
LONG, SHORT = 300, 8
AGENT = "spiffe://example.org/default/agent/reporter"


class RealClock(HandClock):
    """The clock that the services have too."""

    def now(self) -> int:
        return int(time.time())

    def boot(self) -> float:
        return time.monotonic()


@pytest.fixture(scope="module")
def go_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Go compiles into a temporary folder, and asks nobody for anything."""
    place = tmp_path_factory.mktemp("go")
    return {
        "PATH": os.environ["PATH"], "HOME": str(place), "GOROOT": str(go().parents[1]), "GOCACHE": str(place / "cache"),
        "GOPATH": str(place / "path"), "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "-mod=readonly", "GOTELEMETRY": "off",
        "CGO_ENABLED": "0",
    }  # fmt: skip


@pytest.fixture(scope="module")
def commands(go_env: dict[str, str]) -> dict[str, list[str]]:
    """How each service is started."""
    built = Path(go_env["HOME"]) / "relying"
    done = subprocess.run([go(), "build", "-o", built, "."], cwd=EXAMPLES / "go", env=go_env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {"go": [str(built)], "node": [str(node()), str(EXAMPLES / "node/service.mjs")]}


# --- the vectors --------------------------------------------------------------------------------------------------------


def run_vectors(command: list[str], path: Path) -> tuple[int, Any]:
    done = subprocess.run([*command, "--vectors", path], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("peer", PEERS)
def test_every_vector_is_decided_as_it_says(commands: dict[str, list[str]], peer: str) -> None:
    code, said = run_vectors(commands[peer], vectors.FILE)
    asked = sum(len(case["requests"]) for case in vectors.document()["cases"])
    assert (code, said["failed"], said["requests"]) == (0, [], asked)


@pytest.mark.parametrize("peer", PEERS)
def test_vectors_that_expect_otherwise_fail(commands: dict[str, list[str]], peer: str, tmp_path: Path) -> None:
    document = vectors.document()
    for case in document["cases"]:
        case["requests"] = case["requests"][:1]
        expect = case["requests"][0]["expect"]
        case["requests"][0]["expect"] = vectors.no(5, "malformed") if expect["pass"] else vectors.yes()
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    code, said = run_vectors(commands[peer], tmp_path / "wrong.json")
    assert code == 1
    assert len(said["failed"]) >= len(document["cases"]) - 4, "but those that have another answer without Cedar"


@pytest.mark.parametrize("peer", PEERS)
def test_what_is_changed_at_random_is_decided_as_we_do(commands: dict[str, list[str]], peer: str, tmp_path: Path) -> None:
    """By status and code: a point off its curve is noticed by one at check 17, by another at 18. What Cedar alone refuses is left out."""
    cases = []
    for case in mutations.cases(1400, seed=5):
        (answer,) = decided(case)
        case["requests"][0]["expect"] = {name: value for name, value in answer.items() if name != "check"}
        cases += [case] if answer.get("check") != 27 else []
    passed = sum(case["requests"][0]["expect"]["pass"] for case in cases)
    assert 0 < passed < len(cases) / 4
    path = tmp_path / "changed.json"
    path.write_text(json.dumps({**vectors.document(), "cases": cases}))
    code, said = run_vectors(commands[peer], path)
    assert (code, said["failed"]) == (0, [])


@pytest.mark.parametrize("line", [line for block in all_blocks() if block.info == "sh peers" for line in commands_of(block)])
def test_a_command_of_the_pages_runs(go_env: dict[str, str], line: str) -> None:
    path = f"{go().parent}:{node().parent}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-euc", line], cwd=ROOT, env={**go_env, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (line, done.stdout, done.stderr)


# --- what a verifier publishes ------------------------------------------------------------------------------------------


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def first_answer(commands: dict[str, list[str]], peer: str, place: Path, verifier: str, *more: str) -> tuple[int, str]:
    """What a service that relies on `verifier` says to a token that is none."""
    with free_socket() as bound:
        address = f"127.0.0.1:{bound.getsockname()[1]}"
    arguments = ["--listen", address, "--origin", f"http://{address}", "--audience", "reports", "--verifier", verifier]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([*commands[peer], *arguments, *more], cwd=place, stdout=log, stderr=log)
    try:
        service = Served(f"http://{address}", place / "decisions.jsonl", process)
        until(lambda: _listens(service), 60)
        return service.ask([("Authorization", "DPoP x.y.z"), ("DPoP", "x.y.z")])[:2]
    finally:
        process.terminate()
        process.wait(20)


def _listens(service: Served) -> bool:
    assert service.process.poll() is None
    try:
        return service.ask([])[0] == 401
    except OSError:
        return False


def publish(site: Site, url: str) -> None:
    signer, now = new_signer(), int(time.time())
    site.pages["/.well-known/jwks.json"] = json.dumps({"keys": [{**signer.public.to_jwk(), "kid": key_id(signer.public)}]}).encode()
    site.pages["/v1/status/0"] = status_list(signer, sub=f"{url}/v1/status/0", iat=now, exp=now + 300).encode()


HELD, NOT_HELD = (401, "token-malformed"), (503, "status-stale")
"""The first check after that of the list, or the list's."""


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("fault", ["none", "redirect", "error", "slow", "large"])
def test_answer_that_is_late_large_or_elsewhere_is_none(
    commands: dict[str, list[str]], peer: str, fault: str, site: Site, tmp_path: Path
) -> None:
    publish(site, site.url)
    site.status = {"redirect": 302, "error": 500}.get(fault, 200)
    site.wait = 0.05 if fault == "slow" else 0.0
    if fault == "large":
        site.pages["/.well-known/jwks.json"] += b" " * (2 << 20)
    assert first_answer(commands, peer, tmp_path, site.url) == (HELD if fault == "none" else NOT_HELD)
    assert set(site.asked) == {"/.well-known/jwks.json", "/v1/status/0"}, "a redirect is not followed"


@pytest.mark.parametrize("peer", PEERS)
def test_verifier_is_who_its_certificate_says(commands: dict[str, list[str]], peer: str, site: Site, tmp_path: Path) -> None:
    for name in ("verifier", "stranger"):
        self_signed(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "verifier.pem", tmp_path / "verifier.key")
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    url = site.url.replace("http:", "https:")
    publish(site, url)
    assert first_answer(commands, peer, tmp_path, url, "--ca", str(tmp_path / "verifier.pem")) == HELD
    site.asked.clear()
    assert first_answer(commands, peer, tmp_path, url, "--ca", str(tmp_path / "stranger.pem")) == NOT_HELD
    assert first_answer(commands, peer, tmp_path, url) == NOT_HELD
    assert site.asked == []


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("url", ["http://verifier.example.org", "ftp://127.0.0.1", "https://127.0.0.1/path"])
def test_verifier_of_another_url_is_misuse(commands: dict[str, list[str]], peer: str, url: str, tmp_path: Path) -> None:
    done = subprocess.run([*commands[peer], "--verifier", url], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode not in (0, None)
    assert b"--verifier" in done.stderr or b"-verifier" in done.stderr


# --- for real -----------------------------------------------------------------------------------------------------------


@dataclass
class Served:
    """One service that runs."""

    origin: str
    record: Path
    process: subprocess.Popen[bytes]

    def ask(
        self, headers: list[tuple[str, str]], *, method: str = "POST", target: str = "/v1/report", body: bytes = b"{}"
    ) -> tuple[int, str, dict[str, Any], http.client.HTTPMessage]:
        """Status, first code of a refusal, body, headers. Each refusal has the whole contract."""
        connection = http.client.HTTPConnection(self.origin.removeprefix("http://"), timeout=20)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in [*headers, ("Content-Length", str(len(body)))]:
                connection.putheader(name, value)
            connection.endheaders()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has heard enough
                connection.send(body)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status == 200:
            return 200, "", {"said": said.decode()}, answer.headers
        problem = json.loads(said)
        (reason,) = problem["reasons"]
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert (problem["status"], problem["type"]) == (answer.status, f"urn:writ:reason:{reason['code']}")
        assert set(reason) == {"code", "claim", "expected", "got", "remedy"}
        assert reason["remedy"] == REMEDIES[reason["code"]]
        assert len(problem["reference"]) == 12
        return answer.status, reason["code"], problem, answer.headers


@dataclass
class World:
    """A verifier, a host with four instances and their tokens of `LONG` life, and four services."""

    verifier: RunningVerifier
    host: SimulatedHost
    stop: Callable[[], None]
    tokens: dict[str, str] = field(default_factory=dict)
    services: dict[tuple[str, bool], Served] = field(default_factory=dict)

    def attest(self, *names: str) -> list[str]:
        """Tokens for these instances, from now on."""
        self.host.fetch_nonce()
        answers = self.host.attest(*names).answers
        assert all(answer.token for answer in answers), answers
        return [answer.token or "" for answer in answers]

    def headers(
        self, service: Served, *, token: str | None = None, instance: str = "one", key: Signer | None = None, target: str = "/v1/report",
        body: bytes = b"{}", method: str = "POST",
    ) -> list[tuple[str, str]]:  # fmt: skip
        """Token and a new proof for the request."""
        compact, uri = token or self.tokens[instance], service.origin + target
        payload = encode_dpop_payload(
            jti=b64url(secrets.token_bytes(24)), htm=method, htu=uri, iat=int(time.time()), ath=b64url(parse_token(compact).digest.value),
            act=f"http.{method.lower()}", res=uri, arg=b64url(Digest.of(body).value),
        )  # fmt: skip
        return [("Authorization", f"DPoP {compact}"), ("DPoP", sign_dpop(payload, key or self.host.instances[instance].key))]

    def code(self, service: Served, **changed: Any) -> tuple[int, str]:
        """What a request with a new proof gets."""
        return service.ask(self.headers(service, **changed))[:2]


def until(holds: Callable[[], bool], seconds: float) -> None:
    """It holds, not later than `seconds` from now."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def world(commands: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("relying")
    with contextlib.ExitStack() as closing, contextlib.ExitStack() as running:
        verifier = running.enter_context(running_verifier(place, clock=RealClock()))
        verifier.trust(Maker())
        verifier.publish(token_life=LONG)
        digests = [verifier.client.get("/v1/policies/current")["digest"]]
        bound = {(peer, asking): free_socket() for peer in PEERS for asking in (False, True)}
        origins = {one: f"http://127.0.0.1:{held.getsockname()[1]}" for one, held in bound.items()}
        for held in bound.values():
            held.close()
        host = verifier.host("h1")
        grants = tuple(("http.post", f"{origin}/v1/*") for origin in origins.values())
        launched = {"one": ("reports", ED25519), "two": ("reports", ES256), "three": ("reports", ED25519), "other": ("elsewhere", ED25519)}
        for name, (audience, algorithm) in launched.items():
            host.launch(name, audience=audience, grants=grants, key=new_signer(algorithm))
        verifier.approve(host)
        made = World(verifier, host, running.close)
        made.tokens = dict(zip(launched, made.attest(*launched), strict=True))
        verifier.publish(token_life=SHORT)
        digests.append(verifier.client.get("/v1/policies/current")["digest"])
        key = verifier.client.post("/v1/api-keys", {"namespace": "default", "role": "relying", "audience": "reports"})["key"]
        (place / "introspection.key").write_text(f"{key}\n")
        for (peer, asking), origin in origins.items():
            record = place / f"{peer}-{asking}.jsonl"
            arguments = [
                "--listen", origin.removeprefix("http://"), "--origin", origin, "--audience", "reports", "--verifier", verifier.url,
                "--policy", ",".join(digests), "--record", str(record),
            ] + (["--introspection-key", str(place / "introspection.key")] if asking else [])  # fmt: skip
            log = closing.enter_context((place / f"{peer}-{asking}.log").open("wb"))
            process = subprocess.Popen([*commands[peer], *arguments], cwd=place, stdout=log, stderr=log)
            closing.callback(process.wait, 20)
            closing.callback(process.terminate)
            made.services[peer, asking] = Served(origin, record, process)
        for service in made.services.values():
            until(lambda service=service: _passes(made, service), 60)  # type: ignore[misc]  # for some seconds after a start nothing does
        yield made


def _passes(world: World, service: Served) -> bool:
    try:
        return world.code(service)[0] == 200
    except OSError:
        assert service.process.poll() is None
        return False


BOTH = pytest.mark.parametrize("peer, asking", [(peer, asking) for peer in PEERS for asking in (False, True)])


@BOTH
@pytest.mark.parametrize("instance", ["one", "two"])
def test_proven_request_passes_once_and_is_on_disk(world: World, peer: str, asking: bool, instance: str) -> None:
    """Instance `two` proves by ES256."""
    service = world.services[peer, asking]
    headers = world.headers(service, instance=instance)
    status, _, answer, _ = service.ask(headers)
    assert (status, answer["said"]) == (200, f"the report, for {AGENT}\n")
    line = {name.lower(): value for name, value in json.loads(service.record.read_text().splitlines()[-1]).items()}
    assert (line["permit"], line["agent"], line["resource"]) == (True, AGENT, f"{service.origin}/v1/report")
    assert line["token"] == str(parse_token(world.tokens[instance]).digest)
    status, code, _, said = service.ask(headers)
    assert (status, code) == (401, "proof-replayed")
    assert said["WWW-Authenticate"] == 'DPoP error="invalid_dpop_proof", algs="Ed25519 ES256"'


@BOTH
def test_what_is_not_the_agents_is_refused(world: World, peer: str, asking: bool) -> None:
    service = world.services[peer, asking]
    assert world.code(service, instance="other") == (401, "token-audience")
    assert world.code(service, key=new_signer()) == (401, "proof-invalid")
    assert service.ask(world.headers(service), body=b'{"more":1}')[:2] == (401, "proof-mismatch")
    assert service.ask(world.headers(service, target="/v2/report"), target="/v2/report")[:2] == (403, "grant-missing")
    status, code, _, said = service.ask([])
    assert (status, code, said["WWW-Authenticate"]) == (401, "unauthenticated", 'DPoP error="invalid_token", algs="Ed25519 ES256"')


@BOTH
def test_request_with_two_readings_is_refused_and_nobody_is_redirected(world: World, peer: str, asking: bool) -> None:
    service = world.services[peer, asking]
    targets = ("//v1/report", "/v1//report", "/v1/../v1/report", "/v1/./report", "/v1/%72eport", "/v1/report?x=1", "/v1/report?",
               f"{service.origin}/v1/report", "/v1/report/..", "*")  # fmt: skip
    answers = {target: service.ask(world.headers(service), target=target)[:2] for target in targets}
    assert answers == dict.fromkeys(targets, (400, "malformed"))
    headers = world.headers(service)
    for twice in ([headers[0], *headers], [*headers, ("dpop", "x.y.z")], [("AUTHORIZATION", "Bearer x"), *headers]):
        assert service.ask(twice)[:2] == (400, "malformed")
    assert service.ask(headers, body=b"x" * ((1 << 20) + 1))[:2] == (413, "too-large")
    assert service.ask(headers)[0] == 200, "nothing of that used the proof up"


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    "framing, sent",
    [
        ("Content-Length: 2\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"), ("Content-Length: 0\r\nContent-Length: 2", b"{}"),
        ("Transfer-Encoding: chunked", b"ZZ\r\n"), ("Transfer-Encoding: chunked", b"2\r\n{"), ("Content-Length: 2", b"{"),
        ("Transfer-Encoding: gzip, chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n"), ("Transfer-Encoding : chunked", b"0\r\n\r\n"),
        ("Content-Length: 0\r\n DPoP: x.y.z", b""), ("Content-Length: +2", b"{}"), ("Content-Length: 0\r\nX-A: a\0b", b""),
    ],
)  # fmt: skip
def test_request_whose_end_two_readers_find_elsewhere_does_not_pass(world: World, peer: str, framing: str, sent: bytes) -> None:
    """Each with a good proof of an empty body: whoever takes what came for the whole would let it pass."""
    service = world.services[peer, False]
    lines = [f"{name}: {value}" for name, value in world.headers(service, body=b"")]
    host = service.origin.removeprefix("http://")
    head = "\r\n".join(["POST /v1/report HTTP/1.1", f"Host: {host}", *lines, framing, "", ""]).encode()
    name, _, port = host.rpartition(":")
    with socket.create_connection((name, int(port)), timeout=30) as connection:
        connection.sendall(head + sent)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                said += part
    assert b"the report" not in said
    assert said.partition(b"\r\n")[0].split(b" ")[1:2] in ([], [b"400"], [b"501"])


@pytest.mark.parametrize("peer", PEERS)
def test_revoked_token_ends_at_once_by_introspection_and_soon_by_the_list(world: World, peer: str) -> None:
    instance = "one" if peer == "go" else "two"
    listing, asking = world.services[peer, False], world.services[peer, True]
    assert world.code(asking, instance=instance)[0] == world.code(listing, instance=instance)[0] == 200
    token_id = parse_token(world.tokens[instance]).claims.token_id
    world.verifier.client.post("/v1/revocations", {"kind": "jti", "subject": token_id})
    assert world.code(asking, instance=instance) == (401, "token-revoked")
    until(lambda: world.code(listing, instance=instance) == (401, "token-revoked"), 25)


def test_list_older_than_a_tokens_life_refuses_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    services = [world.services[peer, False] for peer in PEERS]
    (fresh,) = world.attest("one")
    assert [world.code(service, token=fresh)[0] for service in services] == [200, 200]

    def away(*_: object) -> None:
        raise Unavailable("status list", "the disk is full")

    # no list comes any more, while tokens do: such a token has a shorter life than the list has age
    monkeypatch.setattr(type(world.verifier.made.parts.revocations), "status_list", away)
    time.sleep(SHORT + 1)
    (fresh,) = world.attest("one")
    assert [world.code(service, token=fresh) for service in services] == [(503, "status-stale")] * 2
    time.sleep(SHORT + 1)
    assert [world.code(service, token=fresh) for service in services] == [(401, "token-expired")] * 2


def test_verifier_that_is_away_stops_permissions_and_grants_none(world: World) -> None:
    """Last, since it stays away. The token lives for minutes; what was known of revocations holds for one."""
    time.sleep(11)  # the services fetch each 10 s: what they hold then is new
    assert {world.code(service, instance="three")[0] for service in world.services.values()} == {200}
    world.stop()
    assert [world.code(world.services[peer, True], instance="three") for peer in PEERS] == [(503, "unavailable")] * 2
    for peer in PEERS:
        until(lambda peer=peer: world.code(world.services[peer, False], instance="three") == (503, "status-stale"), 75)  # type: ignore[misc]
    assert time.time() < parse_token(world.tokens["three"]).claims.expires_at
    for service in world.services.values():
        assert all(json.loads(line) for line in service.record.read_text().splitlines())

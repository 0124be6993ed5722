"""The gates under 20 policies: a decision alone, on record, through the agent's socket, for a service, and through nginx if there.

What a commit takes is stated apart: gates are timed with their record on the disk of the temporary directory, with it in memory
(`/dev/shm`), where a commit costs no disk, and the agent's gate without any.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519

from benchmarks.cases import Echo, Line, echo_at
from benchmarks.measure import Case
from enforcer.credential import Held
from enforcer.gatekeeper import Gatekeeper
from enforcer.gates.socket import SocketGate
from enforcer.record import ActionLog, Recorded, Waiting
from enforcer.relying.authzen import AuthZen
from enforcer.relying.forward_auth import ForwardAuth
from enforcer.relying.party import Presented
from enforcer.relying.sink import FileSink
from tests.enforcer.relying.asking import exchange
from tests.enforcer.relying.behind import SITE, Gate
from tests.enforcer.relying.process import Process, UnixConnection
from tests.enforcer.scene import Scene
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.jose import parse_dpop
from writ.formats.record import ActionDraft, OutcomeDraft
from writ.verdict.decide import decide
from writ.verdict.memo import Memo
from writ.verdict.token import VerifiedToken, verify_proof

CALLERS: Final = 64
EACH: Final = 8
"""Decisions of each caller in one round."""
NGINX: Final = Path(__file__).parents[1] / ".peers/root/usr/sbin/nginx"
MEMORY: Final = Path("/dev/shm")
READ: Final = Action("tool.call", "mcp:notes/read", Digest.of(b"{}"))
GET: Final = Action("http.get", f"{SITE}/v1/report", Digest.of(b""))


def twenty(scene: Scene, action: str) -> Held:
    """A token of a policy of 20 that all can match `action`, of which the last permits it."""
    text = "".join(f'permit(principal, action, resource == Writ::Resource::"mcp:notes/{at}");' for at in range(19))
    scene.attestor.policies = text + f'permit(principal, action == Writ::Action::"{action}", resource);'
    scene.attestor.version += 1
    return scene.renew()


class Leaping:
    """A scene's clock, whose boot clock leaps at each look, so that the quota is always full."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._boot = scene, 0.0

    def now(self) -> int:
        """The scene's."""
        return self._scene.clock.wall

    def boot(self) -> float:
        """A minute later than the last time."""
        self._boot += 60
        return self._boot


class Apart(ActionLog):
    """A log that appends nothing: with it, a gate costs what it costs beside its commits."""

    def append(self, draft: ActionDraft | OutcomeDraft, content: bytes) -> Recorded:
        """The record is nowhere."""
        return Recorded(1, bytes(32), bytes(32))


class Gathered(ActionLog):
    """A log that commits when `CALLERS` wait, in the caller's thread: what both cost where no thread waits."""

    def append(self, draft: ActionDraft | OutcomeDraft, content: bytes) -> Recorded:
        """The record is durable, and those before it, where it is the last of so many; else it is not yet."""
        self._gathered = [*getattr(self, "_gathered", ()), Waiting(draft, content)]
        if len(self._gathered) == CALLERS:
            self._commit(self._gathered)
            self._gathered = []
        return Recorded(1, bytes(32), bytes(32))


class Spot:
    """One agent under 20 policies, its log in `folder`."""

    def __init__(self, folder: Path, log: type[ActionLog] = ActionLog) -> None:
        folder.mkdir()
        self.folder, self.scene = folder, Scene(folder)
        self.held = twenty(self.scene, READ.name)
        self.log = self.scene.log(folder, log)
        self.gatekeeper = Gatekeeper(
            credential=self.scene.credential, log=self.log, clock=Leaping(self.scene), left=1 << 50,
        )  # fmt: skip

    def served(self, closing: contextlib.ExitStack) -> Line:
        """A connection to the gate of the agent."""
        path = str(self.folder / "gate.sock")
        gate = SocketGate(
            path, uid=os.getuid(), gid=os.getgid(), is_agent=os.getpid().__eq__, gatekeeper=self.gatekeeper, tools={"notes": Echo()},
            short="5f1c09ab",
        )  # fmt: skip
        closing.callback(gate.close)
        return closing.enter_context(Line(path))


def gates(folder: Path) -> Iterator[Case]:
    """All of them. What the machine does not have is left out, and said on standard error."""
    with contextlib.ExitStack() as closing:
        memory = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None
        if memory is None:
            said("no /dev/shm: no case with the record in memory")
        else:
            memory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="writ-bench-", dir=memory)))
        places = {"on disk": folder, **({} if memory is None else {"in memory": memory})}
        spots = {where: Spot(place / "agent") for where, place in places.items()}
        apart = Spot(folder / "apart", Apart)
        gathered = {where: Spot(place / "gathered", Gathered) for where, place in places.items()}
        for spot in (*spots.values(), *gathered.values(), apart):
            closing.callback(spot.log.close)
        commit = Commit(folder / "commit", closing)
        yield from decisions(spots["on disk"])
        for where, spot in gathered.items():
            yield at_once(spot, where, commit)
        for where, spot in spots.items():
            yield from recorded(spot, where, commit)
        yield from through_the_socket(apart, "apart", commit, closing)
        for where, spot in spots.items():
            yield from through_the_socket(spot, where, commit, closing)
        services = {where: service(place / "service") for where, place in places.items()}
        yield from proofs(services["on disk"])
        for where, one in services.items():
            yield from services_own(one, where, commit)
        if not NGINX.is_file():
            said("no nginx: `./run peers` puts it there; no case with it")
            return
        for where, place in places.items():
            yield from through_nginx(made(place / "nginx"), where, commit)


def service(folder: Path) -> Gate:
    """A service behind nginx, and its client with a token of 20 policies."""
    found = Gate(made(folder), "nginx")
    found.held = twenty(found.scene, GET.name)
    found.feed.policy = found.scene.attestor.bundle()
    return found


def said(text: str) -> None:
    """On standard error."""
    sys.stderr.write(f"bench: {text}\n")


def made(folder: Path) -> Path:
    """`folder`, which is there now."""
    folder.mkdir()
    return folder


class Commit:
    """What nobody can do without who makes a record durable: an append and a sync of it, on the disk of the temporary directory."""

    def __init__(self, path: Path, closing: contextlib.ExitStack) -> None:
        self._disk = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        closing.callback(os.close, self._disk)

    def __call__(self) -> None:
        """One."""
        os.write(self._disk, bytes(600))
        os.fdatasync(self._disk)


def decisions(spot: Spot) -> Iterator[Case]:
    """Without a record: decided already in this second, in another, and never."""
    held, memo, now = spot.held, Memo(), spot.scene.clock.wall
    seconds = iter(range(1 << 62))

    def at(now: int, memo: Memo | None = memo) -> object:
        return decide(READ, token=held.token, bundle=held.bundle, gate="socket", now=now, memo=memo)

    def never() -> object:
        return at(now, None)

    def other() -> object:
        return at(now + next(seconds) % 2)

    assert at(now) == never()
    yield Case("decision in process, 20 policies, cached", "decided anew", lambda: at(now), never)
    yield Case("decision in process, 20 policies, cached, in another second", "decided anew", other, never)


def recorded(spot: Spot, where: str, commit: Callable[[], None]) -> Iterator[Case]:
    """With the record: one caller, and many at once."""

    def ask() -> None:
        assert spot.gatekeeper.ask(READ, b"{}", gate="socket").permit

    def each(_: int) -> None:
        for _ in range(EACH):
            ask()

    draft = ActionDraft(1, READ, None, None, bytes(120), (), bytes(32), "socket")

    def append() -> None:
        spot.log.append(draft, b"{}")

    yield Case(f"a record appended to the action log {where}", "one commit", append, commit)
    yield Case(f"decision and record {where}", "one commit", ask, commit)
    with ThreadPoolExecutor(CALLERS) as pool:

        def together() -> None:
            list(pool.map(each, range(CALLERS)))

        def commits() -> None:
            for _ in range(EACH):
                commit()

        name = f"{CALLERS * EACH} decisions and records {where}, by {CALLERS} callers at once"
        yield Case(name, f"{EACH} commits", together, commits, CALLERS * EACH, "decision")


def at_once(spot: Spot, where: str, commit: Callable[[], None]) -> Case:
    """As many decisions as share a commit, one after another, and then the commit."""

    def ask() -> None:
        for _ in range(CALLERS):
            spot.gatekeeper.ask(READ, b"{}", gate="socket")

    name = f"{CALLERS} decisions and their records {where}, in one commit by one thread"
    return Case(name, "one commit", ask, commit, CALLERS, "decision")


def through_the_socket(spot: Spot, where: str, commit: Callable[[], None], closing: contextlib.ExitStack) -> Iterator[Case]:
    """The agent's own gate: record and outcome, so two commits."""
    line = json.dumps({"id": 1, "tool": "notes", "method": "read", "arguments": {}}).encode() + b"\n"
    ours = spot.served(closing)
    bare = closing.enter_context(Line(echo_at(str(spot.folder / "echo.sock"), closing)))

    def beside() -> None:
        bare.ask(line)
        if where == "on disk":
            commit()
            commit()

    baseline = "a socket's echo" + (" and two commits" if where == "on disk" else "")
    assert json.loads(ours.ask(line))["ok"] is True
    yield Case(f"through the agent's socket, records {where}", baseline, lambda: ours.ask(line), beside, 1, "action")


class Proofs:
    """A fresh proof for each call, made before: asked for more, it makes them then."""

    def __init__(self, service: Gate, action: Action, method: str, uri: str | None = None, count: int = 420) -> None:
        self._make = partial(service.proof_of, action, method, uri)
        self._made = [self._make() for _ in range(count)]

    def __call__(self) -> str:
        """One that nobody has used."""
        return self._made.pop() if self._made else self._make()


def proofs(service: Gate) -> Iterator[Case]:
    """The proof of possession alone."""
    proof = Proofs(service, GET, "GET", count=1)()
    token = VerifiedToken(service.held.token.claims, service.held.token.digest, service.now)
    key = ed25519.Ed25519PublicKey.from_public_bytes(service.scene.key.public.raw)
    signed, signature = proof.rpartition(".")[0].encode(), parse_dpop(proof).jws.signature

    def ours() -> object:
        return verify_proof(parse_dpop(proof), token, GET, method="GET", uri=GET.resource, now=service.now)

    yield Case("parse_dpop and verify_proof", "one Ed25519 verification", ours, lambda: key.verify(signature, signed))


def services_own(service: Gate, where: str, commit: Callable[[], None]) -> Iterator[Case]:
    """What a service's own process does with a token and a fresh proof: decide and record, and the surfaces around that."""
    sink = FileSink(service.scene.folder / "decisions.jsonl")
    party = service.party(sink=sink)
    app = ForwardAuth(proxy="nginx", origins=(SITE,), party=party)
    pdp = AuthZen(pdp="https://pdp.example.org", party=party)
    resource = {"type": "https", "id": GET.resource.partition(":")[2]}
    asks = {name: Proofs(service, GET, method, uri) for name, method, uri in (
        ("admit", "GET", None), ("forward", "GET", None), ("authzen", "POST", "https://pdp.example.org/access/v1/evaluation"))}  # fmt: skip

    access = party.weigh(
        Presented(GET, "GET", GET.resource, service.held.compact, asks["admit"]()), gate="relying", reference="0" * 12
    ).access
    yield Case(f"a line in a relying service's sink, record {where}", "one commit", lambda: sink.write(access), commit)

    def admit() -> None:
        party.admit(Presented(GET, "GET", GET.resource, service.held.compact, asks["admit"]()), gate="forward-auth", reference="0" * 12)

    def forward() -> None:
        shown = {"authorization": f"DPoP {service.held.compact}", "dpop": asks["forward"](), "host": SITE.partition("://")[2],
                 "x-original-method": "GET", "x-original-uri": "/v1/report"}  # fmt: skip
        headers = [(name.encode(), value.encode()) for name, value in shown.items()]
        assert exchange(app, headers, path="/forward-auth").status == 200

    def authzen() -> None:
        properties = {"token": service.held.compact, "proof": asks["authzen"]()}
        body = {"subject": {"type": "agent", "id": str(service.scene.agent), "properties": properties}, "action": {"name": "http.get"},
                "resource": resource}  # fmt: skip
        told = exchange(
            pdp, [(b"content-type", b"application/json")], method="POST", path="/access/v1/evaluation", body=json.dumps(body).encode()
        )
        assert json.loads(told.body)["decision"] is True, told.body

    for name, work in (("relying party admits", admit), ("forward-auth, in process", forward), ("AuthZEN evaluation, in process", authzen)):
        yield Case(f"{name}, record {where}", "one commit", work, commit)


NGINX_CONF: Final = """
daemon off; worker_processes 1; error_log {folder}/error.log; pid {folder}/nginx.pid; events {{}}
{user} http {{
    access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream writ {{ server unix:{folder}/fa.sock; keepalive 16; keepalive_timeout 20s; }}
    server {{ listen unix:{folder}/served.sock; server_name reports.example.org; location / {{ return 200 ok; }} }}
    server {{
        listen unix:{folder}/nginx.sock; server_name reports.example.org;
        location /plain/ {{ proxy_pass http://unix:{folder}/served.sock; }}
        location / {{
            auth_request /forward-auth; auth_request_set $said $upstream_http_x_writ_refusal; add_header Said $said always;
            proxy_pass http://unix:{folder}/served.sock;
        }}
        location = /forward-auth {{
            internal; proxy_pass http://writ/forward-auth; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_set_header Host $http_host;
            proxy_set_header X-Original-Method $request_method; proxy_set_header X-Original-URI $request_uri;
        }}
    }}
}}
"""
"""As in docs/relying.md, before a service that is nginx too; `/plain/` is the same way without the question."""


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[Path]:
    """Where nginx listens."""
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder, user=user))
    with (folder / "nginx.log").open("wb") as log:
        run = subprocess.Popen(
            [str(NGINX), "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 20
        while not (folder / "nginx.pid").exists():
            assert run.poll() is None, (folder / "nginx.log").read_text()
            assert time.monotonic() < deadline, "nginx did not start"
            time.sleep(0.05)
        yield folder / "nginx.sock"
    finally:
        run.terminate()
        run.wait(15)


def through_nginx(folder: Path, where: str, commit: Callable[[], None]) -> Iterator[Case]:
    """A request that nginx asks `enforcer relying` about, beside one that it does not."""
    gate = service(folder / "service")
    with Process(gate, folder, forward_auth=f"unix:{folder}/fa.sock", proxy="nginx", origins=[SITE]) as process, nginx(folder) as at:
        process.refresh()
        fresh = Proofs(gate, GET, "GET")
        connection = UnixConnection(at)
        host = {"Host": SITE.partition("://")[2]}

        def ask(path: str, shown: dict[str, str]) -> None:
            connection.request("GET", path, headers=shown)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"ok"), (answer.status, answer.getheader("Said"))

        def asked() -> None:
            ask("/v1/report", {"Authorization": f"DPoP {gate.held.compact}", "DPoP": fresh(), **host})

        def plain() -> None:
            ask("/plain/x", host)

        def plain_and_commit() -> None:
            plain()
            commit()

        on_disk = where == "on disk"
        baseline = "nginx without it" + (" and a commit" if on_disk else "")
        yield Case(f"nginx auth_request, record {where}", baseline, asked, plain_and_commit if on_disk else plain, 1, "request")
        connection.close()

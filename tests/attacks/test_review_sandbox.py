"""A review of the sandbox, its ways out and its secrets, as agent, server and neighbour attack them: each hole, and its end."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import json
import logging
import os
import resource
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from enforcer import frames, zygote
from enforcer.child.children import MAX_CHILDREN, Children
from enforcer.child.line import LINE, MAX_FRAME, Hold
from enforcer.config import EnforcerConfig
from enforcer.contain import Containment
from enforcer.control import CONTROL, MAX_CONTROL, Started
from enforcer.credential import Held
from enforcer.gates.egress import gate, outlet
from enforcer.gates.egress.passage import Forwarded, Inbound
from enforcer.gates.egress.request import parse_asked
from enforcer.gates.egress.url import path_of
from enforcer.gates.secret_files import SecretFiles
from enforcer.gates.socket import SocketGate
from enforcer.launch import process
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.sandbox import arguments, environment_of
from enforcer.quota import RECORDS_AT_ONCE, Quota
from enforcer.secrets.held import Secrets
from enforcer.tools.tool import Led
from enforcer.wire.addresses import is_public
from enforcer.wire.destination import parse_authority
from enforcer.wire.limits import Limits
from enforcer.wire.line import ListeningLine
from enforcer.wire.stream import TlsStream
from tests.conftest import missing
from tests.enforcer.gates.proxied import NO_SECRETS, Proxied, listener
from tests.enforcer.gates.test_egress_passages import CUT, Ports, dial, ended
from tests.enforcer.gates.test_injection import HOST, KEY, Known
from tests.enforcer.host import Host, wait_for
from tests.enforcer.inside import Inside, fresh_cgroup, inside
from tests.enforcer.records import records_of
from tests.enforcer.scene import Scene
from tests.enforcer.secrets.test_sources import Safe
from tests.world.clock import HandClock
from tests.world.network import Names, Server, certified, echo
from tests.world.root_fs import PYTHON
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.forward import Forward
from writ.formats.grants import grant_set
from writ.formats.secret import Secret
from writ.formats.strict import encode_json
from writ.service import observe
from writ.service.clock import SystemClock

# --- what is decided, and what a server makes of it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/a/..%3B/b", "/a/..%3b", "/.%3Bx/b", "/a%C0%AFb", "/%C0%AE%C0%AE/b", "/x%E0%80%AFy", "/%F4%90%80%80", "/caf%E9", "/%ED%A0%80"]
)
def test_i8_path_that_a_careless_server_reads_as_another_is_refused(path: str) -> None:
    """`..;` in an escape, and overlong UTF-8: what was granted as one path would be served as another."""
    with pytest.raises(FormatError):
        path_of(path)


def test_i8_host_of_a_machine_in_azure_is_not_public() -> None:
    """A granted name of the agent's choosing may lead there, as it may to 169.254.169.254."""
    assert not is_public(ip_address("168.63.129.16"))
    assert is_public(ip_address("168.63.129.17"))


@pytest.mark.parametrize("path", ["/caf%C3%A9", "/a%3Bb", "/a/b;x=..", "/...%3B"])
def test_path_with_one_reading_passes(path: str) -> None:
    assert path_of(path) == path


@pytest.mark.parametrize(
    "header",
    [
        "X_HTTP_Method_Override: DELETE", "x-http_method-override: DELETE", "X_Original_URL: /admin", "X-Original-URI: /admin",
        "X-Forwarded-Uri: /admin", "X-Forwarded-Method: DELETE", "Content_Length: 5", "Transfer_Encoding: chunked", "H_ost: x\r\nHost_: x",
    ],
)  # fmt: skip
def test_i8_header_that_cgi_reads_as_another_is_refused(header: str) -> None:
    """CGI, WSGI and PHP name headers by their letters with `_` for `-`, so two spellings are one there, and were two here."""
    head = f"GET /a HTTP/1.1\r\nHost: api.test\r\n{header}\r\n\r\n".encode()
    if header.startswith("H_ost"):
        assert parse_asked(head, parse_authority("api.test:443"), secure=True)[0].action == "http.get"
        return
    with pytest.raises(FormatError, match="no other method"):
        parse_asked(head, parse_authority("api.test:443"), secure=True)


# --- a server that a granted request reaches ---------------------------------------------------------------------------------


def heads(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := connection.recv(65536)):
            break
        data += part
    return data


def echoes_badly(connection: socket.socket, _: Server) -> None:
    """A line that is no header, with what it was sent in one."""
    key = heads(connection).partition(b"X-Key: ")[2].partition(b"\r\n")[0]
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + key + b" : x\r\n\r\n")


def promises(connection: socket.socket, server: Server) -> None:
    """Interim answers without end."""
    heads(connection)
    for _ in range(100_000):
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        server.heard += b"."


class Reached:
    """A host called `api.test`, a gate whose agent may ask it for anything and send it its key."""

    def __init__(self, folder: Path, serve: Callable[[socket.socket, Server], None]) -> None:
        certificate = certified(folder, HOST)
        self.server = Server(serve, certificate=certificate)
        self.url = f"https://{HOST}:{self.server.port}"
        self.source = Known(KEY)
        self.secrets = Secrets((Secret("key", "API_KEY"),), {"key": self.source})
        names = Names()
        names.name(HOST, "127.0.0.1")
        more = (
            ("http.get", f"{self.url}/*"), ("secret.send", f"secret:key@{self.url}/*"), ("net.reach", f"tcp:127.0.0.1:{self.server.port}"),
        )  # fmt: skip
        self.out = Proxied(folder, names=names, more=more, roots=certificate[0], secrets=self.secrets)

    def get(self) -> str:
        header = f"X-Key: {self.secrets.environment['API_KEY']}"
        return self.out.curl("--cacert", str(self.out.ca_file), "--header", header, f"{self.url}/a").stdout

    def close(self) -> None:
        self.out.close()
        self.server.close()


@pytest.fixture
def reached(tmp_path: Path) -> Iterator[Callable[..., Reached]]:
    made: list[Reached] = []

    def make(serve: Callable[[socket.socket, Server], None]) -> Reached:
        made.append(Reached(tmp_path, serve))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_i10_answer_that_is_no_http_is_quoted_nowhere(reached: Callable[..., Reached], caplog: pytest.LogCaptureFixture) -> None:
    """The HTTP reader's errors quote the line; the line can hold the secret that the host was sent."""
    with caplog.at_level(logging.INFO):
        said = reached(echoes_badly).get()
    assert '"what":"http"' in said
    assert KEY.decode() not in said
    assert any(record.message == "egress-malformed" for record in caplog.records)
    assert KEY.decode() not in repr([vars(record) for record in caplog.records])


def test_i11_interim_answers_without_end_are_an_end(reached: Callable[..., Reached]) -> None:
    made = reached(promises)
    assert '"detail":"limit"' in made.get()
    assert len(made.server.heard) < 100_000
    assert {one["ended"] for one in made.out.results()} == {"limit"}


def test_i11_key_updates_without_end_take_no_memory(tmp_path: Path) -> None:
    """Each TLS 1.3 KeyUpdate that asks for another is answered; they piled up while nobody wrote, and agent and host may send them."""
    if shutil.which("openssl") is None:
        missing("openssl, which sends key updates")
    roots, key = certified(tmp_path, HOST)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(roots, key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.getsockname()[1]}", "-tls1_3", "-msg"]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert client.stdin is not None
        assert client.stdout is not None
        raw, _ = server.accept()
        with raw, client:
            stream = TlsStream(raw, context, name=None)
            stream.handshake(10)
            stream.settimeout(0.2)
            for _ in range(8):
                client.stdin.write(b"K\n")
                client.stdin.flush()
                with contextlib.suppress(TimeoutError):
                    stream.recv(100)
            client.terminate()
            heard = [line for line in client.stdout.read().splitlines() if line.startswith(b"<<<") and b"KeyUpdate" in line]
    assert len(heard) >= 6, "all but perhaps the last have left"


# --- a host that has no descriptor left --------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_descriptor() -> Iterator[None]:
    """Not one more file can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.cgroup
def test_i8_kill_without_a_descriptor_does_not_say_that_it_killed(cgroup_mount: Path) -> None:
    """The file that says so could not be opened, and that was taken for a cgroup that is gone."""
    with fresh_cgroup(cgroup_mount) as cgroup:
        victim = subprocess.Popen(["sleep", "60"])
        (cgroup.child("agent").path / "cgroup.procs").write_text(str(victim.pid))
        with no_descriptor():
            assert cgroup.populated(), "it cannot be known"
            assert not cgroup.frozen()
            assert not cgroup.kill(0.2)
        assert victim.poll() is None
        assert cgroup.kill()
        assert victim.wait(5) != 0
        assert not cgroup.populated()
    assert not Cgroup(cgroup.path).populated(), "what is gone has nobody"


@pytest.mark.cgroup
def test_i8_kill_is_asked_again_once_there_is_a_descriptor(cgroup_mount: Path) -> None:
    with fresh_cgroup(cgroup_mount) as cgroup:
        victim = subprocess.Popen(["sleep", "60"])
        (cgroup.child("agent").path / "cgroup.procs").write_text(str(victim.pid))
        done: list[bool] = []
        with no_descriptor():
            killer = threading.Thread(target=lambda: done.append(cgroup.kill()))
            killer.start()
            time.sleep(0.2)
        killer.join(10)
        assert done == [True]
        assert victim.wait(5) != 0


class _Full:
    """A listener that has no descriptor for the first connection."""

    def __init__(self, *errors: int) -> None:
        self._errors = list(errors)

    def accept(self) -> tuple[socket.socket, None]:
        if self._errors:
            raise OSError(self._errors.pop(0), "no")
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours, None


def test_listener_outlives_a_moment_without_descriptors() -> None:
    """The gate's, the holder's and the daemon's listeners ended for good."""
    found = frames.connections(_Full(errno.EMFILE, errno.ENFILE))  # type: ignore[arg-type]  # what it is asked for
    next(found).close()
    assert not list(frames.connections(_Full(errno.EINVAL)))  # type: ignore[arg-type]  # as above


class _FullListener(socket.socket):
    """The first connection finds no descriptor."""

    full = True

    def accept(self) -> tuple[socket.socket, Any]:
        if self.full:
            self.full = False
            raise OSError(errno.EMFILE, "no")
        return super().accept()


@pytest.mark.parametrize("lacking", ["descriptor", "thread"])
def test_i11_agents_gate_outlives_a_moment_without(lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had an accept loop of its own, which ended at the first error; and a thread that could not be started ended it, too."""
    scene, path = Scene(tmp_path), str(tmp_path / "gate.sock")
    listener = _FullListener(socket.AF_UNIX)
    listener.full = lacking == "descriptor"
    listener.bind(path)
    listener.listen()
    start, none_left = threading.Thread.start, threading.Event()
    if lacking == "descriptor":
        none_left.set()

    def started(self: threading.Thread) -> None:
        if self.name == "gate-connection" and not none_left.is_set():
            none_left.set()
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", started)
    with contextlib.closing(scene.log(tmp_path)) as log:
        made = SocketGate(
            path, uid=os.getuid(), gid=os.getgid(), is_agent=lambda _: True, gatekeeper=scene.gatekeeper(log), tools={}, short="5f1c09ab",
            taken=(listener, ()),
        )  # fmt: skip
        if lacking == "thread":
            with socket.socket(socket.AF_UNIX) as near:
                near.connect(path)
                near.settimeout(10)
                assert near.recv(1) == b""
        with socket.socket(socket.AF_UNIX) as near:
            near.connect(path)
            near.settimeout(10)
            near.sendall(b"{}\n")
            assert b"refusal" in near.recv(65536)
        made.close()


# --- a child instance ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def box() -> Iterator[Inside]:
    with inside() as made:
        yield made


@pytest.mark.cgroup
def test_i11_environment_longer_than_a_pipe_starts_nothing_that_hangs(box: Inside, cgroup_mount: Path) -> None:
    """A command's environment may have 96 KiB. It was written into a pipe that nobody read yet: its time never began, nor ended."""
    said: list[tuple[int, bytes]] = []
    with fresh_cgroup(cgroup_mount) as cgroup:
        environment = environment_of(A="a" * 60_000, B="b" * 36_000)
        program = box.program(PYTHON, "-I", "-S", "-c", "import os; print(len(os.environ['A'] + os.environ['B']))", environment=environment)
        thread = threading.Thread(target=lambda: said.append(box.run(program, cgroup.child("agent"))), daemon=True)
        thread.start()
        thread.join(20)
    assert said == [(0, b"96000\n")]


@pytest.mark.cgroup
def test_i8_sandbox_that_is_said_to_be_elsewhere_is_not_entered(box: Inside, cgroup_mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test missed it: listeners are made in the namespace of the pid that bubblewrap tells, which has to be in the cgroup."""
    entered: list[int] = []
    monkeypatch.setattr(process, "_init", lambda *_: os.getpid())
    with fresh_cgroup(cgroup_mount) as cgroup, open(os.devnull, "r+b") as null:
        program = box.program(PYTHON, "-c", "pass")
        with pytest.raises(Unavailable, match="not in its cgroup"):
            process.start(program, cgroup.child("agent"), (null.fileno(),) * 3, entered.append)
        wait_for(lambda: not cgroup.populated())
    assert not entered


@pytest.mark.cgroup
def test_i8_second_walls_stand(box: Inside) -> None:
    """Each can be taken away and no attempt in the sandbox works, for the first still stands; so no other test missed any of them."""
    said = arguments(box.image, box.room, environment_of(), 9).split(b"\0")
    options = [*pairwise(said)]
    assert {(b"--remount-ro", b"/dev"), (b"--cap-drop", b"ALL")} <= set(options)
    for wall in (b"--disable-userns", b"--assert-userns-disabled", b"--new-session", b"--die-with-parent", b"--clearenv"):
        assert wall in said
    mounted = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    (flags,) = [words[5].split(",") for words in mounted if words[4] == str(box.image.path)]
    assert {"ro", "nosuid", "nodev"} <= set(flags)


@pytest.mark.cgroup
@pytest.mark.usefixtures("cgroup_mount")
def test_i8_image_is_sealed_against_root_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test missed it: without seals whoever opens the memory behind the loop device changes what was measured."""
    kept: list[int] = []
    make = os.memfd_create

    def seen(name: str, flags: int) -> int:
        made = make(name, flags)
        if name == "writ-image":
            kept.append(os.dup(made))
        return made

    monkeypatch.setattr(os, "memfd_create", seen)
    with inside():
        assert kept
        for image in kept:
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            assert fcntl.fcntl(image, fcntl.F_GET_SEALS) & seals == seals
            os.close(image)


def test_i11_starting_children_count_as_children(tmp_path: Path) -> None:
    """Those that were being started were not counted: an agent that asks for many at once had as many."""
    path = tmp_path / "control.sock"
    scene = Scene(tmp_path)
    held = scene.renew()
    asked: list[socket.socket] = []
    with frames.listen(str(path), uid=os.getuid(), gid=os.getgid(), mode=0o600) as server:

        def accept() -> None:
            asked.extend(frames.connections(server))

        threading.Thread(target=accept, daemon=True).start()
        children = Children(path, scene.instance)
        arguments = encode_json({"agent": "coder"})
        refused: list[str] = []

        def start() -> None:
            try:
                answer = children.call(children.action("start", arguments), "start", arguments, held, Led(bytes(32)))
                refused.append(json.loads(answer.body)["refusal"]["reasons"][0]["code"])
            except Unavailable:
                pass

        tasks = [threading.Thread(target=start) for _ in range(3 * MAX_CHILDREN)]
        for task in tasks:
            task.start()
        wait_for(lambda: len(refused) == 2 * MAX_CHILDREN)
        wait_for(lambda: len(asked) == MAX_CHILDREN)
        time.sleep(0.1)
        assert len(asked) == MAX_CHILDREN
        assert set(refused) == {"too-many-requests"}
        for one in asked:
            one.close()
        for task in tasks:
            task.join(10)
        server.shutdown(socket.SHUT_RDWR)
    again = threading.Thread(target=start)
    again.start()
    again.join(10)
    assert len(refused) == 2 * MAX_CHILDREN, "there is room again"


def test_i8_child_that_becomes_ready_while_its_parent_is_held_is_held(tmp_path: Path) -> None:
    """No test missed it: the child was started before the hold, and is told of it after its start."""
    path, scene, instance = tmp_path / "control.sock", Scene(tmp_path), bytes(16)
    held = scene.renew()
    with frames.listen(str(path), uid=os.getuid(), gid=os.getgid(), mode=0o600) as server:
        children = Children(path, scene.instance)
        arguments = encode_json({"agent": "coder"})
        action = children.action("start", arguments)
        task = threading.Thread(target=lambda: children.call(action, "start", arguments, held, Led(bytes(32))))
        task.start()
        client, _ = server.accept()
        with client:
            got = frames.receive_with_descriptors(client, MAX_CONTROL, 10)
            assert got is not None
            for other in got[1][1:]:
                os.close(other)
            with socket.socket(fileno=got[1][0]) as line:
                children.cut()
                frames.send(client, CONTROL.encode(Started(instance)))
                task.join(10)
                said = frames.receive(line, MAX_FRAME, 10)
                assert said is not None
                assert isinstance(LINE.parse(said), Hold)
                children.close()


# --- secrets and their keepers ---------------------------------------------------------------------------------------------------


def test_i8_session_that_began_after_a_cut_is_given_back_also_where_the_secret_was_not_had(tmp_path: Path) -> None:
    """The login came through, the read did not; the vault's token stayed alive, and the instance was gone."""
    safe = Safe(tmp_path)
    try:
        safe.vault.answers.clear()
        safe.vault.kept.clear()
        failed: list[str] = []

        def fetch() -> None:
            try:
                safe.secrets.value("mail", safe.held)
            except Unavailable as error:
                failed.append(error.what)

        thread = threading.Thread(target=fetch)
        thread.start()
        wait_for(lambda: safe.vault.asked)
        safe.secrets.cut()
        safe.vault.answers.set()
        thread.join(10)
        assert failed
        wait_for(lambda: "POST /v1/auth/token/revoke-self" in safe.vault.asked)
        wait_for(lambda: not safe.vault.tokens)
    finally:
        safe.vault.close()


def test_i8_file_of_a_secret_that_was_had_before_a_cut_is_not_laid_after_it(tmp_path: Path) -> None:
    class Late(Secrets):
        def value(self, name: str, held: Held | None) -> bytes:
            found = super().value(name, held)
            made.cut()
            return found

    scene = Scene(tmp_path, more=(("secret.read", "secret:key"),))
    scene.renew()
    with contextlib.closing(scene.log(tmp_path)) as log:
        made = SecretFiles(tmp_path, os.getuid(), scene.gatekeeper(log), Late((Secret("key", "file"),), {"key": Known(KEY)}))
        made.fill()
        assert not list(tmp_path.rglob("key"))
        made.mend()
        wait_for(lambda: len(records_of(tmp_path, scene.instance)) == 4)
        assert not list(tmp_path.rglob("key"))


def test_i10_failure_of_a_secret_tells_the_agent_nothing_of_the_host(reached: Callable[..., Reached]) -> None:
    """Paths of vaults and of files of the host, and roles, stood in the answer to the agent."""

    class Away(Known):
        def fetch(self, held: object) -> object:  # type: ignore[override]  # it never returns
            raise Unavailable("vault", "secret/data/payroll: refused (403) to role writ")

    made = reached(echo)
    made.source.__class__ = Away
    said = made.get()
    assert '"what":"secret key"' in said
    assert "payroll" not in said


def test_i8_holder_leaves_no_core_file() -> None:
    """Session key, token and secrets are in its memory."""

    def live(*_: object) -> int:
        return int(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE

    pid = os.fork()
    if pid == 0:
        zygote._become(live, EnforcerConfig(), b"", (0, 0, 0, 0, 0))  # noqa: SLF001 - what a holder does first
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_holder_has_the_daemons_configuration() -> None:
    """Every path of it, and as a path."""
    absolute = {one.name: Path(f"/x/{one.name}") for one in dataclasses.fields(EnforcerConfig) if "Path" in str(one.type)}
    config = EnforcerConfig(**absolute)  # type: ignore[arg-type]  # each is a path
    assert EnforcerConfig.from_json(config.to_json()) == config


@pytest.mark.cgroup
def test_i8_where_secrets_lie_is_not_for_every_user_to_read(idle_host: Host) -> None:
    """The whole configuration was on the zygote's command line."""
    host = idle_host
    host.write_config(
        secrets=("a mail vault secret/data/payroll data.key",), vault_url="http://127.0.0.1:1", vault_role="writ", vault_audience="v"
    )
    host.serve()
    daemon = host.daemon
    assert daemon is not None
    pids = [daemon.pid, *wait_for(lambda: host.children(daemon.pid))]
    assert not any(b"payroll" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


@pytest.mark.parametrize("how", ["hold", "kill", "end"])
def test_i6_nothing_that_contains_leaves_a_token_in_force(tmp_path: Path, how: str) -> None:
    """No test missed it: the cut hid it."""
    scene = Scene(tmp_path)
    held = scene.renew()
    with contextlib.closing(scene.log(tmp_path)) as log:
        gone = Cgroup(tmp_path / "gone")
        made = Containment(gone, scene.gatekeeper(log), scene.credential, tmp_path, clock=scene.clock, changed=lambda _: None)
        assert scene.credential.current() is held
        if how == "hold":
            made.hold((CUT,), time.monotonic_ns())
        elif how == "kill":
            made.kill((CUT,), time.monotonic_ns(), records=list)
        else:
            made.end()
        assert scene.credential.current() is None
        with pytest.raises(Refused):
            scene.credential.take(held)


def test_policy_of_another_namespace_is_no_policy_of_this_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test missed it, with everything else about the answer in order."""
    scene = Scene(tmp_path)
    bundle = scene.attestor.bundle()
    monkeypatch.setattr(scene.attestor, "bundle", lambda: dataclasses.replace(bundle, namespace="other"))
    with pytest.raises(Refused, match="policy-unknown"):
        scene.renew()


# --- a cut -----------------------------------------------------------------------------------------------------------------------


def test_i8_cut_stops_bytes_before_it_tells_whoever_may_be_slow(tmp_path: Path) -> None:
    """A child's holder that does not read holds up who tells it; the ways out of its parent were cut after that."""
    scene, said = Scene(tmp_path), list[str]()

    class Way:
        def __init__(self, name: str) -> None:
            self._name = name

        def cut(self) -> None:
            said.append(self._name)

        mend = cut

    with contextlib.closing(scene.log(tmp_path)) as log:
        gatekeeper = scene.gatekeeper(log)
        for name in ("children", "egress"):
            gatekeeper.hold(Way(name))
        gatekeeper.cut(CUT)
    assert said == ["egress", "children"]


def test_i8_bytes_that_were_under_way_at_a_cut_do_not_arrive_after_it(tmp_path: Path) -> None:
    """No test missed it: what the kernel still holds for a host that is slow to read is thrown away, and the host hears of a reset."""
    read, heard = threading.Event(), list[bytes | str]()

    def slow(connection: socket.socket, _: Server) -> None:
        read.wait(20)
        try:
            while part := connection.recv(1 << 16):
                heard.append(part)
            heard.append("end")
        except ConnectionResetError:
            heard.append("reset")

    ports, server = Ports(tmp_path), Server(slow)
    place = parse_authority(f"127.0.0.1:{server.port}")
    try:
        with dial(ports.open(lambda way: Forwarded(1, place, way), ("net.connect", place.resource))) as near:
            near.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while True:
                    near.send(b"x" * 65536)
            assert ports.out is not None
            ports.out.gatekeeper.cut(CUT)
            ports.out.records()
            read.set()
            wait_for(lambda: heard and isinstance(heard[-1], str))
        assert heard[-1] == "reset"
    finally:
        ports.close()
        server.close()


def test_i8_port_is_nobody_elses_while_it_is_cut(tmp_path: Path) -> None:
    """Both set SO_REUSEADDR and neither listened: any user of the host had an inbound port from a hold on, and spoke for it."""
    ports, server = Ports(tmp_path), Server(echo)
    place = parse_authority(f"127.0.0.1:{server.port}")

    def answers(port: int) -> bool:
        with dial(port) as near, contextlib.suppress(ConnectionError):
            near.sendall(b"hello")
            return near.recv(100) == b"hello"
        return False

    try:
        port = ports.open(lambda way: Forwarded(1, place, way), ("net.connect", place.resource))
        assert answers(port)
        assert ports.out is not None
        for _ in range(3):
            ports.out.gatekeeper.cut(CUT)
            with socket.socket() as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    thief.bind(("127.0.0.1", port))
            ports.out.gatekeeper.mend()
            wait_for(lambda: answers(port))  # the first may be reset, by an acceptor that has not seen the cut yet
    finally:
        ports.close()
        server.close()


def test_i11_gate_outlives_a_moment_without_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's fork bomb: the acceptor ended for good, and closing raised for a thread that was never started."""
    server, none_left = Server(echo), threading.Event()
    start = threading.Thread.start

    def full(self: threading.Thread) -> None:
        if self.name == "connection" and not none_left.is_set():
            none_left.set()
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", full)
    ports = Ports(tmp_path)
    try:
        place = parse_authority(f"127.0.0.1:{server.port}")
        port = ports.open(lambda way: Forwarded(1, place, way), ("net.connect", place.resource), room=1)
        with dial(port) as near:
            assert ended(near)
        with dial(port) as near:
            near.sendall(b"hello")
            assert near.recv(100) == b"hello"
    finally:
        ports.close()
        server.close()


# --- somebody who reaches an inbound port ----------------------------------------------------------------------------------------


def test_i11_others_cannot_use_up_the_log_of_an_agent(tmp_path: Path) -> None:
    """Each connection is two records, and the sum of an instance's bytes never grows again: whoever reached the port ended the agent."""
    clock = HandClock(int(time.time()))
    quota = Quota(clock, share=4)
    most = sum(quota.take(0) is None for _ in range(2 * RECORDS_AT_ONCE))
    assert most == RECORDS_AT_ONCE // 4

    ports, server = Ports(tmp_path), Server(echo)
    try:
        made = lambda way: Inbound(server.port, socket.socket, "127.0.0.1", quota, way)  # noqa: E731
        with dial(ports.open(made, ("net.accept", f"tcp:{server.port}"))) as near:
            assert ended(near)
        assert ports.out is not None
        assert ports.out.log.checkpoint().size == 0
        assert server.connections == 0
    finally:
        ports.close()
        server.close()


def test_i11_others_cannot_take_the_connections_of_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 callers that say nothing had all that its own requests go by."""
    rooms: list[threading.BoundedSemaphore] = []

    class Elsewhere:
        def __init__(self, _: int) -> None:
            self.close = lambda: None

        def listen(self, _: int) -> socket.socket:
            return listener()

        unconnected = socket.socket

    class Seen(ListeningLine):
        def __init__(self, server: socket.socket, serve: Any, room: threading.BoundedSemaphore, limits: Limits) -> None:
            rooms.append(room)
            super().__init__(server, serve, room, limits)

    for module in (outlet, gate):
        monkeypatch.setattr(module, "ListeningLine", Seen)
    monkeypatch.setattr(outlet, "Namespace", Elsewhere)
    with listener() as free:
        at = free.getsockname()
    grants = grant_set([("net.connect", "tcp:a.test:1"), ("net.accept", "tcp:8080")])
    scene = Scene(tmp_path)
    with contextlib.closing(scene.log(tmp_path)) as log:
        made = outlet.Outlet(
            grants, SystemClock(), NO_SECRETS, roots=None, always=False, forwards=[Forward(1, "tcp:a.test:1")], inbound=[(8080, at)]
        )
        made.open(1, scene.gatekeeper(log), "x")()
    proxy, forward, inbound = rooms
    assert proxy is forward
    assert inbound is not proxy


def test_i11_what_an_agent_repeats_is_logged_seldom() -> None:
    seldom = observe.Seldom(60)
    assert [seldom.now() for _ in range(1000)] == [True, *[False] * 999]
    assert observe.Seldom(0).now()
    assert SystemClock().boot() > 0

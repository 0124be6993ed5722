"""A host for tests: a real daemon with real holders and cgroups, a store, an agent and a tool, and an attestor in memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from enforcer.config import EnforcerConfig
from enforcer.launch.cgroup import MOUNTINFO, Cgroup, find_mount
from tests.world.attestor import Attestor, KnownAgent
from tests.world.root_fs import PYTHON, lay_out
from writ.formats.forward import Forward
from writ.formats.grants import grant_set
from writ.formats.measurement import Profile
from writ.formats.secret import Secret
from writ.formats.trust import encode_trust

ROOT = Path(__file__).parents[2]
UID_FIRST = 61000

AGENT = """
import json, os, socket, sys, time
connection = socket.socket(socket.AF_UNIX)
connection.connect(os.environ["WRIT_SOCKET"])
stream = connection.makefile("rwb")
def ask(tool, method, **arguments):
    stream.write(json.dumps({"id": 1, "tool": tool, "method": method, "arguments": arguments}).encode() + b"\\n")
    stream.flush()
    return json.loads(stream.readline())
"""
TOOL = """
import json, sys
notes = {"today": "water the plants"}
for line in sys.stdin:
    request = json.loads(line)
    name, arguments = request["params"]["name"], request["params"]["arguments"]
    result = {"text": notes.get(arguments.get("name"), "")} if name == "read" else {"isError": True, "text": name}
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
"""
KEPT = (
    "settings",
    "policies",
    "schema",
    "version",
    "reachable",
    "refusal",
    "refuses",
    "silent",
    "lies_about_command",
    "generous",
    "status",
)
"""What a test may set of an attestor, and what no other test may find set."""


def wait_for(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    """What `what` returns once it is true; fails after `seconds`.

    Looking takes a third of the time at most: what is awaited needs the rest.
    """
    began = time.monotonic()
    end = began + seconds
    while not (value := what()):
        looked = time.monotonic()
        assert looked < end, f"nothing within {seconds} s: {what}"
        time.sleep(max(0.02, 2 * (looked - began)))
        began = time.monotonic()
    return value


def _of_process(pid: int, file: str) -> str:
    """A file of /proc about a process; empty for one that has ended, as any may between being found and being read."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass
class Host:
    """Folders, configuration, attestor and daemon; `close` ends whatever it started."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="writ-", dir="/var/tmp")))
    runs: list[subprocess.Popen[bytes]] = field(default_factory=list)
    daemon: subprocess.Popen[bytes] | None = None
    code: Path = ROOT
    """Where the code of the next daemon lies."""

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        self.store = self.folder / "store"
        self.store.mkdir(mode=0o755)
        self.cgroup = f"/writ-test-{self.folder.name}"
        self.config_file = self.folder / "enforcer.toml"
        self.config = EnforcerConfig(
            run_dir=self.folder / "run", state_dir=self.folder / "state", attestor_socket=self.folder / "attestor.sock",
            trust_file=self.folder / "trust.cbor", cgroup=self.cgroup, uid_first=UID_FIRST, instances=20,
            tools=(f"notes {PYTHON} -I {{store}}/tools/tool.py",),
        )  # fmt: skip
        self.attestor = Attestor(self.config.attestor_socket, {})
        self.config.trust_file.write_bytes(encode_trust(self.attestor.trust()))
        self.write_config()
        self.attestor.start()

    def write_config(self, **more: object) -> None:
        """The configuration file says what `self.config` says, and `more`."""
        names = ("run_dir", "state_dir", "attestor_socket", "trust_file", "cgroup", "uid_first", "instances", "tools")
        values = {name: getattr(self.config, name) for name in names} | more
        lines = [
            f"{k} = {json.dumps(list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v)}" for k, v in values.items()
        ]
        self.config_file.write_text("\n".join(lines) + "\n")

    def child(
        self, name: str, *programs: str, shell: Sequence[str] = ("/usr/bin/sh", "-euc"), more: Sequence[tuple[str, str]] = ()
    ) -> None:
        """A child agent `name`, whose image has `programs` too; it may run commands, and `more`."""
        root = self.store / name
        shutil.rmtree(root, ignore_errors=True)
        components = lay_out(root, {}, "/usr/bin/sh", *programs)
        grants = grant_set([("instance.run", f"agent:{name}"), *more])
        self.attestor.agents[name] = KnownAgent(root, tuple(shell), components, grants, "sandboxed")

    def agent(
        self, name: str, body: str, *, prelude: str = AGENT, connects: Sequence[str] = (), more: Sequence[tuple[str, str]] = (),
        programs: Sequence[str] = (), profile: Profile = "strict", forwards: Sequence[Forward] = (), tool: str = TOOL,
        secrets: Sequence[Secret] = (), approved: bytes | None = None, beside: Mapping[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        """An agent `name` in the store, whose program is `body` after the client's few lines; it may connect to these resources.

        Its image has `programs` too. `approved` is what was approved of the tool, where that is a server of MCP; `beside` are files there.
        """
        root = self.store / name
        shutil.rmtree(root, ignore_errors=True)
        code = (prelude + textwrap.dedent(body)).encode()
        tools = {"tool.py": tool.encode()} | ({} if approved is None else {"notes.mcp.json": approved}) | dict(beside or {})
        components = lay_out(root, {"code": ("code", {f"{name}.py": code}), "tools": ("tools", tools)}, *programs)
        known = KnownAgent(root, (PYTHON, "-I", f"{{store}}/code/{name}.py"), components, profile=profile, forwards=tuple(forwards))
        known = replace(known, secrets=tuple(secrets))
        grants = grant_set([*known.grants, *more, *(("net.connect", resource) for resource in connects)])
        self.attestor.agents[name] = replace(known, grants=grants)

    def serve(self, *under: str) -> None:
        """A daemon, ready; its command line is what `under` execs."""
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen([*under, *self.command("serve")], cwd=self.code, stderr=log)
        wait_for(self.answers, 60)

    def install(self, version: str, *changes: tuple[str, str, str]) -> None:
        """Another version of Writ is installed, whose engine differs, with `changes`: in a file, one text for another.

        What is the same comes with its bytecode, as a package's does; only what another process is writing just now is left out.
        """
        self.code = self.folder / version
        for room in ("enforcer", "writ"):
            shutil.copytree(ROOT / room, self.code / room, ignore=shutil.ignore_patterns("*.pyc.*"))
        changed = self.code / "writ" / "verdict" / "decide.py"
        changed.write_text(changed.read_text() + f"# {version}\n")
        for name, old, new in changes:
            text = (self.code / name).read_text()
            assert old in text
            (self.code / name).write_text(text.replace(old, new))

    def log_lines(self) -> list[str]:
        """What daemons and holders have logged."""
        return (self.folder / "daemon.log").read_text().splitlines()

    def kill_daemon(self) -> None:
        """The daemon is dead."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def answers(self) -> bool:
        """Whether the daemon accepts connections."""
        import socket

        with socket.socket(socket.AF_UNIX) as probe:
            return self.daemon is not None and self.daemon.poll() is None and probe.connect_ex(str(self.config.control_socket)) == 0

    def command(self, *words: str) -> list[str]:
        """The command line of the enforcer with this host's configuration."""
        return [sys.executable, "-m", "enforcer", "--config", str(self.config_file), *words]

    def run(self, agent: str, *words: str) -> subprocess.Popen[bytes]:
        """`enforcer run`, not waited for."""
        run = subprocess.Popen(
            self.command("run", "--agent", agent, *words),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.runs.append(run)
        return run

    def finish(self, run: subprocess.Popen[bytes], seconds: float = 30.0) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of a run."""
        out, err = run.communicate(timeout=seconds)
        return run.returncode, out.decode(), err.decode()

    def show(self, *words: str) -> Any:
        """What a command prints with --json."""
        done = subprocess.run(self.command(*words, "--json"), cwd=ROOT, capture_output=True, check=False, timeout=30)
        return json.loads(done.stdout)

    def instance(self, agent: str) -> bytes:
        """The newest instance of `agent`."""
        found: list[bytes] = wait_for(lambda: [i for i, known in self.attestor.instances.items() if known.agent.name == agent])
        return found[-1]

    def standing(self, instance: bytes) -> dict[str, Any]:
        """What the holder wrote last."""
        path = self.config.instance_dir(instance) / "state.json"
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return {"state": "none"}

    def wait_state(self, instance: bytes, state: str, seconds: float = 15.0) -> dict[str, Any]:
        """The standing once it is `state`."""
        wait_for(lambda: self.standing(instance)["state"] == state, seconds)
        return self.standing(instance)

    def cgroup_of(self, instance: bytes) -> Cgroup:
        """The instance's cgroup: a child's is below its parent's."""
        return Cgroup.find(find_mount(MOUNTINFO.read_text()) / self.cgroup.lstrip("/"), instance.hex())

    def holder_pid(self, instance: bytes) -> int:
        """The pid of its holder."""
        return int(self.standing(instance)["holder"])

    def children(self, pid: int) -> Sequence[int]:
        """The children of a process; none of one that has ended."""
        return [int(p) for p in _of_process(pid, f"task/{pid}/children").split()]

    def holders(self) -> Sequence[int]:
        """The pids of the holders that the daemon's zygote forked."""
        forked = [] if self.daemon is None else [pid for zygote in self.children(self.daemon.pid) for pid in self.children(zygote)]
        return [pid for pid in forked if _of_process(pid, "comm") == "writ-holder\n"]

    def close(self) -> None:
        """Everything started here has ended, and nothing is left behind."""
        for run in self.runs:
            if run.poll() is None:
                run.kill()
        if self.daemon is not None:
            self.kill_daemon()
        for path in (self.config.state_dir / "instances").glob("*/state.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                holder = json.loads(path.read_text())["holder"]
                if Path(f"/proc/{holder}/comm").read_text() == "writ-holder\n":
                    os.kill(holder, signal.SIGKILL)
        parent = Cgroup(find_mount(MOUNTINFO.read_text()) / self.cgroup.lstrip("/"))
        if parent.exists():
            parent.kill()
            wait_for(lambda: all(Cgroup(p).remove() for p in parent.path.iterdir() if p.is_dir()) and parent.remove())
        for run in self.runs:
            run.communicate()  # an agent may have kept the other end of its pipes to this moment, and a frozen one would keep it on
        self.attestor.stop()
        for mounted in sorted(self.mounts(), reverse=True):
            subprocess.run(["umount", "--lazy", mounted], check=True)
        wait_for(self._removed)

    def _removed(self) -> bool:
        """A zygote that has not yet seen its daemon's end may still be writing bytecode beside installed code."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()

    def as_before(self) -> bool:
        """Whether its daemon has nothing left to do, and nobody changed what it works with; what its attestor knew is then forgotten."""
        attestor, fresh = self.attestor, Attestor(self.attestor.path, {})
        changed = [name for name in KEPT if getattr(attestor, name) != getattr(fresh, name)]
        if changed or not self.answers() or any(run.poll() is None for run in self.runs):
            return False
        if self.holders() or not all(one.stopped for one in attestor.instances.values()):
            return False
        for known in (attestor.agents, attestor.instances, attestor.asks, attestor.given, self.runs):
            known.clear()
        return True

    def mounts(self) -> list[str]:
        """What is mounted below this host's folder."""
        found = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return [path for path in found if path.startswith(f"{self.folder}/")]

"""What an agent leaves behind, and a tool that never comes to the point, cost the holder nothing."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from enforcer.tools import program as tools
from enforcer.tools.program import StdioTool
from enforcer.tools.tool import Led
from tests.enforcer.host import Host, wait_for
from writ.formats.errors import Unavailable

DEEP = """
os.chdir(os.environ["HOME"])
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
print("deep", flush=True)
time.sleep(60)
"""


@pytest.fixture
def host(enforcer_host: Host) -> Iterator[Host]:
    """The homes of its agents are emptied in the end not by `shutil.rmtree`, which is what this file is about."""
    yield enforcer_host
    for home in (enforcer_host.config.run_dir / "agents").glob("*/home"):
        subprocess.run(["find", str(home), "-mindepth", "1", "-delete"], check=False, capture_output=True)


@pytest.mark.cgroup
def test_deep_home_does_not_end_the_holder_before_it_has_told_of_the_kill(host: Host) -> None:
    host.agent("deep", DEEP)
    run = host.run("deep")
    instance = host.instance("deep")
    host.wait_state(instance, "running")
    wait_for(lambda: run.stdout is not None and run.stdout.readline() == b"deep\n")
    host.show("kill", instance.hex())
    status, _, _ = host.finish(run)
    assert (status, host.attestor.instances[instance].stopped) == (137, "killed")
    assert not host.config.agent_dir(instance).exists()


def test_tool_that_floods_old_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()

    class Child:
        pid = 1

        @property
        def outer(self) -> Child:
            return self

        def kill(self) -> None:
            stop.set()

        def wait(self, timeout: float | None = None) -> int:
            return 0

    def start(_program: object, _cgroup: object, stdio: tuple[int, int, int]) -> Child:
        kept, out = os.dup(stdio[0]), os.dup(stdio[1])

        def flood() -> None:
            line = json.dumps({"jsonrpc": "2.0", "id": 0, "result": 1}).encode() + b"\n"
            try:
                while not stop.is_set():
                    os.write(out, line * 2000)
            except OSError:
                pass
            os.close(out)
            os.close(kept)

        threading.Thread(target=flood, daemon=True).start()
        return Child()

    monkeypatch.setattr(tools, "start", start)
    monkeypatch.setattr(tools, "CALL_WITHIN", 0.5)
    tool = StdioTool.started("slow", None, None, 2)  # type: ignore[arg-type]  # nothing is started
    gave_up: list[float] = []

    def call() -> None:
        begun = time.monotonic()
        try:
            tool.call(tool.action("read", b"{}"), "read", b"{}", None, Led(bytes(32)))
        except Unavailable:
            gave_up.append(time.monotonic() - begun)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(3)
    in_time = bool(gave_up) and gave_up[0] < 2
    tool.close()
    caller.join(5)
    assert in_time

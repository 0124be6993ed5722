"""An agent out of an OCI image: unpacked, measured into the store, launched in the sandbox, and never by a daemon of containers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from attestor.__main__ import main
from attestor.measure.manifest import measure_manifest, read_manifest
from attestor.measure.oci import this_platform
from attestor.measure.store import Store
from tests.enforcer.host import AGENT, TOOL, Host
from tests.world.attestor import KnownAgent
from tests.world.oci import Layout, layer, layer_of, link
from tests.world.root_fs import PYTHON, system

pytestmark = pytest.mark.cgroup

MAIN = (
    AGENT
    + """
found = {"cwd": os.getcwd(), "greeting": os.environ["GREETING"], "argv": sys.argv[1:], "old": os.path.exists("/etc/old")}
found["uid"] = os.getuid()
try:
    open("/app/written", "w")
except OSError as error:
    found["written"] = error.strerror
found["note"] = ask("notes", "read", name="today")["result"]["text"]
print(json.dumps(found))
"""
)


@pytest.fixture
def store(host: Host) -> Store:
    """A store that the enforcer believes."""
    return Store(host.folder / "measured-store")


def test_agent_runs_on_an_oci_image(host: Host, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    programs = tuple(path for path in ("/usr/bin/env", "/bin/sh") if os.path.exists(path))
    _, place = system(*programs)
    layout, here = Layout(), this_platform()
    base = layer_of(place)
    app = layer(("app/main.py", MAIN.encode()), ("etc/old", b""), ("srv/tools/tool.py", TOOL.encode()))
    change = layer(("etc/.wh.old", b""), link("app/latest.py", "main.py"))
    run = {"Entrypoint": ["python3", "-I", "latest.py"], "Cmd": ["one"], "Env": ["GREETING=hello"], "WorkingDir": "/app", "User": "nobody"}
    layout.image([base, app, change], run, packing="", platform=(here.os, here.architecture))
    words = ["manifest", "oci", str(layout.write(tmp_path / "layout")), "--out", str(host.folder / "tree"), "--agent", "contained"]
    assert main(words) == 0
    manifest = host.folder / "contained.toml"
    manifest.write_text(capsys.readouterr().out)

    measured = measure_manifest(read_manifest(manifest), host.folder, domain="example.org", read=store.read)
    root = store.assemble(measured.measurement, measured.trees)
    host.write_config(tools=(f"notes {PYTHON} -I /srv/tools/tool.py",))
    host.kill_daemon()
    host.serve()
    host.attestor.agents["contained"] = KnownAgent(root, measured.measurement.command, measured.measurement.components)
    status, out, err = host.finish(host.run("contained"))

    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "cwd": "/app", "greeting": "hello", "argv": ["one"], "old": False, "uid": 1000, "written": "Read-only file system",
        "note": "water the plants",
    }  # fmt: skip

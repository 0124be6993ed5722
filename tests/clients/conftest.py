"""Servers on this host's loopback that clients of the field speak to, and an image that has the clients."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.images import copy_lib
from tests.clients.registries import NAME, Registries
from tests.conftest import missing
from tests.enforcer.conftest import cgroup_mount
from tests.enforcer.host import Host, wait_for
from tests.world.network import Server, certified
from tests.world.web import go_on, site
from tests.world.web2 import newest

__all__ = ["cgroup_mount"]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of `NAME`, and its key; the certificate is the root that the enforcer is given."""
    return certified(tmp_path_factory.mktemp("certificate"), NAME)


@pytest.fixture
def host(cgroup_mount: Path, certificate: tuple[Path, Path]) -> Iterator[Host]:  # noqa: ARG001 - without one there is no host
    """A host whose enforcer knows the servers of the tests by name, and verifies them by their certificate."""
    if not copy_lib():
        missing("what tools/clients.lock names; `./run clients` installs it")
    made = Host()
    try:
        made.write_config(egress_ca_file=certificate[0])
        names = made.folder / "hosts"
        names.write_text(f"127.0.0.1 {NAME}.\n")  # with its dot, as the enforcer asks
        made.serve("unshare", "--mount", "sh", "-c", f'mount --bind {names} /etc/hosts && exec "$@"', "sh")
        yield made
    finally:
        made.close()


@pytest.fixture
def web(certificate: tuple[Path, Path]) -> Iterator[Server]:
    """Pages, events and WebSockets, over TLS."""
    go_on.set()
    made = Server(site, certificate=certificate)
    yield made
    made.close()


@pytest.fixture
def newer(certificate: tuple[Path, Path]) -> Iterator[Server]:
    """Pages and streams of HTTP/2, over TLS."""
    made = Server(newest, certificate=certificate)
    assert made.tls is not None
    made.tls.set_alpn_protocols(["h2"])
    yield made
    made.close()


@pytest.fixture
def registries(certificate: tuple[Path, Path], tmp_path: Path) -> Iterator[Registries]:
    """A git host and the indexes of pip and npm, over TLS."""
    made = Registries(tmp_path / "served", certificate)
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[int]:  # noqa: ARG001 - one a test
    """The port of a PostgreSQL that lets anybody of this host in."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found or os.geteuid() != 0:
        missing("PostgreSQL's server, and root to start it as another")
    tools, folder = found[-1].parent, Path(tempfile.mkdtemp(prefix="writ-pg-", dir="/var/tmp"))
    shutil.chown(folder, "postgres")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    as_postgres = ["runuser", "-u", "postgres", "--"]
    initdb = [str(tools / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-N"]
    subprocess.run([*as_postgres, *initdb], check=True, capture_output=True, cwd="/")
    command = [str(tools / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    with subprocess.Popen([*as_postgres, *command], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        wait_for((folder / f".s.PGSQL.{port}").exists, 30)
        yield port
        server.terminate()
    shutil.rmtree(folder)

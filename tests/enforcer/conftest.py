"""A running host for each test that asks for one, where cgroup v2 can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.launch.cgroup import MOUNTINFO, Cgroup, find_mount, parent_of
from tests.conftest import missing
from tests.enforcer.host import Host
from tests.world.root_fs import PYTHON
from writ.formats.errors import Unavailable


@pytest.fixture(scope="session")
def cgroup_mount() -> Path:
    """The writable cgroup v2 mount; without one the test is skipped, or fails where WRIT_CI=1."""
    if os.geteuid() != 0:
        missing("root")
    if not Path(PYTHON).exists():
        missing(f"{PYTHON}, an interpreter that every uid can run")
    try:
        mount = find_mount(MOUNTINFO.read_text())
        probe = parent_of(f"/writ-probe-{os.getpid()}", mount)
    except Unavailable as error:
        missing(f"a writable cgroup v2 ({error.detail})")
        raise
    Cgroup(probe).remove()
    return mount


@pytest.fixture
def host(cgroup_mount: Path) -> Iterator[Host]:  # noqa: ARG001 - without one there is no host
    """A host whose daemon serves."""
    made = Host()
    try:
        made.serve()
        yield made
    finally:
        made.close()

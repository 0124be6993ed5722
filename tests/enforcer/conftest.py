"""Hosts with daemons, where cgroup v2 can be written."""

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
def idle_host(cgroup_mount: Path) -> Iterator[Host]:  # noqa: ARG001 - without one there is no host
    """A host whose daemon is the test's own to start, once it is configured."""
    made = Host()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def served_before(cgroup_mount: Path) -> Iterator[list[Host]]:  # noqa: ARG001 - without one there is no host
    """The host that a test marked `shared_host` left as it found it, if any."""
    left: list[Host] = []
    yield left
    for one in left:
        one.close()


@pytest.fixture
def host(request: pytest.FixtureRequest, served_before: list[Host]) -> Iterator[Host]:
    """A host whose daemon serves: one of the test's own, or, where it is marked `shared_host`, perhaps one that served others before."""
    shared = request.node.get_closest_marker("shared_host") is not None
    made = served_before.pop() if shared and served_before else Host()
    try:
        if made.daemon is None:
            made.serve()
        yield made
        again = shared and made.as_before()
    except BaseException:
        made.close()
        raise
    if again:
        served_before.append(made)
    else:
        made.close()

"""What every test may ask for: software TPMs, and a refusal to pass silently where something is missing."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import hypothesis
import pytest

from swtpm import Delays, Manufacturer, SoftTpm
from swtpm.manufacturer import BANKS
from tests.house import ambient

# Two shared cores: how long one example takes says nothing about the code.
hypothesis.settings.register_profile("writ", deadline=None, print_blob=True)
# For `./run mutate`: the same examples for each mutant, and no time spent on making a failure small.
hypothesis.settings.register_profile(
    "mutate", deadline=None, derandomize=True, database=None, max_examples=30, phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate)
)
hypothesis.settings.load_profile("writ")

ambient.install()

# A quarter of the time of collecting seven thousand tests went to looking for garbage among them; there is none until they are run.
gc.disable()


class SoftTpmFactory(Protocol):
    """What the fixture `soft_tpm_factory` gives."""

    def __call__(self, name: str = "tpm", *, banks: tuple[str, ...] = BANKS, delays: Delays | None = None) -> SoftTpm: ...


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that asks for a software TPM, or for an enforcer's whole host that no other test may have, is marked so without being told."""
    asked = set(getattr(item, "fixturenames", ()))
    if {"soft_tpm", "soft_tpm_factory", "manufacturer"} & asked:
        item.add_marker(pytest.mark.swtpm)
    if {"idle_host", "served_before"} & asked and item.get_closest_marker("shared_host") is None:
        item.add_marker(pytest.mark.hosts)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each worker begins with its share of the long ones."""
    given = getattr(config, "workerinput", None)
    if given is not None:
        items[:] = [items[at] for at in dealt([item.nodeid for item in items], given["long"], given["workercount"])]


# --- what took long last time is begun first -----------------------------------------------------------------------------

LONG: Final = 3.0
"""Seconds of a test from which it is begun before others, so that none is begun when all else is done."""
_LONG_KEY: Final = "writ/long"
_took: dict[str, float] = {}


def dealt(names: Sequence[str], took: Mapping[str, float], workers: int) -> list[int]:
    """The tests `names`, by index, in blocks of the sizes that xdist hands out to begin with; the long ones dealt out, first in each."""
    long = sorted((at for at, name in enumerate(names) if name in took), key=lambda at: (-took[names[at]], at))
    others = iter([at for at, name in enumerate(names) if name not in took])
    order: list[int] = []
    for worker in range(workers):
        size, mine = (len(names) - len(order)) // (workers - worker), long[worker::workers]
        order += [*mine, *itertools.islice(others, max(0, size - len(mine)))]
    return order


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """How long it took is remembered."""
    if report.when == "call":
        _took[report.nodeid] = report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What took long is kept in pytest's cache for the next run."""
    cache: pytest.Cache | None = getattr(session.config, "cache", None)
    if cache is not None and not hasattr(session.config, "workerinput"):
        before = {name: took for name, took in cache.get(_LONG_KEY, {}).items() if name not in _took}
        cache.set(_LONG_KEY, before | {name: round(took, 1) for name, took in _took.items() if took >= LONG})


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Every worker is told the same: xdist wants one order from all."""
    cache: pytest.Cache | None = getattr(node.config, "cache", None)
    node.workerinput["long"] = {} if cache is None else cache.get(_LONG_KEY, {})


def pytest_collection_finish() -> None:
    """What was collected stays, and is looked at no more; from here on there is garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their place, not their value: keys made for this run differ from one worker to the next."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def manufacturer(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Manufacturer:
    """One test manufacturer for all workers, kept between runs in pytest's cache; its TPMs are made once each."""
    for program in ("swtpm", "swtpm_setup", "swtpm_localca"):
        if shutil.which(program) is None:
            missing(f"{program} on PATH (Debian: swtpm, swtpm-tools)")
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    return Manufacturer(cache.mkdir("swtpm") if cache else tmp_path_factory.mktemp("swtpm"))


@pytest.fixture
def soft_tpm_factory(manufacturer: Manufacturer) -> Iterator[SoftTpmFactory]:
    """Starts TPMs by name, in milliseconds: another name is another TPM, the same name twice are two clones of one."""
    running: list[SoftTpm] = []

    def start(name: str = "tpm", *, banks: tuple[str, ...] = BANKS, delays: Delays | None = None) -> SoftTpm:
        running.append(manufacturer.tpm(name, banks=banks, delays=delays))
        return running[-1]

    yield start
    for tpm in running:
        tpm.close()


@pytest.fixture
def soft_tpm(soft_tpm_factory: SoftTpmFactory) -> SoftTpm:
    """One TPM as it left the factory: nothing that another test did to it is there."""
    return soft_tpm_factory()


def missing(what: str) -> None:
    """The test cannot run for want of `what`: skipped with that reason, but failed where WRIT_CI=1 promised everything."""
    if os.environ.get("WRIT_CI") == "1":
        pytest.fail(f"expected {what}, found none, and WRIT_CI=1 allows no skip")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of published test vectors: WRIT_VECTORS, or ../shared/vectors beside the tree."""
    folder = Path(os.environ.get("WRIT_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")
    if not folder.is_dir():
        missing(f"test vectors in {folder}")
    return folder

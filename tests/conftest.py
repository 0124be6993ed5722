"""What every test may ask for: software TPMs, and a refusal to pass silently where something is missing."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for a software TPM is marked so, without being told."""
    for item in items:
        if {"soft_tpm", "soft_tpm_factory", "manufacturer"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.swtpm)


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

"""One image, one verifier and one enrolled machine for all tests; each attack boots a copy of that machine, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swtpm import Manufacturer
from swtpm.guest import Image, Machine, Verity, build, make_root
from tests.guest.references import approved
from tests.guest.site import CONFIGURATION, HELD, Guest, TlsVerifier

CACHE = Path(__file__).parents[2] / ".guest"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here boots machines, under emulation where KVM does not work."""
    for item in items:
        if item.nodeid.startswith("tests/guest/"):
            item.add_marker(pytest.mark.guest)
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def image() -> Image:
    """The guest of this tree as it is now."""
    return build(CACHE)


@pytest.fixture(scope="session")
def maker() -> Manufacturer:
    """The manufacturer of the guests' TPMs."""
    return Manufacturer(CACHE / "manufacturer")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsVerifier]:
    """A verifier for all machines."""
    made = TlsVerifier(tmp_path_factory.mktemp("verifier"))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def held_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Verity]:
    """A small tree with its hash tree, in one file."""
    room = tmp_path_factory.mktemp("held")
    (room / "tree").mkdir()
    (room / "tree/prompt.txt").write_text("be good")
    return room / HELD, make_root(room / "tree", room / HELD, spare=2)


@pytest.fixture(scope="session")
def held(held_file: tuple[Path, Verity]) -> Verity:
    """Its table."""
    return held_file[1]


@pytest.fixture(scope="session")
def guest(
    image: Image, maker: Manufacturer, site: TlsVerifier, held_file: tuple[Path, Verity], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    """A machine under Secure Boot, on, enrolled and approved under a policy that takes nothing less than a rooted runtime."""
    state = maker.state("guest")
    site.demand_rooted()
    files = {**CONFIGURATION, "etc/writ/verifier-ca.pem": site.certificate, "etc/writ/trust.cbor": site.trust_maker(maker)}
    files[HELD] = held_file[0].read_bytes()
    with Machine.new(tmp_path_factory.mktemp("guest") / "first", image, tpm=state, files=files) as machine:
        made = Guest(machine, site, image.esp())
        made.boot()
        made.enrol()
        made.serve_with("attestor.toml")
        made.approve(approved(image, made.attest().evidence))
        yield made


@pytest.fixture(scope="module")
def fresh(guest: Guest) -> Guest:
    """The same, booted anew: nothing that other tests did is in its logs, or keeps it off."""
    guest.boot()
    return guest

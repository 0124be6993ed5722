"""One image, one verifier and one enrolled machine for all tests; each attack boots a copy of that machine, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swtpm import Manufacturer
from swtpm.guest import Image, Machine, build
from tests.guest.site import CONFIGURATION, Guest, TlsVerifier

CACHE = Path(__file__).parents[2] / ".guest"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here boots machines, under emulation where KVM does not work."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
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
def guest(image: Image, maker: Manufacturer, site: TlsVerifier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A machine under Secure Boot, booted, enrolled and approved; on."""
    state = maker.state("guest")
    site.publish_policy()
    files = {**CONFIGURATION, "etc/writ/verifier-ca.pem": site.certificate, "etc/writ/trust.cbor": site.trust_maker(maker)}
    with Machine.new(tmp_path_factory.mktemp("guest") / "first", image, tpm=state, files=files) as machine:
        made = Guest(machine, site, image.esp())
        made.boot()
        made.enrol()
        made.serve()
        yield made

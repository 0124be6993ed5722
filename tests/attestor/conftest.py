"""Fixtures of the attestor's tests: a verifier's site, a host with a software TPM, and both enrolled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swtpm import SoftTpm
from tests.attestor.site import Host, VerifierSite, host_with


@pytest.fixture
def site(tmp_path: Path) -> Iterator[VerifierSite]:
    """A verifier with the demo's policy and the governance of the tests approved."""
    made = VerifierSite(tmp_path / "verifier")
    made.publish_policy()
    made.approve_governance()
    yield made
    made.stop()


@pytest.fixture
def host(tmp_path: Path, soft_tpm: SoftTpm) -> Iterator[Host]:
    """A host with the agent `reporter`; not enrolled."""
    with host_with(tmp_path / "host", soft_tpm) as made:
        made.agent("reporter")
        yield made


@pytest.fixture
def enrolled(site: VerifierSite, host: Host, soft_tpm: SoftTpm) -> Host:
    """The host, enrolled at the site."""
    site.trust(soft_tpm)
    host.enrol(site)
    return host

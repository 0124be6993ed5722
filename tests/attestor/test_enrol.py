"""Enrolment at a real verifier: what is pinned, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from attestor.config import read_enrolment
from attestor.enrol import enrol
from attestor.esapi import EsapiTpm
from swtpm import SoftTpm
from tests.attestor.site import Host, VerifierSite, host_with
from tests.conftest import SoftTpmFactory
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.service.clock import SystemClock
from writ.service.signers import load_or_create_signer
from writ.service.uplink import Uplink


def codes(caught: pytest.ExceptionInfo[Refused]) -> set[str]:
    return {reason.code for reason in caught.value.reasons}


def test_what_is_pinned_is_what_the_verifier_is(site: VerifierSite, host: Host, soft_tpm: SoftTpm) -> None:
    site.trust(soft_tpm)
    pinned = host.enrol(site)
    assert read_enrolment(host.state) == pinned
    assert (pinned.host, pinned.namespace, pinned.domain, pinned.verifier) == ("host-1", "demo", "example.org", site.url)
    assert pinned.decision_key == site.built.parts.keys.decision.public
    assert (pinned.runtime_pcr, pinned.bank) == (13, "sha256")
    assert host.state.enrolment.stat().st_mode & 0o777 == 0o600


def test_tpm_of_an_untrusted_manufacturer_is_refused_and_pins_nothing(site: VerifierSite, host: Host) -> None:
    with pytest.raises(Refused) as caught:
        host.enrol(site)
    assert codes(caught) == {"ek-certificate-refused"}
    with pytest.raises(Refused, match="not-enrolled"):
        read_enrolment(host.state)


def test_ticket_of_another_host_is_refused(site: VerifierSite, host: Host, soft_tpm: SoftTpm) -> None:
    site.trust(soft_tpm)
    host.state.make()
    host.tpm.create_ak()
    key = load_or_create_signer(host.state.host_key).public
    with Uplink(site.url, ca_file=None, signer=None, clock=SystemClock()) as uplink, pytest.raises(Refused):
        enrol(host.tpm, uplink, host.state, host="other", host_key=key, ticket=site.admit("host-1"), runtime_pcr=13, bank="sha256")


def test_tpm_that_belongs_to_a_host_enrols_no_second(
    site: VerifierSite, enrolled: Host, soft_tpm_factory: SoftTpmFactory, tmp_path: Path
) -> None:
    with host_with(tmp_path / "second", soft_tpm_factory("tpm")) as clone, pytest.raises(Refused) as caught:
        clone.enrol(site, "host-2")
    assert codes(caught) == {"ek-already-bound"}
    assert enrolled.enrolment is not None


def test_second_ek_of_the_tpm_takes_no_place_of_the_first(site: VerifierSite, enrolled: Host, soft_tpm: SoftTpm, tmp_path: Path) -> None:
    """The manufacturer certified an RSA and an elliptic EK; each with a ticket for the same host is another TPM to the verifier."""
    first = enrolled.tpm.endorsement()
    enrolled.tpm.close()
    chip = EsapiTpm(soft_tpm.tcti, tmp_path / "second" / "state" / "ak.cbor", allow_software=True, ek="p384")
    try:
        assert chip.endorsement().certificates[0] != first.certificates[0]
        with pytest.raises(Refused) as caught:
            Host(tmp_path / "second", chip).enrol(site)
    finally:
        chip.close()
    assert codes(caught) == {"host-already-enrolled"}


@pytest.mark.parametrize("pcr,bank", [(16, "sha256"), (23, "sha256"), (10, "sha256"), (0, "sha256"), (13, "sha1")])
def test_register_that_software_can_reset_is_refused_before_anything_is_sent(pcr: int, bank: str, host: Host) -> None:
    host.state.make()
    key = load_or_create_signer(host.state.host_key).public
    with Uplink("http://127.0.0.1:1", ca_file=None, signer=None, clock=SystemClock()) as uplink, pytest.raises(FormatError, match="PCR"):
        enrol(host.tpm, uplink, host.state, host="h", host_key=key, ticket="t", runtime_pcr=pcr, bank=bank)


def test_verifier_that_is_not_there_is_unavailable(host: Host) -> None:
    host.state.make()
    host.tpm.create_ak()
    key = load_or_create_signer(host.state.host_key).public
    with Uplink("http://127.0.0.1:1", ca_file=None, signer=None, clock=SystemClock()) as uplink, pytest.raises(Unavailable):
        enrol(host.tpm, uplink, host.state, host="h", host_key=key, ticket="t", runtime_pcr=13, bank="sha256")

"""The TPM module against a software TPM: what it returns, parsed and verified by our own formats."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attestor.esapi import EsapiTpm
from attestor.tpm import check_tcti
from swtpm import SoftTpm
from tests.conftest import SoftTpmFactory
from writ.formats.digest import Digest, Nonce, extend
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.evidence import binding
from writ.formats.tpm.attest import TPM_GENERATED, parse_attest
from writ.formats.tpm.credential import SEED_SIZE, make_credential
from writ.formats.tpm.pcr import PcrSelection
from writ.formats.tpm.public import RH_ENDORSEMENT, parse_public, primary_qualified_name, qualified_name
from writ.formats.tpm.signature import parse_signature, verify_signature
from writ.formats.x509 import parse_certificate

ALL = tuple(range(16))


def opened(tpm: SoftTpm, path: Path, ek: str | None = None, ak: str = "p256") -> EsapiTpm:
    return EsapiTpm(tpm.tcti, path / "ak.cbor", allow_software=True, ek=ek, ak=ak)


@pytest.mark.parametrize("ek", ["rsa2048", "p384"])
@pytest.mark.parametrize("ak", ["p256", "rsa2048"])
def test_ak_is_a_restricted_child_of_the_ek_and_is_activated(ek: str, ak: str, soft_tpm: SoftTpm, tmp_path: Path) -> None:
    tpm = opened(soft_tpm, tmp_path, ek, ak)
    try:
        endorsement, area = tpm.endorsement(), tpm.create_ak()
        ek_public, ak_public = parse_public(endorsement.public), parse_public(area)
        assert area == tpm.ak_public()
        assert (tmp_path / "ak.cbor").stat().st_mode & 0o777 == 0o600
        assert ak_public.restricted and ak_public.sign and ak_public.fixed_tpm and ak_public.fixed_parent  # noqa: PT018 - one rule
        assert ak_public.sensitive_data_origin and ak_public.no_da and not ak_public.decrypt  # noqa: PT018 - one rule

        secret = os.urandom(32)
        credential, encrypted = make_credential(ek_public, ak_public.name(), secret, seed=os.urandom(SEED_SIZE))
        assert tpm.activate(credential, encrypted) == secret
        quoted = tpm.quote(bytes(32), "sha256")
        attest = parse_attest(quoted.attest)
        assert attest.qualified_signer == qualified_name(primary_qualified_name(RH_ENDORSEMENT, ek_public.name()), ak_public.name())
        assert verify_signature(parse_signature(quoted.signature), ak_public, quoted.attest)
    finally:
        tpm.close()


def test_credential_for_another_key_is_not_opened(soft_tpm: SoftTpm, tmp_path: Path) -> None:
    tpm = opened(soft_tpm, tmp_path)
    try:
        old, _ = tpm.create_ak(), tpm.create_ak()
        credential, secret = make_credential(
            parse_public(tpm.endorsement().public), parse_public(old).name(), bytes(32), seed=os.urandom(SEED_SIZE)
        )
        with pytest.raises(Unavailable, match="activate"):
            tpm.activate(credential, secret)
    finally:
        tpm.close()


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_quote_covers_pcrs_0_to_15_of_the_bank_with_the_values_it_returns(bank: str, soft_tpm: SoftTpm, tmp_path: Path) -> None:
    tpm = opened(soft_tpm, tmp_path)
    try:
        ak = parse_public(tpm.create_ak())
        digests = (Digest.of(b"event"), Digest.of(b"event", "sha384"))
        tpm.extend(13, digests)
        bound = binding(bytes(32), "host", Nonce(bytes(32)), ())
        quoted = tpm.quote(bound, bank)

        attest = parse_attest(quoted.attest)
        assert attest.magic == TPM_GENERATED
        assert attest.quote is not None
        assert attest.extra_data == bound
        assert attest.quote.selection == PcrSelection(((bank, ALL),))
        assert attest.quote.pcr_digest == quoted.pcrs.digest(attest.quote.selection, "sha256")
        assert verify_signature(parse_signature(quoted.signature), ak, quoted.attest)
        assert quoted.pcrs == tpm.read(bank)
        expected = next(extend(bank, bytes(len(d.value)), d.value) for d in digests if d.algorithm == bank)
        assert quoted.pcrs.get(13) == expected
        assert (attest.reset_count, attest.restart_count) == (tpm.clock().reset_count, 0)
    finally:
        tpm.close()


def test_ek_certificate_is_the_ek_s(soft_tpm: SoftTpm, tmp_path: Path) -> None:
    tpm = opened(soft_tpm, tmp_path)
    try:
        endorsement = tpm.endorsement()
        assert len(endorsement.certificates) == 1
        parse_certificate(endorsement.certificates[0])
    finally:
        tpm.close()


def test_banks_are_those_that_are_active(soft_tpm_factory: SoftTpmFactory, tmp_path: Path) -> None:
    tpm = opened(soft_tpm_factory("three", banks=("sha1", "sha256", "sha384")), tmp_path)
    try:
        assert set(tpm.banks()) == {"sha1", "sha256", "sha384"}
    finally:
        tpm.close()


def test_tpm_is_found_again_after_reset_and_power_cut(soft_tpm: SoftTpm, tmp_path: Path) -> None:
    tpm = opened(soft_tpm, tmp_path)
    try:
        ak = tpm.create_ak()
        tpm.quote(bytes(32), "sha256")
        soft_tpm.reset()
        tpm.quote(bytes(32), "sha256")
        soft_tpm.power_off(orderly=False)
        with pytest.raises(Unavailable):
            tpm.quote(bytes(32), "sha256")
        soft_tpm.power_on()
        quoted = tpm.quote(bytes(32), "sha256")
        assert verify_signature(parse_signature(quoted.signature), parse_public(ak), quoted.attest)
    finally:
        tpm.close()


def test_no_handle_is_left_behind(soft_tpm: SoftTpm, tmp_path: Path) -> None:
    """A bare TPM holds three objects: a leak of one in any operation would end this."""
    for _ in range(3):
        tpm = opened(soft_tpm, tmp_path, "p384")
        try:
            tpm.create_ak()
            for _ in range(4):
                tpm.quote(bytes(32), "sha256")
                tpm.endorsement()
        finally:
            tpm.close()


def test_stale_objects_of_a_crashed_process_are_flushed(soft_tpm: SoftTpm, tmp_path: Path) -> None:
    crashed = [opened(soft_tpm, tmp_path) for _ in range(4)]
    crashed[0].create_ak()
    for tpm in crashed:  # none of them is closed before the next loads its AK
        tpm.quote(bytes(32), "sha256")
    for tpm in crashed:
        tpm.close()


def test_ak_file_that_others_can_read_is_refused(soft_tpm: SoftTpm, tmp_path: Path) -> None:
    tpm = opened(soft_tpm, tmp_path)
    try:
        tpm.create_ak()
        (tmp_path / "ak.cbor").chmod(0o640)
        with pytest.raises(Unavailable, match="0600"):
            tpm.quote(bytes(32), "sha256")
    finally:
        tpm.close()


def test_cleared_tpm_is_told_from_another_and_needs_a_new_ak(soft_tpm: SoftTpm, tmp_path: Path) -> None:
    tpm = opened(soft_tpm, tmp_path)
    try:
        tpm.create_ak()
        soft_tpm.reset()
        tpm.quote(bytes(32), "sha256")  # the AK is loaded when the TPM is cleared
        before = tpm.clock().reset_count
        soft_tpm.clear()
        assert (tpm.clock().reset_count, before > 0) == (0, True)
        for command in (lambda: tpm.quote(bytes(32), "sha256"), tpm.check_ak):
            with pytest.raises(Refused) as caught:
                command()
            assert [reason.code for reason in caught.value.reasons] == ["tpm-cleared"]
        tpm.create_ak()
        tpm.check_ak()
        tpm.quote(bytes(32), "sha256")
    finally:
        tpm.close()


def test_ak_of_another_tpm_does_not_load(soft_tpm_factory: SoftTpmFactory, tmp_path: Path) -> None:
    first, second = opened(soft_tpm_factory("tpm"), tmp_path), opened(soft_tpm_factory("other"), tmp_path)
    try:
        first.create_ak()
        with pytest.raises(Unavailable, match="the TPM that made it, got another"):
            second.quote(bytes(32), "sha256")
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("tcti", ["", "swtpm:port=2321", "mssim:", "libtpms:", "cmd:tpm2-send", "/dev/tpmrm0"])
def test_tcti_that_is_software_or_implicit_is_refused(tcti: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="tcti"):
        EsapiTpm(tcti, tmp_path / "ak.cbor")


def test_hardware_tcti_is_accepted() -> None:
    check_tcti("device:/dev/tpmrm0", allow_software=False)


def test_restart_clears_the_registers_and_counts_no_reset(soft_tpm: SoftTpm, tmp_path: Path) -> None:
    """Why a verifier believes nothing of the boot any more once restartCount has risen."""
    tpm = opened(soft_tpm, tmp_path)
    try:
        tpm.extend(13, (Digest.of(b"event"), Digest.of(b"event", "sha384")))
        before = tpm.clock()
        soft_tpm.restart()
        after = tpm.clock()
        assert (after.reset_count, after.restart_count) == (before.reset_count, before.restart_count + 1)
        assert tpm.read("sha256").get(13) == bytes(32)
    finally:
        tpm.close()


def test_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=rf"no device {tmp_path}/tpmrm7; `tcti` names it"):
        EsapiTpm(f"device:{tmp_path}/tpmrm7", tmp_path / "ak.cbor").banks()

"""The software TPM behaves where our tests lean on it. tpm2-pytss is the other side."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG  # type: ignore[import-untyped]  # tpm2-pytss ships no types, here and below
from tpm2_pytss.types import (  # type: ignore[import-untyped]
    TPM2B_DATA,
    TPM2B_PUBLIC,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMT_HA,
    TPMT_SIG_SCHEME,
    TPMU_HA,
)
from tpm2_pytss.utils import NVReadEK  # type: ignore[import-untyped]

from swtpm import Delays, Manufacturer, SoftTpm, SoftTpmError
from tests.conftest import SoftTpmFactory

RSA_EK_CERTIFICATE = 0x01C00002
ECC_EK_CERTIFICATE = 0x01C00016


def ek_certificate(tpm: SoftTpm, index: int) -> x509.Certificate:
    with ESAPI(tpm.tcti) as esapi:
        return x509.load_der_x509_certificate(bytes(NVReadEK(esapi)(index)))


def reset_count(esapi: ESAPI) -> int:
    return int(esapi.read_clock().clockInfo.resetCount)


def extend_pcr_0(esapi: ESAPI) -> None:
    esapi.pcr_extend(ESYS_TR.PCR0, TPML_DIGEST_VALUES([TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=b"\xab" * 32))]))


def pcr_0(esapi: ESAPI, bank: str = "sha256") -> bytes:
    _, _, values = esapi.pcr_read(TPML_PCR_SELECTION.parse(f"{bank}:0"))
    return bytes(values[0])


def quote_once(esapi: ESAPI) -> bytes:
    handle, _, _, _, _ = esapi.create_primary(
        None, TPM2B_PUBLIC.parse("ecc:ecdsa-sha256:null", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign")
    )
    try:
        attested, _ = esapi.quote(
            handle, TPML_PCR_SELECTION.parse("sha256:0,7"), TPM2B_DATA(b"nonce"), TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
        )
        return bytes(attested)
    finally:
        esapi.flush_context(handle)


def test_quote_carries_the_nonce_that_was_asked_for(soft_tpm: SoftTpm) -> None:
    with ESAPI(soft_tpm.tcti) as esapi:
        assert b"nonce" in quote_once(esapi)


@pytest.mark.parametrize("bank, size", [("sha256", 32), ("sha384", 48)])
def test_both_banks_are_there(soft_tpm: SoftTpm, bank: str, size: int) -> None:
    with ESAPI(soft_tpm.tcti) as esapi:
        assert pcr_0(esapi, bank) == bytes(size)


@pytest.mark.parametrize("orderly", [True, False])
def test_reset_raises_the_reset_count_and_clears_the_registers(soft_tpm: SoftTpm, orderly: bool) -> None:
    with ESAPI(soft_tpm.tcti) as esapi:
        before = reset_count(esapi)
        extend_pcr_0(esapi)
        assert pcr_0(esapi) != bytes(32)

        soft_tpm.reset(orderly=orderly)

        assert reset_count(esapi) == before + 1
        assert pcr_0(esapi) == bytes(32)
        assert bool(esapi.read_clock().clockInfo.safe) is orderly


def test_resume_raises_the_restart_count_and_keeps_the_registers(soft_tpm: SoftTpm) -> None:
    with ESAPI(soft_tpm.tcti) as esapi:
        before = reset_count(esapi)
        extend_pcr_0(esapi)
        held = pcr_0(esapi)

        soft_tpm.resume()

        assert (reset_count(esapi), int(esapi.read_clock().clockInfo.restartCount)) == (before, 1)
        assert pcr_0(esapi) == held


def test_power_off_and_on_is_the_same_tpm_after_a_reset(soft_tpm: SoftTpm) -> None:
    with ESAPI(soft_tpm.tcti) as esapi:
        before = reset_count(esapi)
    soft_tpm.power_off()
    with pytest.raises(SoftTpmError):
        _ = soft_tpm.pid

    soft_tpm.power_on()

    with ESAPI(soft_tpm.tcti) as esapi:
        assert reset_count(esapi) == before + 1


@pytest.mark.parametrize("index", [RSA_EK_CERTIFICATE, ECC_EK_CERTIFICATE])
def test_ek_certificate_chains_to_the_manufacturer(soft_tpm: SoftTpm, index: int) -> None:
    certificate = ek_certificate(soft_tpm, index)
    root = x509.load_pem_x509_certificate(soft_tpm.ca_pem)
    intermediate = x509.load_pem_x509_certificate(soft_tpm.intermediates_pem)

    certificate.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)


def test_two_names_are_two_tpms_and_one_name_is_a_clone(soft_tpm_factory: SoftTpmFactory) -> None:
    first, clone, second = soft_tpm_factory("tpm"), soft_tpm_factory("tpm"), soft_tpm_factory("other")

    assert ek_certificate(first, RSA_EK_CERTIFICATE) == ek_certificate(clone, RSA_EK_CERTIFICATE)
    assert ek_certificate(first, RSA_EK_CERTIFICATE).public_key() != ek_certificate(second, RSA_EK_CERTIFICATE).public_key()
    assert len({first.pid, clone.pid, second.pid}) == 3


def test_an_index_written_by_one_test_is_gone_for_the_next(soft_tpm_factory: SoftTpmFactory) -> None:
    first = soft_tpm_factory()
    with ESAPI(first.tcti) as esapi:
        before = reset_count(esapi)
    first.reset()

    with ESAPI(soft_tpm_factory().tcti) as esapi:
        assert reset_count(esapi) == before


def test_two_manufacturers_share_no_root(manufacturer: Manufacturer, tmp_path: Path) -> None:
    stranger = Manufacturer(tmp_path)
    stranger.state("tpm")
    manufacturer.state("tpm")

    assert stranger.root_pem != manufacturer.root_pem


def test_delays_are_paid_by_quote_and_extend_only(soft_tpm_factory: SoftTpmFactory) -> None:
    slow = soft_tpm_factory(delays=Delays(quote=0.3, extend=0.1))
    with ESAPI(slow.tcti) as esapi:
        started = time.monotonic()
        reset_count(esapi)
        after_clock = time.monotonic()
        extend_pcr_0(esapi)
        after_extend = time.monotonic()
        quote_once(esapi)
        after_quote = time.monotonic()

    assert after_clock - started < 0.1 <= after_extend - after_clock
    assert after_quote - after_extend >= 0.3


def test_a_name_that_is_a_path_is_refused(manufacturer: Manufacturer) -> None:
    with pytest.raises(SoftTpmError, match="lower-case"):
        manufacturer.state("../tpm")


@pytest.mark.usefixtures("manufacturer")  # for its check that swtpm is installed
def test_start_prints_the_tcti_and_ends_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "swtpm", "start", "--state", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        tcti = process.stdout.readline().strip()
        with ESAPI(tcti) as esapi:
            assert reset_count(esapi) >= 0

        process.terminate()

        assert process.wait(timeout=20) == 0
    assert (tmp_path / "root.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 2

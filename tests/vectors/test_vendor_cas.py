"""Every published manufacturer certificate is read, and chains as far as the collection reaches, from `verifier check ek-cert`.

The product's list of pinned roots is held against the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.vectors.manifest import rows, run
from verifier.check.ek_cert import read_certificates
from verifier.manufacturers import Offered, pinned_roots, take
from writ.formats.digest import Digest
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate

FOLDER: Final = "tpm-vendor-cas"
BUNDLE: Final = "loicsikidi/MIRROR.tpm-ca-certificates.pem"
SECURE_BOOT: Final = (
    "GcePk.crt", "MicCorKEKCA2011_2011-06-24.crt", "MicCorUEFCA2011_2011-06-27.crt", "MicWinProPCA2011_2011-10-19.crt",
    "canonical-boothole.crt", "cisco-boothole.crt", "debian-boothole.crt", "dbxupdate-2014-08-11.bin", "dbxupdate_x64-2020-10-12.bin",
    "dbxupdate_x64-2021-04-29.bin",
)  # fmt: skip
UNSUPPORTED: Final = {
    f"secure-boot/{name}": "UEFI Secure Boot material, no TPM manufacturer's: a certificate is read, a dbx update is none and is refused"
    for name in SECURE_BOOT
}
"""Manifest row -> why it cannot be supported."""
NAMES: Final = {
    "gce": ("gcp_ek_ak_ca_intermediate_v3.crt gcp_ek_ak_ca_root.crt tpm_ek_intermediate_2.crt tpm_ek_intermediate_3.crt tpm_ek_root_1.cer"),
    "immune": (
        "EkMfrCA001.crt EkMfrCA002.crt EkMfrCA003.crt EkRootCA.crt IFX-RootCA.cer "
        "Infineon-OPTIGA-ECC-Manufacturing-CA_036-Issued_by_RootCA.crt-C-v01_00-EN.crt "
        "Infineon-OPTIGA-RSA-Manufacturing-CA_036_Issued_by_RootCA.crt-C-v01_00-EN.crt "
        "Infineon_OPTIGA_TM__ECC_Manufacturing_CA_001.crt Infineon_OPTIGA_TM__ECC_Manufacturing_CA_017.crt "
        "Infineon_OPTIGA_TM__ECC_Root_CA_2.crt Infineon_OPTIGA_TM__RSA_Manufacturing_CA_001.crt "
        "Infineon_OPTIGA_TM__RSA_Manufacturing_CA_017.crt Infineon_OPTIGA_TM__RSA_Manufacturing_CA_029_Issued_by_RootCA.crt "
        "Infineon_OPTIGA_TM__RSA_Manufacturing_CA_030_Issued_by_RootCA.crt "
        "Infineon_OPTIGA_TM__RSA_Manufacturing_CA_033_Issued_by_RootCA.crt "
        "Infineon_OPTIGA_TM__RSA_Manufacturing_CA_034_Issued_by_RootCA.crt "
        "Infineon_OPTIGA_TM__RSA_Manufacturing_CA_035_Issued_by_RootCA.crt "
        "Infineon_OPTIGA_TM__RSA_Root_CA_2.crt Infineon_OPTIGA_TM__TPM_2.0_ECC_CA_056.crt Infineon_OPTIGA_TM__TPM_2.0_RSA_CA_056.crt "
        "Intel_EKRootPublicKey.cer NationZ_EkRootCA.crt OnDie_CA_RootCA_Certificate.cer OptigaEccRootCA3.crt OptigaRsaRootCA.crt "
        "OptigaRsaRootCA3.crt"
    ),
    "keylime": (
        "Alibaba_Cloud_vTPM_EK.pem GS_TPM_RT.pem IFX1.pem IFX15.pem IFX2.pem IFX3.pem IFX4.pem IFX5.pem IFX8.pem IFX_ECC_034.pem "
        "IFX_ECC_042.pem IFX_RSA_01I.pem IFX_RSA_02I.pem IFX_RSA_034.pem IFX_RSA_03I.pem IFX_RSA_042.pem IFX_RSA_04I.pem IFX_RSA_05I.pem "
        "IFX_RSA_08I.pem IFX_RSA_17I.pem IFX_RSA_18I.pem IFX_RSA_20I.pem IFX_RSA_21I.pem IFX_RSA_RT.pem INF_ECC_010I.pem INF_ECC_010RT.pem "
        "INF_ECC_011.pem INF_RSA_010I.pem INF_RSA_010RT.pem INF_RSA_011.pem INF_RSA_022.pem INTEL_I.pem INTEL_RT.pem NTC1.pem NTC2.pem "
        "NUVO_0100.pem NUVO_1110.pem NUVO_1111.pem NUVO_2110.pem NUVO_2111.pem Nationz_TPM_EK.pem STM_ECC_01I.pem STM_ECC_01RT.pem "
        "STM_RSA_01I.pem STM_RSA_02I.pem STM_RSA_03I.pem STM_RSA_04I.pem STM_RSA_05I.pem STM_RSA_06I.pem STM_RSA_07I.pem STM_RSA_RT.pem"
    ),
}
CERTIFICATES: Final = tuple(f"{folder}/{name}" for folder, names in NAMES.items() for name in names.split())
ROOTLESS: Final = {"keylime/Alibaba_Cloud_vTPM_EK.pem"}
"""Whose root no source carries."""
NOT_PINNED: Final = {"Microsoft TPM Root Certificate Authority 2014"}
"""In the bundle, and left out of the product's list with its reason there."""


def read(vectors: Path, file: str) -> tuple[Certificate, ...]:
    return read_certificates((vectors / FOLDER / file).read_bytes(), file)


def collection(vectors: Path) -> list[Offered]:
    """All of them as somebody would hand them to `trust import`."""
    return [Offered(file, (vectors / FOLDER / file).read_bytes()) for file in (*CERTIFICATES, BUNDLE)]


@pytest.mark.parametrize("file", CERTIFICATES)
def test_manufacturer_certificate_is_read_and_judged(vectors: Path, file: str) -> None:
    (certificate,) = read(vectors, file)
    result = run("ek-cert", vectors / FOLDER / file, now=certificate.not_before)
    assert result["verdict"] == "accepted", result["reasons"]
    assert result["claims"]["ca"] is True
    assert result["claims"]["chain"].startswith(("a pinned root itself: ", "to its own top only"))
    assert run("ek-cert", vectors / FOLDER / file, now=certificate.not_after + 1)["verdict"] == "refused"


def test_bundle_is_read_whole_and_each_of_it_is_pinned_or_named(vectors: Path) -> None:
    certificates = read(vectors, BUNDLE)
    assert len(certificates) == 26
    result = run("ek-cert", vectors / FOLDER / BUNDLE, now=1_790_000_000)
    assert result["claims"]["chain"].startswith("a pinned root itself")
    pinned = {root.fingerprint for root in pinned_roots()}
    left_out = [certificate.subject_text for certificate in certificates if Digest.of(certificate.der) not in pinned]
    assert [any(name in subject for name in NOT_PINNED) for subject in left_out] == [True] * len(NOT_PINNED)


def test_each_pinned_fingerprint_is_that_of_a_certificate_from_each_source_it_names(vectors: Path) -> None:
    folders = {"loicsikidi": BUNDLE, "immune-gmbh": "immune/", "keylime": "keylime/", "google": "gce/"}
    held: dict[Digest, set[str]] = {}
    for file in (*CERTIFICATES, BUNDLE):
        for certificate in read(vectors, file):
            held.setdefault(Digest.of(certificate.der), set()).add(file)
    for root in pinned_roots():
        for source in root.sources:
            place = folders[source.split("/", 1)[0]]
            assert any(file.startswith(place) for file in held.get(root.fingerprint, ())), (root.name, source)


def test_whole_collection_imports_with_each_refusal_named(vectors: Path) -> None:
    taken = take(collection(vectors), pinned_roots(), rules=ChainRules(sha1=True), now=1_700_000_000)
    assert len(taken.roots) == len(pinned_roots())
    refused = {name for name, _ in taken.refused}
    assert refused == {*ROOTLESS, BUNDLE}
    codes = {name: reason.code for name, reason in taken.refused}
    assert codes == {"keylime/Alibaba_Cloud_vTPM_EK.pem": "ek-certificate-refused", BUNDLE: "fingerprint-mismatch"}


def test_chains_with_sha1_are_taken_only_where_the_rules_say_so(vectors: Path) -> None:
    taken = take(collection(vectors), pinned_roots(), rules=ChainRules(), now=1_700_000_000)
    weak = {name for name, reason in taken.refused if "SHA-1" in reason.got}
    assert weak
    assert all(name.startswith("keylime/IFX") for name in weak)


@pytest.mark.parametrize("name", [name for name in SECURE_BOOT if name.endswith(".bin")])
def test_dbx_update_is_no_certificate(vectors: Path, name: str) -> None:
    assert run("ek-cert", vectors / FOLDER / "secure-boot" / name)["reasons"][0]["code"] == "malformed"


def test_every_row_of_the_manifest_is_in_the_table(vectors: Path) -> None:
    assert rows(vectors, FOLDER) == {*CERTIFICATES, BUNDLE, *UNSUPPORTED}
    assert all(UNSUPPORTED.values())

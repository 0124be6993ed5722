"""Every published certificate of a TPM key gives what its manifest states, from `verifier check ek-cert`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.manifest import rows, run

FOLDER = "ek-certs"
GCE = "tpm-vendor-cas/gce"
KEYLIME = "tpm-vendor-cas/keylime"
STM = "STMicroelectronics"
TEST_CA = ("ek-certs/keylime/idevid_test_ca.pem",)
HIRS = tuple(f"ek-certs/hirs/stMicroCaCerts_{name}.crt" for name in ("gstpmroot", "stmtpmekint02", "stmtpmekroot"))
GCE_CAS = tuple(
    f"{GCE}/{name}"
    for name in (
        "gcp_ek_ak_ca_intermediate_v3.crt", "gcp_ek_ak_ca_root.crt", "tpm_ek_intermediate_2.crt", "tpm_ek_intermediate_3.crt",
        "tpm_ek_root_1.cer",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What one file gives: with which certificates trusted, at which time, with which claims, and what `chain` says."""

    trust: tuple[str, ...] = ()
    at: str = "2024-01-01T00:00:00Z"
    claims: tuple[str | None, str | None, str | None] = (None, None, None)
    chain: str = ""
    weak: bool = False
    not_below: tuple[str, ...] = ()
    """Certificates under which it must be refused."""


GOOGLE = ("id:474F4F47", "vTPM", "id:20160511")
NUC = ("id:53544D20", "ST33ZP24PVSP", "id:0D0C")
CERTIFICATES = {
    "amd-ftpm/amd_ek_response.der": Row(chain="to its own top only, which nothing vouches for: CN=AMDTPM"),
    "gce/pca_tpm_rsa_enc_cert.pem": Row(GCE_CAS, chain="CN=EK/AK CA Root"),
    "gce/pca_tpm_rsa_sign_cert.pem": Row(GCE_CAS, chain="CN=EK/AK CA Root"),
    "gce/uca_tpm_rsa_enc_cert.pem": Row(GCE_CAS, claims=GOOGLE, chain="CN=tpm_ek_v1_cloud_host_root", not_below=HIRS),
    "gce/uca_tpm_rsa_sign_cert.pem": Row(GCE_CAS, claims=GOOGLE, chain="CN=tpm_ek_v1_cloud_host_root"),
    # its issuer, Nuvoton TPM Root CA 2010, is in no collection
    "hirs/ek_cert_with_padded_bytes.cer": Row(claims=("id:4E544300", "NPCT6xx", "id:0581"), chain="to its own top only", weak=True),
    "hirs/nuc-1_ek_cert_7_byte_header_removed.cer": Row(HIRS, "2020-01-01T00:00:00Z", NUC, "CN=GlobalSign Trusted Platform", weak=True),
    "hirs/nuc-1_tpmcert.pem": Row(HIRS, "2020-01-01T00:00:00Z", NUC, "CN=GlobalSign Trusted Platform Module Root CA", weak=True,
                                  not_below=(HIRS[0],)),
    "hirs/stMicroCaCerts_gstpmroot.crt": Row(chain="a pinned root itself: CN=GlobalSign"),
    "hirs/stMicroCaCerts_stmtpmekint02.crt": Row(HIRS, chain="CN=GlobalSign"),
    "hirs/stMicroCaCerts_stmtpmekroot.crt": Row(HIRS, chain="CN=GlobalSign"),
    "keylime/hpe_iak.der": Row(TEST_CA, "2024-06-01T00:00:00Z", chain="CN=Isaac HPE Root CA", not_below=(f"{KEYLIME}/STM_RSA_RT.pem",)),
    "keylime/hpe_idevid.der": Row(TEST_CA, "2024-06-01T00:00:00Z", chain="CN=Isaac HPE Root CA", not_below=(f"{KEYLIME}/STM_RSA_RT.pem",)),
    "keylime/idevid_test_ca.pem": Row(TEST_CA, chain="CN=Isaac HPE Root CA"),
    "keylime/st_sha256_with_rsa.der": Row(
        (f"{KEYLIME}/STM_RSA_05I.pem",), claims=("id:53544D20", "ST33HTPHAHB4", "id:00490004"), chain="CN=STM TPM EK Intermediate CA 05",
        not_below=(f"{KEYLIME}/STM_RSA_04I.pem",),
    ),
    "platform-certs/IntelSigningKey_20April2017.cer": Row(
        at="2018-01-01T00:00:00Z", chain="to its own top only, which nothing vouches for: CN=www.intel.com,OU=Transparent Supply Chain",
        weak=True,
    ),
}  # fmt: skip
PLATFORM = ("Intel_nuc1", "Intel_nuc_pc", "Intel_nuc_pc2", "Intel_pc1", "plat_cert1", "plat_cert3")
UNSUPPORTED = {
    **{
        f"platform-certs/{name}.cer": "a TCG platform attribute certificate (RFC 5755): it certifies a platform, no key; refused as such"
        for name in PLATFORM
    },
    **{
        f"platform-certs/{name}.cer.json": "the origin's own reading of the attribute certificate, no input of a check" for name in PLATFORM
    },
}
"""Manifest row -> why it cannot be supported."""


def trusting(vectors: Path, folder: Path, names: tuple[str, ...]) -> list[str | Path]:
    """--trust with copies of these certificates and no other."""
    if not names:
        return []
    folder.mkdir()
    for name in names:
        (folder / name.rsplit("/", 1)[1]).write_bytes((vectors / name).read_bytes())
    return ["--trust", folder]


@pytest.mark.parametrize("file", sorted(CERTIFICATES))
def test_certificate_gives_what_its_manifest_says(vectors: Path, tmp_path: Path, file: str) -> None:
    row, path = CERTIFICATES[file], vectors / FOLDER / file
    result = run("ek-cert", path, "--at", row.at, *trusting(vectors, tmp_path / "trust", row.trust))
    claims: dict[str, Any] = result["claims"]
    assert result["verdict"] == "accepted", result["reasons"]
    assert (claims["manufacturer"], claims["model"], claims["version"]) == row.claims
    assert claims["chain"].startswith(row.chain), claims["chain"]
    assert claims["weak_signature"] is row.weak
    if row.not_below:
        other = run("ek-cert", path, "--at", row.at, *trusting(vectors, tmp_path / "other", row.not_below))
        assert [reason["code"] for reason in other["reasons"]].count("ek-certificate-refused") >= 1
        assert other["verdict"] == "refused"


@pytest.mark.parametrize("name", PLATFORM)
def test_platform_certificate_is_refused_for_what_it_is(vectors: Path, name: str) -> None:
    path = vectors / FOLDER / "platform-certs" / f"{name}.cer"
    result = run("ek-cert", path)
    assert result["verdict"] == "refused"
    assert result["reasons"][0]["got"] == "an attribute certificate, which certifies no key"
    assert json.loads(path.with_suffix(".cer.json").read_text())


def test_every_row_of_the_manifest_is_in_the_table(vectors: Path) -> None:
    assert rows(vectors, FOLDER) == {*CERTIFICATES, *UNSUPPORTED}
    assert all(UNSUPPORTED.values())

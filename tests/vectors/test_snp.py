"""Real SEV-SNP reports: values and verdicts as the manifests state them, under the pinned roots and under AMD's files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

import pytest

from tests.vectors.manifest import rows, run, said
from writ.formats.errors import FormatError, Refused
from writ.formats.tee.snp import SnpReport, parse_report
from writ.formats.tee.vek import Vek, parse_vek
from writ.formats.x509 import parse_certificate, parse_pem_certificates
from writ.verdict.amd_roots import ROOTS, amd_authorities
from writ.verdict.appraise.snp import AppraisedReport, SnpPolicy, appraise_report

FOLDER: Final = "sev-snp"
CASES: Final = {
    "cmc-milan": "vcek.pem", "go-sev-guest-milan": "vek.der", "teekit-gcp": "vcek.pem", "trustee-milan-vcek": "vek.der",
    "virtee-milan": "vek.der",
}  # fmt: skip
"""Folder -> the certificate of its report."""
TRUST: Final = (
    "ask_ark_genoa.pem", "ask_ark_genoa_vlek.pem", "ask_ark_milan.pem", "ask_ark_milan_vlek.pem", "ask_ark_turin_vcek.pem",
    "ask_ark_turin_vlek.pem", "trustee_genoa_ask_ark_asvk.pem", "trustee_milan_ask_ark_asvk.pem", "trustee_turin_ask_ark_asvk.pem",
)  # fmt: skip
UNSUPPORTED: Final = {
    f"virtee-measurement/ovmf_{name}_suffix.bin": "input for computing a launch measurement, no report: it leads to a reference value"
    for name in ("AmdSev", "OvmfX64")
}
"""Manifest row -> why it is no case here."""
DEBUG: Final = {"go-sev-guest-milan"}
"""Guests whose policy has DEBUG: all else of them verifies, and they are refused for that alone."""
AT: Final = 1_790_000_000
"""2026-09-21, when every certificate of them was valid."""


def folder(vectors: Path, case: str) -> Path:
    return vectors / FOLDER / case


def expected(vectors: Path, case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder(vectors, case) / "expected.json").read_bytes())
    return found


def vek(path: Path) -> Vek:
    data = path.read_bytes()
    found = parse_vek(parse_pem_certificates(data, path.name)[0] if b"-----BEGIN" in data else parse_certificate(data))
    assert found is not None
    return found


def report_of(vectors: Path, case: str, change: int | None = None, by: int = 1) -> SnpReport:
    data = bytearray((folder(vectors, case) / "report.bin").read_bytes())
    if change is not None:
        data[change] = (data[change] + by) % 256
    return parse_report(bytes(data))


def judge(report: SnpReport, key: Vek, **given: Any) -> AppraisedReport:
    policy = SnpPolicy(debug=True, **given)
    return appraise_report(report, key, amd_authorities(), ROOTS, policy, at=AT, report_data=None)


@pytest.mark.parametrize("case", CASES)
def test_report_says_what_the_manifest_says_and_verifies(vectors: Path, case: str) -> None:
    told = expected(vectors, case)["report"]
    result = run("snp", folder(vectors, case) / "report.bin", "--certs", folder(vectors, case), now=AT)
    claims = result["claims"]
    shared = told.keys() & claims.keys()
    assert {"version", "policy", "vmpl", "measurement", "report_data", "chip_id", "reported_tcb", "signing_key"} <= shared
    assert {name: claims[name] for name in shared} == {name: told[name] for name in shared}
    assert claims["chain"].startswith("pinned root: CN=ARK-Milan")
    codes = ["snp-debug"] if case in DEBUG else []
    assert said(result) == ("refused" if codes else "accepted", [*codes, "nonce-unknown", "revocation-unknown"])
    assert claims["debug"] is (case in DEBUG)


@pytest.mark.parametrize("case", CASES)
def test_report_verifies_under_amds_files_as_trust(vectors: Path, case: str) -> None:
    nonce = expected(vectors, case)["report"]["report_data"]
    argv = (folder(vectors, case) / "report.bin", "--certs", folder(vectors, case), "--trust", folder(vectors, "trust"), "--nonce", nonce)
    codes = ["snp-debug"] if case in DEBUG else []
    assert said(run("snp", *argv, now=AT)) == ("refused" if codes else "accepted", [*codes, "revocation-unknown"])


def test_nonce_is_the_report_data_followed_by_zeros(vectors: Path) -> None:
    case = folder(vectors, "go-sev-guest-milan")
    for nonce, codes in (("0102030405", ["snp-debug"]), ("0102030406", ["nonce-mismatch", "snp-debug"])):
        assert said(run("snp", case / "report.bin", "--certs", case, "--nonce", nonce, now=AT))[1] == [*codes, "revocation-unknown"]


def test_origin_verifies_its_report_at_its_time_and_no_sooner(vectors: Path) -> None:
    case = folder(vectors, "go-sev-guest-milan")
    told = expected(vectors, "go-sev-guest-milan")
    argv = ("snp", case / "report.bin", "--certs", case, "--at")
    assert said(run(*argv, told["origin_time"]))[1] == ["snp-debug", "nonce-unknown", "revocation-unknown"]
    assert said(run(*argv, "2022-09-24T00:55:27Z"))[1] == ["certificate-expired"]
    assert said(run(*argv, "2029-09-24T00:55:29Z"))[1] == ["certificate-expired"]


def test_corrupted_signature_and_a_stranger_as_certificate_are_refused(vectors: Path) -> None:
    case = folder(vectors, "cmc-milan")
    assert said(run("snp", case / "report_invalid_signature.bin", "--certs", case, now=AT)) == ("refused", ["signature-invalid"])
    assert said(run("snp", case / "report.bin", "--certs", case / "vcek_other.pem", now=AT)) == ("refused", ["snp-key-missing"])


def test_old_spelling_of_a_hwid_is_read_and_its_invalid_certificate_is_not_believed(vectors: Path) -> None:
    case = folder(vectors, "trustee-milan-vcek")
    old = vek(case / "test-vcek-invalid-legacy.der")
    assert old.hwid == bytes(range(64))
    given = case / "test-vcek-invalid-legacy.der"
    assert said(run("snp", case / "report.bin", "--certs", given, now=AT)) == ("refused", ["certificate-refused"])


def test_changes_that_the_origins_make_are_refused(vectors: Path) -> None:
    key = vek(folder(vectors, "trustee-milan-vcek") / "vek.der")
    for at, code in ((42, "signature-invalid"), (384, "snp-tcb-mismatch")):
        with pytest.raises(Refused) as caught:
            judge(report_of(vectors, "trustee-milan-vcek", at), key)
        assert [reason.code for reason in caught.value.reasons] == [code]
    flipped = bytearray((folder(vectors, "virtee-milan") / "report.bin").read_bytes())
    flipped[21] ^= 0x80
    with pytest.raises(Refused) as caught:
        judge(parse_report(bytes(flipped)), vek(folder(vectors, "virtee-milan") / "vek.der"))
    assert [reason.code for reason in caught.value.reasons] == ["signature-invalid"]


def test_certificate_with_a_flipped_byte_is_refused(vectors: Path, tmp_path: Path) -> None:
    case = folder(vectors, "virtee-milan")
    der = bytearray((case / "vek.der").read_bytes())
    der[40] ^= 1
    (tmp_path / "vek.der").write_bytes(der)
    assert said(run("snp", case / "report.bin", "--certs", tmp_path, now=AT))[0] == "refused"


def test_product_and_stepping_that_are_asked_for(vectors: Path) -> None:
    report, key = report_of(vectors, "go-sev-guest-milan"), vek(folder(vectors, "go-sev-guest-milan") / "vek.der")
    assert (key.product, report.cpu) == ("Milan-B0", None)
    assert judge(report, key, products=frozenset({"Milan-B0"})).reasons == ()
    assert [reason.code for reason in judge(report, key, products=frozenset({"Milan-B12"})).reasons] == ["snp-product-refused"]


def test_certificates_of_other_reports_are_refused(vectors: Path) -> None:
    for case in CASES:
        for other, name in CASES.items():
            if other == case:
                continue
            with pytest.raises(Refused) as caught:
                judge(report_of(vectors, case), vek(folder(vectors, other) / name))
            assert "snp-chip-mismatch" in [reason.code for reason in caught.value.reasons]


@pytest.mark.parametrize("file", TRUST)
def test_amds_certificates_are_those_that_the_product_carries(vectors: Path, file: str) -> None:
    given = parse_pem_certificates((folder(vectors, "trust") / file).read_bytes(), file)
    assert {one.der for one in given} <= {one.der for one in amd_authorities()}


def test_report_inside_azures_is_accepted_under_its_certificate(vectors: Path, tmp_path: Path) -> None:
    for file, key in (("trustee-snp/hcl-report.bin", "trustee-snp/vcek.pem"), ("kinvolk/hcl-report-snp.bin", None)):
        hcl = (vectors / "azure-vtpm" / file).read_bytes()
        assert (hcl[:4], struct.unpack_from("<I", hcl, 4)) == (b"HCLA", (1,))
        inner = tmp_path / "report.bin"
        inner.write_bytes(hcl[32 : 32 + 1184])
        if key is None:
            assert parse_report(inner.read_bytes()).version == 2
            assert said(run("snp", inner, now=AT)) == ("refused", ["snp-key-missing"])
        else:
            result = run("snp", inner, "--certs", vectors / "azure-vtpm" / key, now=AT)
            assert said(result) == ("accepted", ["nonce-unknown", "revocation-unknown"])


@pytest.mark.parametrize("case", CASES)
def test_report_cut_or_prolonged_is_malformed(vectors: Path, case: str, tmp_path: Path) -> None:
    data = (folder(vectors, case) / "report.bin").read_bytes()
    for spoilt in (data[:-1], data[:0x2A0], data + b"\1", data[1:], b""):
        (tmp_path / "report.bin").write_bytes(spoilt)
        assert said(run("snp", tmp_path / "report.bin", "--certs", folder(vectors, case), now=AT)) == ("refused", ["malformed"])
    with pytest.raises(FormatError):
        parse_report(data[:-1])


def test_every_row_of_the_manifest_is_in_the_table(vectors: Path) -> None:
    files = {f"{case}/report.bin" for case in CASES} | {f"{case}/{name}" for case, name in CASES.items()}
    files |= {f"trust/{name}" for name in TRUST} | {"cmc-milan/report_invalid_signature.bin", "cmc-milan/vcek_other.pem"}
    files |= {"teekit-gcp/cert-chain.pem", "trustee-milan-vcek/test-vcek-invalid-legacy.der"}
    assert rows(vectors, FOLDER) == files | UNSUPPORTED.keys()

"""Real evidence of Azure confidential VMs: values and verdicts as the manifest states them, and the spoiling that the origins do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.vectors.manifest import rows, run, said

FOLDER: Final = "azure-vtpm"
NONCE: Final = b"challenge".hex()
SNP: Final = ("trustee-snp/hcl-report.bin", "trustee-snp/quote.bin", "trustee-snp/vcek.pem")
TDX: Final = ("trustee-tdx/hcl-report.bin", "trustee-tdx/quote.bin", "trustee-tdx/td-quote.bin")
CASES: Final = {
    "evidence-v0": ("trustee-snp/evidence-v0.json",),
    "evidence-v1": ("trustee-snp/evidence-v1.json",),
    "parts": SNP,
    "quote as JSON": (SNP[0], "trustee-snp/tpm-quote-v1.json", SNP[2]),
    "TDX evidence-v0": ("trustee-tdx/evidence-v0.json",),
    "TDX parts": TDX,
    "TDX quote as JSON": (TDX[0], "trustee-tdx/tpm-quote-v1.json", TDX[2]),
    "kinvolk, under the AK alone": ("kinvolk/quote.bin", "kinvolk/akpub.pem"),
}
OTHER: Final = {"kinvolk/hcl-report-snp.bin", "trustee-snp/tpm-quote.msg", "trustee-snp/tpm-quote.sig"}
"""Those with tests of their own below."""


def judged(vectors: Path, *names: str | Path, nonce: str = NONCE) -> dict[str, Any]:
    return run("azure-vtpm", *(vectors / FOLDER / name for name in names), "--nonce", nonce)


def spoilt(vectors: Path, tmp_path: Path, name: str, at: int, value: int | None = None) -> Path:
    """A copy with the byte at `at` set to `value`, or one more than it was."""
    data = bytearray((vectors / FOLDER / name).read_bytes())
    data[at] = (data[at] + 1) % 256 if value is None else value
    path = tmp_path / Path(name).name
    path.write_bytes(data)
    return path


def codes(result: dict[str, Any]) -> set[str]:
    return set(said(result)[1]) - {"revocation-unknown", "tdx-collateral-missing"}


def test_every_row_is_a_case(vectors: Path) -> None:
    assert rows(vectors, FOLDER) == {name for names in CASES.values() for name in names} | OTHER


@pytest.mark.parametrize("case", CASES)
def test_evidence_is_accepted_with_its_nonce_and_with_no_other(vectors: Path, case: str) -> None:
    result = judged(vectors, *CASES[case])
    assert result["verdict"] == "accepted", result["reasons"]
    assert codes(result) <= {"azure-part-missing"}
    assert result["claims"]["extra_data"] == NONCE
    other = judged(vectors, *CASES[case], nonce=b"egnellahc".hex())
    assert (other["verdict"], "nonce-mismatch" in codes(other)) == ("refused", True)


@pytest.mark.parametrize("name", ["trustee-snp/evidence-v0.json", "trustee-snp/evidence-v1.json", "trustee-tdx/evidence-v0.json"])
def test_values_are_those_of_the_sidecar(vectors: Path, name: str) -> None:
    claims = judged(vectors, name)["claims"]
    told = json.loads((vectors / FOLDER / f"{name}.expected.json").read_bytes())
    hcl, quote = told["hcl"], told["tpm_quote"]
    for claim in ("report_type", "report_data", "vm_configuration"):
        assert claims[claim] == hcl[claim]
    assert claims["pcrs"] == quote["pcrs_sha256"]
    assert (claims["clock"], claims["reset_count"]) == (quote["quote"]["clock"], quote["quote"]["reset_count"])
    assert claims["measurement" if hcl["report_type"] == "SNP" else "mr_td"].strip("0")


def test_changed_runtime_claims_are_not_those_that_hardware_signed(vectors: Path, tmp_path: Path) -> None:
    snp = judged(vectors, spoilt(vectors, tmp_path, SNP[0], 0x06E0), *SNP[1:])
    assert (snp["verdict"], "azure-claims-unbound" in codes(snp)) == ("refused", True)
    tdx = judged(vectors, spoilt(vectors, tmp_path, TDX[0], 0x0880), *TDX[1:])
    assert said(tdx) == ("refused", ["azure-claims-unbound"])
    broken = judged(vectors, spoilt(vectors, tmp_path, SNP[0], 0x0540, 0), *SNP[1:])
    assert broken["verdict"] == "refused"
    assert codes(broken) & {"azure-claims-unbound", "malformed"}


def test_changed_hardware_report_is_not_signed(vectors: Path, tmp_path: Path) -> None:
    assert judged(vectors, spoilt(vectors, tmp_path, SNP[0], 0x1A6, 0), *SNP[1:])["verdict"] == "refused"
    assert codes(judged(vectors, spoilt(vectors, tmp_path, SNP[0], 32 + 0x90), *SNP[1:])) == {"signature-invalid"}
    assert codes(judged(vectors, spoilt(vectors, tmp_path, TDX[0], 32 + 512 + 16), *TDX[1:])) == {"azure-td-mixed"}
    assert "signature-invalid" in codes(judged(vectors, *TDX[:2], spoilt(vectors, tmp_path, TDX[2], 48)))


@pytest.mark.parametrize("at, code", [(0x30, "signature-invalid"), (0x170, "signature-invalid"), (0x192, "pcr-digest-mismatch")])
@pytest.mark.parametrize("parts", [SNP, TDX], ids=["SNP", "TDX"])
def test_changed_quote_is_refused(vectors: Path, tmp_path: Path, parts: tuple[str, ...], at: int, code: str) -> None:
    assert code in codes(judged(vectors, parts[0], spoilt(vectors, tmp_path, parts[1], at), parts[2]))


def test_reversed_signature_of_kinvolks_quote_is_refused(vectors: Path, tmp_path: Path) -> None:
    data = (vectors / FOLDER / "kinvolk/quote.bin").read_bytes()
    (tmp_path / "quote.bin").write_bytes(data[:8] + data[8:264][::-1] + data[264:])
    assert "signature-invalid" in codes(judged(vectors, tmp_path / "quote.bin", "kinvolk/akpub.pem"))


def test_parts_of_other_machines_do_not_go_together(vectors: Path) -> None:
    assert codes(judged(vectors, SNP[0], TDX[1], SNP[2])) == {"signature-invalid"}
    assert codes(judged(vectors, TDX[0], SNP[1], TDX[2])) == {"signature-invalid"}
    assert codes(judged(vectors, *SNP, "kinvolk/akpub.pem")) == {"azure-claims-unbound"}
    assert codes(judged(vectors, TDX[0], TDX[1])) == {"azure-part-missing"}
    assert judged(vectors, TDX[0], TDX[1])["verdict"] == "refused"


def test_report_alone_gives_its_ak_and_is_refused_without_a_certificate(vectors: Path) -> None:
    result = judged(vectors, "kinvolk/hcl-report-snp.bin")
    assert result["verdict"] == "refused"
    assert codes(result) == {"snp-key-missing", "azure-part-missing"}
    assert result["claims"]["ak"].startswith("-----BEGIN PUBLIC KEY-----")
    assert result["claims"]["report_type"] == "SNP"


def test_quote_of_another_ak_is_read_and_not_believed(vectors: Path) -> None:
    """The origin's `tpm-quote.msg` and `.sig` are of a machine whose HCL report is not there."""
    result = judged(vectors, SNP[0], "trustee-snp/tpm-quote.msg", "trustee-snp/tpm-quote.sig", SNP[2])
    assert codes(result) == {"signature-invalid", "azure-part-missing"}


def test_bytes_behind_each_part_are_refused(vectors: Path, tmp_path: Path) -> None:
    for index, parts in ((0, SNP), (1, SNP), (0, TDX), (2, TDX)):
        names: list[str | Path] = list(parts)
        path = tmp_path / "part"
        path.write_bytes((vectors / FOLDER / parts[index]).read_bytes() + b"\1")
        names[index] = path
        assert said(judged(vectors, *names))[0] == "refused"
        assert "malformed" in codes(judged(vectors, *names))

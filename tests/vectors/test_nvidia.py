"""Every published report, evidence file and RIM of NVIDIA gives what its manifest states, from `verifier check nvidia`.

Two rows say more than their files hold. The manifest calls `hopper-nvtrust` valid against two RIMs of the origin's test mode, which are of
another driver and another VBIOS, and name other values: without RIMs it is accepted, against those it is refused. And the four switches of
`multi_switch_ls10.json` are one, whose report stands there four times: it is accepted, and counts once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.manifest import rows, run, said
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.tee.rim import parse_rim
from writ.formats.x509 import parse_pem_certificates
from writ.verdict.nvidia_roots import DEVICE_ROOTS, RIM_ROOTS
from writ.verdict.rim import VerifiedRim, verify_rim

FOLDER = "nvidia"
WITHIN = "2024-01-01T00:00:00Z"
"""All RIMs but the later driver's are of signers valid then."""
NONCE = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb"


@dataclass(frozen=True)
class Row:
    """What one report gives, and the codes of why it is refused."""

    nonce: str
    model: str
    driver: str | None
    vbios: str
    mode: str | None = None
    reasons: tuple[str, ...] = ()


GH100, LS10 = "GH100 A01 GSP BROM", "LS_10 A01 FSP BROM"
REPORTS = {
    "hopper-invalid-signature": Row(NONCE, GH100, "560.00", "96.00.A5.00.01", "PPCIE", ("nvidia-firmware-mismatch", "signature-invalid")),
    "hopper-nvtrust": Row(NONCE, GH100, "550.90.07", "96.00.9F.00.01"),
    "hopper-sample": Row("27a328247bf7935c993341cf587be6f05986ccce4fe7ba2c54100bd616a58f66", GH100, "535.86.09", "96.00.5E.00.01"),
    "hopper-sdk": Row("5bb22e377702d4e1e8215a903ba094826b9ac7f731dee1fe8102958bf2840aca", GH100, "580.159.03", "96.00.74.00.20", "SPT"),
    "hopper-trustee": Row(NONCE, GH100, "550.90.07", "96.00.9F.00.01"),
    "ls10-switch-sample": Row(NONCE, LS10, None, "96.10.55.00.01"),
    "ls10-switch-sdk": Row(NONCE, LS10, None, "96.10.55.00.01"),
}
FILES = {
    "evidence/hopper_evidence.json": (1, "e97b23a1718095a0e9e35edca810768c70a6a5a389b705e753b197912bc11576"),
    "evidence/multi_switch_ls10.json": (4, NONCE),
    "evidence/switch_evidence_ls10.json": (1, NONCE),
    "evidence-nvtrust/gpu_evidence.json": (8, "4760e30534a0621357d458b1a7936551b5dc4cd1e69718adf7ed9fb0252a537e"),
}
RIMS = {
    "1010_0200_882_96005E0001_PROD.swidtag": ("96.00.5E.00.01", 12, ""),
    "1010_0200_882_96005E0001_test_no_gpu.swidtag": ("96.00.5E.00.01", 12, ""),
    "1010_0205_862_96005E0002_PROD.swidtag": ("96.00.5E.00.02", 12, ""),
    "Driver_RIM_test_no_gpu.swidtag": ("545.00", 21, ""),
    "NV_GPU_DRIVER_GH100_550.144.03.xml": ("550.144.03", 21, ""),
    "NV_GPU_VBIOS_1010_0200_882_96005E0001_measurement_mismatch.xml": ("96.00.5E.00.01", 12, ""),
    "NV_SWITCH_BIOS_5612_0002_890_9610550001_measurement_mismatch.xml": ("96.10.55.00.01", 12, "signature-invalid"),
    "g520_0202_885_96006D0008_PROD.swidtag": ("96.00.6D.00.08", 12, ""),
    "incorrect_signature_driver_rim.xml": ("550.144.03", 21, "signature-invalid"),
}
"""Name -> version, active measurements, and why it is refused at its time."""
OTHERS = {
    "claims/hopperClaimsv3_decoded.json", "claims/switch_decoded.json", "hopper-sdk/spdm_parsed_output.json",
    "hopper-sdk/spdm_req_parsed_output.json", "hopper-trustee/chain_case2.pem", "hopper-trustee/hopperAttestationReport-claims.json",
    "ls10-switch-sdk/switch_spdm_parsed_output.json", "ls10-switch-sdk/switch_spdm_req_parsed_output.json", "rim/incorrect_rim_root.crt",
    "rim/rim_root.crt", "trust/verifier_RIM_root.pem", "trust/verifier_device_root.pem",
}  # fmt: skip


def devices(result: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result["claims"]["devices"]
    return found


def measured(expected: dict[str, Any]) -> tuple[str, dict[str, str]]:
    return expected["request_nonce"], expected["measurements"]


def test_every_row_of_the_manifest_is_tried(vectors: Path) -> None:
    reports = {f"{name}/{part}" for name in REPORTS for part in ("report.hex", "chain.pem")}
    assert rows(vectors, FOLDER) == reports | set(FILES) | {f"rim/{name}" for name in RIMS} | OTHERS


@pytest.mark.parametrize("name", REPORTS)
def test_report_gives_what_its_sidecar_and_its_manifest_state(name: str, vectors: Path) -> None:
    row, folder = REPORTS[name], vectors / FOLDER / name
    expected = json.loads((folder / "expected.json").read_bytes())["collector_check"]
    result = run("nvidia", folder / "report.hex", folder / "chain.pem", "--nonce", row.nonce)
    (device,) = devices(result)
    assert result["verdict"] == ("refused" if row.reasons else "accepted")
    assert set(row.reasons) <= set(said(result)[1])
    assert (device["nonce"], device["measurements"]) == measured(expected)
    assert len(device["measurements"]) == expected["number_of_blocks"]
    assert (device["model"], device["driver"], device["vbios"], device["mode"]) == (row.model, row.driver, row.vbios, row.mode)
    assert device["cert_chain"] == "pinned root: O=NVIDIA,CN=NVIDIA Device Identity CA"
    for other in (folder, folder / "report.hex"):
        assert devices(run("nvidia", other, "--trust", vectors / FOLDER / "trust"))[0]["measurements"] == device["measurements"]
    zeros = run("nvidia", folder, "--nonce", "00" * 32)
    assert "nonce-mismatch" in said(zeros)[1]
    assert zeros["verdict"] == "refused"


def test_firmware_is_the_one_that_the_vendor_read(vectors: Path) -> None:
    claims = json.loads((vectors / FOLDER / "hopper-trustee" / "hopperAttestationReport-claims.json").read_bytes())
    (device,) = devices(run("nvidia", vectors / FOLDER / "hopper-trustee"))
    assert device["firmware"] == claims["config"]["fwid"]
    assert (device["driver"], device["vbios"].lower()) == (claims["config"]["driver_version"], claims["config"]["vbios_version"])
    stated = json.loads((vectors / FOLDER / "claims" / "hopperClaimsv3_decoded.json").read_bytes())["GPU-0"]
    assert (device["model"], device["nonce"], device["vbios"]) == (
        stated["hwmodel"],
        stated["eat_nonce"],
        stated["x-nvidia-gpu-vbios-version"],
    )


def test_chain_of_the_root_alone_is_refused(vectors: Path) -> None:
    folder = vectors / FOLDER / "hopper-trustee"
    result = run("nvidia", folder / "report.hex", folder / "chain_case2.pem")
    assert result["verdict"] == "refused"
    assert "certificate-refused" in said(result)[1]


@pytest.mark.parametrize("name", FILES)
def test_evidence_file_gives_a_device_for_each_entry(name: str, vectors: Path) -> None:
    count, nonce = FILES[name]
    path = vectors / FOLDER / name
    result = run("nvidia", path, "--nonce", nonce)
    assert result["verdict"] == "accepted"
    expected = json.loads(path.with_name(path.name + ".expected.json").read_bytes())["collector_check"]
    found = [(device["nonce"], device["measurements"]) for device in devices(result)]
    assert found == [measured(one) for one in expected]
    assert len(found) == count
    repeated = [reason["claim"] for reason in result["reasons"] if reason["code"] == "nvidia-device-repeated"]
    assert repeated == (["devices[1]", "devices[2]", "devices[3]"] if name.endswith("multi_switch_ls10.json") else [])
    assert "nonce-mismatch" in said(run("nvidia", path, "--nonce", "00" * 32))[1]


@pytest.mark.parametrize("name", RIMS)
def test_rim_is_signed_below_the_pinned_root(name: str, vectors: Path) -> None:
    version, active, code = RIMS[name]
    rim = parse_rim((vectors / FOLDER / "rim" / name).read_bytes())
    assert (rim.version, rim.product, len(rim.measurements)) == (version, "GH100", active)
    signer = rim.document.certificates[0]
    if code:
        with pytest.raises(Refused) as caught:
            verify_rim(rim, RIM_ROOTS, at=signer.not_before, claim="rim")
        assert [reason.code for reason in caught.value.reasons] == [code]
        return
    assert isinstance(verify_rim(rim, RIM_ROOTS, at=signer.not_before, claim="rim"), VerifiedRim)
    wrong = parse_pem_certificates((vectors / FOLDER / "rim" / "incorrect_rim_root.crt").read_bytes(), "root")
    for at, roots, refusal in (
        (signer.not_after + 1, RIM_ROOTS, "certificate-expired"), (signer.not_before - 1, RIM_ROOTS, "certificate-expired"),
        (signer.not_before, wrong, "certificate-refused"),
        (signer.not_before, DEVICE_ROOTS, "certificate-refused"),
    ):  # fmt: skip
        with pytest.raises(Refused) as caught:
            verify_rim(rim, roots, at=at, claim="rim")
        assert [reason.code for reason in caught.value.reasons] == [refusal]


def test_pinned_roots_are_those_of_the_vectors(vectors: Path) -> None:
    for file, pinned in (
        ("trust/verifier_device_root.pem", DEVICE_ROOTS),
        ("trust/verifier_RIM_root.pem", RIM_ROOTS),
        ("rim/rim_root.crt", RIM_ROOTS),
    ):
        given = parse_pem_certificates((vectors / FOLDER / file).read_bytes(), file)
        assert [Digest.of(one.der) for one in given] == [Digest.of(one.der) for one in pinned]


def beside(at: Path, vectors: Path, *names: str) -> Path:
    """A directory with these RIMs alone."""
    for name in names:
        (at / name).write_bytes((vectors / FOLDER / "rim" / name).read_bytes())
    return at


def test_sample_agrees_with_the_released_vbios_and_differs_from_the_changed_one(vectors: Path, tmp_path: Path) -> None:
    """Its driver's RIM is not among the vectors, which is the one reason where the VBIOS agrees."""
    sample = vectors / FOLDER / "hopper-sample"
    whole = run("nvidia", sample, "--rims", vectors / FOLDER / "rim", "--at", WITHIN)
    codes = [reason["code"] for reason in whole["reasons"]]
    assert codes[0] == "nvidia-rim-missing"
    assert "nvidia-measurement-mismatch" not in codes
    assert whole["reasons"][0]["expected"] == "NV_GPU_DRIVER_GH100_535.86.09"
    assert (devices(whole)[0]["rims"], devices(whole)[0]["differing"]) == (["1010_0200_882_96005E0001_PROD"], [])
    changed = "NV_GPU_VBIOS_1010_0200_882_96005E0001_measurement_mismatch.xml"
    other = run("nvidia", sample, "--rims", beside(tmp_path, vectors, changed), "--at", WITHIN)
    assert said(other)[1][:2] == ["nvidia-measurement-mismatch", "nvidia-rim-missing"]
    assert devices(other)[0]["differing"] == [10]


def test_switch_differs_from_the_changed_bios_which_nobody_signed(vectors: Path, tmp_path: Path) -> None:
    changed = beside(tmp_path, vectors, "NV_SWITCH_BIOS_5612_0002_890_9610550001_measurement_mismatch.xml")
    result = run("nvidia", vectors / FOLDER / "ls10-switch-sdk", "--rims", changed, "--at", WITHIN)
    assert result["verdict"] == "refused"
    assert said(result)[1][:2] == ["nvidia-measurement-mismatch", "signature-invalid"]


def test_rims_expire_with_their_signers(vectors: Path) -> None:
    result = run("nvidia", vectors / FOLDER / "hopper-sample", "--rims", vectors / FOLDER / "rim", "--at", "2026-01-01T00:00:00Z")
    assert said(result)[1][:2] == ["certificate-expired", "nvidia-rim-missing"]


@pytest.mark.parametrize("folder, name", [("hopper-sdk", "spdm_parsed_output.json"), ("ls10-switch-sdk", "switch_spdm_parsed_output.json")])
def test_measurements_are_those_of_the_vendors_own_parser(folder: str, name: str, vectors: Path) -> None:
    (device,) = devices(run("nvidia", vectors / FOLDER / folder))
    blocks = json.loads((vectors / FOLDER / folder / name).read_bytes())["MeasurementRecord"]["MeasurementBlocks"]
    assert device["measurements"] == {index: block["DMTFSpecMeasurementValue"].removeprefix("0x") for index, block in blocks.items()}

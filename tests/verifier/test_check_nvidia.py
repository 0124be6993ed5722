"""`verifier check nvidia`: what it is given, how its files may look, and whose roots are for what."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.manifest import run, said
from tests.world.authority import Ca
from tests.world.nvidia import (
    DRIVER_RIM,
    NONCE,
    PROVISIONER,
    RIM_ROOT,
    ROOT,
    VBIOS_RIM,
    Device,
    evidence,
    pem,
)
from verifier.__main__ import main
from writ.formats.errors import Unavailable
from writ.verdict.nvidia_roots import DEVICE_ROOTS, RIM_ROOTS

NOW = 1_790_000_000
GPU = Device()


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    return made(tmp_path / "trust", {"device.der": ROOT.certificate(), "rim.der": RIM_ROOT.certificate()})


@pytest.fixture
def rims(tmp_path: Path) -> Path:
    files = {"NV_GPU_DRIVER_GH100_550.90.07.xml": DRIVER_RIM.document(), "vbios.swidtag": VBIOS_RIM.document(), "notes.txt": b"not a RIM"}
    return made(tmp_path / "rims", files)


def made(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def written(at: Path, *entries: dict[str, Any]) -> Path:
    path = at / "evidence.json"
    path.write_bytes(evidence(*entries))
    return path


def test_devices_with_rims_trust_and_nonce_are_accepted_and_shown(tmp_path: Path, trust: Path, rims: Path) -> None:
    result = run(
        "nvidia", written(tmp_path, GPU.entry(), Device(2).entry()), "--trust", trust, "--rims", rims, "--nonce", NONCE.hex(), now=NOW
    )
    assert result["verdict"] == "accepted"
    first, second = result["claims"]["devices"]
    assert first["rims"] == second["rims"] == ["NV_GPU_DRIVER_GH100_550.90.07", "vbios"]
    assert {name: first[name] for name in ("model", "arch", "driver", "vbios", "nonce", "mode", "cert_chain", "differing")} == {
        "model": "GH100 A01 GSP BROM", "arch": "HOPPER", "driver": "550.90.07", "vbios": "96.00.9F.00.01", "nonce": NONCE.hex(),
        "mode": "SPT", "cert_chain": "CN=Test Device Identity CA", "differing": [],
    }  # fmt: skip
    assert list(first["measurements"]) == [str(index) for index in range(1, 65)]
    assert {reason["code"] for reason in result["reasons"]} == {"revocation-unknown"}


def test_without_nonce_and_rims_the_result_says_what_was_not_judged(tmp_path: Path, trust: Path) -> None:
    result = run("nvidia", written(tmp_path, GPU.entry()), "--trust", trust, now=NOW)
    assert result["verdict"] == "accepted"
    assert {"nonce-unknown", "nvidia-rim-missing"} <= {reason["code"] for reason in result["reasons"]}


def test_without_trust_the_pinned_roots_are_what_counts(tmp_path: Path) -> None:
    result = run("nvidia", written(tmp_path, GPU.entry()), now=NOW)
    assert result["verdict"] == "refused"
    assert said(result)[1][0] == "certificate-refused"
    assert result["claims"]["devices"][0]["cert_chain"] is None


def test_roots_of_nvidia_stand_for_their_own_purpose_under_trust_as_well(tmp_path: Path, rims: Path) -> None:
    path = written(tmp_path, GPU.entry())
    only_rim = made(tmp_path / "a", {"rim.der": RIM_ROOT.certificate(), "pinned.der": RIM_ROOTS[0].der})
    refused = run("nvidia", path, "--trust", only_rim, "--rims", rims, now=NOW)
    assert said(refused)[1][0] == "certificate-refused"
    assert "1 roots" in refused["reasons"][0]["expected"], "the pinned RIM root is none of a device"
    only_device = made(tmp_path / "b", {"device.der": ROOT.certificate(), "pinned.der": DEVICE_ROOTS[0].der})
    refused = run("nvidia", path, "--trust", only_device, "--rims", rims, now=NOW)
    faults = [(reason["claim"], reason["expected"]) for reason in refused["reasons"] if reason["code"] == "certificate-refused"]
    one_root = f"a path to one of 1 roots, valid at {NOW}"
    assert faults == [("rims.NV_GPU_DRIVER_GH100_550.90.07.certificate", one_root), ("rims.vbios.certificate", one_root)]


def test_dated_ocsp_responses_and_crls_of_the_trust_directory_are_judged(tmp_path: Path, trust: Path) -> None:
    path = written(tmp_path, GPU.entry())
    (trust / "good.ocsp").write_bytes(PROVISIONER.ocsp(0x77, this=NOW - 60, following=NOW + 60))
    known = run("nvidia", path, "--trust", trust, now=NOW)
    assert known["verdict"] == "accepted"
    assert len([reason for reason in known["reasons"] if reason["code"] == "revocation-unknown"]) == 2
    (trust / "newer.ocsp").write_bytes(PROVISIONER.ocsp(0x77, "revoked", this=NOW - 30))
    assert "certificate-revoked" in said(run("nvidia", path, "--trust", trust, now=NOW))[1]
    before = run("nvidia", path, "--trust", trust, "--at", "2026-09-21T13:32:50Z", now=NOW)
    assert before["verdict"] == "accepted", "what was said later was not said then"


def test_report_and_chain_come_as_files_directory_or_side_by_side(tmp_path: Path, trust: Path) -> None:
    folder = made(
        tmp_path / "device", {"report.hex": GPU.report().hex().encode() + b"\n", "chain.pem": pem(GPU.chain()), "other.json": b"{}"}
    )
    for given in ((folder,), (folder / "report.hex",), (folder / "chain.pem", folder / "report.hex")):
        result = run("nvidia", *given, "--trust", trust, now=NOW)
        assert result["verdict"] == "accepted"
        assert result["claims"]["devices"][0]["model"] == "GH100 A01 GSP BROM"


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"report.hex": GPU.report().hex().encode()}, id="no chain"),
        pytest.param({"chain.pem": pem(GPU.chain())}, id="no report"),
        pytest.param({"a.hex": GPU.report(), "b.hex": GPU.report(), "chain.pem": pem(GPU.chain())}, id="two reports"),
        pytest.param({"report.hex": GPU.report() + b"\0", "chain.pem": pem(GPU.chain())}, id="trailing byte"),
        pytest.param({"report.hex": b"hello", "chain.pem": pem(GPU.chain())}, id="no report at all"),
        pytest.param({"evidence.json": b"[", "chain.pem": b""}, id="nothing of use"),
    ],
)
def test_anything_else_is_malformed_and_no_traceback(files: dict[str, bytes], tmp_path: Path) -> None:
    result = run("nvidia", made(tmp_path / "device", files), now=NOW)
    assert said(result) == ("refused", ["malformed"])


def test_broken_json_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'[{"evidence": 1}]')
    assert said(run("nvidia", tmp_path / "x.json", now=NOW)) == ("refused", ["malformed"])


def test_rim_that_is_none_is_noted_and_missed_where_it_is_needed(tmp_path: Path, trust: Path, rims: Path) -> None:
    path = written(tmp_path, GPU.entry())
    (rims / "another.xml").write_bytes(b"<!DOCTYPE a><a/>")
    noted = run("nvidia", path, "--trust", trust, "--rims", rims, now=NOW)
    assert noted["verdict"] == "accepted"
    assert ("nvidia-rim-refused", "rims.another.xml") in [(reason["code"], reason["claim"]) for reason in noted["reasons"]]
    (rims / "vbios.swidtag").write_bytes(VBIOS_RIM.document()[:-1])
    assert said(run("nvidia", path, "--trust", trust, "--rims", rims, now=NOW))[1][0] == "nvidia-rim-missing"


def test_answer_of_the_rim_service_is_a_rim_under_its_id(tmp_path: Path, trust: Path, rims: Path) -> None:
    answer = {"id": "NV_GPU_VBIOS_1010_0200_882_96009F0001", "rim": base64.b64encode(VBIOS_RIM.document()).decode(), "sha256": ""}
    (rims / "vbios.swidtag").unlink()
    (rims / "answer.json").write_text(json.dumps(answer))
    result = run("nvidia", written(tmp_path, GPU.entry()), "--trust", trust, "--rims", rims, now=NOW)
    assert result["claims"]["devices"][0]["rims"][1] == answer["id"]
    assert result["verdict"] == "accepted"


def test_directories_that_are_none_are_not_taken_for_empty_ones(tmp_path: Path) -> None:
    path = written(tmp_path, GPU.entry())
    for option in ("--rims", "--trust"):
        with pytest.raises(Unavailable):
            run("nvidia", path, option, tmp_path / "nowhere", now=NOW)


def test_command_prints_one_object_and_exits_with_the_verdict(tmp_path: Path, trust: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, GPU.entry())
    assert main(["check", "nvidia", str(path), "--trust", str(trust), "--at", "2026-09-21T00:00:00Z", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "nvidia"
    stranger = made(tmp_path / "c", {"x.der": Ca("stranger").certificate()})
    assert main(["check", "nvidia", str(path), "--trust", str(stranger), "--json"]) == 1

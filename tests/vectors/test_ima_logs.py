"""Every published IMA measurement list gives what its manifest and sidecar state, from `verifier check ima-log`."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from verifier.check import check

ZEROS = "00" * 20


@dataclass(frozen=True)
class Row:
    """What one file must give. `verdict` with, where refused, what the one reason says came."""

    entries: int
    violations: int
    templates: dict[str, int]
    verdict: str = "accepted"
    got: str = ""
    pcr10: tuple[str, str] | None = None
    """Bank and hex, where a TPM or the manifest says so beside the sidecar."""


IMA = {
    "immune/h12ssl.ascii_measurements": Row(2380, 2, {"ima-ng": 2380}),
    "immune/h12ssl.binary_measurements": Row(2365, 2, {"ima-ng": 2365}),
    "immune/h12ssl.ima.bin": Row(
        5071, 9, {"ima-ng": 5071}, pcr10=("sha256", "c770b4b7a6a8c48ef7a4fd58fed362470106b4d20d2e8c1dff21362a5fe4f902")
    ),
    # A boot_aggregate whose template hash is zero is a violation by the kernel's definition, whatever made the list.
    "keylime/ima-log-sha1": Row(2, 1, {"ima-ng": 2}),
    "keylime/ima-log-sha256": Row(2, 0, {"ima-ng": 2}),
    "keylime/ima-log-sha512": Row(2, 1, {"ima-ng": 2}),
    "keylime/ima-log-unknown": Row(1, 1, {"ima-ng": 1}, "refused", "unknown"),
    "keylime/measurements.ascii": Row(3, 0, {"ima-sig": 3}),
    "rust-keylime/ascii_runtime_measurements": Row(826, 0, {"ima-ng": 826}),
    # The origin's text ends one byte short of the entry it announces: what it extends is known, whole it is not. It also is of PCR 13.
    "tpm2-tss/sml-ima-ng-sha1-invalidated.bin": Row(1, 1, {"ima-ng": 1}, "refused", "one cut off after 10 bytes"),
    # The origin's text carries a newline behind the last entry, 0x0a: also the first byte of the next one.
    "tpm2-tss/sml-ima-ng-sha1.bin": Row(6, 0, {"ima-ng": 6}, "refused", "1 bytes"),
}
DIRECT = ("sha256", "5094c166e35cd9f0bfe5a35f130493d1bc58227f15fc94e3bc5f49103b93f876")
UKI = ("sha256", "4f00907769d3e5a857f101da78791735d642036ebc9e6e399860d23dc107f01a")
BOOTS = {
    "direct_kernel/ascii_runtime_measurements": Row(238, 0, {"ima-ng": 238}, pcr10=DIRECT),
    "direct_kernel/binary_runtime_measurements": Row(238, 0, {"ima-ng": 238}, pcr10=DIRECT),
    "uki_esp/ascii_runtime_measurements": Row(240, 0, {"ima-ng": 240}, pcr10=UKI),
    "uki_esp/binary_runtime_measurements": Row(240, 0, {"ima-ng": 240}, pcr10=UKI),
}
UNSUPPORTED: dict[str, str] = {}
"""Manifest row -> why it cannot be supported."""


def checked(file: Path) -> dict[str, Any]:
    return check("ima-log", argparse.Namespace(file=file, at=None, nonce=None, trust=None), now=0)


def assert_gives(file: Path, row: Row) -> None:
    result = checked(file)
    claims = result["claims"]
    assert (claims["entries"], claims["violations"], claims["templates"]) == (row.entries, row.violations, row.templates)
    assert result["verdict"] == row.verdict, result["reasons"]
    assert [(reason["code"], reason["got"]) for reason in result["reasons"]] == ([("malformed", row.got)] if row.got else [])
    if row.pcr10 is not None:
        assert claims["pcr10"][row.pcr10[0]] == row.pcr10[1]


@pytest.mark.parametrize("name", IMA)
def test_list_gives_what_is_stated(vectors: Path, name: str) -> None:
    file = vectors / "ima" / name
    assert_gives(file, IMA[name])

    sidecar = file.with_name(file.name + ".expected.json")
    if sidecar.exists():
        told, claims = json.loads(sidecar.read_text()), checked(file)["claims"]
        replay = told["collector_replay"]
        assert claims["pcr10"]["sha1"] == replay["pcr10_sha1"]
        assert claims["pcr10"]["sha256"] == replay["pcr10_sha256_template_hash"]
        assert all(claims[name] == replay[name] for name in ("entries", "violations", "templates"))
        assert told.get("pcr10_reported_by_tpm", {}).items() <= claims["pcr10"].items()


@pytest.mark.parametrize("name", BOOTS)
def test_list_of_a_boot_is_the_one_its_tpm_holds(vectors: Path, name: str) -> None:
    file = vectors / "measured-boot" / name
    assert_gives(file, BOOTS[name])

    held = re.search(r"^  sha256:\n(?:    .*\n)*?    10: 0x([0-9A-F]{64})", (file.parent / "pcrread_after.yaml").read_text(), re.MULTILINE)
    assert held is not None
    assert checked(file)["claims"]["pcr10"]["sha256"] == held[1].lower()


def test_every_row_of_the_manifest_is_in_the_table(vectors: Path) -> None:
    rows = re.findall(r"^\| ([^ |]+/[^ |]+) \|", (vectors / "ima" / "MANIFEST.md").read_text(), re.MULTILINE)
    boots = {str(file.relative_to(vectors / "measured-boot")) for file in (vectors / "measured-boot").glob("*/*_runtime_measurements")}

    assert rows
    assert set(rows) - IMA.keys() - UNSUPPORTED.keys() == set()
    assert boots == BOOTS.keys()

"""Every published CoRIM and CoMID is read or refused as its manifest states, from `verifier check corim`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.vectors.manifest import rows, run

FOLDER: Final = "corim"
CORIM: Final = {
    "trustee/unsigned-example-corim.cbor": "((0, 1),)",
    "veraison/corim__testcases__corim-1.cbor": "((0, 1),)",
    "veraison/corim__testcases__corim-2.cbor": "((0, 3), (1, 1))",
    "veraison/corim__testcases__corim-roles.cbor": "((0, 1),)",
    "veraison/corim__testcases__signed-example-corim.cbor": "((0, 1),)",
    "veraison/corim__testcases__unsigned-example-corim.cbor": "((0, 1),)",
    "veraison/comid__testcases__comid-1.cbor": "((0, 1),)",
    "veraison/comid__testcases__comid-1a.cbor": "((0, 1),)",
    "veraison/comid__testcases__comid-2.cbor": "((1, 1),)",
    "veraison/comid__testcases__comid-2b.cbor": "((0, 3), (1, 1))",
    "veraison/comid__testcases__comid-3.cbor": "((0, 1),)",
    "veraison/comid__testcases__comid-4.cbor": "((0, 1),)",
    "veraison/comid__testcases__comid-5.cbor": "((0, 1), (2, 4), (3, 4))",
    "veraison/comid__testcases__comid-6.cbor": "((0, 1),)",
    "veraison/comid__testcases__comid-7.cbor": "((0, 1),)",
    "veraison/comid__testcases__comid-cend.cbor": "((10, 1),)",
    "veraison/comid__testcases__comid-domain-dep.cbor": "((4, 5),)",
    "veraison/comid__testcases__comid-domain-mem.cbor": "((5, 3),)",
    "veraison/comid__testcases__comid-flags.cbor": "((1, 1),)",
    "veraison/comid__testcases__comid-opaque-instance-id.cbor": "((0, 1),)",
    "veraison/comid__testcases__comid-raw-value.cbor": "((0, 3),)",
    "veraison/profiles__cca__testcases__cca-platform-valid.cbor": "((0, 1), (3, 1))",
    "veraison/profiles__cca__testcases__cca-realm-valid.cbor": "((0, 1),)",
    "veraison/profiles__cca__testcases__no-profile.cbor": "((0, 1),)",
    "veraison/profiles__psa__testcases__no-profile.cbor": "((0, 1),)",
    "veraison/profiles__psa__testcases__psa-valid.cbor": "((0, 1), (3, 1))",
    # must be rejected, says their manifest
    "veraison/profiles__cca__testcases__cca-platform-invalid-impl-id.cbor": "refused: CoMID.class-id",
    "veraison/profiles__cca__testcases__cca-realm-invalid-missing-rim.cbor": "refused: CoMID.measurements",
    "veraison/profiles__cca__testcases__cca-realm-invalid-rim-size.cbor": "refused: CoMID.class-id",
    "veraison/profiles__psa__testcases__psa-invalid-attest-key.cbor": "refused: CoMID.attest-key-triples",
    "veraison/profiles__psa__testcases__psa-invalid-impl-id.cbor": "refused: CoMID.class-id",
}
"""Manifest row -> the kinds of triples of each CoMID with their counts, or which part is refused."""
COEV: Final = "concise evidence (CoEV): what a machine shows, no reference values"
COSERV: Final = "a CoServ query or discovery document: it asks for reference values and holds none"
UNSUPPORTED: Final = {
    "hirs/LVFS_sbom.coswid": "a bare CoSWID: read within a CoRIM, by itself no reference values of ours",
    "veraison/coserv__testvectors__sample_key.cbor": "a COSE_Key",
    **{f"veraison/coev__testcases__ce-{name}.cbor": COEV for name in ("coswid", "evidence", "identity")},
    **{
        f"veraison/coserv__testvectors__{name}.cbor": COSERV
        for name in (
            "discovery-single-capability", "discovery-unsigned", "example-class-selector", "example-class-selector-noindent",
            "example-group-selector", "example-instance-selector", "rv-class-simple", "rv-class-stateful",
        )
    },
}  # fmt: skip
"""Manifest row -> why it cannot be supported."""


def outcome(file: Path) -> str:
    result = run("corim", file)
    if result["verdict"] == "refused":
        return f"refused: {result['reasons'][0]['claim']}"
    return "; ".join(str(tuple((int(kind), count) for kind, count in comid["triples"].items())) for comid in result["claims"]["comids"])


@pytest.mark.parametrize("file, said", sorted(CORIM.items()))
def test_published_corim_is_read_or_refused_as_its_manifest_says(vectors: Path, file: str, said: str) -> None:
    assert outcome(vectors / FOLDER / file) == said


@pytest.mark.parametrize("file", sorted(UNSUPPORTED))
def test_document_of_another_format_is_refused_and_no_traceback(vectors: Path, file: str) -> None:
    assert outcome(vectors / FOLDER / file).startswith("refused: ")


def test_signed_corim_says_that_its_signature_was_not_judged(vectors: Path) -> None:
    result = run("corim", vectors / FOLDER / "veraison/corim__testcases__signed-example-corim.cbor")
    assert (result["claims"]["signed"], [reason["code"] for reason in result["reasons"]]) == (True, ["trust-root-unknown"])


def test_every_row_of_the_manifest_is_in_the_table(vectors: Path) -> None:
    assert rows(vectors, FOLDER) == {*CORIM, *UNSUPPORTED}
    assert all(UNSUPPORTED.values())

"""Every published quote of TDX and SGX, and all published collateral, give what their manifest states, from `verifier check tdx`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.manifest import rows, run
from writ.formats.tee.tdx_collateral import parse_collateral

FOLDER = "tdx"
AT_TCB = "2025-07-19T10:01:18Z"
"""The earliest nextUpdate among the parts of sgx_quote_collateral.json."""


@dataclass(frozen=True)
class Row:
    """What one quote gives at a time with some collateral; `codes` are those of its reasons that refuse, `status` of the merged TCB."""

    at: str
    collateral: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    status: str | None = None
    advisories: tuple[str, ...] | None = None


GO = "go-tdx-guest-collateral"
SPR = "go-tdx-guest-v4/tdx_prod_quote_SPR_E4.dat"
OUT_OF_DATE = ("INTEL-SA-00960", "INTEL-SA-00982", "INTEL-SA-00986")
QUOTES = {
    "automata-tdx/tdx_quote_v4.bin": Row(
        "2025-06-05T03:45:00Z", ("automata-tdx/qe_td.json", "automata-tdx/tcbinfov3_00806f050000.json", "automata-tdx/tdxtcbeval.json"),
        status="OutOfDate", advisories=OUT_OF_DATE,
    ),
    "dcap-qvl-sgx/sgx_quote": Row(
        AT_TCB, ("dcap-qvl-sgx/sgx_quote_collateral.json",), status="ConfigurationAndSWHardeningNeeded",
        advisories=("INTEL-SA-00289", "INTEL-SA-00615"),
    ),
    "dcap-qvl-tdx/quote-from-tappd.bin": Row("2025-07-01T00:00:00Z"),
    "dcap-qvl-tdx/tdx_quote": Row("2025-07-01T00:00:00Z", ("dcap-qvl-tdx/tdx_quote_collateral.json",), status="UpToDate", advisories=()),
    SPR: Row("2023-07-01T01:00:00Z"),
    "go-tdx-guest-v5/quote_v5_sample.dat": Row(
        "2026-02-03T01:00:00Z", (f"{GO}/sample_tcbinfo_response_v5",), status="UpToDate", advisories=()
    ),
    "teekit/sgx-tlsn-quotedev.dat": Row("2025-06-01T00:00:00Z"),
    "teekit/tdx-v4-edgeless.dat": Row("2025-06-01T00:00:00Z"),
    "trustee/tdx_quote_5.dat": Row("2025-06-01T00:00:00Z"),
    # Intel's own samples lead to a root of their own.
    "intel-qvl-sample/quote.dat": Row("2022-06-01T00:00:00Z", ("intel-qvl-sample",), ("certificate-refused",)),
    "intel-qvl-sample/tdx/quote.dat": Row("2022-06-01T00:00:00Z", ("intel-qvl-sample/tdx",), ("certificate-refused",)),
}  # fmt: skip
AZURE = ("azure-vtpm/trustee-tdx/td-quote.bin", "azure-vtpm/trustee-tdx/evidence-v0.json")
"""The quotes within: by itself, and in the evidence, where it is the same kind of TD."""
NO_INPUT = {
    f"{GO}/report.dat": "a TDREPORT, which no key signs: only the machine that made it can tell, so it is refused as no quote",
    "trust/intel_sgx_root_ca.pem": "the root that the product pins",
}
NOTES = {
    "nonce-unknown", "revocation-unknown", "tdx-collateral-missing", "tdx-tcb-refused", "tdx-tee-refused", "tdx-attributes-refused",
    "tdx-service-td-refused", "malformed", "tdx-collateral-expired",
}  # fmt: skip


def check(vectors: Path, file: Path, row: Row, *more: str | Path) -> dict[str, Any]:
    given = [part for name in row.collateral for part in ("--collateral", vectors / FOLDER / name)]
    return run("tdx", file, "--at", row.at, *given, *more)


def codes(result: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in result["reasons"]]


@pytest.mark.parametrize("name", sorted(QUOTES))
def test_quote_gives_what_its_manifest_says(vectors: Path, name: str) -> None:
    row, file = QUOTES[name], vectors / FOLDER / name

    result = check(vectors, file, row)

    claims = result["claims"]
    assert result["verdict"] == ("refused" if row.codes else "accepted"), result["reasons"]
    assert codes(result)[: len(row.codes)] == list(row.codes)
    assert set(codes(result)) - set(row.codes) <= NOTES
    assert claims["tcb_status"] == row.status
    assert claims["advisories"] == (None if row.advisories is None else list(row.advisories))
    sidecar = file.with_name(file.name + ".expected.json")
    if sidecar.exists():
        fields = json.loads(sidecar.read_text())["fields"]
        assert all(fields[key] == claims[key] for key in fields.keys() & claims.keys())
        assert {*fields} - {*claims} <= {
            "signature_data_len", "bytes_after_signature_data", "outer_certification_data_type", "qe_certification_data_type",
            "root_spki_sha256", "root_cert_sha256", "pck",
        }  # fmt: skip
        assert claims["fmspc"] == fields["pck"]["fmspc"]
        assert claims["chain"].startswith("pinned root: ")


def test_collateral_that_does_not_reach_down_to_the_platform_refuses_it_and_says_so(vectors: Path) -> None:
    row = Row("2023-07-01T01:00:00Z", tuple(f"{GO}/{name}" for name in (
        "pckcrl", "rootcrl.der", "sample_tcbInfo_response", "sample_qeIdentity_response")))  # fmt: skip
    result = check(vectors, vectors / FOLDER / SPR, row)
    assert (result["verdict"], codes(result)[0]) == ("refused", "tdx-tcb-unknown")
    assert {part["kind"] for part in result["claims"]["collateral"]} == {"crl", "tcb_info", "qe_identity"}
    later = check(vectors, vectors / FOLDER / SPR, Row("2023-07-20T01:00:00Z", row.collateral))
    assert {"tdx-collateral-expired", "revocation-unknown"} <= set(codes(later))
    assert codes(check(vectors, vectors / FOLDER / SPR, Row("2053-07-01T01:00:00Z", row.collateral)))[0] == "certificate-expired"


def test_quote_that_is_tampered_with_is_refused_at_each_place_that_its_origin_names(vectors: Path, tmp_path: Path) -> None:
    file = vectors / FOLDER / SPR
    places = json.loads(file.with_name(file.name + ".expected.json").read_text())["tamper_offsets"]
    assert len(places) == 8
    for place, value in places.items():
        spoilt = bytearray(file.read_bytes())
        spoilt[int(place, 16)] = int(value, 16)
        (tmp_path / "quote").write_bytes(spoilt)
        assert check(vectors, tmp_path / "quote", QUOTES[SPR])["verdict"] == "refused", place


def test_sample_of_intel_leads_to_its_own_root_and_no_other(vectors: Path, tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_bytes((vectors / FOLDER / "intel-qvl-sample/trustedRootCaCert.pem").read_bytes())
    (tmp_path / "root.crl.der").write_bytes((vectors / FOLDER / "intel-qvl-sample/rootCaCrl.der").read_bytes())
    row = QUOTES["intel-qvl-sample/quote.dat"]
    result = check(
        vectors, vectors / FOLDER / "intel-qvl-sample/quote.dat", Row("2022-06-01T00:00:00Z", row.collateral), "--trust", tmp_path
    )
    assert result["verdict"] == "accepted", result["reasons"]
    assert result["claims"]["tcb_status"] == "UpToDate"
    assert {"tdx-collateral-expired", "revocation-unknown"} <= set(codes(result))  # by the age that the default policy allows: noted
    (tmp_path / "root.pem").write_bytes((vectors / FOLDER / "intel-qvl-sample/tdx/trustedRootCaCert.pem").read_bytes())
    result = check(vectors, vectors / FOLDER / "intel-qvl-sample/tdx/quote.dat", Row("2021-09-01T00:00:00Z", ("intel-qvl-sample/tdx",)),
                   "--trust", tmp_path)  # fmt: skip
    # random bytes stand in its report, under good signatures
    assert set(codes(result)) <= NOTES | {"tdx-qe-refused", "tdx-module-refused", "tdx-tcb-unknown"}


@pytest.mark.parametrize("name", AZURE)
def test_quote_within_azures_evidence_is_one(vectors: Path, tmp_path: Path, name: str) -> None:
    data = (vectors / name).read_bytes()
    quote = bytes(json.loads(data)["td_quote"]) if name.endswith(".json") else data
    (tmp_path / "quote").write_bytes(quote)
    result = check(vectors, tmp_path / "quote", Row("2025-06-01T00:00:00Z"))
    assert result["verdict"] == "accepted", result["reasons"]
    assert (result["claims"]["tee_type"], result["claims"]["version"]) == ("TDX", 4)


def test_every_row_of_the_manifest_is_in_a_table_or_is_collateral_that_reads(vectors: Path) -> None:
    read = {name for row in QUOTES.values() for name in row.collateral if (vectors / FOLDER / name).is_file()}
    rest = rows(vectors, FOLDER) - {*QUOTES, *NO_INPUT, *read}
    for name in rest:
        found = parse_collateral((vectors / FOLDER / name).read_bytes(), name)
        assert any((found.certificates, found.crls, found.tcb_infos, found.identities)), name
    assert all(re.match(r"(go-tdx-guest-collateral|intel-qvl-sample|trustee)/", name) for name in rest)
    result = run("tdx", vectors / FOLDER / f"{GO}/report.dat")
    assert (result["verdict"], codes(result)) == ("refused", ["malformed"])

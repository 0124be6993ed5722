"""`verifier check tdx`: claims as far as a quote can be read, what is not given is noted, and what is given is judged."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.manifest import run, said
from tests.world.tdx import AT, DAY, ENCLAVE, TDX_15, TDX_15_MIGRATED, Platform, raw_signature
from tests.world.uefi_logs import encode_log
from writ.formats.eventlog.uefi import EV_IPL, EV_SEPARATOR, LogKind, UefiEvent, UefiLog
from writ.formats.x509 import parse_certificate, to_pem
from writ.verdict.registers import replay_rtmrs

ONE = Platform()
SGX = ONE.of_sgx()
LOG = UefiLog(
    LogKind.CCEL,
    (("sha384", 48),),
    tuple(
        UefiEvent(place, register, kind, (("sha384", hashlib.sha384(data).digest()),), data)
        for place, (register, kind, data) in enumerate([(1, EV_SEPARATOR, bytes(4)), (2, EV_SEPARATOR, bytes(4)), (3, EV_IPL, b"cmdline")])
    ),
    None,
    0,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the root of the tests in `trust`, and the collateral of the platform in `collateral.json`."""
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "root.pem").write_text(to_pem(parse_certificate(ONE.root.certificate())))
    (tmp_path / "collateral.json").write_text(json.dumps(ONE.collateral_json()))
    return tmp_path


def check(folder: Path, quote: bytes, *more: str | Path, collateral: str | None = "collateral.json", trust: bool = True) -> dict[str, Any]:
    (folder / "quote").write_bytes(quote)
    given: list[str | Path] = [] if collateral is None else ["--collateral", folder / collateral]
    given += ["--trust", folder / "trust"] if trust else []
    return run("tdx", folder / "quote", *given, *more, now=AT)


def test_claims_are_those_that_the_design_names(folder: Path) -> None:
    result = check(folder, ONE.quote(5, TDX_15), "--nonce", b"challenge".hex())

    assert said(result) == ("accepted", [])
    claims = result["claims"]
    assert (claims["version"], claims["tee_type"], claims["body_type"], claims["debug"]) == (5, "TDX", 3, False)
    assert (claims["mr_td"], claims["mr_seam"], claims["td_attributes"]) == ("d7" * 48, "5e" * 48, "0000001000000000")
    assert [claims[f"rtmr{number}"] for number in range(4)] == ["01" * 48, "02" * 48, "03" * 48, "00" * 48]
    assert (claims["report_data"], claims["mr_service_td"]) == (ONE.report_data.hex(), "00" * 48)
    assert (claims["tcb_status"], claims["advisories"], claims["tcb_evaluation_data_number"]) == ("UpToDate", [], 17)
    assert (claims["fmspc"], claims["tcb_date"], claims["chain"]) == ("00806f050000", "2026-03-13T00:00:00Z", "CN=Intel SGX Root CA")
    assert {part["kind"]: part["issued"] for part in claims["collateral"]} == dict.fromkeys(
        ("crl", "qe_identity", "tcb_info"), "2026-09-20T14:13:20Z"
    )
    assert "td_id" not in claims
    assert check(folder, ONE.quote(5, TDX_15_MIGRATED))["claims"]["td_id"] == bytes(range(32)).hex()


def test_enclave_has_claims_of_its_own_and_none_of_a_td(folder: Path) -> None:
    (folder / "sgx.json").write_text(json.dumps(SGX.collateral_json("SGX")))
    result = check(folder, SGX.quote(3, ENCLAVE), collateral="sgx.json")
    claims = result["claims"]
    assert said(result) == ("accepted", ["nonce-unknown", "tdx-tee-refused"])
    assert (claims["tee_type"], claims["mr_enclave"], claims["isv_svn"], claims["mr_td"], claims["rtmr0"]) == (
        "SGX",
        "ee" * 32,
        4,
        None,
        None,
    )


def test_what_is_not_given_is_noted_and_not_judged(folder: Path) -> None:
    result = check(folder, ONE.quote(), collateral=None)
    # the PCK CA came with the quote
    assert said(result) == ("accepted", ["nonce-unknown", *["revocation-unknown"] * 2, *["tdx-collateral-missing"] * 2])
    assert (result["claims"]["tcb_status"], result["claims"]["advisories"]) == (None, None)


def test_status_that_is_not_up_to_date_is_noted_and_refused_where_others_are_named(folder: Path) -> None:
    host = replace(ONE, pce_svn=10)
    result = check(folder, host.quote())
    assert said(result) == ("accepted", ["nonce-unknown", "tdx-tcb-refused"])
    assert (result["claims"]["tcb_status"], result["claims"]["advisories"]) == ("OutOfDate", ["INTEL-SA-00001", "INTEL-SA-00002"])
    assert said(check(folder, host.quote(), "--accept", "UpToDate", "--accept", "SWHardeningNeeded"))[0] == "refused"
    assert said(check(folder, host.quote(), "--accept", "OutOfDate")) == ("accepted", ["nonce-unknown"])
    assert said(check(folder, host.quote(), "--accept", "Fine")) == ("refused", ["malformed"])


def test_revoked_is_refused(folder: Path) -> None:
    host = replace(ONE, platform_levels=((ONE.components, 11, (6, 0, 5), "Revoked", ()),))
    (folder / "collateral.json").write_text(json.dumps(host.collateral_json()))
    for more in ([], ["--accept", "Revoked"]):
        result = check(folder, host.quote(), *more)
        assert said(result)[0] == "refused"
        assert result["claims"]["tcb_status"] == "Revoked"


def test_text_of_a_quote_is_a_quote(folder: Path) -> None:
    quote = ONE.quote()
    lines = base64.encodebytes(quote)
    for text in (
        quote.hex().encode(), quote.hex("\n", 32).upper().encode() + b"\r\n", b"0x" + quote.hex().encode(), lines,
        lines.replace(b"\n", b"\r\n"),
        base64.urlsafe_b64encode(quote).rstrip(b"="), base64.b64encode(quote),
    ):  # fmt: skip
        assert said(check(folder, text)) == ("accepted", ["nonce-unknown"])
    assert said(check(folder, b"A quote, they said.")) == ("refused", ["malformed"])


def test_collateral_comes_as_files_as_well(folder: Path) -> None:
    (folder / "parts").mkdir()
    crls = ONE.crls()
    for name, data in {
        "pck.crl": crls[0], "root.crl": crls[1], "notes.txt": b"fetched on Monday", "other.json": b"{}",
        "tcb.json": b'{"tcbInfo":%s,"signature":"%s"}' % (ONE.tcb_info(), raw_signature("tdx/tcb signing", ONE.tcb_info()).hex().encode()),
        "qe.json": b'{"enclaveIdentity":%s,"signature":"%s"}'
        % (ONE.identity(), raw_signature("tdx/tcb signing", ONE.identity()).hex().encode()),
        "signer.pem": to_pem(parse_certificate(ONE.tcb_signer())).encode(),
    }.items():  # fmt: skip
        (folder / "parts" / name).write_bytes(data)
    (folder / "parts" / "deeper").mkdir()
    assert said(check(folder, ONE.quote(), collateral="parts")) == ("accepted", ["nonce-unknown"])
    one_by_one = [
        part for name in ("pck.crl", "root.crl", "tcb.json", "qe.json", "signer.pem") for part in ("--collateral", folder / "parts" / name)
    ]
    assert said(check(folder, ONE.quote(), *one_by_one, collateral=None)) == ("accepted", ["nonce-unknown"])
    assert said(check(folder, ONE.quote(), collateral="parts/notes.txt")) == ("refused", ["malformed"])


def test_revocation_has_to_be_known_where_a_crl_is_given(folder: Path) -> None:
    (folder / "collateral.json").write_text(json.dumps(ONE.collateral_json(crls=ONE.crls(this=AT - 31 * DAY))))
    result = check(folder, ONE.quote())
    assert said(result)[0] == "refused"
    assert {reason["code"] for reason in result["reasons"]} == {"revocation-unknown", "nonce-unknown"}
    assert result["claims"]["tcb_status"] == "UpToDate"


def test_pinned_root_holds_where_no_other_is_given(folder: Path) -> None:
    result = check(folder, ONE.quote(), trust=False)
    assert (result["verdict"], result["reasons"][0]["code"]) == ("refused", "certificate-refused")
    assert result["claims"]["mr_td"] == "d7" * 48


def test_nonce_is_the_report_data_and_at_most_64_bytes(folder: Path) -> None:
    assert said(check(folder, ONE.quote(), "--nonce", ONE.report_data.hex())) == ("accepted", [])
    assert said(check(folder, ONE.quote(), "--nonce", b"challengf".hex())) == ("refused", ["nonce-mismatch"])
    assert said(check(folder, ONE.quote(), "--nonce", "00" * 65)) == ("refused", ["malformed"])


def test_bytes_behind_a_quote_are_told(folder: Path) -> None:
    assert said(check(folder, ONE.quote() + bytes(900))) == ("accepted", ["nonce-unknown"])
    result = check(folder, ONE.quote() + b"\n more")
    assert said(result) == ("accepted", ["malformed", "nonce-unknown"])
    assert result["reasons"][0]["got"] == "6 bytes that nothing signs"


def test_quote_that_is_cut_still_shows_its_report(folder: Path) -> None:
    result = check(folder, ONE.quote()[:900])
    assert said(result) == ("refused", ["malformed"])
    assert (result["claims"]["mr_td"], result["claims"]["tcb_status"]) == ("d7" * 48, None)
    assert check(folder, ONE.quote()[:200])["claims"] == {}


def test_log_is_judged_by_the_registers_of_the_quote(folder: Path) -> None:
    (folder / "ccel").write_bytes(encode_log(LOG))
    host = replace(ONE, rtmrs=replay_rtmrs(LOG))
    assert said(check(folder, host.quote(), "--log", folder / "ccel")) == ("accepted", ["nonce-unknown"])
    other = replace(host, rtmrs=(b"\x09" * 48, *host.rtmrs[1:]))
    result = check(folder, other.quote(), "--log", folder / "ccel")
    assert [(reason["code"], reason["claim"]) for reason in result["reasons"]] == [
        ("uefi-log-mismatch", "uefi_log.sha384.rtmr0"), ("nonce-unknown", "report_data"),
    ]  # fmt: skip
    assert said(check(folder, SGX.quote(3, ENCLAVE), "--log", folder / "ccel"))[0] == "refused"

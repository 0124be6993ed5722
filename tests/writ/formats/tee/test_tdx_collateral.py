"""Intel's collateral is read in each form in which the service and its libraries give it, and what is signed keeps its bytes."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote as percent

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.tdx import AT, DAY, Platform, raw_signature
from writ.formats.errors import FormatError
from writ.formats.tee.tdx_collateral import (
    MAX_COLLATERAL,
    MOST_PARTS,
    Collateral,
    TcbStatus,
    parse_collateral,
    parse_identity,
    parse_tcb_info,
)
from writ.formats.x509 import parse_certificate, to_pem

ONE = Platform()
WHOLE = ONE.collateral()


def as_file(value: object) -> Collateral:
    return parse_collateral(json.dumps(value).encode())


def response(name: str, signed: bytes) -> bytes:
    return b'{"%s":%s,"signature":"%s"}' % (name.encode(), signed, raw_signature("tdx/tcb signing", signed).hex().encode())


def test_one_object_holds_everything() -> None:
    assert len(WHOLE.certificates) == 3
    assert {crl.issuer for crl in WHOLE.crls} == {parse_certificate(ca.certificate()).subject for ca in (ONE.pck_ca, ONE.root)}
    (info,), (identity,) = WHOLE.tcb_infos, WHOLE.identities
    assert (info.id, info.version, info.issue_date, info.next_update) == ("TDX", 3, AT - DAY, AT + 29 * DAY)
    assert (info.fmspc, info.pce_id, info.evaluation_number) == (ONE.fmspc, ONE.pce_id, 17)
    assert [(level.status, level.pce_svn, level.advisories) for level in info.levels] == [
        (TcbStatus.UP_TO_DATE, 11, ()), (TcbStatus.OUT_OF_DATE, 10, ("INTEL-SA-00002", "INTEL-SA-00001")),
    ]  # fmt: skip
    assert (info.levels[0].sgx, info.levels[0].tdx) == (ONE.components, (6, 0, 5) + (0,) * 13)
    assert [(module.major, [level.isv_svn for level in module.levels]) for module in info.modules] == [(1, [6, 4])]
    assert info.module is not None
    assert (info.module.major, info.module.mr_signer, info.module.mask, info.module.levels) == (None, bytes(48), b"\xff" * 8, ())
    assert (identity.id, identity.mr_signer, identity.isv_prod_id) == ("TD_QE", ONE.qe_signer, 2)
    assert (identity.attributes, identity.attributes_mask) == (b"\x11" + bytes(15), bytes.fromhex("fbffffffffffffff0000000000000000"))
    assert (info.signed, identity.signed) == (ONE.tcb_info(), ONE.identity())


def test_parts_by_themselves_are_the_same_as_all_in_one() -> None:
    crls = ONE.crls()
    chains = [to_pem(parse_certificate(one)) for one in (ONE.pck_ca.certificate(), ONE.root.certificate(), ONE.tcb_signer())]
    files = [
        crls[0], crls[1].hex().encode(), response("tcbInfo", ONE.tcb_info()), response("enclaveIdentity", ONE.identity()),
        "".join(chains[:2]).encode(), percent(chains[2]).encode(), parse_certificate(ONE.root.certificate()).der,
    ]  # fmt: skip

    joined = Collateral.of(map(parse_collateral, files))

    for kind in ("certificates", "tcb_infos", "identities"):
        assert set(getattr(joined, kind)) == set(getattr(WHOLE, kind)), kind
    assert {crl.issuer for crl in joined.crls} == {crl.issuer for crl in WHOLE.crls}


def test_response_within_the_object_and_bytes_as_numbers_are_read_too() -> None:
    whole = ONE.collateral_json()
    intel = whole | {"version": 3, "tee_type": 0x81, "tcb_info": response("tcbInfo", ONE.tcb_info()).decode() + "\0"}
    intel |= {"qe_identity": response("enclaveIdentity", ONE.identity()).decode()}
    del intel["tcb_info_signature"], intel["qe_identity_signature"]
    numbers = whole | {key: list(bytes.fromhex(whole[key])) for key in ("root_ca_crl", "pck_crl", "tcb_info_signature")}
    for other in (intel, numbers):
        found = as_file(other)
        assert (found.tcb_infos, found.identities) == (WHOLE.tcb_infos, WHOLE.identities)
        assert len(found.crls) == 2


def test_what_is_signed_is_the_bytes_as_they_stand() -> None:
    odd = b'{ "id":"TDX" ,' + ONE.tcb_info().split(b'"TDX", ', 1)[1]
    assert parse_collateral(response("tcbInfo", odd)).tcb_infos[0].signed == odd
    assert parse_collateral(b'\n{"tcbInfo" : ' + odd + b' , "signature":"' + b"00" * 64 + b'"}\n').tcb_infos[0].signed == odd


def test_tcb_info_of_version_2_has_its_components_by_name() -> None:
    level = {f"sgxtcbcomp{place:02}svn": place for place in range(1, 17)} | {"pcesvn": 7}
    info: dict[str, Any] = json.loads(ONE.tcb_info("SGX"))
    del info["id"]
    info |= {"version": 2, "tcbLevels": [{"tcb": level, "tcbDate": "2019-09-01T00:00:00Z", "tcbStatus": "UpToDate"}]}
    found = parse_tcb_info(json.dumps(info).encode(), bytes(64))
    assert (found.id, found.version, found.levels[0].sgx, found.levels[0].tdx) == ("SGX", 2, tuple(range(1, 17)), ())


def test_keys_that_the_service_adds_are_passed_over() -> None:
    info = json.loads(ONE.tcb_info()) | {"later": [{"a": 1}]}
    assert parse_tcb_info(json.dumps(info).encode(), bytes(64)).levels == WHOLE.tcb_infos[0].levels
    assert parse_collateral(b'{"tcbEvaluationDataNumbers":{"id":"TDX"},"signature":"00"}') == Collateral()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1}, {"version": 4}, {"id": "TDQ"}, {"tcbType": 1}, {"issueDate": "2026-09-20"}, {"nextUpdate": "2026-02-30T00:00:00Z"},
        {"fmspc": "00806F0500"}, {"fmspc": "00806F05000g"}, {"pceId": 0}, {"tcbEvaluationDataNumber": -1}, {"tcbLevels": []},
        {"tcbLevels": [{}]}, {"tdxModule": None}, {"tdxModuleIdentities": [{"id": "TDX_1"}]}, {"tcbEvaluationDataNumber": "17"},
    ],
)  # fmt: skip
def test_tcb_info_with_a_field_that_is_not_its_own_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_tcb_info(json.dumps(json.loads(ONE.tcb_info()) | change).encode(), bytes(64))


@pytest.mark.parametrize(
    "change",
    [
        {"tcbStatus": "Fine"}, {"tcbStatus": "TDRelaunchAdvised"}, {"tcbDate": "now"}, {"advisoryIDs": ["a b"]}, {"advisoryIDs": "INTEL"},
        {"tcb": {"sgxtcbcomponents": [{"svn": 1}] * 15, "tdxtcbcomponents": [{"svn": 1}] * 16, "pcesvn": 1}},
        {"tcb": {"sgxtcbcomponents": [{"svn": 1}] * 16, "pcesvn": 1}},
        {"tcb": {"sgxtcbcomponents": [{"svn": -1}] * 16, "tdxtcbcomponents": [{"svn": 1}] * 16, "pcesvn": 1}},
    ],
)  # fmt: skip
def test_tcb_level_that_could_not_be_compared_is_refused(change: dict[str, Any]) -> None:
    info = json.loads(ONE.tcb_info())
    info["tcbLevels"][0] |= change
    with pytest.raises(FormatError):
        parse_tcb_info(json.dumps(info).encode(), bytes(64))


def test_module_twice_and_module_status_without_a_rule_are_refused() -> None:
    info = json.loads(ONE.tcb_info())
    for changed in (info["tdxModuleIdentities"] * 2, [info["tdxModuleIdentities"][0] | {"id": "tdx_01", "tcbLevels": [
        {"tcb": {"isvsvn": 1}, "tcbDate": "2026-03-13T00:00:00Z", "tcbStatus": "ConfigurationNeeded"}]}]):  # fmt: skip
        with pytest.raises(FormatError):
            parse_tcb_info(json.dumps(info | {"tdxModuleIdentities": changed}).encode(), bytes(64))


@pytest.mark.parametrize(
    "change", [{"version": 1}, {"id": "PCE"}, {"mrsigner": "00" * 31}, {"attributes": "00"}, {"tcbLevels": []}, {"isvprodid": 65536}]
)
def test_identity_with_a_field_that_is_not_its_own_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_identity(json.dumps(json.loads(ONE.identity()) | change).encode(), bytes(64))


@pytest.mark.parametrize(
    "change",
    [
        {"pck_crl": "30"}, {"pck_crl": "zz"}, {"pck_crl": 5}, {"pck_crl": [256]}, {"root_ca_crl": ""}, {"tcb_info": "{}"}, {"tcb_info": 1},
        {"tcb_info_signature": "00"}, {"tcb_info_signature": None}, {"tcb_info_issuer_chain": "-----BEGIN CERTIFICATE-----"},
    ],
)  # fmt: skip
def test_object_with_a_part_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        as_file(ONE.collateral_json() | change)


def test_signature_is_missed() -> None:
    whole = ONE.collateral_json()
    del whole["qe_identity_signature"]
    with pytest.raises(FormatError, match="qe_identity_signature"):
        as_file(whole)
    for document in (b'{"tcbInfo":{}}', b'{"enclaveIdentity":{},"signature":1}', b'{"other":1}', b"{}", b"[]"):
        with pytest.raises(FormatError):
            parse_collateral(document)


def test_too_much_is_refused() -> None:
    with pytest.raises(FormatError, match="at most"):
        parse_collateral(b" " * (MAX_COLLATERAL + 1))
    many = (Platform(fmspc=bytes((number, *bytes(5)))).collateral() for number in range(MOST_PARTS + 1))
    with pytest.raises(FormatError, match="of a kind"):
        Collateral.of(many)


@pytest.mark.parametrize("document", [response("tcbInfo", ONE.tcb_info()), response("enclaveIdentity", ONE.identity())])
def test_reader_of_documents_is_total(document: bytes) -> None:
    assert_parser_is_total(parse_collateral, document, flips=600)


def test_reader_of_objects_and_lists_is_total() -> None:
    small = ONE.collateral_json()
    assert_parser_is_total(parse_collateral, json.dumps({"pck_crl": small["pck_crl"]}).encode(), flips=500)
    assert_parser_is_total(parse_collateral, ONE.crls()[0], flips=500)

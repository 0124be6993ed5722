"""TDX and SGX quotes: what a good one says, and each attack refused with its reason; with a root and a platform of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509

from tests.world.authority import Ca
from tests.world.authority import at as moment
from tests.world.der import rebuilt
from tests.world.tdx import (
    AT,
    DAY,
    ENCLAVE,
    PCK_CA,
    QE_SIGNER,
    ROOT,
    TD_QE_SIGNER,
    TDX_10,
    TDX_15,
    TDX_15_MIGRATED,
    Platform,
    named,
    point,
)
from tests.writ.verdict.refusal import refused
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.tee.tdx import Tee, parse_quote
from writ.formats.tee.tdx_collateral import Collateral, TcbStatus
from writ.formats.trust import ChainRules
from writ.formats.x509 import parse_certificate
from writ.verdict.appraise.tdx import CRLS_REQUIRED, DEFAULT, REPORT_DATA, AppraisedQuote, TdxPolicy, Used, appraise_quote
from writ.verdict.intel_roots import INTEL_CERTIFICATES, INTEL_SGX_ROOT
from writ.verdict.tcb import Tcb

ONE = Platform()
TWO = Platform("two", components=(6,) * 16, serial=0x2222, mr_td=b"\xee" * 48)
QUOTE, COLLATERAL = ONE.quote(), ONE.collateral()
SGX = ONE.of_sgx()
ENCLAVES = replace(DEFAULT, tees=frozenset(Tee))
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of P-256."""


def judged(host: Platform = ONE, quote: bytes | None = None, collateral: Collateral | None = None, **given: Any) -> AppraisedQuote:
    """The verdict on a quote of `host`, at the time when all is valid unless another is given."""
    tee = "SGX" if host.qe_product == 1 else "TDX"
    found = parse_quote(host.quote() if quote is None else quote)
    given = {"at": AT} | given
    return appraise_quote(found, host.collateral(tee) if collateral is None else collateral, host.anchors, **given)


def why(*given: Any, **named_: Any) -> list[str]:
    """The codes of the reasons that were collected."""
    return [reason.code for reason in judged(*given, **named_).reasons]


def no(call: Callable[[], object]) -> tuple[str, str]:
    reason = refused(call)
    return reason.code, reason.claim


# --- a good one ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version, body_type", [(4, TDX_10), (5, TDX_10), (5, TDX_15), (5, TDX_15_MIGRATED)])
def test_quote_of_a_td_passes_and_says_where_its_platform_stands(version: int, body_type: int) -> None:
    found = judged(quote=ONE.quote(version, body_type), report_data=ONE.report_data)

    assert (found.reasons, found.notes) == ((), ())
    assert found.tcb == Tcb(TcbStatus.UP_TO_DATE, (), found.tcb.date if found.tcb else 0)
    assert (found.evaluation, found.platform.fmspc, found.anchor.der) == (17, ONE.fmspc, ROOT.certificate())
    assert [(one.kind, one.issued, one.next_update) for one in found.used] == [
        ("crl", AT - DAY, AT + 29 * DAY), ("crl", AT - DAY, AT + 29 * DAY), ("qe_identity", ONE.issued, ONE.replaced),
        ("tcb_info", ONE.issued, ONE.replaced),
    ]  # fmt: skip
    assert Used("tcb_info", Digest.of(ONE.tcb_info()), ONE.issued, ONE.replaced) in found.used


@pytest.mark.parametrize("version", [3, 4, 5])
def test_quote_of_an_enclave_passes_where_the_policy_takes_enclaves(version: int) -> None:
    quote = SGX.quote(version, ENCLAVE)
    assert judged(SGX, quote, policy=ENCLAVES).reasons == ()
    assert why(SGX, quote) == ["tdx-tee-refused"]


def test_chain_may_stand_beside_the_quote_and_hold_more() -> None:
    beside = Collateral(tuple(map(parse_certificate, (TWO.pck(), ONE.root.certificate(), ONE.pck_ca.certificate(), ONE.pck()))))
    whole = Collateral.of((COLLATERAL, beside))
    for kind in (1, 2, 3):
        assert judged(quote=ONE.quote(certification=(kind, bytes(404))), collateral=whole).reasons == ()
    assert judged(quote=ONE.quote(certification=(5, b"".join(c.der for c in beside.certificates))), collateral=COLLATERAL).reasons == ()


def test_root_of_intel_is_the_pinned_one_and_the_others_chain_to_it() -> None:
    root, *others = INTEL_CERTIFICATES
    assert Digest.of(root.der) == INTEL_SGX_ROOT
    assert {one.issuer for one in INTEL_CERTIFICATES} == {root.subject}
    assert [one.is_ca for one in others] == [True, True, False, False]


# --- who signed ---------------------------------------------------------------------------------------------------------


def test_content_of_one_under_the_signature_of_another_is_refused() -> None:
    other = replace(ONE, mr_td=b"\xbb" * 48)
    assert no(lambda: judged(quote=ONE.quote(signed=other.body(4, TDX_10)))) == ("signature-invalid", "tdx.signature")


def test_qe_report_that_the_pck_did_not_sign_is_refused() -> None:
    assert no(lambda: judged(quote=ONE.quote(qe_signed=b"another report"))) == ("signature-invalid", "tdx.qe_signature")


def test_certificate_of_another_platform_is_refused() -> None:
    assert no(lambda: judged(quote=ONE.quote(certification=(5, TWO.chain())))) == ("signature-invalid", "tdx.qe_signature")


def test_attestation_key_that_the_qe_does_not_vouch_for_is_refused() -> None:
    for bound in (b"\x01" * 32, bytes(32)):
        assert no(lambda bound=bound: judged(quote=ONE.quote(bound=bound))) == ("tdx-key-unbound", "tdx.qe_report_data")  # type: ignore[misc]
    key = point(ONE.attestation_key)
    without_authentication = sha256(key).digest()
    assert no(lambda: judged(quote=ONE.quote(bound=without_authentication)))[0] == "tdx-key-unbound"
    longer = sha256(key + b"\xaa" * 32).digest() + b"\x01"
    assert no(lambda: judged(quote=ONE.quote(bound=longer)))[0] == "tdx-key-unbound"


def test_qe_of_another_vendor_is_refused() -> None:
    quote = bytearray(QUOTE)
    quote[12] ^= 1
    assert no(lambda: judged(quote=bytes(quote))) == ("tdx-qe-refused", "tdx.qe_vendor")


def test_signature_of_odd_numbers_is_refused_and_never_an_error() -> None:
    at = 48 + 584 + 4
    r, s = QUOTE[at : at + 32], QUOTE[at + 32 : at + 64]
    for pair in (bytes(64), r + bytes(32), bytes(32) + s, N.to_bytes(32, "big") + s, r + N.to_bytes(32, "big"), b"\xff" * 64, s + r):
        quote = QUOTE[:at] + pair + QUOTE[at + 64 :]
        assert no(lambda quote=quote: judged(quote=quote)) == ("signature-invalid", "tdx.signature")  # type: ignore[misc]


def test_other_s_of_the_same_signature_says_the_same() -> None:
    at = 48 + 584 + 4 + 32
    other = N - int.from_bytes(QUOTE[at : at + 32], "big")
    assert judged(quote=QUOTE[:at] + other.to_bytes(32, "big") + QUOTE[at + 32 :]).reasons == ()


def test_attestation_key_off_the_curve_is_refused() -> None:
    at = 48 + 584 + 4 + 64
    for key in (bytes(64), b"\xff" * 64, b"\x01" * 64):
        quote = ONE.quote(bound=sha256(key + b"\xaa" * 32).digest())
        spoilt = quote[:at] + key + quote[at + 64 :]
        assert no(lambda spoilt=spoilt: judged(quote=spoilt)) == ("signature-invalid", "tdx.signature")  # type: ignore[misc]


def test_every_byte_that_is_signed_counts() -> None:
    for at in (*range(8, 48 + 584, 23),):
        spoilt = bytearray(QUOTE)
        spoilt[at] ^= 0x80
        with pytest.raises((Refused, FormatError)):
            judged(quote=bytes(spoilt))


# --- the chain ----------------------------------------------------------------------------------------------------------


def test_chain_to_another_root_of_the_same_name_is_refused() -> None:
    other = Ca("Intel SGX Root CA", path_length=1, key="another root")
    host = replace(ONE, root=other, pck_ca=Ca(PCK_CA.name, other, path_length=0))
    call = lambda: appraise_quote(parse_quote(host.quote()), host.collateral(), ONE.anchors, at=AT)  # noqa: E731
    assert no(call) == ("certificate-refused", "tdx.pck.certificate")
    assert (
        no(lambda: appraise_quote(parse_quote(host.quote()), Collateral(INTEL_CERTIFICATES), {INTEL_SGX_ROOT}, at=AT))[0]
        == "certificate-refused"
    )


def test_root_that_was_altered_in_the_quote_is_not_mended_from_beside_it() -> None:
    spoilt = bytearray(ROOT.certificate())
    spoilt[-1] ^= 1
    assert no(lambda: judged(quote=ONE.quote(certification=(5, ONE.pck() + PCK_CA.certificate() + spoilt)))) == (
        "certificate-refused", "tdx.pck.certificate",
    )  # fmt: skip
    assert why(quote=ONE.quote(certification=(5, ONE.pck() + PCK_CA.certificate()))) == []


def test_certificate_that_is_no_pck_is_none() -> None:
    wrong = PCK_CA.sign(named("Intel SGX TCB Signing"), ONE.pck_key, [(x509.BasicConstraints(False, None), True)])
    chain = b"".join((wrong, PCK_CA.certificate(), ROOT.certificate()))
    assert no(lambda: judged(quote=ONE.quote(certification=(5, chain)))) == ("certificate-refused", "tdx.pck.certificate")
    for kind in (1, 3, 7):
        assert no(lambda kind=kind: judged(quote=ONE.quote(certification=(kind, b"")))) == ("certificate-refused", "tdx.pck.certificate")  # type: ignore[misc]


def test_pck_of_another_platform_in_the_quote_is_not_mended_from_beside_it() -> None:
    beside = Collateral.of((COLLATERAL, Collateral((parse_certificate(ONE.pck()),))))
    quote = ONE.quote(certification=(5, TWO.pck() + PCK_CA.certificate()))
    assert no(lambda: judged(quote=quote, collateral=beside)) == ("signature-invalid", "tdx.qe_signature")


def test_ca_of_the_name_of_a_pck_is_none() -> None:
    below = Ca("Intel SGX PCK Certificate", PCK_CA, key=ONE.pck_key)
    chain = below.certificate() + PCK_CA.certificate() + ROOT.certificate()
    assert no(lambda: judged(quote=ONE.quote(certification=(5, chain)))) == ("certificate-refused", "tdx.pck.certificate")


def test_pck_that_signed_is_the_one_whose_path_counts() -> None:
    beside = Collateral(tuple(map(parse_certificate, (TWO.pck(), ONE.pck()))))
    quote = ONE.quote(certification=(1, bytes(36)))
    for revoked, refused_ in (([TWO.serial], False), ([ONE.serial], True)):
        given = Collateral.of((beside, ONE.collateral(crls=ONE.crls(revoked=revoked))))
        if refused_:
            assert no(lambda given=given: judged(quote=quote, collateral=given))[0] == "certificate-revoked"  # type: ignore[misc]
        else:
            assert judged(quote=quote, collateral=given).reasons == ()


def test_certificate_without_a_key_signs_nothing() -> None:
    broken = rebuilt(ONE.tcb_signer(), lambda _: b"\x30\0", 0, 6)
    assert (
        why(collateral=replace(COLLATERAL, certificates=(parse_certificate(broken), parse_certificate(ROOT.certificate()))))
        == ["tdx-collateral-refused"] * 2
    )
    assert judged(collateral=replace(COLLATERAL, certificates=(parse_certificate(broken), *COLLATERAL.certificates))).reasons == ()


def test_defaults_are_the_strict_ones() -> None:
    assert TdxPolicy(
        frozenset({Tee.TDX}), frozenset({TcbStatus.UP_TO_DATE}), frozenset(), 0, True, 31 * 86_400,
        ChainRules(True, 400 * 86_400, False), True, frozenset(), frozenset({QE_SIGNER, TD_QE_SIGNER}),
    ) == DEFAULT  # fmt: skip
    assert REPORT_DATA == 64


def test_pck_without_its_extensions_is_refused() -> None:
    wrong = PCK_CA.sign(named("Intel SGX PCK Certificate"), ONE.pck_key, [(x509.BasicConstraints(False, None), True)])
    chain = b"".join((wrong, PCK_CA.certificate(), ROOT.certificate()))
    with pytest.raises(FormatError, match="SGX extensions"):
        judged(quote=ONE.quote(certification=(5, chain)))


def test_pck_out_of_its_dates_is_refused() -> None:
    for born, life in ((moment(AT + 1), timedelta(days=1)), (moment(AT - 2 * DAY), timedelta(days=1))):
        chain = b"".join((ONE.pck(born=born, life=life), PCK_CA.certificate(), ROOT.certificate()))
        assert no(lambda chain=chain: judged(quote=ONE.quote(certification=(5, chain))))[0] == "certificate-expired"  # type: ignore[misc]


@pytest.mark.parametrize(
    "crls", [{"revoked": [ONE.serial]}, {"root_revoked": [0x77]}], ids=["PCK", "PCK CA"]
)  # fmt: skip
def test_revoked_certificate_is_refused(crls: dict[str, Any]) -> None:
    lists = ONE.crls(**crls)
    assert no(lambda: judged(collateral=ONE.collateral(crls=lists))) == ("certificate-revoked", "tdx.pck.certificate")


def test_revoked_tcb_signer_is_not_believed() -> None:
    found = judged(collateral=ONE.collateral(crls=ONE.crls(root_revoked=[0x7E])))
    assert {(one.code, one.claim) for one in found.reasons} == {
        ("certificate-revoked", "tdx.qe_identity.certificate"), ("certificate-revoked", "tdx.tcb_info.certificate"),
    }  # fmt: skip
    assert found.tcb is None


def test_revocation_has_to_be_known_unless_the_policy_says_otherwise() -> None:
    stale = ONE.collateral(crls=ONE.crls(this=AT - 40 * DAY))
    for collateral in (stale, replace(COLLATERAL, crls=()), replace(COLLATERAL, crls=COLLATERAL.crls[:1])):
        assert set(why(collateral=collateral)) == {"revocation-unknown"}
        found = judged(collateral=collateral, policy=replace(DEFAULT, chain=ChainRules()))
        assert (found.reasons, {one.code for one in found.notes}) == ((), {"revocation-unknown"})
        assert found.tcb is not None


def test_crl_older_than_the_policy_allows_is_none() -> None:
    assert why(policy=replace(DEFAULT, chain=replace(CRLS_REQUIRED, crl_max_age=DAY - 1))) == ["revocation-unknown"] * 4


# --- the report ---------------------------------------------------------------------------------------------------------


def test_report_data_of_another_request_are_refused() -> None:
    assert why(report_data=ONE.report_data) == []
    for other in (b"another".ljust(64, b"\0"), bytes(64), ONE.report_data[:-1] + b"\1"):
        assert why(report_data=other) == ["nonce-mismatch"]


@pytest.mark.parametrize("bit", range(8))
def test_td_under_debug_or_profiling_is_refused(bit: int) -> None:
    host = replace(ONE, td_attributes=1 << 28 | 1 << bit)
    assert why(host) == ["tdx-debug"]
    assert why(host, policy=TdxPolicy(frozenset(Tee), frozenset(TcbStatus), sept_ve_disable=False, service_tds=None)) == ["tdx-debug"]


def test_debug_enclave_is_refused() -> None:
    host = replace(SGX, enclave_attributes=b"\x07" + bytes(15))
    assert why(host, host.quote(3, ENCLAVE), policy=ENCLAVES) == ["tdx-debug"]


@pytest.mark.parametrize("bit", [8, 15, 17, 26, 32, 61])
def test_reserved_attribute_is_refused(bit: int) -> None:
    assert why(replace(ONE, td_attributes=1 << 28 | 1 << bit)) == ["tdx-attributes-refused"]


@pytest.mark.parametrize("bit", [16, 27, 30, 31, 62, 63])
def test_attribute_without_harm_passes(bit: int) -> None:
    assert why(replace(ONE, td_attributes=1 << 28 | 1 << bit)) == []


def test_td_that_takes_faults_of_its_memory_is_refused_by_default() -> None:
    host = replace(ONE, td_attributes=0)
    assert why(host) == ["tdx-attributes-refused"]
    assert why(host, policy=replace(DEFAULT, sept_ve_disable=False)) == []


@pytest.mark.parametrize("xfam, passes", [(0x3, True), (0xEDBE7, True), (0x1, False), (0x2E5, False), (0x0B, False), (1 << 62 | 3, False)])
def test_xfam_is_what_a_module_can_give(xfam: int, passes: bool) -> None:
    assert why(replace(ONE, xfam=xfam)) == ([] if passes else ["tdx-attributes-refused"])


def test_service_td_is_one_that_the_policy_names() -> None:
    service = b"\x5d" * 48
    bound, migratable = replace(ONE, mr_service_td=service), replace(ONE, td_attributes=3 << 28)
    naming = replace(DEFAULT, service_tds=frozenset({service}))
    assert why(bound, bound.quote(5, TDX_15)) == ["tdx-service-td-refused"]
    assert why(bound, bound.quote(5, TDX_15), policy=replace(DEFAULT, service_tds=frozenset({b"\x01" * 48}))) == ["tdx-service-td-refused"]
    assert why(bound, bound.quote(5, TDX_15), policy=naming) == []
    assert why(bound, bound.quote(5, TDX_15), policy=replace(DEFAULT, service_tds=None)) == []
    assert why(migratable) == ["tdx-service-td-refused"]
    both = replace(migratable, mr_service_td=service)
    assert why(both, both.quote(5, TDX_15), policy=naming) == []


# --- the TDX module -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("svn", [bytes((6, 1, 5)) + bytes(13), bytes((6, 0, 5)) + bytes(13)], ids=["by version", "of version 0"])
def test_module_of_another_signer_or_with_attributes_is_refused(svn: bytes) -> None:
    host = replace(ONE, tee_tcb_svn=svn)
    assert why(host) == []
    assert why(replace(host, mr_signer_seam=b"\x01" * 48)) == ["tdx-module-refused"]
    assert why(replace(host, seam_attributes=b"\x01" + bytes(7))) == ["tdx-module-refused"]


def test_module_is_judged_without_collateral_too() -> None:
    lax = replace(DEFAULT, collateral_required=False, chain=ChainRules())
    assert why(collateral=Collateral(), policy=lax) == []
    assert why(replace(ONE, mr_signer_seam=b"\x01" * 48), collateral=Collateral(), policy=lax) == ["tdx-module-refused"]
    assert why(replace(ONE, seam_attributes=b"\x01" + bytes(7)), collateral=Collateral(), policy=lax) == ["tdx-module-refused"]


def test_module_that_the_tcb_info_signs_for_another_signer_is_refused() -> None:
    module = {"id": "TDX_01", "mrsigner": "11" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8, "tcbLevels": [
        {"tcb": {"isvsvn": 6}, "tcbDate": "2026-03-13T00:00:00Z", "tcbStatus": "UpToDate"}]}  # fmt: skip
    assert why(replace(ONE, tcb_changes={"tdxModuleIdentities": [module]})) == ["tdx-module-refused"]


def test_module_of_a_version_without_identity_is_refused() -> None:
    host = replace(ONE, tee_tcb_svn=bytes((6, 2, 5)) + bytes(13))
    found = judged(host)
    assert [(one.code, one.claim) for one in found.reasons] == [("tdx-module-refused", "tdx.tee_tcb_svn")]
    assert found.tcb is None


# --- the quoting enclave ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, claim",
    [
        ({"qe_signer": b"\x66" * 32}, "tdx.qe_mr_signer"), ({"qe_product": 3}, "tdx.qe_isv_prod_id"),
        ({"qe_misc": b"\1\0\0\0"}, "tdx.qe_misc_select"),
        ({"qe_attributes": b"\x13" + bytes(15)}, "tdx.qe_attributes"), ({"qe_attributes": b"\x01" + bytes(15)}, "tdx.qe_attributes"),
    ],
)  # fmt: skip
def test_enclave_that_is_not_intels_qe_is_refused(change: dict[str, Any], claim: str) -> None:
    found = judged(replace(ONE, **change))
    assert [(one.code, one.claim) for one in found.reasons] == [("tdx-qe-refused", claim)]


def test_qe_is_judged_without_identity_too() -> None:
    lax = replace(DEFAULT, collateral_required=False)
    without = replace(COLLATERAL, identities=())
    assert why(collateral=without, policy=lax) == []
    other, debug = replace(ONE, qe_signer=b"\x66" * 32), replace(ONE, qe_attributes=b"\x13" + bytes(15))
    assert why(other, collateral=without, policy=lax) == ["tdx-qe-refused"]
    assert why(other, collateral=without, policy=replace(lax, qes=None)) == []
    assert why(debug, collateral=without, policy=lax) == ["tdx-qe-refused"]


def test_status_of_the_qe_is_merged() -> None:
    assert judged(replace(ONE, qe_svn=2)).reasons == (
        Reason("tdx-tcb-refused", "tdx.tcb_status", "UpToDate", "OutOfDate: INTEL-SA-00020"),
    )  # fmt: skip
    found = judged(replace(ONE, qe_svn=1))
    assert ([(one.code, one.claim) for one in found.reasons], found.tcb) == ([("tdx-tcb-unknown", "tdx.qe_svn")], None)


def test_identity_of_another_qe_is_not_this_ones() -> None:
    found = judged(collateral=replace(COLLATERAL, identities=ONE.collateral("SGX").identities))
    assert [(one.code, one.claim) for one in found.reasons] == [("tdx-collateral-mismatch", "tdx.qe_identity")]
    assert found.tcb is None
    quote = SGX.quote(3, ENCLAVE)
    assert why(SGX, quote, replace(SGX.collateral("SGX"), identities=COLLATERAL.identities), policy=ENCLAVES) == ["tdx-collateral-mismatch"]


# --- TCB ----------------------------------------------------------------------------------------------------------------


def test_downgraded_platform_is_refused_with_what_intel_says_of_it() -> None:
    host = replace(ONE, pce_svn=10)
    assert judged(host).reasons == (
        Reason("tdx-tcb-refused", "tdx.tcb_status", "UpToDate", "OutOfDate: INTEL-SA-00001, INTEL-SA-00002"),
    )  # fmt: skip
    assert why(replace(ONE, pce_svn=9)) == ["tdx-tcb-unknown"]


@pytest.mark.parametrize("status", list(TcbStatus)[:7])
def test_status_passes_where_the_policy_names_it_and_revoked_never(status: TcbStatus) -> None:
    host = replace(ONE, platform_levels=((ONE.components, 11, (6, 0, 5), status.value, ()),))
    found = judged(host)
    assert found.tcb is not None
    assert found.tcb.status is status
    assert [one.code for one in found.reasons] == ([] if status is TcbStatus.UP_TO_DATE else ["tdx-tcb-refused"])
    assert why(host, policy=replace(DEFAULT, statuses=frozenset({status}))) == (["tdx-tcb-refused"] if status is TcbStatus.REVOKED else [])


def test_relaunch_is_advised_of_a_td_whose_module_was_updated_under_it() -> None:
    host = replace(ONE, tee_tcb_svn=bytes((5, 1, 5)) + bytes(13))
    found = judged(host, host.quote(5, TDX_15))
    assert found.reasons == (Reason("tdx-tcb-refused", "tdx.tcb_status", "UpToDate", "TDRelaunchAdvised: INTEL-SA-00010"),)
    assert why(host, host.quote(5, TDX_15), policy=replace(DEFAULT, statuses=frozenset({TcbStatus.TD_RELAUNCH_ADVISED}))) == []
    assert [one.got for one in judged(host).reasons] == ["OutOfDate: INTEL-SA-00010"]


def test_advisory_that_the_policy_refuses_is_refused_whatever_the_status() -> None:
    host = replace(ONE, platform_levels=((ONE.components, 11, (6, 0, 5), "UpToDate", ("INTEL-SA-00500",)),))
    assert why(host) == []
    assert why(host, policy=replace(DEFAULT, advisories=frozenset({"INTEL-SA-00500"}))) == ["tdx-advisory-refused"]


def test_older_evaluation_than_the_policy_asks_for_is_refused() -> None:
    assert why(policy=replace(DEFAULT, least_evaluation=17)) == []
    assert why(policy=replace(DEFAULT, least_evaluation=18)) == ["tdx-evaluation-old"] * 2
    older = replace(ONE, qe_changes={"tcbEvaluationDataNumber": 16})
    assert judged(older).evaluation == 16
    assert why(older, policy=replace(DEFAULT, least_evaluation=17)) == ["tdx-evaluation-old"]


# --- collateral ---------------------------------------------------------------------------------------------------------


def test_collateral_is_required_by_default() -> None:
    for missing, claim in (("tcb_infos", "tdx.tcb_info"), ("identities", "tdx.qe_identity")):
        part = replace(COLLATERAL, **{missing: ()})
        assert [(one.code, one.claim) for one in judged(collateral=part).reasons] == [("tdx-collateral-missing", claim)]
        assert why(collateral=part, policy=replace(DEFAULT, collateral_required=False)) == []


@pytest.mark.parametrize("change", [{"fmspc": b"\x01" * 6}, {"pce_id": b"\0\1"}])
def test_tcb_info_of_another_platform_model_is_refused(change: dict[str, Any]) -> None:
    other = replace(COLLATERAL, tcb_infos=replace(ONE, **change).collateral().tcb_infos)
    found = judged(collateral=other)
    assert ([(one.code, one.claim) for one in found.reasons], found.tcb) == ([("tdx-collateral-mismatch", "tdx.tcb_info")], None)
    assert judged(collateral=Collateral.of((other, COLLATERAL))).reasons == ()


def test_tcb_info_of_sgx_is_none_of_a_td() -> None:
    assert why(collateral=replace(COLLATERAL, tcb_infos=ONE.collateral("SGX").tcb_infos)) == ["tdx-collateral-mismatch"]


def test_tcb_info_that_intel_did_not_sign_is_not_believed() -> None:
    (info,), (identity,) = COLLATERAL.tcb_infos, COLLATERAL.identities
    better = replace(ONE, pce_svn=9, platform_levels=((ONE.components, 9, (6, 0, 5), "UpToDate", ()),)).collateral()
    for forged in (
        replace(COLLATERAL, tcb_infos=(replace(better.tcb_infos[0], signature=info.signature),)),
        replace(COLLATERAL, tcb_infos=(replace(info, signature=bytes(64)),)),
        replace(COLLATERAL, tcb_infos=(replace(info, signature=identity.signature),)),
        replace(COLLATERAL, tcb_infos=better.tcb_infos, certificates=COLLATERAL.certificates[:2]),
    ):
        found = judged(collateral=forged)
        assert ("tdx-collateral-refused", "tdx.tcb_info.signature") in [(one.code, one.claim) for one in found.reasons]
        assert found.tcb is None


def test_identity_that_intel_did_not_sign_is_not_believed() -> None:
    mine = replace(ONE, qe_signer=b"\x66" * 32, qe_changes={"mrsigner": "66" * 32})
    forged = replace(COLLATERAL, identities=mine.collateral(signer=ONE.pck_key).identities)
    found = judged(mine, collateral=forged)
    assert {one.code for one in found.reasons} == {"tdx-collateral-refused", "tdx-qe-refused"}
    assert found.tcb is None


def test_whoever_else_is_below_the_root_signs_no_tcb_info() -> None:
    signer = ROOT.sign(named("Intel SGX Something"), "tdx/tcb signing", [(x509.BasicConstraints(False, None), True)])
    assert why(collateral=ONE.collateral(tcb_signer=signer)) == ["tdx-collateral-refused"] * 2
    pck = ONE.collateral(signer=ONE.pck_key)  # by the key of a PCK, whose certificate is in the quote and beside it
    beside = Collateral((parse_certificate(ONE.pck()),))
    assert why(collateral=Collateral.of((pck, beside))) == ["tdx-collateral-refused"] * 2


def test_tcb_signer_below_a_ca_of_pcks_is_not_believed() -> None:
    below = PCK_CA.sign(named("Intel SGX TCB Signing"), "tdx/tcb signing", [(x509.BasicConstraints(False, None), True)])
    found = judged(collateral=ONE.collateral(tcb_signer=below))
    assert {(one.code, one.claim) for one in found.reasons} == {
        ("certificate-refused", "tdx.qe_identity.certificate"), ("certificate-refused", "tdx.tcb_info.certificate"),
    }  # fmt: skip


def test_pck_below_more_cas_than_one_is_refused() -> None:
    lower = Ca("Intel SGX PCK Lower CA", replace(PCK_CA, path_length=None), path_length=0)
    root = replace(ROOT, path_length=None)
    host = replace(ONE, root=root, pck_ca=replace(lower, above=replace(PCK_CA, above=root, path_length=None)))
    chain = b"".join((host.pck(), lower.certificate(), replace(PCK_CA, above=root, path_length=None).certificate(), root.certificate()))
    assert no(lambda: judged(host, host.quote(certification=(5, chain)))) == ("certificate-refused", "tdx.pck.certificate")


def test_tcb_signer_of_another_root_is_not_believed() -> None:
    other = Ca("Intel SGX Root CA", path_length=1, key="another root")
    forged = replace(ONE, root=other).collateral(crls=ONE.crls())
    found = judged(collateral=forged)
    assert {(one.code, one.claim) for one in found.reasons} == {
        ("certificate-refused", "tdx.qe_identity.certificate"), ("certificate-refused", "tdx.tcb_info.certificate"),
    }  # fmt: skip


def test_tcb_signer_out_of_its_dates_is_not_believed_and_another_of_the_same_key_is() -> None:
    old = parse_certificate(ONE.tcb_signer(born=moment(AT - 9 * DAY), life=timedelta(days=1)))
    found = judged(collateral=ONE.collateral(tcb_signer=old.der))
    assert {one.code for one in found.reasons} == {"certificate-expired"}
    assert judged(collateral=replace(COLLATERAL, certificates=(old, *COLLATERAL.certificates))).reasons == ()


@pytest.mark.parametrize("kind", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize(
    "issued, replaced, code",
    [
        (AT + 1, AT + 30 * DAY, "tdx-collateral-early"), (AT - 30 * DAY, AT - 1, "tdx-collateral-expired"), (AT, AT + DAY, ""),
        (AT - DAY, AT, ""),
        (AT - 32 * DAY, AT + DAY, "tdx-collateral-expired"),
    ],
)  # fmt: skip
def test_documents_are_of_their_time(kind: str, issued: int, replaced: int, code: str) -> None:
    dated = replace(ONE, issued=issued, replaced=replaced).collateral()
    other = replace(COLLATERAL, **({"tcb_infos": dated.tcb_infos} if kind == "tcb_info" else {"identities": dated.identities}))
    found = judged(collateral=other)
    assert [(one.code, one.claim.split(".")[1]) for one in found.reasons] == ([(code, kind)] if code else [])
    assert found.tcb is not None


def test_newest_of_several_that_is_not_of_the_future_counts() -> None:
    older = replace(ONE, issued=AT - 2 * DAY, evaluation=16).collateral()
    later = replace(ONE, issued=AT + DAY, evaluation=18).collateral()
    for order in ((older, COLLATERAL, later), (later, COLLATERAL, older)):
        found = judged(collateral=Collateral.of(order))
        assert (found.reasons, found.evaluation) == ((), 17)


def test_evidence_of_another_host_mixed_in_is_refused() -> None:
    body, other = len(ONE.body(4, TDX_10)), TWO.quote()
    assert no(lambda: judged(quote=QUOTE[:body] + other[body:]))[0] == "signature-invalid"
    qe = body + 4 + 128
    assert no(lambda: judged(quote=QUOTE[:qe] + other[qe:]))[0] == "tdx-key-unbound"


def test_verdict_is_the_same_twice() -> None:
    assert judged(collateral=COLLATERAL) == judged(collateral=COLLATERAL)

"""TCB levels: the first that is reached in every component, and what the parts come to, case by case as Intel's library has it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.tdx import Platform
from tests.writ.verdict.refusal import refused
from writ.formats.reason import Reason
from writ.formats.tee.pck import parse_pck
from writ.formats.tee.tdx_collateral import EnclaveIdentity, Level, TcbInfo, TcbStatus
from writ.formats.x509 import parse_certificate
from writ.verdict.tcb import Tcb, converge, evaluate_tcb, module_of, platform_level, qe_level, relaunch

S = TcbStatus
ONE = Platform()
INFO: TcbInfo = ONE.collateral().tcb_infos[0]
IDENTITY: EnclaveIdentity = ONE.collateral().identities[0]
DATE = INFO.levels[0].date


def judged(host: Platform = ONE, info: TcbInfo = INFO, svn: bytes | None = None, running: bytes | None = None) -> Tcb:
    return evaluate_tcb(info, parse_pck(parse_certificate(host.pck())), None, svn or host.tee_tcb_svn, running)


def svn(*given: int) -> bytes:
    return bytes(given).ljust(16, b"\0")


@pytest.mark.parametrize("place", [place for place, least in enumerate(ONE.components) if least])
def test_level_needs_every_component(place: int) -> None:
    lower = tuple(value - (at == place) for at, value in enumerate(ONE.components))
    platform = parse_pck(parse_certificate(replace(ONE, components=lower).pck()))
    found = platform_level(INFO.levels, platform, ONE.tee_tcb_svn)
    assert found == (INFO.levels[1] if place < 2 else None)  # the second level is lower in the first two only


def test_level_needs_the_pce_and_the_components_of_tdx() -> None:
    assert judged().status is S.UP_TO_DATE
    assert judged(replace(ONE, pce_svn=10)).status is S.OUT_OF_DATE
    assert judged(replace(ONE, pce_svn=12)).status is S.UP_TO_DATE
    assert judged(svn=svn(6, 1, 4)).status is S.OUT_OF_DATE
    assert refused(lambda: judged(replace(ONE, pce_svn=9))).code == "tdx-tcb-unknown"
    assert refused(lambda: judged(svn=svn(6, 1, 3))).code == "tdx-tcb-unknown"


def test_module_of_version_0_is_rated_by_the_platforms_level_and_a_later_one_by_its_identity() -> None:
    assert judged(svn=svn(6, 0, 5)) == Tcb(S.UP_TO_DATE, (), DATE)
    assert judged(svn=svn(5, 0, 5)).status is S.OUT_OF_DATE
    assert refused(lambda: judged(svn=svn(4, 0, 5))).claim == "tdx.tcb_status"
    assert judged(svn=svn(5, 1, 5)) == Tcb(S.OUT_OF_DATE, ("INTEL-SA-00010",), DATE)
    assert refused(lambda: judged(svn=svn(3, 1, 5))).claim == "tdx.module_svn"
    assert refused(lambda: judged(svn=svn(6, 2, 5))) == refused(lambda: module_of(INFO, 2))
    assert refused(lambda: module_of(INFO, 2)).code == "tdx-module-refused"


def test_reason_says_what_was_reached_and_what_would_do() -> None:
    components = "components [5, 5, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0], PCE 9"
    reached = components + ", TDX 06010500000000000000000000000000"
    low = replace(ONE, pce_svn=9)
    assert refused(lambda: judged(low)) == Reason("tdx-tcb-unknown", "tdx.tcb_status", "one of 2 levels of the TCB info", reached)
    sgx, platform = ONE.collateral("SGX").tcb_infos[0], parse_pck(parse_certificate(low.pck()))
    assert refused(lambda: evaluate_tcb(sgx, platform, None)).got == components
    assert refused(lambda: judged(svn=svn(3, 1, 5))) == Reason("tdx-tcb-unknown", "tdx.module_svn", "4 or later", "3")
    named = "a TDX module that the TCB info names: "
    assert refused(lambda: module_of(INFO, 2)) == Reason("tdx-module-refused", "tdx.tee_tcb_svn", named + "TDX_01", "TDX_02")
    assert refused(lambda: module_of(replace(INFO, modules=()), 0x1A)).expected == named + "none"
    assert refused(lambda: module_of(INFO, 0x1A)).got == "TDX_1A"
    assert (module_of(INFO, 0), module_of(INFO, 1)) == (INFO.module, INFO.modules[0])


def test_first_level_that_is_reached_counts_in_the_order_given() -> None:
    assert judged(info=replace(INFO, levels=INFO.levels[::-1])).status is S.OUT_OF_DATE


def test_advisories_are_of_all_parts_sorted_and_once_and_the_date_is_the_oldest() -> None:
    qe = Level(2, DATE - 5, S.OUT_OF_DATE, ("INTEL-SA-00020", "INTEL-SA-00001"))
    found = evaluate_tcb(INFO, parse_pck(parse_certificate(replace(ONE, pce_svn=10).pck())), qe, svn(5, 1, 5))
    assert found.advisories == ("INTEL-SA-00001", "INTEL-SA-00002", "INTEL-SA-00010", "INTEL-SA-00020")
    assert (found.status, found.date) == (S.OUT_OF_DATE, DATE - 5)


@pytest.mark.parametrize(
    "platform, parts, whole",
    [
        (S.UP_TO_DATE, [], S.UP_TO_DATE),
        (S.UP_TO_DATE, [S.UP_TO_DATE, S.UP_TO_DATE], S.UP_TO_DATE),
        (S.UP_TO_DATE, [S.OUT_OF_DATE], S.OUT_OF_DATE),
        (S.SW_HARDENING_NEEDED, [S.UP_TO_DATE], S.SW_HARDENING_NEEDED),
        (S.SW_HARDENING_NEEDED, [S.OUT_OF_DATE], S.OUT_OF_DATE),
        (S.CONFIGURATION_NEEDED, [S.UP_TO_DATE], S.CONFIGURATION_NEEDED),
        (S.CONFIGURATION_NEEDED, [S.UP_TO_DATE, S.OUT_OF_DATE], S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.CONFIGURATION_AND_SW_HARDENING_NEEDED, [S.OUT_OF_DATE], S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.CONFIGURATION_AND_SW_HARDENING_NEEDED, [S.UP_TO_DATE], S.CONFIGURATION_AND_SW_HARDENING_NEEDED),
        (S.OUT_OF_DATE, [S.UP_TO_DATE], S.OUT_OF_DATE),
        (S.OUT_OF_DATE, [S.OUT_OF_DATE], S.OUT_OF_DATE),
        (S.OUT_OF_DATE_CONFIGURATION_NEEDED, [S.OUT_OF_DATE], S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.REVOKED, [S.UP_TO_DATE], S.REVOKED),
        (S.REVOKED, [S.OUT_OF_DATE], S.REVOKED),
        *((platform, [S.OUT_OF_DATE, S.REVOKED], S.REVOKED) for platform in S),
    ],
)
def test_parts_make_the_whole_worse_and_never_better(platform: TcbStatus, parts: list[TcbStatus], whole: TcbStatus) -> None:
    assert converge(platform, parts) is whole


RUNNING = (S.UP_TO_DATE, S.SW_HARDENING_NEEDED, S.CONFIGURATION_NEEDED, S.CONFIGURATION_AND_SW_HARDENING_NEEDED)


@pytest.mark.parametrize("launched", list(S)[:7])
@pytest.mark.parametrize("running", list(S)[:7])
def test_relaunch_is_advised_where_only_the_launch_is_out_of_date(launched: TcbStatus, running: TcbStatus) -> None:
    found = relaunch(launched, running)

    if launched not in (S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED) or running not in RUNNING:
        assert found is launched
    elif launched is S.OUT_OF_DATE and running in RUNNING[:2]:
        assert found is S.TD_RELAUNCH_ADVISED
    else:
        assert found is S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED


def test_module_updated_under_the_td_advises_a_relaunch() -> None:
    assert judged(svn=svn(5, 1, 5), running=svn(6, 1, 5)) == Tcb(S.TD_RELAUNCH_ADVISED, ("INTEL-SA-00010",), DATE)
    assert judged(svn=svn(5, 1, 5), running=svn(5, 1, 5)).status is S.OUT_OF_DATE
    assert judged(svn=svn(6, 1, 5), running=svn(5, 1, 5)).status is S.UP_TO_DATE
    assert refused(lambda: judged(svn=svn(6, 1, 5), running=svn(3, 1, 5))).code == "tdx-tcb-unknown"


def test_level_of_a_quoting_enclave_is_the_first_that_its_svn_reaches() -> None:
    assert qe_level(IDENTITY, 9).status is S.UP_TO_DATE
    assert qe_level(IDENTITY, 3) == IDENTITY.levels[1]
    assert refused(lambda: qe_level(IDENTITY, 1)).claim == "tdx.qe_svn"


def test_enclave_is_rated_without_components_of_tdx() -> None:
    info = ONE.collateral("SGX").tcb_infos[0]
    platform = parse_pck(parse_certificate(ONE.pck()))
    assert evaluate_tcb(info, platform, None) == Tcb(S.UP_TO_DATE, (), DATE)
    assert evaluate_tcb(info, replace(platform, pce_svn=10), None).status is S.OUT_OF_DATE

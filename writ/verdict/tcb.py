"""TCB levels of Intel platforms: how far behind is what a quote says, and by which advisories?

Levels stand from the newest to the oldest, and the first that a platform reaches in every component is its own. A TDX module of version 1
and later is rated by its identity, and then the first two components of TEE_TCB_SVN, which are that module's, are not compared again.

What the parts come to (`converge`): a module or quoting enclave that is revoked revokes the whole; one that is out of date makes the
platform's status out of date, and one that needed configuration needs it still. Where a module was updated under a running TD, a quote of
TDX 1.5 says under which one it was launched and which one runs now: if the first is out of date and the second is not, a relaunch of the
TD is advised (`relaunch`).

Source: Intel SGX and TDX Provisioning Certification Service API, version 4, "Get TDX TCB Info"; the rules of Intel's Quote Verification
Library (4.1.2.5.1 and 4.1.2.5.2 of its specification: sgxEvaluateTCB, tdxEvaluateTCB, checkForRelaunch).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import Refused
from writ.formats.reason import Reason
from writ.formats.tee.pck import PckExtension
from writ.formats.tee.tdx_collateral import EnclaveIdentity, Level, PlatformLevel, TcbInfo, TcbStatus, TdxModule

_MINOR, _MAJOR, _BEHIND_MODULE = 0, 1, 2
"""Places in TEE_TCB_SVN: the ISVSVN and the version of the TDX module, and what comes behind them."""
_S: Final = TcbStatus
_OUT_OF_DATE: Final = {
    _S.UP_TO_DATE: _S.OUT_OF_DATE,
    _S.SW_HARDENING_NEEDED: _S.OUT_OF_DATE,
    _S.CONFIGURATION_NEEDED: _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    _S.CONFIGURATION_AND_SW_HARDENING_NEEDED: _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
"""What a platform's status becomes with a part that is out of date."""
_TO_CONFIGURE: Final = frozenset(
    {_S.CONFIGURATION_NEEDED, _S.CONFIGURATION_AND_SW_HARDENING_NEEDED, _S.OUT_OF_DATE_CONFIGURATION_NEEDED},
)


@dataclass(frozen=True, slots=True)
class Tcb:
    """Where a platform stands at one TCB: the merged status with all advisories, sorted, and the date of the oldest level in it."""

    status: TcbStatus
    advisories: tuple[str, ...]
    date: int


def evaluate_tcb(
    info: TcbInfo, platform: PckExtension, qe: Level | None, launched: bytes | None = None, running: bytes | None = None
) -> Tcb:
    """Where `platform` stands by `info`, with the level of the quoting enclave where it is known.

    Of a TD `launched` is TEE_TCB_SVN and `running` TEE_TCB_SVN_2, where the report has it. Whether `info` is of this platform, and
    believed, was asked before. Raises Refused `tdx-tcb-unknown` where no level is reached.
    """
    first = _evaluate(info, platform, qe, launched)
    if running is None:
        return first
    now = _evaluate(info, platform, qe, running)
    return Tcb(relaunch(first.status, now.status), _merged((first.advisories, now.advisories)), min(first.date, now.date))


def _evaluate(info: TcbInfo, platform: PckExtension, qe: Level | None, tee_tcb_svn: bytes | None) -> Tcb:
    level = platform_level(info.levels, platform, tee_tcb_svn)
    if level is None:
        reached = f"components {list(platform.components)}, PCE {platform.pce_svn}"
        reached += "" if tee_tcb_svn is None else f", TDX {tee_tcb_svn.hex()}"
        raise Refused(Reason("tdx-tcb-unknown", "tdx.tcb_status", f"one of {len(info.levels)} levels of the TCB info", reached))
    parts: list[Level] = [] if qe is None else [qe]
    if tee_tcb_svn is not None and (major := tee_tcb_svn[_MAJOR]):
        parts.append(_module_level(module_of(info, major), tee_tcb_svn))
    status = converge(level.status, [part.status for part in parts])
    rated: tuple[PlatformLevel | Level, ...] = (level, *parts)
    return Tcb(status, _merged(one.advisories for one in rated), min(one.date for one in rated))


def platform_level(levels: Sequence[PlatformLevel], platform: PckExtension, tee_tcb_svn: bytes | None) -> PlatformLevel | None:
    """The first of `levels` whose every SVN the platform reaches, None if it reaches none."""
    tdx = b"" if tee_tcb_svn is None else tee_tcb_svn
    start = _BEHIND_MODULE if tdx and tdx[_MAJOR] else 0
    for level in levels:
        reached = zip((*platform.components, platform.pce_svn, *tdx[start:]), (*level.sgx, level.pce_svn, *level.tdx[start:]), strict=True)
        if all(has >= least for has, least in reached):
            return level
    return None


def module_of(info: TcbInfo, major: int) -> TdxModule:
    """The TDX module of version `major` as `info` names it, for version 0 the one beside those by version. Raises Refused."""
    found = info.module if major == 0 else next((module for module in info.modules if module.major == major), None)
    if found is None:
        known = ", ".join(f"TDX_{module.major or 0:02X}" for module in info.modules) or "none"
        raise Refused(Reason("tdx-module-refused", "tdx.tee_tcb_svn", f"a TDX module that the TCB info names: {known}", f"TDX_{major:02X}"))
    return found


def _module_level(module: TdxModule, tee_tcb_svn: bytes) -> Level:
    level = reached_level(module.levels, tee_tcb_svn[_MINOR])
    if level is None:
        least = min((one.isv_svn for one in module.levels), default=None)
        raise Refused(Reason("tdx-tcb-unknown", "tdx.module_svn", f"{least} or later", str(tee_tcb_svn[_MINOR])))
    return level


def qe_level(identity: EnclaveIdentity, isv_svn: int) -> Level:
    """The level of a quoting enclave of that SVN. Raises Refused `tdx-tcb-unknown`."""
    level = reached_level(identity.levels, isv_svn)
    if level is None:
        least = min(one.isv_svn for one in identity.levels)
        raise Refused(Reason("tdx-tcb-unknown", "tdx.qe_svn", f"{least} or later", str(isv_svn)))
    return level


def reached_level(levels: Iterable[Level], isv_svn: int) -> Level | None:
    """The first of `levels` that `isv_svn` reaches."""
    return next((level for level in levels if isv_svn >= level.isv_svn), None)


def converge(platform: TcbStatus, parts: Sequence[TcbStatus]) -> TcbStatus:
    """The status of the whole: the platform's, made worse by parts that are out of date or revoked."""
    if _S.REVOKED in parts:
        return _S.REVOKED
    return _OUT_OF_DATE.get(platform, platform) if _S.OUT_OF_DATE in parts else platform


def relaunch(launched: TcbStatus, running: TcbStatus) -> TcbStatus:
    """The status of a TD that was launched at one TCB and runs at another: `launched`, or that a relaunch of it would do."""
    if launched not in (_S.OUT_OF_DATE, _S.OUT_OF_DATE_CONFIGURATION_NEEDED) or running not in _OUT_OF_DATE:
        return launched
    if _TO_CONFIGURE.isdisjoint({launched, running}):
        return _S.TD_RELAUNCH_ADVISED
    return _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED


def _merged(advisories: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({one for some in advisories for one in some}))

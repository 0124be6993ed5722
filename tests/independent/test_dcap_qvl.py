"""Intel quotes judged by a library that others wrote (dcap-qvl, offline, with collateral of ours or the published): the same verdict.

It fetches where it is asked to and nowhere else; only its `verify` is called. Where the two differ by intent, a test of its own says so:
ours is the stricter each time, as Intel's library and the specification have it.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest

from tests.world.tdx import AT, DAY, ENCLAVE, TDX_10, TDX_15, TDX_15_MIGRATED, Platform
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.tee.tdx import Tee, parse_quote, read_quote_body
from writ.formats.tee.tdx_collateral import TcbStatus, parse_collateral
from writ.formats.x509 import parse_certificate
from writ.verdict.appraise.tdx import DEFAULT, appraise_quote
from writ.verdict.intel_roots import INTEL_CERTIFICATES

Verdict = tuple[str, tuple[str, ...]] | None
"""Status and advisories, None for a refusal."""
ANY = replace(DEFAULT, tees=frozenset(Tee), statuses=frozenset(TcbStatus))
ONE = Platform()
MOST_MUTATIONS = 150


def theirs(quote: bytes, collateral: dict[str, Any], root: bytes, at: int) -> Verdict:
    try:
        found = dcap_qvl.verify_with_root_ca(quote, dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral)), root, at)
    except ValueError:
        return None
    return found.status, tuple(sorted(found.advisory_ids))


_parsed = lru_cache(maxsize=4)(parse_collateral)


def ours(quote: bytes, collateral: dict[str, Any], root: bytes, at: int) -> Verdict:
    """Reasons that are only about what a status is worth are no refusal here."""
    try:
        given = _parsed(json.dumps(collateral).encode())
        found = appraise_quote(parse_quote(quote), given, {Digest.of(root)}, at=at, policy=ANY)
    except (FormatError, Refused):
        return None
    if found.tcb is None or {reason.code for reason in found.reasons} - {"tdx-tcb-refused"}:
        return None
    return found.tcb.status.value, found.tcb.advisories


def same(quote: bytes, collateral: dict[str, Any], root: bytes, at: int) -> Verdict:
    """The verdict, on which both agree."""
    mine = ours(quote, collateral, root, at)
    assert mine == theirs(quote, collateral, root, at)
    return mine


def of(host: Platform, version: int = 4, body_type: int = TDX_10, *, at: int = AT, **changes: Any) -> Verdict:
    tee = "SGX" if body_type == ENCLAVE else "TDX"
    return same(host.quote(version, body_type), host.collateral_json(tee, **changes), host.root.certificate(), at)


@pytest.mark.parametrize("version, body_type", [(4, TDX_10), (5, TDX_10), (5, TDX_15), (5, TDX_15_MIGRATED), (3, ENCLAVE)])
def test_good_quote_is_good_to_both(version: int, body_type: int) -> None:
    host = ONE.of_sgx() if body_type == ENCLAVE else ONE
    assert of(host, version, body_type) == ("UpToDate", ())


STATUSES = [status.value for status in tuple(TcbStatus)[:6]]


@pytest.mark.parametrize("platform", STATUSES)
@pytest.mark.parametrize("module", ["UpToDate", "OutOfDate"])
@pytest.mark.parametrize("qe", ["UpToDate", "OutOfDate"])
def test_statuses_merge_alike(platform: str, module: str, qe: str) -> None:
    host = replace(
        ONE, platform_levels=((ONE.components, 11, (6, 0, 5), platform, ("INTEL-SA-00001",)),),
        module_levels=((6, module, ("INTEL-SA-00010",)),), qe_levels=((4, qe, ("INTEL-SA-00020",)),),
    )  # fmt: skip
    found = of(host)
    assert found is not None
    assert found[1] == ("INTEL-SA-00001", "INTEL-SA-00010", "INTEL-SA-00020")


def test_revoked_is_refused_by_both_in_each_place() -> None:
    """Theirs refuses what is Revoked; ours names the status beside the refusal, so it is compared as one."""
    for change in (
        {"platform_levels": ((ONE.components, 11, (6, 0, 5), "Revoked", ()),)}, {"module_levels": ((6, "Revoked", ()),)},
        {"qe_levels": ((4, "Revoked", ()),)},
    ):  # fmt: skip
        host = replace(ONE, **change)
        root = host.root.certificate()
        assert theirs(host.quote(), host.collateral_json(), root, AT) in (None, ("Revoked", ()))
        assert ours(host.quote(), host.collateral_json(), root, AT) == ("Revoked", ())


@pytest.mark.parametrize(
    "launched", [bytes((6, 1, 5)), bytes((5, 1, 5)), bytes((3, 1, 5)), bytes((6, 0, 5)), bytes((6, 1, 4)), bytes((6, 2, 5))]
)
@pytest.mark.parametrize("running", [bytes((6, 1, 5)), bytes((5, 1, 5)), bytes((6, 1, 3))])
@pytest.mark.parametrize("status", ["UpToDate", "ConfigurationNeeded", "SWHardeningNeeded"])
def test_module_updated_under_a_td_is_rated_alike(launched: bytes, running: bytes, status: str) -> None:
    levels = ((ONE.components, 11, (6, 0, 5), status, ()), ((4, 4, 2, 2, 3, 1, 0, 3), 10, (5, 0, 4), "OutOfDate", ("INTEL-SA-00001",)))
    host = replace(ONE, tee_tcb_svn=launched.ljust(16, b"\0"), tee_tcb_svn2=running.ljust(16, b"\0"), platform_levels=levels)
    of(host, 4, TDX_10)
    given = host.quote(5, TDX_15), host.collateral_json(), host.root.certificate(), AT
    mine, other = ours(*given), theirs(*given)
    assert (mine and mine[0]) == (other and other[0])
    if mine and other:  # ours names the advisories of the module that runs as well
        assert set(other[1]) <= set(mine[1])


@pytest.mark.parametrize("place", range(16))
def test_component_that_is_lower_is_rated_alike(place: int) -> None:
    for pce_svn in (9, 10, 11):
        lower = tuple(max(0, svn - (at == place)) for at, svn in enumerate(ONE.components))
        of(replace(ONE, components=lower, pce_svn=pce_svn))


@pytest.mark.parametrize(
    "change",
    [
        {"td_attributes": 0}, {"td_attributes": 1 << 28 | 1}, {"td_attributes": 1 << 28 | 1 << 9}, {"td_attributes": 1 << 28 | 1 << 30},
        {"mr_signer_seam": b"\1" * 48}, {"seam_attributes": b"\1" + bytes(7)}, {"qe_signer": b"\1" * 32}, {"qe_product": 1}, {"qe_svn": 1},
        {"qe_svn": 2}, {"qe_misc": b"\1\0\0\0"}, {"qe_attributes": b"\x13" + bytes(15)}, {"fmspc": b"\1" * 6}, {"pce_id": b"\0\1"},
        {"issued": AT - 60 * DAY, "replaced": AT - 1}, {"tcb_changes": {"fmspc": "010101010101"}},
        {"tcb_changes": {"id": "SGX"}}, {"tcb_changes": {"version": 2}}, {"qe_changes": {"id": "QE"}}, {"qe_changes": {"isvprodid": 1}},
    ],
)  # fmt: skip
def test_platform_with_one_thing_wrong_is_judged_alike(change: dict[str, Any]) -> None:
    of(replace(ONE, **change))


def test_service_td_is_refused_by_both() -> None:
    assert of(replace(ONE, mr_service_td=b"\1" * 48), 5, TDX_15) is None


def test_debug_enclave_is_refused_by_both() -> None:
    assert of(replace(ONE.of_sgx(), enclave_attributes=b"\x07" + bytes(15)), 3, ENCLAVE) is None


def test_revocation_and_dates_are_judged_alike() -> None:
    for revoked in ({"revoked": [ONE.serial]}, {"root_revoked": [0x77]}, {"root_revoked": [0x7E]}, {}):
        of(ONE, crls=ONE.crls(**revoked))  # type: ignore[arg-type]
    for at in (AT, AT + 29 * DAY - 1, AT + 29 * DAY + 1, AT + 400 * DAY, AT + 4000 * DAY):
        of(ONE, at=at)
    assert of(ONE, signer=ONE.pck_key) is None


def test_what_ours_refuses_alone() -> None:
    root, collateral = ONE.root.certificate(), ONE.collateral_json()
    outer = 48 + 584 + 4 + 128
    for quote, changed in (
        (ONE.quote(), replace(ONE, tcb_changes={"pceId": "0001"}).collateral_json()),  # TCB info of another PCE
        (ONE.quote()[:outer] + b"\x05" + ONE.quote()[outer + 1 :], collateral),  # certification data of another type, with a QE's report
        (replace(ONE, xfam=1 << 62 | 3).quote(), collateral),  # a reserved bit of XFAM
        (ONE.quote() + b"behind it", collateral),
    ):
        assert theirs(quote, changed, root, AT) == ("UpToDate", ())
        assert ours(quote, changed, root, AT) is None


@pytest.mark.parametrize("version, body_type", [(4, TDX_10), (5, TDX_15), (3, ENCLAVE)])
def test_spoilt_quotes_are_refused_by_both(version: int, body_type: int) -> None:
    """Each byte that is signed, and each of the structure around, drawn by a fixed seed."""
    host = ONE.of_sgx() if body_type == ENCLAVE else ONE
    quote, collateral = host.quote(version, body_type), host.collateral_json("SGX" if body_type == ENCLAVE else "TDX")
    root, chance = host.root.certificate(), random.Random(version)
    for at in chance.sample(_bytes_that_count(quote), MOST_MUTATIONS):
        spoilt = quote[:at] + bytes([quote[at] ^ 1 << chance.randrange(8)]) + quote[at + 1 :]
        assert same(spoilt, collateral, root, AT) is None, at


def _bytes_that_count(quote: bytes) -> list[int]:
    """All up to the chain, but for the type of the outer certification data, at which theirs does not look."""
    auth = len(read_quote_body(quote).raw) + 4
    return [at for at in range(quote.index(b"-----BEGIN") - 6) if quote[0] == 3 or at not in (auth + 128, auth + 129)]


PUBLISHED = {"dcap-qvl-tdx/tdx_quote": "2025-07-01T00:00:00Z", "dcap-qvl-sgx/sgx_quote": "2025-07-19T10:01:18Z"}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_quote_with_its_collateral_is_judged_alike_whole_and_spoilt(vectors: Path, name: str) -> None:
    file = vectors / "tdx" / name
    quote, collateral = file.read_bytes(), json.loads(file.with_name(f"{file.name}_collateral.json").read_text())
    root, at = INTEL_CERTIFICATES[0].der, int(datetime.fromisoformat(PUBLISHED[name]).timestamp())
    assert parse_certificate(root).is_self_issued

    assert same(quote, collateral, root, at) is not None
    for later in (at + 31 * DAY, at - 400 * DAY):
        assert ours(quote, collateral, root, later) is None
    chance = random.Random(7)
    for at_byte in chance.sample(_bytes_that_count(quote), MOST_MUTATIONS):
        spoilt = quote[:at_byte] + bytes([quote[at_byte] ^ 1 << chance.randrange(8)]) + quote[at_byte + 1 :]
        assert same(spoilt, collateral, root, at) is None, at_byte
    for part in ("tcb_info", "qe_identity", "tcb_info_signature", "qe_identity_signature", "pck_crl", "root_ca_crl"):
        for _ in range(8):
            text = collateral[part]
            place = chance.randrange(len(text))
            digits = "0123456789abcdef"
            other = digits[(digits.index(text[place].lower()) + 1) % 16] if text[place].lower() in digits else "~"
            assert same(quote, collateral | {part: text[:place] + other + text[place + 1 :]}, root, at) is None, (part, place)

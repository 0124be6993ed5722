"""NVIDIA devices: what is genuine and as released passes, and every swapped, stale, cut or weakened piece is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tests.world.authority import BORN, Ca
from tests.world.chip import private_key
from tests.world.nvidia import (
    BLACKWELL,
    BLACKWELL_RIMS,
    BLOCKS,
    DEVICE_ROOTS,
    DRIVER,
    DRIVER_RIM,
    FIRMWARE,
    IDENTITY,
    NONCE,
    PROVISIONER,
    RIM_L3,
    RIM_ROOTS,
    ROOT,
    SWITCH,
    SWITCH_BLOCKS,
    SWITCH_FIELDS,
    SWITCH_RIM,
    VBIOS_RIM,
    Device,
    RimMaker,
    certificates,
    composite,
    evidence,
    gpu_fields,
    headed,
    p384,
    tcb_info,
    tlv,
)
from writ.formats.crl import parse_crl
from writ.formats.errors import Misuse
from writ.formats.ocsp import parse_ocsp
from writ.formats.tee.nvidia import parse_evidence
from writ.formats.tee.rim import parse_rim
from writ.formats.trust import ChainRules
from writ.verdict.appraise.nvidia import NamedRim, NvidiaAppraisal, NvidiaCollateral, NvidiaPolicy, judge_nvidia

NOW = 1_790_000_000
DAY = 86_400
DRIVER_ID, VBIOS_ID = "NV_GPU_DRIVER_GH100_550.90.07", "NV_GPU_VBIOS_1010_0200_882_96009F0001"
POLICY = NvidiaPolicy(DEVICE_ROOTS, RIM_ROOTS, NONCE)
OTHER = bytes(32)
GPU = Device()


def named(*makers: tuple[str, RimMaker]) -> tuple[NamedRim, ...]:
    return tuple(NamedRim(name, parse_rim(maker.document())) for name, maker in makers)


RIMS = named((DRIVER_ID, DRIVER_RIM), (VBIOS_ID, VBIOS_RIM))


def judged(
    *entries: dict[str, Any], rims: Sequence[NamedRim] = RIMS, at: int = NOW, policy: NvidiaPolicy = POLICY, **held: Any
) -> NvidiaAppraisal:
    return judge_nvidia(parse_evidence(evidence(*entries)), NvidiaCollateral(tuple(rims), **held), policy, at=at)


def why(appraisal: NvidiaAppraisal) -> list[tuple[str, str]]:
    """Each reason's code and claim."""
    return [(reason.code, reason.claim) for reason in appraisal.reasons]


# --- what is accepted -----------------------------------------------------------------------------------------------------


def test_genuine_gpus_with_one_nonce_and_released_firmware_are_accepted() -> None:
    found = judged(GPU.entry(driver_version=DRIVER, vbios_version="96.00.9f.00.01", cc_mode="on"), Device(2).entry())
    assert not found.reasons
    first, second = found.devices
    assert (first.model, first.architecture, first.driver, first.vbios) == ("GH100 A01 GSP BROM", "HOPPER", DRIVER, "96.00.9F.00.01")
    assert (first.nonce, first.firmware, first.mode) == (NONCE, FIRMWARE, "SPT")
    assert (first.root, first.rims, first.differing) == ("CN=Test Device Identity CA", (DRIVER_ID, VBIOS_ID), ())
    assert first.measurements == BLOCKS
    assert first.device != second.device
    assert {note.code for note in found.notes} == {"revocation-unknown"}


def test_blackwell_and_a_switch_are_accepted() -> None:
    rims = named(("NV_GPU_CC_DRIVER_GB100_550.90.07", BLACKWELL_RIMS[0]), (VBIOS_ID, BLACKWELL_RIMS[1]), ("s", SWITCH_RIM))
    switch = SWITCH.entry(report=SWITCH.report(blocks=SWITCH_BLOCKS, opaque=tlv(SWITCH_FIELDS.items())))
    found = judged(BLACKWELL.entry(), switch, rims=rims)
    assert not found.reasons
    assert [(one.architecture, one.driver, one.vbios, one.mode) for one in found.devices] == [
        ("BLACKWELL", DRIVER, "96.00.9F.00.01", "SPT"), ("LS10", None, "96.10.55.00.01", None),
    ]  # fmt: skip


def test_chain_may_come_in_any_order_with_strangers_and_without_its_root() -> None:
    stranger = Ca("stranger").certificate()
    chain = GPU.chain()
    for given in (chain[::-1], (chain[0], stranger, *chain[1:], chain[1]), chain[:-1]):
        assert not judged(GPU.entry(chain=given)).reasons


def test_report_without_a_firmware_id_or_a_feature_flag_is_of_an_older_driver() -> None:
    opaque = tlv(gpu_fields(f20=None, f21=None, f34=None, f36=None).items())
    entry = GPU.entry(report=GPU.report(opaque=opaque), cc_mode="on")
    assert why(judged(entry)) == [("nvidia-mode-unproven", "devices[0].mode")], "the host's word proves nothing"
    found = judged(entry, policy=replace(POLICY, mode_required=False))
    assert not found.reasons
    assert found.devices[0].mode is None
    assert "nvidia-mode-unproven" in {note.code for note in found.notes}


def test_block_of_nvdec0_counts_only_where_nvdec0_is_enabled() -> None:
    blocks = {**BLOCKS, 36: bytes(48)}
    off = GPU.report(blocks=blocks, opaque=tlv(gpu_fields(f11=b"\x55").items()))
    assert not judged(GPU.entry(report=off)).reasons
    for status in (b"\xaa", b"\x00", None):
        on = GPU.report(blocks=blocks, opaque=tlv(gpu_fields(f11=status).items()))
        found = judged(GPU.entry(report=on))
        assert why(found) == [("nvidia-measurement-mismatch", "devices[0].measurements")]
        assert found.devices[0].differing == (36,)


# --- chain and signature --------------------------------------------------------------------------------------------------


def test_chain_to_another_root_is_refused_and_rim_root_is_no_device_root() -> None:
    for roots in (certificates(Ca("stranger")), RIM_ROOTS):
        found = judged(GPU.entry(), policy=replace(POLICY, device_roots=roots))
        assert why(found) == [("certificate-refused", "devices[0].cert_chain")]
        assert found.devices[0].root is None
        assert found.devices[0].model == "GH100 A01 GSP BROM"
    twin = replace(ROOT, key="another")
    forged = Device(above=replace(PROVISIONER, above=replace(IDENTITY, above=twin)))
    assert why(judged(forged.entry())) == [("certificate-refused", "devices[0].cert_chain")]


def test_missing_intermediate_and_missing_attestation_key_are_refused() -> None:
    chain = GPU.chain()
    assert why(judged(GPU.entry(chain=(*chain[:2], *chain[3:])))) == [("certificate-refused", "devices[0].cert_chain")]
    codes = [code for code, _ in why(judged(GPU.entry(chain=chain[1:])))]
    assert {"certificate-refused", "signature-invalid", "nvidia-firmware-mismatch"} <= set(codes)


def test_device_certifies_no_ca_of_its_own() -> None:
    """Its key signs attestation keys. A CA below it would certify devices of any name."""
    below = Ca("GH100 A01 GSP BROM", GPU.brom, key="of the device's owner")
    extensions = ((x509.KeyUsage(True, False, False, False, False, False, False, False, False), True), (composite(FIRMWARE), False))
    leaf = below.sign(x509.Name([]), p384(GPU.seed).public_key(), extensions)
    found = judged(GPU.entry(chain=(leaf, below.certificate(), *GPU.chain()[1:])))
    assert why(found) == [("certificate-refused", "devices[0].cert_chain")]
    assert "more than 3 CAs" in found.reasons[0].got


def test_leaf_that_is_a_ca_or_may_sign_certificates_is_no_attestation_key() -> None:
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    for extensions in (((x509.BasicConstraints(True, None), True), (usage, True)), ((usage, True),)):
        found = judged(Device(leaf_extensions=extensions).entry())
        assert ("certificate-refused", "devices[0].cert_chain") in why(found)


def test_expired_and_not_yet_valid_certificates_are_refused() -> None:
    short = Device(life=timedelta(days=1))
    found = judged(short.entry())
    assert why(found) == [("certificate-expired", "devices[0].cert_chain")]
    assert why(judged(GPU.entry(), at=int(BORN.timestamp()) - 1))[0] == ("certificate-expired", "devices[0].cert_chain")
    assert not judged(short.entry(), at=int(BORN.timestamp()) + 60).reasons


def test_revoked_certificates_are_refused_by_crl_and_by_ocsp_of_any_level_but_the_leaf() -> None:
    crl = parse_crl(PROVISIONER.crl(0x77, this=NOW - DAY))
    assert why(judged(GPU.entry(), crls=(crl,))) == [("certificate-revoked", "devices[0].cert_chain")]
    for ca in (PROVISIONER, IDENTITY, ROOT):
        response = parse_ocsp(ca.ocsp(0x77, "revoked", this=NOW - DAY, hashed="sha384"))
        assert why(judged(GPU.entry(), responses=(response,))) == [("certificate-revoked", "devices[0].cert_chain")]


def test_where_revocation_must_be_known_stale_statements_are_too_little() -> None:
    policy = replace(POLICY, rules=ChainRules(crl_required=True), rims_required=False)
    signers = (PROVISIONER, IDENTITY, ROOT)
    fresh = tuple(parse_ocsp(ca.ocsp(0x77, this=NOW - DAY, following=NOW + DAY)) for ca in signers)
    found = judged(GPU.entry(), rims=(), policy=policy, responses=fresh)
    assert not found.reasons
    assert len(found.statements) == 3, "what was known, and of when, goes with the result"
    stale = tuple(parse_ocsp(ca.ocsp(0x77, this=NOW - 9 * DAY)) for ca in signers)
    for responses in ((), stale, fresh[:2]):
        assert {code for code, _ in why(judged(GPU.entry(), rims=(), policy=policy, responses=responses))} == {"revocation-unknown"}


def test_signature_over_one_report_and_content_of_another_is_refused() -> None:
    mine, theirs = GPU.report(), GPU.report(blocks={**BLOCKS, 8: bytes(48)})
    found = judged(GPU.entry(report=theirs[:-96] + mine[-96:]))
    assert why(found) == [("signature-invalid", "devices[0].signature")]
    assert found.devices[0].rims == (), "nothing is compared that nobody signed"


def test_report_of_another_device_is_refused() -> None:
    assert why(judged(GPU.entry(report=Device(2).report()))) == [("signature-invalid", "devices[0].signature")]
    assert why(judged(GPU.entry(report=GPU.report(signer="nobody")))) == [("signature-invalid", "devices[0].signature")]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _: bytes(96), id="zeros"),
        pytest.param(lambda _: b"\xff" * 96, id="beyond the order"),
        pytest.param(lambda raw: raw[48:] + raw[:48], id="s before r"),
        pytest.param(lambda raw: raw[:48][::-1] + raw[48:][::-1], id="little-endian"),
        pytest.param(lambda raw: raw[:48] + bytes(48), id="s of zero"),
        pytest.param(lambda raw: raw[:95] + bytes((raw[95] ^ 1,)), id="one bit"),
    ],
)
def test_odd_signatures_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    report = GPU.report()
    assert why(judged(GPU.entry(report=report[:-96] + spoil(report[-96:])))) == [("signature-invalid", "devices[0].signature")]


def test_attestation_key_of_another_curve_is_refused_though_it_signed() -> None:
    key = private_key("p256")
    other = Device(leaf_key=key.public_key())
    signed = other.report()[:-96]
    r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    report = signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")
    assert why(judged(other.entry(report=report))) == [("signature-invalid", "devices[0].signature")]


# --- nonce, firmware, model, mode -----------------------------------------------------------------------------------------


def test_nonce_of_another_request_is_refused() -> None:
    assert why(judged(GPU.entry(OTHER))) == [("nonce-mismatch", "devices[0].nonce")]
    stated = judged(GPU.entry(nonce=NONCE.hex(), report=GPU.report(OTHER)), policy=replace(POLICY, nonce=None))
    assert why(stated) == [("nonce-mismatch", "devices[0].nonce")], "what the file states is not what was signed"


def test_devices_that_answer_different_nonces_are_no_set() -> None:
    found = judged(GPU.entry(), Device(2).entry(OTHER), policy=replace(POLICY, nonce=None))
    assert why(found) == [("nonce-mismatch", "devices")]


def test_firmware_must_be_what_the_key_was_certified_for() -> None:
    claim = [("nvidia-firmware-mismatch", "devices[0].firmware")]
    other = hashlib.sha384(b"other").digest()
    assert why(judged(GPU.entry(report=GPU.report(opaque=tlv(gpu_fields(f20=other).items()))))) == claim
    assert why(judged(Device(extension=composite(other)).entry())) == claim
    silent = Device(extension=None)
    for report in (silent.report(), silent.report(opaque=tlv(gpu_fields(f20=None).items()))):
        assert why(judged(silent.entry(report=report))) == claim, "a key that nobody certified for any firmware"
    rims = named(("d", BLACKWELL_RIMS[0]), ("v", BLACKWELL_RIMS[1]))
    second = replace(BLACKWELL, extension=tcb_info(bytes(48), FIRMWARE))
    assert why(judged(second.entry(), rims=rims)) == claim, "the first digest is the layer's own"
    assert why(judged(replace(BLACKWELL, extension=tcb_info()).entry(), rims=rims)) == claim


@pytest.mark.parametrize("flags, named_so", [(0x90000001, "debug"), (0xA0000001, "recovery"), (0xC0000001, "not secure")])
def test_device_in_debug_recovery_or_insecure_state_is_refused(flags: int, named_so: str) -> None:
    rims = named(("d", BLACKWELL_RIMS[0]), ("v", BLACKWELL_RIMS[1]))
    found = judged(replace(BLACKWELL, extension=tcb_info(FIRMWARE, flags=flags)).entry(), rims=rims)
    assert why(found) == [("nvidia-debug", "devices[0].flags")]
    assert found.reasons[0].got == named_so


@pytest.mark.parametrize(
    "stated, claim",
    [
        ({"arch": "BLACKWELL"}, "model"),
        ({"arch": "LS10"}, "model"),
        ({"driver_version": "550.90.08"}, "driver"),
        ({"vbios_version": "96.00.9F.00.02"}, "vbios"),
    ],
)
def test_what_the_file_states_is_compared(stated: dict[str, Any], claim: str) -> None:
    assert why(judged(GPU.entry(**stated))) == [("nvidia-model-mismatch", f"devices[0].{claim}")]


@pytest.mark.parametrize(
    "model", ["GR100 A01 GSP", "GH100", "LS_20 A01 FSP", "NVIDIA GH100 A01 GSP", "GH100 A01 GSP BROM+", "x,CN=GH100 A01 GSP"]
)
def test_device_of_an_unknown_generation_is_refused(model: str) -> None:
    found = judged(Device(model=model).entry(arch=None))
    assert why(found) == [("nvidia-model-mismatch", "devices[0].model")]
    assert found.devices[0].rims == ()


@pytest.mark.parametrize("mode", ["off", "devtools"])
def test_device_whose_host_says_that_cc_mode_is_not_on_is_refused(mode: str) -> None:
    found = judged(GPU.entry(cc_mode=mode))
    assert why(found) == [("nvidia-mode-refused", "devices[0].mode")]
    assert found.reasons[0].got == mode


@pytest.mark.parametrize(
    "fields, mode",
    [
        ({"f36": b"\0\0"}, "SPT"), ({"f36": b"\1\0"}, "MPT"), ({"f36": b"\2\0", "f21": b"\xaa"}, "PPCIE"),
        ({"f36": None, "f34": None, "f21": b"\xaa"}, "PPCIE"),
    ],
)  # fmt: skip
def test_mode_is_the_one_of_the_feature_flag_and_the_policy_may_narrow_it(fields: dict[str, bytes | None], mode: str) -> None:
    entry = GPU.entry(report=GPU.report(opaque=tlv(gpu_fields(**fields).items())))
    found = judged(entry)
    assert not found.reasons
    assert found.devices[0].mode == mode
    narrow = judged(entry, policy=replace(POLICY, modes=frozenset({"SPT"})))
    assert why(narrow) == ([] if mode == "SPT" else [("nvidia-mode-refused", "devices[0].mode")])


@pytest.mark.parametrize("fields", [{"f36": b"\3\0"}, {"f21": b"\x00"}, {"f21": b"\xaa"}, {"f21": b""}])
def test_mode_that_nobody_knows_or_that_contradicts_itself_is_refused(fields: dict[str, bytes]) -> None:
    found = judged(GPU.entry(report=GPU.report(opaque=tlv(gpu_fields(**fields).items()))))
    assert why(found) == [("nvidia-mode-refused", "devices[0].mode")]


def test_opaque_data_that_is_not_as_it_should_be_is_a_reason_and_no_error() -> None:
    for fields, claim in (
        ({"f3": b"\xff\0"}, "devices[0].opaque data.3"), ({"f6": b"96"}, "devices[0].opaque data.VBIOS version"),
        ({"f36": bytes(9)}, "devices[0].mode.opaque data.36"),
    ):  # fmt: skip
        assert ("malformed", claim) in why(judged(GPU.entry(report=GPU.report(opaque=tlv(gpu_fields(**fields).items())))))


# --- the set --------------------------------------------------------------------------------------------------------------


def test_one_device_is_not_two_under_one_report_or_under_another() -> None:
    expected = [("nvidia-device-repeated", "devices[2]")]
    again = GPU.entry(report=GPU.report(opaque=tlv([*gpu_fields().items(), (99, b"")])))
    assert why(judged(GPU.entry(), Device(2).entry(), GPU.entry())) == expected
    assert why(judged(GPU.entry(), Device(2).entry(), again)) == expected
    lenient = replace(POLICY, distinct=False)
    same = judged(GPU.entry(), Device(2).entry(), GPU.entry(), policy=lenient)
    assert not same.reasons
    assert ("nvidia-device-repeated", "devices[2]") in [(note.code, note.claim) for note in same.notes]
    assert why(judged(GPU.entry(), Device(2).entry(), again, policy=lenient)) == expected, "a second report is no copy of the first"


def test_one_bad_device_refuses_the_set_and_is_named() -> None:
    found = judged(GPU.entry(), Device(2).entry(report=GPU.report(signer="nobody")), Device(3).entry())
    assert why(found) == [("signature-invalid", "devices[1].signature")]


def test_no_device_is_no_set() -> None:
    with pytest.raises(Misuse):
        judge_nvidia((), NvidiaCollateral(), POLICY, at=NOW)


# --- RIMs -----------------------------------------------------------------------------------------------------------------


def test_without_rims_no_device_is_taken_unless_the_policy_does_not_ask() -> None:
    found = judged(GPU.entry(), rims=())
    assert why(found) == [("nvidia-rim-missing", "devices[0].driver"), ("nvidia-rim-missing", "devices[0].vbios")]
    assert [reason.expected for reason in found.reasons] == [DRIVER_ID, VBIOS_ID]
    lenient = judged(GPU.entry(), rims=(), policy=replace(POLICY, rims_required=False))
    assert not lenient.reasons
    assert "nvidia-rim-missing" in {note.code for note in lenient.notes}
    partial = judged(GPU.entry(), rims=RIMS[:1], policy=replace(POLICY, rims_required=False))
    assert why(partial) == [("nvidia-rim-missing", "devices[0].vbios")], "where there are RIMs, each must be there"


def test_rim_for_another_version_or_another_product_is_none_for_this_device() -> None:
    for maker in (replace(VBIOS_RIM, version="96.00.9F.00.02"), replace(VBIOS_RIM, product="GB100")):
        rims = named((DRIVER_ID, DRIVER_RIM), (VBIOS_ID, maker))
        assert why(judged(GPU.entry(), rims=rims)) == [("nvidia-rim-missing", "devices[0].vbios")], "the name of a file proves nothing"


def test_changed_measurements_are_refused_by_number() -> None:
    blocks = {**BLOCKS, 3: bytes(48)[:-1] + b"\1", 9: bytes(48)}
    found = judged(GPU.entry(report=GPU.report(blocks=blocks)))
    assert why(found) == [("nvidia-measurement-mismatch", "devices[0].measurements")] * 2
    assert found.devices[0].differing == (3, 9)
    missing = {index: value for index, value in BLOCKS.items() if index != 9}
    assert judged(GPU.entry(report=GPU.report(blocks=missing))).devices[0].differing == (9,)
    longer = {**BLOCKS, 9: BLOCKS[9] + b"\0"}
    assert judged(GPU.entry(report=GPU.report(blocks=longer))).devices[0].differing == (9,)


def test_each_alternative_of_a_rim_is_taken_and_inactive_ones_name_nothing() -> None:
    blocks = {**BLOCKS, 2: bytes(48), 1: b"\7" * 48}
    assert not judged(GPU.entry(report=GPU.report(blocks=blocks))).reasons


def test_block_that_driver_and_vbios_both_name_is_refused() -> None:
    both = replace(VBIOS_RIM, active={**VBIOS_RIM.active, 7: [BLOCKS[8]]})
    found = judged(GPU.entry(), rims=named((DRIVER_ID, DRIVER_RIM), (VBIOS_ID, both)))
    assert why(found) == [("nvidia-rim-refused", "devices[0].rims")]


@pytest.mark.parametrize(
    "maker, code",
    [
        pytest.param(replace(VBIOS_RIM, above=PROVISIONER), "certificate-refused", id="chain of devices"),
        pytest.param(replace(VBIOS_RIM, above=replace(RIM_L3, above=Ca("stranger"))), "certificate-refused", id="another root"),
        pytest.param(replace(VBIOS_RIM, life=timedelta(days=30)), "certificate-expired", id="expired"),
        pytest.param(replace(VBIOS_RIM, born=BORN + timedelta(days=700)), "certificate-expired", id="not yet valid"),
    ],
)
def test_rim_that_nvidia_does_not_vouch_for_now_is_refused(maker: RimMaker, code: str) -> None:
    found = judged(GPU.entry(), rims=named((DRIVER_ID, DRIVER_RIM), (VBIOS_ID, maker)))
    assert why(found) == [(code, f"rims.{VBIOS_ID}.certificate")]


def test_revoked_rim_signer_is_refused() -> None:
    crl = parse_crl(RIM_L3.crl(0x77, this=NOW - DAY))
    assert {code for code, _ in why(judged(GPU.entry(), crls=(crl,)))} == {"certificate-revoked"}


def test_rim_whose_signature_fails_is_refused_and_what_differs_is_said() -> None:
    text = VBIOS_RIM.document().replace(BLOCKS[3].hex().encode(), hashlib.sha384(b"evil").hexdigest().encode())
    found = judged(GPU.entry(), rims=(RIMS[0], NamedRim(VBIOS_ID, parse_rim(text))))
    assert why(found) == [("nvidia-measurement-mismatch", "devices[0].measurements"), ("signature-invalid", f"rims.{VBIOS_ID}")]


def test_rim_is_found_by_its_id_and_by_what_it_signs_where_its_file_is_called_otherwise() -> None:
    wrong = replace(VBIOS_RIM, active={1: [bytes(48)[:-1] + b"\1"]})
    by_id = named((DRIVER_ID, DRIVER_RIM), ("1010_0200_882_96009F0001_test", VBIOS_RIM), (VBIOS_ID, wrong))
    found = judged(GPU.entry(), rims=by_id)
    assert found.devices[0].rims == (DRIVER_ID, VBIOS_ID), "the id decides, whatever another would say"
    assert why(found) == [("nvidia-measurement-mismatch", "devices[0].measurements")]
    by_board = named(("d", DRIVER_RIM), ("other board", wrong), ("1010_0200_882_96009F0001_PROD", VBIOS_RIM))
    assert judged(GPU.entry(), rims=by_board).devices[0].rims == ("d", "1010_0200_882_96009F0001_PROD")
    unnamed = named(("d", DRIVER_RIM), ("a", wrong), ("b", VBIOS_RIM))
    assert not judged(GPU.entry(), rims=unnamed).reasons, "of two for one version the one that the values are of"


def test_security_version_below_the_rim_is_refused() -> None:
    rims = named((DRIVER_ID, replace(DRIVER_RIM, floors={0x26: 3})), (VBIOS_ID, VBIOS_RIM))
    plain = [(number, 0, value) for number, value in gpu_fields(f34=None).items()]
    for field, expected in (
        ((0x26, 0x87, b"\3\0"), []), ((0x26, 0x87, b"\4\0"), []), ((0x26, 0x87, b"\2\0"), ["nvidia-svn-low"]),
        ((0x26, 0x86, b"\3\0"), ["nvidia-svn-low"]), ((0x26, 0x87, b"\3"), ["nvidia-svn-low"]), ((0x27, 0x87, b"\3\0"), ["nvidia-svn-low"]),
    ):  # fmt: skip
        entry = GPU.entry(report=GPU.report(opaque=headed([*plain, field])))
        assert [code for code, _ in why(judged(entry, rims=rims))] == expected

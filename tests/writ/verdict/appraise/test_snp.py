"""SEV-SNP reports judged: what is accepted, and each attack with its own reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.world.amd import BORN, NOW, POLICY, TCB, TURIN_TCB, Amd, SnpChip, p384_key, raw_tcb, rsa_key
from tests.writ.verdict.refusal import refused
from writ.formats.crl import Crl
from writ.formats.digest import Digest
from writ.formats.tee.snp import HOST, Firmware, Tcb, parse_report
from writ.formats.tee.vek import Vek, parse_vek
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate
from writ.verdict.amd_roots import ROOTS, amd_authorities
from writ.verdict.appraise.snp import AppraisedReport, SnpPolicy, appraise_report, order_veks

P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
CHIP = SnpChip()
TURIN = SnpChip(Amd("Turin"), tcb=TURIN_TCB)
VLEK = SnpChip(cloud="a cloud")
NONCE = b"\x22" * 64
PLAIN = SnpPolicy()


def judge(
    data: bytes,
    *,
    chip: SnpChip = CHIP,
    vek: Vek | None = None,
    policy: SnpPolicy = PLAIN,
    at: int = NOW,
    report_data: bytes | None = NONCE,
    authorities: Sequence[Certificate] | None = None,
    anchors: Collection[Digest] | None = None,
    crls: Sequence[Crl] = (),
) -> AppraisedReport:
    return appraise_report(
        parse_report(data),
        vek or chip.vek(),
        chip.amd.authorities() if authorities is None else authorities,
        chip.amd.anchors() if anchors is None else anchors,
        policy,
        at=at,
        report_data=report_data,
        crls=crls,
    )


def codes(found: AppraisedReport) -> list[tuple[str, str]]:
    return [(reason.code, reason.claim) for reason in found.reasons]


def read(certificate: Certificate) -> Vek:
    vek = parse_vek(certificate)
    assert vek is not None
    return vek


# --- what is accepted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("chip", [CHIP, SnpChip(Amd("Genoa")), TURIN, VLEK, SnpChip(Amd("Turin"), tcb=TURIN_TCB, cloud="a cloud")])
def test_report_of_each_version_product_and_key_is_accepted(chip: SnpChip, version: int) -> None:
    found = judge(chip.report(version=version), chip=chip)
    assert codes(found) == []
    assert (found.key, found.line, found.cloud, found.chip_id) == (chip.kind, chip.amd.line, chip.cloud, chip.chip_id)
    assert found.reported == found.current == found.committed == found.launch == chip.tcb
    assert found.chain.startswith(f"CN=ARK-{chip.amd.line}")


def test_chip_whose_host_hides_its_id_is_known_by_its_certificate() -> None:
    assert judge(CHIP.report(chip_id=bytes(64))).chip_id == CHIP.chip_id
    assert judge(VLEK.report(chip_id=bytes(64)), chip=VLEK).chip_id is None


def test_answer_is_followed_by_zeros() -> None:
    report = CHIP.report(report_data=b"\1\2\3")
    assert codes(judge(report, report_data=b"\1\2\3")) == []
    assert codes(judge(report, report_data=b"\1\2\3\0")) == []
    assert codes(judge(report, report_data=None)) == []


def test_cpu_of_each_line_is_known_by_family_and_model() -> None:
    for line, cpus in {
        "Milan": (b"\x19\x00\x00", b"\x19\x0f\x02"), "Genoa": (b"\x19\x10\x00", b"\x19\x1f\x00", b"\x19\xa0\x00", b"\x19\xaf\x00"),
        "Turin": (b"\x1a\x00\x00", b"\x1a\x11\x00", b"\x1a\x1f\x00"),
    }.items():  # fmt: skip
        chip = SnpChip(Amd(line), tcb=TURIN_TCB if line == "Turin" else TCB)
        for cpu in cpus:
            assert codes(judge(chip.report(cpu=cpu), chip=chip)) == []


# --- attacks on who made it -----------------------------------------------------------------------------------------------


def test_signature_over_one_report_and_content_of_another() -> None:
    one, other = CHIP.report(), CHIP.report(measurement=b"\x99" * 48)
    assert refused(lambda: judge(other[:0x2A0] + one[0x2A0:])).code == "signature-invalid"


def test_each_byte_of_a_report_is_signed() -> None:
    report = bytearray(CHIP.report())
    for at in (0x04, 0x09, 0x10, 0x20, 0x40, 0x50, 0x90, 0xC0, 0xE0, 0x140, 0x160, 0x1E8, 0x1F8):
        spoilt = bytearray(report)
        spoilt[at] ^= 1
        assert refused(lambda spoilt=spoilt: judge(bytes(spoilt))).code == "signature-invalid"  # type: ignore[misc]


@pytest.mark.parametrize("r, s", [(0, 1), (1, 0), (1, 1), (P384_ORDER, 1), (1, P384_ORDER), (2**575, 1), (2**576 - 1, 2**576 - 1)])
def test_signature_of_impossible_numbers(r: int, s: int) -> None:
    data = (CHIP.body() + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(1184, b"\0")
    assert refused(lambda: judge(data)).code == "signature-invalid"


def test_other_half_of_a_signature_says_the_same() -> None:
    body = CHIP.body()
    r, s = decode_dss_signature(p384_key(CHIP.seed).sign(body, ec.ECDSA(_sha384())))
    data = (body + r.to_bytes(72, "little") + (P384_ORDER - s).to_bytes(72, "little")).ljust(1184, b"\0")
    assert judge(data).report.signed == body


def _sha384() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA384()


def test_big_endian_signature_is_none() -> None:
    body = CHIP.body()
    r, s = decode_dss_signature(p384_key(CHIP.seed).sign(body, ec.ECDSA(_sha384())))
    data = (body + r.to_bytes(72, "big") + s.to_bytes(72, "big")).ljust(1184, b"\0")
    assert refused(lambda: judge(data)).code == "signature-invalid"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()])
def test_key_on_another_curve_signs_nothing(curve: ec.EllipticCurve) -> None:
    """Its signature holds as ECDSA with SHA-384; it is on no curve that the firmware uses."""
    key, body = ec.generate_private_key(curve), CHIP.body()
    r, s = decode_dss_signature(key.sign(body, ec.ECDSA(_sha384())))
    data = (body + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(1184, b"\0")
    assert refused(lambda: judge(data, vek=read(CHIP.certificate(public=key.public_key())))).code == "signature-invalid"


def test_key_of_another_kind_signs_nothing() -> None:
    vek = read(CHIP.certificate(public=rsa_key("vek", 2048).public_key()))
    assert refused(lambda: judge(CHIP.report(), vek=vek)).code == "signature-invalid"


def test_certificate_of_another_chip() -> None:
    other = SnpChip(name="other")
    reason = refused(lambda: judge(CHIP.report(), vek=other.vek()))
    assert (reason.code, reason.claim) == ("snp-chip-mismatch", "chip_id")
    assert refused(lambda: judge(CHIP.report(chip_id=bytes(64)), vek=other.vek())).code == "signature-invalid"


def test_chip_of_turin_is_all_64_bytes_of_its_report() -> None:
    report = TURIN.report(chip_id=TURIN.hwid + b"\1")
    assert refused(lambda: judge(report, chip=TURIN)).code == "snp-chip-mismatch"


def test_certificate_for_another_tcb() -> None:
    older = replace(CHIP, tcb=replace(TCB, microcode=100))
    reason = refused(lambda: judge(CHIP.report(), vek=older.vek()))
    assert (reason.code, reason.claim) == ("snp-tcb-mismatch", "reported_tcb")


def test_fmc_of_turin_is_part_of_the_tcb() -> None:
    older = replace(TURIN, tcb=replace(TURIN_TCB, fmc=0))
    assert refused(lambda: judge(TURIN.report(), chip=TURIN, vek=older.vek())).code == "snp-tcb-mismatch"


@pytest.mark.parametrize("chip, other", [(CHIP, VLEK), (VLEK, CHIP)])
def test_key_of_the_other_kind_did_not_sign(chip: SnpChip, other: SnpChip) -> None:
    reason = refused(lambda: judge(chip.report(), vek=other.vek()))
    assert (reason.code, reason.claim) == ("snp-key-mismatch", "signing_key")


def test_vlek_of_another_cloud_did_not_sign() -> None:
    other = SnpChip(cloud="another cloud")
    assert refused(lambda: judge(VLEK.report(), vek=other.vek())).code == "signature-invalid"


@pytest.mark.parametrize("key_information, got", [(28, "none asked for"), (2, "MASK_CHIP_KEY"), (6, "MASK_CHIP_KEY")])
def test_report_without_a_signature_is_anybodys(key_information: int, got: str) -> None:
    body = CHIP.body(key_information=key_information)
    for data in (body.ljust(1184, b"\0"), CHIP.sign(body)):
        reason = refused(lambda data=data: judge(data))  # type: ignore[misc]
        assert (reason.code, reason.got) == ("snp-unsigned", got)


def test_signature_of_zeros_is_none() -> None:
    reason = refused(lambda: judge(CHIP.body().ljust(1184, b"\0")))
    assert (reason.code, reason.got) == ("snp-unsigned", "zeros")


# --- attacks on the chain -------------------------------------------------------------------------------------------------


def test_another_amd_of_the_same_names_is_not_believed() -> None:
    forged = SnpChip(Amd(seed="forged"))
    authorities = (*forged.amd.authorities(), *CHIP.amd.authorities())
    assert refused(lambda: judge(forged.report(), vek=forged.vek(), authorities=authorities)).code == "certificate-refused"


def test_production_roots_do_not_vouch_for_imitations() -> None:
    authorities = (*CHIP.amd.authorities(), *amd_authorities())
    assert refused(lambda: judge(CHIP.report(), authorities=authorities, anchors=ROOTS)).code == "certificate-refused"


def test_self_signed_key_is_not_believed() -> None:
    assert refused(lambda: judge(CHIP.report(), authorities=())).code == "certificate-refused"
    assert refused(lambda: judge(CHIP.report(), authorities=(CHIP.certificate(),), anchors=())).code == "certificate-refused"


@pytest.mark.parametrize("at", [int(BORN.timestamp()) - 1, int((BORN + timedelta(days=365)).timestamp()) + 1])
def test_before_and_after_its_dates(at: int) -> None:
    assert refused(lambda: judge(CHIP.report(), at=at)).code == "certificate-expired"


def test_expired_key_and_expired_ca() -> None:
    vek = read(CHIP.certificate(life=timedelta(days=10)))
    assert refused(lambda: judge(CHIP.report(), vek=vek)).code == "certificate-expired"
    early = read(CHIP.certificate(born=BORN + timedelta(days=300)))
    assert refused(lambda: judge(CHIP.report(), vek=early)).code == "certificate-expired"
    authorities = (CHIP.amd.ask(life=timedelta(days=10)), CHIP.amd.ark())
    assert refused(lambda: judge(CHIP.report(), authorities=authorities)).code == "certificate-expired"


def test_revoked_ask_is_refused_and_a_crl_may_be_required() -> None:
    required = SnpPolicy(revocation=ChainRules(crl_required=True))
    assert [note.code for note in judge(CHIP.report()).notes] == ["revocation-unknown"]
    assert refused(lambda: judge(CHIP.report(), policy=required)).code == "revocation-unknown"
    fresh = CHIP.amd.crl(0x99)
    found = judge(CHIP.report(), policy=required, crls=[fresh])
    assert (found.notes, [one.digest for one in found.statements]) == ((), [Digest.of(fresh.der)])
    revoked = CHIP.amd.crl(CHIP.amd.ask().serial)
    assert refused(lambda: judge(CHIP.report(), crls=[revoked])).code == "certificate-revoked"
    stale = CHIP.amd.crl(this=NOW - 90 * 86_400, following=NOW - 86_400)
    assert refused(lambda: judge(CHIP.report(), policy=required, crls=[stale])).code == "revocation-unknown"


def test_crl_by_another_root_says_nothing() -> None:
    forged = Amd(seed="forged").crl(CHIP.amd.ask().serial)
    assert codes(judge(CHIP.report(), crls=[forged])) == []


# --- attacks on the product -----------------------------------------------------------------------------------------------


def test_vcek_by_the_ca_of_vleks_and_the_other_way_round() -> None:
    said = CHIP.amd.extensions(TCB, product="Milan-B0", hwid=CHIP.hwid)
    by_asvk = read(CHIP.amd.vek(CHIP.seed, said, issuer="SEV-VLEK"))
    assert refused(lambda: judge(CHIP.report(), vek=by_asvk)).code == "snp-product-mismatch"
    lent = read(VLEK.amd.vek(VLEK.seed, VLEK.amd.extensions(TCB, product="Milan", csp="a cloud"), kind="VLEK", issuer="SEV"))
    assert refused(lambda: judge(VLEK.report(), chip=VLEK, vek=lent)).code == "snp-product-mismatch"


def test_product_that_is_not_the_one_of_its_ca() -> None:
    vek = read(CHIP.amd.vek(CHIP.seed, CHIP.amd.extensions(TCB, product="Genoa-B0", hwid=CHIP.hwid)))
    reason = refused(lambda: judge(CHIP.report(version=2), vek=vek))
    assert (reason.code, reason.claim) == ("snp-product-mismatch", "chain")


def test_root_of_another_name_is_no_root_of_the_line() -> None:
    """An intermediate is the anchor here, so that its name alone tells."""
    assert codes(judge(CHIP.report(), authorities=(CHIP.amd.ask(),), anchors={Digest.of(CHIP.amd.ask().der)})) == []
    vek = read(CHIP.amd.vek(CHIP.seed, CHIP.amd.extensions(TCB, product="Milan-B0", hwid=CHIP.hwid), issuer="ARK"))
    assert refused(lambda: judge(CHIP.report(), vek=vek)).code == "snp-product-mismatch"


def test_ca_of_a_name_that_is_none_of_amds() -> None:
    vek = read(CHIP.amd.vek(CHIP.seed, CHIP.amd.extensions(TCB, product="Milan-B0", hwid=CHIP.hwid), issuer="SEV of"))
    authorities = (CHIP.amd.ca("SEV of", "ARK"), CHIP.amd.ark())
    reason = refused(lambda: judge(CHIP.report(), vek=vek, authorities=authorities))
    assert (reason.code, reason.got) == ("snp-product-mismatch", "a CA of another name below ARK-Milan")


@pytest.mark.parametrize("line, cpu", [("Genoa", b"\x19\x20\x01"), ("Genoa", b"\x19\xb0\x01"), ("Turin", b"\x1a\x20\x01")])
def test_processor_after_the_last_of_its_line(line: str, cpu: bytes) -> None:
    chip = SnpChip(Amd(line), tcb=TURIN_TCB if line == "Turin" else TCB)
    assert refused(lambda: judge(chip.report(cpu=cpu), chip=chip)).claim == "cpu"


def test_ca_below_the_ask_certifies_nothing() -> None:
    """Between a key and its root stands one CA, whatever length of path that one's certificate would allow."""
    between = CHIP.amd.ca("SEV-Milan-2", "SEV")
    said = CHIP.amd.extensions(TCB, product="Milan-B0", hwid=CHIP.hwid)
    vek = read(CHIP.amd.vek(CHIP.seed, said, issuer="SEV-Milan-2"))
    authorities = (CHIP.amd.ca("SEV", "ARK", path_length=5), between, CHIP.amd.ark())
    assert "on the way" in refused(lambda: judge(CHIP.report(), vek=vek, authorities=authorities)).got


@pytest.mark.parametrize("cpu", [b"\x19\x10\x01", b"\x1a\x01\x01", b"\x17\x01\x01", b"\x19\x20\x00"])
def test_report_of_another_processor(cpu: bytes) -> None:
    reason = refused(lambda: judge(CHIP.report(cpu=cpu)))
    assert (reason.code, reason.claim) == ("snp-product-mismatch", "cpu")


# --- what stands in it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report_data", [b"\x22" * 63, b"\x23" + b"\x22" * 63, b"", b"\x22" * 65])
def test_nonce_of_another_request(report_data: bytes) -> None:
    assert codes(judge(CHIP.report(), report_data=report_data)) == [("nonce-mismatch", "report_data")]


def test_empty_nonce_is_answered_by_nothing() -> None:
    assert codes(judge(CHIP.report(report_data=bytes(64)), report_data=b"")) == [("nonce-mismatch", "report_data")]


REFUSED: list[tuple[dict[str, int | bytes], SnpPolicy, SnpPolicy, tuple[str, str]]] = [
    ({"policy": POLICY | 1 << 19}, PLAIN, SnpPolicy(debug=True), ("snp-debug", "policy.debug")),
    ({"policy": POLICY | 1 << 18}, PLAIN, SnpPolicy(migration=True), ("snp-migration", "policy.migrate_ma")),
    ({}, SnpPolicy(smt=False), PLAIN, ("snp-guest-policy", "policy.smt")),
    ({}, SnpPolicy(single_socket=True), PLAIN, ("snp-guest-policy", "policy.single_socket")),
    ({}, SnpPolicy(page_swap_off=True), PLAIN, ("snp-guest-policy", "policy.page_swap_disable")),
    ({}, SnpPolicy(ciphertext_hiding=True), PLAIN, ("snp-guest-policy", "policy.ciphertext_hiding")),
    ({"policy": POLICY | 51}, SnpPolicy(abi=(0, 52)), SnpPolicy(abi=(0, 51)), ("snp-guest-policy", "policy.abi")),
    ({"vmpl": 2}, PLAIN, SnpPolicy(vmpls=frozenset({2})), ("snp-vmpl", "vmpl")),
    ({"vmpl": HOST}, SnpPolicy(vmpls=frozenset(range(4))), SnpPolicy(vmpls=frozenset({HOST})), ("snp-vmpl", "vmpl")),
    ({}, SnpPolicy(host_data=b"\1" * 32), SnpPolicy(host_data=bytes(32)), ("snp-host-data", "host_data")),
    ({"family_id": b"f" * 16}, SnpPolicy(family_id=bytes(16)), SnpPolicy(family_id=b"f" * 16), ("snp-id-block", "family_id")),
    ({"image_id": b"f" * 16}, SnpPolicy(image_id=bytes(16)), SnpPolicy(image_id=b"f" * 16), ("snp-id-block", "image_id")),
    ({"guest_svn": 3}, SnpPolicy(guest_svn=4), SnpPolicy(guest_svn=3), ("snp-id-block", "guest_svn")),
    (
        {}, SnpPolicy(measurements=frozenset({b"\x12" * 48})), SnpPolicy(measurements=frozenset({b"\x12" * 48, b"\x11" * 48})),
        ("snp-measurement", "measurement"),
    ),
    (
        {"id_key_digest": b"i" * 48}, SnpPolicy(id_keys=frozenset({b"j" * 48})), SnpPolicy(id_keys=frozenset({b"i" * 48})),
        ("snp-id-block", "id_key_digest"),
    ),
    ({}, SnpPolicy(id_keys=frozenset({bytes(48)})), PLAIN, ("snp-id-block", "id_key_digest")),
    (
        {"author_key_digest": b"a" * 48, "key_information": 1}, SnpPolicy(author_keys=frozenset({b"b" * 48})),
        SnpPolicy(author_keys=frozenset({b"a" * 48})), ("snp-id-block", "author_key_digest"),
    ),
    ({}, SnpPolicy(author_keys=frozenset({bytes(48)})), PLAIN, ("snp-id-block", "author_key_digest")),
    ({}, SnpPolicy(keys=frozenset({"VLEK"})), SnpPolicy(keys=frozenset({"VCEK"})), ("snp-key-refused", "signing_key")),
    ({}, SnpPolicy(products=frozenset({"Milan-B1"})), SnpPolicy(products=frozenset({"Milan-B0"})), ("snp-product-refused", "product")),
    ({}, SnpPolicy(products=frozenset({"Genoa"})), SnpPolicy(products=frozenset({"Milan"})), ("snp-product-refused", "product")),
    (
        {"current_firmware": b"\x23\x37\x01", "committed_firmware": b"\x22\x37\x01"}, SnpPolicy(committed=True), PLAIN,
        ("snp-tcb-provisional", "committed_firmware"),
    ),
    (
        {"committed_tcb": raw_tcb(replace(TCB, snp=26), "Milan")}, SnpPolicy(committed=True), PLAIN,
        ("snp-tcb-provisional", "committed_firmware"),
    ),
    (
        {"committed_firmware": b"\x22\x37\x01"}, SnpPolicy(firmware=Firmware(1, 55, 35)), SnpPolicy(firmware=Firmware(1, 55, 34)),
        ("snp-tcb-old", "committed_firmware"),
    ),
    ({"platform_info": 1}, SnpPolicy(aliases_checked=True), PLAIN, ("snp-platform-refused", "platform_info")),
    (
        {"launch_mitigations": 1, "current_mitigations": 3}, SnpPolicy(mitigations=2), SnpPolicy(mitigations=1),
        ("snp-platform-refused", "launch_mitigations"),
    ),
    (
        {"launch_mitigations": 3, "current_mitigations": 1}, SnpPolicy(mitigations=2), SnpPolicy(mitigations=1),
        ("snp-platform-refused", "current_mitigations"),
    ),
]  # fmt: skip
"""What is in the report, a policy that refuses it and one that does not, and the reason."""


@pytest.mark.parametrize("given, refusing, accepting, reason", REFUSED)
def test_policy_refuses_one_thing_with_its_reason(
    given: dict[str, int | bytes], refusing: SnpPolicy, accepting: SnpPolicy, reason: tuple[str, str]
) -> None:
    report = CHIP.report(**given)
    assert codes(judge(report, policy=refusing)) == [reason]
    assert codes(judge(report, policy=accepting)) == []


MET: list[tuple[dict[str, int | bytes], SnpPolicy]] = [
    ({"policy": 0x20000}, SnpPolicy(smt=False)),
    ({"policy": POLICY | 1 << 20}, SnpPolicy(single_socket=True)),
    ({"policy": POLICY | 1 << 25}, SnpPolicy(page_swap_off=True)),
    ({"policy": POLICY | 1 << 24}, SnpPolicy(ciphertext_hiding=True)),
    ({"platform_info": 1 << 4}, SnpPolicy(ciphertext_hiding=True)),
    ({"policy": POLICY | 0x0100}, SnpPolicy(abi=(0, 52))),
    ({}, SnpPolicy(aliases_checked=True)),
    ({"policy": POLICY | 0x0137}, PLAIN),
    ({}, SnpPolicy(clouds=frozenset({"a cloud"}))),
    ({"family_id": b"f"}, PLAIN),
]


@pytest.mark.parametrize("given, policy", MET)
def test_policy_that_is_met(given: dict[str, int | bytes], policy: SnpPolicy) -> None:
    assert codes(judge(CHIP.report(**given), policy=policy)) == []


@pytest.mark.parametrize("policy", [POLICY & ~(1 << 17), POLICY | 1 << 26, POLICY | 1 << 63])
def test_policy_of_the_guest_that_nobody_knows_is_refused(policy: int) -> None:
    assert codes(judge(CHIP.report(policy=policy))) == [("snp-guest-policy", "policy")]


def test_reasons_say_what_was_expected_and_what_came() -> None:
    zeros, mine = bytes(48).hex(), b"\1" * 32
    wanted = SnpPolicy(host_data=mine, author_keys=frozenset({b"a" * 48}), mitigations=1)
    found = judge(CHIP.report(version=3, vmpl=2), policy=wanted)
    assert [(one.claim, one.expected, one.got) for one in found.reasons] == [
        ("host_data", mine.hex(), bytes(32).hex()), ("author_key_digest", "one of 1 accepted", zeros),
        ("current_mitigations", "0x1", "none"), ("launch_mitigations", "0x1", "none"), ("vmpl", "0", "2"),
    ]  # fmt: skip
    assert [one.got for one in judge(CHIP.report(vmpl=HOST)).reasons] == ["the host"]
    assert [one.got for one in judge(CHIP.report(), policy=SnpPolicy(mitigations=5)).reasons] == ["0x0", "0x0"]


def test_cloud_of_a_vlek() -> None:
    report = VLEK.report()
    assert codes(judge(report, chip=VLEK, policy=SnpPolicy(clouds=frozenset({"a cloud"})))) == []
    assert codes(judge(report, chip=VLEK, policy=SnpPolicy(clouds=frozenset({"another"})))) == [("snp-key-refused", "cloud")]


def test_author_key_without_its_flag_is_no_author() -> None:
    report = CHIP.report(author_key_digest=b"a" * 48)
    wanted = SnpPolicy(author_keys=frozenset({b"a" * 48}))
    assert codes(judge(report)) == [("snp-id-block", "author_key_digest")]
    assert codes(judge(report, policy=wanted)) == [("snp-id-block", "author_key_digest")] * 2


def test_every_reason_is_given_and_sorted() -> None:
    found = judge(CHIP.report(policy=POLICY | 3 << 18, vmpl=1), report_data=b"other")
    assert codes(found) == [
        ("nonce-mismatch", "report_data"), ("snp-debug", "policy.debug"), ("snp-migration", "policy.migrate_ma"), ("snp-vmpl", "vmpl"),
    ]  # fmt: skip


# --- TCBs -----------------------------------------------------------------------------------------------------------------

LOWER = replace(TCB, snp=26)
PARTS = [replace(TCB, **{part: getattr(TCB, part) + 1}) for part in ("boot_loader", "tee", "snp", "microcode")]


@pytest.mark.parametrize("claim", ["reported_tcb", "committed_tcb", "launch_tcb"])
@pytest.mark.parametrize("higher", PARTS)
def test_nothing_is_above_what_runs(claim: str, higher: Tcb) -> None:
    chip = CHIP if claim != "reported_tcb" else replace(CHIP, tcb=higher)
    given = {name: raw_tcb(TCB, "Milan") for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")}
    report = chip.report(**{**given, claim: raw_tcb(higher, "Milan")})
    code = "snp-tcb-rolled-back" if claim == "launch_tcb" else "snp-tcb-inconsistent"
    assert codes(judge(report, chip=chip)) == [(code, claim)]


def test_host_may_show_less_than_runs_and_keep_a_way_back() -> None:
    """As the firmware of real hosts does after an update."""
    older = replace(CHIP, tcb=LOWER)
    report = older.report(current_tcb=raw_tcb(TCB, "Milan"))
    assert codes(judge(report, chip=older)) == []


@pytest.mark.parametrize("claim", ["reported_tcb", "committed_tcb", "current_tcb", "launch_tcb"])
def test_floor_binds_each_of_the_four(claim: str) -> None:
    policy = SnpPolicy(floors=(("Genoa", Tcb(0, 99, 0, 0, 0)), ("Milan", TCB)))
    chip = replace(CHIP, tcb=LOWER) if claim == "reported_tcb" else CHIP
    given = {name: raw_tcb(TCB, "Milan") for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")}
    report = chip.report(**{**given, claim: raw_tcb(LOWER, "Milan")})
    found = [code for code in codes(judge(report, chip=chip, policy=policy)) if code[0] == "snp-tcb-old"]
    assert found == [("snp-tcb-old", claim)]
    assert codes(judge(CHIP.report(), policy=policy)) == []


def test_floor_of_turin_has_an_fmc() -> None:
    floor = replace(TURIN_TCB, fmc=2)
    report = TURIN.report()
    assert len(codes(judge(report, chip=TURIN, policy=SnpPolicy(floors=(("Turin", floor),))))) == 4
    assert codes(judge(report, chip=TURIN, policy=SnpPolicy(floors=(("Turin", TURIN_TCB),)))) == []


def test_versions_of_the_firmware_fit_together() -> None:
    ahead = CHIP.report(committed_firmware=b"\x24\x37\x01")
    assert codes(judge(ahead)) == [("snp-tcb-inconsistent", "committed_firmware")]
    needy = CHIP.report(policy=POLICY | 0x0138)
    assert codes(judge(needy)) == [("snp-tcb-inconsistent", "policy.abi")]
    old = CHIP.report(policy=POLICY | 0x1F, current_firmware=bytes(3), committed_firmware=bytes(3))
    assert codes(judge(old)) == []
    assert codes(judge(old, policy=SnpPolicy(firmware=Firmware(0, 1, 0)))) == [
        ("snp-tcb-old", "committed_firmware"), ("snp-tcb-old", "current_firmware"),
    ]  # fmt: skip


# --- which certificate ----------------------------------------------------------------------------------------------------


def test_likeliest_certificate_comes_first() -> None:
    report = parse_report(CHIP.report())
    fits, lent, other = CHIP.vek(), VLEK.vek(), SnpChip(name="other").vek()
    older = replace(CHIP, tcb=LOWER).vek()
    assert order_veks(report, [lent, other, older, fits]) == [fits, older, other, lent]

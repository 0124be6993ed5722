"""EK certificate chains: which lead to a root, and that bad ones refuse and never crash."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier

from tests.world.authority import BORN, Ca, signed_with_sha1
from tests.world.authority import at as at_time
from tests.world.chip import Chip, Maker, ca_extensions, ek_extensions, private_key
from tests.world.scene import DOMAIN, ISSUER, NOW
from tests.writ.verdict.refusal import refused
from writ.formats.crl import Crl, parse_crl
from writ.formats.errors import Refused
from writ.formats.reason import Reason
from writ.formats.trust import ChainRules, ManufacturerRoot, Trust
from writ.formats.x509 import parse_certificate
from writ.verdict.chain import MAX_DEPTH, VerifiedEk, verify_ek_chain
from writ.verdict.path import MAX_CHECKS
from writ.verdict.revocation import is_later, judge_crl, latest_crls, newest_crl

MAKER = Maker()
KEY = "chip/ek"
LEAF, CA, ROOT = MAKER.ek_certificate(KEY), MAKER.intermediate(), MAKER.root()


def trust(*roots: ManufacturerRoot, intermediates: tuple[bytes, ...] = ()) -> Trust:
    return Trust(DOMAIN, ISSUER, roots, intermediates, ())


OURS = ManufacturerRoot("ours", "firmware", ROOT)
STRANGER = ManufacturerRoot("stranger", "discrete", Maker("stranger").root())


def verify(*certificates: bytes, anchors: Trust | None = None, now: int = NOW) -> VerifiedEk:
    return verify_ek_chain(certificates, anchors or trust(OURS), now=now)


def refuse(*certificates: bytes, **given: Any) -> None:
    assert refused(lambda: verify(*certificates, **given)).code == "ek-certificate-refused"


def test_chain_to_a_trusted_root_gives_key_root_and_class() -> None:
    spki = Chip().ek.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    found = verify(LEAF, CA)
    assert (found.spki, found.root, found.tpm_class, found.weak_signature) == (spki, "ours", "firmware", False)
    assert [note.code for note in found.notes] == ["revocation-unknown"] * 2
    assert verify(LEAF, CA, anchors=trust(STRANGER, OURS)).tpm_class == "firmware"


def test_intermediate_may_come_from_the_trust_file_or_be_a_root_itself() -> None:
    assert verify(LEAF, anchors=trust(OURS, intermediates=(CA,))).root == "ours"
    assert verify(LEAF, anchors=trust(ManufacturerRoot("ca", "discrete", CA))).root == "ca"


def test_missing_link_is_refused() -> None:
    refuse(LEAF)
    refuse(CA)
    refuse(LEAF, ROOT)


def test_no_certificate_and_no_root_are_refused() -> None:
    refuse()
    refuse(LEAF, CA, anchors=trust())


def test_root_sent_by_the_host_is_not_believed() -> None:
    stranger = Maker("stranger")
    refuse(stranger.ek_certificate(KEY), stranger.intermediate(), stranger.root())


def test_bytes_that_are_no_certificate_are_refused() -> None:
    refuse(b"", CA)
    refuse(LEAF, b"rubbish")
    refuse(LEAF + b"\0", CA)
    refuse(LEAF, CA, anchors=trust(OURS, intermediates=(b"rubbish",)))
    refuse(LEAF, CA, anchors=trust(ManufacturerRoot("bad", "discrete", b"rubbish")))


def test_validity_holds_to_the_second() -> None:
    born = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    assert verify(LEAF, CA, now=born).root == "ours"
    refuse(LEAF, CA, now=born - 1)
    end = int(x509.load_der_x509_certificate(LEAF).not_valid_after_utc.timestamp())
    assert verify(LEAF, CA, now=end).root == "ours"
    refuse(LEAF, CA, now=end + 1)


@pytest.mark.parametrize("now", [0, 2**62, 2**63 - 1])
def test_time_out_of_range_is_refused(now: int) -> None:
    refuse(LEAF, CA, now=now)


@pytest.mark.parametrize(
    "extensions", [ek_extensions(eku=None), ek_extensions(eku=ObjectIdentifier("1.3.6.1.5.5.7.3.2")), ek_extensions(named=False), []]
)
def test_leaf_that_is_no_ek_certificate_is_refused(extensions: Any) -> None:
    refuse(MAKER.ek_certificate(KEY, extensions), CA)


@pytest.mark.parametrize("extensions", [ca_extensions(ca=False), ca_extensions(sign=False), [], ca_extensions()[:1], ca_extensions()[1:]])
def test_ca_that_may_not_sign_is_refused(extensions: Any) -> None:
    refuse(LEAF, MAKER.intermediate(extensions))


def test_chain_with_any_bit_flipped_is_refused() -> None:
    chance = random.Random(1)
    for at, whole in enumerate((LEAF, CA)):
        for bit in chance.sample(range(8 * len(whole)), 500):
            spoilt = bytearray(whole)
            spoilt[bit // 8] ^= 1 << bit % 8
            given = (bytes(spoilt), CA) if at == 0 else (LEAF, bytes(spoilt))
            with pytest.raises(Refused):
                verify(*given)


# --- attacks on the path --------------------------------------------------------------------------------------------------


def fault(*certificates: bytes, anchors: Trust, now: int = NOW) -> str:
    return refused(lambda: verify(*certificates, anchors=anchors, now=now)).got


def below(*names: str, path_length: int | None = None) -> tuple[Ca, ...]:
    """A root and CAs below it, each by the one before."""
    made = [Ca(names[0], path_length=path_length)]
    for name in names[1:]:
        made.append(Ca(name, made[-1]))
    return tuple(made)


def rooted(ca: Ca, **given: Any) -> Trust:
    return Trust(DOMAIN, ISSUER, (ManufacturerRoot(ca.name, "discrete", ca.certificate()),), (), (), **given)


def test_path_length_holds_for_cas_below_and_not_for_the_leaf() -> None:
    root, middle, last = below("root", "middle", "last", path_length=2)
    assert verify(last.ek(), last.certificate(), middle.certificate(), anchors=rooted(root)).root == "root"
    root, middle, last = below("root", "middle", "last", path_length=1)
    assert "path length 1" in fault(last.ek(), last.certificate(), middle.certificate(), anchors=rooted(root))
    assert verify(root.ek(), anchors=rooted(root)).root == "root"


def test_depth_is_bounded() -> None:
    deep = below(*(f"ca{number}" for number in range(MAX_DEPTH + 1)))
    assert verify(deep[-1].ek(), *(ca.certificate() for ca in deep[1:]), anchors=rooted(deep[0])).root == "ca0"
    deeper = below(*(f"ca{number}" for number in range(MAX_DEPTH + 2)))
    assert "on the way" in fault(deeper[-1].ek(), *(ca.certificate() for ca in deeper[1:]), anchors=rooted(deeper[0]))


def test_expired_link_is_refused_though_the_leaf_is_valid() -> None:
    root = Ca("root")
    dead = Ca("dead", root, life=timedelta(days=1))
    assert "only" in fault(dead.ek(), dead.certificate(), anchors=rooted(root))
    assert "only" in fault(root.ek(), anchors=rooted(Ca("root", life=timedelta(days=1))))


def test_root_swapped_for_one_of_the_same_name_is_refused() -> None:
    root = Ca("root")
    impostor = root.sign(root.subject(), "ca/impostor", [*ca_extensions()])
    anchors = Trust(DOMAIN, ISSUER, (ManufacturerRoot("root", "discrete", impostor),), (), ())
    assert "its issuer did not make" in fault(root.ek(), anchors=anchors)


def test_ek_certificate_cannot_issue_another() -> None:
    root = Ca("root")
    leaf_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "leaf")])
    leaf = root.sign(leaf_name, "ca/leaf", ek_extensions())
    assert "no CA" in fault(Ca("leaf", root).ek(), leaf, anchors=rooted(root))


@pytest.mark.parametrize("at_leaf", [True, False])
def test_critical_extension_that_is_not_understood_is_refused(at_leaf: bool) -> None:
    odd = (x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
    root = Ca("root")
    middle = Ca("middle", root, extensions=(*ca_extensions(), *(() if at_leaf else (odd,))))
    leaf = middle.ek(extensions=[*ek_extensions(), *([odd] if at_leaf else [])])
    assert "critical extension 1.2.3.4" in fault(leaf, middle.certificate(), anchors=rooted(root))


def test_self_issued_ca_on_the_way_does_not_count_against_the_path_length() -> None:
    root = Ca("root", path_length=0)
    renewed = Ca("root", root, key="ca/renewed")
    assert verify(renewed.ek(), renewed.certificate(), anchors=rooted(root)).root == "root"
    other = Ca("other", root)
    assert "path length 0" in fault(other.ek(), other.certificate(), anchors=rooted(root))


def old_root(name: x509.Name, key: rsa.RSAPrivateKey) -> bytes:
    """A root of the TPM 1.2 years that signs itself with SHA-256, DER."""
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(BORN).not_valid_after(BORN + timedelta(days=3650))
    for extension, critical in ca_extensions():
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_sha1_is_believed_only_where_the_rules_say_so_and_is_named() -> None:
    key, name = rsa.generate_private_key(65537, 2048), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    root = ManufacturerRoot("old", "discrete", old_root(name, key))
    leaf = signed_with_sha1(name, key, x509.Name([]), KEY, ek_extensions())
    assert "SHA-1" in fault(leaf, anchors=trust(root))
    lenient = Trust(DOMAIN, ISSUER, (root,), (), (), rules=ChainRules(sha1=True))
    assert verify(leaf, anchors=lenient).weak_signature
    spoilt = bytearray(leaf)
    spoilt[-1] ^= 1
    assert "did not make" in fault(bytes(spoilt), anchors=lenient)


# --- revocation -----------------------------------------------------------------------------------------------------------

DAY = 86_400
AUTHORITY = Ca("authority")
SUBORDINATE = Ca("subordinate", AUTHORITY)
CHAIN = (SUBORDINATE.ek(serial=0x1001), SUBORDINATE.certificate())
CA_SERIAL = 0x77


def judged(*crls: bytes, now: int = NOW, **rules: Any) -> VerifiedEk:
    return verify(*CHAIN, anchors=rooted(AUTHORITY, crls=tuple(sorted(crls)), rules=ChainRules(**rules)), now=now)


FRESH = (AUTHORITY.crl(this=NOW - DAY), SUBORDINATE.crl(this=NOW - DAY))


def test_fresh_crl_of_each_issuer_leaves_no_note() -> None:
    assert judged(*FRESH).notes == ()
    assert judged(*FRESH, crl_required=True).notes == ()


@pytest.mark.parametrize("required", [True, False])
def test_revoked_ek_and_revoked_ca_are_refused_under_any_rule(required: bool) -> None:
    for crl in (SUBORDINATE.crl(0x1001, this=NOW - DAY), AUTHORITY.crl(5, CA_SERIAL, this=NOW - DAY)):
        assert refused(partial(judged, crl, crl_required=required)).code == "ek-certificate-revoked"
    stale = SUBORDINATE.crl(0x1001, this=NOW - 90 * DAY, following=NOW - 60 * DAY)
    assert refused(lambda: judged(stale, crl_required=required)).code == "ek-certificate-revoked"


@pytest.mark.parametrize(
    "crls, word",
    [
        pytest.param((), "none", id="none"),
        pytest.param((AUTHORITY.crl(this=NOW - 40 * DAY, following=NOW - 1),), "to be replaced", id="overdue"),
        pytest.param((AUTHORITY.crl(this=NOW - 8 * DAY, following=NOW + DAY),), "older than", id="too old"),
        pytest.param((AUTHORITY.crl(this=NOW + 1, following=NOW + DAY),), "none", id="of the future"),
        pytest.param((AUTHORITY.crl(CA_SERIAL, this=NOW - DAY, key="ca/stranger"),), "none", id="by another key"),
        pytest.param((Ca("stranger").crl(CA_SERIAL, this=NOW - DAY),), "none", id="by another issuer"),
        pytest.param((Ca("alias", key=AUTHORITY.seed).crl(CA_SERIAL, this=NOW - DAY),), "none", id="of another name with the same key"),
    ],
)
def test_want_of_a_fresh_crl_is_noted_or_refused_as_the_rules_say(crls: tuple[bytes, ...], word: str) -> None:
    mine = (*crls, FRESH[1])
    (note,) = judged(*mine).notes
    assert (note.code, word in note.got) == ("revocation-unknown", True)
    assert refused(lambda: judged(*mine, crl_required=True)).code == "revocation-unknown"


def test_freshness_holds_to_the_second() -> None:
    crls = (AUTHORITY.crl(this=NOW, following=NOW + DAY), SUBORDINATE.crl(this=NOW, following=NOW + DAY))
    for now, known in ((NOW, True), (NOW + DAY, True), (NOW + DAY + 1, False)):
        assert (judged(*crls, now=now).notes == ()) is known, now
    for now, known in ((NOW + 10, True), (NOW + 11, False)):
        assert (judged(*crls, now=now, crl_max_age=10).notes == ()) is known, now


def test_newest_crl_that_is_not_of_the_future_decides() -> None:
    lifted = (SUBORDINATE.crl(0x1001, this=NOW - 3 * DAY), SUBORDINATE.crl(this=NOW - DAY), AUTHORITY.crl(this=NOW - DAY))
    assert judged(*lifted).notes == ()
    later = (*FRESH, SUBORDINATE.crl(0x1001, this=NOW + 1))
    assert judged(*later).notes == ()
    assert refused(lambda: judged(*later, now=NOW + 1)).code == "ek-certificate-revoked"


# --- one CRL after the other ----------------------------------------------------------------------------------------------


CAS = (parse_certificate(AUTHORITY.certificate()), parse_certificate(Ca("stranger").certificate()))


def crl(this: int, number: int | None = None, *serials: int, ca: Ca = AUTHORITY, key: str | None = None) -> Crl:
    extensions = () if number is None else ((x509.CRLNumber(number), False),)
    return parse_crl(ca.crl(*serials, this=NOW + this, key=key, extensions=extensions))


@pytest.mark.parametrize(
    "mine, other, later",
    [
        ((1,), (0,), True),
        ((0,), (0,), False),
        ((0,), (1,), False),
        ((0, 8), (1, 7), True),
        ((1, 7), (0, 8), False),
        ((1, 7), (0, 7), True),
        ((0, 7), (0, 7), False),
        ((1, 7), (0,), True),
        ((0, 7), (1,), False),
    ],
)
def test_crl_is_later_by_number_where_both_have_one_else_by_time(mine: tuple[int, ...], other: tuple[int, ...], later: bool) -> None:
    assert is_later(crl(*mine), crl(*other)) is later


def test_crl_takes_the_place_of_an_earlier_one_of_its_issuer_only() -> None:
    held = crl(-60, 7)
    for late in (crl(0), crl(-60, 8), crl(0, 7)):
        assert judge_crl(late, [held], CAS, now=NOW) is None
    for early in (crl(0, 6), crl(-60), crl(-61), crl(-60, 7, 5)):
        reason = judge_crl(early, [held], CAS, now=NOW)
        assert reason is not None
        assert (reason.code, reason.expected) == ("crl-rollback", f"a later one than number 7 of {NOW - 60}")
    assert judge_crl(held, [held], CAS, now=NOW) is None, "it is that one"
    twin = Ca("twin", key=AUTHORITY.seed)
    others = [crl(0, ca=Ca("stranger")), crl(0, 99, key="ca/stranger"), crl(0, ca=twin)]
    issuers = (*CAS, parse_certificate(twin.certificate()))
    assert judge_crl(crl(-99), others, issuers, now=NOW) is None, "of another name, or by another key"
    assert len(latest_crls([crl(-99), *others], issuers)) == 4


def test_crl_of_the_future_takes_no_place_before_its_time() -> None:
    """It would be passed over, and a certificate that the one of today names would be believed until then."""
    held, coming = crl(-60), crl(1)
    for known in ([], [held]):
        assert judge_crl(coming, known, CAS, now=NOW) == Reason("crl-early", "crl.this_update", f"at most {NOW}", str(NOW + 1))
    assert judge_crl(coming, [held], CAS, now=NOW + 1) is None


def test_latest_crl_of_each_name_and_key_stays() -> None:
    renewed = parse_certificate(AUTHORITY.sign(AUTHORITY.subject(), "ca/renewed", ca_extensions(), serial=9))
    mine, other, new_key = [crl(at) for at in (-3, -1, -2)], crl(-9, ca=Ca("stranger")), crl(-8, key="ca/renewed")
    assert set(latest_crls((*mine, other, new_key), (*CAS, renewed))) == {mine[1], other, new_key}
    assert set(latest_crls(mine, ())) == set(mine), "by nobody that is known"
    assert latest_crls((mine[0], mine[0]), ()) == (mine[0],)


def test_crl_signed_with_sha1_is_heard_only_where_the_rules_say_so() -> None:
    key, name = rsa.generate_private_key(65537, 2048), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    issuer = parse_certificate(old_root(name, key))
    week, next_week = (
        x509.CertificateRevocationListBuilder(name, at_time(NOW - ago), at_time(NOW + DAY)).sign(key, hashes.SHA256()) for ago in (DAY, 0)
    )
    sha256, sha1 = bytes.fromhex("06092a864886f70d01010b"), bytes.fromhex("06092a864886f70d010105")
    old = week.tbs_certlist_bytes
    body = old.replace(sha256, sha1)
    signature = key.sign(body, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - what is tested is that it is not believed
    weak = parse_crl(week.public_bytes(Encoding.DER).replace(old, body).replace(sha256, sha1).replace(week.signature, signature))
    assert newest_crl((weak,), issuer, ChainRules(), now=NOW) is None
    assert newest_crl((weak,), issuer, ChainRules(sha1=True), now=NOW) == weak
    strong = parse_crl(next_week.public_bytes(Encoding.DER))
    assert latest_crls((weak, strong), (issuer,)) == (strong,), "with whatever hash the one held was signed"


def test_crl_signed_in_another_way_is_not_heard() -> None:
    other = replace(crl(0), algorithm=None)
    assert newest_crl((other,), CAS[0], ChainRules(), now=NOW) is None
    assert latest_crls((other,), CAS) == (other,)


def test_ca_that_may_not_sign_crls_is_not_heard() -> None:
    mute = Ca("mute", extensions=(ca_extensions()[0], (usage(crl_sign=False), True)))
    anchors = rooted(mute, crls=(mute.crl(0x77, this=NOW - DAY),))
    assert [note.code for note in verify(mute.ek(), anchors=anchors).notes] == ["revocation-unknown"]


def test_crl_that_is_rubbish_is_refused() -> None:
    assert refused(lambda: judged(b"rubbish")).code == "ek-certificate-refused"


def usage(*, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, True, crl_sign, False, False)


# --- bounds and edges -----------------------------------------------------------------------------------------------------


def test_limits_are_those_that_are_stated() -> None:
    assert (MAX_DEPTH, MAX_CHECKS) == (4, 64)


def test_ca_is_no_ek_even_with_its_extended_key_usage() -> None:
    root = Ca("root")
    both = [*ca_extensions(), *ek_extensions()[2:]]
    assert refused(lambda: verify(root.ek(extensions=both), anchors=rooted(root))).expected.startswith("an EK certificate")


def test_ek_that_is_itself_listed_as_a_root_is_no_chain() -> None:
    root = Ca("root")
    anchors = Trust(DOMAIN, ISSUER, (ManufacturerRoot("ek", "discrete", root.ek()),), (), ())
    assert "no certificate of its issuer" in fault(root.ek(), anchors=anchors)


def test_ek_on_a_curve_that_is_not_ours_is_refused_as_such() -> None:
    root = Ca("root")
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(root.subject())
    builder = builder.public_key(ec.generate_private_key(ec.SECP256K1()).public_key()).serial_number(5)
    builder = builder.not_valid_before(BORN).not_valid_after(BORN + timedelta(days=3650))
    for extension, critical in ek_extensions():
        builder = builder.add_extension(extension, critical)
    leaf = builder.sign(private_key(root.seed), hashes.SHA256()).public_bytes(Encoding.DER)
    assert refused(lambda: verify(leaf, anchors=rooted(root))).expected == "RSA, or ECC on P-256, P-384 or P-521"


def test_signatures_verified_for_one_chain_are_bounded() -> None:
    """Nine CAs of one name and key, each of which could stand above each: the search ends by its budget."""
    above = Ca("absent")
    loop = [Ca("loop", above=None, key="ca/loop").sign(Ca("loop").subject(), "ca/loop", ca_extensions(), serial=n) for n in range(1, 10)]
    assert fault(Ca("loop").ek(), *loop, anchors=rooted(above)).endswith(("to verify", "on the way"))

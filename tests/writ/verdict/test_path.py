"""Paths to a pinned anchor: what leads there, what each refusal is called, and what is said of revocation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.world.authority import BORN, Ca
from tests.world.authority import at as at_time
from tests.world.chip import private_key
from tests.world.scene import NOW
from tests.writ.verdict.refusal import refused
from writ.formats.crl import Crl, parse_crl
from writ.formats.digest import Digest
from writ.formats.ocsp import parse_ocsp
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate, parse_certificate
from writ.verdict.path import MAX_CHECKS, PathRules, VerifiedPath, verify_path
from writ.verdict.revocation import Statement, is_signed, judge_crl, latest_crls

DAY = 86_400
REQUIRED = PathRules(ChainRules(crl_required=True))


def chain(levels: int) -> tuple[Ca, ...]:
    """A root and CAs below it, each by the one before."""
    made = [Ca("root")]
    for level in range(1, levels):
        made.append(Ca(f"ca{level}", made[-1]))
    return tuple(made)


CAS = chain(3)
ROOT, MIDDLE, LAST = CAS
LEAF = LAST.ek()
ABOVE = tuple(ca.certificate() for ca in CAS)


def verify(
    leaf: bytes = LEAF, others: Sequence[bytes] = ABOVE, anchors: Sequence[bytes] = ABOVE[:1], *, at: int = NOW, **given: Any
) -> VerifiedPath:
    fingerprints = {Digest.of(der) for der in anchors}
    return verify_path(parse_certificate(leaf), [parse_certificate(der) for der in others], fingerprints, at=at, **given)


def crl(ca: Ca, *serials: int, age: int = DAY, following: int | None = None) -> Crl:
    return parse_crl(ca.crl(*serials, this=NOW - age, following=following))


CRLS = tuple(crl(ca) for ca in CAS)


def test_path_leads_to_what_is_pinned_in_any_order_and_with_extra_certificates() -> None:
    stranger = Ca("stranger").certificate()
    for others in (ABOVE, ABOVE[::-1], (*ABOVE, stranger, LEAF, *ABOVE)):
        path = verify(others=others)
        assert [one.der for one in path.certificates] == [LEAF, *ABOVE[::-1]]
        assert (path.leaf.der, path.anchor.der, path.weak_signature) == (LEAF, ABOVE[0], False)


def test_ca_below_the_root_may_be_the_anchor_and_no_signature_above_it_is_asked_for() -> None:
    assert verify(others=ABOVE[2:], anchors=ABOVE[2:]).anchor.der == ABOVE[2]
    assert verify(others=ABOVE, anchors=ABOVE[1:2]).anchor.der == ABOVE[1]


def test_anchor_of_the_same_name_and_another_key_is_refused() -> None:
    forged = Ca("root", key="ca/forged")
    below = replace(MIDDLE, above=forged, key="ca/forged/1")
    last = replace(LAST, above=below, key="ca/forged/2")
    reason = refused(lambda: verify(last.ek(), (forged.certificate(), below.certificate(), last.certificate(), *ABOVE)))
    assert reason.code == "certificate-refused"


def test_anchor_that_nobody_gave_ends_no_path() -> None:
    assert refused(lambda: verify(others=ABOVE[1:])).code == "certificate-refused"
    assert refused(lambda: verify(anchors=())).code == "certificate-refused"


def test_anchor_as_the_leaf_itself_is_no_path() -> None:
    assert refused(lambda: verify(LEAF, (LEAF,), (LEAF,))).code == "certificate-refused"


@pytest.mark.parametrize("which", range(4))
def test_certificate_out_of_its_dates_says_so_wherever_it_stands(which: int) -> None:
    """Once with each of the four on the path alone out of its dates, before and after them."""
    for born, life in ((BORN - timedelta(days=20), timedelta(days=10)), (at_time(NOW + DAY), timedelta(days=10))):
        cas: list[Ca] = []
        for level, ca in enumerate(CAS):
            above = cas[-1] if cas else None
            cas.append(replace(ca, above=above, born=born, life=life) if level == which else replace(ca, above=above))
        sign = partial(cas[-1].sign, x509.Name([]), "chip/ek", [])
        leaf = sign(born=born, life=life) if which == 3 else sign()
        others = [ca.certificate() for ca in cas]
        reason = refused(lambda leaf=leaf, others=others: verify(leaf, others, others[:1]))  # type: ignore[misc]
        assert reason.code == "certificate-expired"
        assert str(int(born.timestamp())) in reason.got


def test_depth_is_what_the_caller_states() -> None:
    cas = chain(8)
    above = [ca.certificate() for ca in cas]
    assert len(verify(cas[-1].ek(), above, above[:1], rules=PathRules(depth=7)).certificates) == 9
    assert "more than 6 CAs" in refused(lambda: verify(cas[-1].ek(), above, above[:1])).got


def test_leaf_that_is_a_ca_in_the_middle_is_refused_where_it_may_not_sign() -> None:
    """The key of a leaf signs another certificate: the leaf is no CA."""
    rogue = Ca("rogue", LAST, extensions=())
    assert "no CA" in refused(lambda: verify(rogue.ek(), (rogue.certificate(), *ABOVE))).got


def test_signature_by_an_algorithm_that_is_not_ours_is_not_believed() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(LAST.subject()).serial_number(1)
    builder = builder.public_key(private_key("chip/ek").public_key()).not_valid_before(BORN).not_valid_after(BORN + timedelta(days=3650))
    leaf = builder.sign(key, None).public_bytes(Encoding.DER)
    assert "a signature algorithm that is not verified" in refused(lambda: verify(leaf)).got


def test_signatures_are_bounded_whatever_certificates_claim_about_each_other() -> None:
    """As many CAs of one name as there may be signatures, then the true one: it is found only where it comes within them."""
    forged = [replace(LAST, key=f"ca/forged/{number}").certificate() for number in range(MAX_CHECKS)]
    within = (*forged[: MAX_CHECKS - 3], *ABOVE)
    assert len(verify(others=within).certificates) == 4
    assert refused(lambda: verify(others=(*forged, *ABOVE))).code == "certificate-refused"
    assert "more than 64 signatures" in refused(lambda: verify(others=(*forged[: MAX_CHECKS - 2], *ABOVE))).got


def test_rsa_pss_with_sha_384_holds_and_a_bit_of_it_does_not() -> None:
    key, name = rsa.generate_private_key(65537, 2048), x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(0x55)
    builder = builder.not_valid_before(BORN).not_valid_after(BORN + timedelta(days=3650))
    builder = builder.add_extension(x509.BasicConstraints(True, 0), True).add_extension(_signs(), True)
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
    root = builder.sign(key, hashes.SHA384(), rsa_padding=pss).public_bytes(Encoding.DER)
    leaf = x509.CertificateBuilder().subject_name(Ca("leaf").subject()).issuer_name(name).public_key(private_key("chip/ek").public_key())
    leaf = leaf.serial_number(1).not_valid_before(BORN).not_valid_after(BORN + timedelta(days=3650))
    signed = leaf.sign(key, hashes.SHA384(), rsa_padding=pss).public_bytes(Encoding.DER)
    assert verify(signed, (root,), (root,)).leaf.algorithm is not None
    spoilt = signed[:-1] + bytes([signed[-1] ^ 1])
    assert "signature" in refused(lambda: verify(spoilt, (root,), (root,))).got


def _signs() -> x509.KeyUsage:
    return x509.KeyUsage(False, False, False, False, False, True, True, False, False)


# --- revocation -----------------------------------------------------------------------------------------------------------


def test_fresh_crls_are_known_and_named_with_their_dates() -> None:
    path = verify(crls=CRLS, rules=REQUIRED)
    assert path.notes == ()
    assert set(path.statements) == {Statement(Digest.of(one.der), NOW - DAY, NOW + 29 * DAY) for one in CRLS}


def test_ocsp_response_is_a_statement_as_well() -> None:
    response = parse_ocsp(LAST.ocsp(0x77, this=NOW - DAY, following=NOW + DAY))
    path = verify(crls=CRLS[:2], responses=(response,), rules=REQUIRED)
    assert Statement(Digest.of(response.der), NOW - DAY, NOW + DAY) in path.statements


@pytest.mark.parametrize("left_out", range(3))
def test_want_of_one_crl_is_noted_or_refused_as_the_rules_say(left_out: int) -> None:
    held = tuple(one for at, one in enumerate(CRLS) if at != left_out)
    assert [note.code for note in verify(crls=held).notes] == ["revocation-unknown"]
    assert refused(lambda: verify(crls=held, rules=REQUIRED)).code == "revocation-unknown"


def test_leaf_whose_issuer_publishes_no_crl_needs_none_and_its_cas_do() -> None:
    rules = replace(REQUIRED, issues_crls=False)
    path = verify(crls=CRLS[:2], rules=rules)
    assert (path.notes, len(path.statements)) == ((), 2)
    assert refused(lambda: verify(crls=CRLS[:1], rules=rules)).code == "revocation-unknown"
    revoked = (*CRLS[:2], crl(LAST, 0x77))
    assert refused(lambda: verify(crls=revoked, rules=rules)).code == "certificate-revoked"


@pytest.mark.parametrize("ca", CAS)
def test_revoked_anywhere_below_the_anchor_has_its_own_reason_fresh_or_stale(ca: Ca) -> None:
    for one in (crl(ca, 0x77), crl(ca, 0x77, age=100 * DAY, following=NOW - 50 * DAY)):
        others = tuple(other for other in CRLS if other.issuer != one.issuer)
        reason = refused(lambda one=one, others=others: verify(crls=(*others, one)))  # type: ignore[misc]
        assert (reason.code, reason.claim) == ("certificate-revoked", "certificate")


def test_age_that_the_caller_states_holds_to_the_second() -> None:
    for most, known in ((DAY, True), (DAY - 1, False)):
        rules = PathRules(ChainRules(crl_max_age=most))
        assert (verify(crls=CRLS, rules=rules).notes == ()) is known


def test_crl_of_the_future_or_by_another_key_says_nothing() -> None:
    early = parse_crl(LAST.crl(0x77, this=NOW + 1))
    forged = parse_crl(LAST.crl(0x77, this=NOW - 1, key="ca/forged"))
    assert len(verify(crls=(early, forged)).notes) == 3


def part(*serials: int, address: str | None = None, only: str = "", age: int = DAY) -> Crl:
    """A part of the list of the last CA: of the certificates that name `address`, or of "users" or "cas"."""
    point = x509.IssuingDistributionPoint(
        full_name=None if address is None else [x509.UniformResourceIdentifier(address)], relative_name=None,
        only_contains_user_certs=only == "users", only_some_reasons=None, indirect_crl=False, only_contains_attribute_certs=False,
        only_contains_ca_certs=only == "cas",
    )  # fmt: skip
    return parse_crl(LAST.crl(*serials, this=NOW - age, extensions=((point, True),)))


def naming(*addresses: str) -> bytes:
    """A leaf of the last CA that finds its revocation at these addresses."""
    points = [x509.DistributionPoint([x509.UniformResourceIdentifier(one)], None, None, None) for one in addresses]
    return LAST.sign(x509.Name([]), "chip/ek", [(x509.CRLDistributionPoints(points), False)])


A, B = "http://crl.example/a", "http://crl.example/b"


def test_part_of_a_list_speaks_of_those_who_find_it_there() -> None:
    leaf = naming(A, B)
    for address in (A, B):
        assert verify(leaf, crls=(*CRLS[:2], part(address=address)), rules=REQUIRED).notes == ()
        assert refused(lambda address=address: verify(leaf, crls=(part(0x77, address=address),))).code == "certificate-revoked"  # type: ignore[misc]
    elsewhere = part(0x77, address="http://crl.example/c")
    assert len(verify(leaf, crls=(*CRLS[:2], elsewhere)).notes) == 1
    assert len(verify(LEAF, crls=(*CRLS[:2], part(0x77, address=A))).notes) == 1


def test_part_for_cas_says_nothing_of_others() -> None:
    assert len(verify(crls=(*CRLS[:2], part(0x77, only="cas"))).notes) == 1
    assert refused(lambda: verify(crls=(part(0x77, only="users"),))).code == "certificate-revoked"
    assert verify(crls=(*CRLS[:2], part(only="users")), rules=REQUIRED).notes == ()


def test_newer_part_that_is_not_ours_hides_no_older_one() -> None:
    crls = (*CRLS[:2], part(0x77, address=A, age=2 * DAY), part(address=B, age=DAY))
    assert refused(lambda: verify(naming(A), crls=crls)).code == "certificate-revoked"


def test_parts_of_a_list_stand_beside_each_other() -> None:
    issuers = [parse_certificate(der) for der in ABOVE]
    older, newer, other, whole = part(address=A, age=3 * DAY), part(address=A), part(address=B, age=2 * DAY), crl(LAST, age=2 * DAY)
    assert set(latest_crls((older, newer, other, whole), issuers)) == {newer, other, whole}
    for held in (other, whole):
        assert judge_crl(older, (held,), issuers, now=NOW) is None
    reason = judge_crl(older, (newer,), issuers, now=NOW)
    assert reason is not None
    assert reason.code == "crl-rollback"


def test_responder_is_judged_by_a_list_that_speaks_of_it() -> None:
    """It asks for a fresh list of its CA: one of another address is none."""
    at = "http://crl.example/responder"
    plain = LAST.responder()
    there = LAST.responder(x509.CRLDistributionPoints([x509.DistributionPoint([x509.UniformResourceIdentifier(at)], None, None, None)]))
    leaf = naming(at)
    for responder, believed in ((plain, False), (there, True)):
        response = parse_ocsp(LAST.ocsp(0x77, this=NOW - DAY, following=NOW + DAY, responder=responder))
        statements = verify(leaf, crls=(*CRLS[:2], part(address=at)), responses=(response,)).statements
        assert (Digest.of(response.der) in {one.digest for one in statements}) is believed


def test_signature_that_held_holds_for_its_own_message_key_and_algorithm_only() -> None:
    """Asked again with one part another, after the answer yes was kept."""
    leaf, issuer, other = parse_certificate(LEAF), parse_certificate(ABOVE[2]), parse_certificate(ABOVE[1])
    algorithm = leaf.algorithm
    assert algorithm is not None
    assert is_signed(leaf.signed, leaf.signature, algorithm, issuer)
    assert not is_signed(leaf.signed + b"\0", leaf.signature, algorithm, issuer)
    assert not is_signed(leaf.signed, issuer.signature, algorithm, issuer)
    assert not is_signed(leaf.signed, leaf.signature, replace(algorithm, hash="sha384"), issuer)
    assert not is_signed(leaf.signed, leaf.signature, algorithm, other)
    assert not is_signed(leaf.signed, leaf.signature, algorithm, replace(issuer, spki=b"rubbish"))
    assert is_signed(leaf.signed, leaf.signature, algorithm, issuer)


def test_certificate_is_the_same_after_parsing_twice() -> None:
    """What `path.leaf` holds is the very certificate that was given: a caller binds to its fields."""
    leaf: Certificate = parse_certificate(LEAF)
    found = verify_path(leaf, [parse_certificate(der) for der in ABOVE], {Digest.of(ABOVE[0])}, at=NOW)
    assert found.leaf is leaf

"""The list of pinned roots, and what of a folder may be believed for it."""

from __future__ import annotations

from typing import Final

import pytest

from tests.world.authority import Ca
from verifier.manufacturers import Offered, PinnedRoot, Taken, parse_pinned_roots, pinned_roots, take, vouched
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.trust import ChainRules, ManufacturerRoot
from writ.formats.x509 import parse_certificate, parse_pem_certificates, to_pem

NOW: Final = 1_790_000_000
ROOT, STRANGER = Ca("root"), Ca("stranger")
MIDDLE = Ca("middle", ROOT)
PINNED = PinnedRoot("Root", "TEST", "firmware", Digest.of(ROOT.certificate()), (), ("a test",))
ENTRY: Final = """
[[root]]
name = "A"
manufacturer = "IFX"
tpm_class = "discrete"
sha256 = "%s"
addresses = ["https://example.org/a.crt"]
sources = ["somewhere"]
"""


def taking(
    *files: tuple[str, bytes], believed: tuple[ManufacturerRoot, ...] = (), below: tuple[bytes, ...] = (), held: tuple[bytes, ...] = (),
    answers: tuple[bytes, ...] = (),
) -> Taken:  # fmt: skip
    offered = [Offered(name, data) for name, data in files]
    return take(offered, (PINNED,), believed=believed, below=below, held=held, answers=answers, rules=ChainRules(), now=NOW)


def codes(taken: Taken) -> list[tuple[str, str]]:
    return [(name, reason.code) for name, reason in taken.refused]


# --- the list -------------------------------------------------------------------------------------------------------------


def test_product_list_names_each_manufacturer_with_its_class() -> None:
    classes = {root.manufacturer: root.tpm_class for root in pinned_roots()}
    assert classes == {
        "AMD": "firmware", "GOOG": "virtual", "IFX": "discrete", "INTC": "firmware", "MSFT": "firmware", "NSG": "discrete",
        "NTC": "discrete", "NTZ": "discrete", "STM": "discrete",
    }  # fmt: skip
    assert len(pinned_roots()) == 36


def test_entry_is_read() -> None:
    (root,) = parse_pinned_roots(ENTRY % ("ab" * 32))
    assert (root.name, root.fingerprint.hex(), root.addresses, root.sources) == (
        "A",
        "ab" * 32,
        ("https://example.org/a.crt",),
        ("somewhere",),
    )


@pytest.mark.parametrize(
    "old, new",
    [
        ("discrete", "imaginary"),
        ('"IFX"', '"TOOLONG"'),
        ("ab" * 32, "AB" * 32),
        ("ab" * 32, "ab" * 31),
        ("https://", "file://"),
        ("https://example.org", "https://"),
        ('["somewhere"]', "[]"),
        ('name = "A"', 'name = ""'),
        ("sources", "sauces"),
        ("[[root]]", "[root]"),
        ("name =", "name"),
        ("addresses = [", "addresses = [7, "),
    ],
)
def test_list_of_another_shape_is_refused(old: str, new: str) -> None:
    good = ENTRY % ("ab" * 32)
    assert old in good
    with pytest.raises(FormatError):
        parse_pinned_roots(good.replace(old, new))


def test_name_or_fingerprint_twice_is_refused() -> None:
    one = ENTRY % ("ab" * 32)
    for other in (ENTRY % ("cd" * 32), one.replace('"A"', '"B"')):
        with pytest.raises(FormatError, match="each once"):
            parse_pinned_roots(one + other)


# --- what is taken --------------------------------------------------------------------------------------------------------


def test_pinned_root_its_ca_and_their_crls_are_taken() -> None:
    crl = MIDDLE.crl(5, this=NOW - 60)
    pem = to_pem(parse_certificate(MIDDLE.certificate())).encode()
    taken = taking(("root.cer", ROOT.certificate()), ("middle.pem", pem), ("middle.crl", crl), ("root.crl", ROOT.crl(this=NOW - 999)))
    assert taken.roots == (ManufacturerRoot("Root", "firmware", ROOT.certificate()),)
    assert taken.intermediates == (MIDDLE.certificate(),)
    assert crl in taken.crls
    assert len(taken.crls) == 2
    assert taken.refused == ()


def test_root_with_another_fingerprint_is_refused_also_under_the_same_name() -> None:
    impostor = ROOT.sign(ROOT.subject(), "ca/impostor", [], serial=3)
    taken = taking(("impostor.cer", impostor), ("stranger.cer", STRANGER.certificate()))
    assert (taken.roots, codes(taken)) == ((), [("impostor.cer", "fingerprint-mismatch"), ("stranger.cer", "fingerprint-mismatch")])


def test_ca_that_chains_to_nothing_believed_is_refused() -> None:
    taken = taking(("root.cer", ROOT.certificate()), ("other.cer", Ca("middle", STRANGER).certificate()))
    assert codes(taken) == [("other.cer", "ek-certificate-refused")]
    forged = Ca("middle", Ca("root", key="ca/stranger")).certificate()
    assert codes(taking(("root.cer", ROOT.certificate()), ("forged.cer", forged))) == [("forged.cer", "ek-certificate-refused")]


def test_certificate_that_is_no_ca_is_no_intermediate() -> None:
    assert codes(taking(("root.cer", ROOT.certificate()), ("ek.cer", ROOT.ek()))) == [("ek.cer", "ek-certificate-refused")]


def test_crl_by_another_is_refused() -> None:
    files = (("root.cer", ROOT.certificate()), ("a.crl", STRANGER.crl(this=NOW)), ("b.crl", ROOT.crl(this=NOW, key="ca/stranger")))
    taken = taking(*files)
    assert (taken.crls, codes(taken)) == ((), [("a.crl", "trust-root-unknown"), ("b.crl", "trust-root-unknown")])


def test_crl_that_is_no_later_than_the_one_held_is_refused_by_name() -> None:
    old, held, fresh, soon = (ROOT.crl(5, this=NOW + at) for at in (-90, -60, 0, 9))
    other = MIDDLE.crl(this=NOW - 99)
    files = (("root.cer", ROOT.certificate()), ("old.crl", old), ("held.crl", held))
    taken = taking(*files, held=(held,))
    assert (taken.crls, codes(taken)) == ((held,), [("old.crl", "crl-rollback")])
    taken = taking(*files, ("fresh.crl", fresh), ("middle.cer", MIDDLE.certificate()), ("m.crl", other), held=(held,))
    assert taken.crls == tuple(sorted((fresh, other)))
    assert codes(taken) == [("held.crl", "crl-rollback"), ("old.crl", "crl-rollback")]
    taken = taking(files[0], ("soon.crl", soon), held=(held,))
    assert (taken.crls, codes(taken)) == ((), [("soon.crl", "crl-early")])


def test_response_about_a_certificate_of_a_believed_ca_is_taken() -> None:
    files = (("root.cer", ROOT.certificate()), ("middle.cer", MIDDLE.certificate()))
    by_root, by_middle = ROOT.ocsp(0x77, this=NOW), MIDDLE.ocsp(5, "revoked", this=NOW, responder=MIDDLE.responder())
    taken = taking(*files, ("a.ocsp", by_root), ("b.ORS", by_middle), ("c.ocsp", STRANGER.ocsp(5, this=NOW)))
    assert (taken.ocsp, codes(taken)) == (tuple(sorted((by_root, by_middle))), [("c.ocsp", "trust-root-unknown")])
    assert codes(taking(("a.ocsp", by_root))) == [("a.ocsp", "trust-root-unknown")]


def test_response_that_is_no_later_than_the_one_held_is_refused_by_name() -> None:
    old, held, fresh, soon = (ROOT.ocsp(5, this=NOW + at) for at in (-90, -60, 0, 9))
    unknown, root = ROOT.ocsp(6, "unknown", this=NOW), ("root.cer", ROOT.certificate())
    files = (root, ("old.ocsp", old), ("held.ocsp", held), ("unknown.ocsp", unknown))
    taken = taking(*files, answers=(held,))
    assert (taken.ocsp, codes(taken)) == ((held,), [("unknown.ocsp", "revocation-unknown"), ("old.ocsp", "crl-rollback")])
    taken = taking(root, ("old.ocsp", old), ("fresh.ocsp", fresh), ("soon.ocsp", soon), answers=(held,))
    assert (taken.ocsp, codes(taken)) == ((fresh,), [("soon.ocsp", "crl-early"), ("old.ocsp", "crl-rollback")])


def test_response_of_a_responder_is_judged_by_the_crls_held_and_offered() -> None:
    response, root = ROOT.ocsp(5, this=NOW, responder=ROOT.responder()), ("root.cer", ROOT.certificate())
    clean, listing = ROOT.crl(this=NOW - 60), ROOT.crl(0x0C, this=NOW - 50)
    assert taking(root, ("a.ocsp", response), held=(clean,)).ocsp == (response,)
    assert taking(root, ("a.ocsp", response), ("a.crl", clean)).ocsp == (response,)
    assert taking(root, ("a.ocsp", response), ("a.crl", listing), held=(clean,)).ocsp == ()


def test_rubbish_is_named_and_the_rest_is_taken() -> None:
    taken = taking(("root.cer", ROOT.certificate()), ("x.cer", b"rubbish"), ("y.crl", b"rubbish"), ("z.ocsp", b"rubbish"))
    assert len(taken.roots) == 1
    assert codes(taken) == [("x.cer", "malformed"), ("y.crl", "malformed"), ("z.ocsp", "malformed")]


def test_what_is_believed_already_vouches_for_more() -> None:
    believed = (ManufacturerRoot("Stranger", "software", STRANGER.certificate()),)
    ca = Ca("ca", STRANGER)
    taken = taking(("ca.cer", ca.certificate()), ("s.crl", STRANGER.crl(this=NOW)), believed=believed)
    assert (taken.roots, taken.intermediates, len(taken.crls), taken.refused) == ((), (ca.certificate(),), 1, ())
    last = Ca("last", ca)
    taken = taking(("last.cer", last.certificate()), ("ca.crl", ca.crl(this=NOW)), believed=believed, below=(ca.certificate(),))
    assert (taken.intermediates, len(taken.crls), taken.refused) == ((last.certificate(),), 1, ())


def test_operator_vouches_for_certificates_and_never_for_a_crl_or_a_response() -> None:
    files = [
        Offered("a.cer", ROOT.certificate()), Offered("b.crl", ROOT.crl(this=NOW)), Offered("c.cer", MIDDLE.certificate()),
        Offered("d.ocsp", ROOT.ocsp(5, this=NOW)),
    ]  # fmt: skip
    pem, rest = vouched(files)
    assert [one.der for one in parse_pem_certificates(pem.encode(), "pem")] == [ROOT.certificate(), MIDDLE.certificate()]
    assert rest == [files[1], files[3]]

"""EK certificate chains: which lead to a root, and that bad ones refuse and never crash."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier

from tests.world.chip import Chip, Maker, ca_extensions, ek_extensions
from tests.world.scene import DOMAIN, ISSUER, NOW
from tests.writ.verdict.refusal import refused
from writ.formats.errors import Refused
from writ.formats.trust import ManufacturerRoot, Trust
from writ.verdict.chain import VerifiedEk, verify_ek_chain

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

"""RIMs: whoever signed one is vouched for, and nothing in it was changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.world.nvidia import DEVICE_ROOTS, DRIVER_RIM, RIM_CA, RIM_L3, RIM_ROOT, RIM_ROOTS, RimMaker
from tests.writ.verdict.refusal import refused
from writ.formats.digest import Digest
from writ.formats.ocsp import parse_ocsp
from writ.formats.tee.rim import parse_rim
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate
from writ.verdict.nvidia_roots import DEVICE_ROOTS as PINNED_DEVICE_ROOTS
from writ.verdict.nvidia_roots import RIM_ROOTS as PINNED_RIM_ROOTS
from writ.verdict.rim import VerifiedRim, verify_rim

NOW = 1_790_000_000
DAY = 86_400
SMALL = RimMaker(active={9: [bytes(48)]}, inactive=())


def verify(document: bytes = SMALL.document(), roots: Sequence[Certificate] = RIM_ROOTS, at: int = NOW, **given: Any) -> VerifiedRim:
    return verify_rim(parse_rim(document), roots, at=at, claim="rims.x", **given)


def test_rim_of_a_signer_below_a_root_is_verified() -> None:
    found = verify()
    assert found.rim.version == DRIVER_RIM.version
    assert len(found.notes) == 3, "nothing is known about the revocation of signer and CAs"
    rules = ChainRules(crl_required=True)
    responses = [parse_ocsp(ca.ocsp(0x77, this=NOW - DAY, following=NOW + DAY)) for ca in (RIM_L3, RIM_CA, RIM_ROOT)]
    known = verify(rules=rules, responses=responses)
    assert (known.notes, len(known.statements)) == ((), 3)
    assert refused(lambda: verify(rules=rules, responses=responses[1:])).code == "revocation-unknown"


@pytest.mark.parametrize(
    "old, new",
    [
        pytest.param(bytes(48).hex(), "11" * 48, id="a value"),
        pytest.param('colloquialVersion="550.90.07"', 'colloquialVersion="550.90.08"', id="the version"),
        pytest.param('active="True"', 'active="True" x="1"', id="an attribute more"),
        pytest.param("<ns0:Payload>", "<ns0:Payload> ", id="a space"),
    ],
)
def test_changed_document_is_refused(old: str, new: str) -> None:
    text = SMALL.document().decode()
    assert text.count(old) == 1
    reason = refused(lambda: verify(text.replace(old, new).encode()))
    assert (reason.code, reason.claim, reason.expected) == ("signature-invalid", "rims.x", "the document that was signed")


def test_signature_of_another_key_or_over_another_digest_is_refused() -> None:
    stranger = replace(SMALL, signer="stranger")
    mine, theirs = SMALL.document().decode(), stranger.document().decode()
    chain = mine[mine.index("<ds:KeyInfo>") :]
    reason = refused(lambda: verify((theirs[: theirs.index("<ds:KeyInfo>")] + chain).encode()))
    assert (reason.code, reason.expected) == ("signature-invalid", "a signature by the first certificate of the RIM")
    other = replace(SMALL, version="550.90.08")
    swapped = (other.body() + other.signed_info()).replace(SMALL.signed_info(), "")
    value = mine[mine.index("<ds:SignatureValue>") :]
    begin = '<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#">'
    document = other.body() + begin + swapped.removeprefix(other.body()) + value
    assert refused(lambda: verify(document.encode())).expected == "a signature by the first certificate of the RIM"


def test_chain_to_another_root_is_refused_and_a_device_root_is_no_rim_root() -> None:
    for roots in (DEVICE_ROOTS, PINNED_RIM_ROOTS):
        reason = refused(partial(verify, roots=roots))
        assert (reason.code, reason.claim) == ("certificate-refused", "rims.x.certificate")


def test_signer_is_judged_at_the_stated_time() -> None:
    assert refused(lambda: verify(at=NOW + 800 * DAY)).code == "certificate-expired"


def test_pinned_roots_are_those_that_nvidia_publishes() -> None:
    assert [str(Digest.of(root.der)) for root in (*PINNED_DEVICE_ROOTS, *PINNED_RIM_ROOTS)] == [
        "sha256:102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
        "sha256:12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",
    ]

"""The judge of Nitro documents, and what it and the parser refuse: each attack with its own reason."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.parsers import assert_parser_is_total
from tests.world.authority import Ca
from tests.world.nitro import ANCHORS, AT, INSTANCE, LEAF, PCRS, ROOT, USAGE, ZONE, Nitro
from writ.formats.crl import parse_crl
from writ.formats.errors import FormatError, Refused
from writ.formats.tee.nitro import NITROTPM, parse_document
from writ.formats.x509 import parse_kept_certificate
from writ.verdict.appraise.nitro import SKEW, NitroPolicy, appraise_document

HOST = Nitro()


def codes(data: bytes, at: int = AT, crls: Any = (), **policy: Any) -> list[str]:
    try:
        found = appraise_document(parse_document(data), (), ANCHORS, NitroPolicy(**policy), at=at, crls=crls)
    except Refused as refused:
        return [reason.code for reason in refused.reasons]
    return [reason.code for reason in found.reasons]


def test_document_is_accepted_tagged_or_not_and_in_other_spellings() -> None:
    data = HOST.document()
    said = HOST.said()
    indefinite = b"\xbf" + b"".join(cbor2.dumps(name) + cbor2.dumps(value) for name, value in reversed(said.items())) + b"\xff"
    for one in (data, b"\xd2" + data, HOST.sign(indefinite), HOST.document(cabundle=HOST.bundle()[::-1]), HOST.document(later=1)):
        assert codes(one, nonce=b"nonce", user_data=b"user", pcrs={0: frozenset({PCRS[0]})}, max_age=60) == []


@pytest.mark.parametrize(
    "changed, policy, code",
    [
        ({}, {"nonce": b"other"}, "nonce-mismatch"),
        ({"nonce": None}, {"nonce": b"nonce"}, "nonce-mismatch"),
        ({}, {"user_data": b"other"}, "nitro-user-data"),
        ({}, {"key": b"a key"}, "nitro-key-unbound"),
        ({}, {"pcrs": {1: frozenset({PCRS[0]})}}, "nitro-pcr-mismatch"),
        ({}, {"pcrs": {31: frozenset({bytes(48)})}}, "nitro-pcr-mismatch"),
        ({"pcrs": {**PCRS, 0: bytes(48), 1: bytes(48), 2: bytes(48)}}, {}, "nitro-debug"),
        ({"pcrs": {4: PCRS[4]}}, {}, "nitro-debug"),
        ({"pcrs": ..., "nitrotpm_pcrs": PCRS}, {}, "nitro-kind-refused"),
        ({"timestamp": (AT - 601) * 1000}, {}, "nitro-time-refused"),
        ({"timestamp": (AT + SKEW + 1) * 1000}, {}, "nitro-time-refused"),
        ({"timestamp": (AT - 61) * 1000}, {"max_age": 60}, "nitro-time-refused"),
    ],
)
def test_what_the_policy_does_not_take_is_refused(changed: dict[str, Any], policy: dict[str, Any], code: str) -> None:
    assert codes(HOST.document(**changed), **policy) == [code]


def test_key_is_bound_as_public_key_or_user_data_and_a_nitrotpm_is_taken_where_wanted() -> None:
    assert codes(HOST.document(public_key=b"a key"), key=b"a key") == codes(HOST.document(user_data=b"a key"), key=b"a key") == []
    assert codes(HOST.document(pcrs=..., nitrotpm_pcrs=PCRS), kinds=frozenset({NITROTPM})) == []
    assert codes(HOST.document(pcrs={0: bytes(48)}), debug=True) == []


def test_signature_of_another_content_or_key_is_refused() -> None:
    a, b = cbor2.loads(HOST.document()), cbor2.loads(HOST.document(user_data=b"b"))
    for mixed in ([*b[:3], a[3]], [*a[:3], bytes(96)], [*a[:3], b"\xff" * 96]):
        assert codes(cbor2.dumps(mixed)) == ["signature-invalid"]
    assert codes(HOST.document(certificate=Nitro(key="nitro/other").leaf())) == ["signature-invalid"]
    p256 = Nitro(public=ec.derive_private_key(5, ec.SECP256R1()).public_key())
    assert codes(p256.document()) == ["signature-invalid"]


def test_chain_that_is_not_aws_or_not_valid_is_refused() -> None:
    stranger = Ca("Test nitro-enclaves", key="stranger")
    assert codes(Nitro(stranger).document()) == ["certificate-refused"]
    assert codes(Nitro(Ca("too deep", INSTANCE)).document()) == ["certificate-refused"]
    assert codes(HOST.document(), AT + 3 * 3600) == codes(HOST.document(), AT - 601) == ["certificate-expired"]
    assert codes(HOST.document(cabundle=HOST.bundle()[:-1])) == ["certificate-refused"]
    no_ca = Ca("no CA", ZONE, extensions=LEAF if isinstance(LEAF, tuple) else ())
    assert codes(Nitro(no_ca).document()) == ["certificate-refused"]
    assert codes(Nitro(life=timedelta(seconds=500)).document()) == ["certificate-expired"]


def test_document_made_after_its_certificate_ended_is_refused() -> None:
    short = Nitro(life=timedelta(seconds=600))
    assert codes(short.document(timestamp=(AT + 1) * 1000)) == ["nitro-time-refused"]


def test_certificate_of_a_ca_or_without_signing_is_refused() -> None:
    other = x509.KeyUsage(False, False, False, False, True, False, False, False, False)
    ca = ((x509.BasicConstraints(True, None), True), (USAGE, False))
    assert codes(Nitro(ROOT, extensions=ca).document()) == ["certificate-refused"]
    for extensions in (LEAF[:1], (LEAF[0], (other, False))):
        assert codes(Nitro(extensions=extensions).document()) == ["certificate-refused"]


def test_ca_that_a_crl_at_hand_revokes_is_refused() -> None:
    assert codes(HOST.document(), crls=[parse_crl(ROOT.crl(0x77, this=AT - 60))]) == ["certificate-revoked"]


@pytest.mark.parametrize(
    "changed",
    [
        {"module_id": ""}, {"module_id": ...}, {"digest": "SHA256"}, {"timestamp": True}, {"timestamp": 0}, {"timestamp": "1"},
        {"pcrs": ...}, {"nitrotpm_pcrs": PCRS}, {"pcrs": {}}, {"pcrs": {32: bytes(48)}}, {"pcrs": {0: bytes(47)}},
        {"pcrs": {"0": bytes(48)}}, {"cabundle": []}, {"cabundle": [b""]}, {"cabundle": [1]}, {"cabundle": None},
        {"certificate": b""}, {"certificate": bytes(1025)}, {"nonce": bytes(513)}, {"user_data": bytes(513)}, {"user_data": "text"},
        {"public_key": b""}, {"public_key": bytes(1025)},
    ],
)  # fmt: skip
def test_field_out_of_its_bounds_is_a_format_error(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_document(HOST.document(**changed))


def test_envelope_that_is_not_as_said_is_a_format_error() -> None:
    payload, data = cbor2.dumps(HOST.said()), HOST.document()
    twice = b"\xaa" + payload[1:] + cbor2.dumps("nonce") + cbor2.dumps(b"other")
    protected = (b"\xa1\x01\x38\x32", b"\xa1\x01\x26", b"\xa2\x01\x38\x22\x04\x41\x61", b"\xa0")
    spoilt = [HOST.sign(twice), HOST.sign(payload, unprotected={4: b"kid"}), HOST.sign(b""), HOST.sign(b"\x80"), data + b"\0", data[:-1]]
    for one in (*spoilt, *(HOST.sign(payload, protected=header) for header in protected), b"\xd1" + data):
        with pytest.raises(FormatError):
            parse_document(one)


def test_rubbish_is_a_format_error_and_nothing_else() -> None:
    assert_parser_is_total(parse_document, HOST.document())
    assert_parser_is_total(parse_kept_certificate, HOST.leaf())

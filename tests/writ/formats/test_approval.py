"""Approvals: one spelling, a life of minutes, and a signature that is over what was read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.signers import new_signer
from tests.world.scene import NOW, policy, signer
from writ.formats.approval import (
    CONTENT_TYPE,
    Approval,
    bytes_to_sign,
    encode_approval,
    parse_approval,
    parse_signed_approval,
    sign_approval,
    signed_elsewhere,
)
from writ.formats.cose import encode_sign1, sign1_bytes, verify_sign1
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.keys import ALGORITHMS, ED25519, ES256
from writ.formats.policy_bundle import PolicyBundle, PolicySettings, encode_bundle, parse_bundle
from writ.formats.strict import decode_cbor, encode_cbor

APPROVAL = Approval(
    bytes(16), "tool.call", "mcp:mail/send", bytes(32), Digest.of(b"policy"), "socket", bytes(range(32)), NOW, NOW + 300, bytes(range(16))
)  # fmt: skip
KEY = signer("alice")


def test_parsers_answer_any_bytes() -> None:
    assert_parser_is_total(parse_approval, encode_approval(APPROVAL))
    assert_parser_is_total(parse_signed_approval, sign_approval(APPROVAL, KEY))
    assert_parser_is_total(lambda data: signed_elsewhere(data, bytes(64)), bytes_to_sign(APPROVAL, KEY.public))


@given(
    instance=st.binary(min_size=16, max_size=16), arguments=st.binary(min_size=32, max_size=32), number=st.binary(min_size=16, max_size=16),
    made_at=st.integers(0, 1 << 40), life=st.integers(1, 900), resource=st.sampled_from(("mcp:a/b", "https://h:443/x", "tcp:h:1")),
)  # fmt: skip
def test_round_trip(instance: bytes, arguments: bytes, number: bytes, made_at: int, life: int, resource: str) -> None:
    one = replace(
        APPROVAL, instance=instance, arguments=arguments, id=number, made_at=made_at, not_after=made_at + life, resource=resource
    )  # fmt: skip
    assert parse_approval(encode_approval(one)) == one


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_was_signed_elsewhere_is_what_would_be_signed_here(algorithm: str) -> None:
    key = new_signer(algorithm)
    to_sign = bytes_to_sign(APPROVAL, key.public)
    signed = parse_signed_approval(signed_elsewhere(to_sign, key.sign(to_sign)))
    assert (signed.approval, signed.kid) == (APPROVAL, key.public.thumbprint())
    assert to_sign == sign1_bytes(signed.sign1.protected, encode_approval(APPROVAL))
    assert verify_sign1(signed.sign1, key.public)
    assert parse_signed_approval(sign_approval(APPROVAL, key)).approval == APPROVAL
    if algorithm == ED25519:
        assert signed_elsewhere(to_sign, key.sign(to_sign)) == sign_approval(APPROVAL, key), "one signature, one message"


@pytest.mark.parametrize("life", [-1, 0, 901])
def test_life_is_of_minutes(life: int) -> None:
    with pytest.raises(FormatError):
        replace(APPROVAL, not_after=NOW + life)


@pytest.mark.parametrize(
    "changed",
    [
        {"v": 2}, {"instance": bytes(15)}, {"action": "No"}, {"resource": "a b"}, {"arguments": bytes(31)}, {"policy": bytes(31)},
        {"refused": bytes(33)}, {"gate": "No"}, {"made_at": -1}, {"not_after": NOW + 901}, {"id": bytes(15)}, {"more": 1},
    ],
)  # fmt: skip
def test_what_is_no_approval_is_refused(changed: dict[str, Any]) -> None:
    data = encode_cbor({**decode_cbor(encode_approval(APPROVAL), "approval"), **changed})
    with pytest.raises(FormatError):
        parse_approval(data)


@pytest.mark.parametrize(
    "spelt",
    [
        {"content_type": "application/vnd.writ.policy+cbor"}, {"content_type": None}, {"kid": None}, {"kid": b"short"}, {"detached": True},
    ],
)  # fmt: skip
def test_message_of_another_kind_is_none(spelt: dict[str, Any]) -> None:
    said: dict[str, Any] = {"kid": KEY.public.thumbprint(), "content_type": CONTENT_TYPE, **spelt}
    data = encode_sign1(encode_approval(APPROVAL), algorithm=ED25519, sign=KEY.sign, **said)
    with pytest.raises(FormatError):
        parse_signed_approval(data)


@pytest.mark.parametrize("spoilt", ["label", "aad", "signature", "alg", "kind", "length"])
def test_bytes_that_were_not_made_to_be_signed_are_refused(spoilt: str) -> None:
    label, protected, aad, payload = decode_cbor(bytes_to_sign(APPROVAL, KEY.public), "bytes")
    signature, headers = bytes(64), decode_cbor(protected, "header")
    if spoilt == "label":
        label = "Signature"
    elif spoilt == "aad":
        aad = b"x"
    elif spoilt == "signature":
        signature = bytes(63)
    elif spoilt == "alg":
        protected = encode_cbor({**headers, 1: -7})
    elif spoilt == "kind":
        protected = encode_cbor({**headers, 3: "text/plain"})
    structure = [label, protected, aad, payload, *([b""] if spoilt == "length" else [])]
    with pytest.raises(FormatError):
        signed_elsewhere(encode_cbor(structure), signature)


# --- who may approve, in the policy --------------------------------------------------------------------------------------


def bundle(**settings: Any) -> PolicyBundle:
    return policy(PolicySettings(**settings))


COSE: dict[int, Any] = signer("alice").public.to_cose_key()
PEOPLE = (("alice", signer("alice").public), ("bob", new_signer(ES256).public))


def test_approvers_are_read_back_and_none_are_not_written() -> None:
    made = bundle(approvers=PEOPLE)
    assert parse_bundle(encode_bundle(made)) == made
    assert "approvers" not in decode_cbor(encode_bundle(bundle()), "policy")["settings"]
    assert made.settings.to_json()["approvers"] == {name: key.to_jwk() for name, key in PEOPLE}


@pytest.mark.parametrize(
    "people",
    [
        PEOPLE[::-1], (PEOPLE[0], PEOPLE[0]), (("alice", PEOPLE[0][1]), ("bob", PEOPLE[0][1])), (("No", PEOPLE[0][1]),),
        tuple((f"p{at:02}", new_signer().public) for at in range(17)),
    ],
)  # fmt: skip
def test_approvers_that_are_none_are_refused(people: Any) -> None:
    with pytest.raises(FormatError):
        PolicySettings(approvers=people)


@pytest.mark.parametrize("spelt", [[], [["alice"]], [[1, COSE]], [["alice", COSE | {3: -19}]]])
def test_approvers_have_one_spelling(spelt: Any) -> None:
    said = decode_cbor(encode_bundle(bundle()), "policy")
    with pytest.raises(FormatError):
        parse_bundle(encode_cbor({**said, "settings": {**said["settings"], "approvers": spelt}}))

"""A proof bundle is one flat collection: each member under its type and indicator, those of an action together, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.scene import Scene
from tests.world.tlog import in_log
from writ.formats.archive import parse_place
from writ.formats.cmw import parse_collection
from writ.formats.errors import FormatError
from writ.formats.proof_bundle import (
    MAX_TOKEN,
    NO_COLLATERAL,
    Collateral,
    ProofBundle,
    TokenProof,
    encode_proof_bundle,
    parse_proof,
)
from writ.formats.strict import decode_cbor, encode_cbor
from writ.formats.tlog.inclusion import parse_inclusion

SCENE = Scene()
LOGGED = in_log(SCENE.proof_bundle(), SCENE.trust)
WHOLE = replace(LOGGED.bundle, collateral=Collateral((b"a",), (b"b", b"c"), (b"d",)), approval=b"signed")
DATA = encode_proof_bundle(WHOLE)
MEMBERS: dict[str, Any] = decode_cbor(DATA, "bundle")
TOKEN = encode_proof_bundle(TokenProof(**{field.name: getattr(WHOLE, field.name) for field in fields(TokenProof)}))
ALONE: dict[str, Any] = decode_cbor(TOKEN, "bundle")
OPTIONAL = {"enrol-inclusion", "attest-inclusion", "collateral", "carrier-inclusion", "context", "outcome", "approval"}
PAIRS = {"policy-act", "policy-inclusion", "references-act", "references-inclusion"}


def refused(members: dict[str, Any]) -> bool:
    try:
        parse_proof(encode_cbor(members))
    except FormatError:
        return True
    return False


def changed(name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    return {**MEMBERS, name: change(MEMBERS[name])}


def test_it_is_a_collection_that_any_reader_of_rfc_9999_reads() -> None:
    read = parse_collection(DATA, foreign=True, max_size=len(DATA))
    kinds = {str(label): (member.type, member.indicator) for label, member in read.members}  # type: ignore[union-attr] # all records
    assert kinds["evidence"] == ("application/cmw+cbor", 4)
    assert kinds["token"] == ("application/eat+jwt", 8)
    assert {label for label, (_, bits) in kinds.items() if bits == 2} == {"record", "collateral"}
    assert {label for label, (_, bits) in kinds.items() if bits == 16} == {"engine", "policy", "policy-act"}
    assert {label for label, (_, bits) in kinds.items() if bits == 1} == {"references", "references-act"}


def test_a_token_alone_has_no_member_of_an_action() -> None:
    assert MEMBERS.keys() - ALONE.keys() == {
        "opening", "action", "outcome", "context", "carrier", "carrier-decision", "carrier-inclusion", "approval",
    }  # fmt: skip
    assert type(parse_proof(TOKEN)) is TokenProof
    assert parse_proof(DATA) == WHOLE


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_is_there_and_of_its_type_and_indicator(name: str) -> None:
    without = {key: value for key, value in MEMBERS.items() if key != name}
    assert refused(without) is (name not in OPTIONAL)
    if name == "__cmwc_t":
        assert all(refused({**MEMBERS, name: other}) for other in ("urn:writ:proof:1", "urn:writ:evidence:1"))
        return
    assert refused(changed(name, lambda record: ["application/octet-stream", *record[1:]]))
    assert refused(changed(name, lambda record: [*record[:2], 31]))
    assert refused(changed(name, lambda record: record[:2])) is (len(MEMBERS[name]) == 3)


@pytest.mark.parametrize("name", sorted(MEMBERS.keys() - ALONE.keys()))
def test_a_member_of_an_action_without_the_others_is_refused(name: str) -> None:
    assert refused({**ALONE, name: MEMBERS[name]})


def test_a_publication_comes_with_its_place() -> None:
    for name in PAIRS:
        assert refused({key: value for key, value in MEMBERS.items() if key != name})
    assert not refused({key: value for key, value in MEMBERS.items() if key not in PAIRS})


def test_a_stranger_among_the_members_is_refused() -> None:
    assert refused({**MEMBERS, "zz": ["text/plain", b"x"]})
    assert refused({**ALONE, "zz": ["text/plain", b"x"]})


@pytest.mark.parametrize(
    "name, value",
    [
        ("opening", b"\x80"), ("opening", encode_cbor([b"r", 1])), ("opening", encode_cbor([b"r" * 65536, 1, []])),
        ("action", encode_cbor([b"r", 1, [1]])), ("outcome", encode_cbor([b"r", 1, [bytes(32)] * 65])),
        ("context", encode_cbor([b"s", b"c"])),
        ("references", encode_cbor({})), ("references", encode_cbor([1])), ("token", "é".encode()), ("token", b"t" * (MAX_TOKEN + 1)),
        ("collateral", encode_cbor({"v": 2, "intermediates": [b"a"], "crls": [], "ocsp": []})),
        ("collateral", encode_cbor({"v": 1, "intermediates": [], "crls": [], "ocsp": []})),
        ("collateral", encode_cbor({"v": 1, "intermediates": [], "crls": [b"b", b"a"], "ocsp": []})),
        ("collateral", encode_cbor({"v": 1, "intermediates": [], "crls": [], "ocsp": [b"a" * 16385]})),
        ("enrol-inclusion", b"text"), ("attest-inclusion", b"c2sp.org/tlog-proof@v1\n"),
    ],
)  # fmt: skip
def test_a_member_that_is_not_what_it_says_is_refused(name: str, value: bytes) -> None:
    assert refused(changed(name, lambda record: [record[0], value, *record[2:]]))


def test_an_inclusion_is_of_the_type_that_its_bytes_have() -> None:
    receipt = LOGGED.place(WHOLE.enrol_decision, receipt=True)
    assert refused(changed("enrol-inclusion", lambda record: [record[0], receipt]))
    assert not refused({**MEMBERS, "enrol-inclusion": [MEMBERS["carrier-decision"][0], receipt]})


def test_nothing_is_said_of_what_is_not_there() -> None:
    bare = replace(WHOLE, collateral=NO_COLLATERAL, approval=None, outcome=None)
    assert not {"collateral", "approval", "outcome"} & decode_cbor(encode_proof_bundle(bare), "bundle").keys()
    assert isinstance(parse_proof(encode_proof_bundle(bare)), ProofBundle)


def test_parsers_are_total() -> None:
    receipt, proof = (LOGGED.place(WHOLE.enrol_decision, receipt=one) for one in (True, False))
    assert_parser_is_total(parse_inclusion, receipt)
    assert_parser_is_total(parse_inclusion, proof, open_ended=True)
    assert_parser_is_total(parse_place, bytes(32) + receipt)
    assert_parser_is_total(parse_proof, TOKEN)

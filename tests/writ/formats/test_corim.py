"""CoRIM: our reference values in one spelling, and other makers' read structurally."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.signers import new_signer
from writ.formats.corim import (
    CCA_REALM,
    CONTENT_TYPE,
    CORIM_META,
    PROFILE,
    PSA,
    Corim,
    encode_corim,
    is_signed,
    parse_corim,
    parse_foreign_comid,
    parse_foreign_corim,
    parse_signed_corim,
    read_corim,
    sign_corim,
)
from writ.formats.cose import encode_sign1, verify_sign1
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.keys import ALGORITHMS, ED25519
from writ.formats.strict import decode_cbor, encode_cbor

_DIGESTS = st.builds(Digest.of, st.binary(max_size=4), st.sampled_from(["sha256", "sha384", "sha512"]))
_COMPONENTS = st.dictionaries(st.text("abc/:", min_size=1, max_size=6), _DIGESTS, max_size=5)
_REGISTERS = st.dictionaries(st.integers(0, 23), _DIGESTS, max_size=5)
_CORIMS = st.builds(
    lambda components, registers, until: Corim(
        "set-1", "demo", "spiffe://example/demo/agent/a", tuple(sorted(components.items())), tuple(sorted(registers.items())), until
    ),
    _COMPONENTS.filter(bool),
    _REGISTERS,
    st.none() | st.integers(0, (1 << 63) - 1),
)
_A, _B = Digest.of(b"a"), Digest.of(b"b")
_SPECIMEN = Corim("set-1", "demo", "spiffe://example/demo/agent/a", (("code", _A), ("prompt", _B)), ((4, _A), (7, _B)), 1800000000)


# --- ours --------------------------------------------------------------------------------------------------------------


@given(_CORIMS)
def test_corim_comes_back_as_it_was(corim: Corim) -> None:
    data = encode_corim(corim)
    assert parse_corim(data) == corim
    assert encode_corim(parse_corim(data)) == data
    value = decode_cbor(data, "CoRIM", tags={501, 506, 32, 1})  # refuses any but the deterministic spelling
    decode_cbor(value.value[1][0].value, "CoMID")


@given(_CORIMS)
def test_ours_is_a_corim_to_the_reader_of_foreign_ones(corim: Corim) -> None:
    foreign = parse_foreign_corim(encode_corim(corim))
    assert (foreign.id, foreign.profile, foreign.coswids, foreign.cotls, foreign.sign1) == ("set-1", PROFILE, 0, 0, None)
    assert foreign.comids[0].digests == len(corim.components) + len(corim.registers)
    assert foreign.comids[0].measurement_keys == {name for name, _ in corim.components}


def test_registers_alone_are_a_corim_and_two_banks_share_an_index() -> None:
    both = ((7, Digest.of(b"x")), (7, Digest.of(b"x", "sha384")))
    corim = Corim("boot", "demo", "host/a", (), both)
    assert parse_corim(encode_corim(corim)).registers == both


def test_corim_readers_are_total() -> None:
    assert_parser_is_total(parse_corim, encode_corim(_SPECIMEN), flips=800)
    assert_parser_is_total(parse_foreign_corim, encode_corim(_SPECIMEN), flips=400)
    assert_parser_is_total(parse_signed_corim, sign_corim(_SPECIMEN, new_signer(), signer_name="publisher"), flips=400)


def test_bytes_of_a_corim_are_those_of_the_draft() -> None:
    value = decode_cbor(encode_corim(_SPECIMEN), "CoRIM", tags=frozenset({501, 506, 32, 1}))
    assert value.tag == 501
    assert sorted(value.value) == [0, 1, 3, 4]
    comid = decode_cbor(value.value[1][0].value, "CoMID")
    assert comid[4][0] == [
        [
            {0: {1: "demo", 2: "spiffe://example/demo/agent/a"}},
            [
                {0: "code", 1: {2: [[1, _A.value]]}},
                {0: "prompt", 1: {2: [[1, _B.value]]}},
                {1: {14: {4: [[1, _A.value]], 7: [[1, _B.value]]}}},
            ],
        ]
    ]


def test_view_for_people_holds_everything() -> None:
    view = _SPECIMEN.to_json()
    assert json.loads(json.dumps(view)) == view
    assert view["components"] == {"code": str(_A), "prompt": str(_B)}
    assert view["registers"] == [{"index": 4, "digest": str(_A)}, {"index": 7, "digest": str(_B)}]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"id": ""}, id="no id"),
        pytest.param({"id": "a\n"}, id="a newline in the id"),
        pytest.param({"namespace": "Demo"}, id="a namespace in upper case"),
        pytest.param({"environment": ""}, id="no environment"),
        pytest.param({"components": (("prompt", _B), ("code", _A))}, id="components out of order"),
        pytest.param({"components": (("code", _A), ("code", _B))}, id="a component twice"),
        pytest.param({"components": (("", _A),)}, id="a component without a name"),
        pytest.param({"components": (("code", Digest.of(b"", "sha1")),)}, id="SHA-1"),
        pytest.param({"registers": ((7, _A), (4, _B))}, id="registers out of order"),
        pytest.param({"registers": ((7, _A), (7, _B))}, id="a register twice in one bank"),
        pytest.param({"registers": ((24, _A),)}, id="a register that no TPM has"),
        pytest.param({"registers": ((-1, _A),)}, id="a negative register"),
        pytest.param({"components": (), "registers": ()}, id="no measurement"),
        pytest.param({"components": tuple((f"{i:05}", _A) for i in range(65_537))}, id="too many measurements"),
        pytest.param({"valid_until": -1}, id="an end before the epoch"),
        pytest.param({"valid_until": 1 << 63}, id="an end beyond 63 bits"),
    ],
)
def test_corim_that_breaks_a_rule_cannot_be_built(change: dict[str, Any]) -> None:
    fields = {name: getattr(_SPECIMEN, name) for name in ("id", "namespace", "environment", "components", "registers", "valid_until")}
    with pytest.raises(FormatError):
        Corim(**{**fields, **change})


def _comid(**changes: Any) -> dict[int, Any]:
    environment = changes.get("environment", {0: {1: "demo", 2: "env"}})
    measurements = changes.get("measurements", [{0: "code", 1: {2: [[1, _A.value]]}}])
    return {1: {0: changes.get("tag_id", "set-1")}, 4: {0: [changes.get("triple", [environment, measurements])]}}


def _corim(comid: object, **changes: Any) -> bytes:
    data = comid if isinstance(comid, bytes) else encode_cbor(comid)
    value = {0: "set-1", 1: [cbor2.CBORTag(506, data)], 3: cbor2.CBORTag(32, PROFILE)}
    value.update({int(key[1:]): item for key, item in changes.items() if item is not ...})
    for key in [int(key[1:]) for key, item in changes.items() if item is ...]:
        del value[key]
    return encode_cbor(cbor2.CBORTag(501, value))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_corim(_comid(), k3=...), id="no profile"),
        pytest.param(_corim(_comid(), k3=cbor2.CBORTag(32, "tag:other")), id="another profile"),
        pytest.param(_corim(_comid(), k3=PROFILE), id="a profile without a tag"),
        pytest.param(_corim(_comid(), k0=...), id="no id"),
        pytest.param(_corim(_comid(), k0=b"0" * 16), id="a UUID"),
        pytest.param(_corim(_comid(), k1=[]), id="no tag"),
        pytest.param(_corim(_comid(), k1=[cbor2.CBORTag(506, encode_cbor(_comid()))] * 2), id="two tags"),
        pytest.param(_corim(_comid(), k1=[cbor2.CBORTag(32, "x")]), id="no CoMID"),
        pytest.param(_corim(_comid(), k1=[cbor2.CBORTag(506, {})]), id="a CoMID that is no bytes"),
        pytest.param(_corim(_comid(), k4={1: 5}), id="a time without a tag"),
        pytest.param(_corim(_comid(), k4={1: cbor2.CBORTag(1, "x")}), id="a time that is text"),
        pytest.param(_corim(_comid(), k4={0: cbor2.CBORTag(1, 0), 1: cbor2.CBORTag(1, 5)}), id="a beginning"),
        pytest.param(_corim(_comid(), k5=[]), id="an unknown key"),
        pytest.param(encode_cbor({0: "set-1"}), id="no tag 501"),
        pytest.param(_corim(_comid(tag_id="other")), id="another id in the CoMID"),
        pytest.param(_corim({**_comid(), 0: "en"}), id="a language in the CoMID"),
        pytest.param(_corim({1: {0: "set-1"}, 4: {0: []}}), id="no triple"),
        pytest.param(_corim({1: {0: "set-1"}, 4: {0: [[{}, []]], 1: []}}), id="endorsed triples"),
        pytest.param(_corim(_comid(triple={})), id="a triple that is a map"),
        pytest.param(_corim(_comid(triple=[{}])), id="half a triple"),
        pytest.param(_corim(_comid(triple=[{}, {}])), id="measurements in a map"),
        pytest.param(_corim(_comid(environment={0: {1: "demo", 2: "env", 3: 1}})), id="a layer"),
        pytest.param(_corim(_comid(environment={0: {1: "demo", 2: "env"}, 1: "x"})), id="an instance"),
        pytest.param(_corim(_comid(environment={0: {1: "Demo", 2: "env"}})), id="another namespace"),
        pytest.param(_corim(_comid(measurements=[])), id="no measurement"),
        pytest.param(_corim(_comid(measurements=[{0: 7, 1: {2: [[1, _A.value]]}}])), id="a component by number"),
        pytest.param(_corim(_comid(measurements=[{0: "code", 1: {2: []}}])), id="a component without a digest"),
        pytest.param(_corim(_comid(measurements=[{0: "code", 1: {2: [[1, _A.value], [7, bytes(48)]]}}])), id="two digests"),
        pytest.param(_corim(_comid(measurements=[{0: "code", 1: {2: [[2, _A.value]]}}])), id="an unknown algorithm"),
        pytest.param(_corim(_comid(measurements=[{0: "code", 1: {2: [["sha-256", _A.value]]}}])), id="an algorithm by name"),
        pytest.param(_corim(_comid(measurements=[{0: "code", 1: {2: [[1, "text"]]}}])), id="a digest of text"),
        pytest.param(_corim(_comid(measurements=[{0: "code", 1: {2: [[1, bytes(31)]]}}])), id="a short digest"),
        pytest.param(_corim(_comid(measurements=[{0: "code", 1: {2: [[True, _A.value]]}}])), id="an algorithm that is true"),
        pytest.param(_corim(_comid(measurements=[{0: "code", 1: {2: [[1, _A.value]], 4: b""}}])), id="a raw value"),
        pytest.param(_corim(_comid(measurements=[{0: "code", 1: {2: [[1, _A.value]]}, 2: []}])), id="an authority"),
        pytest.param(_corim(_comid(measurements=[{1: {14: {"x": [[1, _A.value]]}}}])), id="a register by name"),
        pytest.param(_corim(_comid(measurements=[{1: {14: {7: {}}}}])), id="a register without an array"),
        pytest.param(_corim(_comid(measurements=[{1: {14: {7: []}}}])), id="a register without a digest"),
        pytest.param(_corim(_comid(measurements=[{1: {14: {}}}, {0: "code", 1: {2: [[1, _A.value]]}}])), id="registers before components"),
        pytest.param(_corim(_comid(measurements=[{1: {14: {7: [[1, _A.value]]}}}] * 2)), id="registers twice"),
    ],
)
def test_corim_of_another_shape_is_refused(data: bytes) -> None:
    assert parse_corim(_corim(_comid())).components == (("code", _A),)
    with pytest.raises(FormatError):
        parse_corim(data)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_signed_corim_comes_back_and_verifies(algorithm: str) -> None:
    signer = new_signer(algorithm)
    data = sign_corim(_SPECIMEN, signer, signer_name="publisher")
    signed = parse_signed_corim(data)
    assert (signed.corim, signed.signer_name, signed.sign1.kid) == (_SPECIMEN, "publisher", signer.public.thumbprint())
    assert verify_sign1(signed.sign1, signer.public)
    assert not verify_sign1(signed.sign1, new_signer(algorithm).public)
    assert parse_foreign_corim(data).sign1 == signed.sign1


_META = encode_cbor({0: {0: "publisher"}})


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"content_type": "application/cbor"}, id="another content type"),
        pytest.param({"content_type": None}, id="no content type"),
        pytest.param({"headers": {}}, id="no corim-meta"),
        pytest.param({"headers": {CORIM_META: {0: {0: "publisher"}}}}, id="corim-meta that is no bytes"),
        pytest.param({"headers": {CORIM_META: encode_cbor({})}}, id="an empty corim-meta"),
        pytest.param({"headers": {CORIM_META: encode_cbor({0: {0: ""}})}}, id="a signer without a name"),
        pytest.param({"headers": {CORIM_META: encode_cbor({0: {0: "x", 1: "y"}})}}, id="more of the signer"),
        pytest.param({"headers": {CORIM_META: encode_cbor({0: {0: "x"}, 1: {}})}}, id="a validity of the signature"),
        pytest.param({"detached": True}, id="no payload"),
        pytest.param({"unprotected": {CORIM_META: b""}, "headers": {}}, id="corim-meta unprotected"),
    ],
)
def test_signed_corim_of_another_shape_is_refused(options: dict[str, Any]) -> None:
    signer = new_signer()
    arguments: dict[str, Any] = {"content_type": CONTENT_TYPE, "headers": {CORIM_META: _META}, **options}
    with pytest.raises(FormatError):
        parse_signed_corim(encode_sign1(encode_corim(_SPECIMEN), algorithm=ED25519, kid=b"k", sign=signer.sign, **arguments))


def test_corim_is_read_in_either_form_and_its_signature_is_not_verified() -> None:
    signed = sign_corim(_SPECIMEN, new_signer(), signer_name="a")
    forged = signed[:-1] + bytes([signed[-1] ^ 1])
    assert [is_signed(data) for data in (signed, encode_corim(_SPECIMEN), b"")] == [True, False, False]
    assert [read_corim(data) for data in (signed, forged, encode_corim(_SPECIMEN))] == [_SPECIMEN] * 3
    for data in (b"", b"\xd2", signed[:-1], b"\xd9\x01\xf5"):
        with pytest.raises(FormatError):
            read_corim(data)


# --- of other makers ---------------------------------------------------------------------------------------------------


def test_published_examples_of_the_draft_are_read(vectors: Path) -> None:
    folder = vectors / "audit" / "veraison_corim"
    paths = sorted([*folder.glob("comid/testcases/*.cbor"), *folder.glob("corim/testcases/*.cbor")])
    assert len(paths) > 25
    for path in paths:
        data = path.read_bytes()
        assert parse_foreign_corim(data).comids if data[:1] in (b"\xd9", b"\xd2") else parse_foreign_comid(data).triples, path.name
    assert parse_foreign_comid((folder / "comid/testcases/comid-integrity-registers.cbor").read_bytes()).digests == 4


def test_signed_example_keeps_its_bytes(vectors: Path) -> None:
    foreign = parse_foreign_corim((vectors / "corim/veraison/corim__testcases__signed-example-corim.cbor").read_bytes())
    assert foreign.sign1 is not None
    assert (foreign.sign1.algorithm, foreign.sign1.kid, foreign.profile) == ("ES256", b"1", "http://example.com/example-profile")
    assert foreign.sign1.payload is not None
    assert foreign.sign1.payload.startswith(bytes.fromhex("d901f5a420"))


def test_foreign_readers_are_total(vectors: Path) -> None:
    folder = vectors / "corim" / "veraison"
    signed = (folder / "corim__testcases__signed-example-corim.cbor").read_bytes()
    assert_parser_is_total(parse_foreign_corim, signed, flips=400)
    assert_parser_is_total(parse_foreign_comid, (folder / "comid__testcases__comid-5.cbor").read_bytes(), flips=400)
    realm = (folder / "profiles__cca__testcases__cca-realm-valid.cbor").read_bytes()
    assert_parser_is_total(parse_foreign_corim, realm, flips=400)


_UUID = bytes(range(16))
_TRIPLE = [{0: {1: "ACME"}}, [{1: {2: [[1, _A.value]]}}]]


def _foreign_comid(triples: object) -> bytes:
    return encode_cbor({1: {0: _UUID}, 4: triples})


def test_foreign_corim_counts_tags_and_reads_each_form_of_id_and_profile() -> None:
    tags = [cbor2.CBORTag(506, _foreign_comid({0: [_TRIPLE]})), cbor2.CBORTag(505, b"\xa0"), cbor2.CBORTag(508, b"\xa0")]
    found = parse_foreign_corim(_corim(b"", k0=cbor2.CBORTag(37, _UUID), k1=tags, k3=cbor2.CBORTag(111, b"\x2b\x06"), k9="extension"))
    assert (found.id, found.profile, len(found.comids), found.coswids, found.cotls) == (_UUID.hex(), "oid:2b06", 1, 1, 1)
    indefinite = b"\xd9\x01\xf5\xbf\x01\x9f\xd9\x01\xfa\x58" + bytes([len(tags[0].value)]) + tags[0].value + b"\xff\x00\x61a\xff"
    assert parse_foreign_corim(indefinite).id == "a"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_corim(b"", k1=[]), id="no tags"),
        pytest.param(_corim(b"", k1=[b""]), id="a tag that is none"),
        pytest.param(_corim(b"", k1=[cbor2.CBORTag(505, {})]), id="a CoSWID that is no bytes"),
        pytest.param(_corim(b"", k1=[cbor2.CBORTag(507, b"")]), id="an unknown kind of tag"),
        pytest.param(_corim(_foreign_comid({0: [_TRIPLE]}), k0=b"short"), id="an id of five bytes"),
        pytest.param(_corim(_foreign_comid({0: [_TRIPLE]}), k0=7), id="an id that is a number"),
        pytest.param(_corim(_foreign_comid({0: [_TRIPLE]}), k3=7), id="a profile that is a number"),
        pytest.param(_corim(_foreign_comid({})), id="no triples"),
        pytest.param(_corim(_foreign_comid({0: []})), id="an empty list of triples"),
        pytest.param(_corim(_foreign_comid({0: {1: 2}})), id="triples in a map"),
        pytest.param(_corim(_foreign_comid({"x": [_TRIPLE]})), id="triples by name"),
        pytest.param(_corim(_foreign_comid({0: [[{0: {}}]]})), id="half a triple"),
        pytest.param(_corim(_foreign_comid({0: ["x"]})), id="a triple of text"),
        pytest.param(_corim(_foreign_comid({0: [[{}, [{1: {2: [[1, _A.value]]}}]]]})), id="an empty environment"),
        pytest.param(_corim(_foreign_comid({0: [[{0: {}}, []]]})), id="no measurements"),
        pytest.param(_corim(_foreign_comid({0: [[{0: {}}, [{0: 1}]]]})), id="a measurement without values"),
        pytest.param(_corim(_foreign_comid({0: [[{0: {}}, [{1: {}}]]]})), id="a measurement with no value"),
        pytest.param(_corim(_foreign_comid({0: [[{0: {}}, [{1: {2: [[1, bytes(31)]]}}]]]})), id="a short digest"),
        pytest.param(_corim(_foreign_comid({0: [[{0: {}}, [{1: {2: [[1]]}}]]]})), id="half a digest"),
        pytest.param(_corim(_foreign_comid({0: [[{0: {}}, [{1: {2: []}}]]]})), id="no digests"),
        pytest.param(_corim(_foreign_comid({0: [[{0: {}}, [{1: {14: []}}]]]})), id="no registers"),
        pytest.param(_corim(_foreign_comid({0: [[{0: {}}, [{1: {14: {7: [[7, bytes(32)]]}}}]]]})), id="a register of another size"),
        pytest.param(_corim(_foreign_comid({0: [_TRIPLE]}), k3=cbor2.CBORTag(32, PSA)), id="PSA without a class id"),
        pytest.param(_corim(_foreign_comid({3: [[{0: {0: cbor2.CBORTag(560, bytes(32))}}, []]]}), k3=PSA), id="PSA without a key"),
        pytest.param(
            _corim(_foreign_comid({0: [[{0: {0: cbor2.CBORTag(560, "x" * 32)}}, _TRIPLE[1]]]}), k3=CCA_REALM), id="a class id of text"
        ),
    ],
)
def test_foreign_corim_of_another_shape_is_refused(data: bytes) -> None:
    parse_foreign_corim(_corim(_foreign_comid({0: [_TRIPLE]})))
    with pytest.raises(FormatError):
        parse_foreign_corim(data)


@pytest.mark.parametrize(
    "options", [{"content_type": None}, {"content_type": "text/plain"}, {"content_type": CONTENT_TYPE, "detached": True}]
)
def test_foreign_envelope_of_something_else_is_refused(options: dict[str, Any]) -> None:
    signer = new_signer()
    with pytest.raises(FormatError, match="signed CoRIM"):
        parse_foreign_corim(encode_sign1(encode_corim(_SPECIMEN), algorithm=ED25519, kid=b"k", sign=signer.sign, **options))

"""COSE_Sign1: ours in one spelling, foreign ones as they come, and neither with anything that is not understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.signers import MemorySigner, new_signer
from writ.formats.cose import (
    CWT_CLAIMS,
    ES384,
    Sign1,
    encode_sign1,
    parse_sign1,
    sign1_bytes,
    verify_sign1,
)
from writ.formats.errors import FormatError, Misuse
from writ.formats.keys import ALGORITHMS, ED25519, ES256, PublicKey
from writ.formats.strict import decode_cbor, encode_cbor, parse_b64url


def _sign(signer: MemorySigner, payload: bytes = b"payload", **options: Any) -> bytes:
    return encode_sign1(payload, algorithm=signer.public.algorithm, kid=b"kid", sign=signer.sign, **options)


def _raw(
    protected: object, unprotected: object = None, payload: object = b"payload", signature: object = bytes(64), *, tag: int = 18
) -> bytes:
    header = encode_cbor(protected) if isinstance(protected, dict) else protected
    return encode_cbor(cbor2.CBORTag(tag, [header, {} if unprotected is None else unprotected, payload, signature]))


# --- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(payload=st.binary(max_size=64), aad=st.binary(max_size=16), detached=st.booleans())
def test_sign1_comes_back_and_verifies(algorithm: str, payload: bytes, aad: bytes, detached: bool) -> None:
    signer = new_signer(algorithm)
    sign1 = parse_sign1(_sign(signer, payload, content_type="text/plain", typ="x", detached=detached, external_aad=aad))
    outside = payload if detached else None
    assert sign1.payload == (None if detached else payload)
    assert (sign1.algorithm, sign1.kid, sign1.headers[3], sign1.headers[16]) == (algorithm, b"kid", "text/plain", "x")
    assert verify_sign1(sign1, signer.public, external_aad=aad, detached_payload=outside)
    assert not verify_sign1(sign1, signer.public, external_aad=aad + b"x", detached_payload=outside)
    assert not verify_sign1(sign1, new_signer(algorithm).public, external_aad=aad, detached_payload=outside)
    assert not verify_sign1(
        sign1, new_signer(ES256 if algorithm == ED25519 else ED25519).public, external_aad=aad, detached_payload=outside
    )
    assert not verify_sign1(sign1, signer.public, external_aad=aad, detached_payload=None if detached else payload)
    if detached:
        assert not verify_sign1(sign1, signer.public, external_aad=aad, detached_payload=payload + b"x")


def test_cwt_claims_and_named_labels_come_back() -> None:
    signer = new_signer()
    data = _sign(signer, headers={CWT_CLAIMS: {1: "issuer"}, 395: 1}, unprotected={396: {-1: [b"proof"]}})
    sign1 = parse_sign1(data, known_labels=(395, 396))
    assert sign1.headers[CWT_CLAIMS] == {1: "issuer"}
    assert sign1.unprotected == {396: {-1: [b"proof"]}}
    assert verify_sign1(sign1, signer.public)
    assert hash(sign1) == hash(parse_sign1(data, known_labels=(395, 396)))
    with pytest.raises(FormatError, match="known labels only, got 395"):
        parse_sign1(data)


def test_headers_cannot_be_changed_after_parsing() -> None:
    sign1 = parse_sign1(_sign(new_signer()))
    with pytest.raises(TypeError):
        sign1.headers[1] = -9  # type: ignore[index] # the point of the test


def test_sign1_without_kid_has_none() -> None:
    signer = new_signer()
    sign1 = parse_sign1(encode_sign1(b"", algorithm=ED25519, kid=None, sign=signer.sign))
    assert sign1.kid is None
    assert verify_sign1(sign1, signer.public)


@pytest.mark.parametrize("foreign", [False, True])
def test_sign1_reader_is_total(foreign: bool) -> None:
    specimen = _sign(new_signer(), content_type=60, headers={CWT_CLAIMS: {1: "issuer"}})
    assert_parser_is_total(lambda data: parse_sign1(data, foreign=foreign), specimen)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_flipped_bit_of_a_sign1_verifies(algorithm: str) -> None:
    signer = new_signer(algorithm)
    good = _sign(signer)
    for bit in range(len(good) * 8):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            sign1 = parse_sign1(bytes(flipped))
        except FormatError:
            continue
        assert not verify_sign1(sign1, signer.public), f"bit {bit}"


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "protected",
    [
        pytest.param({}, id="no alg"),
        pytest.param({4: b"kid"}, id="no alg beside a kid"),
        pytest.param({1: -8}, id="EdDSA, the older number"),
        pytest.param({1: -7}, id="ES256, the older number"),
        pytest.param({1: -35}, id="ES384"),
        pytest.param({1: -257}, id="RSA"),
        pytest.param({1: 5}, id="a MAC"),
        pytest.param({1: "Ed25519"}, id="alg by name"),
        pytest.param({1: True}, id="alg true"),
        pytest.param({1: None}, id="alg null"),
        pytest.param({1: -19, 2: [4]}, id="crit of a label that is known"),
        pytest.param({1: -19, 2: []}, id="an empty crit"),
        pytest.param({1: -19, 99: 1}, id="an unknown label"),
        pytest.param({1: -19, "x": 1}, id="a text label"),
        pytest.param({1: -19, 4: "kid"}, id="kid as text"),
        pytest.param({1: -19, 3: b"type"}, id="content type as bytes"),
        pytest.param({1: -19, 3: True}, id="content type true"),
        pytest.param({1: -19, 16: []}, id="typ as an array"),
        pytest.param({1: -19, 15: b""}, id="CWT claims as bytes"),
        pytest.param(b"", id="an empty protected header"),
        pytest.param(b"\x80", id="an array for a header"),
        pytest.param(b"\xa1\x01\x32\x00", id="trailing bytes in the header"),
        pytest.param(b"\xa1\x01\x38\x12", id="a longer head in the header"),
        pytest.param(7, id="a number for a header"),
    ],
)
def test_protected_header_that_is_not_understood_is_refused(protected: object) -> None:
    parse_sign1(_raw({1: -19}))
    with pytest.raises(FormatError):
        parse_sign1(_raw(protected))


@pytest.mark.parametrize("unprotected", [{1: -19}, {2: [1]}, {4: b"kid"}, {3: "text/plain"}, {99: 1}, {"x": 1}, [], b""])
def test_unprotected_header_of_ours_is_empty(unprotected: object) -> None:
    with pytest.raises(FormatError):
        parse_sign1(_raw({1: -19}, unprotected))


@pytest.mark.parametrize("unprotected", [{1: -7}, {2: [1]}, {4: b"another"}, {1: -7, 2: [1]}])
def test_foreign_unprotected_header_cannot_say_alg_or_crit_or_contradict(unprotected: dict[int, Any]) -> None:
    parse_sign1(_raw({1: -7, 4: b"kid"}, {33: b"cert", "x": 1}), foreign=True)
    with pytest.raises(FormatError):
        parse_sign1(_raw({1: -7, 4: b"kid"}, unprotected), foreign=True)


def test_foreign_alg_in_the_unprotected_header_alone_is_refused() -> None:
    with pytest.raises(FormatError):
        parse_sign1(_raw(b"", {1: -7}), foreign=True)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_raw({1: -19}, tag=61), id="another tag"),
        pytest.param(_raw({1: -19}, tag=17), id="a MAC"),
        pytest.param(encode_cbor([encode_cbor({1: -19}), {}, b"", bytes(64)]), id="no tag"),
        pytest.param(encode_cbor(cbor2.CBORTag(18, cbor2.CBORTag(18, []))), id="a tag twice"),
        pytest.param(encode_cbor(cbor2.CBORTag(18, [encode_cbor({1: -19}), {}, b""])), id="three members"),
        pytest.param(encode_cbor(cbor2.CBORTag(18, {})), id="a map"),
        pytest.param(_raw({1: -19}, payload="text"), id="a payload of text"),
        pytest.param(_raw({1: -19}, signature=bytes(63)), id="a short signature"),
        pytest.param(_raw({1: -19}, signature=bytes(96)), id="a signature of P-384"),
        pytest.param(_raw({1: -19}, signature=None), id="no signature"),
        pytest.param(_raw({1: -19}) + b"\x00", id="trailing bytes"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_sign1_of_another_shape_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_sign1(data)


def test_a_bare_sign1_is_read_where_it_is_asked_for() -> None:
    bare = encode_cbor([encode_cbor({1: -19}), {}, b"", bytes(64)])
    assert parse_sign1(bare, tagged=False).payload == b""
    with pytest.raises(FormatError):
        parse_sign1(_raw({1: -19}), tagged=False)


def test_ours_has_one_spelling_and_a_foreign_one_keeps_its_own() -> None:
    signer = new_signer(ES256)
    protected = b"\xbf\x01\x38\x06\xff"  # {_ 1: -7} with a longer head
    signature = signer.sign(sign1_bytes(protected, b"payload"))
    data = b"\xd2\x9f\x45" + protected + b"\xa0\x5f\x43pay\x44load\xff\x58\x40" + signature + b"\xff"
    with pytest.raises(FormatError):
        parse_sign1(data)
    sign1 = parse_sign1(data, foreign=True)
    assert (sign1.protected, sign1.payload) == (protected, b"payload")
    assert verify_sign1(sign1, signer.public)


def test_size_is_bounded() -> None:
    with pytest.raises(FormatError, match="at most 10 bytes"):
        parse_sign1(_raw({1: -19}), max_size=10)


@pytest.mark.parametrize(
    "options",
    [{"algorithm": "ES384"}, {"algorithm": "none"}, {"headers": {1: -7}}, {"headers": {2: [4]}}, {"headers": {4: b"x"}}],
)
def test_encoding_what_would_be_refused_is_misuse(options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"algorithm": ED25519, "kid": b"kid", "sign": lambda _: bytes(64), **options}
    with pytest.raises(Misuse):
        encode_sign1(b"", **arguments)


# --- ES384, foreign only -----------------------------------------------------------------------------------------------


def _es384(key: ec.EllipticCurvePrivateKey, alg: int = -35) -> Sign1:
    protected = encode_cbor({1: alg})
    r, s = utils.decode_dss_signature(key.sign(sign1_bytes(protected, b"payload"), ec.ECDSA(hashes.SHA384())))
    return parse_sign1(_raw(protected, signature=r.to_bytes(48, "big") + s.to_bytes(48, "big")), foreign=True)


@pytest.mark.parametrize("alg", [-35, -51])
def test_foreign_es384_verifies_under_its_key_only(alg: int) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    sign1 = _es384(key, alg)
    assert sign1.algorithm == ES384
    assert verify_sign1(sign1, key.public_key())
    assert not verify_sign1(sign1, ec.generate_private_key(ec.SECP384R1()).public_key())
    assert not verify_sign1(sign1, ec.generate_private_key(ec.SECP256R1()).public_key())
    assert not verify_sign1(sign1, key.public_key(), external_aad=b"x")
    assert not verify_sign1(sign1, new_signer(ES256).public)


def test_a_p384_key_serves_no_other_algorithm() -> None:
    sign1 = parse_sign1(_sign(new_signer(ES256)))
    assert not verify_sign1(sign1, ec.generate_private_key(ec.SECP384R1()).public_key())


def test_es384_by_a_key_of_another_curve_does_not_verify() -> None:
    """ECDSA with SHA-384 by a P-256 key, r and s padded to 48 bytes: a good signature, of another algorithm."""
    key = ec.generate_private_key(ec.SECP256R1())
    assert not verify_sign1(_es384(key), key.public_key())


def test_crit_is_refused_even_where_a_caller_names_it() -> None:
    with pytest.raises(FormatError, match="no critical extension"):
        parse_sign1(_raw({1: -19, 2: [4], 4: b"kid"}), known_labels=(2,))


# --- published vectors -------------------------------------------------------------------------------------------------


def _key(value: dict[str, str]) -> PublicKey | ec.EllipticCurvePublicKey:
    def coordinate(name: str) -> bytes:
        return bytes.fromhex(value[f"{name}_hex"]) if f"{name}_hex" in value else parse_b64url(value[name], name)

    if value["crv"] == "Ed25519":
        return PublicKey(ED25519, coordinate("x"))
    if value["crv"] == "P-256":
        return PublicKey(ES256, b"\x04" + coordinate("x") + coordinate("y"))
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), b"\x04" + coordinate("x") + coordinate("y"))


_VERIFIES = [
    "sign1-tests/sign-pass-02.json",
    "eddsa-examples/eddsa-sig-01.json",
    "ecdsa-examples/ecdsa-sig-01.json",
    "ecdsa-examples/ecdsa-sig-02.json",
]


@pytest.mark.parametrize("file", _VERIFIES)
def test_cose_wg_example_verifies(vectors: Path, file: str) -> None:
    """sign-pass-02 has external data; ecdsa-sig-02 is ES384."""
    example = json.loads((vectors / "audit" / "cose_wg_examples" / file).read_text())
    said = example["input"]["sign0"]
    sign1 = parse_sign1(bytes.fromhex(example["output"]["cbor"]), foreign=True)
    aad = bytes.fromhex(said.get("external", ""))
    payload = example["input"]["plaintext"].encode()
    assert sign1.payload == payload
    assert sign1_bytes(sign1.protected, payload, external_aad=aad) == bytes.fromhex(example["intermediates"]["ToBeSign_hex"])
    assert verify_sign1(sign1, _key(said["key"]), external_aad=aad)


def test_cose_wg_example_with_an_unprotected_alg_is_refused(vectors: Path) -> None:
    """sign-pass-01 is good COSE; an alg that nothing signs is not ours to believe."""
    example = json.loads((vectors / "audit" / "cose_wg_examples" / "sign1-tests" / "sign-pass-01.json").read_text())
    with pytest.raises(FormatError, match="alg"):
        parse_sign1(bytes.fromhex(example["output"]["cbor"]), foreign=True)


@pytest.mark.parametrize(
    "file, parses",
    [
        pytest.param("sign-fail-01", False, id="another tag"),
        pytest.param("sign-fail-02", True, id="another signature"),
        pytest.param("sign-fail-03", False, id="an unknown alg"),
        pytest.param("sign-fail-04", False, id="alg as text"),
        pytest.param("sign-fail-06", True, id="a protected attribute added"),
        pytest.param("sign-fail-07", True, id="a protected attribute removed"),
    ],
)
def test_cose_wg_example_that_must_fail_fails(vectors: Path, file: str, parses: bool) -> None:
    example = json.loads((vectors / "audit" / "cose_wg_examples" / "sign1-tests" / f"{file}.json").read_text())
    assert example["fail"] is True
    data = bytes.fromhex(example["output"]["cbor"])
    if not parses:
        with pytest.raises(FormatError):
            parse_sign1(data, foreign=True)
        return
    assert not verify_sign1(parse_sign1(data, foreign=True), _key(example["input"]["sign0"]["key"]))


@pytest.mark.parametrize("file, proof", [("inclusion-receipt.cbor", -1), ("consistency-receipt.cbor", -2)])
def test_published_cose_receipt_is_read(vectors: Path, file: str, proof: int) -> None:
    """RFC 9942; no key was published, so the signature is not judged."""
    sign1 = parse_sign1((vectors / "audit" / "cose_receipts" / "examples" / file).read_bytes(), foreign=True, known_labels=(395, 396))
    assert (sign1.algorithm, sign1.headers[395], sign1.payload) == (ES256, 1, None)
    assert list(sign1.unprotected[396]) == [proof]


@pytest.mark.parametrize(
    "file, verifies",
    [
        ("dstack/nsm_attestation.cbor", True),
        ("evervault/valid-attestation-doc.cbor", True),
        ("veracruz/aws_nitro_document.cbor", True),
        ("veracruz/aws_nitro_document_bad_sig.cbor", False),
    ],
)
def test_real_nitro_document_verifies_over_the_bytes_that_were_read(vectors: Path, file: str, verifies: bool) -> None:
    """A bare COSE_Sign1 in ES384 by the leaf certificate it carries; the chain above that is not judged here."""
    sign1 = parse_sign1((vectors / "nitro" / file).read_bytes(), tagged=False, foreign=True)
    assert sign1.payload is not None
    leaf = decode_cbor(sign1.payload, "Nitro document", one_spelling=False)["certificate"]
    key = x509.load_der_x509_certificate(leaf).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert verify_sign1(sign1, key) is verifies

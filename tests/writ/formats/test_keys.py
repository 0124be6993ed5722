"""Public keys: one point, three spellings, one name; and signatures that verify or do not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.signers import new_signer
from writ.formats.errors import FormatError
from writ.formats.keys import ALGORITHMS, ED25519, ES256, PublicKey, key_id, parse_cose_key, parse_jwk, parse_spki
from writ.formats.strict import b64url, decode_cbor, decode_json, encode_cbor, encode_json

_RFC8037_X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
"""RFC 8037 appendix A.2."""
_SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_spelling_leads_back_to_the_key(algorithm: str) -> None:
    key = new_signer(algorithm).public
    assert parse_jwk(decode_json(encode_json(key.to_jwk()), "JWK")) == key
    assert parse_cose_key(decode_cbor(encode_cbor(key.to_cose_key()), "COSE_Key")) == key
    assert parse_spki(key.to_spki()) == key


def test_spki_is_what_the_library_writes() -> None:
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    for key in (edwards, curve):
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert parse_spki(der).to_spki() == der


def test_thumbprint_of_rfc8037() -> None:
    key = parse_jwk({"kty": "OKP", "crv": "Ed25519", "x": _RFC8037_X})
    assert key_id(key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert key.raw.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_signature_of_rfc8032_verifies() -> None:
    key = PublicKey(ED25519, bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert key.verify(signature, b"")
    assert not key.verify(signature, b"\x00")


def test_thumbprint_of_es256_is_over_the_four_members_in_order() -> None:
    key = new_signer(ES256).public
    x, y = b64url(key.raw[1:33]), b64url(key.raw[33:])
    expected = hashlib.sha256(f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.encode()).digest()
    assert key.thumbprint() == expected
    assert len(key_id(key)) == 43


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(message=st.binary(max_size=64))
def test_signature_verifies_and_no_other_does(algorithm: str, message: bytes) -> None:
    signer, other = new_signer(algorithm), new_signer(algorithm)
    signature = signer.sign(message)
    assert signer.public.verify(signature, message)
    assert not other.public.verify(signature, message)
    assert not signer.public.verify(signature, message + b"\x00")
    assert not signer.public.verify(signature[:-1], message)
    assert not signer.public.verify(signature + b"\x00", message)
    assert not signer.public.verify(bytes(64), message)
    assert not signer.public.verify(b"\xff" * 64, message)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_flipped_bit_of_a_signature_is_refused(algorithm: str) -> None:
    signer = new_signer(algorithm)
    signature = signer.sign(b"message")
    for bit in range(512):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not signer.public.verify(bytes(flipped), b"message")


@pytest.mark.parametrize("point", _SMALL_ORDER)
def test_point_of_small_order_is_refused(point: str) -> None:
    with pytest.raises(FormatError, match="large order"):
        PublicKey(ED25519, bytes.fromhex(point))


def test_ed25519_bytes_off_the_curve_or_not_canonical_are_refused() -> None:
    on_curve = sum(_accepted(ED25519, hashlib.sha256(bytes([i])).digest()) for i in range(200))
    assert 60 < on_curve < 140, "half of all y lie on the curve"
    for excess in range(19):
        with pytest.raises(FormatError):
            PublicKey(ED25519, (2**255 - 19 + excess).to_bytes(32, "little"))


def test_p256_bytes_off_the_curve_are_refused() -> None:
    raw = new_signer(ES256).public.raw
    for bad in (
        raw[:-1] + bytes([raw[-1] ^ 1]),
        b"\x04" + bytes(64),
        b"\x04" + b"\xff" * 64,
        b"\x02" + raw[1:],
        b"\x06" + raw[1:],
        b"\x00" + raw[1:],
    ):
        assert not _accepted(ES256, bad), bad.hex()


def test_key_of_another_algorithm_or_size_is_refused() -> None:
    for algorithm in ("EdDSA", "ES384", "RS256", "none", ""):
        with pytest.raises(FormatError, match="one of Ed25519, ES256"):
            PublicKey(algorithm, bytes(32))
    with pytest.raises(FormatError, match="65 bytes for ES256"):
        PublicKey(ES256, bytes(33))


def _accepted(algorithm: str, raw: bytes) -> bool:
    try:
        PublicKey(algorithm, raw)
    except FormatError:
        return False
    return True


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"d": "AA"}, id="a private member"),
        pytest.param({"d": 1}, id="a private member of another type"),
        pytest.param({"k": "AA"}, id="an unknown member"),
        pytest.param({"key_ops": ["verify"]}, id="key_ops"),
        pytest.param({"use": "enc"}, id="for encryption"),
        pytest.param({"alg": "EdDSA"}, id="an older name of the algorithm"),
        pytest.param({"alg": "ES256"}, id="another algorithm"),
        pytest.param({"kty": "RSA"}, id="another kty"),
        pytest.param({"crv": "X25519"}, id="another curve"),
        pytest.param({"crv": "P-256"}, id="a curve of another kty"),
        pytest.param({"x": "AA"}, id="a short coordinate"),
        pytest.param({"x": _RFC8037_X + "="}, id="a padded coordinate"),
        pytest.param({"x": _RFC8037_X[:-1] + "p"}, id="unused bits that are set"),
        pytest.param({"x": 1}, id="a number for a coordinate"),
        pytest.param({"y": _RFC8037_X}, id="a second coordinate"),
        pytest.param({"kid": ""}, id="an empty kid"),
        pytest.param({"kid": 1}, id="a number for a kid"),
    ],
)
def test_jwk_with_more_or_other_members_is_refused(change: dict[str, Any]) -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": _RFC8037_X, "kid": "1", "use": "sig", "alg": "Ed25519"}
    assert parse_jwk(jwk).algorithm == ED25519
    with pytest.raises(FormatError):
        parse_jwk({**jwk, **change})


def test_private_key_is_refused_by_name() -> None:
    key = parse_jwk({"kty": "OKP", "crv": "Ed25519", "x": _RFC8037_X})
    with pytest.raises(FormatError, match="a public key, got the private member 'd'"):
        parse_jwk({**key.to_jwk(), "d": "AA"})
    with pytest.raises(FormatError, match="a public key, got the private parameter -4"):
        parse_cose_key({**key.to_cose_key(), -4: b"secret"})


def test_coordinates_that_split_the_point_elsewhere_are_refused() -> None:
    raw = new_signer(ES256).public.raw
    with pytest.raises(FormatError, match="32 bytes, got 31"):
        parse_jwk({"kty": "EC", "crv": "P-256", "x": b64url(raw[1:32]), "y": b64url(raw[32:])})
    with pytest.raises(FormatError):
        parse_cose_key({1: 2, -1: 1, -2: raw[1:32], -3: raw[32:]})


@pytest.mark.parametrize(
    "change",
    [{-4: b"secret"}, {3: -8}, {3: -9}, {3: "Ed25519"}, {1: 2}, {-1: 4}, {-2: b"short"}, {-2: True}, {4: [1]}, {2: "kid"}, {99: 1}],
)
def test_cose_key_with_more_or_other_parameters_is_refused(change: dict[int, Any]) -> None:
    key = {**parse_jwk({"kty": "OKP", "crv": "Ed25519", "x": _RFC8037_X}).to_cose_key(), 2: b"kid", 3: -19}
    assert parse_cose_key(key).algorithm == ED25519
    with pytest.raises(FormatError):
        parse_cose_key({**key, **change})


def test_cose_key_with_a_compressed_point_is_refused() -> None:
    key = new_signer(ES256).public.to_cose_key()
    assert parse_cose_key({**key, 3: -9}).algorithm == ES256
    with pytest.raises(FormatError):
        parse_cose_key({**key, -3: True})


@pytest.mark.parametrize("value", [None, [], "text", 1, b""])
def test_what_is_no_map_is_no_key(value: object) -> None:
    for parse in (parse_jwk, parse_cose_key):
        with pytest.raises(FormatError):
            parse(value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_key_readers_are_total(algorithm: str) -> None:
    key = new_signer(algorithm).public
    assert_parser_is_total(parse_spki, key.to_spki())
    assert_parser_is_total(lambda data: parse_jwk(decode_json(data, "JWK")), encode_json(key.to_jwk()))
    assert_parser_is_total(lambda data: parse_cose_key(decode_cbor(data, "COSE_Key")), encode_cbor(key.to_cose_key()))


def test_rsa_spki_is_refused() -> None:
    with pytest.raises(FormatError, match="uncompressed P-256"):
        parse_spki(bytes.fromhex("30819f300d06092a864886f70d010101050003818d00"))


@pytest.mark.parametrize("file, algorithm", [("ed25519_test.json", ED25519), ("ecdsa_secp256r1_sha256_p1363_test.json", ES256)])
def test_wycheproof_signatures_get_their_result(vectors: Path, file: str, algorithm: str) -> None:
    groups = json.loads((vectors / "audit" / "wycheproof" / file).read_text())["testGroups"]
    judged = 0
    for group in groups:
        public = group["publicKey"]
        key = PublicKey(algorithm, bytes.fromhex(public["pk"] if algorithm == ED25519 else public["uncompressed"]))
        for case in group["tests"]:
            verdict = key.verify(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
            assert verdict is (case["result"] == "valid"), case
            judged += 1
    assert judged > 140


def test_cctv_keys_of_small_order_are_refused_and_the_rest_read(vectors: Path) -> None:
    cases = json.loads((vectors / "audit" / "cctv" / "ed25519vectors.json").read_text())
    small = [case for case in cases if "low_order_A" in (case["flags"] or ())]
    large = [case for case in cases if "low_order_A" not in (case["flags"] or ()) and "non_canonical_A" not in (case["flags"] or ())]
    assert small
    assert large
    assert not any(_accepted(ED25519, bytes.fromhex(case["key"])) for case in small)
    assert all(_accepted(ED25519, bytes.fromhex(case["key"])) for case in large)


def test_a_commitment_of_small_order_is_no_signature() -> None:
    """R the neutral point and S = k·a: whoever holds the key can make it, OpenSSL takes it, WebCrypto does not. CCTV has others."""
    seed, commitment = bytes(range(32)), (1).to_bytes(32, "little")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    raw, order = private.public_key().public_bytes_raw(), 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little") & ((1 << 254) - 8) | (1 << 254)
    challenge = int.from_bytes(hashlib.sha512(commitment + raw + b"message").digest(), "little") % order
    signature = commitment + (challenge * scalar % order).to_bytes(32, "little")
    private.public_key().verify(signature, b"message")
    assert not PublicKey(ED25519, raw).verify(signature, b"message")

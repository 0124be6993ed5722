"""Compact JWS and DPoP proofs, read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.signers import MemorySigner, new_signer
from writ.formats.errors import FormatError, Misuse
from writ.formats.jose import (
    DPOP_TYP,
    b64url,
    encode_dpop_payload,
    parse_b64url,
    parse_dpop,
    parse_jws,
    sign_dpop,
    sign_jws,
    verify_jws,
)
from writ.formats.keys import ALGORITHMS, ED25519, ES256, parse_jwk

_ATH = b64url(bytes(range(32)))
_CLAIMS: dict[str, Any] = {"jti": "0123456789abcdef", "htm": "POST", "htu": "https://tool.example/act", "iat": 1700000000, "ath": _ATH}


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("latin-1"))


def _sign(signer: MemorySigner, payload: bytes = b"{}", *, typ: str = "at+jwt", kid: str | None = None) -> str:
    return sign_jws(payload, typ=typ, signer_algorithm=signer.public.algorithm, sign=signer.sign, kid=kid)


def _with_header(signer: MemorySigner, header: object, payload: bytes = b"{}") -> str:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    signing_input = f"{b64url(raw)}.{b64url(payload)}"
    return f"{signing_input}.{b64url(signer.sign(signing_input.encode()))}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(payload=st.binary(max_size=64), kid=st.none() | st.text("abc-0", min_size=1, max_size=8))
def test_jws_comes_back_and_verifies(algorithm: str, payload: bytes, kid: str | None) -> None:
    signer = new_signer(algorithm)
    jws = parse_jws(_sign(signer, payload, kid=kid), typ="at+jwt")
    assert (jws.payload, jws.kid, jws.algorithm) == (payload, kid, algorithm)
    assert verify_jws(jws, signer.public)
    assert not verify_jws(jws, new_signer(algorithm).public)
    assert not verify_jws(jws, new_signer(ES256 if algorithm == ED25519 else ED25519).public)
    assert hash(jws) == hash(parse_jws(jws.compact, typ="at+jwt"))


def test_jws_of_rfc8037_has_a_valid_signature_under_the_older_name() -> None:
    """Appendix A.4: the signature is good, the name EdDSA is not ours (RFC 9864)."""
    key = parse_jwk({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    text = (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    with pytest.raises(FormatError, match="Ed25519 or ES256, got 'EdDSA'"):
        parse_jws(text, typ="JWT")
    signing_input, _, signature = text.rpartition(".")
    assert key.verify(parse_b64url(signature, "signature"), signing_input.encode())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_jws_reader_is_total(algorithm: str) -> None:
    signer = new_signer(algorithm)
    assert_parser_is_total(_text(lambda text: parse_jws(text, typ="at+jwt")), _sign(signer, b'{"a":1}', kid="k").encode())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_flipped_bit_of_a_jws_verifies(algorithm: str) -> None:
    signer = new_signer(algorithm)
    good = _sign(signer, b'{"a":1}').encode()
    for bit in range(len(good) * 8):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            jws = parse_jws(flipped.decode("latin-1"), typ="at+jwt")
        except FormatError:
            continue
        assert not verify_jws(jws, signer.public), f"bit {bit}"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"alg": "none"}, id="alg none"),
        pytest.param({"alg": "HS256"}, id="a shared secret"),
        pytest.param({"alg": "RS256"}, id="RSA"),
        pytest.param({"alg": "ed25519"}, id="alg in lower case"),
        pytest.param({"alg": 1}, id="alg as a number"),
        pytest.param({"typ": "JWT"}, id="another typ"),
        pytest.param({"typ": "AT+JWT"}, id="typ in upper case"),
        pytest.param({"typ": "application/at+jwt"}, id="typ in full"),
        pytest.param({"typ": None}, id="typ null"),
        pytest.param({"crit": ["exp"]}, id="crit"),
        pytest.param({"crit": []}, id="an empty crit"),
        pytest.param({"b64": False}, id="b64"),
        pytest.param({"jku": "https://x.example"}, id="jku"),
        pytest.param({"x5u": "https://x.example"}, id="x5u"),
        pytest.param({"x5c": []}, id="x5c"),
        pytest.param({"zip": "DEF"}, id="zip"),
        pytest.param({"cty": "x"}, id="an unknown member"),
        pytest.param({"kid": ""}, id="an empty kid"),
        pytest.param({"kid": 7}, id="kid as a number"),
        pytest.param({"jwk": {}}, id="an empty jwk"),
        pytest.param({"jwk": {"kty": "EC"}}, id="half a jwk"),
    ],
)
def test_jws_header_with_other_members_is_refused(change: dict[str, Any]) -> None:
    signer = new_signer()
    header = {"alg": "Ed25519", "typ": "at+jwt", "kid": "k"}
    assert verify_jws(parse_jws(_with_header(signer, header), typ="at+jwt"), signer.public)
    with pytest.raises(FormatError):
        parse_jws(_with_header(signer, {**header, **change}), typ="at+jwt")


@pytest.mark.parametrize("missing", ["alg", "typ"])
def test_jws_header_without_a_required_member_is_refused(missing: str) -> None:
    header = {"alg": "Ed25519", "typ": "at+jwt"}
    del header[missing]
    with pytest.raises(FormatError):
        parse_jws(_with_header(new_signer(), header), typ="at+jwt")


def test_jws_with_a_key_of_another_algorithm_or_a_duplicate_member_is_refused() -> None:
    signer = new_signer()
    with pytest.raises(FormatError, match="a key of Ed25519"):
        parse_jws(_with_header(signer, {"alg": "Ed25519", "typ": "at+jwt", "jwk": new_signer(ES256).public.to_jwk()}), typ="at+jwt")
    with pytest.raises(FormatError, match="duplicate"):
        parse_jws(_with_header(signer, b'{"alg":"Ed25519","alg":"Ed25519","typ":"at+jwt"}'), typ="at+jwt")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda text: text + ".", id="four parts"),
        pytest.param(lambda text: text.rpartition(".")[0], id="two parts"),
        pytest.param(lambda text: text + "=", id="padding"),
        pytest.param(lambda text: text + "AA", id="a signature too long"),
        pytest.param(lambda text: text[:-3], id="a signature too short"),
        pytest.param(lambda text: text.rpartition(".")[0] + ".", id="no signature"),
        pytest.param(lambda text: " " + text, id="a space before"),
        pytest.param(lambda text: text + "\n", id="a newline behind"),
        pytest.param(lambda text: "é" + text, id="not ASCII"),
        pytest.param(lambda text: text + "A" * 20000, id="too long"),
    ],
)
def test_jws_of_another_shape_is_refused(spoil: Callable[[str], str]) -> None:
    with pytest.raises(FormatError):
        parse_jws(spoil(_sign(new_signer())), typ="at+jwt")


def test_size_of_a_jws_is_bounded_to_the_character() -> None:
    text = _sign(new_signer())
    assert parse_jws(text, typ="at+jwt", max_size=len(text)).compact == text
    with pytest.raises(FormatError, match=f"at most {len(text) - 1} characters"):
        parse_jws(text, typ="at+jwt", max_size=len(text) - 1)


@pytest.mark.parametrize("name", ["crit", "b64", "jku", "x5u", "x5c", "zip"])
def test_dangerous_header_members_are_refused_by_name(name: str) -> None:
    with pytest.raises(FormatError, match=f"alg, typ, kid, jwk and nothing else, got '{name}'"):
        parse_jws(_with_header(new_signer(), {"alg": "Ed25519", "typ": "at+jwt", name: 1}), typ="at+jwt")


def test_signing_with_an_algorithm_not_ours_is_misuse() -> None:
    with pytest.raises(Misuse):
        sign_jws(b"", typ="x", signer_algorithm="none", sign=lambda message: message)


# --- DPoP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dpop_proof_comes_back_and_verifies(algorithm: str) -> None:
    signer = new_signer(algorithm)
    proof = parse_dpop(sign_dpop(encode_dpop_payload(**_CLAIMS), signer))
    assert verify_jws(proof.jws, proof.key)
    assert proof.key == signer.public
    assert (proof.jti, proof.htm, proof.htu, proof.iat, proof.ath) == tuple(_CLAIMS.values())
    assert (proof.nonce, proof.act, proof.res, proof.arg) == (None, None, None, None)

    bound = encode_dpop_payload(**_CLAIMS, nonce="n", act="tool:call", res="mail/send", arg=_ATH)
    proof = parse_dpop(sign_dpop(bound, signer))
    assert (proof.nonce, proof.act, proof.res, proof.arg) == ("n", "tool:call", "mail/send", _ATH)


def test_dpop_proof_by_another_key_than_it_shows_does_not_verify() -> None:
    signer, other = new_signer(), new_signer()
    proof = parse_dpop(sign_dpop(encode_dpop_payload(**_CLAIMS), MemorySigner(other.public, signer.private)))
    assert not verify_jws(proof.jws, proof.key)


def test_dpop_reader_is_total() -> None:
    signer = new_signer()
    specimen = sign_dpop(encode_dpop_payload(**_CLAIMS, nonce="n", act="a", res="r", arg=_ATH), signer)
    assert_parser_is_total(_text(parse_dpop), specimen.encode())


@pytest.mark.parametrize(
    "change",
    [
        {"jti": "short"},
        {"jti": "x" * 129},
        {"htm": ""},
        {"htu": "https://tool.example/act?x=1"},
        {"htu": "https://tool.example/act#x"},
        {"iat": -1},
        {"iat": "1"},
        {"ath": "AA"},
        {"ath": _ATH + "="},
        {"ath": None},
        {"arg": "AA"},
        {"nonce": ""},
        {"act": 1},
        {"res": ""},
        {"exp": 1},
    ],
)
def test_dpop_proof_with_other_claims_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_dpop(sign_dpop(json.dumps({**_CLAIMS, **change}).encode(), new_signer()))


@pytest.mark.parametrize("missing", sorted(set(_CLAIMS) - {"ath"}))
def test_dpop_proof_without_a_required_claim_is_refused(missing: str) -> None:
    claims = {name: value for name, value in _CLAIMS.items() if name != missing}
    with pytest.raises(FormatError):
        parse_dpop(sign_dpop(json.dumps(claims).encode(), new_signer()))


def test_dpop_proof_without_its_key_is_refused() -> None:
    with pytest.raises(FormatError, match="the public key under 'jwk'"):
        parse_dpop(_sign(new_signer(), encode_dpop_payload(**_CLAIMS), typ=DPOP_TYP))


def test_dpop_proof_of_a_token_request_has_no_ath() -> None:
    claims = {name: value for name, value in _CLAIMS.items() if name != "ath"}
    assert parse_dpop(sign_dpop(encode_dpop_payload(**claims), new_signer())).ath is None


def test_a_token_is_no_dpop_proof() -> None:
    with pytest.raises(FormatError, match=r"dpop\+jwt"):
        parse_dpop(_sign(new_signer(), encode_dpop_payload(**_CLAIMS), typ="at+jwt"))

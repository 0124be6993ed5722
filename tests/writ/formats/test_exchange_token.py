"""Exchange tokens as bytes: of one type, one algorithm, one audience and a short life; nothing else is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.parsers import assert_parser_is_total
from tests.signers import new_signer
from tests.world.specimens import specimens
from writ.formats.eat import TYP as EXECUTION_TYP
from writ.formats.errors import FormatError
from writ.formats.exchange_token import MAX_LIFE, TYP, ExchangeClaims, encode_exchange_claims, parse_exchange_claims, parse_exchange_token
from writ.formats.jose import sign_jws
from writ.formats.keys import ED25519, ES256, key_id
from writ.formats.strict import decode_json, encode_json

CLAIMS: ExchangeClaims = specimens()["exchange-claims"].value
PAYLOAD = encode_exchange_claims(CLAIMS)
SIGNER = new_signer(ES256)
KID = key_id(SIGNER.public)


def signed(payload: bytes = PAYLOAD, typ: str = TYP, kid: str | None = KID, algorithm: str = ES256) -> str:
    signer = SIGNER if algorithm == ES256 else new_signer(algorithm)
    return sign_jws(payload, typ=typ, signer_algorithm=algorithm, sign=signer.sign, kid=kid)


def test_token_is_read_as_it_was_signed() -> None:
    assert parse_exchange_token(signed()).claims == CLAIMS
    assert_parser_is_total(lambda data: parse_exchange_token(data.decode("latin-1")), signed().encode(), flips=500)


@pytest.mark.parametrize(
    "token",
    [
        signed(algorithm=ED25519), signed(kid=None), signed(typ=EXECUTION_TYP), signed(typ="jwt"), signed(typ="dpop+jwt"),
        signed(specimens()["token-claims"].data),
    ],
    ids=["Ed25519", "no kid", "an execution token's type", "another spelling", "a proof's type", "an execution token's claims"],
)  # fmt: skip
def test_token_of_another_kind_is_none(token: str) -> None:
    with pytest.raises(FormatError):
        parse_exchange_token(token)


@pytest.mark.parametrize(
    "changed",
    [
        {"token_use": "access"}, {"token_use": "writ-exchange-bearer "}, {"nbf": CLAIMS.issued_at + 1}, {"nbf": CLAIMS.issued_at - 1},
        {"aud": [CLAIMS.audience]}, {"aud": ""}, {"exp": CLAIMS.issued_at}, {"exp": CLAIMS.issued_at + MAX_LIFE + 1}, {"sub": "nobody"},
        {"instance": "00"}, {"tpm_class": "genuine"}, {"runtime": "trusted"}, {"execution_token": "sha512:" + "0" * 128}, {"jti": "short"},
        {"cnf": {"jkt": "A" * 43}}, {"grants": []},
    ],
)  # fmt: skip
def test_claims_that_say_otherwise_are_none(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_exchange_claims(encode_json({**decode_json(PAYLOAD, "claims"), **changed}))


def test_longer_life_cannot_be_written_either() -> None:
    assert replace(CLAIMS, expires_at=CLAIMS.issued_at + MAX_LIFE).expires_at == CLAIMS.issued_at + MAX_LIFE
    with pytest.raises(FormatError, match="1 to 300 s"):
        replace(CLAIMS, expires_at=CLAIMS.issued_at + MAX_LIFE + 1)

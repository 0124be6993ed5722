"""Each step of `verify_token` and `verify_proof`: good to the second, and refused beside it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.signers import MemorySigner, new_signer
from tests.world.scene import AUDIENCE, ISSUER, NOW, STATUS_URI, Scene, permitted, sign_token, signer
from tests.writ.verdict.refusal import refused
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.eat import SignedToken, TokenClaims, parse_token
from writ.formats.jose import b64url, encode_dpop_payload, parse_dpop, sign_dpop
from writ.formats.keys import ES256
from writ.verdict.memo import SignatureMemo
from writ.verdict.token import PROOF_LIFE, Revocation, VerifiedProof, VerifiedToken, verify_proof, verify_token

SCENE = Scene()
SCENE.launch("one")
CLAIMS = permitted(SCENE.attest("one"))
KEYS = {"token-1": signer("token").public}
SKEW = 5


def verify(claims: TokenClaims = CLAIMS, *, key: MemorySigner | None = None, kid: str | None = "token-1", **changed: Any) -> VerifiedToken:
    given: dict[str, Any] = {"keys": KEYS, "issuer": ISSUER, "audience": AUDIENCE, "now": NOW, "revocation": None} | changed
    return verify_token(parse_token(sign_token(claims, key, kid=kid)), **given)


TOKEN = verify()


def test_token_of_the_issuer_is_verified_now() -> None:
    assert VerifiedToken(CLAIMS, parse_token(sign_token(CLAIMS)).digest, NOW) == TOKEN


@pytest.mark.parametrize("kid", [None, "token-2", "token-11"])
def test_key_id_that_is_not_the_issuers_is_refused(kid: str | None) -> None:
    assert refused(lambda: verify(kid=kid)).code == "token-key-unknown"


def test_token_without_key_id_is_refused_even_beside_a_key_of_empty_name() -> None:
    assert verify(keys=KEYS).claims == CLAIMS
    assert refused(lambda: verify(kid=None, keys=KEYS)).code == "token-key-unknown"


def test_signature_of_another_key_is_refused() -> None:
    assert refused(lambda: verify(key=signer("thief"))).code == "signature-invalid"
    assert refused(lambda: verify(key=new_signer(ES256))).code == "signature-invalid"


def test_token_of_another_issuer_or_audience_is_refused() -> None:
    assert refused(lambda: verify(issuer=ISSUER + "/")).code == "token-issuer"
    assert refused(lambda: verify(audience="tool")).code == "token-audience"


def test_skew_favours_the_issuer_and_never_the_bearer() -> None:
    issued, expires = CLAIMS.issued_at, CLAIMS.expires_at
    assert verify(now=issued - SKEW).verified_at == issued - SKEW
    assert refused(lambda: verify(now=issued - SKEW - 1)).code == "token-not-yet-valid"
    assert refused(lambda: verify(now=issued - 1, skew=0)).code == "token-not-yet-valid"
    assert verify(now=expires - 1).claims == CLAIMS
    assert refused(lambda: verify(now=expires)).code == "token-expired"
    assert refused(lambda: verify(now=expires + 1)).code == "token-expired"


def test_life_over_the_ceiling_is_refused() -> None:
    assert verify(replace(CLAIMS, expires_at=CLAIMS.issued_at + 300)).claims.expires_at == NOW + 300
    assert refused(lambda: verify(replace(CLAIMS, expires_at=CLAIMS.issued_at + 301))).code == "token-malformed"


def test_revoked_token_is_refused_and_others_are_not() -> None:
    listed = Revocation(STATUS_URI, NOW, frozenset({CLAIMS.status_index}))
    assert refused(lambda: verify(revocation=listed)).code == "token-revoked"
    assert verify(revocation=replace(listed, revoked=frozenset({CLAIMS.status_index + 1}))).claims == CLAIMS


def test_status_older_than_a_token_lives_is_refused() -> None:
    life = CLAIMS.expires_at - CLAIMS.issued_at
    assert verify(revocation=Revocation(STATUS_URI, NOW - life, frozenset())).claims == CLAIMS
    assert refused(lambda: verify(revocation=Revocation(STATUS_URI, NOW - life - 1, frozenset()))).code == "status-stale"
    assert verify(revocation=Revocation(STATUS_URI, NOW + SKEW, frozenset())).claims == CLAIMS
    assert refused(lambda: verify(revocation=Revocation(STATUS_URI, NOW + SKEW + 1, frozenset()))).code == "status-stale"


def test_status_of_another_list_says_nothing() -> None:
    assert refused(lambda: verify(revocation=Revocation(STATUS_URI + "0", NOW, frozenset()))).code == "status-stale"


# --- proof of possession

ACTION = Action("tool.call", "files/a", Digest.of(b"arguments"))
URI = "https://tools.example.org/call"


def proof(key: str = "session/one", **changed: Any) -> Any:
    claims: dict[str, Any] = {
        "jti": "proof-0123456789", "htm": "POST", "htu": URI, "iat": NOW, "ath": b64url(TOKEN.digest.value),
        "act": ACTION.name, "res": ACTION.resource, "arg": b64url(ACTION.arguments.value),
    } | changed  # fmt: skip
    return parse_dpop(sign_dpop(encode_dpop_payload(**claims), signer(key)))


def check(given: Any, *, token: VerifiedToken = TOKEN, action: Action = ACTION, now: int = NOW, **changed: Any) -> VerifiedProof:
    at: dict[str, Any] = {"method": "POST", "uri": URI, "now": now} | changed
    return verify_proof(given, token, action, **at)


def test_proof_of_the_session_key_is_verified_once() -> None:
    verified = check(proof())
    assert verified.single_use == f"{b64url(CLAIMS.key)}.proof-0123456789"
    assert verified.single_use != check(proof(jti="proof-0123456780")).single_use


def test_proof_is_remembered_for_as_long_as_it_could_be_used() -> None:
    iat = NOW + SKEW
    last = iat + PROOF_LIFE + SKEW
    assert check(proof(iat=iat), now=last).forget_after > last
    assert check(proof(iat=iat)).forget_after == iat + PROOF_LIFE + 2 * SKEW + 1
    assert refused(lambda: check(proof(iat=iat), now=last + 1)).code == "proof-stale"


def test_proof_of_another_key_is_refused() -> None:
    assert refused(lambda: check(proof("thief"))).code == "proof-invalid"


def test_proof_that_the_key_did_not_sign_is_refused() -> None:
    header, payload, signature = proof().jws.compact.split(".")
    other = parse_dpop(".".join((header, payload, signature[:-6] + "AAAAAA"[:-1] + "A")))
    assert refused(lambda: check(other)).code == "proof-invalid"


@pytest.mark.parametrize(
    "claim, value",
    [
        ("ath", None),
        ("ath", b64url(bytes(32))),
        ("htm", "GET"),
        ("htu", URI + "/"),
        ("act", None),
        ("act", "tool.read"),
        ("res", None),
        ("res", "files/b"),
        ("arg", None),
        ("arg", b64url(bytes(32))),
    ],
)
def test_proof_for_anything_else_is_refused(claim: str, value: Any) -> None:
    reason = refused(lambda: check(proof(**{claim: value})))
    assert (reason.code, reason.claim) == ("proof-mismatch", f"proof.{claim}")


@pytest.mark.parametrize("made, good", [(-PROOF_LIFE - SKEW - 1, False), (-PROOF_LIFE - SKEW, True), (SKEW, True), (SKEW + 1, False)])
def test_proof_lives_thirty_seconds(made: int, good: bool) -> None:
    assert PROOF_LIFE == 30
    if good:
        assert check(proof(iat=NOW + made)).single_use
    else:
        assert refused(lambda: check(proof(iat=NOW + made))).code == "proof-stale"


def test_memo_of_signatures_saves_the_signature_and_nothing_else() -> None:
    """One that was verified is known by its object and key; a token parsed anew, another key, and every other check are looked at."""
    memo, token = SignatureMemo(most=1), parse_token(sign_token(CLAIMS))
    other = new_signer().public

    def ask(asked: SignedToken = token, **changed: Any) -> VerifiedToken:
        given: dict[str, Any] = {"keys": KEYS, "issuer": ISSUER, "audience": AUDIENCE, "now": NOW, "revocation": None, "memo": memo}
        return verify_token(asked, **(given | changed))

    assert memo.token(token.jws.compact) is None
    assert ask() == ask(memo=None)
    assert memo.token(token.jws.compact) is token
    forged = replace(token, claims=replace(CLAIMS, audience="other"), jws=replace(token.jws, signature=bytes(64)))
    amiss: tuple[tuple[dict[str, Any], str], ...] = (
        ({"asked": forged}, "signature-invalid"),
        ({"keys": {"token-1": other}}, "signature-invalid"),
        ({"keys": {}}, "token-key-unknown"),
        ({"audience": "other"}, "token-audience"),
        ({"now": CLAIMS.expires_at}, "token-expired"),
        ({"revocation": Revocation(CLAIMS.status_uri, NOW, frozenset({CLAIMS.status_index}))}, "token-revoked"),
    )
    for changed, code in amiss:
        assert refused(partial(ask, **changed)).code == code
    ask(parse_token(sign_token(replace(CLAIMS, token_id="b" * 32))))
    assert (len(memo), memo.token(token.jws.compact)) == (1, None)

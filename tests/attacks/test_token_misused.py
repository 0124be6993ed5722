"""A token or a proof stolen, edited, replayed, sent elsewhere or late; an action outside what was permitted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.scene import AUDIENCE, ISSUER, NOW, POLICIES, STATUS_URI, Scene, permitted, policy, sign_token, signer
from tests.writ.verdict.refusal import refused
from tests.writ.verdict.test_cedar import ERRING
from tests.writ.verdict.test_decide import ACTION, ask, code, named
from tests.writ.verdict.test_token import CLAIMS, KEYS, SKEW, TOKEN, check, proof, verify
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.eat import TYP, encode_claims, parse_claims, parse_token
from writ.formats.errors import FormatError, Refused
from writ.formats.jose import b64url, parse_dpop, sign_jws
from writ.formats.strict import decode_json, encode_json
from writ.verdict.token import PROOF_LIFE, Revocation, verify_token

REQUIRED = sorted(decode_json(encode_claims(CLAIMS), "claims"))


def signed(payload: bytes, typ: str = TYP) -> str:
    by = signer("token")
    return sign_jws(payload, typ=typ, signer_algorithm=by.public.algorithm, sign=by.sign, kid="token-1")


@pytest.mark.parametrize("claim", REQUIRED)
def test_token_without_any_one_claim_is_refused(claim: str) -> None:
    """`exp` and `aud` among them: a claim that is missing is never a claim that is met (SPIRE 1.11.3, 1.12.3)."""
    assert {"exp", "aud", "iss", "iat", "cnf", "jti", "policy", "status"} <= set(REQUIRED)
    claims = {key: value for key, value in decode_json(encode_claims(CLAIMS), "claims").items() if key != claim}
    with pytest.raises(FormatError):
        parse_token(signed(encode_json(claims)))


@pytest.mark.parametrize("claim", REQUIRED)
@pytest.mark.parametrize("value", [None, True, -1, [], {}])
def test_claim_of_another_type_is_refused(claim: str, value: Any) -> None:
    original = decode_json(encode_claims(CLAIMS), "claims")
    if original[claim] == value:
        return
    if claim in {"grants", "lineage", "exceptions"} and value == []:
        assert parse_claims(encode_json({**original, claim: value})) != CLAIMS
        return
    with pytest.raises(FormatError):
        parse_token(signed(encode_json({**original, claim: value})))


def test_duplicate_key_and_trailing_bytes_are_refused() -> None:
    payload = encode_claims(CLAIMS)
    for wrong in (payload[:-1] + b',"exp":9999999999}', b'{"aud":"tools",' + payload[1:], payload + b" ", payload + b"{}", b" " + payload):
        with pytest.raises(FormatError):
            parse_token(signed(wrong))


@pytest.mark.parametrize("typ", ["JWT", "dpop+jwt", "eat+JWT", "statuslist+jwt"])
def test_jws_of_another_kind_is_no_token(typ: str) -> None:
    with pytest.raises(FormatError):
        parse_token(signed(encode_claims(CLAIMS), typ))


def test_unsigned_and_hmac_tokens_are_refused() -> None:
    payload = b64url(encode_claims(CLAIMS))
    for header in ({"alg": "none", "typ": TYP, "kid": "token-1"}, {"alg": "HS256", "typ": TYP, "kid": "token-1"}):
        for signature in ("", b64url(bytes(64))):
            with pytest.raises(FormatError):
                parse_token(f"{b64url(encode_json(header))}.{payload}.{signature}")


def test_token_edited_by_its_bearer_is_refused() -> None:
    compact = sign_token(CLAIMS)
    header, _, signature = compact.split(".")
    for changed in (
        {"grants": ()},
        {"expires_at": CLAIMS.expires_at + 1},
        {"audience": "other"},
        {"key": bytes(32)},
        {"lineage": (bytes(16),)},
    ):
        values: dict[str, Any] = changed
        payload = encode_claims(replace(CLAIMS, **values))
        forged = parse_token(f"{header}.{b64url(payload)}.{signature}")
        with pytest.raises(Refused, match="signature-invalid"):
            verify_token(forged, keys=KEYS, issuer=ISSUER, audience=forged.claims.audience, now=NOW, revocation=None)


def test_every_byte_of_a_token_flipped_is_refused() -> None:
    compact = sign_token(CLAIMS)
    for at in range(len(compact)):
        spoilt = compact[:at] + chr(ord(compact[at]) ^ 1) + compact[at + 1 :]
        try:
            token = parse_token(spoilt)
        except FormatError:
            continue
        refused(lambda token=token: verify_token(token, keys=KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW, revocation=None))  # type: ignore[misc] # a default binds the loop's value


def test_token_reader_is_total() -> None:
    def parse(data: bytes) -> object:
        try:
            return parse_token(data.decode("ascii"))
        except UnicodeDecodeError as error:
            raise FormatError("token", "ASCII", "other bytes") from error

    assert_parser_is_total(parse, sign_token(CLAIMS).encode())
    assert_parser_is_total(lambda claims: parse_token(signed(claims)), encode_claims(CLAIMS), flips=300)


def test_token_for_another_audience_issuer_or_time_is_refused() -> None:
    assert refused(lambda: verify(audience="elsewhere")).code == "token-audience"
    assert refused(lambda: verify(issuer="https://another.example.org")).code == "token-issuer"
    assert refused(lambda: verify(now=CLAIMS.expires_at)).code == "token-expired"
    assert refused(lambda: verify(now=CLAIMS.issued_at - SKEW - 1)).code == "token-not-yet-valid"


def test_revoked_token_and_stale_status_are_refused() -> None:
    assert refused(lambda: verify(revocation=Revocation(STATUS_URI, NOW, frozenset({CLAIMS.status_index})))).code == "token-revoked"
    assert refused(lambda: verify(revocation=Revocation(STATUS_URI, NOW - 1_000, frozenset()))).code == "status-stale"


def test_stolen_token_is_useless_without_the_session_key() -> None:
    assert refused(lambda: check(proof("thief"))).code == "proof-invalid"


def test_stolen_proof_is_useless_for_another_action_place_token_or_time() -> None:
    stolen = proof()
    assert refused(lambda: check(stolen, action=Action("tool.call", "files/b", ACTION.arguments))).code == "proof-mismatch"
    assert refused(lambda: check(stolen, action=replace(ACTION, arguments=Digest.of(b"other")))).code == "proof-mismatch"
    assert refused(lambda: check(stolen, uri="https://elsewhere.example.org/call")).code == "proof-mismatch"
    assert refused(lambda: check(stolen, method="GET")).code == "proof-mismatch"
    renewed = verify(replace(CLAIMS, token_id="another-token-id"))
    assert refused(lambda: check(stolen, token=renewed)).code == "proof-mismatch"
    assert refused(lambda: check(stolen, now=NOW + PROOF_LIFE + SKEW + 1)).code == "proof-stale"


def test_replayed_proof_has_the_same_mark_whatever_its_bytes() -> None:
    """The cache is asked by key and jti: the same jti in another proof of the same key is a replay too."""
    assert check(proof()).single_use == check(proof(iat=NOW - 1)).single_use
    assert check(proof()).forget_after > NOW + PROOF_LIFE + SKEW


def test_proof_signed_by_the_token_key_but_naming_another_in_its_header_is_refused() -> None:
    header, payload, _ = proof("thief").jws.compact.split(".")
    forged = parse_dpop(f"{header}.{payload}.{b64url(signer('session/one').sign(f'{header}.{payload}'.encode()))}")
    assert refused(lambda: check(forged)).code == "proof-invalid"


def test_bundle_of_another_digest_is_refused_even_if_it_permits() -> None:
    wide = policy(policies='permit(principal, action == Writ::Action::"tool.call", resource);')
    assert code(ask(bundle=wide)) == "policy-digest-mismatch"


FORBID = POLICIES.replace("{", "{{").replace("}", "}}") + 'forbid(principal, action == Writ::Action::"tool.call", resource) when {{ {} }};'
CEDAR_TRAPS = {
    "a forbid that errs": (POLICIES + ERRING, "policy-error"),
    "an overflow": (FORBID.format("context.now + 9223372036854775807 > 0"), "policy-error"),
    "an attribute that may be missing": (FORBID.format("context.nothing"), "policy-error"),
    "a blanket permit": ("permit(principal, action, resource);", "policy-error"),
    "a blanket permit in disguise": ("permit(principal is Writ::Agent, action, resource) when { 1 < 2 };", "policy-error"),
    "nothing that permits": ("forbid(principal, action, resource);", "policy-refused"),
    "text that is no policy": ("permit(", "policy-error"),
    "depth that would end the process": (f"permit(principal, action, resource) when {{ {'(' * 5000}true{')' * 5000} }};", "policy-error"),
}


@pytest.mark.parametrize("policies, expected", CEDAR_TRAPS.values(), ids=CEDAR_TRAPS)
def test_cedar_trap_refuses(policies: str, expected: str) -> None:
    bundle = policy(policies=policies)
    assert code(ask(bundle=bundle, token=named(bundle))) == expected


def test_action_that_the_schema_does_not_know_is_no_decision_and_refuses() -> None:
    bundle = policy()
    token = verify(replace(CLAIMS, policy=bundle.digest, grants=(("tool.unknown", "files/*"),)))  # type: ignore[arg-type] # a pair is a grant
    decision = ask(Action("tool.unknown", "files/a", ACTION.arguments), token=token, bundle=bundle)
    assert code(decision) == "policy-error"


@pytest.mark.parametrize("resource", ["files/../keys", "files//a", "files/./a", "//files", "a b", "files/\n", "", "files/" + "x" * 512])
def test_resource_that_names_two_things_is_no_action(resource: str) -> None:
    with pytest.raises(FormatError):
        Action("tool.call", resource, ACTION.arguments)


@pytest.mark.parametrize("resource", ["files/%2e%2e/keys", "files/*", "files/a*"])
def test_resource_that_a_reader_further_on_could_widen_is_covered_by_no_grant(resource: str) -> None:
    assert code(ask(Action("tool.call", resource, ACTION.arguments))) == "grant-missing"


def test_evidence_of_yesterday_gets_no_token_today() -> None:
    scene = Scene()
    scene.launch("one")
    evidence = scene.evidence("one")
    assert permitted(scene.judge(evidence, nonce_age=0)).agent.name == "reporter"
    late = scene.judge(evidence, nonce_age=86_400)
    assert [r.code for r in late.tokens[0].reasons] == ["nonce-expired"]
    assert TOKEN.claims == CLAIMS

"""OCSP responses beside CRLs: who is believed, when one is fresh, what either says, and one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.world.authority import BORN, Ca
from tests.world.ima_logs import rsa_key
from tests.world.scene import DOMAIN, ISSUER, NOW
from tests.writ.verdict.refusal import refused
from writ.formats.crl import Crl, parse_crl
from writ.formats.errors import Refused
from writ.formats.ocsp import OcspResponse, parse_ocsp
from writ.formats.reason import Reason
from writ.formats.trust import ChainRules, ManufacturerRoot, Trust
from writ.formats.x509 import parse_certificate
from writ.formats.x509_key import SignatureAlgorithm, plain_spki
from writ.verdict.chain import VerifiedEk, verify_ek_chain
from writ.verdict.revocation import judge_response, judge_revocation, latest_responses, newest_response

DAY = 86_400
CA = Ca("authority")
ISSUING, STRANGER = parse_certificate(CA.certificate()), Ca("stranger")
SERIAL = 0x1001
EK = CA.ek(serial=SERIAL)
NO_CHECK = x509.OCSPNoCheck()
RESPONDER = CA.responder(NO_CHECK)
GOOD = CA.ocsp(SERIAL, this=NOW - DAY, following=NOW + DAY)
BORN_AT = int(BORN.timestamp())


def judged(*responses: bytes, crls: tuple[bytes, ...] = (), now: int = NOW, ek: bytes = EK, **rules: Any) -> VerifiedEk:
    root = ManufacturerRoot("authority", "discrete", CA.certificate())
    trust = Trust(DOMAIN, ISSUER, (root,), (), (), tuple(sorted(crls)), ChainRules(**rules), tuple(sorted(responses)))
    return verify_ek_chain((ek,), trust, now=now)


def outcome(call: Callable[[], VerifiedEk]) -> tuple[Reason, ...]:
    """The reasons of a refusal, else the notes."""
    try:
        return call().notes
    except Refused as error:
        return error.reasons


def said(*responses: bytes, **given: Any) -> str:
    """What is said of the EK certificate: "known", "revoked", or "unknown", which is refused where the rules ask for more."""
    reasons = outcome(partial(judged, *responses, **given))
    assert outcome(partial(judged, *responses, **given, crl_required=True)) == reasons
    return {"": "known", "ek-certificate-revoked": "revoked", "revocation-unknown": "unknown"}["".join(one.code for one in reasons)]


# --- what is said ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hashed", ["sha1", "sha256", "sha384"])
@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize("responder", [None, RESPONDER])
def test_response_by_the_ca_or_its_responder_says_what_is_revoked(responder: bytes | None, by_key: bool, hashed: str) -> None:
    make: Any = partial(CA.ocsp, SERIAL, this=NOW - DAY, responder=responder, by_key=by_key, hashed=hashed)
    assert said(make()) == "known"
    assert said(make(status="revoked")) == "revoked"
    assert said(make(status="unknown")) == "unknown"


def test_either_says_revoked_and_either_is_fresh_enough() -> None:
    revoked, stale = CA.ocsp(SERIAL, "revoked", this=NOW - DAY), NOW - 90 * DAY
    clean, listed = CA.crl(this=NOW - DAY), CA.crl(SERIAL, this=NOW - DAY)
    assert said(crls=(clean,)) == said(GOOD) == said(GOOD, crls=(clean,)) == "known"
    assert said(GOOD, crls=(listed,)) == said(revoked, crls=(clean,)) == "revoked"
    assert said(GOOD, crls=(CA.crl(SERIAL, this=stale, following=stale + DAY),)) == "revoked"
    assert said(CA.ocsp(SERIAL, "revoked", this=stale, following=stale + DAY), crls=(clean,)) == "revoked"
    assert said(GOOD, crls=(CA.crl(this=stale, following=stale + DAY),)) == "known"
    assert said(CA.ocsp(SERIAL, this=stale), crls=(clean,)) == "known"
    assert said(CA.ocsp(SERIAL, "unknown", this=NOW - DAY), crls=(clean,)) == "known", "the CRL knows"
    reason = refused(lambda: judged(revoked))
    assert reason.expected == f"a certificate not revoked by the OCSP response of {NOW - DAY}"


@pytest.mark.parametrize(
    "given, word",
    [
        pytest.param({"this": NOW - DAY, "following": NOW - 1}, f"none and one to be replaced by {NOW - 1} for", id="overdue"),
        pytest.param({"this": NOW - 8 * DAY}, f"one of {NOW - 8 * DAY}, older than", id="too old"),
        pytest.param({"this": NOW + 1}, "none and none", id="of the future"),
        pytest.param({"this": NOW - DAY, "produced": NOW + 1}, "none and none", id="produced in the future"),
        pytest.param({"this": NOW, "key": "ca/stranger"}, "none and none", id="by another key"),
        pytest.param({"this": NOW, "responder": RESPONDER, "key": CA.seed}, "none and none", id="by another than is named"),
        pytest.param({"this": NOW, "status": "unknown"}, "none and none", id="unknown"),
    ],
)
def test_want_of_a_fresh_response_is_named(given: dict[str, Any], word: str) -> None:
    response = CA.ocsp(SERIAL, **given)
    assert said(response) == "unknown"
    assert refused(lambda: judged(response, crl_required=True)) == judged(response).notes[0]
    assert word in judged(response).notes[0].got
    assert judged(response).notes[0].expected == f"a CRL of its issuer or an OCSP response, fresh at {NOW}"


def test_freshness_holds_to_the_second() -> None:
    response = CA.ocsp(SERIAL, this=NOW, following=NOW + DAY)
    for now, known in ((NOW - 1, "unknown"), (NOW, "known"), (NOW + DAY, "known"), (NOW + DAY + 1, "unknown")):
        assert said(response, now=now) == known, now
    assert judged(response, now=NOW + 10, crl_max_age=10).notes == ()
    assert judged(response, now=NOW + 11, crl_max_age=10).notes != ()
    produced = CA.ocsp(SERIAL, this=NOW - DAY, produced=NOW)
    assert (said(produced, now=NOW - 1), said(produced)) == ("unknown", "known")


def test_crl_that_promises_no_next_one_is_fresh_until_it_is_too_old() -> None:
    path, crl = (parse_certificate(EK), ISSUING), replace(parse_crl(CA.crl(this=NOW - DAY)), next_update=None)
    for age, count in ((DAY, 0), (DAY - 1, 1)):
        assert len(judge_revocation(path, [crl], [], ChainRules(crl_max_age=age), now=NOW).unknown) == count


def test_response_about_another_certificate_says_nothing() -> None:
    twin = Ca("authority", key="ca/renewed")
    for other in (CA.ocsp(SERIAL + 1, "revoked", this=NOW), STRANGER.ocsp(SERIAL, "revoked", this=NOW)):
        assert said(other) == "unknown"
    of_twin = twin.ocsp(SERIAL, "revoked", this=NOW, key=CA.seed)
    assert said(of_twin) == "unknown", "of the same name with another key"
    alias = Ca("alias", key=CA.seed).ocsp(SERIAL, "revoked", this=NOW)
    assert said(alias) == "unknown", "of the same key with another name"


def test_newest_response_decides_of_those_that_are_believed() -> None:
    earlier, later = CA.ocsp(SERIAL, "revoked", this=NOW - 3), CA.ocsp(SERIAL, this=NOW - 2)
    assert said(earlier, later) == "known"
    assert said(earlier, later, CA.ocsp(SERIAL, "revoked", this=NOW - 2, produced=NOW - 1)) == "revoked"
    assert said(later, CA.ocsp(SERIAL, "revoked", this=NOW - 2)) == "revoked", "of the same moment"
    assert said(earlier, CA.ocsp(SERIAL, this=NOW, key="ca/stranger")) == "revoked"
    assert said(earlier, CA.ocsp(SERIAL, "unknown", this=NOW)) == "revoked"
    assert said(earlier, CA.ocsp(SERIAL, this=NOW + 1)) == "revoked"


def test_each_certificate_on_the_way_takes_a_response() -> None:
    middle = Ca("middle", CA)
    trust = Trust(
        DOMAIN, ISSUER, (ManufacturerRoot("authority", "discrete", CA.certificate()),), (middle.certificate(),), (),
        rules=ChainRules(crl_required=True),
    )  # fmt: skip
    ek, both = middle.ek(serial=3), tuple(sorted((middle.ocsp(3, this=NOW), CA.ocsp(0x77, this=NOW))))
    assert verify_ek_chain((ek,), replace(trust, ocsp=both), now=NOW).notes == ()
    for one in both:
        assert refused(lambda one=one: verify_ek_chain((ek,), replace(trust, ocsp=(one,)), now=NOW)).code == "revocation-unknown"  # type: ignore[misc] # a default is no argument
    revoked = replace(trust, ocsp=(CA.ocsp(0x77, "revoked", this=NOW),))
    assert refused(lambda: verify_ek_chain((ek,), revoked, now=NOW)).code == "ek-certificate-revoked"


def test_response_that_is_rubbish_is_refused() -> None:
    assert refused(lambda: judged(b"rubbish")).code == "ek-certificate-refused"


# --- who is believed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "responder",
    [
        pytest.param(CA.responder(NO_CHECK, eku=ExtendedKeyUsageOID.SERVER_AUTH), id="not for OCSP"),
        pytest.param(CA.responder(NO_CHECK, eku=ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), id="for anything"),
        pytest.param(STRANGER.responder(NO_CHECK), id="of another CA"),
        pytest.param(Ca("authority", key="ca/stranger").responder(NO_CHECK), id="of another key of the same name"),
        pytest.param(Ca("alias", key=CA.seed).responder(NO_CHECK), id="of another name with the same key"),
        pytest.param(CA.responder(NO_CHECK, life=timedelta(days=1)), id="lapsed when it signed"),
        pytest.param(CA.responder(NO_CHECK, born=BORN + timedelta(seconds=NOW - BORN_AT + 1)), id="not yet valid when it signed"),
    ],
)
@pytest.mark.parametrize("status", ["good", "revoked"])
def test_responder_that_the_ca_did_not_certify_for_it_is_not_believed(responder: bytes, status: str) -> None:
    assert said(CA.ocsp(SERIAL, status, this=NOW, responder=responder)) == "unknown"


def test_responder_may_sign_from_the_second_on_that_it_is_certified() -> None:
    fresh = CA.responder(NO_CHECK, born=BORN + timedelta(seconds=NOW - BORN_AT))
    assert said(CA.ocsp(SERIAL, this=NOW, responder=fresh)) == "known"


def test_responder_with_a_critical_extension_is_not_believed() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x")
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    for critical, expected in ((True, "unknown"), (False, "known")):
        made = CA.sign(x509.Name([]), "ca/responder", [(usage, False), (NO_CHECK, False), (unknown, critical)], serial=9)
        assert said(CA.ocsp(SERIAL, this=NOW, responder=made)) == expected


def test_what_a_responder_said_outlives_its_certificate_only_where_it_is_revoked() -> None:
    short = CA.responder(NO_CHECK, life=timedelta(seconds=NOW - BORN_AT))
    good, revoked = (CA.ocsp(SERIAL, status, this=NOW, following=NOW + DAY, responder=short) for status in ("good", "revoked"))
    assert (said(good), said(good, now=NOW + 1)) == ("known", "unknown")
    assert (said(revoked), said(revoked, now=NOW + 1)) == ("revoked", "revoked")
    open_ended = CA.ocsp(SERIAL, this=NOW, responder=short)
    assert (said(open_ended), said(open_ended, now=NOW + 1)) == ("known", "unknown")
    assert f"to be replaced by {NOW} for" in judged(open_ended, now=NOW + 1).notes[0].got
    sooner = CA.ocsp(SERIAL, this=NOW - 9, following=NOW - 5, responder=short)
    assert f"to be replaced by {NOW - 5} for" in judged(sooner).notes[0].got


def test_responder_on_the_crl_is_not_believed() -> None:
    listing = CA.crl(0x0C, this=NOW - 90 * DAY, following=NOW - 60 * DAY)
    for status in ("good", "revoked"):
        assert said(CA.ocsp(SERIAL, status, this=NOW, responder=RESPONDER), crls=(listing,)) == "unknown"
    assert said(CA.ocsp(SERIAL, this=NOW), crls=(CA.crl(0x77, this=NOW - 90 * DAY),)) == "known", "a CA is not on its own CRL"


def test_responder_without_no_check_needs_a_fresh_crl_to_say_good() -> None:
    good, revoked = (CA.ocsp(SERIAL, status, this=NOW, responder=CA.responder()) for status in ("good", "revoked"))
    clean, old = parse_crl(CA.crl(this=NOW - DAY)), parse_crl(CA.crl(this=NOW - 90 * DAY))
    rules = ChainRules()

    def believed(der: bytes, crl: Crl | None, now: int = NOW) -> bool:
        return newest_response([parse_ocsp(der)], ISSUING, crl, rules, now=now) is not None

    assert (believed(good, clean), believed(good, None), believed(good, old)) == (True, False, False)
    assert (believed(revoked, clean), believed(revoked, None), believed(revoked, old)) == (True, True, True)
    assert (said(good), said(revoked)) == ("unknown", "revoked")
    before = CA.ocsp(SERIAL, "revoked", this=NOW - 1)
    assert (said(before, good), said(before, good, crls=(clean.der,))) == ("revoked", "known")


def with_sha1(response: OcspResponse, name: str) -> OcspResponse:
    """The same, signed with SHA-1 by the RSA key of that name: the library makes none."""
    signature = rsa_key(name, 2048).sign(response.signed, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - what is tested is that it is not believed
    return replace(response, algorithm=SignatureAlgorithm("rsa", "sha1"), signature=signature)


def test_response_signed_with_sha1_is_heard_only_where_the_rules_say_so() -> None:
    old = replace(ISSUING, spki=spki("old"))
    weak = with_sha1(parse_ocsp(GOOD), "old")
    assert newest_response([weak], old, None, ChainRules(), now=NOW) is None
    assert newest_response([weak], old, None, ChainRules(sha1=True), now=NOW) == (weak, NOW + DAY)
    assert newest_response([replace(weak, algorithm=None)], old, None, ChainRules(sha1=True), now=NOW) is None
    for by_key in (True, False):
        unread = parse_ocsp(CA.ocsp(SERIAL, this=NOW, by_key=by_key))
        assert newest_response([unread], replace(ISSUING, spki=b"\x30\0"), None, ChainRules(), now=NOW) is None, "by a key that is none"


def spki(name: str) -> bytes:
    return plain_spki(rsa_key(name, 2048).public_key())


# --- one after the other --------------------------------------------------------------------------------------------------

ISSUERS = (ISSUING, parse_certificate(STRANGER.certificate()))


def response(this: int, status: str = "good", *, serial: int = SERIAL, ca: Ca = CA, **more: Any) -> OcspResponse:
    return parse_ocsp(ca.ocsp(serial, status, this=NOW + this, **more))


def offered(one: OcspResponse, *held: OcspResponse, now: int = NOW, crls: tuple[Crl, ...] = ()) -> Reason | None:
    return judge_response(one, held, crls, ISSUERS, ChainRules(), now=now)


def test_response_takes_the_place_of_an_earlier_one_about_the_same_certificate_only() -> None:
    held = response(-60, produced=NOW - 50)
    revoked = response(-60, "revoked", produced=NOW - 50)
    for later in (response(0), response(-59, hashed="sha256"), response(-60, produced=NOW - 49), revoked):
        assert offered(later, held) is None
    for early in (response(-61), response(-61, hashed="sha256", responder=RESPONDER), response(-60, produced=NOW - 51)):
        assert offered(early, held) == Reason("crl-rollback", "ocsp", f"a later one than that of {NOW - 60}", f"one of {early.this_update}")
    assert offered(held, revoked) is not None
    assert offered(response(-60, produced=NOW - 50, hashed="sha256"), held) is not None, "of the same moment, in other bytes"
    assert offered(held, held) is None, "it is that one"
    for other in (response(-99, serial=5), response(-99, ca=STRANGER)):
        assert offered(other, held) is None


def test_response_of_the_future_takes_no_place_before_its_time() -> None:
    for coming in (response(1), response(0, produced=NOW + 1)):
        assert offered(coming) == Reason("crl-early", "ocsp.this_update", f"at most {NOW}", str(NOW + 1))
        assert offered(coming, now=NOW + 1) is None


def test_response_that_does_not_know_the_certificate_takes_no_place() -> None:
    assert offered(response(0, "unknown")) == Reason("revocation-unknown", "ocsp.status", "good or revoked", "unknown")


def test_response_that_nobody_believes_takes_no_place() -> None:
    listing = parse_crl(CA.crl(0x0C, this=NOW - 1))
    of_another = response(0, responder=STRANGER.certificate(), key=STRANGER.seed)
    for other in (of_another, response(0, key="ca/stranger"), response(0, ca=Ca("nobody")), response(0, responder=CA.responder())):
        reason = offered(other)
        assert reason is not None
        assert (reason.code, reason.claim) == ("trust-root-unknown", "ocsp")
    delegated = response(0, responder=RESPONDER)
    assert offered(delegated) is None
    assert offered(delegated, crls=(listing,)) is not None
    assert offered(response(0, responder=CA.responder()), crls=(parse_crl(CA.crl(this=NOW - 1)),)) is None


def test_latest_response_about_each_certificate_stays() -> None:
    mine = [response(at) for at in (-3, -1, -2)]
    other, twin, nobody = response(-9, serial=5), response(-8, ca=STRANGER), [response(at, ca=Ca("nobody")) for at in (-5, -4)]
    assert set(latest_responses((*mine, other, twin, *nobody), ISSUERS)) == {mine[1], other, twin, *nobody}
    assert latest_responses((response(-2, hashed="sha256"), mine[1]), ISSUERS) == (mine[1],)
    assert latest_responses((mine[0], mine[0]), ()) == (mine[0],)
    same = (response(-1), response(-1, hashed="sha256"))
    assert latest_responses(same, ISSUERS) == same[:1], "of the same moment"

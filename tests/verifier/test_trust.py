"""The anchors in force: one CRL of each issuer, one OCSP response about each certificate, nothing lost, and no more than a file holds."""

from __future__ import annotations

import pytest

from tests.verifier.test_operator import trust_files
from tests.verifier.test_references import Racing
from tests.world.authority import Ca
from tests.world.chip import Chip
from tests.world.host import RefusedByVerifier
from tests.world.verifier import RunningVerifier
from verifier import trust
from verifier.compose import INIT
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.trust import ManufacturerRoot
from writ.formats.x509 import parse_certificate, to_pem


def vouch(verifier: RunningVerifier, *cas: Ca) -> None:
    pem = "".join(to_pem(parse_certificate(ca.certificate())) for ca in cas)
    verifier.client.post("/v1/trust", {"pem": pem, "tpm_class": "software"})


def offer(verifier: RunningVerifier, *crls: bytes) -> tuple[set[str], list[str]]:
    """The CRLs that are held afterwards, by digest, and the codes of what was refused."""
    files = trust_files(*((f"{at}.crl", crl) for at, crl in enumerate(crls)))
    answer = verifier.client.post("/v1/trust", {"files": files})
    return {one["digest"] for one in answer["crls"]}, [one["code"] for one in answer["refused"]]


def ask(verifier: RunningVerifier, *responses: bytes) -> tuple[set[str], list[str]]:
    """The OCSP responses that are held afterwards, by digest, and the codes of what was refused."""
    files = trust_files(*((f"{at}.ocsp", one) for at, one in enumerate(responses)))
    answer = verifier.client.post("/v1/trust", {"files": files})
    return {one["digest"] for one in answer["ocsp"]}, [one["code"] for one in answer["refused"]]


def digests(*crls: bytes) -> set[str]:
    return {str(Digest.of(crl)) for crl in crls}


def test_fresh_crl_takes_the_place_of_the_one_of_its_issuer_and_no_other(verifier: RunningVerifier) -> None:
    one, two, now = Ca("one"), Ca("two"), verifier.clock.now()
    vouch(verifier, one, two)
    other, soon, *weeks = two.crl(this=now), one.crl(this=now + 1), *(one.crl(7, this=now - 100 + week) for week in range(4))
    assert offer(verifier, weeks[0], other) == (digests(weeks[0], other), [])
    for fresh in weeks[1:]:
        assert offer(verifier, fresh) == (digests(fresh, other), [])
    held = digests(weeks[-1], other)
    assert offer(verifier, weeks[0]) == (held, ["crl-rollback"])
    assert offer(verifier, *weeks, other) == (held, ["crl-rollback"] * 3), "what is held is not refused"
    assert offer(verifier, soon) == (held, ["crl-early"])
    verifier.clock.advance(1)
    assert offer(verifier, soon) == (digests(soon, other), [])


def test_crl_by_a_renewed_key_of_a_ca_stands_beside_the_old_one(verifier: RunningVerifier) -> None:
    old, renewed, now = Ca("one"), Ca("one", key="ca/renewed"), verifier.clock.now()
    vouch(verifier, old, renewed)
    crls = (old.crl(this=now - 50), renewed.crl(this=now - 60))
    assert offer(verifier, *crls) == (digests(*crls), [])


def test_fresh_response_takes_the_place_of_the_one_about_its_certificate_and_no_other(verifier: RunningVerifier) -> None:
    one, two, now = Ca("one"), Ca("two"), verifier.clock.now()
    vouch(verifier, one, two)
    other, soon, *weeks = two.ocsp(7, this=now), one.ocsp(7, this=now + 1), *(one.ocsp(7, this=now - 100 + week) for week in range(3))
    assert ask(verifier, weeks[0], other) == (digests(weeks[0], other), [])
    for fresh in weeks[1:]:
        assert ask(verifier, fresh) == (digests(fresh, other), [])
    held = digests(weeks[-1], other)
    assert ask(verifier, weeks[0], soon, one.ocsp(8, "unknown", this=now)) == (held, ["crl-early", "revocation-unknown", "crl-rollback"])
    verifier.clock.advance(1)
    assert ask(verifier, soon) == (digests(soon, other), [])


def test_response_is_shown_and_what_came_is_named(verifier: RunningVerifier) -> None:
    one, now = Ca("one"), verifier.clock.now()
    vouch(verifier, one)
    response = one.ocsp(0xABC, "revoked", this=now - 9, produced=now - 8, following=now + 9)
    shown = {
        "digest": str(Digest.of(response)), "serial": "abc", "status": "revoked", "produced_at": now - 8, "this_update": now - 9,
        "next_update": now + 9,
    }  # fmt: skip
    answer = verifier.client.post("/v1/trust", {"files": trust_files(("a.ocsp", response))})
    assert answer["ocsp"] == answer["added"]["ocsp"] == [shown]
    assert verifier.client.post("/v1/trust", {"files": trust_files(("a.ocsp", response))})["added"]["ocsp"] == []
    assert verifier.client.get("/v1/trust")["ocsp"] == [shown]


def test_ek_that_a_response_calls_revoked_is_not_enrolled_until_a_later_one_says_good(verifier: RunningVerifier) -> None:
    chip, issuing, now = Chip("h1"), Ca("maker ca", key="maker/ca"), verifier.clock.now()
    serial = parse_certificate(chip.ek_certificates[0]).serial
    revoked, good = issuing.ocsp(serial, "revoked", this=now - 2), issuing.ocsp(serial, this=now - 1)
    assert ask(verifier, revoked) == (digests(revoked), [])
    host = verifier.stranger("h1", chip)
    with pytest.raises(RefusedByVerifier) as caught:
        host.enrol(verifier.admit("h1"))
    assert caught.value.codes == ["ek-certificate-revoked"]
    assert ask(verifier, good) == (digests(good), [])
    verifier.host("h2", chip)


def test_import_of_what_came_meanwhile_loses_nothing(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, now = Ca("one"), Ca("two"), verifier.clock.now()
    vouch(verifier, one, two)
    mine, theirs = one.crl(this=now), two.crl(this=now)
    anchors = verifier.made.parts.anchors
    monkeypatch.setattr(anchors, "_ledger", Racing(verifier.made.ledger, lambda: anchors.add(INIT, (), (), (theirs,))))
    assert offer(verifier, mine) == (digests(mine, theirs), [])


@pytest.mark.parametrize(
    "count, size, what",
    [(2048, 8, "intermediates: expected at most 2048, got 2049"), (520, 16_384, "bytes: expected at most 8388608")],
    ids=["count", "bytes"],
)
def test_more_than_a_trust_file_holds_is_refused_and_nothing_is_lost(verifier: RunningVerifier, count: int, size: int, what: str) -> None:
    before = verifier.client.get("/v1/trust")
    with pytest.raises(Refused, match=f"too-large: trust.{what}"):
        verifier.made.parts.anchors.add(INIT, (), tuple(number.to_bytes(size, "big") for number in range(count)))
    assert verifier.client.get("/v1/trust") == before
    verifier.host("h1")


def test_more_roots_than_a_trust_file_holds_are_refused(verifier: RunningVerifier) -> None:
    roots = tuple(ManufacturerRoot("root", "software", number.to_bytes(8, "big")) for number in range(2048))
    with pytest.raises(Refused, match=r"too-large: trust\.roots: expected at most 2048, got 2049"):
        verifier.made.parts.anchors.add(INIT, roots, ())


def test_more_crls_than_a_trust_file_holds_are_refused(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MOST_CRLS", 1)
    one, two, now = Ca("one"), Ca("two"), verifier.clock.now()
    vouch(verifier, one, two)
    first, second = one.crl(this=now - 1), one.crl(this=now)
    assert offer(verifier, first) == (digests(first), [])
    with pytest.raises(Refused, match=r"too-large: trust\.crls: expected at most 1, got 2"):
        offer(verifier, two.crl(this=now))
    assert offer(verifier, second) == (digests(second), []), "in the place of another it fits"


def test_more_responses_than_a_trust_file_holds_are_refused(verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MOST_OCSP", 1)
    one, now = Ca("one"), verifier.clock.now()
    vouch(verifier, one)
    assert ask(verifier, first := one.ocsp(7, this=now - 1)) == (digests(first), [])
    with pytest.raises(Refused, match=r"too-large: trust\.ocsp: expected at most 1, got 2"):
        ask(verifier, one.ocsp(8, this=now))
    assert ask(verifier, second := one.ocsp(7, this=now)) == (digests(second), []), "in the place of another it fits"


def test_root_that_a_trust_file_cannot_name_is_refused(verifier: RunningVerifier) -> None:
    before = verifier.client.get("/v1/trust")
    root = ManufacturerRoot("a name\nof two lines", "software", Ca("one").certificate())
    with pytest.raises(FormatError, match=r"trust\.roots"):
        verifier.made.parts.anchors.add(INIT, (root,), ())
    assert verifier.client.get("/v1/trust") == before

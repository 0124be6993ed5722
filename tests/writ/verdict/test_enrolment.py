"""Each step of `judge_enrolment` and `judge_activation`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.world.authority import crls_of
from tests.world.chip import AK_ATTRIBUTES, EK_ATTRIBUTES, Chip, Maker, public_area
from tests.world.scene import DOMAIN, ISSUER, NAMESPACE, NOW, RUNTIME_PCR, signer
from tests.writ.verdict.refusal import refused
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.evidence import enrolment_binding
from writ.formats.exchange import Activation, EnrolRequest
from writ.formats.tpm.pcr import PcrSelection
from writ.formats.tpm.public import (
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    EccParameters,
    Public,
    Scheme,
    Symmetric,
)
from writ.formats.trust import ManufacturerRoot, Trust
from writ.verdict.enrolment import Admission, VerifiedEnrolment, judge_activation, judge_enrolment

CHIP = Chip()
HOST = "host-1"
TICKET = Admission(HOST, NAMESPACE, 4, None, False)
CHALLENGE, SECRET = b"c" * 32, b"s" * 32
AES = Symmetric("aes", 128, "cfb")
ECDSA = Scheme("ecdsa", "sha256")


def trust(maker: Maker | None = None, tpm_class: str = "discrete") -> Trust:
    return Trust(DOMAIN, ISSUER, (ManufacturerRoot("maker", tpm_class, (maker or Maker()).root()),), (), (signer("decision").public,))


def ek_digest(chip: Chip) -> Digest:
    return Digest.of(chip.ek.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def request(chip: Chip = CHIP, **changed: Any) -> EnrolRequest:
    asked = EnrolRequest(
        HOST, "ticket", chip.ek.raw, chip.ek_certificates, chip.ak.raw, signer("host").public, RUNTIME_PCR, "sha256"
    )  # fmt: skip
    return replace(asked, **changed)


def judge(asked: EnrolRequest | None = None, admission: Admission = TICKET, anchors: Trust | None = None) -> VerifiedEnrolment:
    return judge_enrolment(asked or request(), admission=admission, trust=anchors or trust(), now=NOW)


PENDING = judge()


def test_revocation_was_checked_where_a_fresh_crl_stood_behind_each_certificate() -> None:
    below, root = crls_of(Maker(), this=NOW - 10)
    stale, _ = crls_of(Maker(), this=NOW - 10, following=NOW - 5)
    for crls, checked in (((below, root), True), ((), False), ((below,), False), ((root,), False), ((stale, root), False)):
        pending = judge(anchors=replace(trust(), crls=crls))
        assert pending.revocation_checked == checked
        assert activate(answer(), pending=pending).revocation_checked == checked
    unendorsed = replace(TICKET, ek=ek_digest(CHIP), unendorsed=True)
    assert not judge(request(ek_certificates=()), unendorsed, replace(trust(), crls=(below, root))).revocation_checked


def test_endorsed_tpm_with_a_ticket_may_be_challenged() -> None:
    assert (PENDING.ek, PENDING.ak, PENDING.qualified_name) == (CHIP.ek, CHIP.ak, CHIP.qualified_name)
    assert (PENDING.tpm_class, PENDING.root, PENDING.endorsed, PENDING.ek_digest) == ("discrete", "maker", True, ek_digest(CHIP))
    assert PENDING.certificates == CHIP.ek_certificates
    assert (PENDING.runtime_pcr, PENDING.bank, PENDING.host_key) == (RUNTIME_PCR, "sha256", signer("host").public)


def test_class_of_the_tpm_is_that_of_the_root_and_not_the_hosts_word() -> None:
    assert judge(anchors=trust(tpm_class="software")).tpm_class == "software"


def test_request_for_another_host_is_refused() -> None:
    assert refused(lambda: judge(request(host="host-2"))).code == "ticket-unknown"


def test_public_area_that_does_not_parse_is_malformed() -> None:
    for wrong in (request(ek_public=CHIP.ek.raw + b"\0"), request(ak_public=b"")):
        with pytest.raises(FormatError):
            judge(wrong)


@pytest.mark.parametrize("bit", [RESTRICTED, DECRYPT, FIXED_TPM, FIXED_PARENT])
def test_ek_lacking_an_attribute_is_refused(bit: int) -> None:
    ek = public_area("chip/ek", EK_ATTRIBUTES & ~bit, scheme=None, symmetric=AES)
    assert refused(lambda: judge(request(ek_public=ek.raw))).code == "ek-mismatch"


def test_ek_that_signs_is_refused() -> None:
    ek = public_area("chip/ek", EK_ATTRIBUTES | SIGN, scheme=None, symmetric=AES)
    assert refused(lambda: judge(request(ek_public=ek.raw))).code == "ek-mismatch"


def test_key_named_by_sha1_is_refused() -> None:
    for name in ("ek_public", "ak_public"):
        area = replace(CHIP.ek if name == "ek_public" else CHIP.ak, name_algorithm="sha1")
        assert refused(lambda name=name, area=area: judge(request(**{name: area.raw}))).code == "algorithm-refused"  # type: ignore[misc] # defaults bind the loop's values


def test_certificate_of_another_ek_is_refused() -> None:
    assert refused(lambda: judge(request(ek_certificates=Chip("other").ek_certificates))).code == "ek-mismatch"


def test_certificate_of_a_maker_not_trusted_is_refused() -> None:
    assert refused(lambda: judge(request(Chip(maker=Maker("stranger"))))).code == "ek-certificate-refused"


def test_tpm_without_certificate_needs_its_digest_admitted_for_that() -> None:
    asked = request(ek_certificates=())
    for admission in (TICKET, replace(TICKET, unendorsed=True), replace(TICKET, ek=ek_digest(CHIP))):
        assert refused(lambda admission=admission: judge(asked, admission)).code == "ek-certificate-refused"  # type: ignore[misc] # a default binds the loop's value
    pending = judge(asked, replace(TICKET, ek=ek_digest(CHIP), unendorsed=True))
    assert (pending.endorsed, pending.root, pending.tpm_class) == (False, "none", "software")


def test_ek_other_than_the_admitted_is_refused() -> None:
    assert refused(lambda: judge(admission=replace(TICKET, ek=ek_digest(Chip("other"))))).code == "ek-not-admitted"
    assert judge(admission=replace(TICKET, ek=ek_digest(CHIP))).endorsed
    other = replace(TICKET, ek=ek_digest(Chip("other")), unendorsed=True)
    assert refused(lambda: judge(request(ek_certificates=()), other)).code == "ek-not-admitted"


@pytest.mark.parametrize("bit", [RESTRICTED, SIGN, FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN])
def test_ak_lacking_an_attribute_is_refused(bit: int) -> None:
    ak = public_area("chip/ak", AK_ATTRIBUTES & ~bit, scheme=ECDSA, symmetric=None)
    assert refused(lambda: judge(request(ak_public=ak.raw))).code == "ak-attributes"


def test_ak_that_decrypts_is_refused() -> None:
    ak = public_area("chip/ak", AK_ATTRIBUTES | DECRYPT, scheme=ECDSA, symmetric=None)
    assert refused(lambda: judge(request(ak_public=ak.raw))).code == "ak-attributes"


def test_ak_that_is_no_key_is_malformed() -> None:
    nowhere = EccParameters("p256", None, bytes(32), bytes(32))
    with pytest.raises(FormatError):
        judge(request(ak_public=Public("sha256", AK_ATTRIBUTES, b"", None, ECDSA, nowhere).raw))


@pytest.mark.parametrize("pcr", range(24))
def test_runtime_pcr_is_one_that_no_one_can_reset(pcr: int) -> None:
    asked = request(runtime_pcr=pcr)
    if pcr in {8, 9, 11, 12, 13, 14, 15}:
        assert judge(asked).runtime_pcr == pcr
    else:
        assert refused(lambda: judge(asked)).code == "runtime-pcr-refused"


@pytest.mark.parametrize("bank", ["sha1", "sha512", "", "x" * 16])
def test_bank_we_do_not_accept_is_refused(bank: str) -> None:
    assert refused(lambda: judge(request(bank=bank))).claim == "bank"
    assert judge(request(bank="sha384")).bank == "sha384"


# --- the answer


def answer(
    chip: Chip = CHIP, *, secret: bytes = SECRET, challenge: bytes = CHALLENGE, host: str = HOST, key: str = "host", bank: str = "sha256"
) -> Activation:
    bound = enrolment_binding(host, signer(key).public.thumbprint(), challenge, secret)
    attest, signature = chip.quote(bound, selection=PcrSelection(((bank, tuple(range(16))),)))
    return Activation(challenge, attest, signature, chip.values(bank))


def activate(given: Activation, pending: VerifiedEnrolment = PENDING) -> Any:
    return judge_activation(given, pending=pending, challenge=CHALLENGE, secret=SECRET, reset_count=None, now=NOW).record


def test_right_answer_gives_the_record_to_commit() -> None:
    record = activate(answer())
    assert (record.host, record.namespace, record.generation, record.enrolled_at) == (HOST, NAMESPACE, 4, NOW)
    assert (record.ek, record.ak, record.qualified_name, record.host_key) == (
        ek_digest(CHIP), CHIP.ak.raw, CHIP.qualified_name, signer("host").public,
    )  # fmt: skip
    assert (record.tpm_class, record.endorsed, record.runtime_pcr, record.bank) == ("discrete", True, RUNTIME_PCR, "sha256")
    assert record.ek_certificates == CHIP.ek_certificates
    assert activate(answer(bank="sha384"), judge(request(bank="sha384"))).bank == "sha384"


def test_answer_to_another_challenge_is_refused() -> None:
    assert refused(lambda: activate(answer(challenge=b"d" * 32))).code == "challenge-unknown"


def test_wrong_answer_says_only_that_it_was_wrong() -> None:
    good = answer()
    wrong = [
        answer(secret=b"t" * 32), answer(host="host-2"), answer(key="other"), answer(Chip("other")), answer(bank="sha384"),
        replace(good, attest=b"rubbish"), replace(good, signature=b""), replace(good, pcrs=CHIP.values(indices=range(3))),
        replace(good, attest=good.attest + b"\0"),
    ]  # fmt: skip
    reasons = {refused(lambda given=given: activate(given)) for given in wrong}  # type: ignore[misc] # a default binds the loop's value
    assert [(r.code, r.expected, r.got) for r in reasons] == [
        ("activation-wrong", "a quote over the recovered secret", "another answer")
    ]  # fmt: skip


def test_ak_that_is_no_child_of_the_ek_is_refused_by_its_qualified_name() -> None:
    elsewhere = replace(PENDING, qualified_name=Chip("other").qualified_name)
    assert refused(lambda: activate(answer(), elsewhere)).code == "ak-parent"


@pytest.mark.parametrize("recorded, cleared", [(None, False), (0, False), (CHIP.reset_count, False), (CHIP.reset_count + 1, True)])
def test_tpm_that_counts_fewer_resets_than_before_was_cleared(recorded: int | None, cleared: bool) -> None:
    enrolled = judge_activation(answer(), pending=PENDING, challenge=CHALLENGE, secret=SECRET, reset_count=recorded, now=NOW)
    assert enrolled.cleared is cleared

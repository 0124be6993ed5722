"""Keys that are no AK of an admitted TPM: wrong attributes, no child of the EK, in software beside a genuine EK, another's EK."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.chip import AK_ATTRIBUTES, Chip, Maker, public_area
from tests.writ.verdict.refusal import refused
from tests.writ.verdict.test_enrolment import CHALLENGE, PENDING, SECRET, TICKET, activate, answer, ek_digest, judge, request
from writ.formats.digest import Nonce
from writ.formats.evidence import binding
from writ.formats.exchange import Activation
from writ.formats.tpm.attest import encode_attest, parse_attest
from writ.formats.tpm.credential import make_credential
from writ.formats.tpm.public import KNOWN_ATTRIBUTES, RESTRICTED, SIGN, Scheme
from writ.verdict.enrolment import judge_activation


@pytest.mark.parametrize("bit", [1 << at for at in range(32) if KNOWN_ATTRIBUTES >> at & 1])
def test_each_attribute_of_an_ak_that_decides_is_checked(bit: int) -> None:
    """Each known bit turned: the six that make an attestation key refuse, the others say nothing about where the key is."""
    ak = public_area("chip/ak", AK_ATTRIBUTES ^ bit, scheme=Scheme("ecdsa", "sha256"), symmetric=None)
    if bit in {1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 17, 1 << 18}:
        assert refused(lambda: judge(request(ak_public=ak.raw))).code == "ak-attributes"
    else:
        assert judge(request(ak_public=ak.raw)).ak == ak


def test_software_ak_beside_a_genuine_ek_cannot_answer() -> None:
    """An EK chain that is genuine, and an AK public area that looks right but lives in software: the TPM opens nothing for its name."""
    chip, software = Chip(), Chip("software")
    pending = judge(request(ak_public=software.ak.raw))
    credential, secret = make_credential(pending.ek, pending.ak.name(), SECRET, seed=bytes(range(128)))
    assert chip.activate_credential(credential, secret) is None
    assert Chip("attacker").activate_credential(credential, secret, name=software.ak.name()) is None
    for guess in (bytes(32), CHALLENGE):
        honest = answer(software, secret=guess)
        attest = encode_attest(replace(parse_attest(honest.attest), qualified_signer=pending.qualified_name))
        given = replace(honest, attest=attest, signature=software.sign(attest))
        assert refused(lambda given=given: activate(given, pending)).code == "activation-wrong"  # type: ignore[misc] # a default binds the loop's value


def test_genuine_ak_is_activated_by_its_own_tpm_only() -> None:
    chip = Chip()
    credential, secret = make_credential(PENDING.ek, PENDING.ak.name(), SECRET, seed=bytes(range(128)))
    assert chip.activate_credential(credential, secret) == SECRET
    assert Chip("other").activate_credential(credential, secret, name=chip.ak.name()) is None
    spoilt = credential[:-1] + bytes([credential[-1] ^ 1])
    assert chip.activate_credential(spoilt, secret) is None


def test_ak_outside_the_ek_is_refused_by_what_its_quote_says() -> None:
    """The same TPM, the right secret, but an AK under another parent: its counters would be obfuscated."""
    other = replace(PENDING, qualified_name=Chip("elsewhere").qualified_name)
    assert refused(lambda: activate(answer(), other)).code == "ak-parent"


def test_unadmitted_genuine_tpm_is_refused() -> None:
    """Endorsed by a real maker, and not the one that the operator admitted."""
    assert refused(lambda: judge(request(Chip("mallory")), replace(TICKET, ek=ek_digest(Chip())))).code == "ek-not-admitted"


def test_second_ek_of_the_same_tpm_is_refused() -> None:
    """Genuine, certified, and in the same chip: not the EK that was admitted, nor the one that the AK stands below."""
    chip, second = Chip(), Chip(ek_name="second-ek")
    assert refused(lambda: judge(request(second), replace(TICKET, ek=ek_digest(chip)))).code == "ek-not-admitted"
    assert refused(lambda: judge(request(second, ek_certificates=chip.ek_certificates))).code == "ek-mismatch"
    assert refused(lambda: activate(answer(chip), judge(request(second)))).code == "ak-parent"


def test_ek_certificate_of_another_tpm_is_refused() -> None:
    assert refused(lambda: judge(request(Chip("mallory"), ek_certificates=Chip().ek_certificates))).code == "ek-mismatch"
    assert refused(lambda: judge(request(Chip(maker=Maker("mallory"))))).code == "ek-certificate-refused"


def test_wrong_activation_answer_leaks_nothing_of_the_secret() -> None:
    """CVE-2023-38201: the error gave the expected value."""
    reason = refused(lambda: activate(answer(secret=b"t" * 32)))
    said = f"{reason} {reason.to_json()}"
    assert SECRET.hex() not in said
    assert str(SECRET) not in said
    assert not any(word in said for word in (CHALLENGE.hex(), PENDING.qualified_name.hex()))


def test_attestation_is_no_answer_to_a_challenge() -> None:
    chip = Chip()
    attest, signature = chip.quote(binding(bytes(32), "host-1", Nonce(CHALLENGE), ()))
    given = Activation(CHALLENGE, attest, signature, chip.values())
    call = lambda: judge_activation(given, pending=PENDING, challenge=CHALLENGE, secret=SECRET, reset_count=None, now=0)  # noqa: E731 - called by `refused`
    assert refused(call).code == "activation-wrong"
    assert AK_ATTRIBUTES & (RESTRICTED | SIGN) == RESTRICTED | SIGN

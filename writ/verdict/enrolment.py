"""Enrolment: this AK lives in a genuine TPM, and that TPM is one that an operator admitted.

Two halves. `judge_enrolment` reads what a host asks with, and says with which
EK and for which AK the challenge is to be made. `judge_activation` reads the
answer: only the TPM that holds both keys could recover the secret, and the
quote that binds it shows the AK in its place below the EK, with the host's key.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.evidence import enrolment_binding
from writ.formats.exchange import Activation, EnrolRequest
from writ.formats.keys import PublicKey
from writ.formats.reason import Reason
from writ.formats.state import HostRecord
from writ.formats.tpm.pcr import BANKS, RUNTIME_PCRS
from writ.formats.tpm.public import RH_ENDORSEMENT, Public, parse_public, primary_qualified_name, qualified_name
from writ.formats.tpm.signature import ACCEPTED_HASHES
from writ.formats.trust import Trust
from writ.verdict.chain import verify_ek_chain
from writ.verdict.quote import verify_quote


@dataclass(frozen=True, slots=True)
class Admission:
    """What an operator decided beforehand: the host, its namespace, and either a ticket that was shown or an EK digest.

    `ek` None means the ticket admits whatever TPM the host has. `unendorsed`
    permits a TPM without an EK certificate, by its digest only.
    """

    host: str
    namespace: str
    generation: int
    ek: Digest | None
    unendorsed: bool


@dataclass(frozen=True, slots=True)
class VerifiedEnrolment:
    """Proof that `judge_enrolment` ran: the keys to challenge. Nothing is enrolled yet."""

    admission: Admission
    ek: Public
    ek_digest: Digest
    ak: Public
    qualified_name: bytes
    host_key: PublicKey
    tpm_class: str
    root: str
    endorsed: bool
    revocation_checked: bool
    certificates: tuple[bytes, ...]
    runtime_pcr: int
    bank: str


@dataclass(frozen=True, slots=True)
class EnrolledHost:
    """Proof that `judge_activation` ran: the record to commit, once, under the host's admission.

    `cleared` says that the TPM counted fewer resets than it had before: TPM2_Clear was run, which sets clock, resetCount and
    restartCount to zero and ends every AK. False says nothing: after a Clear the count may have been caught up with.
    """

    record: HostRecord
    cleared: bool


def judge_enrolment(request: EnrolRequest, *, admission: Admission, trust: Trust, now: int) -> VerifiedEnrolment:
    """The request names keys that may be challenged for this admission.

    1. It is for the admitted host.
    2. EK and AK are TPM public areas; the EK is a restricted decryption key of this TPM.
    3. The EK certificate chains to a trusted manufacturer, for exactly this EK; or the EK's digest was admitted without one.
    4. Where the admission names an EK, it is this one.
    5. The AK is restricted, signing, not decrypting, made by and fixed to this TPM and its parent; both are named by SHA-256 or stronger.
    6. The proposed runtime PCR can be reset by no one, in a bank we accept.

    Raises FormatError or Refused at the first fault.
    """
    # 1
    if request.host != admission.host:
        raise Refused(Reason("ticket-unknown", "host", admission.host, request.host))
    # 2
    ek, ak = parse_public(request.ek_public), parse_public(request.ak_public)
    spki = ek.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = Digest.of(spki)
    if not (ek.restricted and ek.decrypt and not ek.sign and ek.fixed_tpm and ek.fixed_parent):
        raise Refused(Reason("ek-mismatch", "ek_public.attributes", "restricted, decrypt, fixedTPM, fixedParent", f"{ek.attributes:08x}"))
    # 3
    tpm_class, root, endorsed, checked = "software", "none", False, False
    if request.ek_certificates:
        verified = verify_ek_chain(request.ek_certificates, trust, now=now)
        if verified.spki != spki:
            raise Refused(Reason("ek-mismatch", "ek_certificate.key", str(digest), str(Digest.of(verified.spki))))
        tpm_class, root, endorsed, checked = verified.tpm_class, verified.root, True, not verified.notes
    elif admission.ek is None or not admission.unendorsed:
        raise Refused(Reason("ek-certificate-refused", "ek_certificate", "a certificate, or an EK digest admitted without one", "none"))
    # 4
    if admission.ek is not None and admission.ek != digest:
        raise Refused(Reason("ek-not-admitted", "ek_public", str(admission.ek), str(digest)))
    # 5
    if not (ak.restricted and ak.sign and not ak.decrypt and ak.fixed_tpm and ak.fixed_parent and ak.sensitive_data_origin):
        wanted = "restricted, sign, fixedTPM, fixedParent, sensitiveDataOrigin, not decrypt"
        raise Refused(Reason("ak-attributes", "ak_public.attributes", wanted, f"{ak.attributes:08x}"))
    for claim, key in (("ek_public", ek), ("ak_public", ak)):
        if key.name_algorithm not in ACCEPTED_HASHES:
            raise Refused(Reason("algorithm-refused", f"{claim}.name_algorithm", " or ".join(ACCEPTED_HASHES), key.name_algorithm))
    ak.public_key()
    # 6
    if request.runtime_pcr not in RUNTIME_PCRS:
        raise Refused(Reason("runtime-pcr-refused", "runtime_pcr", ", ".join(map(str, RUNTIME_PCRS)), str(request.runtime_pcr)))
    if request.bank not in BANKS:
        raise Refused(Reason("runtime-pcr-refused", "bank", " or ".join(BANKS), request.bank[:40]))
    below = qualified_name(primary_qualified_name(RH_ENDORSEMENT, ek.name()), ak.name())
    return VerifiedEnrolment(
        admission,
        ek,
        digest,
        ak,
        below,
        request.host_key,
        tpm_class,
        root,
        endorsed,
        checked,
        request.ek_certificates,
        request.runtime_pcr,
        request.bank,
    )


def judge_activation(
    activation: Activation, *, pending: VerifiedEnrolment, challenge: bytes, secret: bytes, reset_count: int | None, now: int
) -> EnrolledHost:
    """The TPM that holds the EK recovered `secret`, and its AK, a child of that EK, quoted it with the host's key.

    `reset_count` is what was recorded of the same TPM under an earlier enrolment of the host, None where nothing was: a lower
    one now is a TPM that was cleared.

    A wrong answer says only that it was wrong; the caller burns the challenge.
    Source: TPM 2.0 Library Part 3, TPM2_Clear.
    Raises Refused `ak-parent` where the AK itself says that it stands elsewhere, else `activation-wrong`.
    """
    if activation.challenge != challenge:
        raise Refused(Reason("challenge-unknown", "challenge", "the pending challenge", "another"))
    bound = enrolment_binding(pending.admission.host, pending.host_key.thumbprint(), challenge, secret)
    try:
        quote = verify_quote(
            activation.attest,
            activation.signature,
            activation.pcrs,
            ak=pending.ak,
            qualified_name=pending.qualified_name,
            extra_data=bound,
            bank=pending.bank,
        )
    except FormatError:
        raise _wrong() from None
    except Refused as refused:
        if refused.reasons[0].code == "ak-parent":
            raise
        raise _wrong() from None
    a = pending.admission
    record = HostRecord(
        host=a.host,
        namespace=a.namespace,
        generation=a.generation,
        ek=pending.ek_digest,
        ek_certificates=pending.certificates,
        ak=pending.ak.raw,
        qualified_name=pending.qualified_name,
        host_key=pending.host_key,
        tpm_class=pending.tpm_class,
        endorsed=pending.endorsed,
        runtime_pcr=pending.runtime_pcr,
        bank=pending.bank,
        enrolled_at=now,
        revocation_checked=pending.revocation_checked,
    )
    return EnrolledHost(record, cleared=reset_count is not None and quote.reset_count < reset_count)


def _wrong() -> Refused:
    """No detail: the expected value is derived from the secret (CVE-2023-38201)."""
    return Refused(Reason("activation-wrong", "activation", "a quote over the recovered secret", "another answer"))

"""EK certificate chains: does a TPM manufacturer we trust vouch for this key?

Path validation is cryptography's, with the extension policy that EK
certificates need: a critical SAN holding a DirectoryName, and the EKU
tcg-kp-EKCertificate (facts: the default policy refuses both).

Source: TCG EK Credential Profile 2.6, section 3; RFC 5280 section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification as path
from cryptography.x509.oid import ObjectIdentifier

from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.reason import Reason
from writ.formats.trust import Trust
from writ.formats.x509 import EKU_EK

EK_CERTIFICATE = ObjectIdentifier(EKU_EK)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_PATH = (
    path.VerificationError,
    ValueError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""All that cryptography raises over certificates that parse as DER and are no good."""


@dataclass(frozen=True, slots=True)
class VerifiedEk:
    """Proof that `verify_ek_chain` ran: the EK's SubjectPublicKeyInfo in DER, and the class of the root it led to."""

    spki: bytes
    root: str
    tpm_class: str


def verify_ek_chain(certificates: Sequence[bytes], trust: Trust, *, now: int) -> VerifiedEk:
    """The first of `certificates` (DER) chains to a root in `trust`, valid at `now`.

    Proves that the manufacturer issued it; not that the TPM holds the key
    (activation), nor that the TPM is one of ours (admission). Revocation is
    not judged here.

    1. Every certificate parses.
    2. A path leads from the EK certificate over the others and the trust's intermediates to one of its roots.
    3. CAs on it are CAs that may sign certificates; the leaf is an EK certificate by EKU, with a DirectoryName.

    Raises Refused `ek-certificate-refused`.
    """
    # 1
    try:
        leaf, *others = [x509.load_der_x509_certificate(der) for der in certificates]
        extra = [x509.load_der_x509_certificate(der) for der in trust.intermediates]
        roots = [(root, x509.load_der_x509_certificate(root.certificate)) for root in trust.roots]
    except (ValueError, x509.InvalidVersion):
        raise _refused("a chain of certificates", "bytes that are not, or none") from None
    if not roots:
        raise _refused("a root in the trust file", "none")
    # 2, 3
    store = path.Store([certificate for _, certificate in roots])
    try:
        builder = path.PolicyBuilder().store(store).time(_EPOCH + timedelta(seconds=now)).max_chain_depth(4)
        verifier = builder.extension_policies(ca_policy=_ca_policy(), ee_policy=_ek_policy()).build_client_verifier()
        chain = verifier.verify(leaf, [*others, *extra]).chain
        spki = _spki(leaf)
    except _NO_PATH:
        raise _refused(f"a path to one of {len(roots)} roots, valid at {now}", f"certificate {Digest.of(certificates[0])}") from None
    top = chain[-1]
    for root, certificate in roots:
        if certificate == top:
            return VerifiedEk(spki, root.name, root.tpm_class)
    raise _refused("a root in the trust file", "another")


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _refused(expected: str, got: str) -> Refused:
    return Refused(Reason("ek-certificate-refused", "ek_certificate", expected, got))


def _ca_policy() -> path.ExtensionPolicy:
    def is_ca(_policy: path.Policy, _certificate: x509.Certificate, extension: x509.BasicConstraints) -> None:
        if not extension.ca:
            raise ValueError("not a CA")

    def signs(_policy: path.Policy, _certificate: x509.Certificate, extension: x509.KeyUsage) -> None:
        if not extension.key_cert_sign:
            raise ValueError("may not sign certificates")

    permissive = path.ExtensionPolicy.permit_all()
    return permissive.require_present(x509.BasicConstraints, path.Criticality.CRITICAL, is_ca).require_present(
        x509.KeyUsage, path.Criticality.AGNOSTIC, signs
    )


def _ek_policy() -> path.ExtensionPolicy:
    def is_ek(_policy: path.Policy, _certificate: x509.Certificate, extension: x509.ExtendedKeyUsage) -> None:
        if EK_CERTIFICATE not in extension:
            raise ValueError("not an EK certificate")

    def named(_policy: path.Policy, _certificate: x509.Certificate, extension: x509.SubjectAlternativeName) -> None:
        if not extension.get_values_for_type(x509.DirectoryName):
            raise ValueError("no DirectoryName")

    permissive = path.ExtensionPolicy.permit_all()
    return permissive.require_present(x509.ExtendedKeyUsage, path.Criticality.AGNOSTIC, is_ek).require_present(
        x509.SubjectAlternativeName, path.Criticality.AGNOSTIC, named
    )

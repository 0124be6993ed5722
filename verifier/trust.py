"""Trust anchors: the manufacturer roots whose EK certificates are believed, and the file an auditor needs."""

from __future__ import annotations

from typing import Final

from verifier.access import WHOLE_DOMAIN, Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import Ledger, TrustImported
from verifier.ledger.schema import TrustRow
from writ.formats.state import TPM_CLASSES
from writ.formats.trust import ManufacturerRoot, Trust, encode_trust, parse_trust
from writ.formats.x509 import Certificate, parse_pem_certificates
from writ.service.clock import Clock

MAX_PEM: Final = 4 << 20


class Anchors:
    """The roots in force, and their import."""

    def __init__(self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock, domain: str, issuer: str) -> None:
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock
        self._domain = domain
        self._issuer = issuer

    def current(self) -> Trust:
        """The anchors in force: none until some were imported. Includes this verifier's decision key, for auditors."""
        rows = self._ledger.read().select(TrustRow, current=1)
        roots, intermediates = ((), ()) if not rows else _parts(parse_trust(rows[0].data))
        return Trust(self._domain, self._issuer, roots, intermediates, (self._keys.decision.public,))

    def add(self, operator: Operator, roots: tuple[ManufacturerRoot, ...], intermediates: tuple[bytes, ...]) -> Trust:
        """These are believed as well from now on."""
        now, old = self._clock.now(), self.current()
        merged = tuple(sorted({root.certificate: root for root in (*old.roots, *roots)}.values()))
        trust = Trust(self._domain, self._issuer, merged, tuple(sorted({*old.intermediates, *intermediates})), old.decision_keys)
        data = encode_trust(trust)
        entry = self._log.entry(operator, "trust-import", str(trust.digest), namespace=WHOLE_DOMAIN, at=now, detail=trust.digest)
        self._ledger.commit(TrustImported(entry, TrustRow(str(trust.digest), data, 1, now), (data,)))
        return trust


def _parts(trust: Trust) -> tuple[tuple[ManufacturerRoot, ...], tuple[bytes, ...]]:
    return trust.roots, trust.intermediates


def roots_from_pem(pem: bytes, tpm_class: str) -> tuple[tuple[ManufacturerRoot, ...], tuple[bytes, ...]]:
    """Roots of that class and intermediates: a self-issued CA is a root, another certificate an intermediate. Raises FormatError."""
    certificates = parse_pem_certificates(pem, "trust.pem")
    roots = tuple(ManufacturerRoot(_name(c), tpm_class, c.der) for c in certificates if c.is_self_issued and c.is_ca)
    return roots, tuple(c.der for c in certificates if not (c.is_self_issued and c.is_ca))


def _name(certificate: Certificate) -> str:
    return certificate.subject_text[:255] or f"serial {certificate.serial}"


__all__ = ["MAX_PEM", "TPM_CLASSES", "Anchors", "roots_from_pem"]

"""Trust anchors: the manufacturer roots whose EK certificates are believed, and the file an auditor needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from verifier.access import WHOLE_DOMAIN, Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import Ledger, TrustImported
from verifier.ledger.schema import TrustRow
from verifier.manufacturers import Offered, pinned_roots, take
from writ.formats.errors import Refused
from writ.formats.reason import Reason
from writ.formats.state import TPM_CLASSES
from writ.formats.trust import MOST_CRLS, ChainRules, ManufacturerRoot, Trust, encode_trust, parse_trust
from writ.formats.x509 import Certificate, parse_pem_certificates
from writ.service.clock import Clock

MAX_PEM: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Import:
    """What is believed after an import, and which of the files were refused, and why."""

    trust: Trust
    refused: tuple[tuple[str, Reason], ...]


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
        key = (self._keys.decision.public,)
        return replace(parse_trust(rows[0].data), decision_keys=key) if rows else Trust(self._domain, self._issuer, (), (), key)

    def add(
        self, operator: Operator, roots: tuple[ManufacturerRoot, ...], intermediates: tuple[bytes, ...], crls: tuple[bytes, ...] = (),
        rules: ChainRules | None = None,
    ) -> Trust:  # fmt: skip
        """These are believed as well from now on, under `rules` or those in force. What is in force already is logged once."""
        now, old = self._clock.now(), self.current()
        trust = replace(
            old,
            roots=tuple(sorted({root.certificate: root for root in (*old.roots, *roots)}.values())),
            intermediates=tuple(sorted({*old.intermediates, *intermediates})),
            crls=tuple(sorted({*old.crls, *crls})),
            rules=rules or old.rules,
        )
        if len(trust.crls) > MOST_CRLS:
            raise Refused(Reason("too-large", "crls", f"at most {MOST_CRLS}", str(len(trust.crls))))
        data = encode_trust(trust)
        entry = self._log.entry(operator, "trust-import", str(trust.digest), namespace=WHOLE_DOMAIN, at=now, detail=trust.digest)
        self._ledger.commit(TrustImported(entry, TrustRow(str(trust.digest), data, 1, now), (data,)))
        return trust

    def import_files(
        self, operator: Operator, pem: str, tpm_class: str | None, files: Sequence[Offered], rules: ChainRules | None
    ) -> Import:
        """Believe what may be believed of these, and say what may not.

        1. Roots in `pem` that the operator vouches for, of the class that the operator states.
        2. Of `files`: pinned roots; CAs below a root believed; CRLs that one of them signed (`manufacturers.take`).
        3. One entry in the log, unless nothing came of it.
        """
        # 1
        roots, intermediates = roots_from_pem(pem.encode("utf-8", "replace"), tpm_class) if pem and tpm_class else ((), ())
        # 2
        old = self.current()
        believed = tuple(sorted({*old.roots, *roots}))
        taken = take(files, pinned_roots(), believed=believed, below=(*old.intermediates, *intermediates), rules=rules or old.rules,
                     now=self._clock.now())  # fmt: skip
        # 3
        all_roots, all_below = (*roots, *taken.roots), (*intermediates, *taken.intermediates)
        if not (all_roots or all_below or taken.crls or rules):
            return Import(old, taken.refused)
        return Import(self.add(operator, all_roots, all_below, taken.crls, rules), taken.refused)


def roots_from_pem(pem: bytes, tpm_class: str) -> tuple[tuple[ManufacturerRoot, ...], tuple[bytes, ...]]:
    """Roots of that class and intermediates: a self-issued CA is a root, another certificate an intermediate. Raises FormatError."""
    certificates = parse_pem_certificates(pem, "trust.pem")
    roots = tuple(ManufacturerRoot(_name(c), tpm_class, c.der) for c in certificates if c.is_self_issued and c.is_ca)
    return roots, tuple(c.der for c in certificates if not (c.is_self_issued and c.is_ca))


def _name(certificate: Certificate) -> str:
    return certificate.subject_text[:255] or f"serial {certificate.serial}"


__all__ = ["MAX_PEM", "TPM_CLASSES", "Anchors", "roots_from_pem"]

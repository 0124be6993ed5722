"""Trust anchors: the manufacturer roots whose EK certificates are believed, and the file an auditor needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from verifier.access import WHOLE_DOMAIN, Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import Ledger, Tables, TrustImported, decide_and_commit
from verifier.ledger.schema import TrustRow
from verifier.manufacturers import Offered, authorities, pinned_roots, take
from writ.formats.crl import kept_crl
from writ.formats.errors import Refused
from writ.formats.ocsp import kept_ocsp
from writ.formats.reason import Reason
from writ.formats.state import TPM_CLASSES
from writ.formats.tlog.note import NoteKey
from writ.formats.trust import (
    MAX_TRUST,
    MOST_CERTIFICATES,
    MOST_CRLS,
    MOST_OCSP,
    ChainRules,
    ManufacturerRoot,
    Trust,
    encode_trust,
    parse_trust,
)
from writ.formats.x509 import Certificate, parse_pem_certificates
from writ.service.clock import Clock
from writ.verdict.revocation import latest_crls, latest_responses

MAX_PEM: Final = 4 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Import:
    """What was believed before an import and is after it, and which of the files were refused, and why."""

    before: Trust
    trust: Trust
    refused: tuple[tuple[str, Reason], ...]


class Anchors:
    """The roots in force, and their import."""

    def __init__(
        self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock, domain: str, issuer: str, log_key: NoteKey | None = None
    ) -> None:
        self._log_keys = () if log_key is None else (log_key,)
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock
        self._domain = domain
        self._issuer = issuer

    def current(self) -> Trust:
        """The anchors in force: none until some were imported. Includes this verifier's decision key and that of its log, for auditors."""
        return self._current(self._ledger.read())[0]

    def _current(self, tables: Tables) -> tuple[Trust, str | None]:
        """The anchors in force, and the name under which the ledger has them."""
        rows = tables.select(TrustRow, current=1)
        key = (self._keys.decision.public,)
        if not rows:
            return Trust(self._domain, self._issuer, (), (), key, log_keys=self._log_keys), None
        return replace(parse_trust(rows[0].data), decision_keys=key, log_keys=self._log_keys), rows[0].digest

    def add(
        self, operator: Operator, roots: tuple[ManufacturerRoot, ...], intermediates: tuple[bytes, ...], crls: tuple[bytes, ...] = (),
        rules: ChainRules | None = None, ocsp: tuple[bytes, ...] = (),
    ) -> Trust:  # fmt: skip
        """These are believed as well from now on, under `rules` or those in force. What is in force already is logged once.

        Of the CRLs of one issuer and of the OCSP responses about one certificate the last is kept. Raises Refused `too-large` for more
        than a trust file holds.
        """
        return self._decide(lambda tables: self._added(tables, operator, roots, intermediates, crls, rules, ocsp))

    def import_files(
        self, operator: Operator, pem: str, tpm_class: str | None, files: Sequence[Offered], rules: ChainRules | None
    ) -> Import:
        """Believe what may be believed of these, and say what may not.

        1. Roots in `pem` that the operator vouches for, of the class that the operator states.
        2. Of `files`: pinned roots; CAs below a root believed; CRLs and OCSP responses by them, where no later one is held
           (`take`).
        3. One entry in the log, unless nothing came of it.

        Raises FormatError, Refused `too-large`: then nothing of it is believed.
        """
        # 1
        roots, intermediates = roots_from_pem(pem.encode("utf-8", "replace"), tpm_class) if pem and tpm_class else ((), ())

        def imported(tables: Tables) -> tuple[TrustImported | None, Import]:
            # 2
            old, _ = self._current(tables)
            believed = tuple(sorted({*old.roots, *roots}))
            taken = take(files, pinned_roots(), believed=believed, below=(*old.intermediates, *intermediates), held=old.crls,
                         answers=old.ocsp, rules=rules or old.rules, now=self._clock.now())  # fmt: skip
            # 3
            all_roots, all_below = (*roots, *taken.roots), (*intermediates, *taken.intermediates)
            if not (all_roots or all_below or taken.crls or taken.ocsp or rules):
                return None, Import(old, old, taken.refused)
            change, trust = self._added(tables, operator, all_roots, all_below, taken.crls, rules, taken.ocsp)
            return change, Import(old, trust, taken.refused)

        return self._decide(imported)

    def _decide(self, decide: Callable[[Tables], tuple[TrustImported | None, T]]) -> T:
        return decide_and_commit(self._ledger, decide, what="trust", of="the anchors in force")

    def _added(
        self, tables: Tables, operator: Operator, roots: tuple[ManufacturerRoot, ...], intermediates: tuple[bytes, ...],
        crls: tuple[bytes, ...], rules: ChainRules | None, ocsp: tuple[bytes, ...],
    ) -> tuple[TrustImported, Trust]:  # fmt: skip
        now, (old, before) = self._clock.now(), self._current(tables)
        trust = replace(
            old,
            roots=tuple(sorted({root.certificate: root for root in (*old.roots, *roots)}.values())),
            intermediates=tuple(sorted({*old.intermediates, *intermediates})),
            rules=rules or old.rules,
        )
        trust = _latest(replace(trust, crls=(*old.crls, *crls), ocsp=(*old.ocsp, *ocsp)))
        data = _encoded(trust)
        entry = self._log.entry(operator, "trust-import", str(trust.digest), namespace=WHOLE_DOMAIN, at=now, detail=trust.digest)
        return TrustImported(entry, TrustRow(str(trust.digest), data, 1, now), (data,), before), trust


def _latest(trust: Trust) -> Trust:
    """The same with the last CRL of each of its CAs, and the last OCSP response about each certificate of one."""
    issuers = authorities(trust.roots, trust.intermediates) if trust.crls or trust.ocsp else ()
    crls = {crl.der for crl in latest_crls(map(kept_crl, trust.crls), issuers)}
    ocsp = {one.der for one in latest_responses(map(kept_ocsp, trust.ocsp), issuers)}
    return replace(trust, crls=tuple(sorted(crls)), ocsp=tuple(sorted(ocsp)))


def _encoded(trust: Trust) -> bytes:
    """The trust file, which can be read again. Raises Refused `too-large`; FormatError for anything else that it could not say."""
    data = encode_trust(trust)
    bounds = (
        ("roots", len(trust.roots), MOST_CERTIFICATES),
        ("intermediates", len(trust.intermediates), MOST_CERTIFICATES),
        ("crls", len(trust.crls), MOST_CRLS),
        ("ocsp", len(trust.ocsp), MOST_OCSP),
        ("bytes", len(data), MAX_TRUST),
    )
    for what, count, most in bounds:
        if count > most:
            raise Refused(Reason("too-large", f"trust.{what}", f"at most {most}", str(count)))
    parse_trust(data)
    return data


def roots_from_pem(pem: bytes, tpm_class: str) -> tuple[tuple[ManufacturerRoot, ...], tuple[bytes, ...]]:
    """Roots of that class and intermediates: a self-issued CA is a root, another certificate an intermediate. Raises FormatError."""
    certificates = parse_pem_certificates(pem, "trust.pem")
    roots = tuple(ManufacturerRoot(_name(c), tpm_class, c.der) for c in certificates if c.is_self_issued and c.is_ca)
    return roots, tuple(c.der for c in certificates if not (c.is_self_issued and c.is_ca))


def _name(certificate: Certificate) -> str:
    return certificate.subject_text[:255] or f"serial {certificate.serial}"


__all__ = ["MAX_PEM", "TPM_CLASSES", "Anchors", "roots_from_pem"]

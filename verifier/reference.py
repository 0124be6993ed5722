"""Reference values: captured from a measurement, approved by an operator, signed, and in force for a namespace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from verifier.access import Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import Ledger, ReferencesImported, Void
from verifier.ledger.schema import ReferenceRow
from verifier.ledger.transaction import space
from writ.formats.corim import Corim, encode_corim, parse_corim, parse_signed_corim, sign_corim
from writ.formats.cose import verify_sign1
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.keys import PublicKey
from writ.formats.measurement import Measurement
from writ.formats.reason import Reason
from writ.service.clock import Clock
from writ.verdict.reference import GOVERNANCE, measured_values, reference_set

SIGNER_NAME: Final = "writ verifier"
MAX_IMPORT: Final = 256
ATTEMPTS: Final = 5


class References:
    """The reference values of all namespaces."""

    def __init__(self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock

    def publish(
        self, operator: Operator, namespace: str, items: Iterable[bytes], *, publisher: PublicKey | None, replace: bool
    ) -> tuple[ReferenceRow, ...]:
        """The CoRIMs are in force; with `replace` the other versions of their environments are no longer.

        1. Each is a CoRIM of ours, unsigned (this verifier signs it, in the operator's name), or signed by the publisher or by us.
        2. Each is of this namespace.
        3. All are committed as one set.

        Raises FormatError, Refused.
        """
        now = self._clock.now()
        # 1
        corims = {digest_of(corim): (corim, signed) for corim, signed in (self._signed(item, publisher) for item in items)}
        if not 1 <= len(corims) <= MAX_IMPORT:
            raise FormatError("references", f"1 to {MAX_IMPORT} CoRIMs", str(len(corims)))
        # 2
        for corim, _ in corims.values():
            if corim.namespace != namespace:
                raise Refused(Reason("forbidden", "corim.namespace", namespace, corim.namespace))
        rows = tuple(ReferenceRow(digest, namespace, c.environment, c.id, signed, 1, now) for digest, (c, signed) in sorted(corims.items()))
        # 3
        for _ in range(ATTEMPTS):
            tables = self._ledger.read()
            before = space(tables, namespace).references_digest
            active = tables.select(ReferenceRow, namespace=namespace, active=1)
            environments = {row.environment for row in rows} if replace else set()
            retired = tuple(r.digest for r in active if r.environment in environments and r.digest not in corims)
            kept = [parse_signed_corim(r.signed).corim for r in active if r.digest not in retired]
            digest = reference_set([*kept, *(corim for corim, _ in corims.values())]).digest
            entry = self._log.entry(operator, "reference-import", ", ".join(corims)[:1024], namespace=namespace, at=now, detail=digest)
            blobs = tuple(encode_corim(corim) for corim, _ in corims.values())
            try:
                self._ledger.commit(ReferencesImported(entry, rows, retired, before, digest.value, blobs))
            except Void:
                continue
            return rows
        raise Unavailable("references", f"the set of {namespace} moved {ATTEMPTS} times")

    def active(self, namespace: str) -> tuple[ReferenceRow, ...]:
        """What is in force."""
        return tuple(self._ledger.read().select(ReferenceRow, namespace=namespace, active=1))

    def get(self, namespace: str, digest: str) -> ReferenceRow:
        """One CoRIM of the namespace, in force or not. Raises Refused `not-found`."""
        row = self._ledger.read().get(ReferenceRow, digest)
        if row is None or row.namespace != namespace:
            raise Refused(Reason("not-found", "reference", f"reference values of {namespace}", digest[:80]))
        return row

    def _signed(self, item: bytes, publisher: PublicKey | None) -> tuple[Corim, bytes]:
        if not item.startswith(b"\xd2"):
            corim = parse_corim(item)
            return corim, sign_corim(corim, self._keys.decision, signer_name=SIGNER_NAME)
        signed = parse_signed_corim(item)
        believed = [self._keys.decision.public, *([] if publisher is None else [publisher])]
        if not any(verify_sign1(signed.sign1, key) for key in believed):
            raise Refused(
                Reason("signature-invalid", "corim", "a signature by the publisher's key that was given, or by this verifier", "another")
            )
        return signed.corim, item


def digest_of(corim: Corim) -> str:
    """The name of a CoRIM: the digest of its unsigned form."""
    return str(Digest.of(encode_corim(corim)))


def captured(measurement: Measurement) -> Corim:
    """The CoRIM that approves exactly this measurement of an agent."""
    agent = str(measurement.agent)
    return Corim(
        f"{measurement.agent.name}-{measurement.root().hex()[:16]}",
        measurement.agent.namespace,
        agent,
        tuple(sorted(measured_values(measurement).items())),
    )


def captured_governance(namespace: str, governance: Iterable[tuple[str, Digest]]) -> Corim:
    """The CoRIM that approves exactly these governance components."""
    components = tuple(sorted(governance))
    if not components:
        raise FormatError("governance", "at least one component", "none")
    named = Digest.of(b"".join(name.encode() + digest.value for name, digest in components)).hex()[:16]
    return Corim(f"{GOVERNANCE}-{named}", namespace, GOVERNANCE, components)

"""Rotation of the token key: a new one signs from now on, the former one is shown until its last token has died."""

from __future__ import annotations

from verifier.access import WHOLE_DOMAIN, Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import KeyRotated, Ledger
from verifier.ledger.schema import KeyRow
from writ.formats.digest import Digest
from writ.formats.keys import key_id
from writ.service.clock import Clock


class Rotation:
    """Rotates the token key. The decision key does not rotate: hosts pin it at enrolment."""

    def __init__(self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock

    def rotate(self, operator: Operator) -> KeyRow:
        """Another token key is current. Raises Void where someone else rotated at the same moment."""
        now = self._clock.now()
        former = next((row for row in self._ledger.read().select(KeyRow) if row.retired_at is None), None)
        public = self._keys.make()
        row = KeyRow(key_id(public), public.to_spki(), now, None)
        entry = self._log.entry(operator, "key-rotate", row.kid, namespace=WHOLE_DOMAIN, at=now, detail=Digest.of(row.public))
        self._ledger.commit(KeyRotated(entry, row, former))
        return row

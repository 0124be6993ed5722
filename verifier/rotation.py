"""Rotation of the keys of tokens: a new one signs from now on, or (of exchange tokens) once it was shown for long enough. The former one is
shown until its last token has died."""

from __future__ import annotations

from typing import Final

from verifier.access import WHOLE_DOMAIN, Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import KeyRotated, Ledger
from verifier.ledger.schema import ExchangeKeyRow, KeyRow
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.keys import key_id
from writ.formats.reason import Reason
from writ.service.clock import Clock

MAX_SHOWN: Final = 8
"""Token keys shown at once; an answer to a host carries them all."""


class Rotation:
    """Rotates the token key. The decision key does not rotate: hosts pin it at enrolment."""

    def __init__(self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock

    def rotate(self, operator: Operator) -> KeyRow:
        """Another token key is current.

        Raises Void where someone else rotated at the same moment, Refused where `MAX_SHOWN` keys may still have live tokens.
        """
        now = self._clock.now()
        if (shown := len(self._keys.token_keys(now))) >= MAX_SHOWN:
            raise Refused(Reason("too-many-requests", "token_keys", f"fewer than {MAX_SHOWN} with live tokens", str(shown)))
        former = next((row for row in self._ledger.read().select(KeyRow) if row.retired_at is None), None)
        public = self._keys.make()
        row = KeyRow(key_id(public), public.to_spki(), now, None)
        entry = self._log.entry(operator, "key-rotate", row.kid, namespace=WHOLE_DOMAIN, at=now, detail=Digest.of(row.public))
        self._ledger.commit(KeyRotated(entry, row, former))
        return row

    def rotate_exchange(self, operator: Operator) -> ExchangeKeyRow:
        """Another key of exchange tokens is shown, and signs in `keys.AHEAD` seconds; the first one signs at once. Raises as `rotate`."""
        now = self._clock.now()
        if (shown := len(self._keys.exchange_keys(now))) >= MAX_SHOWN:
            raise Refused(Reason("too-many-requests", "exchange_keys", f"fewer than {MAX_SHOWN} shown", str(shown)))
        former = next((row for row in self._ledger.read().select(ExchangeKeyRow) if row.retired_at is None), None)
        public = self._keys.make_exchange()
        row = ExchangeKeyRow(key_id(public), public.to_spki(), now, None)
        entry = self._log.entry(operator, "exchange-key-rotate", row.kid, namespace=WHOLE_DOMAIN, at=now, detail=Digest.of(row.public))
        self._ledger.commit(KeyRotated(entry, row, former))
        return row

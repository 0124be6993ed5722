"""What decisions of a namespace rest on: held for a court, or erased. Each is an act of an operator, in the log before it is done."""

from __future__ import annotations

from verifier.access import Operator, OperatorLog
from verifier.ledger import ContentErased, ContentHeld, Ledger
from verifier.ledger.blobs import BlobKeys
from writ.formats.digest import Digest
from writ.service.clock import Clock


class Contents:
    """Holds and erases the blobs of namespaces."""

    def __init__(self, ledger: Ledger, log: OperatorLog, clock: Clock, keys: BlobKeys) -> None:
        self._ledger, self._log, self._clock, self._keys = ledger, log, clock, keys

    def hold(self, operator: Operator, namespace: str, why: str, *, held: bool) -> None:
        """A legal hold is on the namespace, or lifted. Raises Refused `conflict` where it was already."""
        act = "content-hold" if held else "content-lift"
        entry = self._log.entry(operator, act, namespace, namespace=namespace, at=self._clock.now(), detail=Digest.of(why.encode()))
        self._ledger.commit(ContentHeld(entry, held, why.encode()))

    def erase(self, operator: Operator, namespace: str, why: str) -> bool:
        """Evidence, results and states of its hosts are unreadable for ever, and every proof holds. False where none were sealed.

        1. That it is to be is in the log; a legal hold refuses (`held`).
        2. The key is destroyed. Where that fails, it is asked for again.
        """
        # 1
        detail = Digest.of(why.encode())
        entry = self._log.entry(operator, "content-erase", namespace, namespace=namespace, at=self._clock.now(), detail=detail)
        self._ledger.commit(ContentErased(entry, why.encode()))
        # 2
        return self._keys.erase(namespace)

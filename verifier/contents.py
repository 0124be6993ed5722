"""What decisions of a namespace rest on: held for a court, or erased. Each is an act of an operator, in the log before it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from verifier.access import Operator, OperatorLog
from verifier.ledger import ContentErased, ContentHeld, Entry, Ledger
from writ.formats.digest import Digest
from writ.formats.record import preimage_of
from writ.service.clock import Clock

SALT: Final = 32


class Contents:
    """Holds and erases the blobs of namespaces."""

    def __init__(self, ledger: Ledger, log: OperatorLog, clock: Clock, random: Callable[[int], bytes]) -> None:
        self._ledger, self._log, self._clock, self._random = ledger, log, clock, random

    def hold(self, operator: Operator, namespace: str, why: str, *, held: bool) -> None:
        """A legal hold is on the namespace, or lifted. Raises Refused `conflict` where it was already."""
        entry, said = self._entry(operator, "content-hold" if held else "content-lift", namespace, why)
        self._ledger.commit(ContentHeld(entry, held, said))

    def erase(self, operator: Operator, namespace: str, why: str) -> bool:
        """Evidence, results and states of its hosts are unreadable for ever, and every proof holds. False where none were sealed.

        That it is to be is in the log first; a legal hold refuses (`held`). Then the writer of the ledger destroys the key, before it
        commits anything else: what comes after, and a hold too, finds it gone. Where that fails (Unavailable), it is asked for again.
        """
        entry, said = self._entry(operator, "content-erase", namespace, why)
        return self._ledger.commit(ContentErased(entry, said)).erased

    def _entry(self, operator: Operator, act: str, namespace: str, why: str) -> tuple[Entry, tuple[bytes, bytes]]:
        """The entry, which commits to the reason, and what it is opened by: reasons can be guessed, and the log is public."""
        text = why.encode()
        opened = preimage_of(self._random(SALT), text)
        entry = self._log.entry(operator, act, namespace, namespace=namespace, at=self._clock.now(), detail=Digest.of(opened))
        return entry, (opened, text)

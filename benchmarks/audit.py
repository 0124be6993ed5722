"""What an auditor asks of a month of one host: every action record held against the verifier's log, from files to verdict."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import cbor2

from auditor.__main__ import main
from benchmarks.measure import Case
from tests.auditor.story import Site, leave
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.record import ActionDraft, OutcomeDraft

ACTIONS = 100_000
RENEWALS = 20


def action_logs(place: Path, actions: int = ACTIONS) -> Iterator[Case]:
    """`auditor log verify --actions` over so many actions, each with its outcome; beside it, decoding and hashing the same leaves."""
    site, policy = Site(), Site().scene.bundle.digest
    one = site.scene.launch("one")
    one.leaves.append(one.opening)
    for at in range(RENEWALS + 1):
        site.renew("one")
        token = Digest.of(site.tokens[-1].encode())
        for _ in range(actions // RENEWALS if at < RENEWALS else 0):
            number = len(one.leaves)
            salted = hashlib.sha256(str(number).encode()).digest()
            action = Action("tool.call", f"files/{number}", Digest("sha256", salted))
            draft = ActionDraft(site.scene.now, action, token, policy, b"", (), None, "socket")
            one.leaves.append(draft.leaf(number, 0, salted, salted))
            one.leaves.append(OutcomeDraft(site.scene.now, number, done=True).leaf(number + 1, 6, salted))
    arguments, leaves = leave(site, place), one.leaves

    def verified() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(arguments) == 0

    def bare() -> None:
        for leaf in leaves:
            cbor2.loads(leaf)
            hashlib.sha256(b"\x00" + leaf).digest()

    yield Case(f"{actions:,} actions with outcomes against the log", "cbor2 and hashlib alone", verified, bare, actions, "action")

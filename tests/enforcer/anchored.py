"""An enforcer's action log, anchored in a software TPM by a real attestor and carried to a real verifier; and root, who cuts it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attestor.agentd import AgentDaemon
from enforcer.anchors import Anchors
from enforcer.bundles import HeldBundles
from enforcer.credential import Subject
from enforcer.places import HeldPlaces
from enforcer.record import LOG_FILE, ActionLog
from enforcer.relay import Relay
from enforcer.renewal import Granted, Renewal, Verdict
from tests.attestor.site import NAMESPACE, Host, VerifierSite
from tests.enforcer.test_record import action
from tests.signers import new_signer
from tests.world.attestor import ENGINE
from verifier.ledger.schema import EntryRow
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, parse_entry
from writ.formats.local import Launch, Launched
from writ.formats.spiffe import AgentId
from writ.formats.tlog import merkle
from writ.service.clock import SystemClock
from writ.verdict.carried import Carried, CarriedLogs, carriage_of


@contextmanager
def serving(host: Host, daemon: AgentDaemon | None = None) -> Iterator[None]:
    """The host's attestor answers on its socket, from another thread."""
    ready, stop, faults = threading.Event(), asyncio.Event(), list[BaseException]()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with host.running(daemon):
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            faults.append(error)
            ready.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        if faults:
            raise faults[0]
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


class Anchored:
    """One instance on `host`, launched and approved, with a log of its own; its attestor must be serving."""

    def __init__(self, folder: Path, site: VerifierSite, host: Host) -> None:
        folder.mkdir(parents=True)
        self.folder, self.site, self.host = folder, site, host
        self.relay, self.key = Relay(str(host.socket)), new_signer()
        launched = self.relay.ask(Launch("reporter", (), self.key.public, None))
        assert isinstance(launched, Launched), launched
        site.approve(launched)
        self.instance, self.agent = launched.instance, AgentId("example.org", NAMESPACE, "reporter")
        self.subject = Subject(launched.instance, self.agent, self.key.public, launched.audience, launched.grants, None)
        self.open()

    def open(self, carried: int = 0) -> None:
        """The holder's code begins, or another takes over: of what was anchored it knows nothing."""
        clock = SystemClock()
        self.log = ActionLog(self.folder, self.instance, self.agent, ENGINE, clock.now())
        trust, bundles = self.site.built.parts.anchors.current(), HeldBundles(self.folder / "policies")
        self.renewal = Renewal(
            self.subject, self.relay, self.log, trust, bundles, HeldPlaces(self.folder / "verifier"), self.folder, clock, carried
        )
        self.anchors = Anchors(0, self.instance, self.renewal, self.relay, clock)

    def act(self, count: int, content: bytes = b"") -> None:
        """So many actions are recorded, durably."""
        for _ in range(count):
            self.log.append(action(), content)

    def anchor(self) -> None:
        """The log as it is, in the register."""
        assert self.anchors.anchor()

    def renewed(self) -> bool:
        """Whether the next token came."""
        return isinstance(self.renewal.ask(), Granted)

    def refused(self) -> tuple[type[Verdict], set[str]]:
        """What came instead of the next token: of what kind, and by which codes."""
        verdict = self.renewal.ask()
        assert not isinstance(verdict, Granted)
        return type(verdict), {reason.code for reason in verdict.reasons}

    def cut(self, size: int) -> None:
        """Root drops what is behind `size` from the file, with everything in it as if that had never been; other code takes over."""
        carried = self.renewal.carried
        self.log.close()
        with sqlite3.connect(self.folder / LOG_FILE) as db:
            db.execute("DELETE FROM records WHERE sequence >= ?", (size,))
            db.execute("DELETE FROM commits WHERE size > ?", (size,))
            leaves = [leaf for (leaf,) in db.execute("SELECT leaf FROM records ORDER BY sequence")]
            root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
            db.execute("INSERT OR REPLACE INTO commits VALUES (?, ?)", (size, root))
        db.close()
        self.open(carried)

    def logged(self) -> Carried:
        """What the verifier's log says of this instance."""
        logs = CarriedLogs((self.instance,))
        for decision in self.decisions():
            logs.take(carriage_of(decision))
        return logs.of[self.instance]

    def decisions(self) -> list[AttestDecision]:
        """The verifier's decisions on attestations, from its log."""
        rows = sorted(self.site.built.ledger.read().select(EntryRow), key=lambda row: row.sequence)
        entries = [parse_entry(parse_sign1(row.entry, what="entry").payload or b"") for row in rows]
        return [entry for entry in entries if isinstance(entry, AttestDecision)]

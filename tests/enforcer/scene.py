"""One instance asked for in memory: an attestor, a session key, clocks moved by hand, and a token as often as wanted."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from enforcer.approvals import Approvals
from enforcer.bundles import HeldBundles
from enforcer.credential import Credential, Held, Subject, accept
from enforcer.gatekeeper import Gatekeeper
from enforcer.record import ActionLog
from enforcer.shadow import Shadow
from tests.signers import new_signer
from tests.world.attestor import AUDIENCE, ENGINE, Attestor, KnownAgent
from tests.world.clock import HandClock
from writ.formats.grants import grant_set
from writ.formats.local import Launch, Launched, TokenAsk, TokenGiven
from writ.formats.spiffe import AgentId
from writ.formats.tlog.merkle import EMPTY_ROOT


class Scene:
    """One instance, launched, without a token yet."""

    def __init__(self, folder: Path, *connects: str, more: tuple[tuple[str, str], ...] = ()) -> None:
        """The agent may connect to `connects` too, and has the grants `more`."""
        self.folder = folder
        known = KnownAgent(folder, ("/bin/true",))
        grants = grant_set([*known.grants, *(("net.connect", resource) for resource in connects), *more])
        self.attestor = Attestor(folder / "unused.sock", {"a": replace(known, grants=grants)})
        self.key = new_signer()
        launched = self.attestor.answer(Launch("a", (), self.key.public, None))
        assert isinstance(launched, Launched)
        self.instance = launched.instance
        self.agent = AgentId("example.org", "test", "a")
        self.subject = Subject(launched.instance, self.agent, self.key.public, AUDIENCE, launched.grants, None)
        self.ask = TokenAsk(launched.instance, self.key.public, AUDIENCE, launched.grants, 0, EMPTY_ROOT, 0, ())
        self.bundles, self.clock = HeldBundles(folder / "policies"), HandClock(int(time.time()))
        self.credential = Credential(self.clock)

    def give(self, **changed: object) -> TokenGiven:
        """A signed answer, issued now."""
        return self.attestor.give(self.ask, now=self.clock.wall, **changed)

    def accept(self, given: TokenGiven) -> Held:
        """What the holder makes of it."""
        return accept(given, self.subject, self.attestor.trust(), self.bundles, wall=self.clock.wall, boot=self.clock.since_boot)

    def renew(self) -> Held:
        """A new token, in force."""
        held = self.accept(self.give())
        self.credential.take(held)
        return held

    def log(self, folder: Path, kind: type[ActionLog] = ActionLog, keys: Path | None = None) -> ActionLog:
        """The action log of the instance, in `folder`, and the namespaces' keys in `keys`."""
        return kind(folder, self.instance, self.agent, ENGINE, self.clock.wall, keys)

    def gatekeeper(self, log: ActionLog, shadow: Shadow | None = None, approvals: Approvals | None = None) -> Gatekeeper:
        """The gatekeeper of the instance, recording in `log`, with `shadow` beside it."""
        return Gatekeeper(credential=self.credential, log=log, clock=self.clock, shadow=shadow, approvals=approvals)

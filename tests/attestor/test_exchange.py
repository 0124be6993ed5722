"""Exchange tokens along the whole way: a holder's question, the attestor's socket, a real verifier, and a TPM that quoted before."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from attestor import agentd
from attestor.exchange import ask
from enforcer.bundles import HeldBundles
from enforcer.credential import Held, Subject, accept
from enforcer.leases import with_lease
from enforcer.relay import Relay
from enforcer.secrets.bearer import Bearers
from tests.attestor.site import Host, VerifierSite, token_ask
from tests.signers import MemorySigner, new_signer
from tests.world.federation import JwtMethod, NotTaken, discovered
from verifier.ledger.schema import EntryRow
from writ.formats.errors import Unavailable
from writ.formats.exchange import ExchangeAnswer
from writ.formats.local import Done, Launch, Launched, Stop, TokenGiven
from writ.formats.spiffe import AgentId
from writ.formats.trust import Trust
from writ.service.clock import SystemClock

VAULT = "https://vault.example.org"
PERMIT = f'@id("vault") permit (principal, action == Writ::Action::"token.exchange", resource == Writ::Audience::"{VAULT}");'
AGENT = "spiffe://example.org/demo/agent/keeper"


class Holder:
    """Who launched one instance of `keeper`, which may have tokens for the vault, and holds its session key."""

    def __init__(self, site: VerifierSite, host: Host) -> None:
        self.site, self.host, self.key = site, host, new_signer()
        host.agent("keeper", more=f', ["token.exchange", "{VAULT}"]')

    async def start(self) -> None:
        """Launched, approved, with a token that was verified link by link."""
        host, key = self.host, self.key
        self.launched = await host.ask(Launch("keeper", (), key.public, None), Launched)
        self.site.approve(self.launched)
        self.held = await self.renew()

    async def renew(self, parent: bytes | None = None) -> Held:
        """A new token, with a lease where it takes one."""
        launched = self.launched
        given = await self.host.ask(token_ask(launched, self.key.public), TokenGiven)
        subject = Subject(launched.instance, AgentId.parse(AGENT), self.key.public, launched.audience, launched.grants, parent)
        clock = SystemClock()
        bundles = HeldBundles(self.host.directory / "policies")
        held = accept(given, subject, self.trust, bundles, wall=clock.now(), boot=clock.boot())
        return await asyncio.to_thread(with_lease, held, Relay(str(self.host.socket)), clock)

    @property
    def trust(self) -> Trust:
        """What an operator of the enforcer would pin."""
        assert self.host.enrolment is not None
        return Trust("example.org", self.site.url, (), (), (self.host.enrolment.decision_key,))

    def bearers(self, key: MemorySigner | None = None) -> Bearers:
        """The exchange tokens of a holder that just started."""
        return Bearers(key or self.key, self.trust, Relay(str(self.host.socket)).ask, SystemClock())

    async def token(self, *, key: MemorySigner | None = None, held: Held | None = None) -> str:
        """An exchange token for the vault, asked for now."""
        return (await asyncio.to_thread(self.bearers(key).token, VAULT, held or self.held))[0]

    @property
    def decided(self) -> list[EntryRow]:
        """What the verifier decided about exchanges."""
        return self.site.built.parts.ledger.read().select(EntryRow, kind="exchange")

    async def refused(self, *, key: MemorySigner | None = None, held: Held | None = None) -> str:
        """Why there is none."""
        with pytest.raises(Unavailable) as caught:
            await self.token(key=key, held=held)
        return caught.value.detail.removeprefix("refused: ")

    @property
    def vault(self) -> JwtMethod:
        """Somebody who finds the verifier's keys by discovery."""
        return JwtMethod(discovered(self.site.url, None), self.site.url, (VAULT,), lambda: int(time.time()), bound_subject=AGENT)


def told(story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await story()

    asyncio.run(run())


@pytest.fixture
def holder(site: VerifierSite, enrolled: Host) -> Holder:
    site.publish_policy(PERMIT)
    return Holder(site, enrolled)


def test_holder_gets_a_token_that_a_vault_takes(holder: Holder) -> None:
    async def story() -> None:
        async with holder.host.running():
            await holder.start()
            token = await holder.token()
            assert await asyncio.to_thread(holder.vault.login, token) == AGENT
            with pytest.raises(NotTaken, match="alg"):
                await asyncio.to_thread(holder.vault.login, holder.held.compact)
            assert await holder.refused(key=new_signer()) == "proof-invalid"

    told(story)


def test_stop_ends_it_before_the_verifier_knows_and_it_is_not_even_asked(holder: Holder) -> None:
    async def story() -> None:
        async with holder.host.running():
            await holder.start()
            assert await holder.token()
            await holder.host.ask(Stop(holder.launched.instance, "exited"), Done)
            before = len(holder.decided)
            assert await holder.refused() == "instance-stopped"
            assert len(holder.decided) == before == 1

    told(story)


def test_token_that_comes_after_a_stop_is_not_passed_on(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(*question: Any) -> ExchangeAnswer:
        answer: ExchangeAnswer = ask(*question)
        asked.set()
        go.wait(10)
        return answer

    monkeypatch.setattr(agentd, "ask_verifier", slow)

    async def story() -> None:
        async with holder.host.running():
            await holder.start()
            waiting = asyncio.create_task(holder.refused())
            await asyncio.to_thread(asked.wait, 10)
            await holder.host.ask(Stop(holder.launched.instance, "exited"), Done)
            go.set()
            assert await waiting == "instance-stopped"
            assert len(holder.decided) == 1

    told(story)


def test_verifier_that_is_away_gives_none_and_refuses_nothing(holder: Holder) -> None:
    async def story() -> None:
        async with holder.host.running():
            await holder.start()
            bearers = holder.bearers()
            holder.site.stop()
            with pytest.raises(Unavailable) as caught:
                await asyncio.to_thread(bearers.token, VAULT, holder.held)
            assert caught.value.what == "attestor", "not refused: nobody answered"
            holder.site.start()
            assert await asyncio.to_thread(bearers.token, VAULT, holder.held)

    told(story)


def test_in_hardware_mode_it_takes_a_lease_of_the_tpm(holder: Holder) -> None:
    holder.site.publish_policy(PERMIT, hardware=True)

    async def story() -> None:
        async with holder.host.running():
            await holder.start()
            assert holder.held.lease is not None
            assert await holder.token()
            assert await holder.refused(held=replace(holder.held, lease=None)) == "lease-missing"
            other = replace(holder.held.lease, data=holder.held.lease.data[:-1] + bytes([holder.held.lease.data[-1] ^ 1]))
            assert await holder.refused(held=replace(holder.held, lease=other)) == "lease-invalid"

    told(story)

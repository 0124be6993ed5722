"""With a TPM as slow as a real chip: one quote serves all, and nobody of a burst of launches waits for a third (I11)."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from attestor.esapi import EsapiTpm
from attestor.tpm import Quoted
from swtpm import Delays
from tests.attestor.site import VerifierSite, exchange, host_with, launch, receive, token_ask
from tests.conftest import SoftTpmFactory
from writ.formats.evidence import parse_evidence
from writ.formats.keys import PublicKey
from writ.formats.local import Done, Drift, Launched, Refusal, Stop, TokenGiven, Watch
from writ.service.peers import Connection

AGENTS = 10
INSTANCES = 50
BURST = 20
RELEASES = 200


class NumberedTpm(EsapiTpm):
    """The TPM, which knows how many quotes were begun, and of each that was made which one it was."""

    def __init__(self, inner: EsapiTpm) -> None:
        self.__dict__.update(inner.__dict__)
        self.begun = 0
        self.numbers: dict[bytes, int] = {}

    def quote(self, extra_data: bytes, bank: str) -> Quoted:
        self.begun += 1
        number = self.begun
        quoted = super().quote(extra_data, bank)
        self.numbers[quoted.attest] = number
        return quoted


def test_burst_of_launches_beside_fifty_instances_waits_for_two_quotes_at_most(
    site: VerifierSite, soft_tpm_factory: SoftTpmFactory, tmp_path: Path
) -> None:
    """The quote under way when it asks cannot be an instance's own; the next may have begun before its question was read."""
    tpm = soft_tpm_factory(delays=Delays())
    site.trust(tpm)
    with host_with(tmp_path / "host", tpm) as host:
        host.enrol(site)
        for number in range(AGENTS):
            host.agent(f"agent-{number}", prompt=f"prompt {number}")
        slow = NumberedTpm(host.tpm)

        async def ask(line: Connection, launched: Launched, key: PublicKey) -> int:
            """A token; which of the quotes begun since it was asked for answered."""
            before = slow.begun
            given = await exchange(line, token_ask(launched, key), TokenGiven)
            return slow.numbers[parse_evidence(given.evidence).attest] - before

        async def one(number: int) -> tuple[Launched, PublicKey, int]:
            async with host.line() as line:
                message, key = launch(f"agent-{number % AGENTS}")
                launched = await exchange(line, message, Launched)
                return launched, key, await ask(line, launched, key)

        async def renew(launched: Launched, key: PublicKey, over: asyncio.Event) -> list[int]:
            """Renew once a second, as 50 instances at half-life of short tokens would."""
            waited = []
            while not over.is_set():
                async with host.line() as line:
                    waited.append(await ask(line, launched, key))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 1)
            return waited

        async def story() -> None:
            async with host.running(host.daemon(slow)):
                for number in range(AGENTS):
                    message, _ = launch(f"agent-{number}")
                    site.approve(await host.ask(message, Launched))
                running = [(await one(number))[:2] for number in range(4)]
                running += [found[:2] for found in await asyncio.gather(*(one(number) for number in range(INSTANCES - 4)))]
                over, before = asyncio.Event(), slow.begun
                renewals = [asyncio.create_task(renew(*instance, over)) for instance in running]
                waited = [found[2] for found in await asyncio.gather(*(one(number) for number in range(BURST)))]
                assert slow.begun - before < BURST, "one quote serves many"
                over.set()
                renewed = await asyncio.gather(*renewals)
                assert all(renewed)
                assert {*waited, *(number for numbers in renewed for number in numbers)} <= {1, 2}

        asyncio.run(story())


def test_two_hundred_prompt_releases_and_a_drift_cost_no_other_instance_its_token(
    site: VerifierSite, soft_tpm_factory: SoftTpmFactory, tmp_path: Path
) -> None:
    tpm = soft_tpm_factory()
    site.trust(tpm)
    with host_with(tmp_path / "host", tpm) as host:
        host.enrol(site)
        host.agent("steady", prompt="steady")
        host.agent("drifting", prompt="drifting")

        async def story() -> None:
            async with host.running(), host.line() as watch:
                await exchange(watch, Watch(), Done)
                keys = [launch(agent) for agent in ("steady", "drifting")]
                steady, drifting = [await host.ask(message, Launched) for message, _ in keys]
                site.approve(steady, drifting)
                for number in range(RELEASES):
                    host.agent("released", prompt=f"release {number}")
                    message, key = launch("released")
                    release = await host.ask(message, Launched)
                    if number == RELEASES // 2:
                        prompt = Path(drifting.root) / "prompt/prompt.txt"
                        prompt.chmod(0o644)
                        prompt.write_bytes(b"evil")
                        assert (await receive(watch, Drift)).instance == drifting.instance
                    if number % 20 == 0:
                        site.approve(release)
                        await host.ask(token_ask(release, key), TokenGiven)
                        await host.ask(token_ask(steady, keys[0][1]), TokenGiven)
                    await host.ask(Stop(release.instance, "exited"), Done)
                await host.ask(token_ask(steady, keys[0][1]), TokenGiven)
                await host.ask(token_ask(drifting, keys[1][1]), Refusal)

        asyncio.run(story())

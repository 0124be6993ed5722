"""With a TPM as slow as a real chip: one quote serves all, and a burst of launches is served in time (I11)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from swtpm import Delays
from tests.attestor.site import VerifierSite, exchange, host_with, launch, receive, token_ask
from tests.conftest import SoftTpmFactory
from writ.formats.keys import PublicKey
from writ.formats.local import Done, Drift, Launched, Refusal, Stop, TokenGiven, Watch

AGENTS = 10
INSTANCES = 50
BURST = 20
RELEASES = 200
LIMIT = 3.0
"""Seconds from launch to token, for 99 of 100."""


def test_burst_of_launches_beside_fifty_instances_has_its_tokens_in_time(
    site: VerifierSite, soft_tpm_factory: SoftTpmFactory, tmp_path: Path
) -> None:
    tpm = soft_tpm_factory(delays=Delays())
    site.trust(tpm)
    with host_with(tmp_path / "host", tpm) as host:
        host.enrol(site)
        for number in range(AGENTS):
            host.agent(f"agent-{number}", prompt=f"prompt {number}")

        async def one(number: int) -> tuple[Launched, PublicKey, float]:
            began = time.monotonic()
            async with host.line() as line:
                message, key = launch(f"agent-{number % AGENTS}")
                launched = await exchange(line, message, Launched)
                await exchange(line, token_ask(launched, key), TokenGiven)
            return launched, key, time.monotonic() - began

        async def renew(launched: Launched, key: PublicKey, seconds: float) -> int:
            """Renew once a second, as 50 instances at half-life of short tokens would; how many renewals succeeded."""
            deadline, done = time.monotonic() + seconds, 0
            while time.monotonic() < deadline:
                await host.ask(token_ask(launched, key), TokenGiven)
                done += 1
                await asyncio.sleep(1)
            return done

        async def story() -> list[float]:
            async with host.running():
                for number in range(AGENTS):
                    message, _ = launch(f"agent-{number}")
                    site.approve(await host.ask(message, Launched))
                running = [(await one(number))[:2] for number in range(4)]
                running += [found[:2] for found in await asyncio.gather(*(one(number) for number in range(INSTANCES - 4)))]
                renewals = [asyncio.create_task(renew(*instance, 2.5)) for instance in running]
                await asyncio.sleep(0.5)
                took = [found[2] for found in await asyncio.gather(*(one(number) for number in range(BURST)))]
                assert min(await asyncio.gather(*renewals)) >= 1
                return sorted(took)

        took = asyncio.run(story())
        assert took[-1] < LIMIT, took


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

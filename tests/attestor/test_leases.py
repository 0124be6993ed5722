"""Hardware mode through the attestor's daemon: a real verifier, a software TPM, one byte of drift."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from tests.attestor.site import Host, VerifierSite, launch, token_ask
from tests.writ.verdict.refusal import refused
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.keys import PublicKey, key_id
from writ.formats.lease import parse_lease
from writ.formats.local import LOCAL, Done, Launched, LeaseAsk, LeaseGiven, Refusal, Stop, TokenGiven
from writ.verdict.token import VerifiedToken, verify_lease, verify_token

Started = tuple[Launched, PublicKey]


@pytest.fixture
def hardware(site: VerifierSite) -> VerifierSite:
    """The site, with a policy of hardware mode."""
    site.publish_policy(hardware=True)
    return site


def told(story: Callable[[], Awaitable[None]]) -> None:
    """The story came to its end."""

    async def run() -> None:
        await story()

    asyncio.run(run())


async def start(host: Host, agent: str = "reporter") -> Started:
    """A launch that succeeds, and the instance's session key."""
    message, key = launch(agent)
    return await host.ask(message, Launched), key


async def token_of(host: Host, site: VerifierSite, started: Started) -> VerifiedToken:
    """The instance's next token, verified."""
    given = await host.ask(token_ask(*started), TokenGiven)
    keys = {key_id(key): key for key in given.token_keys}
    return verify_token(
        parse_token(given.token), keys=keys, issuer=site.url, audience="tools", now=int(time.time()), revocation=None
    )  # fmt: skip


async def lease_of(host: Host, started: Started, token: VerifiedToken) -> int:
    """Until when the token is alive, by a lease that the TPM makes now."""
    given = await host.ask(LeaseAsk(started[0].instance), LeaseGiven)
    verified = verify_lease(parse_lease(given.lease), token, now=int(time.time()))
    assert verified is not None
    return verified.alive_until


async def refused_lease(host: Host, started: Started) -> str:
    """Why there is no lease."""
    answer = await host.ask(LeaseAsk(started[0].instance), Refusal)
    return answer.reasons[0].code


def test_each_token_is_bound_to_a_key_in_the_tpm_and_lives_by_its_leases(hardware: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            one = await start(enrolled)
            hardware.approve(one[0])
            token = await token_of(enrolled, hardware, one)
            assert token.claims.lease is not None
            until = await lease_of(enrolled, one, token)
            assert time.time() + 5 < until <= time.time() + token.claims.lease.life + 5
            assert refused(partial(verify_lease, None, token, now=int(time.time()))).code == "lease-missing"

    told(story)


def test_a_byte_of_drift_ends_the_leases_of_its_instance_and_of_no_other(hardware: VerifierSite, enrolled: Host) -> None:
    """I11: the register is one for the host, so a neighbour's approval is stale too, and its next token brings another."""

    async def story() -> None:
        enrolled.agent("writer", prompt="be brief")
        async with enrolled.running():
            one, other = await start(enrolled), await start(enrolled, "writer")
            hardware.approve(one[0], other[0])
            tokens = await asyncio.gather(*(token_of(enrolled, hardware, each) for each in (one, other)))
            alive = await lease_of(enrolled, other, tokens[1])
            await lease_of(enrolled, one, tokens[0])

            prompt = Path(one[0].root) / "prompt" / "prompt.txt"
            prompt.chmod(0o644)
            prompt.write_bytes(b"be bad!")
            deadline = time.monotonic() + 10
            while await _reasons(enrolled, one) != "instance-drifted":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            # the TPM itself refuses either approval, and whoever asked for the drifted one does not get to it
            assert await refused_lease(enrolled, other) == "lease-refused"
            assert time.time() < alive, "the neighbour's lease outlives the gap"
            # either is rounded down to a second, from the `iat` of another token
            assert await lease_of(enrolled, other, await token_of(enrolled, hardware, other)) >= alive - 1
            answer = await enrolled.ask(token_ask(*one), Refusal)
            assert "instance-drifted" in {reason.code for reason in answer.reasons}

    told(story)


async def _reasons(host: Host, started: Started) -> str:
    async with host.line() as line:
        await line.send(LOCAL.encode(LeaseAsk(started[0].instance)))
        message = LOCAL.parse(await line.receive(5) or b"")
    return message.reasons[0].code if isinstance(message, Refusal) else "alive"


def test_a_tampered_attestor_that_says_nothing_gets_no_lease_either(hardware: VerifierSite, enrolled: Host) -> None:
    """The register has moved: no daemon's word is asked for."""

    async def story() -> None:
        daemon = enrolled.daemon()
        async with enrolled.running(daemon):
            one = await start(enrolled)
            hardware.approve(one[0])
            await lease_of(enrolled, one, await token_of(enrolled, hardware, one))
            enrolled.tpm.extend(13, (Digest.of(b"drift"), Digest.of(b"drift", "sha384")))
            assert await refused_lease(enrolled, one) == "lease-refused"

    told(story)


def test_a_launch_costs_a_neighbour_one_token_and_no_lease(hardware: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            one = await start(enrolled)
            hardware.approve(one[0])
            alive = await lease_of(enrolled, one, await token_of(enrolled, hardware, one))
            two = await start(enrolled)
            assert await refused_lease(enrolled, one) == "lease-refused"
            tokens = await asyncio.gather(*(token_of(enrolled, hardware, each) for each in (one, two)))
            assert time.time() < alive
            for started, token in zip((one, two), tokens, strict=True):
                await lease_of(enrolled, started, token)

    told(story)


def test_a_stopped_instance_gets_no_lease_and_one_without_a_token_neither(hardware: VerifierSite, enrolled: Host) -> None:
    async def story() -> None:
        async with enrolled.running():
            one = await start(enrolled)
            hardware.approve(one[0])
            assert await refused_lease(enrolled, one) == "lease-key-missing"
            await token_of(enrolled, hardware, one)
            await enrolled.ask(Stop(one[0].instance, "exited"), Done)
            assert await refused_lease(enrolled, one) == "instance-stopped"

    told(story)


def test_policy_without_hardware_mode_asks_for_no_lease_and_one_with_it_begins_at_the_next_token(
    site: VerifierSite, enrolled: Host
) -> None:
    async def story() -> None:
        async with enrolled.running():
            one = await start(enrolled)
            site.approve(one[0])
            token = await token_of(enrolled, site, one)
            assert token.claims.lease is None
            assert verify_lease(None, token, now=int(time.time())) is None
            assert await refused_lease(enrolled, one) == "lease-key-missing"
            site.publish_policy(hardware=True)
            await lease_of(enrolled, one, await token_of(enrolled, site, one))
            site.publish_policy()
            assert (await token_of(enrolled, site, one)).claims.lease is None

    told(story)

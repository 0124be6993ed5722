"""A review of exchange tokens (ADR 0035): what it found, each by the invariant that it attacked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from enforcer.relay import Relay
from enforcer.secrets.bearer import Bearers
from tests.attestor.conftest import enrolled, site
from tests.attestor.conftest import host as host  # noqa: PLC0414 - the fixture that `enrolled` takes
from tests.attestor.site import Host, VerifierSite
from tests.attestor.test_exchange import Holder
from tests.enforcer.host import wait_for
from tests.enforcer.secrets.test_sources import LINES, NAMED, Safe
from tests.signers import new_signer
from tests.verifier.test_token_exchange import GRANTS, PERMIT, VAULT, decisions, refused, tokens
from tests.world.chip import Maker
from tests.world.host import RefusedByVerifier, SimulatedHost
from tests.world.verifier import RunningVerifier
from tests.writ.verdict.test_token_exchange import Asking, asking
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import Refused, Unavailable
from writ.formats.eventlog.runtime import ComponentEvent
from writ.formats.exchange import EXCHANGE
from writ.formats.exchange_token import encode_exchange_claims, parse_exchange_token
from writ.formats.local import Done, ExchangeAsk, Launch, Launched, Local, Stop
from writ.formats.secret import Secret
from writ.service.clock import SystemClock

__all__ = ["asking", "enrolled", "host", "site"]


@pytest.fixture
def granted(bare: RunningVerifier) -> SimulatedHost:
    """A host of `bare` with an instance and its child, which may both have tokens for the vault."""
    bare.trust(Maker())
    bare.publish(PERMIT)
    made = bare.host("h1")
    made.launch("one", grants=GRANTS)
    made.launch("two", agent="scribe", grants=GRANTS, parent="one")
    bare.approve(made)
    return made


def test_i6_host_that_was_refused_since_gets_none_under_an_older_token(bare: RunningVerifier, granted: SimulatedHost) -> None:
    (token,) = tokens(granted, "one")
    granted.event(ComponentEvent("governance", "attestor", Digest.of(b"another attestor")))
    assert granted.attest("one").reasons, "the host is refused"
    refused(granted, granted.exchange_request("one", token, VAULT))
    assert all(one.claims is None for one in decisions(bare))


def test_i6_host_whose_attestor_is_approved_no_more_gets_none_under_an_older_token(bare: RunningVerifier, granted: SimulatedHost) -> None:
    (token,) = tokens(granted, "one")
    listed = bare.client.get("/v1/references")["references"]
    (digest,) = [one["digest"] for one in listed if "/agent/" not in one["environment"]]
    bare.client.post("/v1/retirements", {"digests": [digest]})
    refused(granted, granted.exchange_request("one", token, VAULT))
    assert all(one.claims is None for one in decisions(bare))


def test_i6_child_whose_parents_token_was_revoked_gets_none(bare: RunningVerifier, granted: SimulatedHost) -> None:
    one, two = tokens(granted, "one", "two")
    bare.client.post("/v1/revocations", {"kind": "jti", "subject": parse_token(one).claims.token_id})
    assert refused(granted, granted.exchange_request("two", two, VAULT)) == ["token-revoked"]
    one, two = tokens(granted, "one", "two")
    granted.exchange(granted.exchange_request("two", two, VAULT))


@pytest.mark.parametrize(
    "audience",
    [
        "HTTPS://vault.example.org", "https://Vault.example.org", f"{VAULT}/", f"{VAULT}/*", "*", f"{VAULT}:443", f"{VAULT}.evil.example",
        "https://v\u0430ult.example.org", f"{VAULT}\u200b", f" {VAULT}", f"{VAULT}#", f"{VAULT}/%2e%2e", f'{VAULT}" || true || "',
    ],
)  # fmt: skip
def test_i8_audience_that_only_resembles_the_granted_one_gets_none(granted: SimulatedHost, audience: str) -> None:
    (token,) = tokens(granted, "one")
    assert refused(granted, granted.exchange_request("one", token, audience)) in (["malformed"], ["grant-missing"])


def test_i4_proof_shown_many_times_at_once_gives_one_token_and_one_entry(bare: RunningVerifier, granted: SimulatedHost) -> None:
    (token,) = tokens(granted, "one")
    body = EXCHANGE.encode(granted.exchange_request("one", token, VAULT))
    exchange, together = bare.made.parts.exchange, threading.Barrier(8)

    def once(_: int) -> str:
        together.wait(10)
        try:
            exchange.exchange("h1", body)
        except Refused as refusal:
            return refusal.reasons[0].code
        return "given"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(once, range(8))) == ["given", *["proof-replayed"] * 7]
    assert len(decisions(bare)) == 1


def test_i11_holder_cannot_have_the_log_grow_without_bound_under_one_token(bare: RunningVerifier, granted: SimulatedHost) -> None:
    """By who has taken over a holder: agents cannot, since a holder keeps what it was given and what it was refused."""
    (token,) = tokens(granted, "one")
    for _ in range(100):
        with suppress(RefusedByVerifier):
            granted.exchange(granted.exchange_request("one", token, VAULT))
    assert len(decisions(bare)) < 100


def test_i2_what_was_let_pass_by_an_exemption_is_said_to_the_recipient_too(asking: Asking) -> None:
    """To a service of Writ an execution token says it in `exceptions`; so does its exchange token to a vault."""
    token, _ = asking.token("one", runtime="affirming", exceptions=("hotfix-1",))
    given = asking.decide(asking.request("one", token)).claims
    assert given is not None
    assert b"hotfix-1" in encode_exchange_claims(given)


def test_bearer_token_is_in_no_text_of_what_holds_it(granted: SimulatedHost) -> None:
    (token,) = tokens(granted, "one")
    answer = granted.exchange(granted.exchange_request("one", token, VAULT))
    parsed = parse_exchange_token(answer.token)
    signature = answer.token.rpartition(".")[2]
    for shown in (repr(answer), repr(parsed), str(parsed)):
        assert signature not in shown
        assert repr(parsed.jws.signature) not in shown


# --- by way of the attestor -------------------------------------------------------------------------------------------------


def test_i6_instance_that_stopped_gets_none_in_the_name_of_one_that_runs(site: VerifierSite, enrolled: Host) -> None:
    """The attestor knows of a stop or drift before the verifier does, and does not relay a token of the one as the other's."""
    site.publish_policy(PERMIT)
    holder = Holder(site, enrolled)

    async def story() -> None:
        async with enrolled.running():
            await holder.start()
            other = await enrolled.ask(Launch("keeper", (), new_signer().public, None), Launched)
            await enrolled.ask(Stop(holder.launched.instance, "exited"), Done)
            relay = Relay(str(enrolled.socket))

            def renamed(ask: Local) -> Local:
                return relay.ask(replace(ask, instance=other.instance) if isinstance(ask, ExchangeAsk) else ask)

            with pytest.raises(Unavailable, match="malformed"):
                await asyncio.to_thread(Bearers(holder.key, holder.trust, renamed, SystemClock()).token, VAULT, holder.held)
            assert not holder.decided

    asyncio.run(story())


def test_i6_child_of_a_parent_that_stopped_gets_none_before_the_verifier_knows(site: VerifierSite, enrolled: Host) -> None:
    site.publish_policy(PERMIT)
    holder = Holder(site, enrolled)

    async def story() -> None:
        async with enrolled.running():
            await holder.start()
            parent, holder.key = holder.launched, new_signer()
            holder.launched = await enrolled.ask(Launch("keeper", (), holder.key.public, parent.instance), Launched)
            child = await holder.renew(parent.instance)
            assert await holder.token(held=child)
            await enrolled.ask(Stop(parent.instance, "exited"), Done)
            assert await holder.refused(held=child) == "parent-refused"
            assert len(holder.decided) == 1

    asyncio.run(story())


# --- in the enforcer --------------------------------------------------------------------------------------------------------


class Partial(Safe):
    """Its vault lets the role read everything but `forbidden`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        answer = self.vault.answer

        def partly(method: str, path: str, body: bytes, bearer: str) -> tuple[int, dict[str, object] | None]:
            return (403, {"errors": ["permission denied"]}) if path.endswith("/forbidden") else answer(method, path, body, bearer)

        self.vault.answer = partly  # type: ignore[method-assign]
        self.secrets = self.of((*NAMED, Secret("no", "NO")), *LINES, "a no vault secret/data/forbidden data.key")

    def refused(self) -> None:
        with pytest.raises(Unavailable, match="403"):
            self.secrets.value("no", self.held)

    @property
    def logins(self) -> int:
        return self.vault.asked.count("POST /v1/auth/jwt/login")


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[Partial]:
    made = Partial(tmp_path)
    yield made
    made.vault.close()


def test_i6_leases_end_with_the_instance_also_where_another_path_is_refused(partial: Partial) -> None:
    assert partial.secrets.value("db", partial.held)
    partial.refused()
    partial.refused()
    partial.secrets.close()
    wait_for(lambda: not partial.vault.leases and not partial.vault.tokens)


def test_agent_has_no_session_at_the_vault_begun_for_each_of_its_requests(partial: Partial) -> None:
    for _ in range(5):
        partial.refused()
    assert partial.logins <= 2
    assert partial.secrets.value("mail", partial.held) == b"s3cret-mail"
    assert partial.logins <= 2

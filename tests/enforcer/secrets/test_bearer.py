"""Exchange tokens as a holder has them: asked for with a proof, believed in nothing, kept until due, forgotten at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from enforcer.config import EnforcerConfig
from enforcer.credential import Held
from enforcer.leases import with_lease
from enforcer.relay import Relay
from enforcer.secrets.bearer import Bearers
from enforcer.secrets.held import Secrets
from enforcer.secrets.source import DUE
from enforcer.secrets.sources import secrets_of
from tests.enforcer.host import wait_for
from tests.enforcer.scene import Scene
from tests.signers import new_signer
from tests.world.attestor import ISSUER
from tests.world.federation import NotTaken
from tests.world.lease_chip import LeaseChip
from writ.formats.cose import parse_sign1
from writ.formats.decision import CONTENT_TYPE, AttestDecision, encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import FormatError, Unavailable
from writ.formats.exchange_token import parse_exchange_token
from writ.formats.jose import parse_dpop
from writ.formats.keys import ES256
from writ.formats.local import ExchangeAsk, ExchangeGiven, LeaseAsk, LeaseGiven, Local, Refusal, Unreachable
from writ.formats.secret import Secret
from writ.service.clock import SystemClock
from writ.verdict.token import verify_token

SITE, OTHER = "https://api.example.org", "https://other.example.org"


class Holding:
    """An instance that may have tokens for `SITE`, and the token in force."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(folder, more=(("token.exchange", SITE),))
        self.attestor = self.scene.attestor
        self.attestor.wall = self.scene.clock.now
        self.answer: Callable[[Local], Local] = self.attestor.answer
        self.held = self.scene.renew()
        self.bearers = Bearers(self.scene.key, self.attestor.trust(), self._ask, self.scene.clock)

    def _ask(self, ask: Local) -> Local:
        return self.answer(ask)

    def token(self, audience: str = SITE) -> str:
        return self.bearers.token(audience, self.held)[0]


@pytest.fixture
def holding(tmp_path: Path) -> Holding:
    return Holding(tmp_path)


def unavailable(holding: Holding, audience: str = SITE) -> str:
    with pytest.raises(Unavailable) as caught:
        holding.token(audience)
    assert "eyJ" not in str(caught.value), "no token is shown"
    return str(caught.value)


def test_token_is_asked_for_with_a_proof_of_the_session_key_and_taken_by_whom_it_is_for(holding: Holding) -> None:
    token, seconds = holding.bearers.token(SITE, holding.held)
    (ask,) = holding.attestor.exchanges
    proof = parse_dpop(ask.proof)

    assert (ask.audience, ask.token, ask.lease) == (SITE, holding.held.compact, None)
    assert (proof.key, proof.htu, proof.act, proof.res) == (
        holding.scene.key.public, f"{ISSUER}/v1/hosts/host-1/exchange", "token.exchange", SITE,
    )  # fmt: skip
    assert holding.attestor.method(SITE).login(token) == "spiffe://example.org/test/agent/a"
    with pytest.raises(NotTaken, match="audience"):
        holding.attestor.method(OTHER).login(token)
    assert seconds == holding.held.life * DUE


def test_it_is_kept_until_due_and_renewed_before_it_ends(holding: Holding) -> None:
    first = holding.token()
    holding.scene.clock.advance(47)
    assert holding.token() == first
    holding.held = holding.scene.renew()
    holding.scene.clock.advance(1)
    second = holding.token()
    assert second != first
    assert parse_exchange_token(second).claims.expires_at > parse_exchange_token(first).claims.expires_at > holding.scene.clock.now()


def test_it_is_not_used_longer_than_either_clock_says(holding: Holding) -> None:
    first = holding.token()
    holding.scene.clock.since_boot += 50
    assert holding.token() != first, "the wall clock was put back or stands still"


def test_it_is_forgotten_at_once_and_one_under_way_is_not_used(holding: Holding) -> None:
    first = holding.token()
    holding.bearers.forget()
    asked, go, failed = threading.Event(), threading.Event(), list[str]()

    def slow(ask: Local) -> Local:
        asked.set()
        go.wait(10)
        return holding.attestor.answer(ask)

    holding.answer = slow
    thread = threading.Thread(target=lambda: failed.append(unavailable(holding)))
    thread.start()
    wait_for(asked.is_set)
    holding.bearers.forget()
    go.set()
    thread.join(10)
    assert failed == [f"token for {SITE}: cut off"]
    holding.answer = holding.attestor.answer
    assert holding.token() != first


def test_what_was_refused_is_not_asked_again_under_the_same_token(holding: Holding) -> None:
    """An agent could have the verifier sign a refusal for each of its requests."""
    for _ in range(3):
        assert unavailable(holding, OTHER) == f"token for {OTHER}: refused: grant-missing"
    assert len(holding.attestor.exchanges) == 1
    holding.held = holding.scene.renew()
    unavailable(holding, OTHER)
    assert len(holding.attestor.exchanges) == 2


def test_nobody_who_answers_is_no_refusal(holding: Holding) -> None:
    holding.attestor.reachable = False
    assert "does not answer" in unavailable(holding)
    holding.attestor.reachable = True
    assert holding.token()


def test_token_of_hardware_mode_goes_with_its_lease(tmp_path: Path) -> None:
    holding = Holding(tmp_path)
    holding.attestor.chip = LeaseChip()
    held = holding.scene.accept(holding.scene.give())
    holding.attestor.given.append(holding.scene.give())

    class Direct(Relay):
        def ask(self, message: Local) -> Local:
            assert holding.attestor.chip is not None
            assert isinstance(message, LeaseAsk)
            return LeaseGiven(holding.attestor.chip.lease(holding.scene.instance, held.token.claims.key, held.token.digest))

    leased: Held = with_lease(held, Direct("/nowhere"), holding.scene.clock)
    holding.bearers.token(SITE, leased)
    assert leased.lease is not None
    assert holding.attestor.exchanges[-1].lease == leased.lease.data


# --- a relay that lies ------------------------------------------------------------------------------------------------------


def lie(holding: Holding, name: str) -> Callable[[Local], Local]:
    attestor, scene = holding.attestor, holding.scene

    def answer(ask: Local) -> Local:
        assert isinstance(ask, ExchangeAsk)
        now, keys = scene.clock.now(), {parse_token(ask.token).jws.kid or "": attestor.tokens.public}
        claims = parse_token(ask.token).claims
        token = verify_token(parse_token(ask.token), keys=keys, issuer=ISSUER, audience=claims.audience, now=now, revocation=None)
        true = attestor.exchanged(ask, token, now=now)
        if name == "another's signature":
            attestor.exchange_key = new_signer(ES256)
            return ExchangeGiven(true.token, true.decision, attestor.exchange_key.public)
        if name == "another's decision":
            attestor.decision = new_signer()
            return attestor.exchanged(ask, token, now=now)
        if name == "a decision of another token":
            return ExchangeGiven(attestor.exchanged(ask, token, now=now).token, true.decision, true.key)
        if name == "an attestation":
            given = parse_entry(_payload(scene.give().decision))
            assert isinstance(given, AttestDecision)
            return ExchangeGiven(true.token, attestor.sign(encode_entry(given), CONTENT_TYPE), true.key)
        if name == "the execution token":
            return ExchangeGiven(ask.token, true.decision, true.key)
        lies: dict[str, dict[str, object]] = {
            "another audience": {"audience": OTHER}, "another agent": {"agent": scene.agent.parse("spiffe://example.org/test/agent/b")},
            "another issuer": {"issuer": "https://evil.example.org"}, "another instance": {"instance": bytes(16)},
            "another host": {"host": "host-2"}, "another execution token": {"execution_token": Digest.of(b"x")},
            "a longer life": {"expires_at": claims.expires_at + 1}, "a dead one": {"issued_at": now - 60, "expires_at": now},
            "nothing let pass": {"exceptions": () if claims.exceptions else ("attestor-not-rooted",)},
            "another runtime": {"runtime": "affirming" if claims.runtime != "affirming" else "runtime-only"},
            "another class of TPM": {"tpm_class": "discrete" if claims.tpm_class != "discrete" else "software"},
        }  # fmt: skip
        return attestor.exchanged(ask, token, now=now, **lies[name])

    return answer


def _payload(signed: bytes) -> bytes:
    return parse_sign1(signed).payload or b""


@pytest.mark.parametrize(
    "name",
    [
        "another's signature", "another's decision", "a decision of another token", "an attestation", "the execution token",
        "another audience", "another agent", "another issuer", "another instance", "another host", "another execution token",
        "a longer life", "a dead one", "nothing let pass", "another runtime", "another class of TPM",
    ],
)  # fmt: skip
def test_relay_that_lies_is_not_believed(holding: Holding, name: str) -> None:
    holding.answer = lie(holding, name)
    unavailable(holding)
    holding.answer = holding.attestor.answer
    if name != "another's decision":
        holding.held = holding.scene.renew()
        assert holding.token(), "and the truth is"


@pytest.mark.parametrize("answer", [Refusal((), True), Unreachable("gone"), ExchangeAsk(bytes(16), SITE, "x", "y", None)])
def test_answer_of_another_kind_is_none(holding: Holding, answer: Local) -> None:
    holding.answer = lambda _: answer
    unavailable(holding)


# --- as a secret ------------------------------------------------------------------------------------------------------------


def secrets_for(holding: Holding, *named: Secret) -> Secrets:
    config = EnforcerConfig(secrets=(f"a api bearer {SITE}",))
    return secrets_of(config, "a", named, holding.bearers, SystemClock())


def test_it_is_a_secret_for_a_request_and_gone_with_a_cut(holding: Holding) -> None:
    secrets = secrets_for(holding, Secret("api", "API_TOKEN"))
    value = secrets.value("api", holding.held).decode()
    assert holding.attestor.method(SITE).login(value)
    assert value not in secrets.environment.values()
    assert value not in repr(vars(secrets))
    secrets.cut()
    with pytest.raises(Unavailable, match="cut off"):
        secrets.value("api", holding.held)
    secrets.mend()
    assert secrets.value("api", holding.held).decode() != value
    with pytest.raises(Unavailable, match="takes a token"):
        secrets.value("api", None)


def test_no_agent_reads_it_as_a_file(holding: Holding) -> None:
    with pytest.raises(FormatError, match="no agent reads a bearer token"):
        secrets_for(holding, Secret("api", "file"))


@pytest.mark.parametrize("line", ["a api bearer", "a api bearer x y", "a api bearer ../x", "a api exchange https://sts.test ../x aud"])
def test_line_without_one_audience_is_refused(line: str) -> None:
    with pytest.raises(FormatError):
        EnforcerConfig(secrets=(line,))

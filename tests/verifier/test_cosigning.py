"""The log before its witnesses: what is served has its quorum, and where none is to be had nothing is decided, if that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.verifier.ledger_suite import admission, entry
from tests.verifier.test_access import call
from tests.world.clock import HandClock
from tests.world.scene import signer
from tests.world.verifier import RunningVerifier
from tests.world.witness import WitnessInMemory, policy_of
from verifier.cosigning import Cosigning, Lag
from verifier.ledger import Admitted, Began
from verifier.ledger.schema import EntryRow
from verifier.ledger.sequencer import SqliteLedger
from verifier.ledger.translog import GENESIS, TransparencyLog
from verifier.witnesses import Witnesses
from writ.formats.errors import Misuse, Unavailable
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.cosignature import parse_policy
from writ.formats.tlog.note import PLAIN, NoteKey
from writ.formats.tlog.proof import parse_tlog_proof
from writ.verdict.transparency import verify_witnessed

ORIGIN = "verifier.example.org/log"


class Site:
    """A log in a ledger, and two witnesses of which both are wanted."""

    def __init__(self, folder: Path, within: float = 30) -> None:
        self.log = TransparencyLog(ORIGIN, signer("log"), folder / "head")
        self.ledger = SqliteLedger(folder / "ledger", log=self.log)
        self.clock, self.hosts = HandClock(), 0
        self.witnesses = {name: WitnessInMemory(name, (self.log.key,)) for name in ("a", "b")}
        self.policy = policy_of(self.log.key, [(name, one.key, "") for name, one in self.witnesses.items()])
        asked = Witnesses(self.policy, lambda one: self.witnesses[one.name])
        self.cosigning = Cosigning(self.log, self.ledger, self.policy, asked, self.clock, every=0.05, within=within)
        self.ledger.commit(Began(entry(GENESIS)))

    def admit(self) -> None:
        """One entry more."""
        self.hosts += 1
        name = f"host-{self.hosts}"
        self.ledger.commit(Admitted(entry("operator", host=name, body=name.encode()), admission(self.hosts, name)))

    def served(self) -> tuple[int, int]:
        """Size of the checkpoint that is served, and how many signatures it has."""
        signed = parse_signed_checkpoint(self.log.shown)
        return signed.checkpoint.size, len(signed.note.signatures)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.cosigning.close()
    made.ledger.close()


def test_a_quorum_of_nobody_is_not_what_a_policy_demands(site: Site) -> None:
    nobody = parse_policy(f"log {site.log.key}\nquorum none\n".encode())
    asked = Witnesses(nobody, lambda one: site.witnesses[one.name])
    cosigning = Cosigning(site.log, site.ledger, nobody, asked, site.clock, every=10, within=0)
    cosigning.ask()
    cosigning.demand()
    with pytest.raises(Unavailable, match="asks for no witness"):
        cosigning.demand(60)
    cosigning.close()


def test_a_checkpoint_with_its_quorum_is_what_is_served(site: Site) -> None:
    assert site.served() == (1, 1)
    site.cosigning.ask()
    assert site.served() == (1, 3)
    verify_witnessed(parse_signed_checkpoint(site.log.shown), site.policy)
    site.admit()
    assert site.served() == (1, 3), "what no quorum has seen is not shown"
    assert parse_signed_checkpoint(site.log.checkpoint).checkpoint.size == 2
    site.cosigning.ask()
    assert site.served() == (2, 3)
    assert site.cosigning.ask() is None, "nothing new, nobody asked"
    assert parse_tlog_proof(site.log.proof(site.ledger.read(), 1)).checkpoint.note.signatures[1:], "a proof has the cosignatures"
    site.admit()
    later = parse_tlog_proof(site.log.proof(site.ledger.read(), 2))
    assert (later.checkpoint.checkpoint.size, len(later.checkpoint.note.signatures)) == (3, 1)


def test_without_a_quorum_decisions_end_in_time_and_begin_again_with_it(site: Site) -> None:
    with pytest.raises(Unavailable, match="since the start"):
        site.cosigning.demand()
    site.cosigning.ask()
    site.cosigning.demand()
    site.witnesses["b"].away = True
    site.admit()
    site.cosigning.ask()
    assert site.cosigning.lag() == Lag(1, 0.0)
    site.clock.advance(30)
    site.cosigning.demand()
    site.clock.advance(1)
    with pytest.raises(Unavailable, match="expected a quorum within 30 s, got 1 entries after 31 s"):
        site.cosigning.demand()
    site.cosigning.ask()
    with pytest.raises(Unavailable):
        site.cosigning.demand()
    assert site.served() == (1, 3)
    site.witnesses["b"].away = False
    site.cosigning.ask()
    site.cosigning.demand()
    assert (site.cosigning.lag(), site.served()) == (Lag(0, 0.0), (2, 3))


def test_where_it_is_not_asked_for_nothing_waits_for_witnesses(tmp_path: Path) -> None:
    site = Site(tmp_path, within=0)
    for one in site.witnesses.values():
        one.away = True
    site.admit()
    site.cosigning.lag()
    site.clock.advance(100_000)
    site.cosigning.ask()
    site.cosigning.demand()
    assert site.cosigning.lag().seconds == 100_000
    site.cosigning.close()
    site.ledger.close()


def test_of_configuration_and_policy_the_shorter_wait_counts(site: Site) -> None:
    site.cosigning.ask()
    site.admit()
    site.cosigning.lag()
    site.clock.advance(20)
    site.cosigning.demand()
    site.cosigning.demand(20)
    site.cosigning.demand(300)
    with pytest.raises(Unavailable, match="expected a quorum within 19 s, got 1 entries after 20 s"):
        site.cosigning.demand(19)
    site.clock.advance(11)
    with pytest.raises(Unavailable, match="within 30 s"):
        site.cosigning.demand(300)


def test_where_only_a_policy_asks_for_it_the_log_waits_for_witnesses(tmp_path: Path) -> None:
    site = Site(tmp_path, within=0)
    with pytest.raises(Unavailable, match="since the start"):
        site.cosigning.demand(60)
    site.cosigning.demand()
    site.cosigning.ask()
    site.cosigning.demand(60)
    site.cosigning.close()
    site.ledger.close()


def test_i3_a_policy_that_demands_witnesses_is_answered_by_none_without_them(verifier: RunningVerifier) -> None:
    """The namespace's hosts get neither tokens nor exchanges; a policy that does not demand it lets them."""
    host = verifier.host("h1")
    for most, expected in ((60, 503), (None, 200)):
        verifier.publish(witness_lag_most=most)
        host.fetch_nonce()
        before = verifier.made.ledger.read().last(EntryRow)
        answered = host.say("/v1/hosts/h1/attest", host.evidence())
        assert answered.status == expected
        if expected == 503:
            assert b"witness_policy_file" in answered.body
            assert host.say("/v1/hosts/h1/exchange", b"").status == 503
            assert verifier.made.ledger.read().last(EntryRow) == before, "nothing was decided"


def test_a_policy_of_another_log_is_misuse(site: Site) -> None:
    other = policy_of(NoteKey("other.example/log", PLAIN, signer("other").public), [("a", site.witnesses["a"].key, "")])
    with pytest.raises(Misuse):
        Cosigning(site.log, site.ledger, other, Witnesses(other, lambda _: None), site.clock, every=1, within=0)


def test_the_thread_asks_by_itself_and_ends(site: Site) -> None:
    site.cosigning.start()
    site.admit()
    for _ in range(200):
        if site.served() == (2, 3):
            break
        site.cosigning._stop.wait(0.05)  # noqa: SLF001 - set by nobody before the end
    assert site.served() == (2, 3)


def test_i3_without_witnesses_a_host_gets_no_answer(verifier: RunningVerifier) -> None:
    """The routes that decide ask first; a nonce decides nothing."""
    host = verifier.host("h1")
    parts = verifier.made.app.state.parts  # what the routes hold
    log = parts.translog
    assert log is not None
    one = WitnessInMemory("a", (log.key,), away=True)
    policy = policy_of(log.key, [("a", one.key, "")])
    cosigning = Cosigning(log, parts.ledger, policy, Witnesses(policy, lambda _: one), HandClock(), every=1, within=10)
    object.__setattr__(parts, "cosigning", cosigning)
    host.fetch_nonce()
    evidence = host.evidence()
    assert cosigning.lag().entries > 0
    for path in ("/v1/hosts/h1/attest", "/v1/hosts/h1/exchange", "/v1/enrol/activate"):
        assert host.say(path, evidence).status == 503
    one.away = False
    cosigning.ask()
    assert host.say("/v1/hosts/h1/attest", evidence).status == 200
    status, body, _ = call(verifier, "GET", "/log/checkpoint")
    assert (status, len(parse_signed_checkpoint(body).note.signatures)) == (200, 2)
    object.__setattr__(parts, "cosigning", None)

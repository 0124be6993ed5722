"""Asking for the next token: what is carried, and what each answer means."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer import papers
from enforcer.places import HeldPlaces
from enforcer.relay import Relay
from enforcer.renewal import RETRY_LEAST, RETRY_MOST, Granted, Never, NotNow, Renewal, Verdict
from tests.enforcer.host import wait_for
from tests.enforcer.scene import Scene
from tests.enforcer.test_record import action
from writ.formats.archive import encode_archive, parse_archive
from writ.formats.local import Refusal
from writ.formats.reason import Reason
from writ.formats.tlog.merkle import EMPTY_ROOT, leaf_hash


class Asking:
    """A renewal over a real socket, with a log to carry."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(folder)
        self.attestor = self.scene.attestor
        self.attestor.start()
        self.log = self.scene.log(folder)
        relay = Relay(str(self.attestor.path))
        trust = self.attestor.trust()
        self.relay, self.trust, self.places = relay, trust, HeldPlaces(folder / "verifier")
        self.renewal = self.anew()

    def anew(self, lost: Reason | None = None) -> Renewal:
        """One that knows what lies on the disk, and what an estate says."""
        scene = self.scene
        carried = 0 if not hasattr(self, "renewal") else self.renewal.carried
        return Renewal(
            scene.subject, self.relay, self.log, self.trust, scene.bundles, self.places, scene.folder, scene.clock, carried, lost
        )  # fmt: skip

    def record(self, count: int) -> None:
        """More records."""
        for _ in range(count):
            self.log.append(action(), b"")


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    made = Asking(tmp_path)
    yield made
    made.log.close()
    made.attestor.stop()


def code(verdict: Verdict) -> str:
    assert not isinstance(verdict, Granted)
    return verdict.reasons[0].code


def test_each_ask_proves_that_the_log_extends_the_one_before(asking: Asking) -> None:
    sizes = []
    for count in (0, 3, 0, 7, 1):
        asking.record(count)
        assert isinstance(asking.renewal.ask(), Granted)
        sizes.append((asking.attestor.asks[-1].log_from, asking.attestor.asks[-1].log_size))

    assert sizes == [(0, 0), (0, 4), (4, 4), (4, 11), (11, 12)], "records, and the opening before the first"
    assert asking.renewal.carried == 12


def test_papers_of_every_token_are_kept(asking: Asking) -> None:
    asking.renewal.ask()
    asking.renewal.ask()
    archive = papers.kept(asking.scene.folder)

    assert {given.token for given in asking.attestor.given} == set(archive.tokens)
    assert len(archive.entries) == 2


def test_verifier_that_is_ahead_says_where_it_stands_and_is_asked_again_at_once(asking: Asking) -> None:
    asking.record(5)
    checkpoint = asking.log.checkpoint()
    asking.attestor.instances[asking.scene.instance].log = (checkpoint.size, checkpoint.root)
    asking.record(2)

    assert isinstance(asking.renewal.ask(), Granted)
    assert [ask.log_from for ask in asking.attestor.asks] == [0, checkpoint.size]


@pytest.mark.parametrize("nothing", [False, True])
def test_verifier_that_asks_for_less_than_a_token_confirmed_has_lost_it_and_is_not_followed(asking: Asking, nothing: bool) -> None:
    """docs/model, actions.pml, rule 4: an alarm at the host, not a new start."""
    asking.record(3)
    early = asking.log.checkpoint()
    asking.record(2)
    asking.renewal.ask()
    whole, known = asking.log.checkpoint(), asking.attestor.instances[asking.scene.instance]
    asking.record(2)
    known.log = (0, EMPTY_ROOT) if nothing else (early.size, early.root)
    verdict = asking.renewal.ask()
    assert isinstance(verdict, NotNow)
    assert (verdict.answered, code(verdict)) == (True, "verifier-rolled-back")
    assert asking.renewal.carried == whole.size
    asked = len(asking.attestor.asks)
    known.log = (whole.size, whole.root)
    assert code(asking.renewal.ask()) == "verifier-rolled-back", "it is asked no more, whatever it would say now"
    asking.renewal.carry_the_rest()
    assert len(asking.attestor.asks) == asked


def test_verifier_that_is_behind_what_no_token_confirmed_is_followed(asking: Asking) -> None:
    """It said that it holds as much, and no token of it came."""
    asking.record(5)
    ahead = asking.log.checkpoint()
    asking.attestor.refusal = Refusal((Reason("action-log-base", "log", str(ahead.size), "0"),), False, decided=True)
    assert isinstance(asking.renewal.ask(), NotNow)
    assert asking.renewal.carried == ahead.size
    asking.attestor.refusal = None
    assert isinstance(asking.renewal.ask(), Granted)


def test_host_that_was_enrolled_anew_is_no_alarm(asking: Asking) -> None:
    """Of an instance from before, the verifier says for ever that it is tainted, whatever it holds of its log."""
    asking.record(5)
    asking.renewal.ask()
    reasons = (Reason("action-log-base", "log", "0", "6"), Reason("instance-tainted", "instance", "running", "tainted"))
    asking.attestor.refusal = Refusal(reasons, True, decided=True)
    assert isinstance(asking.renewal.ask(), Never)


def test_verifier_whose_log_went_back_is_an_alarm(asking: Asking) -> None:
    asking.renewal.ask()
    assert isinstance(asking.renewal.ask(), Granted)
    del asking.attestor.log.leaves[1:]
    assert code(asking.renewal.ask()) == "verifier-rolled-back"
    asked = len(asking.attestor.asks)
    assert code(asking.renewal.ask()) == "verifier-rolled-back"
    assert len(asking.attestor.asks) == asked


def test_log_that_went_back_is_an_alarm_for_whoever_asks_next_on_this_host(asking: Asking) -> None:
    """Other code that took over, a daemon that came anew, a new launch: each has its own memory, and the host has one."""
    for _ in range(3):
        asking.renewal.ask()
    del asking.attestor.log.leaves[1:]
    assert code(asking.anew().ask()) == "verifier-rolled-back", "the first to ask is not the one that saw the log before"
    for _ in range(9):
        asking.scene.give()
    asked = len(asking.attestor.asks)
    assert code(asking.anew().ask()) == "verifier-rolled-back", "nor does the log heal by growing past the place"
    assert code(asking.renewal.ask()) == "verifier-rolled-back"
    assert len(asking.attestor.asks) == asked
    asking.places.settle()
    assert isinstance(asking.anew().ask(), Granted)
    assert code(asking.renewal.ask()) == "verifier-rolled-back", "an instance that knows is started anew"


def test_alarm_by_the_base_of_a_log_is_the_hosts_and_goes_over_to_other_code(asking: Asking) -> None:
    asking.record(3)
    asking.renewal.ask()
    asking.attestor.instances[asking.scene.instance].log = (0, EMPTY_ROOT)
    assert code(asking.renewal.ask()) == "verifier-rolled-back"
    assert asking.renewal.lost is not None
    assert code(asking.anew().ask()) == "verifier-rolled-back"
    asking.places.settle()
    assert code(asking.anew(asking.renewal.lost).ask()) == "verifier-rolled-back", "as an estate has it"


def test_altered_place_gives_no_token_until_it_is_settled(asking: Asking) -> None:
    asking.renewal.ask()
    (asking.scene.folder / "verifier" / "seen").write_bytes(b"rubbish")
    asked = len(asking.attestor.asks)
    assert code(asking.renewal.ask()) == "malformed"
    assert len(asking.attestor.asks) == asked
    asking.places.settle()
    assert isinstance(asking.renewal.ask(), Granted)


def test_receipts_are_kept_with_the_papers_and_are_in_the_archive(asking: Asking) -> None:
    for _ in range(2):
        asking.renewal.ask()
    archive = parse_archive(encode_archive(papers.kept(asking.scene.folder)))
    assert {place.leaf for place in archive.places} == {leaf_hash(entry) for entry in archive.entries}
    assert {place.inclusion for place in archive.places} == {given.receipt for given in asking.attestor.given}


def test_token_without_a_receipt_is_refused_and_not_kept(asking: Asking) -> None:
    asking.attestor.logs = False
    assert code(asking.renewal.ask()) == "receipt-missing"
    assert papers.kept(asking.scene.folder).tokens == ()


def test_log_that_does_not_extend_the_carried_one_is_never_given_a_token(asking: Asking) -> None:
    asking.record(5)
    asking.attestor.instances[asking.scene.instance].log = (asking.log.checkpoint().size, bytes(32))

    assert isinstance(asking.renewal.ask(), Never)


def test_a_base_beyond_our_own_log_is_not_believed(asking: Asking) -> None:
    asking.attestor.refusal = Refusal((Reason("action-log-base", "log", "999", "0"),), False, decided=True)
    verdict = asking.renewal.ask()

    assert isinstance(verdict, NotNow)
    assert asking.renewal.carried == 0


@pytest.mark.parametrize("base", ["0", "3"])
def test_what_no_decision_says_of_the_log_is_not_followed(asking: Asking, base: str) -> None:
    """Whoever stands between attestor and verifier can say it: no alarm, no containment, and the verifier is asked as before."""
    asking.record(5)
    asking.renewal.ask()
    carried, asked = asking.renewal.carried, len(asking.attestor.asks)
    reasons = (Reason("action-log-base", "log", base, "6"), Reason("anchor-proof-required", "a", "99", "none"))
    asking.attestor.refusal = Refusal(reasons, False)
    assert isinstance(asking.renewal.ask(), NotNow)
    assert (asking.renewal.carried, len(asking.attestor.asks)) == (carried, asked + 1)
    asking.attestor.refusal = None
    assert isinstance(asking.renewal.ask(), Granted)


@pytest.mark.parametrize(
    "code, answered", [("nonce-superseded", False), ("too-many-requests", False), ("component-mismatch", True), ("policy-refused", True)]
)
def test_refusal_of_the_exchange_is_no_refusal_of_the_instance(asking: Asking, code: str, answered: bool) -> None:
    asking.attestor.refusal = Refusal((Reason(code, "a", "b", "c"),), False)
    verdict = asking.renewal.ask()

    assert isinstance(verdict, NotNow)
    assert verdict.answered is answered


def test_a_transient_reason_beside_a_real_one_does_not_hide_it(asking: Asking) -> None:
    reasons = (Reason("component-mismatch", "a", "b", "c"), Reason("nonce-expired", "a", "b", "c"))
    asking.attestor.refusal = Refusal(reasons, False)
    verdict = asking.renewal.ask()

    assert isinstance(verdict, NotNow)
    assert verdict.answered


def test_final_refusal_is_never(asking: Asking) -> None:
    asking.attestor.refusal = Refusal((Reason("instance-drifted", "a", "b", "c"),), True)

    assert isinstance(asking.renewal.ask(), Never)


def test_nobody_there_is_no_answer(asking: Asking) -> None:
    asking.attestor.reachable = False
    assert code(asking.renewal.ask()) == "unavailable"
    asking.attestor.stop()
    assert code(asking.renewal.ask()) == "unavailable"


def test_next_ask_comes_at_half_life_and_after_failures_ever_later(asking: Asking) -> None:
    heard: list[Verdict] = []
    asking.renewal.begin(heard.append)
    wait_for(lambda: heard)
    due = asking.renewal.due_in()
    assert due is not None
    assert 26 < due < 34

    asking.attestor.reachable = False
    waits = []
    for number in range(2, 8):
        asking.renewal.begin(heard.append)
        while len(heard) < number:
            time.sleep(0.01)
        waits.append(asking.renewal.due_in() or 0)
    assert waits[0] <= RETRY_LEAST
    assert RETRY_LEAST < waits[-1] <= RETRY_MOST
    asking.renewal.ask_now()
    assert asking.renewal.due_in() == 0


def test_one_question_at_a_time(asking: Asking) -> None:
    asking.attestor.silent = 0.3
    heard: list[Verdict] = []
    for _ in range(5):
        asking.renewal.begin(heard.append)
    assert asking.renewal.due_in() is None
    wait_for(lambda: heard)

    assert len(asking.attestor.asks) == 1


def test_rest_of_a_drifted_instance_is_carried_from_where_the_verifier_stands(asking: Asking) -> None:
    asking.record(2)
    known = asking.attestor.instances[asking.scene.instance]
    known.drifted = True
    assert isinstance(asking.renewal.ask(), Never), "the verifier knew of the drift first, and kept this checkpoint"
    asking.record(3)
    asking.renewal.carry_the_rest()

    assert known.log[0] == asking.log.checkpoint().size
    assert asking.attestor.given == []


def test_what_was_done_last_is_carried_after_the_question_under_way(asking: Asking) -> None:
    asking.attestor.silent = 0.3
    asking.renewal.begin(lambda _verdict: None)
    asking.record(3)
    asking.renewal.carry_the_rest()

    assert [ask.log_size for ask in asking.attestor.asks][-1] == asking.log.checkpoint().size
    asking.renewal.carry_the_rest()
    assert len(asking.attestor.asks) == 2, "nothing new, nothing asked"

"""What is anchored of an action log and when, and what the next request proves of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.anchors import Anchors
from enforcer.places import HeldPlaces
from enforcer.relay import Relay
from enforcer.renewal import MOST_ANCHORED, TRANSIENT, Granted, Never, NotNow, Renewal
from tests.enforcer.host import Host, wait_for
from tests.enforcer.scene import Scene
from tests.enforcer.test_record import action
from tests.enforcer.test_takeover import COUNTS, acts_as, running, upgrade
from tests.world.clock import HandClock
from writ.formats.local import Refusal
from writ.formats.reason import Reason
from writ.formats.tlog import merkle


class Anchoring:
    """An instance whose log is anchored by hand, over a real socket."""

    def __init__(self, folder: Path, every: int = 0) -> None:
        self.scene = Scene(folder)
        self.attestor = self.scene.attestor
        self.attestor.start()
        self.folder, self.log, self.every = folder, self.scene.log(folder), every
        self.begin()

    def begin(self, carried: int = 0) -> None:
        """Code that knows of no anchor."""
        relay, trust = Relay(str(self.attestor.path)), self.attestor.trust()
        self.renewal = Renewal(
            self.scene.subject, relay, self.log, trust, self.scene.bundles, HeldPlaces(self.folder / "verifier"), self.folder,
            self.scene.clock, carried,
        )  # fmt: skip
        self.anchors = Anchors(self.every, self.scene.instance, self.renewal, relay, self.scene.clock)

    def record(self, count: int) -> None:
        """More records, durable."""
        for _ in range(count):
            self.log.append(action(), b"")

    @property
    def sizes(self) -> list[int]:
        """What was anchored."""
        return [one.size for one in self.attestor.anchors]

    @property
    def proven(self) -> list[int]:
        """Of which anchors the last request had a proof."""
        return [size for size, _ in self.attestor.asks[-1].anchored]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Anchoring]:
    one = Anchoring(tmp_path)
    yield one
    one.log.close()
    one.attestor.stop()


def test_what_is_new_is_anchored_once_and_the_next_request_proves_it(made: Anchoring) -> None:
    assert not made.anchors.anchor(), "an empty log"
    made.record(2)
    assert made.anchors.anchor()
    assert not made.anchors.anchor(), "nothing new"
    made.record(3)
    assert made.anchors.anchor()
    made.record(1)
    assert isinstance(made.renewal.ask(), Granted)
    assert (made.sizes, made.proven) == ([3, 6], [3, 6])
    assert not made.anchors.anchor(), "what is carried needs no anchor"
    assert isinstance(made.renewal.ask(), Granted)
    assert made.proven == []


def test_anchor_whose_answer_was_lost_is_proven_all_the_same(made: Anchoring) -> None:
    made.attestor.forgets_anchors = True
    made.record(2)
    assert not made.anchors.anchor()
    made.record(1)
    assert isinstance(made.renewal.ask(), Granted)
    assert len(made.attestor.asks) == 1


def test_code_that_took_over_is_told_which_anchors_to_prove(made: Anchoring) -> None:
    made.record(2)
    made.anchors.anchor()
    made.record(2)
    made.anchors.anchor()
    made.begin()
    assert isinstance(made.renewal.ask(), Granted)
    assert (len(made.attestor.asks), made.proven) == (2, [3, 5])


def test_lost_answer_and_forgotten_anchors_are_mended_by_one_question(made: Anchoring) -> None:
    made.record(2)
    assert isinstance(made.renewal.ask(), Granted)
    made.record(2)
    made.anchors.anchor()
    held = made.attestor.instances[made.scene.instance]
    made.begin(carried=0)
    made.attestor.refuses["a"] = Refusal(
        (Reason("action-log-base", "log", str(held.log[0]), "0"), Reason("anchor-proof-required", "anchors", "5", "none")),
        final=False,
        decided=True,
    )
    verdict = made.renewal.ask()
    assert isinstance(verdict, NotNow)
    del made.attestor.refuses["a"]
    assert made.renewal.carried == held.log[0]
    assert isinstance(made.renewal.ask(), Granted)
    assert made.proven == [5]


def test_nothing_is_anchored_while_a_checkpoint_is_carried(made: Anchoring) -> None:
    """Else the anchor could be of more than what is carried, and the quote shows both."""
    made.record(2)
    made.attestor.silent = 0.5
    asking = threading.Thread(target=made.renewal.ask)
    asking.start()
    wait_for(lambda: bool(made.attestor.asks))
    made.record(2)
    assert not made.anchors.anchor()
    asking.join()
    assert made.anchors.anchor()


def test_instance_that_is_not_carried_makes_so_many_anchors_and_no_more(made: Anchoring) -> None:
    for _ in range(MOST_ANCHORED + 3):
        made.record(1)
        made.anchors.anchor()
    assert len(made.sizes) == MOST_ANCHORED
    assert isinstance(made.renewal.ask(), Granted)
    made.record(1)
    assert made.anchors.anchor()


def test_anchor_of_more_than_the_log_has_is_an_alarm_and_no_token_follows(made: Anchoring) -> None:
    made.record(2)
    made.attestor.instances[made.scene.instance].anchored[9] = bytes(32)
    verdict = made.renewal.ask()
    assert isinstance(verdict, Never)
    assert [(reason.code, reason.expected) for reason in verdict.reasons] == [("anchor-inconsistent", "9 records")]


def test_log_that_lacks_an_anchor_never_gets_a_token_again(made: Anchoring) -> None:
    made.record(4)
    made.attestor.instances[made.scene.instance].anchored[3] = merkle.root([bytes(32)])
    verdict = made.renewal.ask()
    assert isinstance(verdict, Never)
    assert [reason.code for reason in verdict.reasons] == ["anchor-inconsistent"]


def test_refusal_for_want_of_a_proof_is_one_of_the_exchange() -> None:
    assert "anchor-proof-required" in TRANSIENT
    assert "anchor-inconsistent" not in TRANSIENT


def test_attestor_that_anchors_nothing_stops_nothing_and_is_told_of_once(made: Anchoring, caplog: pytest.LogCaptureFixture) -> None:
    made.attestor.anchors_off = True
    for _ in range(2):
        made.record(1)
        assert not made.anchors.anchor()
    assert isinstance(made.renewal.ask(), Granted)
    assert [record.message for record in caplog.records].count("not-anchored") <= 1


def test_anchor_that_was_refused_counts_for_nothing(made: Anchoring) -> None:
    """Else a host that was full for a while would have its instances anchor nothing when there is room again."""
    made.attestor.anchors_off = True
    for _ in range(MOST_ANCHORED + 1):
        made.record(1)
        assert not made.anchors.anchor()
    made.attestor.anchors_off = False
    assert made.anchors.anchor()
    assert isinstance(made.renewal.ask(), Granted)
    assert made.proven == made.sizes[-1:], "and nothing is proven of those"


def test_all_instances_of_a_host_anchor_at_the_same_moments(made: Anchoring) -> None:
    clock = HandClock(1_000_000)
    one = Anchors(7, made.scene.instance, made.renewal, Relay("/nowhere"), clock)
    for _ in range(20):
        assert 0 < one.due_in() <= 7
        assert (clock.boot() + one.due_in()) % 7 == 0
        clock.advance(3)


def test_log_is_anchored_by_itself_from_the_first_look_until_the_end(tmp_path: Path) -> None:
    one = Anchoring(tmp_path, every=1)
    one.scene.clock.boot = time.monotonic  # type: ignore[method-assign]  # this one runs by itself
    one.record(2)
    one.anchors.keep()
    one.anchors.keep()
    wait_for(lambda: one.sizes == [3])
    one.record(1)
    wait_for(lambda: one.sizes == [3, 4])
    one.anchors.end()
    one.record(1)
    time.sleep(1.2)
    assert one.sizes == [3, 4]
    one.log.close()
    one.attestor.stop()


def test_never_means_never(made: Anchoring) -> None:
    made.record(1)
    made.anchors.keep()
    assert not any(thread.name == "anchors" for thread in threading.enumerate())


# --- in a holder ---------------------------------------------------------------------------------------------------------


@pytest.mark.cgroup
def test_holder_anchors_its_log_and_code_that_takes_over_proves_what_the_other_anchored(host: Host) -> None:
    host.write_config(anchor_every=1)
    host.kill_daemon()
    host.serve()
    host.agent("a", COUNTS)
    _, instance = running(host)
    wait_for(lambda: len(host.attestor.anchors) > 1)
    asked = len(host.attestor.asks)
    upgrade(host, "2.0")
    acts_as(host, instance, 1)

    came = host.attestor.asks[asked:]
    assert [bool(one.anchored) for one in came[:2]] == [False, True], "told once what to prove"
    anchored = len(host.attestor.anchors)
    wait_for(lambda: len(host.attestor.anchors) > anchored)

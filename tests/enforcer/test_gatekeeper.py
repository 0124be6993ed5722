"""Nothing passes without a decision that is durable, and nothing that was cut meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest

from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.record import ActionLog, LogReader, Recorded
from tests.enforcer.records import records_of
from tests.enforcer.scene import Scene
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import Misuse, Unavailable
from writ.formats.grants import Grant
from writ.formats.reason import Reason
from writ.formats.record import ActionDraft, ActionRecord, OutcomeDraft, OutcomeRecord
from writ.verdict.decide import used_of
from writ.verdict.schema import cedar_schema

READ = Action("tool.call", "mcp:notes/read", Digest.of(b"{}"))
DRIFT = Reason("instance-drifted", "prompts:a", "b", "c")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def log(scene: Scene) -> Iterator[ActionLog]:
    made = scene.log(scene.folder)
    yield made
    made.close()


def codes(ruling: Ruling) -> list[str]:
    return [reason.code for reason in ruling.reasons]


def records(scene: Scene) -> list[ActionRecord | OutcomeRecord]:
    return records_of(scene.folder, scene.instance)


def contexts(scene: Scene, *, permit: bool | None = None) -> list[bytes]:
    """What each decision saw, of those with this answer."""
    entries = LogReader(scene.folder, scene.instance).entries()
    acted = [one for one in entries if isinstance(one.record, ActionRecord) and permit in (None, one.record.permit)]
    return [one.context for one in acted if one.context is not None]


def test_permit_is_recorded_with_what_it_was_decided_on(scene: Scene, log: ActionLog) -> None:
    held = scene.renew()
    ruling = scene.gatekeeper(log).ask(READ, b"{}", gate="socket")
    (record,) = records(scene)

    assert ruling.permit
    assert isinstance(record, ActionRecord)
    assert (record.permit, record.token, record.bundle) == (True, held.token.digest, held.bundle.digest)
    assert record.decided_at == scene.clock.wall


def test_without_a_token_everything_is_refused_and_recorded(scene: Scene, log: ActionLog) -> None:
    ruling = scene.gatekeeper(log).ask(READ, b"{}", gate="socket")

    assert (ruling.permit, codes(ruling), ruling.sequence) == (False, ["hold"], 1)
    assert len(records(scene)) == 1


@pytest.mark.parametrize("wall, boot", [(60, 0.0), (0, 60.0), (-3600, 60.0)])
def test_token_dead_by_either_clock_permits_nothing(scene: Scene, log: ActionLog, wall: int, boot: float) -> None:
    scene.renew()
    scene.clock.wall += wall
    scene.clock.since_boot += boot

    assert not scene.gatekeeper(log).ask(READ, b"{}", gate="socket").permit


@pytest.mark.parametrize(
    "action, code",
    [
        (Action("tool.call", "mcp:other/read", Digest.of(b"{}")), "grant-missing"),
        (Action("http.post", "mcp:notes/read", Digest.of(b"{}")), "grant-missing"),
        (Action("tool.call", "mcp:notes/wipe", Digest.of(b"{}")), "policy-refused"),
    ],
)
def test_grant_and_policy_refuse(scene: Scene, log: ActionLog, action: Action, code: str) -> None:
    scene.renew()

    assert codes(scene.gatekeeper(log).ask(action, b"{}", gate="socket")) == [code]


def test_what_was_cut_is_refused_for_that_reason_until_it_is_mended(scene: Scene, log: ActionLog) -> None:
    scene.renew()
    gatekeeper = scene.gatekeeper(log)
    gatekeeper.cut(DRIFT)
    assert codes(gatekeeper.ask(READ, b"{}", gate="socket")) == ["instance-drifted"]
    gatekeeper.mend()
    assert gatekeeper.ask(READ, b"{}", gate="socket").permit


def observing(scene: Scene, log: ActionLog) -> Gatekeeper:
    return Gatekeeper(
        credential=scene.credential, log=log, clock=scene.clock, observes=(Grant("tool.call", "mcp:notes/*"),),
    )  # fmt: skip


def test_observed_action_passes_and_its_record_is_a_refusal(scene: Scene, log: ActionLog) -> None:
    scene.renew()
    gatekeeper = observing(scene, log)
    granted = gatekeeper.ask(READ, b"{}", gate="socket")
    other = gatekeeper.ask(replace(READ, resource="mcp:mail/send"), b"{}", gate="socket")
    assert gatekeeper.outcome(granted, done=True, result=b"")

    assert [(r.permit, r.observed, r.held) for r in (granted, other)] == [(True, True, None)] * 2, "not even a token that is there is used"
    assert [codes(granted), codes(other)] == [["observed"], ["observed", "grant-missing"]]
    first, second, _ = records(scene)
    for record in (first, second):
        assert isinstance(record, ActionRecord)
        assert (record.permit, record.token, record.bundle, record.reasons[0].code) == (False, None, None, "observed")


def test_observed_action_does_not_pass_where_the_gate_cannot_or_all_is_cut_or_no_record_is(scene: Scene, log: ActionLog) -> None:
    gatekeeper = observing(scene, log)
    unknown = gatekeeper.ask(READ, b"{}", gate="socket", against=Reason("unknown-tool", "tool", "one", "none"))
    gatekeeper.cut(DRIFT)
    cut = gatekeeper.ask(READ, b"{}", gate="socket")
    full = scene.log(scene.folder.parent, Failing)
    unrecorded = observing(scene, full).ask(READ, b"{}", gate="socket")
    full.close()
    assert [(r.permit, codes(r)[0]) for r in (unknown, cut, unrecorded)] == [
        (False, "unknown-tool"), (False, "instance-drifted"), (False, "record-not-durable"),
    ]  # fmt: skip


def test_observed_action_that_was_overtaken_does_not_pass(scene: Scene) -> None:
    log = scene.log(scene.folder, Slow)
    assert isinstance(log, Slow)
    gatekeeper = observing(scene, log)
    log.meanwhile = lambda: gatekeeper.cut(DRIFT)
    assert not gatekeeper.ask(READ, b"{}", gate="socket").permit
    log.close()


class Slow(ActionLog):
    """A log in which something happens between decision and durability."""

    meanwhile: object = None

    def append(self, draft: ActionDraft | OutcomeDraft, content: bytes) -> Recorded:
        """Append, and then let it happen, once."""
        recorded = super().append(draft, content)
        happens, self.meanwhile = self.meanwhile, None
        if callable(happens):
            happens()
        return recorded


@pytest.mark.parametrize("what", ["cut", "expiry"])
def test_permit_that_was_overtaken_does_not_pass_and_fails_in_the_log(scene: Scene, what: str) -> None:
    log = scene.log(scene.folder, Slow)
    assert isinstance(log, Slow)
    scene.renew()
    gatekeeper = scene.gatekeeper(log)

    def expire() -> None:
        scene.clock.since_boot += 61

    log.meanwhile = (lambda: gatekeeper.cut(DRIFT)) if what == "cut" else expire
    ruling = gatekeeper.ask(READ, b"{}", gate="socket")
    log.close()

    assert not ruling.permit
    assert codes(ruling) == ["instance-drifted" if what == "cut" else "hold"]
    first, second = records(scene)
    assert isinstance(first, ActionRecord)
    assert isinstance(second, OutcomeRecord)
    assert (first.permit, second.of, second.outcome) == (True, first.sequence, "failed")


class Failing(ActionLog):
    """A log on a disk that is full."""

    def append(self, draft: ActionDraft | OutcomeDraft, content: bytes) -> Recorded:
        """Never."""
        raise Unavailable("action log", "disk full")


def test_record_that_cannot_be_made_refuses(scene: Scene) -> None:
    log = scene.log(scene.folder, Failing)
    scene.renew()
    ruling = scene.gatekeeper(log).ask(READ, b"{}", gate="socket")
    log.close()

    assert (ruling.permit, codes(ruling), ruling.sequence) == (False, ["record-not-durable"], None)


def test_records_name_the_one_before(scene: Scene, log: ActionLog) -> None:
    scene.renew()
    gatekeeper = scene.gatekeeper(log)
    first = gatekeeper.ask(READ, b"{}", gate="socket")
    gatekeeper.outcome(first, done=True, result=b"1")
    gatekeeper.ask(READ, b"{}", gate="socket")
    reader = LogReader(scene.folder, scene.instance)
    _, first_record, _, second_record = [entry.record for entry in reader.entries()]

    assert isinstance(first_record, ActionRecord)
    assert isinstance(second_record, ActionRecord)
    assert (first_record.parent, second_record.parent) == (None, reader.leaf_hashes[1])


def test_outcome_of_a_refusal_is_misuse(scene: Scene, log: ActionLog) -> None:
    gatekeeper: Gatekeeper = scene.gatekeeper(log)
    with pytest.raises(Misuse):
        gatekeeper.outcome(gatekeeper.ask(READ, b"{}", gate="socket"), done=True, result=b"")


def test_engine_that_raises_refuses_with_its_reason_on_record_and_is_not_remembered(
    scene: Scene, log: ActionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, gatekeeper = scene.renew(), scene.gatekeeper(log)

    def is_authorized(*_: object) -> None:
        raise ValueError("a fault of the engine")

    with monkeypatch.context() as broken:
        broken.setattr("cedarpy.is_authorized", is_authorized)
        assert codes(gatekeeper.ask(READ, b"{}", gate="socket")) == ["policy-error"]
    (record,) = records(scene)
    assert isinstance(record, ActionRecord)
    assert (record.permit, record.token, [reason.code for reason in record.reasons]) == (False, held.token.digest, ["policy-error"])
    assert gatekeeper.ask(READ, b"{}", gate="socket").permit


def test_remembered_decision_is_recorded_as_of_its_own_second(scene: Scene, log: ActionLog) -> None:
    scene.renew()
    gatekeeper = scene.gatekeeper(log)
    for _ in range(3):
        assert gatekeeper.ask(READ, b"{}", gate="socket").permit
        scene.clock.wall += 1
        scene.clock.since_boot += 1.0
    made = [record.decided_at for record in records(scene) if isinstance(record, ActionRecord)]
    assert [cbor2.loads(context)["now"] for context in contexts(scene)] == made
    assert len(set(contexts(scene))) == 3


COUNTED = """permit(principal, action == Writ::Action::"tool.call", resource) when { context has used && context.used < 5 };
forbid(principal, action, resource == Writ::Resource::"mcp:notes/drop");"""


def counting(scene: Scene) -> None:
    scene.attestor.policies, scene.attestor.schema = COUNTED, cedar_schema()
    scene.attestor.version += 1
    scene.renew()


def test_policy_may_bound_how_often_and_refusals_do_not_count(scene: Scene, log: ActionLog) -> None:
    counting(scene)
    gatekeeper = scene.gatekeeper(log)
    drop = replace(READ, resource="mcp:notes/drop")
    asked = [gatekeeper.ask(action, b"{}", gate="socket").permit for action in (READ, drop, READ, drop, READ, READ, READ, READ, READ)]
    assert asked == [True, False, True, False, True, True, True, False, False]


def test_count_goes_on_from_the_log(scene: Scene) -> None:
    counting(scene)
    first = scene.log(scene.folder)
    before = scene.gatekeeper(first)
    assert [before.ask(READ, b"{}", gate="socket").permit for _ in range(3)] == [True] * 3
    first.close()
    again = scene.log(scene.folder)
    try:
        after = scene.gatekeeper(again)
        assert [after.ask(READ, b"{}", gate="socket").permit for _ in range(4)] == [True, True, False, False]
    finally:
        again.close()


def test_callers_at_once_never_pass_more_often_than_the_policy_says(scene: Scene, log: ActionLog) -> None:
    counting(scene)
    gatekeeper = scene.gatekeeper(log)
    with ThreadPoolExecutor(8) as pool:
        passed = list(pool.map(lambda _: gatekeeper.ask(READ, b"{}", gate="socket").permit, range(40)))
    assert sum(passed) == 5
    assert sorted(used_of(one) or 0 for one in contexts(scene, permit=True)) == [0, 1, 2, 3, 4]


def test_first_use_is_the_first_though_two_ask_at_once(scene: Scene, log: ActionLog) -> None:
    """What is being decided, and will be refused, is no permit before."""
    scene.attestor.policies = (
        """permit(principal, action == Writ::Action::"tool.call", resource) when { context has used && context.used >= 1 };"""
    )
    scene.attestor.schema = cedar_schema()
    scene.attestor.version += 1
    scene.renew()
    gatekeeper = scene.gatekeeper(log)
    with ThreadPoolExecutor(8) as pool:
        passed = list(pool.map(lambda _: gatekeeper.ask(READ, b"{}", gate="socket").permit, range(64)))
    assert not any(passed)
    assert {used_of(one) for one in contexts(scene)} == {0}


def test_permit_that_may_be_on_record_counts(scene: Scene, log: ActionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    counting(scene)
    gatekeeper = scene.gatekeeper(log)
    with monkeypatch.context() as patch:
        patch.setattr(log, "append", lambda *_: (_ for _ in ()).throw(Unavailable("action log", "late")))
        assert [gatekeeper.ask(READ, b"{}", gate="socket").permit for _ in range(2)] == [False] * 2
    assert [gatekeeper.ask(READ, b"{}", gate="socket").permit for _ in range(4)] == [True, True, True, False]

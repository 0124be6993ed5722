"""From the public log alone: where a lineage stood, and that what is handed over leads there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from tests.world.scene import Scene, permitted, sign_token, sixteen
from writ.formats.anchor import AnchorRow
from writ.formats.decision import AttestDecision, encode_entry, parse_entry
from writ.formats.reason import Reason
from writ.formats.tlog.merkle import EMPTY_FRONTIER, frontier_root, leaf_hash
from writ.verdict.carried import Carried, CarriedLogs, carriage_of, judge_carried

ONE = sixteen("one")


def carried_of(decisions: Iterable[AttestDecision], instance: bytes) -> Carried:
    logs = CarriedLogs()
    for decision in decisions:
        logs.take(carriage_of(decision))
    return logs.of[instance]


def judged(carried: Carried, leaves: Sequence[bytes]) -> list[str]:
    reasons: tuple[Reason, ...] = judge_carried(carried.checkpoints, [leaf_hash(leaf) for leaf in leaves], "log")
    return [reason.code for reason in reasons]


def story() -> tuple[Scene, list[AttestDecision]]:
    """Four renewals, with two actions between each, a minute apart; decisions as anybody reads them."""
    scene = Scene()
    scene.launch("one")
    scene.launch("two")
    found = []
    for _ in range(4):
        verdict = scene.attest("one", "two")
        entry = parse_entry(encode_entry(verdict.entry))
        assert isinstance(entry, AttestDecision)
        found.append(entry)
        claims = permitted(verdict)
        for at in range(2):
            scene.act("one", sign_token(claims), claims, resource=f"files/{at}")
        scene.now += 30
    return scene, found


def test_honest_log_leads_to_every_checkpoint_that_the_public_log_names() -> None:
    scene, decisions = story()
    carried = carried_of(decisions, ONE)
    leaves = scene.running["one"].leaves
    assert carried.reasons == []
    assert [one.size for one in carried.checkpoints] == [0, 3, 5, 7]
    assert [one.at for one in carried.checkpoints] == [decision.decided_at for decision in decisions]
    assert judged(carried, leaves) == []
    assert len(leaves) == 9, "what came behind the last checkpoint is the stated window"
    assert judged(carried, leaves[:7]) == []


def test_a_checkpoint_that_stays_is_one_until_the_last_that_was_asked_for() -> None:
    scene, decisions = story()
    idle = [parse_entry(encode_entry(scene.attest("one").entry)) for _ in range(2)]
    assert all(isinstance(entry, AttestDecision) for entry in idle)
    carried = carried_of([*decisions, *(entry for entry in idle if isinstance(entry, AttestDecision))], ONE)
    assert [one.size for one in carried.checkpoints] == [0, 3, 5, 7, 9]
    assert carried.checkpoints[-1].at == scene.now
    assert carried.checkpoints[-1].until == scene.now - 2


@pytest.mark.parametrize("size", [0, 1, 4, 6])
def test_log_that_was_put_back_behind_a_checkpoint_is_found(size: int) -> None:
    scene, decisions = story()
    assert judged(carried_of(decisions, ONE), scene.running["one"].leaves[:size]) == ["action-log-cut"]


@pytest.mark.parametrize("at", range(7))
def test_record_that_was_dropped_or_changed_before_a_checkpoint_is_found(at: int) -> None:
    scene, decisions = story()
    carried = carried_of(decisions, ONE)
    leaves = scene.running["one"].leaves
    for lie in ([*leaves[:at], *leaves[at + 1 :]], [*leaves[:at], b"another", *leaves[at + 1 :]]):
        assert judged(carried, lie) == ["action-log-altered"]
    first = next(one.size for one in carried.checkpoints if one.size > at)
    (reason,) = judge_carried(carried.checkpoints, [leaf_hash(leaf) for leaf in [*leaves[:at], b"another", *leaves[at + 1 :]]], "log")
    assert reason.claim.endswith(f" to {first - 1}"), "the first checkpoint that it does not lead to says where"


def test_lineage_that_forked_or_fell_is_seen_in_the_public_log_alone() -> None:
    _, decisions = story()

    def lied(at: int, **changed: object) -> list[AttestDecision]:
        outcomes = tuple(replace(one, **changed) if one.instance == ONE else one for one in decisions[at].outcomes)  # type: ignore[arg-type]
        return [*decisions[:at], replace(decisions[at], outcomes=outcomes), *decisions[at + 1 :]]

    for lie in (lied(2, log_size=2), lied(2, log_size=3)):
        assert [reason.code for reason in carried_of(lie, ONE).reasons] == ["action-log-forked"]
        assert carried_of(lie, sixteen("two")).reasons == [], "its neighbour did nothing"


def test_an_instance_of_two_hosts_is_a_finding_about_the_second_and_says_nothing_of_the_first() -> None:
    """Ids are public: whoever has root on another host launches what it likes under one, in any order of attestations after the first."""
    _, decisions = story()
    twin = [replace(one, host="host-2", namespace="evil") for one in decisions]
    logs = CarriedLogs()
    for decision in (decisions[0], twin[3], decisions[1], twin[0], *decisions[2:]):
        logs.take(carriage_of(decision))
    assert logs.of[ONE] == carried_of(decisions, ONE)
    twins = [reason for reason in logs.twins if reason.claim.startswith(ONE.hex())]
    assert [(reason.code, reason.expected, reason.got) for reason in twins] == [
        ("action-log-forked", "an instance of host-1", "one of host-2")
    ]
    other = logs.elsewhere[ONE, "host-2"]
    assert (other.size, [reason.code for reason in other.reasons]) == (7, ["action-log-forked"]), "its own history fell"
    assert [list(logs.on(name)) for name in ("billing", "evil", "none")] == [[ONE, sixteen("two")], [ONE, sixteen("two")], []]


def test_anchors_of_an_instance_on_another_host_are_none_of_it() -> None:
    """Whoever has root there extends what it likes; the verifier refuses its host, and the public log names the anchors."""
    _, decisions = story()
    other = Scene(host="host-2")
    other.anchor(rows=(AnchorRow(ONE, 1, bytes(32)),))
    forged = other.judge(other.evidence()).entry
    assert forged.anchors is not None
    logs = CarriedLogs((ONE,))
    for decision in (decisions[0], forged, *decisions[1:]):
        logs.take(carriage_of(decision))
    assert logs.of[ONE].anchored == []
    assert logs.of == {ONE: carried_of(decisions, ONE), sixteen("two"): logs.of[sixteen("two")]}
    assert [one.root for one in logs.elsewhere[ONE, "host-2"].anchored] == [bytes(32)]


def test_a_host_that_was_not_believed_does_not_make_an_instance_its_own() -> None:
    """Its checkpoint of somebody else's instance was not taken; what the instance's host carries then is."""
    _, decisions = story()
    unknown = Reason("instance-unknown", "instance", "one of the log", "none")
    claimed = tuple(replace(one, claims=None, reasons=(unknown,)) for one in decisions[0].outcomes)
    carried = carried_of([replace(decisions[0], host="host-2", outcomes=claimed), *decisions], ONE)
    assert (carried.host, carried.reasons, carried.size) == ("host-1", [], 7)


def test_fork_that_the_verifier_refused_is_a_finding_and_no_checkpoint() -> None:
    scene, decisions = story()
    forked = replace(scene.running["one"].request(), log_root=frontier_root(EMPTY_FRONTIER), log_proof=())
    entry = scene.judge(scene.evidence(requests=(forked,))).entry
    carried = carried_of([*decisions, entry], ONE)
    assert carried.checkpoints == carried_of(decisions, ONE).checkpoints
    assert [reason.code for reason in carried.reasons] == ["action-log-forked"]
    assert entry.outcomes[0].log_root == forked.log_root, "what was carried is named, though nothing came of it"


def test_checkpoint_from_another_base_is_neither() -> None:
    scene, decisions = story()
    entry = scene.judge(scene.evidence(requests=(replace(scene.running["one"].request(), log_from=1, log_proof=()),))).entry
    assert {reason.code for reason in entry.outcomes[0].reasons} == {"action-log-base"}
    assert carried_of([*decisions, entry], ONE) == carried_of(decisions, ONE)


def test_of_instances_whose_log_is_not_at_hand_the_last_checkpoint_is_kept() -> None:
    _, decisions = story()
    logs = CarriedLogs({sixteen("two")})
    for decision in decisions:
        logs.take(carriage_of(decision))
    assert [one.size for one in logs.of[ONE].checkpoints] == [7]

"""From the public log alone: where a lineage stood, and that what is handed over leads there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.scene import Scene, permitted, sign_token, sixteen
from writ.formats.decision import AttestDecision, encode_entry, parse_entry
from writ.formats.tlog.merkle import EMPTY_FRONTIER, frontier_root
from writ.verdict.carried import carried_of, judge_carried

ONE = sixteen("one")


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
    checkpoints, wrong = carried_of(decisions, ONE)
    assert wrong == ()
    assert [size for _, size, _ in checkpoints] == [0, 3, 5, 7]
    assert judge_carried(checkpoints, scene.running["one"].leaves) == ()
    assert len(scene.running["one"].leaves) == 9, "what came behind the last checkpoint is the stated window"
    assert judge_carried(checkpoints, scene.running["one"].leaves[:7]) == ()


@pytest.mark.parametrize("size", [0, 1, 4, 6])
def test_log_that_was_put_back_behind_a_checkpoint_is_found(size: int) -> None:
    scene, decisions = story()
    checkpoints, _ = carried_of(decisions, ONE)
    wrong = judge_carried(checkpoints, scene.running["one"].leaves[:size])
    assert {reason.code for reason in wrong} == {"consistency-invalid"}
    assert len(wrong) == sum(1 for _, known, _ in checkpoints if known > size)


@pytest.mark.parametrize("at", range(7))
def test_record_that_was_dropped_or_changed_before_a_checkpoint_is_found(at: int) -> None:
    scene, decisions = story()
    checkpoints, _ = carried_of(decisions, ONE)
    leaves = scene.running["one"].leaves
    for lie in ([*leaves[:at], *leaves[at + 1 :]], [*leaves[:at], b"another", *leaves[at + 1 :]]):
        assert {reason.code for reason in judge_carried(checkpoints, lie)} == {"consistency-invalid"}


def test_lineage_that_forked_or_fell_is_seen_in_the_public_log_alone() -> None:
    _, decisions = story()

    def lied(at: int, **changed: object) -> list[AttestDecision]:
        outcomes = tuple(replace(one, **changed) if one.instance == ONE else one for one in decisions[at].outcomes)  # type: ignore[arg-type]
        return [*decisions[:at], replace(decisions[at], outcomes=outcomes), *decisions[at + 1 :]]

    assert len(carried_of(lied(2, log_size=2), ONE)[1]) == 1, "fell"
    assert len(carried_of(lied(2, log_size=3), ONE)[1]) == 1, "the size of before, with another root"
    assert carried_of(lied(2, log_size=2), sixteen("two"))[1] == (), "its neighbour did nothing"


def test_fork_that_the_verifier_refused_is_a_finding_and_no_checkpoint() -> None:
    scene, decisions = story()
    forked = replace(scene.running["one"].request(), log_root=frontier_root(EMPTY_FRONTIER), log_proof=())
    entry = scene.judge(scene.evidence(requests=(forked,))).entry
    checkpoints, wrong = carried_of([*decisions, entry], ONE)
    assert len(checkpoints) == len(decisions)
    (reason,) = wrong
    assert reason.got == "action-log-inconsistent"
    assert entry.outcomes[0].log_root == forked.log_root, "what was carried is named, though nothing came of it"


def test_checkpoint_from_another_base_is_neither() -> None:
    scene, decisions = story()
    entry = scene.judge(scene.evidence(requests=(replace(scene.running["one"].request(), log_from=1, log_proof=()),))).entry
    assert {reason.code for reason in entry.outcomes[0].reasons} == {"action-log-base"}
    assert carried_of([*decisions, entry], ONE) == carried_of(decisions, ONE)

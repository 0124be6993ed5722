"""What is relayed is believed only as far as the pinned decision key reaches, and dies on time by either clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from enforcer.credential import Credential, Held, accept, renew_in
from tests.enforcer.scene import Scene
from tests.world.attestor import Attestor
from tests.world.tlog import MemoryLog
from writ.formats.decision import CONTENT_TYPE as DECISION_TYPE
from writ.formats.errors import FormatError, Refused
from writ.formats.grants import grant_set
from writ.formats.local import TokenGiven
from writ.formats.policy_bundle import CONTENT_TYPE
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.trust import Trust
from writ.verdict.transparency import Logged


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_genuine_answer_is_accepted(scene: Scene) -> None:
    held = scene.accept(scene.give())

    assert held.life == 60
    assert held.token.claims.instance == scene.subject.instance


FORGERIES: dict[str, Callable[[Scene], TokenGiven]] = {
    "decision by another key": lambda s: replace(
        s.give(), decision=Attestor(s.attestor.path, {}, instances=s.attestor.instances).give(s.ask, now=s.clock.wall).decision
    ),
    "all by keys that the relay made": lambda s: Attestor(s.attestor.path, {}, instances=s.attestor.instances).give(
        s.ask, now=s.clock.wall
    ),
    "token by a key the relay made": lambda s: replace(
        s.give(),
        token_keys=(forged := Attestor(s.attestor.path, {}, instances=s.attestor.instances)).give(s.ask).token_keys,
        token=forged.give(s.ask).token,
    ),
    "token of another decision": lambda s: replace(s.give(), token=s.give().token),
    "policy by another key": lambda s: replace(s.give(), policy=Attestor(s.attestor.path, {}).sign(b"", CONTENT_TYPE)),
    "policy where the decision belongs": lambda s: replace(s.give(), decision=s.give().policy),
    "decision where the policy belongs": lambda s: replace(s.give(), policy=s.give().decision),
    "another EAR": lambda s: replace(s.give(), result=b"another"),
    "no token keys": lambda s: replace(s.give(), token_keys=()),
    "for another instance": lambda s: s.give(instance=bytes(16)),
    "for another agent": lambda s: s.give(agent=AgentId("example.org", "test", "b")),
    "for another key": lambda s: s.give(key=bytes(32)),
    "for another audience": lambda s: s.give(audience="urn:other"),
    "by another issuer": lambda s: s.give(issuer="https://other.example"),
    "more grants than asked for": lambda s: s.give(grants=grant_set([*s.subject.grants, ("tool.call", "mcp:other/*")])),
    "a parent it does not have": lambda s: s.give(lineage=(bytes(16),)),
    "another host": lambda s: s.give(host="host-2"),
    "expired": lambda s: s.give(expires_at=s.clock.wall),
    "longer than the ceiling": lambda s: s.give(expires_at=s.clock.wall + 301),
    "another policy": lambda s: s.give(policy=replace(s.attestor.bundle(), version=9).digest),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_answer_is_refused(scene: Scene, name: str) -> None:
    given = FORGERIES[name](scene)
    with pytest.raises((Refused, FormatError)):
        scene.accept(given)


@pytest.mark.parametrize("part", ["decision", "policy"])
def test_no_flipped_bit_of_a_signed_part_is_accepted(scene: Scene, part: str) -> None:
    given = scene.give()
    data: bytes = getattr(given, part)
    for at in range(0, len(data), max(1, len(data) // 60)):
        spoilt = bytearray(data)
        spoilt[at] ^= 1
        with pytest.raises((Refused, FormatError)):
            scene.accept(replace(given, **{part: bytes(spoilt)}))  # type: ignore[arg-type]  # the name is of a bytes field


def test_no_flipped_character_of_the_token_is_accepted(scene: Scene) -> None:
    given = scene.give()
    for at in range(0, len(given.token), 9):
        flipped = given.token[:at] + ("A" if given.token[at] != "A" else "B") + given.token[at + 1 :]
        with pytest.raises((Refused, FormatError)):
            scene.accept(replace(given, token=flipped))


def test_refusal_in_the_decision_is_a_refusal_here(scene: Scene) -> None:
    from writ.formats.cose import parse_sign1
    from writ.formats.decision import encode_entry, parse_entry
    from writ.formats.reason import Reason

    given = scene.give()
    entry = parse_entry(parse_sign1(given.decision).payload or b"")
    reasons = (Reason("component-mismatch", "a", "b", "c"),)
    signed = scene.attestor.sign(encode_entry(replace(entry, reasons=reasons)), DECISION_TYPE)  # type: ignore[arg-type]  # an AttestDecision
    with pytest.raises(Refused, match="component-mismatch"):
        scene.accept(replace(given, decision=signed, receipt=scene.attestor.log.take(signed)))


def test_older_policy_is_refused_and_a_later_one_is_not(scene: Scene) -> None:
    scene.attestor.version = 5
    scene.accept(scene.give())
    scene.attestor.version = 4
    with pytest.raises(Refused, match="policy-rollback"):
        scene.accept(scene.give())
    scene.attestor.version = 6
    scene.accept(scene.give())


def test_another_policy_of_the_same_version_is_refused(scene: Scene) -> None:
    scene.accept(scene.give())
    scene.attestor.policies += '\n@id("more") permit (principal, action == Writ::Action::"tool.call", resource);'
    with pytest.raises(Refused, match="policy-rollback"):
        scene.accept(scene.give())


def test_token_dies_by_the_wall_clock(scene: Scene) -> None:
    credential = Credential(scene.clock)
    credential.take(scene.accept(scene.give()))
    scene.clock.wall += 59
    assert credential.current() is not None
    scene.clock.wall += 1
    assert credential.current() is None


def test_token_dies_by_the_boot_clock_though_the_wall_clock_was_set_back(scene: Scene) -> None:
    credential = Credential(scene.clock)
    credential.take(scene.accept(scene.give()))
    scene.clock.since_boot += 59
    scene.clock.wall -= 3600
    assert credential.current() is not None
    scene.clock.since_boot += 1.5
    assert credential.current() is None
    assert credential.remaining() == 0


def test_token_held_before_is_not_taken_again(scene: Scene) -> None:
    credential, held = Credential(scene.clock), scene.accept(scene.give())
    credential.take(held)
    credential.drop()
    with pytest.raises(Refused, match="conflict"):
        credential.take(held)
    assert credential.current() is None


def test_renewal_comes_after_half_of_the_life_give_or_take_a_tenth() -> None:
    assert renew_in(60, 0.0) == pytest.approx(27)
    assert renew_in(60, 0.5) == pytest.approx(30)
    assert renew_in(60, 0.999999) == pytest.approx(33)


# --- the receipt -----------------------------------------------------------------------------------------------------------


def refusal(call: Callable[[], object]) -> Reason:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.reasons[0]


def test_a_token_comes_with_the_receipt_of_its_decision_where_the_trust_file_names_a_log(scene: Scene) -> None:
    given = scene.give()
    held = scene.accept(given)
    assert held.logged is not None
    assert (held.logged.origin, held.logged.index, held.logged.size) == ("verifier.example.org/log", 1, 2)
    assert refusal(lambda: scene.accept(replace(given, receipt=None))).code == "receipt-missing"
    unlogged = replace(scene.attestor.trust(), log_keys=())
    assert taken(scene, replace(given, receipt=None), trust=unlogged).logged is None
    assert taken(scene, replace(given, receipt=b"rubbish"), trust=unlogged).logged is None


def taken(scene: Scene, given: TokenGiven, *, trust: Trust | None = None, after: Sequence[Logged] = ()) -> Held:
    wall, boot = scene.clock.wall, scene.clock.since_boot
    return accept(given, scene.subject, trust or scene.attestor.trust(), scene.bundles, wall=wall, boot=boot, after=after)


def test_a_receipt_of_another_decision_log_key_or_size_is_refused(scene: Scene) -> None:
    given, other = scene.give(), scene.give()
    elsewhere = Attestor(scene.attestor.path, {}).log
    for receipt, code in (
        (other.receipt, "receipt-invalid"),
        (elsewhere.take(given.decision), "receipt-invalid"),
        (MemoryLog([b"genesis", given.decision]).receipt(1), "trust-root-unknown"),
    ):
        assert refusal(lambda receipt=receipt: scene.accept(replace(given, receipt=receipt))).code == code  # type: ignore[misc] # a default
    for at in range(0, len(given.receipt or b""), 3):
        spoilt = bytearray(given.receipt or b"")
        spoilt[at] ^= 1
        with pytest.raises((Refused, FormatError)):
            scene.accept(replace(given, receipt=bytes(spoilt)))


def test_a_decision_that_stands_before_the_last_one_or_in_a_shorter_log_is_of_a_verifier_that_lost_something(scene: Scene) -> None:
    first, second = scene.give(), scene.give()
    before, later = taken(scene, first).logged, taken(scene, second).logged
    assert before is not None
    assert later is not None
    assert taken(scene, second, after=(before,)).logged == later
    assert taken(scene, first, after=(replace(later, origin="another.example.org/log"),)).logged == before
    reason = refusal(lambda: taken(scene, first, after=(later,)))
    assert (reason.code, reason.claim, reason.got) == ("verifier-rolled-back", "receipt.index", "entry 1 of 2")
    assert taken(scene, second, after=(later,)).logged == later, "the same once more: the credential refuses its token"
    assert refusal(lambda: taken(scene, second, after=(replace(before, size=9),))).code == "verifier-rolled-back"

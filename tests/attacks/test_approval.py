"""Approvals stolen, forged and used again, against a gatekeeper with a real log: each is useless."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cbor2
import pytest

from enforcer import approvals as held
from enforcer.approvals import Approvals
from enforcer.gatekeeper import Gatekeeper, Ruling
from enforcer.papers import PAPERS_FILE, keep_object, kept
from enforcer.record import Entry
from enforcer.shadow import Decided, Shadow
from tests.enforcer.records import entries_of
from tests.enforcer.scene import Scene
from tests.signers import new_signer
from tests.world.approvals import ALICE, BOB, PEOPLE, POLICIES, SCHEMA
from writ.formats.action import Action
from writ.formats.approval import CONTENT_TYPE, Approval, encode_approval, parse_signed_approval, sign_approval
from writ.formats.cose import encode_sign1
from writ.formats.digest import Digest
from writ.formats.errors import Unavailable
from writ.formats.keys import Signer
from writ.formats.record import ActionRecord

ARGUMENTS = b'{"to":"alice"}'
SEND = Action("tool.call", "mcp:notes/send", Digest.of(ARGUMENTS))


class Place:
    """One instance whose policy asks a person, with its gatekeeper, log and approvals."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.scene = Scene(folder)
        attestor = self.scene.attestor
        attestor.schema, attestor.policies = SCHEMA, POLICIES
        attestor.settings = replace(attestor.settings, approvers=PEOPLE, token_life=300)
        self.log = self.scene.log(folder)
        self.held = self.scene.renew()
        self.begin()

    def begin(self) -> None:
        """A holder's memory, as a launch or a takeover begins it."""
        self.approvals = Approvals(self.scene.instance, self.scene.clock, lambda signed: keep_object(self.scene.folder, signed))
        self.gatekeeper: Gatekeeper = self.scene.gatekeeper(self.log, approvals=self.approvals)

    def ask(self, action: Action = SEND, arguments: bytes = ARGUMENTS) -> Ruling:
        """The agent asks."""
        return self.gatekeeper.ask(action, arguments, gate="socket")

    def entry(self, ruling: Ruling) -> Entry:
        """Where it is recorded."""
        (entry,) = (one for one in entries_of(self.scene.folder, self.scene.instance) if one.record.sequence == ruling.sequence)
        return entry

    def record(self, ruling: Ruling) -> ActionRecord:
        """What was recorded of it."""
        record = self.entry(ruling).record
        assert isinstance(record, ActionRecord)
        return record

    def context(self, ruling: Ruling) -> dict[str, Any]:
        """What its decision saw."""
        context = self.entry(ruling).context
        assert context is not None
        return dict(cbor2.loads(context))

    def wanted(self, ruling: Ruling) -> Approval:
        """What a person is to sign of a refusal."""
        record, now = self.record(ruling), self.scene.clock.wall
        assert record.bundle is not None
        assert ruling.leaf is not None
        return Approval(
            self.scene.instance, record.action, record.resource, record.arguments, record.bundle, record.gate, ruling.leaf, now, now + 300,
            bytes(16),
        )  # fmt: skip

    def give(self, signed: bytes) -> list[str]:
        """An operator hands it over; the codes of what stands against it."""
        return [reason.code for reason in self.approvals.give(signed, self.scene.credential.current())]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "one")
    yield made
    made.log.close()


def codes(ruling: Ruling) -> list[str]:
    return [reason.code for reason in ruling.reasons]


def approved(place: Place, by: Signer = ALICE) -> bytes:
    """An approval of what was just refused, taken."""
    signed = sign_approval(place.wanted(place.ask()), by)
    assert place.give(signed) == []
    return signed


# --- what is right, passes once ------------------------------------------------------------------------------------------


def test_approved_action_passes_once_and_its_record_names_the_approval_that_lies_beside_it(place: Place) -> None:
    assert codes(place.ask()) == ["approval-required"]
    signed = approved(place, BOB)
    ruling = place.ask()
    assert ruling.permit
    assert place.context(ruling)["approval"] == str(Digest.of(signed))
    assert kept(place.scene.folder).by_digest()[Digest.of(signed)] == signed
    assert codes(place.ask()) == ["approval-required"]


def test_of_many_who_ask_at_once_one_passes(place: Place) -> None:
    approved(place)
    with ThreadPoolExecutor(8) as pool:
        rulings = list(pool.map(lambda _: place.ask(), range(24)))
    assert sum(ruling.permit for ruling in rulings) == 1


def test_approval_is_left_alone_by_every_other_action(place: Place) -> None:
    approved(place)
    assert place.ask(replace(SEND, resource="mcp:notes/read")).permit
    assert place.ask().permit


def test_shadow_is_told_of_the_approval(place: Place) -> None:
    seen: list[Decided] = []
    shadow = cast("Shadow", SimpleNamespace(saw=seen.append))
    place.gatekeeper = place.scene.gatekeeper(place.log, shadow, place.approvals)
    approved(place)
    assert place.ask().permit
    assert [one.consent and one.consent.approver for one in seen] == [None, "alice"]


# --- stolen --------------------------------------------------------------------------------------------------------------


def test_stolen_approval_is_useless_in_another_instance(place: Place, tmp_path: Path) -> None:
    signed = sign_approval(place.wanted(place.ask()), ALICE)
    other = Place(tmp_path / "two")
    refused = other.ask()
    assert other.give(signed) == ["approval-unknown"]
    assert refused.leaf is not None
    theirs = replace(other.wanted(refused), instance=place.scene.instance)
    assert other.give(sign_approval(theirs, ALICE)) == ["approval-refused"]
    assert codes(other.ask()) == ["approval-required"]
    other.log.close()


@pytest.mark.parametrize(
    "change",
    [
        {"action": "http.get"}, {"resource": "mcp:notes/send2"}, {"arguments": bytes(32)}, {"policy": Digest.of(b"another")},
        {"instance": bytes(16)}, {"gate": "egress"},
    ],
)  # fmt: skip
def test_approval_of_anything_else_is_not_taken(place: Place, change: dict[str, Any]) -> None:
    wanted = place.wanted(place.ask())
    assert place.give(sign_approval(replace(wanted, **change), ALICE)) == ["approval-refused"]
    assert codes(place.ask()) == ["approval-required"]
    assert place.give(sign_approval(wanted, ALICE)) == [], "and the right one still is"


@pytest.mark.parametrize(
    "action, arguments",
    [
        (replace(SEND, arguments=Digest.of(b'{"to":"alicf"}')), b'{"to":"alicf"}'), (replace(SEND, resource="mcp:notes/wipe"), ARGUMENTS),
    ],
)  # fmt: skip
def test_approval_is_for_these_arguments_to_the_byte_and_this_resource(place: Place, action: Action, arguments: bytes) -> None:
    approved(place)
    assert codes(place.ask(action, arguments)) == ["approval-required"]
    assert place.ask().permit


def test_approval_is_for_the_gate_at_which_it_was_asked(place: Place) -> None:
    approved(place)
    assert codes(place.gatekeeper.ask(SEND, ARGUMENTS, gate="egress")) == ["approval-required"]
    assert place.ask().permit


def test_wall_clock_that_stands_still_or_goes_back_keeps_no_approval_alive(place: Place) -> None:
    wanted = place.wanted(place.ask())
    short = sign_approval(replace(wanted, not_after=wanted.made_at + 60), ALICE)
    place.scene.clock.since_boot += 60
    assert place.give(short) == ["approval-expired"]
    place.scene.clock.wall -= 3
    assert place.give(short) == ["approval-expired"]
    longer = sign_approval(replace(wanted, not_after=wanted.made_at + 90), ALICE)
    assert place.give(longer) == []
    place.scene.clock.since_boot += 30
    assert codes(place.ask()) == ["approval-required"]


def test_approval_dies_with_the_policy_that_it_names(place: Place) -> None:
    approved(place)
    place.scene.attestor.version += 1
    place.scene.clock.advance(1)
    place.scene.renew()
    assert codes(place.ask()) == ["approval-refused"]
    assert codes(place.ask()) == ["approval-required"]


@pytest.mark.parametrize("clock", ["wall", "since_boot"])
def test_approval_is_dead_when_either_clock_says_so(place: Place, clock: str) -> None:
    wanted = place.wanted(place.ask())
    assert place.give(sign_approval(replace(wanted, not_after=wanted.made_at + 60), ALICE)) == []
    setattr(place.scene.clock, clock, getattr(place.scene.clock, clock) + 60)
    assert codes(place.ask()) == ["approval-required"]


def test_dead_or_future_approval_is_not_taken(place: Place) -> None:
    wanted = place.wanted(place.ask())
    skew = place.held.bundle.settings.clock_skew
    for made_at, not_after in ((wanted.made_at - 300, wanted.made_at), (wanted.made_at + skew + 1, wanted.made_at + 100)):
        assert place.give(sign_approval(replace(wanted, made_at=made_at, not_after=not_after), ALICE)) == ["approval-expired"]


def test_refused_action_that_waited_too_long_is_approved_no_more(place: Place) -> None:
    ruling = place.ask()
    place.scene.clock.since_boot += 290
    place.scene.clock.wall += 290
    place.scene.renew()
    late = place.wanted(ruling)
    assert place.give(sign_approval(late, ALICE)) == []
    ruling = place.ask()
    assert ruling.permit
    ruling = place.ask()
    for _ in range(15):
        place.scene.clock.advance(240)
        place.scene.renew()
    assert place.give(sign_approval(place.wanted(ruling), ALICE)) == ["approval-unknown"]


# --- used again ----------------------------------------------------------------------------------------------------------


def test_approval_is_not_taken_a_second_time(place: Place) -> None:
    signed = approved(place)
    assert place.give(signed) == ["approval-unknown"], "before it was used"
    assert place.ask().permit
    assert place.give(signed) == ["approval-unknown"], "and after"
    again = sign_approval(replace(parse_signed_approval(signed).approval, id=bytes(range(16))), ALICE)
    assert place.give(again) == ["approval-unknown"], "one refusal, one approval"
    assert codes(place.ask()) == ["approval-required"]


def test_approval_is_useless_after_a_takeover_used_or_not(place: Place) -> None:
    signed = approved(place)
    place.begin()
    assert codes(place.ask()) == ["approval-required"], "what was given died with the holder"
    assert place.give(signed) == ["approval-unknown"], "and cannot be given to the next"
    assert codes(place.ask()) == ["approval-required"]


def test_approval_is_spent_though_its_action_did_not_pass(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    approved(place)

    def fails(*_: object) -> None:
        raise Unavailable("action log", "disk full")

    with monkeypatch.context() as broken:
        broken.setattr(place.log, "append", fails)
        assert codes(place.ask())[0] == "record-not-durable"
    assert codes(place.ask()) == ["approval-required"]


# --- forged --------------------------------------------------------------------------------------------------------------


def signed_as(content_type: str) -> Callable[[Place, Approval], bytes]:
    def sign(_: Place, wanted: Approval) -> bytes:
        key = ALICE.public
        return encode_sign1(
            encode_approval(wanted), algorithm=key.algorithm, kid=key.thumbprint(), sign=ALICE.sign, content_type=content_type
        )  # fmt: skip

    return sign


def grafted(_place: Place, wanted: Approval) -> bytes:
    """A signature of alice's over something else."""
    other = cbor2.loads(sign_approval(replace(wanted, id=bytes(range(16))), ALICE)).value
    protected, _, payload, _ = cbor2.loads(sign_approval(wanted, ALICE)).value
    return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, other[3]]))


@pytest.mark.parametrize(
    "forge, code",
    [
        (lambda _, wanted: sign_approval(wanted, new_signer()), "approval-refused"),
        (lambda place, wanted: sign_approval(wanted, place.scene.key), "approval-refused"),
        (lambda place, wanted: place.scene.attestor.sign(encode_approval(wanted), CONTENT_TYPE), "approval-refused"),
        (grafted, "signature-invalid"),
        (signed_as("application/vnd.writ.policy+cbor"), "malformed"),
        (lambda _, wanted: encode_approval(wanted), "malformed"),
        (lambda place, _: place.scene.give().decision, "malformed"),
    ],
    ids=["unlisted-key", "session-key", "decision-key", "grafted", "other-type", "unsigned", "decision"],
)
def test_forged_approval_is_not_taken(place: Place, forge: Callable[[Place, Approval], bytes], code: str) -> None:
    assert place.give(forge(place, place.wanted(place.ask()))) == [code]
    assert codes(place.ask()) == ["approval-required"]


def test_approval_that_comes_before_the_action_was_asked_is_not_taken(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "two")
    wanted = replace(other.wanted(other.ask()), instance=place.scene.instance)
    other.log.close()
    assert place.give(sign_approval(wanted, ALICE)) == ["approval-unknown"]
    assert codes(place.ask()) == ["approval-required"]


def test_refusal_for_another_reason_waits_for_nobody(place: Place) -> None:
    never = place.ask(replace(SEND, resource="mcp:notes/never"))
    assert codes(never) == ["policy-refused"]
    assert place.give(sign_approval(place.wanted(never), ALICE)) == ["approval-unknown"]


# --- full, on hold, and no disk ------------------------------------------------------------------------------------------


def test_full_it_forgets_nothing_and_takes_nothing_new(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "MOST_WAITING", 2)
    other = replace(SEND, resource="mcp:notes/wipe")
    first, second, third = place.ask(), place.ask(other), place.ask(replace(SEND, resource="mcp:notes/burn"))
    assert place.give(sign_approval(place.wanted(third), ALICE)) == ["approval-unknown"]
    monkeypatch.setattr(held, "MOST_GIVEN", 1)
    assert place.give(sign_approval(place.wanted(first), ALICE)) == []
    assert place.give(sign_approval(place.wanted(second), BOB)) == ["too-many-requests"]
    assert place.ask().permit
    assert place.give(sign_approval(place.wanted(second), BOB)) == []
    assert place.ask(other).permit


def test_of_one_action_asked_again_the_first_refusal_and_the_last_wait_and_each_passes_once(place: Place) -> None:
    """The first, so that an agent that asks on does not take it from a person who reads it; of those between, none."""
    first, between, last = (place.ask() for _ in range(3))
    assert place.give(sign_approval(place.wanted(between), ALICE)) == ["approval-unknown"]
    for waits in (first, last):
        signed = sign_approval(place.wanted(waits), ALICE)
        assert place.give(signed) == []
        assert place.give(signed) == ["approval-unknown"]
        assert place.ask().permit
        assert codes(place.ask()) == ["approval-required"]


def test_first_refusal_makes_room_for_a_later_one_when_its_hour_is_over(place: Place) -> None:
    first = place.ask()
    place.scene.clock.advance(int(held.WAITS) - 1)
    place.held = place.scene.renew()
    later = place.ask()
    place.scene.clock.advance(1)
    place.held = place.scene.renew()
    last = place.ask()
    assert place.give(sign_approval(place.wanted(first), ALICE)) == ["approval-unknown"]
    assert place.give(sign_approval(place.wanted(later), ALICE)) == []
    assert place.give(sign_approval(place.wanted(last), BOB)) == []


def test_same_action_with_other_arguments_or_at_another_gate_has_a_place_of_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "MOST_WAITING", 3)
    other, more = b'{"to":"bob"}', b'{"to":"carol"}'
    asked = [place.ask(), place.ask(replace(SEND, arguments=Digest.of(other)), other), place.gatekeeper.ask(SEND, ARGUMENTS, gate="proxy")]
    assert place.give(sign_approval(place.wanted(place.ask(replace(SEND, arguments=Digest.of(more)), more)), ALICE)) == ["approval-unknown"]
    for one in (*asked, place.ask()):  # one that has a place keeps it, also in a full store
        assert place.give(sign_approval(place.wanted(one), ALICE)) == []


def test_on_hold_nothing_is_taken(place: Place) -> None:
    signed = sign_approval(place.wanted(place.ask()), ALICE)
    place.scene.credential.drop()
    assert place.give(signed) == ["hold"]
    assert codes(place.ask()) == ["hold"]


def test_approval_that_cannot_be_kept_for_auditors_is_not_taken(place: Place) -> None:
    signed = sign_approval(place.wanted(place.ask()), ALICE)
    folder = place.scene.folder
    (folder / PAPERS_FILE).unlink(missing_ok=True)
    (folder / PAPERS_FILE).mkdir()
    with pytest.raises(sqlite3.Error):
        sqlite3.connect(folder / PAPERS_FILE)
    assert place.give(signed) == ["record-not-durable"]
    (folder / PAPERS_FILE).rmdir()
    assert place.give(signed) == []

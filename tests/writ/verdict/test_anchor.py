"""Anchors followed from quote to quote, and what an action log owes to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.world.chip import Chip
from tests.world.scene import ANCHOR_PCR, ENGINE_ID, RUNTIME_PCR, Scene, permitted, sign_token, sixteen
from tests.world.uefi_logs import Boot, encode_log, registers
from writ.formats.anchor import MAX_ANCHORED, MAX_BATCHES, MAX_ROWS, AnchorRow, Anchors, ShownAnchors, led
from writ.formats.decision import AttestDecision, EnrolDecision, OperatorAct, encode_entry, parse_entry
from writ.formats.evidence import Evidence
from writ.formats.state import AnchorState, encode_host_state, parse_host_state
from writ.formats.tlog.merkle import consistency_proof
from writ.verdict.anchor_audit import AnchorReplay, replay_anchors
from writ.verdict.attestation import AttestationVerdict
from writ.verdict.carried import Carriage, Carried, CarriedLogs, carriage_of, judge_anchored

ONE = sixteen("one")
Logged = AttestDecision | EnrolDecision | OperatorAct


class Story(Scene):
    """A host with two instances that have acted, and whose register of anchors the verifier knows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.decisions: list[AttestDecision] = []
        self.begin()

    def begin(self) -> None:
        """Two instances, each with a token, and the register's first value."""
        for name in ("one", "two"):
            self.launch(name)
        self.anchor()
        verdict = self.attest("one", "two")
        self.claims = permitted(verdict)
        for name in ("one", "two"):
            self.acts(name, 3)

    def acts(self, name: str, count: int, resource: str = "files/a") -> None:
        """More actions."""
        for _ in range(count):
            self.act(name, sign_token(self.claims), self.claims, resource=resource)

    def attest(self, *names: str) -> AttestationVerdict:
        verdict = super().attest(*names)
        assert self.state is not None
        self.state = parse_host_state(encode_host_state(self.state))
        entry = parse_entry(encode_entry(verdict.entry))
        assert isinstance(entry, AttestDecision)
        self.decisions.append(entry)
        self.now += 1
        return verdict

    def cut(self, name: str, size: int, *, more: int = 0) -> None:
        """Root drops what is behind `size`, and others come after it."""
        del self.running[name].leaves[size:]
        self.acts(name, more, "files/other")

    def phase(self, name: str) -> str:
        """Where the verifier has that instance."""
        assert self.state is not None
        known = self.state.runtime.find(sixteen(name))
        assert known is not None
        return known.phase

    @property
    def known(self) -> AnchorState:
        """The register as the verifier knows it."""
        assert self.state is not None
        assert self.state.anchors is not None
        return self.state.anchors


def codes(verdict: AttestationVerdict, at: int = 0) -> set[str]:
    """What stands against one request: with nothing there is a token, else there is none."""
    one = verdict.tokens[at]
    assert (one.claims is None) == bool(one.reasons)
    return {reason.code for reason in one.reasons}


def host_codes(verdict: AttestationVerdict) -> set[str]:
    return {reason.code for reason in verdict.entry.reasons}


def changed(evidence: Evidence, **anchors: object) -> Evidence:
    assert evidence.anchors is not None
    return replace(evidence, anchors=replace(evidence.anchors, **anchors))  # type: ignore[arg-type]  # a test names its fields


# --- the register ------------------------------------------------------------------------------------------------------


def test_anchors_that_lead_to_the_quoted_register_are_taken_and_each_log_that_extends_them_gets_its_token() -> None:
    story = Story()
    story.anchor("one", "two")
    story.acts("one", 2)
    story.anchor("one")
    story.acts("one", 1)
    verdict = story.attest("one", "two")

    assert (codes(verdict), codes(verdict, 1), host_codes(verdict)) == (set(), set(), set())
    assert story.known == AnchorState(ANCHOR_PCR, bytes(32), story.chip.values().get(ANCHOR_PCR))
    assert verdict.entry.anchors is not None
    assert verdict.entry.anchors.register == story.known.register


def test_renewal_without_anchors_says_nothing_of_them_and_costs_no_byte_more() -> None:
    story, plain = Story(), Scene()
    plain.launch("one")
    plain.attest("one")
    story.attest("one", "two")
    verdict = story.attest("one")
    assert verdict.entry.anchors is None
    assert encode_entry(verdict.entry)[:2] == encode_entry(plain.attest("one").entry)[:2], "the kind of an attestation without anchors"
    assert host_codes(verdict) == set()


def test_register_that_moved_and_nothing_says_why_is_refused() -> None:
    """The one check that finds an anchor that is not shown."""
    story = Story()
    story.anchor("one")
    story.anchors = None
    verdict = story.attest("one")
    assert host_codes(verdict) == {"anchor-register-mismatch"}
    assert host_codes(story.attest("one")) == {"anchor-register-mismatch"}, "for the rest of the boot"


SPOILT: dict[str, Callable[[Evidence], Evidence]] = {
    "an anchor left out": lambda e: changed(e, batches=e.anchors.batches[1:] if e.anchors else ()),
    "an anchor more": lambda e: changed(e, batches=(*e.anchors.batches, e.anchors.batches[0]) if e.anchors else ()),
    "another order": lambda e: changed(e, batches=e.anchors.batches[::-1] if e.anchors else ()),
    "another root": lambda e: changed(e, batches=((AnchorRow(ONE, 4, bytes(32)),), *(e.anchors.batches[1:] if e.anchors else ()))),
    "another register": lambda e: changed(e, pcr=12),
    "the runtime log's register": lambda e: changed(e, pcr=RUNTIME_PCR),
}


@pytest.mark.parametrize("how", SPOILT)
def test_anchors_that_do_not_lead_to_the_register_are_refused(how: str) -> None:
    story = Story()
    story.anchor("one")
    story.anchor("two")
    before = story.known
    evidence = SPOILT[how](story.evidence("one"))
    verdict = story.judge(evidence)
    assert host_codes(verdict) == {"anchor-register-mismatch"}
    assert verdict.state_after.anchors == before, "nothing of them is taken"
    assert host_codes(story.judge(story.evidence("one"))) == set()


def test_register_stays_the_one_that_was_named_first() -> None:
    """Else anchors could be shown to be none, in a register where there are none."""
    story = Story()
    story.anchor("one")
    (reason,) = story.judge(changed(story.evidence("one"), pcr=12, base=bytes(32), batches=())).entry.reasons
    assert (reason.code, reason.expected, reason.got) == ("anchor-register-mismatch", f"PCR {ANCHOR_PCR}", "PCR 12")


def test_base_is_what_the_register_held_before_the_first_anchor_of_the_boot() -> None:
    story = Story()
    for _ in range(3):
        story.acts("one", 1)
        story.anchor("one")
        story.attest("one")
    assert story.known == AnchorState(ANCHOR_PCR, bytes(32), story.chip.values().get(ANCHOR_PCR))


def test_first_evidence_of_a_boot_may_not_name_the_runtime_logs_register() -> None:
    scene = Scene()
    scene.launch("one")
    scene.anchors = Anchors(RUNTIME_PCR, scene.chip.values().get(RUNTIME_PCR), ())
    (reason,) = scene.judge(scene.evidence("one")).entry.reasons
    assert (reason.code, reason.expected) == ("anchor-register-mismatch", f"another than PCR {RUNTIME_PCR}")


def test_base_is_no_claim_of_its_own() -> None:
    """Where batches lead on from another value, they do not lead to the quoted one."""
    scene = Scene()
    scene.launch("one")
    scene.anchor(rows=(AnchorRow(ONE, 1, bytes(32)),))
    assert host_codes(scene.judge(changed(scene.evidence("one"), base=bytes([1]) * 32))) == {"anchor-register-mismatch"}
    assert host_codes(scene.judge(scene.evidence("one"))) == set()


def test_anchors_that_go_on_from_elsewhere_are_told_which_register_is_known() -> None:
    story = Story()
    story.anchor("one")
    evidence = story.evidence("one")
    verdict = story.judge(changed(evidence, base=bytes([7]) * 32))
    (reason,) = verdict.entry.reasons
    assert (reason.code, reason.expected) == ("anchor-base", story.known.register.hex())


def test_instance_that_never_started_has_no_anchor() -> None:
    story = Story()
    story.anchor(rows=(AnchorRow(sixteen("nobody"), 1, bytes(32)),))
    assert host_codes(story.attest("one")) == {"instance-unknown"}


def test_boot_begins_without_anchors_and_a_tpm_restart_does_not() -> None:
    story = Story()
    story.anchor("one")
    story.attest("one")
    story.reboot()
    story.launch("three")
    assert host_codes(story.attest("three")) == set()
    assert story.state is not None
    assert story.state.anchors is None

    again = Story()
    again.anchor("one")
    again.attest("one")
    again.chip.pcrs["sha256"][ANCHOR_PCR] = bytes(32)
    again.chip.restart_count += 1
    assert host_codes(again.attest("one")) == {"anchor-register-mismatch"}


def test_clock_that_went_back_contains_the_host_whatever_its_anchors_say() -> None:
    story = Story()
    story.anchor("one")
    story.chip.clock = 0
    verdict = story.attest("one")
    assert host_codes(verdict) == {"clock-fell"}
    assert verdict.entry.anchors is None, "nothing that this TPM says of them is told on"
    assert story.state is not None
    assert story.state.status == "contained"


def test_anchors_of_evidence_whose_runtime_log_is_refused_are_not_taken() -> None:
    story = Story()
    story.anchor("one")
    before, held = story.known, story.anchors
    evidence = story.evidence("one", first=1)
    verdict = story.judge(evidence)
    assert host_codes(verdict) == {"runtime-log-rewound"}
    assert verdict.state_after.anchors == before
    story.anchors = held
    assert host_codes(story.attest("one")) == set(), "so they may come again"
    fresh = Scene()
    fresh.launch("one")
    fresh.anchor()
    broken = fresh.judge(replace(fresh.evidence("one"), log=b""))
    assert host_codes(broken) == {"runtime-log-mismatch"}
    assert broken.state_after.anchors is None


def test_boot_log_explains_the_register_of_anchors_up_to_the_first_of_them() -> None:
    """PCR 11 is systemd's until the attestor runs: what the boot extended must be in its log, and anchors are not of the boot."""
    boot = Boot().measure()

    def judged(base: bytes, *, before: bytes | None = None) -> set[str]:
        scene = Scene()
        scene.launch("one")
        for index, value in registers(boot, quoted=range(13)).items():
            scene.chip.pcrs["sha256"][index] = value
        if before is not None:
            scene.chip.extend(11, {"sha256": before})
        rows = ((AnchorRow(ONE, 1, base),),)
        held = scene.chip.values().get(11)
        scene.chip.pcrs["sha256"][11] = led("sha256", held, rows)
        scene.anchors = Anchors(11, held, rows)
        return host_codes(scene.judge(replace(scene.evidence(), uefi_log=encode_log(boot))))

    assert judged(bytes(32)) == set()
    assert judged(bytes(32), before=bytes([9]) * 32) == {"uefi-log-mismatch"}, "what somebody extended before is nobody's anchor"


# --- what a log owes -----------------------------------------------------------------------------------------------------


def test_log_that_lacks_what_was_anchored_gets_no_token_and_its_instance_is_contained() -> None:
    """After its anchor and before the next renewal: found, by a finding of its own."""
    story = Story()
    story.acts("one", 2)
    story.anchor("one")
    story.cut("one", 4, more=5)
    verdict = story.attest("one", "two")

    assert codes(verdict) == {"anchor-inconsistent"}
    assert verdict.tokens[0].claims is None
    assert (story.phase("one"), story.phase("two")) == ("tainted", "running"), "its neighbour keeps its token"
    assert codes(verdict, 1) == set()
    assert codes(story.attest("one")) >= {"instance-tainted"}, "for ever"


def test_log_that_was_cut_to_less_than_was_anchored_is_asked_for_as_much() -> None:
    story = Story()
    story.acts("one", 2)
    story.anchor("one")
    story.cut("one", 4)
    verdict = story.judge(story.evidence("one"))
    (reason,) = verdict.tokens[0].reasons
    assert (reason.code, reason.expected, reason.got) == ("anchor-proof-required", "6", "0 proofs to 4 records")
    pretended = replace(story.running["one"].request(), anchored=((6, ()),))
    assert codes(story.judge(story.evidence(requests=(pretended,)))) == {"anchor-proof-required"}, "nothing of what is not there is proven"
    after = verdict.state_after.runtime.find(ONE)
    assert after is not None
    assert (after.phase, after.log_size, len(after.anchored)) == ("running", 0, 1), "the checkpoint is not taken, the anchor stays owed"


def test_log_that_was_cut_below_what_was_carried_is_found_as_ever() -> None:
    story = Story()
    story.attest("one")
    story.cut("one", 2, more=4)
    assert codes(story.attest("one")) == {"action-log-inconsistent"}


def test_what_was_neither_carried_nor_anchored_is_the_window() -> None:
    """Stated in docs/threat-model.md: a record that root drops before either is not missed."""
    story = Story()
    story.anchor("one")
    story.acts("one", 3)
    story.cut("one", 4, more=1)
    assert codes(story.attest("one")) == set()


def test_anchor_without_a_proof_is_asked_for_and_then_proven() -> None:
    """A holder that was replaced does not know what it anchored: nobody is accused, and one more question mends it."""
    story = Story()
    story.anchor("one")
    story.acts("one", 1)
    story.running["one"].anchored.clear()
    verdict = story.judge(story.evidence("one"))
    (reason,) = verdict.tokens[0].reasons
    assert (reason.code, reason.expected, reason.got) == ("anchor-proof-required", "4", "0 proofs to 5 records")
    story.running["one"].anchored = [int(reason.expected)]
    assert codes(story.attest("one")) == set()


def test_every_anchor_without_a_proof_is_named_by_one_reason_the_latest_first_of_all() -> None:
    """However many instances ask at once, and each has room for one reason of a kind."""
    story = Story()
    for _ in range(3):
        story.anchor("one")
        story.acts("one", 1)
    story.running["one"].anchored = [5]
    (reason,) = story.judge(story.evidence("one")).tokens[0].reasons
    assert (reason.expected, reason.got) == ("4 6", "1 proofs to 7 records")
    many = Story()
    for at in range(3):
        many.anchor(rows=())
        for size in range(MAX_BATCHES):
            many.anchor(rows=(AnchorRow(ONE, 100 + at * MAX_BATCHES + size, bytes(32)),))
        many.attest("two")
    (reason,) = many.judge(many.evidence("one")).tokens[0].reasons
    assert reason.expected.split(" ") == [str(size) for size in range(116, 148)]


def test_anchor_older_than_the_checkpoint_carried_is_owed_all_the_same() -> None:
    """Asked for before a renewal and extended after its quote."""
    story = Story()
    late = story.running["one"].checkpoint()
    story.acts("one", 2)
    story.attest("one")
    story.anchor(rows=(late,))
    story.running["one"].anchored = [late.size]
    assert codes(story.attest("one")) == set()
    story.anchor(rows=(replace(late, root=bytes(32)),))
    story.running["one"].anchored = [late.size]
    assert codes(story.attest("one")) == {"anchor-inconsistent"}


def test_anchors_wait_for_their_instance_while_others_renew() -> None:
    story = Story()
    story.acts("one", 2)
    story.anchor("one")
    story.attest("two")
    story.attest("two")
    story.cut("one", 4, more=5)
    assert codes(story.attest("one")) == {"anchor-inconsistent"}


def test_every_anchor_counts_and_not_the_last_alone() -> None:
    """Root that drops a record between two anchors has the second agree with its log, and not the first."""
    story = Story()
    story.anchor("one")
    story.cut("one", 3, more=4)
    story.anchor("one")
    assert codes(story.attest("one")) == {"anchor-inconsistent"}


def test_proof_of_another_size_or_cut_short_is_no_proof() -> None:
    story = Story()
    story.anchor("one")
    story.acts("one", 3)
    request = story.running["one"].request()
    hashes = story.running["one"].hashes()
    for proof in ((), consistency_proof(hashes, 5), (*consistency_proof(hashes, 4), bytes(32))):
        spoilt = replace(request, anchored=((4, proof),))
        assert codes(story.judge(story.evidence(requests=(spoilt,)))) == {"anchor-inconsistent"}


def test_more_anchors_than_an_enforcer_makes_contain_the_instance() -> None:
    story = Story()
    for at in range(MAX_ANCHORED // MAX_BATCHES):
        for size in range(MAX_BATCHES):
            story.anchor(rows=(AnchorRow(ONE, 1 + at * MAX_BATCHES + size, bytes(32)),))
        story.attest("two")
    story.running["one"].anchored.clear()
    assert codes(story.judge(story.evidence("one"))) == {"anchor-proof-required"}, "so many may be"
    for size in (98, 99):
        story.anchor(rows=(AnchorRow(ONE, size, bytes(32)),))
    story.attest("two")
    assert story.state is not None
    known = story.state.runtime.find(ONE)
    assert known is not None
    assert len(known.anchored) == MAX_ANCHORED + 1
    assert "anchor-inconsistent" in codes(story.attest("one"))


# --- what it costs -------------------------------------------------------------------------------------------------------


def test_evidence_carries_no_more_anchors_than_an_entry_holds() -> None:
    story = Story()
    for name in range(MAX_BATCHES):
        story.anchor(rows=[AnchorRow(bytes([name, at]) + bytes(14), 1 << 40, bytes(32)) for at in range(MAX_ROWS // MAX_BATCHES)])
    evidence = story.evidence("one")
    entry = story.judge(evidence).entry
    assert entry.anchors is not None
    bare = len(encode_entry(replace(entry, anchors=None)))
    assert len(encode_entry(entry)) - bare < 9_000
    story.anchor("one")
    with pytest.raises(Exception, match="at most 16 batches"):
        story.judge(story.evidence("one"))


# --- from the public log alone -------------------------------------------------------------------------------------------


def logged(decisions: list[AttestDecision]) -> Carried:
    """What the log says of the first instance."""
    logs = CarriedLogs((ONE,))
    for decision in decisions:
        logs.take(carriage_of(decision))
    return logs.of[ONE]


def told(resets: bool = False) -> tuple[Story, list[AttestDecision]]:
    """Four renewals with anchors between them; with a reset after the third."""
    story = Story()
    for at in range(3):
        story.acts("one", 1)
        story.anchor("one")
        story.acts("one", 2)
        story.anchor("one", "two")
        assert codes(story.attest("one", "two")) == set(), at
    if resets:
        story.acts("one", 1)
        story.anchor("one")
        story.reboot()
        story.begin()
        story.anchor("one")
        story.attest("one", "two")
    return story, story.decisions


def test_anchors_replay_from_the_log_to_the_quoted_register() -> None:
    story, decisions = told()
    assert replay_anchors(decisions) == ()
    assert decisions[-1].anchors is not None
    assert decisions[-1].anchors.register == story.chip.values().get(ANCHOR_PCR)
    owed, hashes = logged(decisions).anchored, story.running["one"].hashes()
    assert [one.size for one in owed] == [5, 7, 8, 10, 11, 13]
    assert judge_anchored(owed, hashes, "log") == ()
    for lie in (hashes[:12], [*hashes[:6], bytes(32), *hashes[7:]]):
        assert {reason.code for reason in judge_anchored(owed, lie, "log")} == {"anchor-inconsistent"}


@pytest.mark.parametrize("field", ["base", "register", "pcr", "batches"])
def test_entry_whose_anchors_do_not_replay_is_found(field: str) -> None:
    _, decisions = told()
    one = decisions[2].anchors
    assert one is not None
    other = {"base": bytes([1]) * 32, "register": bytes([1]) * 32, "pcr": 12, "batches": one.batches[:1]}[field]
    decisions[2] = replace(decisions[2], anchors=replace(one, **{field: other}))  # type: ignore[arg-type]  # a test names its fields
    assert {reason.code for reason in replay_anchors(decisions)} == {"anchor-register-mismatch"}


@pytest.mark.parametrize("bank, size", [("sha256", 32), ("sha384", 48), ("sha512", 64)])
def test_register_of_every_bank_replays_and_is_counted(bank: str, size: int) -> None:
    batches = ((AnchorRow(ONE, 1, bytes(32)),),)
    shown = ShownAnchors(ANCHOR_PCR, 1, 0, bytes(size), led(bank, bytes(size), batches), batches)
    replay = AnchorReplay()
    assert replay.take(Carriage(1, 1, "host-1", "billing", (), shown)) == ()
    assert replay.take(Carriage(2, 2, "host-1", "billing", (), None)) == ()
    assert replay.take(Carriage(3, 3, "host-2", "billing", (), shown)) == (), "each host has its own"
    assert (replay.entries, sorted(replay.last)) == (2, ["host-1", "host-2"])


def test_entry_with_anchors_that_is_left_out_is_found() -> None:
    _, decisions = told()
    assert {reason.code for reason in replay_anchors([*decisions[:2], *decisions[3:]])} == {"anchor-register-mismatch"}


def test_reset_of_the_tpm_between_anchors_is_a_finding_of_its_own() -> None:
    """What was anchored after the last quote is shown by none: the window of a boot, named."""
    _, decisions = told(resets=True)
    assert [reason.code for reason in replay_anchors(decisions)] == ["anchor-reset"]
    resumed, known = told()
    resumed.chip.resume()
    resumed.anchor("one")
    resumed.attest("one")
    assert [reason.code for reason in replay_anchors(known)] == ["anchor-reset"], "a restart counts like a resume, and clears registers"
    backwards = [decisions[-1], *decisions[:-1]]
    assert "reset-count-fell" in {reason.code for reason in replay_anchors(backwards)}


def did(what: str, story: Story, by: str = "root") -> OperatorAct:
    return OperatorAct(ENGINE_ID.digest, story.now, "billing", by, what, story.host, None)


def again(*, cleared: bool = False) -> tuple[list[AttestDecision], Story, list[AttestDecision]]:
    """What was logged before a host enrolled again with another AK, the host since, and what is logged since."""
    _, before = told(resets=True)
    after = Story(chip=Chip(seed="another", reset_count=0 if cleared else 1))
    after.acts("one", 1)
    after.anchor("one")
    assert codes(after.attest("one", "two")) == set()
    return before, after, after.decisions


@pytest.mark.parametrize("act", ["host-admit", "host-replace"])
@pytest.mark.parametrize("cleared", [False, True])
def test_host_that_enrolled_again_is_followed_anew_and_who_admitted_it_is_named(act: str, cleared: bool) -> None:
    """Its TPM counts less than the one before, or is the same boot's by its number: neither says anything of the other."""
    before, after, since = again(cleared=cleared)
    enrolled = replace(after.enrol_entry, cleared=cleared)
    *_, reset, anew = replay_anchors([after.enrol_entry, *before, did(act, after, "ruth"), enrolled, *since])
    assert (reset.code, anew.code) == ("anchor-reset", "anchor-anew")
    assert anew.got == f"admitted by ruth{', its TPM was cleared' if cleared else ''}"
    found = {reason.code for reason in replay_anchors([*before, *since])}
    assert found & {"reset-count-fell", "anchor-register-mismatch"}, "without an enrolment it is a TPM of another time"


def test_host_that_enrols_again_without_an_operator_is_found() -> None:
    """Else root could enrol anew where a reset was to be hidden. Each admission is for one enrolment, of one host."""
    before, after, since = again()
    enrol, admit = after.enrol_entry, did("host-admit", after)
    others: tuple[Logged, ...] = (replace(admit, subject="host-2"), did("host-release", after), did("host-retire", after))
    for forged in ((), *((other,) for other in others)):
        found = [reason.code for reason in replay_anchors([admit, enrol, *before, *forged, enrol, *since])]
        assert found == ["enrolment-unadmitted", "anchor-reset"]
    twice: list[Logged] = [admit, enrol, *before, admit, enrol, *since, enrol, *since]
    assert [reason.code for reason in replay_anchors(twice)] == ["enrolment-unadmitted", "anchor-reset", "anchor-anew"]
    both: list[Logged] = [admit, admit, enrol, *before, enrol, *since]
    assert [reason.code for reason in replay_anchors(both)] == ["anchor-reset", "anchor-anew"], "two admissions are for two"
    (_, anew) = replay_anchors([did("log-succeed", after), *before, enrol, *since])
    assert (anew.code, anew.got) == ("anchor-anew", "admitted by an operator of the log before")


def test_only_a_release_of_a_tpm_that_counted_backwards_begins_anew() -> None:
    _, before = told(resets=True)
    held = Story()
    held.chip.clock = 0
    held.attest("one")
    fallen = held.decisions[-1]
    _, after, since = again()
    released = did("host-release", after, "ruth")
    assert [(one.code, one.got) for one in replay_anchors([*before, fallen, released, *since])] == [
        ("anchor-reset", "reset 8, restart 0"), ("anchor-anew", "released by ruth, its TPM counted backwards"),
    ]  # fmt: skip
    elsewhere, excused = replace(released, subject="host-2"), did("host-excuse", after)
    several: tuple[list[Logged], ...] = ([released], [fallen], [released, fallen], [fallen, elsewhere], [fallen, excused])
    for other in several:
        assert {one.code for one in replay_anchors([*before, *other, *since])} & {"reset-count-fell", "anchor-register-mismatch"}
    _, _, below = again(cleared=True)
    later: list[Logged] = [*before, fallen, released, *since, released, *below]
    assert "reset-count-fell" in {one.code for one in replay_anchors(later)}, "one release is for one fall"
    _, enrolled, since = again()
    anew: list[Logged] = [*before, fallen, did("host-admit", enrolled), enrolled.enrol_entry, *since, released, *below]
    assert "reset-count-fell" in {one.code for one in replay_anchors(anew)}, (
        "what fell before an enrolment is no reason for a release behind it"
    )


def test_refused_anchors_count_for_nothing() -> None:
    story, decisions = told()
    story.anchor("one")
    held = story.anchors
    refused = story.judge(changed(story.evidence("one"), batches=())).entry
    assert replay_anchors([*decisions, refused]) == ()
    assert logged([*decisions, refused]).anchored == logged(decisions).anchored
    story.anchors = held
    assert codes(story.attest("one")) == set()
    assert replay_anchors(story.decisions) == ()


def test_second_history_that_an_anchor_showed_stands_in_the_log_for_ever() -> None:
    story = Story()
    story.acts("one", 1)
    story.anchor("one")
    story.cut("one", 4, more=5)
    story.attest("one")
    (reason,) = logged(story.decisions).reasons
    assert (reason.code, reason.expected) == ("action-log-forked", "a checkpoint that extends the one before, and what was anchored since")

"""The log as a state machine: what each event does, what has no place, and where the replay ends."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.world.scene import sixteen
from tests.writ.verdict.refusal import refused
from writ.formats.digest import Digest, extend
from writ.formats.eventlog.cel import CONTENT_WRIT, CelRecord
from writ.formats.eventlog.runtime import (
    AnchorEvent,
    ComponentEvent,
    DriftEvent,
    KeyEvent,
    RuntimeEvent,
    StartEvent,
    StopEvent,
    UpdateEvent,
    record_event,
)
from writ.formats.state import MOST_SETS, InstanceState, RuntimeState, clean_runtime
from writ.formats.tlog.merkle import EMPTY_ROOT
from writ.verdict import runtime_log
from writ.verdict.runtime_log import replay

PCR = 14
A, B, C = sixteen("a"), sixteen("b"), sixteen("c")
CLEAN = clean_runtime("sha256")
ROOT = Digest.of(b"root")


def start(instance: bytes = A, *, key: bytes | None = None, parent: bytes | None = None) -> StartEvent:
    return StartEvent(instance, "spiffe://example.org/billing/agent/x", ROOT, Digest.of(b"argv"), key or instance * 2, parent, ())


def component(name: str = "attestor", scope: str = "governance") -> ComponentEvent:
    return ComponentEvent(scope, name, Digest.of(name.encode()))  # type: ignore[arg-type] # either scope, by name


def drift(instance: bytes = A) -> DriftEvent:
    return DriftEvent(instance, "code", "main.py", ROOT, None)


def log(*events: RuntimeEvent, first: int = 0, pcr: int = PCR) -> tuple[CelRecord, ...]:
    return tuple(record_event(e, record_number=first + at, pcr=pcr, banks=("sha256", "sha384")) for at, e in enumerate(events))


def register(records: tuple[CelRecord, ...], start: bytes = CLEAN.register) -> bytes:
    for record in records:
        start = extend("sha256", start, Digest.of(record.content).value)
    return start


def run(*events: RuntimeEvent, state: RuntimeState = CLEAN) -> RuntimeState:
    records = log(*events, first=state.events)
    return replay(state, records, pcr=PCR, bank="sha256", quoted=register(records, state.register))


def phase(state: RuntimeState, instance: bytes = A) -> str:
    known = state.find(instance)
    assert known is not None
    return known.phase


# --- 1, 2, 4: records and the register


def test_no_event_leads_from_a_register_to_itself() -> None:
    assert replay(CLEAN, (), pcr=PCR, bank="sha256", quoted=bytes(32)) == CLEAN


def test_events_up_to_the_quoted_register_are_taken_and_the_tail_is_not() -> None:
    records = log(start(A), start(B), start(C))
    state = replay(CLEAN, records, pcr=PCR, bank="sha256", quoted=register(records[:2]))
    assert state.events == 2
    assert [i.instance for i in state.instances] == sorted([A, B])
    assert state.register == register(records[:2])


def test_tail_may_be_rubbish_of_any_kind() -> None:
    records = (*log(start(A)), CelRecord(77, 3, (ROOT,), 9, b"no event"))
    assert replay(CLEAN, records, pcr=PCR, bank="sha256", quoted=register(records[:1])).events == 1


def test_register_that_is_never_met_is_refused() -> None:
    records = log(start(A))
    reason = refused(lambda: replay(CLEAN, records, pcr=PCR, bank="sha256", quoted=b"\7" * 32))
    assert (reason.code, reason.claim, reason.got) == ("runtime-log-mismatch", "pcr14", register(records).hex())


def test_log_that_falls_short_of_the_quote_is_refused() -> None:
    records = log(start(A), start(B))
    quoted = register(records)
    assert refused(lambda: replay(CLEAN, records[:1], pcr=PCR, bank="sha256", quoted=quoted)).code == "runtime-log-mismatch"


def bad(record: CelRecord) -> str:
    reason = refused(lambda: replay(CLEAN, (record,), pcr=PCR, bank="sha256", quoted=register((record,))))
    assert reason.code == "runtime-log-malformed"
    return reason.claim


def test_record_of_another_place_is_refused() -> None:
    good = log(start())[0]
    assert bad(replace(good, record_number=1)) == "runtime_log.record_number"
    assert bad(replace(good, pcr=13)) == "runtime_log.record"
    assert bad(replace(good, content_type=CONTENT_WRIT - 1)) == "runtime_log.record"


def test_digest_in_the_record_is_not_believed() -> None:
    good = log(start())[0]
    assert bad(replace(good, digests=(Digest.of(b"other"), good.digests[1]))) == "runtime_log.digest"
    assert bad(replace(good, digests=(good.digests[1],))) == "runtime_log.digest"


def test_content_that_is_no_event_is_refused() -> None:
    content = b"\xa0"
    assert bad(CelRecord(0, PCR, (Digest.of(content),), CONTENT_WRIT, content)) == "runtime_log.event"


def test_other_bank_is_replayed_with_its_own_hash() -> None:
    records = log(start())
    quoted = extend("sha384", bytes(48), Digest.of(records[0].content, "sha384").value)
    assert replay(clean_runtime("sha384"), records, pcr=PCR, bank="sha384", quoted=quoted).register == quoted


# --- 3: the rules


def test_start_begins_with_an_empty_action_log() -> None:
    known = run(start(A, parent=None)).find(A)
    assert known is not None
    assert (known.phase, known.log_size, known.log_root, known.measurement, known.session_key) == ("running", 0, EMPTY_ROOT, b"", A * 2)
    assert (known.manifest, known.command, known.parent) == (ROOT, Digest.of(b"argv"), None)


def test_governance_components_are_kept_sorted_and_others_are_not_governance() -> None:
    assert [name for name, _ in run(component("b"), component("a"), component("kernel", "host")).governance] == ["a", "b"]


REFUSED: dict[str, tuple[tuple[RuntimeEvent, ...], str]] = {
    "host component after a launch": ((start(), component("x", "host")), "component"),
    "id twice": ((start(A), start(A, key=b"k" * 32)), "start"),
    "id of one that stopped": ((start(A), StopEvent(A, "exited"), start(A, key=b"k" * 32)), "start"),
    "unknown parent": ((start(A, parent=B),), "instance"),
    "own parent": ((start(A, parent=A),), "instance"),
    "key of a stranger": ((KeyEvent(A, b"k" * 32),), "instance"),
    "key after stop": ((start(A), StopEvent(A, "exited"), KeyEvent(A, b"k" * 32)), "key"),
    "stop of a stranger": ((StopEvent(A, "exited"),), "instance"),
    "stop twice": ((start(A), StopEvent(A, "exited"), StopEvent(A, "exited")), "stop"),
    "drift of a stranger": ((drift(),), "instance"),
    "anchor of a stranger": ((AnchorEvent(A, 1, bytes(32)),), "instance"),
}


@pytest.mark.parametrize("events, claim", REFUSED.values(), ids=REFUSED)
def test_event_without_a_place_is_refused(events: tuple[RuntimeEvent, ...], claim: str) -> None:
    reason = refused(lambda: run(*events))
    assert (reason.code, reason.claim) == ("runtime-log-malformed", f"runtime_log.{claim}")


def test_host_components_may_follow_once_nothing_runs() -> None:
    host = component("kernel", "host")
    for ended in ((StopEvent(A, "exited"),), (drift(),), (StopEvent(A, "exited"), drift())):
        run(start(A), *ended, host)
        run(host, state=run(start(A), *ended))
    assert refused(lambda: run(start(A), start(B), StopEvent(A, "exited"), host)).claim == "runtime_log.component"
    assert refused(lambda: run(host, state=run(start(A)))).claim == "runtime_log.component"


OLD, NEW, EVIL = (
    (ComponentEvent("governance", "attestor", Digest.of(which)), ComponentEvent("governance", "writ", Digest.of(which)))
    for which in (b"old", b"new", b"evil")
)


def governing(*events: ComponentEvent) -> tuple[tuple[str, Digest], ...]:
    return tuple((event.name, event.root) for event in events)


def test_a_name_that_the_set_has_begins_the_next_one_also_while_instances_run() -> None:
    state = run(*OLD, start(A), *NEW)

    assert state.governance == governing(*NEW)
    assert state.unapproved == (governing(*OLD),)
    assert state.find(A) is not None


def test_a_set_that_was_found_approved_is_not_remembered_and_one_that_was_not_is() -> None:
    approved, refused_set = run(*OLD, start(A)).judged(now=True, before=True), run(*OLD, start(A)).judged(now=False, before=False)

    assert run(*NEW, state=approved).unapproved == ()
    assert run(*NEW, state=refused_set).unapproved == (governing(*OLD),)
    assert run(start(B), state=refused_set).unapproved == (governing(*OLD),)


def test_a_set_that_came_and_went_between_two_quotes_is_remembered_until_it_is_approved() -> None:
    state = run(*EVIL, *OLD, state=run(*OLD, start(A)).judged(now=True, before=True))

    assert (state.governance, state.unapproved) == (governing(*OLD), (governing(*EVIL),))
    assert run(*EVIL, *OLD, state=state.judged(now=False, before=False)).unapproved == (governing(*EVIL), governing(*OLD))
    assert run(start(B), state=state.judged(now=True, before=True)).unapproved == ()


def test_a_set_cut_short_and_begun_again_is_one_of_its_own() -> None:
    assert run(OLD[0], *NEW).unapproved == (governing(OLD[0]),)


def test_more_sets_that_nobody_approved_than_there_is_room_for_are_refused() -> None:
    many = [ComponentEvent("governance", "attestor", Digest.of(bytes([number]))) for number in range(MOST_SETS + 2)]

    assert len(run(*many[:-1]).unapproved) == MOST_SETS
    assert refused(lambda: run(*many)).claim == "runtime_log.component"


def test_key_that_serves_another_instance_is_refused() -> None:
    for events in ((start(A), start(B, key=A * 2)), (start(A), start(B), KeyEvent(B, A * 2)), (start(A), KeyEvent(A, A * 2))):
        assert refused(lambda events=events: run(*events)).code == "instance-key-reused"  # type: ignore[misc] # a default binds the loop's value


def test_key_of_a_stopped_instance_serves_no_other() -> None:
    assert refused(lambda: run(start(A), StopEvent(A, "exited"), start(B, key=A * 2))).code == "instance-key-reused"


def test_key_event_exchanges_the_key() -> None:
    state = run(start(A), KeyEvent(A, b"k" * 32))
    assert [i.session_key for i in state.instances] == [b"k" * 32]
    assert refused(lambda: run(start(B, key=b"k" * 32), state=state)).code == "instance-key-reused"
    assert phase(run(KeyEvent(A, b"m" * 32), state=state)) == "running"
    assert refused(lambda: run(start(A), KeyEvent(A, b"k" * 32), start(B, key=A * 2))).code == "instance-key-reused"


def test_update_and_anchor_change_nothing() -> None:
    before = run(start(A))
    after = run(
        UpdateEvent("spiffe://example.org/billing/agent/x", "code", ROOT),
        AnchorEvent(A, 5, bytes(32)),
        AnchorEvent(A, 0, bytes(32)),
        state=before,
    )
    assert (after.instances, after.governance, after.events) == (before.instances, before.governance, before.events + 3)


@pytest.mark.parametrize(
    "events, expected",
    [
        ((StopEvent(A, "exited"),), "stopped"),
        ((drift(),), "drifted"),
        ((drift(), drift()), "drifted"),
        ((drift(), StopEvent(A, "killed")), "drifted"),
        ((StopEvent(A, "killed"), drift()), "drifted"),
        ((drift(), KeyEvent(A, b"k" * 32)), "drifted"),
    ],
)
def test_phases_only_get_worse(events: tuple[RuntimeEvent, ...], expected: str) -> None:
    assert phase(run(start(A), *events)) == expected


@pytest.mark.parametrize(
    "event", [StopEvent(A, "exited"), drift(), KeyEvent(A, b"k" * 32), AnchorEvent(A, 0, bytes(32)), start(B, parent=A)]
)
def test_i11_what_only_the_verifier_knows_costs_no_other_instance_the_log(event: RuntimeEvent) -> None:
    tainted = run(start(A), start(C))
    known = tainted.find(A)
    assert known is not None
    after = run(event, state=tainted.with_instance(known.in_phase("tainted").with_checkpoint(9, ROOT.value)))
    assert (phase(after, A), phase(after, C)) == ("tainted", "running")


def test_parent_is_kept_for_the_appraisal_even_when_it_no_longer_runs() -> None:
    known = run(start(A), StopEvent(A, "exited"), start(B, parent=A)).find(B)
    assert known is not None
    assert known.parent == A


def test_instances_of_a_boot_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_log.MAX_INSTANCES == 100_000
    monkeypatch.setattr(runtime_log, "MAX_INSTANCES", 2)
    assert len(run(start(A), start(B)).instances) == 2
    assert refused(lambda: run(start(A), start(B), start(C))).claim == "runtime_log.start"


def test_what_went_before_is_continued_and_not_judged_again() -> None:
    whole = run(start(A), start(B), drift(A))
    parts = run(drift(A), state=run(start(B), state=run(start(A))))
    assert parts == whole


def test_log_of_ten_thousand_launches_costs_ten_times_one_of_a_thousand() -> None:
    def spent(launches: int) -> float:
        records = log(*(start(at.to_bytes(16, "big"), key=at.to_bytes(32, "big")) for at in range(launches)))
        quoted = register(records)
        began = time.process_time()
        state = replay(CLEAN, records, pcr=PCR, bank="sha256", quoted=quoted)
        took = time.process_time() - began
        assert len(state.instances) == launches
        assert isinstance(state.instances[0], InstanceState)
        return took

    assert spent(10_000) < 40 * max(spent(1_000), 0.01), "ten times is linear, a hundred times is quadratic"

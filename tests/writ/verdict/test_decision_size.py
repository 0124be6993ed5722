"""An entry of the log is below 64 KiB whatever is decided: reasons are left out, counted, and the same ones each time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.scene import Scene, measurement, reference, sign_entry, sixteen
from writ.formats.anchor import MAX_ROWS, AnchorRow, ShownAnchors
from writ.formats.decision import MAX_ENTRY, MAX_OUTCOMES, MAX_REASONS, AttestDecision, Outcome, encode_entry, parse_entry
from writ.formats.reason import REMEDIES, Reason
from writ.formats.tlog.tile import encode_bundle, parse_bundle
from writ.verdict.appraisal import size_of, within
from writ.verdict.attestation import fitted
from writ.verdict.issue import TokenDecision

LONGEST = "\U0001f512" * 1024
"""As long as the text of a reason may be, in characters that take four bytes."""
REFUSED = Reason("host-refused", "instance." + "0" * 32, "a host that nothing stands against", "1024 reasons")


ANCHORS = ShownAnchors(
    15, (1 << 32) - 1, (1 << 32) - 1, bytes(64), bytes(64),
    (tuple(AnchorRow(at.to_bytes(16, "big"), (1 << 63) - 1, bytes(32)) for at in range(MAX_ROWS)),),
)  # fmt: skip
"""As many as evidence may carry."""


def reasons(count: int, text: str = "x" * 40) -> tuple[Reason, ...]:
    codes = sorted(REMEDIES)
    return tuple(sorted(Reason(codes[at % len(codes)], f"claim.{at:04d}", text, text) for at in range(count)))


def decided(instances: int, each: tuple[Reason, ...], host: tuple[Reason, ...]) -> tuple[AttestDecision, tuple[TokenDecision, ...]]:
    """A decision with the longest of everything in it, all instances refused for the reasons of `each`."""
    scene = Scene()
    entry = scene.judge(scene.evidence()).entry
    names = sorted(sixteen(str(at)) for at in range(instances))
    most = (1 << 63) - 1
    outcomes = tuple(Outcome(name, "x" * 64, most, None, most, bytes(32), each) for name in names)
    alive = tuple((name, most) for name in names)
    whole = replace(
        entry, host="h" * 63, namespace="n" * 63, decided_at=most, nonce_issued_at=most, status_list=most, outcomes=outcomes,
        reasons=host, alive=alive, anchors=ANCHORS,
    )  # fmt: skip
    return whole, tuple(TokenDecision(name, None, each) for name in names)


@pytest.mark.parametrize("instances", [1, 2, 10, MAX_OUTCOMES])
@pytest.mark.parametrize(
    "each, host",
    [
        (reasons(120), reasons(5000)),
        (reasons(9, LONGEST), reasons(30, LONGEST)),
        ((REFUSED,), reasons(MAX_REASONS)),
        (reasons(70, "x" * 5), ()),
        ((REFUSED,), (Reason("host-contained", "host.status", LONGEST, LONGEST),)),
    ],
)
def test_largest_decision_is_an_entry_that_the_log_takes_and_everybody_reads(
    instances: int, each: tuple[Reason, ...], host: tuple[Reason, ...]
) -> None:
    whole, tokens = decided(instances, each, host)
    entry, told = fitted(whole, tokens)
    assert len(encode_entry(entry)) <= MAX_ENTRY
    assert parse_entry(encode_entry(entry)) == entry
    signed = sign_entry(entry)
    assert parse_bundle(encode_bundle([signed]), 1) == (signed,)
    assert fitted(whole, tokens) == (entry, told), "the same ones each time"
    assert [one.reasons for one in entry.outcomes] == [token.reasons for token in told], "what is answered is what is recorded"
    assert all(one.reasons for one in entry.outcomes), "who is refused is told so"
    assert (entry.verdict, bool(entry.reasons)) == (whole.verdict, bool(host))
    bare = replace(entry, reasons=(), outcomes=tuple(replace(one, reasons=(), claims=None) for one in entry.outcomes))
    assert bare == replace(whole, reasons=(), outcomes=tuple(replace(one, reasons=()) for one in whole.outcomes)), "nothing else moved"


def test_decision_that_fits_is_left_as_it_is() -> None:
    whole, tokens = decided(10, (REFUSED,), reasons(30))
    assert fitted(whole, tokens) == (whole, tokens)


def test_what_an_operator_reads_of_256_refused_instances_is_why_their_host_is_refused() -> None:
    whole, tokens = decided(MAX_OUTCOMES, (REFUSED,), reasons(400))
    whole = replace(whole, anchors=None)  # beside the most anchors there is room for each instance's code, and for no more
    given = {"token_id": "x" * 22, "status_index": 1 << 17, "log_size": 1 << 31}  # as a verifier gives them, and a log of years
    whole = replace(whole, outcomes=tuple(replace(one, **given) for one in whole.outcomes))  # type: ignore[arg-type]  # its fields
    entry, told = fitted(whole, tokens)
    assert {token.reasons for token in told} == {(REFUSED,)}, "nothing is left out there"
    assert len(entry.reasons) > 40
    assert "reasons-left-out" in {reason.code for reason in entry.reasons}


def test_reasons_are_left_out_by_size_with_one_of_each_code_before_a_second() -> None:
    many = tuple(Reason("component-mismatch", f"c{at:03d}", "a", "b") for at in range(50))
    other = Reason("tpm-class-refused", "tpm_class", "discrete", "software")
    found = within((*many, other), 300)
    assert size_of(found) <= 300
    assert other in found
    (note,) = (reason for reason in found if reason.code == "reasons-left-out")
    assert note.got == f"{51 - (len(found) - 1)} more"
    assert within((*many, other), 100_000) == tuple(sorted((*many, other)))
    assert [reason.code for reason in within(many, 0)] == ["reasons-left-out"], "nothing fits, and it says so"


def test_host_of_256_instances_that_all_differ_is_decided_within_an_entry() -> None:
    scene = Scene()
    wrong = measurement(prompt=b"be brave")
    names = [f"agent-{at}" for at in range(MAX_OUTCOMES)]
    for name in names:
        scene.launch(name, what=wrong)
    scene.references = (*scene.references, reference(version="2", prompt=b"be kind"))
    evidence = scene.evidence(*names)
    verdict = scene.judge(evidence)
    assert len(verdict.entry.outcomes) == MAX_OUTCOMES
    assert len(sign_entry(verdict.entry)) < 65_535
    assert all(one.claims is None and one.reasons for one in verdict.entry.outcomes)
    assert [one.reasons for one in verdict.entry.outcomes] == [token.reasons for token in verdict.tokens]
    assert "reasons-left-out" in {reason.code for one in verdict.entry.outcomes for reason in one.reasons}, "it would not have fitted"

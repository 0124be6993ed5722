"""An exemption lets one difference pass, on named hosts, for a while, and every token says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.scene import ENGINE_ID, GOVERNANCE, GOVERNED, NAMESPACE, NOW, Scene, codes, measurement, permitted, reference, signer
from writ.formats.corim import encode_corim
from writ.formats.digest import Digest
from writ.formats.ear import parse_ear_cbor
from writ.formats.errors import FormatError
from writ.formats.evidence import encode_evidence
from writ.formats.exemption import LONGEST, Exemption, encode_exemption, parse_exemption
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.verdict.attestation import AttestationVerdict, decide_attestation
from writ.verdict.reference import parse_references, reference_set

PROMPT = Exemption(
    NAMESPACE, "component-mismatch", "agent/reporter:prompts", str(Digest.of(b"be brave")), ("host-1",), NOW - 10, NOW + 100, "hotfix",
    ("alice", "bob"),
)  # fmt: skip


def judged(*exemptions: Exemption, now: int = NOW, scene: Scene | None = None, names: tuple[str, ...] = ("one",)) -> AttestationVerdict:
    """An instance whose prompt is not the approved one, under these exemptions."""
    if scene is None:
        scene = Scene()
        scene.launch("one", what=measurement(prompt=b"be brave"))
    scene.now = now
    evidence = scene.evidence(*names)
    return decide_attestation(
        encode_evidence(evidence), record=scene.record, state=scene.state, references=reference_set(scene.references, exemptions),
        bundle=scene.bundle, verifier=signer("decision").public.thumbprint(), issuance=scene.issuance(len(names)), engine=ENGINE_ID.digest,
    )  # fmt: skip


def test_difference_passes_under_its_exemption_and_the_token_says_so() -> None:
    assert codes(judged()) == {"component-mismatch"}
    claims = permitted(judged(PROMPT))
    assert claims.exceptions == ("attestor-not-rooted", PROMPT.label)
    assert PROMPT.label.startswith("component-mismatch/")


@pytest.mark.parametrize("now, passes", [(NOW - 11, False), (NOW - 10, True), (NOW + 100, True), (NOW + 101, False)])
def test_exemption_holds_between_its_times(now: int, passes: bool) -> None:
    assert (judged(PROMPT, now=now).tokens[0].claims is not None) == passes


@pytest.mark.parametrize(
    "changed",
    [
        {"got": str(Digest.of(b"be evil"))},
        {"hosts": ("host-2",)},
        {"claim": "agent/reporter:code"},
        {"code": "component-missing"},
        {"claim": "agent/payments:prompts"},
        {"claim": "prompts"},
    ],
)
def test_exemption_for_anything_else_lets_nothing_pass(changed: dict[str, Any]) -> None:
    assert codes(judged(replace(PROMPT, **changed))) == {"component-mismatch"}


def test_exemption_for_one_component_leaves_the_others_refused() -> None:
    scene = Scene(references=(GOVERNED, replace(reference(), components=tuple(
        (name, Digest.of(b"other") if name in ("code", "prompts") else digest) for name, digest in reference().components
    ))))  # fmt: skip
    scene.launch("one", what=measurement(prompt=b"be brave"))
    assert [r.claim.split(".")[2] for r in judged(PROMPT, scene=scene).tokens[0].reasons] == ["code"]


def test_exemption_of_the_governance_stands_for_the_host() -> None:
    wrong = replace(GOVERNED, components=(GOVERNANCE[0], ("enforcer", Digest.of(b"new"))))
    scene = Scene(references=(wrong, reference()))
    scene.launch("one")
    exemption = replace(PROMPT, code="governance-mismatch", claim="governance.enforcer", got=str(Digest.of(b"enforcer")))
    claims = permitted(judged(exemption, scene=scene))
    assert exemption.label in claims.exceptions


def test_child_of_an_exempted_parent_carries_the_exemption() -> None:
    scene = Scene()
    scene.launch("one", what=measurement(prompt=b"be brave"))
    scene.launch("two", parent="one")
    assert codes(judged(scene=scene, names=("two",))) == {"parent-refused"}
    assert PROMPT.label in permitted(judged(PROMPT, scene=scene, names=("two",))).exceptions


def test_result_under_an_exemption_is_never_affirming() -> None:
    ear = parse_ear_cbor(judged(PROMPT).result)
    part = next(part for name, part in ear.submodules if name.startswith("instance."))
    assert (part.claim("executables"), part.status) == (32, "warning")


def test_set_with_an_exemption_has_another_name_and_is_read_back() -> None:
    corims = (GOVERNED, reference())
    plain, exempt = reference_set(corims), reference_set(corims, [PROMPT])
    assert plain.digest != exempt.digest
    read = parse_references([*(encode_corim(corim) for corim in corims), encode_exemption(PROMPT)])
    assert (read.digest, read.exemptions) == (exempt.digest, (PROMPT,))


@pytest.mark.parametrize(
    "changed",
    [
        {"code": "clock-fell"}, {"code": "uefi-log-mismatch"}, {"hosts": ()}, {"hosts": ("b", "a")}, {"hosts": ("A B",)},
        {"not_after": NOW - 10}, {"not_after": NOW - 10 + LONGEST + 1}, {"approved_by": ("alice",)}, {"approved_by": ("alice", "alice")},
        {"approved_by": ("bob", "alice")}, {"approved_by": ("a", "b", "c")},
    ],
)  # fmt: skip
def test_exemption_that_breaks_its_rules_is_none(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        replace(PROMPT, **changed)


@given(st.sampled_from(["component-mismatch", "file-unknown"]), st.text("abc./*", min_size=1, max_size=20), st.integers(0, 1 << 40))
def test_exemption_comes_back_as_it_was(code: str, claim: str, start: int) -> None:
    exemption = replace(PROMPT, code=code, claim=claim, not_before=start, not_after=start + LONGEST)
    assert parse_exemption(encode_exemption(exemption)) == exemption


def test_exemption_parser_is_total() -> None:
    assert_parser_is_total(parse_exemption, encode_exemption(PROMPT))


REPORTER = AgentId("example.org", NAMESPACE, "reporter")


def of_launch(code: str) -> Reason:
    return Reason(code, f"instance.{'0' * 32}.prompts", "", PROMPT.got)


def test_a_reason_of_another_kind_is_never_let_pass() -> None:
    assert PROMPT.lets_pass(of_launch("component-mismatch"), REPORTER, "host-1", NOW)
    assert not PROMPT.lets_pass(of_launch("instance-drifted"), REPORTER, "host-1", NOW)


@pytest.mark.parametrize("agent", [None, replace(REPORTER, name="payments")])
def test_an_exemption_is_of_no_use_for_another_agent_or_one_that_is_not_known(agent: AgentId | None) -> None:
    assert not PROMPT.lets_pass(of_launch("component-mismatch"), agent, "host-1", NOW)

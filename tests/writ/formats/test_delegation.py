"""Delegations, proposals and the numbers of people in a policy: what is none is refused, and any bytes get an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.scene import NOW, policy, signer
from writ.formats.delegation import Delegation, Role, encode_delegation, parse_delegation, pattern
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.exemption import LONGEST
from writ.formats.policy_bundle import PolicySettings, encode_bundle, parse_bundle
from writ.formats.proposal import Draft, Proposal, encode_proposal, parse_proposal
from writ.formats.strict import decode_cbor, encode_cbor

KEYS = tuple(sorted((signer(name).public for name in "ab"), key=lambda key: key.thumbprint()))
ROLE = Role("prompts", ("agent/*", "governance"), ("prompts",), KEYS, 2, NOW)
DELEGATION = Delegation("billing", 1, NOW, (ROLE,))
DRAFT = Draft("file-unknown", "files./usr/bin/x", "sha256:00", ("h1", "h2"), NOW, NOW + 60, "hotfix")
PROPOSAL = Proposal("billing", "exemption", NOW, (Digest.of(b"x"),), (), DRAFT)


@pytest.mark.parametrize("which", ["delegation", "import", "exemption"])
def test_parsers_answer_any_bytes(which: str) -> None:
    if which == "delegation":
        assert_parser_is_total(parse_delegation, encode_delegation(DELEGATION))
    else:
        one = PROPOSAL if which == "exemption" else Proposal("billing", "import", NOW, (Digest.of(b"x"),), (Digest.of(b"y"),))
        assert_parser_is_total(parse_proposal, encode_proposal(one))


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "No"},
        {"environments": ()},
        {"environments": ("b", "a")},
        {"environments": ("a", "a")},
        {"environments": ("a*b",)},
        {"environments": ("**",)},
        {"environments": ("",)},
        {"environments": ("a\n",)},
        {"components": ()},
        {"components": tuple(f"{at:03}" for at in range(65))},
        {"publishers": ()},
        {"publishers": (KEYS[0], KEYS[0])},
        {"publishers": KEYS[::-1]},
        {"threshold": 0},
        {"threshold": 3},
        {"not_after": -1},
    ],
)
def test_role_that_is_none_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        replace(ROLE, **changed)


def test_roles_are_sorted_and_each_once() -> None:
    other = replace(ROLE, name="code")
    assert Delegation("billing", 1, NOW, (other, ROLE)).roles == (other, ROLE)
    for roles in ((ROLE, other), (ROLE, ROLE), tuple(replace(ROLE, name=f"r{at:03}") for at in range(65))):
        with pytest.raises(FormatError):
            replace(DELEGATION, roles=roles)


def test_key_with_another_parameter_is_another_spelling() -> None:
    value = decode_cbor(encode_delegation(DELEGATION), "delegation")
    value["roles"][0]["publishers"][0][2] = b"kid"
    with pytest.raises(FormatError, match="another spelling"):
        parse_delegation(encode_cbor(value))


def test_pattern_has_a_star_at_its_end_only() -> None:
    for good in ("*", "a", "a*", "spiffe://example.org/x/*"):
        assert pattern(good, "x") == good
    for bad in ("", "*a", "a*b*", "a" * 257):
        with pytest.raises(FormatError):
            pattern(bad, "x")


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "nothing"},
        {"kind": "import"},
        {"draft": None},
        {"of": ()},
        {"of": (Digest.of(b"x"), Digest.of(b"x"))},
        {"of": tuple(sorted(Digest.of(at.to_bytes(2, "big")) for at in range(257)))},
        {"retires": tuple(sorted((Digest.of(b"1"), Digest.of(b"2"))))[::-1]},
        {"keeps": tuple(sorted((Digest.of(b"1"), Digest.of(b"2"))))[::-1]},
        {"keeps": tuple(sorted(Digest.of(at.to_bytes(2, "big")) for at in range(257)))},
    ],
)
def test_proposal_that_is_none_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        replace(PROPOSAL, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"code": "nonce-spent"},
        {"hosts": ()},
        {"hosts": ("b", "a")},
        {"not_after": NOW},
        {"not_after": NOW + LONGEST + 1},
        {"hosts": ("No",)},
    ],
)
def test_draft_is_held_to_the_rules_of_an_exemption(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        replace(DRAFT, **changed)


def test_draft_becomes_the_exemption_of_two_people() -> None:
    made = DRAFT.approved("billing", ("bob", "alice"))
    assert (made.namespace, made.approved_by, made.why) == ("billing", ("alice", "bob"), "hotfix")
    for people in (("alice",), ("alice", "alice"), ("a", "b", "c")):
        with pytest.raises(FormatError):
            DRAFT.approved("billing", people)


def test_proposal_that_keeps_nothing_does_not_say_so() -> None:
    value = decode_cbor(encode_proposal(PROPOSAL), "proposal")
    with pytest.raises(FormatError, match="or no such entry"):
        parse_proposal(encode_cbor({**value, "keeps": []}))


def test_any_detail_changed_is_another_proposal() -> None:
    names = {
        PROPOSAL.digest,
        replace(PROPOSAL, proposed_at=NOW + 1).digest,
        replace(PROPOSAL, namespace="other").digest,
        replace(PROPOSAL, keeps=(Digest.of(b"x"),)).digest,
        replace(PROPOSAL, draft=replace(DRAFT, got="sha256:01")).digest,
        replace(PROPOSAL, draft=replace(DRAFT, hosts=("h1",))).digest,
        replace(PROPOSAL, draft=replace(DRAFT, not_after=NOW + 61)).digest,
    }
    assert len(names) == 7


@pytest.mark.parametrize(
    "approvals",
    [
        (("boot", 1),),
        (("boot", 9),),
        (("b", 2), ("a", 2)),
        (("a", 2), ("a", 3)),
        (("a*b", 2),),
        (("", 2),),
        tuple((f"{at:03}", 2) for at in range(65)),
    ],
)
def test_numbers_of_people_that_are_none_are_refused(approvals: tuple[tuple[str, int], ...]) -> None:
    with pytest.raises(FormatError):
        PolicySettings(approvals=approvals)


def test_policy_without_numbers_of_people_is_spelt_as_before() -> None:
    plain = encode_bundle(policy(PolicySettings()))
    value = decode_cbor(plain, "policy")
    assert "approvals" not in value["settings"]
    guarded = PolicySettings(approvals=(("boot", 2), ("rooted/*", 3)))
    assert parse_bundle(encode_bundle(policy(guarded))).settings == guarded
    for wrong in ([], [["boot"]], [["boot", "2"]], [[2, "boot"]], {"boot": 2}, ["boot"]):
        value["settings"]["approvals"] = wrong
        with pytest.raises(FormatError):
            parse_bundle(encode_cbor(value))

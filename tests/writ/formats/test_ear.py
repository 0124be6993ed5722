"""EAR: the same result in CBOR and JSON, and no status better than what it rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.ear import (
    CLAIMS,
    EPOCHS,
    PROFILE,
    STATUS,
    VECTOR,
    Ear,
    Submodule,
    encode_ear_cbor,
    encode_ear_json,
    parse_ear_cbor,
    parse_ear_json,
    submodule,
    tier_of,
    worst,
)
from writ.formats.errors import FormatError
from writ.formats.reason import REMEDIES, Reason
from writ.formats.state import TPM_CLASSES
from writ.formats.strict import decode_cbor, encode_cbor, encode_json

_REASONS = st.builds(Reason, st.sampled_from(sorted(REMEDIES)), st.just("claim"), st.just("a"), st.sampled_from(["b", "c"]))
_SUBMODULES = st.builds(
    lambda vector, ids, reasons, runtime_only, epoch, safe: submodule(
        vector, policy_ids=tuple(ids), reasons=tuple(reasons), runtime_only=runtime_only, epoch=epoch, clock_safe=safe
    ),
    st.dictionaries(st.sampled_from(sorted(VECTOR)), st.integers(-128, 127)),
    st.lists(st.text("abc:", min_size=1, max_size=9), max_size=3),
    st.lists(_REASONS, max_size=3),
    st.booleans(),
    st.none() | st.sampled_from(EPOCHS),
    st.none() | st.booleans(),
)
_EARS = st.builds(
    lambda subs, **rest: Ear("writ", "0.1", 1700000000, tuple(sorted(subs.items())), **rest),
    st.dictionaries(st.text("abc", min_size=1, max_size=4), _SUBMODULES, min_size=1, max_size=3),
    status=st.none() | st.just("contraindicated"),
    exp=st.none() | st.integers(0, 1 << 40),
    nonce=st.none() | st.binary(min_size=8, max_size=64),
    raw_evidence=st.none() | st.binary(max_size=20),
    tpm_class=st.none() | st.sampled_from(TPM_CLASSES),
    salt=st.none() | st.binary(min_size=16, max_size=16),
)
_SUB = submodule(
    {"executables": 2}, policy_ids=("sha256:00",), reasons=(Reason("nonce-spent", "c", "a", "b"),), runtime_only=True, epoch="resumed",
    clock_safe=False,
)  # fmt: skip
_SPECIMEN = Ear("writ", "0.1", 1700000000, (("runtime", _SUB),), "affirming", 1700000060, bytes(32), b"cmw", "software")


@given(_EARS)
def test_ear_comes_back_as_it_was_in_both_spellings(ear: Ear) -> None:
    assert parse_ear_cbor(encode_ear_cbor(ear)) == ear
    assert parse_ear_json(encode_ear_json(ear)) == ear


def test_ear_readers_are_total() -> None:
    assert_parser_is_total(parse_ear_cbor, encode_ear_cbor(_SPECIMEN), flips=1000)
    assert_parser_is_total(parse_ear_json, encode_ear_json(_SPECIMEN), flips=1000)


def test_every_claim_has_its_number_and_name() -> None:
    by_number = decode_cbor(encode_ear_cbor(_SPECIMEN), "EAR")
    by_name = json.loads(encode_ear_json(_SPECIMEN))
    assert set(by_number) == {265, 6, 4, 10, 1000, 1002, 1004, 266, -70102}
    assert set(by_name) == {name for name, number in CLAIMS.items() if number in by_number}
    assert by_number[266]["runtime"] == {
        1000: 2,
        1001: {2: 2},
        1003: ["sha256:00"],
        -70100: [["nonce-spent", "c", "a", "b"]],
        -70101: True,
        -70103: "resumed",
        -70104: False,
    }
    assert by_name["submods"]["runtime"]["ear_status"] == "affirming"
    assert all(number < -65536 for name, number in CLAIMS.items() if name.startswith("writ_"))


@pytest.mark.parametrize(
    "value, tier",
    [
        *[(v, "none") for v in (-1, 0, 1)],
        *[(v, "affirming") for v in (2, 31, -2, -32)],
        *[(v, "warning") for v in (32, 95, -33, -96)],
        *[(v, "contraindicated") for v in (96, 99, 127, -97, -128)],
    ],
)
def test_tier_of_each_boundary(value: int, tier: str) -> None:
    assert tier_of(value) == tier


@pytest.mark.parametrize("value", [128, -129, 1 << 40])
def test_claim_outside_of_a_byte_is_refused(value: int) -> None:
    with pytest.raises(FormatError):
        tier_of(value)


@pytest.mark.parametrize("status", sorted(STATUS))
@pytest.mark.parametrize("claim", [1, 2, 32, 96, -97])
def test_status_better_than_the_worst_claim_is_refused(status: str, claim: int) -> None:
    vector = (("hardware", claim),)
    if STATUS[status] >= STATUS[tier_of(claim)]:
        assert Submodule(status, vector).claim("hardware") == claim
        return
    with pytest.raises(FormatError, match="or worse, as the vector has it"):
        Submodule(status, vector)
    written = encode_cbor({265: PROFILE, 6: 1, 1004: {0: "d", 1: "b"}, 266: {"x": {1000: STATUS[status], 1001: {4: claim}}}})
    with pytest.raises(FormatError, match="or worse, as the vector has it"):
        parse_ear_cbor(written)


@pytest.mark.parametrize("status", sorted(STATUS))
def test_overall_status_better_than_a_submodule_is_refused(status: str) -> None:
    subs = (("a", Submodule("affirming")), ("b", Submodule("warning")))
    if STATUS[status] >= STATUS["warning"]:
        assert Ear("d", "b", 0, subs, status).status == status
        return
    with pytest.raises(FormatError, match="or worse, as a submodule has it"):
        Ear("d", "b", 0, subs, status)


def test_submodule_takes_the_worst_tier_and_sorts() -> None:
    later, earlier = Reason("nonce-spent", "c", "a", "b"), Reason("ak-parent", "c", "a", "b")
    sub = submodule({"hardware": 2, "instance-identity": 32, "executables": -1}, reasons=(later, earlier, later))
    assert (sub.status, sub.reasons) == ("warning", (earlier, later))
    assert sub.vector == (("instance-identity", 32), ("executables", -1), ("hardware", 2))
    assert sub.claim("storage-opaque") is None
    assert submodule({}).status == "none" == worst()


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: submodule({"temper": 2}), id="an unknown claim"),
        pytest.param(lambda: Submodule("none", (("temper", 0),)), id="an unknown claim of a Submodule"),
        pytest.param(lambda: Submodule("affirming", (("hardware", 2), ("executables", 2))), id="claims out of order"),
        pytest.param(lambda: Submodule("affirming", (("hardware", 2), ("hardware", 2))), id="a claim twice"),
        pytest.param(lambda: Submodule("fine"), id="an unknown status"),
        pytest.param(lambda: Submodule("none", epoch="later"), id="an unknown epoch"),
        pytest.param(lambda: Ear("d", "b", 0, ()), id="no submodule"),
        pytest.param(lambda: Ear("d", "b", 0, tuple((f"{i:03}", Submodule("none")) for i in range(301))), id="too many submodules"),
        pytest.param(lambda: Ear("d", "b", 0, (("b", Submodule("none")), ("a", Submodule("none")))), id="submodules out of order"),
        pytest.param(lambda: Ear("d", "b", 0, (("a", Submodule("none")),), "fine"), id="an unknown overall status"),
        pytest.param(lambda: Ear("d", "b", 0, (("a", Submodule("none")),), nonce=bytes(7)), id="a short nonce"),
        pytest.param(lambda: Ear("d", "b", 0, (("a", Submodule("none")),), tpm_class="real"), id="an unknown TPM class"),
        pytest.param(lambda: Ear("d", "b", 0, (("a", Submodule("none")),), salt=bytes(15)), id="a short salt"),
    ],
)
def test_result_that_breaks_a_rule_cannot_be_built(build: Any) -> None:
    with pytest.raises(FormatError):
        build()


_GOOD: dict[Any, Any] = {265: PROFILE, 6: 1, 1004: {0: "d", 1: "b"}, 266: {"x": {1000: 2, 1001: {4: 2}}}}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({265: "tag:ietf.org,2026:rats/ear#03"}, id="another draft"),
        pytest.param({265: "tag:github.com,2023:veraison/ear"}, id="the old profile"),
        pytest.param({6: -1}, id="iat before the epoch"),
        pytest.param({1004: {0: "d"}}, id="no build"),
        pytest.param({1004: {0: "d", 1: "b", 2: "c"}}, id="more of the verifier"),
        pytest.param({1004: {0: "", 1: "b"}}, id="no developer"),
        pytest.param({1005: {}}, id="an unknown claim"),
        pytest.param({1000: 3}, id="a status between the tiers"),
        pytest.param({1000: "affirming"}, id="a status by name in CBOR"),
        pytest.param({10: bytes(7)}, id="a short nonce"),
        pytest.param({-70102: "real"}, id="an unknown TPM class"),
        pytest.param({266: {}}, id="no submodule"),
        pytest.param({266: {1: {1000: 2}}}, id="a submodule by number"),
        pytest.param({266: {"": {1000: 2}}}, id="a submodule without a name"),
        pytest.param({266: {"x": {}}}, id="a submodule without a status"),
        pytest.param({266: {"x": {1000: 2, 1001: {}}}}, id="an empty vector"),
        pytest.param({266: {"x": {1000: 96, 1001: {8: 2}}}}, id="a vector of an unknown claim"),
        pytest.param({266: {"x": {1000: 96, 1001: {"hardware": 2}}}}, id="a vector by name in CBOR"),
        pytest.param({266: {"x": {1000: 96, 1001: {4: True}}}}, id="a claim that is true"),
        pytest.param({266: {"x": {1000: 96, 1001: {4: 200}}}}, id="a claim beyond a byte"),
        pytest.param({266: {"x": {1000: 96, 1003: []}}}, id="no policy id"),
        pytest.param({266: {"x": {1000: 96, 1003: [""]}}}, id="an empty policy id"),
        pytest.param({266: {"x": {1000: 96, 1003: "one"}}}, id="one policy id, as it was once"),
        pytest.param({266: {"x": {1000: 96, -70100: []}}}, id="an empty list of reasons"),
        pytest.param({266: {"x": {1000: 96, -70100: [["no-such-code", "a", "b", "c"]]}}}, id="an unknown reason"),
        pytest.param(
            {266: {"x": {1000: 96, -70100: [["nonce-spent", "a", "b", "c"], ["ak-parent", "a", "b", "c"]]}}}, id="reasons out of order"
        ),
        pytest.param({266: {"x": {1000: 96, -70101: False}}}, id="runtime-only false in so many words"),
        pytest.param({266: {"x": {1000: 96, 99: 1}}}, id="an unknown claim of a submodule"),
    ],
)
def test_ear_with_other_claims_is_refused(change: dict[Any, Any]) -> None:
    parse_ear_cbor(encode_cbor(_GOOD))
    with pytest.raises(FormatError):
        parse_ear_cbor(encode_cbor({**_GOOD, **change}))


@pytest.mark.parametrize("key", sorted(_GOOD))
def test_ear_without_a_required_claim_is_refused(key: int) -> None:
    with pytest.raises(FormatError):
        parse_ear_cbor(encode_cbor({k: v for k, v in _GOOD.items() if k != key}))


def test_json_ear_has_one_spelling_and_status_by_name() -> None:
    data = encode_ear_json(_SPECIMEN)
    with pytest.raises(FormatError):
        parse_ear_json(data.replace(b",", b", ", 1))
    with pytest.raises(FormatError):
        parse_ear_json(data.replace(b'"affirming"', b"2"))
    with pytest.raises(FormatError):
        parse_ear_json(data.replace(b'"affirming"', b'"fine"'))


@pytest.mark.parametrize("file, submodules", [("ear-json-1.diag", ["PSA"]), ("ear-json-2.diag", ["CCA Platform", "CCA Realm"])])
def test_published_example_is_read_under_our_profile(vectors: Path, file: str, submodules: list[str]) -> None:
    """The examples are of draft 03; only the profile changed. Their own profile is refused."""
    example = json.loads((vectors / "audit" / "ear_draft03" / "cddl" / "examples" / file).read_text())
    with pytest.raises(FormatError, match="rats/ear#04"):
        parse_ear_json(encode_json(example))
    ear = parse_ear_json(encode_json({**example, "eat_profile": PROFILE}))
    assert [name for name, _ in ear.submodules] == submodules
    assert ear.verifier_build == "vts 0.0.1"
    assert parse_ear_cbor(encode_ear_cbor(ear)) == ear
    assert ear.submodule(submodules[0]) is not None
    assert ear.submodule("absent") is None


@pytest.mark.parametrize("file", ["trustee/example.token.json"])
def test_old_dotted_names_are_refused(vectors: Path, file: str) -> None:
    with pytest.raises(FormatError):
        parse_ear_json(encode_json(json.loads((vectors / "audit" / file).read_text())))

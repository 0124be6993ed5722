"""Comparing with reference values: one version whole, or what differs from the nearest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.scene import GOVERNED, NAMESPACE, NOW, measurement, reference
from writ.formats.corim import Corim, encode_corim, parse_corim
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.exemption import MOST, Exemption
from writ.formats.ima_state import MAX_SEEN
from writ.formats.proof_bundle import MAX_BUNDLE, MAX_CORIMS, MAX_PART, MOST_CORIMS
from writ.formats.strict import decode_cbor
from writ.verdict import reference as verdict
from writ.verdict.reference import compare, keeps_names, list_names, measured_values, reference_set, retired_names

X, Y, Z = (Digest.of(c) for c in (b"x", b"y", b"z"))


def corim(version: str, valid_until: int | None = None, **components: Digest) -> Corim:
    return Corim(version, NAMESPACE, "env", tuple(sorted(components.items())), valid_until=valid_until)


def differences(measured: dict[str, Digest], *versions: Corim, environment: str = "env") -> list[tuple[str, str]]:
    reasons = compare(environment, measured, reference_set(versions), claim="c", mismatch="component-mismatch", now=NOW, registers={})
    return [(r.code, r.claim) for r in reasons]


def test_devices_are_approved_by_their_names() -> None:
    plain, given = (measured_values(replace(measurement(), devices=devices)) for devices in ((), ("v.com/gpu=0",)))
    other = measured_values(replace(measurement(), devices=("v.com/gpu=1",)))
    assert plain.keys() == given.keys() - {"devices"}
    without, with_one = (Corim("1", NAMESPACE, "env", tuple(sorted(values.items()))) for values in (plain, given))
    assert differences(given, without) == [("component-unexpected", "c.devices")]
    assert differences(plain, with_one) == [("component-missing", "c.devices")]
    assert differences(other, with_one) == [("component-mismatch", "c.devices")]


def test_measurement_that_is_one_version_whole_passes() -> None:
    assert differences({"a": X, "b": Y}, corim("2", a=Z, b=Z), corim("1", a=X, b=Y)) == []


def test_parts_of_two_versions_never_make_a_good_one() -> None:
    assert differences({"a": X, "b": Z}, corim("1", a=X, b=Y), corim("2", a=Y, b=Z)) == [("component-mismatch", "c.b")]


def test_each_kind_of_difference_has_its_reason() -> None:
    assert differences({"a": X, "b": Y}, corim("1", a=Y, c=Z)) == [
        ("component-mismatch", "c.a"),
        ("component-unexpected", "c.b"),
        ("component-missing", "c.c"),
    ]
    reasons = compare(
        "env", {"a": X, "b": Y}, reference_set([corim("1", a=Y, c=Z)]), claim="c", mismatch="governance-mismatch", now=NOW, registers={}
    )
    assert [(r.code, r.expected, r.got) for r in reasons] == [
        ("governance-mismatch", str(Y), str(X)),
        ("component-unexpected", "none", str(Y)),
        ("component-missing", str(Z), "none"),
    ]


def test_nearest_version_is_shown_and_ties_go_to_the_first_id() -> None:
    near, far = corim("9", a=X, b=Z), corim("1", a=Z, b=Z)
    assert differences({"a": X, "b": Y}, far, near) == [("component-mismatch", "c.b")]
    tied = corim("2", a=Z, b=Y)
    for order in ((near, tied), (tied, near)):
        assert differences({"a": X, "b": Y}, *order) == [("component-mismatch", "c.a")]


def test_of_two_versions_of_one_id_the_same_is_shown_whatever_their_order() -> None:
    one, two = corim("1", a=Y), corim("1", a=Z)
    for order in ((one, two), (two, one)):
        (reason,) = compare("env", {"a": X}, reference_set(order), claim="c", mismatch="component-mismatch", now=NOW, registers={})
        assert reason.expected == str(min(one, two, key=lambda given: Digest.of(encode_corim(given)).value).components[0][1])


def test_version_past_its_date_is_none() -> None:
    assert differences({"a": X}, corim("1", NOW, a=X)) == []
    assert differences({"a": X}, corim("1", NOW - 1, a=X)) == [("agent-unknown", "c")]


def test_environment_without_reference_values_is_unknown() -> None:
    assert differences({"a": X}) == [("agent-unknown", "c")]
    assert differences({"a": X}, corim("1", a=X), environment="other") == [("agent-unknown", "c")]
    assert differences({"a": X}, corim("1", a=X), environment="governance") == [("governance-mismatch", "c")]


def test_measured_values_are_components_and_the_command() -> None:
    assert measured_values(measurement()) == dict(reference().components)


def test_set_of_references_is_named_whatever_its_order() -> None:
    one, two = GOVERNED, reference()
    assert reference_set([one, two]).digest == reference_set([two, one, one]).digest
    names = {reference_set(given).digest for given in ([], [one], [two], [one, two], [one, replace(two, id="other")])}
    assert len(names) == 5


def test_more_files_that_root_a_runtime_than_a_state_holds_are_no_set() -> None:
    files = tuple((f"/usr/lib/{number:05}", X) for number in range(MAX_SEEN))
    most = Corim("a", "billing", "rooted/attestor", files)
    assert reference_set([most, Corim("c", "billing", "files/os", (("/usr/bin/one", X),))]).listed
    with pytest.raises(FormatError, match=f"at most {MAX_SEEN} files"):
        reference_set([most, Corim("b", "billing", "rooted/enforcer", (("/usr/bin/one", X),))])


def test_set_that_no_proof_bundle_holds_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    corims = [Corim(f"{number}", "billing", "files/os", ((f"/usr/bin/{number}", X),)) for number in range(3)]
    size = sum(len(encode_corim(one)) for one in corims)
    monkeypatch.setattr(verdict, "MOST_CORIMS", 3)
    monkeypatch.setattr(verdict, "MAX_CORIMS", size)
    assert reference_set([*corims, corims[0]]).listed, "each counts once"
    monkeypatch.setattr(verdict, "MAX_CORIMS", size - 1)
    with pytest.raises(FormatError, match=f"at most {size - 1} bytes of CoRIMs, got {size}"):
        reference_set(corims)
    with pytest.raises(FormatError, match="at most 3 CoRIMs, got 4"):
        reference_set([*corims, corim("4", a=X)])


def test_largest_set_is_listed_in_one_message_and_fits_into_a_proof_bundle() -> None:
    names = [number.to_bytes(32, "big") for number in range(MOST_CORIMS + MOST)]
    assert decode_cbor(list_names(names), "references") == names
    assert MAX_CORIMS + 3 * MAX_PART < MAX_BUNDLE


def test_more_exemptions_than_may_be_in_force_are_no_set() -> None:
    made = [
        Exemption("billing", "file-unknown", f"ima./bin/{number}", str(X), ("host-1",), NOW, NOW + 1, "x", ("a", "b"))
        for number in range(MOST + 1)
    ]
    assert len(reference_set([], made[:-1]).exemptions) == MOST
    with pytest.raises(FormatError, match=f"at most {MOST} exemptions"):
        reference_set([], made)


# --- what stays of files that were retired ------------------------------------------------------------------------------------


def files(version: str, *paths: str, environment: str = "files/os", valid_until: int | None = None) -> Corim:
    return Corim(version, NAMESPACE, environment, tuple((path, X) for path in sorted(paths)), valid_until=valid_until)


def test_names_of_retired_files_approve_nothing_and_are_pinned() -> None:
    gone = [files("1", "/a", "/b"), files("2", "verity:/b"), files("3", "/p", environment="rooted/launcher"), corim("1", a=X), GOVERNED]
    kept = retired_names(gone)
    assert [(one.environment, one.id, [name for name, _ in one.components]) for one in kept] == [
        ("files/retired", "retired-0", ["/a", "/b", "verity:/b"]),
        ("rooted/launcher", "retired-0", ["/p"]),
    ]
    assert retired_names(reversed(gone)) == kept == retired_names(kept)
    found = reference_set(kept).files(NOW)
    assert (found.approved, found.required) == ({}, {})
    assert (set(found.pinned), set(found.parts), found.compared) == ({b"/a", b"/b", b"/p"}, {b"/p"}, True)
    assert all(keeps_names(one) and parse_corim(encode_corim(one)) == one for one in kept)


def test_names_are_kept_by_namespace() -> None:
    other = replace(files("1", "/b"), namespace="other")
    assert [one.namespace for one in retired_names([files("1", "/a"), other])] == [NAMESPACE, "other"]


def test_as_many_names_are_kept_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "MOST_NAMES", 2)
    kept = retired_names([files("1", "/a", "/b", "/c", "/d", "/e")])
    found = [(one.id, [name for name, _ in one.components]) for one in kept]
    assert found == [("retired-0", ["/a", "/b"]), ("retired-1", ["/c", "/d"]), ("retired-2", ["/e"])]


@pytest.mark.parametrize(
    "one", [files("1", "/a"), files("1", "/a", valid_until=1), replace(corim("1", a=X), valid_until=0)], ids=["valid", "over", "no file"]
)
def test_version_keeps_no_names(one: Corim) -> None:
    assert not keeps_names(one)


def test_names_that_are_kept_take_no_room_of_those_that_root_a_runtime() -> None:
    kept = files("1", *(f"/{number}" for number in range(MAX_SEEN)), environment="rooted/launcher", valid_until=0)
    assert reference_set([kept, files("2", "/a", environment="rooted/launcher")]).listed


# --- PCRs ------------------------------------------------------------------------------------------------------------------------

SHA384 = Digest.of(b"x", "sha384")


def registers(quoted: dict[int, Digest], *wanted: tuple[int, Digest], measured: dict[str, Digest] | None = None) -> list[tuple[str, ...]]:
    versions = reference_set([replace(corim("1", a=X), registers=wanted)])
    reasons = compare("env", measured, versions, claim="c", mismatch="boot-mismatch", now=NOW, registers=quoted)
    return [(r.code, r.claim, r.expected, r.got) for r in reasons]


def test_register_is_what_the_version_says_in_the_quoted_bank() -> None:
    assert registers({7: X, 8: Y}, (7, X)) == [], "what it does not name is not compared"
    assert registers({7: X}, (7, X), (7, SHA384)) == [] == registers({7: SHA384}, (7, X), (7, SHA384))
    assert registers({7: Y}, (7, X)) == [("boot-mismatch", "c.registers.7", str(X), str(Y))]
    assert registers({7: X}, (7, SHA384)) == [("boot-mismatch", "c.registers.7", str(SHA384), str(X))]
    assert registers({7: Y}, (7, X), (7, SHA384))[0][2] == f"{X} or {SHA384}"


def test_register_that_is_not_quoted_is_missing() -> None:
    assert registers({7: X}, (7, X), (16, X)) == [("component-missing", "c.registers.16", str(X), "none")]


def test_registers_and_components_are_one_version() -> None:
    one, two = replace(corim("1", a=X), registers=((7, X),)), replace(corim("2", a=Y), registers=((7, Y),))

    def differs(a: Digest, pcr: Digest) -> list[str]:
        versions, quoted = reference_set([one, two]), {7: pcr}
        return [r.claim for r in compare("env", {"a": a}, versions, claim="c", mismatch="boot-mismatch", now=NOW, registers=quoted)]

    assert (differs(X, X), differs(Y, Y)) == ([], [])
    assert (differs(Y, X), differs(X, Y)) == (["c.a"], ["c.registers.7"])
    assert registers({7: Y}, (7, X), measured={"a": Y, "b": X}) == [
        ("boot-mismatch", "c.a", str(X), str(Y)),
        ("component-unexpected", "c.b", "none", str(X)),
        ("boot-mismatch", "c.registers.7", str(X), str(Y)),
    ]


def test_registers_alone_are_compared_where_nothing_was_measured() -> None:
    assert registers({7: X}, (7, X)) == []
    assert registers({7: X}, (7, X), measured={})[0][:2] == ("component-missing", "c.a")

"""Comparing with reference values: one version whole, or what differs from the nearest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.scene import GOVERNED, NAMESPACE, NOW, measurement, reference
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.exemption import MOST, Exemption
from writ.formats.ima_state import MAX_SEEN
from writ.verdict.reference import compare, measured_values, reference_set

X, Y, Z = (Digest.of(c) for c in (b"x", b"y", b"z"))


def corim(version: str, valid_until: int | None = None, **components: Digest) -> Corim:
    return Corim(version, NAMESPACE, "env", tuple(sorted(components.items())), valid_until=valid_until)


def differences(measured: dict[str, Digest], *versions: Corim, environment: str = "env") -> list[tuple[str, str]]:
    reasons = compare(environment, measured, reference_set(versions), claim="c", mismatch="component-mismatch", now=NOW)
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
    reasons = compare("env", {"a": X, "b": Y}, reference_set([corim("1", a=Y, c=Z)]), claim="c", mismatch="governance-mismatch", now=NOW)
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


def test_more_exemptions_than_may_be_in_force_are_no_set() -> None:
    made = [
        Exemption("billing", "file-unknown", f"ima./bin/{number}", str(X), ("host-1",), NOW, NOW + 1, "x", ("a", "b"))
        for number in range(MOST + 1)
    ]
    assert len(reference_set([], made[:-1]).exemptions) == MOST
    with pytest.raises(FormatError, match=f"at most {MOST} exemptions"):
        reference_set([], made)

"""CDI specifications: every key known, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.cdi import MAX_DEVICES, Edits, Node, Spec, device_name, device_set, parse_spec
from writ.formats.errors import FormatError

EDITS: Mapping[str, Any] = {
    "env": ["A=1"],
    "deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b", "type": "c", "major": 1, "minor": 2, "permissions": "rw"}, {"path": "/dev/c"}],
    "mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["ro"], "type": "bind"}],
}
SPEC: Mapping[str, Any] = {
    "cdiVersion": "1.0.0", "kind": "v.com/c", "annotations": {"a": "b"},
    "devices": [{"name": "0", "annotations": {}, "containerEdits": EDITS}, {"name": "all", "containerEdits": {}}],
    "containerEdits": {"hooks": [{"hookName": "x", "path": "/x"}], "additionalGids": []},
}  # fmt: skip


def test_specification_is_read() -> None:
    nodes = Node("/dev/a", "/dev/b", (1, 2)), Node("/dev/c", "/dev/c", None)
    assert parse_spec(json.dumps(SPEC).encode()) == Spec(
        "v.com/c", (("0", Edits(nodes, (("/a", "/b"),), (("A", "1"),))), ("all", Edits())), Edits(never=("hooks",))
    )


@pytest.mark.parametrize("text", ["v.com/c=0", "nvidia.com/gpu=GPU-1:2.3", "a/b=c"])
def test_names_of_devices(text: str) -> None:
    kind, name = device_name(text, "x")
    assert f"{kind}={name}" == text


@pytest.mark.parametrize(
    "text", ["", "gpu", "v.com/c", "v.com/c=", "/c=0", "v.com/=0", "v.com/c=0=1", "v.com/c/d=0", "1v/c=0", "v.com/c=0\n", "v/c=-"]
)
def test_what_is_no_name_of_a_device(text: str) -> None:
    with pytest.raises(FormatError, match=r"vendor\.com/class=name"):
        device_name(text, "x")


def test_devices_are_a_sorted_set_of_bounded_size() -> None:
    assert device_set(["v/c=1", "v/c=0"], "x") == ("v/c=0", "v/c=1")
    for texts in (["v/c=0", "v/c=0"], [f"v/c={at}" for at in range(MAX_DEVICES + 1)], ["x"]):
        with pytest.raises(FormatError):
            device_set(texts, "x")


def with_edits(**edits: Any) -> dict[str, Any]:
    return {**SPEC, "containerEdits": edits}


@pytest.mark.parametrize(
    "spec",
    [
        {**SPEC, "cdiVersion": "2.0.0"},
        {**SPEC, "kind": "c"},
        {**SPEC, "more": 1},
        {**SPEC, "devices": []},
        {**SPEC, "devices": [{"name": "0"}, {"name": "0"}]},
        {**SPEC, "devices": [{"name": "-"}]},
        {**SPEC, "devices": [{"name": "0", "more": 1}]},
        with_edits(more=1),
        with_edits(env=["A"]),
        with_edits(env=["1A=1"]),
        with_edits(env=["A=\n"]),
        with_edits(deviceNodes=[{"path": "dev/a"}]),
        with_edits(deviceNodes=[{"path": "/dev/../etc"}]),
        with_edits(deviceNodes=[{"path": "/dev/a", "more": 1}]),
        with_edits(deviceNodes=[{"path": "/dev/a", "major": 1}]),
        with_edits(mounts=[{"hostPath": "/a"}]),
        with_edits(mounts=[{"hostPath": "/a", "containerPath": "b"}]),
        with_edits(mounts=[{"hostPath": "/a", "containerPath": "/b", "options": [1]}]),
        with_edits(mounts=[{"hostPath": "/a", "containerPath": "/b", "more": 1}]),
    ],
)
def test_specification_that_says_something_else_is_refused(spec: Mapping[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_spec(json.dumps(spec).encode())


def test_no_bytes_are_an_error_of_another_kind() -> None:
    assert_parser_is_total(parse_spec, json.dumps(SPEC).encode(), flips=1000)


keys = st.sampled_from(["containerEdits", "deviceNodes", "mounts", "hooks", "env", "path", "name", "hostPath", "type"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | st.just("/dev/a"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(values, st.sampled_from(["containerEdits", "devices", "kind", "annotations"]))
def test_any_json_is_a_specification_or_a_format_error(value: object, key: str) -> None:
    try:
        parse_spec(json.dumps({**SPEC, key: value}).encode())
    except FormatError:
        return

"""Grants: a ceiling that nothing climbs over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.errors import FormatError
from writ.formats.grants import MAX_GRANTS, Grant, covers, encode_grants, grant, grant_set, narrower, parse_grants, within
from writ.formats.strict import decode_cbor, encode_cbor

ROUGH = st.text(alphabet="ab/.*%2e\\", min_size=1, max_size=12)
"""Resources as an attacker would write them; few letters, so that they meet."""
ACTIONS = st.sampled_from(["call", "read"])


def _is_grant(pair: tuple[str, str]) -> bool:
    try:
        grant(*pair)
    except FormatError:
        return False
    return True


GRANTS = st.tuples(ACTIONS, ROUGH | ROUGH.map(lambda text: text + "/*")).filter(_is_grant).map(lambda pair: Grant(*pair))


@given(st.lists(GRANTS, max_size=4))
def test_set_round_trips(pairs: list[Grant]) -> None:
    grants = grant_set(pairs)
    assert parse_grants(decode_cbor(encode_cbor(encode_grants(grants)), "grants")) == grants
    assert set(grants) == set(pairs)


@pytest.mark.parametrize(
    "resource, reached, not_reached",
    [
        ("files/*", ["files/a", "files/a/b", "files/a/"], ["files", "files/", "filesx/a", "file", "Files/a", "xfiles/a"]),
        ("files/*", [], ["files/../a", "files/a/..", "files/./a", "files/%2e%2E/a", "files/.%2e", "files/a%2f..%2fb", "files/..%5ca"]),
        (
            "files/*",
            [],
            ["files/*", "files/a*", "files//a", "files/a//b", "files/a b", "files/a\\b", "files/a\n", "files/\x85", "files/\ud800"],
        ),
        ("files/a", ["files/a"], ["files/a/", "files/a/b", "files/A", "files/", "files/a ", "a"]),
        ("/*", ["/a"], ["/", "a", "//a"]),
        ("https://api.example/v1/*", ["https://api.example/v1/x?y=z"], ["https://api.example/v1", "https://api.example/v10/x"]),
    ],
)
def test_grant_reaches_what_it_says_and_nothing_else(resource: str, reached: list[str], not_reached: list[str]) -> None:
    one = grant("call", resource)
    assert [text for text in reached if not covers(one, "call", text)] == []
    assert [text for text in not_reached if covers(one, "call", text)] == []
    assert not any(covers(one, "read", text) for text in reached)


def test_resource_beyond_the_bound_is_reached_by_nothing() -> None:
    one = grant("call", "files/*")
    assert covers(one, "call", "files/" + "a" * 506)
    assert not covers(one, "call", "files/" + "a" * 507)
    assert not covers(one, "call", "")


@pytest.mark.parametrize(
    "child, parent, expected",
    [
        ("files/*", "files/*", True),
        ("files/a/*", "files/*", True),
        ("files/a", "files/*", True),
        ("files/a", "files/a", True),
        ("files/*", "files/a/*", False),
        ("files/*", "files/a", False),
        ("files", "files/*", False),
        ("filesx/*", "files/*", False),
        ("files/a//*", "files/*", False),
        ("files//*", "files/*", False),
        ("/*", "files/*", False),
    ],
)
def test_child_is_within_its_parent_or_not(child: str, parent: str, expected: bool) -> None:
    assert within(grant("call", child), grant("call", parent)) is expected
    assert not within(grant("read", child), grant("call", parent))


@given(GRANTS, GRANTS, ACTIONS, ROUGH)
def test_what_a_child_reaches_its_parent_reaches(child: Grant, parent: Grant, action: str, resource: str) -> None:
    beneath = child.resource[:-1] + resource
    for tried in (resource, beneath, child.resource):
        if within(child, parent) and covers(child, action, tried):
            assert covers(parent, action, tried)


@given(GRANTS)
def test_grant_is_within_itself(one: Grant) -> None:
    assert within(one, one)
    assert narrower((one,), (one,))


def test_narrower_holds_for_each_child_and_some_parent() -> None:
    parent = grant_set([("call", "files/*"), ("read", "mail/inbox")])
    assert narrower((), parent)
    assert narrower((), ())
    assert narrower(grant_set([("call", "files/x"), ("read", "mail/inbox")]), parent)
    assert not narrower(grant_set([("call", "files/x"), ("read", "mail/outbox")]), parent)
    assert not narrower(grant_set([("call", "mail/inbox")]), parent)
    assert not narrower(parent, ())


@pytest.mark.parametrize(
    "action, resource",
    [
        ("", "a"),
        ("1call", "a"),
        ("call it", "a"),
        ("call\n", "a"),
        ("c" * 129, "a"),
        ("call", ""),
        ("call", "*"),
        ("call", "a/**"),
        ("call", "a*"),
        ("call", "*/a"),
        ("call", "a/*/b"),
        ("call", "a/../b"),
        ("call", "../*"),
        ("call", "a/%2e%2e/*"),
        ("call", "a b"),
        ("call", "a\\b"),
        ("call", "a\x7f"),
        ("call", "a\udc80"),
        ("call", "a" * 513),
    ],
)
def test_pair_that_is_no_grant_is_refused(action: str, resource: str) -> None:
    with pytest.raises(FormatError):
        grant(action, resource)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "call",
        {},
        [["call"]],
        [["call", "a", "b"]],
        ["ab"],
        [["call", 1]],
        [[1, "a"]],
        [["call", "b"], ["call", "a"]],
        [["call", "a"], ["call", "a"]],
        [["call", f"a{n:03}"] for n in range(MAX_GRANTS + 1)],
    ],
)
def test_value_that_is_no_set_of_grants_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        parse_grants(value)


def test_largest_set_is_read() -> None:
    assert len(parse_grants([["call", f"a{n:03}"] for n in range(MAX_GRANTS)])) == MAX_GRANTS


def test_unsorted_grants_are_not_written() -> None:
    with pytest.raises(FormatError):
        encode_grants((Grant("call", "b"), Grant("call", "a")))

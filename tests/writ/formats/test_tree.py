"""Component trees: names spelled one way, one root for one content, nothing ambiguous."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.strict import encode_cbor
from writ.formats.tlog import merkle
from writ.formats.tree import (
    COMPONENT_KINDS,
    MAX_ENTRIES,
    Component,
    ComponentKind,
    Entry,
    EntryKind,
    check_path,
    component,
    component_root,
    diff,
    encode_tree,
    entry_digest,
    file_entry,
    parse_tree,
    spell,
    unspell,
)

D = Digest.of(b"content")
ENTRIES = (
    Entry.dir("empty"),
    Entry.link("latest", "src/agent.py"),
    Entry.file("run.sh", Digest.of(b"#!"), 2, executable=True),
    Entry.file(spell(b"src/\xff\\\n"), D, 7),
    Entry.file("src/agent.py", D, 7),
    Entry.file("src/\u00e9.txt", Digest.of(b""), 0),
)
TREE = component("code", "code", ENTRIES)

raw_segments = st.binary(min_size=1, max_size=6).filter(lambda raw: b"\0" not in raw and b"/" not in raw and raw not in {b".", b".."})
raw_paths = st.lists(raw_segments, min_size=1, max_size=3).map(b"/".join)


@st.composite
def entries(draw: st.DrawFn, path: str) -> Entry:
    kind = draw(st.sampled_from(["file", "link", "dir"]))
    if kind == "link":
        return Entry.link(path, spell(draw(st.binary(min_size=1, max_size=10).filter(lambda raw: b"\0" not in raw))))
    if kind == "dir":
        return Entry.dir(path)
    return Entry.file(path, Digest.of(draw(st.binary(max_size=3))), draw(st.integers(0, 1 << 62)), executable=draw(st.booleans()))


@st.composite
def components(draw: st.DrawFn) -> Component:
    paths: list[str] = []
    for raw in draw(st.lists(raw_paths, max_size=6, unique=True)):
        path = spell(raw)
        if not any(path.startswith(other + "/") or other.startswith(path + "/") for other in paths):
            paths.append(path)
    return component("code", draw(st.sampled_from(COMPONENT_KINDS)), [draw(entries(path)) for path in paths])


# --- names -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=64))
def test_any_name_has_one_spelling_that_gives_it_back(raw: bytes) -> None:
    text = spell(raw)
    assert unspell(text) == raw
    assert not any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in text)


@given(st.text(alphabet="\\x0123456789abcfe\u00e9\udcff", max_size=16) | st.text())
def test_text_is_the_spelling_of_what_it_names_or_refused(text: str) -> None:
    try:
        raw = unspell(text)
    except FormatError:
        return
    assert spell(raw) == text


@given(st.binary(min_size=1, max_size=30).filter(lambda raw: b"\0" not in raw))
def test_spelling_is_of_the_bytes_on_disk(raw: bytes) -> None:
    assert spell(os.fsencode(os.fsdecode(raw))) == spell(raw)


@pytest.mark.parametrize(
    "raw, text",
    [
        (b"plain", "plain"),
        ("h\u00e9".encode(), "h\u00e9"),
        (b"\xe9", "\\xe9"),
        (b"\\", "\\x5c"),
        (b"\\xff", "\\x5cxff"),
        (b"a\nb\x7f", "a\\x0ab\\x7f"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        (b"\xc0\xaf", "\\xc0\\xaf"),
        ("\U0001f600".encode(), "\U0001f600"),
    ],
)
def test_spelling_is_the_documented_one(raw: bytes, text: str) -> None:
    assert spell(raw) == text


@pytest.mark.parametrize("text", ["\\", "\\x", "\\x4", "\\xFF", "\\x41", "\\\\", "\\n", "\\xc3\\xa9", "a\n", "\udcff", "\x00"])
def test_second_spelling_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        unspell(text)


@pytest.mark.parametrize(
    "path", ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "./a", "a/./b", "../a", "a\\x00b", "a" * 4097, "a\n", "\\x2e"]
)
def test_path_that_is_not_relative_and_plain_is_refused(path: str) -> None:
    with pytest.raises(FormatError):
        check_path(path)


@pytest.mark.parametrize("path", ["a", "a/b", "...", ".hidden", "a..b/c", "a" * 4096, " ", "\\xff" * 4096])
def test_odd_but_plain_path_is_read(path: str) -> None:
    check_path(path)


# --- entries and components --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, executable, size, digest, target",
    [
        ("file", False, 1, None, None),
        ("file", False, 1, D, "x"),
        ("file", False, -1, D, None),
        ("file", False, 1 << 63, D, None),
        ("file", False, 1, Digest.of(b"", "sha384"), None),
        ("link", False, 0, None, None),
        ("link", False, 0, D, "x"),
        ("link", False, 1, None, "x"),
        ("link", True, 0, None, "x"),
        ("link", False, 0, None, ""),
        ("link", False, 0, None, "\\x00"),
        ("link", False, 0, None, "a\n"),
        ("link", False, 0, None, "a" * 4097),
        ("dir", False, 0, D, None),
        ("dir", False, 0, None, "x"),
        ("dir", True, 0, None, None),
        ("dir", False, 4096, None, None),
        ("fifo", False, 0, None, None),
    ],
)
def test_combination_that_is_no_entry_is_refused(kind: str, executable: bool, size: int, digest: Digest | None, target: str | None) -> None:
    with pytest.raises(FormatError):
        Entry("a", cast("EntryKind", kind), executable, size, digest, target)


def test_link_may_lead_anywhere() -> None:
    assert Entry.link("a", "/etc/passwd").target == "/etc/passwd"
    assert Entry.link("a", "../..").target == "../.."


@pytest.mark.parametrize(
    "paths",
    [
        pytest.param(["b", "a"], id="unsorted"),
        pytest.param(["a", "a"], id="twice"),
        pytest.param(["a", "a/b"], id="beneath a file"),
        pytest.param(["a", "a.b", "a/b/c"], id="far beneath a file"),
    ],
)
def test_entries_that_are_no_tree_are_refused(paths: list[str]) -> None:
    with pytest.raises(FormatError):
        Component("code", "code", tuple(Entry.file(path, D, 7) for path in paths))


def test_nothing_lies_beneath_a_link() -> None:
    with pytest.raises(FormatError, match="beneath"):
        component("code", "code", [Entry.link("a", "/"), Entry.file("a/etc", D, 7)])


def test_component_of_unknown_kind_or_bad_name_is_refused() -> None:
    with pytest.raises(FormatError):
        Component("code", cast("ComponentKind", "binary"), ())
    with pytest.raises(FormatError):
        Component("Code", "code", ())


def test_component_beyond_the_bound_is_refused() -> None:
    one = Entry.dir("a")
    with pytest.raises(FormatError, match="at most"):
        Component("code", "code", (one,) * (MAX_ENTRIES + 1))


# --- roots -----------------------------------------------------------------------------------------------------------


def test_root_is_the_documented_one() -> None:
    rows = [
        ["latest", "link", False, 0, None, "main.py"],
        ["main.py", "file", True, 3, Digest.of(b"abc").value, None],
        ["sub", "dir", False, 0, None, None],
    ]
    top = merkle.root([merkle.leaf_hash(encode_cbor(row)) for row in rows])
    made = component("main", "code", [file_entry("main.py", b"abc", executable=True), Entry.dir("sub"), Entry.link("latest", "main.py")])
    assert component_root(made) == Digest.of(encode_cbor(["writ/component/v1", "main", "code", 3, top]))


def test_empty_component_has_a_root_of_its_own_kind() -> None:
    roots = {component_root(Component(name, kind, ())).value for name in ("a", "b") for kind in COMPONENT_KINDS}
    assert len(roots) == 2 * len(COMPONENT_KINDS)


def test_every_change_of_an_entry_changes_the_root() -> None:
    run = ENTRIES[2]
    changed = [
        replace(run, mode_exec=False),
        replace(run, size=3),
        replace(run, digest=D),
        replace(run, path="run.s"),
        Entry.link("run.sh", "x"),
        Entry.dir("run.sh"),
    ]
    others = [entry for entry in ENTRIES if entry is not run]
    roots = {component_root(component("code", "code", [*others, entry])) for entry in [run, *changed]}
    assert len(roots) == len(changed) + 1
    assert component_root(component("code", "code", others)) not in roots


@given(components(), components())
def test_roots_are_equal_exactly_when_components_are(one: Component, other: Component) -> None:
    assert (component_root(one) == component_root(other)) == (one == other)


@given(components(), st.randoms(use_true_random=False))
def test_order_of_the_walk_does_not_matter(one: Component, chance: Any) -> None:
    shuffled = list(one.entries)
    chance.shuffle(shuffled)
    assert component_root(component(one.name, one.kind, shuffled)) == component_root(one)


AGENT = "spiffe://example.org/billing/agent/reporter"


# --- bytes and differences ---------------------------------------------------------------------------------------------


@given(components())
def test_tree_round_trips(one: Component) -> None:
    assert parse_tree(encode_tree(one)) == one


def test_no_bytes_but_the_spelling_are_read() -> None:
    assert_parser_is_total(parse_tree, encode_tree(TREE))


@pytest.mark.parametrize(
    "row", [None, [], ["a"], ["a", "dir", False, 0, None], ["a", "dir", False, 0, None, None, 1], ["a", "dir", 0, 0, None, None]]
)
def test_row_that_is_no_entry_is_refused(row: object) -> None:
    with pytest.raises(FormatError):
        parse_tree(encode_cbor({"v": 1, "name": "code", "kind": "code", "entries": [row]}))


def test_unknown_version_or_key_is_refused() -> None:
    fields = cast("dict[str, object]", cbor2.loads(encode_tree(TREE)))
    for change in ({"v": 2}, {"v": 0}, {"owner": "root"}, {"kind": "binary"}):
        with pytest.raises(FormatError):
            parse_tree(encode_cbor(fields | change))


def test_tree_beyond_its_size_is_refused() -> None:
    data = encode_tree(TREE)
    with pytest.raises(FormatError, match="bytes"):
        parse_tree(data, max_size=len(data) - 1)


def test_difference_names_each_path_with_its_digests() -> None:
    new = component(
        "code",
        "code",
        [
            Entry.dir("empty"),
            Entry.link("latest", "src/other.py"),
            Entry.file("run.sh", Digest.of(b"#!"), 2),
            Entry.file("src/agent.py", Digest.of(b"other"), 5),
            Entry.file("src/new.py", D, 7),
            Entry.file("src/\u00e9.txt", Digest.of(b""), 0),
        ],
    )
    found = {path: (before, after) for path, before, after in diff(TREE, new)}
    assert list(found) == sorted(found) == ["latest", "run.sh", "src/\\xff\\x5c\\x0a", "src/agent.py", "src/new.py"]
    assert found["src/agent.py"] == (D, Digest.of(b"other"))
    assert found["src/new.py"] == (None, D)
    assert found["src/\\xff\\x5c\\x0a"] == (D, None)
    assert found["latest"] == (entry_digest(Entry.link("latest", "src/agent.py")), entry_digest(Entry.link("latest", "src/other.py")))
    assert None not in found["run.sh"]
    assert found["run.sh"][0] != found["run.sh"][1]


@given(components(), components())
def test_difference_is_empty_exactly_for_equal_entries_and_never_shows_equal_digests(one: Component, other: Component) -> None:
    found = diff(one, other)
    assert (found == ()) == (one.entries == other.entries)
    assert all(before != after for _, before, after in found)
    assert [(path, after, before) for path, before, after in found] == list(diff(other, one))

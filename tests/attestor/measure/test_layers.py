"""Layers into a tree: what the specification says, and no write anywhere else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestor.measure import layers as module
from attestor.measure.layers import Layers
from tests.parsers import assert_parser_is_total
from tests.world.oci import Entry, directory, hard, layer, link, made
from writ.formats.errors import FormatError


def tree(place: Path) -> dict[str, bytes | str | None]:
    """Each path: a file's content, a link's target, None for a directory."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(place.rglob("*")):
        found[str(path.relative_to(place))] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def unpacked(folder: Path, *layers: list[Entry], drop_setuid: bool = False) -> Path:
    """Where the layers lie, one upon the other."""
    (folder / "staged").mkdir()
    made_of = Layers(folder / "staged", drop_setuid=drop_setuid)
    for entries in layers:
        made_of.add(io.BytesIO(layer(*entries)).read)
    made_of.lay_out(folder / "tree")
    return folder / "tree"


def test_later_layers_add_replace_and_take_away(tmp_path: Path) -> None:
    place = unpacked(
        tmp_path,
        [directory("./etc"), ("etc/a", b"1"), ("etc/b", b"1"), directory("var/"), ("var/x/y", b"1"), link("bin", "usr/bin"), ("opt", b"1")],
        [("etc/.wh.a", b""), ("etc/b", b"2"), ("var/x/.wh..wh..opq", b""), ("var/x/z", b"2"), directory("bin"), ("bin/sh", b"2", 0o755)],
        [("usr/e", b"3"), (".wh.opt", b""), ("var/x/.wh.y", b"")],
    )  # fmt: skip
    assert tree(place) == {
        "bin": None, "bin/sh": b"2", "etc": None, "etc/b": b"2", "usr": None, "usr/e": b"3", "var": None, "var/x": None, "var/x/z": b"2",
    }  # fmt: skip
    assert [os.stat(place / path).st_mode & 0o777 for path in ("bin/sh", "etc/b", "etc")] == [0o755, 0o644, 0o755]


def test_whiteouts_reach_the_layers_below_only_wherever_they_stand(tmp_path: Path) -> None:
    place = unpacked(
        tmp_path,
        [("a/old", b"1"), ("b", b"1")],
        [("a/new", b"2"), ("a/.wh..wh..opq", b""), ("b", b"2"), (".wh.b", b"")],
    )
    assert tree(place) == {"a": None, "a/new": b"2", "b": b"2"}


def test_whiteout_in_a_link_takes_nothing_away_elsewhere(tmp_path: Path) -> None:
    place = unpacked(tmp_path, [("etc/passwd", b"1"), link("e", "etc")], [("e/.wh.passwd", b""), ("e/.wh..wh..opq", b"")])
    assert tree(place) == {"e": "etc", "etc": None, "etc/passwd": b"1"}


def test_file_replaces_a_directory_and_a_directory_a_file(tmp_path: Path) -> None:
    place = unpacked(tmp_path, [("a/b/c", b"1"), ("d", b"1")], [("a", b"2"), directory("d"), ("d/e", b"2")])
    assert tree(place) == {"a": b"2", "d": None, "d/e": b"2"}


def test_hard_links_are_the_content_once_more_and_keep_it(tmp_path: Path) -> None:
    place = unpacked(tmp_path, [("a", b"1", 0o755), hard("b", "./a"), link("l", "a"), hard("m", "l")], [hard("c", "a"), ("a", b"2")])
    assert tree(place) == {"a": b"2", "b": b"1", "c": b"1", "l": "a", "m": "a"}
    assert os.access(place / "c", os.X_OK)


def test_names_are_bytes_and_long_names_come_in_either_way(tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()
    made_of = Layers(tmp_path / "staged")
    long = "d" * 90 + "/" + "f" * 120
    made_of.add(io.BytesIO(layer((long, b"pax"), kind=tarfile.PAX_FORMAT)).read)
    made_of.add(io.BytesIO(layer((long + "x", b"gnu"), ("n\udcff", b"odd"), kind=tarfile.GNU_FORMAT)).read)
    made_of.lay_out(tmp_path / "tree")
    assert (tmp_path / "tree" / long).read_bytes() == b"pax"
    assert (tmp_path / "tree" / (long + "x")).read_bytes() == b"gnu"
    assert os.path.exists(os.fsencode(tmp_path / "tree") + b"/n\xff")


REFUSED: dict[str, tuple[list[list[Entry]], str]] = {
    "absolute path": ([[("/etc/passwd", b"x")]], "relative path"),
    "upwards": ([[("a/../../x", b"x")]], "relative path"),
    "upwards within": ([[("a/../x", b"x")]], "relative path"),
    "whiteout upwards": ([[("a", b"")], [("../.wh.a", b"")]], "relative path"),
    "file beneath a link": ([[link("a", "/etc"), ("a/passwd", b"x")]], "nothing beneath"),
    "file beneath a link, later": ([[link("a", "/etc")], [("a/passwd", b"x")]], "nothing beneath"),
    "directory beneath a link, later": ([[link("a", "/etc")], [directory("a/x")]], "nothing beneath"),
    "link in the place of a directory with content": ([[("a/b", b"x"), link("a", "/etc")]], "each path once"),
    "file beneath a file": ([[("a", b"x")], [("a/b", b"x")]], "nothing beneath"),
    "directory in the place of a file": ([[("a", b"x"), directory("a")]], "nothing beneath"),
    "twice": ([[("a", b"x"), ("./a", b"y")]], "each path once"),
    "link that climbs out": ([[link("a/b", "../../etc/passwd")]], "stays within the root"),
    "link that climbs out late": ([[link("a", "b/../../x")]], "stays within the root"),
    "absolute link that climbs out": ([[link("a", "/../x")]], "stays within the root"),
    "link to nothing": ([[link("a", "")]], "target"),
    "hard link to nothing": ([[hard("a", "b")]], "that is there"),
    "hard link out": ([[hard("a", "../../etc/passwd")]], "relative path"),
    "hard link to an absolute path": ([[hard("a", "/etc/passwd")]], "relative path"),
    "hard link through a link": ([[link("e", "/etc"), hard("a", "e/passwd")]], "that is there"),
    "hard link to a directory": ([[directory("d"), hard("a", "d")]], "that is there"),
    "character device": ([[made("dev/null", tarfile.CHRTYPE)]], "a character device"),
    "block device": ([[made("dev/sda", tarfile.BLKTYPE)]], "a block device"),
    "pipe": ([[made("p", tarfile.FIFOTYPE)]], "a pipe"),
    "sparse file": ([[made("p", tarfile.GNUTYPE_SPARSE)]], "type that we know"),
    "setuid": ([[("su", b"x", 0o4755)]], "got mode 4755"),
    "setgid": ([[("su", b"x", 0o2755)]], "got mode 2755"),
    "whiteout with content": ([[(".wh.a", b"x")]], "another whiteout"),
    "whiteout that is a link": ([[link(".wh.a", "a")]], "another whiteout"),
    "whiteout directory": ([[(".wh.a/b", b"")]], "whiteout"),
    "whiteout of the directory": ([[("a/.wh..", b"")]], "another whiteout"),
    "whiteout of aufs": ([[(".wh..wh.plnk", b"")]], "another whiteout"),
    "too deep": ([[("a/" * 65 + "b", b"")]], "at most 64"),
    "long segment": ([[("a" * 256, b"")]], "at most 64"),
    "the root as a file": ([[("./", b"x")]], "the path of a file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layer_is_refused_and_nothing_is_laid_out(tmp_path: Path, case: str) -> None:
    layers, message = REFUSED[case]
    with pytest.raises(FormatError, match=message):
        unpacked(tmp_path, *layers)
    assert not (tmp_path / "tree").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["staged"]


def test_capabilities_are_refused_like_setuid_and_both_are_lost_where_asked(tmp_path: Path) -> None:
    info = made("ping", tarfile.REGTYPE, mode=0o755)
    info.pax_headers = {"SCHILY.xattr.security.capability": "x"}
    with pytest.raises(FormatError, match="got file capabilities"):
        unpacked(tmp_path, [info])
    (tmp_path / "b").mkdir()
    place = unpacked(tmp_path / "b", [info, ("su", b"x", 0o6755)], drop_setuid=True)
    assert [os.stat(place / name).st_mode & 0o7777 for name in ("ping", "su")] == [0o755, 0o755]


def test_bounds_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    with pytest.raises(FormatError, match="at most 3 entries"):
        unpacked(tmp_path, [("a", b""), ("b", b"")], [("c", b""), ("d", b"")])
    (tmp_path / "b").mkdir()
    with pytest.raises(FormatError, match="at most 3 directories"):
        unpacked(tmp_path / "b", [("a/b/c/d/e", b"")])


def test_what_follows_the_archive_is_zeros(tmp_path: Path) -> None:
    made_of = Layers(tmp_path)
    made_of.add(io.BytesIO(layer(("a", b"1")) + bytes(4096)).read)
    with pytest.raises(FormatError, match="zeros after the archive"):
        made_of.add(io.BytesIO(layer(("b", b"1")) + layer(("c", b"1"))).read)


def test_no_bytes_are_an_error_of_another_kind(tmp_path: Path) -> None:
    specimen = layer(directory("d"), ("d/a", b"1"), link("l", "d/a"), hard("h", "d/a"), (".wh.x", b""), ("n" * 120, b"2"))
    count = 0

    def parse(data: bytes) -> None:
        nonlocal count
        count += 1
        (tmp_path / str(count)).mkdir()
        Layers(tmp_path / str(count)).add(io.BytesIO(data).read)

    assert_parser_is_total(parse, specimen, flips=400, open_ended=True)


names = st.sampled_from(["a", "b", ".wh.a", ".wh.b", ".wh..wh..opq", "..", "a/b", "b/a", "a/a/b", "a/.wh.b", "b/.wh..wh..opq"])
targets = st.sampled_from(["a", "/a", "..", "/etc", "a/b", "../..", ""])
entries = st.builds(lambda path, content: (path, content), names, st.sampled_from([b"", b"x"])) | st.builds(
    lambda act, path, target: act(path, target), st.sampled_from([link, hard]), names, targets
) | st.builds(directory, names)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.lists(st.lists(entries, max_size=5), max_size=4))
def test_any_layers_are_refused_or_are_a_tree_that_no_link_left(tmp_path: Path, layers: list[list[Entry]]) -> None:
    folder = tmp_path / str(len(os.listdir(tmp_path)))
    folder.mkdir()
    try:
        place = unpacked(folder, *layers)
    except FormatError:
        assert not (folder / "tree").exists()
        return
    again = folder / "again"
    again.mkdir()
    assert tree(unpacked(again, *layers)) == tree(place)
    assert not [path for path in tree(place) if ".wh." in path]
    assert {path.name for path in folder.iterdir()} == {"staged", "tree", "again"}

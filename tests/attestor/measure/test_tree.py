"""Every kind of file that a source can hold has one defined answer."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from attestor.measure import tree
from attestor.measure.tree import Identity, hash_file, measure_tree
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.tree import Entry, component_root, spell

EMPTY = Digest.of(b"")


def measured(source: Path) -> dict[str, Entry]:
    return {entry.path: entry for entry in measure_tree("part", "code", source).entries}


def refusal(source: Path) -> tuple[str, str, str]:
    """Code, claim and got of the refusal."""
    with pytest.raises(Refused) as caught:
        measure_tree("part", "code", source)
    (reason,) = caught.value.reasons
    return reason.code, reason.claim, reason.got


def test_files_directories_and_execute_bits(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/run").write_bytes(b"go")
    (tmp_path / "a/run").chmod(0o755)
    (tmp_path / "empty").mkdir()
    (tmp_path / "z").write_bytes(b"")
    assert measured(tmp_path) == {
        "a/run": Entry.file("a/run", Digest.of(b"go"), 2, executable=True),
        "empty": Entry.dir("empty"),
        "z": Entry.file("z", EMPTY, 0),
    }


def test_source_that_is_a_file_bears_the_manifests_name_for_it(tmp_path: Path) -> None:
    (tmp_path / "python3.11").write_bytes(b"x")
    (tmp_path / "python3").symlink_to("python3.11")
    assert measured(tmp_path / "python3") == {"python3": Entry.file("python3", Digest.of(b"x"), 1)}


def test_order_in_the_directory_does_not_matter(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for place, names in ((one, "abc"), (two, "cab")):
        place.mkdir()
        for name in names:
            (place / name).write_text(name)
    assert component_root(measure_tree("part", "code", one)) == component_root(measure_tree("part", "code", two))


@pytest.mark.parametrize("target", ["b", "sub/c", "./b", "nowhere", "sub"])
def test_link_within_is_recorded_and_not_followed(target: str, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(target)
    assert measured(tmp_path) == {"a": Entry.link("a", target)}


def test_link_up_to_the_component_s_own_root_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "sub/deep").mkdir(parents=True)
    (tmp_path / "sub/deep/top").symlink_to("../../b")
    assert measured(tmp_path)["sub/deep/top"].target == "../../b"


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../b", "sub/../../b", "sub/..", "../"])
def test_link_that_may_lead_out_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(target)
    assert refusal(tmp_path)[:2] == ("source-link-escapes", "part:a")


def test_link_to_a_directory_outside_is_never_entered(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/secret").write_text("s")
    (tmp_path / "in/link").symlink_to(tmp_path / "out", target_is_directory=True)
    assert refusal(tmp_path / "in")[0] == "source-link-escapes"


@pytest.mark.parametrize("target", ["/etc/passwd", "../b", "sub/.."])
def test_link_in_an_image_leads_nowhere_else_since_the_image_is_the_root(target: str, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(target)
    assert measure_tree("part", "image", tmp_path).entries == (Entry.link("a", target),)


def test_image_loses_setuid_and_setgid(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    plain = measure_tree("part", "image", tmp_path)
    (tmp_path / "a").chmod(0o6644)
    assert measure_tree("part", "image", tmp_path) == plain


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    assert refusal(tmp_path) == ("source-special-file", "part:p", "a pipe")


def test_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert refusal(tmp_path) == ("source-special-file", "part:s", "a socket")


def test_device_is_refused(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "d", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("needs the right to make a device node")
    assert refusal(tmp_path) == ("source-special-file", "part:d", "a character device")
    assert refusal(Path(os.devnull))[0] == "source-special-file"


@pytest.mark.parametrize("mode", [0o4755, 0o2755])
def test_setuid_and_setgid_are_refused(mode: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "a").chmod(mode)
    assert refusal(tmp_path)[0] == "source-setuid"


def test_missing_source_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none")[0] == "source-missing"
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop")[0] in ("source-missing", "source-unreadable")


def test_unreadable_file_and_directory_are_refused(tmp_path: Path) -> None:
    """As a user without root's rights, in a process of its own."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f/a").write_bytes(b"x")
    (tmp_path / "f/a").chmod(0)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/sub").mkdir(mode=0)
    code = (
        "import os, sys, pathlib\n"
        "from attestor.measure.tree import measure_tree\n"
        "from writ.formats.errors import Refused\n"
        "if os.geteuid() == 0:\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for part in ('f', 'd'):\n"
        "    try:\n        measure_tree('part', 'code', pathlib.Path(part))\n"
        "    except Refused as error:\n        print(error.reasons[0].code, error.reasons[0].claim, error.reasons[0].got)\n"
    )
    root = Path(tree.__file__).parents[2]
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == os.geteuid() and not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(root), "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "source-unreadable part:a EACCES\nsource-unreadable part:sub EACCES\n", done.stderr


@pytest.mark.parametrize("raw", [b"caf\xe9", b"a\nb", b"back\\slash", b"\xff\xfe", "é".encode()])
def test_any_name_has_a_spelling(raw: bytes, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw)).write_bytes(b"x")
    (path,) = measured(tmp_path)
    assert spell(raw) == path


def test_link_target_of_any_bytes_has_a_spelling(tmp_path: Path) -> None:
    os.symlink(b"\xff\n", os.fsencode(tmp_path) + b"/a")
    assert measured(tmp_path)["a"].target == "\\xff\\x0a"


def test_hard_links_are_files_like_others(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    assert [entry.digest for entry in measured(tmp_path).values()] == [Digest.of(b"x")] * 2


def test_excluded_is_not_read_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    (tmp_path / "a").write_bytes(b"x")
    part = measure_tree("part", "code", tmp_path, excludes=lambda path: path == "p")
    assert [entry.path for entry in part.entries] == ["a"]


def test_name_that_is_not_asked_for_is_not_read_at_all_whatever_its_bytes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    (tmp_path / "d").mkdir()
    for name in (b"a", b"\xff", b"b", b"d/a", b"d/p"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    named = {"": frozenset({"a", "\\xff", "no\\spelling", "d", "absent"})}
    part = measure_tree("part", "code", tmp_path, names=named.get)
    assert [entry.path for entry in part.entries] == ["\\xff", "a", "d/a", "d/p"]


@pytest.mark.parametrize("change", ["append", "replace", "touch"])
def test_file_that_changes_once_while_read_is_read_again(change: str, tmp_path: Path) -> None:
    reads = Meddling(tmp_path / "a", change, times=1)
    part = measure_tree("part", "code", tmp_path, read=reads)
    assert part.entries[0].digest == Digest.of((tmp_path / "a").read_bytes())
    assert reads.count == 2


def test_file_that_always_changes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        measure_tree("part", "code", tmp_path, read=Meddling(tmp_path / "a", "append", times=99))
    assert caught.value.reasons[0].code == "source-changing"


def test_file_added_while_the_directory_is_read_is_noticed(tmp_path: Path) -> None:
    part = measure_tree("part", "code", tmp_path, read=Meddling(tmp_path / "a", "add", times=1))
    assert [entry.path for entry in part.entries] == ["a", "added"]


class Meddling:
    """A `Reader` under whose hands the file changes."""

    def __init__(self, path: Path, change: str, times: int) -> None:
        self.path, self.change, self.times, self.count = path, change, times, 0
        path.write_bytes(b"content")

    def __call__(self, fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
        self.count += 1
        digest = hash_file(fd, identity, executable)
        if self.count <= self.times:
            if self.change == "append":
                with self.path.open("ab") as file:
                    file.write(b"!")
            elif self.change == "replace":
                (self.path.with_name("fresh")).write_bytes(b"CONTENT")
                self.path.with_name("fresh").replace(self.path)
            elif self.change == "touch":
                os.utime(self.path, ns=(1, 1))
            else:
                self.path.with_name("added").write_bytes(b"new")
        return digest


def test_depth_and_count_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "/".join("d" * (tree.MAX_DEPTH + 2))).mkdir(parents=True)
    assert refusal(deep)[0] == "source-too-large"
    many = tmp_path / "many"
    many.mkdir()
    for number in range(5):
        (many / str(number)).touch()
    monkeypatch.setattr(tree, "MAX_ENTRIES", 4)
    assert refusal(many)[0] == "source-too-large"

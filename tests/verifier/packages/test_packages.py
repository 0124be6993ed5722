"""Packages give the paths and digests that they put on a disk; nothing else of them is believed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parsers import assert_parser_is_total
from tests.verifier.packages.builders import build_deb, build_rpm, sha256
from verifier.packages import Package, package_corim
from verifier.packages.deb import read_deb
from verifier.packages.rpm import read_rpm
from writ.formats.corim import encode_corim, parse_corim
from writ.formats.errors import FormatError, Unavailable
from writ.formats.tar import TarEntry, read_exactly, tar_entries
from writ.service import compression as streams
from writ.service.compression import decompressed

FILES = {"/usr/bin/tool": b"tool" * 9000, "/lib/systemd/system/tool.service": b"[Unit]", "/etc/tool.conf": b"", "/usr/share/n\xe4me": b"n"}
LONG = "/usr/share/" + "d" * 90 + "/" + "f" * 90


def ar(*members: tuple[str, bytes]) -> bytes:
    made = b"!<arch>\n"
    for name, data in members:
        made += (
            name.encode().ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8) + str(len(data)).encode().ljust(10) + b"`\n"
        )
        made += data + b"\n" * (len(data) % 2)
    return made


def tar(*entries: tuple[str, bytes | str], kind: int = tarfile.GNU_FORMAT) -> bytes:
    """Entries in order: bytes are a file, text is a hard link's target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as made:
        for path, content in entries:
            info = tarfile.TarInfo(path)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.LNKTYPE, content
                made.addfile(info)
            else:
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


UPWARDS = tar(("./control", b"Package: ../x\nVersion: 1\nArchitecture: all\n"))
CONTROL = tar(("./control", b"Package: tool\nVersion: 1\nArchitecture: all\n"))


def deb_of(data: bytes) -> Package:
    return read_deb(io.BytesIO(ar(("debian-binary", b"2.0\n"), ("control.tar", CONTROL), ("data.tar", data))))


# --- deb ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd", "none"])
def test_files_of_a_deb_are_those_that_dpkg_would_install(tmp_path: Path, compression: str) -> None:
    files = {**FILES, LONG: b"long"}
    made = build_deb(
        tmp_path, "tool", files, version="1:2.0~rc1-1", links={"/usr/bin/t": "tool"}, hard={"/usr/bin/zz": "/usr/bin/tool"},
        compression=compression,
    )  # fmt: skip
    with made.open("rb") as file:
        package = read_deb(file)

    assert package.id == "tool_1:2.0~rc1-1_amd64"
    expected = {path: sha256(content) for path, content in files.items()}
    assert dict(package.files) == {**expected, "/usr/bin/zz": expected["/usr/bin/tool"]}
    assert package.left_out > 5


def test_paths_below_lib_stand_in_both_spellings_and_nothing_else_does(tmp_path: Path) -> None:
    with build_deb(tmp_path, "tool", FILES).open("rb") as file:
        corim = package_corim(read_deb(file), "demo")

    assert corim is not None
    assert (corim.id, corim.environment, corim.namespace) == ("tool_1.0-1_amd64", "files/tool", "demo")
    named = dict(corim.components)
    assert named.pop("/usr/lib/systemd/system/tool.service") == named["/lib/systemd/system/tool.service"]
    assert named == {path: sha256(content) for path, content in FILES.items()}
    assert parse_corim(encode_corim(corim)) == corim


def test_two_contents_under_one_merged_name_are_refused() -> None:
    package = deb_of(tar(("./lib/a", b"1"), ("./usr/lib/a", b"2")))
    with pytest.raises(FormatError, match="one content"):
        package_corim(package, "demo")


def test_package_without_files_has_no_reference_values() -> None:
    assert package_corim(deb_of(tar()), "demo") is None


def test_package_of_more_files_than_a_corim_holds_is_refused_not_cut() -> None:
    files = tuple((f"/opt/{at:06}", sha256(b"")) for at in range(65_537))
    with pytest.raises(FormatError, match="65536 measurements"):
        package_corim(Package("p", "1", "all", files, 0), "demo")


@pytest.mark.parametrize(
    "entries",
    [
        [("../etc/passwd", b"x")],
        [("./usr/../../etc/passwd", b"x")],
        [("./a", b"1"), ("a", b"2")],
        [("./a", "./b")],
        [("./a", "../../etc/shadow")],
        [("./", b"x")],
    ],
)
def test_path_that_leads_out_or_stands_twice_is_refused(entries: list[tuple[str, bytes | str]]) -> None:
    with pytest.raises(FormatError):
        deb_of(tar(*entries))


def test_absolute_path_lies_where_it_says_and_nothing_is_written(tmp_path: Path) -> None:
    assert deb_of(tar((f"{tmp_path}/x", b"x"))).files == ((f"{tmp_path}/x", sha256(b"x")),)
    assert list(tmp_path.iterdir()) == []


def test_tar_of_types_that_dpkg_does_not_know_is_refused() -> None:
    with pytest.raises(FormatError, match="type that we know"):
        deb_of(tar(("./" + "é" * 100, b"x"), kind=tarfile.PAX_FORMAT))


def test_prefix_of_a_posix_tar_is_part_of_the_path() -> None:
    assert deb_of(tar((LONG[1:], b"x"), kind=tarfile.USTAR_FORMAT)).files[0][0] == LONG


@pytest.mark.parametrize(
    "members",
    [
        [("debian-binary", b"3.0\n"), ("control.tar", CONTROL), ("data.tar", tar())],
        [("debian-binary", b"2.0\n"), ("data.tar", tar()), ("control.tar", CONTROL)],
        [("debian-binary", b"2.0\n"), ("control.tar", CONTROL)],
        [("debian-binary", b"2.0\n"), ("control.tar.lz", CONTROL), ("data.tar", tar())],
        [("debian-binary", b"2.0\n"), ("control.tar", tar(("./control", b"Package: tool\n"))), ("data.tar", tar())],
        [("debian-binary", b"2.0\n"), ("control.tar", UPWARDS), ("data.tar", tar())],
        [("debian-binary", b"2.0\n"), ("control.tar", tar()), ("data.tar", tar())],
        [],
    ],
)  # fmt: skip
def test_archive_that_is_no_deb_is_refused(members: list[tuple[str, bytes]]) -> None:
    with pytest.raises(FormatError):
        read_deb(io.BytesIO(ar(*members)))


def test_any_bytes_are_a_deb_or_a_format_error() -> None:
    specimen = ar(("debian-binary", b"2.0\n"), ("control.tar", CONTROL), ("data.tar.xz", lzma.compress(tar(("./a", b"1")))))
    assert_parser_is_total(lambda data: read_deb(io.BytesIO(data)), specimen, open_ended=True, flips=800)


# --- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2"])
def test_bomb_is_refused_when_it_has_grown_to_the_bound(compression: str) -> None:
    makers: dict[str, Callable[[bytes], bytes]] = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}
    packed = io.BytesIO(makers[compression](bytes(1 << 22)))
    with decompressed(compression, packed.read, "bomb", most=1 << 20) as read, pytest.raises(FormatError, match="at most 1048576 bytes"):
        read_exactly(read, 1 << 22, "bomb")


def test_stream_that_wants_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_MEMORY", 1 << 20)
    packed = lzma.compress(b"x", preset=9)
    with decompressed("xz", io.BytesIO(packed).read, "greedy") as read, pytest.raises(FormatError, match="LZMAError"):
        read(1)


def test_concatenated_streams_are_one_and_a_cut_one_is_none() -> None:
    packed = lzma.compress(b"one") + lzma.compress(b"two") + bytes(8)
    with decompressed("xz", io.BytesIO(packed).read, "streams") as read:
        assert read_exactly(read, 6, "streams") == b"onetwo"
        assert read(1) == b""
    cut = io.BytesIO(zlib.compress(b"x" * 999, wbits=31)[:-9])
    with decompressed("gz", cut.read, "cut") as read, pytest.raises(FormatError, match="whole stream"):
        read_exactly(read, 1000, "cut")


def test_zst_without_the_program_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="the program zstd"), decompressed("zst", io.BytesIO(b"").read, "x"):
        pass


def test_false_zst_is_a_format_error() -> None:
    with decompressed("zst", io.BytesIO(b"no zstd frame").read, "x") as read, pytest.raises(FormatError, match="exit status"):
        read(10)


def test_long_name_that_says_it_is_huge_is_refused() -> None:
    data = bytearray(tar((LONG[1:], b"x")))
    data[124:136] = b"77777777777\0"
    data[148:156] = b"%06o\0 " % sum(data[:148] + b" " * 8 + data[156:512])
    with pytest.raises(FormatError, match="a name of 1 to 8192"):
        list(tar_entries(io.BytesIO(bytes(data)).read, "tar"))


def test_content_not_read_is_passed_over() -> None:
    entries = [entry for entry, _ in tar_entries(io.BytesIO(tar(("a", b"x" * 2000), ("b", b""))).read, "tar")]
    assert entries == [TarEntry(b"a", "0", b"", 2000, 0o644), TarEntry(b"b", "0", b"", 0, 0o644)]


# --- rpm ---------------------------------------------------------------------------------------------------------------


def test_files_of_an_rpm_are_those_of_its_header(tmp_path: Path) -> None:
    made = build_rpm(tmp_path, "tool", {"/usr/bin/tool": b"tool", "/opt/a b/c": b""}, ghost="/var/log/tool.log")
    with made.open("rb") as file:
        package = read_rpm(file)

    assert package == Package("tool", "1:2.5-3", "noarch", (("/opt/a b/c", sha256(b"")), ("/usr/bin/tool", sha256(b"tool"))), left_out=2)


@pytest.mark.parametrize("algorithm, named", [(1, "MD5"), (10, "algorithm 10")])
def test_rpm_with_other_digests_than_sha256_is_refused(tmp_path: Path, algorithm: int, named: str) -> None:
    made = build_rpm(tmp_path, "tool", {"/usr/bin/tool": b"tool"}, algorithm=algorithm)
    with made.open("rb") as file, pytest.raises(FormatError, match=f"of SHA-256, got {named}"):
        read_rpm(file)


def test_rpm_whose_header_was_altered_is_refused(tmp_path: Path) -> None:
    data = build_rpm(tmp_path, "tool", {"/usr/bin/tool": b"tool"}).read_bytes()
    altered = data.replace(sha256(b"tool").hex().encode(), sha256(b"evil").hex().encode())
    assert altered != data
    with pytest.raises(FormatError, match="header: expected sha256"):
        read_rpm(io.BytesIO(altered))


def test_any_bytes_are_an_rpm_or_a_format_error(tmp_path: Path) -> None:
    data = build_rpm(tmp_path, "tool", {"/usr/bin/tool": b"tool"}).read_bytes()
    assert_parser_is_total(lambda data: read_rpm(io.BytesIO(data)), data, open_ended=True, flips=800)

"""tar archives as tarfile writes them, and no others."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.oci import layer, made
from writ.formats.errors import FormatError
from writ.formats.tar import TarEntry, read_exactly, tar_entries

Row = tuple[TarEntry, bytes]


def entries(data: bytes) -> list[Row]:
    return [(entry, read_exactly(content, entry.size, "content")) for entry, content in tar_entries(io.BytesIO(data).read, "tar", pax=True)]


segments = st.text(alphabet="abé\udcff.-", min_size=1, max_size=120).filter(lambda text: text.strip(".") != "")
paths = st.lists(segments, min_size=1, max_size=4).map("/".join)
files = st.lists(st.tuples(paths, st.binary(max_size=1500), st.integers(0, 0o7777)), max_size=6, unique_by=lambda row: row[0])


@given(files, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_what_tarfile_writes_is_read_as_it_was(rows: list[tuple[str, bytes, int]], kind: int) -> None:
    wanted = [(TarEntry(path.encode("utf-8", "surrogateescape"), "0", b"", len(data), mode), data) for path, data, mode in rows]
    if kind == tarfile.PAX_FORMAT and any("\udcff" in path for path, _, _ in rows):
        return  # tarfile spells such a name in an encoding of its own
    assert entries(layer(*rows, kind=kind)) == wanted


def extended(records: bytes, *, kind: bytes = b"x", after: bytes | None = None) -> bytes:
    """A tar whose first entry is an extended header of these records."""
    header = made("h", kind)
    header.size = len(records)
    block = header.tobuf(tarfile.USTAR_FORMAT)
    return block + records + bytes(-len(records) % 512) + (layer(("a", b"12")) if after is None else after)


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body) + 2
    return f"{length:02}".encode() + body


def test_size_of_an_extended_header_is_the_size() -> None:
    assert entries(extended(record("size", "2") + record("path", "b/c") + record("mtime", "1.5")))[0][0].path == b"b/c"
    with pytest.raises(FormatError):
        entries(extended(record("size", "99999")))


@pytest.mark.parametrize(
    "records",
    [
        record("path", ""), record("path", "a") * 2, record("size", "-1"), record("size", "9" * 21), record("GNU.sparse.major", "1"),
        b"99 path=a\n", b"11 path=a\n", b"10 path:a\n", b"x path=a\n", b"10 path=a\0", b"12 pa\xffth=ab\n", record("path", "a\0b"),
        b"0 a=b\n",
    ],
)  # fmt: skip
def test_extended_header_that_says_something_else_is_refused(records: bytes) -> None:
    with pytest.raises(FormatError):
        entries(extended(records))


def test_global_header_may_have_a_comment_and_names_nothing() -> None:
    assert [entry.path for entry, _ in entries(extended(record("comment", "x"), kind=b"g"))] == [b"a"]
    for key in ("path", "linkpath", "size"):
        with pytest.raises(FormatError, match="global extended header"):
            entries(extended(record(key, "1"), kind=b"g"))


def test_extended_header_without_an_entry_is_refused() -> None:
    with pytest.raises(FormatError, match="an entry after"):
        entries(extended(record("path", "b"), after=bytes(1024)))


def test_extended_headers_are_read_only_where_they_are_asked_for() -> None:
    with pytest.raises(FormatError, match="type that we know"):
        list(tar_entries(io.BytesIO(extended(record("path", "b"))).read, "tar"))


def test_huge_extended_header_is_refused_before_it_is_read() -> None:
    header = made("h", b"x")
    header.size = 1 << 30
    with pytest.raises(FormatError, match="extended header of 1 to"):
        entries(header.tobuf(tarfile.USTAR_FORMAT))


def test_no_bytes_are_an_error_of_another_kind() -> None:
    assert_parser_is_total(entries, layer(("a" * 150, b"12"), made("l", tarfile.SYMTYPE, "t" * 150)), flips=1500, open_ended=True)

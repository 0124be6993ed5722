"""fs-verity digests and dm-verity roots: known answers, the kernel's own tools, and tables that weaken them."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import missing
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse
from writ.formats.verity import DmVerity, FsVerity, VerityTable, dmverity_root, fsverity_digest, parse_table

SIZES = [0, 1, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 1, 129 * 4096]
ROOT = "ab" * 32


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def oracle(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/sbin:/bin")
    if found is None:
        missing(f"{name} (Debian: fsverity, cryptsetup-bin)")
    return found or name


def test_known_answers() -> None:
    """Computed once with fsverity-utils 1.5 and cryptsetup 2.6.1."""
    assert str(fsverity_digest([])) == "sha256:3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"
    assert str(fsverity_digest([content(4097)])) == KNOWN_FS
    assert str(dmverity_root([content(129 * 4096)], salt=b"\xaa\xbb")) == KNOWN_DM


KNOWN_FS = "sha256:c018eb3d709b7668cc72283bb7f1a785b039f549de3d5526581b08599dc5f128"
KNOWN_DM = "sha256:ea9b3fb824e13ea57cea5cb7d41fbecee497209f5486a8f59dc4e6b90e0f4414"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("salt", [b"", b"\xaa\xbb", b"\x11" * 32], ids=len)
def test_fs_verity_digest_is_the_tools(tmp_path: Path, algorithm: str, salt: bytes) -> None:
    tool, file = oracle("fsverity"), tmp_path / "file"
    for size in SIZES:
        file.write_bytes(content(size))
        options = ["--hash-alg", algorithm] + (["--salt", salt.hex()] if salt else [])
        done = subprocess.run([tool, "digest", *options, str(file)], capture_output=True, text=True, check=True)
        assert str(fsverity_digest([content(size)], algorithm=algorithm, salt=salt)) == done.stdout.split()[0]


@pytest.mark.parametrize("size", [32 * 1024, 32 * 32 * 1024, 32 * 32 * 1024 + 1024])
def test_trees_of_several_levels_are_the_tools(tmp_path: Path, size: int) -> None:
    file, hashes = tmp_path / "file", tmp_path / "hashes"
    file.write_bytes(content(size))
    hashes.write_bytes(b"")
    done = subprocess.run([oracle("fsverity"), "digest", "--block-size", "1024", str(file)], capture_output=True, text=True, check=True)
    assert str(fsverity_digest([content(size)], block=1024)) == done.stdout.split()[0]
    blocks = ["--data-block-size", "512", "--hash-block-size", "1024", "--salt", "-"]
    command = [oracle("veritysetup"), "format", *blocks, str(file), str(hashes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert dmverity_root([content(size)], data_block=512, hash_block=1024).hex() == root_of(done.stdout)


def root_of(output: str) -> str:
    return next(line.split()[-1] for line in output.splitlines() if line.startswith("Root hash"))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("salt", [b"", b"\xaa\xbb", b"\x11" * 64], ids=len)
def test_dm_verity_root_is_the_tools(tmp_path: Path, algorithm: str, salt: bytes) -> None:
    tool, image, hashes = oracle("veritysetup"), tmp_path / "image", tmp_path / "hashes"
    for size in [size for size in SIZES if size and size % 4096 == 0]:
        image.write_bytes(content(size))
        hashes.write_bytes(b"")
        command = [tool, "format", "--hash", algorithm, "--salt", salt.hex() or "-", str(image), str(hashes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert dmverity_root([content(size)], algorithm=algorithm, salt=salt).hex() == root_of(done.stdout)


@given(st.lists(st.binary(max_size=9000), max_size=6))
def test_how_content_is_cut_into_chunks_does_not_matter(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    assert fsverity_digest(chunks, block=1024) == fsverity_digest([whole], block=1024)
    padded = [*chunks, bytes(-len(whole) % 512 or 512)]
    assert dmverity_root(padded, data_block=512, hash_block=512) == dmverity_root([b"".join(padded)], data_block=512, hash_block=512)


def test_trailing_zeros_change_an_fs_verity_digest() -> None:
    assert fsverity_digest([b"x"]) != fsverity_digest([b"x\0"])


def test_a_device_of_hash_blocks_has_the_same_root_and_another_size() -> None:
    """Why a root never stands alone: the bytes of the lowest level of the tree are a device of their own."""
    data = content(4096 * 2)
    level = b"".join(Digest.of(data[at : at + 4096]).value for at in (0, 4096)).ljust(4096, b"\0")
    whole, forged = DmVerity(), DmVerity()
    whole.update(data)
    forged.update(level)

    assert whole.root() == forged.root()
    assert whole.size != forged.size


@pytest.mark.parametrize("size", [0, 1, 4095, 4097])
def test_image_of_parts_of_blocks_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="multiple of 4096"):
        dmverity_root([bytes(size)])


def test_parameters_that_do_not_exist_are_a_misuse() -> None:
    for options in ({"algorithm": "sha384"}, {"salt": bytes(33)}, {"block": 3000}, {"block": 256}):
        with pytest.raises(Misuse):
            FsVerity(**options)
    for options in ({"algorithm": "sha1"}, {"salt": bytes(257)}, {"hash_block": 4000}):
        with pytest.raises(Misuse):
            DmVerity(**options)


# --- tables ------------------------------------------------------------------------------------------------------------


def test_table_of_a_device_is_read() -> None:
    assert parse_table(f"1 7:0 7:1 4096 4096 25 1 sha256 {ROOT} -") == VerityTable(Digest("sha256", b"\xab" * 32), 102400, 4096, 4096, b"")
    table = parse_table(f"1 /dev/a /dev/b 512 4096 3 0 sha512 {ROOT * 2} 00ff 3 panic_on_corruption root_hash_sig_key_desc key")
    assert (table.size, table.data_block, table.salt) == (1536, 512, b"\x00\xff")


@pytest.mark.parametrize("option", ["ignore_corruption", "check_at_most_once", "ignore_zero_blocks", "of_tomorrow"])
def test_option_under_which_false_content_could_be_read_is_refused(option: str) -> None:
    with pytest.raises(FormatError, match="not verified"):
        parse_table(f"1 7:0 7:1 4096 4096 25 1 sha256 {ROOT} - 1 {option}")


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        f"0 7:0 7:1 4096 4096 25 1 sha256 {ROOT} -",
        f"1 7:0 7:1 4096 4096 25 1 sha1 {ROOT} -",
        f"1 7:0 7:1 4096 4096 25 1 sha256 {ROOT[2:]} -",
        f"1 7:0 7:1 4096 4096 25 1 sha256 {ROOT.upper()} -",
        f"1 7:0 7:1 4096 4096 25 1 sha256 {ROOT} 0",
        f"1 7:0 7:1 4000 4096 25 1 sha256 {ROOT} -",
        f"1 7:0 7:1 4096 4096 0 1 sha256 {ROOT} -",
        f"1 7:0 7:1 4096 4096 025 1 sha256 {ROOT} -",
        f"1 7:0 7:1 4096 4096 0x 1 sha256 {ROOT} -",
        f"1 7:0 7:1 4096 4096 25 1 sha256 {ROOT} - 2 panic_on_corruption",
        f"1 7:0 7:1 4096 4096 25 1 sha256 {ROOT} - 1 fec_roots",
        f"1 7:0 7:1 4096 4096 25 1 sha256 {ROOT} - x",
        f"1 7:0 7:1 4096 4096 25 1 sha256 {ROOT} " + "00" * 5000,
    ],
)
def test_table_of_anything_else_is_refused(parameters: str) -> None:
    with pytest.raises(FormatError):
        parse_table(parameters)


@given(st.text(max_size=200) | st.lists(st.sampled_from(["1", "4096", "sha256", ROOT, "-", "fec_roots", "0"]), max_size=14).map(" ".join))
def test_any_text_is_a_table_or_a_format_error(parameters: str) -> None:
    with contextlib.suppress(FormatError):
        assert parse_table(parameters).size > 0

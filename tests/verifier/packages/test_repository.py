"""A snapshot is read from its signature down to each file, and refused at the first link that does not hold."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.verifier.packages.builders import Signer, build_apt, build_deb, build_rpm, build_yum, sha256, sign_release
from verifier.packages.collect import collect
from verifier.packages.repository import _good_signature, open_repository
from writ.formats.errors import FormatError, Refused


@pytest.fixture(scope="module")
def signers() -> Iterator[tuple[Signer, Signer]]:
    """Two keys; short paths, since gpg's agent listens on a socket there."""
    homes = [Path(tempfile.mkdtemp(prefix="wg")) for _ in range(2)]
    made = [Signer(home) for home in homes]
    yield made[0], made[1]
    for signer, home in zip(made, homes, strict=True):
        signer.close()
        shutil.rmtree(home, ignore_errors=True)


def apt(tmp_path: Path, signer: Signer | None, *, suffix: str = ".xz", inline: bool = True) -> Path:
    debs = [build_deb(tmp_path, name, {f"/usr/bin/{name}": name.encode()}) for name in ("one", "two")]
    return build_apt(tmp_path / "snapshot", debs, signer, suffix=suffix, inline=inline)


def code(root: Path, keyring: Path | None) -> str:
    with pytest.raises(Refused) as caught:
        collect("demo", snapshots=[root], keyring=keyring)
    return caught.value.reasons[0].code


@pytest.mark.parametrize("suffix, inline", [(".xz", True), (".gz", False), ("", True)])
def test_signed_apt_snapshot_gives_the_files_of_its_packages(
    tmp_path: Path, signers: tuple[Signer, Signer], suffix: str, inline: bool
) -> None:
    root = apt(tmp_path, signers[0], suffix=suffix, inline=inline)
    found = collect("demo", snapshots=[root], keyring=signers[0].keyring)

    assert [corim.id for corim in found.corims] == ["one_1.0-1_amd64", "two_1.0-1_amd64"]
    assert found.corims[0].components == (("/usr/bin/one", sha256(b"one")),)
    assert (found.signed_by, found.absent, found.empty) == ((signers[0].fingerprint,), 0, ())
    assert collect("demo", snapshots=[root], keyring=signers[0].armoured) == found


def test_snapshot_signed_by_another_key_is_refused(tmp_path: Path, signers: tuple[Signer, Signer]) -> None:
    assert code(apt(tmp_path, signers[0]), signers[1].keyring) == "signature-invalid"


def test_snapshot_without_a_signature_is_read_only_when_asked_for(tmp_path: Path, signers: tuple[Signer, Signer]) -> None:
    root = apt(tmp_path, None)

    with pytest.raises(FormatError, match="a suite with InRelease"):
        collect("demo", snapshots=[root], keyring=signers[0].keyring)
    assert len(collect("demo", snapshots=[root], keyring=None).corims) == 2


def test_text_around_the_signed_release_is_not_read(tmp_path: Path, signers: tuple[Signer, Signer]) -> None:
    root = apt(tmp_path, signers[0])
    inline = root / "dists/stable/InRelease"
    index = root / "dists/stable/main/binary-amd64/Packages"
    index.write_bytes(b"Package: evil\n")
    inline.write_text(
        f"SHA256:\n {sha256(index.read_bytes()).hex()} {index.stat().st_size} main/binary-amd64/Packages\n\n" + inline.read_text()
    )

    found = collect("demo", snapshots=[root], keyring=signers[0].keyring)
    assert [corim.id for corim in found.corims] == ["one_1.0-1_amd64", "two_1.0-1_amd64"]


def test_edited_release_index_or_package_is_refused(tmp_path: Path, signers: tuple[Signer, Signer]) -> None:
    root, keyring = apt(tmp_path, signers[0], suffix=""), signers[0].keyring
    for path in ("dists/stable/InRelease", "dists/stable/main/binary-amd64/Packages", "pool/two_1.0-1_amd64.deb"):
        file = root / path
        whole = file.read_bytes()
        at = whole.index(b"stable") if path.endswith("InRelease") else len(whole) // 2
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert code(root, keyring) == ("signature-invalid" if path.endswith("InRelease") else "digest-mismatch")
        file.write_bytes(whole + b"\n")
        if not path.endswith("InRelease"):
            assert code(root, keyring) == "digest-mismatch"
        file.write_bytes(whole)
    assert len(collect("demo", snapshots=[root], keyring=keyring).corims) == 2


def test_package_that_the_snapshot_lacks_is_counted_and_one_nobody_lists_is_not_read(tmp_path: Path) -> None:
    root = apt(tmp_path, None)
    (root / "pool/one_1.0-1_amd64.deb").rename(root / "pool/stray_1_amd64.deb")
    found = collect("demo", snapshots=[root])

    assert [corim.id for corim in found.corims] == ["two_1.0-1_amd64"]
    assert found.absent == 1


@pytest.mark.parametrize("place", ["../outside.deb", "/etc/outside.deb", "pool/../../outside.deb", "pool/link.deb"])
def test_index_that_names_a_file_outside_the_snapshot_is_refused(tmp_path: Path, place: str) -> None:
    root = apt(tmp_path, None, suffix="")
    (root / "pool/link.deb").symlink_to(build_deb(tmp_path, "outside", {"/x": b""}))
    index = root / "dists/stable/main/binary-amd64/Packages"
    index.write_text(index.read_text().replace("pool/one_1.0-1_amd64.deb", place))
    sign_release(root / "dists/stable", None)

    with pytest.raises(FormatError, match="below the snapshot"):
        open_repository(root, keyring=None)


def test_signed_yum_snapshot_gives_the_files_of_its_packages(tmp_path: Path, signers: tuple[Signer, Signer]) -> None:
    root = build_yum(tmp_path / "yum", [build_rpm(tmp_path, "tool", {"/usr/bin/tool": b"tool"})], signers[0])
    found = collect("demo", snapshots=[root], keyring=signers[0].keyring)

    assert [(corim.id, corim.components) for corim in found.corims] == [("tool_1:2.5-3_noarch", (("/usr/bin/tool", sha256(b"tool")),))]
    assert found.signed_by == (signers[0].fingerprint,)
    assert code(root, signers[1].keyring) == "signature-invalid"
    (root / "repodata/repomd.xml.asc").unlink()
    assert code(root, signers[0].keyring) == "signature-invalid"


def test_edited_yum_snapshot_is_refused(tmp_path: Path, signers: tuple[Signer, Signer]) -> None:
    root = build_yum(tmp_path / "yum", [build_rpm(tmp_path, "tool", {"/usr/bin/tool": b"tool"})], signers[0])
    for path, expected in (
        ("repodata/repomd.xml", "signature-invalid"),
        ("repodata/primary.xml.gz", "digest-mismatch"),
        ("Packages/tool-2.5-3.noarch.rpm", "digest-mismatch"),
    ):
        file = root / path
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert code(root, signers[0].keyring) == expected
        file.write_bytes(whole)


def test_index_with_a_document_type_is_refused(tmp_path: Path) -> None:
    root = build_yum(tmp_path / "yum", [build_rpm(tmp_path, "tool", {"/usr/bin/tool": b"tool"})], None)
    repomd, primary = root / "repodata/repomd.xml", root / "repodata/primary.xml.gz"
    old, bomb = primary.read_bytes(), gzip.compress(b'<!DOCTYPE m [<!ENTITY a "x">]><metadata>&a;</metadata>')
    primary.write_bytes(bomb)
    text = repomd.read_text().replace(sha256(old).hex(), sha256(bomb).hex()).replace(f"<size>{len(old)}<", f"<size>{len(bomb)}<")
    repomd.write_text(text)

    with pytest.raises(FormatError, match="no document type"):
        open_repository(root, keyring=None)


def test_folder_that_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="neither"):
        open_repository(tmp_path, keyring=None)


def test_snapshot_without_its_index_is_refused_not_empty(tmp_path: Path) -> None:
    root = apt(tmp_path, None)
    (root / "dists/stable/main/binary-amd64/Packages.xz").unlink()

    with pytest.raises(FormatError, match="an index Packages"):
        open_repository(root, keyring=None)


def status(*signatures: tuple[str, str]) -> str:
    """What gpgv says of signatures: a word and the number of the hash."""
    lines = []
    for word, number in signatures:
        lines += ["[GNUPG:] NEWSIG", f"[GNUPG:] {word} 0123 name"]
        lines += [f"[GNUPG:] VALIDSIG {'A' * 40} 2026-01-01 1 0 4 0 22 {number} 01 {'A' * 40}"] if word.endswith("SIG") and number else []
    return "\n".join(lines)


@pytest.mark.parametrize(
    "signatures, good",
    [
        ([("GOODSIG", "10")], True),
        ([("NO_PUBKEY", ""), ("GOODSIG", "8")], True),
        ([("GOODSIG", "8"), ("BADSIG", "")], False),
        ([("GOODSIG", "2")], False),
        ([("EXPKEYSIG", "8")], False),
        ([("REVKEYSIG", "8")], False),
        ([("EXPSIG", "8")], False),
        ([("GOODSIG", ""), ("EXPKEYSIG", "8")], False),
        ([], False),
    ],
)
def test_signature_counts_only_by_a_living_key_over_a_strong_hash(signatures: list[tuple[str, str]], good: bool) -> None:
    assert (_good_signature(status(*signatures)) is not None) is good

"""The engine's digest: what changes it and what does not."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from writ.formats.engine import EngineId
from writ.formats.errors import Misuse, Unavailable
from writ.service.engine_id import installed_engine, tree_digest
from writ.verdict.engine import ENGINE

ROOT = Path(__file__).parents[3]


def planted(folder: Path) -> Path:
    for name in ("writ/formats/a.py", "writ/formats/sub/b.py", "writ/verdict/c.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    return folder


def test_installed_engine_names_number_tree_and_libraries() -> None:
    engine = installed_engine()
    libraries = dict(engine.libraries)

    assert engine.number == ENGINE
    assert {"python", "openssl", "cryptography", "cbor2"} <= set(libraries)
    assert libraries["openssl"].startswith("OpenSSL ")
    assert EngineId.from_cbor(engine.to_cbor()) == engine
    assert installed_engine() is engine


def test_digest_is_that_of_sha256sum_over_sorted_paths(tmp_path: Path) -> None:
    planted(tmp_path)
    listing = subprocess.run(
        ["sha256sum", "writ/formats/a.py", "writ/formats/sub/b.py", "writ/verdict/c.py"], cwd=tmp_path, capture_output=True, check=True
    ).stdout

    assert tree_digest(tmp_path).value == hashlib.sha256(listing).digest()


def test_one_changed_byte_one_renamed_and_one_new_file_change_the_digest(tmp_path: Path) -> None:
    before = tree_digest(planted(tmp_path / "a"))
    (planted(tmp_path / "b") / "writ/verdict/c.py").write_text("# writ/verdict/C.py\n")
    (planted(tmp_path / "c") / "writ/verdict/c.py").rename(tmp_path / "c/writ/verdict/d.py")
    (planted(tmp_path / "d") / "writ/verdict/d.py").write_text("")

    assert len({before, *(tree_digest(tmp_path / name) for name in "bcd")}) == 4


def test_caches_and_other_files_and_the_place_do_not_change_the_digest(tmp_path: Path) -> None:
    before = tree_digest(planted(tmp_path / "a"))
    other = planted(tmp_path / "elsewhere")
    (other / "writ/formats/__pycache__").mkdir()
    (other / "writ/formats/__pycache__/a.py").write_text("x")
    (other / "writ/formats/py.typed").write_text("x")
    (other / "writ/service").mkdir()
    (other / "writ/service/clock.py").write_text("x")

    assert tree_digest(other) == before


def test_digest_of_a_copy_of_the_product_is_the_installed_one(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "writ", tmp_path / "writ", ignore=shutil.ignore_patterns("__pycache__"))

    assert tree_digest(tmp_path) == tree_digest(ROOT)


def test_folder_without_the_code_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse):
        tree_digest(tmp_path)


def test_source_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    (planted(tmp_path) / "writ/verdict/loop.py").symlink_to("loop.py")

    with pytest.raises(Unavailable, match="cannot read"):
        tree_digest(tmp_path)

"""Installed packages: their RECORDs are checked, not believed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attestor.measure.packages import measure_packages
from attestor.measure.store import Store
from writ.formats.errors import Refused
from writ.formats.manifest import ComponentSpec
from writ.formats.strict import b64url
from writ.formats.tree import component_root


def row(path: str, content: bytes, algorithm: str = "sha256") -> str:
    return f"{path},{algorithm}={b64url(hashlib.new(algorithm, content).digest())},{len(content)}"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site-packages with one distribution, as pip leaves it."""
    place = tmp_path / "site-packages"
    (place / "demo/__pycache__").mkdir(parents=True)
    (place / "demo-1.dist-info").mkdir()
    (place / "demo/__init__.py").write_bytes(b"one = 1\n")
    (place / "demo/odd, name.py").write_bytes(b"two = 2\n")
    (place / "demo/__pycache__/__init__.cpython-311.pyc").write_bytes(b"cache")
    (place / "extra.pth").write_bytes(b"import demo\n")
    write_record(place)
    return place


def write_record(site: Path, *more: str) -> None:
    rows = [
        row("demo/__init__.py", b"one = 1\n"),
        '"demo/odd, name.py"' + row("", b"two = 2\n", "sha512"),
        "demo/__pycache__/__init__.cpython-311.pyc,,",
        "demo/__pycache__/gone.cpython-311.pyc,,",
        "../../bin/demo,sha256=" + "A" * 43 + ",3",
        "demo-1.dist-info/RECORD,,",
        *more,
    ]
    (site / "demo-1.dist-info/RECORD").write_text("\r\n".join(rows) + "\r\n")


def refused(site: Path) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        measure_packages("libs", "packages", site)
    (reason,) = caught.value.reasons
    return reason.code, reason.claim


def test_installed_distribution_is_measured_with_what_no_record_lists(site: Path) -> None:
    part = measure_packages("libs", "packages", site)
    assert [entry.path for entry in part.entries] == sorted(
        [
            "demo/__init__.py", "demo/odd, name.py", "demo/__pycache__/__init__.cpython-311.pyc", "demo-1.dist-info/RECORD", "extra.pth",
        ]
    )  # fmt: skip


def test_file_that_differs_from_its_record_is_refused(site: Path) -> None:
    (site / "demo/__init__.py").write_bytes(b"one = 2\n")
    assert refused(site) == ("record-mismatch", "libs:demo/__init__.py")


def test_file_that_differs_from_a_record_in_another_hash_is_refused(site: Path) -> None:
    (site / "demo/odd, name.py").write_bytes(b"two = 3\n")
    assert refused(site) == ("record-mismatch", "libs:demo/odd, name.py")


def test_missing_file_is_refused(site: Path) -> None:
    (site / "demo/__init__.py").unlink()
    assert refused(site) == ("record-mismatch", "libs:demo/__init__.py")


def test_file_replaced_by_a_link_is_refused(site: Path) -> None:
    (site / "demo/__init__.py").unlink()
    (site / "demo/__init__.py").symlink_to("odd, name.py")
    assert refused(site) == ("record-mismatch", "libs:demo/__init__.py")


@pytest.mark.parametrize(
    "line",
    [
        "demo/__init__.py,md5=abc,8",
        "demo/__init__.py,sha256=not base64,8",
        "demo/__init__.py,sha256",
        row("demo/__init__.py", b"one = 1\n").removesuffix("8") + "9",
        row("demo/none.py", b"x"),
        ",,",
        '"unclosed',
    ],
)
def test_record_that_says_something_else_is_refused(line: str, site: Path) -> None:
    write_record(site, line)
    assert refused(site)[0] == "record-mismatch"


def test_record_that_is_not_utf_8_is_refused(site: Path) -> None:
    (site / "demo-1.dist-info/RECORD").write_bytes(b"\xff\xfe")
    assert refused(site) == ("record-mismatch", "libs:demo-1.dist-info/RECORD")


def test_path_that_winds_back_in_is_checked_where_it_leads(site: Path) -> None:
    write_record(site, row("demo/../demo/./__init__.py", b"other"))
    assert refused(site) == ("record-mismatch", "libs:demo/__init__.py")


def test_excluded_files_need_no_record(site: Path) -> None:
    spec = ComponentSpec("libs", "packages", str(site), ("__pycache__", "*.pth"))
    (site / "demo/__pycache__/__init__.cpython-311.pyc").write_bytes(b"another cache")
    part = measure_packages("libs", "packages", site, excludes=spec.leaves_out)
    assert not [entry for entry in part.entries if "pyc" in entry.path or "pth" in entry.path]


def test_virtual_environment_stands_for_its_site_packages(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    site = next((tmp_path / "env").glob("lib/python3*/site-packages"))
    (site / "one.py").write_text("x = 1\n")
    via_env, direct = measure_packages("libs", "packages", tmp_path / "env"), measure_packages("libs", "packages", site)
    assert component_root(via_env) == component_root(direct)
    assert [entry.path for entry in via_env.entries] == ["one.py"]


def test_this_environment_satisfies_its_records(tmp_path: Path) -> None:
    """Real wheels, through the store."""
    import cbor2

    site = Path(cbor2.__file__).parents[1]
    wanted = ("cbor2", "cbor2-", "_cbor2")
    part = measure_packages(
        "libs", "packages", site, excludes=lambda path: not path.startswith(wanted) or "__pycache__" in path, read=Store(tmp_path).read
    )
    assert any(entry.path.endswith("RECORD") for entry in part.entries)
    assert os.listdir(tmp_path / "objects")

"""A release says what its wheel will be measured as: held against an installation of that wheel, measured by its own attestor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from zipfile import ZipFile, ZipInfo

import pytest

from tools import release
from writ.formats.corim import encode_corim, parse_signed_corim
from writ.formats.cose import verify_sign1
from writ.formats.digest import Digest
from writ.service.signers import load_signer

AT = "/opt/writ/current/venv/lib/python3.11/site-packages"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, in which this tree was released twice."""
    place = tmp_path_factory.mktemp("release")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", place / "key.pem"], check=True, capture_output=True)
    (place / "key.pem").chmod(0o600)
    for out in ("one", "two"):
        assert released(place, "--at", AT, "--out", str(place / out)) == 0
    return place


def released(place: Path, *argv: str) -> int:
    return release.main(["--sign-key", str(place / "key.pem"), *argv])


def wheel_of(folder: Path) -> Path:
    return next(folder.glob("*.whl"))


def values(folder: Path, environment: str) -> dict[str, str]:
    file = next(folder.glob(f"*.{environment}.corim"))
    return {name: str(digest) for name, digest in parse_signed_corim(file.read_bytes()).corim.components}


@pytest.fixture(scope="module")
def installed(place: Path) -> Path:
    """Where pip put the wheel."""
    target = place / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", target, wheel_of(place / "one")], check=True)
    return target


def test_two_builds_give_the_same_bytes(place: Path) -> None:
    one, two = ({path.name: path.read_bytes() for path in (place / out).iterdir()} for out in ("one", "two"))
    assert len(one) == 5
    assert one == two


def test_each_is_signed_by_the_key_and_names_its_wheel(place: Path) -> None:
    key, named = load_signer(place / "key.pem").public, Digest.of(wheel_of(place / "one").read_bytes()).hex()[:16]
    for file in (place / "one").glob("*.corim"):
        signed = parse_signed_corim(file.read_bytes())
        assert verify_sign1(signed.sign1, key), file.name
        assert named in signed.corim.id, file.name


def test_governance_is_what_an_attestor_measures_where_the_wheel_is_installed(place: Path, installed: Path) -> None:
    code = """
import json, attestor
from attestor.measure.governance import measure_governance
from writ.formats.tree import component_root
print(json.dumps([attestor.__file__, {part.name: str(component_root(part)) for part in measure_governance()}]))
"""
    env = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=place, env=env, capture_output=True, check=True)
    origin, measured = json.loads(done.stdout)
    assert Path(origin).is_relative_to(installed)
    assert values(place / "one", "governance") == {room: measured[room] for room in ("attestor", "enforcer", "writ")}


def test_files_are_those_of_an_installation_at_their_places(place: Path, installed: Path) -> None:
    files = {f"{AT}/{path.relative_to(installed)}": path for path in installed.rglob("*") if path.is_file()}
    digests = {name: str(Digest.of(path.read_bytes())) for name, path in files.items()}
    listed, parts = values(place / "one", "files.writ"), {part: values(place / "one", f"rooted.{part}") for part in release.ROOTED}
    written_by_pip = {
        name for name in digests if "/bin/" in name or name.endswith(("/RECORD", "/INSTALLER", "/REQUESTED", "/direct_url.json"))
    }
    assert listed == {name: digest for name, digest in digests.items() if name not in written_by_pip}
    code = {name for name, path in files.items() if path.suffix == ".py" and path.stat().st_size} | {f"{AT}/{release.SHIM}"}
    assert set(parts["attestor"]) == {name for name in code if name.startswith((f"{AT}/attestor/", f"{AT}/writ/"))}
    assert set(parts["enforcer"]) == {name for name in code if name.startswith(f"{AT}/enforcer/")}
    assert all(listed.items() >= part.items() for part in parts.values())


def test_a_library_that_changes_with_the_release_is_named_by_its_wheel(place: Path) -> None:
    library = wheel(place / "cbor2-9-py3-none-any.whl", "cbor2/__init__.py", "other/__init__.py")
    alone, both = (
        dict(release.release_corims(wheel_of(place / "one"), beside)[0].components) for beside in ((), (library,))
    )  # fmt: skip
    assert both.keys() - alone.keys() == {"library-cbor2"}


def wheel(path: Path, *files: str, mode: int = 0o644) -> Path:
    with ZipFile(path, "w") as archive:
        for name in files:
            info = ZipInfo(name)
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, "content")
    return path


def test_the_execute_bit_of_a_file_is_part_of_the_governance(tmp_path: Path) -> None:
    plain, bit = (wheel(tmp_path / f"attestor-1-{mode}.whl", "attestor/a", mode=mode) for mode in (0o644, 0o755))
    assert release.release_corims(plain)[0].components != release.release_corims(bit)[0].components


def test_what_an_installer_puts_elsewhere_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt: dict[str, Callable[[Path], object]] = {
        "data-1-any.whl": lambda path: wheel(path, "data-1.data/scripts/run"),
        "up-1-any.whl": lambda path: wheel(path, "../up.py"),
        "text-1-any.whl": lambda path: path.write_text("no archive"),
    }
    for name, make in spoilt.items():
        make(tmp_path / name)
        assert released(place, "--wheel", str(tmp_path / name), "--out", str(tmp_path)) == 2, name
        assert name in capsys.readouterr().err
    assert released(place, "--wheel", str(tmp_path / "none.whl"), "--out", str(tmp_path)) == 3


def test_a_relative_place_and_a_base_of_another_namespace_or_kind_are_refused(place: Path, tmp_path: Path) -> None:
    one = wheel(tmp_path / "attestor-1-any.whl", "attestor/a.py", "enforcer/b.py")
    base = next(corim for corim in release.release_corims(one, namespace="billing"))
    files = release.release_corims(one, at=PurePosixPath(AT))[1]
    for name, corim in (("base", base), ("files", files)):
        (tmp_path / name).write_bytes(encode_corim(corim))
    with_wheel = ("--wheel", str(one), "--out", str(tmp_path / "out"))
    assert released(place, *with_wheel, "--over", str(tmp_path / "base"), "--namespace", "billing") == 0
    assert released(place, *with_wheel, "--over", str(tmp_path / "base")) == 2, "of another namespace"
    assert released(place, *with_wheel, "--over", str(tmp_path / "files")) == 2, "no governance"
    assert released(place, *with_wheel, "--at", "site-packages") == 2

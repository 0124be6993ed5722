"""Ten thousand decisions, recorded here, replayed in a root of its own by an interpreter of another minor version: the same bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.recorded import A_SCENE, write
from tools.release import build

pytestmark = pytest.mark.scale

ROOT = Path(__file__).parents[2]
WANTED = 10_000
NEEDED = ("cbor2", "cedarpy", "cffi", "cryptography", "pycparser")
"""What the auditor has installed, out of requirements.lock."""
SAYS = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


def others() -> Iterator[tuple[str, Path]]:
    """Interpreters of another minor version than this one's, of 3.11 or later, with the version of each."""
    named = [os.environ.get("WRIT_OTHER_PYTHON", ""), *(f"python3.{minor}" for minor in range(11, 20))]
    found = [Path(path) for path in map(shutil.which, filter(None, named)) if path is not None]
    found += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin/python3"))
    for path in found:
        done = subprocess.run([path, "-c", SAYS], capture_output=True, text=True, check=False)
        minor = re.fullmatch(r"3\.(\d+)", done.stdout.strip())
        if done.returncode == 0 and minor is not None and int(minor[1]) >= 11 and int(minor[1]) != sys.version_info.minor:
            yield done.stdout.strip(), path


def locked() -> str:
    """The lines of requirements.lock, with their hashes, of what the auditor needs."""
    blocks = re.split(r"\n(?=[a-z])", (ROOT / "requirements.lock").read_text())
    found = [block for block in blocks if block.partition("==")[0] in NEEDED]
    assert len(found) == len(NEEDED)
    return "\n".join(found) + "\n"


def replayed(command: list[str], folder: Path) -> dict[str, object]:
    words = [*command, "replay", "verifier", "enforcer", "--trust", "trust", "--json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[:2000]}{done.stderr[-2000:]}"
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.timeout(1800)
def test_10_000_decisions_replay_to_the_same_bytes_in_a_fresh_root_under_another_python(tmp_path: Path) -> None:
    other = next(others(), None)
    if other is None:
        pytest.skip("no Python of another minor version than this one, with venv; name one in WRIT_OTHER_PYTHON")
    version, python = other
    world = tmp_path / "world"
    world.mkdir()
    write(-(-WANTED // A_SCENE), world)
    here = replayed([sys.executable, "-m", "auditor"], world)

    root = tmp_path / "root"
    subprocess.run([python, "-m", "venv", root], check=True)
    (tmp_path / "needed").write_text(locked())
    pip: list[str | Path] = [root / "bin/python", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    subprocess.run([*pip, "--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", tmp_path / "needed"], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", build(tmp_path)], check=True)
    there = replayed(confined(root, world), world)

    counts = here["counts"]
    assert isinstance(counts, dict)
    assert counts["identical"] >= WANTED
    assert sum(counts.values()) == counts["identical"] + counts["not decided by policy"]
    assert there == here, "the digest of all that was made again is among it"
    print(f"\n{counts['identical']} decisions, Python {sys.version_info.major}.{sys.version_info.minor} and {version}: {here['made']}")


def confined(root: Path, world: Path) -> list[str]:
    """The auditor in a root that holds the system's libraries, the other interpreter, `root` and `world`, and no network."""
    base = subprocess.run([root / "bin/python", "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True)
    command = ["bwrap", "--unshare-all", "--clearenv", "--ro-bind", "/usr", "/usr", "--dev", "/dev", "--tmpfs", "/tmp"]
    for name in ("/lib", "/lib64", "/bin"):
        command += ["--symlink", f"usr{name}", name] if Path(name).is_symlink() else ["--ro-bind-try", name, name]
    for one in (base.stdout.strip(), str(root), str(world)):
        command += [] if one.startswith("/usr") else ["--ro-bind", one, one]
    return [*command, "--chdir", str(world), "--", str(root / "bin/python"), "-I", "-m", "auditor"]

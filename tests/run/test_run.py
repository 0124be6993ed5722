"""./run keeps its word. Set-up is tried on a copy of the script with a stand-in interpreter, so that nothing is installed here."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "run"
INPUTS = ("run", "pyproject.toml", "requirements.lock", "requirements-dev.lock", "tools/build.lock")

# Plays python3, python3 -m venv and .venv/bin/python -m pip; writes what it was asked into $LOG.
STAND_IN = """#!/bin/sh
case "$*" in
-c*) exit 0 ;;
--version) echo 'Python 3.11.2 (stand-in)' ;;
'-m venv --clear '*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && echo venv >>"$LOG" ;;
'-m pip '*)
    echo "pip $*" >>"$LOG"
    sleep "${PIP_TAKES:-0}"
    case "$*" in *"${PIP_FAILS_ON:-nothing at all}"*) echo 'pip: no route' >&2; exit 1 ;; esac ;;
*) echo "unexpected: $*" >>"$LOG"; exit 9 ;;
esac
"""


class Tree:
    """A folder with the script and the locks, a stand-in interpreter, and a PATH whose programs a test may replace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        self.bin = folder / "bin"
        self.log = folder / "log"
        (self.folder / "tools").mkdir(parents=True)
        self.bin.mkdir()
        self.log.touch()
        for name in INPUTS:
            shutil.copy(ROOT / name, self.folder / name)
        self.program("python3", STAND_IN)
        self.program("dpkg-query", "#!/bin/sh\nprintf installed\n")

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "LOG": str(self.log),
            "WRIT_PYTHON": str(self.bin / "python3"),
            **more,
        }

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "run", *arguments], env=self.environment(**more), capture_output=True, text=True, check=False, timeout=60
        )

    def asked(self) -> str:
        return self.log.read_text()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def run_here(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RUN, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=100)


# --- verbs --------------------------------------------------------------------------------------------------------------


def test_help_lists_exactly_the_verbs_there_are() -> None:
    listed = set(re.findall(r"^  (\w+) ", run_here("help").stdout, flags=re.MULTILINE))
    defined = set(re.findall(r"^verb_(\w+)\(\)", RUN.read_text(), flags=re.MULTILINE))

    assert listed == defined


def test_help_needs_no_set_up(tree: Tree) -> None:
    assert tree.run("help").returncode == tree.run().returncode == 0
    assert tree.asked() == ""


@pytest.mark.parametrize("arguments", [["unheard-of"], ["exec"], ["mutate"], ["lint", "more"], ["setup", "more"], ["lock", "more"]])
def test_misuse_exits_2_and_sets_nothing_up(tree: Tree, arguments: list[str]) -> None:
    done = tree.run(*arguments)

    assert (done.returncode, tree.asked()) == (2, "")
    assert "run: " in done.stderr


@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
def test_script_is_plain_sh(shell: str) -> None:
    program = shell.split()
    if shutil.which(program[0]) is None:
        pytest.skip(f"needs {program[0]}")
    done = subprocess.run([*program, "-n", RUN], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", INPUTS)
def test_no_input_of_the_set_up_names_a_registry_or_a_machine(name: str) -> None:
    text = (ROOT / name).read_text()

    assert re.findall(r"https?://|--index-url|--find-links|file://|/root/|/home/", text) == []


@pytest.mark.parametrize(
    "name", ["requirements.lock", "requirements-dev.lock", "tools/build.lock", "tools/compile.lock", "tools/fuzz.lock"]
)
def test_every_entry_of_a_lock_is_pinned_and_hashed(name: str) -> None:
    entries = re.split(r"^(?=[A-Za-z])", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]

    assert entries != []
    assert [entry.split()[0] for entry in entries if not re.match(r"\S+==\S+ ", entry) or "--hash=sha256:" not in entry] == []


def test_the_locks_agree_with_each_other() -> None:
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), flags=re.MULTILINE))

    run, develop, build = pins("requirements.lock"), pins("requirements-dev.lock"), pins("tools/build.lock")

    assert run.items() <= develop.items()
    assert {name for name in build.keys() & develop.keys() if build[name] != develop[name]} == set()


# --- exec, in the real environment --------------------------------------------------------------------------------------


def test_exec_runs_in_the_callers_folder_with_its_arguments_and_status(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), os.environ['TSS2_LOG'], sys.prefix, sys.argv[1:]); sys.exit(7)"
    done = run_here("exec", "python", "-c", code, "a b", "", "*", cwd=tmp_path)

    assert done.stdout == f"{tmp_path} all+none {ROOT / '.venv'} ['a b', '', '*']\n"
    assert done.returncode == 7


def test_second_run_is_quick() -> None:
    run_here("exec", "true")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_here("exec", "true")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert (done.returncode, done.stderr) == (0, "")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5  # processor seconds: a busy machine is no fault


def test_the_tree_is_importable_from_anywhere(tmp_path: Path) -> None:
    done = run_here("exec", "python", "-c", "import writ, attestor, verifier, enforcer, auditor; print(writ.__file__)", cwd=tmp_path)

    assert done.stdout.strip() == str(ROOT / "writ" / "__init__.py"), done.stderr


# --- set-up -------------------------------------------------------------------------------------------------------------


def test_set_up_installs_build_requirements_then_the_lock_then_us_all_hashed(tree: Tree) -> None:
    assert tree.run("exec", "true").returncode == 0

    steps = tree.asked().splitlines()
    assert steps[0] == "venv"
    assert [re.findall(r"-r (\S+)|(--editable)", step) for step in steps[1:]] == [
        [("tools/build.lock", "")],
        [("requirements.lock", "")],
        [("", "--editable")],
    ]
    assert all("--require-hashes" in step for step in steps[1:3])
    assert all("--no-build-isolation" in step for step in steps[1:])


def test_second_run_installs_nothing(tree: Tree) -> None:
    tree.run("exec", "true")
    before = tree.asked()

    assert tree.run("exec", "true").returncode == 0
    assert tree.asked() == before


def test_verbs_for_developing_add_their_lock_and_serve_the_others(tree: Tree) -> None:
    tree.run("setup")
    before = tree.asked()
    assert "-r requirements-dev.lock" in before

    tree.run("exec", "true")

    assert tree.asked() == before


@pytest.mark.parametrize("name", INPUTS)
def test_a_changed_input_is_installed_again(tree: Tree, name: str) -> None:
    tree.run("exec", "true")
    before = tree.asked()
    with (tree.folder / name).open("a") as file:
        file.write("\n# changed\n")

    tree.run("exec", "true")

    assert len(tree.asked()) > len(before)


def test_a_moved_tree_is_set_up_again(tree: Tree) -> None:
    tree.run("exec", "true")
    before = tree.asked()
    tree.folder = tree.folder.rename(tree.folder.with_name("moved"))

    assert tree.run("exec", "true").returncode == 0
    assert len(tree.asked()) > len(before)


def test_a_set_up_that_failed_half_way_is_done_again(tree: Tree) -> None:
    failed = tree.run("exec", "true", PIP_FAILS_ON="-r requirements.lock")
    assert failed.returncode == 3
    assert "pip: no route" in failed.stderr
    assert "requirements.lock" in failed.stderr.splitlines()[-1]

    assert tree.run("exec", "true").returncode == 0
    assert tree.asked().count("-r requirements.lock") == 2


def test_two_at_once_set_up_once(tree: Tree) -> None:
    both = [
        subprocess.Popen([tree.folder / "run", "exec", "true"], env=tree.environment(PIP_TAKES="0.3"), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[1] for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert tree.asked().count("venv\n") == 1
    assert tree.asked().count("-r requirements.lock") == 1
    assert sum("waiting" in text for text in said) <= 1


# --- system packages ----------------------------------------------------------------------------------------------------

SWTPM_MISSING = '#!/bin/sh\ncase "$*" in *swtpm*) exit 1 ;; *) printf installed ;; esac\n'
APT = '#!/bin/sh\necho "apt-get $*" >>"$LOG"\n[ "$1" = update ] || exit "${APT_EXITS:-0}"\n'


def test_only_missing_packages_are_installed(tree: Tree) -> None:
    tree.program("dpkg-query", SWTPM_MISSING)
    tree.program("apt-get", APT)
    tree.program("id", "#!/bin/sh\necho 0\n")

    assert tree.run("setup").returncode == 0
    assert "apt-get install -q -y --no-install-recommends swtpm swtpm-tools\n" in tree.asked()


def test_exec_needs_no_software_tpm(tree: Tree) -> None:
    tree.program("dpkg-query", SWTPM_MISSING)
    tree.program("apt-get", APT)

    assert tree.run("exec", "true").returncode == 0
    assert "apt-get" not in tree.asked()


def test_without_root_sudo_is_asked(tree: Tree) -> None:
    tree.program("dpkg-query", SWTPM_MISSING)
    tree.program("apt-get", APT)
    tree.program("id", "#!/bin/sh\necho 1000\n")
    tree.program("sudo", '#!/bin/sh\necho sudo >>"$LOG"\nexec "$@"\n')

    assert tree.run("setup").returncode == 0
    assert tree.asked().startswith("sudo\napt-get update -q\nsudo\napt-get install ")


def test_without_root_and_sudo_it_exits_3_and_says_what_is_missing(tree: Tree) -> None:
    tree.program("dpkg-query", SWTPM_MISSING)
    tree.program("apt-get", APT)
    tree.program("id", "#!/bin/sh\necho 1000\n")
    for name in ("sh", "cat", "dirname"):
        (tree.bin / name).symlink_to(shutil.which(name) or pytest.fail(f"no {name}"))

    done = tree.run("setup", PATH=str(tree.bin))

    assert (done.returncode, tree.asked()) == (3, "")
    assert "expected root or sudo to install: swtpm swtpm-tools; this is uid 1000 without sudo" in done.stderr


def test_apt_that_fails_exits_3_and_says_what_for(tree: Tree) -> None:
    tree.program("dpkg-query", SWTPM_MISSING)
    tree.program("apt-get", APT)
    tree.program("id", "#!/bin/sh\necho 0\n")

    done = tree.run("setup", APT_EXITS="100")

    assert done.returncode == 3
    assert "could not install: swtpm swtpm-tools" in done.stderr


def test_no_python_exits_3_and_says_which_was_expected(tree: Tree) -> None:
    for name in ("python3",):
        tree.program(name, '#!/bin/sh\n[ "$1" != --version ] || echo \'Python 3.9.2\'\n[ "$1" = --version ]\n')

    done = tree.run("exec", "true")

    assert done.returncode == 3
    assert "expected python3 >= 3.11 with venv, got Python 3.9.2" in done.stderr


def test_this_interpreter_is_the_private_one() -> None:
    """`./run test` is how these tests are run; another way is allowed, but then the environment must be .venv all the same."""
    assert Path(sys.prefix) == ROOT / ".venv"

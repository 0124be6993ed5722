"""The page of `auditor report` in a real browser: shown as it is, its style applied, and nothing in it run or fetched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from auditor.report.page import page, tag
from tests.auditor.test_report import HOSTILE, whole
from tests.peers.conftest import program

pytestmark = pytest.mark.peers

SCRIPT = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"><style>body { color: red }</style>"


def opened(file: Path, profile: Path) -> tuple[str, str]:
    """The document as Chromium has it once it is loaded, and what it said of it."""
    chromium = program("chromium", Path("/usr/bin/chromium"))
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
         "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000", "--dump-dom", f"file://{file}"],
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def test_a_report_is_shown_and_its_policy_refuses_nothing_of_it(tmp_path: Path) -> None:
    from auditor.__main__ import main

    assert main(whole(tmp_path)) == 0
    document, said = opened(tmp_path / "page.html", tmp_path / "profile")
    assert "<title>Audit report</title>" in document
    assert "accepted: 0 findings" in document
    assert "Content Security Policy" not in said


def test_a_hostile_name_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(page("Audit report", [tag("p", HOSTILE), tag("p", SCRIPT)]))
    document, said = opened(tmp_path / "page.html", tmp_path / "profile")
    assert "<title>Audit report</title>" in document
    assert "&lt;script&gt;document.title='taken'&lt;/script&gt;" in document
    assert "Content Security Policy" not in said


def test_markup_that_got_in_all_the_same_runs_nothing_and_fetches_nothing(tmp_path: Path) -> None:
    """The second fence, without the first."""
    made = page("Audit report", [tag("p", "here")]).replace(b"here", SCRIPT.encode())
    (tmp_path / "page.html").write_bytes(made)
    document, said = opened(tmp_path / "page.html", tmp_path / "profile")
    assert "<title>Audit report</title>" in document
    assert said.count("Content Security Policy") >= 3, said
    without = made.replace(b"Content-Security-Policy", b"nothing")
    (tmp_path / "page.html").write_bytes(without)
    assert "<title>taken</title>" in opened(tmp_path / "page.html", tmp_path / "other")[0], "it would have run"

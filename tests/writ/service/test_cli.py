"""Exit codes, the refusal card, JSON and progress: the same on every command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import pytest

from writ.formats.errors import FormatError, Misuse, Refused, Unavailable
from writ.formats.reason import Reason
from writ.service import cli

SPENT = Reason("nonce-spent", "nonce", "an unused nonce", "a spent one")
PCR = Reason("pcr-digest-mismatch", "pcr_digest", "aa", "bb\x1b[2J")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def failing(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(_argv: Sequence[str]) -> int:
        raise error

    return main


OUTCOMES = [
    (Refused(SPENT), 1, "nonce-spent"),
    (FormatError("quote", "32 bytes", "31 bytes", 7), 2, "malformed: quote at byte 7: expected 32 bytes, got 31 bytes"),
    (Unavailable("verifier", "no answer in 10 s"), 3, "could not: verifier: no answer in 10 s"),
    (Misuse("hunter2"), 3, "could not: Misuse\n  reference "),
    (KeyError("hunter2"), 3, "could not: KeyError\n  reference "),
    (OSError(28, "No space left on device", "/secret/hunter2"), 3, "could not: OSError: No space left on device\n"),
    (RecursionError(), 3, "could not: RecursionError"),
]


def test_refusal_of_nothing_but_what_is_malformed_is_a_misuse() -> None:
    malformed = Reason("malformed", "body.digests.0", "text", "null")
    for reasons, code in (((malformed,), 2), ((malformed, SPENT), 1), ((SPENT,), 1)):
        assert cli.run(failing(Refused(*reasons)), []) == cli.refused(one.code for one in reasons) == code


@pytest.mark.parametrize("error, code, text", OUTCOMES, ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "")
def test_error_has_its_exit_code_and_no_traceback(error: Exception, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(failing(error), []) == code
    out, err = capsys.readouterr()
    assert text in err
    assert out == ""
    assert "Traceback" not in err
    assert "hunter2" not in err


@pytest.mark.parametrize("error, code, _text", OUTCOMES, ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "")
def test_error_with_json_is_one_object(error: Exception, code: int, _text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(failing(error), ["--json"]) == code
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert err == ""
    assert "hunter2" not in out
    assert shown.get("error") or shown["reasons"] == [SPENT.to_json()]


def test_json_behind_a_double_dash_is_the_childs(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(failing(Unavailable("a", "b")), ["run", "--", "prog", "--json"])

    assert capsys.readouterr().out == ""


def test_code_of_the_command_and_of_argparse_come_through(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> int:
        parser = cli.parser("attestor", "Measures.")
        cli.add_json_flag(parser)
        args = parser.parse_args(argv)
        return 0 if args.config is None else 1

    assert cli.run(main, []) == 0
    assert cli.run(main, ["--config", "x"]) == 1
    assert cli.run(main, ["--unknown"]) == 2
    assert cli.run(main, ["--conf", "x"]) == 2
    assert cli.run(main, ["--version"]) == 0
    assert capsys.readouterr().out.startswith("attestor (writ) ")


def test_interrupt_is_130_and_a_textual_exit_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(failing(KeyboardInterrupt()), []) == 130
    assert cli.run(failing(SystemExit("no\x1bway")), []) == 2
    assert cli.run(failing(SystemExit(None)), []) == 0
    assert capsys.readouterr().err == "no\\x1bway\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WRIT_DEBUG", "1")
    cli.run(failing(KeyError("x")), [])

    assert "Traceback" in capsys.readouterr().err


def test_decorated_command_takes_the_processes_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "a", "b"])

    @cli.command
    def main(argv: Sequence[str]) -> int:
        return len(argv)

    assert main() == 2
    assert main(["a"]) == 1


CLOSED_PIPE = """
import sys
from writ.service.cli import emit, run
def main(argv):
    for _ in range(100000):
        emit("y" * 100, False)
    return 0
sys.exit(run(main, []))
"""


def test_reader_that_goes_away_is_no_error_to_speak_of() -> None:
    done = subprocess.Popen([sys.executable, "-c", CLOSED_PIPE], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout is not None
    assert done.stderr is not None
    done.stdout.readline()
    done.stdout.close()
    noise = done.stderr.read()
    done.stderr.close()

    assert (done.wait(20), noise) == (141, b"")


def test_card_says_rule_claim_expected_got_and_next_for_each_reason() -> None:
    card = cli.refusal_card([PCR, SPENT], "ab12", stream=io.StringIO())

    assert card == (
        "refused                      reference ab12\n"
        "  rule      nonce-spent\n"
        "  claim     nonce\n"
        "  expected  an unused nonce\n"
        "  got       a spent one\n"
        f"  next      {SPENT.remedy}\n"
        "\n"
        "  rule      pcr-digest-mismatch\n"
        "  claim     pcr_digest\n"
        "  expected  aa\n"
        "  got       bb\\x1b[2J\n"
        f"  next      {PCR.remedy}"
    )


def test_card_is_coloured_only_at_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;31mrefused" in cli.refusal_card([SPENT], stream=Terminal())
    assert "\x1b" not in cli.refusal_card([SPENT], stream=io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in cli.refusal_card([SPENT], stream=Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in cli.refusal_card([SPENT], stream=Terminal())


def test_text_of_several_lines_is_shown_as_these_and_passes_for_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    cli.emit({"version": 3, "policies": "permit (a);\n\nversion  4\x1b[2J\n"}, False)
    assert capsys.readouterr().out.splitlines() == ["version   3", "policies", "  | permit (a);", "  |", "  | version  4\\x1b[2J"]


def test_emit_prints_one_json_object_or_aligned_lines(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"host": "a\tb", "ok": True, "none": None, "pcrs": {"sha256": [1, 2]}, "rows": [{"a": 1, "b": 2}], "empty": []}
    cli.emit(value, True)
    assert json.loads(capsys.readouterr().out) == value
    cli.emit(value, False)
    assert capsys.readouterr().out == (
        "host   a\\tb\nok     yes\nnone   -\npcrs\n  sha256\n    - 1\n    - 2\nrows\n  - a  1\n    b  2\nempty  -\n"
    )


def test_moment_is_a_time_for_people_and_seconds_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"since": 1767225600, "enrolled_at": 1767225601, "life": 1767225600, "ended_at": 5, "retired_at": None}
    cli.emit(value, True)
    assert json.loads(capsys.readouterr().out) == value
    cli.emit(value, False)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["since", "2026-01-01T00:00:00Z"], ["enrolled_at", "2026-01-01T00:00:01Z"], ["life", "1767225600"], ["ended_at", "5"],
        ["retired_at", "-"],
    ]  # fmt: skip


def test_output_that_the_terminal_cannot_spell_is_escaped() -> None:
    code = "import sys; from writ.service.cli import emit; emit('\\u00e9\\ud800', False)"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)

    assert done.stdout == b"\\xe9\\ud800\n"


def test_progress_is_drawn_at_a_terminal_after_a_second_and_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    terminal = Terminal()
    with cli.progress(10, "hashing", terminal) as bar:
        bar.advance(4)
        assert terminal.getvalue() == ""
        now[0] += 1.5
        bar.advance()
        assert terminal.getvalue() == "\r\x1b[Khashing  [############............]  50%"
        bar.advance()
        assert terminal.getvalue().count("hashing") == 1
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_progress_without_end_counts_and_without_a_terminal_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain):
        with cli.progress(None, "events", stream) as bar:
            now[0] += 2
            bar.advance(3)

    assert "events  3" in terminal.getvalue()
    assert plain.getvalue() == ""


def test_unforeseen_error_is_logged_under_the_reference_that_is_shown(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cli.run(failing(KeyError("hunter2")), ["--json"])
    reference = json.loads(capsys.readouterr().out)["reference"]

    (record,) = [record for record in caplog.records if record.message == "internal"]
    assert record.__dict__["fields"] == {"reference": reference}


def test_stream_that_is_gone_does_not_change_the_exit_code() -> None:
    code = (
        "import os, sys; from writ.service.cli import run; from writ.formats.errors import Unavailable\n"
        "def main(argv): raise Unavailable('a', 'b')\n"
        "os.close(2); os._exit(run(main, []))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3


def test_fault_with_a_place_names_it_and_card_has_its_reference_as_data() -> None:
    assert cli.fault(FormatError("quote", "a", "b", 7)) == {"error": "malformed", "what": "quote", "expected": "a", "got": "b", "offset": 7}
    assert cli.fault(FormatError("quote", "a", "b")) == {"error": "malformed", "what": "quote", "expected": "a", "got": "b"}
    assert cli.refusal([SPENT, SPENT], "ab") == {"verdict": "refused", "reasons": [SPENT.to_json()], "reference": "ab"}

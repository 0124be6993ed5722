"""One look for the four commands: exit codes, the refusal card, JSON, progress.

    0 accepted    1 refused    2 misuse: the input was not understood, by us or by whom we asked (`malformed`)    3 could not

A refusal reads the same everywhere:

    refused                      reference 5f1c09ab
      rule      nonce-spent
      claim     nonce
      expected  an unused nonce
      got       one spent at 1767225600
      next      A nonce is used once. Fetch a new one and attest again.

A command is `def main(argv: Sequence[str]) -> int`, and its process ends with
`sys.exit(run(main, sys.argv[1:]))`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn, TextIO

from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason

ACCEPTED: Final = 0
REFUSED: Final = 1
MISUSE: Final = 2
COULD_NOT: Final = 3
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

_FIRST_MOMENT: Final = 10**9
_LAST_MOMENT: Final = 253_402_300_799
"""From 2001 to the end of 9999: what is shown as a time."""

_BOLD_RED: Final = "\x1b[1;31m"
_DIM: Final = "\x1b[2m"
_PLAIN: Final = "\x1b[0m"


# --- the command line ---------------------------------------------------------------------------------------------------


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with `--version` and `--config FILE` (in `args.config`, a Path or None); wrong usage exits 2."""
    made = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    made.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    made.add_argument("--config", type=Path, metavar="FILE", help="configuration, TOML; environment variables override it")
    return made


def add_json_flag(made: argparse.ArgumentParser) -> None:
    """The flag `--json`, in `args.json`."""
    made.add_argument("--json", action="store_true", help="print one JSON object")


class _Version(argparse.Action):
    """Looked up when it is asked for: reading what is installed costs more than most commands."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib import metadata

        try:
            installed = metadata.version("writ")
        except metadata.PackageNotFoundError:
            installed = "not installed"
        sys.stdout.write(f"{parser.prog} (writ) {installed}\n")
        parser.exit()


# --- from outcome to exit code ------------------------------------------------------------------------------------------


def run(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """The exit code of `main(argv)`; every error is shown once, as text or with `--json` as an object, never as a traceback.

    An error that no one foresaw gets a reference: it is logged under it with
    its places, and WRIT_DEBUG=1 shows the whole.
    """
    as_json = "--json" in _before_double_dash(argv)
    try:
        code = main(argv)
        sys.stdout.flush()
        return code
    except SystemExit as error:
        return _of_system_exit(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return PIPE_CLOSED
    except Refused as error:
        return _show(as_json, refused(reason.code for reason in error.reasons), refusal(error.reasons), refusal_card(error.reasons))
    except FormatError as error:
        return _show(as_json, MISUSE, fault(error), f"malformed: {printable(str(error))}")
    except Unavailable as error:
        return _show(as_json, COULD_NOT, fault(error), f"could not: {printable(str(error))}")
    except Exception as error:  # noqa: BLE001 - the last resort of a process: no traceback reaches a user
        return _unforeseen(as_json, error)


def refused(codes: Iterable[str]) -> int:
    """The exit code for a refusal with these reason codes: of nothing but `malformed` it is a misuse."""
    return MISUSE if set(codes) == {"malformed"} else REFUSED


def command(main: Callable[[Sequence[str]], int]) -> Callable[..., int]:
    """`main` as an entry point: called without arguments it takes the process's own, and errors become exit codes."""

    def wrapped(argv: Sequence[str] | None = None) -> int:
        return run(main, sys.argv[1:] if argv is None else argv)

    return wrapped


def refusal(reasons: Iterable[Reason], reference: str | None = None) -> dict[str, object]:
    """The refusal as data: `verdict`, `reasons` (code, claim, expected, got, remedy), `reference` where there is one."""
    shown: dict[str, object] = {"verdict": "refused", "reasons": [reason.to_json() for reason in sorted(set(reasons))]}
    if reference is not None:
        shown["reference"] = reference
    return shown


def fault(error: FormatError | Unavailable) -> dict[str, object]:
    """The error as data: `error` is `malformed` or `unavailable`."""
    if isinstance(error, FormatError):
        shown: dict[str, object] = {"error": "malformed", "what": error.what, "expected": error.expected, "got": error.got}
        return shown if error.offset is None else {**shown, "offset": error.offset}
    return {"error": "unavailable", "what": error.what, "detail": error.detail}


def _before_double_dash(argv: Sequence[str]) -> Sequence[str]:
    return argv[: argv.index("--")] if "--" in argv else argv


def _of_system_exit(error: SystemExit) -> int:
    if error.code is None:
        return ACCEPTED
    if isinstance(error.code, int):
        return error.code
    _write(sys.stderr, printable(str(error.code)))
    return MISUSE


def _unforeseen(as_json: bool, error: Exception) -> int:
    reference = secrets.token_hex(4)
    if logging.getLogger().handlers:
        logging.getLogger(__name__).error("internal", extra={"fields": {"reference": reference}}, exc_info=error)
    if os.environ.get("WRIT_DEBUG") == "1":
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exception(error, file=sys.stderr)
    detail = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        detail = f"{detail}: {error.strerror}"
    shown: dict[str, object] = {"error": "internal", "detail": detail, "reference": reference}
    text = f"could not: {printable(detail)}\n  reference {reference}\n  next      Run again with WRIT_DEBUG=1 and report what it shows."
    return _show(as_json, COULD_NOT, shown, text)


def _show(as_json: bool, code: int, data: Mapping[str, object], text: str) -> int:
    if as_json:
        _write(sys.stdout, _json(data))
    else:
        _write(sys.stderr, text)
    return code


def _write(stream: TextIO, text: str) -> None:
    """Write a line; a stream that is gone or cannot spell it does not change the exit code."""
    try:
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode("ascii") + "\n")
        stream.flush()
    except BrokenPipeError:
        _silence_stdout()
    except (OSError, ValueError):
        return


def _silence_stdout() -> None:
    """What is still buffered goes nowhere, so that the interpreter's last flush is quiet."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# --- what is shown ------------------------------------------------------------------------------------------------------


def wants_colour(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that may be coloured. Source: no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """`text` with what a terminal would obey spelt out, as \\x1b."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def refusal_card(reasons: Iterable[Reason], reference: str | None = None, *, stream: TextIO | None = None) -> str:
    """The refusal for people: for each reason the rule, claim, expected, got and the next step.

    Coloured if `stream` (where it will be printed; standard error unless
    given) is a terminal. No trailing newline.
    """
    colour = wants_colour(sys.stderr if stream is None else stream)
    red, dim, plain = (_BOLD_RED, _DIM, _PLAIN) if colour else ("", "", "")
    head = f"{red}refused{plain}" + (f"{'':<22}reference {printable(reference)}" if reference else "")
    cards = []
    for reason in sorted(set(reasons)):
        rows = (
            ("rule", reason.code),
            ("claim", reason.claim),
            ("expected", reason.expected),
            ("got", reason.got),
            ("next", reason.remedy),
        )
        cards.append("\n".join(f"  {dim}{name:<9}{plain} {printable(text)}".rstrip() for name, text in rows))
    return head + "\n" + "\n\n".join(cards)


def emit(value: object, as_json: bool) -> None:
    """Print `value` on standard output: as one JSON object on a line, or for people as aligned lines; lines of text are marked.

    `value` is JSON data; with `as_json` anything else raises TypeError.
    """
    text = _json(value) if as_json else "\n".join(_lines(value, 0))
    try:
        print(text)
    except UnicodeEncodeError:
        print(text.encode("ascii", "backslashreplace").decode("ascii"))


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _lines(value: object, indent: int) -> list[str]:
    pad = " " * indent
    if isinstance(value, Mapping):
        width = max((len(str(key)) for key in value), default=0)
        rows = []
        for key, item in value.items():
            name = printable(str(key))
            if isinstance(item, Mapping | list | tuple) and item:
                rows.append(f"{pad}{name}")
                rows.extend(_lines(item, indent + 2))
            elif isinstance(item, str) and "\n" in item:
                rows.append(f"{pad}{name}")
                rows.extend(f"{pad}  | {printable(line)}".rstrip() for line in item.removesuffix("\n").split("\n"))
            else:
                rows.append(f"{pad}{name:<{width}}  {_moment(name, item) or _word(item)}".rstrip())
        return rows
    if isinstance(value, list | tuple):
        rows = []
        for item in value:
            inner = _lines(item, indent + 2)
            if isinstance(item, Mapping) and inner:
                inner[0] = f"{pad}- {inner[0][indent + 2 :]}"
            rows.extend(inner if isinstance(item, Mapping | list | tuple) else [f"{pad}- {_word(item)}"])
        return rows
    return [pad + line for line in (value.split("\n") if isinstance(value, str) else [_word(value)])]


def _moment(key: str, value: object) -> str | None:
    """Seconds since the epoch as a time in UTC, where the key says that they are one; with --json they stay seconds."""
    if not (key in ("at", "since", "not_before", "not_after", "valid_until") or key.endswith("_at")):
        return None
    if not isinstance(value, int) or not _FIRST_MOMENT <= value <= _LAST_MOMENT:
        return None
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _word(value: object) -> str:
    if value is None or value in ([], (), {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


# --- progress -----------------------------------------------------------------------------------------------------------


class Progress:
    """How far a long task is. Drawn on a terminal only, from the second second on, at most ten times a second."""

    def __init__(self, total: int | None, label: str, stream: TextIO) -> None:
        self._total, self._label, self._stream = total, label, stream
        self._done = 0
        self._next_draw = time.monotonic() + 1.0 if stream.isatty() else float("inf")
        self._drawn = False

    def advance(self, amount: int = 1) -> None:
        """`amount` more of the total is done."""
        self._done += amount
        if time.monotonic() >= self._next_draw:
            self._next_draw = time.monotonic() + 0.1
            self._drawn = True
            self._put("\r\x1b[K" + self._bar())

    def _bar(self) -> str:
        if not self._total:
            return f"{self._label}  {self._done}"
        share = min(self._done / self._total, 1.0)
        full = int(share * 24)
        return f"{self._label}  [{'#' * full}{'.' * (24 - full)}] {int(share * 100):3d}%"

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()

    def clear(self) -> None:
        """The line is free again."""
        if self._drawn:
            self._put("\r\x1b[K")
            self._drawn = False


@contextlib.contextmanager
def progress(total: int | None, label: str, stream: TextIO | None = None) -> Iterator[Progress]:
    """A bar on standard error while the block runs; `total` None counts without an end."""
    bar = Progress(total, label, sys.stderr if stream is None else stream)
    try:
        yield bar
    finally:
        bar.clear()

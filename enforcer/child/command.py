"""One command of a child instance, as its parent asks for it, and what is recorded of it.

    {"instance": "4f0c…", "script": "cc -o hello hello.c && ./hello"}
    {"instance": "4f0c…", "argv": ["/usr/bin/tar", "-x"], "stdin": "H4sI…", "cwd": "/work/src", "env": {"CFLAGS": "-O2"},
     "limits": {"output": 65536, "seconds": 300}}

A `script` is the last argument of the command that the child's manifest names, such as `/bin/sh -euc`; `argv` is run as it stands, by
the path of its program. Either, and not both. `stdin` is base64. What is recorded says `sha256` and `bytes` of script and standard input:

    {"argv": null, "cwd": "/work", "env": {}, "limits": {…}, "script": {"bytes": 30, "sha256": "9c…"}, "stdin": {…}}
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from enforcer.launch.sandbox import WORK
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_json, encode_json

MAX_SCRIPT: Final = 96 << 10
"""Bytes of a script, and of all arguments of an argv. Linux takes 128 KiB for one argument."""
MAX_ARGUMENTS: Final = 256
MAX_STDIN: Final = 640 << 10
MAX_ENVIRONMENT: Final = 32
MAX_OUTPUT: Final = 256 << 10
"""Bytes of each of standard output and standard error that are given back."""
MAX_SECONDS: Final = 3600
SECONDS: Final = 120
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Command:
    """What is to run. `argv` is None where `script` is not. `seconds` and `output` bound it."""

    instance: str
    argv: tuple[str, ...] | None
    script: str | None
    folder: str
    environment: Mapping[str, str]
    stdin: bytes
    seconds: int
    output: int

    def program(self, shell: tuple[str, ...]) -> tuple[str, ...]:
        """The argument vector; `shell` is the command that the child's manifest names."""
        return self.argv if self.argv is not None else (*shell, self.script or "")

    def recorded(self) -> bytes:
        """The one spelling of what the child's log commits to: everything but the content of script and standard input."""
        return encode_json(
            {
                "argv": None if self.argv is None else list(self.argv), "cwd": self.folder, "env": dict(self.environment),
                "limits": {"output": self.output, "seconds": self.seconds},
                "script": None if self.script is None else digested(self.script.encode()), "stdin": digested(self.stdin),
            }
        )  # fmt: skip


def digested(content: bytes) -> dict[str, int | str]:
    """How a record names content."""
    return {"bytes": len(content), "sha256": Digest.of(content).value.hex()}


def parse_command(arguments: bytes) -> Command:
    """Read the arguments of `instance.run`. Raises FormatError."""
    f = Fields(decode_json(arguments, "command"), "command")
    instance = f.text("instance", most=32)
    argv = tuple(_argument(item, "argv") for item in f.items("argv", most=MAX_ARGUMENTS)) if f.has("argv") else None
    script = _argument(f.any("script"), "script") if f.has("script") else None
    if (argv is None) == (script is None):
        raise FormatError("command", "argv or script, and not both", "both" if argv is not None else "neither")
    size = sum(len(word.encode()) + 1 for word in argv or (script or "",))
    if size > MAX_SCRIPT:
        raise FormatError("command", f"at most {MAX_SCRIPT} bytes of script or argv; more goes in by stdin", f"{size}")
    if argv is not None and not (argv and argv[0].startswith("/")):
        raise FormatError("command.argv", "the absolute path of a program; a script looks in PATH", repr(argv[0] if argv else "")[:80])
    folder = f.text("cwd", least=1, most=1024) if f.has("cwd") else WORK
    if not folder.startswith("/"):
        raise FormatError("command.cwd", "an absolute path", repr(folder)[:80])
    environment = _environment(f.mapping("env", most=MAX_ENVIRONMENT)) if f.has("env") else {}
    stdin = _base64(f.any("stdin")) if f.has("stdin") else b""
    seconds, output = _limits(f.fields("limits")) if f.has("limits") else (SECONDS, MAX_OUTPUT)
    f.done()
    return Command(instance, argv, script, folder, environment, stdin, seconds, output)


def _argument(value: object, what: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise FormatError(f"command.{what}", "text without NUL", type(value).__name__)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FormatError(f"command.{what}", "Unicode", "a lone surrogate") from None
    return value


def _environment(given: Mapping[object, object]) -> dict[str, str]:
    found = {}
    for name, value in given.items():
        if not isinstance(name, str) or not _VARIABLE.match(name):
            raise FormatError("command.env", "names of letters, digits and _", repr(name)[:80])
        found[name] = _argument(value, f"env.{name}")
    if sum(len(value.encode()) for value in found.values()) > MAX_SCRIPT:
        raise FormatError("command.env", f"at most {MAX_SCRIPT} bytes", "more")
    return found


def _limits(f: Fields) -> tuple[int, int]:
    seconds = f.uint("seconds", most=MAX_SECONDS) if f.has("seconds") else SECONDS
    output = f.uint("output", most=MAX_OUTPUT) if f.has("output") else MAX_OUTPUT
    f.done()
    if seconds < 1:
        raise FormatError("command.limits.seconds", f"1 to {MAX_SECONDS}", "0")
    return seconds, output


def _base64(value: object) -> bytes:
    """Standard base64 with padding, in its one spelling."""
    try:
        content = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        content = None
    if content is None or base64.b64encode(content).decode() != value or len(content) > MAX_STDIN:
        raise FormatError("command.stdin", f"base64 of at most {MAX_STDIN} bytes", f"{type(value).__name__} that is not")
    return content

"""What a command may look like, each rule by an input that breaks it alone, and the one spelling of what is recorded."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.child.command import MAX_OUTPUT, MAX_SCRIPT, MAX_STDIN, SECONDS, parse_command
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.strict import encode_json

HANDLE = "0f" * 16


def read(**fields: Any) -> Any:
    return parse_command(encode_json({"instance": HANDLE, **fields}))


def test_what_is_not_said_has_a_default() -> None:
    command = read(script="true")
    assert (command.folder, command.environment, command.stdin, command.seconds, command.output) == ("/work", {}, b"", SECONDS, MAX_OUTPUT)
    assert command.program(("/bin/sh", "-c")) == ("/bin/sh", "-c", "true")
    assert read(argv=["/bin/ls", "-l"]).program(("/bin/sh", "-c")) == ("/bin/ls", "-l")


def test_record_names_script_and_input_by_digest() -> None:
    recorded = json.loads(read(script="true", stdin="aW4=", env={"A": "b"}, cwd="/tmp").recorded())
    assert recorded == {
        "argv": None, "cwd": "/tmp", "env": {"A": "b"}, "limits": {"output": MAX_OUTPUT, "seconds": SECONDS},
        "script": {"bytes": 4, "sha256": Digest.of(b"true").value.hex()}, "stdin": {"bytes": 2, "sha256": Digest.of(b"in").value.hex()},
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields, what",
    [
        ({}, "neither"),
        ({"script": "true", "argv": ["/bin/true"]}, "both"),
        ({"argv": []}, "absolute path"),
        ({"argv": ["ls"]}, "absolute path"),
        ({"argv": ["/bin/ls"] + ["x"] * 256}, "items"),
        ({"argv": ["/bin/ls", 1]}, "without NUL"),
        ({"argv": ["/bin/ls", "a\0b"]}, "without NUL"),
        ({"script": "a\0b"}, "without NUL"),
        ({"script": None}, "without NUL"),
        ({"script": "x" * MAX_SCRIPT}, "more goes in by stdin"),
        ({"argv": ["/bin/ls", "x" * MAX_SCRIPT]}, "more goes in by stdin"),
        ({"script": "true", "cwd": "work"}, "an absolute path"),
        ({"script": "true", "cwd": ""}, "characters"),
        ({"script": "true", "env": {"A=B": "c"}}, "names of letters"),
        ({"script": "true", "env": {"": "c"}}, "names of letters"),
        ({"script": "true", "env": {"A": "b\0c"}}, "without NUL"),
        ({"script": "true", "env": {"A": 1}}, "without NUL"),
        ({"script": "true", "env": {f"A{n}": "" for n in range(33)}}, "entries"),
        ({"script": "true", "env": {"A": "x" * (MAX_SCRIPT + 1)}}, "at most"),
        ({"script": "true", "stdin": "aW4"}, "base64"),
        ({"script": "true", "stdin": "aW5="}, "base64"),
        ({"script": "true", "stdin": "a W4="}, "base64"),
        ({"script": "true", "stdin": "é"}, "base64"),
        ({"script": "true", "stdin": 1}, "base64"),
        ({"script": "true", "stdin": base64.b64encode(bytes(MAX_STDIN + 1)).decode()}, "base64"),
        ({"script": "true", "limits": {"seconds": 0}}, "1 to"),
        ({"script": "true", "limits": {"seconds": 3601}}, "0 to 3600"),
        ({"script": "true", "limits": {"output": MAX_OUTPUT + 1}}, "0 to"),
        ({"script": "true", "limits": {"memory": 1}}, "unknown key"),
        ({"script": "true", "user": "root"}, "unknown key"),
    ],
)
def test_anything_else_is_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(FormatError) as raised:
        read(**fields)
    assert what in str(raised.value)


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(FormatError):
        parse_command(b'{"instance":"%s","script":"\\ud800"}' % HANDLE.encode())


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)


@given(TEXTS, st.binary(max_size=50), st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), TEXTS))
def test_what_is_asked_for_is_what_runs(script: str, stdin: bytes, environment: dict[str, str]) -> None:
    environment = dict(list(environment.items())[:32])
    command = read(script=script, stdin=base64.b64encode(stdin).decode(), env=environment)
    assert (command.script, command.stdin, command.environment) == (script, stdin, environment)

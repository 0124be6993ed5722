"""The line of a relying service's record: one spelling, read back whole, and anything else refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.access import Access, encode_access, parse_access
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.reason import Reason

TRACE = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b701")
PERMIT = Access(
    1_700_000_000, Digest.of(b"engine"), "spiffe://example.org/test/agent/a", bytes(range(16)), "http.post", "https://b.test/v1/x",
    Digest.of(b"token"), Digest.of(b"policy"), Digest.of(b"proof"), b"\xa0", (), "5f1c09ab7712", bytes(range(32)), TRACE,
)  # fmt: skip
REFUSAL = replace(
    PERMIT, agent=None, instance=None, token=None, bundle=None, proof=None, parent=None, trace=None,
    reasons=(Reason("token-expired", "token.exp", "after 1", "1"), Reason("proof-invalid", "proof", "ä", "b")),
)  # fmt: skip


@pytest.mark.parametrize("access", [PERMIT, REFUSAL])
def test_line_is_read_as_it_was_written(access: Access) -> None:
    line = encode_access(access)
    assert b"\n" not in line
    assert parse_access(line) == access
    assert json.loads(line)["permit"] is access.permit is not bool(access.reasons)


def test_line_says_what_a_person_looks_for() -> None:
    said = json.loads(encode_access(PERMIT))
    assert (said["parent"], said["traceparent"]) == (bytes(range(32)).hex(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


@pytest.mark.parametrize(
    "changed",
    [
        {"permit": False}, {"parent": "00" * 31}, {"parent": "AB" * 32}, {"parent": "x"}, {"instance": "00" * 15}, {"context": "a"},
        {"traceparent": "00-x"}, {"traceparent": "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, {"engine": "sha256:00"},
        {"more": 1}, {"at": -1}, {"at": "1"},
        {"reasons": [{"code": "no-such-code", "claim": "a", "expected": "b", "got": "c", "remedy": "d"}], "permit": False},
        {"reasons": [{"code": "token-expired", "claim": "a", "expected": "b", "got": "c", "remedy": "another"}], "permit": False},
    ],
)  # fmt: skip
def test_line_that_says_something_else_is_none(changed: dict[str, object]) -> None:
    said = json.loads(encode_access(PERMIT))
    with pytest.raises(FormatError):
        parse_access(json.dumps({**said, **changed}, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize("name", sorted(json.loads(encode_access(PERMIT))))
def test_line_without_a_member_is_none(name: str) -> None:
    said = json.loads(encode_access(PERMIT))
    del said[name]
    with pytest.raises(FormatError):
        parse_access(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())


def test_line_in_another_spelling_is_none() -> None:
    with pytest.raises(FormatError):
        parse_access(json.dumps(json.loads(encode_access(PERMIT))).encode())


def test_parser_is_total() -> None:
    assert_parser_is_total(parse_access, encode_access(PERMIT))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_line_or_a_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert encode_access(parse_access(data)) == data

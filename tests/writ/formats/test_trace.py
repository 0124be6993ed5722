"""A traceparent is read as W3C Trace Context has it, and whatever is none is no trace and no error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.trace import MAX_LENGTH, parse_traceparent, trace_of, traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAID = f"00-{TRACE}-{PARENT}-01"
READ = bytes.fromhex(TRACE + PARENT + "01")


def test_version_00_is_read_whole_and_spelt_as_it_came() -> None:
    assert parse_traceparent(SAID) == READ
    assert traceparent(READ) == SAID
    assert parse_traceparent(f"00-{TRACE}-{PARENT}-ff") == READ[:24] + b"\xff", "flags are recorded as the asker said them"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(SAID.upper(), id="capitals"),
        pytest.param(f"00-{TRACE.upper()}-{PARENT}-01", id="a trace id in capitals"),
        pytest.param(f"00-{'0' * 32}-{PARENT}-01", id="a trace id of zeros"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", id="a parent id of zeros"),
        pytest.param(f"ff-{TRACE}-{PARENT}-01", id="version ff"),
        pytest.param(f"ff-{TRACE}-{PARENT}-01-more", id="version ff that goes on"),
        pytest.param(f"{SAID}-more", id="version 00 that goes on"),
        pytest.param(f"{SAID}\n", id="a line feed behind it"),
        pytest.param(f" {SAID}", id="a space before it"),
        pytest.param(f"00-{TRACE}-{PARENT}-1", id="one flag digit"),
        pytest.param(f"00-{TRACE}-{PARENT}", id="no flags"),
        pytest.param(f"00-{TRACE[:-1]}-{PARENT}-01", id="a short trace id"),
        pytest.param(f"00-{TRACE}0-{PARENT}-01", id="a long trace id"),
        pytest.param(f"00-{TRACE[:-1]}g-{PARENT}-01", id="no hex"),
        pytest.param(f"00-{TRACE[:-1]}\u0663-{PARENT}-01", id="a digit of another script"),
        pytest.param(f"0-{TRACE}-{PARENT}-01", id="one version digit"),
        pytest.param(f"01-{TRACE}-{PARENT}-01more", id="a later version without a dash"),
        pytest.param(f"01-{TRACE}-{PARENT}-01-" + "x" * MAX_LENGTH, id="a later version without end"),
        pytest.param(SAID.replace("-", "_"), id="other dashes"),
        pytest.param("", id="nothing"),
        pytest.param(None, id="null"),
        pytest.param(7, id="a number"),
        pytest.param([SAID], id="a list"),
        pytest.param({"traceparent": SAID}, id="an object"),
        pytest.param(SAID.encode(), id="bytes"),
    ],
)
def test_what_is_no_traceparent_is_no_trace(said: object) -> None:
    assert parse_traceparent(said) is None


@pytest.mark.parametrize("more", ["", "-", "-what-a-later-version-says"])
def test_later_version_is_read_as_far_as_this_one_goes_and_its_other_flags_are_unknown(more: str) -> None:
    assert parse_traceparent(f"01-{TRACE}-{PARENT}-ff{more}") == READ
    assert parse_traceparent(f"fe-{TRACE}-{PARENT}-02{more}") == READ[:24] + b"\0"


def test_header_counts_once_in_any_case_and_without_space_around_it() -> None:
    assert trace_of([(b"Accept", b"*/*"), (b"TraceParent", SAID.encode())]) == READ
    assert trace_of([(b"traceparent", b" \t" + SAID.encode() + b" ")]) == READ
    assert trace_of([(b"traceparent", SAID.encode())] * 2) is None, "two could be two things"
    assert trace_of([(b"traceparent", b"\xff" + SAID.encode())]) is None
    assert trace_of([(b"tracestate", SAID.encode())]) is None


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", fullmatch=True))
def test_any_text_is_a_trace_of_25_bytes_or_none(said: str) -> None:
    read = parse_traceparent(said)
    assert read is None or (len(read) == 25 and parse_traceparent(traceparent(read)) == read)

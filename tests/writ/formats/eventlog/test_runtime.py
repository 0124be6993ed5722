"""Runtime events: each kind round-trips, everything else is refused, and the digest is of exactly the content."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError, Misuse
from writ.formats.eventlog.cel import CONTENT_WRIT, CelRecord, encode_cel, parse_cel
from writ.formats.eventlog.runtime import (
    AnchorEvent,
    ComponentEvent,
    DriftEvent,
    KeyEvent,
    RuntimeEvent,
    StartEvent,
    StopEvent,
    UpdateEvent,
    command_digest,
    encode_event,
    event_digests,
    parse_event,
    parse_record,
    record_event,
)
from writ.formats.strict import encode_cbor
from writ.formats.tree import spell

AGENT = "spiffe://example.org/billing/agent/reporter"
D = Digest.of(b"d")
I = bytes(range(16))  # noqa: E741 - an instance

SPECIMENS: list[RuntimeEvent] = [
    ComponentEvent("governance", "attestor", D),
    ComponentEvent("host", "python3.11", D),
    StartEvent(I, AGENT, D, command_digest(["python3", "-m", "agent"]), bytes(32), None, ()),
    StartEvent(I, AGENT, D, D, bytes(32), bytes(16), ("code", "prompts")),
    KeyEvent(I, b"k" * 32),
    StopEvent(I, "exited"),
    StopEvent(I, "killed"),
    StopEvent(I, "lost"),
    UpdateEvent(AGENT, "prompts", D),
    DriftEvent(I, "prompts", "sys/prompt.txt", D, Digest.of(b"e")),
    DriftEvent(I, "prompts", spell(b"\xff\n\\.txt"), D, None),
    AnchorEvent(I, 7, b"r" * 32),
    AnchorEvent(I, (1 << 63) - 1, bytes(32)),
]

digests = st.binary(min_size=32, max_size=32).map(lambda value: Digest("sha256", value))
names = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,10}[a-z0-9])?", fullmatch=True)
instances = st.binary(min_size=16, max_size=16)
hashes = st.binary(min_size=32, max_size=32)
agents = st.builds("spiffe://{}/{}/agent/{}".format, names, names, names)
segments = st.binary(min_size=1, max_size=12).filter(lambda raw: b"\0" not in raw and b"/" not in raw and raw not in {b".", b".."})
paths = st.lists(segments, min_size=1, max_size=4).map(lambda parts: spell(b"/".join(parts)))
events: st.SearchStrategy[RuntimeEvent] = st.one_of(
    st.builds(ComponentEvent, st.sampled_from(["governance", "host"]), names, digests),
    st.builds(
        StartEvent,
        instances,
        agents,
        digests,
        digests,
        hashes,
        st.none() | instances,
        st.sets(names, max_size=5).map(lambda n: tuple(sorted(n))),
    ),
    st.builds(KeyEvent, instances, hashes),
    st.builds(StopEvent, instances, st.sampled_from(["exited", "killed", "lost"])),
    st.builds(UpdateEvent, agents, names, digests),
    st.builds(DriftEvent, instances, names, paths, digests, st.none() | digests),
    st.builds(AnchorEvent, instances, st.integers(0, (1 << 63) - 1), hashes),
)


@given(events)
def test_event_round_trips(event: RuntimeEvent) -> None:
    assert parse_event(encode_event(event)) == event


@pytest.mark.parametrize("event", SPECIMENS, ids=lambda event: type(event).__name__)
def test_no_bytes_but_the_spelling_are_read(event: RuntimeEvent) -> None:
    assert_parser_is_total(parse_event, encode_event(event), flips=400)


def test_every_kind_is_tried_here() -> None:
    assert {type(event) for event in SPECIMENS} == set(RuntimeEvent.__args__)


def test_digests_are_of_the_content_in_the_order_of_the_log() -> None:
    content = encode_event(SPECIMENS[0])
    assert event_digests(content, ["sha384", "sha1", "sha256"]) == tuple(Digest.of(content, bank) for bank in ("sha1", "sha256", "sha384"))


@pytest.mark.parametrize("banks", [[], ["sha256", "sha256"], ["md5"], ["sha256", "sm3_256"]])
def test_banks_that_are_none_are_misuse(banks: list[str]) -> None:
    with pytest.raises(Misuse):
        event_digests(b"", banks)


@given(events, st.sets(st.sampled_from(list(SIZES)), min_size=1), st.integers(0, 1 << 62))
def test_record_of_an_event_travels_through_the_log(event: RuntimeEvent, banks: set[str], number: int) -> None:
    record = record_event(event, record_number=number, pcr=13, banks=sorted(banks))
    (read,) = parse_cel(encode_cel([record]), first=number)
    assert (read, parse_record(read)) == (record, event)


def test_record_whose_digest_is_not_of_its_content_is_refused() -> None:
    """Else known-good digests could be extended beside other words."""
    record = record_event(SPECIMENS[5], record_number=0, pcr=13, banks=["sha256", "sha384"])
    other = encode_event(SPECIMENS[4])
    with pytest.raises(FormatError, match="digest"):
        parse_record(replace(record, content=other))
    with pytest.raises(FormatError, match="sha384 digest"):
        parse_record(replace(record, digests=(record.digests[0], Digest.of(other, "sha384"))))


def test_record_of_another_content_type_is_refused() -> None:
    content = encode_event(SPECIMENS[0])
    with pytest.raises(FormatError, match="content type"):
        parse_record(CelRecord(0, 13, event_digests(content, ["sha256"]), CONTENT_WRIT + 1, content))


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FormatError, match="component, start, key, stop, update, drift, anchor, got 'pause'"):
        parse_event(encode_cbor({"v": 1, "kind": "pause", "instance": I}))


@pytest.mark.parametrize("version", [0, 2, True, "1"])
def test_unknown_version_is_refused(version: object) -> None:
    with pytest.raises(FormatError):
        parse_event(encode_cbor({"v": version, "kind": "stop", "instance": I, "outcome": "lost"}))


def _changed(event: RuntimeEvent, **changes: object) -> bytes:
    fields = cast("dict[str, object]", cbor2.loads(encode_event(event))) | changes
    return encode_cbor({key: value for key, value in fields.items() if value is not ...})


@pytest.mark.parametrize(
    "event, changes",
    [
        (SPECIMENS[0], {"scope": "instance"}),
        (SPECIMENS[0], {"name": "Attestor"}),
        (SPECIMENS[0], {"name": ...}),
        (SPECIMENS[0], {"root": bytes(31)}),
        (SPECIMENS[0], {"root": "00" * 32}),
        (SPECIMENS[2], {"instance": bytes(15)}),
        (SPECIMENS[2], {"agent": "reporter"}),
        (SPECIMENS[2], {"session_key": bytes(31)}),
        (SPECIMENS[2], {"parent": None}),
        (SPECIMENS[2], {"parent": bytes(15)}),
        (SPECIMENS[2], {"mutable": ["code", "code"]}),
        (SPECIMENS[2], {"mutable": ["prompts", "code"]}),
        (SPECIMENS[2], {"mutable": [1]}),
        (SPECIMENS[2], {"mutable": [""]}),
        (SPECIMENS[2], {"mutable": [f"c{n:03}" for n in range(65)]}),
        (SPECIMENS[2], {"mutable": ...}),
        (SPECIMENS[2], {"secret": b"x"}),
        (SPECIMENS[4], {"session_key": bytes(33)}),
        (SPECIMENS[5], {"outcome": "crashed"}),
        (SPECIMENS[8], {"agent": AGENT.replace("example", "Example")}),
        (SPECIMENS[9], {"path": "../prompt.txt"}),
        (SPECIMENS[9], {"path": "/prompt.txt"}),
        (SPECIMENS[9], {"path": "a\\x41"}),
        (SPECIMENS[9], {"got": None}),
        (SPECIMENS[11], {"size": -1}),
        (SPECIMENS[11], {"size": 1 << 63}),
        (SPECIMENS[11], {"root": bytes(20)}),
        (SPECIMENS[11], {"v": ...}),
    ],
)
def test_field_out_of_its_bounds_is_refused(event: RuntimeEvent, changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_event(_changed(event, **changes))


def test_event_out_of_its_bounds_is_not_written() -> None:
    with pytest.raises(FormatError):
        encode_event(KeyEvent(b"short", bytes(32)))
    with pytest.raises(FormatError):
        encode_event(StartEvent(I, AGENT, D, D, bytes(32), None, ("prompts", "code")))
    with pytest.raises(FormatError):
        encode_event(ComponentEvent("host", "x", Digest.of(b"", "sha384")))


def test_event_that_its_bytes_do_not_give_back_is_misuse() -> None:
    with pytest.raises(Misuse):
        encode_event(StartEvent(I, AGENT, D, D, bytes(32), None, cast("tuple[str, ...]", ["code"])))


def test_commands_that_join_to_the_same_text_differ() -> None:
    assert command_digest(["a", "b c"]) != command_digest(["a b", "c"]) != command_digest(["a b c"])

"""systemd's log of user space: read as systemd writes it, and nothing but FormatError for anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.errors import FormatError
from writ.formats.eventlog.cel_json import MAX_RECORDS, UserspaceEvent, encode_systemd_log, parse_systemd_log

READY = UserspaceEvent(11, (("sha256", b"r" * 32),), "ready", "phase", "00" * 16)
RECORD: dict[str, Any] = {
    "pcr": 11,
    "digests": [{"hashAlg": "sha256", "digest": "72" * 32}],
    "content_type": "systemd",
    "content": {"string": "ready", "bootId": "00" * 16, "timestamp": 1234, "eventType": "phase"},
}


def spelt(*records: object) -> bytes:
    return b"".join(b"\x1e" + json.dumps(record).encode() + b"\n" for record in records)


@st.composite
def events(draw: st.DrawFn) -> UserspaceEvent:
    banks = draw(st.lists(st.sampled_from((("sha1", 20), ("sha256", 32), ("sha384", 48))), min_size=1, unique=True))
    digests = tuple((name, draw(st.binary(min_size=size, max_size=size))) for name, size in banks)
    text = st.text(st.characters(codec="utf-8"), max_size=20)
    return UserspaceEvent(draw(st.integers(0, 23)), digests, draw(text), draw(text), draw(text))


@given(st.lists(events(), max_size=4).map(tuple))
def test_log_is_read_as_it_was_written(log: tuple[UserspaceEvent, ...]) -> None:
    assert parse_systemd_log(encode_systemd_log(log)) == log


def test_parser_is_total() -> None:
    assert_parser_is_total(parse_systemd_log, encode_systemd_log((READY, READY)), flips=1_000, open_ended=True)


def test_record_of_systemd_is_read() -> None:
    assert parse_systemd_log(spelt(RECORD)) == (READY,)


@pytest.mark.parametrize("other", ["nv_index", "rtmr"])
def test_record_of_no_pcr_is_left_out(other: str) -> None:
    record = {other if key == "pcr" else key: value for key, value in RECORD.items()}

    assert parse_systemd_log(spelt(record, RECORD)) == (READY,)


MALFORMED = {
    "no separator": spelt(RECORD)[1:],
    "cut off": spelt(RECORD)[:-1],
    "cut off in the middle": spelt(RECORD)[:-1] + spelt(RECORD),
    "no object": spelt([1]),
    "neither register": spelt({key: value for key, value in RECORD.items() if key != "pcr"}),
    "no such PCR": spelt({**RECORD, "pcr": 24}),
    "a PCR that is true": spelt({**RECORD, "pcr": True}),
    "other content": spelt({**RECORD, "content_type": "pcclient_std"}),
    "content that is text": spelt({**RECORD, "content": "ready"}),
    "text that is a number": spelt({**RECORD, "content": {"string": 1}}),
    "no digests": spelt({**RECORD, "digests": []}),
    "digests as text": spelt({**RECORD, "digests": "72"}),
    "a digest of another size": spelt({**RECORD, "digests": [{"hashAlg": "sha256", "digest": "72"}]}),
    "a digest in capitals": spelt({**RECORD, "digests": [{"hashAlg": "sha256", "digest": "AB" * 32}]}),
    "an unknown algorithm": spelt({**RECORD, "digests": [{"hashAlg": "md5", "digest": "72" * 16}]}),
    "a bank twice": spelt({**RECORD, "digests": RECORD["digests"] * 2}),
    "a digest that is text": spelt({**RECORD, "digests": ["sha256"]}),
    "too many records": spelt(RECORD) * (MAX_RECORDS + 1),
    "too large": bytes(1 << 21),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_log_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_systemd_log(data)

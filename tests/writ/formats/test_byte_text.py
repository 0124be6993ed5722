"""Bytes that others wrote into text are read in each of their spellings, and nothing else is."""

from __future__ import annotations

import base64

import pytest

from writ.formats.byte_text import bytes_of_text
from writ.formats.errors import FormatError

DATA = bytes(range(248, 256)) + b"\x3e\x3f\xff"


@pytest.mark.parametrize(
    "text",
    [
        DATA.hex(), DATA.hex().upper(), f"{DATA.hex()[:8]}\r\n {DATA.hex()[8:]}\n", base64.b64encode(DATA).decode(),
        base64.urlsafe_b64encode(DATA).decode(), base64.b64encode(DATA).decode().rstrip("="),
    ],
)  # fmt: skip
def test_each_spelling_is_read(text: str) -> None:
    assert bytes_of_text(text, "report") == DATA


@pytest.mark.parametrize("text", ["abc", "a", "!!!!", "é", "AA=A", "\ud800"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="report: expected hexadecimal or base64"):
        bytes_of_text(text, "report")

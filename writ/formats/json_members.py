"""The members of a JSON object as their bytes stand: what others sign is a part of a document, verbatim.

>>> json_members(b'{"tcbInfo": {"id":"TDX"} ,"signature":"00"}', "specimen")
{'tcbInfo': b'{"id":"TDX"}', 'signature': b'"00"'}

Source: RFC 8259.
"""

from __future__ import annotations

import json
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.strict import MAX_SIZE, decode_json

_SPACE: Final = " \t\n\r"
_VALUE: Final = json.JSONDecoder()


def json_members(data: bytes, what: str, *, max_size: int = MAX_SIZE) -> dict[str, bytes]:
    """Key -> the bytes of its value, without the space around it, in the order of the object.

    Raises FormatError, and nothing else, where `decode_json` does or the value is no object.
    """
    value = decode_json(data, what, max_size=max_size)
    if not isinstance(value, dict):
        raise FormatError(what, "a JSON object", type(value).__name__)
    text, found = data.decode("utf-8"), {}
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = _VALUE.raw_decode(text, _skip(text, at + (text[at] == ",")))
        start = _skip(text, _skip(text, at) + 1)
        _, end = _VALUE.raw_decode(text, start)
        found[key] = text[start:end].encode("utf-8")
        at = _skip(text, end)
    return found


def _skip(text: str, at: int) -> int:
    """The first place from `at` on that is no space."""
    while text[at] in _SPACE:
        at += 1
    return at

"""A path as an agent asks for it, in one spelling, which is the end of an action's resource: `https://HOST:PORT/PATH`.

>>> path_of("/v1/caf%c3%a9/")
'/v1/caf%C3%A9/'

The case of an escape is all that is normalised (RFC 3986 6.2.2.1). Whatever somebody further on could read as another path is refused:
dot segments and what they are called with parameters (`..;`, `..%3B`), empty segments, escapes of what needs none, of slashes, of
controls, and of a percent sign that would make another escape, and bytes that are no UTF-8 (`%C0%AF`, which careless readers take for `/`).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from writ.formats.errors import FormatError

MAX_PATH: Final = 400
"""Characters: a resource has at most 512."""
_PATH: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+\Z", re.ASCII)
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_AGAIN: Final = re.compile(r"%25[0-9A-Fa-f]{2}")
_PARAMETERS: Final = re.compile(r";|%3B", re.IGNORECASE)
_PLAIN: Final = re.compile(r"[A-Za-z0-9._~/\\\x00-\x1f\x7f-]", re.ASCII)
"""What is never escaped: because it need not be, or because it would be something else then."""


def path_of(text: str) -> str:
    """The path of a request in its one spelling. Raises FormatError."""
    if len(text) > MAX_PATH or not _PATH.match(text):
        raise FormatError("request.path", f"at most {MAX_PATH} characters of RFC 3986, beginning with /", repr(text)[:80])
    if _AGAIN.search(text) or any(_PLAIN.match(chr(int(escape[1:], 16))) for escape in _ESCAPE.findall(text)):
        raise FormatError("request.path", "no escape of letters, digits, -._~, slashes, controls or of an escape", repr(text)[:80])
    try:
        unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise FormatError("request.path", "UTF-8 in its escapes", repr(text)[:80]) from None
    segments = text[1:].split("/")
    if any(_PARAMETERS.split(one)[0] in {".", ".."} for one in segments) or "" in segments[:-1]:
        raise FormatError("request.path", "no dot segments and no empty ones", repr(text)[:80])
    return _ESCAPE.sub(lambda escape: escape[0].upper(), text)

"""Names of tools and prompts, and URIs, as they stand in a resource that is decided.

A name is 1 to 128 of A-Z a-z 0-9 _ . - and begins with a letter, a digit or _ ; a URI has one spelling:

>>> uri("file:///notes/today", "uri")
'file:///notes/today'
>>> uri("file:///notes/%2e%2e/keys", "uri")
Traceback (most recent call last):
...
writ.formats.errors.FormatError: uri: expected escapes in capitals, of what needs one, and no dot or slash, got '%2e'
"""

from __future__ import annotations

import re
from typing import Final

from writ.formats.errors import FormatError

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z", re.ASCII)
_URI: Final = re.compile(
    r"[a-z][a-z0-9+.-]*:(?://([A-Za-z0-9._~\[\]:%-]*)(?=/|\?|\Z))?"
    r"([A-Za-z0-9._~!$&'()+,;=:@/%-]*)(?:\?([A-Za-z0-9._~!$&'()+,;=:@/?%-]*))?\Z"
)
"""RFC 3986 without user and fragment: authority, path, query."""
_ESCAPE: Final = re.compile(r"%(.{0,2})", re.DOTALL)
_AGAIN: Final = re.compile(r"%25[0-9A-Fa-f]{2}")
_PARAMETERS: Final = re.compile(r";|%3B")
_NEEDS_NO_ESCAPE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/\\")
_EXPRESSION: Final = re.compile(r"\{[^{}]*\}")


def tool_name(value: object, what: str) -> str:
    """`value`, if it is a name of a tool or prompt that can stand in a resource. Raises FormatError."""
    if not isinstance(value, str) or not _NAME.match(value):
        raise FormatError(what, "1 to 128 of A-Z a-z 0-9 _ . - with a letter, a digit or _ first", repr(value)[:80])
    return value


def uri(value: object, what: str) -> str:
    """`value`, if it is a URI in its one spelling, which is also what is decided. Raises FormatError.

    A scheme in small letters; printable ASCII; no user, fragment, `*`, backslash, empty or dot segment, also before parameters (`..;`);
    escapes in capitals, only where needed, of UTF-8, and none of a slash or of a percent sign that would make another escape. What is not
    so is refused and never mended: a server further on would read it its own way.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= 440:
        raise FormatError(what, "a URI of 1 to 440 characters", repr(value)[:80] if not isinstance(value, str) else f"{len(value)}")
    for escape in _ESCAPE.finditer(value):
        digits = escape[1]
        if not re.fullmatch(r"[0-9A-F]{2}", digits) or chr(int(digits, 16)) in _NEEDS_NO_ESCAPE or int(digits, 16) < 0x20:
            raise FormatError(what, "escapes in capitals, of what needs one, and no dot or slash", repr(escape[0])[:40])
    if (again := _AGAIN.search(value)) is not None:
        raise FormatError(what, "no escape of an escape", repr(again[0])[:40])
    found = _URI.match(value)
    if found is None:
        raise FormatError(what, "a URI: a scheme in small letters, no user, fragment, space or * in it", repr(value)[:80])
    try:
        _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), value).encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(what, "UTF-8 in its escapes", repr(value)[:80]) from None
    authority, path, query = found[1], found[2], found[3] or ""
    if authority is not None and authority != authority.lower():
        raise FormatError(what, "a host in small letters", repr(authority)[:80])
    rooted = path.removeprefix("/") if authority is not None else path
    if "//" in path or "//" in query or any(_PARAMETERS.split(part)[0] in (".", "..") for part in f"{rooted}/{query}".split("/")):
        raise FormatError(what, "no empty and no dot segment", repr(value)[:80])
    if (authority is None and path.startswith("/")) or not (authority or path):
        raise FormatError(what, "scheme:path or scheme://host/path", repr(value)[:80])
    return value


def template(value: object, what: str) -> str:
    """What stands for all URIs of a template when it is decided: itself with `-` for each expression. Raises FormatError."""
    if not isinstance(value, str) or len(value) > 440:
        raise FormatError(what, "a URI template of at most 440 characters", repr(value)[:80])
    return uri(_EXPRESSION.sub("-", value), what)

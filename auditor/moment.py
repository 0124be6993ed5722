"""Times as an auditor types them."""

from __future__ import annotations

from datetime import UTC, datetime

from writ.formats.errors import FormatError


def seconds(text: str) -> int:
    """Seconds since the epoch of an RFC 3339 time; without a zone it is UTC. None before 1970. Raises FormatError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise FormatError("time", "RFC 3339, such as 2026-11-25T10:00:00Z", repr(text)[:40]) from None
    found = int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    if found < 0:
        raise FormatError("time", "1970 or later", repr(text)[:40])
    return found

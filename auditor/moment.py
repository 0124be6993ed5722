"""Times as an auditor types them."""

from __future__ import annotations

from datetime import UTC, datetime

from writ.formats.errors import FormatError


def seconds(text: str) -> int:
    """Seconds since the epoch of an RFC 3339 time; without a zone it is UTC. Raises FormatError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise FormatError("time", "RFC 3339, such as 2026-11-25T10:00:00Z", repr(text)[:40]) from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())

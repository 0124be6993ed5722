"""What schemathesis cannot know: how a CBOR body is sent. Loaded by name through SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import schemathesis


@schemathesis.serializer("application/cbor")
def cbor(_: object, value: object) -> bytes:
    """Whatever was made, as bytes: these routes read bytes strictly."""
    data = getattr(value, "data", value)
    return data if isinstance(data, bytes) else str(data).encode("utf-8", "replace")

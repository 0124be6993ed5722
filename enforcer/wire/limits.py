"""What bounds the connections of one instance, and how one says that it ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one instance: connections at once.

    Of a connection: streams of HTTP/2 at once, bytes each way, and seconds for a head, to dial, without a byte, and in all.
    """

    connections: int = 64
    streams: int = 100
    sent: int = 1 << 30
    received: int = 1 << 30
    head_within: float = 10.0
    dial_within: float = 10.0
    idle: float = 300.0
    life: float = 86_400.0


class Ended(Exception):
    """Why a connection does not go on, in one word that its outcome keeps."""

"""Names of agents: SPIFFE ids of the one shape `spiffe://<domain>/<namespace>/agent/<name>`.

>>> AgentId.parse("spiffe://example.org/billing/agent/reporter")
AgentId(domain='example.org', namespace='billing', name='reporter')
>>> str(AgentId("example.org", "billing", "reporter"))
'spiffe://example.org/billing/agent/reporter'

Source: SPIFFE-ID section 2 (trust domain, path); the path's shape is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.strict import name

MAX_LENGTH: Final = 2048
"""Bytes of a SPIFFE id (SPIFFE-ID section 2.3)."""

_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?\Z", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class AgentId:
    """An agent's name within a trust domain and a namespace. Says nothing about who speaks under it."""

    domain: str
    namespace: str
    name: str

    def __post_init__(self) -> None:
        if not _DOMAIN.match(self.domain):
            raise FormatError("agent id.domain", "1 to 255 of a-z 0-9 . _ -, letter or digit first and last", repr(self.domain[:80]))
        name(self.namespace, "agent id.namespace")
        name(self.name, "agent id.name")

    @classmethod
    def parse(cls, text: str) -> AgentId:
        """Read the one spelling. Raises FormatError."""
        parts = text.split("/") if len(text) <= MAX_LENGTH else []
        if len(parts) != 6 or parts[:2] != ["spiffe:", ""] or parts[4] != "agent":
            raise FormatError("agent id", "spiffe://<domain>/<namespace>/agent/<name>", repr(text[:120]))
        return cls(parts[2], parts[3], parts[5])

    def __str__(self) -> str:
        return f"spiffe://{self.domain}/{self.namespace}/agent/{self.name}"

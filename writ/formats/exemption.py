"""An exemption: for a while, on named hosts, one difference from the reference values is let pass.

It names a refusal exactly: the reason's code, what it was about and what was
found there. Another value in the same place is refused as before. It belongs to
the reference values that a decision names, and each token given under it says so.

    {"v": 1, "namespace": "billing", "code": "component-mismatch", "claim": "agent/reporter:prompts", "got": "sha256:…",
     "hosts": ["host-1"], "not_before": 1790000000, "not_after": 1790014400, "why": "hotfix 7", "approved_by": ["alice", "bob"]}

Parsed is not yet approved: that two people did is the verifier's log to show.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.strict import Fields, decode_cbor, encode_cbor, name

EXEMPTIBLE: Final = (
    "boot-mismatch", "component-mismatch", "component-missing", "component-unexpected", "file-mismatch", "file-unknown",
    "governance-mismatch",
)  # fmt: skip
"""Reasons that say "not what was approved". No exemption lets pass what says "not what happened": logs, counters, keys, signatures."""
MOST: Final = 64
"""Exemptions in force for one namespace."""
LONGEST: Final = 7 * 86_400
"""Seconds."""
MOST_HOSTS: Final = 256
_INSTANCE: Final = re.compile(r"\Ainstance\.[0-9a-f]{32}\.")
"""How the claim of one launch begins."""


@dataclass(frozen=True, slots=True, order=True)
class Exemption:
    """One difference, on these hosts (sorted), between two times in seconds, both inclusive.

    `claim` is spelt as `claim_of` does: of an agent it names the agent, so that it is of no use for another.
    `approved_by` are two people, sorted. Constructing one that breaks this raises FormatError.
    """

    namespace: str
    code: str
    claim: str
    got: str
    hosts: tuple[str, ...]
    not_before: int
    not_after: int
    why: str
    approved_by: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.code not in EXEMPTIBLE:
            raise FormatError("exemption.code", f"one of {', '.join(EXEMPTIBLE)}", repr(self.code)[:60])
        if self.claim.endswith(":measurement") or (self.got == "none" and self.code != "component-missing"):
            raise FormatError("exemption.claim", "one component, and what was found there", self.claim[:100])
        if list(self.hosts) != sorted(set(self.hosts)) or not 1 <= len(self.hosts) <= MOST_HOSTS:
            raise FormatError("exemption.hosts", f"1 to {MOST_HOSTS}, sorted, each once", f"{len(self.hosts)}")
        for host in self.hosts:
            name(host, "exemption.hosts")
        if not 0 <= self.not_before < self.not_after <= self.not_before + LONGEST:
            raise FormatError("exemption.not_after", f"at most {LONGEST} seconds after not_before", str(self.not_after - self.not_before))
        if len(set(self.approved_by)) != 2 or list(self.approved_by) != sorted(self.approved_by):
            raise FormatError("exemption.approved_by", "two people, sorted", f"{len(set(self.approved_by))}")

    @property
    def digest(self) -> Digest:
        """The name of the exemption."""
        return Digest.of(encode_exemption(self))

    @property
    def label(self) -> str:
        """How a token names it: the code and the beginning of the digest."""
        return f"{self.code}/{self.digest.hex()[:16]}"

    def lets_pass(self, reason: Reason, agent: AgentId | None, host: str, now: int) -> bool:
        """Whether this very difference, of `agent` where it is of one, is let pass on `host` at `now`."""
        same = (self.code, self.claim, self.got) == (reason.code, claim_of(reason, agent), reason.got)
        return same and host in self.hosts and self.not_before <= now <= self.not_after


def claim_of(reason: Reason, agent: AgentId | None) -> str:
    """What a reason is about, whichever launch of the agent it was; one of a launch whose agent is not known is spelt as it is."""
    return reason.claim if agent is None else _INSTANCE.sub(f"agent/{agent.name}:", reason.claim)


def encode_exemption(exemption: Exemption) -> bytes:
    """The one spelling of an exemption."""
    e = exemption
    return encode_cbor(
        {
            "v": 1,
            "namespace": e.namespace,
            "code": e.code,
            "claim": e.claim,
            "got": e.got,
            "hosts": list(e.hosts),
            "not_before": e.not_before,
            "not_after": e.not_after,
            "why": e.why,
            "approved_by": list(e.approved_by),
        }
    )


def parse_exemption(data: bytes) -> Exemption:
    """Read an exemption. Raises FormatError."""
    f = Fields(decode_cbor(data, "exemption"), "exemption")
    f.version(1)
    exemption = Exemption(
        namespace=f.name("namespace"),
        code=f.text("code", most=64),
        claim=f.text("claim", least=1),
        got=f.text("got"),
        hosts=tuple(_text(item) for item in f.items("hosts", most=MOST_HOSTS)),
        not_before=f.uint("not_before"),
        not_after=f.uint("not_after"),
        why=f.text("why", least=1, most=500),
        approved_by=tuple(_text(item) for item in f.items("approved_by", most=2)),
    )
    f.done()
    return exemption


def _text(value: object) -> str:
    return Fields({"text": value}, "exemption").text("text", least=1, most=128)

"""What a verifier remembers of a host's IMA list: how far it was read, and the verdict on all that was measured in this boot.

Small, and moved by every attestation; the entries themselves are not kept: other
reference values or rules need the list anew. Plain data: nothing here says that
it is true. A reboot begins without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog.ima import MAX_ENTRIES
from writ.formats.reason import Reason
from writ.formats.strict import Fields
from writ.formats.x509 import MAX_CERTIFICATE

MAX_REASONS: Final = 64
MAX_KEYS: Final = 64
MAX_SEEN: Final = 16_384
"""Required files of all versions in force."""


@dataclass(frozen=True, slots=True)
class ImaVerdict:
    """The verdict last reached over everything measured in this boot, and under which references and rules.

    `reasons` is sorted and holds the first 64; `count` is how many entries of the list did not pass.
    """

    references: Digest
    rules: Digest
    reasons: tuple[Reason, ...]
    count: int

    def __post_init__(self) -> None:
        if list(self.reasons) != sorted(set(self.reasons)) or not bool(self.count) <= len(self.reasons) <= min(self.count, MAX_REASONS):
            raise FormatError("IMA verdict", f"the first {MAX_REASONS} reasons, sorted, each once", f"{len(self.reasons)} of {self.count}")


@dataclass(frozen=True, slots=True)
class ImaState:
    """The IMA list up to the last quote: `entries` read, and the register of `bank` after them (extended in the bank's own hash).

    `aggregate` is the digest of the list's first entry as `algorithm:hex`.
    `keys` are the certificates learnt from the kernel's `.ima` keyring, sorted,
    at most 64. `seen` are the required files among the entries, as (component,
    digest), sorted.
    """

    bank: str
    entries: int
    register: bytes
    violations: int
    aggregate: str
    keys: tuple[bytes, ...]
    seen: tuple[tuple[str, str], ...]
    verdict: ImaVerdict

    def __post_init__(self) -> None:
        if self.bank not in SIZES or len(self.register) != SIZES[self.bank]:
            raise FormatError("IMA state.register", "a value of its bank", f"{len(self.register)} bytes of {self.bank[:20]}")
        if not 1 <= self.entries <= MAX_ENTRIES or not 0 <= self.violations <= self.entries:
            raise FormatError("IMA state.entries", f"1 to {MAX_ENTRIES}, no fewer than violations", f"{self.entries}, {self.violations}")
        if list(self.keys) != sorted(set(self.keys)) or len(self.keys) > MAX_KEYS:
            raise FormatError("IMA state.keys", f"at most {MAX_KEYS}, sorted, each once", f"{len(self.keys)}")
        if list(self.seen) != sorted(set(self.seen)):
            raise FormatError("IMA state.seen", "sorted, each once", "another order")

    def to_cbor(self) -> dict[str, object]:
        """The form inside a host state."""
        verdict = self.verdict
        return {
            "bank": self.bank, "entries": self.entries, "register": self.register, "violations": self.violations,
            "aggregate": self.aggregate, "keys": list(self.keys), "seen": [list(pair) for pair in self.seen],
            "references": verdict.references.value, "rules": verdict.rules.value,
            "reasons": [reason.to_cbor() for reason in verdict.reasons], "count": verdict.count,
        }  # fmt: skip

    @classmethod
    def from_cbor(cls, value: object) -> ImaState:
        """Read that form. Raises FormatError."""
        f = Fields(value, "IMA state")
        verdict = ImaVerdict(
            f.digest("references"), f.digest("rules"),
            tuple(Reason.from_cbor(item) for item in f.items("reasons", most=MAX_REASONS)), f.uint("count"),
        )  # fmt: skip
        keys = f.items("keys", most=MAX_KEYS)
        if not all(isinstance(key, bytes) and len(key) <= MAX_CERTIFICATE for key in keys):
            raise FormatError("IMA state.keys", f"bytes, at most {MAX_CERTIFICATE}", "something else")
        state = cls(
            f.text("bank", most=8), f.uint("entries"), f.raw("register", most=64), f.uint("violations"),
            f.text("aggregate", most=200), tuple(keys), tuple(_pair(item) for item in f.items("seen", most=MAX_SEEN)), verdict,
        )  # fmt: skip
        f.done()
        return state


def _pair(value: object) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError("IMA state.seen", "[component, digest]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "IMA state.seen")
    return f.text(0, least=1), f.text(1, least=1, most=160)

"""What a verifier remembers of a host's IMA list: how far it was read, and what was measured in this boot.

`ImaState` is small and moves with every attestation; `MeasuredFiles` is the
history it names by digest, kept beside it and needed only where entries are new
or the reference values changed. Both are plain data: nothing here says that
they are true. A reboot begins without either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog.ima import MAX_ENTRIES, MAX_LOG_SIZE, row_end
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.x509 import MAX_CERTIFICATE

MAX_REASONS: Final = 64
MAX_KEYS: Final = 64
_WHAT: Final = "IMA history"


@dataclass(frozen=True, slots=True)
class MeasuredFiles:
    """What a boot measured so far: rows of the list (`writ/formats/eventlog/ima.py`) in the order of first measurement, each once.

    `rows` are measurements with their signatures and buffers as the kernel
    hashed them, so that any reference values and rules can be held against
    them later; `violated` are the entries whose measurement is void.
    """

    rows: tuple[bytes, ...] = ()
    violated: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The one spelling of a history."""
        return encode_cbor({"v": 1, "rows": b"".join(self.rows), "violated": b"".join(self.violated)})

    @classmethod
    def parse(cls, data: bytes) -> MeasuredFiles:
        """Read a history. Raises FormatError."""
        f = Fields(decode_cbor(data, _WHAT, max_size=MAX_LOG_SIZE + 64), _WHAT)
        f.version(1)
        rows, violated = _rows(f.raw("rows", most=MAX_LOG_SIZE)), _rows(f.raw("violated", most=MAX_LOG_SIZE))
        f.done()
        return cls(rows, violated)

    def digest(self) -> Digest:
        """The name of the history: SHA-256 of its one spelling."""
        return Digest.of(self.encode())

    def followed_by(self, rows: tuple[bytes, ...], violated: tuple[bytes, ...]) -> MeasuredFiles:
        """With what was measured since, each row once."""
        return MeasuredFiles(
            tuple(dict.fromkeys(self.rows + rows)) if self.rows else rows,
            tuple(dict.fromkeys(self.violated + violated)) if self.violated else violated,
        )


def _rows(data: bytes) -> tuple[bytes, ...]:
    rows: list[bytes] = []
    at, size = 0, len(data)
    while at < size:
        end = row_end(data, at)
        rows.append(data[at:end])
        at = end
    if len(rows) > MAX_ENTRIES or len(set(rows)) != len(rows):
        raise FormatError(_WHAT, f"at most {MAX_ENTRIES} rows, each once", f"{len(rows)}, or one twice")
    return tuple(rows)


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

    `aggregate` is the first entry's digest as `algorithm:hex`. `keys` are the
    certificates learnt from the kernel's `.ima` keyring, sorted, at most 64.
    `history` names the `MeasuredFiles`.
    """

    bank: str
    entries: int
    register: bytes
    violations: int
    aggregate: str
    keys: tuple[bytes, ...]
    history: Digest
    verdict: ImaVerdict

    def __post_init__(self) -> None:
        if self.bank not in SIZES or len(self.register) != SIZES[self.bank]:
            raise FormatError("IMA state.register", "a value of its bank", f"{len(self.register)} bytes of {self.bank[:20]}")
        if not 1 <= self.entries <= MAX_ENTRIES or not 0 <= self.violations <= self.entries:
            raise FormatError("IMA state.entries", f"1 to {MAX_ENTRIES}, no fewer than violations", f"{self.entries}, {self.violations}")
        if list(self.keys) != sorted(set(self.keys)) or len(self.keys) > MAX_KEYS:
            raise FormatError("IMA state.keys", f"at most {MAX_KEYS}, sorted, each once", f"{len(self.keys)}")

    def encode(self) -> bytes:
        """The one spelling of a state."""
        verdict = self.verdict
        return encode_cbor(
            {
                "v": 1, "bank": self.bank, "entries": self.entries, "register": self.register, "violations": self.violations,
                "aggregate": self.aggregate, "keys": list(self.keys), "history": self.history.value,
                "references": verdict.references.value, "rules": verdict.rules.value,
                "reasons": [reason.to_cbor() for reason in verdict.reasons], "count": verdict.count,
            }
        )  # fmt: skip

    @classmethod
    def parse(cls, data: bytes) -> ImaState:
        """Read a state. Raises FormatError."""
        f = Fields(decode_cbor(data, "IMA state"), "IMA state")
        f.version(1)
        verdict = ImaVerdict(
            f.digest("references"), f.digest("rules"),
            tuple(Reason.from_cbor(item) for item in f.items("reasons", most=MAX_REASONS)), f.uint("count"),
        )  # fmt: skip
        keys = f.items("keys", most=MAX_KEYS)
        if not all(isinstance(key, bytes) and len(key) <= MAX_CERTIFICATE for key in keys):
            raise FormatError("IMA state.keys", f"bytes, at most {MAX_CERTIFICATE}", "something else")
        state = cls(
            f.text("bank", most=8), f.uint("entries"), f.raw("register", most=64), f.uint("violations"), f.text("aggregate", most=200),
            tuple(keys), f.digest("history"), verdict,
        )  # fmt: skip
        f.done()
        return state

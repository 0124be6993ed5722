"""The errors of Writ.

    WritError
    ├── FormatError   they sent rubbish: bytes that are not what they should be
    ├── Refused       the answer is no, and here is why (one or more `Reason`)
    ├── Unavailable   we could not: a peer, a disk or a TPM did not answer
    └── Misuse        we misused our own API: a bug

No message carries a secret, and no message of a library is passed on: what is
shown to a caller is written here or in `reason.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from writ.formats.reason import Reason

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""As `writ.formats.strict` refuses them in text."""


class WritError(Exception):
    """Root of every error that Writ raises on purpose."""


class FormatError(WritError):
    """Bytes are not a well-formed `what`.

    `offset` is in bytes from the start of the input, or None where the fault
    has no single place. `expected` and `got` are at most 200 characters. Where
    the bytes are quoted, control characters are escaped: a reason made of this
    error is stored with the host, and no text with one is ever read back.
    """

    def __init__(self, what: str, expected: str, got: str, offset: int | None = None) -> None:
        self.what = _printable(what)
        self.expected = _printable(expected[:200])[:200]
        self.got = _printable(got[:200])[:200]
        self.offset = offset
        where = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{self.what}{where}: expected {self.expected}, got {self.got}")


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


class Refused(WritError):
    """A verdict is no. `reasons` is never empty and is sorted."""

    def __init__(self, *reasons: Reason) -> None:
        if not reasons:
            raise Misuse("Refused needs at least one Reason")
        self.reasons: tuple[Reason, ...] = tuple(sorted(set(reasons)))
        super().__init__("; ".join(str(r) for r in self.reasons))


class Unavailable(WritError):
    """Something that is needed did not answer, in time or at all. Never a permission."""

    def __init__(self, what: str, detail: str) -> None:
        self.what = what
        self.detail = detail
        super().__init__(f"{what}: {detail}")


class Misuse(WritError):
    """Our own code called our own code wrongly."""

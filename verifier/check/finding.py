"""What a check finds, what it is given, and how it reads files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from writ.formats.byte_text import bytes_of_text
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason

if TYPE_CHECKING:  # every command of `verifier` loads this module, and few read a certificate
    from writ.formats.x509 import Certificate

MAX_FILE: Final = 16 << 20
_TEXT: Final = re.compile(rb"(?:0x)?[A-Za-z0-9+/_\s-]{16,}={0,2}\s*\Z", re.ASCII)


@dataclass(slots=True)
class Finding:
    """What one check found so far. `claims` fill up while the file is read, so that a refusal shows them too."""

    claims: dict[str, object] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    notes: list[Reason] = field(default_factory=list)

    def refuse(self, code: str, claim: str, expected: str, got: str) -> None:
        """One more reason why not."""
        self.reasons.append(Reason(code, claim, expected[:200], got[:200]))

    def note(self, code: str, claim: str, expected: str, got: str) -> None:
        """Something that was not judged, for want of an input; no refusal."""
        self.notes.append(Reason(code, claim, expected[:200], got[:200]))


@dataclass(frozen=True, slots=True)
class Options:
    """Inputs that several kinds share. `at` is in seconds since the epoch."""

    at: int
    nonce: bytes | None
    trust: Path | None


def tops_of(certificates: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """The CAs at the top, which `--trust` makes roots: whose issuer is itself, or not there."""
    subjects = {one.subject for one in certificates}
    return tuple(one for one in certificates if one.is_ca and (one.is_self_issued or one.issuer not in subjects))


def read_evidence(path: Path, most: int = MAX_FILE) -> bytes:
    """The bytes of a file, or what its text spells in hexadecimal or base64, as some tools write. Raises as `read_file`."""
    data = read_file(path, most)
    if b"-----BEGIN" in data or not _TEXT.match(data):
        return data
    try:
        return bytes_of_text(data.decode("ascii").strip().removeprefix("0x"), path.name)
    except FormatError:
        return data


def read_file(path: Path, most: int = MAX_FILE) -> bytes:
    """The bytes of a file of at most `most`. Raises Unavailable or FormatError."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be read") from None
    if len(data) > most:
        raise FormatError(path.name, f"at most {most} bytes", "more")
    return data

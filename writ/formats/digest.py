"""Digests, nonces and PCR coordinates: sized, so that one cannot be taken for another.

A digest is written `sha256:<64 hex digits>` wherever text is wanted:

>>> str(Digest.of(b"abc"))[:20]
'sha256:ba7816bf8f01c'
>>> Digest.parse("sha256:" + "00" * 32).value == bytes(32)
True
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError, Misuse

SIZES: Final[dict[str, int]] = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
"""Digest size in bytes by algorithm name. SHA-1 is read from foreign logs and never accepted as proof."""

_TEXT = re.compile(r"(sha1|sha256|sha384|sha512):([0-9a-f]+)\Z", re.ASCII)

PCR_COUNT: Final = 24
"""PCRs of a PC Client TPM: 0 to 23 (TCG PC Client Platform TPM Profile 1.05, section 4.6)."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The value of a hash function, with its name. Says nothing about what was hashed."""

    algorithm: str
    value: bytes

    def __post_init__(self) -> None:
        size = SIZES.get(self.algorithm)
        if size is None:
            raise FormatError("digest", f"one of {', '.join(SIZES)}", repr(self.algorithm))
        if len(self.value) != size:
            raise FormatError("digest", f"{size} bytes for {self.algorithm}", f"{len(self.value)} bytes")

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        return cls(algorithm, hash_bytes(algorithm, data))

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read `sha256:<hex>`; lower-case hex only. Raises FormatError."""
        match = _TEXT.match(text)
        if match is None or len(match[2]) != 2 * SIZES[match[1]]:
            raise FormatError("digest", "algorithm:lower-case hex", repr(text[:80]))
        return cls(match[1], bytes.fromhex(match[2]))

    def hex(self) -> str:
        """The value in lower-case hex, without the algorithm."""
        return self.value.hex()

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"


def hash_bytes(algorithm: str, *parts: bytes) -> bytes:
    """The raw hash of the concatenated `parts`."""
    hasher = _HASHERS.get(algorithm)
    if hasher is None:
        raise Misuse(f"unknown hash algorithm {algorithm!r}")
    return hasher(parts[0] if len(parts) == 1 else b"".join(parts)).digest()


_HASHERS: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class Nonce:
    """A verifier's challenge, 32 bytes. Being a Nonce does not make it fresh."""

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != 32:
            raise FormatError("nonce", "32 bytes", f"{len(self.value)} bytes")

    def hex(self) -> str:
        """The value in lower-case hex."""
        return self.value.hex()


def extend(algorithm: str, register: bytes, digest: bytes) -> bytes:
    """The value of a PCR after TPM2_PCR_Extend: H(old || digest).

    Source: TPM 2.0 Library Part 1, section 17.2 (PCR operations).
    """
    return hash_bytes(algorithm, register, digest)

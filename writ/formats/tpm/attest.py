"""TPMS_ATTEST: what a TPM says of itself under the signature of an AK.

The first four bytes of what a TPM made itself are TPM_GENERATED, and a
restricted key signs no outside bytes that begin so. The parser keeps what it
finds in `magic` and `type_tag`, and the judge refuses: so a forged magic is
told from rubbish.

>>> attest = parse_attest(bytes.fromhex("ff54434780190000000361626300000000000003e8000000020000000101000000000000000700"))
>>> attest.type, attest.extra_data, attest.clock, attest.reset_count, attest.safe, attest.quote
('unknown', b'abc', 1000, 2, True, None)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.errors import Misuse
from writ.formats.tpm.pcr import PcrSelection, encode_pcr_selection, parse_selection
from writ.formats.tpm.wire import Reader, sized, uint

TPM_GENERATED: Final = 0xFF544347
"""The magic of every structure that a TPM made: 0xff and "TCG"."""
ST_ATTEST_CERTIFY: Final = 0x8017
ST_ATTEST_QUOTE: Final = 0x8018
ST_ATTEST_CREATION: Final = 0x801A

_TYPES: Final = {ST_ATTEST_CERTIFY: "certify", ST_ATTEST_QUOTE: "quote", ST_ATTEST_CREATION: "creation"}

MAX_DIGEST: Final = 64
MAX_NAME: Final = 2 + MAX_DIGEST
"""A TPM2B_NAME is an algorithm and a digest, or a handle, or nothing."""
MAX_EXTRA_DATA: Final = 2 + MAX_DIGEST
"""TPM2B_DATA is bounded by sizeof(TPMT_HA)."""


@dataclass(frozen=True, slots=True)
class QuoteInfo:
    """TPMS_QUOTE_INFO: the PCRs selected and the digest over their values."""

    selection: PcrSelection
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class CertifyInfo:
    """TPMS_CERTIFY_INFO: name and qualified name of a key that is loaded in this TPM."""

    name: bytes
    qualified_name: bytes


@dataclass(frozen=True, slots=True)
class CreationInfo:
    """TPMS_CREATION_INFO: name of a key and the hash of its creation data."""

    name: bytes
    creation_hash: bytes


@dataclass(frozen=True, slots=True)
class Attest:
    """A TPMS_ATTEST as parsed. Says nothing about who signed it, nor whether a TPM made it.

    `clock` is in milliseconds; `body` is the attested part, raw bytes where
    the type is none of quote, certify and creation.
    """

    magic: int
    type_tag: int
    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    body: QuoteInfo | CertifyInfo | CreationInfo | bytes

    def __post_init__(self) -> None:
        kind = {QuoteInfo: "quote", CertifyInfo: "certify", CreationInfo: "creation", bytes: "unknown"}[type(self.body)]
        if kind != self.type:
            raise Misuse(f"attest type 0x{self.type_tag:04x} with a body of type {kind}")

    @property
    def type(self) -> str:
        """quote, certify, creation or unknown, by the type tag."""
        return _TYPES.get(self.type_tag, "unknown")

    @property
    def raw(self) -> bytes:
        """The TPMS_ATTEST itself: exactly the bytes that were parsed."""
        return encode_attest(self)

    @property
    def quote(self) -> QuoteInfo | None:
        """The attested part of a quote."""
        return self.body if isinstance(self.body, QuoteInfo) else None

    @property
    def certify(self) -> CertifyInfo | None:
        """The attested part of a certification."""
        return self.body if isinstance(self.body, CertifyInfo) else None

    @property
    def creation(self) -> CreationInfo | None:
        """The attested part of a creation certification."""
        return self.body if isinstance(self.body, CreationInfo) else None


def parse_attest(data: bytes) -> Attest:
    """Read exactly one TPMS_ATTEST. Raises FormatError.

    A wrong magic and an unknown type are not format errors: they are kept for
    the judge, who must refuse both.

    Source: TPM 2.0 Library Part 2, TPMS_ATTEST, TPMS_CLOCK_INFO, TPMU_ATTEST.
    """
    reader = Reader(data, "TPMS_ATTEST")
    magic = reader.uint(4, "magic")
    type_tag = reader.uint(2, "type")
    attest = Attest(
        magic=magic,
        type_tag=type_tag,
        qualified_signer=reader.sized("qualifiedSigner", most=MAX_NAME),
        extra_data=reader.sized("extraData", most=MAX_EXTRA_DATA),
        clock=reader.uint(8, "clock"),
        reset_count=reader.uint(4, "resetCount"),
        restart_count=reader.uint(4, "restartCount"),
        safe=reader.flag("safe"),
        firmware_version=reader.uint(8, "firmwareVersion"),
        body=_parse_body(reader, type_tag),
    )
    reader.done()
    return attest


def _parse_body(reader: Reader, type_tag: int) -> QuoteInfo | CertifyInfo | CreationInfo | bytes:
    if type_tag == ST_ATTEST_QUOTE:
        return QuoteInfo(parse_selection(reader), reader.sized("pcrDigest", most=MAX_DIGEST))
    if type_tag == ST_ATTEST_CERTIFY:
        return CertifyInfo(reader.sized("name", most=MAX_NAME), reader.sized("qualifiedName", most=MAX_NAME))
    if type_tag == ST_ATTEST_CREATION:
        return CreationInfo(reader.sized("objectName", most=MAX_NAME), reader.sized("creationHash", most=MAX_DIGEST))
    return reader.rest()


def encode_attest(attest: Attest) -> bytes:
    """The TPMS_ATTEST of `attest`. Raises FormatError where a field does not fit."""
    return b"".join(
        (
            uint(attest.magic, 4, "magic"),
            uint(attest.type_tag, 2, "type"),
            sized(attest.qualified_signer, "qualifiedSigner", most=MAX_NAME),
            sized(attest.extra_data, "extraData", most=MAX_EXTRA_DATA),
            uint(attest.clock, 8, "clock"),
            uint(attest.reset_count, 4, "resetCount"),
            uint(attest.restart_count, 4, "restartCount"),
            uint(attest.safe, 1, "safe"),
            uint(attest.firmware_version, 8, "firmwareVersion"),
            _encode_body(attest.body),
        )
    )


def _encode_body(body: QuoteInfo | CertifyInfo | CreationInfo | bytes) -> bytes:
    if isinstance(body, QuoteInfo):
        return encode_pcr_selection(body.selection) + sized(body.pcr_digest, "pcrDigest", most=MAX_DIGEST)
    if isinstance(body, CertifyInfo):
        return sized(body.name, "name", most=MAX_NAME) + sized(body.qualified_name, "qualifiedName", most=MAX_NAME)
    if isinstance(body, CreationInfo):
        return sized(body.name, "objectName", most=MAX_NAME) + sized(body.creation_hash, "creationHash", most=MAX_DIGEST)
    return body

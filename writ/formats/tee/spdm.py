"""SPDM 1.1 measurements: one GET_MEASUREMENTS request, and the signed MEASUREMENTS response to it.

    request    11 e0 01 ff nonce[32] slot                                                        37 bytes
    response   11 60 p1 p2 blocks length[3] record nonce[32] length[2] opaque signature
    block      index 01 size[2] type size[2] value                                               in the record
    signed     request || response up to the signature

Numbers are little-endian. What is opaque is the vendor's; here it is bytes. Parsed, not verified: who signed it is another question.

>>> parse_measurements(b"", signature_size=96)
Traceback (most recent call last):
...
writ.formats.errors.FormatError: SPDM request at byte 0: expected 37 bytes, got 0

Source: DMTF DSP0274 1.1.1, "GET_MEASUREMENTS request and MEASUREMENTS response messages", "Measurement block", "DMTF specification for the
Measurement field of a measurement block", "MEASUREMENTS signature generation".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError

REQUEST_SIZE: Final = 37
NONCE_SIZE: Final = 32
MAX_MESSAGE: Final = 1 << 17
"""Bytes of request and response; 254 blocks of SHA-512 and 64 KiB of opaque data stay below."""

_VERSION: Final = 0x11
_GET_MEASUREMENTS: Final = 0xE0
_MEASUREMENTS: Final = 0x60
_SIGNED: Final = 0x01
_ALL_BLOCKS: Final = 0xFF
_DMTF: Final = 0x01
_RAW: Final = 0x80
_RESERVED: Final = (0x00, 0xFF)
"""Indices that no block has."""


@dataclass(frozen=True, slots=True)
class MeasurementBlock:
    """One block in the DMTF layout.

    `kind` is the DMTFSpecMeasurementValueType: 0 immutable ROM, 1 mutable firmware, 2 hardware configuration, 3 firmware configuration, 4
    manifest. `value` is a digest, or where `is_raw` what was measured itself.
    """

    index: int
    kind: int
    is_raw: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Measurements:
    """A request for all blocks with a signature, and the response. `blocks` are in the order of the record, each index once.

    `nonce` is the requester's, `responder_nonce` the device's own. `signed` is what `signature` is over.
    """

    nonce: bytes
    slot: int
    blocks: tuple[MeasurementBlock, ...]
    responder_nonce: bytes
    opaque: bytes
    signed: bytes
    signature: bytes

    def value(self, index: int) -> bytes | None:
        """The value of the block `index`, None where there is none."""
        return next((block.value for block in self.blocks if block.index == index), None)


class LittleEndianReader:
    """Fields of fixed sizes and little-endian numbers, one after the other. Every method raises FormatError, and nothing else."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def error(self, expected: str, got: str) -> FormatError:
        """The error to raise about what was read last."""
        return FormatError(self._what, expected, got, self._at)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if len(self._data) - self._at < size:
            raise self.error(f"{size} bytes", str(len(self._data) - self._at))
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        """An unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def constant(self, value: int, field: str) -> None:
        """The next byte, which must be `value`."""
        if (got := self.number(1)) != value:
            raise self.error(f"{field} {value:02x}", f"{got:02x}")

    def done(self) -> None:
        """Refuse bytes that nothing asked for."""
        if self.more:
            raise self.error("nothing more", f"{len(self._data) - self._at} bytes")


def parse_measurements(data: bytes, *, signature_size: int) -> Measurements:
    """Read exactly one request and its response, which ends with a signature of `signature_size` bytes. Raises FormatError.

    A request for a single block, or without a signature, is none: what it would prove is too little.
    """
    if len(data) > MAX_MESSAGE:
        raise FormatError("SPDM measurements", f"at most {MAX_MESSAGE} bytes", f"{len(data)} bytes")
    request = LittleEndianReader(data[:REQUEST_SIZE], "SPDM request")
    if len(data) < REQUEST_SIZE:
        raise request.error(f"{REQUEST_SIZE} bytes", str(len(data)))
    request.constant(_VERSION, "SPDMVersion")
    request.constant(_GET_MEASUREMENTS, "RequestResponseCode")
    request.constant(_SIGNED, "Param1, which asks for a signature,")
    request.constant(_ALL_BLOCKS, "Param2, which asks for all blocks,")
    nonce, slot = request.take(NONCE_SIZE), request.number(1)
    response = LittleEndianReader(data[REQUEST_SIZE:], "SPDM response")
    response.constant(_VERSION, "SPDMVersion")
    response.constant(_MEASUREMENTS, "RequestResponseCode")
    response.take(2)
    count = response.number(1)
    blocks = _blocks(response.take(response.number(3)), count)
    responder_nonce = response.take(NONCE_SIZE)
    opaque = response.take(response.number(2))
    signature = response.take(signature_size)
    response.done()
    return Measurements(nonce, slot, blocks, responder_nonce, opaque, data[: len(data) - signature_size], signature)


def _blocks(record: bytes, count: int) -> tuple[MeasurementBlock, ...]:
    """The measurement record: `count` blocks and nothing else, each index once."""
    if count == 0:
        raise FormatError("SPDM response.NumberOfBlocks", "at least one block", "none")
    reader, found = LittleEndianReader(record, "SPDM measurement record"), {}
    for _ in range(count):
        index = reader.number(1)
        if index in _RESERVED or index in found:
            raise reader.error("an index of 1 to 254, each once", str(index))
        reader.constant(_DMTF, "MeasurementSpecification")
        block = LittleEndianReader(reader.take(reader.number(2)), f"SPDM measurement {index}")
        kind = block.number(1)
        found[index] = MeasurementBlock(index, kind & ~_RAW, bool(kind & _RAW), block.take(block.number(2)))
        block.done()
    reader.done()
    return tuple(found.values())

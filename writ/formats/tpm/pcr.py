"""PCR selections and PCR values: which registers, and what is in them.

A selection is what a quote signs; the order of its banks is part of what is
signed and is kept. PCRs 0, 1 and 10 of the SHA-256 bank:

>>> selection = parse_pcr_selection(bytes.fromhex("00000001000b03030400"))
>>> selection.banks
(('sha256', (0, 1, 10)),)
>>> encode_pcr_selection(selection).hex()
'00000001000b03030400'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.digest import PCR_COUNT, SIZES, hash_bytes
from writ.formats.errors import FormatError
from writ.formats.tpm.wire import HASHES, Reader, hash_id

BANKS: Final = ("sha256", "sha384")
"""Banks that a host may be quoted in."""
RUNTIME_PCRS: Final = (8, 9, 11, 12, 13, 14, 15)
"""PCRs that no one can reset without a reboot and that IMA does not use (PC Client Profile 1.05, 4.6)."""
SIZE_OF_SELECT: Final = 3
"""Bytes of a PCR bitmap on a PC Client TPM (24 PCRs); other sizes are refused, so that a selection has one spelling."""


def _check_indices(indices: tuple[int, ...], what: str) -> None:
    if indices != tuple(sorted(set(indices))):
        raise FormatError(what, "PCR indices in rising order, each once", str(indices)[:80])
    if indices and not 0 <= indices[0] <= indices[-1] < PCR_COUNT:
        raise FormatError(what, f"PCR indices 0 to {PCR_COUNT - 1}", str(indices)[:80])


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """A TPML_PCR_SELECTION: (bank, PCR indices) in the order of the signed bytes. A bank may be there with no index.

    Each bank occurs once; indices are sorted and unique. Raises FormatError otherwise.
    """

    banks: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = [bank for bank, _ in self.banks]
        if len(set(names)) != len(names):
            raise FormatError("PCR selection", "each bank once", ", ".join(names))
        for bank, indices in self.banks:
            if bank not in SIZES:
                raise FormatError("PCR selection", f"one of {', '.join(SIZES)}", repr(bank)[:40])
            _check_indices(indices, f"PCR selection {bank}")

    def indices(self, bank: str) -> tuple[int, ...]:
        """The PCRs selected in `bank`; none if the bank is not there."""
        return dict(self.banks).get(bank, ())


def parse_selection(reader: Reader) -> PcrSelection:
    """Read a TPML_PCR_SELECTION where it lies within another structure. Raises FormatError.

    Source: TPM 2.0 Library Part 2, TPML_PCR_SELECTION, TPMS_PCR_SELECTION.
    """
    count = reader.uint(4, "count")
    if count > len(HASHES):  # each bank occurs once, so more are refused in any case: here before they are read
        raise reader.error("count", f"at most {len(HASHES)} banks", str(count))
    banks = []
    for _ in range(count):
        bank = reader.hash_algorithm("bank")
        size = reader.uint(1, "sizeofSelect")
        if size != SIZE_OF_SELECT:
            raise reader.error("sizeofSelect", str(SIZE_OF_SELECT), str(size))
        bits = int.from_bytes(reader.take(size, "pcrSelect"), "little")
        banks.append((bank, tuple(index for index in range(PCR_COUNT) if bits >> index & 1)))
    return PcrSelection(tuple(banks))


def parse_pcr_selection(data: bytes) -> PcrSelection:
    """Read exactly one TPML_PCR_SELECTION. Raises FormatError."""
    reader = Reader(data, "TPML_PCR_SELECTION")
    selection = parse_selection(reader)
    reader.done()
    return selection


def encode_pcr_selection(selection: PcrSelection) -> bytes:
    """The TPML_PCR_SELECTION of `selection`, banks in its order."""
    out = len(selection.banks).to_bytes(4, "big")
    for bank, indices in selection.banks:
        bits = sum(1 << index for index in indices)
        out += hash_id(bank, "PCR selection") + bytes([SIZE_OF_SELECT]) + bits.to_bytes(SIZE_OF_SELECT, "little")
    return out


@dataclass(frozen=True, slots=True)
class PcrValues:
    """Values of PCRs of one bank, by index, sorted and unique. Claimed, not proven: a quote's digest decides.

    Raises FormatError for an unknown bank, a wrong size, an index out of range or out of order.
    """

    bank: str
    values: tuple[tuple[int, bytes], ...]

    def __post_init__(self) -> None:
        size = SIZES.get(self.bank)
        if size is None:
            raise FormatError("PCR values", f"a bank of {', '.join(SIZES)}", repr(self.bank)[:40])
        _check_indices(tuple(index for index, _ in self.values), "PCR values")
        for index, value in self.values:
            if len(value) != size:
                raise FormatError(f"PCR {index} of {self.bank}", f"{size} bytes", f"{len(value)} bytes")

    def indices(self) -> tuple[int, ...]:
        """The PCRs that have a value here."""
        return tuple(index for index, _ in self.values)

    def get(self, index: int) -> bytes:
        """The value of PCR `index`. Raises FormatError if there is none."""
        for at, value in self.values:
            if at == index:
                return value
        raise FormatError(f"PCR {index} of {self.bank}", "a value", "none")

    def digest(self, selection: PcrSelection, hash_algorithm: str) -> bytes:
        """The `pcr_digest` of these values alone. Raises FormatError if a selected PCR has no value here, or lies in another bank."""
        return pcr_digest(selection, (self,), hash_algorithm)


def pcr_digest(selection: PcrSelection, values: tuple[PcrValues, ...], hash_algorithm: str) -> bytes:
    """What TPM2_Quote puts into pcrDigest: H over the selected values, in selection order, by the hash of the signature.

    Says nothing about values outside `selection`: compare the index sets
    first. Raises FormatError if a selected PCR has no value or a bank two.

    Source: TPM 2.0 Library Part 3, TPM2_Quote; Part 4, PCRComputeCurrentDigest.
    """
    by_bank = {one.bank: one for one in values}
    if len(by_bank) != len(values):
        raise FormatError("PCR values", "each bank once", ", ".join(one.bank for one in values))
    parts: list[bytes] = []
    for bank, indices in selection.banks:
        if indices and bank not in by_bank:
            raise FormatError("PCR values", f"the {bank} bank", ", ".join(by_bank) or "none")
        parts.extend(by_bank[bank].get(index) for index in indices)
    return hash_bytes(hash_algorithm, *parts)

"""PCR values as people's tools write them down: raw, JSON, YAML of tpm2_pcrread, and the dump of tpm2_quote.

What comes out is bank -> index -> value, claimed by the file and proven by
nothing until the quote's digest is recomputed from it. Where a form names its
own selection, that is compared with the signed one (CVE-2024-29039).

Source: tpm2-tools, man pages of tpm2_quote (-o, -F) and tpm2_pcrread; pcr.c for the dump's layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from writ.formats.digest import SIZES
from writ.formats.errors import FormatError
from writ.formats.strict import decode_json
from writ.formats.tpm.pcr import PcrSelection
from writ.formats.tpm.wire import HASHES

Banks = tuple[tuple[str, tuple[int, ...]], ...]
Values = Mapping[str, Mapping[int, bytes]]

_DUMP_BANKS: Final = 16
_DUMP_SELECTION: Final = 4 + _DUMP_BANKS * 8
"""A TPML_PCR_SELECTION in C: a count and 16 banks of hash, size, four bytes of bitmap and one of padding."""
_DUMP_DIGESTS: Final = 4 + 8 * 66
"""A TPML_DIGEST in C: a count and eight TPM2B_DIGEST of 64 bytes."""
_HEX: Final = re.compile(r"(?:0[xX])?((?:[0-9a-fA-F]{2})+)\Z", re.ASCII)
_YAML_BANK: Final = re.compile(r"\s*(sha1|sha256|sha384|sha512)\s*:\s*\Z", re.ASCII)
_YAML_VALUE: Final = re.compile(r"\s*(\d{1,2})\s*:\s*(0[xX][0-9a-fA-F]+)\s*\Z", re.ASCII)


def read_pcr_values(data: bytes, banks: Banks) -> Values:
    """The values that `data` claims for the selection `banks`. Raises FormatError: unreadable, or of another selection."""
    if data.lstrip().startswith(b"{"):
        return _json(data)
    order = _dump_order(data)
    if order is not None:
        return _dump(data, order, banks)
    if b":" in data and data.isascii() and (found := _yaml(data.decode("ascii"))):
        return found
    return _raw(data, banks)


def _raw(data: bytes, banks: Banks) -> Values:
    """As TPM2_PCR_Read and `tpm2_quote -F values` give them: one after the other, in the order of the selection."""
    size = sum(SIZES[bank] * len(indices) for bank, indices in banks)
    if len(data) != size:
        raise FormatError("PCR values", f"{size} bytes for the selected PCRs, JSON, YAML or a dump of tpm2_quote", f"{len(data)} bytes")
    found: dict[str, dict[int, bytes]] = {}
    at = 0
    for bank, indices in banks:
        for index in indices:
            found.setdefault(bank, {})[index] = data[at : at + SIZES[bank]]
            at += SIZES[bank]
    return found


def _json(data: bytes) -> Values:
    """{"sha256": {"0": "<hex>", …}}."""
    document: dict[str, object] = decode_json(data, "PCR values")
    found: dict[str, dict[int, bytes]] = {}
    for bank, registers in document.items():
        if bank not in SIZES or not isinstance(registers, dict):
            raise FormatError("PCR values", f"a bank of {', '.join(SIZES)} with its registers", repr(bank)[:40])
        found[bank] = {_index(index): _value(bank, index, text) for index, text in registers.items()}
    return found


def _yaml(text: str) -> Values:
    found: dict[str, dict[int, bytes]] = {}
    bank = ""
    for line in text.splitlines():
        if head := _YAML_BANK.match(line):
            bank = head[1]
        elif (value := _YAML_VALUE.match(line)) and bank:
            found.setdefault(bank, {})[_index(value[1])] = _value(bank, value[1], value[2])
        elif line.strip():
            return {}
    return found


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 2):
        raise FormatError("PCR values", "a PCR index", repr(text)[:40])
    return int(text)


def _value(bank: str, index: str, text: object) -> bytes:
    match = _HEX.match(text) if isinstance(text, str) else None
    value = bytes.fromhex(match[1]) if match else b""
    if len(value) != SIZES[bank]:
        raise FormatError(f"PCR {index} of {bank}", f"{SIZES[bank]} bytes in hex", repr(text)[:40])
    return value


def _dump_order(data: bytes) -> Literal["little", "big"] | None:
    """The byte order of a tpm2_quote dump, None where `data` is none: by its size and the count of banks at its start."""
    if len(data) < _DUMP_SELECTION + 4 or (len(data) - _DUMP_SELECTION - 4) % _DUMP_DIGESTS:
        return None
    for order in ("little", "big"):
        if 1 <= int.from_bytes(data[:4], order) <= _DUMP_BANKS:
            return order
    return None


def _dump(data: bytes, order: Literal["little", "big"], banks: Banks) -> Values:
    def uint(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    selected: list[tuple[str, tuple[int, ...]]] = []
    for one in range(uint(0, 4)):
        at = 4 + 8 * one
        bank, size = HASHES.get(uint(at, 2)), data[at + 2]
        if bank is None or size > 4:
            raise FormatError("PCR dump", "a bank that is known", f"0x{uint(at, 2):04x}, {size} bytes of bitmap")
        bits = int.from_bytes(data[at + 3 : at + 3 + size], "little")
        selected.append((bank, tuple(index for index in range(8 * size) if bits >> index & 1)))
    wanted = [(bank, indices) for bank, indices in banks if indices]
    if list(PcrSelection(tuple(one for one in selected if one[1])).banks) != wanted:
        raise FormatError("PCR dump", f"the selection that was signed: {wanted}", f"{selected}")
    values: list[bytes] = []
    for at in range(_DUMP_SELECTION + 4, len(data), _DUMP_DIGESTS):
        if uint(at, 4) > 8:
            raise FormatError("PCR dump", "at most 8 digests together", f"{uint(at, 4)}", at)
        digests = range(at + 4, at + 4 + 66 * uint(at, 4), 66)
        values += [data[digest + 2 : digest + 2 + uint(digest, 2)] for digest in digests]
    if uint(_DUMP_SELECTION, 4) != (len(data) - _DUMP_SELECTION - 4) // _DUMP_DIGESTS:
        raise FormatError("PCR dump", "as many lists of digests as it says", "another number")
    return _raw(b"".join(values), banks)

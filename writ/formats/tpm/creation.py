"""TPMS_CREATION_DATA: where and with what a TPM made a key. A certified creation hash says that it is true."""

from __future__ import annotations

from dataclasses import dataclass

from writ.formats.tpm.attest import MAX_DIGEST, MAX_EXTRA_DATA, MAX_NAME
from writ.formats.tpm.pcr import PcrSelection, parse_selection
from writ.formats.tpm.wire import HASHES, Reader


@dataclass(frozen=True, slots=True)
class Creation:
    """A TPMS_CREATION_DATA as parsed: the registers then, the parent, and what the caller gave along."""

    selection: PcrSelection
    pcr_digest: bytes
    locality: int
    parent_name_algorithm: str
    parent_name: bytes
    parent_qualified_name: bytes
    outside_info: bytes


def parse_creation(data: bytes) -> Creation:
    """Read exactly one TPMS_CREATION_DATA of a key that has a parent key. Raises FormatError.

    Source: TPM 2.0 Library Part 2, TPMS_CREATION_DATA.
    """
    reader = Reader(data, "TPMS_CREATION_DATA")
    creation = Creation(
        selection=parse_selection(reader),
        pcr_digest=reader.sized("pcrDigest", most=MAX_DIGEST),
        locality=reader.uint(1, "locality"),
        parent_name_algorithm=reader.one_of(HASHES, "parentNameAlg"),
        parent_name=reader.sized("parentName", most=MAX_NAME),
        parent_qualified_name=reader.sized("parentQualifiedName", most=MAX_NAME),
        outside_info=reader.sized("outsideInfo", most=MAX_EXTRA_DATA),
    )
    reader.done()
    return creation

"""That an entry is in a log, in either spelling: a tlog-proof, or a COSE Receipt.

A proof ends with the checkpoint, which witnesses may have cosigned; a receipt
is the log's word alone, in one signature. The first byte tells them apart.

Source: C2SP tlog-proof (2026-07); RFC 9942.
"""

from __future__ import annotations

from typing import Final

from writ.formats.tlog.proof import TlogProof, parse_tlog_proof
from writ.formats.tlog.receipt import Receipt, parse_receipt

Inclusion = TlogProof | Receipt

PROOF_TYPE: Final = "text/plain; charset=utf-8"
RECEIPT_TYPE: Final = 'application/cose; cose-type="cose-sign1"'
_SIGN1: Final = b"\xd2"
"""Tag 18, with which every receipt of ours begins and no text does."""


def inclusion_type(data: bytes) -> str:
    """The media type of an inclusion."""
    return RECEIPT_TYPE if data[:1] == _SIGN1 else PROOF_TYPE


def parse_inclusion(data: bytes) -> Inclusion:
    """Read either. Raises FormatError."""
    return parse_receipt(data) if data[:1] == _SIGN1 else parse_tlog_proof(data)
